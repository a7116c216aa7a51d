//! How much of the log one guest may cause: a guest that does a thing a thousand times must not bury what the
//! others' lines say, nor fill the disk.

use std::collections::HashMap;
use std::time::Duration;
use uuid::Uuid;

/// Lines about one guest in a row; after these, one each [`REFILL`].
const BURST: f64 = 20.0;
const REFILL: Duration = Duration::from_secs(10);
/// What was left out is told this often.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Guests counted at the same time; the lines about more of them at once share one allowance.
const GUESTS: usize = 10_000;

/// Counts the lines about each guest. The time is told by the caller.
#[derive(Default)]
pub struct LogLimit {
    guests: HashMap<Uuid, Allowance>,
    told_at: Duration,
}

struct Allowance {
    lines: f64,
    at: Duration,
    left_out: u64,
}

/// Lines about one guest that were left out.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub guest: Uuid,
    pub lines: u64,
    pub last: Duration,
}

impl LogLimit {
    /// Whether a line about this guest may be written now; one that may not is counted.
    pub fn admits(&mut self, now: Duration, guest: Uuid) -> bool {
        let known = self.guests.contains_key(&guest) || self.guests.len() < GUESTS;
        let one = self.guests.entry(if known { guest } else { Uuid::nil() }).or_insert(Allowance {
            lines: BURST,
            at: now,
            left_out: 0,
        });
        one.refill(now);
        if one.lines >= 1.0 {
            one.lines -= 1.0;
            true
        } else {
            one.left_out += 1;
            false
        }
    }

    /// What was left out since it was last told, when that is due. Forgets who has been quiet for long: guests that
    /// are gone are among them.
    pub fn left_out(&mut self, now: Duration) -> Vec<LeftOut> {
        let last = now.saturating_sub(self.told_at);
        if last < TELL_EVERY {
            return Vec::new();
        }
        self.told_at = now;
        let mut told = Vec::new();
        self.guests.retain(|guest, one| {
            one.refill(now);
            let lines = std::mem::take(&mut one.left_out);
            if lines > 0 {
                told.push(LeftOut { guest: *guest, lines, last });
            }
            one.lines < BURST
        });
        told
    }
}

impl Allowance {
    fn refill(&mut self, now: Duration) {
        let gained = now.saturating_sub(self.at).as_secs_f64() / REFILL.as_secs_f64();
        self.lines = (self.lines + gained).min(BURST);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOUD: Uuid = Uuid::from_u128(1);
    const QUIET: Uuid = Uuid::from_u128(2);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_flood_yields_a_burst_then_six_a_minute_and_the_rest_is_counted() {
        let mut limit = LogLimit::default();
        let (mut written, mut left_out) = (0u64, 0u64);
        // A line each millisecond for ten minutes.
        for ms in 0..600_000 {
            written += u64::from(limit.admits(at(ms), LOUD));
            left_out += limit.left_out(at(ms)).iter().map(|l| l.lines).sum::<u64>();
        }
        assert!((79..=80).contains(&written), "{written}");
        left_out += limit.left_out(at(660_000)).iter().map(|l| l.lines).sum::<u64>();
        assert_eq!(written + left_out, 600_000, "no line is lost without being counted");
    }

    #[test]
    fn a_neighbour_is_not_silenced() {
        let mut limit = LogLimit::default();
        (0..1000).for_each(|ms| {
            let _ = limit.admits(at(ms), LOUD);
        });
        assert!(!limit.admits(at(1000), LOUD) && limit.admits(at(1000), QUIET));
        let told = limit.left_out(at(60_000));
        assert_eq!(told, [LeftOut { guest: LOUD, lines: 981, last: at(60_000) }]);
    }

    #[test]
    fn it_is_told_when_the_flood_has_ended_and_once() {
        let mut limit = LogLimit::default();
        (0..100).for_each(|_| {
            let _ = limit.admits(at(0), LOUD);
        });
        assert_eq!(limit.left_out(at(59_999)), []);
        assert_eq!(limit.left_out(at(60_000))[0].lines, 80);
        assert_eq!(limit.left_out(at(120_000)), []);
    }

    #[test]
    fn guests_that_are_gone_take_no_memory() {
        let mut limit = LogLimit::default();
        for n in 0..3 * GUESTS as u128 {
            let _ = limit.admits(at(0), Uuid::from_u128(n));
        }
        assert!(limit.guests.len() <= GUESTS + 1);
        limit.left_out(at(300_000));
        assert!(limit.guests.is_empty());
    }
}
