//! A wrong configuration says which file, which key, and what would be right.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use coms_agent::config::{Config, Port, Probe};
use coms_protocol::types::GapLaw;
use std::path::Path;
use std::time::Duration;

fn refused(text: &str) -> String {
    Config::parse(text, Path::new("/etc/coms/agent.toml")).expect_err(text).to_string()
}

fn workload(keys: &str) -> String {
    format!("[[workload]]\nname = \"w\"\nprobe = {{ tcp = \"127.0.0.1:1\" }}\n{keys}\n")
}

#[test]
fn each_mistake_is_named() {
    let cases: &[(String, &[&str])] = &[
        ("[asking]\ncooldown = 5".into(), &["cooldown", "cooldown_s", "line 2"]),
        ("[askin]\n".into(), &["askin", "asking"]),
        ("[port]\ntransport = \"isa\"".into(), &["isa", "virtio"]),
        ("[port]\ntransport = \"unix\"".into(), &["port.path", "missing"]),
        ("[port]\ntransport = \"serial\"".into(), &["port.path", "/dev/ttyS1"]),
        ("[socket]\nchange_group = \"a b\"".into(), &["socket.change_group", "group's name"]),
        (
            "[[hooks]]\nevent = \"complete\"\ncommand = [\"/x\"]".into(),
            &["hooks.event", "complete", "completed"],
        ),
        ("[[hooks]]\nevent = \"progress\"\ncommand = [\"/x\"]".into(), &["progress", "too often"]),
        ("[[hooks]]\nevent = []\ncommand = [\"/x\"]".into(), &["hooks.event", "empty"]),
        ("[[hooks]]\nevent = 3\ncommand = [\"/x\"]".into(), &["list of names"]),
        ("[[hooks]]\nevent = \"*\"\ncommand = [\"x\"]".into(), &["hooks.command", "beginning with /"]),
        ("[[hooks]]\nevent = \"*\"\ncommand = []".into(), &["hooks.command", "empty"]),
        ("[[hooks]]\nevent = \"*\"\ncommand = [\"/x\"]\ntimeout_s = 0".into(), &["timeout_s", "1 to 3600"]),
        ("[socket]\npath = \"run/x\"".into(), &["socket.path", "beginning with /"]),
        ("[events]\nmax_mib = 0".into(), &["events.max_mib", "1 to 1024"]),
        ("[asking]\nbackoff_s = 100\nbackoff_max_s = 10".into(), &["backoff_max_s", "backoff_s = 100"]),
        ("[wishes]\nnever = [\"magic\"]".into(), &["wishes.never", "magic", "post-copy"]),
        ("[wishes]\nregion = \"\"".into(), &["wishes.region", "1 to 64"]),
        ("[clients]\ndatabase = \"geo.mmdb\"".into(), &["clients.database", "beginning with /"]),
        ("[clients]\nports = [0]".into(), &["clients.ports", "1 to 65535"]),
        (
            "[clients]\nleave_out = [\"10.0.0.0/33\"]".into(),
            &["clients.leave_out", "10.0.0.0/33", "198.51.100.0/24"],
        ),
        ("[clients]\nsample_s = 0".into(), &["clients.sample_s", "1 to 60"]),
        ("[clients]\nwindow_s = 20".into(), &["clients.window_s", "30 to"]),
        ("[clients]\ncapture_udp = true\nports = [443]".into(), &["clients.capture_udp", "capture = true"]),
        ("[clients]\ncapture_udp = true\ncapture = true".into(), &["clients.capture_udp", "needs ports"]),
        ("[clients]\nmajority = 0.4".into(), &["clients.majority", "0.5 to 1"]),
        ("[clients]\nmajority = nan".into(), &["clients.majority", "0.5 to 1"]),
        ("[clients]\nlead = -1".into(), &["clients.lead", "0 to 1"]),
        ("[clients]\nmin_clients = 0".into(), &["clients.min_clients", "from 1"]),
        (
            "[clients]\nregions = { a = [\"FRA\"] }".into(),
            &["clients.regions", "\"a\"", "FRA", "two letters"],
        ),
        (
            "[clients]\nregions = { a = [\"FR\"], b = [\"fr\"] }".into(),
            &["clients.regions", "FR", "\"a\"", "\"b\""],
        ),
        (workload("").replace("\"w\"", "\"clients-rtt\""), &["workload.name", "clients-rtt"]),
        (workload("interval_ms = 1"), &["\"w\": interval_ms", "10 to 3600000"]),
        (workload("timeout_ms = 0"), &["\"w\": timeout_ms", "1 to 60000"]),
        (workload("slower_than_factor = 1.0"), &["slower_than_factor", "1.05"]),
        (workload("slower_than_ms = -1"), &["slower_than_ms", "0.001"]),
        (workload("healthy_below = 1.5"), &["healthy_below", "0.1 to 1"]),
        (workload("healthy_below = nan"), &["healthy_below", "0.1 to 1"]),
        (workload("metric = \"p90\""), &["p90", "p95"]),
        (workload("min_samples = 50"), &["min_samples", "the 30 probes", "window_s"]),
        (workload("slower_than_factor = 2\nlearn_s = 60"), &["learn_s", "90 s"]),
        (workload("on_failure = \"panic\""), &["panic", "ask"]),
        (workload("") + &workload(""), &["workload.name", "twice"]),
        ("[[workload]]\nprobe = { tcp = \"1.2.3.4:1\" }".into(), &["name"]),
        (probe("tcp = \"db:5432\""), &["probe.tcp", "not looked up", "localhost:5432"]),
        (probe("tcp = \"127.0.0.1\""), &["probe.tcp", "no port"]),
        (probe("tcp = \"127.0.0.1:0\""), &["probe.tcp", "1 to 65535"]),
        (probe("http = \"https://127.0.0.1/\""), &["probe.http", "https"]),
        (probe("http = \"127.0.0.1/\""), &["probe.http", "http://"]),
        (probe("http = \"http://127.0.0.1/a b\""), &["probe.http", "blank"]),
        (probe("http = \"http://shop/\""), &["probe.http", "name"]),
        (probe("command = []"), &["probe.command", "empty"]),
        (probe("command = [\"psql\"]"), &["probe.command", "beginning with /"]),
        (probe("htp = \"x\""), &["htp", "http"]),
    ];
    for (text, wanted) in cases {
        let why = refused(text);
        assert!(why.contains("/etc/coms/agent.toml"), "{why}");
        for part in *wanted {
            assert!(why.contains(part), "{text}\n-> {why}\nlacks {part:?}");
        }
    }
}

fn probe(keys: &str) -> String {
    format!("[[workload]]\nname = \"w\"\nprobe = {{ {keys} }}\n")
}

#[test]
fn the_shipped_file_is_valid_and_its_comments_show_the_defaults() {
    let text = include_str!("../../packaging/config/agent.toml");
    let shipped = Config::parse(text, Path::new("agent.toml")).unwrap();
    assert_eq!(shipped, Config::defaults().unwrap());
    // With every comment that is a key taken at its word: still valid, and but for the examples the same.
    let is_key = |l: &str| {
        let name = l.split([' ', '=']).next().unwrap_or_default();
        l.starts_with('[')
            || (l.contains(" = ")
                && !name.is_empty()
                && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    let typed: Vec<_> =
        text.lines().map(|l| l.strip_prefix('#').filter(|r| is_key(r)).unwrap_or(l)).collect();
    let typed = Config::parse(&typed.join("\n"), Path::new("agent.toml")).unwrap();
    assert_eq!(typed.asking, shipped.asking);
    assert_eq!(
        (typed.events_max_bytes, &typed.socket, &typed.state),
        (shipped.events_max_bytes, &shipped.socket, &shipped.state)
    );
    assert_eq!(typed.access, shipped.access);
    assert_eq!(typed.hooks[0].timeout, Duration::from_secs(10));
    let listed = text.split_once("Names: ").and_then(|(_, list)| list.split_once('.')).unwrap().0;
    let listed: Vec<_> = listed.split_whitespace().filter(|word| *word != "#").collect();
    assert_eq!(listed, coms_agent::config::EVENTS, "the list of events for hooks");
    let random = typed.random.unwrap();
    assert_eq!(
        (shipped.random, random.least_s, random.most_s, random.law),
        (None, 300, 600, GapLaw::Exponential)
    );
    let mut typed_clients = typed.clients.unwrap();
    assert_eq!(shipped.clients, None, "off until a database is named");
    assert_eq!(
        (typed_clients.ports.len(), typed_clients.leave_out.len(), typed_clients.regions.len()),
        (2, 2, 2)
    );
    (typed_clients.ports, typed_clients.leave_out, typed_clients.regions) = (vec![], vec![], vec![]);
    let only = format!("[clients]\ndatabase = {:?}\n", typed_clients.database);
    let only = Config::parse(&only, Path::new("x")).unwrap();
    assert_eq!(Some(typed_clients), only.clients);
    let w = &typed.workloads[0];
    let minimal = "[[workload]]\nname = \"shop\"\nprobe = { http = \"http://127.0.0.1:8080/health\" }\n";
    let minimal = Config::parse(minimal, Path::new("x")).unwrap();
    let mut rule = minimal.workloads[0].rule.clone();
    (rule.slower_than, rule.slower_than_factor) = (Some(Duration::from_millis(50)), Some(2.0));
    assert_eq!(w.rule, rule);
    assert_eq!((w.interval, w.timeout), (minimal.workloads[0].interval, minimal.workloads[0].timeout));
}

#[test]
fn addresses_in_all_their_forms() {
    let probe_of =
        |keys: &str| Config::parse(&probe(keys), Path::new("x")).unwrap().workloads.remove(0).probe;
    let Probe::Http(target) = probe_of("http = \"http://[::1]:8080\"") else { unreachable!() };
    assert_eq!((target.path.as_str(), target.host.as_str()), ("/", "[::1]:8080"));
    assert_eq!(target.address.0, ["[::1]:8080".parse().unwrap()]);
    let Probe::Http(target) = probe_of("http = \"http://[::1]/x?y=1\"") else { unreachable!() };
    assert_eq!((target.path.as_str(), target.address.0[0].port()), ("/x?y=1", 80));
    let Probe::Tcp(address) = probe_of("tcp = \"localhost:5432\"") else { unreachable!() };
    assert_eq!(address.0.len(), 2, "both families");
    assert_eq!(Config::defaults().unwrap().port, Port::Virtio { path: None });
}
