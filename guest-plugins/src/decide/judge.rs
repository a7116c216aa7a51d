//! What of a reading the agent hears: one measurement, or one failure, or nothing.

use crate::config::{Judging, Measure};
use crate::reading::{MAX_LATENCY, Reading, plain};
use serde::Serialize;

/// As the agent hears it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Heard {
    /// It took so many microseconds.
    TookUs(u64),
    /// It does not work, or could not be measured.
    Failed(String),
}

/// What is heard of a reading.
pub fn judge(reading: &Reading, judging: Judging) -> Option<Heard> {
    if let Some(why) = &reading.failed {
        return Some(Heard::Failed(why.clone()));
    }
    if let Some(why) = too_many_errors(reading, judging) {
        return Some(Heard::Failed(why));
    }
    match judging.measure {
        Measure::Latency => reading.latency_us.map(Heard::TookUs),
        // Each operation's time: less throughput is slower. None at all is idle, as far as can be told.
        Measure::Throughput => reading
            .throughput_per_s
            .filter(|per_s| *per_s > 0.0)
            .map(|per_s| Heard::TookUs((1e6 / per_s).min(MAX_LATENCY.as_micros() as f64) as u64)),
    }
}

fn too_many_errors(reading: &Reading, judging: Judging) -> Option<String> {
    let (errors, most) = (reading.errors?, judging.max_errors_permille?);
    // Errors without a number of requests count by themselves.
    let requests = reading.requests.unwrap_or(errors).max(errors);
    let permille = errors * 1000.0 / requests.max(f64::MIN_POSITIVE);
    let why = || {
        plain(&format!(
            "{errors:.0} of {requests:.0} requests failed: {permille:.0} in a thousand, at most {most}"
        ))
    };
    (errors > 0.0 && permille > f64::from(most)).then(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: Judging = Judging { measure: Measure::Latency, max_errors_permille: Some(10) };

    #[test]
    fn latency_unless_it_failed() {
        let r = Reading { latency_us: Some(5), ..Reading::default() };
        assert_eq!(judge(&r, LATENCY), Some(Heard::TookUs(5)));
        let failed = Reading { failed: Some("no".into()), ..r };
        assert_eq!(judge(&failed, LATENCY), Some(Heard::Failed("no".into())));
        assert_eq!(judge(&Reading::default(), LATENCY), None);
    }

    #[test]
    fn too_many_errors_are_a_failure() {
        let with = |errors, requests| {
            judge(&Reading { latency_us: Some(5), errors, requests, ..Reading::default() }, LATENCY)
        };
        assert_eq!(with(Some(1.0), Some(100.0)), Some(Heard::TookUs(5)), "ten in a thousand are allowed");
        assert!(
            matches!(with(Some(2.0), Some(100.0)), Some(Heard::Failed(why)) if why.starts_with("2 of 100"))
        );
        assert!(matches!(with(Some(2.0), None), Some(Heard::Failed(_))));
        assert_eq!(with(Some(0.0), Some(0.0)), Some(Heard::TookUs(5)));
        assert_eq!(with(None, Some(5.0)), Some(Heard::TookUs(5)));
    }

    #[test]
    fn less_throughput_is_slower() {
        let of = |per_s| {
            let r = Reading { throughput_per_s: Some(per_s), latency_us: Some(7), ..Reading::default() };
            judge(&r, Judging { measure: Measure::Throughput, max_errors_permille: None })
        };
        assert_eq!(of(250.0), Some(Heard::TookUs(4000)));
        assert_eq!(of(1e-9), Some(Heard::TookUs(60_000_000)));
        assert_eq!(of(0.0), None);
    }
}
