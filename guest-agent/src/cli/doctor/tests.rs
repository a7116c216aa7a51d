//! Each finding is provoked: on a made-up `/`, on made-up answers of the daemon, on real files.

use super::*;
use coms_agent::config::{Access, Port};
use coms_agent::event::Sample;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

/// A made-up `/`.
struct Root(tempfile::TempDir);

impl Root {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(path, text)| root.write(path, text));
        root
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, text: &str) {
        let file = under(self.path(), path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(under(self.path(), path), fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn config(text: &str) -> Config {
    Config::parse(text, Path::new("agent.toml")).unwrap()
}

/// The finding is of this kind, says this, and says what to do exactly when something is wrong.
fn is(finding: &Finding, status: Status, parts: &[&str]) {
    let whole = format!("{finding:?}");
    assert_eq!(finding.status, status, "{whole}");
    assert_eq!(finding.remedy.is_some(), status != Status::Ok, "{whole}");
    for part in parts {
        assert!(whole.contains(part), "{whole} lacks {part}");
    }
}

/// The files there are, and what is found.
type Case = (&'static [(&'static str, &'static str)], Status, &'static [&'static str]);

fn the_port(root: &Root, port: &Port, status: Option<&Value>) -> Vec<Finding> {
    port::check(root.path(), port, Some(77), status)
}

const VIRTIO: Port = Port::Virtio { path: None };
const DEVICE: (&str, &str) = ("/sys/bus/virtio/devices/virtio1/device", "0x0003\n");
const DRIVER: (&str, &str) = ("/sys/bus/virtio/drivers/virtio_console/bind", "");
const OTHER: (&str, &str) = ("/sys/class/virtio-ports/vport1p1/name", "org.qemu.guest_agent.0\n");
const OURS: (&str, &str) = ("/sys/class/virtio-ports/vport1p2/name", "org.coms.agent.0\n");
const NODE: (&str, &str) = ("/dev/vport1p2", "");

#[test]
fn what_is_wrong_with_a_virtio_port() {
    let cases: &[Case] = &[
        (&[], Status::Fail, &["no virtio-serial device at all", "<channel type='unix'>"]),
        (
            &[("/sys/bus/virtio/devices/virtio0/device", "0x0001\n")],
            Status::Fail,
            &["no virtio-serial device"],
        ),
        (&[DEVICE], Status::Fail, &["no driver", "modprobe virtio_console"]),
        (&[DEVICE, DRIVER], Status::Fail, &["no port named org.coms.agent.0"]),
        (
            &[DEVICE, DRIVER, OTHER],
            Status::Fail,
            &["ports are org.qemu.guest_agent.0, none is org.coms.agent.0"],
        ),
        (&[DEVICE, DRIVER, OTHER, OURS], Status::Fail, &["/dev/vport1p2 is missing"]),
        (&[DEVICE, DRIVER, OTHER, OURS, NODE], Status::Ok, &["/dev/vport1p2"]),
    ];
    for (files, status, parts) in cases {
        is(&the_port(&Root::new(files), &VIRTIO, None)[0], *status, parts);
    }
    let named = Port::Virtio { path: Some("/dev/other".into()) };
    is(&the_port(&Root::new(&[]), &named, None)[0], Status::Fail, &["/dev/other", "leave port.path out"]);
}

#[test]
fn a_port_that_is_held_or_forbidden() {
    let root = Root::new(&[OURS, NODE, ("/proc/88/comm", "socat\n"), ("/proc/77/comm", "coms-agent\n")]);
    for pid in ["77", "88"] {
        fs::create_dir_all(under(root.path(), format!("/proc/{pid}/fd"))).unwrap();
    }
    let device = fs::canonicalize(under(root.path(), NODE.0)).unwrap();
    symlink(&device, under(root.path(), "/proc/77/fd/5")).unwrap();
    assert_eq!(the_port(&root, &VIRTIO, None).len(), 1, "the daemon itself may hold it");
    symlink(&device, under(root.path(), "/proc/88/fd/3")).unwrap();
    let found = the_port(&root, &VIRTIO, None);
    is(&found[1], Status::Fail, &["held by socat (process 88)", "end socat"]);
    let status =
        json!({ "port_error": "/dev/vport1p2: cannot be opened: Operation not permitted (os error 1)" });
    is(
        &the_port(&root, &VIRTIO, Some(&status))[2],
        Status::Fail,
        &["may not open", "DeviceAllow=/dev/vport1p2 rw"],
    );
}

#[test]
fn what_is_wrong_with_a_line_or_a_socket() {
    let line = Port::Serial { path: "/dev/ttyS1".into() };
    let cases: &[Case] = &[
        (&[], Status::Fail, &["/dev/ttyS1", "ua-org-coms-agent-0"]),
        (
            &[("/dev/ttyS1", ""), ("/sys/class/tty/console/active", "tty0 ttyS1\n")],
            Status::Fail,
            &["kernel's console"],
        ),
        (&[("/dev/ttyS1", ""), ("/sys/class/tty/ttyS1/type", "0\n")], Status::Fail, &["no UART"]),
        (
            &[
                ("/dev/ttyS1", ""),
                ("/sys/class/tty/console/active", "ttyS10\n"),
                ("/sys/class/tty/ttyS1/type", "4\n"),
            ],
            Status::Ok,
            &[],
        ),
    ];
    for (files, status, parts) in cases {
        is(&the_port(&Root::new(files), &line, None)[0], *status, parts);
    }
    let unix = Port::Unix { path: "/run/port".into() };
    is(&the_port(&Root::new(&[]), &unix, None)[0], Status::Fail, &["No such file"]);
    let root = Root::new(&[("/run/port", "")]);
    is(&the_port(&root, &unix, None)[0], Status::Fail, &["is no socket"]);
    fs::remove_file(root.path().join("run/port")).unwrap();
    let _listening = std::os::unix::net::UnixListener::bind(root.path().join("run/port")).unwrap();
    is(&the_port(&root, &unix, None)[0], Status::Ok, &[]);
}

#[test]
fn what_is_wrong_with_the_host() {
    let up = json!({ "port": "up", "port_since_s": 40, "connected": false });
    let cases = [
        (json!({ "port": "missing", "port_error": "no port" }), Status::Fail, "no port"),
        (json!({ "port": "host-absent" }), Status::Fail, "coms-broker runs"),
        (up, Status::Fail, "did not say hello in 40 s"),
        (json!({ "port": "up", "port_since_s": 3 }), Status::Warn, "not connected yet"),
        (
            json!({ "connected": true, "place": { "alias": "lion", "region": "eu" } }),
            Status::Ok,
            "lion in eu",
        ),
    ];
    for (status, wanted, part) in cases {
        is(&host::check(Some(&status))[0], wanted, &[part]);
    }
    let version = coms_protocol::VERSION;
    let status = json!({ "connected": true, "enabled": false, "version": version - 1,
        "host_clock_ahead_ms": -4000.0, "host_clock_error_ms": 2.0 });
    let found = host::check(Some(&status));
    is(&found[1], Status::Warn, &["not enabled", "[guests] enabled"]);
    is(&found[2], Status::Warn, &["version", "upgrades coms-broker"]);
    is(&found[3], Status::Warn, &["-4000", "NTP"]);
    for (ahead, wanted) in [(900.0, Status::Ok), (-61_000.0, Status::Fail), (61_000.0, Status::Fail)] {
        let status = json!({ "connected": true, "version": version, "host_clock_ahead_ms": ahead, "host_clock_error_ms": 1 });
        is(&host::check(Some(&status))[1], wanted, &["host's clock"]);
    }
    // A comparison that may be as wrong as it is large says nothing.
    let unsure = json!({ "connected": true, "version": version, "host_clock_ahead_ms": 5000, "host_clock_error_ms": 4500 });
    is(&host::check(Some(&unsure))[1], Status::Ok, &[]);
}

#[test]
fn what_is_wrong_with_this_clock() {
    is(&clock::check(Some(true)), Status::Ok, &[]);
    is(&clock::check(Some(false)), Status::Warn, &["unsynchronised", "set-ntp"]);
    is(&clock::check(None), Status::Warn, &["does not say"]);
}

#[test]
fn what_is_wrong_with_the_configuration() {
    let root = Root::new(&[("/etc/coms/agent.toml", "[asking]\ncooldown = 3\n")]);
    let file = under(root.path(), "/etc/coms/agent.toml");
    is(&rules::file(&file, &Config::load(&file)), Status::Fail, &["cooldown", "coms-agent --check"]);
    root.write("/etc/coms/agent.toml", "");
    root.mode("/etc/coms/agent.toml", 0o664);
    is(&rules::file(&file, &Config::load(&file)), Status::Warn, &["others than its owner", "chmod go-w"]);
    root.mode("/etc/coms/agent.toml", 0o644);
    is(&rules::file(&file, &Config::load(&file)), Status::Ok, &["0 workloads"]);
    let none = under(root.path(), "/etc/none");
    is(&rules::file(&none, &Config::defaults()), Status::Ok, &["defaults"]);

    let old = json!({ "config_loaded_unix_ms": 1000 });
    is(&rules::changed(&file, Some(&old)).unwrap(), Status::Warn, &["changed after", "reload"]);
    let new = json!({ "config_loaded_unix_ms": 9_000_000_000_000u64 });
    assert_eq!((rules::changed(&file, Some(&new)), rules::changed(&file, None)), (None, None));
}

#[test]
fn rules_that_can_never_fire() {
    let rule = |keys: &str, status: Option<&Value>| {
        let probe = if keys.contains("probe") { "" } else { "probe = { tcp = \"127.0.0.1:1\" }\n" };
        let text = format!("[[workload]]\nname = \"w\"\n{probe}{keys}\n");
        rules::check(&config(&text), status)
    };
    is(&rule("", None)[0], Status::Warn, &["no limit", "on_failure"]);
    assert_eq!(rule("on_failure = \"ask\"", None), []);
    is(&rule("slower_than_ms = 6000", None)[0], Status::Fail, &["never be slow", "timeout_ms"]);
    assert_eq!(rule("slower_than_ms = 100", None), []);
    // 2 s each: 15 fit into 30 s, 16 are wanted.
    is(
        &rule("slower_than_ms = 1500\nmin_samples = 16", None)[0],
        Status::Fail,
        &["fit 15 times", "min_samples"],
    );
    assert_eq!(rule("slower_than_ms = 1500\nmin_samples = 15", None), []);
    assert_eq!(rule("slower_than_factor = 3", None), [], "not learned yet");
    let learned = json!({ "workloads": [{ "workload": "w", "threshold_ms": 7500.0 }] });
    is(&rule("slower_than_factor = 3", Some(&learned))[0], Status::Fail, &["7500", "timeout_ms"]);
    let command = "probe = { command = [\"/bin/true\"] }\nslower_than_ms = 0.5";
    is(&rule(command, None)[0], Status::Warn, &["start a program"]);
}

#[test]
fn what_is_wrong_with_the_daemon_and_its_socket() {
    use crate::client::Trouble;
    let root = Root::new(&[("/run/coms/agent.sock", ""), ("/etc/group", "coms:x:5:\ncoms-admin:x:6:\n")]);
    root.mode("/run/coms/agent.sock", 0o666);
    let access = Access {
        status_group: "coms".into(),
        change_group: "coms-admin".into(),
        plugins_group: "coms-plugins".into(),
    };
    let check = |status: Result<Value, Trouble>| {
        let daemon = daemon::Daemon { status, pid: None, uid: None };
        let me = daemon::Me { uid: 0, groups: vec![0] };
        daemon::check(root.path(), Path::new("/run/coms/agent.sock"), &access, &daemon, &me)
    };
    let runs = || Ok(json!({ "agent": coms_agent::AGENT }));
    let found = check(runs());
    assert!(found.len() == 2 && found.iter().all(|f| f.status == Status::Ok), "{found:?}");
    is(&check(Ok(json!({ "agent": "coms-agent 0.0.1" })))[0], Status::Warn, &["0.0.1 runs", "restart"]);
    is(
        &check(Err(Trouble::Unreachable("gone".into())))[0],
        Status::Fail,
        &["gone", "systemctl enable --now"],
    );
    is(
        &check(Err(Trouble::Refused("usermod -aG coms".into())))[0],
        Status::Fail,
        &["refuses", "usermod -aG coms"],
    );

    for pid in ["7", "8", "self"] {
        root.write(&format!("/proc/{pid}/comm"), "coms-agent\n");
    }
    is(&check(runs())[1], Status::Warn, &["2 agents run"]);
    fs::remove_dir_all(root.path().join("proc/8")).unwrap();
    root.mode("/run/coms/agent.sock", 0o660);
    is(&check(runs())[1], Status::Fail, &["mode 660 instead of 666"]);
    root.mode("/run/coms/agent.sock", 0o666);
    root.mode("/run/coms", 0o750);
    is(&check(runs())[1], Status::Fail, &["mode 750", "come through"]);
}

#[test]
fn what_is_wrong_with_groups() {
    let groups = |table: &str, uid: u32, mine: &[u32]| {
        let root = Root::new(&[("/etc/group", table), ("/etc/passwd", "ann:x:1000:1000::/:/bin/sh\n")]);
        let access = Access {
            status_group: "coms".into(),
            change_group: "coms-admin".into(),
            plugins_group: "coms-plugins".into(),
        };
        let daemon = daemon::Daemon { status: Ok(json!({})), pid: None, uid: None };
        let me = daemon::Me { uid, groups: mine.to_vec() };
        daemon::check(root.path(), Path::new("/none"), &access, &daemon, &me).pop().unwrap()
    };
    let both = "coms:x:5:\ncoms-admin:x:6:\n";
    is(
        &groups("", 0, &[0]),
        Status::Warn,
        &["no group coms, nor coms-admin", "groupadd --system coms-admin"],
    );
    is(&groups("coms:x:5:\n", 1000, &[5]), Status::Warn, &["no group coms-admin"]);
    is(&groups(both, 0, &[0]), Status::Ok, &["root"]);
    is(&groups(both, 1000, &[6]), Status::Ok, &["look and change"]);
    is(&groups(both, 1000, &[5]), Status::Ok, &["to change: sudo usermod -aG coms-admin"]);
    is(&groups(both, 1000, &[1000]), Status::Fail, &["neither", "usermod -aG coms-admin"]);
    is(&groups("coms:x:5:\ncoms-admin:x:6:bob,ann\n", 1000, &[5]), Status::Warn, &["log in again"]);
    is(&groups("coms:x:5:\ncoms-admin:x:6:annie\n", 1000, &[1]), Status::Fail, &["neither"]);
}

#[test]
fn what_is_wrong_with_files() {
    let root = Root::new(&[]);
    let both = |root: &Path| files::check(root, &config(""));
    let found = both(root.path());
    assert!(found.iter().all(|f| f.status != Status::Fail), "what is missing is made: {found:?}");
    fs::create_dir_all(root.path().join("var/log/coms/events.jsonl")).unwrap();
    is(&both(root.path())[1], Status::Fail, &["events.jsonl is no file"]);
    // Nobody, not even root, writes into /proc; nor below a file.
    is(
        &both(Path::new("/proc/self"))[0],
        Status::Fail,
        &["cannot be written", "ReadWritePaths=/var/lib/coms"],
    );
    root.write("/var/lib", "");
    is(&both(root.path())[0], Status::Fail, &["cannot be written"]);

    let room = |free, inodes| files::room("log", Path::new("/x"), free, inodes, 20 << 20);
    is(&room(100 << 10, 9), Status::Fail, &["disk is full, 100 KiB left"]);
    is(&room(1 << 40, 0), Status::Fail, &["no room for more files"]);
    is(&room(19 << 20, 9), Status::Warn, &["nearly full, 19 MiB"]);
    is(&room(21 << 20, 9), Status::Ok, &[]);
}

#[test]
fn what_is_wrong_with_hooks_and_command_probes() {
    let text = "[[hooks]]\nevent = \"*\"\ncommand = [\"/etc/coms/hooks/h\"]\n[[workload]]\nname = \"w\"\nprobe = { command = [\"/opt/p\"] }\n";
    let root = Root::new(&[("/bin/sh", "")]);
    let check = |eyes: &Path| programs::check(root.path(), eyes, &config(text));
    let found = check(root.path());
    is(&found[0], Status::Fail, &["hook", "/etc/coms/hooks/h does not exist"]);
    is(&found[1], Status::Fail, &["probe w", "/opt/p does not exist"]);
    let hook = |text: &str, mode: u32| {
        root.write("/etc/coms/hooks/h", text);
        root.mode("/etc/coms/hooks/h", mode);
        check(root.path()).remove(0)
    };
    is(&hook("#!/bin/sh\n", 0o644), Status::Fail, &["not executable", "chmod +x"]);
    is(&hook("echo hi\n", 0o755), Status::Fail, &["nor begins with #!"]);
    is(&hook("#!/usr/bin/fish -x\n", 0o755), Status::Fail, &["/usr/bin/fish", "does not exist"]);
    is(&hook("#!/bin/sh\n", 0o775), Status::Warn, &["others than its owner"]);
    is(&hook("\u{7f}ELF", 0o755), Status::Ok, &[]);
    is(&hook("#! /bin/sh -e\n", 0o755), Status::Ok, &["can run"]);
    let elsewhere = Root::new(&[]);
    is(&check(elsewhere.path())[0], Status::Fail, &["does not see it"]);
    fs::remove_file(root.path().join("etc/coms/hooks/h")).unwrap();
    fs::create_dir(root.path().join("etc/coms/hooks/h")).unwrap();
    is(&check(root.path())[0], Status::Fail, &["is no file"]);
}

#[test]
fn workloads_are_measured_now() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "[[workload]]\nname = \"up\"\nprobe = {{ command = [\"/bin/true\"] }}\n[[workload]]\nname = \"down\"\nprobe = {{ tcp = \"{closed}\" }}\n"
    );
    let found = workloads::check(&config(&text), None);
    is(&found[0], Status::Ok, &["workload up", "took"]);
    is(&found[1], Status::Fail, &["workload down", "refused", "does it run"]);
    let daemon = json!({ "workloads": [{ "workload": "up", "state": "failing" }] });
    let took = Sample::Took(Duration::from_millis(3));
    let judged = workloads::judge(&config(&text).workloads[0], &took, Some(&daemon));
    is(&judged, Status::Fail, &["works from here, but fails for the agent"]);
}

#[test]
fn people_get_one_line_for_each_finding() {
    let findings =
        [ok("a", "fine"), warn("b", "two\nlines\u{9}here", "do this"), fail("c", "bad", "do that")];
    assert_eq!(text(&findings), "ok    a: fine\nwarn  b: two lines here; do this\nFAIL  c: bad; do that");
    let json = serde_json::to_value(&findings).unwrap();
    assert_eq!(json[0], json!({ "check": "a", "status": "ok", "detail": "fine" }));
    assert_eq!((&json[2]["status"], &json[2]["remedy"]), (&json!("fail"), &json!("do that")));
}

#[test]
fn clients_that_cannot_be_counted_or_placed() {
    let text = "[clients]\ndatabase = \"/geo.mmdb\"\n";
    let root = Root::new(&[]);
    let found = clients::check(root.path(), &config(text), None);
    assert_eq!(found.len(), 1);
    is(&found[0], Status::Fail, &["clients-database", "/geo.mmdb", "No such file", "geolocation.md"]);
    root.write("/geo.mmdb", "not found");
    is(&clients::check(root.path(), &config(text), None)[0], Status::Fail, &["truncated, or no database"]);

    let none =
        json!({ "following": { "known_regions": 0, "trouble": "sock_diag cannot be read: EAFNOSUPPORT" } });
    let found = clients::check(root.path(), &config(text), Some(&none));
    is(&found[1], Status::Warn, &["clients-regions", "never asks"]);
    is(&found[2], Status::Fail, &["clients-seen", "AF_NETLINK"]);
    let own = format!("{text}regions = {{ a = [\"FR\"] }}\n");
    let some = json!({ "following": { "known_regions": 3 } });
    for (text, status) in [(own.as_str(), json!({ "following": { "known_regions": 1 } })), (text, some)] {
        assert_eq!(clients::check(root.path(), &config(text), Some(&status)).len(), 1, "{text}");
    }
    let slow = format!("{text}sample_s = 15\n");
    is(
        &clients::check(root.path(), &config(&slow), None)[1],
        Status::Warn,
        &["clients-effect", "check_s = 30"],
    );
    assert_eq!(clients::check(root.path(), &config(""), None), vec![], "nothing is to be counted");
}
