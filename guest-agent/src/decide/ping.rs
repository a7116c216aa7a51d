//! `coms ping`: numbered round trips through both daemons, each answered exactly once, whatever happens to the
//! port meanwhile. A number stays outstanding across hang-ups, brokers and hosts until its answer comes.

use crate::event::{ClientId, Ping};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Numbers without an answer at any moment; well below what the session keeps.
pub const MAX_OUTSTANDING: usize = 16;
/// Round trips whose times are kept; of longer runs the first ones.
const MAX_TIMES: usize = 10_000;
/// After the last answer: a second answer to it would come within this time.
const LINGER: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct Sent {
    number: u64,
    at: Duration,
    /// The present peer acknowledged it: the session will not hand it to the next one.
    delivered: bool,
}

/// One run of pings.
#[derive(Debug)]
pub struct Run {
    client: ClientId,
    wanted: Ping,
    first: u64,
    sent: u32,
    due: Duration,
    waiting: Vec<Sent>,
    answered: BTreeSet<u64>,
    doubled: u64,
    resent: u64,
    times_us: Vec<u64>,
    give_up: Option<Duration>,
}

impl Run {
    /// Begins. `first` is the first number, never used before by this guest.
    pub fn new(client: ClientId, wanted: Ping, first: u64, now: Duration) -> Self {
        Self {
            client,
            wanted,
            first,
            sent: 0,
            due: now,
            waiting: Vec::new(),
            answered: BTreeSet::new(),
            doubled: 0,
            resent: 0,
            times_us: Vec::new(),
            give_up: None,
        }
    }

    /// Who asked.
    pub fn client(&self) -> ClientId {
        self.client
    }

    /// When something is due.
    pub fn next_timeout(&self) -> Option<Duration> {
        let more = self.sent < self.wanted.count && self.waiting.len() < MAX_OUTSTANDING;
        if more { Some(self.due) } else { self.give_up }
    }

    /// The number to send now.
    pub fn poll(&mut self, now: Duration) -> Option<u64> {
        if self.sent >= self.wanted.count || self.waiting.len() >= MAX_OUTSTANDING || self.due > now {
            return None;
        }
        let number = self.first.wrapping_add(u64::from(self.sent));
        self.sent += 1;
        // Due times do not pile up while the host is away.
        let interval = Duration::from_millis(u64::from(self.wanted.interval_ms));
        self.due = (self.due + interval).max(now);
        self.waiting.push(Sent { number, at: now, delivered: false });
        if self.sent == self.wanted.count {
            self.give_up = Some(now + Duration::from_secs(u64::from(self.wanted.wait_s)));
        }
        Some(number)
    }

    /// The present peer has it.
    pub fn delivered(&mut self, number: u64) {
        for sent in self.waiting.iter_mut().filter(|s| s.number == number) {
            sent.delivered = true;
        }
    }

    /// A new peer is there: what the former one had and did not answer is to be said again.
    pub fn new_peer(&mut self) -> Vec<u64> {
        let again: Vec<_> = self.waiting.iter_mut().filter(|s| s.delivered).collect();
        self.resent += again.len() as u64;
        again
            .into_iter()
            .map(|s| {
                s.delivered = false;
                s.number
            })
            .collect()
    }

    /// An answer. False: to nothing that this run asked.
    pub fn answer(&mut self, number: u64, now: Duration) -> bool {
        if let Some(index) = self.waiting.iter().position(|s| s.number == number) {
            let sent = self.waiting.swap_remove(index);
            self.answered.insert(number);
            if self.sent == self.wanted.count && self.waiting.is_empty() {
                self.give_up = Some(now + LINGER);
            }
            if self.times_us.len() < MAX_TIMES {
                let us = now.saturating_sub(sent.at).as_micros();
                self.times_us.push(u64::try_from(us).unwrap_or(u64::MAX));
            }
            return true;
        }
        let again = self.answered.contains(&number);
        self.doubled += u64::from(again);
        again
    }

    /// Everything was sent, and is answered or given up.
    pub fn is_over(&self, now: Duration) -> bool {
        self.sent >= self.wanted.count && self.give_up.is_none_or(|at| at <= now)
    }

    /// The result, as `coms ping --json` prints it.
    pub fn report(&self) -> Value {
        let mut times = self.times_us.clone();
        times.sort_unstable();
        let at = |permille: usize| {
            let last = times.len().checked_sub(1)?;
            times.get((times.len() * permille / 1000).min(last)).copied()
        };
        let mut lost: Vec<_> = self.waiting.iter().map(|s| s.number.wrapping_sub(self.first) + 1).collect();
        lost.sort_unstable();
        let mut report = json!({
            "ok": lost.is_empty() && self.doubled == 0,
            "sent": self.sent,
            "answered": self.answered.len(),
            "lost": lost.len(),
            "lost_numbers": lost,
            "doubled": self.doubled,
            "resent": self.resent,
            "rtt_p50_us": at(500),
            "rtt_p99_us": at(990),
            "rtt_max_us": times.last(),
        });
        if self.wanted.times {
            report["rtt_us"] = json!(self.times_us);
        }
        report
    }
}
