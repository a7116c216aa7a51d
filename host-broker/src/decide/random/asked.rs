//! What a guest asks about its random moves, and what it is told of them.

use super::Broker;
use crate::action::Level;
use crate::event::Now;
use crate::schedule::{Made, Schedule, Terms};
use coms_protocol::guest_to_host::RandomStart;
use coms_protocol::host_to_guest::RandomStatus;
use coms_protocol::types::{GapLaw, Initiator, RandomState};
use uuid::Uuid;

/// Longest gap that may be asked for, in seconds.
pub(super) const MOST_S: u32 = 30 * 86_400;

/// What it wants, until that is done. The newest replaces what was asked before.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask {
    Start { number: u64, terms: Terms },
    Stop { number: u64 },
}

impl Broker {
    pub(in crate::decide) fn random_start(&mut self, now: Now, uuid: Uuid, start: RandomStart) {
        let RandomStart { number, law, least_s, most_s, most_per_day } = start;
        let terms = Terms { law, least_s, most_s, most_per_day };
        let least = self.config.random.least_gap_s;
        let refused = if !self.is_random_offered(uuid) {
            Some(RandomState::NotOffered)
        } else if terms.gaps().is_none() || least_s < least || most_s > MOST_S || most_per_day == Some(0) {
            Some(RandomState::BadRange)
        } else {
            None
        };
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        match refused {
            // What holds, holds on; the range told is the one that may be asked for.
            Some(state) => {
                let status = RandomStatus {
                    state,
                    least_s: least,
                    most_s: MOST_S,
                    ..self.random_status(now, uuid, Some(number))
                };
                self.tell(uuid, status);
            }
            None => {
                guest.random.ask = Some(Ask::Start { number, terms });
                self.random_tick(now, uuid);
            }
        }
    }

    /// None begins after the answer; one that is under way is called off if it still can be.
    pub(in crate::decide) fn random_stop(&mut self, now: Now, uuid: Uuid, number: u64) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        guest.random.ask = Some(Ask::Stop { number });
        if guest.mv.plan().is_some_and(|p| p.initiator == Initiator::Random) {
            // Too late is fine: it is asked again where the VM arrives.
            let _ = self.cancel(now, uuid, Initiator::Customer);
        }
        self.random_tick(now, uuid);
    }

    pub(in crate::decide) fn random_query(&mut self, now: Now, uuid: Uuid, number: u64) {
        self.answer_random(now, uuid, number);
    }

    /// Between two moves, so that what was asked for is written before it is answered.
    pub(super) fn take_up_what_was_asked(&mut self, now: Now, uuid: Uuid) {
        let Some(me) = self.my_uuid else { return };
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if !guest.mv.is_none() || guest.undecided || !guest.random.loaded {
            return;
        }
        let Some(ask) = guest.random.ask.take() else { return };
        let r = &mut guest.random;
        let (number, text) = match (ask, &mut r.schedule) {
            // Asked again, as after each move: the draw stays what it is.
            (Ask::Start { number, terms }, Some(s)) if s.on && s.terms == terms => (number, None),
            (Ask::Start { number, terms }, schedule) => {
                let made = schedule.take().map_or_else(Made::default, |s| s.made);
                *schedule = Some(Schedule { on: true, terms, host: me, next_unix_ms: None, made });
                let text = format!(
                    "random moves begin: gaps of {} to {} s, {}",
                    terms.least_s, terms.most_s, terms.law
                );
                (number, Some(text))
            }
            (Ask::Stop { number }, Some(s)) if s.on => {
                s.on = false;
                s.next_unix_ms = None;
                (number, Some("random moves end: the guest wants no more".to_owned()))
            }
            (Ask::Stop { number }, _) => (number, None),
        };
        r.owed = Some(number);
        match text {
            Some(text) => {
                r.spent = None;
                r.no_destination = false;
                self.draw_gap(now, uuid);
                self.log(Level::Info, Some(uuid), text);
            }
            None if r.unwritten || r.writing.is_some() => {}
            None => {
                r.owed = None;
                self.answer_random(now, uuid, number);
            }
        }
    }

    pub(super) fn answer_random(&mut self, now: Now, uuid: Uuid, number: u64) {
        let status = self.random_status(now, uuid, Some(number));
        if let Some(guest) = self.guests.get_mut(&uuid) {
            guest.random.told = Some(status.state);
        }
        self.tell(uuid, status);
    }

    /// Unasked, when it is not what the guest knows.
    pub(super) fn tell_random_state(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let r = &guest.random;
        let is_on = r.schedule.as_ref().is_some_and(|s| s.on && Some(s.host) == self.my_uuid);
        if !is_on || r.owed.is_some() || guest.agent.is_none() {
            return;
        }
        let status = self.random_status(now, uuid, None);
        if r.told.unwrap_or(RandomState::On) == status.state {
            return;
        }
        if let Some(guest) = self.guests.get_mut(&uuid) {
            guest.random.told = Some(status.state);
        }
        self.log(Level::Info, Some(uuid), format!("its random moves: {}", status.state));
        self.tell(uuid, status);
    }

    fn random_status(&self, now: Now, uuid: Uuid, number: Option<u64>) -> RandomStatus {
        let random = self.guests.get(&uuid).map(|g| &g.random);
        let schedule = random.and_then(|r| r.schedule.as_ref());
        let state = match schedule {
            _ if !self.is_random_offered(uuid) => RandomState::NotOffered,
            Some(s) if s.on => {
                if !self.has_budget(now, s) {
                    RandomState::BudgetUsedUp
                } else if self.paused {
                    RandomState::Paused
                } else if random.is_some_and(|r| r.no_destination) {
                    RandomState::NoDestination
                } else {
                    RandomState::On
                }
            }
            Some(_) | None => RandomState::Off,
        };
        let terms = schedule.map(|s| s.terms);
        RandomStatus {
            number,
            state,
            law: terms.map_or(GapLaw::Exponential, |t| t.law),
            least_s: terms.map_or(0, |t| t.least_s),
            most_s: terms.map_or(0, |t| t.most_s),
            most_per_day: terms.map_or(self.config.random.max_per_day, |t| self.most_per_day(&t)),
            made: schedule.map_or(0, |s| s.made.count(now.unix_ms)),
            pool: u16::try_from(self.config.random.pool.len()).unwrap_or(u16::MAX),
        }
    }

    pub(super) fn is_random_offered(&self, uuid: Uuid) -> bool {
        let enabled = |g: &super::super::Guest| self.takes_part(&g.domain);
        !self.config.random.pool.is_empty() && self.guests.get(&uuid).is_some_and(enabled)
    }
}
