//! How long the guest's clocks stood still, from outside: a clock inside cannot see its own pause.
//!
//! Each answer to a [`TimeQuery`] says what the host's clock showed at some moment between the guest's sending
//! and receiving. So `host - guest` lies between `host - received` and `host - sent` (by CLOCK_MONOTONIC, which
//! nobody can set). Bounds from many answers intersect; quick answers make narrow ones. After a move the clock
//! of the guest is behind by the time it stood still:
//!
//! ```text
//!   gap = (host - guest) after - (host - guest) before
//! ```
//!
//! with the sum of both half widths as its error, plus what the clocks may drift in between. The difference
//! holds if both hosts' clocks agree: any disagreement between them is in the gap, and the customer is told so.

use coms_protocol::guest_to_host::TimeQuery;
use coms_protocol::session::Now;
use std::collections::VecDeque;
use std::time::Duration;

/// Two clocks of machines in order run apart by less than this: 1 ms per second. (Adjusting daemons slew by
/// at most 500 ppm, at each end.)
const DRIFT: i128 = 1000;
const MILLION: i128 = 1_000_000;
/// Queries whose answers are awaited, bounds and hosts that are remembered.
const MAX_ASKED: usize = 64;
const MAX_BOUNDS: usize = 32;
const MAX_HOSTS: usize = 4;

/// How many queries, and how far apart, make one careful comparison.
pub const BURST: u32 = 20;
/// From one query of a burst to the next.
pub const BURST_SPACING: Duration = Duration::from_millis(10);
/// From one query to the next during a migration: the last bound before the pause is to be fresh.
pub const PACE: Duration = Duration::from_millis(250);

/// Bounds on `host - guest`, in microseconds, at a moment of the guest's clock.
#[derive(Debug, Clone, Copy)]
struct Bound {
    at: i128,
    low: i128,
    high: i128,
    /// The guest's wall clock less its monotonic one: changes when somebody sets it.
    wall: i128,
}

impl Bound {
    /// The same bound, seen from another moment.
    fn seen_from(self, at: i128) -> Bound {
        let wider = (at - self.at).abs() * DRIFT / MILLION;
        Bound { at, low: self.low - wider, high: self.high + wider, wall: self.wall }
    }
}

/// What is known of one host's clock, during one stay there.
#[derive(Debug)]
struct Stay {
    host: String,
    bounds: VecDeque<Bound>,
}

impl Stay {
    /// All that is known, seen from one moment. None: nothing.
    fn known(&self, at: i128) -> Option<Bound> {
        self.bounds.iter().map(|b| b.seen_from(at)).reduce(|a, b| Bound {
            at,
            low: a.low.max(b.low),
            high: a.high.min(b.high),
            wall: b.wall,
        })
    }

    /// If it contradicts what was known: how far the host's clock went ahead at once, at least.
    fn add(&mut self, bound: Bound) -> Option<i128> {
        let clash = self.known(bound.at).and_then(|k| {
            let ahead = (bound.low - k.high).max(0);
            let behind = (k.low - bound.high).max(0);
            (ahead + behind > 0).then_some(ahead - behind)
        });
        if clash.is_some() {
            // Somebody set the host's clock, or the VM was paused: what was known is void.
            self.bounds.clear();
        }
        if self.bounds.len() >= MAX_BOUNDS {
            self.bounds.pop_front();
        }
        self.bounds.push_back(bound);
        clash
    }
}

/// The comparison's result, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stood {
    /// The guest's clock fell behind by this much ...
    pub gap_us: i128,
    /// ... give or take this.
    pub error_us: i128,
    /// Somebody set the guest's wall clock by this much meanwhile.
    pub set_us: i128,
}

/// Compares the guest's clock with the clocks of the hosts it stays at.
#[derive(Debug)]
pub struct Clocks {
    number: u64,
    asked: VecDeque<(u64, i128)>,
    stays: VecDeque<Stay>,
    left: u32,
    due: Option<Duration>,
    moving: bool,
}

impl Clocks {
    /// Knows nothing. `number` is the first query's, random so that a former agent's answers do not count.
    pub fn new(number: u64) -> Self {
        let (asked, stays) = (VecDeque::new(), VecDeque::new());
        Self { number, asked, stays, left: 0, due: None, moving: false }
    }

    /// A broker is there. `host` is the alias in its hello: another one is another clock.
    pub fn met(&mut self, host: &str) {
        // Whatever was asked was asked of somebody else, or will not be answered any more.
        self.asked.clear();
        if self.stays.back().is_some_and(|s| s.host == host) {
            return;
        }
        if self.stays.len() >= MAX_HOSTS {
            self.stays.pop_front();
        }
        self.stays.push_back(Stay { host: host.to_owned(), bounds: VecDeque::new() });
    }

    /// Begins a careful comparison.
    pub fn burst(&mut self, now: Duration) {
        self.left = BURST;
        self.due = Some(now);
    }

    /// A migration is under way, or no longer.
    pub fn set_moving(&mut self, moving: bool, now: Duration) {
        self.moving = moving;
        if moving && self.due.is_none() {
            self.due = Some(now);
        }
    }

    /// No burst is under way.
    pub fn is_quiet(&self) -> bool {
        self.left == 0
    }

    /// When the next query is due.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.due
    }

    /// The query that is due.
    pub fn poll(&mut self, now: Now) -> Option<TimeQuery> {
        if self.due.is_none_or(|due| due > now.mono) {
            return None;
        }
        self.left = self.left.saturating_sub(1);
        self.due = match (self.left, self.moving) {
            (0, false) => None,
            (0, true) => Some(now.mono + PACE),
            (_, _) => Some(now.mono + BURST_SPACING),
        };
        Some(self.ask(now))
    }

    /// One query, out of turn.
    pub fn ask(&mut self, now: Now) -> TimeQuery {
        self.number = self.number.wrapping_add(1);
        if self.asked.len() >= MAX_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back((self.number, us(now.mono)));
        TimeQuery { number: self.number }
    }

    /// An answer. One that was not asked for is ignored. If this host's clock and the guest's have parted since the
    /// last one: how far the host's went ahead.
    pub fn answered(&mut self, now: Now, number: u64, host_unix_us: u64) -> Option<i128> {
        let index = self.asked.iter().position(|(n, _)| *n == number)?;
        let (_, sent) = self.asked.remove(index)?;
        let stay = self.stays.back_mut()?;
        let (host, received) = (i128::from(host_unix_us), us(now.mono));
        // Clocks are read in whole microseconds, rounded down, at both ends.
        let bound = Bound {
            at: received,
            low: host - received - 1,
            high: host - sent + 1,
            wall: i128::from(now.unix_us) - received,
        };
        stay.add(bound)
    }

    /// How far the host's wall clock is ahead of the guest's, and the truth is within how much of that, in
    /// microseconds. None: this host was not asked.
    pub fn ahead(&self, now: Now) -> Option<(i128, i128)> {
        let known = self.stays.back()?.known(us(now.mono))?;
        let wall = i128::from(now.unix_us) - us(now.mono);
        Some(((known.low + known.high) / 2 - wall, (known.high - known.low + 1) / 2))
    }

    /// How long the clock stood still between the last host and this one. None: one of them was not asked.
    pub fn stood(&self) -> Option<Stood> {
        let mut newest = self.stays.iter().rev();
        let (here, there) = (newest.next()?, newest.next()?);
        let after = here.known(here.bounds.front()?.at)?;
        let before = there.known(there.bounds.back()?.at)?;
        let drift = (after.at - before.at).abs() * DRIFT / MILLION;
        let (low, high) = (after.low - before.high - drift, after.high - before.low + drift);
        Some(Stood {
            gap_us: (low + high) / 2,
            // Rounded up: the truth must not fall out by a division.
            error_us: (high - low + 1) / 2 + 1,
            set_us: after.wall - before.wall,
        })
    }
}

fn us(t: Duration) -> i128 {
    i128::try_from(t.as_micros()).unwrap_or(i128::MAX / 4)
}

#[cfg(test)]
mod tests;
