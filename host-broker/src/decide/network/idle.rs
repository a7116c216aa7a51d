//! Whether a stretched network is needed any more: each end finds out by itself, from where the VM is.

use super::super::Broker;
use super::super::alarms::Kind;
use super::{Held, RENEW, STEP_AGAIN, STEP_SLACK};
use crate::action::Level;
use crate::event::Now;
use crate::hypervisor::DomainState;
use crate::network::{Stage, StepError, Verb};
use std::time::Duration;
use uuid::Uuid;

/// A network is not needed any more when that has been so for so long: the VM is at home (unless configured) ...
const AT_HOME: Duration = Duration::from_secs(60);
/// ... or, while a host of another site is silent that may still run it, longer than any move takes; ...
const AT_HOME_BY_ALL_SIGNS: Duration = Duration::from_secs(3600);
/// ... or on no host at all, for longer than anybody would leave it shut off to start it again there ...
const NOWHERE: Duration = Duration::from_secs(600);
/// ... or no move will make use of it.
const NOT_BEGUN: Duration = Duration::from_secs(5);

/// Where a VM is, as far as this broker can see.
pub(super) enum Whereabouts {
    Here,
    /// On its way to here, from where it runs still.
    Coming,
    /// At hosts of its home site and nowhere else: while it is on its way home, it is in both places.
    AtHome {
        /// A host of another site does not answer.
        but_one_is_silent: bool,
    },
    Away,
    Nowhere,
    Unknown,
}

impl Broker {
    pub(super) fn is_here(&self, uuid: Uuid) -> Option<Whereabouts> {
        match self.guests.get(&uuid)?.domain.state {
            DomainState::ShutOff => None,
            DomainState::Incoming | DomainState::RunningPostCopy => Some(Whereabouts::Coming),
            DomainState::Running { .. } | DomainState::Paused { .. } | DomainState::Other => {
                Some(Whereabouts::Here)
            }
        }
    }

    fn whereabouts(&self, now: Duration, uuid: Uuid, home: &Option<String>) -> Whereabouts {
        if let Some(here) = self.is_here(uuid) {
            return here;
        }
        let sees_itself = self.listed && self.connected;
        let (mut at_home, mut all_answer) = (false, sees_itself);
        let mut but_one_is_silent = !sees_itself && self.config.me.site != *home;
        for peer in &self.config.peers {
            let history = self.hosts.get(&peer.name).filter(|h| h.is_fresh(now));
            match history.and_then(|h| h.latest()) {
                Some(sample) if sample.domains.iter().any(|d| d.uuid == uuid) => {
                    if peer.site != *home {
                        return Whereabouts::Away;
                    }
                    at_home = true;
                }
                Some(_) => {}
                None => {
                    all_answer = false;
                    but_one_is_silent |= peer.site != *home;
                }
            }
        }
        match (at_home, all_answer) {
            (true, _) => Whereabouts::AtHome { but_one_is_silent },
            (false, true) => Whereabouts::Nowhere,
            (false, false) => Whereabouts::Unknown,
        }
    }

    /// After how long without a need it is taken down, and how; None: it is needed.
    fn is_idle(&self, now: Now, uuid: Uuid, held: &Held) -> Option<(Duration, Verb)> {
        let stretch = &held.stretch;
        let at_home = self.config.network.as_ref().map_or(AT_HOME, |n| n.release_after);
        let verb = if stretch.stage == Stage::Up { Verb::Release } else { Verb::Undo };
        let home_site = if stretch.home { &stretch.input.here.site } else { &stretch.input.there.site };
        let guest = self.guests.get(&uuid);
        // Its own move, or what became of that after a restart, under another id.
        let under_way = guest.is_some_and(|g| g.undecided || g.mv.is_under_way());
        match self.whereabouts(now.mono, uuid, home_site) {
            Whereabouts::Here if !stretch.home || under_way => None,
            Whereabouts::Here if stretch.stage == Stage::Making => Some((NOT_BEGUN, verb)),
            Whereabouts::Here => Some((at_home, verb)),
            // It has not come yet: the other end says so if it does not.
            Whereabouts::AtHome { .. } if !stretch.home && stretch.stage == Stage::Up && !held.was_here => {
                Some((NOWHERE, verb))
            }
            Whereabouts::AtHome { but_one_is_silent: true } => Some((AT_HOME_BY_ALL_SIGNS, verb)),
            Whereabouts::AtHome { but_one_is_silent: false } => Some((at_home, verb)),
            Whereabouts::Coming | Whereabouts::Away | Whereabouts::Unknown => None,
            Whereabouts::Nowhere => Some((NOWHERE, verb)),
        }
    }

    pub(in crate::decide) fn network_tick(&mut self, now: Now) {
        let limit = self.step_limit() + STEP_SLACK;
        let uuids: Vec<Uuid> = self.stretches.keys().copied().collect();
        for uuid in uuids {
            let is_here = self.is_here(uuid).is_some();
            let Some(held) = self.stretches.get_mut(&uuid) else { continue };
            held.was_here |= is_here;
            if let Some((verb, _)) = held.running.filter(|(_, since)| *since + limit <= now.mono) {
                let text = "what became of it was lost".to_owned();
                self.step_done(now, uuid, verb, Err(StepError { later: true, text }));
            }
            let Some(held) = self.stretches.get(&uuid).filter(|h| h.running.is_none()) else { continue };
            if let Stage::Ending(verb) = held.stretch.stage {
                if held.again_at <= now.mono {
                    self.run_step(now, uuid, verb);
                }
                continue;
            }
            let idle = self.is_idle(now, uuid, held);
            let Some(held) = self.stretches.get_mut(&uuid) else { continue };
            let Some((limit, verb)) = idle else {
                held.idle_since = None;
                self.renew(now, uuid);
                continue;
            };
            let held_home = held.stretch.home;
            if *held.idle_since.get_or_insert(now.mono) + limit <= now.mono {
                let text = format!("the network stretched for it is taken down ({})", verb.name());
                self.log(Level::Info, Some(uuid), text);
                if verb == Verb::Undo && held_home {
                    // The other end would wait longer.
                    self.ask(uuid, Verb::Undo);
                }
                self.end_stretch(now, uuid, verb);
            }
        }
    }

    /// Made again, now and then: a reboot, or a bridge that was built anew, has taken it along.
    fn renew(&mut self, now: Now, uuid: Uuid) {
        let Some(held) = self.stretches.get(&uuid) else { return };
        if held.stretch.stage != Stage::Up || held.again_at > now.mono || self.config.network.is_none() {
            return;
        }
        // Nor before it is known what the other hosts of this site have stretched meanwhile.
        if self.has_looked_at_few(now) {
            return;
        }
        let verb = if held.stretch.home { Verb::Prepare } else { Verb::Receive };
        if let Some(text) = self.stretched_beside(&held.stretch.input.interfaces) {
            return self.renewed(now, uuid, verb, Err(StepError { later: true, text }));
        }
        self.run_step(now, uuid, verb);
    }

    pub(super) fn renewed(&mut self, now: Now, uuid: Uuid, verb: Verb, result: Result<(), StepError>) {
        let Some(held) = self.stretches.get_mut(&uuid) else { return };
        match result {
            Ok(()) => {
                held.again_at = now.mono + RENEW;
                self.settled(Kind::Network, Some(uuid));
            }
            Err(e) => {
                held.again_at = now.mono + STEP_AGAIN;
                let text = format!(
                    "{}: the network that is stretched for this VM may be broken: {} {}: {}; tried again every {} s",
                    held.stretch.input.migration,
                    held.stretch.command.join(" "),
                    verb.name(),
                    e.text,
                    STEP_AGAIN.as_secs()
                );
                self.raise(now, Kind::Network, Some(uuid), text);
            }
        }
    }
}
