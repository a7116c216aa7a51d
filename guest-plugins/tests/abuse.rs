//! Strangers: what each does to itself, and that a good plugin beside it is measured as often as ever.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, processes};
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const GOOD: &str = "#!/bin/sh\ncut -d' ' -f1 /proc/uptime >> $DIR/times\necho 'OK|time=0.005s'\n";
const GOOD_MS: u64 = 500;

fn good() -> String {
    format!(
        "[[plugin]]\nname = \"good\"\nkind = \"nagios\"\ncommand = [\"$DIR/good\"]\ninterval_ms = {GOOD_MS}\n"
    )
}

/// A daemon with a good plugin and a bad one.
fn beside(kind: &str, bad: &str, more: &str) -> Place {
    beside_all(
        bad,
        &format!("[[plugin]]\nname = \"bad\"\nkind = \"{kind}\"\ncommand = [\"$DIR/bad\"]\n{more}"),
    )
}

/// With bad ones of any kind.
fn beside_all(bad: &str, plugins: &str) -> Place {
    let mut place = Place::new("");
    place.script("good", GOOD);
    place.script("bad", bad);
    let config = good() + plugins;
    place.configure(&config.replace("$DIR", &place.dir.path().display().to_string()));
    place.agent();
    place.start();
    place
}

/// The mean interval of the good plugin's own starts over some seconds, by a clock that its process reads; and the share of
/// a CPU that the daemon used meanwhile.
fn watch(place: &Place, what: &str) -> f64 {
    place.until("the good one begun", |p| starts(p).len() >= 2);
    let (first, cpu, begun) = (starts(place).len() - 1, cpu_ms(place), Instant::now());
    std::thread::sleep(Duration::from_secs(6));
    let (all, used) = (starts(place), cpu_ms(place) - cpu);
    let times = &all[first..];
    let mean_ms = (times[times.len() - 1] - times[0]) * 1000.0 / (times.len() - 1) as f64;
    let load = used / begun.elapsed().as_secs_f64() / 1000.0;
    println!(
        "{what}: {mean_ms:.0} ms between starts instead of {GOOD_MS}, the daemon used {:.1} % of a CPU",
        load * 100.0
    );
    assert!((mean_ms / GOOD_MS as f64 - 1.0).abs() < 0.1, "{what}: {mean_ms} ms: {all:?}");
    let p = place.plugin("good");
    assert_eq!(p["failures"], 0, "{what}: {p}");
    load
}

fn starts(place: &Place) -> Vec<f64> {
    let text = std::fs::read_to_string(place.path("times")).unwrap_or_default();
    text.lines().filter_map(|l| l.parse().ok()).collect()
}

fn cpu_ms(place: &Place) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", place.pid().as_raw_nonzero())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10.0
}

fn memory_kib(place: &Place) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", place.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// One after the other: each has the machine to itself.
#[test]
fn a_good_plugin_keeps_its_interval_beside_each_bad_one() {
    endless_lines();
    binary();
    fast_spam();
    fork_storm();
    hang_at_exit();
    memory();
    endless_check();
    datagrams();
    large_and_endless_answers();
}

fn endless_lines() {
    let place = beside("execd", "#!/bin/sh\nexec tr '\\0' x < /dev/zero\n", "");
    let load = watch(&place, "an endless line");
    let p = place.plugin("bad");
    assert!(p["problem"]["what"].as_str().unwrap().contains("8 KiB"), "{p}");
    assert!(load < 0.3, "{load}");
    assert!(memory_kib(&place) < 32 * 1024, "{}", memory_kib(&place));
}

fn binary() {
    let mut place = beside("execd", "#!/bin/sh\nexec cat /dev/urandom\n", "");
    watch(&place, "binary");
    let p = place.plugin("bad");
    assert_eq!(p["samples"], 0, "{p}");
    let shown = p.to_string();
    assert!(!shown.chars().any(char::is_control), "{shown}");
    assert!(!place.reports("bad").iter().any(|r| r["took_us"].is_u64()));
    assert!(place.end() < Duration::from_secs(5));
}

fn fast_spam() {
    let place = beside("execd", "#!/bin/sh\nexec yes '{\"v\":1,\"latency_ms\":1}'\n", "");
    let load = watch(&place, "fast spam");
    let p = place.plugin("bad");
    assert!(p["dropped"].as_u64().unwrap() > 1000, "{p}");
    let (reports, taken) = (place.reports("bad").len(), p["samples"].as_u64().unwrap());
    assert!(taken <= 20 + 10 * 20 && reports as u64 <= taken, "{taken} {reports}");
    assert!(load < 0.3, "{load}");
}

fn fork_storm() {
    let storm = "#!/bin/sh\nf() { f | f & f; }\n( while :; do f; done ) 2>/dev/null\n";
    // A user of its own: the kernel counts processes by user.
    let user = if common::is_root() { "user = \"games\"\n" } else { "" };
    let processes_most = if common::is_root() { 40 } else { 4000 };
    let mut place = beside("execd", storm, &format!("{user}processes = {processes_most}\n"));
    watch(&place, "a fork storm");
    let bad = place.path("bad");
    assert!(processes(&bad).len() <= processes_most + 1, "{}", processes(&bad).len());
    place.end();
    assert_eq!(processes(&bad), Vec::<i32>::new(), "none stays behind");
}

fn hang_at_exit() {
    let hang = "#!/bin/sh\ntrap '' TERM HUP INT PIPE\n(setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' $DIR/bad &)\n\
                while :; do sleep 1; done\n";
    let mut place = beside("execd", hang, "");
    watch(&place, "a hang at the end");
    let bad = place.path("bad");
    let took = place.end();
    println!("it ended after {} ms", took.as_millis());
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(processes(&bad), Vec::<i32>::new(), "not even what went into a session of its own");
}

fn memory() {
    let hog = "#!/usr/bin/env python3\nkeep = []\nwhile True:\n    keep.append(bytearray(1 << 20))\n";
    let place = beside("execd", hog, "memory_mib = 64\n");
    watch(&place, "a memory hog");
    place.until("ended for it", |p| p.plugin("bad")["starts"].as_u64() > Some(1));
    let log = place.stderr();
    assert!(log.contains("MemoryError"), "{log}");
}

fn endless_check() {
    let place = beside("nagios", "#!/bin/sh\nyes & exec yes\n", "interval_ms = 300\n");
    watch(&place, "an endless check");
    let p = place.plugin("bad");
    assert!(
        p["last"]["failed"].is_string() && p["problem"]["what"].as_str().unwrap().contains("65536"),
        "{p}"
    );
}

/// As fast as one thread can send.
fn datagrams() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen =
        format!("kind = \"statsd\"\nlisten = \"127.0.0.1:{port}\"\nlatency = \"q\"\ninterval_ms = 500\n");
    let place = beside_all("", &format!("[[plugin]]\nname = \"bad\"\n{listen}"));
    let over = Arc::new(AtomicBool::new(false));
    let sender = std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut sent = 0u64;
            while !over.load(Ordering::Relaxed) {
                // Nobody listens yet, or any more: no reason to be quiet.
                let _ = socket.send_to(b"q:5|ms\nq:6|ms\nr:1|c", ("127.0.0.1", port));
                sent += 1;
                // A sender that takes the machine's CPUs would be what slows it, not what it sends.
                if sent.is_multiple_of(50) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            sent
        }
    });
    let load = watch(&place, "a flood of datagrams");
    over.store(true, Ordering::Relaxed);
    let sent = sender.join().unwrap();
    assert!(sent > 6 * 2000 * 4, "{sent}: no flood");
    assert!(load < 0.3, "{load}");
    let p = place.plugin("bad");
    // Two timers in each of 2000 datagrams; the rest was dropped, by the kernel too.
    let throughput = p["last"]["throughput_per_s"].as_f64().unwrap();
    assert!(throughput > 0.0 && throughput < 2.0 * 2000.0 * 1.25, "{p}");
}

/// An exporter whose answer is as large as it may be, and one whose answer never ends.
fn large_and_endless_answers() {
    let lines: String =
        (0..60_000).map(|i| format!("q{{series=\"{i:06}\",more=\"{}\"}} 0.{i}\n", "x".repeat(30))).collect();
    assert!((3 << 20..4 << 20).contains(&lines.len()), "{}", lines.len());
    let exporter = |body: String, endless: bool| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0u8; 2048]);
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
                while stream.write_all(body.as_bytes()).is_ok() && endless {}
            }
        });
        port
    };
    let plugin = |name: &str, port: u16| {
        format!(
            "[[plugin]]\nname = \"{name}\"\nkind = \"openmetrics\"\nurl = \"http://127.0.0.1:{port}/\"\nlatency = \"q\"\n\
             interval_ms = 1000\n"
        )
    };
    let (large, endless) = (exporter(lines.clone(), false), exporter(lines, true));
    let place = beside_all("", &(plugin("bad", large) + &plugin("worse", endless)));
    watch(&place, "large and endless answers");
    let (bad, worse) = (place.plugin("bad"), place.plugin("worse"));
    assert!(bad["samples"].as_u64() > Some(1), "{bad}");
    assert!(worse["problem"]["what"].as_str().unwrap().contains("longer than 4 MiB"), "{worse}");
    assert!(memory_kib(&place) < 64 * 1024, "{}", memory_kib(&place));
}
