//! How much of the one thread that serves all guests each of them may use.
//!
//! The unit is the work that a byte heard may cause: a good frame has 26 or more of them. What is done beyond
//! decoding is charged on top, in the same unit. Each guest has an
//! income of its own, which nobody can take away, and beyond that all share what is left over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A guest's own income per second, and how much of it may be saved up.
const OWN_PER_S: f64 = 8.0 * 1024.0;
const OWN_SAVED: f64 = 16.0 * 1024.0;
/// What all guests may use together beyond that: a run of 10,000 pings fits what may be saved up.
const SPARE_PER_S: f64 = 256.0 * 1024.0;
const SPARE_SAVED: f64 = 2.0 * 1024.0 * 1024.0;
/// What is taken away unheard from guests in debt, in bytes and all together: copying it costs, too.
const PAST_PER_S: f64 = 64.0 * 1024.0 * 1024.0;
const PAST_SAVED: f64 = 16.0 * 1024.0 * 1024.0;

/// Fills at a steady rate up to a limit. Below zero: in debt.
#[derive(Debug)]
struct Bucket {
    per_s: f64,
    saved: f64,
    level: f64,
    filled: Instant,
}

impl Bucket {
    fn new(now: Instant, per_s: f64, saved: f64) -> Self {
        Self { per_s, saved, level: saved, filled: now }
    }

    fn fill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * self.per_s;
        self.level = (self.level + gained).min(self.saved);
        self.filled = now;
    }

    /// As much of `wanted` as there is.
    fn take(&mut self, now: Instant, wanted: f64) -> f64 {
        self.fill(now);
        let given = wanted.min(self.level.max(0.0));
        self.level -= given;
        given
    }
}

/// What all guests share.
#[derive(Debug, Clone)]
pub(super) struct Spare(Arc<Mutex<Shared>>);

#[derive(Debug)]
struct Shared {
    work: Bucket,
    past: Bucket,
}

impl Spare {
    pub(super) fn new(now: Instant) -> Self {
        let work = Bucket::new(now, SPARE_PER_S, SPARE_SAVED);
        Self(Arc::new(Mutex::new(Shared { work, past: Bucket::new(now, PAST_PER_S, PAST_SAVED) })))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One guest's.
#[derive(Debug)]
pub(super) struct Budget {
    own: Bucket,
    spare: Spare,
}

impl Budget {
    pub(super) fn new(now: Instant, spare: Spare) -> Self {
        Self { own: Bucket::new(now, OWN_PER_S, OWN_SAVED), spare }
    }

    /// Takes it for work that was done.
    pub(super) fn charge(&mut self, now: Instant, work: usize) {
        self.own.fill(now);
        self.own.level -= work as f64;
    }

    /// So many bytes are about to be taken away unheard; false: others had their share of that, try later.
    pub(super) fn may_look_past(&mut self, now: Instant, bytes: usize) -> bool {
        let mut shared = self.spare.lock();
        shared.past.fill(now);
        shared.past.level >= bytes as f64 && shared.past.take(now, bytes as f64) > 0.0
    }

    /// When its debt is paid from its own income; None when it has none, or what is left over paid for it.
    pub(super) fn in_debt_until(&mut self, now: Instant) -> Option<Instant> {
        self.own.fill(now);
        if self.own.level < 0.0 {
            self.own.level += self.spare.lock().work.take(now, -self.own.level);
        }
        (self.own.level < 0.0)
            .then(|| self.own.filled + Duration::from_secs_f64(-self.own.level / self.own.per_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_guest_may_use_all_that_is_left_over_but_nobody_elses_own() {
        let mut now = Instant::now();
        let spare = Spare::new(now);
        let (mut greedy, mut modest) = (Budget::new(now, spare.clone()), Budget::new(now, spare));
        let mut used = 0;
        for _ in 0..100_000 {
            if greedy.in_debt_until(now).is_none() {
                greedy.charge(now, 512);
                used += 512;
            }
            now += Duration::from_micros(100);
        }
        let may = OWN_SAVED + SPARE_SAVED + 10.0 * (OWN_PER_S + SPARE_PER_S);
        assert!((may * 0.99..may * 1.01).contains(&f64::from(used)), "{used} of {may} in 10 s");

        greedy.charge(now, 1 << 20);
        assert!(greedy.in_debt_until(now).is_some(), "nothing is left over");
        modest.charge(now, OWN_SAVED as usize);
        assert_eq!(modest.in_debt_until(now), None, "its own is there, whatever others do");
        modest.charge(now, 1024);
        let wait = modest.in_debt_until(now).unwrap() - now;
        assert_eq!(wait.as_millis(), 125, "1024 of 8192 a second");
    }
}
