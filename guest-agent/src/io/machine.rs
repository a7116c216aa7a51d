//! Measures this machine: what the kernel counts, and what a fixed piece of work costs.
//!
//! The work's cost is the CPU time of the thread that does it. Other tasks of this guest do not add to it; time
//! that the host keeps from the virtual CPU does, unless the hypervisor tells the guest of it: then it is steal.
//! A thread of its own does it, once, so that nothing else waits for it.

use super::now;
use crate::event::{Counters, Event, Measured};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::hint::black_box;
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::debug;

/// Rounds of one unit of work: some tenths of a millisecond.
const UNIT: u32 = 100_000;

/// Measures aside; the result comes as [`Event::Measured`].
pub(super) fn measure(units: u32, to: &mpsc::Sender<Event>) {
    let there = to.clone();
    let spawned = thread::Builder::new().name("measure".to_owned()).stack_size(64 * 1024).spawn(move || {
        let before = counters();
        let begun = cpu_time();
        work(units);
        let cost = cpu_time().saturating_sub(begun);
        // Nobody listens at the agent's end.
        let _ = there.blocking_send(Event::Measured(Measured {
            before,
            after: counters(),
            units,
            cost: Some(cost),
        }));
    });
    if let Err(e) = spawned {
        debug!("no thread to measure with: {e}");
        let seen = counters();
        let _ = to.try_send(Event::Measured(Measured { before: seen, after: seen, units, cost: None }));
    }
}

/// Each step needs the one before it: no compiler and no CPU can take a short cut.
fn work(units: u32) {
    for _ in 0..units {
        let mut x = black_box(0x9e37_79b9_7f4a_7c15_u64);
        for _ in 0..UNIT {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        black_box(x);
    }
}

fn cpu_time() -> Duration {
    super::since_zero(clock_gettime(ClockId::ThreadCPUTime))
}

/// What the kernel has counted until now. What it does not tell is absent.
pub fn counters() -> Counters {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/stat");
    let (all_ticks, steal_ticks) = ticks(&stat).unzip();
    Counters {
        at: now().mono,
        waited_us: queued_us(&read("/proc/schedstat")).or_else(|| waited_us(&read("/proc/pressure/cpu"))),
        crowded: crowded(&stat),
        all_ticks,
        steal_ticks,
        packets: packets(&read("/proc/net/dev")),
    }
}

/// All time, and that stolen, of all CPUs. Guest time is in user time already.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|l| l.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|f| f.parse().ok()).take(8).collect();
    Some((ticks.iter().sum(), *ticks.get(7)?))
}

/// More tasks want to run than there are CPUs, without the thread that looks.
fn crowded(stat: &str) -> Option<bool> {
    let is_cpu =
        |l: &&str| l.strip_prefix("cpu").is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
    let cpus = stat.lines().filter(is_cpu).count();
    let running: usize = stat.lines().find_map(|l| l.strip_prefix("procs_running "))?.trim().parse().ok()?;
    (cpus > 0).then_some(running.saturating_sub(1) > cpus)
}

/// Time that tasks waited for a CPU, added up over all tasks, per CPU: also tells much from more.
fn queued_us(schedstat: &str) -> Option<u64> {
    let is_cpu =
        |l: &&str| l.strip_prefix("cpu").is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
    // Version 15 of the layout and those after it agree here: the eighth number, in nanoseconds.
    let delay = |l: &str| l.split_whitespace().nth(8)?.parse::<u64>().ok();
    let delays: Vec<u64> = schedstat.lines().filter(is_cpu).map(delay).collect::<Option<_>>()?;
    (delays.iter().sum::<u64>() / 1000).checked_div(u64::try_from(delays.len()).ok()?)
}

/// Time in which some task waited for a CPU: where the kernel does not count the above.
fn waited_us(pressure: &str) -> Option<u64> {
    let some = pressure.lines().find(|l| l.starts_with("some "))?;
    some.split_whitespace().find_map(|f| f.strip_prefix("total="))?.parse().ok()
}

/// Packets in, on everything but loopback.
fn packets(dev: &str) -> Option<u64> {
    let lines = dev.lines().filter_map(|l| l.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    let counts: Vec<u64> =
        lines.filter_map(|(_, figures)| figures.split_whitespace().nth(1)?.parse().ok()).collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let stat = "cpu  10 1 5 100 2 0 3 7 4 0\ncpu0 5 0 2 50 1 0 1 3 2 0\ncpu1 5 1 3 50 1 0 2 4 2 0\nintr 99\nprocs_running 4\n";
        assert_eq!(ticks(stat), Some((128, 7)));
        assert_eq!(crowded(stat), Some(true));
        assert_eq!(
            crowded(&stat.replace("running 4", "running 3")),
            Some(false),
            "one of them is the one that looks"
        );
        let schedstat = "version 15\ntimestamp 1\ncpu0 0 0 0 0 0 0 7 4000000 9\ndomain0 3 1\ncpu1 0 0 0 0 0 0 7 2000000 9\n";
        assert_eq!(queued_us(schedstat), Some(3000));
        let psi = "some avg10=1.00 avg60=0.5 avg300=0.1 total=12345\nfull avg10=0.00 avg60=0.0 avg300=0.0 total=1\n";
        assert_eq!(waited_us(psi), Some(12345));
        let dev = "Inter-|   Receive\n face |bytes    packets\n    lo: 100 50 0 0\n  eth0: 1000 20 0 0\n  eth1:1000 3 0 0\n";
        assert_eq!(packets(dev), Some(23));
        for nonsense in ["", "cpu", "cpu x", "procs_running", "some total=", ":", "eth0:"] {
            assert_eq!((ticks(nonsense), crowded(nonsense)), (None, None), "{nonsense}");
            assert_eq!((waited_us(nonsense), packets(nonsense)), (None, None), "{nonsense}");
            assert_eq!(queued_us(&format!("{nonsense}\ncpu0 1 2")), None, "{nonsense}");
        }
    }

    #[test]
    fn more_work_costs_more_and_the_cost_is_this_threads_own() {
        let cost = |units| {
            let begun = cpu_time();
            work(units);
            (cpu_time() - begun).as_secs_f64()
        };
        // Wide, for a machine that is itself a guest among others.
        let best = |units| (0..9).map(|_| cost(units)).fold(f64::MAX, f64::min);
        let ratio = best(16) / best(4);
        assert!((2.0..8.0).contains(&ratio), "{ratio}");
        let begun = cpu_time();
        thread::spawn(|| work(50)).join().unwrap();
        thread::sleep(Duration::from_millis(30));
        assert!(cpu_time() - begun < Duration::from_millis(5));
    }
}
