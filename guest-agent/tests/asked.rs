//! Applications and commands that are asked about moves: the agent as a process, a broker at its port.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Broker, Machine, PATIENCE, Port, completed};
use coms_protocol::GuestToHost;
use coms_protocol::guest_to_host::{Attend, Hold};
use coms_protocol::host_to_guest::{Cancelled, HostToGuest, Notice, Terms, Verdict};
use coms_protocol::types::{Asked, Cause, Figures, Initiator, MigrationId, NoticeReason, Technique};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const HERE: Duration = Duration::ZERO;
const ID: MigrationId = MigrationId(7);

/// An application on the socket.
struct App {
    lines: BufReader<UnixStream>,
}

impl App {
    fn register(vm: &Machine, name: &str, notice_s: u32, hold_s: u32) -> Self {
        let stream = UnixStream::connect(vm.path("agent.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut app = Self { lines: BufReader::new(stream) };
        let answer =
            app.say(&json!({ "command": "register", "name": name, "notice_s": notice_s, "hold_s": hold_s }));
        assert_eq!(answer["ok"], true, "{answer}");
        app
    }

    fn say(&mut self, what: &Value) -> Value {
        writeln!(self.lines.get_mut(), "{what}").unwrap();
        self.hear()
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }
}

fn announce(host: &mut Broker, starts_in_ms: u32, hold_up_to_ms: u32) {
    host.say(Terms {
        migration: ID,
        reason: NoticeReason::Maintenance,
        hold_up_to_ms,
        postpone_up_to_s: 3600,
        may_veto: false,
        expedited: false,
    });
    host.tell(notice(starts_in_ms));
}

fn notice(starts_in_ms: u32) -> Notice {
    Notice {
        migration: ID,
        request: None,
        initiator: Initiator::Operator,
        technique: Technique::PreCopy,
        starts_in_ms,
        predicted_downtime_ms: None,
        predicted_total_ms: None,
    }
}

fn attended(host: &Broker) -> Vec<Attend> {
    host.heard.iter().filter_map(|m| if let GuestToHost::Attend(a) = m { Some(*a) } else { None }).collect()
}

fn holds(host: &Broker) -> Vec<Hold> {
    host.heard.iter().filter_map(|m| if let GuestToHost::Hold(h) = m { Some(*h) } else { None }).collect()
}

fn ready(host: &Broker) -> usize {
    host.heard.iter().filter(|m| matches!(m, GuestToHost::Ready(r) if r.migration == ID)).count()
}

fn met(more: &str) -> (Machine, Port, Broker) {
    let mut vm = Machine::new(more);
    let port = Port::new(&vm);
    vm.start();
    let mut host = Broker::new(port.accept(), "lion", HERE);
    host.meet();
    host.for_a_while(Duration::from_millis(100));
    (vm, port, host)
}

#[test]
fn an_app_holds_a_move_until_it_is_ready_and_hears_the_outcome() {
    let (vm, _port, mut host) = met("");
    let nothing = Attend { notice_ms: 0, hold_ms: 0 };
    assert_eq!(attended(&host), [nothing], "nobody wants anything");
    let mut app = App::register(&vm, "db", 20, 60);
    host.until("told", |h| attended(h) == [nothing, Attend { notice_ms: 20_000, hold_ms: 60_000 }]);
    announce(&mut host, 20_000, 60_000);
    let heard = app.hear();
    assert_eq!(
        (&heard["event"], &heard["reason"], &heard["initiator"]),
        (&json!("notice"), &json!("maintenance"), &json!("operator"))
    );
    assert!(
        heard["starts_in_ms"].as_u64() <= Some(20_000) && heard["hold_up_to_ms"].as_u64() <= Some(60_000)
    );
    assert_eq!(app.say(&json!({ "command": "hold", "for_s": 30 }))["ok"], true);
    host.until("held", |h| !holds(h).is_empty());
    let held = holds(&host)[0];
    assert_eq!((held.cause, held.holders), (Cause::App, 1));
    assert!((29_000..=30_000).contains(&held.for_ms), "{held:?}");
    host.tell(Verdict { migration: ID, asked: Asked::Hold, granted: true, starts_in_ms: 30_000 });
    assert_eq!(app.hear()["event"], "verdict");
    let announced = &vm.json(&["status"])["announced"];
    assert_eq!(
        (&announced["asked"][0]["name"], &announced["asked"][0]["state"]),
        (&json!("db"), &json!("holding"))
    );
    assert_eq!(ready(&host), 0);

    assert_eq!(app.say(&json!({ "command": "ready" }))["ok"], true);
    host.until("ready", |h| ready(h) == 1);
    assert_eq!(app.say(&json!({ "command": "hold", "for_s": 30 }))["ok"], false, "too late");
    host.tell(HostToGuest::Completed(completed(ID.0, None, "crab")));
    host.for_a_while(Duration::from_millis(2500));
    let heard = app.hear();
    assert_eq!((&heard["event"], &heard["migration"]), (&json!("completed"), &json!(ID.to_string())));
    assert_eq!(vm.json(&["status"]).get("announced"), None);

    drop(app);
    host.until("gone", |h| attended(h).last() == Some(&Attend::default()));
    assert_eq!((ready(&host), holds(&host).len()), (1, 1), "one word each");
}

#[test]
fn who_hangs_up_or_says_nothing_is_not_waited_for() {
    let (vm, _port, mut host) = met("");
    let dead = App::register(&vm, "dead", 60, 60);
    let mut silent = App::register(&vm, "silent", 1, 60);
    host.until("told", |h| attended(h).last() == Some(&Attend { notice_ms: 60_000, hold_ms: 60_000 }));
    announce(&mut host, 60_000, 60_000);
    assert_eq!(silent.hear()["event"], "notice");
    drop(dead);
    host.until("ready", |h| ready(h) == 1);
    assert_eq!(vm.events("app_silent").len(), 1);
    assert_eq!(vm.events("app_gone")[0]["app"], "dead");
    assert!(holds(&host).is_empty());
}

#[test]
fn a_refusing_command_holds_is_tried_again_and_the_one_after_runs_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let p = |name: &str| dir.path().join(name).display().to_string();
    let more = format!(
        "[[asked]]\nname = \"drain\"\nbefore = [\"/bin/sh\", \"-c\", 'test -e {0} || exit 75']\n\
         after = [\"/bin/sh\", \"-c\", 'echo $COMS_EVENT > {1}']\ntimeout_s = 5\nhold_s = 30\nretry_s = 1\n\
         [[asked]]\nname = \"broken\"\nbefore = [\"/nowhere\"]\n",
        p("drained"),
        p("after")
    );
    let (vm, _port, mut host) = met(&more);
    host.until("told", |h| attended(h) == [Attend { notice_ms: 30_000, hold_ms: 60_000 }]);
    announce(&mut host, 30_000, 60_000);
    host.until("held", |h| holds(h).iter().any(|h| h.cause == Cause::Command && h.holders == 1));
    assert_eq!(ready(&host), 0);
    std::fs::write(p("drained"), "").unwrap();
    host.until("ready", |h| ready(h) == 1);
    let answers: Vec<_> =
        vm.events("asked_command").iter().map(|e| (e["name"].clone(), e["answer"].clone())).collect();
    assert!(
        answers.contains(&(json!("drain"), json!("hold")))
            && answers.contains(&(json!("drain"), json!("ready")))
    );
    assert!(answers.contains(&(json!("broken"), json!("no reason to wait"))), "{answers:?}");
    host.tell(Cancelled {
        migration: ID,
        request: None,
        by: Initiator::Operator,
        figures: Figures::default(),
    });
    vm.until("ran after", |_| std::fs::read_to_string(p("after")).is_ok_and(|t| t == "cancelled\n"));
}

#[test]
fn a_simulation_goes_to_apps_and_hooks_and_into_no_history() {
    let (vm, _port, mut host) = met(
        "[[hooks]]\nevent = \"completed\"\ncommand = [\"/bin/sh\", \"-c\", '[ \"$COMS_SIMULATED\" = true ] && exit 3']\n",
    );
    let mut app = App::register(&vm, "db", 20, 60);
    let said = vm.json(&["simulate"]);
    assert_eq!((&said["ok"], &said["asked"]), (&json!(true), &json!(1)));
    let heard = app.hear();
    assert_eq!((&heard["event"], &heard["simulated"]), (&json!("notice"), &json!(true)));
    assert_eq!(app.say(&json!({ "command": "hold", "for_s": 1 }))["ok"], true);
    assert_eq!(vm.coms(&["simulate"]).status.code(), Some(1), "one at a time");
    let mut events = vec![];
    while events.last() != Some(&json!("completed")) {
        let heard = app.hear();
        assert_eq!(heard["simulated"], true, "{heard}");
        events.push(heard["event"].clone());
    }
    assert_eq!(events, [json!("started"), json!("completed")]);
    vm.until("hooked", |vm| vm.events("hook").iter().any(|h| h["exit_code"] == 3));
    assert_eq!(vm.json(&["history"])["history"], json!([]));
    host.for_a_while(Duration::from_millis(200));
    assert!(holds(&host).is_empty() && host.requests().is_empty(), "the host hears nothing of it");
    for event in vm.events("completed").iter().chain(&vm.events("notice")) {
        assert_eq!(event["simulated"], true);
    }
}

#[test]
fn postpone_and_veto_stay_within_the_terms_and_tell_the_verdict() {
    let (vm, _port, mut host) = met("[notice]\nleast_s = 30\n");
    host.until("told", |h| attended(h) == [Attend { notice_ms: 30_000, hold_ms: 0 }]);
    let id = ID.to_string();
    assert_eq!(vm.coms(&["veto", &id]).status.code(), Some(1), "nothing is announced");
    announce(&mut host, 30_000, 0);
    vm.until("announced", |vm| vm.json(&["status"]).get("announced").is_some());
    let refused = vm.json(&["veto", &id]);
    assert!(refused["error"].as_str().unwrap().contains("vetoed"), "{refused}");
    let refused = vm.json(&["postpone", &id, "2h"]);
    assert!(refused["error"].as_str().unwrap().contains("1 to 3600 s"), "{refused}");
    let asking = vm.coms_command(&["postpone", &id, "30m", "--json"]).spawn().unwrap();
    host.until("asked", |h| {
        h.heard
            .iter()
            .any(|m| matches!(m, GuestToHost::Postpone(p) if p.for_s == 1800 && p.cause == Cause::Manual))
    });
    host.say(Verdict { migration: ID, asked: Asked::Postpone, granted: true, starts_in_ms: 1_800_000 });
    announce(&mut host, 1_800_000, 0);
    host.for_a_while(Duration::from_millis(200));
    let said = asking.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&said["ok"], &said["starts_in_ms"]), (&json!(true), &json!(1_800_000)));
    assert_eq!(ready(&host), 0, "ready would undo it");
}
