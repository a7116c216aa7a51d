//! Percentiles, and how sure they are: a bootstrap of 10,000 resamples with a fixed seed, so that the same raw data
//! give the same interval.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

/// Tests of other things need not wait for the last digit.
const RESAMPLES: usize = if cfg!(test) { 1000 } else { 10_000 };
const SEED: u64 = 0x434f_4d53;

/// A figure of a sample, and the 95 % interval of its bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// The smallest value that `p` of all are not above (nearest rank). The order of `values` is lost.
fn percentile_of(values: &mut [f64], p: f64) -> f64 {
    let rank = ((values.len() as f64 * p).ceil() as usize).clamp(1, values.len().max(1));
    match values.is_empty() {
        true => f64::NAN,
        false => *values.select_nth_unstable_by(rank - 1, f64::total_cmp).1,
    }
}

pub fn percentile(values: &[f64], p: f64) -> f64 {
    percentile_of(&mut values.to_vec(), p)
}

/// One percentile of one sample.
pub fn estimate(values: &[f64], p: f64) -> Estimate {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut again = Vec::with_capacity(values.len());
    let draws = (0..RESAMPLES).map(|_| {
        resample(&mut random, values, &mut again);
        percentile_of(&mut again, p)
    });
    interval(percentile(values, p), draws.collect())
}

/// The ratio of one percentile of two samples; both are drawn anew each time.
pub fn ratio(ours: &[f64], theirs: &[f64], p: f64) -> Estimate {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut again = Vec::with_capacity(ours.len().max(theirs.len()));
    let draws = (0..RESAMPLES).map(|_| {
        resample(&mut random, ours, &mut again);
        let above = percentile_of(&mut again, p);
        resample(&mut random, theirs, &mut again);
        above / percentile_of(&mut again, p)
    });
    interval(percentile(ours, p) / percentile(theirs, p), draws.collect())
}

/// What `compare` makes of the medians of two samples that were taken in pairs: pairs are drawn whole, so that what met both
/// of a pair cancels out.
pub fn paired(ours: &[f64], theirs: &[f64], compare: fn(f64, f64) -> f64) -> Estimate {
    let pairs = ours.len().min(theirs.len());
    let mut random = StdRng::seed_from_u64(SEED);
    let (mut above, mut below) = (Vec::with_capacity(pairs), Vec::with_capacity(pairs));
    let draws = (0..RESAMPLES).map(|_| {
        above.clear();
        below.clear();
        for _ in 0..pairs {
            let pair = random.random_range(0..pairs);
            above.push(ours[pair]);
            below.push(theirs[pair]);
        }
        compare(percentile_of(&mut above, 0.5), percentile_of(&mut below, 0.5))
    });
    let value = compare(percentile(&ours[..pairs], 0.5), percentile(&theirs[..pairs], 0.5));
    interval(value, draws.collect())
}

fn resample(random: &mut StdRng, values: &[f64], into: &mut Vec<f64>) {
    into.clear();
    into.extend((0..values.len()).map(|_| values[random.random_range(0..values.len())]));
}

fn interval(value: f64, mut draws: Vec<f64>) -> Estimate {
    Estimate { value, low: percentile_of(&mut draws, 0.025), high: percentile_of(&mut draws, 0.975) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 100.0);
        assert_eq!(percentile(&values, 0.99), 198.0);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn an_interval_repeats_holds_its_value_and_narrows_with_more_samples() {
        let wave = |n: u32| (0..n).map(|i| f64::from(i * 7919 % 1000)).collect::<Vec<f64>>();
        let (few, many) = (estimate(&wave(50), 0.5), estimate(&wave(2000), 0.5));
        assert_eq!(few, estimate(&wave(50), 0.5));
        assert!(few.low < few.value && few.value < few.high, "{few:?}");
        assert!(many.high - many.low < (few.high - few.low) / 3.0, "{few:?} {many:?}");
    }

    #[test]
    fn a_ratio_knows_which_side_is_slower() {
        let base: Vec<f64> = (0..60).map(|i| 100.0 + f64::from(i % 10)).collect();
        let slower: Vec<f64> = base.iter().map(|v| v * 1.5).collect();
        let found = ratio(&slower, &base, 0.5);
        assert!((found.value - 1.5).abs() < 1e-9 && found.low > 1.4 && found.high < 1.6, "{found:?}");
    }

    #[test]
    fn what_meets_both_of_a_pair_does_not_widen_the_interval() {
        // Drifts by a factor of two; each pair differs by 3 to 5.
        let base: Vec<f64> = (0..60).map(|i| 100.0 + f64::from(i * 37 % 60) * 2.0).collect();
        let slower: Vec<f64> = base.iter().enumerate().map(|(i, v)| v + 3.0 + (i % 3) as f64).collect();
        let found = paired(&slower, &base, |a, b| a - b);
        assert!(found.low >= 1.0 && found.high <= 7.0, "{found:?}");
        let apart = ratio(&slower, &base, 0.5);
        let together = paired(&slower, &base, |a, b| a / b);
        assert!(together.high - together.low < (apart.high - apart.low) / 3.0, "{together:?} {apart:?}");
        assert!(paired(&[], &[], |a, b| a / b).value.is_nan());
    }
}
