//! From receipts to a rate.

use super::{PART, PARTS};
use std::time::Duration;

/// Less than this tells nothing: then all counts.
const LEAST_COUNTED: Duration = Duration::from_millis(200);
/// A way that is longer is none to move over; it must not take longer to find out, too.
const LONGEST_RTT: Duration = Duration::from_millis(500);

/// For how long is sent. TCP finds out what the way carries; what it does until then does not count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    warm_up: Duration,
    counted: Duration,
}

impl Times {
    /// A connection begins with a few packets and doubles them with each round trip: ten of them make some ten thousand.
    pub(super) fn of(rtt: Duration) -> Self {
        let rtt = rtt.min(LONGEST_RTT);
        Self {
            warm_up: Duration::from_millis(300).max(rtt * 10),
            counted: Duration::from_millis(1000).max(rtt * 5),
        }
    }

    pub(super) fn all(&self) -> Duration {
        self.warm_up + self.counted
    }
}

/// `arrived`: when each part was acknowledged, since the first was sent.
pub(super) fn rate_mib_s(arrived: &[Duration], times: &Times) -> f64 {
    let all_came = arrived.len() >= PARTS as usize;
    // A way that fell silent meanwhile was narrow all that time.
    let end = arrived.last().filter(|_| all_came).copied().unwrap_or_else(|| times.all());
    let warm = arrived.partition_point(|at| *at <= times.warm_up);
    let since = warm.checked_sub(1).and_then(|i| arrived.get(i)).copied().unwrap_or_default();
    let counted = end.saturating_sub(since);
    let (parts, time) =
        if counted >= LEAST_COUNTED { (arrived.len() - warm, counted) } else { (arrived.len(), end) };
    let mib = parts as f64 * PART as f64 / f64::from(1u32 << 20);
    if time.is_zero() { 0.0 } else { mib / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that doubles what is under way with each round trip, on a way of `mib_s`.
    fn slow_start(rtt: Duration, mib_s: f64, until: Duration) -> Vec<Duration> {
        let (mut window, mut bytes, mut at) = (14_600.0_f64, 0.0, rtt);
        let most = mib_s * f64::from(1 << 20) * rtt.as_secs_f64();
        let mut arrived = Vec::new();
        while at <= until && arrived.len() < PARTS as usize {
            let round = window.min(most);
            // They come in the order in which they are sent, over the round.
            let before = bytes;
            bytes += round;
            for part in (before / PART as f64) as u64..(bytes / PART as f64) as u64 {
                let share = ((part + 1) as f64 * PART as f64 - before) / round;
                arrived.push(at + rtt.mul_f64(share.clamp(0.0, 1.0)));
            }
            window *= 2.0;
            at += rtt;
        }
        arrived.retain(|at| *at <= until);
        arrived.truncate(PARTS as usize);
        arrived
    }

    #[test]
    fn a_long_way_is_as_wide_as_a_short_one() {
        for rtt_ms in [1, 20, 80, 150] {
            let rtt = Duration::from_millis(rtt_ms);
            let times = Times::of(rtt);
            for mib_s in [5.0, 20.0, 28.0] {
                let rate = rate_mib_s(&slow_start(rtt, mib_s, times.all()), &times);
                assert!((rate / mib_s - 1.0).abs() < 0.25, "{rtt_ms} ms, {mib_s} MiB/s: {rate}");
            }
        }
    }

    #[test]
    fn a_way_that_falls_silent_is_narrow_and_one_that_never_spoke_carries_nothing() {
        let times = Times::of(Duration::from_millis(1));
        assert_eq!(rate_mib_s(&[], &times), 0.0);
        let part_s = PART as f64 / f64::from(1 << 20);
        let early: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert!(rate_mib_s(&early, &times) < 1.0);
        let steady: Vec<_> = (1..=130).map(|i| Duration::from_millis(i * 10)).collect();
        let rate = rate_mib_s(&steady, &times);
        assert!((rate / (100.0 * part_s) - 1.0).abs() < 0.05, "{rate}");
        // So wide that all has come at once.
        let quick: Vec<_> = (0..PARTS).map(|i| Duration::from_micros(u64::from(i) * 30)).collect();
        assert!(rate_mib_s(&quick, &times) > 900.0);
    }
}
