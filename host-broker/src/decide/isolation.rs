//! The migration network: looked at every second, asked before each move, and watched while memory is copied.

use super::Broker;
use super::alarms::Kind;
use super::cancel::CANCEL_AGAIN;
use super::guest::{Move, Plan};
use super::moves::End;
use crate::action::{Action, Level};
use crate::config::Host;
use crate::event::Now;
use crate::isolation::{Fault, LinkFacts, fault};
use coms_protocol::types::FailReason;
use std::net::IpAddr;
use std::time::Duration;
use uuid::Uuid;

/// What was seen counts for so long: some looks may be missed while the host is busy.
const FRESH: Duration = Duration::from_secs(5);
/// A move under way is not ended by a broker that stood still itself: so many looks in a row came to nothing.
const UNANSWERED: u32 = 4;
/// Somebody has to put it right.
pub(super) const LINK_AGAIN: Duration = Duration::from_secs(60);

impl Broker {
    /// Each second, and before each move.
    pub(super) fn look_at_link(&mut self) {
        let Some(interface) = self.config.migration_interface.clone() else { return };
        let to = self.config.peers.iter().filter_map(Host::migration_address).collect();
        self.link_asked = self.link_asked.saturating_add(1);
        self.out.push(Action::LookAtLink { interface, to });
    }

    pub(super) fn link_seen(&mut self, now: Now, result: Result<LinkFacts, String>) {
        // An answer that failed is as good as none: what was seen before grows old.
        match result {
            Ok(facts) => {
                self.migration_link = Some((now.mono, facts));
                (self.link_trouble, self.link_asked) = (None, 0);
            }
            Err(why) => self.link_trouble = Some(why),
        }
        self.watch_link(now);
    }

    /// What speaks against a move to this host by the migration network, for the operator. None also where there is no
    /// such network.
    pub(super) fn off_link(&self, now: Now, there: &Host) -> Option<String> {
        let (fault, to) = self.link_fault(now, there)?;
        Some(fault.text(self.config.migration_interface.as_deref().unwrap_or_default(), to))
    }

    fn link_fault(&self, now: Now, there: &Host) -> Option<(Fault, IpAddr)> {
        let name = self.config.migration_interface.as_ref()?;
        let to = there.migration_address().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        let seen =
            self.migration_link.as_ref().filter(|(at, facts)| *at + FRESH > now.mono && facts.name == *name);
        let found = match seen {
            Some((_, facts)) => fault(facts, to),
            None => {
                let why = self.link_trouble.clone().unwrap_or_else(|| "nobody has looked lately".to_owned());
                Some(Fault::Unknown { why })
            }
        };
        found.map(|fault| (fault, to))
    }

    /// This broker, or this interface in its configuration, is so new that no look at it has come back yet.
    fn is_link_awaited(&self, now: Now, name: &str) -> bool {
        let seen = self.migration_link.as_ref().is_some_and(|(_, facts)| facts.name == name);
        !seen && now.mono < self.link_since + FRESH
    }

    /// The moves under way, and what the operator should look at. By the clock, too: for a look that does not come.
    pub(super) fn watch_link(&mut self, now: Now) {
        let Some(name) = self.config.migration_interface.clone() else {
            return self.settled(Kind::MigrationLink, None);
        };
        if self.is_link_awaited(now, &name) {
            return;
        }
        match self.config.peers.iter().find_map(|peer| self.link_fault(now, peer)) {
            Some((fault, to)) => {
                let text = format!("no VM is moved over the migration network: {}", fault.text(&name, to));
                self.raise(now, Kind::MigrationLink, None, text);
            }
            None => self.settled(Kind::MigrationLink, None),
        }
        let uuids: Vec<Uuid> = self.guests.keys().copied().collect();
        for uuid in uuids {
            self.end_without_link(now, uuid);
        }
    }

    /// How it ends if that is why.
    pub(super) fn end_for_want_of_link(&mut self, plan: &Plan) -> Option<End> {
        let why = plan.link_lost.clone()?;
        if let Some(record) = self.record_mut(plan.migration) {
            record.detail = Some(why);
        }
        Some(End::Failed(FailReason::MigrationLinkLost))
    }

    /// A move whose link is lost is aborted: nothing of it may find another way, and nobody is to wait for TCP.
    fn end_without_link(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let plan = match &guest.mv {
            Move::Running { plan, .. } => plan,
            Move::Unclear { plan, .. } if guest.domain.job_active => plan,
            Move::None
            | Move::Announced { .. }
            | Move::Choosing(_)
            | Move::Connecting { .. }
            | Move::WritingTicket { .. }
            | Move::Unclear { .. } => return,
        };
        let there = plan.destination.as_ref().and_then(|d| self.config.host(d));
        if plan.link_lost.is_some() || plan.cancelled_by.is_some() {
            return;
        }
        // A former broker began it, and no look has told yet to whom it goes.
        let Some(there) = there else { return };
        let Some((fault, to)) = self.link_fault(now, there) else { return };
        let is_only_unseen = matches!(fault, Fault::Unknown { .. }) && self.link_asked < UNANSWERED;
        if !fault.is_loss() || is_only_unseen {
            return;
        }
        let why = fault.text(self.config.migration_interface.as_deref().unwrap_or_default(), to);
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if let Move::Running { abort_at, .. } | Move::Unclear { abort_at, .. } = &mut guest.mv {
            *abort_at = now.mono + CANCEL_AGAIN;
        }
        let Some(plan) = guest.mv.plan_mut() else { return };
        plan.link_lost = Some(why.clone());
        let text = format!("{}: the migration network is lost, aborting: {why}", plan.migration);
        self.log(Level::Warn, Some(uuid), text);
        self.abort(uuid);
    }
}
