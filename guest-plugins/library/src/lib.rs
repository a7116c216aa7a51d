//! A workload plugin in ten lines: measure, say it, wait, again.
//!
//! ```no_run
//! use coms_plugin::{Sample, every};
//! use std::{net::TcpStream, time::{Duration, Instant}};
//!
//! fn main() {
//!     every(Duration::from_secs(5), || {
//!         let begun = Instant::now();
//!         TcpStream::connect("127.0.0.1:5432")?;
//!         Ok(Sample::latency(begun.elapsed()))
//!     })
//! }
//! ```
//!
//! What comes of it is one line of JSON each time, as guest-agent/PLUGINS.md says; an error is a failed measurement.
//! The plugin ends when its standard input does. One that is to hear of moves uses [`Plugin`].

use serde_json::{Map, Value, json};
use std::io::{BufRead, Write};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// One line.
#[derive(Debug, Clone, Default)]
pub struct Sample(Map<String, Value>);

impl Sample {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the workload took.
    pub fn latency(took: Duration) -> Self {
        Self::new().with("latency_ms", took.as_secs_f64() * 1000.0)
    }

    /// It does not work.
    pub fn failed(why: impl std::fmt::Display) -> Self {
        Self::new().with("failed", why.to_string())
    }

    /// What is done per second.
    #[must_use]
    pub fn throughput(self, per_s: f64) -> Self {
        self.with("throughput_per_s", per_s)
    }

    /// Requests since the last sample, and how many of them went wrong.
    #[must_use]
    pub fn errors(self, errors: u64, requests: u64) -> Self {
        self.with("errors", errors).with("requests", requests)
    }

    /// From now on a move is unwelcome: it is held for as long as the configuration allows.
    #[must_use]
    pub fn bad_moment(self, why: &str) -> Self {
        self.with("bad_moment", why)
    }

    /// Not any more.
    #[must_use]
    pub fn good_moment(self) -> Self {
        self.with("bad_moment", false)
    }

    /// The announced move may begin.
    #[must_use]
    pub fn ready(self) -> Self {
        self.with("ready", true)
    }

    /// The VM had better be elsewhere; `evidence` are at most 8 figures.
    #[must_use]
    pub fn wish(self, why: &str, evidence: &[(&str, f64)]) -> Self {
        let evidence: Map<_, _> = evidence.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        self.with("wish", json!({ "why": why, "evidence": evidence }))
    }

    /// Whom it serves, and how much each matters.
    #[must_use]
    pub fn clients(self, clients: &[(IpAddr, f64)]) -> Self {
        let one =
            |(address, weight): &(IpAddr, f64)| json!({ "address": address.to_string(), "weight": weight });
        self.with("clients", clients.iter().map(one).collect::<Vec<_>>())
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// As it is printed.
    pub fn line(&self) -> String {
        let mut map = self.0.clone();
        map.insert("v".to_owned(), 1.into());
        Value::Object(map).to_string()
    }

    /// Prints it. An error: nobody reads any more.
    pub fn say(&self) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", self.line())?;
        out.flush()
    }
}

/// Why a measurement failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures at this interval until standard input ends, and says what came of it.
pub fn every(interval: Duration, mut measure: impl FnMut() -> Result<Sample, Failure>) {
    Plugin::new(interval).run(|event| match event {
        Event::Due => Some(measure().unwrap_or_else(Sample::failed)),
        Event::Told(_) => None,
    });
}

/// What a plugin is called for.
#[derive(Debug)]
pub enum Event {
    /// It is time to measure.
    Due,
    /// A move is announced, begins, or ended: the line as it came (`event`, `migration`, ...).
    Told(Value),
}

/// A plugin that hears of moves, too.
#[derive(Debug)]
pub struct Plugin {
    interval: Duration,
    lines: Receiver<String>,
}

impl Plugin {
    /// Measures at this interval.
    pub fn new(interval: Duration) -> Self {
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    break;
                }
            }
        });
        Self { interval, lines }
    }

    /// Until standard input ends, or nobody reads any more.
    pub fn run(self, mut on: impl FnMut(Event) -> Option<Sample>) {
        let mut due = Instant::now();
        loop {
            let event = match self.lines.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(line) if line.is_empty() => Some(Event::Due),
                Ok(line) => serde_json::from_str(&line).ok().map(Event::Told),
                Err(RecvTimeoutError::Timeout) => {
                    // Measured late, it does not catch up.
                    due = (due + self.interval).max(Instant::now());
                    Some(Event::Due)
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(sample) = event.and_then(&mut on)
                && sample.say().is_err()
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_was_said() {
        let line = Sample::latency(Duration::from_micros(12_500))
            .errors(2, 500)
            .bad_moment("backup")
            .wish("slow disk", &[("await_ms", 220.0)])
            .clients(&[(IpAddr::from([203, 0, 113, 7]), 3.0)])
            .line();
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&read["v"], &read["latency_ms"], &read["errors"]), (&json!(1), &json!(12.5), &json!(2)));
        assert_eq!(read["wish"]["evidence"]["await_ms"], 220.0);
        assert_eq!(read["clients"][0]["address"], "203.0.113.7");
        assert!(!line.contains('\n'));
    }
}
