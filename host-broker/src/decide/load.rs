//! How busy a host is: CPU time that its running domains used over the last seconds, per CPU it may use.
//!
//! Judged by domains, not by the node's own statistics: those count whatever else runs there.

use crate::hypervisor::HostSample;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use uuid::Uuid;

/// Load is averaged over this long.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Below this span two samples say nothing.
const SHORTEST: Duration = Duration::from_millis(1500);
/// A host that has not answered for this long does not answer.
pub const FRESH: Duration = Duration::from_secs(7);

/// The last looks at one host.
#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<(Duration, HostSample)>,
    /// Why the last look failed, when it did.
    pub trouble: Option<String>,
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
    pub fn add(&mut self, at: Duration, sample: HostSample) {
        self.trouble = None;
        self.samples.push_back((at, sample));
        // The oldest one kept is the youngest that is a window or more ago.
        while self.samples.get(1).is_some_and(|(t, _)| *t + WINDOW <= at) {
            self.samples.pop_front();
        }
    }

    pub fn latest(&self) -> Option<&HostSample> {
        self.samples.back().map(|(_, s)| s)
    }

    /// Answered lately.
    pub fn is_fresh(&self, now: Duration) -> bool {
        self.trouble.is_none() && self.samples.back().is_some_and(|(t, _)| *t + FRESH >= now)
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
    use crate::hypervisor::DomainSample;

    fn sample(cpus: u32, domains: &[(u128, u64)]) -> HostSample {
        HostSample {
            cpus,
            memory_kib: 8 << 20,
            host_uuid: None,
            domains: domains
                .iter()
                .map(|&(id, ms)| DomainSample {
                    uuid: Uuid::from_u128(id),
                    vcpus: 1,
                    memory_kib: 1 << 20,
                    cpu_time_ns: ms * 1_000_000,
                })
                .collect(),
        }
    }

    #[test]
    fn counts_domains_work_per_usable_cpu() {
        let mut h = History::default();
        h.add(Duration::from_secs(0), sample(4, &[(1, 0), (2, 1000)]));
        assert_eq!(h.load(None, None).unwrap().per_cpu, None, "one look says nothing");
        h.add(Duration::from_secs(10), sample(4, &[(1, 10_000), (2, 6000)]));
        assert_eq!(h.load(None, None).unwrap().per_cpu, Some(1.5 / 4.0));
        assert_eq!(h.load(Some(1), None).unwrap().per_cpu, Some(1.5), "the operator allows one CPU");
        assert_eq!(h.load(Some(64), None).unwrap().cpus, 4, "libvirt has only four");
    }

    #[test]
    fn forgets_what_is_older_than_the_window_and_survives_restarts() {
        let mut h = History::default();
        for s in 0..=30 {
            h.add(Duration::from_secs(s), sample(1, &[(1, if s < 15 { s * 1000 } else { 15_000 })]));
        }
        assert_eq!(h.load(None, None).unwrap().per_cpu, Some(0.0));
        h.add(Duration::from_secs(31), sample(1, &[(1, 0)]));
        h.add(Duration::from_secs(33), sample(1, &[(1, 2000)]));
        assert_eq!(h.load(None, None).unwrap().per_cpu, Some(1.0));
        assert!(h.is_fresh(Duration::from_secs(40)) && !h.is_fresh(Duration::from_secs(41)));
    }
}
