//! The real daemon with real processes: each kind, and what happens to a process that ends, hangs or is replaced.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Place, processes};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

fn nagios(name: &str, argv: &[&str]) -> String {
    format!("[[plugin]]\nname = \"{name}\"\nkind = \"nagios\"\ncommand = {argv:?}\ninterval_ms = 300\n")
}

#[test]
fn a_check_is_run_as_somebody_else_with_little_around_it() {
    let mut place = Place::new("");
    let check = place.script(
        "check",
        "#!/bin/sh\nid -u > $DIR/id; id -G >> $DIR/id; env | sort > $DIR/env; pwd >> $DIR/env; ulimit -n >> $DIR/env\n\
         grep CapEff /proc/self/status > $DIR/caps; ls -l /proc/self/fd > $DIR/fds\necho 'OK - fine|time=12ms'\n",
    );
    place.configure(&(nagios("c", &[check.to_str().unwrap()]) + "env = { GREETING = \"good day\" }\n"));
    place.agent();
    place.start();
    place.until("reported", |p| p.reports("c").len() > 1);
    assert_eq!(place.reports("c")[0]["took_us"], 12_000);
    place.until("taken", |p| p.plugin("c")["agent"] == "taken");
    let read = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    assert_ne!(read("id").lines().next(), Some("0"), "never root");
    assert_eq!(read("caps").split_whitespace().nth(1), Some("0000000000000000"));
    let env = read("env");
    for line in ["COMS_PLUGIN=c", "GREETING=good day", "HOME=/", "LANG=C.UTF-8"] {
        assert!(env.lines().any(|l| l == line), "{line}: {env}");
    }
    assert!(!env.contains("CARGO"), "nothing of the daemon's: {env}");
    assert!(!read("fds").contains("socket:"), "nothing of the daemon's: {}", read("fds"));
}

#[test]
fn a_check_that_hangs_is_killed_with_all_that_it_started() {
    let mut place = Place::new("");
    let hang = place.script("hang", "#!/bin/sh\n(setsid sleep 4712 &)\nsleep 4711 &\nsleep 4711\n");
    let leaves = place.script("leaves", "#!/bin/sh\nsleep 4713 &\necho 'OK|time=1ms'\n");
    let (hang, leaves) = (hang.to_str().unwrap(), leaves.to_str().unwrap());
    place.configure(&(nagios("hang", &[hang]) + "timeout_ms = 500\n" + &nagios("leaves", &[leaves])));
    place.agent();
    place.start();
    place.until("timed out", |p| p.reports("hang").iter().any(|r| r["failed"] == "no answer within 500 ms"));
    place.until("measured though a child holds its output", |p| {
        p.reports("leaves").iter().any(|r| r["took_us"] == 1000)
    });
    place.end();
    for sleep in ["sleep\u{0}4711", "sleep\u{0}4712", "sleep\u{0}4713"] {
        assert_eq!(processes(std::path::Path::new(sleep)), Vec::<i32>::new(), "{sleep:?}");
    }
}

#[test]
fn a_program_that_cannot_run_is_told_with_what_would_help() {
    let mut place = Place::new("");
    let broken = place.script("broken", "#!/bin/sh\necho 'cannot read /etc/pgpass' >&2\nexit 3\n");
    let nobody = nagios("nobody", &["/bin/true"]) + "user = \"no-such-user\"\n";
    place.configure(
        &(nagios("missing", &["/no/such/check"]) + &nobody + &nagios("broken", &[broken.to_str().unwrap()])),
    );
    place.agent();
    place.start();
    for (name, words) in
        [("missing", "exit code 127"), ("nobody", "no user no-such-user"), ("broken", "UNKNOWN")]
    {
        place
            .until("told", |p| p.reports(name).iter().any(|r| r["failed"].as_str().unwrap().contains(words)));
    }
    let out = place.run(&["test", "broken", "--count", "1"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot read /etc/pgpass") && text.contains("mend:"), "{text}");
}

#[test]
fn a_long_running_plugin_is_started_again_later_each_time() {
    let mut place = Place::new("");
    let dies =
        place.script("dies", "#!/bin/sh\necho '{\"v\":1,\"latency_ms\":7}'\necho 'oh no' >&2\nexit 3\n");
    let asks = place.script(
        "asks",
        "#!/bin/sh\nwhile read -r _; do echo '{\"v\":1,\"latency_ms\":3}'; done\necho end > $DIR/ended\n",
    );
    place.configure(&format!(
        "[[plugin]]\nname = \"dies\"\nkind = \"execd\"\ncommand = [\"{}\"]\n\
         [[plugin]]\nname = \"asks\"\nkind = \"execd\"\nsignal = \"stdin\"\ninterval_ms = 200\ncommand = [\"{}\"]\n",
        dies.display(),
        asks.display()
    ));
    place.agent();
    place.start();
    place.until("started a third time", |p| p.plugin("dies")["starts"] == 3);
    let reports = place.reports("dies");
    assert_eq!(
        (&reports[0]["took_us"], reports[1]["failed"].as_str()),
        (&json!(7000), Some("the plugin ended: exit status: 3"))
    );
    assert!(place.stderr().contains("plugin dies: oh no"), "{}", place.stderr());
    // 1 s and 2 s: at 200 ms the other was asked 15 times meanwhile.
    let asked = place.reports("asks").len();
    assert!(asked >= 10, "{asked}");
    place.end();
    assert!(place.path("ended").exists(), "its standard input ended first");
}

#[test]
fn killed_with_nine_the_daemon_takes_its_plugins_along() {
    let mut place = Place::new("");
    let stays = place.script("stays", "#!/bin/sh\nwhile :; do sleep 1; done\n");
    place.configure(&format!(
        "[[plugin]]\nname = \"s\"\nkind = \"execd\"\ncommand = [\"{}\"]\n",
        stays.display()
    ));
    place.start();
    place.until("running", |p| p.plugin("s")["runs"] == true && !processes(&stays).is_empty());
    place.kill();
    place.until("gone", |_| processes(&stays).is_empty());
}

#[test]
fn a_reload_takes_up_a_right_file_and_refuses_a_wrong_one() {
    let mut place = Place::new("");
    let check = place.script("check", "#!/bin/sh\necho 'OK|time=12ms'\n");
    let check = check.to_str().unwrap();
    place.configure(&nagios("old", &[check]));
    place.agent();
    place.start();
    place.until("reported", |p| !p.reports("old").is_empty());
    place.configure(&nagios("", &[check]));
    place.signal(Signal::HUP);
    place.until("refused", |p| p.stderr().contains("plugin.name: must be"));
    let before = place.reports("old").len();
    place.until("still measured", |p| p.reports("old").len() > before + 1);
    place.configure(&nagios("new", &[check]));
    place.signal(Signal::HUP);
    place.until("reported", |p| !p.reports("new").is_empty());
    assert_eq!(place.list()["plugins"].as_array().unwrap().len(), 1);
}

/// An exporter whose counters the test turns, and which restarts and breaks as it is told.
#[test]
fn metrics_are_scraped_with_resets_and_errors() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let slow = Arc::new(AtomicU64::new(0));
    let broken = Arc::new(Mutex::new(None::<String>));
    let (counts, how) = (Arc::clone(&slow), Arc::clone(&broken));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0u8; 1024]);
            // Each scrape: ten requests, all in the bucket that is told.
            let n = counts.fetch_add(10, Ordering::Relaxed) + 10;
            let body = format!(
                "# TYPE q_seconds histogram\nq_seconds_bucket{{le=\"0.1\"}} 0\nq_seconds_bucket{{le=\"0.2\"}} {n}\nq_seconds_bucket{{le=\"+Inf\"}} {n}\n"
            );
            let answer = how
                .lock()
                .unwrap()
                .clone()
                .unwrap_or_else(|| format!("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{body}"));
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let mut place = Place::new(&format!(
        "[[plugin]]\nname = \"m\"\nkind = \"openmetrics\"\nurl = \"http://{address}/metrics\"\nlatency = \"q_seconds\"\nquantile = 0.5\ninterval_ms = 200\n"
    ));
    place.agent();
    place.start();
    place.until("measured", |p| p.reports("m").len() >= 3);
    assert!(place.reports("m").iter().all(|r| r["took_us"] == 150_000), "{:?}", place.reports("m"));
    slow.store(0, Ordering::Relaxed);
    let before = place.reports("m").len();
    place.until("measured after the reset", |p| p.reports("m").len() > before + 2);
    assert!(place.reports("m").iter().all(|r| r["took_us"] == 150_000), "{:?}", place.reports("m"));
    *broken.lock().unwrap() = Some("HTTP/1.1 503 Busy\r\n\r\n".to_owned());
    place.until("told", |p| {
        p.reports("m").iter().any(|r| r["failed"].as_str().is_some_and(|f| f.contains("503 Busy")))
    });
}

#[test]
fn timers_come_over_udp_and_a_unix_socket() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut place = Place::new("");
    let unix = place.path("statsd.sock");
    place.configure(&format!(
        "[[plugin]]\nname = \"u\"\nkind = \"statsd\"\nlisten = \"127.0.0.1:{port}\"\nlatency = \"shop.query\"\ninterval_ms = 300\n\
         [[plugin]]\nname = \"x\"\nkind = \"statsd\"\nlisten = \"unix:{}\"\nlatency = \"shop.query\"\ninterval_ms = 300\n",
        unix.display()
    ));
    place.agent();
    place.start();
    let (udp, dgram) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UnixDatagram::unbound().unwrap());
    place.until("both measured", |p| {
        let _ = udp.send_to(b"shop.query:25|ms\nother:3|c", ("127.0.0.1", port));
        let _ = dgram.send_to(b"shop.query:40|ms", &unix);
        !p.reports("u").is_empty() && !p.reports("x").is_empty()
    });
    let near = |name: &str, us: f64| {
        let took = place.reports(name)[0]["took_us"].as_f64().unwrap();
        assert!((took / us - 1.0).abs() < 0.02, "{name}: {took}");
    };
    near("u", 25_000.0);
    near("x", 40_000.0);
    place.end();
    assert!(!unix.exists());
}

#[test]
fn without_an_agent_nothing_is_lost_but_old_measurements() {
    let mut place = Place::new("");
    let check = place.script("check", "#!/bin/sh\necho 'OK|time=12ms'\n");
    place.configure(&nagios("c", &[check.to_str().unwrap()]));
    place.start();
    place.until("measured", |p| p.plugin("c")["samples"].as_u64() > Some(2));
    assert!(place.list()["agent"].as_str().unwrap().contains("cannot be reached"));
    place.agent();
    place.until("reported", |p| !p.reports("c").is_empty());
    place.until("told so", |p| p.list()["agent"] == "connected");
}

#[test]
fn exit_codes_and_complaints_are_those_of_every_command() {
    let place = Place::new("");
    let code = |args: &[&str]| place.run(args).status.code();
    assert_eq!(code(&["list"]), Some(3));
    assert_eq!(code(&["test", "nothing"]), Some(1));
    assert_eq!(code(&["check"]), Some(0));
    assert_eq!(code(&["nonsense"]), Some(2));
    std::fs::write(place.path("plugins.toml"), "[[plugin]]\nname = 3\n").unwrap();
    let out = place.run(&["check", "--json"]);
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((out.status.code(), told["ok"].as_bool()), (Some(2), Some(false)));
    assert!(told["error"].as_str().unwrap().contains("plugins.toml"), "{told}");
}

/// As the unit runs it: a user who may become others and end their processes, and nothing else. Needs root to begin with.
#[test]
fn with_three_capabilities_it_does_what_it_does_as_root() {
    if !common::is_root() {
        // Only root can make such a user; `make test` runs as root.
        return;
    }
    let mut place = Place::new("");
    let check = place.script(
        "check",
        "#!/bin/sh\n{ id -u; id -G; grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status | cut -f2; } > $DIR/who.new; mv $DIR/who.new $DIR/who\n\
         trap '' TERM\necho 'OK|time=12ms'\n",
    );
    let hang = place.script("hang", "#!/bin/sh\nexec sleep 4714\n");
    let (check, hang) = (check.to_str().unwrap(), hang.to_str().unwrap());
    place.configure(&(nagios("c", &[check]) + &nagios("hang", &[hang]) + "timeout_ms = 400\n"));
    place.agent();
    let mut daemon = std::process::Command::new("setpriv");
    daemon.args(["--reuid", "games", "--regid", "games", "--clear-groups"]);
    daemon.args([
        "--inh-caps",
        "-all,+setuid,+setgid,+kill",
        "--ambient-caps",
        "+setuid,+setgid,+kill",
        "--",
    ]);
    daemon.arg(common::PROGRAM);
    place.start_with(daemon);
    place.until("measured", |p| p.reports("c").iter().any(|r| r["took_us"] == 12_000));
    let who = std::fs::read_to_string(place.path("who")).unwrap();
    let lines: Vec<&str> = who.lines().collect();
    assert_eq!(lines[..2], ["65534", "65534"], "{who}");
    assert_eq!(lines[2..], ["0000000000000000"; 4], "nothing of the daemon's is handed down: {who}");
    place.until("ended at its limit", |p| {
        p.reports("hang").iter().any(|r| r["failed"] == "no answer within 400 ms")
    });
    place.end();
    let left = processes(std::path::Path::new("sleep\u{0}4714"));
    assert_eq!(left, Vec::<i32>::new(), "somebody else's process was ended");
}
