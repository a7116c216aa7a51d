//! Moves that this broker did not begin: somebody used virsh, or another manager.
//!
//! At the source the first sign is a round of copying without a plan of ours. libvirt is asked what that is (a dump
//! copies in rounds too), and the guest is told what is known; nothing is promised, for nobody asked this broker.
//! At the destination a domain that came by migration without a ticket for this host gets one now, from this broker
//! for itself: with it the arrival is told like any other, once, also by the next broker if this one is killed.

use super::Broker;
use super::guest::{Came, Foreign};
use crate::action::{Action, Level};
use crate::event::Now;
use crate::hypervisor::{DomainState, HvError, JobFigures};
use crate::records::{MoveRecord, MoveState};
use crate::ticket::Ticket;
use coms_protocol::host_to_guest::{Failed, Notice, Progress, Terms};
use coms_protocol::types::{FailReason, Initiator, MigrationId, NoticeReason, Phase, Technique};
use std::time::Duration;
use uuid::Uuid;

/// How a foreign move is made, nobody tells.
const NOT_TOLD: Technique = Technique::Unknown(u16::MAX);
/// When nobody says that the job is over, looks decide after this long.
const LOOKS_DECIDE: Duration = Duration::from_secs(3);

impl Broker {
    /// Something copies this domain's memory, and not for us.
    pub(super) fn foreign_sign(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let running = matches!(guest.domain.state, DomainState::Running { .. });
        if guest.foreign.is_some() || guest.attached.is_none() || !running {
            return;
        }
        let migration = MigrationId((self.draw)());
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        guest.foreign = Some(Foreign {
            migration,
            since: now.mono,
            told: false,
            over: false,
            figures: JobFigures::default(),
        });
        self.out.push(Action::Watch { uuid, migration });
    }

    pub(super) fn foreign_progress(&mut self, now: Now, uuid: Uuid, figures: &JobFigures) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let attends = guest.attends().is_some();
        let Some(foreign) = &mut guest.foreign else { return };
        foreign.figures = figures.clone();
        if figures.leaves == Some(false) {
            return;
        }
        let (migration, since) = (foreign.migration, foreign.since);
        if !std::mem::replace(&mut foreign.told, true) {
            let record = MoveRecord {
                from: Some(self.config.me.name.clone()),
                state: MoveState::Copying,
                ..MoveRecord::begun(migration, &guest.domain, Initiator::Foreign, now.unix_ms)
            };
            self.add_record(record);
            self.log(
                Level::Info,
                Some(uuid),
                format!("{migration}: somebody past this broker migrates this domain"),
            );
            if attends {
                self.tell(
                    uuid,
                    Terms {
                        migration,
                        reason: NoticeReason::Unstated,
                        hold_up_to_ms: 0,
                        postpone_up_to_s: 0,
                        may_veto: false,
                        expedited: false,
                    },
                );
            }
            self.tell(
                uuid,
                Notice {
                    migration,
                    request: None,
                    initiator: Initiator::Foreign,
                    technique: NOT_TOLD,
                    starts_in_ms: 0,
                    predicted_downtime_ms: None,
                    predicted_total_ms: None,
                },
            );
        }
        let message = Progress {
            migration,
            phase: Phase::Copying,
            elapsed_ms: u64::try_from(now.mono.saturating_sub(since).as_millis()).unwrap_or(u64::MAX),
            bytes_total: figures.bytes_total,
            bytes_remaining: figures.bytes_remaining,
            round: figures.rounds,
        };
        if let Some(record) = self.record_mut(migration) {
            record.bytes_remaining = figures.bytes_remaining;
        }
        self.out.push(Action::TellOnce { uuid, message: message.into() });
    }

    pub(super) fn watched(&mut self, uuid: Uuid, migration: MigrationId) {
        let foreign = self.guests.get_mut(&uuid).and_then(|g| g.foreign.as_mut());
        if let Some(foreign) = foreign.filter(|f| f.migration == migration) {
            foreign.over = true;
            self.out.push(Action::Look { uuid });
        }
    }

    pub(super) fn foreign_tick(&mut self, now: Now, uuid: Uuid) {
        let foreign = self.guests.get(&uuid).and_then(|g| g.foreign.as_ref());
        if foreign.is_some_and(|f| f.over || f.since + LOOKS_DECIDE <= now.mono) {
            self.out.push(Action::Look { uuid });
        }
    }

    /// Called with every fresh look: the domain runs here and no job does, so it has not left.
    pub(super) fn foreign_looks(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let stays = match guest.domain.state {
            DomainState::Running { .. } => !guest.domain.job_active,
            DomainState::ShutOff => true,
            DomainState::RunningPostCopy
            | DomainState::Incoming
            | DomainState::Paused { .. }
            | DomainState::Other => false,
        };
        let over = |f: &&mut Foreign| stays && (f.over || f.since + LOOKS_DECIDE <= now.mono);
        let Some(told) = guest.foreign.as_mut().filter(over).map(|f| f.told) else { return };
        let Some(foreign) = guest.foreign.take().filter(|_| told) else { return };
        let (migration, reason) = (foreign.migration, FailReason::Unexplained);
        let figures = super::moves::to_wire(&JobFigures { downtime_ms: None, ..foreign.figures });
        self.foreign_ended(now, migration, MoveState::Failed);
        self.log(Level::Info, Some(uuid), format!("{migration}: the foreign move did not take it away"));
        self.tell(uuid, Failed { migration, request: None, reason, figures });
    }

    /// It is gone from here: where it is, it is told.
    pub(super) fn foreign_left(&mut self, now: Now, uuid: Uuid) {
        let foreign = self.guests.get_mut(&uuid).and_then(|g| g.foreign.take()).filter(|f| f.told);
        if let Some(foreign) = foreign {
            self.moved(uuid, now.unix_ms, Initiator::Foreign);
            self.foreign_ended(now, foreign.migration, MoveState::Left);
        }
    }

    fn foreign_ended(&mut self, now: Now, migration: MigrationId, state: MoveState) {
        if let Some(record) = self.record_mut(migration) {
            record.state = state;
            record.ended_unix_ms = Some(now.unix_ms);
            record.bytes_remaining = None;
        }
        self.save_record(migration);
    }

    /// It came by migration, and what it brought along explains nothing.
    pub(super) fn came_unexplained(&mut self, now: Now, uuid: Uuid) -> bool {
        let Some(me) = self.my_uuid else { return false };
        match self.guests.get_mut(&uuid).and_then(|g| Some((g.came?, g))) {
            None => return false,
            // Being written.
            Some((Came { ticket: Some(_), .. }, guest)) => {
                guest.undecided = true;
                return true;
            }
            Some((Came { ticket: None, .. }, _)) => {}
        }
        let (migration, attempt) = (MigrationId((self.draw)()), (self.draw)());
        // Which host still showed it a moment ago.
        let had_it = |h: &crate::config::Host| {
            let sample = self.hosts.get(&h.name).and_then(|h| h.latest())?;
            sample.domains.iter().any(|d| d.uuid == uuid).then_some(sample.host_uuid)?
        };
        let mut sources = self.config.peers.iter().filter_map(had_it);
        let source = sources.next().filter(|_| sources.next().is_none());
        let Some(guest) = self.guests.get_mut(&uuid) else { return false };
        let ticket = Ticket {
            migration,
            attempt,
            request: None,
            initiator: Initiator::Foreign,
            technique: NOT_TOLD,
            source: source.unwrap_or_default(),
            destination: me,
            written_unix_ms: now.unix_ms,
            expires_unix_ms: now.unix_ms + self.config.limits.ticket_ttl.as_millis() as u64,
            autostart: false,
            agent: false,
            channels: None,
        };
        let at = guest.came.and_then(|c| c.at);
        guest.came = Some(Came { at, ticket: Some(ticket) });
        guest.undecided = true;
        guest.clear_ticket_at = None;
        self.log(Level::Info, Some(uuid), format!("{migration}: it came, and no broker sent it"));
        self.out.push(Action::WriteTicket { uuid, migration, xml: ticket.to_xml(), seal: None });
        true
    }

    /// The ticket that this broker wrote for an arrival is there; or it cannot be, and the guest is told all the same.
    pub(super) fn foreign_ticket_written(
        &mut self,
        now: Now,
        uuid: Uuid,
        migration: MigrationId,
        result: &Result<(), HvError>,
    ) -> bool {
        let Some(guest) = self.guests.get_mut(&uuid) else { return false };
        let Some(Came { at, ticket: Some(ticket) }) = guest.came else { return false };
        if ticket.migration != migration {
            return false;
        }
        guest.came = None;
        guest.undecided = false;
        match result {
            Err(HvError::NoDomain { .. }) => self.out.push(Action::Look { uuid }),
            Err(e) => {
                self.log(
                    Level::Warn,
                    Some(uuid),
                    format!("{migration}: told by this broker or by none: {e}"),
                );
                self.here(now, uuid, ticket, at);
            }
            Ok(()) => {
                guest.domain.ticket_xml = Some(ticket.to_xml());
                self.here(now, uuid, ticket, at);
            }
        }
        self.stays_touched = true;
        self.take_up_announced(now, uuid);
        self.answer_waiting(uuid);
        true
    }
}
