//! What a customer sets up around the agent: hooks, a changed configuration, a log that somebody else rotates.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Broker, Machine, Port, Shop, completed};
use coms_protocol::host_to_guest::Accepted;
use coms_protocol::types::MigrationId;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

const HERE: Duration = Duration::ZERO;

fn hook(events: &str, script: &str) -> String {
    format!("[[hooks]]\nevent = {events}\ncommand = [\"/bin/sh\", \"-c\", '{script}']\n")
}

fn reload(vm: &Machine) {
    let pid = rustix::process::Pid::from_raw(vm.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
}

/// Replaces everything after the paths.
fn rewrite(vm: &Machine, more: &str) {
    let text = fs::read_to_string(vm.path("agent.toml")).unwrap();
    let paths: Vec<_> = text.lines().take(9).collect();
    fs::write(vm.path("agent.toml"), format!("{}\n{more}", paths.join("\n"))).unwrap();
}

#[test]
fn a_hook_hears_the_outcome_and_a_slow_one_delays_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let hooks =
        hook("[\"completed\"]", &format!("cat > {}; exit 5", out.display())) + &hook("\"*\"", "sleep 60");
    let mut vm = Machine::new(&hooks);
    let port = Port::new(&vm);
    vm.start();
    let mut host = Broker::new(port.accept(), "lion", HERE);
    host.meet();
    let asked = vm.json(&["migrate"]);
    assert_eq!(asked["ok"], true, "{asked}");
    let request = host.request();
    host.tell(Accepted { request: request.id, migration: MigrationId(7) });
    host.tell(completed(7, Some(request.id), "crab"));
    host.for_a_while(Duration::from_millis(2500));
    vm.until("told how the hook went", |vm| !vm.events("hook").is_empty());
    let told = &vm.events("hook")[0];
    assert_eq!(
        (&told["for"], &told["exit_code"], &told["command"]),
        (&json!("completed"), &json!(5), &json!("/bin/sh"))
    );
    let heard: Value = serde_json::from_str(&fs::read_to_string(out).unwrap()).unwrap();
    assert_eq!(heard, vm.events("completed")[0], "the hook gets what the log has");
    // The other hook still sleeps through the first event, and everything above happened.
    assert_eq!(vm.events("hook").len(), 1);
    let (took, status) = vm.terminate();
    assert!(status.success() && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_reload_keeps_what_did_not_change_and_refuses_what_is_wrong() {
    let shop = Shop::open();
    let watched = shop.watched("cooldown_s = 900");
    let mut vm = Machine::new(&watched);
    vm.start();
    vm.until("measured", |vm| vm.json(&["status"])["workloads"][0]["samples"].as_u64() > Some(10));

    rewrite(&vm, "[[workload]]\nname = 3\n");
    reload(&vm);
    vm.until("refused", |vm| !vm.events("reload_refused").is_empty());
    let why = vm.events("reload_refused")[0]["error"].as_str().unwrap().to_owned();
    assert!(why.contains("agent.toml") && why.contains("name"), "{why}");
    assert_eq!(vm.json(&["status"])["workloads"][0]["workload"], "shop", "the old one stays");

    // Another workload in front: the old one moves to another place, and keeps its window.
    let first = "[[workload]]\nname = \"new\"\nprobe = { command = [\"/bin/true\"] }\n";
    let kept = watched.split_once("[[workload]]").unwrap();
    rewrite(&vm, &format!("{}{first}[[workload]]{}{}", kept.0, kept.1, hook("\"reloaded\"", "exit 4")));
    reload(&vm);
    vm.until("reloaded", |vm| !vm.events("reloaded").is_empty());
    let told = &vm.events("reloaded")[0];
    assert_eq!(
        (&told["workloads"], &told["kept"], &told["hooks"]),
        (&json!(2), &json!(1), &json!(1)),
        "{told}"
    );
    assert_eq!(told.get("needs_restart"), None);
    let status = vm.json(&["status"]);
    assert_eq!(
        (&status["workloads"][0]["workload"], &status["workloads"][1]["workload"]),
        (&json!("new"), &json!("shop"))
    );
    assert!(status["workloads"][1]["samples"].as_u64() > Some(10), "it keeps its window: {status}");
    vm.until("the new hook", |vm| vm.events("hook").iter().any(|h| h["exit_code"] == 4));
    vm.until("the new workload's results", |vm| {
        vm.json(&["status"])["workloads"][0]["samples"].as_u64() > Some(0)
    });

    // Paths need a restart, and are said again as long as they differ.
    let text = fs::read_to_string(vm.path("agent.toml")).unwrap();
    fs::write(vm.path("agent.toml"), text.replace("agent.json", "other.json")).unwrap();
    for n in 2..4 {
        reload(&vm);
        vm.until("reloaded again", |vm| vm.events("reloaded").len() == n);
        assert_eq!(vm.events("reloaded")[n - 1]["needs_restart"], json!(["state.path"]));
    }
}

#[test]
fn a_log_that_was_put_aside_is_begun_anew() {
    let mut vm = Machine::new("");
    vm.start();
    fs::create_dir_all(vm.path("log")).unwrap();
    fs::rename(vm.path("log/events.jsonl"), vm.path("log/events.jsonl-20260101")).unwrap();
    reload(&vm);
    vm.until("reloaded", |vm| vm.events("reloaded").len() == 1);
}

#[test]
fn the_doctor_looks_at_a_running_agent_and_does_without_one() {
    let mut vm = Machine::new("[[workload]]\nname = \"w\"\nprobe = { command = [\"/bin/false\"] }\n");
    let doctor = |vm: &Machine| {
        let file = vm.path("agent.toml").display().to_string();
        let out = vm.coms(&["doctor", "--config", &file, "--json"]);
        let findings: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
        (out.status.code(), findings)
    };
    let status = |findings: &[Value], check: &str| {
        findings
            .iter()
            .find(|f| f["check"] == check)
            .map(|f| f["status"].as_str().unwrap_or_default().to_owned())
    };
    let (code, without) = doctor(&vm);
    assert_eq!(code, Some(1));
    assert_eq!(status(&without, "daemon").as_deref(), Some("fail"));
    assert_eq!(status(&without, "config").as_deref(), Some("ok"));
    assert_eq!(status(&without, "workload w").as_deref(), Some("fail"), "{without:?}");

    let port = Port::new(&vm);
    vm.start();
    let mut host = Broker::new(port.accept(), "lion", HERE);
    host.meet();
    host.for_a_while(Duration::from_millis(500));
    rewrite(&vm, "");
    let (code, with) = doctor(&vm);
    assert_eq!(code, Some(0), "{with:?}");
    for check in ["daemon", "port", "host", "host-clock", "state", "log"] {
        assert_eq!(status(&with, check).as_deref(), Some("ok"), "{check}: {with:?}");
    }
    let text = String::from_utf8(vm.coms(&["doctor"]).stdout).unwrap();
    assert!(text.lines().all(|l| ["ok  ", "warn", "FAIL"].contains(&&l[..4])), "{text}");
}
