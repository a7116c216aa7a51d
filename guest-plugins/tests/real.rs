//! What customers have already: Debian's checks, a real exporter, a real StatsD client, the examples; and a clock that jumps.
//! tests/setup.sh installs them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Place, is_root};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CHECKS: &str = "/usr/lib/nagios/plugins";

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn there(program: &str) -> PathBuf {
    let path = PathBuf::from(program);
    assert!(path.exists(), "{program} is missing: sudo bash tests/setup.sh");
    path
}

/// A service's program, as tests/setup.sh unpacks it.
fn service(program: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab-cache/services/root");
    there(&root.join(program).display().to_string())
}

/// A web server that says ok.
fn web() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0u8; 2048]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    port
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `test NAME`: what is understood of each sample.
fn tried(place: &Place, name: &str, count: &str) -> Vec<Value> {
    let out = place.run(&["test", name, "--json", "--count", count, "--for", "30s"]);
    let text = String::from_utf8(out.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(!lines.is_empty(), "{:?}", String::from_utf8_lossy(&out.stderr));
    lines
}

fn nagios(name: &str, argv: &[&str], more: &str) -> String {
    format!(
        "[[plugin]]\nname = \"{name}\"\nkind = \"nagios\"\ninterval_ms = 500\ncommand = {argv:?}\n{more}\n"
    )
}

#[test]
fn debians_checks_are_understood() {
    let port = web().to_string();
    let check = |name: &str| there(&format!("{CHECKS}/{name}")).display().to_string();
    let (http, tcp) = (check("check_http"), check("check_tcp"));
    let text = nagios("http", &[&http, "-H", "127.0.0.1", "-p", &port], "")
        + &nagios("tcp", &[&tcp, "-H", "127.0.0.1", "-p", &port], "")
        + &nagios(
            "load",
            &[&check("check_load"), "-w", "1000", "-c", "2000"],
            "throughput = \"load1\"\nmeasure = \"throughput\"",
        )
        + &nagios(
            "disk",
            &[&check("check_disk"), "-w", "1", "-c", "1", "-p", "/"],
            "throughput = \"/\"\nmeasure = \"throughput\"",
        )
        + &nagios("refused", &[&tcp, "-H", "127.0.0.1", "-p", &free_port().to_string()], "")
        + &nagios("slow", &[&tcp, "-H", "127.0.0.1", "-p", &port, "-c", "0.0000001"], "");
    let place = Place::new(&text);
    for (name, least) in [("http", 2), ("tcp", 2)] {
        let lines = tried(&place, name, "2");
        let last = lines.last().unwrap();
        assert_eq!(
            (&last["ok"], last["measured"].as_u64()),
            (&Value::Bool(true), Some(least)),
            "{name}: {lines:?}"
        );
        let us = lines[0]["heard"]["took_us"].as_u64().unwrap();
        assert!((1..5_000_000).contains(&us), "{name}: {us}");
    }
    for name in ["load", "disk"] {
        let lines = tried(&place, name, "1");
        assert!(lines[0]["understood"]["throughput_per_s"].is_number(), "{name}: {lines:?}");
        assert_eq!(lines[0]["problems"], Value::Array(vec![]), "{name}: {lines:?}");
    }
    let refused = tried(&place, "refused", "1");
    assert!(refused[0]["heard"]["failed"].as_str().unwrap().contains("refused"), "{refused:?}");
    let slow = tried(&place, "slow", "1");
    assert!(
        slow[0]["heard"]["took_us"].is_u64(),
        "critical by its own latency is slow, not broken: {slow:?}"
    );
}

/// As Debian installs it, with a file capability; and set-uid root, as others do.
#[test]
fn a_set_uid_check_works_for_who_may_do_nothing() {
    let installed = there(&format!("{CHECKS}/check_icmp"));
    let argv = [installed.to_str().unwrap(), "-H", "127.0.0.1", "-n", "2"];
    let place = Place::new(&nagios("icmp", &argv, "latency = \"rta\""));
    let lines = tried(&place, "icmp", "1");
    assert!(lines[0]["heard"]["took_us"].is_u64(), "{lines:?}");
    if is_root() {
        let copy = place.path("check_icmp");
        // A copy has no file capability.
        std::fs::write(&copy, std::fs::read(installed).unwrap()).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        place.configure(&nagios(
            "icmp",
            &[copy.to_str().unwrap(), "-H", "127.0.0.1", "-n", "2"],
            "latency = \"rta\"",
        ));
        let lines = tried(&place, "icmp", "1");
        assert!(lines[0]["heard"]["failed"].is_string(), "without a privilege it cannot: {lines:?}");
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o4755)).unwrap();
        let lines = tried(&place, "icmp", "1");
        assert!(lines[0]["heard"]["took_us"].is_u64(), "{lines:?}");
    }
}

#[test]
fn a_real_exporter_is_scraped() {
    let address = format!("127.0.0.1:{}", free_port());
    let mut exporter = Command::new(service("usr/bin/prometheus-node-exporter"));
    exporter.arg(format!("--web.listen-address={address}")).stdout(Stdio::null()).stderr(Stdio::null());
    let _exporter = Killed(exporter.spawn().unwrap());
    let begun = Instant::now();
    while TcpStream::connect(&address).is_err() {
        assert!(begun.elapsed() < common::PATIENCE, "no exporter");
        std::thread::sleep(Duration::from_millis(50));
    }
    let plugin = |name: &str, more: &str| {
        format!(
            "[[plugin]]\nname = \"{name}\"\nkind = \"openmetrics\"\ninterval_ms = 500\nurl = \"http://{address}/metrics\"\n{more}\n"
        )
    };
    let place = Place::new(
        &(plugin(
            "summary",
            "latency = \"go_gc_duration_seconds\"\nquantile = 0.75\nrequests = \"promhttp_metric_handler_requests_total\"",
        ) + &plugin(
            "gauge",
            "latency = \"node_scrape_collector_duration_seconds\"\nlabels = { collector = \"loadavg\" }",
        ) + &plugin("wrong", "latency = \"no_such_seconds\"")),
    );
    let lines = tried(&place, "summary", "3");
    assert!(lines[0]["heard"]["took_us"].is_u64(), "{lines:?}");
    assert_eq!(lines[2]["understood"]["requests"], 1.0, "one scrape between two: {lines:?}");
    let lines = tried(&place, "gauge", "1");
    assert!(lines[0]["heard"]["took_us"].as_u64().unwrap() < 5_000_000, "{lines:?}");
    let lines = tried(&place, "wrong", "1");
    let mend = lines[0]["problems"][0]["mend"].as_str().unwrap();
    assert!(mend.contains("_seconds"), "it names what there is: {mend}");
}

#[test]
fn a_real_statsd_client_is_heard() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut place = Place::new(&format!(
        "[[plugin]]\nname = \"s\"\nkind = \"statsd\"\nlisten = \"127.0.0.1:{port}\"\nlatency = \"shop.query\"\nerrors = \"shop.errors\"\ninterval_ms = 500\n"
    ));
    place.agent();
    place.start();
    let client = format!(
        "import statsd, time\nc = statsd.StatsClient('127.0.0.1', {port}, prefix='shop')\n\
         for i in range(20):\n    c.timing('query', 40)\n    c.incr('errors')\n\
         p = c.pipeline()\np.timing('query', 40)\np.timing('query', 40)\np.send()\n"
    );
    let status = Command::new("/usr/bin/python3").args(["-c", &client]).status().unwrap();
    assert!(status.success(), "it needs python3-statsd, which tests/setup.sh installs");
    place.until("heard", |p| !p.reports("s").is_empty());
    let us = place.reports("s")[0]["took_us"].as_f64().unwrap();
    assert!((us / 40_000.0 - 1.0).abs() < 0.02, "{us}");
    let last = &place.plugin("s")["last"];
    assert!(last["errors"].as_f64().unwrap() >= 20.0, "{last}");
}

/// The clock of the daemon and of its plugin is set an hour on, and two hours back: neither measures anything else, or at
/// another time. libfaketime fakes the wall clock for programs that ask libc.
#[test]
fn a_clock_that_jumps_changes_nothing() {
    let library = there("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1");
    let mut place = Place::new("");
    let check = place.script(
        "check",
        "#!/bin/sh\ndate +%Y >> $DIR/years\ncut -d' ' -f1 /proc/uptime >> $DIR/times\necho 'OK|time=12ms'\n",
    );
    let year = place.path("time");
    let set = |text: &str| std::fs::write(&year, text).unwrap();
    set("+0");
    let fake = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", year.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    // By env, not by `env`: what the library leaves behind of a process belongs to its user, who changes on the way there.
    let mut argv = vec!["/usr/bin/env".to_owned()];
    argv.extend(fake.iter().map(|(k, v)| format!("{k}={v}")));
    argv.push(check.display().to_string());
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    place.configure(&nagios("c", &argv, ""));
    place.agent();
    let mut daemon = Command::new(common::PROGRAM);
    daemon.envs(fake.iter().map(|(k, v)| (k, v)));
    place.start_with(daemon);
    place.until("measured", |p| !p.reports("c").is_empty());
    // By a clock that nobody fakes.
    let times = || -> Vec<f64> {
        let text = std::fs::read_to_string(place.path("times")).unwrap();
        text.lines().filter_map(|l| l.parse().ok()).collect()
    };
    let (begun, before) = (Instant::now(), times().len() - 1);
    for (after_ms, jump) in [(1000, "+3600"), (2500, "-7200"), (4000, "+10y"), (5500, "-20y")] {
        std::thread::sleep(Duration::from_millis(after_ms).saturating_sub(begun.elapsed()));
        set(jump);
    }
    std::thread::sleep(Duration::from_secs(7).saturating_sub(begun.elapsed()));
    let all = times();
    let times = &all[before..];
    let mean_ms = (times[times.len() - 1] - times[0]) * 1000.0 / (times.len() - 1) as f64;
    println!("while the clock jumps: {mean_ms:.0} ms between starts instead of 500");
    assert!((mean_ms / 500.0 - 1.0).abs() < 0.1, "{mean_ms} ms: {all:?}");
    assert!(place.reports("c").iter().all(|r| r["took_us"] == 12_000));
    let years = std::fs::read_to_string(place.path("years")).unwrap();
    let seen: std::collections::BTreeSet<_> = years.lines().collect();
    assert!(seen.len() >= 3, "the clock did jump: {seen:?}");
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/examples/plugins").join(name)
}

fn execd(place: &Place, name: &str, argv: &[&str], more: &str) -> String {
    // Whoever it runs as must be able to read it.
    let copy = place.script(name, &std::fs::read_to_string(argv[0]).unwrap());
    let mut argv = argv.to_vec();
    argv[0] = copy.to_str().unwrap();
    format!(
        "[[plugin]]\nname = \"{name}\"\nkind = \"execd\"\ninterval_ms = 500\ncommand = {argv:?}\n{more}\n"
    )
}

#[test]
fn the_examples_do_what_they_say() {
    let port = web().to_string();
    let place = Place::new("");
    let (sh, py) = (example("good.sh"), example("good.py"));
    let (fails, refuses) = (example("fails.sh"), example("refuses.py"));
    let lock = place.path("lock").display().to_string();
    place.configure(
        &(execd(&place, "shell", &[sh.to_str().unwrap()], "")
            + &execd(&place, "python", &[py.to_str().unwrap(), "127.0.0.1", &port], "")
            + &execd(&place, "fails", &[fails.to_str().unwrap()], "")
            + &execd(&place, "refuses", &[refuses.to_str().unwrap(), &lock], "notices = true\nhold_s = 60")),
    );
    for name in ["shell", "python"] {
        let lines = tried(&place, name, "1");
        assert_eq!(lines.last().unwrap()["ok"], true, "{name}: {lines:?}");
    }
    let lines = tried(&place, "fails", "4");
    let text = Value::from(lines).to_string();
    for words in ["cannot connect to the service", "not JSON", "latency_ms", "exit status: 1"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    std::fs::write(place.path("lock"), "").unwrap();
    let lines = tried(&place, "refuses", "1");
    assert_eq!(lines[0]["understood"]["moment"]["bad"], format!("{lock} exists"), "{lines:?}");
}

/// With the crates that these tests were built with, and no others.
fn build(project: &Path) {
    let main = project.join("src/main.rs");
    let text = std::fs::read_to_string(main).unwrap();
    assert!(text.contains("my-rust"), "{text}");
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    std::fs::copy(lock, project.join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--offline", "--quiet"]).current_dir(project);
    let built = cargo.env_remove("CARGO_TARGET_DIR").output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

#[test]
fn what_new_writes_works_in_each_language() {
    let place = Place::new("");
    let dir = place.dir.path().display().to_string();
    for lang in ["shell", "python", "rust"] {
        let name = format!("my-{lang}");
        let out = place.run(&["new", "--lang", lang, "--dir", &dir, &name, "--json"]);
        let told: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(told["ok"], true, "{told}");
        let again = place.run(&["new", "--lang", lang, "--dir", &dir, &name]);
        assert_eq!(again.status.code(), Some(1), "nothing is written over");
        if lang == "rust" {
            build(&place.path("my-rust"));
        }
        let command = told["command"].as_str().unwrap();
        let port = web().to_string();
        let address = format!("127.0.0.1:{port}");
        let argv: &[&str] = match lang {
            "python" => &[command, "127.0.0.1", &port],
            "rust" => &[command, &address],
            _ => &[command],
        };
        place.configure(&format!("[[plugin]]\nname = \"{name}\"\nkind = \"execd\"\ncommand = {argv:?}\n"));
        let lines = tried(&place, &name, "1");
        assert_eq!(lines.last().unwrap()["ok"], true, "{lines:?}");
    }
    assert_eq!(place.run(&["new", "--lang", "shell", "../x"]).status.code(), Some(2));
}
