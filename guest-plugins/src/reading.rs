//! What a plugin said at one time, whichever kind it is of, and what is wrong with it.

use serde::Serialize;
use std::net::IpAddr;
use std::time::Duration;

/// The longest latency that is told apart; more is a failure.
pub const MAX_LATENCY: Duration = Duration::from_secs(60);
/// Texts of plugins are cut here; the agent takes as much.
pub const MAX_TEXT: usize = 200;
/// What is said about what is wrong.
const MAX_PROBLEM: usize = 500;
/// Clients that are kept of one report.
pub const MAX_CLIENTS: usize = 64;

/// One report of a plugin.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Reading {
    /// How long the workload took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
    /// What it gets done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_per_s: Option<f64>,
    /// Requests since the last report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<f64>,
    /// Those of them that went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<f64>,
    /// The workload does not work, or cannot be measured; why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// From now on a move is unwelcome, or not any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moment: Option<Moment>,
    /// It has done what it wanted to do before the announced move.
    #[serde(skip_serializing_if = "is_false")]
    pub ready: bool,
    /// It wishes the VM elsewhere; why, with its evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wish: Option<String>,
    /// Whom it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clients: Option<Vec<Client>>,
    /// What was not understood, and how to mend it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// What is right, and may yet surprise who looks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

fn is_false(b: &bool) -> bool {
    !*b
}

/// Whether this is a good moment for a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// It is.
    Good,
    /// It is not; why, as far as was said.
    Bad(String),
}

/// Clients at an address, and how much they matter beside the others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Client {
    /// Where.
    pub address: IpAddr,
    /// Finite and above 0.
    pub weight: f64,
}

/// Something that was not understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub mend: String,
}

impl Problem {
    /// Both in plain words, as far as strangers' words are in them.
    pub fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: clipped(&what.into(), MAX_PROBLEM), mend: clipped(&mend.into(), MAX_PROBLEM) }
    }
}

impl Reading {
    /// It does not work, or cannot be measured.
    pub fn failure(why: &str) -> Self {
        Self { failed: Some(plain(why)), ..Self::default() }
    }

    /// In plain words, as far as strangers' words are in it.
    pub fn note(&mut self, text: &str) {
        self.notes.push(clipped(text, MAX_PROBLEM));
    }

    /// Nothing, but this is wrong.
    pub fn trouble(problem: Problem) -> Self {
        Self { problems: vec![problem], ..Self::default() }
    }

    /// A latency in seconds; what can be none is a problem, what is too long is a failure.
    pub fn set_latency(&mut self, seconds: f64, of: &str) {
        if !seconds.is_finite() || seconds < 0.0 {
            self.problems.push(Problem::new(
                format!("{of} is {seconds} s, which is no time"),
                "measure with a clock that cannot be set (CLOCK_MONOTONIC, time.monotonic(), Instant)",
            ));
        } else if seconds > MAX_LATENCY.as_secs_f64() {
            let why = || plain(&format!("{of} is {seconds:.1} s; from 60 s on that is a failure"));
            self.failed.get_or_insert_with(why);
        } else {
            self.latency_us = Some((seconds * 1e6).round() as u64);
        }
    }

    /// Nothing that anybody could use.
    pub fn is_empty(&self) -> bool {
        Self { problems: Vec::new(), notes: Vec::new(), ..self.clone() } == Self::default()
    }
}

/// Text of a stranger, as it may be shown: one line, no control characters, nothing that turns the writing direction,
/// at most [`MAX_TEXT`] bytes.
pub fn plain(text: &str) -> String {
    clipped(text, MAX_TEXT)
}

fn clipped(text: &str, most: usize) -> String {
    let mut out = String::new();
    for c in text.trim().chars() {
        let bad = c.is_control()
            || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let c = if bad { '\u{fffd}' } else { c };
        if out.len() + c.len_utf8() > most {
            break;
        }
        out.push(c);
    }
    out
}

/// The same of bytes that may be anything.
pub fn plain_bytes(bytes: &[u8]) -> String {
    plain(&String::from_utf8_lossy(&bytes[..bytes.len().min(4 * MAX_TEXT)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_that_are_none_are_problems_and_long_ones_failures() {
        let with = |s: f64| {
            let mut reading = Reading::default();
            reading.set_latency(s, "time");
            reading
        };
        assert_eq!(with(0.0125).latency_us, Some(12_500));
        assert_eq!(with(0.0).latency_us, Some(0));
        for none in [-0.001, f64::NAN, f64::INFINITY, -3600.0] {
            let reading = with(none);
            assert_eq!((reading.latency_us, reading.problems.len()), (None, 1), "{none}");
        }
        assert!(with(61.0).failed.unwrap().contains("61.0 s"));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_plain_and_short(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let text = plain_bytes(&bytes);
            prop_assert!(text.len() <= MAX_TEXT);
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(plain(&text).len(), text.trim().len());
        }
    }
}
