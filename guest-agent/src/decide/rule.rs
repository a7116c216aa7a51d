//! When a workload counts as slow, and when as well again.
//!
//! ```text
//!                baseline learned            above the threshold           for `hold` without a break
//!   Learning -----------------> Healthy -----------------------> Rising ----------------------------> Slow
//!                                ^   ^---------------------------- |                                    |
//!                                |        back under it                                                |
//!                                +---------------------------------------------------------------------+
//!                                     below healthy_below x threshold, and no failure in the window
//! ```
//!
//! Beside it, failing: three probes in a row that failed. A failed probe has no latency, so it moves nothing
//! above; in particular it cannot make a workload look well again.
//!
//! The baseline is learned once, as the median over whole windows of healthy time: windows with a failure, with
//! a migration in them, or beyond the absolute limit do not count. It is never adapted by itself afterwards:
//! one that follows slow decay would call it normal, one that follows the best moment would call normal slow.
//! Another probe, metric or window makes it learn anew.

use super::window::{Tally, Window};
use crate::config::{Rule, Workload};
use crate::event::Sample;
use crate::state::Baseline;
use coms_protocol::guest_to_host::Evidence;
use coms_protocol::types::{Metric, RequestReason, Text};
use std::time::Duration;

/// Failures in a row that make a workload failing; fewer may be a hiccup.
const FAILING_AFTER: u32 = 3;

/// What a sample changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The baseline is known now.
    Learned(Baseline),
    /// Slow, for as long as the rule wants.
    Slow,
    /// Well again after being slow.
    Recovered,
    /// Its probes fail; the last one's error.
    Failing(String),
    /// Its probes succeed again.
    Working,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Learning,
    Healthy,
    Rising { since: Duration },
    Slow { since: Duration },
}

/// One workload under its rule.
#[derive(Debug)]
pub struct Watch {
    name: String,
    rule: Rule,
    of: String,
    baseline: Option<u64>,
    window: Window,
    health: Health,
    failures: u32,
    first_failure: Duration,
    /// The window of learning that is being filled, and since when.
    lesson: Option<(Duration, Tally)>,
    lessons: Tally,
}

/// How a workload stands, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// learning, healthy, rising, slow or failing.
    pub state: &'static str,
    /// Since when, where that says something.
    pub since: Option<Duration>,
    /// The metric over the window, in microseconds.
    pub now_us: Option<u64>,
    /// The learned baseline.
    pub baseline_us: Option<u64>,
    /// The limit.
    pub threshold_us: Option<u64>,
    /// Successes in the window.
    pub samples: u32,
    /// Failures in the window.
    pub failures: u32,
    /// How much of the learning is done, in percent.
    pub learned_percent: Option<u32>,
}

impl Watch {
    /// A workload of which nothing was measured yet. `known` is a baseline from before a restart.
    pub fn new(workload: &Workload, known: Option<&Baseline>) -> Self {
        let of = format!("{:?} {:?} {:?}", workload.probe, workload.rule.metric, workload.rule.window);
        Self {
            name: workload.name.clone(),
            rule: workload.rule.clone(),
            baseline: known.filter(|b| b.of == of).map(|b| b.us),
            of,
            window: Window::new(workload.rule.window),
            health: Health::Learning,
            failures: 0,
            first_failure: Duration::ZERO,
            lesson: None,
            lessons: Tally::new(),
        }
    }

    /// The customer's name for it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is measured.
    pub fn metric(&self) -> Metric {
        self.rule.metric
    }

    /// Judges a sample. `learn`: it may count for the baseline.
    pub fn sample(&mut self, now: Duration, sample: &Sample, learn: bool) -> Vec<Change> {
        match sample {
            Sample::Took(latency) => {
                let mut changes = Vec::new();
                if std::mem::take(&mut self.failures) >= FAILING_AFTER {
                    changes.push(Change::Working);
                }
                self.window.slot(now).took(*latency);
                changes.extend(self.learn(now, *latency, learn));
                changes.extend(self.judge(now));
                changes
            }
            Sample::Failed(error) => {
                self.lesson = None;
                self.window.slot(now).failed();
                if self.failures == 0 {
                    self.first_failure = now;
                }
                self.failures = self.failures.saturating_add(1);
                let begins = self.failures == FAILING_AFTER;
                let failing = begins.then(|| Change::Failing(error.clone()));
                // The window moved on; what left it may have been what was slow.
                failing.into_iter().chain(self.judge(now)).collect()
            }
        }
    }

    /// Begins to judge anew, with what is measured from now on.
    pub fn afresh(&mut self) {
        self.window.clear();
        self.lesson = None;
        self.failures = 0;
        if let Health::Rising { .. } | Health::Slow { .. } = self.health {
            self.health = Health::Healthy;
        }
    }

    /// Runs on another host now: what was measured there says nothing about here.
    pub fn moved(&mut self) {
        self.window.clear();
        self.lesson = None;
        if let Health::Rising { .. } = self.health {
            self.health = Health::Healthy;
        }
    }

    /// Whether it wants to be moved, and why.
    pub fn wants(&self, now: Duration) -> Option<RequestReason> {
        let held = |since: Duration| now.saturating_sub(since) >= self.rule.hold;
        if self.is_failing() {
            return (self.rule.ask_on_failure && held(self.first_failure))
                .then_some(RequestReason::WorkloadFailing);
        }
        match self.health {
            Health::Slow { .. } => Some(RequestReason::WorkloadSlow),
            Health::Learning | Health::Healthy | Health::Rising { .. } => None,
        }
    }

    /// What was measured, as a request tells it. None: nothing was.
    pub fn evidence(&mut self, now: Duration) -> Option<Evidence> {
        let tally = self.window.sum(now);
        let workload = Text::clipped(&self.name);
        let for_s = |since: Option<Duration>| {
            since.map_or(0, |s| u32::try_from(now.saturating_sub(s).as_secs()).unwrap_or(u32::MAX))
        };
        if self.is_failing() {
            return Some(Evidence {
                workload,
                metric: Metric::FailuresPermille,
                now: tally.failures_permille(),
                baseline: None,
                threshold: None,
                for_s: for_s(Some(self.first_failure)),
                samples: tally.samples().saturating_add(tally.failures()),
            });
        }
        Some(Evidence {
            workload,
            metric: self.rule.metric,
            now: tally.latency_us(self.rule.metric, 1)?,
            baseline: self.baseline,
            threshold: self.threshold_us(),
            for_s: for_s(self.since()),
            samples: tally.samples(),
        })
    }

    /// Slow or above the limit or failing: worth naming in a request that another workload makes.
    pub fn suffers(&self) -> bool {
        self.is_failing() || self.since().is_some()
    }

    /// How it stands, for people.
    pub fn standing(&mut self, now: Duration) -> Standing {
        let tally = self.window.sum(now);
        let failing = self.is_failing();
        Standing {
            state: match self.health {
                _ if failing => "failing",
                Health::Learning => "learning",
                Health::Healthy => "healthy",
                Health::Rising { .. } => "rising",
                Health::Slow { .. } => "slow",
            },
            since: if failing { Some(self.first_failure) } else { self.since() },
            now_us: tally.latency_us(self.rule.metric, 1),
            baseline_us: self.baseline,
            threshold_us: self.threshold_us(),
            samples: tally.samples(),
            failures: tally.failures(),
            learned_percent: (self.health == Health::Learning && self.rule.slower_than_factor.is_some())
                .then(|| (self.lessons.samples() * 100 / self.lessons_wanted()).min(100)),
        }
    }

    /// Above this it is slow, in microseconds. None: not learned yet, or no limit at all.
    pub fn threshold_us(&self) -> Option<u64> {
        let absolute = self.rule.slower_than.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
        match self.rule.slower_than_factor {
            None => absolute,
            Some(factor) => {
                let relative = (self.baseline? as f64 * factor) as u64;
                Some(absolute.map_or(relative, |a| a.max(relative)))
            }
        }
    }

    fn is_failing(&self) -> bool {
        self.failures >= FAILING_AFTER
    }

    fn since(&self) -> Option<Duration> {
        match self.health {
            Health::Learning | Health::Healthy => None,
            Health::Rising { since } | Health::Slow { since } => Some(since),
        }
    }

    fn judge(&mut self, now: Duration) -> Option<Change> {
        if self.health == Health::Learning
            && (self.threshold_us().is_some() || self.rule.slower_than_factor.is_none())
        {
            self.health = Health::Healthy;
        }
        let limit = self.threshold_us()?;
        let tally = self.window.sum(now);
        let value = tally.latency_us(self.rule.metric, self.enough(&tally))?;
        match self.health {
            Health::Learning => None,
            Health::Healthy | Health::Rising { .. } if value <= limit => {
                self.health = Health::Healthy;
                None
            }
            Health::Healthy | Health::Rising { .. } => {
                let since = self.since().unwrap_or(now);
                let held = now.saturating_sub(since) >= self.rule.hold;
                self.health = if held { Health::Slow { since } } else { Health::Rising { since } };
                held.then_some(Change::Slow)
            }
            Health::Slow { .. } => {
                let well = (value as f64) < limit as f64 * self.rule.healthy_below && tally.failures() == 0;
                well.then(|| {
                    self.health = Health::Healthy;
                    Change::Recovered
                })
            }
        }
    }

    /// Samples without which nothing is decided. A workload so slow that fewer fit into the window must not
    /// escape its rule by that.
    fn enough(&self, tally: &Tally) -> u32 {
        let fit = self.rule.window.as_micros() as f64 / (2.0 * tally.mean_us()).max(1.0);
        self.rule.min_samples.min((fit as u32).max(1))
    }

    fn learn(&mut self, now: Duration, latency: Duration, learn: bool) -> Option<Change> {
        self.rule.slower_than_factor?;
        if self.baseline.is_some() {
            return None;
        }
        if !learn {
            self.lesson = None;
            return None;
        }
        let (since, tally) = self.lesson.get_or_insert_with(|| (now, Tally::new()));
        tally.took(latency);
        if now.saturating_sub(*since) < self.rule.window {
            return None;
        }
        let value = tally.latency_us(self.rule.metric, self.rule.min_samples);
        self.lesson = None;
        let value = Duration::from_micros(value?);
        if self.rule.slower_than.is_some_and(|limit| value > limit) {
            return None;
        }
        self.lessons.took(value);
        if self.lessons.samples() < self.lessons_wanted() {
            return None;
        }
        let us = self.lessons.latency_us(Metric::LatencyP50Us, 1)?;
        self.baseline = Some(us);
        self.lessons = Tally::new();
        Some(Change::Learned(Baseline { us, of: self.of.clone() }))
    }

    fn lessons_wanted(&self) -> u32 {
        let windows = self.rule.learn.as_secs().div_ceil(self.rule.window.as_secs().max(1));
        u32::try_from(windows).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests;
