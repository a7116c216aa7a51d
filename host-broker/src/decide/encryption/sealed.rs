//! The guest's standing wish and the seal that carries it (`seal.rs`): kept in the domain's metadata between moves,
//! driven by the clock, as schedules are.
//!
//! A wish holds from when it is heard, and is answered when it is in the metadata. One that is taken back holds until it
//! is out of there.

use super::super::guest::Guest;
use super::super::{Broker, CLEAR_AGAIN};
use crate::action::{Action, Level};
use crate::event::Now;
use crate::hypervisor::{DomainState, HvError};
use crate::seal::{Seal, Waybill, is_required};
use coms_protocol::guest_to_host::Protect;
use coms_protocol::host_to_guest::Protected;
use coms_protocol::types::EncryptionLevel;
use std::time::Duration;
use uuid::Uuid;

/// While somebody else moves the domain, libvirt takes 30 s to refuse a change: no second one meanwhile.
const WRITE_LIMIT: Duration = Duration::from_secs(40);
/// A guest that changes its mind all the time costs libvirt a call this often.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// A waybill is looked at right after the call; before that, libvirt may wait half a minute for a domain's lock.
const WAYBILL_LASTS: Duration = Duration::from_secs(60);

/// What the broker holds of one guest's seal.
#[derive(Debug, Default)]
pub struct Sealing {
    /// The metadata was looked at.
    loaded: bool,
    wish: EncryptionLevel,
    /// What is in the metadata, as far as is known.
    there: Option<Seal>,
    /// The number under which the guest is told once its wish is there.
    owed: Option<u64>,
    /// What is being written, and when that counts as lost.
    writing: Option<(Option<Seal>, Duration)>,
    write_at: Duration,
    /// What the guest was told last; it assumes nothing.
    told: Option<Protected>,
}

impl Sealing {
    fn kept(&self) -> EncryptionLevel {
        self.there.as_ref().map_or(EncryptionLevel::Never, |s| s.wish)
    }

    /// What the guest wishes, or wished until that is out of the metadata.
    pub fn strongest(&self) -> EncryptionLevel {
        self.wish.or(self.kept())
    }

    pub fn is_being_written(&self) -> bool {
        self.writing.is_some()
    }
}

impl Broker {
    /// Called with every fresh look.
    pub(in crate::decide) fn read_seal(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if guest.domain.state == DomainState::ShutOff {
            guest.seal = Sealing::default();
            return;
        }
        let (found, unreadable) = match guest.domain.seal_xml.as_deref().map(Seal::from_xml) {
            None => (None, None),
            Some(Ok(seal)) => (Some(seal), None),
            // What it said is lost, and the strongest is safe: the guest says anew what it wishes. It is none that would
            // be written, so it is written anew.
            Some(Err(e)) => (
                Some(Seal {
                    level: EncryptionLevel::Unknown(u16::MAX),
                    wish: EncryptionLevel::Required,
                    at: Vec::new(),
                    waybill: None,
                }),
                Some(e),
            ),
        };
        if !std::mem::replace(&mut guest.seal.loaded, true) {
            guest.seal.wish = guest.seal.wish.or(found.as_ref().map_or(EncryptionLevel::Never, |s| s.wish));
            guest.seal.there = found;
            if let Some(e) = unreadable {
                let text = format!("its moves must be encrypted from now on: {e}");
                self.log(Level::Warn, Some(uuid), text);
            }
        } else if self.seal_rests(uuid)
            && let Some(guest) = self.guests.get_mut(&uuid)
            && guest.seal.there != found
        {
            // Somebody else's doing, a boot that was not seen, or a change that libvirt made after it was given up. Written
            // anew, and nobody's wish; a look that is older than the last change costs one more.
            guest.seal.there = found;
            self.log(Level::Info, Some(uuid), "its seal is not the one that was written".to_owned());
        }
        self.seal_tick(now, uuid);
    }

    /// Nothing of it is due or being written, and no move is under way that has a waybill.
    fn seal_rests(&self, uuid: Uuid) -> bool {
        let rests = |g: &Guest| {
            let written = g.seal.writing.is_none() && g.seal.there == self.wanted_seal(uuid);
            written && g.mv.is_none() && g.came.is_none()
        };
        self.guests.get(&uuid).is_some_and(rests)
    }

    /// The guest says how well its moves are to be encrypted.
    pub(in crate::decide) fn protect(&mut self, now: Now, uuid: Uuid, said: Protect) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let may = self.takes_part(&guest.domain);
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let wish = EncryptionLevel::Never.or(said.level);
        // Who takes no part asks for nothing, and may take back what it asked for when it did.
        if may || guest.seal.wish.or(wish) == guest.seal.wish {
            guest.seal.wish = wish;
        }
        guest.seal.owed = Some(said.number);
        // So that it knows at once that it was understood, whatever stands in the way of writing it.
        guest.seal.told = None;
        self.seal_tick(now, uuid);
    }

    /// This wish and the operator's rules, for whoever looks at the VM where it arrives.
    fn seal_of(&self, uuid: Uuid, wish: EncryptionLevel) -> Seal {
        let level = self.demanded(uuid, None, wish).level;
        let required = |to: &str| is_required(self.demanded(uuid, Some(to), wish).level);
        let peers = self.config.peers.iter().map(|p| &p.name);
        let at = peers.filter(|to| !is_required(level) && required(to)).cloned().collect();
        Seal { level, wish, at, waybill: None }
    }

    /// What should be in the metadata.
    fn wanted_seal(&self, uuid: Uuid) -> Option<Seal> {
        let seal = self.seal_of(uuid, self.guests.get(&uuid)?.seal.wish);
        (seal.level != EncryptionLevel::Never || !seal.at.is_empty()).then_some(seal)
    }

    /// The seal for an encrypted move to this host, where the VM may not arrive without one. From then on it counts as
    /// being there, so that it is taken back when the move came to nothing.
    pub(in crate::decide) fn seal_for_move(&mut self, now: Now, uuid: Uuid, to: &str) -> Option<String> {
        let guest = self.guests.get(&uuid)?;
        let mut seal = self.seal_of(uuid, guest.seal.strongest());
        if !seal.requires(to) {
            return None;
        }
        let key = self.config.alias_key_file.is_some().then(|| self.aliases.waybill_key());
        let lasts = WAYBILL_LASTS.min(self.config.limits.max_total).as_millis() as u64;
        seal.waybill = Some(Waybill::issue(key.as_ref(), uuid, to, now.unix_ms, lasts));
        let xml = seal.to_xml();
        self.guests.get_mut(&uuid)?.seal.there = Some(seal);
        Some(xml)
    }

    /// Restores what must hold: the seal is what is wanted, and the guest knows.
    pub(in crate::decide) fn seal_tick(&mut self, now: Now, uuid: Uuid) {
        let wanted = self.wanted_seal(uuid);
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let here = matches!(guest.domain.state, DomainState::Running { .. } | DomainState::Paused { .. });
        guest.seal.writing.take_if(|(_, until)| *until <= now.mono);
        let s = &mut guest.seal;
        if s.loaded && s.there == wanted && s.writing.is_none() {
            let number = s.owed.take();
            return self.tell_protected(uuid, number);
        }
        let busy = !guest.mv.is_none() || guest.undecided || guest.came.is_some() || guest.foreign.is_some();
        if !here || !s.loaded || busy || s.writing.is_some() || s.write_at > now.mono {
            return self.tell_protected(uuid, None);
        }
        s.write_at = now.mono + WRITE_EVERY;
        // There is no event when a job ends: after an arrival the last look still shows it.
        if guest.domain.job_active {
            self.out.push(Action::Look { uuid });
            return self.tell_protected(uuid, None);
        }
        s.writing = Some((wanted.clone(), now.mono + WRITE_LIMIT));
        let xml = wanted.as_ref().map(Seal::to_xml);
        self.out.push(Action::WriteSeal { uuid, xml });
        self.tell_protected(uuid, None);
    }

    pub(in crate::decide) fn seal_written(&mut self, now: Now, uuid: Uuid, result: Result<(), HvError>) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Some((written, _)) = guest.seal.writing.take() else { return };
        match result {
            Ok(()) => {
                let text = match &written {
                    Some(Seal { level, at, .. }) if at.is_empty() => {
                        format!("its moves are to be encrypted: {level}")
                    }
                    Some(Seal { level, at, .. }) => {
                        format!("its moves are to be encrypted: {level}; to {}: required", at.join(", "))
                    }
                    None => "its moves need not be encrypted any more".to_owned(),
                };
                let says = |s: &Option<Seal>| s.as_ref().map(|s| (s.level, s.at.clone()));
                let news = says(&written) != says(&guest.seal.there);
                guest.seal.there = written;
                if news {
                    self.log(Level::Info, Some(uuid), text);
                }
                self.seal_tick(now, uuid);
            }
            // It has left, or is gone.
            Err(HvError::NoDomain { .. }) => {}
            Err(e) => {
                guest.seal.write_at = now.mono + CLEAR_AGAIN;
                self.log(Level::Warn, Some(uuid), format!("its seal is not written: {e}"));
            }
        }
    }

    /// Another agent: it knows nothing yet.
    pub(in crate::decide) fn seal_new_peer(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        guest.seal.owed = None;
        let (level, wish) = (EncryptionLevel::Never, EncryptionLevel::Never);
        guest.seal.told = Some(Protected { number: None, level, by: None, wish });
        self.seal_tick(now, uuid);
    }

    /// As an answer; or unasked, when it is not what the guest knows.
    fn tell_protected(&mut self, uuid: Uuid, number: Option<u64>) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        if guest.agent.is_none() {
            return;
        }
        let wish = guest.seal.kept();
        let found = self.demanded(uuid, None, wish);
        let said = Protected { number: None, level: found.level, by: found.by, wish };
        if number.is_none() && guest.seal.told == Some(said) {
            return;
        }
        if let Some(guest) = self.guests.get_mut(&uuid) {
            guest.seal.told = Some(said);
        }
        self.tell(uuid, Protected { number, ..said });
    }
}
