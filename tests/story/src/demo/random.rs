//! The scenario `random`: the COMS paper's module D. A VM is moved at random times over three hosts, told of each
//! move and of none before it, until its budget is used up.

use super::follow::unix_ms;
use super::random_svg::{self, Shown};
use super::screen::Screen;
use crate::{HOSTS, Result, Settings, Stage, coms, events_named};
use coms_lab::{Guest, GuestConfig};
use coms_protocol::gap::Gaps;
use coms_protocol::types::GapLaw;
use serde_json::{Value, json};
use std::thread;
use std::time::Duration;

const MOVES: usize = 24;
/// Far shorter than anyone would want at home: the audience waits.
const LEAST_S: u32 = 2;
const MOST_S: u32 = 10;
/// Twice what the longest gaps would take.
const PATIENCE_S: f64 = 600.0;
/// The last move is told when the guest's clocks have been compared, which may be after the budget's end is told.
const LAST_S: f64 = 20.0;

/// One stay on a host, in seconds since the beginning.
pub struct Stay {
    pub host: usize,
    pub from_s: f64,
    /// None: it is still there.
    pub to_s: Option<f64>,
}

impl Stay {
    /// From the arrival to the next move's beginning.
    pub fn length_s(&self) -> Option<f64> {
        Some(self.to_s? - self.from_s)
    }
}

pub(super) fn random(screen: &mut Screen) -> Result<Vec<String>> {
    screen.phase("Three libvirt hosts, a broker on each; the operator offers random moves over all of them");
    let pool = HOSTS.map(|h| format!("\"{h}\"")).join(", ");
    let stage = Stage::up(Settings {
        limits: format!("[random]\npool = [{pool}]\nmin_gap_s = {LEAST_S}"),
        hosts: vec![(0, None), (1, None), (0, None)],
        ..Settings::default()
    })?;
    let guest = stage.boot(0, GuestConfig::default(), "")?;
    screen.note(&format!("vm1 runs on {}; logs: {}", HOSTS[0], stage.lab.dir().display()));

    let between = format!("{LEAST_S}s..{MOST_S}s");
    screen.phase(&format!("vm1: coms random start --between {between} --max-per-day {MOVES}"));
    let began_ms = unix_ms();
    coms(&guest, &["random", "start", "--between", &between, "--max-per-day", &MOVES.to_string()])?;
    let status = coms(&guest, &["random", "status", "--stay", "5s"])?;
    screen.note("The chance to be on one host for longer than");
    for stay in status["stays"].as_array().into_iter().flatten() {
        let chance = stay["chance"].as_f64().unwrap_or(f64::NAN) * 100.0;
        screen.note(&format!(
            "  {:>5} s  {chance:>5.1} %  {}",
            stay["longer_than_s"],
            stay["what"].as_str().unwrap_or_default()
        ));
    }
    let (told, used_up) = watch(screen, &guest, began_ms)?;
    let quiet_for = Duration::from_secs(u64::from(MOST_S) + 3);
    screen.note(&format!("for {} s nothing may happen now", quiet_for.as_secs()));
    thread::sleep(quiet_for);
    let afterwards = events_named(&guest, "completed")?.len();
    let ended_s = (unix_ms() - began_ms) / 1000.0;

    let stays = stays(&stage, began_ms)?;
    let law = Gaps::new(GapLaw::Exponential, LEAST_S, MOST_S).ok_or("no law")?;
    // The first one begins when the guest asks, the last one has no next move.
    let gaps_s: Vec<f64> = stays.iter().filter_map(Stay::length_s).collect();
    let shown = Shown { stays: &stays, ended_s, gaps_s: &gaps_s, law, least_s: LEAST_S, most_s: MOST_S };
    let missing = missing(&told, used_up, afterwards, &stays, &gaps_s);
    let number = |key: &str| told.iter().filter_map(|e| e[key].as_f64()).collect::<Vec<_>>();
    let result = json!({
        "scenario": "random",
        "accel": "tcg",
        "shown": missing.is_empty(),
        "not_shown": missing,
        "between_s": [LEAST_S, MOST_S],
        "law": "exponential",
        "moves": told.len(),
        "gap_mean_s": mean(&gaps_s),
        "gap_mean_by_law_s": law.mean_s(),
        "gaps_s": gaps_s,
        "hosts": stays.iter().map(|s| HOSTS[s.host]).collect::<Vec<_>>(),
        "downtime_ms": number("downtime_ms"),
        "total_ms": number("total_ms"),
        "status": status,
        "events": told,
    });
    let dir = coms_lab::workspace_root().join("target/demo");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("random.json"), serde_json::to_string_pretty(&result)? + "\n")?;
    std::fs::write(dir.join("random.svg"), random_svg::chart(&shown))?;
    table(screen, &result, &stays);
    screen.line(&format!("\n{0}/random.svg\n{0}/random.json", dir.display()));
    stage.finish(&[&guest])?;
    Ok(missing)
}

/// Shows what the guest hears until its budget is used up: its moves, and whether it was told that they end.
fn watch(screen: &mut Screen, guest: &Guest, began_ms: f64) -> Result<(Vec<Value>, bool)> {
    screen.phase("What vm1 hears");
    let mut shown = 0;
    let mut used_up_s = None;
    loop {
        let told = events_named(guest, "completed")?;
        let now_s = (unix_ms() - began_ms) / 1000.0;
        for event in told.iter().skip(shown) {
            screen.event(now_s, "vm1", event);
        }
        shown = told.len();
        let states = events_named(guest, "random")?;
        let used_up = states.iter().any(|e| e["state"] == "budget-used-up");
        if used_up && used_up_s.is_none() {
            screen.note(&format!("{now_s:.1} s: the budget of {MOVES} moves is used up"));
            used_up_s = Some(now_s);
        }
        let over = used_up_s.is_some_and(|since| told.len() >= MOVES || now_s > since + LAST_S);
        if over || now_s > PATIENCE_S {
            return Ok((told, used_up));
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Where it was and when, as the brokers remember it.
fn stays(stage: &Stage, began_ms: f64) -> Result<Vec<Stay>> {
    let since = |v: &Value| v.as_f64().map(|ms| (ms - began_ms) / 1000.0);
    let mut left = Vec::new();
    let mut came = Vec::new();
    for host in 0..HOSTS.len() {
        for r in stage.comsctl(host, &["migrations"])?.as_array().into_iter().flatten() {
            match r["state"].as_str() {
                Some("left") => left.extend(since(&r["received_unix_ms"]).map(|s| (s, host))),
                Some("completed" | "arrived") => came.extend(since(&r["ended_unix_ms"]).map(|s| (s, host))),
                Some(_) | None => {}
            }
        }
    }
    left.sort_by(|a, b| a.0.total_cmp(&b.0));
    came.push((0.0, 0));
    came.sort_by(|a, b| a.0.total_cmp(&b.0));
    let to = left.iter().map(|(s, _)| Some(*s)).chain(std::iter::repeat(None));
    Ok(came.into_iter().zip(to).map(|((from_s, host), to_s)| Stay { host, from_s, to_s }).collect())
}

fn missing(told: &[Value], used_up: bool, afterwards: usize, stays: &[Stay], gaps_s: &[f64]) -> Vec<String> {
    let mut out = Vec::new();
    if told.len() != MOVES {
        out.push(format!("{MOVES} moves: there were {}", told.len()));
    }
    if !used_up {
        out.push("that the guest is told when its budget is used up".into());
    }
    if afterwards != told.len() {
        out.push("an end at the budget: it was moved afterwards".into());
    }
    if told.iter().any(|e| e["initiator"] != "random") {
        out.push("moves that are told as random".into());
    }
    for (host, name) in HOSTS.iter().enumerate() {
        if !stays.iter().any(|s| s.host == host) {
            out.push(format!("every host in use: {name} was not"));
        }
    }
    if stays.windows(2).any(|w| w[0].host == w[1].host || w[0].to_s.is_none_or(|to| to > w[1].from_s)) {
        out.push("each move to another host, one at a time".into());
    }
    if gaps_s.iter().any(|g| *g < f64::from(LEAST_S)) {
        out.push(format!("no gap below {LEAST_S} s"));
    }
    out
}

pub fn mean(all: &[f64]) -> Option<f64> {
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

fn table(screen: &mut Screen, result: &Value, stays: &[Stay]) {
    let by_host = HOSTS.iter().enumerate().map(|(i, name)| {
        let n = stays.iter().filter(|s| s.host == i).count();
        format!("{name} {n}")
    });
    let median = |key: &str| {
        let mut all: Vec<f64> =
            result[key].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).map_or("unknown".to_owned(), |v| format!("{v:.0} ms"))
    };
    let s = |key: &str| result[key].as_f64().map_or("unknown".to_owned(), |v| format!("{v:.1} s"));
    screen.line("");
    for (what, value) in [
        ("random moves", result["moves"].to_string()),
        ("stays by host", by_host.collect::<Vec<_>>().join(", ")),
        ("gap, mean here", s("gap_mean_s")),
        ("gap, mean by the law", s("gap_mean_by_law_s")),
        ("migration, median (accel=tcg)", median("total_ms")),
        ("downtime, median (accel=tcg)", median("downtime_ms")),
    ] {
        screen.line(&format!("  {what:<30}{value}"));
    }
    screen.line("  (A gap here is up to 2 s longer than drawn: a broker looks at its clock once a second.)");
}
