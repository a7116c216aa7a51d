//! What holds whatever the link does: one guest and a changing series of hosts in virtual time, over a link that
//! drops, cuts, doubles, garbles and delays, hangs up, and changes its other end in the middle of a frame.
//!
//! `PROPTEST_CASES=20000 cargo test -p coms-protocol --test session_properties --release` searches longer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Side, at, guest, host, numbers, ping, pong};
use coms_protocol::frame::{self, Decoder};
use coms_protocol::guest_to_host::{Ping, TimeQuery};
use coms_protocol::host_to_guest::{Pong, TimeReply};
use coms_protocol::session::{Epoch, Event, MAX_EVENTS, MAX_QUEUED};
use coms_protocol::{Guest, GuestToHost, Host, HostToGuest};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A chunk's time on the link when nothing goes wrong.
const LATENCY_MS: u64 = 1;
/// From the last fault to everything being as it should.
const RECOVERY_MS: u64 = 30_000;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    ToHost,
    ToGuest,
}

/// What happens to one chunk.
#[derive(Debug, Clone)]
enum Spoil {
    Spared,
    Dropped,
    /// Only its first so many bytes arrive.
    Cut(usize),
    /// Arrives again, so much later.
    Twice(u64),
    /// One byte is changed.
    Garbled(usize, u8),
    Late(u64),
    /// Foreign bytes in front of it.
    Behind(Vec<u8>),
}

/// What becomes of the bytes that are under way to a host when it is left.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    ToTheOldHost,
    /// The new host gets them from this byte on.
    SplitAt(usize),
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    GuestSends(u8),
    HostSends(u8),
    BothSayOnce,
    /// The guest takes back one in so many of what it may.
    Withdraw(u64),
    /// So many chunks meet this.
    Next(Way, usize, Spoil),
    HangUp,
    /// One end sees its link come (again), the other nothing.
    LinkUpSeenBy(Way),
    NewHost {
        hang_up: bool,
        fate: Fate,
    },
    FormerHost {
        which: usize,
        hang_up: bool,
        fate: Fate,
    },
    AgentRestarts,
    /// From now on each end takes so many events at a time, and may write so many bytes.
    Slow {
        events: usize,
        room: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let way = || prop_oneof![Just(Way::ToHost), Just(Way::ToGuest)];
    let spoil = prop_oneof![
        2 => Just(Spoil::Spared),
        4 => Just(Spoil::Dropped),
        3 => (0usize..200).prop_map(Spoil::Cut),
        3 => (0u64..3_000).prop_map(Spoil::Twice),
        3 => (0usize..200, 1u8..).prop_map(|(i, x)| Spoil::Garbled(i, x)),
        2 => (0u64..2_000).prop_map(Spoil::Late),
        1 => vec(any::<u8>(), 0..20).prop_map(Spoil::Behind),
    ];
    let fate =
        || prop_oneof![Just(Fate::Lost), Just(Fate::ToTheOldHost), (0usize..200).prop_map(Fate::SplitAt)];
    let step = prop_oneof![
        8 => prop_oneof![3 => 0u64..4, 3 => 0u64..60, 2 => 0u64..1_000, 1 => 0u64..70_000].prop_map(Step::Wait),
        5 => (1u8..25).prop_map(Step::GuestSends),
        5 => (1u8..25).prop_map(Step::HostSends),
        1 => Just(Step::BothSayOnce),
        1 => (1u64..4).prop_map(Step::Withdraw),
        8 => (way(), prop_oneof![3 => Just(1), 1 => 1usize..12], spoil).prop_map(|(w, n, s)| Step::Next(w, n, s)),
        1 => Just(Step::HangUp),
        1 => way().prop_map(Step::LinkUpSeenBy),
        3 => (any::<bool>(), fate()).prop_map(|(hang_up, fate)| Step::NewHost { hang_up, fate }),
        3 => (0usize..4, any::<bool>(), fate())
            .prop_map(|(which, hang_up, fate)| Step::FormerHost { which, hang_up, fate }),
        1 => Just(Step::AgentRestarts),
        1 => (1usize..20, prop_oneof![Just(0usize), 1usize..200, Just(usize::MAX)])
            .prop_map(|(events, room)| Step::Slow { events, room }),
    ];
    vec(step, 1..80)
}

/// Bytes on the link.
struct Chunk {
    arrives: u64,
    way: Way,
    /// Which guest, or which host.
    to: usize,
    bytes: Vec<u8>,
}

/// What is known of the kept messages that one end has said.
#[derive(Default)]
struct Said {
    /// Not taken back.
    kept: BTreeSet<u64>,
    count: u64,
    /// In the order of the reports.
    delivered: Vec<u64>,
    /// Whom it was established with last.
    peer: Option<usize>,
}

impl Said {
    fn numbers(&mut self, me: usize, how_many: u8) -> impl Iterator<Item = u64> + use<> {
        let first = (me as u64) << 32 | self.count;
        self.count += u64::from(how_many);
        first..first + u64::from(how_many)
    }
}

/// Guest and host, all that there ever were, and the link between the present two.
struct World {
    ms: u64,
    guests: Vec<Side<Guest>>,
    hosts: Vec<Side<Host>>,
    /// The host that the port leads to.
    here: usize,
    chunks: Vec<Chunk>,
    spoils: [VecDeque<Spoil>; 2],
    events: usize,
    room: usize,
    guest_said: Vec<Said>,
    host_said: Vec<Said>,
    /// Per receiver and sender, everything that was handed out, in order.
    told_hosts: BTreeMap<(usize, usize), Vec<u64>>,
    told_guests: BTreeMap<(usize, usize), Vec<u64>>,
    /// What the present two wrote since this was cleared: when, by whom, and which frame.
    written: Vec<(u64, Way, u16)>,
}

// Epochs that tell the tests' hosts and guests apart.
const GUEST_EPOCH: u64 = 1_000;
const HOST_EPOCH: u64 = 2_000;

impl World {
    fn new() -> Self {
        let mut world = World {
            ms: 0,
            guests: Vec::new(),
            hosts: Vec::new(),
            here: 0,
            chunks: Vec::new(),
            spoils: Default::default(),
            events: usize::MAX,
            room: usize::MAX,
            guest_said: Vec::new(),
            host_said: Vec::new(),
            told_hosts: BTreeMap::new(),
            told_guests: BTreeMap::new(),
            written: Vec::new(),
        };
        world.add_guest();
        world.add_host();
        world
    }

    fn add_guest(&mut self) {
        self.guests.push(guest(GUEST_EPOCH + self.guests.len() as u64));
        self.guest_said.push(Said::default());
        let now = at(self.ms);
        self.guest().session.link_up(now);
    }

    fn add_host(&mut self) {
        self.here = self.hosts.len();
        self.hosts.push(host(HOST_EPOCH + self.hosts.len() as u64));
        self.host_said.push(Said::default());
        let now = at(self.ms);
        self.host().session.link_up(now);
    }

    fn guest(&mut self) -> &mut Side<Guest> {
        self.guests.last_mut().unwrap()
    }

    fn host(&mut self) -> &mut Side<Host> {
        &mut self.hosts[self.here]
    }

    fn take(&mut self, step: Step) {
        let now = at(self.ms);
        let g = self.guests.len() - 1;
        match step {
            Step::Wait(ms) => self.run_until(self.ms + ms),
            Step::GuestSends(how_many) => {
                for n in self.guest_said[g].numbers(g, how_many) {
                    if self.guest().session.send(ping(n)).is_ok() {
                        self.guest_said[g].kept.insert(n);
                    }
                }
            }
            Step::HostSends(how_many) => {
                for n in self.host_said[self.here].numbers(self.here, how_many) {
                    if self.host().session.send(pong(n)).is_ok() {
                        self.host_said[self.here].kept.insert(n);
                    }
                }
            }
            Step::BothSayOnce => {
                self.guest().session.send_once(TimeQuery { number: 1 }.into());
                self.host().session.send_once(TimeReply { number: 1, host_unix_us: now.unix_us }.into());
            }
            Step::Withdraw(one_in) => {
                let mut taken = Vec::new();
                self.guest().session.withdraw(|m| match m {
                    GuestToHost::Ping(p) if p.number % one_in == 0 => {
                        taken.push(p.number);
                        true
                    }
                    GuestToHost::Ping(_)
                    | GuestToHost::Request(_)
                    | GuestToHost::TimeQuery(_)
                    | GuestToHost::Cancel(_)
                    | GuestToHost::Attend(_)
                    | GuestToHost::Ready(_)
                    | GuestToHost::Hold(_)
                    | GuestToHost::Postpone(_)
                    | GuestToHost::Veto(_)
                    | GuestToHost::HostsQuery(_)
                    | GuestToHost::RandomStart(_)
                    | GuestToHost::RandomStop(_)
                    | GuestToHost::RandomQuery(_)
                    | GuestToHost::RegionsQuery(_)
                    | GuestToHost::Protect(_)
                    | GuestToHost::ProtectedRequest(_) => false,
                });
                self.guest_said[g].kept.retain(|n| !taken.contains(n));
            }
            Step::Next(way, chunks, spoil) => {
                self.spoils[way as usize].extend(std::iter::repeat_n(spoil, chunks));
            }
            Step::HangUp => {
                self.chunks.clear();
                self.guest().session.link_down();
                self.host().session.link_down();
            }
            Step::LinkUpSeenBy(Way::ToGuest) => self.guest().session.link_up(now),
            Step::LinkUpSeenBy(Way::ToHost) => self.host().session.link_up(now),
            Step::NewHost { hang_up, fate } => {
                let left = self.leave(hang_up);
                self.add_host();
                self.arrive(left, hang_up, fate);
            }
            Step::FormerHost { which, hang_up, fate } => {
                let left = self.leave(hang_up);
                self.here = which % self.hosts.len();
                self.arrive(left, hang_up, fate);
            }
            Step::AgentRestarts => {
                self.chunks.retain(|c| c.way == Way::ToHost);
                self.add_guest();
            }
            Step::Slow { events, room } => (self.events, self.room) = (events, room),
        }
    }

    /// The port leaves its host.
    fn leave(&mut self, hang_up: bool) -> usize {
        if hang_up {
            self.guest().session.link_down();
            self.host().session.link_down();
        }
        self.here
    }

    /// The port reached another host; `fate` of what was under way to the former one.
    fn arrive(&mut self, left: usize, hang_up: bool, fate: Fate) {
        let (now, here) = (at(self.ms), self.here);
        if hang_up {
            self.guest().session.link_up(now);
            self.host().session.link_up(now);
        }
        // What the former host wrote still arrives: the guest cannot tell.
        let mut kept_back = 0;
        self.chunks.retain_mut(|c| {
            if c.way == Way::ToGuest || c.to != left {
                return true;
            }
            match fate {
                Fate::Lost => false,
                Fate::ToTheOldHost => true,
                Fate::SplitAt(split) => {
                    let from = split.saturating_sub(kept_back).min(c.bytes.len());
                    kept_back += c.bytes.len();
                    c.bytes.drain(..from);
                    c.to = here;
                    true
                }
            }
        });
    }

    /// Everybody lives on until then.
    fn run_until(&mut self, until: u64) {
        loop {
            self.deliver();
            for g in 0..self.guests.len() {
                self.serve_guest(g);
            }
            for h in 0..self.hosts.len() {
                self.serve_host(h);
            }
            let due = self.guests.last().and_then(Side::due).into_iter();
            let due = due.chain(self.hosts.iter().filter_map(Side::due));
            let next = due.chain(self.chunks.iter().map(|c| c.arrives)).min();
            // A slow end is called again although nothing happens.
            let next =
                next.unwrap_or(u64::MAX).min(if self.events == usize::MAX { u64::MAX } else { self.ms + 50 });
            assert!(next > self.ms, "a busy loop at {} ms", self.ms);
            if next > until {
                self.ms = until;
                return;
            }
            self.ms = next;
        }
    }

    /// What has arrived is read.
    fn deliver(&mut self) {
        let ms = self.ms;
        let (arrived, under_way) = self.chunks.drain(..).partition(|c| c.arrives <= ms);
        self.chunks = under_way;
        let arrived: Vec<Chunk> = arrived;
        for mut c in arrived {
            let used = match c.way {
                Way::ToHost => self.hosts[c.to].session.receive(at(ms), &c.bytes),
                Way::ToGuest => self.guests[c.to].session.receive(at(ms), &c.bytes),
            };
            if used < c.bytes.len() {
                // It has enough to do: the rest waits, in front of what comes after.
                c.bytes.drain(..used);
                c.arrives = ms + 1;
                self.chunks.insert(0, c);
            }
        }
    }

    fn serve_guest(&mut self, g: usize) {
        let present = g + 1 == self.guests.len();
        if !present {
            return; // its process is gone
        }
        for _ in 0..self.events.min(1_000) {
            let Some(event) = self.guests[g].session.poll_event() else { break };
            match event {
                Event::Established { peer: Epoch(e), .. } => {
                    self.guest_said[g].peer = Some((e - HOST_EPOCH) as usize);
                }
                Event::Message(HostToGuest::Pong(Pong { number })) => {
                    let from = (number >> 32) as usize;
                    in_order_and_once(self.told_guests.entry((g, from)).or_default(), number);
                }
                Event::Delivered(GuestToHost::Ping(Ping { number })) => {
                    let said = &mut self.guest_said[g];
                    assert!(said.kept.contains(&number), "delivered, though withdrawn or never sent");
                    in_order_and_once(&mut said.delivered, number);
                    let told = self.told_hosts.get(&(said.peer.unwrap(), g));
                    assert!(told.is_some_and(|t| t.contains(&number)), "delivered, but never handed out");
                }
                Event::Message(_) | Event::Delivered(_) | Event::Lost | Event::Heartbeat { .. } => {}
                Event::Incompatible { .. } => panic!("all speak version 1"),
            }
        }
        let side = &mut self.guests[g];
        assert!(side.session.queued() <= MAX_QUEUED);
        let mut out = Vec::new();
        side.session.poll_transmit(at(self.ms), self.room, &mut out);
        assert!(out.len() <= self.room.saturating_add(3 * frame::MAX_FRAME));
        self.write(Way::ToHost, self.here, out);
    }

    fn serve_host(&mut self, h: usize) {
        for _ in 0..self.events.min(1_000) {
            let Some(event) = self.hosts[h].session.poll_event() else { break };
            match event {
                Event::Established { peer: Epoch(e), .. } => {
                    self.host_said[h].peer = Some((e - GUEST_EPOCH) as usize);
                }
                Event::Message(GuestToHost::Ping(Ping { number })) => {
                    let from = (number >> 32) as usize;
                    in_order_and_once(self.told_hosts.entry((h, from)).or_default(), number);
                }
                Event::Delivered(HostToGuest::Pong(Pong { number })) => {
                    let said = &mut self.host_said[h];
                    in_order_and_once(&mut said.delivered, number);
                    let told = self.told_guests.get(&(said.peer.unwrap(), h));
                    assert!(told.is_some_and(|t| t.contains(&number)), "delivered, but never handed out");
                }
                Event::Message(_) | Event::Delivered(_) | Event::Lost | Event::Heartbeat { .. } => {}
                Event::Incompatible { .. } => panic!("all speak version 1"),
            }
        }
        let mut out = Vec::new();
        self.hosts[h].session.poll_transmit(at(self.ms), self.room, &mut out);
        if h == self.here {
            self.write(Way::ToGuest, self.guests.len() - 1, out);
        }
    }

    fn write(&mut self, way: Way, to: usize, mut bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.written.extend(numbers(&bytes).into_iter().map(|n| (self.ms, way, n)));
        let mut arrives = self.ms + LATENCY_MS;
        match self.spoils[way as usize].pop_front().unwrap_or(Spoil::Spared) {
            Spoil::Spared => {}
            Spoil::Dropped => return,
            Spoil::Cut(keep) => bytes.truncate(keep),
            Spoil::Twice(later) => {
                self.chunks.push(Chunk { arrives: arrives + later, way, to, bytes: bytes.clone() });
            }
            Spoil::Garbled(index, change) => {
                let index = index % bytes.len();
                bytes[index] ^= change;
            }
            Spoil::Late(ms) => arrives += ms,
            Spoil::Behind(mut other) => {
                other.extend(bytes);
                bytes = other;
            }
        }
        // A stream keeps its order.
        let before = self.chunks.iter().filter(|c| c.way == way && c.to == to).map(|c| c.arrives).max();
        let arrives = arrives.max(before.unwrap_or(0));
        self.chunks.push(Chunk { arrives, way, to, bytes });
    }

    /// The link behaves from now on.
    fn calm(&mut self) {
        self.spoils = Default::default();
        (self.events, self.room) = (usize::MAX, usize::MAX);
        let now = at(self.ms);
        // A link that hung up comes back; one that is up is left alone.
        if self.guest().session.next_timeout().is_none() {
            self.guest().session.link_up(now);
        }
        if self.host().session.next_timeout().is_none() {
            self.host().session.link_up(now);
        }
        let last = self.chunks.iter().map(|c| c.arrives).max().unwrap_or(self.ms);
        self.run_until(last.max(self.ms) + LATENCY_MS);
    }

    fn check_all_is_well(&mut self) {
        let (g, h) = (self.guests.len() - 1, self.here);
        assert!(self.guest().session.is_established() && self.host().session.is_established());
        assert_eq!(self.guest_said[g].peer, Some(h));
        assert_eq!(self.host_said[h].peer, Some(g));
        // Delivered once and in order was checked on the way; here that none is missing.
        assert!(
            self.guest_said[g].delivered.iter().eq(self.guest_said[g].kept.iter()),
            "guest's messages missing"
        );
        assert!(
            self.host_said[h].delivered.iter().eq(self.host_said[h].kept.iter()),
            "host's messages missing"
        );
        assert_eq!((self.guest().session.queued(), self.host().session.queued()), (0, 0));
    }
}

/// Within one pair of epochs every message comes once and in order, and so do the reports.
fn in_order_and_once(so_far: &mut Vec<u64>, number: u64) {
    assert!(so_far.last().is_none_or(|&last| last < number), "{number} after {so_far:?}");
    so_far.push(number);
}

const HELLO: u16 = 0;
const HEARTBEAT: u16 = 2;

/// Both ends are idle for ten minutes: each says every 15 s that it is there, and nothing else.
fn check_silence(world: &mut World) {
    world.written.clear();
    world.run_until(world.ms + 600_000);
    for way in [Way::ToHost, Way::ToGuest] {
        let written: Vec<_> = world.written.iter().filter(|w| w.1 == way).collect();
        assert!(written.iter().all(|(_, _, number)| *number == HEARTBEAT), "{written:?}");
        assert!(written.windows(2).all(|w| w[1].0 - w[0].0 >= 15_000), "{written:?}");
        assert!(written.len() >= 39, "a peer that falls silent looks dead: {}", written.len());
    }
}

proptest! {
    /// Whatever happened: nothing told twice or out of order, nothing reported that was not told; and when the
    /// link behaves again, everything that is still wanted arrives, and then both are quiet.
    #[test]
    fn a_bad_link_and_changing_peers_lose_and_double_nothing(script in steps()) {
        let mut world = World::new();
        for step in script {
            world.take(step);
        }
        world.calm();
        world.run_until(world.ms + RECOVERY_MS);
        world.check_all_is_well();
        check_silence(&mut world);
        world.check_all_is_well();
    }
}

/// Anything that may come out of a port, from noise to well-formed lies.
#[derive(Debug, Clone)]
enum Abuse {
    Noise(Vec<u8>),
    Frame { number: u16, from: u64, to: u64, seq: u64, ack: u64, payload: Vec<u8> },
}

fn abuse() -> impl Strategy<Value = Abuse> {
    let epoch = || prop_oneof![Just(0), Just(GUEST_EPOCH), Just(HOST_EPOCH), 1u64..5, any::<u64>()];
    let count = || prop_oneof![4 => 0u64..45, 1 => any::<u64>(), 1 => Just(u64::MAX)];
    let number = prop_oneof![0u16..5, 16u16..20, 256u16..268, any::<u16>()];
    let hello_head = prop_oneof![Just(b"COMS\x01\0\x01\0".to_vec()), Just(b"COMS\x02\0\x09\0".to_vec())];
    let payload = prop_oneof![
        vec(any::<u8>(), 0..40),
        hello_head.clone(),
        (hello_head, vec(0u8..3, 0..6)).prop_map(|(head, body)| [head, body].concat()),
    ];
    prop_oneof![
        1 => vec(any::<u8>(), 0..300).prop_map(Abuse::Noise),
        9 => (number, epoch(), epoch(), count(), count(), payload).prop_map(
            |(number, from, to, seq, ack, payload)| Abuse::Frame { number, from, to, seq, ack, payload }),
    ]
}

impl Abuse {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Abuse::Noise(bytes) => bytes.clone(),
            Abuse::Frame { number, from, to, seq, ack, payload } => {
                framed(*number, *from, *to, *seq, *ack, payload)
            }
        }
    }
}

/// A frame with any header.
fn framed(number: u16, from: u64, to: u64, seq: u64, ack: u64, payload: &[u8]) -> Vec<u8> {
    let header = (number, from.to_le_bytes(), to.to_le_bytes(), seq, ack);
    let mut body = postcard::to_stdvec(&header).unwrap();
    body.extend_from_slice(payload);
    let mut out = Vec::new();
    frame::encode(&body, &mut out).unwrap();
    out
}

/// Hellos in `bytes`.
fn hellos(bytes: &[u8]) -> usize {
    numbers(bytes).iter().filter(|&&n| n == HELLO).count()
}

proptest! {
    /// A port that lies: no panic, no report of a message that was never written to it, hellos 20 ms apart at
    /// the least; and when the liar is gone, an honest host is met as if nothing had been.
    #[test]
    fn lies_do_no_lasting_harm(script in vec((abuse(), 0u64..40), 0..50)) {
        let mut g = guest(GUEST_EPOCH);
        for n in 0..40 {
            g.session.send(ping(n)).unwrap();
        }
        g.session.link_up(at(0));
        let (mut ms, mut last_hello) = (0, None);
        let mut written = BTreeSet::new();
        for (abuse, wait) in script {
            ms += wait;
            let before = g.noticed.len();
            g.hear(ms, &abuse.bytes());
            for event in &g.noticed[before..] {
                if let Event::Delivered(m) = event {
                    prop_assert!(written.contains(&common::number_of(m)));
                }
            }
            let out = g.speak(ms);
            written.extend(pings(&out));
            if hellos(&out) > 0 {
                prop_assert_eq!(hellos(&out), 1);
                prop_assert!(last_hello.is_none_or(|last| ms - last >= 20));
                last_hello = Some(ms);
            }
            prop_assert!(g.due().is_some_and(|due| due > ms), "asks for {:?} at {}", g.due(), ms);
        }
        let mut h = host(HOST_EPOCH + 1);
        h.session.link_up(at(ms + 1));
        common::talk(&mut g, &mut h, ms + 1, ms + 1 + RECOVERY_MS);
        prop_assert!(g.session.is_established() && h.session.is_established());
        prop_assert_eq!(g.session.queued(), 0);
    }

    /// Events are bounded while nobody takes them: what is behind them is not read.
    #[test]
    fn whoever_takes_nothing_is_not_flooded(frames in vec(abuse(), 0..90)) {
        let (mut g, mut h) = (guest(GUEST_EPOCH), host(HOST_EPOCH));
        g.session.link_up(at(0));
        h.session.link_up(at(0));
        common::talk(&mut g, &mut h, 0, 100);
        let mut refused = false;
        for (n, abuse) in (1..).zip(frames) {
            // Each lie between two true messages.
            let bytes = [framed(265, HOST_EPOCH, GUEST_EPOCH, n, 0, &[9]), abuse.bytes()].concat();
            refused |= g.session.receive(at(100), &bytes) < bytes.len();
        }
        let waiting = std::iter::from_fn(|| g.session.poll_event()).count();
        prop_assert!(waiting < MAX_EVENTS + 20, "{} events", waiting);
        prop_assert!(!refused || waiting >= MAX_EVENTS, "refused to read although only {} events waited", waiting);
    }
}

/// The numbers of the pings in `bytes`.
fn pings(mut bytes: &[u8]) -> BTreeSet<u64> {
    type Header = (u16, [u8; 8], [u8; 8], u64, u64);
    let mut decoder = Decoder::new();
    std::iter::from_fn(|| decoder.next_frame(&mut bytes))
        .filter_map(|body| {
            let (header, payload): (Header, _) = postcard::take_from_bytes(&body).unwrap();
            (header.0 == 16 + 1).then(|| postcard::from_bytes::<u64>(payload).unwrap())
        })
        .collect()
}

#[test]
fn a_flood_is_answered_by_fifty_hellos_a_second_at_most() {
    let strange = |ms: u64| framed(HELLO, 5_000 + ms, 0, 1, 0, b"COMS\x01\0\x01\0\x01a\x01b\x01");
    let familiar = |_| framed(HELLO, 5_000, GUEST_EPOCH, 1, 0, b"COMS\x01\0\x01\0\x01a\x01b\x01");
    let taking_turns =
        |ms: u64| framed(HELLO, 5_000 + ms % 2, GUEST_EPOCH, 1, 0, b"COMS\x01\0\x01\0\x01a\x01b\x01");
    let too_new = |ms: u64| framed(HELLO, 5_000 + ms, 0, 1, 0, b"COMS\x08\0\x09\0");
    let stray = |ms: u64| framed(265, 5_000, 77 + ms, 1, 0, b"\x01");
    type Flood<'a> = &'a dyn Fn(u64) -> Vec<u8>;
    let floods: [(&str, Flood); 5] = [
        ("hellos of ever new epochs", &strange),
        ("hellos of one peer", &familiar),
        ("hellos of two in turns", &taking_turns),
        ("hellos of another version", &too_new),
        ("frames for another epoch", &stray),
    ];
    for (name, flood) in floods {
        let mut g = guest(GUEST_EPOCH);
        g.session.link_up(at(0));
        let mut answers = 0;
        for ms in 0..10_000 {
            g.hear(ms, &flood(ms));
            answers += hellos(&g.speak(ms));
        }
        assert!((10..=500).contains(&answers), "{name}: {answers} hellos in 10 s");
    }
}
