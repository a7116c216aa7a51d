//! What a stranger may print: lines of a length, so many a second, so many bytes a second; and how soon one that ended is
//! started again.

use std::time::Duration;

/// Bytes a second that are read of one plugin ...
pub const BYTES_PER_S: f64 = 64.0 * 1024.0;
/// ... and as many more at once.
pub const BYTES_SAVED: f64 = 128.0 * 1024.0;
/// Lines a second that are understood ...
pub const LINES_PER_S: f64 = 10.0;
/// ... and as many more at once.
pub const LINES_SAVED: f64 = 20.0;
/// Lines of standard error a second that are logged, and as many at once.
pub const COMPLAINTS_PER_S: f64 = 0.2;
/// See above.
pub const COMPLAINTS_SAVED: f64 = 5.0;
/// A check's output; more is cut off, and said.
pub const MAX_OUTPUT: usize = 64 * 1024;

/// An income, and savings up to a bound.
#[derive(Debug, Clone)]
pub struct Budget {
    per_s: f64,
    most: f64,
    has: f64,
    at: Duration,
}

impl Budget {
    /// Full.
    pub fn new(per_s: f64, most: f64, now: Duration) -> Self {
        Self { per_s, most, has: most, at: now }
    }

    fn earn(&mut self, now: Duration) {
        let earned = now.saturating_sub(self.at).as_secs_f64() * self.per_s;
        self.has = (self.has + earned).min(self.most);
        self.at = self.at.max(now);
    }

    /// Takes one, if it is there.
    pub fn take(&mut self, now: Duration) -> bool {
        self.earn(now);
        let can = self.has >= 1.0;
        if can {
            self.has -= 1.0;
        }
        can
    }

    /// Takes so much, also on credit; how long to wait until the debt is paid.
    pub fn spend(&mut self, now: Duration, amount: f64) -> Duration {
        self.earn(now);
        self.has -= amount;
        Duration::from_secs_f64((-self.has / self.per_s).clamp(0.0, 60.0))
    }
}

/// Cuts a stream into lines.
#[derive(Debug)]
pub struct Lines {
    max: usize,
    held: Vec<u8>,
    /// The line that comes is longer; its rest is thrown away.
    skipping: bool,
}

/// A line, or what is left of one.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line without its newline.
    Whole(Vec<u8>),
    /// One that is too long; told once, when that is known.
    TooLong,
}

impl Lines {
    /// Of at most `max` bytes each.
    pub fn new(max: usize) -> Self {
        Self { max, held: Vec::new(), skipping: false }
    }

    /// Takes in some bytes. Holds at most one line of them.
    pub fn push(&mut self, mut bytes: &[u8]) -> Vec<Line> {
        let mut out = Vec::new();
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.held.len() + line.len() > self.max {
                self.held.clear();
                out.push(Line::TooLong);
                continue;
            }
            self.held.extend_from_slice(line);
            let mut whole = std::mem::take(&mut self.held);
            whole.truncate(whole.trim_ascii_end().len());
            if !whole.is_empty() {
                out.push(Line::Whole(whole));
            }
        }
        if self.skipping {
            return out;
        }
        if self.held.len() + bytes.len() > self.max {
            self.held = Vec::new();
            self.skipping = true;
            out.push(Line::TooLong);
        } else {
            self.held.extend_from_slice(bytes);
        }
        out
    }
}

/// How long until something that ended is started again.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Ran for so long: all is well again.
    const WELL: Duration = Duration::from_secs(60);
    /// The longest wait.
    pub const MOST: Duration = Duration::from_secs(300);

    /// It ended after running for so long.
    pub fn ended(&mut self, ran: Duration) -> Duration {
        if ran >= Self::WELL {
            self.failures = 0;
        }
        let wait = Duration::from_secs(1 << self.failures.min(9)).min(Self::MOST);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_budget_gives_what_was_saved_and_then_what_comes_in() {
        let mut budget = Budget::new(10.0, 20.0, ms(0));
        assert_eq!((0..100).filter(|_| budget.take(ms(0))).count(), 20);
        assert_eq!((0..100).filter(|_| budget.take(ms(1000))).count(), 10);
        assert!(!budget.take(ms(500)), "a clock that goes back pays nothing");
        assert_eq!((0..1000).filter(|i| budget.take(ms(1000 + i * 10))).count(), 99);
    }

    #[test]
    fn what_is_read_on_credit_is_waited_for() {
        let mut budget = Budget::new(1000.0, 1000.0, ms(0));
        assert_eq!(budget.spend(ms(0), 1000.0), Duration::ZERO);
        assert_eq!(budget.spend(ms(0), 500.0), ms(500));
        assert_eq!(budget.spend(ms(500), 0.0), Duration::ZERO);
    }

    #[test]
    fn it_waits_longer_each_time_until_it_ran_well() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..11).map(|_| backoff.ended(ms(10)).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(backoff.ended(Duration::from_secs(61)).as_secs(), 1);
    }

    #[test]
    fn endless_lines_are_told_once_and_hold_nothing() {
        let mut lines = Lines::new(10);
        let mut told = 0;
        for _ in 0..1000 {
            told += lines.push(&[b'x'; 100]).len();
            assert!(lines.held.capacity() <= 64);
        }
        assert_eq!(told, 1);
        assert_eq!(lines.push(b"xx\nok\r\n\n"), [Line::Whole(b"ok".to_vec())]);
    }

    proptest! {
        /// However the bytes come in pieces, the same lines come out.
        #[test]
        fn pieces_make_no_difference(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..200), cuts in 1usize..20) {
            let whole = Lines::new(8).push(&[&bytes[..], b"\n"].concat());
            let mut lines = Lines::new(8);
            let mut pieces: Vec<_> = bytes.chunks(cuts).flat_map(|c| lines.push(c)).collect();
            pieces.extend(lines.push(b"\n"));
            prop_assert_eq!(whole, pieces);
        }
    }
}
