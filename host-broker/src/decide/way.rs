//! Between the choice of a host and the ticket: is the way there fit, and does the VM's network reach there? (And then its
//! disks: `disks.rs`.)
//!
//! ```text
//!   chosen ──> far?  ──yes──> measured ──fit──> another site? ──yes──> stretched at both ends ──> ticket (moves.rs)
//!                │no             │unfit               │no                    │refused
//!                └──────────┐    └─> the next host    └──> ticket            └─> denied: unreachable
//!                           └──> another site? ...           none is left: denied: link-unfit
//! ```
//! Before all that: does the migration network, where there is one, lead there (isolation.rs)? Else the next host.
//! What is measured is believed, and nothing else: a host that does not answer is not fit.

use super::Broker;
use super::admission::Denial;
use super::geo::{Known, known};
use super::guest::{Move, Plan, Way};
use super::isolation::LINK_AGAIN;
use super::moves::End;
use super::placement::{self, Considered, Verdict};
use crate::action::{Action, Level};
use crate::config::{Host, Link};
use crate::event::Now;
use crate::network::{LinkFigures, StepError};
use crate::records::MoveState;
use coms_protocol::types::{DenyReason, Initiator, MigrationId, NoticeReason};
use std::time::Duration;
use uuid::Uuid;

/// What was measured counts for that long.
const FRESH: Duration = Duration::from_secs(60);
/// A way that was unfit may be fit then.
const MEASURE_AGAIN: Duration = Duration::from_secs(60);

/// Each has limits of its own below these; beyond them something was lost, and a move must not wait for ever.
const MEASURED_BY: Duration = Duration::from_secs(75);
/// Beyond both steps' own limits.
const STRETCHED_BY: Duration = Duration::from_secs(60);
const MADE_BY: Duration = Duration::from_secs(150);

/// Why a way is not fit, in words for the operator.
pub fn unfit(figures: &LinkFigures, policy: &Link) -> Option<String> {
    let LinkFigures { rtt_ms, rate_mib_s } = *figures;
    // So that what is no number is not fit either.
    let quick = rtt_ms <= policy.max_rtt_ms as f64;
    let wide = rate_mib_s >= policy.min_rate_mib_s as f64;
    let slow = format!("round trip {rtt_ms:.1} ms, and max_rtt_ms is {}", policy.max_rtt_ms);
    let narrow = format!("{rate_mib_s:.1} MiB/s, and min_rate_mib_s is {}", policy.min_rate_mib_s);
    match (quick, wide) {
        (true, true) => None,
        (false, true) => Some(slow),
        (true, false) => Some(narrow),
        (false, false) => Some(format!("{slow}; {narrow}")),
    }
}

impl Broker {
    /// How far a host's region is from the wished one, for a move to be nearer to it.
    pub(super) fn apart_from_wish(&self, plan: &Plan, region: &str) -> Option<Known> {
        let wish = plan.wishes.region.as_ref().filter(|_| plan.reason == NoticeReason::Clients)?;
        Some(known(&self.config, region, wish.as_str()))
    }

    /// Whether the way to this host must be known before the guest goes there. An operator's order stands.
    fn is_measured(&self, plan: &Plan, there: &Host) -> bool {
        let me = &self.config.me;
        let far = there.region != me.region || there.site != me.site;
        // Who measured nothing so far goes on so; a guest that wants to be nearer must not end up farther.
        let asked_for = there.link.is_some() || there.site != me.site || plan.reason == NoticeReason::Clients;
        match plan.initiator {
            Initiator::Operator => false,
            Initiator::Customer
            | Initiator::Schedule
            | Initiator::Random
            | Initiator::Foreign
            | Initiator::Unknown(_) => far && asked_for,
        }
    }

    /// A host is chosen, or the next one after one that did not do.
    pub(super) fn set_out(&mut self, now: Now, uuid: Uuid) {
        loop {
            let Some(guest) = self.guests.get_mut(&uuid) else { return };
            let Some(plan) = guest.mv.plan_mut() else { return };
            let migration = plan.migration;
            let Some(chosen) = plan.ranked.pop_front() else {
                let off = |c: &Considered| matches!(c.verdict, Verdict::MigrationLinkDown { .. });
                let denial = if plan.considered.iter().any(off) {
                    Denial::after(DenyReason::MigrationLinkDown, LINK_AGAIN)
                } else {
                    Denial::after(DenyReason::LinkUnfit, MEASURE_AGAIN)
                };
                return self.call_off(now, uuid, denial, None);
            };
            placement::take(&mut plan.considered, &chosen);
            plan.destination = Some(chosen.clone());
            let plan = plan.clone();
            self.note_choice(&plan);
            let Some(there) = self.config.host(&chosen).cloned() else { continue };
            if let Some(why) = self.off_link(now, &there) {
                self.pass_over(uuid, &why, Verdict::MigrationLinkDown { detail: why.clone() });
                continue;
            }
            if !self.is_measured(&plan, &there) {
                return self.reach(now, uuid);
            }
            let Some(link) = there.link else {
                let what = "cannot be measured: hosts[].link of this host is not set".to_owned();
                self.unfit(uuid, None, what);
                continue;
            };
            let fresh = self.links.get(&chosen).filter(|(at, _)| *at + FRESH > now.mono);
            match fresh.map(|(_, found)| found.clone()) {
                Some(Ok(figures)) => {
                    if self.is_fit(uuid, &figures) {
                        return self.reach(now, uuid);
                    }
                    continue;
                }
                Some(Err(why)) => {
                    self.unfit(uuid, None, format!("could not be measured a moment ago: {why}"));
                    continue;
                }
                None => {}
            }
            if let Some(guest) = self.guests.get_mut(&uuid) {
                guest.mv = Move::Connecting { plan, way: Way::Measuring, since: now.mono };
            }
            if let Some(record) = self.record_mut(migration) {
                record.state = MoveState::Measuring;
            }
            return self.out.push(Action::Measure { uuid, migration, host: chosen, link });
        }
    }

    pub(super) fn measured(
        &mut self,
        now: Now,
        uuid: Uuid,
        migration: MigrationId,
        host: &str,
        result: Result<LinkFigures, StepError>,
    ) {
        // One that does not answer is not asked by each guest anew. A queue says nothing of the way.
        if !result.as_ref().is_err_and(|e| e.later) {
            let found = result.clone().map_err(|e| e.text);
            self.links.insert(host.to_owned(), (now.mono, found));
        }
        let Some(guest) = self.guests.get(&uuid) else { return };
        let Move::Connecting { plan, way: Way::Measuring, .. } = &guest.mv else { return };
        if plan.migration != migration || plan.destination.as_deref() != Some(host) {
            return;
        }
        if let Some(by) = plan.cancelled_by {
            let plan = plan.clone();
            return self.did_not_leave(now, uuid, &plan, End::Cancelled(by));
        }
        let fit = match result {
            Ok(figures) => self.is_fit(uuid, &figures),
            Err(StepError { text, .. }) => {
                self.unfit(uuid, None, format!("cannot be measured: {text}"));
                false
            }
        };
        if fit { self.reach(now, uuid) } else { self.set_out(now, uuid) }
    }

    /// What waits for an answer that does not come.
    pub(super) fn connecting_tick(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let Move::Connecting { plan, way, since } = &guest.mv else { return };
        match way {
            Way::Measuring if *since + MEASURED_BY <= now.mono => {
                let (migration, host) = (plan.migration, plan.destination.clone().unwrap_or_default());
                let why = format!("nothing came of it within {} s", MEASURED_BY.as_secs());
                self.measured(now, uuid, migration, &host, Err(StepError { later: false, text: why }));
            }
            Way::Stretching if *since + self.step_limit() * 2 + STRETCHED_BY <= now.mono => {
                let text = "neither end has said what became of it".to_owned();
                self.cannot_reach(now, uuid, StepError { later: true, text });
            }
            Way::Making if *since + MADE_BY <= now.mono => {
                let text =
                    "nothing is heard of the images that were to be made at the destination".to_owned();
                let denial = Denial { reason: DenyReason::HostTrouble, retry_after_s: Some(60) };
                self.call_off(now, uuid, denial, Some(text));
            }
            Way::Measuring | Way::Stretching | Way::Making => {}
        }
    }

    /// Nobody wants it any more: measuring and stretching take their time.
    pub(super) fn is_late(&self, now: Now, uuid: Uuid) -> bool {
        let plan = self.guests.get(&uuid).and_then(|g| g.mv.plan());
        plan.is_some_and(|p| {
            p.wishes.deadline_s.is_some_and(|d| p.received + Duration::from_secs(d.into()) < now.mono)
        })
    }

    /// Judges the way to the present choice, and notes what was found.
    fn is_fit(&mut self, uuid: Uuid, figures: &LinkFigures) -> bool {
        let Some(migration) = self.guests.get(&uuid).and_then(|g| g.mv.plan()).map(|p| p.migration) else {
            return false;
        };
        if let Some(record) = self.record_mut(migration) {
            record.link = Some(*figures);
        }
        match unfit(figures, &self.config.link) {
            None => true,
            Some(why) => {
                self.unfit(uuid, Some(*figures), why);
                false
            }
        }
    }

    fn unfit(&mut self, uuid: Uuid, figures: Option<LinkFigures>, detail: String) {
        let verdict = Verdict::LinkUnfit {
            rtt_ms: figures.map(|f| f.rtt_ms),
            rate_mib_s: figures.map(|f| f.rate_mib_s),
            detail: detail.clone(),
        };
        self.pass_over(uuid, &detail, verdict);
    }

    fn pass_over(&mut self, uuid: Uuid, detail: &str, verdict: Verdict) {
        let Some(plan) = self.guests.get_mut(&uuid).and_then(|g| g.mv.plan_mut()) else { return };
        let Some(host) = plan.destination.take() else { return };
        let text = format!("{}: the way to {host} is not fit: {detail}", plan.migration);
        if let Some(line) = plan.considered.iter_mut().find(|c| c.host == host) {
            line.verdict = verdict;
        }
        let plan = plan.clone();
        self.note_choice(&plan);
        self.log(Level::Info, Some(uuid), text);
    }

    pub(super) fn note_choice(&mut self, plan: &Plan) {
        if let Some(record) = self.record_mut(plan.migration) {
            record.considered.clone_from(&plan.considered);
            record.to.clone_from(&plan.destination);
        }
    }
}
