//! Images that a move needs at its destination: made before the ticket is written, removed again if the move fails.
//!
//! ```text
//!   way fit, network there ──> Making ──made──> Made ──> ticket, move ──left──> the VM's own (source's copy: policy) ──> forgotten
//!                                │ refused        │ the move fails
//!                                v                v
//!                  denied, nothing is there    Removing ──gone──> forgotten      (again and again, and an alarm)
//! ```
//! Kept on disk (`disks.json`), so that a broker that is killed leaves nothing behind unseen. What it was still having made
//! when it was killed, the next one does not remove: it cannot know which of those files are its own. It says where they may
//! be, until a move finds nothing there: what is there then is the VM's. At both ends nothing is removed that a domain of this
//! identity uses (`io/libvirt/storage.rs`).

use super::Broker;
use super::admission::Denial;
use super::alarms::Kind;
use super::guest::{Move, Way};
use super::moves::End;
use crate::action::{Action, Level};
use crate::event::Now;
use crate::hypervisor::HvError;
use crate::records::MoveState;
use crate::storage::{Copy, Made, MadeStage, MakeError};
use coms_protocol::types::{DenyReason, MigrationId};
use std::time::Duration;
use uuid::Uuid;

/// Removing that failed is tried again: soon at first, for the destination may still be letting go of the VM, then with an alarm.
const REMOVE_SOON: Duration = Duration::from_secs(5);
const REMOVE_AGAIN: Duration = Duration::from_secs(60);
const TRIES_BEFORE_ALARM: u32 = 3;

/// Images made at a destination, with what need not survive a restart.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) made: Made,
    /// This broker has asked for what its stage says, and hears of it.
    asked: bool,
    again_at: Duration,
    /// How often removing has failed.
    failures: u32,
}

impl Held {
    /// Of a former broker.
    pub(super) fn found(made: Made) -> Self {
        Self { made, asked: false, again_at: Duration::ZERO, failures: 0 }
    }
}

impl Broker {
    /// The way is fit and the network reaches there: the last thing before the ticket.
    pub(super) fn make_disks(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Some(plan) = guest.mv.plan().cloned() else { return };
        let Some(there) = plan.destination.as_ref().and_then(|d| self.config.host(d)) else { return };
        let disks = plan.disks.get(&there.name).cloned().unwrap_or_default();
        let (host, uri, migration) = (there.name.clone(), there.libvirt.clone(), plan.migration);
        let domain = guest.domain.name.clone();
        if let Some(record) = self.record_mut(migration) {
            record.disks = disks.notes;
        }
        if disks.copies.is_empty() {
            return self.write_ticket(now, uuid);
        }
        self.nothing_is_left(now, uuid, &host, &disks.copies);
        if let Some(held) = self.made.get(&uuid) {
            let text = format!(
                "images of an earlier move are not gone from {} yet: {}",
                held.made.host,
                held.made.paths()
            );
            let denial = Denial { reason: DenyReason::DiskNotReady, retry_after_s: Some(60) };
            return self.call_off(now, uuid, denial, Some(text));
        }
        if let Some(guest) = self.guests.get_mut(&uuid) {
            guest.mv = Move::Connecting { plan, way: Way::Making, since: now.mono };
        }
        if let Some(record) = self.record_mut(migration) {
            record.state = MoveState::MakingDisks;
        }
        let copies = disks.copies;
        let made =
            Made { vm: uuid, domain, migration, host, stage: MadeStage::Making, copies: copies.clone() };
        self.made.insert(uuid, Held { made, asked: true, again_at: now.mono, failures: 0 });
        // On disk before it begins.
        self.keep_disks();
        self.out.push(Action::MakeDisks { uuid, migration, uri, copies });
    }

    pub(super) fn disks_made(
        &mut self,
        now: Now,
        uuid: Uuid,
        migration: MigrationId,
        result: Result<(), MakeError>,
    ) {
        let is_it = |h: &&mut Held| h.made.migration == migration && h.made.stage == MadeStage::Making;
        let Some(held) = self.made.get_mut(&uuid).filter(is_it) else { return };
        match &result {
            Ok(()) => held.made.stage = MadeStage::Made,
            Err(e) if e.unsure => self.may_be_left(now, uuid),
            // Nothing of ours is there.
            Err(_) => drop(self.made.remove(&uuid)),
        }
        self.keep_disks();
        let waiting = self.guests.get(&uuid).and_then(|g| match &g.mv {
            Move::Connecting { plan, way: Way::Making, .. } if plan.migration == migration => {
                Some(plan.clone())
            }
            Move::Connecting { .. }
            | Move::None
            | Move::Announced { .. }
            | Move::Choosing(_)
            | Move::WritingTicket { .. }
            | Move::Running { .. }
            | Move::Unclear { .. } => None,
        });
        let Some(plan) = waiting else { return self.discard_disks(now, uuid, migration) };
        if let Some(by) = plan.cancelled_by {
            return self.did_not_leave(now, uuid, &plan, End::Cancelled(by));
        }
        match result {
            Err(MakeError { refusal, .. }) => {
                let (reason, retry_after_s) = (refusal.kind.reason(), refusal.kind.retry_after_s());
                self.call_off(now, uuid, Denial { reason, retry_after_s }, Some(refusal.detail));
            }
            Ok(()) if self.is_late(now, uuid) => {
                self.call_off(now, uuid, Denial::new(DenyReason::DeadlinePassed), None);
            }
            Ok(()) => self.write_ticket(now, uuid),
        }
    }

    /// The move that these were made for does not take place.
    pub(super) fn discard_disks(&mut self, now: Now, uuid: Uuid, migration: MigrationId) {
        let is_it = |h: &&mut Held| h.made.migration == migration && h.made.stage == MadeStage::Made;
        // Those that are still being made are thrown away when they are.
        let Some(held) = self.made.get_mut(&uuid).filter(is_it) else { return };
        held.made.stage = MadeStage::Removing;
        self.keep_disks();
        self.remove_disks(now, uuid);
    }

    fn remove_disks(&mut self, now: Now, uuid: Uuid) {
        let Some(held) = self.made.get_mut(&uuid) else { return };
        let Made { migration, host, copies, .. } = held.made.clone();
        let uri = self.config.host(&host).map(|h| h.libvirt.clone());
        held.asked = uri.is_some();
        match uri {
            Some(uri) => self.out.push(Action::RemoveDisks { uuid, migration, uri, copies }),
            None => self.may_be_left(now, uuid),
        }
    }

    pub(super) fn disks_removed(
        &mut self,
        now: Now,
        uuid: Uuid,
        migration: MigrationId,
        result: Result<(), HvError>,
    ) {
        let is_it = |h: &&mut Held| h.made.migration == migration && h.made.stage == MadeStage::Removing;
        let Some(held) = self.made.get_mut(&uuid).filter(is_it) else { return };
        held.asked = false;
        held.failures += u32::from(result.is_err());
        let often = held.failures >= TRIES_BEFORE_ALARM;
        held.again_at = now.mono + if often { REMOVE_AGAIN } else { REMOVE_SOON };
        let (host, paths) = (held.made.host.clone(), held.made.paths());
        match result {
            Ok(()) => {
                self.made.remove(&uuid);
                self.keep_disks();
                self.settled(Kind::Disks, Some(uuid));
                self.log(Level::Info, Some(uuid), format!("{migration}: removed again from {host}: {paths}"));
            }
            Err(e) if !often => {
                self.log(
                    Level::Info,
                    Some(uuid),
                    format!("{migration}: not removed from {host} yet: {paths}: {e}"),
                );
            }
            Err(e) => {
                let again = REMOVE_AGAIN.as_secs();
                let text = format!(
                    "{migration} failed, and what was made for it is still on {host}: {paths}: {e}; tried again every \
                     {again} s"
                );
                self.raise(now, Kind::Disks, Some(uuid), text);
            }
        }
    }

    /// The VM has gone where they are: they are its own now.
    pub(super) fn disks_left(&mut self, uuid: Uuid) {
        let Some(held) = self.made.get_mut(&uuid).filter(|h| h.made.stage == MadeStage::Made) else { return };
        let Made { migration, host, copies, .. } = held.made.clone();
        let paths = held.made.paths();
        let uri = self.config.host(&host).map(|h| h.libvirt.clone());
        match uri.filter(|_| self.config.storage.remove_source) {
            Some(uri) => {
                held.made.stage = MadeStage::Left;
                held.asked = true;
                self.out.push(Action::RemoveSource { uuid, migration, uri, copies });
            }
            None => {
                self.made.remove(&uuid);
                let text = format!("{migration}: its disks were copied to {host}; here they stay: {paths}");
                self.log(Level::Info, Some(uuid), text);
            }
        }
        self.keep_disks();
    }

    /// Once only: what is not removed then stays, and is said.
    pub(super) fn source_removed(&mut self, uuid: Uuid, migration: MigrationId, result: Result<(), HvError>) {
        let is_it = |h: &&Held| h.made.migration == migration && h.made.stage == MadeStage::Left;
        let Some(held) = self.made.get(&uuid).filter(is_it) else { return };
        let paths = held.made.paths();
        self.made.remove(&uuid);
        self.keep_disks();
        match result {
            Ok(()) => self.log(Level::Info, Some(uuid), format!("{migration}: removed here: {paths}")),
            Err(e) => {
                let text = format!("{migration}: not removed here, and left for the operator: {paths}: {e}");
                self.log(Level::Warn, Some(uuid), text);
            }
        }
    }

    /// What a former broker had begun, and what could not be removed.
    pub(super) fn disks_tick(&mut self, now: Now) {
        if !self.listed {
            return;
        }
        let all: Vec<Uuid> = self.made.keys().copied().collect();
        for uuid in all {
            let Some(held) = self.made.get(&uuid) else { continue };
            let (stage, migration, asked) = (held.made.stage, held.made.migration, held.asked);
            let due = !asked && held.again_at <= now.mono;
            match stage {
                MadeStage::Making if !asked => self.may_be_left(now, uuid),
                MadeStage::Made => match self.guests.get(&uuid) {
                    None => self.disks_left(uuid),
                    // No move is known that they could be for.
                    Some(g) => {
                        let stays = g.domain.state.runs() && !g.domain.job_active && g.foreign.is_none();
                        if g.mv.is_none() && !g.undecided && stays {
                            self.discard_disks(now, uuid, migration);
                        }
                    }
                },
                MadeStage::Removing if due => self.remove_disks(now, uuid),
                // Its broker was killed right then.
                MadeStage::Left if !asked => {
                    if let Some(held) = self.made.get_mut(&uuid) {
                        held.made.stage = MadeStage::Made;
                    }
                    self.disks_left(uuid);
                }
                MadeStage::Making | MadeStage::Removing | MadeStage::Left => {}
            }
        }
    }

    /// Some of them may be there and ours: nobody can tell, so nobody removes them.
    fn may_be_left(&mut self, now: Now, uuid: Uuid) {
        let Some(held) = self.made.remove(&uuid) else { return };
        let Made { migration, domain, host, .. } = &held.made;
        let text = format!(
            "{migration} of {domain} was broken off while images were made on {host}; some of these may be there: {}; \
             look (virsh vol-list there) and, unless {domain} runs there, remove them by hand",
            held.made.paths()
        );
        self.perhaps_left.insert(uuid, held.made);
        self.keep_disks();
        self.raise(now, Kind::Disks, Some(uuid), text);
    }

    /// The host that it goes to has none of its images: none was left there, or somebody has removed them. Who still reads
    /// that some may be there would soon find the VM's own.
    fn nothing_is_left(&mut self, now: Now, uuid: Uuid, host: &str, copies: &[Copy]) {
        if self.made.get(&uuid).is_some_and(|h| h.made.stage == MadeStage::Making && !h.asked) {
            self.may_be_left(now, uuid);
        }
        let is_for = |copy: &Copy| copies.iter().any(|c| c.path == copy.path);
        let over = |left: &Made| left.host == host && left.copies.iter().all(is_for);
        if self.perhaps_left.get(&uuid).is_some_and(over) {
            self.perhaps_left.remove(&uuid);
            self.settled(Kind::Disks, Some(uuid));
        }
    }

    fn keep_disks(&mut self) {
        let all = self.made.values().map(|h| h.made.clone()).collect();
        self.out.push(Action::KeepDisks(all));
    }
}
