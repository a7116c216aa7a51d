//! Looks at a move from outside, all the time: what the source has sent, and how much CPU time both QEMUs have used.

use coms_lab::{Guest, Host};
use coms_story::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(20);
/// The device of a host's migration link.
const LINK: &str = "eth0";

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub sent_bytes: f64,
    /// While most of it went.
    pub link_mbit_s: f64,
    pub cpu_source_s: f64,
    pub cpu_destination_s: f64,
}

/// Does `work` and looks on; gives what came of it, how long it took, and what was seen.
pub fn watched<T: Send>(
    source: &Host,
    guest: &Guest,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Duration, Seen)> {
    let [from] = guest.qemu_pids()?[..] else {
        return Err(format!("guest {} has not one QEMU before the move", guest.name()).into());
    };
    let at_first = cpu_s(from).ok_or_else(|| format!("no CPU time of QEMU {from}"))?;
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| look(source, guest, from, begun, &over));
        let done = work();
        let took = begun.elapsed();
        over.store(true, Ordering::Relaxed);
        let looked = joined(looking)?;
        let mut seen = looked;
        seen.cpu_source_s -= at_first;
        Ok((done?, took, seen))
    })
}

fn joined(looking: ScopedJoinHandle<'_, Result<Seen>>) -> Result<Seen> {
    looking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn look(source: &Host, guest: &Guest, from: u32, begun: Instant, over: &AtomicBool) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut sent = Vec::new();
    let mut to = None;
    while !over.load(Ordering::Relaxed) {
        sent.push((begun.elapsed().as_secs_f64(), sent_bytes(source)?));
        if to.is_none() {
            to = guest.qemu_pids()?.into_iter().find(|pid| *pid != from);
        }
        // What the destination does once the source has ended is the guest's own work.
        if let Some(cpu) = cpu_s(from) {
            seen.cpu_source_s = cpu;
            seen.cpu_destination_s = to.and_then(cpu_s).unwrap_or(seen.cpu_destination_s);
        }
        std::thread::sleep(EVERY);
    }
    let all = |at: Option<&(f64, u64)>| at.map_or(0, |(_, bytes)| *bytes);
    seen.sent_bytes = (all(sent.last()) - all(sent.first())) as f64;
    seen.link_mbit_s = bulk_mbit_s(&sent).unwrap_or(f64::NAN);
    Ok(seen)
}

/// The rate between the first and the last tenth of what was sent: neither the beginning nor the last pages, for which the
/// link waits, count. `sent`: seconds and bytes, both never less than before.
fn bulk_mbit_s(sent: &[(f64, u64)]) -> Option<f64> {
    let (first, last) = (sent.first()?.1, sent.last()?.1);
    let at = |tenths: u64| sent.iter().find(|(_, bytes)| *bytes >= first + (last - first) * tenths / 10);
    let (from, to) = (at(1)?, at(9)?);
    let s = to.0 - from.0;
    (s > 0.0).then(|| (to.1 - from.1) as f64 * 8.0 / 1e6 / s)
}

fn sent_bytes(host: &Host) -> Result<u64> {
    let path = format!("/proc/{}/net/dev", host.holder_pid());
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    sent_in(&text).ok_or_else(|| format!("{path} has no {LINK}: {text}").into())
}

/// The ninth of the numbers after the device's name.
fn sent_in(net_dev: &str) -> Option<u64> {
    let numbers = net_dev.lines().find_map(|line| line.trim().strip_prefix(LINK)?.strip_prefix(':'))?;
    numbers.split_whitespace().nth(8)?.parse().ok()
}

/// User and system time of a process that runs.
fn cpu_s(pid: u32) -> Option<f64> {
    cpu_in(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The kernel counts in hundredths of a second.
fn cpu_in(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |i: usize| fields.get(i).and_then(|t| t.parse::<f64>().ok());
    let runs = !matches!(*fields.first()?, "Z" | "X");
    runs.then_some((ticks(11)? + ticks(12)?) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginning_and_end_do_not_count_for_the_rate() {
        // A second of nothing, 10 s of 50 MB/s, a second of hardly anything.
        let mut sent: Vec<(f64, u64)> = (0..10).map(|i| (f64::from(i) / 10.0, 1000)).collect();
        sent.extend((0..=100).map(|i| (1.0 + f64::from(i) / 10.0, 1000 + i as u64 * 5_000_000)));
        sent.extend((1..10).map(|i| (11.0 + f64::from(i) / 10.0, 500_001_000 + i as u64)));
        assert!((bulk_mbit_s(&sent).unwrap() - 400.0).abs() < 1.0, "{:?}", bulk_mbit_s(&sent));
        assert_eq!(bulk_mbit_s(&[]), None);
        assert_eq!(bulk_mbit_s(&[(0.0, 7), (1.0, 7)]), None);
    }

    #[test]
    fn figures_of_the_kernel_are_read() {
        let text =
            "Inter-| Receive | Transmit\n    lo: 1 2 3 4 5 6 7 8 9 10\n  eth0: 11 1 0 0 0 0 0 0 4242 5 0 0\n";
        assert_eq!(sent_in(text), Some(4242));
        assert_eq!(sent_in("lo: 1 2"), None);
        let stat = "12 (qemu-system (x) y) S 1 12 12 0 -1 4 10 0 0 0 150 25 0 0 20 0";
        assert_eq!(cpu_in(stat), Some(1.75));
        assert_eq!(cpu_in(&stat.replace(") S", ") Z")), None);
    }
}
