//! What a session goes through in its life, one story per test.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Side, guest, host, ping, pong, talk};
use coms_protocol::session::{End, Epoch, Event};
use coms_protocol::{Guest, Host};

/// What one end was told, messages only.
fn messages<E: End>(side: &Side<E>) -> Vec<E::In>
where
    E::In: Clone,
{
    side.noticed
        .iter()
        .filter_map(|e| if let Event::Message(m) = e { Some(m.clone()) } else { None })
        .collect()
}

/// What one end knows to have arrived.
fn delivered<E: End>(side: &Side<E>) -> Vec<E::Out> {
    side.noticed
        .iter()
        .filter_map(|e| if let Event::Delivered(m) = e { Some(m.clone()) } else { None })
        .collect()
}

/// The peers it established itself with, in order; true: as a new one.
fn peers<E: End>(side: &Side<E>) -> Vec<(u64, bool)> {
    let established = |e: &_| match e {
        Event::Established { new_peer, peer: Epoch(n), .. } => Some((*n, *new_peer)),
        Event::Lost | Event::Incompatible { .. } | Event::Message(_) | Event::Delivered(_) => None,
        Event::Heartbeat { .. } => None,
    };
    side.noticed.iter().filter_map(established).collect()
}

fn losses<E: End>(side: &Side<E>) -> usize {
    side.noticed.iter().filter(|e| matches!(e, Event::Lost)).count()
}

/// A guest and a host whose link has just come up.
fn met() -> (Side<Guest>, Side<Host>) {
    let (mut g, mut h) = (guest(7), host(100));
    g.session.link_up(common::at(0));
    h.session.link_up(common::at(0));
    talk(&mut g, &mut h, 0, 100);
    assert!(g.session.is_established() && h.session.is_established());
    (g, h)
}

#[test]
fn they_meet_and_talk_both_ways() {
    let (mut g, mut h) = met();
    g.session.send(ping(1)).unwrap();
    g.session.send(ping(2)).unwrap();
    h.session.send(pong(3)).unwrap();
    assert!(h.session.send_once(pong(4)));
    talk(&mut g, &mut h, 100, 101);

    assert_eq!(peers(&g), [(100, true)]);
    assert_eq!(peers(&h), [(7, true)]);
    assert_eq!(messages(&h), [ping(1), ping(2)]);
    assert_eq!(messages(&g), [pong(4), pong(3)]);
    assert_eq!(delivered(&g), [ping(1), ping(2)]);
    assert_eq!(delivered(&h), [pong(3)], "nobody is told what became of a message sent once");
    assert_eq!((g.session.queued(), h.session.queued()), (0, 0));
}

#[test]
fn what_waits_for_the_hello_follows_at_once() {
    let (mut g, mut h) = (guest(7), host(100));
    g.session.send(ping(1)).unwrap();
    h.session.send(pong(1)).unwrap();
    h.session.link_up(common::at(0));
    assert!(!h.speak(0).is_empty(), "a hello that nobody hears");
    g.session.link_up(common::at(100));
    talk(&mut g, &mut h, 100, 150);
    // Not only after a resend: a move's outcome is told in the moments after the resumption.
    assert_eq!((delivered(&g), delivered(&h)), (vec![ping(1)], vec![pong(1)]));
    assert_eq!((g.session.skipped(), h.session.skipped()), Default::default());
}

#[test]
fn going_back_to_a_former_peer_doubles_nothing() {
    let (mut g, mut a) = met();
    a.session.send(pong(1)).unwrap();
    let lost_ack = {
        let s = a.speak(200);
        g.hear(200, &s);
        g.speak(200)
    };
    assert!(!lost_ack.is_empty());

    // Late bytes of a host that the guest had left: it turns to that one, and back.
    let mut b = host(200);
    b.session.link_up(common::at(210));
    talk(&mut g, &mut b, 210, 400);
    assert_eq!(peers(&g), [(100, true), (200, true)]);
    talk(&mut g, &mut a, 400, 30_000);

    assert_eq!(messages(&g), [pong(1)]);
    assert_eq!(delivered(&a), [pong(1)]);
}

#[test]
fn a_withdrawn_message_leaves_its_number_behind() {
    let (mut g, mut a) = met();
    for n in 1..=3 {
        g.session.send(ping(n)).unwrap();
    }
    let heard_by_a = g.speak(200);
    a.hear(200, &heard_by_a);
    let lost_ack = a.speak(200);
    assert!(!lost_ack.is_empty());

    // Another host takes over; before it is told, the guest thinks better of it and says something else.
    let mut b = host(200);
    b.session.link_up(common::at(210));
    let hello = b.speak(210);
    g.hear(210, &hello);
    g.session.withdraw(|m| m == &ping(1) || m == &ping(3));
    g.session.send(ping(4)).unwrap();
    talk(&mut g, &mut a, 220, 30_000);

    assert_eq!(messages(&a), [ping(1), ping(2), ping(3), ping(4)]);
    assert_eq!(delivered(&g), [ping(2), ping(4)]);
    assert_eq!(g.session.queued(), 0);
    assert_eq!(a.session.skipped().unknown, 0, "a withdrawn message is nothing unknown");
}

#[test]
fn a_hello_that_cannot_be_read_does_not_end_the_greeting() {
    let (mut g, _) = met();
    // Whoever it is, it is not the peer that we know.
    g.hear(200, &hello_frame(300, b"\xff\xff\xff"));
    assert!(g.session.is_established());
    assert_eq!(g.session.skipped().malformed, 1);

    let (mut g, mut h) = (guest(7), host(100));
    g.session.link_up(common::at(0));
    g.speak(0);
    g.hear(1, &hello_frame(300, b"\xff\xff\xff"));
    h.session.link_up(common::at(1_000));
    talk(&mut g, &mut h, 1_000, 2_000);
    assert_eq!(peers(&g), [(100, true)]);
}

#[test]
fn only_what_was_taken_is_acknowledged() {
    let (mut g, mut h) = met();
    for n in 1..=3 {
        g.session.send(ping(n)).unwrap();
    }
    let said = g.speak(200);
    h.session.receive(common::at(200), &said);
    assert_eq!(h.session.poll_event(), Some(Event::Message(ping(1))));
    // Two more wait: whatever goes out now may not speak for them.
    assert!(h.session.send_once(pong(9)));
    let mut out = Vec::new();
    h.session.poll_transmit(common::at(200), usize::MAX, &mut out);
    g.hear(200, &out);
    assert_eq!(delivered(&g), [ping(1)]);

    h.hear(210, &[]);
    talk(&mut g, &mut h, 210, 220);
    assert_eq!(delivered(&g), [ping(1), ping(2), ping(3)]);
    assert_eq!(messages(&h), [ping(2), ping(3)]);
}

#[test]
fn no_host_listens_when_the_guest_boots() {
    let mut g = guest(7);
    g.session.send(ping(1)).unwrap();
    g.session.link_up(common::at(0));
    // Three minutes of greeting into the void, slower and slower.
    let mut hellos = 0;
    while g.due().unwrap() < 180_000 {
        hellos += usize::from(!g.speak(g.due().unwrap()).is_empty());
    }
    assert!((20..=30).contains(&hellos), "{hellos} hellos");
    assert!(!g.session.send_once(ping(2)), "nobody would hear it");

    let mut h = host(100);
    h.session.link_up(common::at(180_000));
    talk(&mut g, &mut h, 180_000, 180_100);
    assert_eq!(messages(&h), [ping(1)]);
    assert_eq!(delivered(&g), [ping(1)]);
}

#[test]
fn the_peer_changes_in_mid_frame_without_a_hang_up() {
    let (mut g, mut source) = met();
    g.session.send(ping(1)).unwrap();
    talk(&mut g, &mut source, 200, 200);

    // The port passes from one broker to the next while a frame is half way through, in both directions.
    g.session.send(ping(2)).unwrap();
    let there = g.speak(300);
    source.session.send(pong(1)).unwrap();
    let back = source.speak(300);
    let mut destination = host(200);
    destination.session.link_up(common::at(301));
    destination.hear(301, &there[there.len() / 2..]);
    g.hear(301, &back[..back.len() / 2]);
    talk(&mut g, &mut destination, 301, 1_000);

    assert_eq!(peers(&g), [(100, true), (200, true)]);
    assert_eq!(losses(&g), 1);
    assert_eq!(messages(&source), [ping(1)]);
    assert_eq!(messages(&destination), [ping(2)], "what the source had heard is not told again");
    assert_eq!(delivered(&g), [ping(1), ping(2)]);
    assert_eq!(messages(&g), [], "half a message is none");
}

#[test]
fn the_broker_restarts() {
    let (mut g, before) = met();
    g.session.link_down();
    drop(before);
    g.session.send(ping(1)).unwrap();
    assert_eq!(g.due(), None, "nothing to do while nobody is there");

    let mut after = host(101);
    after.session.link_up(common::at(5_000));
    g.session.link_up(common::at(5_000));
    talk(&mut g, &mut after, 5_000, 5_100);
    assert_eq!(peers(&g), [(100, true), (101, true)]);
    assert_eq!(losses(&g), 1);
    assert_eq!(messages(&after), [ping(1)]);
}

#[test]
fn the_agent_restarts() {
    let (before, mut h) = met();
    drop(before);
    h.session.send(pong(1)).unwrap();
    assert!(!h.speak(200).is_empty(), "said to an agent that is gone");

    // The broker sees no hang-up; the new agent's hello tells it.
    let mut after = guest(8);
    after.session.link_up(common::at(3_000));
    talk(&mut after, &mut h, 3_000, 3_100);
    assert_eq!(peers(&h), [(7, true), (8, true)]);
    assert_eq!(messages(&after), [pong(1)]);
    assert_eq!(delivered(&h), [pong(1)]);
}

#[test]
fn an_acknowledgement_is_lost() {
    let (mut g, mut h) = met();
    g.session.send(ping(1)).unwrap();
    let said = g.speak(200);
    h.hear(200, &said);
    let lost = h.speak(200);
    assert!(!lost.is_empty());
    assert_eq!(delivered(&g), []);

    talk(&mut g, &mut h, 201, 1_000);
    assert_eq!(messages(&h), [ping(1)], "told once, though it came twice");
    assert_eq!(delivered(&g), [ping(1)]);
}

#[test]
fn the_peer_falls_silent_and_comes_back() {
    let (mut g, mut h) = met();
    // No hang-up, no bytes: the guest's own clock must tell it.
    for _ in 0..10 {
        g.speak(g.due().unwrap().min(60_000));
    }
    assert!(!g.session.is_established());
    assert_eq!(losses(&g), 1);
    talk(&mut g, &mut h, 60_000, 90_000);
    assert_eq!(peers(&g), [(100, true), (100, false)], "the same one as before");
}

#[test]
fn a_peer_cannot_acknowledge_what_it_never_heard() {
    let (mut g, mut h) = met();
    for n in 1..=20 {
        g.session.send(ping(n)).unwrap();
    }
    let said = g.speak(200);
    h.hear(200, &said);
    assert_eq!(messages(&h).len(), 16, "the rest waits for an acknowledgement");
    for claim in [17, 20, 21, u64::MAX] {
        let header = (1u16, 100u64.to_le_bytes(), 7u64.to_le_bytes(), 0u64, claim);
        let mut frame = Vec::new();
        coms_protocol::frame::encode(&postcard::to_stdvec(&header).unwrap(), &mut frame).unwrap();
        g.hear(201, &frame);
        assert_eq!(delivered(&g), []);
    }
    talk(&mut g, &mut h, 202, 203);
    assert_eq!(delivered(&g).len(), 20);
}

#[test]
fn half_a_frame_does_not_outlive_its_link() {
    let (mut g, mut h) = met();
    h.session.send(pong(1)).unwrap();
    let said = h.speak(200);
    for cut in [said.len() / 3, said.len() / 2] {
        g.hear(200, &said[..cut]);
        g.session.link_up(common::at(200));
    }
    talk(&mut g, &mut h, 201, 1_000);
    assert_eq!(messages(&g), [pong(1)]);
    assert_eq!(g.session.skipped().frames, Default::default(), "a hang-up is no damage");
}

#[test]
fn what_was_not_delivered_is_handed_to_the_next_life() {
    let (mut g, mut h) = met();
    for n in 1..=3 {
        h.session.send(pong(n)).unwrap();
    }
    let said = h.speak(200);
    g.hear(200, &said[..said.len() - 5]);
    let acknowledgement = g.speak(200);
    h.hear(200, &acknowledgement);
    assert_eq!(delivered(&h), [pong(1), pong(2)]);
    h.session.send(pong(4)).unwrap();
    assert_eq!(h.session.into_undelivered().collect::<Vec<_>>(), [pong(3), pong(4)]);
}

/// A version 1 hello from `epoch` to the guest 7, with this body.
fn hello_frame(epoch: u64, hello_body: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    body.extend(epoch.to_le_bytes());
    body.extend(7u64.to_le_bytes());
    body.extend([1, 0]);
    body.extend(b"COMS\x01\0\x01\0");
    body.extend(hello_body);
    let mut out = Vec::new();
    coms_protocol::frame::encode(&body, &mut out).unwrap();
    out
}
