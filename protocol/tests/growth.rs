//! How the language grows: today's build against peers that know more, less, or something else.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Side, at, guest, guest_hello, host, host_hello, pong, talk};
use coms_protocol::guest_to_host::GuestHello;
use coms_protocol::handshake::Versions;
use coms_protocol::host_to_guest::{Denied, HostHello};
use coms_protocol::message::{DecodeError, Message};
use coms_protocol::session::{End, Epoch, Event, Session};
use coms_protocol::types::*;
use coms_protocol::{Guest, GuestToHost, Host, HostToGuest};
use serde::Serialize;

/// What a host of version 2 may say: all of today's, and something new.
#[derive(Debug, Clone, PartialEq)]
enum FutureToGuest {
    OfToday(Box<HostToGuest>),
    Hologram(&'static str),
}

impl Message for FutureToGuest {
    fn number(&self) -> u16 {
        match self {
            FutureToGuest::OfToday(m) => m.number(),
            FutureToGuest::Hologram(_) => 433,
        }
    }
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            FutureToGuest::OfToday(m) => m.encode(out),
            FutureToGuest::Hologram(text) => out.extend(text.as_bytes()),
        }
    }
    fn decode(number: u16, _: &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::UnknownMessage(number))
    }
}

/// A hello that has grown by two fields at its end.
#[derive(Serialize)]
struct FutureHello {
    of_today: HostHello,
    moons: u32,
    mood: String,
}

enum FutureHost {}

impl End for FutureHost {
    type Out = FutureToGuest;
    type In = GuestToHost;
    type OutHello = FutureHello;
    type InHello = GuestHello;
}

fn future_host() -> Side<FutureHost> {
    let hello = FutureHello { of_today: host_hello(), moons: 79, mood: "content".into() };
    Side::of(Session::new(Epoch(300), &hello).with_versions(Versions { min: 1, max: 2 }))
}

/// Carries bytes both ways at one moment until nobody has more to say.
fn exchange<A: End, B: End>(ms: u64, a: &mut Side<A>, b: &mut Side<B>) {
    loop {
        let (there, back) = (a.speak(ms), b.speak(ms));
        if there.is_empty() && back.is_empty() {
            return;
        }
        a.hear(ms, &back);
        b.hear(ms, &there);
    }
}

#[test]
fn a_message_from_the_future_is_skipped_counted_and_acknowledged() {
    let (mut g, mut h) = (guest(7), future_host());
    g.session.link_up(at(0));
    h.session.link_up(at(0));
    for ms in [0, 20, 40] {
        exchange(ms, &mut g, &mut h);
    }
    let established =
        Event::Established { new_peer: true, peer: Epoch(300), version: 1, hello: host_hello() };
    assert_eq!(g.noticed, [established], "the grown hello is read as far as it is known");

    let said = [
        FutureToGuest::OfToday(pong(1).into()),
        FutureToGuest::Hologram("help me"),
        FutureToGuest::Hologram(""),
        FutureToGuest::OfToday(pong(2).into()),
    ];
    for message in said.clone() {
        h.session.send(message).unwrap();
    }
    assert!(h.session.send_once(FutureToGuest::Hologram("not kept")));
    exchange(50, &mut g, &mut h);

    assert_eq!(g.noticed[1..], [Event::Message(pong(1)), Event::Message(pong(2))]);
    assert_eq!(g.session.skipped().unknown, 3);
    assert_eq!(g.session.skipped().malformed, 0);
    assert_eq!(h.noticed[1..], said.map(Event::Delivered), "the sender is not stuck");
    assert_eq!(h.session.queued(), 0);
}

#[test]
fn a_value_from_the_future_is_carried_as_unknown() {
    fn carried<T: Serialize + serde::de::DeserializeOwned>(number: impl Fn(&T) -> u16, known: &[T]) {
        let news = known.iter().map(&number).max().unwrap() + 1;
        for n in [news, 999, u16::MAX] {
            let bytes = postcard::to_stdvec(&n).unwrap();
            let value: T = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(number(&value), n);
            assert_eq!(postcard::to_stdvec(&value).unwrap(), bytes);
        }
    }
    carried(|v: &Technique| v.number(), Technique::KNOWN);
    carried(|v: &Encryption| v.number(), Encryption::KNOWN);
    carried(|v: &Initiator| v.number(), Initiator::KNOWN);
    carried(|v: &RequestReason| v.number(), RequestReason::KNOWN);
    carried(|v: &Metric| v.number(), Metric::KNOWN);
    carried(|v: &DenyReason| v.number(), DenyReason::KNOWN);
    carried(|v: &FailReason| v.number(), FailReason::KNOWN);
    carried(|v: &Phase| v.number(), Phase::KNOWN);

    // And inside a message, whose other fields count no less.
    let denied = Denied { request: RequestId(1), reason: DenyReason::Unknown(4_711), retry_after_s: Some(3) };
    let (mut g, mut h) = (guest(7), host(100));
    h.session.send(denied.into()).unwrap();
    g.session.link_up(at(0));
    h.session.link_up(at(0));
    talk(&mut g, &mut h, 0, 100);
    assert!(g.noticed.contains(&Event::Message(denied.into())));
}

#[test]
fn versions_that_do_not_overlap_wait_for_an_upgrade() {
    let mut g = guest(7);
    let theirs = Versions { min: 5, max: 6 };
    let mut h = Side::of(Session::<Host>::new(Epoch(100), &host_hello()).with_versions(theirs));
    g.session.send(common::ping(1)).unwrap();
    h.session.send(pong(1)).unwrap();
    g.session.link_up(at(0));
    h.session.link_up(at(0));
    let crossed = talk(&mut g, &mut h, 0, 300_000);

    assert_eq!(g.noticed, [Event::Incompatible { theirs }], "told once, in five minutes");
    assert_eq!(h.noticed, [Event::Incompatible { theirs: Versions { min: 1, max: 1 } }]);
    assert!(!g.session.is_established() && !h.session.is_established());
    assert!(!g.session.send_once(common::ping(2)));
    assert_eq!((g.session.queued(), h.session.queued()), (1, 1), "what matters waits");
    // Hellos and nothing else: one from each end every 10 s.
    assert!(crossed.iter().all(|&number| number == 0));
    assert!((58..=70).contains(&crossed.len()), "{} hellos in five minutes", crossed.len());

    let mut upgraded =
        Side::of(Session::<Host>::new(Epoch(101), &host_hello()).with_versions(Versions { min: 1, max: 6 }));
    upgraded.session.link_up(at(300_001));
    talk(&mut g, &mut upgraded, 300_001, 301_000);
    assert!(g.session.is_established() && upgraded.session.is_established());
    assert!(g.noticed.contains(&Event::Delivered(common::ping(1))));
    assert!(upgraded.noticed.contains(&Event::Message(common::ping(1))));
}

#[test]
fn a_peer_that_thinks_better_of_its_versions_is_met() {
    let hello = |range: &[u8; 4], to: u64| {
        let header = (0u16, 100u64.to_le_bytes(), to.to_le_bytes(), 1u64, 0u64);
        let hello = postcard::to_stdvec(&host_hello()).unwrap();
        let body = [&postcard::to_stdvec(&header).unwrap()[..], b"COMS", range, &hello].concat();
        let mut out = Vec::new();
        coms_protocol::frame::encode(&body, &mut out).unwrap();
        out
    };
    let mut g = guest(7);
    g.session.link_up(at(0));
    g.hear(0, &hello(&[5, 0, 6, 0], 7));
    assert!(matches!(g.noticed[..], [Event::Incompatible { .. }]));
    g.speak(0);
    g.hear(1, &hello(&[1, 0, 6, 0], 7));
    assert!(g.session.is_established());
}

#[test]
fn the_newest_version_that_both_speak_is_chosen() {
    let mut g =
        Side::of(Session::<Guest>::new(Epoch(7), &guest_hello()).with_versions(Versions { min: 1, max: 3 }));
    let mut h =
        Side::of(Session::<Host>::new(Epoch(100), &host_hello()).with_versions(Versions { min: 2, max: 9 }));
    g.session.link_up(at(0));
    h.session.link_up(at(0));
    talk(&mut g, &mut h, 0, 100);
    assert!(matches!(g.noticed[..], [Event::Established { version: 3, .. }]));
    assert!(matches!(h.noticed[..], [Event::Established { version: 3, .. }]));
}
