//! Random moves from the customer's side: what is asked of which broker, and what is told.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Broker, Machine, Port};
use coms_protocol::GuestToHost;
use coms_protocol::host_to_guest::RandomStatus;
use coms_protocol::types::{GapLaw, RandomState};
use serde_json::Value;
use std::process::{Child, Output};
use std::time::Duration;

const HERE: Duration = Duration::ZERO;

/// What it says of random moves, in order.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Said {
    Start(u64, u32, u32),
    Stop(u64),
    Query(u64),
}

fn said(broker: &Broker) -> Vec<Said> {
    let mut out = Vec::new();
    for message in &broker.heard {
        match message {
            GuestToHost::RandomStart(s) => out.push(Said::Start(s.number, s.least_s, s.most_s)),
            GuestToHost::RandomStop(s) => out.push(Said::Stop(s.number)),
            GuestToHost::RandomQuery(q) => out.push(Said::Query(q.number)),
            GuestToHost::Request(_)
            | GuestToHost::Ping(_)
            | GuestToHost::TimeQuery(_)
            | GuestToHost::Cancel(_)
            | GuestToHost::Attend(_)
            | GuestToHost::Ready(_)
            | GuestToHost::Hold(_)
            | GuestToHost::Postpone(_)
            | GuestToHost::Veto(_)
            | GuestToHost::HostsQuery(_)
            | GuestToHost::RegionsQuery(_)
            | GuestToHost::Protect(_)
            | GuestToHost::ProtectedRequest(_) => {}
        }
    }
    out
}

fn next(broker: &mut Broker) -> Said {
    broker.until("said", |b| !said(b).is_empty());
    let first = said(broker)[0];
    broker.heard.clear();
    first
}

fn number(said: Said) -> u64 {
    match said {
        Said::Start(n, ..) | Said::Stop(n) | Said::Query(n) => n,
    }
}

fn status(number: Option<u64>, state: RandomState) -> RandomStatus {
    RandomStatus {
        number,
        state,
        law: GapLaw::Exponential,
        least_s: 20,
        most_s: 50,
        most_per_day: 5000,
        made: 3,
        pool: 3,
    }
}

fn spawn(vm: &Machine, args: &[&str]) -> Child {
    vm.coms_command(&[&["random"], args, &["--json"]].concat()).spawn().unwrap()
}

fn ended(broker: &mut Broker, mut child: Child) -> (Output, Value) {
    while child.try_wait().unwrap().is_none() {
        broker.for_a_while(Duration::from_millis(20));
    }
    let out = child.wait_with_output().unwrap();
    let value = serde_json::from_slice(&out.stdout).unwrap();
    (out, value)
}

/// `coms random start`, granted.
fn started(vm: &Machine, broker: &mut Broker) {
    let client = spawn(vm, &["start", "--between", "20s..50s"]);
    let Said::Start(n, 20, 50) = next(broker) else { panic!("no start") };
    broker.tell(status(Some(n), RandomState::On));
    let (out, answer) = ended(broker, client);
    assert!(out.status.success() && answer["state"] == "on", "{out:?}");
}

#[test]
fn a_start_is_said_to_every_broker_and_told_once() {
    let mut vm = Machine::new("");
    let port = Port::new(&vm);
    vm.start();
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    broker.meet();
    started(&vm, &mut broker);
    for host in ["crab", "lion"] {
        broker = broker.handed_over(host, HERE);
        broker.meet();
        let n = number(next(&mut broker));
        broker.tell(status(Some(n), RandomState::On));
        broker.for_a_while(Duration::from_millis(200));
        assert_eq!(said(&broker), [], "once is enough");
    }
    assert_eq!(vm.events("random").len(), 1);
    broker.tell(status(None, RandomState::BudgetUsedUp));
    vm.until("told", |vm| vm.events("random").len() == 2);
    assert_eq!(vm.events("random")[1]["state"], "budget-used-up");
    assert_eq!(vm.json(&["status"])["random"]["state"], "budget-used-up");
    let text = String::from_utf8(vm.coms(&["status"]).stdout).unwrap();
    assert!(text.contains("Random     budget-used-up, 3 of at most 5000"), "{text}");
}

#[test]
fn a_stop_that_nobody_answered_is_said_again_where_it_arrives_also_by_another_agent() {
    let mut vm = Machine::new("");
    let port = Port::new(&vm);
    vm.start();
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    broker.meet();
    started(&vm, &mut broker);
    let client = spawn(&vm, &["stop"]);
    let Said::Stop(_) = next(&mut broker) else { panic!("no stop") };
    // It moves before the answer.
    broker = broker.handed_over("crab", HERE);
    broker.meet();
    let Said::Stop(n) = next(&mut broker) else { panic!("no stop") };
    broker.tell(status(Some(n), RandomState::Off));
    let (out, answer) = ended(&mut broker, client);
    assert!(out.status.success() && answer["state"] == "off", "{out:?}");
    broker = broker.handed_over("lion", HERE);
    broker.meet();
    broker.for_a_while(Duration::from_millis(300));
    assert_eq!(said(&broker), [], "it is known");

    started(&vm, &mut broker);
    let mut client = spawn(&vm, &["stop"]);
    next(&mut broker);
    vm.kill();
    client.wait().unwrap();
    broker.hang_up();
    vm.start();
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    broker.meet();
    assert!(matches!(next(&mut broker), Said::Stop(_)), "another life of the agent remembers");
}

#[test]
fn what_is_refused_is_not_asked_again_behind_the_customers_back() {
    let mut vm = Machine::new("");
    let port = Port::new(&vm);
    vm.start();
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    broker.meet();
    for (state, word) in [(RandomState::NotOffered, "offer"), (RandomState::BadRange, "from 20 s to 50 s")] {
        let client = spawn(&vm, &["start", "--between", "1s..5s"]);
        let n = number(next(&mut broker));
        broker.tell(status(Some(n), state));
        let (out, answer) = ended(&mut broker, client);
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        assert!(answer["error"].as_str().unwrap().contains(word), "{answer}");
        broker = broker.handed_over("crab", HERE);
        broker.meet();
        broker.for_a_while(Duration::from_millis(300));
        assert_eq!(said(&broker), []);
    }
    let wrong = vm.coms(&["random", "start", "--between", "10m..5m"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

#[test]
fn status_tells_the_chance_to_stay_beside_what_attacks_take() {
    let mut vm = Machine::new("");
    let port = Port::new(&vm);
    vm.start();
    let offline = vm.json(&["random", "status"]);
    assert_eq!((&offline["ok"], &offline["connected"]), (&true.into(), &false.into()));
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    broker.meet();
    let client = spawn(&vm, &["status", "--stay", "35s"]);
    let Said::Query(n) = next(&mut broker) else { panic!("no query") };
    broker.tell(status(Some(n), RandomState::On));
    let (out, answer) = ended(&mut broker, client);
    assert!(out.status.success(), "{out:?}");
    let stays: Vec<_> = answer["stays"].as_array().unwrap().iter().map(|s| s["chance"].as_f64()).collect();
    // By the documented formula: (e^(-3/2) - e^-3) / (1 - e^-3).
    let half = ((-1.5_f64).exp() - (-3.0_f64).exp()) / (1.0 - (-3.0_f64).exp());
    assert!((stays[0].unwrap() - half).abs() < 1e-9, "{answer}");
    assert_eq!(stays[1..], [Some(0.0), Some(0.0)], "three minutes and an hour");
}

#[test]
fn the_configuration_holds_until_somebody_says_otherwise_and_a_changed_one_again() {
    let config =
        |between: &str| format!("[random]\nbetween = \"{between}\"\nlaw = \"uniform\"\nmax_per_day = 9\n");
    let mut vm = Machine::new(&config("5m..10m"));
    let port = Port::new(&vm);
    vm.start();
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    broker.meet();
    let Said::Start(n, 300, 600) = next(&mut broker) else { panic!("no start") };
    broker.tell(status(Some(n), RandomState::On));
    let client = spawn(&vm, &["stop"]);
    let n = number(next(&mut broker));
    broker.tell(status(Some(n), RandomState::Off));
    ended(&mut broker, client);
    vm.terminate();
    broker.hang_up();
    vm.start();
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    broker.meet();
    broker.for_a_while(Duration::from_millis(300));
    assert_eq!(said(&broker), [], "stopped by hand, under the same configuration");
    let text = std::fs::read_to_string(vm.path("agent.toml")).unwrap();
    std::fs::write(vm.path("agent.toml"), text.replace("5m..10m", "5m..20m")).unwrap();
    let pid = rustix::process::Pid::from_raw(vm.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    assert!(matches!(next(&mut broker), Said::Start(_, 300, 1200)));
}

#[test]
fn a_broker_that_never_answers_is_told_so() {
    let mut vm = Machine::new("");
    let port = Port::new(&vm);
    vm.start();
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    broker.meet();
    let client = spawn(&vm, &["start", "--between", "20s..50s"]);
    let (out, answer) = ended(&mut broker, client);
    assert_eq!(out.status.code(), Some(1));
    assert!(answer["error"].as_str().unwrap().contains("not answered"), "{answer}");
}
