//! A move is announced to a guest whose applications want to be asked, and waits for as long as the operator's
//! policy and the guest's own wish both allow; then it begins like any other, by asking the hosts.
//!
//! ```text
//!   announced ...... end of its notice ........ end of the longest hold ....... furthest postponement
//!       |  ready: begins now   |  hold: begins when it ends   |                         |
//!       |  postpone: a new end of its notice, and a new notice, no later than           here
//!       |  veto: cancelled, where the operator allows it
//! ```
//! A silent guest delays nothing beyond its notice. What the operator hurries (`--expedite`) is told and not asked.

use super::Broker;
use super::admission::Denial;
use super::guest::{Guest, Move, Plan, Wait};
use super::moves::End;
use crate::action::{Action, Level};
use crate::announced::Kept;
use crate::config::{Notices, Vetoes};
use crate::event::Now;
use crate::hypervisor::{DomainState, JobFigures};
use crate::records::{MoveRecord, MoveState, Waits, WaitsFor};
use coms_protocol::guest_to_host::{Attend, Hold, Postpone, Ready, Veto, Wishes};
use coms_protocol::host_to_guest::{Accepted, Notice, Progress, Terms, Verdict};
use coms_protocol::types::{Asked, DenyReason, Initiator, MigrationId, Phase};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use uuid::Uuid;

/// Who may hold hears of the move this long before it begins, even without a wish for notice: to be able to.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// An agent is back this soon after its broker was restarted or greeted it again, to say again what holds.
const AGENT_BACK: Duration = Duration::from_secs(5);
/// Each is written to disk: that many are granted for one move.
const POSTPONES: u32 = 16;

/// How long before a move the guest is told, and for how long beyond that it may hold it.
pub(super) fn spans(
    policy: &Notices,
    attend: Option<Attend>,
    expedited: bool,
    ordered: Option<Duration>,
) -> (Duration, Duration) {
    let asked = if expedited { Attend::default() } else { attend.unwrap_or_default() };
    let hold = policy.hold_max.min(Duration::from_millis(asked.hold_ms.into()));
    let least = if hold.is_zero() { Duration::ZERO } else { ANSWER_TIME };
    let notice = policy.notice_max.min(Duration::from_millis(asked.notice_ms.into()));
    (ordered.unwrap_or(notice).max(least), hold)
}

/// Whether a move is made for the customer: on the guest's own wish, whenever it was said.
pub(super) fn of_customer(initiator: Initiator) -> bool {
    match initiator {
        Initiator::Customer | Initiator::Schedule | Initiator::Random => true,
        Initiator::Operator | Initiator::Foreign | Initiator::Unknown(_) => false,
    }
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn short_ms(d: Duration) -> u32 {
    u32::try_from(d.as_millis()).unwrap_or(u32::MAX)
}

impl Guest {
    /// Its agent is there and wants to be asked.
    pub(super) fn attends(&self) -> Option<Attend> {
        self.attend.filter(|_| self.agent.is_some())
    }

    fn announced(&self, migration: MigrationId) -> Option<(&Plan, &Wait)> {
        match &self.mv {
            Move::Announced { plan, wait } if plan.migration == migration => Some((plan, wait)),
            Move::Announced { .. }
            | Move::None
            | Move::Choosing(_)
            | Move::Connecting { .. }
            | Move::WritingTicket { .. }
            | Move::Running { .. }
            | Move::Unclear { .. } => None,
        }
    }

    fn wait_mut(&mut self) -> Option<&mut Wait> {
        match &mut self.mv {
            Move::Announced { wait, .. } => Some(wait),
            Move::None
            | Move::Choosing(_)
            | Move::Connecting { .. }
            | Move::WritingTicket { .. }
            | Move::Running { .. }
            | Move::Unclear { .. } => None,
        }
    }
}

impl Broker {
    /// The move is admitted: it begins, or it is announced first.
    pub(super) fn announce(&mut self, now: Now, uuid: Uuid, mut plan: Plan, spans: (Duration, Duration)) {
        let postpone_max = self.config.notices.postpone_max;
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let (notice, hold) = spans;
        if notice.is_zero() && hold.is_zero() {
            return self.survey(now, uuid, plan);
        }
        let may_postpone = if plan.expedited { Duration::ZERO } else { postpone_max };
        let wait = Wait {
            earliest: now.mono + notice,
            hold,
            held_until: None,
            held_by: None,
            latest: now.mono + may_postpone,
            postpones: 0,
        };
        plan.accepted = true;
        let (migration, requests, s) = (plan.migration, plan.requests.clone(), notice.as_secs());
        guest.mv = Move::Announced { plan, wait };
        for request in requests {
            self.tell(uuid, Accepted { request, migration });
        }
        self.log(Level::Info, Some(uuid), format!("{migration}: announced, begins in {s} s at the earliest"));
        self.waits(now, uuid, WaitsFor::Notice);
        self.save_record_of_announced(uuid);
        self.tell_announced(now, uuid);
        self.keep_announced(now);
    }

    /// What the guest may do about it, and that it comes.
    pub(super) fn tell_announced(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let Move::Announced { plan, wait } = &guest.mv else { return };
        let begins = wait.begins();
        let terms = self.terms(now, plan, Some(wait));
        let notice = self.notice(plan, short_ms(begins.saturating_sub(now.mono)));
        self.tell(uuid, terms);
        self.tell(uuid, notice);
    }

    pub(super) fn terms(&self, now: Now, plan: &Plan, wait: Option<&Wait>) -> Terms {
        let free = |until: Duration| until.saturating_sub(now.mono);
        let wait = wait.filter(|_| !plan.expedited);
        Terms {
            migration: plan.migration,
            reason: plan.reason,
            hold_up_to_ms: wait
                .filter(|w| !w.hold.is_zero())
                .map_or(0, |w| short_ms(free(w.earliest + w.hold))),
            postpone_up_to_s: wait
                .filter(|w| w.postpones < POSTPONES)
                .map_or(0, |w| u32::try_from(free(w.latest).as_secs()).unwrap_or(u32::MAX)),
            may_veto: wait.is_some() && self.may_veto(plan),
            expedited: plan.expedited,
        }
    }

    pub(super) fn notice(&self, plan: &Plan, starts_in_ms: u32) -> Notice {
        Notice {
            migration: plan.migration,
            request: plan.requests.first().copied(),
            initiator: plan.initiator,
            technique: plan.technique,
            starts_in_ms,
            predicted_downtime_ms: None,
            predicted_total_ms: None,
        }
    }

    fn may_veto(&self, plan: &Plan) -> bool {
        !plan.expedited
            && match self.config.notices.veto {
                Vetoes::Never => false,
                Vetoes::Own => of_customer(plan.initiator),
                Vetoes::All => true,
            }
    }

    /// A guest that attends hears each stage as it begins.
    pub(super) fn tell_phase(&mut self, now: Now, uuid: Uuid, migration: MigrationId, phase: Phase) {
        let Some(guest) = self.guests.get(&uuid).filter(|g| g.attends().is_some()) else { return };
        let since = guest.mv.plan().map_or(now.mono, |p| p.received);
        let message = Progress {
            migration,
            phase,
            elapsed_ms: ms(now.mono.saturating_sub(since)),
            bytes_total: None,
            bytes_remaining: None,
            round: None,
        };
        self.out.push(Action::TellOnce { uuid, message: message.into() });
    }

    /// What the guest's applications want from now on.
    pub(super) fn attend(&mut self, now: Now, uuid: Uuid, attend: Attend) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        guest.attend = Some(attend);
        if attend.hold_ms == 0 {
            self.let_go(now, uuid);
        }
    }

    /// Nobody in the guest holds any more: it is gone, or another agent is there.
    pub(super) fn let_go(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Some(wait) = guest.wait_mut() else { return };
        if wait.held_until.take().is_some() {
            wait.held_by = None;
            self.waits(now, uuid, WaitsFor::Notice);
        }
    }

    /// The guest is greeted again, so its hold ends like at any new peer: its agent, still there, says it again. The
    /// longest hold stays what it was.
    pub(super) fn leave_time_to_hold_again(&mut self, now: Now, uuid: Uuid) {
        let Some(wait) = self.guests.get_mut(&uuid).and_then(Guest::wait_mut) else { return };
        let Some(held_until) = wait.held_until else { return };
        let limit = wait.earliest + wait.hold;
        wait.earliest = wait.earliest.max(held_until.min(now.mono + AGENT_BACK));
        wait.hold = limit.saturating_sub(wait.earliest);
    }

    pub(super) fn ready(&mut self, now: Now, uuid: Uuid, ready: Ready) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if guest.announced(ready.migration).is_none() {
            return;
        }
        if let Some(wait) = guest.wait_mut() {
            (wait.earliest, wait.held_until, wait.held_by) = (now.mono, None, None);
        }
        self.due(now, uuid);
    }

    pub(super) fn hold(&mut self, now: Now, uuid: Uuid, hold: Hold) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Some((_, wait)) = guest.announced(hold.migration) else {
            return self.verdict(now, uuid, hold.migration, Asked::Hold, false);
        };
        let limit = wait.earliest + wait.hold;
        // Of an expedited move the longest hold is none.
        let granted = !wait.hold.is_zero() && limit > now.mono;
        if granted && let Some(wait) = guest.wait_mut() {
            wait.held_until = Some((now.mono + Duration::from_millis(hold.for_ms.into())).min(limit));
            wait.held_by = Some((hold.cause, hold.holders));
            self.waits(now, uuid, WaitsFor::Guest { cause: hold.cause, holders: hold.holders });
        }
        self.verdict(now, uuid, hold.migration, Asked::Hold, granted);
    }

    pub(super) fn postpone(&mut self, now: Now, uuid: Uuid, postpone: Postpone) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Some((plan, wait)) = guest.announced(postpone.migration) else {
            return self.verdict(now, uuid, postpone.migration, Asked::Postpone, false);
        };
        if plan.expedited || wait.latest <= now.mono || wait.postpones >= POSTPONES {
            return self.verdict(now, uuid, postpone.migration, Asked::Postpone, false);
        }
        let until = (now.mono + Duration::from_secs(postpone.for_s.into())).min(wait.latest);
        let later = until > wait.earliest;
        if later && let Some(wait) = guest.wait_mut() {
            wait.earliest = until;
            wait.postpones += 1;
            (wait.held_until, wait.held_by) = (None, None);
            self.waits(now, uuid, WaitsFor::Postponed { cause: postpone.cause });
            self.save_record_of_announced(uuid);
        }
        self.verdict(now, uuid, postpone.migration, Asked::Postpone, true);
        if later {
            self.tell_announced(now, uuid);
            self.keep_announced(now);
        }
    }

    pub(super) fn veto(&mut self, now: Now, uuid: Uuid, veto: Veto) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let plan = guest.announced(veto.migration).map(|(plan, _)| plan);
        let Some(plan) = plan.filter(|p| self.may_veto(p)).cloned() else {
            return self.verdict(now, uuid, veto.migration, Asked::Veto, false);
        };
        let verdict =
            Verdict { migration: veto.migration, asked: Asked::Veto, granted: true, starts_in_ms: 0 };
        self.tell(uuid, verdict);
        self.log(
            Level::Info,
            Some(uuid),
            format!("{}: vetoed by its guest ({})", veto.migration, veto.cause),
        );
        self.did_not_leave(now, uuid, &plan, End::Cancelled(Initiator::Customer));
    }

    fn verdict(&mut self, now: Now, uuid: Uuid, migration: MigrationId, asked: Asked, granted: bool) {
        let begins = self.guests.get(&uuid).and_then(|g| Some(g.announced(migration)?.1.begins()));
        let starts_in_ms = begins.map_or(0, |at| ms(at.saturating_sub(now.mono)));
        self.tell(uuid, Verdict { migration, asked, granted, starts_in_ms });
    }

    /// By the clock: those that have waited long enough begin.
    pub(super) fn announced_tick(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        if let Move::Announced { wait, .. } = &guest.mv
            && wait.begins() <= now.mono
        {
            self.due(now, uuid);
        }
    }

    /// Nothing in the guest stands against it any more.
    fn due(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let Move::Announced { plan, .. } = &guest.mv else { return };
        if guest.foreign.is_some() || guest.came.is_some() {
            return self.waits(now, uuid, WaitsFor::ForeignMove);
        }
        if self.moves_running() >= self.config.limits.simultaneous_moves as usize {
            return self.waits(now, uuid, WaitsFor::OtherMoves);
        }
        if plan.wants_relief && self.others_are_relieved(now) {
            let denial = Denial::after(DenyReason::OthersFirst, super::requests::REMEASURE);
            return self.call_off(now, uuid, denial, None);
        }
        let plan = plan.clone();
        self.survey(now, uuid, plan);
    }

    /// Notes for `comsctl` until when it waits, and for what.
    fn waits(&mut self, now: Now, uuid: Uuid, waits_for: WaitsFor) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let Move::Announced { plan, wait } = &guest.mv else { return };
        let at = |at: Duration| now.unix_ms.saturating_add(ms(at.saturating_sub(now.mono)));
        let waits = Waits {
            until_unix_ms: at(wait.begins()),
            at_most_unix_ms: at(wait.earliest + wait.hold),
            waits_for,
        };
        if let Some(record) = self.record_mut(plan.migration) {
            record.state = MoveState::Announced;
            record.waits = Some(waits);
        }
    }

    /// Only what survives a restart itself: others are asked for again, under another id.
    fn save_record_of_announced(&mut self, uuid: Uuid) {
        let plan = self.guests.get(&uuid).and_then(|g| g.mv.plan()).filter(|p| p.requests.is_empty());
        if let Some(migration) = plan.map(|p| p.migration) {
            self.save_record(migration);
        }
    }

    /// Brings what survives a restart up to date, on disk if it changed. A move is kept until its ticket is written.
    pub(super) fn keep_announced(&mut self, now: Now) {
        for guest in self.guests.values_mut() {
            // May have grown since, also while the hosts are asked.
            if let Some(plan) = guest.mv.plan_mut()
                && let Some(kept) = &mut plan.kept
            {
                kept.encryption = plan.encryption;
            }
            let Move::Announced { plan, wait } = &mut guest.mv else { continue };
            if !plan.requests.is_empty() && plan.kept.is_none() {
                continue;
            }
            let at = |at: Duration| now.unix_ms.saturating_add(ms(at.saturating_sub(now.mono)));
            let before = plan.kept.take();
            // Only what the wait says may have changed; what it says is moments, which the clock does not change.
            let received_unix_ms = before.as_ref().map(|k| k.received_unix_ms);
            plan.kept = before.filter(|k| k.postpones == wait.postpones).or_else(|| {
                Some(Box::new(Kept {
                    migration: plan.migration,
                    uuid: guest.domain.uuid,
                    initiator: plan.initiator,
                    reason: plan.reason,
                    technique: plan.technique,
                    only: plan.only.clone(),
                    expedited: plan.expedited,
                    received_unix_ms: received_unix_ms.unwrap_or_else(|| {
                        now.unix_ms.saturating_sub(ms(now.mono.saturating_sub(plan.received)))
                    }),
                    earliest_unix_ms: at(wait.earliest),
                    hold_ms: ms(wait.hold),
                    latest_unix_ms: at(wait.latest),
                    postpones: wait.postpones,
                    encryption: plan.encryption,
                }))
            });
        }
        let held = |g: &Guest| match &g.mv {
            Move::Announced { plan, .. }
            | Move::Choosing(plan)
            | Move::Connecting { plan, .. }
            | Move::WritingTicket { plan, .. } => plan.kept.as_deref().cloned(),
            Move::None | Move::Running { .. } | Move::Unclear { .. } => None,
        };
        let mut all: Vec<Kept> = self.guests.values().filter_map(held).collect();
        // Not seen yet by this broker.
        all.extend(self.to_take_up.values().cloned());
        if all != self.kept {
            self.kept.clone_from(&all);
            self.out.push(Action::KeepAnnounced(all));
        }
    }

    /// What a former broker announced goes on, under its id. The guest is told again when its agent is there.
    pub(super) fn take_up_announced(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid).filter(|g| g.mv.is_none() && g.came.is_none()) else {
            return;
        };
        let comes = guest.domain.state == DomainState::Incoming;
        let Some(kept) = self.to_take_up.get(&uuid).filter(|_| !comes).cloned() else { return };
        self.to_take_up.remove(&uuid);
        if self.records.iter().any(|r| r.migration == kept.migration && r.state.is_final()) {
            return self.keep_announced(now);
        }
        let from_now = |unix_ms: u64| now.mono + Duration::from_millis(unix_ms.saturating_sub(now.unix_ms));
        let received = Duration::from_millis(now.unix_ms.saturating_sub(kept.received_unix_ms));
        let wait = Wait {
            earliest: from_now(kept.earliest_unix_ms).max(now.mono + AGENT_BACK),
            hold: Duration::from_millis(kept.hold_ms),
            held_until: None,
            held_by: None,
            latest: from_now(kept.latest_unix_ms),
            postpones: kept.postpones,
        };
        let migration = kept.migration;
        let record = MoveRecord {
            from: Some(self.config.me.name.clone()),
            why: kept.reason,
            expedited: kept.expedited,
            ..MoveRecord::begun(migration, &guest.domain, kept.initiator, kept.received_unix_ms)
        };
        let plan = Plan {
            migration,
            requests: Vec::new(),
            initiator: kept.initiator,
            reason: kept.reason,
            expedited: kept.expedited,
            wishes: Wishes::default(),
            encryption: kept.encryption,
            technique: kept.technique,
            only: kept.only.clone(),
            wants_relief: false,
            received: now.mono.saturating_sub(received),
            choosing_since: now.mono,
            accepted: true,
            destination: None,
            considered: Vec::new(),
            ranked: VecDeque::new(),
            disks: BTreeMap::new(),
            claim: None,
            figures: JobFigures::default(),
            cancelled_by: None,
            link_lost: None,
            kept: Some(Box::new(kept)),
        };
        guest.mv = Move::Announced { plan, wait };
        if self.record_mut(migration).is_none() {
            self.add_record(record);
        }
        self.log(Level::Info, Some(uuid), format!("{migration}: announced by a former broker, taken up"));
        self.waits(now, uuid, WaitsFor::Notice);
        self.keep_announced(now);
    }

    /// All domains are known: what was announced to others does not take place.
    pub(super) fn drop_what_is_not_here(&mut self, now: Now) {
        let gone: Vec<Uuid> =
            self.to_take_up.keys().copied().filter(|u| !self.guests.contains_key(u)).collect();
        for kept in gone.iter().filter_map(|u| self.to_take_up.remove(u)).collect::<Vec<_>>() {
            if let Some(record) = self.record_mut(kept.migration).filter(|r| !r.state.is_final()) {
                record.state = MoveState::Cancelled;
                record.reason = Some("the domain is gone".into());
                record.waits = None;
                record.ended_unix_ms = Some(now.unix_ms);
            }
            self.save_record(kept.migration);
        }
        if !gone.is_empty() {
            self.keep_announced(now);
        }
    }
}
