//! Whatever bytes come in, what one end of a link holds stays below a fixed bound: counted at the allocator, not
//! claimed by the session itself.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "to count what is allocated, one has to be the allocator")]

mod common;

use common::{at, guest_hello, host_hello};
use coms_protocol::frame::{self, MAX_BODY, MAX_FRAME};
use coms_protocol::guest_to_host::*;
use coms_protocol::host_to_guest::*;
use coms_protocol::message::Message;
use coms_protocol::session::{End, Epoch, MAX_EVENTS, MAX_QUEUED, Session, WINDOW};
use coms_protocol::types::*;
use coms_protocol::{Guest, GuestToHost, Host, HostToGuest};
use proptest::collection::vec;
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What a peer can make one end hold beyond what it held when the link came up.
const BOUND: isize = 32 * 1024;

thread_local! {
    /// Each test has its thread, and frees on it what it allocates there. Held now, and at the most.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: as the caller promised us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: as the caller promised us.
        unsafe { System.dealloc(at, layout) }
    }
}

fn add(bytes: isize) {
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

fn held() -> isize {
    HELD.get().0
}

/// The most that was held while this was done.
fn most_during(what: impl FnOnce()) -> isize {
    HELD.set((held(), held()));
    what();
    HELD.get().1
}

const ME: u64 = 7;
const PEERS: [u64; 3] = [100, 200, 300];

/// What comes out of the port, and what this end does meanwhile.
#[derive(Debug, Clone)]
enum Step {
    Noise(Vec<u8>),
    /// So many bytes without a border.
    Endless(usize),
    /// A frame with any header around any payload.
    Frame {
        number: u16,
        peer: usize,
        to_me: bool,
        seq: u64,
        ack: u64,
        payload: Vec<u8>,
    },
    /// A message as its type allows it, counted on from the last one.
    Message {
        which: usize,
        kept: bool,
        ack: u64,
    },
    /// A hello that is believed.
    Hello {
        peer: usize,
    },
    TakeEvents(usize),
    /// Bytes are asked for, and the clock goes on.
    Speak(u64),
    LinkUp,
    InputLost,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let count = || prop_oneof![4 => 0u64..80, 1 => any::<u64>(), 1 => Just(u64::MAX)];
    let step = prop_oneof![
        2 => vec(any::<u8>(), 0..1_000).prop_map(Step::Noise),
        2 => (0usize..10_000).prop_map(Step::Endless),
        3 => (any::<u16>(), 0..PEERS.len(), any::<bool>(), count(), count(), vec(any::<u8>(), 0..300)).prop_map(
            |(number, peer, to_me, seq, ack, payload)| Step::Frame { number, peer, to_me, seq, ack, payload }),
        10 => (any::<usize>(), any::<bool>(), count())
            .prop_map(|(which, kept, ack)| Step::Message { which, kept, ack }),
        3 => (0..PEERS.len()).prop_map(|peer| Step::Hello { peer }),
        1 => (0usize..20).prop_map(Step::TakeEvents),
        2 => (0u64..2_000).prop_map(Step::Speak),
        1 => Just(Step::LinkUp),
        1 => Just(Step::InputLost),
    ];
    vec(step, 1..100)
}

fn framed(number: u16, from: u64, to: u64, seq: u64, ack: u64, payload: &[u8]) -> Vec<u8> {
    let mut body = postcard::to_stdvec(&(number, from.to_le_bytes(), to.to_le_bytes(), seq, ack)).unwrap();
    body.extend_from_slice(payload);
    body.truncate(MAX_BODY);
    let mut out = Vec::new();
    frame::encode(&body, &mut out).unwrap();
    out
}

/// Plays a script into one end; the most that it held.
fn most_held<E: End>(
    new: impl Fn() -> Session<E>,
    fill: impl Fn(usize) -> E::Out,
    hello: &[u8],
    messages: &[(u16, Vec<u8>)],
    script: &[Step],
) -> isize {
    let mut session = new();
    // As full as it may be of what the peer does not acknowledge.
    (0..MAX_QUEUED).for_each(|n| session.send(fill(n)).unwrap());
    session.link_up(at(0));
    let before = held();
    let (mut ms, mut seq, mut peer, mut most) = (0, [0u64; PEERS.len()], 0, 0);
    for step in script {
        let bytes = match step {
            Step::Noise(bytes) => bytes.clone(),
            Step::Endless(length) => vec![7; *length],
            Step::Frame { number, peer, to_me, seq, ack, payload } => {
                framed(*number, PEERS[*peer], if *to_me { ME } else { 0 }, *seq, *ack, payload)
            }
            Step::Message { which, kept, ack } => {
                let (number, payload) = &messages[which % messages.len()];
                seq[peer] += u64::from(*kept);
                framed(*number, PEERS[peer], ME, if *kept { seq[peer] } else { 0 }, *ack, payload)
            }
            Step::Hello { peer: who } => {
                peer = *who;
                let body = [b"COMS\x01\0\x01\0", hello].concat();
                framed(0, PEERS[peer], ME, seq[peer] + 1, 1, &body)
            }
            Step::TakeEvents(n) => {
                (0..*n).for_each(|_| drop(session.poll_event()));
                continue;
            }
            Step::Speak(later) => {
                ms += later;
                let mut out = Vec::new();
                session.poll_transmit(at(ms), usize::MAX, &mut out);
                continue;
            }
            Step::LinkUp => {
                session.link_up(at(ms));
                continue;
            }
            Step::InputLost => {
                session.input_lost();
                continue;
            }
        };
        // What it does not take stays with whoever reads for it; here that is thrown away.
        let during = most_during(|| {
            session.receive(at(ms), &bytes);
        });
        most = most.max(during - before - bytes.capacity() as isize);
    }
    most
}

fn text<const N: usize>() -> Text<N> {
    Text::clipped(&"x".repeat(N))
}

/// The messages that take most room in memory, beyond what they take on the wire or in themselves.
fn from_guest() -> Vec<GuestToHost> {
    let evidence = |workload| Evidence {
        workload,
        metric: Metric::Unknown(1),
        now: 0,
        baseline: None,
        threshold: None,
        for_s: 0,
        samples: 0,
    };
    let request = |evidence: Evidence, region| {
        let wishes = Wishes { region, never: List::clipped([Technique::PreCopy; 8]), ..Wishes::default() };
        let evidence = List::clipped(vec![evidence; 8]);
        GuestToHost::from(Request { id: RequestId(1), reason: RequestReason::Manual, evidence, wishes })
    };
    vec![
        request(evidence(Text::default()), None),
        request(evidence(text()), Some(text())),
        Ping { number: 1 }.into(),
        TimeQuery { number: 1 }.into(),
        Cancel { request: RequestId(1) }.into(),
    ]
}

fn from_host() -> Vec<HostToGuest> {
    let place = || Place { alias: text(), region: text() };
    let completed = Completed {
        migration: MigrationId(1),
        request: Some(RequestId(1)),
        initiator: Initiator::Customer,
        technique: Technique::PreCopy,
        encryption: Encryption::None,
        from: Some(place()),
        to: place(),
        figures: Figures::default(),
        told_after_ms: None,
    };
    vec![completed.into(), Pong { number: 1 }.into()]
}

fn encoded<M: Message>(messages: &[M]) -> Vec<(u16, Vec<u8>)> {
    let encode = |m: &M| {
        let mut payload = Vec::new();
        m.encode(&mut payload);
        (m.number(), payload)
    };
    messages.iter().map(encode).collect()
}

fn of_a_host(script: &[Step]) -> isize {
    let waiting = [Waiting { request: RequestId(1), migration: None }; 8];
    let hello = GuestHello { agent: text(), waiting: List::clipped(waiting) };
    let hello = postcard::to_stdvec(&hello).unwrap();
    let new = || Session::<Host>::new(Epoch(ME), &host_hello());
    most_held(new, |n| Pong { number: n as u64 }.into(), &hello, &encoded(&from_guest()), script)
}

fn of_a_guest(script: &[Step]) -> isize {
    let hello = HostHello { place: Place { alias: text(), region: text() }, enabled: true };
    let hello = postcard::to_stdvec(&hello).unwrap();
    let new = || Session::<Guest>::new(Epoch(ME), &guest_hello());
    most_held(new, |n| Ping { number: n as u64 }.into(), &hello, &encoded(&from_host()), script)
}

proptest! {
    #[test]
    fn whatever_comes_in_one_end_holds_no_more_than_it_may(script in steps()) {
        let (host, guest) = (of_a_host(&script), of_a_guest(&script));
        prop_assert!(host <= BOUND && guest <= BOUND, "a host's end {host}, a guest's {guest} bytes");
    }
}

/// The worst that is known comes near the bound: else the test above would hold for want of trying.
#[test]
fn the_worst_that_is_known() {
    let mut script =
        vec![Step::Hello { peer: 0 }, Step::Speak(20), Step::Hello { peer: 0 }, Step::TakeEvents(9)];
    script.extend(vec![Step::Message { which: 0, kept: true, ack: 0 }; MAX_EVENTS - 1]);
    script.push(Step::Message { which: 0, kept: true, ack: WINDOW as u64 });
    script.push(Step::Endless(MAX_FRAME - 2));
    let host = of_a_host(&script);
    println!("a host's end holds {host} bytes at the most");
    assert!((BOUND / 2..=BOUND).contains(&host), "{host} bytes");
}
