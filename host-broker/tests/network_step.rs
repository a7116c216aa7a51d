//! The shipped network step, called as the broker calls it, between two hosts that are network namespaces: does traffic
//! cross, and does nothing stay. Needs root, or user namespaces.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "helpers of tests")]

use coms_broker::io::step;
use coms_broker::network::{End, Interface, StepError, StepInput, Verb};
use coms_protocol::types::MigrationId;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use uuid::Uuid;

const VM: Uuid = Uuid::from_u128(0xa);
const OTHER_VM: Uuid = Uuid::from_u128(0xb);
const LIMIT: Duration = Duration::from_secs(60);

/// Whether this is the network of the test's own: if not, the test is run again in one, and its result is this one's.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "COMS_TEST_IS_ALONE";
    if std::env::var_os(ALONE).is_some() {
        sh("mount -t tmpfs none /run");
        return true;
    }
    let mut again = Command::new("unshare");
    // Its namespaces go with it, however it ends.
    again.args(["--map-root-user", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    again.arg(std::env::current_exe().unwrap());
    let out = again.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    println!("{said}");
    assert!(out.status.success() && said.contains("1 passed"), "in a network of its own (unshare --net)");
    false
}

fn try_sh(script: &str) -> Result<String, String> {
    let out = Command::new("sh").args(["-euc", script]).output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if out.status.success() { Ok(said(&out.stdout)) } else { Err(said(&out.stderr)) }
}

fn sh(script: &str) -> String {
    try_sh(script).unwrap_or_else(|e| panic!("{script}: {e}"))
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging/network/stretch-vxlan")
        .canonicalize()
        .unwrap()
}

/// Hosts a and b, a routed way between them, and behind each one's bridge somebody (va, vb) of one network.
fn two_sites() {
    sh("for n in a b va vb; do ip netns add $n; ip -n $n link set lo up; done
        ip -n a link add eth0 type veth peer name eth0 netns b
        ip -n a addr add 10.0.0.1/24 dev eth0
        ip -n b addr add 10.0.0.2/24 dev eth0
        for n in a b; do
          ip -n $n link set eth0 up
          ip -n $n link add br0 type bridge mcast_snooping 0
          ip -n $n link set br0 up
          ip -n $n link add tap0 type veth peer name eth0 netns v$n
          ip -n $n link set tap0 master br0 up
          ip -n v$n link set eth0 up
        done
        ip -n va addr add 192.168.7.1/24 dev eth0
        ip -n vb addr add 192.168.7.2/24 dev eth0");
}

/// Calls the step on a host, for a VM whose cards are on these bridges.
fn step_on(
    program: &str,
    host: &str,
    verb: Verb,
    vm: Uuid,
    bridges: &[&str],
    there: u8,
) -> Result<(), StepError> {
    let end = |name: &str, last: u8| End {
        name: name.into(),
        site: Some(format!("site-{name}")),
        address: [10, 0, 0, last].into(),
    };
    let here = end(host, if host == "a" { 1 } else { 2 });
    let card =
        |bridge: &&str| Interface::new("52:54:00:00:00:01", Some(*bridge).filter(|b| !b.is_empty())).unwrap();
    let interfaces = bridges.iter().map(card).collect();
    let input = StepInput { vm, migration: MigrationId(1), interfaces, here, there: end("there", there) };
    // Both hosts have one file system here.
    let state = format!("COMS_STRETCH_DIR=/run/stretch-{host}");
    let command = ["ip", "netns", "exec", host, "env", &state, program].map(str::to_owned);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(step::run(&command, verb, &input, LIMIT))
}

fn call_with(program: &str, host: &str, verb: Verb, vm: Uuid) -> Result<(), StepError> {
    step_on(program, host, verb, vm, &["br0"], if host == "a" { 2 } else { 1 })
}

fn call(host: &str, verb: Verb, vm: Uuid) -> Result<(), StepError> {
    call_with(script().to_str().unwrap(), host, verb, vm)
}

/// Whether one answer comes within so long; who was not there before is asked for again once a second.
fn crosses_within(seconds: u32) -> bool {
    try_sh(&format!("ip netns exec va ping -c 1 -w {seconds} -q 192.168.7.2")).is_ok()
}

fn crosses() -> bool {
    crosses_within(20)
}

fn is_cut_off() -> bool {
    !crosses_within(2)
}

/// VXLANs, and what is known of them.
fn left(host: &str) -> (usize, usize) {
    let devices = sh(&format!("ip -n {host} -oneline link show type vxlan")).lines().count();
    let known = try_sh(&format!("ls -d /run/stretch-{host}/*/")).unwrap_or_default().lines().count();
    (devices, known)
}

#[test]
fn traffic_crosses_while_a_vm_needs_it_and_nothing_stays() {
    if !is_alone("traffic_crosses_while_a_vm_needs_it_and_nothing_stays") {
        return;
    }
    two_sites();
    assert_eq!(call("a", Verb::Undo, VM), Ok(()), "what was never prepared");
    assert!(is_cut_off());
    assert_eq!(call("a", Verb::Prepare, VM), Ok(()));
    assert!(is_cut_off(), "one end is none");
    assert_eq!(call("b", Verb::Receive, VM), Ok(()));
    assert!(crosses());
    for vm in [VM, OTHER_VM] {
        assert_eq!((call("a", Verb::Prepare, vm), call("b", Verb::Receive, vm)), (Ok(()), Ok(())), "again");
    }
    assert_eq!((left("a"), left("b")), ((1, 1), (1, 1)));
    assert_eq!(
        sh("ip netns exec a cat /sys/class/net/br0/mtu").trim(),
        "1500",
        "the bridge is not made smaller by it"
    );
    for host in ["a", "b"] {
        assert_eq!((call(host, Verb::Undo, VM), call(host, Verb::Undo, VM)), (Ok(()), Ok(())), "twice");
    }
    assert!(crosses(), "the other VM needs it");

    // It fell off its bridge, or the host was rebooted: made again.
    for broken in [
        "ip -n a link set br0 down; ip -n a link del br0; ip -n a link add br0 type bridge mcast_snooping 0; \
                    ip -n a link set br0 up; ip -n a link set tap0 master br0",
        "ip -n b link del $(ip -n b -oneline link show type vxlan | cut -d: -f2); rm -rf /run/stretch-b",
    ] {
        sh(broken);
        assert!(is_cut_off(), "{broken}");
        assert_eq!(call("a", Verb::Prepare, OTHER_VM), Ok(()));
        assert_eq!(call("b", Verb::Receive, OTHER_VM), Ok(()));
        assert!(crosses(), "{broken}");
    }

    for host in ["a", "b", "a"] {
        assert_eq!(call(host, Verb::Release, OTHER_VM), Ok(()));
    }
    assert!(is_cut_off());
    assert_eq!((left("a"), left("b")), ((0, 0), (0, 0)));
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason_and_leaves_nothing() {
    if !is_alone("what_cannot_be_done_is_refused_with_the_reason_and_leaves_nothing") {
        return;
    }
    two_sites();
    let program = script();
    let prepare = |bridges: &[&str], there: u8| {
        step_on(program.to_str().unwrap(), "a", Verb::Prepare, VM, bridges, there)
    };
    for (bridges, why) in [
        (&[][..], "plugged into no bridge"),
        (&["br9"], "br9 is no bridge"),
        (&["eth0"], "eth0 is no bridge"),
        (&["br0", ""], "on no bridge"),
    ] {
        let e = prepare(bridges, 2).unwrap_err();
        assert!(!e.later && e.text.contains(why), "{bridges:?}: {e:?}");
        assert_eq!(left("a"), (0, 0), "{bridges:?}");
    }
    // The first bridge's end is made before the second one is looked at: that is what undo is for.
    assert!(prepare(&["br0", "br9"], 2).is_err());
    assert_eq!(left("a"), (1, 1));
    assert_eq!(call("a", Verb::Undo, VM), Ok(()));
    assert_eq!(left("a"), (0, 0));
    // To a third host the same bridge is not stretched: it could be a loop.
    assert_eq!(prepare(&["br0"], 2), Ok(()));
    let e = prepare(&["br0"], 3).unwrap_err();
    assert!(!e.later && e.text.contains("stretched to 10.0.0.2 already"), "{e:?}");
    let e = try_sh(&format!("{} prepare", program.display())).unwrap_err();
    assert!(e.contains("COMS_VM is not set"), "{e}");
}

/// Killed between any two lines of what makes and what takes down: whoever comes next finds its way.
#[test]
fn what_one_that_was_killed_left_is_taken_up() {
    if !is_alone("what_one_that_was_killed_left_is_taken_up") {
        return;
    }
    two_sites();
    let text = std::fs::read_to_string(script()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let goes_on = |line: &str| line.ends_with('\\') || line.ends_with("||") || line.ends_with('|');
    let mut killed = [0, 0];
    for (i, (function, first)) in [("up", Verb::Prepare), ("down", Verb::Undo)].into_iter().enumerate() {
        let begins = lines.iter().position(|l| l.starts_with(&format!("{function}() {{"))).unwrap();
        let ends = begins + lines[begins..].iter().position(|l| *l == "}").unwrap();
        for after in (begins..ends).filter(|n| !goes_on(lines[*n])) {
            let mut cut = lines.clone();
            cut.insert(after + 1, "kill -9 $$");
            std::fs::write("/run/cut", cut.join("\n")).unwrap();
            sh("chmod 755 /run/cut");
            if first == Verb::Undo {
                assert_eq!(call("a", Verb::Prepare, VM), Ok(()));
            }
            let cut_short = call_with("/run/cut", "a", first, VM);
            killed[i] += usize::from(cut_short.is_err());
            let line = lines[after];
            // It is no obstacle to a stretch for another VM, and none to itself ...
            assert_eq!(call("a", Verb::Prepare, OTHER_VM), Ok(()), "after {line}");
            assert_eq!(call("a", Verb::Release, OTHER_VM), Ok(()), "after {line}");
            assert_eq!(call("a", Verb::Undo, VM), Ok(()), "after {line}");
            // ... and nothing of it stays.
            assert_eq!(left("a"), (0, 0), "after {line}");
        }
    }
    assert!(killed[0] >= 10 && killed[1] >= 5, "{killed:?}");
}
