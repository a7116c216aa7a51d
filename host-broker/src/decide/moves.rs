//! Steps 5 and 6: a domain leaves this host, and every way in which it does not.

use super::Broker;
use super::admission::Denial;
use super::alarms::Kind;
use super::cancel::CANCEL_AGAIN;
use super::guest::{Move, Plan};
use super::isolation::LINK_AGAIN;
use crate::action::{Action, Level};
use crate::event::Now;
use crate::hypervisor::{DomainState, HvError, JobFigures, MigrateSpec};
use crate::records::MoveState;
use crate::storage;
use crate::ticket::{Channels, Ticket};
use coms_protocol::host_to_guest::{Accepted, Cancelled, Failed, Progress};
use coms_protocol::types::{
    DenyReason, FailReason, Figures, Initiator, MigrationId, Phase, Protection, RequestId, Technique,
};
use std::time::Duration;
use uuid::Uuid;

const ABORT_AGAIN: Duration = Duration::from_secs(30);
/// After a guest left for relief, the others on this host are measured anew for this long before the next.
const RELIEF_REST: Duration = super::load::WINDOW;

impl Broker {
    /// Step 5. The ticket must be there before memory moves: libvirt admits no change during a migration.
    pub(super) fn write_ticket(&mut self, now: Now, uuid: Uuid) {
        let attempt = (self.draw)();
        let channels = match self.settle_encryption(now, uuid) {
            Ok(channels) => channels,
            Err((denial, detail)) => return self.call_off(now, uuid, denial, Some(detail)),
        };
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Some(plan) = guest.mv.plan().cloned() else { return };
        let destination = plan.destination.as_ref().and_then(|d| self.hosts.get(d)?.latest()?.host_uuid);
        let (Some(source), Some(destination)) = (self.my_uuid, destination) else {
            let detail = "libvirt's host UUID of this host or of the destination is not known yet".to_owned();
            return self.call_off(
                now,
                uuid,
                Denial { reason: DenyReason::HostTrouble, retry_after_s: Some(10) },
                Some(detail),
            );
        };
        if source == destination {
            let detail = "this host and the destination have the same host_uuid in libvirtd.conf".to_owned();
            return self.call_off(now, uuid, Denial::new(DenyReason::HostTrouble), Some(detail));
        }
        let ticket = Ticket {
            migration: plan.migration,
            attempt,
            request: plan.requests.first().copied(),
            initiator: plan.initiator,
            technique: plan.technique,
            source,
            destination,
            written_unix_ms: now.unix_ms,
            expires_unix_ms: now.unix_ms + self.config.limits.ticket_ttl.as_millis() as u64,
            autostart: guest.domain.autostart && guest.domain.persistent,
            agent: guest.agent.is_some(),
            channels: Some(channels),
        };
        let migration = plan.migration;
        let to = plan.destination.clone().unwrap_or_default();
        guest.mv = Move::WritingTicket { plan, ticket };
        // The new ticket takes the place of whatever is there.
        guest.clear_ticket_at = None;
        if let Some(record) = self.record_mut(migration) {
            record.state = MoveState::WritingTicket;
            record.channels = Some(channels);
        }
        let seal = if channels.ram == Protection::Tls { self.seal_for_move(now, uuid, &to) } else { None };
        self.out.push(Action::WriteTicket { uuid, migration, xml: ticket.to_xml(), seal });
        // Known anew when the ticket is written.
        self.look_at_link();
    }

    /// What was found when the host was chosen may have changed since: the way was measured, a guest has its say.
    fn settle_encryption(&self, now: Now, uuid: Uuid) -> Result<Channels, (Denial, String)> {
        let busy = || Denial { reason: DenyReason::Busy, retry_after_s: Some(5) };
        let Some(guest) = self.guests.get(&uuid) else { return Err((busy(), "the domain is gone".into())) };
        let plan = guest.mv.plan();
        let there = plan.and_then(|p| p.destination.as_ref()).and_then(|d| self.config.host(d));
        let (Some(plan), Some(there)) = (plan, there) else {
            return Err((busy(), "its destination is no host of the configuration any more".into()));
        };
        // Whichever libvirt takes last would be what the destination sees.
        if guest.seal.is_being_written() {
            return Err((busy(), "how well its moves are to be encrypted is just being written".into()));
        }
        let copied = plan.copies_disks_to(&there.name);
        let channels = self.channels_to(now, uuid, plan.encryption, there, copied).map_err(|detail| {
            (Denial { reason: DenyReason::NotEncryptable, retry_after_s: Some(30) }, detail)
        })?;
        // VIR_MIGRATE_TLS covers libvirt's copies of disks, too: NBD between the same two QEMUs.
        Ok(if copied { Channels { disk: channels.ram, ..channels } } else { channels })
    }

    /// Step 6: tell the guest, then call libvirt.
    pub(super) fn ticket_written(
        &mut self,
        now: Now,
        uuid: Uuid,
        migration: MigrationId,
        result: Result<(), HvError>,
    ) {
        if self.foreign_ticket_written(now, uuid, migration, &result) {
            return;
        }
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Move::WritingTicket { plan, ticket } = &guest.mv else { return };
        if plan.migration != migration {
            return;
        }
        let (mut plan, ticket) = (plan.clone(), *ticket);
        if let (Ok(()), Some(by)) = (&result, plan.cancelled_by) {
            return self.did_not_leave(now, uuid, &plan, End::Cancelled(by));
        }
        if let Err(e) = result {
            let reason =
                if matches!(e, HvError::Busy { .. }) { DenyReason::Busy } else { DenyReason::HostTrouble };
            self.log(Level::Warn, Some(uuid), format!("{migration}: no ticket, no move: {e}"));
            let denial = Denial { reason, retry_after_s: Some(10) };
            // It may have been written all the same.
            return self.call_off_with_ticket(now, uuid, migration, denial, e.to_string());
        }
        let Some(destination) = plan.destination.as_ref().and_then(|d| self.config.host(d)) else { return };
        if let Some(why) = self.off_link(now, destination) {
            self.log(Level::Warn, Some(uuid), format!("{migration}: not sent another way: {why}"));
            let denial = Denial::after(DenyReason::MigrationLinkDown, LINK_AGAIN);
            return self.call_off_with_ticket(now, uuid, migration, denial, why);
        }
        if let Err((reason, why)) = self.still_enough(now, uuid, &plan, destination, ticket.channels) {
            self.log(Level::Warn, Some(uuid), format!("{migration}: not sent so: {why}"));
            let denial = Denial { reason, retry_after_s: Some(5) };
            return self.call_off_with_ticket(now, uuid, migration, denial, why);
        }
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let limits = &self.config.limits;
        let disks = plan.disks.get(&destination.name);
        let wished_ms = plan.wishes.max_downtime_ms.map(u64::from);
        let spec = MigrateSpec {
            uuid,
            dest_uri: destination.libvirt.clone(),
            migrate_uri: destination.migrate_uri.clone(),
            only_at: self.config.migration_interface.as_ref().and_then(|_| destination.migration_address()),
            persistent: guest.domain.persistent,
            bandwidth_mib_s: limits.bandwidth_mib_s,
            auto_converge: plan.technique == Technique::AutoConverge,
            tls: ticket.channels.is_some_and(|c| c.ram == Protection::Tls),
            max_downtime_ms: wished_ms.into_iter().chain(limits.max_downtime_ms).min(),
            disks: disks.map(storage::Plan::targets).unwrap_or_default(),
            incremental: disks.is_some_and(storage::Plan::incremental),
        };
        let announced = std::mem::replace(&mut plan.accepted, true);
        plan.kept = None;
        guest.arrival = None;
        let attends = guest.attends().is_some();
        let requests = if announced { Vec::new() } else { plan.requests.clone() };
        let (terms, notice) = (self.terms(now, &plan, None), self.notice(&plan, 0));
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let waited = now.mono.saturating_sub(plan.received);
        guest.domain.ticket_xml = Some(ticket.to_xml());
        guest.mv = Move::Running {
            plan,
            started: now.mono,
            rounds: 0,
            time_limit_hit: false,
            abort_at: now.mono + self.config.limits.max_total,
            switching_over: false,
        };
        for request in requests {
            self.tell(uuid, Accepted { request, migration });
        }
        if !announced {
            if attends {
                self.tell(uuid, terms);
            }
            self.tell(uuid, notice);
        }
        self.tell_phase(now, uuid, migration, Phase::Copying);
        self.keep_announced(now);
        if let Some(record) = self.record_mut(migration) {
            record.state = MoveState::Copying;
            record.request_to_call_ms = Some(waited.as_secs_f64() * 1000.0);
        }
        self.out.push(Action::Migrate { migration, spec });
    }

    /// Its ticket is there already, or may be.
    fn call_off_with_ticket(
        &mut self,
        now: Now,
        uuid: Uuid,
        migration: MigrationId,
        denial: Denial,
        detail: String,
    ) {
        self.call_off(now, uuid, denial, Some(detail));
        if let Some(guest) = self.guests.get_mut(&uuid) {
            guest.concluded = Some(migration);
        }
        self.clear_ticket(now, uuid);
    }

    pub(super) fn progress(&mut self, now: Now, uuid: Uuid, migration: MigrationId, figures: &JobFigures) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if guest.foreign.as_ref().is_some_and(|f| f.migration == migration) {
            return self.foreign_progress(now, uuid, figures);
        }
        let Move::Running { plan, started, .. } = &mut guest.mv else { return };
        if plan.migration != migration {
            return;
        }
        plan.figures.take(figures);
        let (disk_bytes, bytes_remaining) = (plan.figures.disk_bytes, figures.all_remaining());
        let message = Progress {
            migration,
            phase: Phase::Copying,
            elapsed_ms: now.mono.saturating_sub(*started).as_millis() as u64,
            bytes_total: figures.all_total(),
            bytes_remaining,
            round: figures.rounds,
        };
        if let Some(record) = self.record_mut(migration) {
            record.bytes_remaining = bytes_remaining;
            record.disk_bytes = disk_bytes;
        }
        self.out.push(Action::TellOnce { uuid, message: message.into() });
    }

    /// Has libvirt end the job. Whether the other host still answers is not known: the abort of a disk's copy would wait for it.
    pub(super) fn abort(&mut self, uuid: Uuid) {
        let cut = self.made.contains_key(&uuid);
        self.out.push(Action::Abort { uuid, cut });
    }

    pub(super) fn iteration(&mut self, now: Now, uuid: Uuid, round: u32) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        match &mut guest.mv {
            Move::Running { rounds, .. } | Move::Unclear { rounds, .. } => *rounds = round.max(*rounds),
            Move::None
            | Move::Announced { .. }
            | Move::Choosing(_)
            | Move::Connecting { .. }
            | Move::WritingTicket { .. } => {
                self.foreign_sign(now, uuid);
            }
        }
    }

    pub(super) fn job_completed(&mut self, uuid: Uuid, figures: &JobFigures) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if let Some(foreign) = &mut guest.foreign {
            foreign.figures = figures.clone();
        }
        let Some(plan) = guest.mv.plan_mut() else { return };
        plan.figures.take(figures);
        let (migration, disk_bytes) = (plan.migration, plan.figures.disk_bytes);
        if let Some(record) = self.record_mut(migration) {
            record.figures = to_wire(figures);
            record.disk_bytes = disk_bytes;
        }
    }

    pub(super) fn switching_over(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if let Move::Running { plan, started, switching_over, .. } = &mut guest.mv {
            *switching_over = true;
            let text = format!(
                "{}: switching over after {} ms",
                plan.migration,
                now.mono.saturating_sub(*started).as_millis()
            );
            self.log(Level::Info, Some(uuid), text);
        }
    }

    pub(super) fn time_limit(&mut self, now: Now, uuid: Uuid) {
        let limit = self.config.limits.max_total;
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let job_active = guest.domain.job_active;
        let mut rival = false;
        let (plan, time_limit_hit, abort_at) = match &mut guest.mv {
            Move::Running { plan, time_limit_hit, abort_at, .. } => (plan, time_limit_hit, abort_at),
            Move::Unclear { plan, time_limit_hit, abort_at, error, .. } if job_active => {
                rival = error.as_ref().is_some_and(HvError::is_another_migration);
                (plan, time_limit_hit, abort_at)
            }
            Move::None
            | Move::Announced { .. }
            | Move::Choosing(_)
            | Move::Connecting { .. }
            | Move::WritingTicket { .. }
            | Move::Unclear { .. } => return,
        };
        if *abort_at > now.mono {
            return;
        }
        // Again if need be: libvirt refuses while the job is not quite there.
        if plan.cancelled_by.is_some() || plan.link_lost.is_some() || rival {
            *abort_at = now.mono + CANCEL_AGAIN;
            return self.abort(uuid);
        }
        *abort_at = now.mono + ABORT_AGAIN;
        *time_limit_hit = true;
        let text = format!("{}: not done after {} s, aborting", plan.migration, limit.as_secs());
        self.log(Level::Warn, Some(uuid), text);
        self.abort(uuid);
    }

    /// The migrate call came back. Only success is believed; after an error the domain itself is looked at, for
    /// the call may fail while the move succeeded (a lost connection), and the reverse is libvirt's business.
    pub(super) fn returned(
        &mut self,
        now: Now,
        uuid: Uuid,
        migration: MigrationId,
        result: Result<(), HvError>,
    ) {
        let plan = self.guests.get(&uuid).and_then(|g| g.mv.plan()).filter(|p| p.migration == migration);
        let Some(plan) = plan else { return };
        // Somebody else's is under way, and goes where it likes with our ticket and waybill; ours is not.
        let rival =
            result.as_ref().is_err_and(HvError::is_another_migration) && self.must_be_encrypted(uuid, plan);
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        match (result, std::mem::replace(&mut guest.mv, Move::None)) {
            (Ok(()), mv) => {
                guest.mv = mv;
                self.left(now, uuid);
            }
            (Err(e), Move::Running { plan, rounds, time_limit_hit, abort_at, switching_over, .. }) => {
                guest.mv = Move::Unclear {
                    plan,
                    rounds,
                    time_limit_hit,
                    error: Some(e.clone()),
                    looked: now.mono,
                    since: now.mono,
                    abort_at: if rival { now.mono + CANCEL_AGAIN } else { abort_at },
                    asked: None,
                    may_run_there: switching_over,
                    suspended: false,
                };
                self.log(Level::Warn, Some(uuid), format!("{migration}: {e}"));
                if let Some(record) = self.record_mut(migration) {
                    record.state = MoveState::Unclear;
                    record.detail = Some(e.to_string());
                }
                if rival {
                    let text = format!(
                        "{migration}: it must be encrypted, and somebody past the brokers migrates it: aborted"
                    );
                    self.log(Level::Warn, Some(uuid), text);
                    self.abort(uuid);
                }
                self.out.push(Action::Look { uuid });
            }
            (Err(_), mv) => guest.mv = mv,
        }
    }

    /// It is gone from here, alive, as far as this host can know.
    pub(super) fn left(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if !guest.mv.may_have_left() {
            self.foreign_left(now, uuid);
            self.out.push(Action::Look { uuid });
            return;
        }
        self.disks_left(uuid);
        self.is_not_here(now, uuid);
    }

    /// It left, or it ended here: a call that failed does not say which, and what becomes of its images hangs on that.
    pub(super) fn left_or_ended(&mut self, now: Now, uuid: Uuid) {
        self.is_not_here(now, uuid);
        self.ask_for_disks(now, uuid);
    }

    fn is_not_here(&mut self, now: Now, uuid: Uuid) {
        let Some(plan) = self.guests.get(&uuid).and_then(|g| g.mv.plan()) else { return };
        let (migration, to) = (plan.migration, plan.destination.clone().unwrap_or_default());
        let (relieved, by) = (plan.wants_relief, plan.initiator);
        // With it goes its link: what it said last, it says again where it is.
        if self.guests.remove(&uuid).is_some_and(|g| g.attached.is_some()) {
            self.out.push(Action::Detach { uuid });
        }
        self.settled_with(uuid);
        self.failed_at.remove(&uuid);
        if relieved {
            self.relief_rest_until = now.mono + RELIEF_REST;
            self.relieved_at = now.mono;
        }
        self.moved(uuid, now.unix_ms, by);
        if let Some(record) = self.record_mut(migration) {
            record.state = MoveState::Left;
            record.ended_unix_ms = Some(now.unix_ms);
            record.bytes_remaining = None;
        }
        self.save_record(migration);
        self.log(Level::Info, Some(uuid), format!("{migration}: left for {to}"));
        self.out.push(Action::Look { uuid });
    }

    /// Called with every fresh look: finds the end of a move whose call failed or was lost.
    pub(super) fn source_looks(&mut self, now: Now, uuid: Uuid) {
        self.foreign_looks(now, uuid);
        let Some(guest) = self.guests.get(&uuid) else { return };
        if guest.domain.state.runs() && !guest.domain.job_active && self.may_run_twice(now, uuid) {
            return;
        }
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Move::Unclear { plan, rounds, time_limit_hit, error, suspended, .. } = &guest.mv else { return };
        match guest.domain.state {
            DomainState::Running { .. } if !guest.domain.job_active => {
                let end = match (plan.cancelled_by, time_limit_hit) {
                    (Some(by), false) => End::Cancelled(by),
                    (Some(_), true) | (None, _) => {
                        let carried = carried(*rounds, &plan.figures);
                        end_of(error.as_ref(), *rounds, carried, *time_limit_hit, &self.config.me.libvirt)
                    }
                };
                let not_encrypted =
                    matches!(error, Some(HvError::NotEncrypted { .. })) && !carried(*rounds, &plan.figures);
                let plan = plan.clone();
                let end = self.end_for_want_of_link(&plan).unwrap_or(end);
                if let Some(host) = plan.destination.as_ref().filter(|_| not_encrypted) {
                    self.tls_failed.insert(host.clone(), now.mono);
                }
                self.did_not_leave(now, uuid, &plan, end);
            }
            DomainState::Running { .. } | DomainState::RunningPostCopy | DomainState::Incoming => {}
            // In switch-over.
            DomainState::Paused { .. } if guest.domain.job_active => {}
            DomainState::Paused { migration: true } => self.look_elsewhere(now, uuid),
            DomainState::Paused { migration: false } if *suspended => self.look_elsewhere(now, uuid),
            DomainState::Paused { migration: false } | DomainState::Other => {
                let text = format!(
                    "{}: after a broken move to {} the domain does not run here, and not because of the move; it is \
                     left so. virsh domstate --reason says more",
                    plan.migration,
                    plan.destination.as_deref().unwrap_or("an unknown host"),
                );
                self.raise(now, Kind::LeftPaused, Some(uuid), text);
            }
            // Defined here without running: it left, or it was shut off meanwhile.
            DomainState::ShutOff => self.left_or_ended(now, uuid),
        }
    }

    /// A ticket says that this host tried to move the domain, and it runs here: told by a broker that was
    /// restarted in between.
    pub(super) fn lost_attempt(&mut self, now: Now, uuid: Uuid, ticket: &Ticket) {
        let plan = self.plan_of(now, ticket);
        self.did_not_leave(now, uuid, &plan, End::Failed(FailReason::Unexplained));
    }

    /// The domain runs here and no job does: the move is over without having happened.
    pub(super) fn did_not_leave(&mut self, now: Now, uuid: Uuid, plan: &Plan, end: End) {
        let migration = plan.migration;
        // While a job runs its downtime is libvirt's guess of what is to come.
        let figures = Figures { downtime_ms: None, ..to_wire(&plan.figures) };
        let (state, reason) = match end {
            End::Denied(reason) => (MoveState::Denied, reason.to_string()),
            End::Failed(reason) => (MoveState::Failed, reason.to_string()),
            End::Cancelled(by) => (MoveState::Cancelled, format!("by-{by}")),
        };
        self.settled(Kind::LeftPaused, Some(uuid));
        self.undo_network(now, uuid, migration);
        self.discard_disks(now, uuid, migration);
        if matches!(end, End::Failed(_)) {
            self.failed_at.insert(uuid, now.mono);
        }
        let mut ticketless = false;
        if let Some(guest) = self.guests.get_mut(&uuid) {
            ticketless = matches!(guest.mv, Move::Announced { .. });
            guest.mv = Move::None;
            guest.concluded = Some(migration);
            guest.waiting.retain(|w| !plan.requests.contains(&w.request));
        }
        if let Some(record) = self.record_mut(migration) {
            record.state = state;
            record.reason = Some(reason.clone());
            record.ended_unix_ms = Some(now.unix_ms);
            record.figures = figures;
            record.bytes_remaining = None;
            record.waits = None;
        }
        self.save_record(migration);
        self.keep_announced(now);
        self.log(Level::Warn, Some(uuid), format!("{migration}: the domain stays here: {reason}"));
        // One that nobody asked for is told once, under no request.
        let askers: Vec<Option<RequestId>> = if plan.requests.is_empty() {
            vec![None]
        } else {
            plan.requests.iter().copied().map(Some).collect()
        };
        for request in askers {
            match (end, request) {
                (End::Denied(reason), Some(request)) => {
                    self.deny(uuid, request, Denial { reason, retry_after_s: None })
                }
                (End::Denied(reason), None) => {
                    let reason = if reason == DenyReason::NotEncryptable {
                        FailReason::EncryptionFailed
                    } else {
                        FailReason::DestinationRefused
                    };
                    self.tell(uuid, Failed { migration, request, reason, figures });
                }
                (End::Failed(reason), Some(asker)) => {
                    self.answer(uuid, asker, Failed { migration, request, reason, figures })
                }
                (End::Failed(reason), None) => {
                    self.tell(uuid, Failed { migration, request, reason, figures })
                }
                (End::Cancelled(by), Some(asker)) => {
                    self.answer(uuid, asker, Cancelled { migration, request, by, figures })
                }
                (End::Cancelled(by), None) => self.tell(uuid, Cancelled { migration, request, by, figures }),
            }
        }
        if !ticketless {
            self.clear_ticket(now, uuid);
        }
    }
}

/// How a move that did not happen ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// The hypervisor refused before anything moved.
    Denied(DenyReason),
    Failed(FailReason),
    Cancelled(Initiator),
}

/// Whether TLS had come about when it broke. With TLS 1.3 a destination that does not trust the source says so after
/// the source has begun to send, into sockets' buffers: no more than a few MiB.
fn carried(rounds: u32, figures: &JobFigures) -> bool {
    const BUFFERS: u64 = 16 << 20;
    rounds > 1 || figures.bytes.max(figures.disk_bytes).is_some_and(|bytes| bytes > BUFFERS)
}

fn end_of(
    error: Option<&HvError>,
    rounds: u32,
    carried: bool,
    time_limit_hit: bool,
    my_libvirt: &str,
) -> End {
    match error {
        _ if time_limit_hit => End::Failed(FailReason::TimeLimit),
        None => End::Failed(FailReason::Unexplained),
        // Not by us: we abort for the time limit only.
        Some(HvError::Aborted { .. }) => End::Cancelled(Initiator::Foreign),
        Some(HvError::Refused { .. }) if rounds == 0 => End::Denied(DenyReason::CannotMove),
        Some(HvError::RefusedThere { .. }) if rounds == 0 => End::Denied(DenyReason::DestinationRefused),
        Some(HvError::Refused { .. } | HvError::RefusedThere { .. }) => {
            End::Failed(FailReason::DestinationRefused)
        }
        Some(HvError::NotEncrypted { .. }) if rounds == 0 && !carried => {
            End::Denied(DenyReason::NotEncryptable)
        }
        Some(HvError::NotEncrypted { .. }) if !carried => End::Failed(FailReason::EncryptionFailed),
        // The rounds are the other's.
        Some(e) if e.is_another_migration() => End::Denied(DenyReason::Busy),
        Some(HvError::Busy { .. }) if rounds == 0 => End::Denied(DenyReason::Busy),
        // Our own libvirtd went away in the middle, and with it the reason.
        Some(HvError::Unreachable { uri, .. }) if uri == my_libvirt => End::Failed(FailReason::Unexplained),
        Some(HvError::Unreachable { .. }) => End::Failed(FailReason::DestinationLost),
        // Also a line that was lost under TLS: QEMU speaks of the "TLS channel" then.
        Some(
            HvError::NotEncrypted { .. }
            | HvError::Busy { .. }
            | HvError::NoDomain { .. }
            | HvError::Other { .. },
        ) => End::Failed(FailReason::SourceError),
    }
}

/// A job's figures as a guest may know them.
pub(super) fn to_wire(f: &JobFigures) -> Figures {
    Figures {
        // 0 is said of a job that has hardly begun.
        total_ms: f.total_ms.filter(|ms| *ms > 0),
        downtime_ms: f.downtime_ms,
        bytes: f.bytes,
        pages: f.pages_normal,
        rounds: f.rounds,
        prepare_ms: f.setup_ms,
        resume_ms: None,
    }
}
