//! What an outside client sees of the move: its packets' echoes, and the longest time without one.

use super::follow::unix_ms;
use crate::Result;
use coms_lab::{Client, UdpEcho};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// The switch-over is within this of the resumption.
const NEAR_MS: f64 = 1000.0;
/// Packets must have come back by so long before the resumption, or the switch-over was not watched.
const SURELY_BEFORE_MS: f64 = 500.0;

/// A packet every 2 ms, from the guest's asking until a moment after it was told. Not longer: 500 packets a second
/// cost a guest under TCG a fifth of a CPU or more, and its rounds would tell of that.
pub struct Probing<'a> {
    outside: &'a Client,
    guest: Ipv4Addr,
    echo: Option<UdpEcho>,
    stop_at: Option<Instant>,
    /// When echoes came.
    arrivals_ms: Vec<f64>,
}

impl<'a> Probing<'a> {
    /// Nothing is sent yet.
    pub fn new(outside: &'a Client, guest: Ipv4Addr) -> Probing<'a> {
        Probing { outside, guest, echo: None, stop_at: None, arrivals_ms: Vec::new() }
    }

    /// From now on; once.
    pub fn start(&mut self) -> Result<()> {
        if self.echo.is_none() && self.arrivals_ms.is_empty() {
            self.echo = Some(self.outside.udp_echo(self.guest)?);
        }
        Ok(())
    }

    /// Ends in a moment.
    pub fn stop_soon(&mut self) {
        self.stop_at.get_or_insert(Instant::now() + Duration::from_millis(1200));
    }

    /// Does what is due.
    pub fn tick(&mut self) {
        if self.stop_at.is_some_and(|at| at <= Instant::now())
            && let Some(echo) = self.echo.take()
        {
            let (now, now_ms) = (Instant::now(), unix_ms());
            let arrivals = echo.record().into_iter().filter_map(|e| e.received);
            self.arrivals_ms =
                arrivals.map(|at| now_ms - now.duration_since(at).as_secs_f64() * 1000.0).collect();
            // Not always in order: what waited at a switch may be overtaken.
            self.arrivals_ms.sort_by(f64::total_cmp);
        }
    }

    /// The longest time without an echo that touches the second before or after the resumption, and the longest
    /// before that second: what the copying and the busy neighbours make of the guest without any switch-over.
    pub fn gaps_ms(&self, resumed_ms: f64) -> (Option<f64>, Option<f64>) {
        gaps_ms(&self.arrivals_ms, resumed_ms)
    }
}

fn gaps_ms(arrivals_ms: &[f64], resumed_ms: f64) -> (Option<f64>, Option<f64>) {
    let (from, to) = (resumed_ms - NEAR_MS, resumed_ms + NEAR_MS);
    let watched = arrivals_ms.first().is_some_and(|first| *first <= resumed_ms - SURELY_BEFORE_MS)
        && arrivals_ms.last().is_some_and(|last| *last >= resumed_ms);
    let longest = |within: &dyn Fn(f64, f64) -> bool| {
        let pairs = arrivals_ms.windows(2).filter_map(|w| Some((*w.first()?, *w.get(1)?)));
        let gaps = pairs.filter(|(a, b)| within(*a, *b)).map(|(a, b)| b - a);
        gaps.reduce(f64::max).map(|gap| (gap * 10.0).round() / 10.0)
    };
    let near = longest(&|a, b| b >= from && a <= to);
    (near.filter(|_| watched), longest(&|_, b| b < from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_over_is_told_from_the_neighbours() {
        let mut arrivals: Vec<f64> = (0..2000_u32).map(|i| f64::from(i) * 2.0).collect();
        arrivals.retain(|at| !(500.0..540.0).contains(at) && !(2900.0..2990.0).contains(at));
        assert_eq!(gaps_ms(&arrivals, 2990.0), (Some(92.0), Some(42.0)));
        assert_eq!(gaps_ms(&arrivals, 400.0).0, None, "begun too late to say");
        assert_eq!(gaps_ms(&arrivals, 9000.0).0, None, "ended too early to say");
        assert_eq!(gaps_ms(&[], 100.0), (None, None));
    }
}
