//! The scenario `plugin`: what the customer has already measures what only the customer knows.
//!
//! vm1 is a Debian guest with PostgreSQL. A Nagios check (the example packaging/examples/plugins/check_pgbench.sh) says how long
//! a transaction takes. Its host's neighbours get busy, the agent judges what the check says, and the VM moves.

use super::follow::unix_ms;
use super::screen::Screen;
use crate::{HOSTS, Result, Settings, Stage, database, events};
use coms_lab::Guest;
use serde_json::{Value, json};
use std::time::Duration;

const NEIGHBOURS: u8 = 2;
const ASKING: &str = "[asking]\ncooldown_s = 600\nbackoff_s = 15\nsettle_s = 3\ncheck_s = 10\n";
/// A transaction is slow when it takes at least so many times the usual, and is back at no more than this.
const SLOW: f64 = 1.5;
const BACK: f64 = 1.3;

pub(super) fn plugin(screen: &mut Screen) -> Result<Vec<String>> {
    screen.phase("Two libvirt hosts with one CPU each, a broker on each, and vm1: Debian with PostgreSQL");
    let stage = Stage::up(Settings::default())?;
    let agent = format!("{ASKING}{}", database::SLOW_DATABASE);
    let guest = database::boot(&stage, 0, &agent, database::PGBENCH, Vec::new())?;
    let neighbours = database::neighbours(&stage, 0, NEIGHBOURS)?;
    screen.note(&format!("vm1 and {NEIGHBOURS} idle neighbours run on {}", HOSTS[0]));

    screen.phase("The customer's Nagios check, tried: coms plugin test pgbench --count 2");
    let test = ["coms", "plugin", "test", "pgbench", "--count", "2"];
    screen.line(guest.exec_with(&test, "", Duration::from_secs(60))?.success()?.trim_end());
    guest.sh("systemctl start coms-plugins")?;

    screen.phase("The neighbours are idle: the agent learns how long a transaction usually takes");
    let mut show = Show { guest: &guest, zero_ms: unix_ms(), taken: 0, events: 0, all: Vec::new() };
    show.until(screen, &stage, "workload_learned", 90)?;
    let learned = show.all.len();
    show.until_measured(screen, &stage, learned + 5)?;
    let usual_ms = median(&show.all);

    screen.phase("The neighbours get busy, and stay busy to the end");
    for neighbour in &neighbours {
        neighbour.start_hog(1)?;
    }
    show.zero_ms = unix_ms();
    let busy = show.all.len();
    show.until(screen, &stage, "accepted", 120)?;
    let slow_ms = median(show.all.get(busy + 1..).unwrap_or_default());
    show.until(screen, &stage, "effect", 90)?;
    let moved = show.all.len();
    show.until_measured(screen, &stage, moved + 8)?;
    let after_ms = median(&show.all[moved..]);

    let log = events(&guest)?;
    let one = |name: &str| log.iter().find(|e| e["event"] == name).cloned().unwrap_or_default();
    let (asked, completed, effect) = (one("asked"), one("completed"), one("effect"));
    let mut missing = Vec::new();
    let mut expect = |shown: bool, what: String| {
        if !shown {
            missing.push(what);
        }
    };
    let rule = &asked["evidence"][0]["workload"];
    expect(rule == "database", format!("the check's latency to be why it asks: {asked}"));
    expect(guest.current_host()?.name() == HOSTS[1], "the move".to_owned());
    expect(effect["verdict"] == "helped", format!("help: {effect}"));
    let (slow, back) = (slow_ms / usual_ms, after_ms / usual_ms);
    expect(
        slow >= SLOW,
        format!("slow transactions beside busy neighbours: {slow:.2} of the usual; wanted: {SLOW}"),
    );
    expect(
        back <= BACK,
        format!("usual ones after the move: {back:.2} of the usual; wanted: at most {BACK}"),
    );

    screen.phase("A transaction took, by the check (medians, accel=tcg)");
    for (when, ms) in
        [("usually", usual_ms), ("beside busy neighbours", slow_ms), ("after the move", after_ms)]
    {
        screen.note(&format!("{when:<24}{ms:>7.2} ms"));
    }
    let result = json!({
        "scenario": "plugin",
        "accel": "tcg",
        "shown": missing.is_empty(),
        "not_shown": missing,
        "usual_ms": usual_ms,
        "slow_ms": slow_ms,
        "after_ms": after_ms,
        "downtime_ms": completed["downtime_ms"],
        "total_ms": completed["total_ms"],
        "effect": effect,
        "measured_ms": show.all,
        "events": log,
    });
    let dir = coms_lab::workspace_root().join("target/demo");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("plugin.json"), serde_json::to_string_pretty(&result)? + "\n")?;
    screen.line(&format!("\n{}/plugin.json", dir.display()));
    stage.finish(&[&guest])?;
    Ok(missing)
}

/// Looks at what the check said and what the agent made of it, once a second.
struct Show<'a> {
    guest: &'a Guest,
    zero_ms: f64,
    /// The check's samples when last looked at.
    taken: u64,
    /// The agent's events that were shown.
    events: usize,
    /// What the check said, in order.
    all: Vec<f64>,
}

impl Show<'_> {
    /// Until the agent has told of this.
    fn until(&mut self, screen: &mut Screen, stage: &Stage, event: &str, seconds: u64) -> Result<()> {
        stage.wait(event, seconds, || {
            let log = self.look(screen)?;
            Ok(log.iter().any(|e| e["event"] == event))
        })
    }

    fn until_measured(&mut self, screen: &mut Screen, stage: &Stage, count: usize) -> Result<()> {
        stage.wait("more of the check", 60, || {
            self.look(screen)?;
            Ok(self.all.len() >= count)
        })
    }

    fn look(&mut self, screen: &mut Screen) -> Result<Vec<Value>> {
        std::thread::sleep(Duration::from_millis(900));
        let list: Value = serde_json::from_str(&self.guest.sh("coms plugin list --json")?)?;
        let log = events(self.guest)?;
        let at_s = (unix_ms() - self.zero_ms) / 1000.0;
        let plugin = &list["plugins"][0];
        let samples = plugin["samples"].as_u64().unwrap_or_default();
        if let Some(us) = plugin["last"]["latency_us"].as_f64().filter(|_| samples > self.taken) {
            let ms = us / 1000.0;
            self.taken = samples;
            self.all.push(ms);
            screen.note(&format!("{at_s:>4.0} s  a transaction takes {ms:>6.2} ms"));
        }
        for event in &log[self.events.min(log.len())..] {
            screen.event(at_s, "vm1", event);
        }
        self.events = log.len();
        Ok(log)
    }
}

/// Not a number: there are none.
fn median(all: &[f64]) -> f64 {
    let mut all = all.to_vec();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
