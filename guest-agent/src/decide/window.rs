//! Latencies of the last so many seconds.

use coms_protocol::types::Metric;
use hdrhistogram::Histogram;
use std::time::Duration;

/// A window slides in this many steps.
const SLOTS: u32 = 6;
/// Longest latency told apart, in microseconds; a probe's timeout is at most this.
const MAX_US: u64 = 60_000_000;

/// Latencies and failures. Two significant digits: 1 % off at most.
#[derive(Debug, Clone)]
pub struct Tally {
    latencies: Option<Histogram<u32>>,
    failed: u32,
}

impl Tally {
    /// Nothing measured.
    pub fn new() -> Self {
        // Grows with the range it sees: a few KiB. Two digits are always a valid precision.
        Self { latencies: Histogram::new(2).ok(), failed: 0 }
    }

    /// Counts a success.
    pub fn took(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(MAX_US).clamp(1, MAX_US);
        if let Some(h) = &mut self.latencies {
            // Fails only for a histogram that may not grow; this one may.
            let _ = h.record(us);
        }
    }

    /// Counts a failure.
    pub fn failed(&mut self) {
        self.failed = self.failed.saturating_add(1);
    }

    /// Successes.
    pub fn samples(&self) -> u32 {
        self.latencies.as_ref().map_or(0, |h| u32::try_from(h.len()).unwrap_or(u32::MAX))
    }

    /// Failures.
    pub fn failures(&self) -> u32 {
        self.failed
    }

    /// Failures in thousandths of all.
    pub fn failures_permille(&self) -> u64 {
        let all = u64::from(self.samples()) + u64::from(self.failed);
        (u64::from(self.failed) * 1000).checked_div(all).unwrap_or(0)
    }

    /// Mean of the successes, in microseconds.
    pub fn mean_us(&self) -> f64 {
        self.latencies.as_ref().filter(|h| !h.is_empty()).map_or(0.0, Histogram::mean)
    }

    /// A percentile of the successes, in microseconds, if there are at least `min`.
    pub fn latency_us(&self, metric: Metric, min: u32) -> Option<u64> {
        let h = self.latencies.as_ref().filter(|_| self.samples() >= min.max(1))?;
        match metric {
            Metric::LatencyP50Us => Some(h.value_at_quantile(0.50)),
            Metric::LatencyP95Us => Some(h.value_at_quantile(0.95)),
            Metric::LatencyP99Us => Some(h.value_at_quantile(0.99)),
            Metric::FailuresPermille
            | Metric::CalibrationUs
            | Metric::StealPermille
            | Metric::OwnWaitPermille
            | Metric::PacketsPerS
            | Metric::ClientsPermille
            | Metric::TrafficPermille
            | Metric::Unknown(_) => None,
        }
    }

    fn add(&mut self, other: &Tally) {
        if let (Some(h), Some(o)) = (&mut self.latencies, &other.latencies) {
            // Fails only for a histogram that may not grow; this one may.
            let _ = h.add(o);
        }
        self.failed = self.failed.saturating_add(other.failed);
    }

    fn clear(&mut self) {
        if let Some(h) = &mut self.latencies {
            h.clear();
        }
        self.failed = 0;
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

/// A [`Tally`] that forgets.
#[derive(Debug)]
pub struct Window {
    step: Duration,
    slots: [Tally; SLOTS as usize],
    /// The slot being filled, counted from the clock's beginning.
    at: u128,
}

impl Window {
    /// Over the last `length`.
    pub fn new(length: Duration) -> Self {
        Self { step: (length / SLOTS).max(Duration::from_millis(1)), slots: Default::default(), at: 0 }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.slots.iter_mut().for_each(Tally::clear);
    }

    /// The slot of `now`, after what is too old was forgotten.
    pub fn slot(&mut self, now: Duration) -> &mut Tally {
        let at = now.as_nanos() / self.step.as_nanos();
        let passed = at.saturating_sub(self.at).min(u128::from(SLOTS));
        for k in 0..passed {
            let index = ((at - k) % u128::from(SLOTS)) as usize;
            self.slots[index].clear();
        }
        self.at = self.at.max(at);
        &mut self.slots[(self.at % u128::from(SLOTS)) as usize]
    }

    /// Everything in the window.
    pub fn sum(&mut self, now: Duration) -> Tally {
        self.slot(now);
        let mut sum = Tally::new();
        self.slots.iter().for_each(|s| sum.add(s));
        sum
    }
}
