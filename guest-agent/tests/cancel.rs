//! `coms cancel`: the real daemon and CLI against the real host end of the session.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Broker, Machine, Port, completed};
use coms_protocol::GuestToHost;
use coms_protocol::host_to_guest::{Accepted, Cancelled, Resend};
use coms_protocol::types::{Figures, Initiator, MigrationId, RequestId};
use serde_json::Value;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

const HERE: Duration = Duration::ZERO;

/// What was said of requests (r) and cancels (c), in order.
fn said(broker: &Broker) -> String {
    let word = |m: &GuestToHost| match m {
        GuestToHost::Request(_) | GuestToHost::ProtectedRequest(_) => 'r',
        GuestToHost::Cancel(_) => 'c',
        GuestToHost::Ready(_)
        | GuestToHost::Hold(_)
        | GuestToHost::Postpone(_)
        | GuestToHost::Veto(_)
        | GuestToHost::HostsQuery(_)
        | GuestToHost::RandomStart(_)
        | GuestToHost::RandomStop(_)
        | GuestToHost::RandomQuery(_) => 'o',
        GuestToHost::Attend(_)
        | GuestToHost::Ping(_)
        | GuestToHost::TimeQuery(_)
        | GuestToHost::RegionsQuery(_)
        | GuestToHost::Protect(_) => ' ',
    };
    broker.heard.iter().map(word).filter(|c| *c != ' ').collect()
}

fn cancelled(migration: u64, request: RequestId) -> Cancelled {
    Cancelled {
        migration: MigrationId(migration),
        request: Some(request),
        by: Initiator::Customer,
        figures: Figures::default(),
    }
}

fn ended(broker: &mut Broker, mut waiter: Child) -> (Output, Value) {
    let begun = Instant::now();
    while waiter.try_wait().unwrap().is_none() {
        broker.turn();
        assert!(begun.elapsed() < common::PATIENCE, "coms waits on");
    }
    let out = waiter.wait_with_output().unwrap();
    let last = serde_json::from_slice(&out.stdout).unwrap();
    (out, last)
}

#[test]
fn a_cancelled_request_gets_its_one_answer_through_a_restart_and_another_broker() {
    let mut vm = Machine::new("");
    let port = Port::new(&vm);
    vm.start();
    let mut source = Broker::new(port.accept(), "lion", HERE);
    source.meet();
    assert!(vm.coms(&["migrate"]).status.success());
    let request = source.request();
    source.tell(Accepted { request: request.id, migration: MigrationId(7) });
    assert!(vm.coms(&["cancel"]).status.success());
    assert!(vm.coms(&["cancel"]).status.success(), "to say so twice is no mistake");
    source.until("cancelled", |b| said(b) == "rc");
    source.for_a_while(Duration::from_millis(200));
    assert_eq!(said(&source), "rc", "once is enough");
    assert_eq!(vm.json(&["status"])["request"]["cancelling"], true);

    // Both forget, or nearly: the agent is killed, and the next broker knows nothing.
    vm.kill();
    source.hang_up();
    vm.start();
    let mut next = Broker::new(port.accept(), "lion", HERE);
    assert_eq!(next.meet().waiting.as_slice()[0].request, request.id);
    next.until("cancelled", |b| said(b) == "c");
    next.tell(Resend { request: request.id });
    next.until("asked and cancelled", |b| said(b) == "crc");
    let waiter = vm.coms_command(&["cancel", "--wait", "--json"]).spawn().unwrap();
    next.for_a_while(Duration::from_millis(300));
    next.tell(cancelled(8, request.id));
    next.tell(cancelled(8, request.id));
    let (out, last) = ended(&mut next, waiter);
    assert!(out.status.success(), "{out:?}");
    assert_eq!((&last["event"], &last["why"]), (&"cancelled".into(), &"by-customer".into()));
    assert_eq!(vm.events("cancelled").len(), 1, "told once");
    assert_eq!(vm.events("cancelling").len(), 1);

    let nothing = vm.coms(&["cancel"]);
    assert_eq!(nothing.status.code(), Some(1));
    let why = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(why.contains("no request is outstanding"), "{why}");
}

#[test]
fn too_late_is_completed_all_the_same() {
    let mut vm = Machine::new("");
    let port = Port::new(&vm);
    vm.start();
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    broker.meet();
    assert!(vm.coms(&["migrate"]).status.success());
    let request = broker.request();
    broker.tell(Accepted { request: request.id, migration: MigrationId(7) });
    let waiter = vm.coms_command(&["cancel", "--wait", "--json"]).spawn().unwrap();
    broker.until("cancelled", |b| said(b) == "rc");
    broker.tell(completed(7, Some(request.id), "crab"));
    let (out, last) = ended(&mut broker, waiter);
    assert_eq!((out.status.code(), &last["event"]), (Some(1), &"completed".into()), "{out:?}");
    assert!(vm.events("cancelled").is_empty());
}

#[test]
fn what_no_host_heard_of_ends_at_once_and_is_never_asked() {
    let mut vm = Machine::new("");
    vm.start();
    let asked = vm.json(&["migrate"]);
    let out = vm.coms(&["cancel", "--wait", "--json"]);
    let last: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(out.status.success(), "{out:?}");
    assert_eq!((&last["event"], &last["request"]), (&"cancelled".into(), &asked["request"]));
    let port = Port::new(&vm);
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    assert!(broker.meet().waiting.as_slice().is_empty());
    broker.for_a_while(Duration::from_millis(300));
    assert_eq!(said(&broker), "");

    // One that waits for its host is asked when the host is there.
    let mut vm = Machine::new("");
    vm.start();
    assert!(vm.coms(&["migrate"]).status.success());
    let port = Port::new(&vm);
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    broker.meet();
    broker.until("asked", |b| said(b) == "r");
}
