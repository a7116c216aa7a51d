//! Random moves: a guest wants to be somewhere else before anybody can make use of where it is.
//!
//! ```text
//!                 asked.rs                       this file
//!   start ──> terms checked ──> gap drawn ──> written into the metadata ──> due ──> a move like any other
//!                                  ^                                          │
//!                                  ├── it stayed (no host, failed, called off, paused, moved by others) ──┤
//!                                  └── it arrived: drawn by the destination's broker, written there ──────┘
//! ```
//! Each gap and each destination is a fresh draw from a cryptographic generator that the operating
//! system seeds, made when it is needed: the
//! next gap after the last move, the destination among the fit once the hosts have answered. What is drawn depends
//! on nothing that a guest says but its terms, and it learns of a move when that is announced. All is driven by the
//! clock: what a tick finds to be done, it does, so no event can be missed.
//!
//! A move is charged to a budget of its own where it arrives; neither the cooldown nor the limit of requests count.

mod asked;
#[cfg(test)]
mod tests;

use super::guest::Stage;
use super::requests::Wish;
use super::{Broker, CLEAR_AGAIN};
use crate::action::{Action, Level};
use crate::event::Now;
use crate::hypervisor::{DomainState, HvError};
use crate::records::MoveRecord;
use crate::schedule::{Schedule, Terms};
use asked::Ask;
use coms_protocol::types::{DenyReason, Initiator, MigrationId, NoticeReason, RandomState};
use std::time::Duration;
use uuid::Uuid;

/// While somebody else moves the domain, libvirt takes 30 s to refuse a change: no second one meanwhile.
const WRITE_LIMIT: Duration = Duration::from_secs(40);
/// A guest that changes its mind all the time costs libvirt a call this often.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// A broker that has just begun does not know the other hosts yet.
const HOSTS_KNOWN: Duration = Duration::from_secs(15);
/// A guest whose agent is gone hears of its last move when it is back; the next one waits for that only so long.
const AGENT_MAY_COME: Duration = Duration::from_secs(60);

/// What the broker holds of one guest's random moves.
#[derive(Debug, Default)]
pub struct Random {
    /// The metadata was looked at.
    loaded: bool,
    pub(super) schedule: Option<Schedule>,
    /// The guest wants something else; done between moves.
    ask: Option<Ask>,
    /// The number under which the guest is told once what holds now is written.
    owed: Option<u64>,
    /// What is in the metadata is not what holds.
    unwritten: bool,
    /// When the write that is under way counts as lost.
    writing: Option<Duration>,
    write_at: Duration,
    /// The present draw is used up: by this move, or by another that was under way when it was due.
    spent: Option<Option<MigrationId>>,
    no_destination: bool,
    /// What the guest knows; it assumes the best.
    told: Option<RandomState>,
}

impl Broker {
    /// Called with every fresh look.
    pub(super) fn read_schedule(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if guest.domain.state == DomainState::ShutOff {
            guest.random = Random::default();
            return;
        }
        // From then on what is here is newer than any look.
        if std::mem::replace(&mut guest.random.loaded, true) {
            // Perhaps it waited for this look.
            guest.random.write_at = guest.random.write_at.min(now.mono);
            return self.write_schedule(now, uuid);
        }
        match guest.domain.random_xml.as_deref().map(Schedule::from_xml) {
            None => {}
            Some(Ok(schedule)) => guest.random.schedule = Some(schedule),
            Some(Err(e)) => self.log(Level::Warn, Some(uuid), format!("its random moves end: {e}")),
        }
    }

    pub(super) fn random_tick(&mut self, now: Now, uuid: Uuid) {
        self.draw_where_it_arrived(now, uuid);
        self.take_up_what_was_asked(now, uuid);
        self.draw_after_a_move_that_was_not(now, uuid);
        self.move_if_due(now, uuid);
        self.draw_when_the_budget_is_free(now, uuid);
        self.write_schedule(now, uuid);
        self.tell_random_state(now, uuid);
    }

    /// The VM has arrived since the last draw, by whatever move.
    fn draw_where_it_arrived(&mut self, now: Now, uuid: Uuid) {
        let Some(me) = self.my_uuid else { return };
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let here = matches!(guest.domain.state, DomainState::Running { .. } | DomainState::Paused { .. });
        if !here || guest.undecided || !guest.mv.is_none() {
            return;
        }
        let by_us = guest
            .arrival
            .as_ref()
            .is_some_and(|a| a.stage != Stage::Coming && a.ticket.initiator == Initiator::Random);
        let Some(schedule) = guest.random.schedule.as_mut().filter(|s| s.host != me) else { return };
        schedule.host = me;
        if by_us {
            schedule.made.add(now.unix_ms);
        }
        self.draw_gap(now, uuid);
    }

    /// The move that was due did not take place, or another was under way then: a new gap, from now on.
    fn draw_after_a_move_that_was_not(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid).filter(|g| g.mv.is_none()) else { return };
        let Some(migration) = guest.random.spent.take() else { return };
        let unfit = |r: &MoveRecord| {
            Some(r.migration) == migration && r.reason.as_deref() == Some(DenyReason::NoDestination.name())
        };
        guest.random.no_destination = self.records.iter().rev().any(unfit);
        self.draw_gap(now, uuid);
    }

    fn draw_when_the_budget_is_free(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let Some(schedule) = &guest.random.schedule else { return };
        if schedule.on && schedule.next_unix_ms.is_none() && self.has_budget(now, schedule) {
            self.draw_gap(now, uuid);
        }
        // Nothing is left to be counted of one that was stopped.
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if guest.random.schedule.as_ref().is_some_and(|s| !s.on && s.made.count(now.unix_ms) == 0) {
            guest.random.schedule = None;
            guest.random.unwritten = true;
        }
    }

    fn draw_gap(&mut self, now: Now, uuid: Uuid) {
        let drawn = (self.draw)();
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Some(schedule) = &mut guest.random.schedule else { return };
        guest.random.unwritten = true;
        schedule.made.forget(now.unix_ms);
        schedule.next_unix_ms = None;
        let schedule = schedule.clone();
        if schedule.on && self.has_budget(now, &schedule) {
            let gap_ms = schedule.terms.gaps().map(|gaps| gaps.gap_ms(drawn));
            if let Some(schedule) = self.guests.get_mut(&uuid).and_then(|g| g.random.schedule.as_mut()) {
                schedule.next_unix_ms = gap_ms.map(|ms| now.unix_ms.saturating_add(ms));
            }
        }
    }

    fn has_budget(&self, now: Now, schedule: &Schedule) -> bool {
        schedule.made.count(now.unix_ms) < self.most_per_day(&schedule.terms)
    }

    /// What the operator allows, or fewer if the guest wants that.
    fn most_per_day(&self, terms: &Terms) -> u16 {
        let most = self.config.random.max_per_day;
        terms.most_per_day.map_or(most, |own| own.min(most))
    }

    fn move_if_due(&mut self, now: Now, uuid: Uuid) {
        let moves_running = self.moves_running();
        let offered = self.is_random_offered(uuid);
        let paused = self.paused;
        let knows_a_host = self.knows_a_host_of_the_pool(now);
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Some(schedule) = guest.random.schedule.as_ref().filter(|s| Some(s.host) == self.my_uuid) else {
            return;
        };
        let Some(next) = schedule.next_unix_ms.filter(|_| schedule.on && guest.random.spent.is_none()) else {
            return;
        };
        // Further away than any gap: the wall clock was set back.
        let far = now.unix_ms.saturating_add(u64::from(schedule.terms.most_s) * 1000);
        if next > far {
            return self.draw_gap(now, uuid);
        }
        if next > now.unix_ms {
            return;
        }
        if !guest.mv.is_none() || guest.foreign.is_some() {
            guest.random.spent = Some(None);
            return;
        }
        if paused || !offered {
            // Not all at once when the pause is over.
            return self.draw_gap(now, uuid);
        }
        let nobody_known = now.mono < HOSTS_KNOWN && !knows_a_host;
        let running = matches!(guest.domain.state, DomainState::Running { .. });
        // Its last move's ticket stays until the guest knows the outcome.
        let owes = guest.arrival.as_ref().is_some_and(|a| {
            matches!(a.stage, Stage::Here { .. } | Stage::Telling { .. })
                && (guest.agent.is_some() || a.since + AGENT_MAY_COME > now.mono)
        });
        if owes {
            // Or the guest could choose the moment by when it says that it knows of its last move.
            guest.random.spent = Some(None);
            return;
        }
        let wait = nobody_known
            || !running
            || guest.undecided
            || guest.came.is_some()
            || guest.clear_ticket_at.is_some();
        // The write must not meet the migration.
        if wait
            || guest.random.writing.is_some()
            || moves_running >= self.config.limits.simultaneous_moves as usize
        {
            return;
        }
        let wish = Wish::of(Initiator::Random, NoticeReason::Random);
        let begun = self.begin(now, uuid, None, wish);
        if let Some(guest) = self.guests.get_mut(&uuid) {
            guest.random.spent = Some(begun.ok());
        }
    }

    fn knows_a_host_of_the_pool(&self, now: Now) -> bool {
        let usable = |name: &String| {
            let history =
                self.hosts.get(name).filter(|h| *name != self.config.me.name && h.is_fresh(now.mono));
            history.is_some_and(|h| !self.config.limits.require_broker || h.broker(now.mono).is_some())
        };
        self.config.random.pool.iter().any(usable)
    }

    fn write_schedule(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let r = &mut guest.random;
        r.writing.take_if(|until| *until <= now.mono);
        let busy = !guest.mv.is_none() || guest.undecided;
        if !r.unwritten || r.writing.is_some() || r.write_at > now.mono || busy {
            return;
        }
        // There is no event when a job ends: after an arrival the last look still shows it.
        if guest.domain.job_active {
            r.write_at = now.mono + WRITE_EVERY;
            self.out.push(Action::Look { uuid });
            return;
        }
        r.unwritten = false;
        r.writing = Some(now.mono + WRITE_LIMIT);
        r.write_at = now.mono + WRITE_EVERY;
        let xml = r.schedule.as_ref().map(Schedule::to_xml);
        self.out.push(Action::WriteSchedule { uuid, xml });
    }

    pub(super) fn schedule_written(&mut self, now: Now, uuid: Uuid, result: Result<(), HvError>) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let r = &mut guest.random;
        r.writing = None;
        match result {
            Ok(()) => {
                if !r.unwritten
                    && r.ask.is_none()
                    && let Some(number) = r.owed.take()
                {
                    self.answer_random(now, uuid, number);
                }
                // What waited for it.
                self.random_tick(now, uuid);
            }
            // It has left, or is gone.
            Err(HvError::NoDomain { .. }) => {}
            Err(e) => {
                r.unwritten = true;
                r.write_at = now.mono + CLEAR_AGAIN;
                self.log(
                    Level::Warn,
                    Some(uuid),
                    format!("its schedule of random moves is not written: {e}"),
                );
            }
        }
    }
}
