//! How busy a host is: CPU time that its running domains used over the last seconds, per CPU it may use.
//!
//! Judged by domains, not by the node's own statistics: those count whatever else runs there.

use crate::hypervisor::{HostSample, Mark};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use uuid::Uuid;

/// Load is averaged over this long.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Below this span two samples say nothing.
const SHORTEST: Duration = Duration::from_millis(1500);
/// A host that has not answered for this long does not answer.
pub const FRESH: Duration = Duration::from_secs(7);
/// One that answered so lately may do so again in a moment.
const LATELY: Duration = Duration::from_secs(15);

/// Other brokers leave a sign of life this often ...
pub const BEAT: Duration = Duration::from_secs(3);
/// ... and one that shows no new one for this long is not there: two signs missed, and a look every 2 s.
const SIGN_FRESH: Duration = Duration::from_secs(9);
const RECENT_MS: u64 = 15_000;
/// Signs by which clocks are compared. Signs come every 3 s and looks every 2 s: among a few there is one that was
/// seen within a second.
const SIGNS: usize = 8;

/// The last looks at one host.
#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<(Duration, HostSample)>,
    /// Why the last look failed, when it did.
    pub trouble: Option<String>,
    /// The last new sign of life of its broker, and when it was seen. One that was there at the first look counts
    /// only if it is recent by both hosts' wall clocks: it may be that of a broker long dead.
    sign: Option<(Duration, Mark)>,
    /// How far its clock was ahead at the last signs, by host wall clock; each too small by the sign's age.
    ahead_ms: VecDeque<i64>,
}

/// What a host has and what is used of it, by the smaller of libvirt's claim and the operator's.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    pub cpus: u32,
    /// CPUs' worth of work by all running domains, per CPU. None: not seen for long enough.
    pub per_cpu: Option<f64>,
    pub memory_kib: u64,
    /// Sum of the running domains' memory.
    pub committed_kib: u64,
    pub domains: usize,
}

impl History {
    /// `unix_ms`: this host's wall clock.
    pub fn add(&mut self, at: Duration, unix_ms: u64, sample: HostSample) {
        self.trouble = None;
        let before = self.latest().map(|s| s.broker.as_ref());
        match (&sample.broker, before) {
            (None, _) => self.sign = None,
            (Some(mark), None) if mark.unix_ms.abs_diff(unix_ms) > RECENT_MS => {}
            (Some(mark), before) if before.flatten().is_none_or(|b| b.beat != mark.beat) => {
                if self.ahead_ms.len() >= SIGNS {
                    self.ahead_ms.pop_front();
                }
                self.ahead_ms.push_back(mark.unix_ms.cast_signed().wrapping_sub(unix_ms.cast_signed()));
                self.sign = Some((at, mark.clone()));
            }
            (Some(_), _) => {}
        }
        self.samples.push_back((at, sample));
        // The oldest one kept is the youngest that is a window or more ago.
        while self.samples.get(1).is_some_and(|(t, _)| *t + WINDOW <= at) {
            self.samples.pop_front();
        }
    }

    pub fn latest(&self) -> Option<&HostSample> {
        self.samples.back().map(|(_, s)| s)
    }

    /// Its broker, if that has shown a sign of life lately.
    pub fn broker(&self, now: Duration) -> Option<&Mark> {
        self.sign.as_ref().filter(|(at, _)| *at + SIGN_FRESH >= now).map(|(_, mark)| mark)
    }

    /// How far its clock is ahead of this host's, to about a second.
    pub fn ahead_ms(&self) -> Option<i64> {
        self.ahead_ms.iter().copied().max()
    }

    /// Of the time in which this domain's vCPUs wanted to run, the share in which they waited for a CPU; over the
    /// window, and not over what was before `since`. None: not seen for long enough, or it hardly wanted to run.
    pub fn vcpu_wait(&self, uuid: Uuid, since: Duration) -> Option<f64> {
        let times = |s: &HostSample| s.domains.iter().find(|d| d.uuid == uuid)?.vcpu;
        let mut seen =
            self.samples.iter().filter(|(at, _)| *at >= since).filter_map(|(at, s)| Some((*at, times(s)?)));
        let (first_at, first) = seen.next()?;
        let (last_at, last) = seen.next_back()?;
        let span = last_at.saturating_sub(first_at);
        let run = last.run_ns.checked_sub(first.run_ns)?;
        let wait = last.wait_ns.checked_sub(first.wait_ns)?;
        let wanted = run.saturating_add(wait);
        let enough = span >= SHORTEST && u128::from(wanted) * 100 >= span.as_nanos();
        enough.then(|| wait as f64 / wanted as f64)
    }

    /// Answered lately.
    pub fn is_fresh(&self, now: Duration) -> bool {
        self.trouble.is_none() && self.samples.back().is_some_and(|(t, _)| *t + FRESH >= now)
    }

    /// If it does not answer now, that began a moment ago.
    pub fn answered_lately(&self, now: Duration) -> bool {
        self.samples.back().is_some_and(|(t, _)| *t + LATELY >= now)
    }

    pub fn load(&self, cpus: Option<u32>, memory_kib: Option<u64>) -> Option<Load> {
        let (last_at, last) = self.samples.back()?;
        let claimed = last.cpus.max(1);
        let cpus = cpus.map_or(claimed, |c| c.min(claimed));
        Some(Load {
            cpus,
            per_cpu: self.busy(*last_at, last).map(|busy| busy / f64::from(cpus)),
            memory_kib: memory_kib.map_or(last.memory_kib, |m| m.min(last.memory_kib)),
            committed_kib: last.domains.iter().map(|d| d.memory_kib).sum(),
            domains: last.domains.len(),
        })
    }

    /// CPUs' worth of work over the window: each domain from the first sample in it that knows the domain.
    fn busy(&self, last_at: Duration, last: &HostSample) -> Option<f64> {
        let (first_at, _) = self.samples.front()?;
        if last_at.saturating_sub(*first_at) < SHORTEST {
            return None;
        }
        let mut earliest: BTreeMap<Uuid, (Duration, u64)> = BTreeMap::new();
        for (at, sample) in &self.samples {
            for d in &sample.domains {
                let seen = earliest.entry(d.uuid).or_insert((*at, d.cpu_time_ns));
                if d.cpu_time_ns < seen.1 {
                    // Counts from 0 again: it was restarted or came back.
                    *seen = (*at, d.cpu_time_ns);
                }
            }
        }
        let work = last.domains.iter().filter_map(|d| {
            let (at, ns) = earliest.get(&d.uuid)?;
            let span = last_at.saturating_sub(*at);
            (span >= SHORTEST).then(|| (d.cpu_time_ns - ns) as f64 / span.as_nanos() as f64)
        });
        // From +0: an empty sum would be -0.
        Some(work.fold(0.0, |a, b| a + b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::{DomainSample, VcpuTimes};

    fn sample(cpus: u32, domains: &[(u128, u64)]) -> HostSample {
        HostSample {
            cpus,
            memory_kib: 8 << 20,
            host_uuid: None,
            broker: None,
            domains: domains
                .iter()
                .map(|&(id, ms)| DomainSample {
                    uuid: Uuid::from_u128(id),
                    vcpus: 1,
                    memory_kib: 1 << 20,
                    cpu_time_ns: ms * 1_000_000,
                    // Waits as long as it runs.
                    vcpu: Some(VcpuTimes { run_ns: ms * 1_000_000, wait_ns: ms * 1_000_000 }),
                })
                .collect(),
        }
    }

    #[test]
    fn counts_domains_work_per_usable_cpu() {
        let mut h = History::default();
        h.add(Duration::from_secs(0), 0, sample(4, &[(1, 0), (2, 1000)]));
        assert_eq!(h.load(None, None).unwrap().per_cpu, None, "one look says nothing");
        h.add(Duration::from_secs(10), 0, sample(4, &[(1, 10_000), (2, 6000)]));
        assert_eq!(h.load(None, None).unwrap().per_cpu, Some(1.5 / 4.0));
        assert_eq!(h.load(Some(1), None).unwrap().per_cpu, Some(1.5), "the operator allows one CPU");
        assert_eq!(h.load(Some(64), None).unwrap().cpus, 4, "libvirt has only four");
    }

    #[test]
    fn forgets_what_is_older_than_the_window_and_survives_restarts() {
        let mut h = History::default();
        for s in 0..=30 {
            h.add(Duration::from_secs(s), 0, sample(1, &[(1, if s < 15 { s * 1000 } else { 15_000 })]));
        }
        assert_eq!(h.load(None, None).unwrap().per_cpu, Some(0.0));
        h.add(Duration::from_secs(31), 0, sample(1, &[(1, 0)]));
        h.add(Duration::from_secs(33), 0, sample(1, &[(1, 2000)]));
        assert_eq!(h.load(None, None).unwrap().per_cpu, Some(1.0));
        assert!(h.is_fresh(Duration::from_secs(40)) && !h.is_fresh(Duration::from_secs(41)));
    }

    #[test]
    fn a_broker_is_there_while_its_sign_changes() {
        let mut h = History::default();
        let with = |beat: u64| HostSample {
            broker: Some(Mark {
                broker: "b".into(),
                beat,
                unix_ms: 1_000_000,
                stretched: Vec::new(),
                tls: None,
            }),
            ..sample(1, &[])
        };
        h.add(Duration::from_secs(0), 1_100_000, with(1));
        assert_eq!(h.broker(Duration::ZERO), None, "it may be of a broker long dead");
        let mut met = History::default();
        met.add(Duration::ZERO, 1_010_000, with(1));
        assert!(met.broker(Duration::ZERO).is_some(), "it is recent");
        h.add(Duration::from_secs(2), 999_500, with(2));
        assert!(h.broker(Duration::from_secs(2)).is_some());
        assert_eq!(h.ahead_ms(), Some(500));
        for s in 3..=12 {
            h.add(Duration::from_secs(s), 1_000_000, with(2));
        }
        assert!(h.broker(Duration::from_secs(11)).is_some() && h.broker(Duration::from_secs(12)).is_none());
        h.add(Duration::from_secs(13), 1_003_000, with(3));
        assert!(h.broker(Duration::from_secs(13)).is_some());
        h.add(Duration::from_secs(14), 1_003_000, sample(1, &[]));
        assert_eq!(h.broker(Duration::from_secs(14)), None, "it took its leave");
    }

    #[test]
    fn waiting_is_a_share_of_wanting_to_run() {
        let mut h = History::default();
        let uuid = Uuid::from_u128(1);
        assert_eq!(h.vcpu_wait(uuid, Duration::ZERO), None);
        for s in 0..=5 {
            h.add(Duration::from_secs(s), 0, sample(1, &[(1, s * 100)]));
        }
        assert_eq!(h.vcpu_wait(uuid, Duration::ZERO), Some(0.5));
        assert_eq!(h.vcpu_wait(uuid, Duration::from_secs(4)), None, "too little since then");
        assert_eq!(h.vcpu_wait(Uuid::from_u128(2), Duration::ZERO), None);
        for s in 6..=20 {
            h.add(Duration::from_secs(s), 0, sample(1, &[(1, 500)]));
        }
        assert_eq!(h.vcpu_wait(uuid, Duration::ZERO), None, "it did not want to run");
    }
}
