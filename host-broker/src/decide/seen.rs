//! What libvirt shows of this host's domains, and what must hold of each that was looked at.

use super::admission::Denial;
use super::guest::{Came, Guest, Move};
use super::{Broker, RELIST_SOON};
use crate::action::{Action, Level};
use crate::announced::Stays;
use crate::event::Now;
use crate::hypervisor::{Domain, DomainState, HvError};
use coms_protocol::types::DenyReason;
use uuid::Uuid;

impl Broker {
    pub(super) fn all_seen(&mut self, now: Now, domains: Vec<Domain>) {
        let gone: Vec<Uuid> =
            self.guests.keys().copied().filter(|u| !domains.iter().any(|d| d.uuid == *u)).collect();
        // The list may be older than what was seen since: ask for each by itself.
        self.out.extend(gone.into_iter().map(|uuid| Action::Look { uuid }));
        for domain in domains {
            if self.first_list_due {
                let known =
                    self.stays.as_ref().is_none_or(|s| s.get(&domain.uuid) == domain.channel.as_ref());
                self.guests.entry(domain.uuid).or_insert_with(|| {
                    let mut guest = Guest::found(domain.clone());
                    if domain.state == (DomainState::Running { arrived: true }) && !known {
                        // It came while nobody listened.
                        guest.came = Some(Came { at: None, ticket: None });
                    }
                    guest
                });
            }
            self.seen(now, domain);
        }
    }

    /// Takes in what libvirt shows of one domain and restores what must hold: attached when it has a port,
    /// ticket understood or removed, a lost move's end found.
    pub(super) fn seen(&mut self, now: Now, domain: Domain) {
        let uuid = domain.uuid;
        let hello = self.hello_for(&domain);
        let channel = match domain.state {
            DomainState::ShutOff => None,
            DomainState::Running { .. }
            | DomainState::RunningPostCopy
            | DomainState::Incoming
            | DomainState::Paused { .. }
            | DomainState::Other => domain.channel.clone(),
        };
        let arrived = domain.state == DomainState::Running { arrived: true };
        let is_new = !self.guests.contains_key(&uuid);
        let took_part = self.guests.get(&uuid).map(|g| self.takes_part(&g.domain));
        let guest = self.guests.entry(uuid).or_insert_with(|| Guest::new(domain.clone()));
        let was_coming = matches!(guest.domain.state, DomainState::Incoming | DomainState::RunningPostCopy);
        if arrived && (is_new || was_coming) && guest.came.is_none() {
            guest.came = Some(Came { at: None, ticket: None });
        }
        guest.domain = domain;
        self.stays_touched |= guest.attached != channel;
        if guest.attached != channel {
            if guest.attached.is_some() {
                self.out.push(Action::Detach { uuid });
                (guest.agent, guest.attend) = (None, None);
            }
            if let Some(channel) = channel.clone() {
                self.out.push(Action::Attach { uuid, channel, hello });
            }
            guest.attached = channel;
        } else if guest.attached.is_some() && took_part != Some(hello.enabled) {
            self.leave_time_to_hold_again(now, uuid);
            self.out.push(Action::Greet { uuid, hello });
        }
        self.source_looks(now, uuid);
        self.read_ticket(now, uuid);
        self.take_up_announced(now, uuid);
        self.read_schedule(now, uuid);
        self.read_seal(now, uuid);
        self.answer_waiting(uuid);
    }

    pub(super) fn unseen(&mut self, now: Now, uuid: Uuid, error: &HvError) {
        match error {
            HvError::NoDomain { .. } => self.forget(now, uuid),
            // Known already from the connection; what matters is looked at again.
            HvError::Unreachable { .. } | HvError::Busy { .. } => {
                self.relist_at = self.relist_at.min(now.mono + RELIST_SOON);
            }
            HvError::Refused { .. }
            | HvError::RefusedThere { .. }
            | HvError::NotEncrypted { .. }
            | HvError::Aborted { .. }
            | HvError::Other { .. } => {
                self.log(Level::Warn, Some(uuid), error.to_string());
            }
        }
    }

    /// The domain is not on this host (any more).
    pub(super) fn forget(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if guest.attached.take().is_some() {
            guest.agent = None;
            self.out.push(Action::Detach { uuid });
        }
        match &guest.mv {
            // The call is about to tell whether it left or was destroyed on the way.
            Move::Running { .. } => return,
            Move::Unclear { .. } => self.left_or_ended(now, uuid),
            Move::Announced { .. }
            | Move::Choosing(_)
            | Move::Connecting { .. }
            | Move::WritingTicket { .. } => {
                let gone = Denial::new(DenyReason::CannotMove);
                self.call_off(now, uuid, gone, Some("the domain is gone".into()));
            }
            Move::None => {}
        }
        self.foreign_left(now, uuid);
        self.arrival_lost(now, uuid);
        self.settled_with(uuid);
        self.failed_at.remove(&uuid);
        self.guests.remove(&uuid);
        self.stays_touched = true;
    }

    /// A domain that came and is not told yet is not noted: it would be as if it had always been here.
    pub(super) fn keep_stays(&mut self) {
        if !self.listed {
            return;
        }
        let here = |(uuid, g): (&Uuid, &Guest)| {
            Some((*uuid, g.domain.channel.clone().filter(|_| g.came.is_none() && g.attached.is_some())?))
        };
        let stays: Stays = self.guests.iter().filter_map(here).collect();
        if self.stays.as_ref() != Some(&stays) {
            self.stays = Some(stays.clone());
            self.out.push(Action::KeepStays(stays));
        }
    }
}
