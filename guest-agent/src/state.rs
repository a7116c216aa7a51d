//! What survives the agent's restart: saved before it is acted on.
//!
//! Times are wall clock (milliseconds since 1970); a monotonic clock would not survive a reboot. Nobody trusts
//! them further than the configured waiting times allow.

use crate::calendar::Windows;
use crate::decide::blame::Usual;
use crate::decide::effect::{Check, Effect};
use crate::decide::random::Wanted;
use crate::decide::request::Life;
use crate::decide::schedule::Scheduled;
use crate::decide::windows::Override;
use coms_protocol::host_to_guest::Enforced;
use coms_protocol::types::{
    Encryption, Figures, Initiator, Metric, MigrationId, NoticeReason, Place, Protection, RequestId,
    RequestReason, Technique, Text,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, VecDeque};

/// How many ended migrations are remembered, so that a repeated outcome is known as repeated.
pub const REMEMBERED: usize = 64;
/// Entries of `coms history`.
pub const HISTORY: usize = 64;

/// What survives the agent's restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Upper bits of every id given under this state: a state that got lost cannot lead to an id's reuse.
    id_base: u64,
    /// Ids given so far.
    ids: u64,
    /// The outstanding request, if there is one.
    pub life: Life,
    /// Ended migrations, oldest first.
    #[serde(default)]
    pub ended: VecDeque<Ended>,
    /// What `coms history` shows, oldest first.
    #[serde(default)]
    pub history: VecDeque<Record>,
    /// Final words to the customer that the log may not have yet.
    #[serde(default)]
    pub outbox: Vec<Final>,
    /// No automatic request before this moment (ms since 1970).
    #[serde(default)]
    pub cooldown_until_ms: u64,
    /// Refusals and failures in a row.
    #[serde(default)]
    pub refusals: u32,
    /// No automatic request before this moment, because of them (ms since 1970).
    #[serde(default)]
    pub backoff_until_ms: u64,
    /// By workload.
    #[serde(default)]
    pub baselines: BTreeMap<String, Baseline>,
    /// A move whose effect is still to be measured.
    #[serde(default)]
    pub check: Option<Check>,
    /// What is usual for this machine.
    #[serde(default)]
    pub usual: Option<Usual>,
    /// What is wanted of random moves.
    #[serde(default)]
    pub random: Wanted,
    /// How well a move was encrypted whose outcome has not been heard yet.
    #[serde(default)]
    pub enforced: Option<Enforced>,
    /// Where the guest was last.
    #[serde(default)]
    pub place: Option<Place>,
    /// Moves wanted at a time.
    #[serde(default)]
    pub schedules: Vec<Scheduled>,
    /// What `coms window set` said; none: the configuration counts.
    #[serde(default)]
    pub windows: Option<Windows>,
    /// What `coms window open` or `close` said.
    #[serde(default)]
    pub window_override: Option<Override>,
}

/// An ended migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which.
    pub migration: MigrationId,
    /// How.
    pub outcome: Outcome,
}

/// How a migration, or a request, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The VM runs elsewhere now.
    Completed,
    /// The VM runs where it was.
    Failed,
    /// Called off.
    Cancelled,
    /// Never begun.
    Denied,
}

impl Outcome {
    /// As events and JSON call it.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
            Outcome::Denied => "denied",
        }
    }
}

/// A final word to the customer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Final {
    /// Stands in the log line as `final`; how a restarted agent sees that the line was written.
    pub number: u64,
    /// The event's name.
    pub event: String,
    /// The event's fields.
    pub fields: Map<String, Value>,
}

/// What a workload normally shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// In microseconds.
    pub us: u64,
    /// What was measured and how; with another probe or metric the baseline is learned anew.
    pub of: String,
}

/// One line of `coms history`. Absent is unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When the outcome arrived (ms since 1970).
    pub ended_unix_ms: u64,
    /// When it was asked for, if the guest did.
    pub asked_unix_ms: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
    /// The migration; none for a refused request.
    pub migration: Option<MigrationId>,
    /// The request that it answered.
    pub request: Option<RequestId>,
    /// Why the guest asked.
    pub reason: Option<RequestReason>,
    /// Who wanted it.
    pub initiator: Option<Initiator>,
    /// Why it was refused, failed, or who called it off.
    pub why: Option<String>,
    /// How memory moved.
    pub technique: Option<Technique>,
    /// What protected it.
    pub encryption: Option<Encryption>,
    /// The same, channel by channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<Enforcement>,
    /// Where the guest was.
    pub from: Option<Place>,
    /// Where it went.
    pub to: Option<Place>,
    /// What the hypervisors measured.
    #[serde(flatten)]
    pub figures: Figures,
    /// From the resumption to the host's telling of it.
    pub told_after_ms: Option<u64>,
    /// What was told of this migration before; completed outranks it.
    #[serde(default)]
    pub told_before: Option<Outcome>,
    /// The id under which the host that the guest left told of it: hosts cannot agree on one for a foreign move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_as: Option<MigrationId>,
    /// What the host said of why it comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice_reason: Option<NoticeReason>,
    /// The operator overrode what the guest may want.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expedited: bool,
    /// What the guest measured.
    #[serde(flatten)]
    pub gap: Gap,
    /// Whether it helped.
    pub effect: Option<Effect>,
}

/// What the hypervisors were told to enforce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    /// Memory and devices' state.
    pub ram: Protection,
    /// Copies of disks.
    pub disk: Protection,
    /// What the hypervisors said to each other.
    pub control: Protection,
    /// Of the certificate that is installed at the destination, as its broker reads it: not what was seen on the wire.
    pub destination_certificate_sha256: Option<Text<64>>,
}

/// The blackout as the guest's clocks tell it. Milliseconds; absent is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// How far the guest's clock fell behind the hosts' clocks: the time it stood still. Contains any
    /// difference between the two hosts' own clocks.
    pub guest_gap_ms: Option<f64>,
    /// The truth is within this much of `guest_gap_ms`.
    pub guest_gap_error_ms: Option<f64>,
    /// How far somebody set the wall clock meanwhile (positive: forward).
    pub clock_set_ms: Option<f64>,
    /// Worst delay of a 5 ms ticker inside the guest during the migration. Clocks stop in the blackout, so
    /// this is what the guest could notice, not the blackout.
    pub ticker_gap_ms: Option<f64>,
}

/// How a measurement of a workload is named in evidence and effects.
pub fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::LatencyP50Us => "p50",
        Metric::LatencyP95Us => "p95",
        Metric::LatencyP99Us => "p99",
        Metric::FailuresPermille => "failures",
        Metric::CalibrationUs => "calibration",
        Metric::StealPermille => "steal",
        Metric::OwnWaitPermille => "own-wait",
        Metric::PacketsPerS => "packets",
        Metric::ClientsPermille => "clients",
        Metric::TrafficPermille => "traffic",
        Metric::Unknown(_) => "unknown",
    }
}

impl State {
    /// The state of an agent that never ran here.
    pub fn new(random: u64) -> Self {
        Self {
            // 33 random bits above a counter of 20: at most 53 in all, the integers that every JSON reader
            // keeps whole.
            id_base: random >> 31 << 20,
            ids: 0,
            life: Life::Idle,
            ended: VecDeque::new(),
            history: VecDeque::new(),
            outbox: Vec::new(),
            cooldown_until_ms: 0,
            refusals: 0,
            backoff_until_ms: 0,
            baselines: BTreeMap::new(),
            check: None,
            usual: None,
            random: Wanted::default(),
            enforced: None,
            place: None,
            schedules: Vec::new(),
            windows: None,
            window_override: None,
        }
    }

    /// A number never given before: for a request, or a final word.
    pub fn next_id(&mut self) -> u64 {
        self.ids += 1;
        // After a million ids the count runs on into the random bits: still never the same twice.
        self.id_base.wrapping_add(self.ids)
    }

    /// Remembers how a migration ended, in place of what was remembered of it before.
    pub fn end(&mut self, migration: MigrationId, outcome: Outcome) {
        self.ended.retain(|e| e.migration != migration);
        if self.ended.len() >= REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back(Ended { migration, outcome });
    }

    /// How a migration ended, if it did and is remembered.
    pub fn ended(&self, migration: MigrationId) -> Option<Outcome> {
        self.ended.iter().find(|e| e.migration == migration).map(|e| e.outcome)
    }

    /// Adds a line to the history.
    pub fn remember(&mut self, record: Record) {
        // A scheduled move is asked for again and again: of the same no, one line, or nothing else would be kept.
        let refused = |r: &Record| r.outcome == Outcome::Denied && r.reason == Some(RequestReason::Schedule);
        if refused(&record) && self.history.back().is_some_and(|last| refused(last) && last.why == record.why)
        {
            self.history.pop_back();
        }
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(record);
    }

    /// The history's line of a migration.
    pub fn record_of(&mut self, migration: MigrationId) -> Option<&mut Record> {
        self.history.iter_mut().rev().find(|r| r.migration == Some(migration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_scheduled_move_that_is_refused_again_and_again_leaves_the_rest_of_the_history() {
        let record = |value: serde_json::Value| serde_json::from_value::<Record>(value).unwrap();
        let mut state = State::new(7);
        state.remember(record(json!({ "ended_unix_ms": 1, "outcome": "completed" })));
        for (n, why) in [(2, "cooldown"), (3, "cooldown"), (4, "no-destination"), (5, "no-destination")] {
            let refused =
                json!({ "ended_unix_ms": n, "outcome": "denied", "reason": "schedule", "why": why });
            state.remember(record(refused));
        }
        let kept: Vec<_> = state.history.iter().map(|r| r.ended_unix_ms).collect();
        assert_eq!(kept, [1, 3, 5]);
    }
}
