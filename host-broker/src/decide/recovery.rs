//! What a broker makes of a move that it did not begin itself, and of a paused copy that a broken one left here.
//!
//! ```text
//!   ticket of mine, job runs            adopted: held to its time limit, can be cancelled, counts as a move
//!   ticket of mine, runs, no job        it did not leave: the guest hears so (moves.rs)
//!   ticket of mine, paused, no job      every other host is asked whether it has the VM
//!                                         all say no            it is let run: it did not leave
//!                                         one has it or is silent   it stays paused; an alarm, asked again
//!   it runs here, and the destination was    the destination is asked
//!   lost after the switch-over                 it does not run there     it did not leave
//!                                              it runs there, too        suspended here at once; an alarm
//!                                              silent                    asked again, for a minute
//! ```
//! When the destination's answer to libvirt's Finish is lost, libvirt lets the VM run on at the source, although it may
//! run at the destination ("the lock manager plugins should take care of safety", says qemu_migration.c). The copy at
//! the destination counts: its Finish succeeded, and its guest was told so.
//!
//! A copy is resumed only when *every* configured host has answered and none has the VM, not only the destination:
//! it may have arrived there and have been moved on.

use super::Broker;
use super::alarms::Kind;
use super::guest::{Move, Plan};
use crate::action::{Action, Level};
use crate::event::{Elsewhere, Now};
use crate::hypervisor::{DomainState, HvError, JobFigures};
use crate::records::{MoveRecord, MoveState};
use crate::ticket::Ticket;
use coms_protocol::guest_to_host::Wishes;
use coms_protocol::types::{EncryptionLevel, NoticeReason};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use uuid::Uuid;

/// The hosts are asked again this often.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A copy that may run at the destination, too, is asked after more often, and for so long while nobody answers there:
/// then the destination is believed dead, as libvirt believed it.
const ASK_SOON: Duration = Duration::from_secs(1);
const ASK_FOR: Duration = Duration::from_secs(60);
/// libvirt's own recovery of a broken migration comes first.
const LIBVIRT_MAY_MEND: Duration = Duration::from_secs(3);

impl Broker {
    /// What a ticket of this host tells of the move that it was written for.
    pub(super) fn plan_of(&self, now: Now, ticket: &Ticket) -> Plan {
        Plan {
            migration: ticket.migration,
            requests: ticket.request.into_iter().collect(),
            initiator: ticket.initiator,
            reason: NoticeReason::Unstated,
            expedited: false,
            wishes: Wishes::default(),
            encryption: EncryptionLevel::Never,
            technique: ticket.technique,
            only: None,
            wants_relief: false,
            received: now.mono,
            choosing_since: now.mono,
            accepted: true,
            destination: self.host_by_uuid(ticket.destination).map(|h| h.name.clone()),
            considered: Vec::new(),
            ranked: VecDeque::new(),
            claim: None,
            figures: JobFigures::default(),
            cancelled_by: None,
            link_lost: None,
            disks: BTreeMap::new(),
            kept: None,
        }
    }

    /// A former broker began this move, and it is not over.
    pub(super) fn adopt(&mut self, now: Now, uuid: Uuid, ticket: &Ticket) {
        let plan = self.plan_of(now, ticket);
        let migration = plan.migration;
        let ran = Duration::from_millis(now.unix_ms.saturating_sub(ticket.written_unix_ms));
        let left = self.config.limits.max_total.saturating_sub(ran);
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let record = MoveRecord {
            request: ticket.request,
            from: Some(self.config.me.name.clone()),
            to: plan.destination.clone(),
            state: MoveState::Unclear,
            detail: Some("begun by a broker that was restarted since".into()),
            ..MoveRecord::begun(migration, &guest.domain, ticket.initiator, ticket.written_unix_ms)
        };
        guest.mv = Move::Unclear {
            plan,
            rounds: 0,
            time_limit_hit: false,
            error: None,
            looked: now.mono,
            since: now.mono,
            abort_at: now.mono + left,
            asked: None,
            may_run_there: true,
            suspended: false,
        };
        if self.record_mut(migration).is_none() {
            self.add_record(record);
        }
        self.log(Level::Info, Some(uuid), format!("{migration}: begun by a former broker, taken up"));
    }

    /// The domain is paused here after a migration and no job runs: who has it?
    pub(super) fn look_elsewhere(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Move::Unclear { since, asked, .. } = &mut guest.mv else { return };
        if *since + LIBVIRT_MAY_MEND > now.mono || asked.is_some_and(|at| at + ASK_AGAIN > now.mono) {
            return;
        }
        *asked = Some(now.mono);
        let hosts = self.config.peers.iter().map(|p| (p.name.clone(), p.libvirt.clone())).collect();
        self.out.push(Action::FindElsewhere { uuid, hosts });
    }

    /// It runs here after a failed call. May it run at the destination, too? Then nothing is concluded yet.
    pub(super) fn may_run_twice(&mut self, now: Now, uuid: Uuid) -> bool {
        let Some(guest) = self.guests.get_mut(&uuid) else { return false };
        let Move::Unclear { plan, error, since, asked, may_run_there, .. } = &mut guest.mv else {
            return false;
        };
        let destination_lost = match error {
            None => true,
            Some(HvError::Unreachable { uri, .. }) => *uri != self.config.me.libvirt,
            Some(_) => false,
        };
        if !*may_run_there || !destination_lost || *since + ASK_FOR <= now.mono {
            return false;
        }
        let there = self.config.peers.iter().find(|p| Some(&p.name) == plan.destination.as_ref());
        let Some(there) = there else { return false };
        if asked.is_none_or(|at| at + ASK_SOON <= now.mono) {
            *asked = Some(now.mono);
            let hosts = vec![(there.name.clone(), there.libvirt.clone())];
            self.out.push(Action::FindElsewhere { uuid, hosts });
        }
        true
    }

    fn answered_whether_it_runs_there(&mut self, now: Now, uuid: Uuid, answers: &[(String, Elsewhere)]) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Move::Unclear { plan, may_run_there, suspended, .. } = &mut guest.mv else { return };
        let Some(destination) = plan.destination.clone() else { return };
        let (migration, answer) = (plan.migration, answers.iter().find(|(host, _)| *host == destination));
        match answer {
            Some((_, Elsewhere::No)) => {
                *may_run_there = false;
                self.out.push(Action::Look { uuid });
            }
            Some((_, Elsewhere::Runs)) => {
                *suspended = true;
                self.out.push(Action::Suspend { uuid });
                let text = format!(
                    "{migration}: {destination} runs the VM, and libvirt let it run on here, too: suspended here; \
                     remove this copy with virsh destroy, and its definition with virsh undefine"
                );
                self.raise(now, Kind::LeftPaused, Some(uuid), text);
            }
            // Not yet gone there, or silent: asked again.
            Some((_, Elsewhere::Coming | Elsewhere::Yes | Elsewhere::NoAnswer(_))) | None => {}
        }
    }

    pub(super) fn elsewhere(&mut self, now: Now, uuid: Uuid, answers: &[(String, Elsewhere)]) {
        self.disks_elsewhere(now, uuid, answers);
        if self.guests.get(&uuid).is_some_and(|g| g.domain.state.runs()) {
            return self.answered_whether_it_runs_there(now, uuid, answers);
        }
        if !self.is_left_paused(uuid) {
            return;
        }
        let Some(plan) = self.guests.get(&uuid).and_then(|g| g.mv.plan()) else { return };
        let (migration, destination) = (plan.migration, plan.destination.clone());
        let has: Vec<&str> = answers
            .iter()
            .filter(|(_, a)| matches!(a, Elsewhere::Coming | Elsewhere::Yes | Elsewhere::Runs))
            .map(|(h, _)| h.as_str())
            .collect();
        let silent: Vec<&str> = (self.config.peers.iter().map(|p| p.name.as_str()))
            .filter(|name| !answers.iter().any(|(h, a)| h == name && !matches!(a, Elsewhere::NoAnswer(_))))
            .collect();
        let known = destination.is_some();
        let what = format!("{migration}: a paused copy was left here by a broken move");
        let text = if !has.is_empty() {
            format!(
                "{what}; {} has the VM: once it runs there, remove this copy with virsh destroy, and its definition \
                 with virsh undefine",
                has.join(", ")
            )
        } else if !silent.is_empty() {
            format!(
                "{what}; it is not resumed before {} has answered that the VM is not there; asked again every {} s",
                silent.join(", "),
                ASK_AGAIN.as_secs()
            )
        } else if !known {
            format!("{what}; its destination is no host of the configuration: add it, or decide by hand")
        } else {
            self.log(Level::Warn, Some(uuid), format!("{what}; no other host has the VM: it is resumed"));
            self.out.push(Action::Resume { uuid });
            return;
        };
        self.raise(now, Kind::LeftPaused, Some(uuid), text);
    }

    pub(super) fn resumed(&mut self, uuid: Uuid, result: Result<(), HvError>) {
        if let Err(e) = result {
            self.log(Level::Warn, Some(uuid), format!("the copy here is left as it is: {e}"));
        }
        self.out.push(Action::Look { uuid });
    }

    fn is_left_paused(&self, uuid: Uuid) -> bool {
        self.guests.get(&uuid).is_some_and(|g| {
            let Move::Unclear { suspended, .. } = &g.mv else { return false };
            let by_us = *suspended && matches!(g.domain.state, DomainState::Paused { .. });
            (by_us || g.domain.state == (DomainState::Paused { migration: true })) && !g.domain.job_active
        })
    }
}
