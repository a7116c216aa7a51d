//! Plugins from end to end, but for the hypervisor: a real program, the real coms-plugins, the real agent, and a tiny broker.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Broker, Machine, Port, completed};
use coms_protocol::GuestToHost;
use coms_protocol::host_to_guest::{Accepted, Notice, Terms};
use coms_protocol::types::{Initiator, Metric, MigrationId, NoticeReason, RequestReason, Technique};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// coms-plugins beside the agent. Whole runs of the tests build it anyway, a run of this test alone does not.
fn program() -> PathBuf {
    let bin = Path::new(env!("CARGO_BIN_EXE_coms")).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "-p", "coms-plugins"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if bin.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success());
    bin.join("coms-plugins")
}

struct Plugins(Child);

impl Plugins {
    /// Runs one plugin called db, which says whatever stands in the file `says`, five times a second.
    fn start(vm: &Machine, more: &str) -> Self {
        std::fs::set_permissions(vm.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let script = vm.path("db");
        let text = "#!/bin/sh\nwhile :; do cat $DIR/says; sleep 0.2; done &\nwhile read -r line; do echo \"$line\" >> $DIR/heard; done\n";
        std::fs::write(&script, text.replace("$DIR", &vm.dir.path().display().to_string())).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(vm.path("heard"), "").unwrap();
        std::fs::set_permissions(vm.path("heard"), std::fs::Permissions::from_mode(0o666)).unwrap();
        let root = rustix::process::geteuid().is_root();
        let user = if root { "nobody".to_owned() } else { rustix::process::geteuid().as_raw().to_string() };
        let config = format!(
            "[agent]\nsocket = \"{}\"\n[control]\nsocket = \"{}\"\n[run]\nuser = \"{user}\"\nstop_s = 1\n\
             [[plugin]]\nname = \"db\"\nkind = \"execd\"\ncommand = [\"{}\"]\n{more}",
            vm.path("agent.sock").display(),
            vm.path("plugins.sock").display(),
            script.display()
        );
        std::fs::write(vm.path("plugins.toml"), config).unwrap();
        let log = std::fs::File::create(vm.path("plugins.stderr")).unwrap();
        let mut command = Command::new(program());
        command.args(["run", "--config"]).arg(vm.path("plugins.toml")).stderr(log).stdin(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Plugins {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

fn says(vm: &Machine, line: &str) {
    // Whole lines only: the plugin may read it at any moment.
    std::fs::write(vm.path("says.new"), format!("{line}\n")).unwrap();
    std::fs::set_permissions(vm.path("says.new"), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::rename(vm.path("says.new"), vm.path("says")).unwrap();
}

const WATCHED: &str = "[asking]\nsettle_s = 0\ncheck_s = 1\n[[workload]]\nname = \"database\"\nprobe = { plugin = \"db\" }\n\
    interval_ms = 200\nmetric = \"p50\"\nwindow_s = 1\nslower_than_ms = 30\nfor_s = 0\nmin_samples = 3\n";

#[test]
fn a_slow_plugin_makes_the_agent_ask_and_its_move_is_measured() {
    let mut vm = Machine::new(&WATCHED.replacen("[asking]", "[asking]\nask_for_own_load = true", 1));
    says(&vm, r#"{"v":1,"latency_ms":5}"#);
    let port = Port::new(&vm);
    vm.start();
    let _plugins = Plugins::start(&vm, "");
    let mut host = Broker::new(port.accept(), "lion", Duration::ZERO);
    host.meet();
    host.until("measured", |_| vm.json(&["status"])["workloads"][0]["samples"].as_u64() > Some(3));
    assert_eq!(vm.json(&["status"])["workloads"][0]["state"], "healthy");

    says(&vm, r#"{"v":1,"latency_ms":80}"#);
    let asked = host.request();
    assert_eq!(asked.reason, RequestReason::WorkloadSlow);
    let evidence = &asked.evidence.as_slice()[0];
    assert_eq!((evidence.workload.as_str(), evidence.metric), ("database", Metric::LatencyP50Us));
    assert!(evidence.now > 30_000 && evidence.now < 90_000, "{evidence:?}");
    host.tell(Accepted { request: asked.id, migration: MigrationId(7) });
    says(&vm, r#"{"v":1,"latency_ms":4}"#);
    host.tell(completed(7, Some(asked.id), "crab"));
    host.until("judged", |_| !vm.events("effect").is_empty());
    assert_eq!(vm.events("effect")[0]["verdict"], "helped", "{:?}", vm.events("effect"));

    // `coms plugin` is coms-plugins.
    let config = vm.path("plugins.toml").display().to_string();
    let list = vm.json(&["plugin", "list", "--config", &config]);
    assert_eq!(
        (&list["plugins"][0]["plugin"], &list["agent"]),
        (&json!("db"), &json!("connected")),
        "{list}"
    );
    assert!(list["plugins"][0]["samples"].as_u64() > Some(5));
    let help = vm.coms(&["plugin", "--help"]);
    assert!(String::from_utf8(help.stdout).unwrap().contains("coms plugin new --lang python"));
}

#[test]
fn failures_are_failing_and_clients_are_counted() {
    let mut vm = Machine::new(&format!("{WATCHED}on_failure = \"ask\"\n"));
    says(
        &vm,
        r#"{"v":1,"failed":"no connection","clients":[{"address":"203.0.113.7"},{"address":"2001:db8::1"}]}"#,
    );
    let port = Port::new(&vm);
    vm.start();
    let _plugins = Plugins::start(&vm, "");
    let mut host = Broker::new(port.accept(), "lion", Duration::ZERO);
    host.meet();
    let asked = host.request();
    assert_eq!(asked.reason, RequestReason::WorkloadFailing);
    assert_eq!(vm.events("workload_failing")[0]["error"], "no connection");
    assert_eq!(vm.json(&["status"])["clients"], json!({ "db": 2 }));
}

#[test]
fn a_wish_becomes_a_request_where_it_may_and_once() {
    let mut vm = Machine::new(WATCHED);
    says(&vm, r#"{"v":1,"latency_ms":5,"wish":{"why":"the disk is slow","evidence":{"await_ms":220}}}"#);
    let port = Port::new(&vm);
    vm.start();
    let _plugins = Plugins::start(&vm, "may_wish = true\n");
    let mut host = Broker::new(port.accept(), "lion", Duration::ZERO);
    host.meet();
    let asked = host.request();
    assert_eq!(asked.reason, RequestReason::Plugin);
    let told = &vm.events("plugin_wish")[0];
    assert_eq!((&told["plugin"], &told["why"]), (&json!("db"), &json!("the disk is slow (await_ms 220)")));
    assert_eq!(vm.events("asked")[0]["reason"], "plugin");
    host.tell(Accepted { request: asked.id, migration: MigrationId(7) });
    host.tell(completed(7, Some(asked.id), "crab"));
    host.for_a_while(Duration::from_secs(3));
    assert_eq!(host.requests().len(), 1, "the cooldown holds for wishes, too");
}

#[test]
fn a_bad_moment_holds_a_move_also_without_notices() {
    let mut vm = Machine::new("");
    says(&vm, r#"{"v":1,"bad_moment":"backup"}"#);
    vm.start();
    let _plugins = Plugins::start(&vm, "hold_s = 2\n");
    let config = vm.path("plugins.toml").display().to_string();
    vm.until("bad", |vm| {
        vm.json(&["status"])["apps"][0]["app"] == "plugin db"
            && vm.json(&["plugin", "list", "--config", &config])["plugins"][0]["moment"] == "bad: backup"
    });
    let played = vm.coms(&["simulate", "--wait"]);
    let text = String::from_utf8_lossy(&played.stdout).into_owned();
    let at = |event: &str| text.find(event).unwrap_or(usize::MAX);
    assert!(at("app_holds") < at("app_overdue"), "{text}");
    assert!(at("app_overdue") < at("preparing") && text.contains("preparing"), "it was waited for: {text}");
    assert!(!text.contains("app_silent"), "{text}");
}

#[test]
fn a_bad_moment_holds_a_move_and_the_plugin_hears_how_it_went() {
    let mut vm = Machine::new("");
    says(&vm, r#"{"v":1,"bad_moment":"backup"}"#);
    let port = Port::new(&vm);
    vm.start();
    let _plugins = Plugins::start(&vm, "notices = true\nnotice_s = 5\nhold_s = 60\n");
    let mut host = Broker::new(port.accept(), "lion", Duration::ZERO);
    host.meet();
    host.until("registered", |_| vm.json(&["status"])["apps"][0]["app"] == "plugin db");
    let config = vm.path("plugins.toml").display().to_string();
    host.until("bad", |_| {
        vm.json(&["plugin", "list", "--config", &config])["plugins"][0]["moment"] == "bad: backup"
    });
    let migration = MigrationId(9);
    host.tell(Terms {
        migration,
        reason: NoticeReason::Maintenance,
        hold_up_to_ms: 60_000,
        postpone_up_to_s: 0,
        may_veto: false,
        expedited: false,
    });
    host.tell(Notice {
        migration,
        request: None,
        initiator: Initiator::Operator,
        technique: Technique::PreCopy,
        starts_in_ms: 5_000,
        predicted_downtime_ms: None,
        predicted_total_ms: None,
    });
    let is_hold = |m: &GuestToHost| matches!(m, GuestToHost::Hold(h) if h.migration == migration);
    let is_ready = |m: &GuestToHost| matches!(m, GuestToHost::Ready(r) if r.migration == migration);
    host.until("held", |b| b.heard.iter().any(is_hold));
    host.for_a_while(Duration::from_secs(1));
    assert!(!host.heard.iter().any(is_ready), "it is still a bad moment");
    says(&vm, r#"{"v":1,"bad_moment":false}"#);
    host.until("ready", |b| b.heard.iter().any(is_ready));
    host.tell(completed(9, None, "crab"));
    let heard = || std::fs::read_to_string(vm.path("heard")).unwrap();
    host.until("the plugin heard", |_| heard().contains("\"completed\""));
    let lines: Vec<Value> = heard().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(
        lines.iter().any(|l| l["event"] == "notice" && l["v"] == 1 && l["migration"].is_string()),
        "{lines:?}"
    );
}
