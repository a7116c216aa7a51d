//! Steps 7 to 10: a domain comes to this host, and its guest hears so here.

use super::Broker;
use super::alarms::Kind;
use super::guest::{Arrival, Came, Stage};
use super::moves::to_wire;
use super::standing::{Standing, judge};
use crate::action::{Action, Level};
use crate::event::Now;
use crate::hypervisor::{Domain, DomainState, JobFigures};
use crate::records::{MoveRecord, MoveState};
use crate::ticket::{Channels, Ticket};
use coms_protocol::host_to_guest::{Completed, Enforced};
use coms_protocol::types::{Encryption, MigrationId, Protection, Text};
use std::time::Duration;
use uuid::Uuid;

/// A ticket is written just before the migrate call. One that is older than this when the domain begins to
/// arrive belongs to an earlier attempt, and somebody else moves the domain now.
const FRESH_TICKET_MS: u64 = 60_000;
/// A broker's migrate call becomes a job of libvirt within this.
const CALL_MAY_COME_MS: u64 = 3_000;
/// The outcome is told without figures when libvirt does not hand them out within this.
const FIGURES_LIMIT: Duration = Duration::from_millis(700);

impl Broker {
    /// Called with every fresh look: what does the ticket mean to this host?
    pub(super) fn read_ticket(&mut self, now: Now, uuid: Uuid) {
        let Some(me) = self.my_uuid else { return };
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        guest.undecided = false;
        if !guest.mv.is_none() {
            // An announced one waits until that is told.
            if guest.came.is_some() && !guest.mv.is_under_way() {
                self.came_unexplained(now, uuid);
            }
            return;
        }
        let Some(xml) = guest.domain.ticket_xml.clone() else {
            self.came_unexplained(now, uuid);
            return;
        };
        let ticket = match Ticket::from_xml(&xml) {
            Ok(ticket) => ticket,
            Err(e) => return self.void(now, uuid, &e.to_string()),
        };
        let ended = |r: &MoveRecord| {
            r.migration == ticket.migration
                && matches!(r.state, MoveState::Denied | MoveState::Failed | MoveState::Cancelled)
        };
        // Answered for: by this broker, or by its predecessor, whose records say so.
        if guest.concluded == Some(ticket.migration)
            || (ticket.source == me && self.records.iter().any(ended))
        {
            return self.void(now, uuid, "its move is over");
        }
        let outdated = guest.outdated_attempt == Some(ticket.attempt);
        match judge(&ticket, me, &guest.domain, now.unix_ms) {
            Standing::Arriving => {
                guest.undecided = true;
                if guest.arrival.as_ref().is_some_and(|a| a.ticket.attempt == ticket.attempt) {
                    return;
                }
                let fresh_until = ticket.written_unix_ms.saturating_add(FRESH_TICKET_MS);
                // Who was not there to see it begin cannot tell by the ticket's age.
                let too_old = (!guest.began_unseen && now.unix_ms > fresh_until)
                    || ticket.expires_unix_ms < now.unix_ms;
                self.arrival_lost(now, uuid);
                let Some(guest) = self.guests.get_mut(&uuid) else { return };
                guest.arrival = None;
                if too_old {
                    guest.outdated_attempt = Some(ticket.attempt);
                } else if !outdated {
                    guest.arrival = Some(Arrival {
                        ticket,
                        stage: Stage::Coming,
                        since: now.mono,
                        told: None,
                        enforced: None,
                    });
                    self.record_arrival(now, uuid, &ticket);
                }
            }
            Standing::Arrived if outdated => self.void(now, uuid, "it is of an older attempt"),
            Standing::Arrived => self.here(now, uuid, ticket, None),
            // A call that its broker made just before it was killed may not have become a job yet.
            Standing::DidNotLeave
                if ticket.written_unix_ms.saturating_add(CALL_MAY_COME_MS) > now.unix_ms =>
            {
                guest.undecided = true;
            }
            Standing::DidNotLeave => self.lost_attempt(now, uuid, &ticket),
            Standing::Undecided if ticket.source == me && is_under_way(&guest.domain) => {
                self.adopt(now, uuid, &ticket);
            }
            Standing::Undecided => guest.undecided = true,
            Standing::Void(why) => self.void(now, uuid, why),
        }
    }

    fn void(&mut self, now: Now, uuid: Uuid, why: &str) {
        // It gets a ticket that means something.
        if self.came_unexplained(now, uuid) {
            return;
        }
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if guest.clear_ticket_at.is_none() {
            self.log(Level::Info, Some(uuid), format!("a ticket without effect is removed: {why}"));
            self.clear_ticket(now, uuid);
        }
    }

    /// Step 8: libvirt's Finish succeeded here.
    pub(super) fn arrived(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else {
            // Its look is still under way.
            return self.out.push(Action::Look { uuid });
        };
        guest.domain.state = DomainState::Running { arrived: true };
        // A look may have been quicker, and its ticket may be being written.
        let ticket = guest.came.and_then(|c| c.ticket);
        guest.came = Some(Came { at: Some(now.mono), ticket });
        match &guest.arrival {
            Some(arrival) if arrival.ticket.expires_unix_ms >= now.unix_ms => {
                let ticket = arrival.ticket;
                self.here(now, uuid, ticket, Some(now.mono));
            }
            Some(_) => {
                guest.arrival = None;
                self.read_ticket(now, uuid);
            }
            None => self.read_ticket(now, uuid),
        }
    }

    pub(super) fn here(&mut self, now: Now, uuid: Uuid, ticket: Ticket, at: Option<Duration>) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if guest
            .arrival
            .as_ref()
            .is_some_and(|a| a.ticket.attempt == ticket.attempt && a.stage != Stage::Coming)
        {
            guest.came = None;
            return;
        }
        let migration = ticket.migration;
        guest.undecided = false;
        let at = at.or(guest.came.take().and_then(|c| c.at));
        let stage = Stage::Here { at, since: now.mono };
        guest.arrival = Some(Arrival { ticket, stage, since: now.mono, told: None, enforced: None });
        self.record_arrival(now, uuid, &ticket);
        self.moved(uuid, now.unix_ms, ticket.initiator);
        if let Some(record) = self.record_mut(migration) {
            record.state = MoveState::Arrived;
            record.ended_unix_ms = Some(now.unix_ms);
        }
        self.save_record(migration);
        self.out.push(Action::FetchFigures { uuid, migration });
        if ticket.autostart {
            self.out.push(Action::SetAutostart { uuid });
        }
    }

    /// Step 9: the figures are there (or will not come): tell the guest.
    pub(super) fn arrival_figures(
        &mut self,
        now: Now,
        uuid: Uuid,
        migration: MigrationId,
        figures: Option<&JobFigures>,
    ) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let Some(arrival) = guest.arrival.as_ref().filter(|a| a.ticket.migration == migration) else {
            return;
        };
        let Stage::Here { at, .. } = arrival.stage else { return };
        let ticket = arrival.ticket;
        let figures = figures.map(to_wire).unwrap_or_default();
        let completed = Completed {
            migration,
            request: ticket.request,
            initiator: ticket.initiator,
            technique: ticket.technique,
            encryption: match ticket.channels.map(|c| c.ram) {
                Some(Protection::Tls) => Encryption::Tls,
                Some(_) | None => Encryption::None,
            },
            from: self.host_by_uuid(ticket.source).map(|h| self.place_for(uuid, h)),
            to: self.place_for(uuid, &self.config.me),
            figures,
            told_after_ms: at.map(|at| now.mono.saturating_sub(at).as_millis() as u64),
        };
        let certificate = self.my_certificate(now).filter(|_| self.config.encryption.tell_certificate);
        let enforced = ticket.channels.map(|Channels { ram, disk, control }| Enforced {
            migration,
            ram,
            disk,
            control,
            destination_certificate_sha256: certificate
                .filter(|_| ram == Protection::Tls)
                .map(|c| Text::clipped(&c)),
        });
        if let Some(arrival) = self.guests.get_mut(&uuid).and_then(|g| g.arrival.as_mut()) {
            arrival.stage = Stage::Telling { at };
            arrival.told = Some(completed.clone());
            arrival.enforced.clone_from(&enforced);
        }
        if let Some(record) = self.record_mut(migration) {
            record.figures = figures;
        }
        if let Some(enforced) = enforced {
            self.tell(uuid, enforced);
        }
        self.tell(uuid, completed);
    }

    /// Step 10: the guest has it on disk. The ticket has done its work.
    pub(super) fn completed_delivered(&mut self, now: Now, uuid: Uuid, migration: MigrationId) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Some(arrival) = guest.arrival.as_mut().filter(|a| a.ticket.migration == migration) else {
            return;
        };
        let Stage::Telling { at } = arrival.stage else { return };
        arrival.stage = Stage::Told;
        if let (Some(request), Some(told)) = (arrival.ticket.request, arrival.told.clone()) {
            guest.remember_answer(request, told.into());
        }
        if let Some(record) = self.record_mut(migration) {
            record.state = MoveState::Completed;
            record.resumed_to_told_ms = at.map(|at| now.mono.saturating_sub(at).as_secs_f64() * 1000.0);
        }
        self.save_record(migration);
        self.log(Level::Info, Some(uuid), format!("{migration}: the guest knows that it is here"));
        self.clear_ticket(now, uuid);
    }

    pub(super) fn arrival_tick(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let Some(arrival) = &guest.arrival else { return };
        let migration = arrival.ticket.migration;
        let since = arrival.since;
        let silent =
            arrival.ticket.agent && guest.agent.is_none() && since + self.config.limits.hello <= now.mono;
        let expired = arrival.ticket.expires_unix_ms < now.unix_ms;
        match arrival.stage {
            Stage::Here { since, .. } if since + FIGURES_LIMIT <= now.mono => {
                self.arrival_figures(now, uuid, migration, None)
            }
            // A guest without an agent never acknowledges; its ticket goes when it expires.
            Stage::Telling { .. } if expired => {
                if let Some(arrival) = self.guests.get_mut(&uuid).and_then(|g| g.arrival.as_mut()) {
                    arrival.stage = Stage::Told;
                }
                self.clear_ticket(now, uuid);
            }
            Stage::Telling { .. } if silent => {
                let text = format!(
                    "{migration}: the guest's agent answered where it came from and has said nothing here for {} s; is \
                     the guest well? virsh console shows",
                    now.mono.saturating_sub(since).as_secs()
                );
                self.raise(now, Kind::Silent, Some(uuid), text);
            }
            Stage::Coming | Stage::Here { .. } | Stage::Telling { .. } | Stage::Told => {}
        }
    }

    /// The domain that was coming is not here any more.
    pub(super) fn arrival_lost(&mut self, now: Now, uuid: Uuid) {
        let Some(arrival) = self.guests.get(&uuid).and_then(|g| g.arrival.as_ref()) else { return };
        let (migration, coming) = (arrival.ticket.migration, arrival.stage == Stage::Coming);
        if !coming {
            return;
        }
        if let Some(record) = self.record_mut(migration) {
            record.state = MoveState::Failed;
            record.reason = Some("did-not-arrive".into());
            record.ended_unix_ms = Some(now.unix_ms);
        }
        self.log(Level::Warn, Some(uuid), format!("{migration}: did not arrive"));
    }

    fn record_arrival(&mut self, now: Now, uuid: Uuid, ticket: &Ticket) {
        if self.record_mut(ticket.migration).is_some() {
            return;
        }
        let from = self.host_by_uuid(ticket.source).map(|h| h.name.clone());
        let Some(guest) = self.guests.get(&uuid) else { return };
        let record = MoveRecord {
            request: ticket.request,
            from,
            to: Some(self.config.me.name.clone()),
            state: MoveState::Arriving,
            channels: ticket.channels,
            ..MoveRecord::begun(ticket.migration, &guest.domain, ticket.initiator, now.unix_ms)
        };
        self.add_record(record);
    }
}

/// A migration away from here, which its source left behind paused at the worst.
fn is_under_way(domain: &Domain) -> bool {
    match domain.state {
        DomainState::Running { .. } => domain.job_active,
        DomainState::Paused { migration } => migration || domain.job_active,
        DomainState::RunningPostCopy | DomainState::Incoming | DomainState::ShutOff | DomainState::Other => {
            false
        }
    }
}
