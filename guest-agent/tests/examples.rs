//! The example applications run, hold a move, let it go, and hear its end.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Machine, PATIENCE};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A process that ends with the test, with its children.
struct Example(Child);

impl Drop for Example {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

fn begin(vm: &Machine, command: &mut Command, app: &str) -> Example {
    use std::os::unix::process::CommandExt;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0);
    let example = Example(child.spawn().unwrap());
    vm.until("registered", |vm| vm.events("app_registered").iter().any(|e| e["app"] == app));
    example
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/examples")
}

/// Simulates a move to the end; what was said of it.
fn simulate(vm: &Machine, app: &str) {
    let out = vm.coms(&["simulate", "--wait"]);
    assert!(out.status.success(), "{out:?}");
    let ready = vm.events("app_ready");
    assert!(ready.iter().any(|e| e["app"] == app && e["simulated"] == true), "{ready:?}");
    assert!(vm.events("app_silent").is_empty());
}

#[test]
fn the_shell_example_holds_while_it_is_busy() {
    let mut vm = Machine::new("");
    vm.start();
    let busy = vm.path("busy");
    std::fs::write(&busy, "").unwrap();
    let tools = Path::new(env!("CARGO_BIN_EXE_coms")).parent().unwrap().display().to_string();
    let path = format!("{tools}:{}", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(examples().join("shop.sh"));
    let shop = begin(&vm, command.arg(&busy).arg(vm.path("agent.sock")).env("PATH", path), "shop");
    let simulation = vm.coms_command(&["simulate", "--wait"]).spawn().unwrap();
    vm.until("held", |vm| vm.events("app_holds").iter().any(|e| e["app"] == "shop"));
    assert!(vm.events("completed").is_empty());
    std::fs::remove_file(&busy).unwrap();
    assert!(simulation.wait_with_output().unwrap().status.success());
    assert!(vm.events("app_ready").iter().any(|e| e["app"] == "shop"));
    drop(shop);
    vm.until("gone", |vm| !vm.events("app_gone").is_empty());
}

#[test]
fn the_python_example_writes_its_cache_first() {
    let mut vm = Machine::new("");
    vm.start();
    let mut command = Command::new(examples().join("cache.py"));
    let file = vm.path("cache.json");
    let mut cache = begin(&vm, command.arg(vm.path("agent.sock")).arg(&file), "cache");
    simulate(&vm, "cache");
    assert!(std::fs::read_to_string(file).unwrap().contains("42"));
    let mut line = String::new();
    BufReader::new(cache.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("moved (simulated)"), "{line}");
}

#[test]
fn the_rust_example_stops_and_goes_on() {
    let mut vm = Machine::new("");
    vm.start();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--example", "counter"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let bin = Path::new(env!("CARGO_BIN_EXE_coms")).parent().unwrap();
    if bin.ends_with("release") {
        cargo.arg("--release");
    }
    // Whole runs of the tests build the examples anyway, a run of this test alone does not.
    assert!(cargo.status().unwrap().success());
    let program = bin.join("examples/counter");
    let mut counter = begin(&vm, Command::new(program).arg(vm.path("agent.sock")), "counter");
    simulate(&vm, "counter");
    let mut lines = BufReader::new(counter.0.stdout.take().unwrap()).lines();
    let begun = Instant::now();
    assert!(lines.next().unwrap().unwrap().starts_with("counter: stopped at "));
    assert_eq!(lines.next().unwrap().unwrap(), "counter: goes on");
    assert!(begun.elapsed() < PATIENCE);
}
