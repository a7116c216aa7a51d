//! Images that a move needs at its destination: made before the ticket is written, removed again if the move fails.
//!
//! ```text
//!   way fit, network there ──> Making ──made──> Made ──> ticket, move ──left──> the VM's own (source's copy: policy) ──> forgotten
//!                                │ refused        │ the move fails
//!                                v                v
//!                  denied, nothing is there    Removing ──gone──> forgotten      (again and again, and an alarm)
//! ```
//! A VM that is not here any more has left where libvirt says so. Where it does not (the call failed, this broker is a
//! next one) the destination is asked: it has the VM, and they are its own; or it has not, and they are removed if libvirt
//! said that the VM ended here, before its switch-over. If nobody saw its end, they may be all that is left of it, and are
//! the operator's.
//!
//! Kept on disk (`disks.json`), so that a broker that is killed leaves nothing behind unseen. What it was still having made
//! when it was killed, the next one does not remove: it cannot know which of those files are its own. It says where they
//! may be, until a move finds nothing there: what is there then is the VM's. At both ends nothing is removed that a domain
//! uses, and at a destination nothing of a VM that is known there, running or not (`io/libvirt/storage.rs`): that is handed
//! to the operator, and not tried again.

use super::Broker;
use super::admission::Denial;
use super::alarms::Kind;
use super::guest::{Move, Way};
use super::moves::End;
use crate::action::{Action, Level};
use crate::event::{Elsewhere, Now};
use crate::hypervisor::{DomainState, HvError};
use crate::records::MoveState;
use crate::storage::{Copy, Made, MadeStage, MakeError, Removal};
use coms_protocol::types::{DenyReason, MigrationId};
use std::time::Duration;
use uuid::Uuid;

/// Removing that failed is tried again: soon at first, for the destination may still be letting go of the VM, then with an alarm.
const REMOVE_SOON: Duration = Duration::from_secs(5);
const REMOVE_AGAIN: Duration = Duration::from_secs(60);
const TRIES_BEFORE_ALARM: u32 = 3;
const UNKNOWN_HOST: &str = "the configuration does not know that host any more, or at another address";

/// Images made at a destination, with what need not survive a restart.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) made: Made,
    /// This broker has asked for what its stage says, and hears of it.
    asked: bool,
    again_at: Duration,
    /// How often removing has failed, or asking.
    failures: u32,
    /// libvirt said that the VM ended here, before it was stopped for switch-over.
    ended: bool,
}

impl Held {
    /// Of a former broker.
    pub(super) fn found(made: Made) -> Self {
        Self { made, asked: false, again_at: Duration::ZERO, failures: 0, ended: false }
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
        let (stage, kept) = (MadeStage::Making, copies.clone());
        let made = Made { vm: uuid, domain, migration, host, uri: uri.clone(), stage, copies: kept };
        self.made.insert(uuid, Held { asked: true, ..Held::found(made) });
        // On disk before it begins, or it does not (`io/execute.rs`).
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
            Ok(()) => (held.made.stage, held.asked) = (MadeStage::Made, false),
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
        let Made { migration, host, uri, copies, .. } = held.made.clone();
        held.asked = self.config.host(&host).is_some_and(|h| h.libvirt == uri);
        if held.asked {
            return self.out.push(Action::RemoveDisks { uuid, migration, uri, copies });
        }
        self.hand_over(now, uuid, UNKNOWN_HOST);
    }

    pub(super) fn disks_removed(
        &mut self,
        now: Now,
        uuid: Uuid,
        migration: MigrationId,
        result: Result<Removal, HvError>,
    ) {
        let is_it = |h: &&mut Held| h.made.migration == migration && h.made.stage == MadeStage::Removing;
        let Some(held) = self.made.get_mut(&uuid).filter(is_it) else { return };
        held.asked = false;
        held.failures += u32::from(result.is_err());
        let often = held.failures >= TRIES_BEFORE_ALARM;
        held.again_at = now.mono + if often { REMOVE_AGAIN } else { REMOVE_SOON };
        let (host, paths) = (held.made.host.clone(), held.made.paths());
        match result {
            // Asked again, it might be removed right when whoever has them is shut off.
            Ok(Removal::InUse(who)) => self.hand_over(now, uuid, &who),
            Ok(Removal::Gone) => {
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
        let left = |h: &&mut Held| matches!(h.made.stage, MadeStage::Made | MadeStage::Left);
        let Some(held) = self.made.get_mut(&uuid).filter(left) else { return };
        let Made { migration, host, uri, copies, .. } = held.made.clone();
        let paths = held.made.paths();
        let known = self.config.host(&host).is_some_and(|h| h.libvirt == uri);
        match Some(uri).filter(|_| known && self.config.storage.remove_source) {
            Some(uri) => {
                held.made.stage = MadeStage::Left;
                held.asked = true;
                self.out.push(Action::RemoveSource { uuid, migration, uri, copies });
            }
            None => {
                self.made.remove(&uuid);
                self.settled(Kind::Disks, Some(uuid));
                let text = format!("{migration}: its disks were copied to {host}; here they stay: {paths}");
                self.log(Level::Info, Some(uuid), text);
            }
        }
        self.keep_disks();
    }

    pub(super) fn disks_of_ended(&mut self, uuid: Uuid) {
        let switched_over = self.guests.get(&uuid).is_none_or(|g| match &g.mv {
            Move::Running { switching_over, .. } => *switching_over,
            Move::Unclear { may_run_there, .. } => *may_run_there,
            Move::None
            | Move::Announced { .. }
            | Move::Choosing(_)
            | Move::Connecting { .. }
            | Move::WritingTicket { .. } => true,
        });
        if let Some(held) = self.made.get_mut(&uuid) {
            held.ended |= !switched_over;
        }
    }

    /// The VM does not run here, and no move of it is known.
    fn is_without_vm(&self, uuid: Uuid) -> bool {
        self.guests
            .get(&uuid)
            .is_none_or(|g| g.domain.state == DomainState::ShutOff && g.mv.is_none() && !g.undecided)
    }

    /// The VM is not here any more, and nobody said that it left: does its destination have it?
    pub(super) fn ask_for_disks(&mut self, now: Now, uuid: Uuid) {
        let Some(held) = self.made.get_mut(&uuid).filter(|h| h.made.stage == MadeStage::Made) else { return };
        let Made { host, uri, .. } = held.made.clone();
        held.asked = self.config.host(&host).is_some_and(|h| h.libvirt == uri);
        if held.asked {
            return self.out.push(Action::FindElsewhere { uuid, hosts: vec![(host, uri)] });
        }
        self.hand_over(now, uuid, UNKNOWN_HOST);
    }

    pub(super) fn disks_elsewhere(&mut self, now: Now, uuid: Uuid, answers: &[(String, Elsewhere)]) {
        let asked = |h: &&mut Held| h.made.stage == MadeStage::Made && h.asked;
        let is_gone = self.is_without_vm(uuid);
        let Some(held) = self.made.get_mut(&uuid).filter(asked) else { return };
        let Some((_, answer)) = answers.iter().find(|(host, _)| *host == held.made.host) else { return };
        held.asked = false;
        if !is_gone {
            return;
        }
        let Made { migration, host, .. } = held.made.clone();
        match answer {
            Elsewhere::Runs => self.disks_left(uuid),
            Elsewhere::Yes if !held.ended => self.disks_left(uuid),
            // What there is of it came from somewhere else, or nothing did.
            Elsewhere::Yes | Elsewhere::No if held.ended => {
                held.made.stage = MadeStage::Removing;
                self.keep_disks();
                self.remove_disks(now, uuid);
            }
            // It may have run there, and have been shut off or moved on.
            Elsewhere::Yes | Elsewhere::No => {
                self.hand_over(now, uuid, "the VM is neither here nor there, and nobody saw whether it left");
            }
            Elsewhere::Coming | Elsewhere::NoAnswer(_) => {
                held.failures += 1;
                let often = held.failures >= TRIES_BEFORE_ALARM;
                held.again_at = now.mono + if often { REMOVE_AGAIN } else { REMOVE_SOON };
                if often {
                    let why = match answer {
                        Elsewhere::NoAnswer(why) => why.as_str(),
                        Elsewhere::Coming | Elsewhere::Yes | Elsewhere::No | Elsewhere::Runs => {
                            "it is being received"
                        }
                    };
                    let text = format!(
                        "{migration}: the VM is not here any more, and whether it is on {host} is not known: {why}; \
                         what was made for it there may be half a copy: {}; asked again every {} s",
                        held.made.paths(),
                        REMOVE_AGAIN.as_secs()
                    );
                    self.raise(now, Kind::Disks, Some(uuid), text);
                }
            }
        }
    }

    /// Once only: what is not removed then stays, and is said.
    pub(super) fn source_removed(&mut self, uuid: Uuid, migration: MigrationId, result: Result<(), HvError>) {
        let is_it = |h: &&Held| h.made.migration == migration && h.made.stage == MadeStage::Left;
        let Some(held) = self.made.get(&uuid).filter(is_it) else { return };
        let paths = held.made.paths();
        self.made.remove(&uuid);
        self.keep_disks();
        self.settled(Kind::Disks, Some(uuid));
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
        if let Some(why) = self.made_unread.take() {
            self.raise(now, Kind::Disks, None, why);
        }
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
                MadeStage::Made if self.is_without_vm(uuid) => {
                    if due {
                        self.ask_for_disks(now, uuid);
                    }
                }
                MadeStage::Made => {
                    // No move is known that they could be for.
                    if let Some(g) = self.guests.get(&uuid) {
                        let stays = g.domain.state.runs() && !g.domain.job_active && g.foreign.is_none();
                        if g.mv.is_none() && !g.undecided && stays {
                            self.discard_disks(now, uuid, migration);
                        }
                    }
                }
                MadeStage::Removing if due => self.remove_disks(now, uuid),
                // Its broker was killed right then.
                MadeStage::Left if !asked => self.disks_left(uuid),
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

    /// What becomes of them is the operator's to say.
    fn hand_over(&mut self, now: Now, uuid: Uuid, why: &str) {
        let Some(held) = self.made.remove(&uuid) else { return };
        let Made { migration, domain, host, .. } = &held.made;
        let text = format!(
            "{migration} of {domain}: what was made for it on {host} is not removed: {why}: {}; find out which copy of \
             each disk is the good one, and remove the other by hand",
            held.made.paths()
        );
        self.raise(now, Kind::Disks, Some(uuid), text);
        self.keep_disks();
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
