//! Who in this guest is asked about an announced move, and what they answered.
//!
//! ```text
//!               ready                      their notice is over
//!   undecided --------->  ready             (undecided) --------> silent
//!      |  ^                 ^
//! hold |  | joins           | ready, or the hold is over
//!      v  |                 |
//!    holding ---------------+          gone: hung up, from anywhere
//! ```
//!
//! Each party has limits of its own: how long it may think, and how long it may hold beyond that. Whoever says
//! nothing is waited for until its thinking time is over; whoever hangs up is not waited for at all. So a round ends
//! by itself, whatever the parties do, at the latest when all limits are over ([`Round::last`]).

use crate::event::ClientId;
use coms_protocol::types::Cause;
use std::collections::BTreeMap;
use std::time::Duration;

/// Somebody who is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A registered application.
    App(ClientId),
    /// An `[[asked]]` command of the configuration, by its name.
    Command(String),
}

/// What a party may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Time to answer.
    pub notice: Duration,
    /// Time beyond that.
    pub hold: Duration,
}

/// What a party answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing yet; it has time until then.
    Undecided {
        /// When its time is over.
        until: Duration,
    },
    /// It does not object.
    Ready,
    /// It does, until then.
    Holding {
        /// When its hold is over.
        until: Duration,
    },
    /// It did not answer in its time.
    Silent,
    /// Its hold was over before it was ready.
    Overdue,
}

/// Who is asked about one move.
#[derive(Debug, Default)]
pub struct Round {
    began: Duration,
    /// The host holds no longer than until then; None: not at all.
    hold_until: Option<Duration>,
    parties: BTreeMap<Party, (Limits, Standing)>,
}

/// A hold as the host is asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Until then.
    pub until: Duration,
    /// Who wants it.
    pub cause: Cause,
    /// How many want it.
    pub holders: u16,
}

impl Round {
    /// Begins now. `hold_up_to`: as long as the host would wait.
    pub fn begin(now: Duration, hold_up_to: Duration) -> Self {
        let hold_until = (hold_up_to > Duration::ZERO).then(|| now + hold_up_to);
        Self { began: now, hold_until, parties: BTreeMap::new() }
    }

    /// Asks a party, from now on.
    pub fn join(&mut self, now: Duration, party: Party, limits: Limits) {
        self.parties.insert(party, (limits, Standing::Undecided { until: now + limits.notice }));
    }

    /// It is not there any more.
    pub fn leave(&mut self, party: &Party) -> bool {
        self.parties.remove(party).is_some()
    }

    /// It does not object. False: it is not asked.
    pub fn ready(&mut self, party: &Party) -> bool {
        self.answer(party, Standing::Ready)
    }

    /// It wants to wait for so long. Until when it may; or why not.
    pub fn hold(&mut self, now: Duration, party: &Party, wanted: Duration) -> Result<Duration, String> {
        let Some((limits, _)) = self.parties.get(party) else {
            return Err("it is not asked about this move".to_owned());
        };
        let Some(hold_until) = self.hold_until else {
            return Err("the host does not hold this move".to_owned());
        };
        let own = self.began + limits.notice + limits.hold;
        let until = (now + wanted).min(own).min(hold_until);
        if until <= now {
            return Err("it has held for as long as it may".to_owned());
        }
        self.answer(party, Standing::Holding { until });
        Ok(until)
    }

    fn answer(&mut self, party: &Party, answer: Standing) -> bool {
        match self.parties.get_mut(party) {
            Some((_, standing)) => {
                *standing = answer;
                true
            }
            None => false,
        }
    }

    /// The host refused to hold: who holds is as good as undecided, without time.
    pub fn hold_refused(&mut self) {
        self.hold_until = None;
        for (_, standing) in self.parties.values_mut() {
            if matches!(standing, Standing::Holding { .. }) {
                *standing = Standing::Overdue;
            }
        }
    }

    /// Ends what is over: the parties whose time is up, each once.
    pub fn expire(&mut self, now: Duration) -> Vec<(Party, Standing)> {
        let mut over = Vec::new();
        for (party, (_, standing)) in &mut self.parties {
            let end = match *standing {
                Standing::Undecided { until } if until <= now => Standing::Silent,
                Standing::Holding { until } if until <= now => Standing::Overdue,
                Standing::Undecided { .. }
                | Standing::Holding { .. }
                | Standing::Ready
                | Standing::Silent
                | Standing::Overdue => continue,
            };
            *standing = end;
            over.push((party.clone(), end));
        }
        over
    }

    /// Nobody is waited for any more.
    pub fn is_over(&self) -> bool {
        self.waits().next().is_none()
    }

    /// Whoever is still waited for, and until when.
    fn waits(&self) -> impl Iterator<Item = Duration> + '_ {
        self.parties.values().filter_map(|(_, standing)| match standing {
            Standing::Undecided { until } | Standing::Holding { until } => Some(*until),
            Standing::Ready | Standing::Silent | Standing::Overdue => None,
        })
    }

    /// When somebody's time is up next.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.waits().min()
    }

    /// When everybody's time is up.
    pub fn last(&self) -> Option<Duration> {
        self.waits().max()
    }

    /// The hold that the host is to be asked for. It covers those who have not answered yet, so that one's short
    /// hold does not end another's time to answer.
    pub fn wanted(&self) -> Option<Wanted> {
        let holding = |(party, (_, standing)): (&Party, &(Limits, Standing))| match standing {
            Standing::Holding { .. } => Some(matches!(party, Party::App(_))),
            Standing::Undecided { .. } | Standing::Ready | Standing::Silent | Standing::Overdue => None,
        };
        let holders: Vec<bool> = self.parties.iter().filter_map(holding).collect();
        let until = self.last()?.min(self.hold_until?);
        let any_app = *holders.iter().max()?;
        Some(Wanted {
            until,
            cause: if any_app { Cause::App } else { Cause::Command },
            holders: u16::try_from(holders.len()).unwrap_or(u16::MAX),
        })
    }

    /// Everybody who is asked, and what they said.
    pub fn parties(&self) -> impl Iterator<Item = (&Party, Standing)> {
        self.parties.iter().map(|(party, (_, standing))| (party, *standing))
    }
}

#[cfg(test)]
mod tests;
