//! coms-plugins as it is installed, in a Debian guest with PostgreSQL and nginx: by its unit, as its users, with a cgroup for
//! each plugin; the examples against the real servers; a plugin whose wish moves the VM; and a Nagios check whose latency does.
//! One boot for all of it.

use coms_lab::{Guest, GuestFile};
use coms_story::*;
use serde_json::Value;

const ASKING: &str = "[asking]\ncooldown_s = 5\nsettle_s = 2\ncheck_s = 6\n";
const OF_PLUGIN: &str = "[[workload]]\nname = \"says\"\nprobe = { plugin = \"says\" }\ninterval_ms = 300\nmetric = \"p50\"\n\
    window_s = 3\nslower_than_ms = 1000\nfor_s = 0\nmin_samples = 3\n";

/// Says what /run/says says; may wish.
const SAYS: &str = "[[plugin]]\nname = \"says\"\nkind = \"execd\"\ncommand = [\"/etc/coms/plugins/says\"]\nmay_wish = true\n";
/// What is there already. Their places are those of their cgroups.
const HONEST: &str = r#"
[[plugin]]
name = "who"
kind = "nagios"
command = ["/etc/coms/plugins/who"]
interval_ms = 2000
[[plugin]]
name = "icmp"
kind = "nagios"
command = ["/usr/lib/nagios/plugins/check_icmp", "-H", "127.0.0.1", "-n", "1"]
latency = "rta"
interval_ms = 2000
[[plugin]]
name = "postgres"
kind = "execd"
command = ["/etc/coms/plugins/postgres.py", "postgres"]
user = "postgres"
[[plugin]]
name = "nginx"
kind = "execd"
command = ["/etc/coms/plugins/nginx.py", "http://127.0.0.1/", "http://127.0.0.1:8081/", "/var/log/nginx/access.log"]
"#;
/// A good one, and two strangers.
const STRANGERS: &str = r#"
[[plugin]]
name = "good"
kind = "nagios"
command = ["/etc/coms/plugins/good"]
interval_ms = 5000
[[plugin]]
name = "storm"
kind = "execd"
command = ["/etc/coms/plugins/storm"]
processes = 20
memory_mib = 32
[[plugin]]
name = "hogs"
kind = "execd"
command = ["/etc/coms/plugins/hogs"]
memory_mib = 32
"#;
/// Programs in /etc/coms/plugins.
const PROGRAMS: [(&str, &str); 5] = [
    ("says", "#!/bin/sh\nwhile :; do cat /run/says; sleep 0.3; done\n"),
    // Tells what it is, and leaves something behind.
    (
        "who",
        "#!/bin/sh\n{ id -un; id -Gn; cat /proc/self/cgroup; grep -E 'CapEff|CapAmb|NoNewPrivs' /proc/self/status; \
         touch /etc/mine /run/coms/mine 2>&1; } > /run/who/new; mv /run/who/new /run/who/who\n\
         setsid sleep 4711 >/dev/null 2>&1 &\necho 'OK|time=7ms'\n",
    ),
    ("good", "#!/bin/sh\nread up idle < /proc/uptime\necho $up >> /run/who/times\necho 'OK|time=7ms'\n"),
    ("storm", "#!/bin/sh\nf() { f | f & f; }\n( while :; do f; done ) 2>/dev/null\n"),
    // Each of its processes stays below what one may have.
    ("hogs", "#!/bin/sh\nfor i in 1 2 3 4; do head -c 20M /dev/zero | tail | sleep 600 & done\nwait\n"),
];
const STATUS: &str = "server { listen 127.0.0.1:8081; location / { stub_status; access_log off; } }\n";
const CGROUP: &str = "/sys/fs/cgroup/system.slice/coms-plugins.service";

fn file(path: &str, mode: u32, text: &str) -> GuestFile {
    GuestFile { path: path.into(), mode, bytes: text.into() }
}

#[test]
fn by_its_unit_it_bounds_strangers_and_what_plugins_say_moves_the_vm() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    let script = |name: &str, text| file(&format!("/etc/coms/plugins/{name}"), 0o755, text);
    let mut files: Vec<_> = PROGRAMS.into_iter().map(|(name, text)| script(name, text)).collect();
    files.push(file("/etc/nginx/conf.d/status.conf", 0o644, STATUS));
    let agent = format!("{ASKING}{OF_PLUGIN}{}", database::SLOW_DATABASE);
    let guest = database::boot(&stage, 0, &agent, &format!("{SAYS}{HONEST}"), files)?;
    // As the example says, for nginx's log.
    guest.sh(
        "usermod -aG adm coms-probe && mkdir -m 777 /run/who && echo '{\"v\":1,\"latency_ms\":5}' > /run/says",
    )?;
    guest.sh("systemctl start coms-plugins")?;

    as_its_users(&stage, &guest)?;
    real_servers(&stage, &guest)?;
    database::reload(&guest, &format!("{SAYS}{STRANGERS}"))?;
    bounded(&stage, &guest)?;
    database::reload(&guest, &format!("{SAYS}{}", database::PGBENCH))?;
    a_wish_moves_it(&stage, &guest)?;
    a_slow_database_moves_it(&stage, &guest)?;

    guest.sh("systemctl stop coms-plugins")?;
    let left = guest.sh("pgrep -u coms-probe; systemctl show --property Result --value coms-plugins")?;
    assert_eq!(left.trim(), "success", "nothing stays behind");
    guest.sh(&format!("test ! -e {CGROUP}"))?;
    stage.finish(&[&guest])
}

/// How a plugin stands.
fn plugin(guest: &Guest, name: &str) -> Result<Value> {
    let list: Value = serde_json::from_str(&guest.sh("coms plugin list --json")?)?;
    let found = list["plugins"].as_array().and_then(|all| all.iter().find(|p| p["plugin"] == name));
    found.cloned().ok_or_else(|| format!("no plugin {name}: {list}").into())
}

/// Waits until a plugin stands as wanted.
fn until(
    stage: &Stage,
    guest: &Guest,
    name: &str,
    seconds: u64,
    wanted: impl Fn(&Value) -> bool,
) -> Result<()> {
    let last = std::cell::RefCell::new(Value::Null);
    let found = calmly(stage, &format!("plugin {name}"), seconds, || {
        last.replace(plugin(guest, name).unwrap_or_default());
        Ok(wanted(&last.borrow()))
    });
    let last = last.into_inner();
    found.map_err(|e| {
        let log = guest.sh("coms plugin list; journalctl -u coms-plugins | tail -40").unwrap_or_default();
        format!("{e}\n{last}\n{log}").into()
    })
}

fn as_its_users(stage: &Stage, guest: &Guest) -> Result<()> {
    until(stage, guest, "says", 120, |p| p["agent"] == "taken")?;
    until(stage, guest, "who", 120, |p| p["samples"].as_u64() > Some(2))?;
    until(stage, guest, "icmp", 120, |p| p["last"]["latency_us"].is_number())?;
    let who = guest.sh("cat /run/who/who")?;
    println!("{who}");
    let lines: Vec<&str> = who.lines().collect();
    assert_eq!(lines[..2], ["coms-probe", "coms-probe adm"], "{who}");
    assert!(who.contains("coms-plugins.service/plugin-1"), "a cgroup of its own: {who}");
    assert!(who.contains("CapEff:\t0000000000000000") && who.contains("CapAmb:\t0000000000000000"), "{who}");
    assert!(who.contains("NoNewPrivs:\t0"), "a set-uid check works: {who}");
    assert!(who.contains("/etc/mine") && who.contains("/run/coms/mine"), "it may write neither: {who}");
    let left: usize = guest.sh("pgrep -c -f 'sleep 4711' || true")?.trim().parse()?;
    assert!(left <= 1, "{left} of the processes that its runs left are there");
    Ok(())
}

/// What the cgroups are for, beside plugins that abuse what they have.
fn bounded(stage: &Stage, guest: &Guest) -> Result<()> {
    let cgroup = |place: usize, what: &str| -> Result<Vec<u64>> {
        let text = guest.sh(&format!("cd {CGROUP}/plugin-{place} && cat {what}"))?;
        Ok(text.split_whitespace().filter_map(|w| w.parse().ok()).collect())
    };
    // A reload is taken up when the old plugins have ended.
    calmly(stage, "the strangers' bounds", 60, || {
        Ok(cgroup(2, "pids.max memory.max cpu.weight").is_ok_and(|bounds| bounds == [20, 32 << 20, 20]))
    })?;
    calmly(stage, "the storm to meet its bound", 90, || Ok(cgroup(2, "pids.events")?[0] > 0))?;
    let processes = cgroup(2, "pids.current")?[0];
    assert!(processes <= 20, "{processes}");
    // Each process has less than the bound, all together more.
    calmly(stage, "the memory to meet its bound", 180, || {
        let events = guest.sh(&format!("grep oom_kill {CGROUP}/plugin-3/memory.events"))?;
        Ok(!events.starts_with("oom_kill 0"))
    })?;

    let times = || -> Result<Vec<f64>> {
        Ok(guest.sh("cat /run/who/times || true")?.lines().filter_map(|l| l.parse().ok()).collect())
    };
    let before = times()?.len();
    // Nothing of it looks at the clock that people set.
    guest.sh("date -s '+2 hours'")?;
    // One emulated CPU for all of them: a run may take more than a second of it.
    let beside = calmly(stage, "a good plugin beside them", 120, || Ok(times()?.len() > before + 8));
    guest.sh("date -s '-2 hours'")?;
    beside?;
    let all = times()?;
    // The median: a run that began late makes one gap longer and the next one shorter.
    let mut gaps: Vec<f64> = all[before..].windows(2).map(|w| (w[1] - w[0]) * 1000.0).collect();
    gaps.sort_by(f64::total_cmp);
    let median_ms = gaps[gaps.len() / 2];
    println!("accel=tcg beside them a good plugin began every {median_ms:.0} ms instead of 5000");
    assert!((median_ms / 5000.0 - 1.0).abs() < 0.1, "{median_ms} ms: {all:?}");
    Ok(())
}

/// The examples, as they are shipped, against the servers of Debian's packages.
fn real_servers(stage: &Stage, guest: &Guest) -> Result<()> {
    for name in ["postgres", "nginx"] {
        until(stage, guest, name, 90, |p| {
            let last = &p["last"];
            last["latency_us"].is_number() && last["requests"].is_number() && p["problem"].is_null()
        })?;
        println!("accel=tcg {name}: {}", plugin(guest, name)?["last"]);
    }
    until(stage, guest, "nginx", 30, |p| p["last"]["clients"][0]["address"] == "127.0.0.0")
}

/// Looks every three seconds: what measures is given less of the guest's CPU than who asks.
fn calmly(stage: &Stage, what: &str, seconds: u64, done: impl Fn() -> Result<bool>) -> Result<()> {
    stage.wait(what, seconds, || {
        std::thread::sleep(std::time::Duration::from_secs(3));
        done()
    })
}

fn a_wish_moves_it(stage: &Stage, guest: &Guest) -> Result<()> {
    guest.sh("echo '{\"v\":1,\"latency_ms\":5,\"wish\":{\"why\":\"the disk is slow\",\"evidence\":{\"await_ms\":220}}}' > /run/says")?;
    calmly(stage, "the move", 90, || Ok(!events_named(guest, "completed")?.is_empty()))?;
    guest.sh("echo '{\"v\":1,\"latency_ms\":5}' > /run/says")?;
    assert_eq!(guest.current_host()?.name(), HOSTS[1]);
    assert_eq!(events_named(guest, "asked")?[0]["reason"], "plugin");
    let why = events_named(guest, "plugin_wish")?[0]["why"].clone();
    assert_eq!(why, "the disk is slow (await_ms 220)");
    calmly(stage, "its effect", 60, || Ok(!events_named(guest, "effect")?.is_empty()))?;
    let completed = &events_named(guest, "completed")?[0];
    println!("accel=tcg the wish's move: downtime {} ms", completed["downtime_ms"]);
    Ok(())
}

/// Only the check runs now; and the neighbours of the host where the wish has brought it get busy.
fn a_slow_database_moves_it(stage: &Stage, guest: &Guest) -> Result<()> {
    let neighbours = database::neighbours(stage, 1, 2)?;
    database::reload(guest, database::PGBENCH)?;
    let mut status = Value::Null;
    stage
        .wait("the agent to know how fast the database is", 120, || {
            std::thread::sleep(std::time::Duration::from_secs(3));
            status = coms(guest, &["status"])?;
            Ok(status["workloads"][1]["state"] == "healthy")
        })
        .map_err(|e| format!("{e}\n{status}"))?;
    assert_eq!(guest.sh("pgrep -u coms-probe || echo none")?, "none\n", "the old plugins have ended");
    for neighbour in &neighbours {
        neighbour.start_hog(1)?;
    }
    calmly(stage, "the second outcome", 150, || Ok(events_named(guest, "completed")?.len() == 2)).map_err(
        |e| {
            let all = guest.sh("coms status; tail -n 8 /var/log/coms/events.jsonl; coms plugin list --json");
            format!("{e}\n{}", all.unwrap_or_default())
        },
    )?;
    calmly(stage, "its effect", 60, || Ok(events_named(guest, "effect")?.len() == 2))?;
    assert_eq!(guest.current_host()?.name(), HOSTS[0]);
    let asked = &events_named(guest, "asked")?[1];
    let evidence = &asked["evidence"][0];
    assert_eq!(
        (&asked["reason"], &evidence["workload"]),
        (&"workload-slow".into(), &"database".into()),
        "{asked}"
    );
    let effect = &events_named(guest, "effect")?[1];
    assert_eq!(effect["verdict"], "helped", "{effect}");
    println!("accel=tcg {evidence}\naccel=tcg {effect}");
    Ok(())
}
