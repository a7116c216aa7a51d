//! What the agent costs the guest that it runs in, beside qemu-guest-agent in the same systemd guest: memory, and how
//! often it wakes up, over ten minutes with one probe and one migration.
//!
//! A wake-up is a voluntary context switch of any of its threads (/proc/PID/task/*/status): it waited, and was woken.
//! Those of the migration are counted apart from those of the quiet time before and after.

use crate::amount;
use crate::pool::Pool;
use crate::report::{Finding, Judged};
use crate::stats::Estimate;
use coms_broker::records::MoveState;
use coms_lab::{Guest, GuestConfig, System};
use coms_story::{Result, coms, wait};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// libvirt attaches to a port of this name by itself, at both hosts, as it does everywhere.
const QGA_PORT: &str = "org.qemu.guest_agent.0";
/// One probe a second of a service in the guest.
const AGENT_TOML: &str = "[[workload]]\nname = \"service\"\nprobe = { tcp = \"127.0.0.1:7000\" }\n";
const PROBES_PER_S: f64 = 1.0;
/// A probe: its time has come; the connection stands; its result is taken.
const WAKES_PER_PROBE: f64 = 3.0;
/// Both ends send one every 15 s: ours is due; theirs comes; the answer to the clocks' question that rides on it.
const HEARTBEATS_PER_S: f64 = 1.0 / 15.0;
const WAKES_PER_HEARTBEAT: f64 = 6.0;
/// After the migration: its clocks are compared, its effect is measured, its state is saved.
const MOVE_TAKES: Duration = Duration::from_secs(45);
const SAMPLE_EVERY: Duration = Duration::from_secs(15);

pub fn run() -> Result<(Value, Vec<Finding>)> {
    let minutes = amount("COMS_BENCH_MINUTES", 10)?;
    let pool = Pool::up(&[0, 1])?;
    let config = GuestConfig {
        memory_mib: 512,
        system: System::Debian,
        more_ports: vec![QGA_PORT.into()],
        ..GuestConfig::default()
    };
    let guest = pool.boot(0, config, AGENT_TOML)?;
    let pids = [pid(&guest, "coms-agent")?, pid(&guest, "qemu-guest-agent")?];
    let all = Duration::from_secs(60 * minutes as u64);
    let half = all / 2;
    // What starting up did is not what running costs.
    std::thread::sleep(Duration::from_secs(20).min(half));

    let begun = Instant::now();
    let mut quiet = Quiet::default();
    let mut samples = Vec::new();
    watch(&guest, pids, begun, half, &mut quiet, &mut samples)?;
    let before_move = look(&guest, pids)?;
    coms(&guest, &["migrate"])?;
    wait("the guest to arrive", 60, || {
        let records = pool.records_of(1)?;
        Ok(records.last().is_some_and(|r| r.state == MoveState::Completed))
    })?;
    std::thread::sleep(MOVE_TAKES);
    let after_move = look(&guest, pids)?;
    watch(&guest, pids, begun, all, &mut quiet, &mut samples)?;
    let last = look(&guest, pids)?;
    let threads = guest.sh(&format!("ls /proc/{}/task | wc -l", pids[0]))?;
    let rollup = |pid: u32| guest.sh(&format!("cat /proc/{pid}/smaps_rollup"));
    let rollups = [rollup(pids[0])?, rollup(pids[1])?];
    pool.finish()?;

    let ratio = last.pss_kib[0] / last.pss_kib[1];
    let pss = "memory (Pss) of coms-agent / qemu-guest-agent after ten minutes, one probe, one migration";
    let budget = PROBES_PER_S * WAKES_PER_PROBE + HEARTBEATS_PER_S * WAKES_PER_HEARTBEAT;
    let each: Vec<f64> = quiet.per_s.iter().map(|w| w[0]).collect();
    let rate = crate::stats::estimate(&each, 0.5);
    let mean = quiet.wakes[0] / quiet.seconds;
    let wakes = "wake-ups of the agent while quiet, probing once a second; the goal is the budget";
    let findings = vec![
        Finding::plain("pss", pss, "ratio", "once", ratio)
            .goal(0.5, Judged::Value)
            .detail("coms_agent_kib", last.pss_kib[0])
            .detail("qemu_guest_agent_kib", last.pss_kib[1])
            .detail("agent_threads", threads.trim()),
        Finding::new("wake-ups", wakes, "per s", "mean", Estimate { value: mean, ..rate })
            .of(each.len(), rate.value)
            .goal(budget, Judged::Value)
            .detail(
                "budget",
                format!(
                    "{PROBES_PER_S} probe/s x {WAKES_PER_PROBE} + {HEARTBEATS_PER_S:.3} heartbeats/s x \
                     {WAKES_PER_HEARTBEAT}"
                ),
            )
            .detail("quiet_s", quiet.seconds)
            .detail("qemu_guest_agent_per_s", quiet.wakes[1] / quiet.seconds)
            .detail("by_the_migration", after_move.wakes[0] - before_move.wakes[0])
            .detail("by_the_migration_s", after_move.at_s - before_move.at_s),
    ];
    let raw =
        json!({ "samples": samples, "smaps_rollup": { "coms-agent": rollups[0], "qemu-ga": rollups[1] } });
    Ok((raw, findings))
}

/// Counters of both agents; the first is ours.
struct Look {
    at_s: f64,
    wakes: [f64; 2],
    pss_kib: [f64; 2],
}

/// Time in which nothing was asked of the agents.
#[derive(Default)]
struct Quiet {
    seconds: f64,
    wakes: [f64; 2],
    per_s: Vec<[f64; 2]>,
}

fn watch(
    guest: &Guest,
    pids: [u32; 2],
    begun: Instant,
    until: Duration,
    quiet: &mut Quiet,
    samples: &mut Vec<Value>,
) -> Result<()> {
    let mut last = look(guest, pids)?;
    while begun.elapsed() < until {
        std::thread::sleep(SAMPLE_EVERY.min(until.saturating_sub(begun.elapsed())));
        let now = look(guest, pids)?;
        let seconds = now.at_s - last.at_s;
        let wakes = [now.wakes[0] - last.wakes[0], now.wakes[1] - last.wakes[1]];
        quiet.seconds += seconds;
        quiet.wakes = [quiet.wakes[0] + wakes[0], quiet.wakes[1] + wakes[1]];
        quiet.per_s.push(wakes.map(|w| w / seconds));
        samples.push(json!({ "seconds": seconds, "wakes": wakes, "pss_kib": now.pss_kib }));
        last = now;
    }
    Ok(())
}

fn look(guest: &Guest, pids: [u32; 2]) -> Result<Look> {
    // By the guest's own clock, read beside the counters.
    let [ours, theirs] = pids.map(|p| {
        format!("cat /proc/{p}/task/*/status | grep ^voluntary; echo; cat /proc/{p}/smaps_rollup; echo =")
    });
    let text = guest.sh(&format!("cat /proc/uptime; echo =; {ours}; {theirs}"))?;
    let parts: Vec<&str> = text.split("=\n").collect();
    let [uptime, ours, theirs, ..] = parts.as_slice() else { return Err(format!("counters: {text}").into()) };
    let wakes = |text: &str| -> f64 {
        let counts = text.lines().filter_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        counts.filter_map(|n| n.trim().parse::<f64>().ok()).sum()
    };
    let at_s = uptime.split(' ').next().and_then(|s| s.parse().ok()).ok_or("no uptime")?;
    let pss = |text: &str| pss_kib_in(text).ok_or_else(|| format!("no Pss in {text}"));
    Ok(Look { at_s, wakes: [wakes(ours), wakes(theirs)], pss_kib: [pss(ours)?, pss(theirs)?] })
}

pub fn pss_kib_in(smaps_rollup: &str) -> Option<f64> {
    let line = smaps_rollup.lines().find_map(|l| l.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn pid(guest: &Guest, unit: &str) -> Result<u32> {
    let mut found = 0;
    wait(&format!("{unit} to run in the guest"), 60, || {
        found = guest.sh(&format!("systemctl show -P MainPID {unit}"))?.trim().parse()?;
        Ok(found != 0)
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    #[test]
    fn pss_is_not_one_of_its_parts() {
        let text = "Rss:  1000 kB\nPss_Dirty: 3 kB\nPss:                 812 kB\nPss_Anon: 1 kB\n";
        assert_eq!(super::pss_kib_in(text), Some(812.0));
    }
}
