//! When the clients' region is a reason to ask.
//!
//! ```text
//!          another region has the majority           for `hold` without a break
//!   Here ----------------------------------> Rising ---------------------------> Elsewhere
//!     ^                                        |                                    |
//!     +----------------------------------------+------------------------------------+
//!              it falls below the majority by more than a little, another takes its place,
//!                       the VM is there or has moved, or too little is known
//! ```
//!
//! The majority is one of traffic and of clients: a single busy client moves nothing, nor do a thousand idle ones. It
//! must also lead the region where the VM is, so that of two regions that share the clients none calls the VM away from
//! the other. Both begin anew after each move.

use super::count::{Look, Share};
use crate::config::Clients;
use serde::Serialize;
use std::time::Duration;

/// A majority that was reached is lost only this far below it, in thousandths.
const SLACK: u64 = 50;

/// How the clients stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No look yet.
    #[default]
    Unknown,
    /// Fewer clients than the rule wants.
    TooFew,
    /// Of most clients, or of most traffic, the place is not known.
    PlacesUnknown,
    /// There are no regions to sort them into.
    NoRegions,
    /// No region has the majority of both, and the lead.
    NoMajority,
    /// The region where the VM is has it.
    Here,
    /// Another region has it, not for long enough yet.
    Rising,
    /// Another region has it, for long enough.
    Elsewhere,
}

/// A region's shares, in thousandths of what is placed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shares {
    /// Of the bytes.
    pub traffic: u64,
    /// Of the clients.
    pub clients: u64,
}

impl Shares {
    fn least(self) -> u64 {
        self.traffic.min(self.clients)
    }
}

/// Judges looks.
#[derive(Debug, Default)]
pub struct Turn {
    state: State,
    /// The region that has the majority, and since when.
    leader: Option<(String, Duration)>,
    /// The last look.
    looked: Duration,
}

/// Looks that are missing for so long are a break: nobody knows how the clients stood meanwhile.
pub fn longest_gap(rule: &Clients) -> Duration {
    rule.sample * 3 + Duration::from_secs(10)
}

/// Bytes and clients whose place is known.
pub fn placed(look: &Look) -> Shares {
    let all = look.regions.iter().chain([&look.elsewhere]);
    all.fold(Shares::default(), |sum, s| Shares {
        traffic: sum.traffic.saturating_add(s.traffic),
        clients: sum.clients + s.clients,
    })
}

/// What a region has of what is placed.
pub fn shares(look: &Look, share: &Share) -> Shares {
    let all = placed(look);
    let permille =
        |part: u64, all: u64| u64::try_from(u128::from(part) * 1000 / u128::from(all.max(1))).unwrap_or(1000);
    Shares { traffic: permille(share.traffic, all.traffic), clients: permille(share.clients, all.clients) }
}

/// By its name; nothing if there is none.
pub fn shares_of(look: &Look, region: &str) -> Shares {
    look.regions.iter().find(|r| r.name == region).map(|r| shares(look, r)).unwrap_or_default()
}

fn permille(share: f64) -> u64 {
    (share * 1000.0).round() as u64
}

impl Turn {
    /// Takes in a look. `here`: the region where the VM is.
    pub fn look(&mut self, now: Duration, look: &Look, here: Option<&str>, rule: &Clients) -> State {
        if now.saturating_sub(std::mem::replace(&mut self.looked, now)) > longest_gap(rule) {
            self.leader = None;
        }
        self.state = match Self::judge(look, here, rule, self.leader.as_ref().map(|(name, _)| name.as_str()))
        {
            Ok(name) => {
                let same = self.leader.as_ref().filter(|(leader, _)| *leader == name);
                let since = same.map_or(now, |(_, since)| *since);
                self.leader = Some((name, since));
                if now.saturating_sub(since) >= rule.hold { State::Elsewhere } else { State::Rising }
            }
            Err(state) => {
                self.leader = None;
                state
            }
        };
        self.state
    }

    /// The region that should have the VM, or why there is none.
    fn judge(look: &Look, here: Option<&str>, rule: &Clients, leader: Option<&str>) -> Result<String, State> {
        let all = placed(look);
        if look.regions.is_empty() {
            return Err(State::NoRegions);
        }
        if look.unplaced.clients > all.clients || look.unplaced.traffic > all.traffic {
            return Err(State::PlacesUnknown);
        }
        if all.clients < u64::from(rule.min_clients) {
            return Err(State::TooFew);
        }
        let best = look.regions.iter().max_by_key(|r| shares(look, r).least()).ok_or(State::NoRegions)?;
        let (theirs, slack) = (shares(look, best), if leader == Some(&best.name) { SLACK } else { 0 });
        if theirs.least() + slack < permille(rule.majority) {
            return Err(State::NoMajority);
        }
        let Some(here) = here else { return Err(State::Unknown) };
        if best.name == here {
            return Err(State::Here);
        }
        let ours = shares_of(look, here);
        let lead = permille(rule.lead);
        if theirs.traffic + slack < ours.traffic + lead || theirs.clients + slack < ours.clients + lead {
            return Err(State::NoMajority);
        }
        Ok(best.name.clone())
    }

    /// How they stood at the last look.
    pub fn state(&self) -> State {
        self.state
    }

    /// The region that has the majority and is not here, and since when.
    pub fn leader(&self) -> Option<(&str, Duration)> {
        self.leader.as_ref().map(|(name, since)| (name.as_str(), *since))
    }

    /// The VM has moved, or the counting began anew: nothing counts that was.
    pub fn afresh(&mut self) {
        *self = Self::default();
    }
}
