//! What a [`GapLaw`] means in numbers: both ends reckon with it, the host to draw, the guest to know what to expect.
//!
//! A gap is `least + x`, with `x` in `[0, width]` and `width = most - least`.
//!
//! ```text
//!   uniform       S(x) = 1 - x/width
//!   exponential   S(x) = (e^(-x/mean) - e^(-CUT)) / (1 - e^(-CUT)),   mean = width/CUT, before it is cut
//! ```
//! `S(x)` is the chance that the gap is longer than `least + x`.

use crate::types::GapLaw;

/// The exponential law is cut where this many means have passed: 5 % of it lie beyond. More would make most gaps
/// short, fewer would let the end of the range be felt early.
pub const CUT: f64 = 3.0;

/// A law and its range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gaps {
    exponential: bool,
    least_s: f64,
    width_s: f64,
}

impl Gaps {
    /// None: a law of a later version, or a range without width.
    pub fn new(law: GapLaw, least_s: u32, most_s: u32) -> Option<Self> {
        let exponential = match law {
            GapLaw::Exponential => true,
            GapLaw::Uniform => false,
            GapLaw::Unknown(_) => return None,
        };
        let width_s = most_s.checked_sub(least_s).filter(|w| *w > 0)?;
        Some(Self { exponential, least_s: least_s.into(), width_s: width_s.into() })
    }

    /// The gap in milliseconds that a number drawn from all 64-bit numbers alike stands for.
    pub fn gap_ms(&self, drawn: u64) -> u64 {
        // The upper 53 bits, which a float holds exactly: from 0 to just below 1.
        let u = (drawn >> 11) as f64 / (1_u64 << 53) as f64;
        let x = if self.exponential {
            -(1.0 - u * -(-CUT).exp_m1()).ln() * self.width_s / CUT
        } else {
            u * self.width_s
        };
        ((self.least_s + x.clamp(0.0, self.width_s)) * 1000.0) as u64
    }

    /// The chance that a gap is longer than this.
    pub fn longer_than(&self, s: f64) -> f64 {
        let x = (s - self.least_s).clamp(0.0, self.width_s);
        if self.exponential {
            let beyond = (-CUT).exp();
            ((-x * CUT / self.width_s).exp() - beyond) / (1.0 - beyond)
        } else {
            1.0 - x / self.width_s
        }
    }

    /// The mean gap in seconds.
    pub fn mean_s(&self) -> f64 {
        if self.exponential {
            let beyond = (-CUT).exp();
            self.least_s + self.width_s * (1.0 / CUT - beyond / (1.0 - beyond))
        } else {
            self.least_s + self.width_s / 2.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evenly over all 64-bit numbers, not at random.
    fn even(n: u64) -> impl Iterator<Item = u64> {
        let step = u64::MAX / n;
        (0..n).map(move |i| step / 2 + i * step)
    }

    #[test]
    fn gaps_lie_in_the_range_and_follow_their_law() {
        for law in [GapLaw::Exponential, GapLaw::Uniform] {
            let gaps = Gaps::new(law, 20, 50).unwrap();
            assert_eq!(gaps.gap_ms(0), 20_000, "{law}");
            assert!((49_999..=50_000).contains(&gaps.gap_ms(u64::MAX)), "{law}");
            let drawn: Vec<f64> = even(10_000).map(|u| gaps.gap_ms(u) as f64 / 1000.0).collect();
            let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
            assert!((mean - gaps.mean_s()).abs() < 0.01, "{law}: {mean} {}", gaps.mean_s());
            for s in [19.0, 20.0, 23.0, 30.0, 41.5, 49.9, 50.0, 60.0] {
                let longer = drawn.iter().filter(|g| **g > s).count() as f64 / drawn.len() as f64;
                assert!((longer - gaps.longer_than(s)).abs() < 0.001, "{law} {s}: {longer}");
            }
        }
    }

    #[test]
    fn the_exponential_law_has_no_memory_but_near_its_end() {
        let gaps = Gaps::new(GapLaw::Exponential, 0, 300).unwrap();
        let next_10_s = |t: f64| 1.0 - gaps.longer_than(t + 10.0) / gaps.longer_than(t);
        assert!(next_10_s(100.0) < 1.15 * next_10_s(0.0));
        assert!((next_10_s(290.0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_range_without_width_and_an_unknown_law_are_none() {
        assert_eq!(Gaps::new(GapLaw::Uniform, 20, 20), None);
        assert_eq!(Gaps::new(GapLaw::Uniform, 30, 20), None);
        assert_eq!(Gaps::new(GapLaw::Unknown(9), 20, 50), None);
    }
}
