//! The agent's half of the flow, end to end: the real daemon and CLI against the real host end of the session.

mod common;

use common::{Broker, Machine, PATIENCE, Port, Shop, completed};
use coms_protocol::host_to_guest::{Accepted, AlreadyRunning, Cancelled, Denied, Failed, Progress, Resend};
use coms_protocol::types::{
    DenyReason, FailReason, Figures, Initiator, Metric, MigrationId, Phase, RequestReason, Technique,
};
use serde_json::Value;
use std::time::{Duration, Instant};

const HERE: Duration = Duration::ZERO;

#[test]
fn a_slow_workload_asks_once_and_is_told_once_through_two_kills() {
    let shop = Shop::open();
    let mut vm = Machine::new(&shop.watched(""));
    let port = Port::new(&vm);
    vm.start();

    let mut source = Broker::new(port.accept(), "lion", HERE);
    assert_eq!(source.meet().waiting.as_slice(), []);
    source.for_a_while(Duration::from_millis(300));
    assert!(source.requests().is_empty(), "fast: nothing to ask for");

    shop.answers_in(60);
    let request = source.request();
    assert_eq!(request.reason, RequestReason::WorkloadSlow);
    let evidence = &request.evidence.as_slice()[0];
    assert_eq!((evidence.workload.as_str(), evidence.metric), ("shop", Metric::LatencyP50Us));
    assert!((60_000..600_000).contains(&evidence.now), "{evidence:?}");
    assert_eq!(evidence.threshold, Some(30_000));
    source.tell(Accepted { request: request.id, migration: MigrationId(7) });

    vm.kill();
    source.hang_up();
    vm.start();
    let mut destination = Broker::new(port.accept(), "crab", HERE);
    let waiting = destination.meet().waiting;
    assert_eq!(waiting.as_slice()[0].request, request.id);
    assert_eq!(waiting.as_slice()[0].migration, Some(MigrationId(7)));
    shop.answers_in(1);
    destination.tell(completed(7, Some(request.id), "crab"));
    // Acknowledged means saved, whatever comes next.
    vm.kill();
    destination.hang_up();
    vm.start();

    let mut again = Broker::new(port.accept(), "crab", HERE);
    assert_eq!(again.meet().waiting.as_slice(), [], "answered");
    again.tell(completed(7, Some(request.id), "crab"));
    again.for_a_while(Duration::from_millis(1500));
    assert!(again.requests().is_empty());
    vm.until("effect", |vm| !vm.events("effect").is_empty());

    assert_eq!(vm.events("asked").len(), 1);
    assert_eq!(vm.events("accepted").len(), 1);
    let told = vm.events("completed");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["downtime_ms"], 46);
    assert_eq!(told[0]["bytes"], Value::Null, "unknown is absent");
    assert!(!told[0].as_object().unwrap().contains_key("bytes"));
    let effect = &vm.events("effect")[0];
    assert_eq!((&effect["verdict"], &effect["workload"]), (&"helped".into(), &"shop".into()));
    assert!(effect["before_ms"].as_f64() > effect["after_ms"].as_f64(), "{effect}");

    let history = vm.json(&["history"]);
    assert_eq!(history["history"].as_array().unwrap().len(), 1);
    assert_eq!(history["history"][0]["effect"]["verdict"], "helped");
    let status = vm.json(&["status"]);
    assert_eq!(status["repeated_outcomes"], 1);
    assert!(status["cooldown_s"].as_u64() > Some(800));
}

#[test]
fn the_peer_changes_without_a_hang_up_and_the_gap_of_the_clock_is_bounded() {
    let mut vm = Machine::new("");
    let port = Port::new(&vm);
    vm.start();
    let mut source = Broker::new(port.accept(), "lion", HERE);
    source.meet();
    let waiter = vm.coms_command(&["migrate", "--wait", "--json", "--never", "post-copy"]).spawn().unwrap();
    let request = source.request();
    assert_eq!(request.reason, RequestReason::Manual);
    assert_eq!(request.wishes.never.as_slice(), [Technique::PostCopy]);
    source.tell(Accepted { request: request.id, migration: MigrationId(9) });
    source.for_a_while(Duration::from_millis(600));

    let gap = Duration::from_micros(32_500);
    let mut destination = source.handed_over("crab", gap);
    destination.meet();
    destination.tell(completed(9, Some(request.id), "crab"));
    destination.for_a_while(Duration::from_secs(1));

    let out = waiter.wait_with_output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&answer["event"], &answer["migration"]), (&"completed".into(), &"m0000000000000009".into()));
    let told = &vm.events("completed")[0];
    let (measured, error) =
        (told["guest_gap_ms"].as_f64().unwrap(), told["guest_gap_error_ms"].as_f64().unwrap());
    assert!((measured - 32.5).abs() <= error, "{measured} ± {error}");
    assert!(error < 10.0, "{error}");
    assert!(told["ticker_gap_ms"].as_f64().is_some(), "{told}");
    assert!(vm.events("disconnected").len() == 1, "noticed by its epoch alone");
}

#[test]
fn a_refusal_is_told_and_not_asked_again_at_once() {
    let shop = Shop::open();
    shop.answers_in(60);
    let mut vm = Machine::new(&shop.watched("backoff_s = 1\n"));
    let port = Port::new(&vm);
    vm.start();
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    let first = broker.request();
    broker.tell(Denied { request: first.id, reason: DenyReason::Policy, retry_after_s: None });
    broker.for_a_while(Duration::from_millis(800));
    assert_eq!(broker.requests().len(), 1, "backs off");
    broker.until("asked again", |b| b.requests().len() == 2);
    let second = broker.requests()[1].clone();
    assert_ne!(first.id, second.id);
    broker.tell(Denied { request: second.id, reason: DenyReason::Cooldown, retry_after_s: Some(600) });
    broker.for_a_while(Duration::from_millis(2500));
    assert_eq!(broker.requests().len(), 2, "the host knows better");
    let denied = vm.events("denied");
    assert_eq!(denied.len(), 2);
    assert_eq!(denied[1]["reason"], "cooldown");
    let state = &vm.json(&["status"])["workloads"][0]["state"];
    assert_eq!(state, "slow", "still");
}

#[test]
fn resend_already_running_failed_and_cancelled() {
    let mut vm = Machine::new("");
    let port = Port::new(&vm);
    vm.start();
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    broker.meet();

    let ask = || assert!(vm.coms(&["migrate"]).status.success());
    ask();
    let first = broker.request();
    broker.tell(Resend { request: first.id });
    broker.until("said again", |b| b.requests().len() == 2);
    assert_eq!(broker.requests()[1], first, "the same, word for word");
    // The operator's move was under way; its outcome answers.
    broker.tell(AlreadyRunning { request: first.id, migration: MigrationId(1) });
    let refused = vm.coms(&["migrate"]);
    assert_eq!(refused.status.code(), Some(1));
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains(&first.id.to_string()) && why.contains("m0000000000000001"), "{why}");
    broker.tell(Progress {
        migration: MigrationId(1),
        phase: Phase::Copying,
        elapsed_ms: 5,
        bytes_total: Some(1000),
        bytes_remaining: Some(10),
        ..progress()
    });
    assert_eq!(vm.json(&["status"])["moving"]["phase"], "copying");
    broker.tell(completed(1, None, "lion"));
    vm.until("answered", |vm| vm.events("completed").len() == 1);
    assert_eq!(vm.events("completed")[0]["request"], first.id.0);

    ask();
    broker.until("asked", |b| b.requests().len() == 3);
    let id = broker.requests()[2].id;
    broker.tell(Accepted { request: id, migration: MigrationId(2) });
    let failed = Failed {
        migration: MigrationId(2),
        request: Some(id),
        reason: FailReason::DestinationLost,
        figures: Figures::default(),
    };
    broker.tell(failed);
    ask();
    broker.until("asked", |b| b.requests().len() == 4);
    let id = broker.requests()[3].id;
    broker.tell(Cancelled {
        migration: MigrationId(3),
        request: Some(id),
        by: Initiator::Operator,
        figures: Figures::default(),
    });
    // One nobody here asked for, with the outcome as its first sign.
    broker.tell(completed(4, None, "lion"));
    vm.until("told", |vm| vm.events("completed").len() == 2);
    let outcomes: Vec<_> = vm.json(&["history"])["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["outcome"].clone(), r["why"].clone()))
        .collect();
    let expected = [
        ("completed", Value::Null),
        ("failed", "destination-lost".into()),
        ("cancelled", "by-operator".into()),
        ("completed", Value::Null),
    ];
    assert_eq!(outcomes, expected.map(|(o, w)| (Value::from(o), w)));
}

fn progress() -> Progress {
    Progress {
        migration: MigrationId(0),
        phase: Phase::Preparing,
        elapsed_ms: 0,
        bytes_total: None,
        bytes_remaining: None,
        round: None,
    }
}

#[test]
fn pings_are_answered_once_each_through_hang_ups_and_changes_of_peer() {
    let mut vm = Machine::new("");
    let port = Port::new(&vm);
    vm.start();
    let mut broker = Broker::new(port.accept(), "h0", HERE);
    broker.meet();
    let mut run =
        vm.coms_command(&["ping", "--count", "200", "--interval-ms", "10", "--json"]).spawn().unwrap();
    for k in 1..=8 {
        broker.answers_pings = k % 3 != 0;
        broker.for_a_while(Duration::from_millis(150));
        let host = format!("h{k}");
        broker = if k % 2 == 0 {
            broker.handed_over(&host, HERE)
        } else {
            broker.hang_up();
            Broker::new(port.accept(), &host, HERE)
        };
    }
    let begun = Instant::now();
    while run.try_wait().unwrap().is_none() {
        broker.turn();
        assert!(begun.elapsed() < PATIENCE);
    }
    let out = run.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&report["sent"], &report["answered"]), (&200.into(), &200.into()), "{report}");
    assert_eq!((&report["lost"], &report["doubled"]), (&0.into(), &0.into()), "{report}");
    assert!(report["resent"].as_u64() > Some(0), "the silent ones were asked again: {report}");
    assert!(out.status.success());
}

#[test]
fn nonsense_from_the_host_and_a_watcher_that_does_not_read_harm_nobody() {
    use std::io::Write;
    let mut vm = Machine::new("");
    let port = Port::new(&vm);
    vm.start();
    let mut broker = Broker::new(port.accept(), "lion", HERE);
    broker.meet();
    let mut deaf = std::os::unix::net::UnixStream::connect(vm.path("agent.sock")).unwrap();
    deaf.write_all(b"{\"command\":\"watch\"}\n").unwrap();
    let mut rude = std::os::unix::net::UnixStream::connect(vm.path("agent.sock")).unwrap();
    rude.write_all(&[b'x'; 100_000]).ok();

    for round in 0..20u8 {
        let noise: Vec<u8> = (0..50_000).map(|_| rand::random::<u8>().wrapping_mul(round)).collect();
        broker.raw(&noise);
    }
    broker = broker.handed_over("lion", HERE);
    broker.meet();
    // Far more than anybody waits for.
    for _ in 0..200 {
        for _ in 0..10 {
            broker.session.send_once(Progress { migration: MigrationId(5), ..progress() }.into());
        }
        broker.turn();
    }
    broker.for_a_while(Duration::from_millis(200));
    let begun = Instant::now();
    assert_eq!(vm.json(&["status"])["connected"], true, "{}", vm.stderr());
    assert!(begun.elapsed() < Duration::from_secs(1));
    let (took, status) = vm.terminate();
    assert!(took < Duration::from_secs(1) && status.success(), "{took:?} {status}");
}

#[test]
fn an_absent_host_costs_nothing_and_is_found_again() {
    let mut vm = Machine::new("");
    vm.start();
    std::thread::sleep(Duration::from_millis(300));
    let status = vm.json(&["status"]);
    assert_eq!((&status["connected"], &status["port"]), (&false.into(), &"missing".into()), "{status}");
    let (cpu, waits) = vm.effort();
    std::thread::sleep(Duration::from_secs(2));
    let (cpu_after, waits_after) = vm.effort();
    assert!(cpu_after - cpu <= Duration::from_millis(20), "{:?}", cpu_after - cpu);
    assert!(waits_after - waits < 20, "{} waits in 2 s", waits_after - waits);
    let port = Port::new(&vm);
    Broker::new(port.accept(), "lion", HERE).meet();
}

#[test]
fn exit_codes() {
    let mut vm = Machine::new("");
    assert_eq!(vm.coms(&["status"]).status.code(), Some(3), "no daemon");
    assert_eq!(vm.coms(&["statsu"]).status.code(), Some(2));
    assert_eq!(vm.coms(&["migrate", "--deadline", "soon"]).status.code(), Some(2));
    vm.start();
    assert_eq!(vm.coms(&["status"]).status.code(), Some(0));
    let wrong = vm.coms(&["migrate", "--never", "magic"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("auto-converge"), "says what would be right");
    assert_eq!(vm.coms(&["ping", "--count", "0"]).status.code(), Some(1));
    assert_eq!(vm.coms(&["migrate"]).status.code(), Some(0), "kept for when the host is there");
    assert_eq!(vm.coms(&["migrate"]).status.code(), Some(1), "one at a time");
}
