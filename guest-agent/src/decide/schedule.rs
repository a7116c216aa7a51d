//! Moves that the customer wants at a time: `coms migrate --at | --within | --before`.
//!
//! Kept over restarts. When its time comes (and the windows are open, unless told otherwise) a request is made of it
//! like any other, with reason `schedule`; where the host says no, or the move fails, it is asked for again until its
//! latest time. Then it is given up, and said so.

use super::host::rfc3339;
use super::request::Life;
use super::{Agent, fields};
use crate::action::{Action, Audience};
use crate::event::{ClientId, Migrate};
use crate::state::Outcome;
use coms_protocol::guest_to_host::Wishes;
use coms_protocol::session::Now;
use coms_protocol::types::{EncryptionLevel, RequestId, RequestReason};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// Most that are kept.
const MAX_SCHEDULED: usize = 8;
/// `--at` is given up so long after its time.
const LATE_MS: u64 = 3_600_000;
/// Nothing is scheduled further ahead.
const AHEAD_MS: u64 = 366 * 86_400_000;
/// After a no, or a failure.
const RETRY_MS: u64 = 60_000;
/// The wall clock may be set meanwhile: look again at least so often.
const LOOK: Duration = Duration::from_secs(60);

/// A move wanted at a time. Times are wall clock, in ms since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduled {
    /// Its number.
    pub id: u64,
    /// Not before.
    pub from_ms: u64,
    /// Not after.
    pub until_ms: u64,
    /// As in a request; the deadline is worked out when it is made.
    pub wishes: Wishes,
    /// As in a request.
    #[serde(default)]
    pub encryption: EncryptionLevel,
    /// Whatever the windows say.
    pub outside_windows: bool,
    /// The request that was made of it.
    pub request: Option<RequestId>,
    /// Asked for again from then on.
    pub again_ms: u64,
}

impl Agent {
    /// A move for later. None: it is wanted now.
    pub(super) fn on_schedule(&mut self, now: Now, client: ClientId, wanted: &Migrate, wishes: Wishes) {
        let line = match self.schedule(now, wanted, wishes) {
            Ok(scheduled) => {
                let line = json!({ "ok": true, "scheduled": scheduled.id, "from": rfc3339(scheduled.from_ms),
                    "until": rfc3339(scheduled.until_ms) });
                let told = json!({ "scheduled": scheduled.id, "from": rfc3339(scheduled.from_ms),
                    "until": rfc3339(scheduled.until_ms), "wishes": scheduled.wishes });
                self.state.schedules.push(scheduled);
                self.unsaved = true;
                self.tell("scheduled", fields(told), Audience::Everybody);
                line
            }
            Err(error) => json!({ "ok": false, "error": error }),
        };
        self.actions.push(Action::Reply { client, line });
    }

    fn schedule(&mut self, now: Now, wanted: &Migrate, wishes: Wishes) -> Result<Scheduled, String> {
        if self.state.schedules.len() >= MAX_SCHEDULED {
            return Err(format!("{MAX_SCHEDULED} moves are scheduled; no more are taken: see `coms status`"));
        }
        let now_ms = now.unix_us / 1000;
        let moment =
            |text: &Option<String>| text.as_ref().map(|t| self.calendar().moment_of(t, now_ms)).transpose();
        let (at, before) = (moment(&wanted.at)?, moment(&wanted.before)?);
        let within = wanted.within_s.map(|s| now_ms + u64::from(s) * 1000);
        let from_ms = at.unwrap_or(now_ms);
        let until_ms = match (before, within) {
            (Some(a), Some(b)) => a.min(b),
            (Some(end), None) | (None, Some(end)) => end,
            (None, None) => from_ms.saturating_add(LATE_MS),
        };
        if from_ms < now_ms || until_ms <= from_ms || until_ms > now_ms + AHEAD_MS {
            return Err(format!(
                "from {} until {}: must lie ahead, in this order, within a year",
                rfc3339(from_ms),
                rfc3339(until_ms)
            ));
        }
        if !wanted.outside_windows
            && let Some(opens) = self.closed_until(from_ms)
            && opens.is_none_or(|at| at >= until_ms)
        {
            return Err(format!(
                "moves are not welcome from {} until {}: see `coms window`, or add --outside-windows",
                rfc3339(from_ms),
                rfc3339(until_ms)
            ));
        }
        let outside_windows = wanted.outside_windows;
        let id = self.state.next_id();
        let encryption = wanted.encryption.unwrap_or_default();
        Ok(Scheduled {
            id,
            from_ms,
            until_ms,
            wishes,
            encryption,
            outside_windows,
            request: None,
            again_ms: 0,
        })
    }

    /// Calls a scheduled move off; the request that was made of it is none of this.
    pub(super) fn on_cancel_scheduled(&mut self, client: ClientId, id: u64) {
        let Some(index) = self.state.schedules.iter().position(|s| s.id == id) else {
            return self.refuse(client, format!("{id} is not scheduled: see `coms status`"));
        };
        self.state.schedules.remove(index);
        self.unsaved = true;
        let told = json!({ "scheduled": id, "why": "by-customer" });
        self.tell("schedule_dropped", fields(told), Audience::Everybody);
        self.actions
            .push(Action::Reply { client, line: json!({ "ok": true, "scheduled": id, "ended": true }) });
    }

    /// Asks for what is due, and drops what is over.
    pub(super) fn settle_schedules(&mut self, now: Now) {
        self.schedule_due = None;
        if self.state.schedules.is_empty() {
            return;
        }
        let now_ms = now.unix_us / 1000;
        let mut kept = Vec::new();
        for scheduled in std::mem::take(&mut self.state.schedules) {
            kept.extend(self.settle_schedule(now, now_ms, scheduled));
        }
        self.state.schedules = kept;
        let due = |s: &Scheduled| {
            let from = s.from_ms.max(s.again_ms);
            let opens = if s.outside_windows { None } else { self.closed_until(from.max(now_ms)).flatten() };
            [Some(opens.unwrap_or(from)), Some(s.until_ms)]
                .into_iter()
                .flatten()
                .filter(|at| *at > now_ms)
                .min()
        };
        let next = self.state.schedules.iter().filter(|s| s.request.is_none()).filter_map(due).min();
        let wait = next.map(|at| Duration::from_millis(at - now_ms).min(LOOK));
        self.schedule_due = wait.map(|w| now.mono + w);
    }

    fn settle_schedule(&mut self, now: Now, now_ms: u64, mut scheduled: Scheduled) -> Option<Scheduled> {
        if let Some(request) = scheduled.request {
            if self.state.life.asking().is_some_and(|a| a.request.id == request) {
                return Some(scheduled);
            }
            self.unsaved = true;
            let record = self.state.history.iter().rev().find(|r| r.request == Some(request));
            let how = record.map(|r| (r.outcome, r.why.as_deref()));
            match how {
                Some((Outcome::Completed, _)) => return None,
                Some((Outcome::Cancelled, Some("by-customer"))) => {
                    return self.drop_schedule(&scheduled, "schedule_dropped", "by-customer");
                }
                Some((Outcome::Denied | Outcome::Failed | Outcome::Cancelled, _)) | None => {
                    scheduled.request = None;
                    scheduled.again_ms = now_ms + RETRY_MS;
                }
            }
        }
        if scheduled.until_ms <= now_ms {
            return self.drop_schedule(&scheduled, "schedule_missed", "its latest time has passed");
        }
        let free = self.state.life == Life::Idle
            && self.link.established
            && self.moving.is_none()
            && self.announced.is_none()
            && self.untold.is_none();
        let due = scheduled.from_ms.max(scheduled.again_ms) <= now_ms;
        if free && due && (scheduled.outside_windows || self.closed_until(now_ms).is_none()) {
            let left_s = u32::try_from((scheduled.until_ms - now_ms) / 1000).unwrap_or(u32::MAX).max(1);
            let wishes = Wishes {
                deadline_s: Some(scheduled.wishes.deadline_s.map_or(left_s, |own| own.min(left_s))),
                ..scheduled.wishes.clone()
            };
            let evidence = self.evidence(now.mono, false);
            let encryption = scheduled.encryption;
            scheduled.request = Some(self.ask(now, RequestReason::Schedule, evidence, wishes, encryption));
        }
        Some(scheduled)
    }

    fn drop_schedule(&mut self, scheduled: &Scheduled, event: &str, why: &str) -> Option<Scheduled> {
        self.unsaved = true;
        self.tell(event, fields(json!({ "scheduled": scheduled.id, "why": why })), Audience::Everybody);
        None
    }

    /// For status.
    pub(super) fn schedules_json(&self) -> Vec<Value> {
        let one = |s: &Scheduled| {
            json!({ "scheduled": s.id, "from": rfc3339(s.from_ms), "until": rfc3339(s.until_ms),
                "request": s.request, "outside_windows": s.outside_windows.then_some(true) })
        };
        self.state.schedules.iter().map(one).collect()
    }
}
