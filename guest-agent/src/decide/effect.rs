//! Did the move help? The workloads are measured again, after a pause in which caches warm up and the
//! brown-out passes, and compared with what they showed when the guest asked (or was told).

use super::window::Tally;
use coms_protocol::types::{Metric, MigrationId, RequestId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A change by less than this is none.
const NOTABLE_PERCENT: f64 = 20.0;
/// Fewer measurements say nothing.
const MIN_SAMPLES: u32 = 3;

/// A move whose effect is to be measured. Survives a restart; the measuring then begins again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The migration.
    pub migration: MigrationId,
    /// The request that it answered.
    pub request: Option<RequestId>,
    /// What the workloads showed before, the worst first.
    pub before: Vec<Before>,
}

/// What a workload showed before the move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Its name.
    pub workload: String,
    /// Which percentile.
    pub metric: Metric,
    /// In microseconds; unknown when too few probes succeeded.
    pub us: Option<u64>,
    /// Its probes failed.
    pub failing: bool,
}

/// Whether it helped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Faster by a fifth or more, or works again.
    Helped,
    /// Neither.
    NoChange,
    /// Slower by a fifth or more, or fails now.
    Worse,
    /// Too little was measured.
    Unknown,
}

/// What the move did to the workload that suffered most, and to each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The workload that suffered most.
    #[serde(flatten)]
    pub worst: Change,
    /// Each workload.
    pub workloads: Vec<Change>,
}

/// What the move did to one workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Its name.
    pub workload: String,
    /// p50, p95 or p99.
    pub metric: String,
    /// When the guest asked, or was told.
    pub before_ms: Option<f64>,
    /// After the move.
    pub after_ms: Option<f64>,
    /// Positive: faster.
    pub improved_percent: Option<f64>,
    /// The worst that a probe took during the move and the pause behind it.
    pub worst_during_ms: Option<f64>,
    /// Probes that failed meanwhile.
    pub failures_during: Option<u32>,
    /// In a word.
    pub verdict: Verdict,
}

/// What a workload showed around a move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct During {
    worst: Option<Duration>,
    failures: u32,
}

impl During {
    /// Counts a probe: its latency, or None for a failure.
    pub fn sample(&mut self, latency: Option<Duration>) {
        match latency {
            Some(latency) => self.worst = self.worst.max(Some(latency)),
            None => self.failures = self.failures.saturating_add(1),
        }
    }
}

/// Measuring under way.
#[derive(Debug)]
pub struct Measuring {
    check: Check,
    from: Duration,
    until: Duration,
    tallies: Vec<Tally>,
    during: BTreeMap<String, During>,
}

impl Measuring {
    /// Begins: `settle` without looking, then `measure`.
    pub fn begin(check: Check, now: Duration, settle: Duration, measure: Duration) -> Self {
        let tallies = check.before.iter().map(|_| Tally::new()).collect();
        let during = BTreeMap::new();
        Self { check, from: now + settle, until: now + settle + measure, tallies, during }
    }

    /// What was seen while the guest moved.
    pub fn after(mut self, during: BTreeMap<String, During>) -> Self {
        self.during = during;
        self
    }

    /// When the result is due.
    pub fn until(&self) -> Duration {
        self.until
    }

    /// Counts a probe: its latency, or None for a failure.
    pub fn sample(&mut self, now: Duration, workload: &str, latency: Option<Duration>) {
        if now < self.from {
            self.during.entry(workload.to_owned()).or_default().sample(latency);
            return;
        }
        let index = self.check.before.iter().position(|b| b.workload == workload);
        let Some(tally) = index.and_then(|i| self.tallies.get_mut(i)) else { return };
        match latency {
            Some(latency) => tally.took(latency),
            None => tally.failed(),
        }
    }

    /// The result. None: there was nothing to compare.
    pub fn result(&self) -> (MigrationId, Option<RequestId>, Option<Effect>) {
        let workloads: Vec<_> = self
            .check
            .before
            .iter()
            .zip(&self.tallies)
            .map(|(b, t)| compare(b, t, self.during.get(&b.workload)))
            .collect();
        let effect = workloads.first().cloned().map(|worst| Effect { worst, workloads });
        (self.check.migration, self.check.request, effect)
    }
}

fn compare(before: &Before, after: &Tally, during: Option<&During>) -> Change {
    let after_us = after.latency_us(before.metric, MIN_SAMPLES);
    let fails = after.failures() > after.samples();
    let improved = before.us.zip(after_us).map(|(b, a)| (b as f64 - a as f64) / (b as f64).max(1.0) * 100.0);
    let verdict = match (before.failing, fails) {
        _ if after.samples() + after.failures() < MIN_SAMPLES => Verdict::Unknown,
        (true, true) => Verdict::NoChange,
        (false, true) => Verdict::Worse,
        (true, false) => Verdict::Helped,
        (false, false) => match improved {
            None => Verdict::Unknown,
            Some(p) if p >= NOTABLE_PERCENT => Verdict::Helped,
            Some(p) if p <= -NOTABLE_PERCENT => Verdict::Worse,
            Some(_) => Verdict::NoChange,
        },
    };
    Change {
        workload: before.workload.clone(),
        metric: crate::state::metric_name(before.metric).to_owned(),
        before_ms: before.us.map(ms),
        after_ms: after_us.map(ms),
        improved_percent: improved.map(|p| (p * 10.0).round() / 10.0),
        worst_during_ms: during.and_then(|d| d.worst).map(|w| (w.as_secs_f64() * 10_000.0).round() / 10.0),
        failures_during: during.map(|d| d.failures),
        verdict,
    }
}

/// Microseconds as milliseconds.
pub(crate) fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}
