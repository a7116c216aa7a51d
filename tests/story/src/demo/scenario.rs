//! The scenario `neighbours`: the COMS paper's Figure 1.
//!
//! vm1 computes in rounds on a host of one CPU that it shares with idle neighbours. They get busy and stay busy.
//! In the main run its agent notices, asks, and moves to an idle host. In the control run the operator's
//! configuration denies the same request.

use super::echo::Probing;
use super::follow::{Follow, GuestClock, unix_ms};
use super::measure::{Figures, Round, Run, missing};
use super::screen::Screen;
use super::{svg, table};
use crate::{HOSTS, Result, Settings, Stage, coms, events};
use coms_lab::{Client, Guest, GuestConfig, Workload, guest_spec::ROUNDS_PATH};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

/// As many as in the paper.
const NEIGHBOURS: u8 = 4;
const NOISY: &str = "noisy";
const NEIGHBOUR_MIB: u32 = 128;
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 78, 200, 1);

/// Idle for at least so long, and until the agent knows its baseline.
const BASELINE: Duration = Duration::from_secs(20);
const BASELINE_MAX: Duration = Duration::from_secs(60);
/// Busy for at least so long, and until the agent knows whether it helped.
const LOADED: Duration = Duration::from_secs(40);
const LOADED_MAX: Duration = Duration::from_secs(80);

/// Windows far shorter than anyone would want at home: the audience waits.
const AGENT: &str = r#"
[asking]
cooldown_s = 600
backoff_s = 15
settle_s = 3
check_s = 10

[[workload]]
name = "rounds"
probe = { http = "http://127.0.0.1:8080/" }
interval_ms = 400
metric = "p50"
window_s = 4
slower_than_factor = 1.8
for_s = 8
learn_s = 12
"#;

/// Both runs, the table, the chart and the figures.
pub(super) fn neighbours(screen: &mut Screen) -> Result<Vec<String>> {
    let otherwise = busy_otherwise();
    if otherwise.is_some_and(|busy| busy > 0.2) {
        screen.note(
            "this machine is busy with something else: all that follows takes longer, and is less sure",
        );
    }
    screen.phase("Two libvirt hosts with one CPU each, and a broker on each");
    let mut stage = Stage::up(Settings::default())?;
    screen.note(&format!("{} and {} are up; logs: {}", HOSTS[0], HOSTS[1], stage.lab.dir().display()));
    let outside = stage.lab.client("outside", OUTSIDE)?;
    let neighbours = boot_neighbours(&stage)?;
    screen.note(&format!("{NEIGHBOURS} neighbours idle on {}", HOSTS[0]));

    let guest = boot_vm1(screen, &stage)?;
    let main = play(screen, &stage, &outside, &neighbours, &guest, Plan::Move)?;
    guest.destroy()?;
    each(&neighbours, Guest::stop_hog)?;

    screen.phase("The control run: the same load, and the operator's configuration lets no guest take part");
    stage.reconfigure(|s| s.enabled = "[]".into())?;
    let loaded = Duration::from_secs_f64(main.run.ended_s);
    let guest = boot_vm1(screen, &stage)?;
    let control = play(screen, &stage, &outside, &neighbours, &guest, Plan::Stay(loaded))?;

    let figures = Figures::of(&main.run, &control.run);
    let mut missing = missing(&figures, &main.run, &control.run, &main.log);
    if control.log.iter().any(|e| e["event"] == "completed") {
        missing.push("a control run: its guest was moved".into());
    }
    if !control.log.iter().any(|e| e["event"] == "denied") {
        missing.push("a control run: its guest was not denied".into());
    }
    // Alone there and always at work, vm1 uses all that it is given.
    let given = load_of(&main.busy_load, HOSTS[1]);
    if let Some(given) = given.filter(|given| *given < 0.9 && !missing.is_empty()) {
        screen.note(&format!(
            "something else on this machine used {:.0} % of {}'s CPU: try again when it is quiet",
            (1.0 - given) * 100.0,
            HOSTS[1]
        ));
    }
    let result = json!({
        "scenario": "neighbours",
        "accel": "tcg",
        "shown": missing.is_empty(),
        "not_shown": missing,
        "baseline_ms": figures.baseline_ms,
        "degraded_ms": figures.degraded_ms,
        "after_ms": figures.after_ms,
        "control_baseline_ms": figures.control_baseline_ms,
        "control_ms": figures.control_ms,
        "control_last_third_ms": figures.control_last_third_ms,
        "asked_after_ms": main.run.asked_s.map(|s| (s * 1000.0).round()),
        "request_to_migrate_call_ms": main.source["request_to_call_ms"],
        "total_ms": main.completed()["total_ms"],
        "downtime_ms": main.completed()["downtime_ms"],
        "client_gap_ms": main.client_gap_ms,
        "client_gap_copying_ms": main.client_gap_copying_ms,
        "guest_gap_ms": main.completed()["guest_gap_ms"],
        "guest_gap_error_ms": main.completed()["guest_gap_error_ms"],
        "resumed_to_told_ms": main.destination["resumed_to_told_ms"],
        "bytes": main.completed()["bytes"],
        "technique": main.completed()["technique"],
        "outcome": main.completed()["outcome"],
        "effect": main.log.iter().find(|e| e["event"] == "effect"),
        "from": main.completed()["from"],
        "to": main.completed()["to"],
        "hosts_considered": main.source["considered"],
        "times_s": "since the neighbours got busy",
        "main": main.to_json(),
        "control": control.to_json(),
        "machine_busy_otherwise": otherwise,
        "versions": versions(&stage, &guest),
    });
    let dir = coms_lab::workspace_root().join("target/demo");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("result.json"), serde_json::to_string_pretty(&result)? + "\n")?;
    std::fs::write(dir.join("figure1.svg"), svg::chart(&figures, &main.run, &control.run))?;
    screen.line(&table::table(&figures, &result));
    screen.line(&format!("\n{0}/figure1.svg\n{0}/result.json", dir.display()));
    stage.finish(&[&guest])?;
    Ok(missing)
}

fn boot_neighbours(stage: &Stage) -> Result<Vec<Guest>> {
    let boot = |i: u8| {
        let config = GuestConfig {
            name: format!("{NOISY}{i}"),
            ip: Ipv4Addr::new(10, 78, 1, i),
            memory_mib: NEIGHBOUR_MIB,
            port: false,
            ..GuestConfig::default()
        };
        stage.lab.boot(config, HOSTS[0])
    };
    thread::scope(|scope| {
        let boots: Vec<_> = (1..=NEIGHBOURS).map(|i| scope.spawn(move || boot(i))).collect();
        let booted: Vec<_> = boots.into_iter().map(|b| b.join().map_err(|_| "a boot panicked")).collect();
        booted.into_iter().map(|b| Ok(b??)).collect()
    })
}

fn boot_vm1(screen: &mut Screen, stage: &Stage) -> Result<Guest> {
    // Probes must cost little also of a fifth of a CPU, or the rounds tell of them rather than of the neighbours.
    let workload = Workload { request_iterations: 1_000_000, ..Workload::default() };
    let config = GuestConfig { workload: Some(workload), ..GuestConfig::default() };
    let guest = stage.boot(0, config, AGENT)?;
    screen.note(&format!("vm1 computes in rounds on {}, its agent watches", HOSTS[0]));
    Ok(guest)
}

/// The same for all of them, at once.
fn each(guests: &[Guest], act: fn(&Guest) -> coms_lab::Result<()>) -> Result<()> {
    thread::scope(|scope| {
        let acts: Vec<_> = guests.iter().map(|g| scope.spawn(move || act(g))).collect();
        let done: Vec<_> = acts.into_iter().map(|a| a.join().map_err(|_| "a thread panicked")).collect();
        done.into_iter().try_for_each(|d| Ok(d??))
    })
}

#[derive(Clone, Copy)]
enum Plan {
    /// The agent may ask, and is moved.
    Move,
    /// It may ask; busy for this long.
    Stay(Duration),
}

/// A run that is over.
struct Played {
    run: Run,
    /// The guest's own.
    log: Vec<Value>,
    /// The move as the two brokers remember it; null without one.
    source: Value,
    destination: Value,
    /// See [`Probing::gaps_ms`].
    client_gap_ms: Option<f64>,
    client_gap_copying_ms: Option<f64>,
    idle_load: Value,
    busy_load: Value,
}

impl Played {
    /// What the guest was told; null if it was not.
    fn completed(&self) -> &Value {
        self.log.iter().find(|e| e["event"] == "completed").unwrap_or(&Value::Null)
    }

    fn to_json(&self) -> Value {
        let run = &self.run;
        let s = |s: Option<f64>| s.map(|s| (s * 1000.0).round() / 1000.0);
        json!({
            "phases": {
                "baseline_began_s": s(Some(run.began_s)),
                "neighbours_busy_s": 0,
                "asked_s": s(run.asked_s),
                "migrate_called_s": s(run.called_s),
                "resumed_s": s(run.resumed_s),
                "completed_s": s(run.completed_s),
                "ended_s": s(Some(run.ended_s)),
            },
            "neighbours_load_at_end": run.neighbours_load,
            "hosts_while_idle": self.idle_load,
            "hosts_at_end": self.busy_load,
            "rounds": run.raw(),
            "events": self.log,
        })
    }
}

fn play(
    screen: &mut Screen,
    stage: &Stage,
    outside: &Client,
    neighbours: &[Guest],
    guest: &Guest,
    plan: Plan,
) -> Result<Played> {
    let clock = GuestClock::compare(guest)?;
    let place = coms(guest, &["status"])?["place"]["region"].as_str().unwrap_or("unknown").to_owned();
    let mut watch = Watch {
        rounds: Follow::start(outside, guest, &format!("tail -n +1 -F {ROUNDS_PATH}"))?,
        events: Follow::start(outside, guest, "coms --json watch")?,
        clock,
        zero_ms: unix_ms(),
        place,
        seen: Vec::new(),
        echo: Probing::new(outside, guest.ip()),
        plan,
    };

    screen.phase("The neighbours are idle: what is normal for vm1");
    screen.set_normal(None);
    let began_ms = unix_ms();
    let mut normal = watch.until(screen, |seen| {
        let learned = seen.iter().any(|e| e["event"] == "workload_learned");
        let elapsed = since(began_ms);
        elapsed >= BASELINE && learned || elapsed >= BASELINE_MAX
    })?;
    let idle_load = stage.comsctl(0, &["hosts"])?;
    normal.sort_by(f64::total_cmp);
    screen.set_normal(normal.get(normal.len() / 2).copied());

    screen.phase("The neighbours get busy, and stay busy to the end");
    let busy_ms = unix_ms();
    watch.zero_ms = busy_ms;
    each(neighbours, |g| g.start_hog(1))?;
    watch.until(screen, |seen| {
        let elapsed = since(busy_ms);
        match plan {
            Plan::Stay(long) => elapsed >= long,
            Plan::Move => {
                let judged = seen.iter().any(|e| e["event"] == "effect");
                elapsed >= LOADED && judged || elapsed >= LOADED_MAX
            }
        }
    })?;
    let ended_ms = unix_ms();
    let busy_load = stage.comsctl(0, &["hosts"])?;

    let log = events(guest)?;
    let since_busy = |ms: f64| (ms - busy_ms) / 1000.0;
    let at = |event: &str| {
        let event = log.iter().find(|e| e["event"] == event)?;
        Some(since_busy(clock.to_host(unix_ms_of(event)?)))
    };
    let completed = log.iter().find(|e| e["event"] == "completed");
    let migration = completed.and_then(|e| e["migration"].as_str());
    let record = |host| migration.and_then(|m| stage.record(host, m).ok()).unwrap_or(Value::Null);
    let (source, destination) = (record(0), record(1));
    // The destination's broker notes when it hears from libvirt that the guest runs there.
    let resumed_ms = destination["ended_unix_ms"].as_f64();
    let called_ms = source["received_unix_ms"].as_f64().zip(source["request_to_call_ms"].as_f64());
    let mut run = Run {
        rounds: Vec::new(),
        began_s: since_busy(began_ms),
        ended_s: since_busy(ended_ms),
        asked_s: at("asked"),
        called_s: called_ms.map(|(received, call)| since_busy(received + call)),
        resumed_s: resumed_ms.map(since_busy),
        completed_s: at("completed"),
        neighbours_load: neighbours_load(stage)?,
    };
    for line in guest.sh(&format!("cat {ROUNDS_PATH}"))?.lines() {
        let Some((guest_ms, ms)) = parse_round(line) else { continue };
        let round = Round { ended_s: since_busy(clock.to_host(guest_ms)), ms };
        if round.ended_s - ms / 1000.0 >= run.began_s && round.ended_s <= run.ended_s {
            run.rounds.push(round);
        }
    }
    if let Some(completed) = completed {
        screen.note("vm1's own log, /var/log/coms/events.jsonl:");
        let effect = log.iter().find(|e| e["event"] == "effect");
        for event in [Some(completed), effect].into_iter().flatten() {
            let at_ms = unix_ms_of(event).map_or(f64::NAN, |ms| clock.to_host(ms));
            screen.event(since_busy(at_ms), "log", event);
        }
    }
    let gaps = resumed_ms.map_or((None, None), |at| watch.echo.gaps_ms(at));
    let (client_gap_ms, client_gap_copying_ms) = gaps;
    Ok(Played { run, log, source, destination, client_gap_ms, client_gap_copying_ms, idle_load, busy_load })
}

/// Shows the guest's rounds and events as they come, and has the outside client watch the move.
struct Watch<'a> {
    rounds: Follow,
    events: Follow,
    clock: GuestClock,
    /// What times are shown from.
    zero_ms: f64,
    place: String,
    seen: Vec<Value>,
    echo: Probing<'a>,
    plan: Plan,
}

impl Watch<'_> {
    /// Looks until `done`, which gets all events so far; the lengths of the rounds meanwhile.
    fn until(&mut self, screen: &mut Screen, done: impl Fn(&[Value]) -> bool) -> Result<Vec<f64>> {
        let mut all = Vec::new();
        let mut shown = Instant::now();
        while !done(&self.seen) {
            thread::sleep(Duration::from_millis(20));
            self.echo.tick();
            self.take_events(screen)?;
            if shown.elapsed() >= Duration::from_secs(1) {
                shown += Duration::from_secs(1);
                all.extend(self.take_rounds(screen));
            }
        }
        Ok(all)
    }

    fn take_events(&mut self, screen: &mut Screen) -> Result<()> {
        for line in self.events.take() {
            // The first line is the answer to the subscription.
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            match event["event"].as_str() {
                Some("connected") => self.place = event["region"].as_str().unwrap_or("unknown").to_owned(),
                Some("asked") if matches!(self.plan, Plan::Move) => self.echo.start()?,
                Some("completed" | "failed" | "cancelled" | "denied") => self.echo.stop_soon(),
                Some(_) | None => {}
            }
            screen.event(unix_ms_of(&event).map_or(f64::NAN, |ms| self.since(ms)), "vm1", &event);
            self.seen.push(event);
        }
        Ok(())
    }

    /// In order of length.
    fn take_rounds(&mut self, screen: &mut Screen) -> Vec<f64> {
        let rounds: Vec<_> = self.rounds.take().iter().filter_map(|l| parse_round(l)).collect();
        let mut lately: Vec<f64> = rounds.iter().map(|(_, ms)| *ms).collect();
        lately.sort_by(f64::total_cmp);
        if let (Some((last, _)), Some(ms)) = (rounds.last(), lately.get(lately.len() / 2)) {
            screen.round(self.since(*last), &self.place, *ms);
        }
        lately
    }

    fn since(&self, guest_ms: f64) -> f64 {
        (self.clock.to_host(guest_ms) - self.zero_ms) / 1000.0
    }
}

/// How long ago it is.
fn since(ms: f64) -> Duration {
    Duration::from_secs_f64((unix_ms() - ms).max(0.0) / 1000.0)
}

/// `unix_ms monotonic_ms round_ms`: when by the guest's clock, and how long.
fn parse_round(line: &str) -> Option<(f64, f64)> {
    let mut words = line.split(' ').map(str::parse::<f64>);
    match (words.next(), words.next(), words.next()) {
        (Some(Ok(at)), Some(Ok(_)), Some(Ok(ms))) => Some((at, ms)),
        _ => None,
    }
}

/// When an event was, by the guest's clock.
fn unix_ms_of(event: &Value) -> Option<f64> {
    let at: jiff::Timestamp = event["at"].as_str()?.parse().ok()?;
    Some(at.as_millisecond() as f64)
}

fn load_of(hosts: &Value, name: &str) -> Option<f64> {
    hosts.as_array()?.iter().find(|h| h["name"] == name)?["load_per_cpu"].as_f64()
}

/// What the neighbours use of their host's CPU just now. None: libvirt does not say.
fn neighbours_load(stage: &Stage) -> Result<Option<f64>> {
    let look = || -> Result<(Instant, Option<f64>)> {
        let stats = stage.host(0).virsh(&["domstats", "--cpu-total"])?;
        let mut domain = "";
        let mut total_ns = None;
        for line in stats.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("Domain: ") {
                domain = name.trim_matches('\'');
            } else if let Some(ns) = line.strip_prefix("cpu.time=").filter(|_| domain.starts_with(NOISY)) {
                total_ns = Some(total_ns.unwrap_or(0.0) + ns.parse::<f64>()?);
            }
        }
        Ok((Instant::now(), total_ns))
    };
    let (began, before) = look()?;
    thread::sleep(Duration::from_secs(2));
    let (ended, after) = look()?;
    let ns = ended.duration_since(began).as_secs_f64() * 1e9;
    Ok(before.zip(after).map(|(before, after)| ((after - before) / ns * 1000.0).round() / 1000.0))
}

/// How much of its CPUs the machine uses for something else, before anything is begun here.
fn busy_otherwise() -> Option<f64> {
    // user nice system idle iowait irq softirq steal
    let look = || -> Option<(f64, f64)> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let words = stat.lines().next()?.split_whitespace().skip(1).take(8);
        let ticks: Vec<f64> = words.filter_map(|w| w.parse().ok()).collect();
        Some((ticks.iter().sum(), ticks.get(3)? + ticks.get(4)?))
    };
    let (total, idle) = look()?;
    thread::sleep(Duration::from_secs(1));
    let (total_later, idle_later) = look()?;
    Some(((1.0 - (idle_later - idle) / (total_later - total).max(1.0)) * 1000.0).round() / 1000.0)
}

fn versions(stage: &Stage, guest: &Guest) -> Value {
    let libvirt = stage.host(0).virsh(&["version"]).unwrap_or_default();
    let of = |what: &str| libvirt.lines().find_map(|l| l.strip_prefix(what)).map(str::trim);
    json!({
        "coms": env!("CARGO_PKG_VERSION"),
        "libvirt": of("Using library: libvirt"),
        "qemu": of("Running hypervisor: QEMU"),
        "guest_kernel": guest.sh("uname -r").ok().map(|v| v.trim().to_owned()),
        "host_kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|v| v.trim().to_owned()),
    })
}
