//! StatsD datagrams: `name:12.5|ms|@0.1|#tags`, one per line, and what is gathered of them until the next look.

use crate::reading::{MAX_LATENCY, Problem, Reading, plain};
use hdrhistogram::Histogram;
use std::time::Duration;

/// A weight that one value may have: a sample rate of one in a million.
const MAX_WEIGHT: f64 = 1e6;
/// Problems that are told of one interval.
const MAX_PROBLEMS: usize = 4;

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value<'a> {
    /// Its name.
    pub name: &'a str,
    /// The value, in what its kind says.
    pub value: f64,
    /// What it is.
    pub kind: Kind,
    /// One divided by the sample rate.
    pub weight: f64,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `ms`, and the histograms and distributions of later dialects: a time in milliseconds.
    Timer,
    /// `c`.
    Counter,
    /// `g` or `s`: of no use here.
    Other,
}

/// The values of one line; or why there are none.
pub fn parse(line: &str) -> Result<Vec<Value<'_>>, &'static str> {
    let mut parts = line.split('|');
    let (name, values) = parts.next().and_then(|p| p.split_once(':')).ok_or("there is no `name:value`")?;
    let kind = match parts.next() {
        Some("ms" | "h" | "d") => Kind::Timer,
        Some("c" | "m") => Kind::Counter,
        Some("g" | "s") => Kind::Other,
        Some(_) | None => return Err("the type behind | is none of ms, h, d, c, m, g, s"),
    };
    let mut weight = 1.0;
    for part in parts {
        if let Some(rate) = part.strip_prefix('@') {
            let rate: f64 = rate.parse().map_err(|_| "the sample rate behind @ is no number")?;
            if !(rate > 0.0 && rate <= 1.0) {
                return Err("the sample rate must be above 0 and at most 1");
            }
            weight = (1.0 / rate).min(MAX_WEIGHT);
        }
    }
    if kind == Kind::Other {
        return Ok(Vec::new());
    }
    // Several values of one name, as DogStatsD packs them.
    let value = |text: &str| -> Result<Value<'_>, &'static str> {
        let value: f64 = text.parse().map_err(|_| "the value is no number")?;
        if !value.is_finite() {
            return Err("the value is no number");
        }
        Ok(Value { name, value, kind, weight })
    };
    values.split(':').take(64).map(value).collect()
}

/// What is of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The timer.
    pub latency: String,
    /// A counter of requests.
    pub requests: Option<String>,
    /// A counter of errors.
    pub errors: Option<String>,
}

/// What came since the last look.
#[derive(Debug)]
pub struct Bag {
    wanted: Wanted,
    quantile: f64,
    times: Option<Histogram<u64>>,
    too_long: u64,
    requests: Option<f64>,
    errors: Option<f64>,
    /// Names that came and are not wanted: the first few, for who wonders why nothing is seen.
    others: Vec<String>,
    problems: Vec<Problem>,
    since: Duration,
}

impl Bag {
    /// Empty.
    pub fn new(wanted: Wanted, quantile: f64, now: Duration) -> Self {
        Self {
            wanted,
            quantile,
            // Two digits are always a valid precision; a few KiB.
            times: Histogram::new(2).ok(),
            too_long: 0,
            requests: None,
            errors: None,
            others: Vec::new(),
            problems: Vec::new(),
            since: now,
        }
    }

    /// Takes in one datagram.
    pub fn datagram(&mut self, bytes: &[u8]) {
        for line in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let Ok(line) = std::str::from_utf8(line) else {
                self.complain("a datagram is not text".to_owned());
                continue;
            };
            match parse(line.trim_end_matches('\r')) {
                Ok(values) => values.iter().for_each(|v| self.value(v)),
                Err(why) => self.complain(format!("\"{}\": {why}", plain(line))),
            }
        }
    }

    fn complain(&mut self, what: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem::new(what, "name:12.5|ms, name:1|c; one per line"));
        }
    }

    fn value(&mut self, v: &Value<'_>) {
        let counts = |name: &Option<String>| name.as_deref() == Some(v.name);
        match v.kind {
            Kind::Timer if v.name == self.wanted.latency => {
                let us = v.value * 1000.0;
                if us < 0.0 {
                    self.complain(format!("{}: {} ms is no time", plain(v.name), v.value));
                } else if us > MAX_LATENCY.as_micros() as f64 {
                    self.too_long += 1;
                } else if let Some(times) = &mut self.times {
                    // Fails only for a histogram that may not grow; this one may.
                    let _ = times.record_n((us as u64).max(1), v.weight.round().max(1.0) as u64);
                }
            }
            Kind::Counter if counts(&self.wanted.requests) => add(&mut self.requests, v.value * v.weight),
            Kind::Counter if counts(&self.wanted.errors) => add(&mut self.errors, v.value * v.weight),
            Kind::Timer | Kind::Counter | Kind::Other => {
                if self.others.len() < 8 && !self.others.iter().any(|n| n == v.name) {
                    self.others.push(plain(v.name));
                }
            }
        }
    }

    /// What came since the last look, and begins anew.
    pub fn take(&mut self, now: Duration) -> Reading {
        let mut reading = Reading { problems: std::mem::take(&mut self.problems), ..Reading::default() };
        let elapsed_s = now.saturating_sub(self.since).as_secs_f64();
        let count = self.times.as_ref().map_or(0, Histogram::len);
        if count > 0 {
            reading.latency_us = self.times.as_ref().map(|h| h.value_at_quantile(self.quantile));
            reading.throughput_per_s = (elapsed_s > 0.0).then(|| count as f64 / elapsed_s);
        } else if self.too_long > 0 {
            reading.failed = Some(format!("{} took longer than 60 s", self.wanted.latency));
        } else if !self.others.is_empty() {
            reading.problems.push(Problem::new(
                format!("no timer {} came, but: {}", self.wanted.latency, self.others.join(", ")),
                "latency must be the timer's whole name, with the client's prefix",
            ));
        }
        (reading.requests, reading.errors) = (self.requests.take(), self.errors.take());
        if reading.errors.is_some() && reading.requests.is_none() {
            reading.requests = (count > 0).then_some(count as f64);
        }
        if let Some(times) = &mut self.times {
            times.reset();
        }
        (self.too_long, self.since) = (0, now);
        self.others.clear();
        reading
    }
}

fn add(sum: &mut Option<f64>, value: f64) {
    *sum = Some((sum.unwrap_or(0.0) + value).clamp(0.0, 1e15));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);

    fn bag() -> Bag {
        let wanted = Wanted {
            latency: "shop.query".into(),
            requests: Some("shop.requests".into()),
            errors: Some("shop.errors".into()),
        };
        Bag::new(wanted, 0.95, Duration::ZERO)
    }

    #[test]
    fn lines_of_several_dialects() {
        let one = |line| parse(line).unwrap()[0];
        assert_eq!(one("a.b:12.5|ms"), Value { name: "a.b", value: 12.5, kind: Kind::Timer, weight: 1.0 });
        assert_eq!(one("a:3|c|@0.1").weight, 10.0);
        assert_eq!(one("a:3|h|@0.5|#env:prod,x").weight, 2.0);
        assert_eq!(parse("a:1:2:3|ms").unwrap().len(), 3);
        assert_eq!(parse("a:+5|g").unwrap(), []);
        for bad in ["", "a", "a:1", "a:x|ms", "a:1|zz", "a:1|ms|@0", "a:1|ms|@2", "a:nan|ms", "a:inf|c"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_quantile_of_what_came_since_the_last_look() {
        let mut bag = bag();
        for ms in 1..=100 {
            bag.datagram(format!("shop.query:{ms}|ms\nshop.requests:1|c").as_bytes());
        }
        bag.datagram(b"shop.errors:1|c|@0.5");
        let r = bag.take(S * 10);
        assert!((94_000..=97_000).contains(&r.latency_us.unwrap()), "{r:?}");
        assert_eq!((r.throughput_per_s, r.requests, r.errors), (Some(10.0), Some(100.0), Some(2.0)));
        assert!(bag.take(S * 20).is_empty(), "nothing since");
    }

    #[test]
    fn sample_rates_weigh() {
        let mut bag = bag();
        bag.datagram(b"shop.query:10|ms|@0.01");
        bag.datagram(b"shop.query:1000|ms");
        let us = bag.take(S).latency_us.unwrap();
        assert!(us < 11_000, "a hundred at 10 ms outweigh one: {us}");
    }

    #[test]
    fn a_wrong_name_is_noticed() {
        let mut bag = bag();
        bag.datagram(b"query:10|ms");
        assert!(bag.take(S).problems[0].what.contains("query"));
        bag.datagram(b"\xff\xff\nnonsense");
        assert_eq!(bag.take(S).problems.len(), 2);
    }

    proptest! {
        #[test]
        fn any_datagram(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut bag = bag();
            bag.datagram(&bytes);
            let r = bag.take(S);
            prop_assert!(r.problems.len() <= MAX_PROBLEMS + 1);
        }
    }
}
