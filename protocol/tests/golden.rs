//! The bytes of version 1, as `golden/v1.txt` holds them. **A change there is a break**: agents and brokers that
//! are installed somewhere speak these bytes. A line may be added (a new message, a new value), none may change.
//!
//! `COMS_GOLDEN=add cargo test -p coms-protocol --test golden` adds the lines that are missing; whoever must
//! change one before the first release deletes it by hand. `golden/v1.json`, what the payloads mean, is written anew.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Side, at};
use coms_protocol::frame::Decoder;
use coms_protocol::guest_to_host::*;
use coms_protocol::host_to_guest::*;
use coms_protocol::message::Message;
use coms_protocol::session::{Epoch, Event, EventOf, HEARTBEAT_IDLE, Session};
use coms_protocol::types::*;
use coms_protocol::{Guest, GuestToHost, Host, HostToGuest};
use std::collections::BTreeMap;
use std::fmt::Debug;

const GUEST: Epoch = Epoch(0x0123_4567_89ab_cdef);
const HOST: Epoch = Epoch(0xfedc_ba98_7654_3210);
/// The host that the guest is moved to.
const DESTINATION: Epoch = Epoch(0x0f1e_2d3c_4b5a_6978);
const REQUEST: RequestId = RequestId(300);
const MIGRATION: MigrationId = MigrationId(0x0011_2233_4455_6677);

/// Every message of the guest: as full as an ordinary day makes it, and as empty as it may be.
fn from_guest() -> Vec<(&'static str, GuestToHost)> {
    let evidence = Evidence {
        workload: Text::clipped("billing-db"),
        metric: Metric::LatencyP95Us,
        now: 48_000,
        baseline: Some(9_500),
        threshold: Some(30_000),
        for_s: 20,
        samples: 40,
    };
    let bare =
        Evidence { metric: Metric::FailuresPermille, baseline: None, threshold: None, ..evidence.clone() };
    let wishes = Wishes {
        region: Some(Text::clipped("eu-west")),
        avoid_this_host: true,
        deadline_s: Some(600),
        max_downtime_ms: Some(300),
        never: List::clipped([Technique::PostCopy, Technique::Hybrid]),
    };
    let full = Request {
        id: REQUEST,
        reason: RequestReason::WorkloadSlow,
        evidence: List::clipped([evidence, bare]),
        wishes,
    };
    let least = Request {
        id: RequestId(1),
        reason: RequestReason::Manual,
        evidence: List::default(),
        wishes: Wishes::default(),
    };
    let random = RandomStart {
        number: 9,
        law: GapLaw::Exponential,
        least_s: 300,
        most_s: 600,
        most_per_day: Some(100),
    };
    let protected = ProtectedRequest { request: least.clone(), level: EncryptionLevel::Required };
    vec![
        ("request", full.into()),
        ("request.least", least.into()),
        ("ping", Ping { number: 1_000 }.into()),
        ("time_query", TimeQuery { number: 7 }.into()),
        ("cancel", Cancel { request: REQUEST }.into()),
        ("attend", Attend { notice_ms: 60_000, hold_ms: 300_000 }.into()),
        ("ready", Ready { migration: MIGRATION }.into()),
        ("hold", Hold { migration: MIGRATION, for_ms: 30_000, cause: Cause::App, holders: 2 }.into()),
        ("postpone", Postpone { migration: MIGRATION, for_s: 3_600, cause: Cause::Window }.into()),
        ("veto", Veto { migration: MIGRATION, cause: Cause::Manual }.into()),
        ("hosts_query", HostsQuery { number: 8 }.into()),
        ("random_start", random.into()),
        ("random_start.least", RandomStart { law: GapLaw::Uniform, most_per_day: None, ..random }.into()),
        ("random_stop", RandomStop { number: 10 }.into()),
        ("random_query", RandomQuery { number: 11 }.into()),
        ("regions_query", RegionsQuery { number: 12 }.into()),
        ("protect", Protect { number: 13, level: EncryptionLevel::Required }.into()),
        ("protected_request", protected.into()),
    ]
}

/// Every message of the host, likewise.
fn from_host() -> Vec<(&'static str, HostToGuest)> {
    let place = |alias, region| Place { alias: Text::clipped(alias), region: Text::clipped(region) };
    let figures = Figures {
        total_ms: Some(4_321),
        downtime_ms: Some(87),
        bytes: Some(1_234_567_890),
        pages: Some(301_408),
        rounds: Some(3),
        prepare_ms: Some(250),
        resume_ms: Some(12),
    };
    let completed = Completed {
        migration: MIGRATION,
        request: Some(REQUEST),
        initiator: Initiator::Customer,
        technique: Technique::PreCopy,
        encryption: Encryption::Tls,
        from: Some(place("host-7f3a", "eu-west")),
        to: place("host-09be", "eu-north"),
        figures,
        told_after_ms: Some(15),
    };
    let least = Completed {
        request: None,
        initiator: Initiator::Foreign,
        from: None,
        figures: Figures::default(),
        told_after_ms: None,
        ..completed.clone()
    };
    let hosts = Hosts {
        number: 8,
        hosts: List::clipped([
            HostEntry { place: place("host-7f3a", "eu-west"), fitness: Fitness::Here },
            HostEntry { place: place("host-09be", "eu-north"), fitness: Fitness::Full },
        ]),
        all: 2,
    };
    let random = RandomStatus {
        number: Some(9),
        state: RandomState::On,
        law: GapLaw::Exponential,
        least_s: 300,
        most_s: 600,
        most_per_day: 100,
        made: 3,
        pool: 4,
    };
    let regions = Regions {
        number: 12,
        regions: List::clipped([
            RegionEntry {
                name: Text::clipped("eu-west"),
                at: Some(Coordinates { latitude_cdeg: 5_335, longitude_cdeg: -626 }),
                countries: List::clipped(["IE", "FR"].iter().filter_map(|c| Country::new(c))),
            },
            RegionEntry { name: Text::clipped("eu-north"), at: None, countries: List::default() },
        ]),
        all: 2,
    };
    let enforced = Enforced {
        migration: MIGRATION,
        ram: Protection::Tls,
        disk: Protection::Tls,
        control: Protection::Tls,
        destination_certificate_sha256: Some(Text::clipped(&"0123456789abcdef".repeat(4))),
    };
    vec![
        ("accepted", Accepted { request: REQUEST, migration: MIGRATION }.into()),
        ("already_running", AlreadyRunning { request: REQUEST, migration: MIGRATION }.into()),
        ("denied", Denied { request: REQUEST, reason: DenyReason::Cooldown, retry_after_s: Some(90) }.into()),
        (
            "denied.least",
            Denied { request: REQUEST, reason: DenyReason::NotEnabled, retry_after_s: None }.into(),
        ),
        ("resend", Resend { request: REQUEST }.into()),
        (
            "notice",
            Notice {
                migration: MIGRATION,
                request: Some(REQUEST),
                initiator: Initiator::Operator,
                technique: Technique::AutoConverge,
                starts_in_ms: 2_000,
                predicted_downtime_ms: Some(120),
                predicted_total_ms: Some(9_000),
            }
            .into(),
        ),
        (
            "progress",
            Progress {
                migration: MIGRATION,
                phase: Phase::Copying,
                elapsed_ms: 1_500,
                bytes_total: Some(1 << 30),
                bytes_remaining: Some(1 << 28),
                round: Some(2),
            }
            .into(),
        ),
        ("completed", completed.into()),
        ("completed.least", least.into()),
        (
            "failed",
            Failed {
                migration: MIGRATION,
                request: Some(REQUEST),
                reason: FailReason::DestinationLost,
                figures: Figures { total_ms: Some(900), ..Figures::default() },
            }
            .into(),
        ),
        (
            "cancelled",
            Cancelled {
                migration: MIGRATION,
                request: None,
                by: Initiator::Operator,
                figures: Figures::default(),
            }
            .into(),
        ),
        ("pong", Pong { number: 1_000 }.into()),
        ("time_reply", TimeReply { number: 7, host_unix_us: 1_790_000_000_123_456 }.into()),
        (
            "terms",
            Terms {
                migration: MIGRATION,
                reason: NoticeReason::Maintenance,
                hold_up_to_ms: 300_000,
                postpone_up_to_s: 86_400,
                may_veto: true,
                expedited: false,
            }
            .into(),
        ),
        (
            "verdict",
            Verdict { migration: MIGRATION, asked: Asked::Hold, granted: true, starts_in_ms: 30_000 }.into(),
        ),
        ("hosts", hosts.into()),
        ("random_status", random.into()),
        (
            "random_status.least",
            RandomStatus { number: None, state: RandomState::BudgetUsedUp, ..random }.into(),
        ),
        ("regions", regions.into()),
        (
            "protected",
            Protected {
                number: Some(13),
                level: EncryptionLevel::Required,
                by: Some(Initiator::Customer),
                wish: EncryptionLevel::Required,
            }
            .into(),
        ),
        (
            "protected.least",
            Protected {
                number: None,
                level: EncryptionLevel::IfPossible,
                by: Some(Initiator::Operator),
                wish: EncryptionLevel::Never,
            }
            .into(),
        ),
        ("enforced", enforced.clone().into()),
        (
            "enforced.least",
            Enforced {
                ram: Protection::Plain,
                disk: Protection::None,
                control: Protection::Ssh,
                destination_certificate_sha256: None,
                ..enforced
            }
            .into(),
        ),
    ]
}

/// Where in [`from_host`] it is.
const COMPLETED: usize = 7;

fn guest_hello() -> GuestHello {
    GuestHello {
        agent: Text::clipped("coms-agent 0.1.0"),
        waiting: List::clipped([
            Waiting { request: REQUEST, migration: Some(MIGRATION) },
            Waiting { request: RequestId(301), migration: None },
        ]),
    }
}

fn host_hello() -> HostHello {
    HostHello {
        place: Place { alias: Text::clipped("host-7f3a"), region: Text::clipped("eu-west") },
        enabled: true,
    }
}

fn destination_hello() -> HostHello {
    HostHello {
        place: Place { alias: Text::clipped("host-09be"), region: Text::clipped("eu-north") },
        enabled: true,
    }
}

/// Names and bytes, in the order of the file.
type Lines = Vec<(String, Vec<u8>)>;

/// The golden lines, and those that this build makes.
struct Golden {
    file: BTreeMap<String, String>,
    path: std::path::PathBuf,
}

impl Golden {
    fn open() -> Self {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1.txt");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
        let file = lines.map(|l| l.split_once(" = ").unwrap()).map(|(k, v)| (k.into(), v.into())).collect();
        Golden { file, path }
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let hex =
            self.file.get(name).unwrap_or_else(|| panic!("v1.txt has no {name}; see the top of this file"));
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    /// Every line is made again with the same bytes, and nothing that is made lacks its line.
    fn compare(&self, made: &[(String, Vec<u8>)]) {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let missing: Vec<_> = made.iter().filter(|(name, _)| !self.file.contains_key(name)).collect();
        if std::env::var("COMS_GOLDEN").is_ok_and(|v| v == "add") && !missing.is_empty() {
            let mut text = std::fs::read_to_string(&self.path).unwrap();
            for (name, bytes) in missing {
                text.push_str(&format!("{name} = {}\n", hex(bytes)));
            }
            std::fs::write(&self.path, text).unwrap();
            panic!("v1.txt has new lines: read them, commit them, run again");
        }
        assert_eq!(missing, Vec::<&(String, Vec<u8>)>::new(), "lines missing in v1.txt");
        for (name, bytes) in made {
            assert_eq!(hex(bytes), self.file[name], "{name} is not what version 1 says");
        }
        assert_eq!(
            made.len(),
            self.file.len(),
            "v1.txt has lines that nothing makes any more, or a name twice"
        );
    }
}

/// The bytes of a message alone, without frame and header.
fn encoded<M: Message>(message: &M) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

/// Both ends, introduced to each other; with every frame of the handshake by its name.
fn introduced() -> (Side<Guest>, Side<Host>, Lines) {
    let mut g = Side::of(Session::<Guest>::new(GUEST, &guest_hello()));
    let mut h = Side::of(Session::<Host>::new(HOST, &host_hello()));
    g.session.link_up(at(0));
    let first = g.speak(0);
    h.session.link_up(at(100));
    h.hear(100, &first);
    let reply = h.speak(100);
    g.hear(200, &reply);
    let confirmation = g.speak(200);
    h.hear(200, &confirmation);
    assert!(g.session.is_established() && h.session.is_established());
    let frames = [("1_guest", first), ("2_host", reply), ("3_guest", confirmation)];
    (g, h, frames.into_iter().map(|(n, f)| (format!("frame.hello.{n}"), f)).collect())
}

/// Everything that version 1 can put on the wire, in the order of the file.
fn everything() -> Lines {
    let mut made = Vec::new();
    for (name, m) in from_guest() {
        made.push((format!("guest_to_host.{}.{name}", m.number()), encoded(&m)));
    }
    for (name, m) in from_host() {
        made.push((format!("host_to_guest.{}.{name}", m.number()), encoded(&m)));
    }
    macro_rules! values {
        ($($type:ident)*) => {$(
            for value in $type::KNOWN {
                made.push((format!("value.{}.{value}", stringify!($type)), postcard::to_stdvec(value).unwrap()));
            }
        )*};
    }
    values!(Technique Encryption Initiator RequestReason Metric DenyReason FailReason Phase NoticeReason Cause Asked GapLaw
        RandomState Fitness);

    // What the two ends really write, from the first byte on.
    let (mut g, mut h, hellos) = introduced();
    made.extend(hellos);
    let (name, request) = from_guest().swap_remove(0);
    g.session.send(request).unwrap();
    let frame = g.speak(300);
    h.hear(300, &frame);
    made.push((format!("frame.guest_to_host.{name}"), frame));
    let ack = h.speak(300);
    g.hear(300, &ack);
    made.push(("frame.ack.host".into(), ack));
    let (name, accepted) = from_host().swap_remove(0);
    h.session.send(accepted).unwrap();
    let frame = h.speak(400);
    g.hear(400, &frame);
    made.push((format!("frame.host_to_guest.{name}"), frame));
    let ack = g.speak(400);
    h.hear(400, &ack);
    made.push(("frame.ack.guest".into(), ack));
    g.session.send_once(TimeQuery { number: 7 }.into());
    let frame = g.speak(500);
    h.hear(500, &frame);
    made.push(("frame.guest_to_host.once".into(), frame));
    let idle = 500 + HEARTBEAT_IDLE.as_millis() as u64;
    made.push(("frame.heartbeat.host".into(), h.speak(idle)));
    made.push(("frame.heartbeat.guest".into(), g.speak(idle)));
    made.extend(moved(g, idle + 500));
    made
}

/// The same guest after its move: the port has another host at its end, and there was no hang-up.
fn moved(mut g: Side<Guest>, ms: u64) -> Lines {
    let mut made = Vec::new();
    let mut say = |name: &str, frame: &[u8]| made.push((format!("frame.{name}"), frame.to_vec()));
    // Said to the source and not acknowledged; taken back before the destination hears it.
    g.session.send(Ping { number: 1_000 }.into()).unwrap();
    say("guest_to_host.ping", &g.speak(ms));

    let mut h = Side::of(Session::<Host>::new(DESTINATION, &destination_hello()));
    h.session.link_up(at(ms));
    let first = h.speak(ms);
    say("moved.hello.1_host", &first);
    g.hear(ms + 50, &first);
    g.session.withdraw(|m| matches!(m, GuestToHost::Ping(_)));
    let reply = g.speak(ms + 50);
    say("moved.hello.2_guest", &reply);
    h.hear(ms + 50, &reply);
    let confirmation = h.speak(ms + 50);
    say("moved.hello.3_host", &confirmation);
    g.hear(ms + 50, &confirmation);
    assert!(g.session.is_established() && h.session.is_established());
    let withdrawn = g.speak(ms + 50);
    say("moved.withdrawn", &withdrawn);
    h.hear(ms + 50, &withdrawn);
    let ack = h.speak(ms + 50);
    say("moved.ack.host", &ack);
    g.hear(ms + 50, &ack);
    h.session.send(from_host().swap_remove(COMPLETED).1).unwrap();
    let completed = h.speak(ms + 100);
    say("moved.completed", &completed);
    g.hear(ms + 100, &completed);
    say("moved.ack.guest", &g.speak(ms + 100));
    made
}

#[test]
fn everything_is_said_in_the_bytes_of_version_1() {
    Golden::open().compare(&everything());
}

#[test]
fn the_bytes_of_version_1_are_understood() {
    fn understood<M: Message + PartialEq + Debug>(way: &str, examples: Vec<(&str, M)>, numbers: &[u16]) {
        let golden = Golden::open();
        let mut seen: Vec<u16> = examples.iter().map(|(_, m)| m.number()).collect();
        seen.dedup();
        assert_eq!(seen, numbers, "a message without an example, or out of order");
        for (name, message) in examples {
            let number = message.number();
            assert_eq!(M::decode(number, &golden.bytes(&format!("{way}.{number}.{name}"))), Ok(message));
        }
    }
    understood("guest_to_host", from_guest(), GuestToHost::NUMBERS);
    understood("host_to_guest", from_host(), HostToGuest::NUMBERS);
}

/// A peer of today's build that hears the frames of the file, as if from a release long ago.
#[test]
fn the_frames_of_version_1_are_acted_on() {
    let golden = Golden::open();
    let mut h = Side::of(Session::<Host>::new(HOST, &host_hello()));
    h.session.link_up(at(0));
    h.hear(0, &golden.bytes("frame.hello.1_guest"));
    h.speak(0);
    for name in
        ["hello.3_guest", "guest_to_host.request", "ack.guest", "guest_to_host.once", "heartbeat.guest"]
    {
        h.hear(1, &golden.bytes(&format!("frame.{name}")));
    }
    let request = from_guest().swap_remove(0).1;
    let expected: Vec<EventOf<Host>> = vec![
        Event::Established { new_peer: true, peer: GUEST, version: 1, hello: guest_hello() },
        Event::Message(request),
        Event::Message(TimeQuery { number: 7 }.into()),
        Event::Heartbeat { peer_unix_us: at(15_500).unix_us },
    ];
    assert_eq!(h.noticed, expected);
    assert_eq!(h.session.skipped(), Default::default());

    let mut g = Side::of(Session::<Guest>::new(GUEST, &guest_hello()));
    g.session.send(from_guest().swap_remove(0).1).unwrap();
    g.session.link_up(at(0));
    g.speak(0);
    g.hear(100, &golden.bytes("frame.hello.2_host"));
    g.speak(100);
    for name in ["ack.host", "host_to_guest.accepted", "heartbeat.host"] {
        g.hear(100, &golden.bytes(&format!("frame.{name}")));
    }
    let expected: Vec<EventOf<Guest>> = vec![
        Event::Established { new_peer: true, peer: HOST, version: 1, hello: host_hello() },
        Event::Delivered(from_guest().swap_remove(0).1),
        Event::Message(from_host().swap_remove(0).1),
        Event::Heartbeat { peer_unix_us: at(15_500).unix_us },
    ];
    assert_eq!(g.noticed, expected);
    assert_eq!(g.session.skipped(), Default::default());
}

/// The destination of a move hears the guest that it never met.
#[test]
fn the_frames_after_a_move_are_acted_on() {
    let golden = Golden::open();
    let mut h = Side::of(Session::<Host>::new(DESTINATION, &destination_hello()));
    let (name, completed) = from_host().swap_remove(COMPLETED);
    assert_eq!(name, "completed");
    h.session.send(completed.clone()).unwrap();
    h.session.link_up(at(0));
    h.speak(0);
    for name in ["hello.2_guest", "withdrawn", "ack.guest"] {
        h.hear(50, &golden.bytes(&format!("frame.moved.{name}")));
        h.speak(50);
    }
    let expected: Vec<EventOf<Host>> = vec![
        Event::Established { new_peer: true, peer: GUEST, version: 1, hello: guest_hello() },
        Event::Delivered(completed),
    ];
    assert_eq!(h.noticed, expected);
    assert_eq!(h.session.skipped(), Default::default());
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

/// What each payload means, for those who write an agent in another language.
#[test]
fn the_meaning_of_the_bytes_stands_beside_them() {
    let mut lines = Vec::new();
    for (name, m) in from_guest() {
        let value = match &m {
            GuestToHost::Request(m) => json(m),
            GuestToHost::Ping(m) => json(m),
            GuestToHost::TimeQuery(m) => json(m),
            GuestToHost::Cancel(m) => json(m),
            GuestToHost::Attend(m) => json(m),
            GuestToHost::Ready(m) => json(m),
            GuestToHost::Hold(m) => json(m),
            GuestToHost::Postpone(m) => json(m),
            GuestToHost::Veto(m) => json(m),
            GuestToHost::HostsQuery(m) => json(m),
            GuestToHost::RandomStart(m) => json(m),
            GuestToHost::RandomStop(m) => json(m),
            GuestToHost::RandomQuery(m) => json(m),
            GuestToHost::RegionsQuery(m) => json(m),
            GuestToHost::Protect(m) => json(m),
            GuestToHost::ProtectedRequest(m) => json(m),
        };
        lines.push(format!("  \"guest_to_host.{}.{name}\": {value}", m.number()));
    }
    for (name, m) in from_host() {
        let value = match &m {
            HostToGuest::Accepted(m) => json(m),
            HostToGuest::AlreadyRunning(m) => json(m),
            HostToGuest::Denied(m) => json(m),
            HostToGuest::Resend(m) => json(m),
            HostToGuest::Notice(m) => json(m),
            HostToGuest::Progress(m) => json(m),
            HostToGuest::Completed(m) => json(m),
            HostToGuest::Failed(m) => json(m),
            HostToGuest::Cancelled(m) => json(m),
            HostToGuest::Pong(m) => json(m),
            HostToGuest::TimeReply(m) => json(m),
            HostToGuest::Terms(m) => json(m),
            HostToGuest::Verdict(m) => json(m),
            HostToGuest::Hosts(m) => json(m),
            HostToGuest::RandomStatus(m) => json(m),
            HostToGuest::Regions(m) => json(m),
            HostToGuest::Protected(m) => json(m),
            HostToGuest::Enforced(m) => json(m),
        };
        lines.push(format!("  \"host_to_guest.{}.{name}\": {value}", m.number()));
    }
    lines.push(format!("  \"hello.guest\": {}", json(&guest_hello())));
    lines.push(format!("  \"hello.host\": {}", json(&host_hello())));
    let text = format!("{{\n{}\n}}\n", lines.join(",\n"));

    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1.json");
    if std::env::var("COMS_GOLDEN").is_ok_and(|v| v == "add") {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap_or_default(), "see the top of this file");
}

/// The part that no version may ever touch, byte by byte, so that no tool can regenerate it.
#[test]
fn the_handshake_is_frozen() {
    let (_, _, hellos) = introduced();
    let body = |frame: &[u8]| Decoder::new().next_frame(&mut &frame[..]).unwrap();

    // To nobody in particular: is anybody there?
    #[rustfmt::skip]
    let first = [
        0,                                               // message 0: hello
        0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01,  // from this epoch
        0, 0, 0, 0, 0, 0, 0, 0,                          // to whoever hears it
        1,                                               // my next kept message is number 1
        0,                                               // please answer
        b'C', b'O', b'M', b'S', 1, 0, 1, 0,              // versions 1 to 1
        16, b'c', b'o', b'm', b's', b'-', b'a', b'g', b'e', b'n', b't', b' ', b'0', b'.', b'1', b'.', b'0',
        2,                                               // I wait for two answers:
        0xac, 0x02, 1, 0xf7, 0xcc, 0xd5, 0xa2, 0xb4, 0xc6, 0xc8, 0x08, // 300, known as this migration
        0xad, 0x02, 0,                                   // 301
    ];
    assert_eq!(body(&hellos[0].1), first);

    // The answer names the epoch that it answers, and asks for an answer itself.
    #[rustfmt::skip]
    let reply = [
        0,
        0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe,
        0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01,
        1,
        0,
        b'C', b'O', b'M', b'S', 1, 0, 1, 0,
        9, b'h', b'o', b's', b't', b'-', b'7', b'f', b'3', b'a',
        7, b'e', b'u', b'-', b'w', b'e', b's', b't',
        1,                                               // you may take part
    ];
    assert_eq!(body(&hellos[1].1), reply);

    // The last one is the first with a receiver, and a 1: no further answer needed.
    let mut confirmation = first;
    confirmation[9..17].copy_from_slice(&HOST.0.to_le_bytes());
    confirmation[18] = 1;
    assert_eq!(body(&hellos[2].1), confirmation);

    // The frame around it: zero, COBS of body and CRC-32 (little endian), zero.
    #[rustfmt::skip]
    let whole = [
        0,
        1, 9, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 1, 1, 1, 1, 1, 1, 1, 2, 1, 6,
        b'C', b'O', b'M', b'S', 1, 2, 1, 32,
        16, b'c', b'o', b'm', b's', b'-', b'a', b'g', b'e', b'n', b't', b' ', b'0', b'.', b'1', b'.', b'0',
    ];
    assert_eq!(hellos[0].1[..whole.len()], whole);
    assert_eq!(hellos[0].1.last(), Some(&0));
    assert_eq!(coms_protocol::handshake::MAGIC, *b"COMS");
}
