//! The largest message of each kind fits a frame, one byte more is refused, and nothing that a peer claims
//! about a length makes us allocate.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use coms_protocol::frame::{self, Decoder, MAX_BODY, MAX_FRAME};
use coms_protocol::guest_to_host::*;
use coms_protocol::handshake::{self, Versions};
use coms_protocol::host_to_guest::*;
use coms_protocol::message::{DecodeError, Message};
use coms_protocol::types::*;
use coms_protocol::{GuestToHost, HostToGuest};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Number, two epochs, seq and ack, each at its widest.
const LARGEST_HEADER: usize = 3 + 8 + 8 + 10 + 10;

/// The limit is in bytes, so ASCII fills it as well as anything; the tests below find a text by its x's.
fn full<const N: usize>() -> Text<N> {
    let text = Text::clipped(&"x".repeat(N + 1));
    assert_eq!(text.as_str().len(), N);
    text
}

fn full_list<T: Clone, const N: usize>(item: T) -> List<T, N> {
    let list = List::clipped(vec![item; N + 1]);
    assert_eq!(list.as_slice().len(), N);
    list
}

fn largest_evidence() -> Evidence {
    Evidence {
        workload: full(),
        metric: Metric::Unknown(u16::MAX),
        now: u64::MAX,
        baseline: Some(u64::MAX),
        threshold: Some(u64::MAX),
        for_s: u32::MAX,
        samples: u32::MAX,
    }
}

fn largest_wishes() -> Wishes {
    Wishes {
        region: Some(full()),
        avoid_this_host: true,
        deadline_s: Some(u32::MAX),
        max_downtime_ms: Some(u32::MAX),
        never: full_list(Technique::Unknown(u16::MAX)),
    }
}

fn largest_waiting() -> Waiting {
    Waiting { request: RequestId(u64::MAX), migration: Some(MigrationId(u64::MAX)) }
}

fn largest_place() -> Place {
    Place { alias: full(), region: full() }
}

fn largest_figures() -> Figures {
    Figures {
        total_ms: Some(u64::MAX),
        downtime_ms: Some(u64::MAX),
        bytes: Some(u64::MAX),
        pages: Some(u64::MAX),
        rounds: Some(u64::MAX),
        prepare_ms: Some(u64::MAX),
        resume_ms: Some(u64::MAX),
    }
}

fn largest_from_guest() -> Vec<GuestToHost> {
    let migration = MigrationId(u64::MAX);
    vec![
        Request {
            id: RequestId(u64::MAX),
            reason: RequestReason::Unknown(u16::MAX),
            evidence: full_list(largest_evidence()),
            wishes: largest_wishes(),
        }
        .into(),
        Ping { number: u64::MAX }.into(),
        TimeQuery { number: u64::MAX }.into(),
        Cancel { request: RequestId(u64::MAX) }.into(),
        Attend { notice_ms: u32::MAX, hold_ms: u32::MAX }.into(),
        Ready { migration }.into(),
        Hold { migration, for_ms: u32::MAX, cause: Cause::Unknown(u16::MAX), holders: u16::MAX }.into(),
        Postpone { migration, for_s: u32::MAX, cause: Cause::Unknown(u16::MAX) }.into(),
        Veto { migration, cause: Cause::Unknown(u16::MAX) }.into(),
        HostsQuery { number: u64::MAX }.into(),
        RandomStart {
            number: u64::MAX,
            law: GapLaw::Unknown(u16::MAX),
            least_s: u32::MAX,
            most_s: u32::MAX,
            most_per_day: Some(u16::MAX),
        }
        .into(),
        RandomStop { number: u64::MAX }.into(),
        RandomQuery { number: u64::MAX }.into(),
        RegionsQuery { number: u64::MAX }.into(),
        Protect { number: u64::MAX, level: EncryptionLevel::Unknown(u16::MAX) }.into(),
        ProtectedRequest {
            request: Request {
                id: RequestId(u64::MAX),
                reason: RequestReason::Unknown(u16::MAX),
                evidence: full_list(largest_evidence()),
                wishes: largest_wishes(),
            },
            level: EncryptionLevel::Unknown(u16::MAX),
        }
        .into(),
    ]
}

fn largest_from_host() -> Vec<HostToGuest> {
    let request = RequestId(u64::MAX);
    let migration = MigrationId(u64::MAX);
    vec![
        Accepted { request, migration }.into(),
        AlreadyRunning { request, migration }.into(),
        Denied { request, reason: DenyReason::Unknown(u16::MAX), retry_after_s: Some(u32::MAX) }.into(),
        Resend { request }.into(),
        Notice {
            migration,
            request: Some(request),
            initiator: Initiator::Unknown(u16::MAX),
            technique: Technique::Unknown(u16::MAX),
            starts_in_ms: u32::MAX,
            predicted_downtime_ms: Some(u32::MAX),
            predicted_total_ms: Some(u32::MAX),
        }
        .into(),
        Progress {
            migration,
            phase: Phase::Unknown(u16::MAX),
            elapsed_ms: u64::MAX,
            bytes_total: Some(u64::MAX),
            bytes_remaining: Some(u64::MAX),
            round: Some(u64::MAX),
        }
        .into(),
        Completed {
            migration,
            request: Some(request),
            initiator: Initiator::Unknown(u16::MAX),
            technique: Technique::Unknown(u16::MAX),
            encryption: Encryption::Unknown(u16::MAX),
            from: Some(largest_place()),
            to: largest_place(),
            figures: largest_figures(),
            told_after_ms: Some(u64::MAX),
        }
        .into(),
        Failed {
            migration,
            request: Some(request),
            reason: FailReason::Unknown(u16::MAX),
            figures: largest_figures(),
        }
        .into(),
        Cancelled {
            migration,
            request: Some(request),
            by: Initiator::Unknown(u16::MAX),
            figures: largest_figures(),
        }
        .into(),
        Pong { number: u64::MAX }.into(),
        TimeReply { number: u64::MAX, host_unix_us: u64::MAX }.into(),
        Terms {
            migration,
            reason: NoticeReason::Unknown(u16::MAX),
            hold_up_to_ms: u32::MAX,
            postpone_up_to_s: u32::MAX,
            may_veto: true,
            expedited: true,
        }
        .into(),
        Verdict { migration, asked: Asked::Unknown(u16::MAX), granted: true, starts_in_ms: u64::MAX }.into(),
        Hosts {
            number: u64::MAX,
            hosts: full_list(HostEntry { place: largest_place(), fitness: Fitness::Unknown(u16::MAX) }),
            all: u16::MAX,
        }
        .into(),
        RandomStatus {
            number: Some(u64::MAX),
            state: RandomState::Unknown(u16::MAX),
            law: GapLaw::Unknown(u16::MAX),
            least_s: u32::MAX,
            most_s: u32::MAX,
            most_per_day: u16::MAX,
            made: u16::MAX,
            pool: u16::MAX,
        }
        .into(),
        Regions {
            number: u64::MAX,
            regions: full_list(RegionEntry {
                name: full(),
                at: Some(Coordinates { latitude_cdeg: i16::MIN, longitude_cdeg: i16::MIN }),
                countries: full_list(Country::new("ZZ").unwrap()),
            }),
            all: u16::MAX,
        }
        .into(),
        Protected {
            number: Some(u64::MAX),
            level: EncryptionLevel::Unknown(u16::MAX),
            by: Some(Initiator::Unknown(u16::MAX)),
            wish: EncryptionLevel::Unknown(u16::MAX),
        }
        .into(),
        Enforced {
            migration,
            ram: Protection::Unknown(u16::MAX),
            disk: Protection::Unknown(u16::MAX),
            control: Protection::Unknown(u16::MAX),
            destination_certificate_sha256: Some(full()),
        }
        .into(),
    ]
}

fn largest_guest_hello() -> GuestHello {
    GuestHello { agent: full(), waiting: full_list(largest_waiting()) }
}

fn largest_host_hello() -> HostHello {
    HostHello { place: largest_place(), enabled: true }
}

fn encoded<M: Message>(message: &M) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

/// With the largest header in front it makes a frame, and that frame is read back.
fn assert_fits(what: &str, payload: &[u8]) {
    let body = [&[0xff; LARGEST_HEADER], payload].concat();
    assert!(body.len() <= MAX_BODY, "{what} has {} bytes, {MAX_BODY} fit", body.len());
    let mut out = Vec::new();
    frame::encode(&body, &mut out).unwrap();
    assert!(out.len() <= MAX_FRAME);
    assert_eq!(Decoder::new().next_frame(&mut out.as_slice()), Some(body));
}

/// Every number of the direction has its largest message here: a new message without one fails.
fn assert_all_fit<M: Message + PartialEq + std::fmt::Debug>(largest: &[M], numbers: &[u16]) {
    let built: Vec<u16> = largest.iter().map(Message::number).collect();
    assert_eq!(built, numbers, "a message without a largest example, or out of order");
    for message in largest {
        let payload = encoded(message);
        assert_fits(&format!("{message:?}"), &payload);
        assert_eq!(M::decode(message.number(), &payload).as_ref(), Ok(message));
    }
}

#[test]
fn the_largest_message_of_each_kind_fits() {
    assert_all_fit(&largest_from_guest(), GuestToHost::NUMBERS);
    assert_all_fit(&largest_from_host(), HostToGuest::NUMBERS);
}

#[test]
fn the_largest_hellos_fit() {
    fn assert_hello_fits<H: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(hello: H) {
        let body = postcard::to_stdvec(&hello).unwrap();
        assert_fits("a hello", &handshake::encode(Versions { min: u16::MAX, max: u16::MAX }, &body));
        assert_eq!(postcard::from_bytes::<H>(&body).unwrap(), hello);
    }
    assert_hello_fits(largest_guest_hello());
    assert_hello_fits(largest_host_hello());
}

/// Where the full texts of a largest message lie: index of the length, and the length.
fn texts(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let run = bytes[at..].iter().take_while(|&&b| b == b'x').count();
        if run >= 32 {
            assert_eq!(usize::from(bytes[at - 1]), run, "a text's length lies in front of it");
            found.push((at - 1, run));
        }
        at += run.max(1);
    }
    found
}

fn assert_refused<M: Message + std::fmt::Debug>(number: u16, bytes: &[u8], why: &str) {
    assert!(
        matches!(M::decode(number, bytes), Err(DecodeError::Malformed(n)) if n == number),
        "{number}: {why}"
    );
}

/// Every text of every message: one byte more, or one byte that may not be in it.
fn assert_texts_are_checked<M: Message + std::fmt::Debug>(largest: &[M], expected: usize) {
    let mut seen = 0;
    for message in largest {
        let (number, good) = (message.number(), encoded(message));
        for (at, len) in texts(&good) {
            seen += 1;
            let mut longer = good.clone();
            longer[at] += 1;
            longer.insert(at + 1, b'x');
            assert_refused::<M>(number, &longer, "one byte too long");
            let forbidden = [
                "\0", "\n", "\r", "\t", "\x1b", "\x7f", "\u{85}", "\u{9b}", "\u{2028}", "\u{202e}",
                "\u{2066}",
            ];
            for bad in forbidden.iter().map(|s| s.as_bytes()).chain([
                &[0xff][..],
                &[0xc0, 0x80],
                &[0xed, 0xa0, 0x80],
            ]) {
                for place in [at + 1, at + 1 + len - bad.len()] {
                    let mut bytes = good.clone();
                    bytes[place..place + bad.len()].copy_from_slice(bad);
                    assert_refused::<M>(number, &bytes, &format!("{bad:?} in a text"));
                }
            }
        }
    }
    assert_eq!(seen, expected, "texts in all");
}

#[test]
fn texts_are_refused_when_longer_or_with_controls() {
    // A request's eight workloads and its region, and once more in a request with its level; in a completion two places of
    // alias and region, sixteen of them in hosts, sixteen names of regions, and a certificate's fingerprint.
    assert_texts_are_checked(&largest_from_guest(), 18);
    assert_texts_are_checked(&largest_from_host(), 53);
}

#[test]
fn lists_are_refused_when_longer() {
    // Postcard writes a struct as it writes a tuple of its fields: the same request with one item too many.
    let w = largest_wishes();
    let evidence = |n| vec![largest_evidence(); n];
    let never = |n| vec![Technique::PreCopy; n];
    let request = |evidence: Vec<Evidence>, never: Vec<Technique>| {
        let wishes = (&w.region, w.avoid_this_host, w.deadline_s, w.max_downtime_ms, never);
        postcard::to_stdvec(&(RequestId(1), RequestReason::Manual, evidence, wishes)).unwrap()
    };
    assert!(
        GuestToHost::decode(16, &request(evidence(8), never(8))).is_ok(),
        "the test's own layout is right"
    );
    assert_refused::<GuestToHost>(16, &request(evidence(9), never(8)), "evidence");
    assert_refused::<GuestToHost>(16, &request(evidence(8), never(9)), "techniques");

    let hello = |n| postcard::to_stdvec(&(full::<32>(), vec![largest_waiting(); n])).unwrap();
    assert_eq!(postcard::from_bytes::<GuestHello>(&hello(8)).unwrap(), largest_guest_hello());
    assert!(postcard::from_bytes::<GuestHello>(&hello(9)).is_err());
    assert!(postcard::from_bytes::<GuestHello>(&[&[33][..], &[b'x'; 33], &[0]].concat()).is_err());
}

#[test]
fn every_cut_is_refused() {
    fn all_cuts<M: Message + std::fmt::Debug>(largest: &[M]) {
        for message in largest {
            let bytes = encoded(message);
            for cut in 0..bytes.len() {
                assert_refused::<M>(message.number(), &bytes[..cut], "cut");
            }
        }
    }
    all_cuts(&largest_from_guest());
    all_cuts(&largest_from_host());
}

#[test]
fn a_claimed_length_allocates_nothing() {
    let claims =
        [0x7f_u64, 4096, 1 << 20, 1 << 32, u64::MAX / 2, u64::MAX].map(|n| postcard::to_stdvec(&n).unwrap());
    let request = encoded(&largest_from_guest()[0]);
    let completed = encoded(&largest_from_host()[6]);
    for claim in claims {
        for (number, good) in [(16, &request), (262, &completed)] {
            for (at, _) in texts(good) {
                let lie = [&good[..at], &claim, &good[at + 1..]].concat();
                let largest = largest_allocation(|| match number {
                    16 => assert_refused::<GuestToHost>(number, &lie, "a text's length"),
                    _ => assert_refused::<HostToGuest>(number, &lie, "a text's length"),
                });
                assert!(largest <= MAX_FRAME, "{largest} bytes at once");
            }
        }
        // Evidence: a list that claims to be huge and is, as far as a frame goes, followed by plausible items.
        let lie = [&postcard::to_stdvec(&(1u64, 0u16)).unwrap()[..], &claim, &[0; 4000]].concat();
        let largest = largest_allocation(|| assert_refused::<GuestToHost>(16, &lie, "a list's length"));
        assert!(largest <= MAX_FRAME, "{largest} bytes at once");
    }
}

#[test]
fn an_endless_frame_is_not_stored() {
    let mut decoder = Decoder::new();
    let largest = largest_allocation(|| {
        for _ in 0..1000 {
            assert_eq!(decoder.next_frame(&mut &[7u8; 1000][..]), None);
        }
    });
    assert!(largest <= 2 * MAX_FRAME, "{largest} bytes at once");
    assert_eq!(decoder.errors().too_long, 1);
}

/// The largest piece of memory that `f` asks for at once.
fn largest_allocation(f: impl FnOnce()) -> usize {
    allocations::LARGEST.set(0);
    f();
    allocations::LARGEST.get()
}

#[allow(unsafe_code, reason = "an allocator is unsafe by its trait; this one only watches the system's")]
mod allocations {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        pub static LARGEST: Cell<usize> = const { Cell::new(0) };
    }

    struct Watched;

    #[global_allocator]
    static ALLOCATOR: Watched = Watched;

    // SAFETY: every call goes to the system's allocator as it came.
    unsafe impl GlobalAlloc for Watched {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            LARGEST.set(LARGEST.get().max(layout.size()));
            // SAFETY: the caller's promise is passed on.
            unsafe { System.alloc(layout) }
        }
        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            // SAFETY: the caller's promise is passed on.
            unsafe { System.dealloc(ptr, layout) }
        }
        unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            LARGEST.set(LARGEST.get().max(new_size));
            // SAFETY: the caller's promise is passed on.
            unsafe { System.realloc(ptr, layout, new_size) }
        }
    }
}

#[test]
fn countries_are_two_capital_letters() {
    for bad in ["", "F", "FRA", "F1", "é", "f ", "  "] {
        assert_eq!(Country::new(bad), None, "{bad:?}");
    }
    assert_eq!(Country::new("fr").unwrap().to_string(), "FR");
    let read = |bytes: &[u8]| postcard::from_bytes::<Country>(bytes).is_ok();
    assert!(read(b"FR"));
    for bad in [b"fr", b"F\0", b"F\xc3", b"1F"] {
        assert!(!read(bad), "{bad:?}");
    }
}
