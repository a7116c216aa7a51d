//! Where the clients are, and whether that is a reason to ask: the agent's side of [`count`], [`place`] and [`rule`].
//!
//! What is counted comes from a thread of its own (`io::clients`), every few seconds, as sums by region. Addresses stay
//! there; to the host go shares of regions and nothing else, and those only in a request.

pub mod count;
pub mod place;
pub mod rule;
pub mod short;

use super::effect::{Before, During, ms};
use super::{Agent, fields, known};
use crate::action::{Action, Audience};
use crate::config::Clients;
use crate::event::Seen;
use coms_protocol::guest_to_host::{Evidence, RegionsQuery};
use coms_protocol::host_to_guest::Regions as Told;
use coms_protocol::session::Now;
use coms_protocol::types::{Metric, RegionEntry, Text};
use count::{Look, Share};
use place::Regions;
use rule::{State, Turn, longest_gap, placed, shares, shares_of};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

/// What the clients' round trips are called among the workloads of an effect.
pub const ROUND_TRIP: &str = "clients-rtt";
/// The operator's regions are asked for again after so long without an answer, longer each time ...
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// ... up to this, which is also how often they are asked for anew.
const ASK_ANEW: Duration = Duration::from_secs(3600);

/// What to count, and how: given to the thread that does it.
#[derive(Debug, Clone, PartialEq)]
pub struct Count {
    /// The customer's words.
    pub config: Clients,
    /// Into these.
    pub regions: Regions,
    /// Not what the kernel tells: whom plugins name, and their weights.
    pub listed: Option<Vec<(IpAddr, f64)>>,
}

/// What the agent knows of its clients.
#[derive(Debug, Default)]
pub(super) struct Following {
    look: Option<(Duration, Look)>,
    turn: Turn,
    /// That this region has them was told.
    told: Option<String>,
    /// The newest that was seen: a look in which nothing was carried has none.
    rtt_us: Option<u64>,
    regions: Vec<RegionEntry>,
    /// The broker that is there now has said which regions there are: it knows what such a request wants. One of before
    /// that would take it for any other, and move the VM unmeasured.
    understood: bool,
    asked: u64,
    ask_at: Duration,
    ask_again: Duration,
    /// What the thread was given last.
    given: Option<Count>,
    /// Something of it may have changed.
    changed: bool,
    /// What is wrong, if something is.
    database: Option<String>,
    trouble: Option<String>,
    no_capture: Option<String>,
}

impl Agent {
    /// At the start and at each reload, and when plugins or the host said something new.
    pub(super) fn count_anew(&mut self) {
        self.following.changed = true;
    }

    pub(super) fn settle_count(&mut self, now: Now) {
        let stale = |config: &Clients| self.plugins.forget_old_clients(now.mono, config.window);
        let stale = self.config.clients.as_ref().is_some_and(stale);
        if !std::mem::take(&mut self.following.changed) && !stale {
            return;
        }
        let wanted = self.config.clients.as_ref().map(|config| Count {
            regions: Regions::new(&config.regions, &self.following.regions),
            listed: self.plugins.listed(),
            config: config.clone(),
        });
        let following = &mut self.following;
        if wanted == following.given {
            return;
        }
        // Nor does what the kernel tells compare with what plugins tell.
        let same = |a: &Count, b: &Count| {
            a.config == b.config && a.regions == b.regions && a.listed.is_some() == b.listed.is_some()
        };
        if !wanted.as_ref().zip(following.given.as_ref()).is_some_and(|(a, b)| same(a, b)) {
            following.look = None;
            following.rtt_us = None;
            following.turn.afresh();
        }
        // Tried again with another configuration only.
        if wanted.as_ref().map(|w| &w.config) != following.given.as_ref().map(|g| &g.config) {
            following.no_capture = None;
        }
        following.given.clone_from(&wanted);
        self.actions.push(Action::Count(wanted.map(Box::new)));
    }

    /// Another broker may have other regions.
    pub(super) fn ask_for_regions(&mut self, now: Now) {
        (self.following.ask_at, self.following.ask_again) = (now.mono, ASK_AGAIN);
        self.following.understood = false;
    }

    pub(super) fn settle_regions(&mut self, now: Now) {
        let following = &mut self.following;
        if self.config.clients.is_none() || !self.link.established || now.mono < following.ask_at {
            return;
        }
        following.asked = following.asked.wrapping_add(1);
        following.ask_at = now.mono + following.ask_again;
        following.ask_again = (following.ask_again * 2).clamp(ASK_AGAIN, ASK_ANEW);
        self.actions.push(Action::SendOnce(RegionsQuery { number: following.asked }.into()));
    }

    pub(super) fn clients_timeout(&self) -> Option<Duration> {
        let config = self.config.clients.as_ref()?;
        let ask = Some(self.following.ask_at).filter(|_| self.link.established);
        ask.into_iter().chain(self.plugins.clients_until(config.window)).min()
    }

    pub(super) fn on_regions(&mut self, now: Now, told: &Told) {
        let following = &mut self.following;
        if told.number != following.asked || self.config.clients.is_none() {
            return;
        }
        following.understood = true;
        following.ask_at = now.mono + ASK_ANEW;
        following.regions = told.regions.as_slice().to_vec();
        following.changed = true;
    }

    pub(super) fn on_seen(&mut self, now: Now, seen: Seen) {
        let Some(config) = self.config.clients.clone() else { return };
        match seen {
            Seen::Database(Ok(what)) => {
                self.following.database = None;
                let told = json!({ "file": config.database, "state": "loaded", "what": what });
                self.tell("clients_database", fields(told), Audience::Everybody);
            }
            Seen::Database(Err(error)) => {
                let told = json!({ "file": config.database, "state": "refused", "error": error });
                self.following.database = Some(error);
                self.tell("clients_database", fields(told), Audience::Everybody);
            }
            Seen::Trouble(error) => {
                if self.following.trouble.as_ref() != Some(&error) {
                    self.tell("clients_unseen", fields(json!({ "error": error })), Audience::Everybody);
                }
                self.following.trouble = Some(error);
            }
            Seen::NoCapture(error) => {
                self.tell("clients_unseen", fields(json!({ "error": error })), Audience::Everybody);
                self.following.no_capture = Some(error);
            }
            Seen::Look(look) => self.on_look(now, *look, &config),
        }
    }

    fn on_look(&mut self, now: Now, look: Look, config: &Clients) {
        self.following.trouble = None;
        let here = self.link.place.as_ref().map(|p| p.region.as_str());
        let state = self.following.turn.look(now.mono, &look, here, config);
        if let Some(us) = look.rtt_us {
            self.following.rtt_us = Some(us);
            self.round_trip(now, Duration::from_micros(us));
        }
        self.following.look = Some((now.mono, look));
        let leader = self.following.turn.leader().map(|(name, _)| name.to_owned());
        let Some(leader) = leader.filter(|_| state == State::Elsewhere) else {
            // Whatever was refused is another matter once they are here, or nowhere.
            let over = self.following.told.take_if(|_| state != State::Rising).is_some();
            if over && self.state.refusals != 0 && !self.watches.iter().any(super::rule::Watch::suffers) {
                self.state.refusals = 0;
                self.unsaved = true;
            }
            return;
        };
        if self.following.told.as_ref() != Some(&leader) {
            let mut told = self.following.shares_json(&leader);
            told.extend(fields(json!({
                "here": self.link.place.as_ref().map(|p| p.region.clone()),
                "rtt_ms": self.following.rtt_us.map(ms),
                "may_ask": config.may_ask,
            })));
            self.following.told = Some(leader);
            self.tell("clients_elsewhere", told, Audience::Everybody);
        }
    }

    /// The clients' round trips are measured around a move like a workload.
    fn round_trip(&mut self, now: Now, rtt: Duration) {
        if let Some(moving) = &mut self.moving {
            let during: &mut During = moving.during.entry(ROUND_TRIP.to_owned()).or_default();
            during.sample(Some(rtt));
        }
        if let Some(measuring) = &mut self.measuring {
            measuring.sample(now.mono, ROUND_TRIP, Some(rtt));
        }
    }

    pub(super) fn clients_before(&self) -> Option<Before> {
        let us = Some(self.following.rtt_us?);
        let (workload, metric) = (ROUND_TRIP.to_owned(), Metric::LatencyP50Us);
        Some(Before { workload, metric, us, failing: false })
    }

    /// The region to ask for, if the clients are a reason to ask.
    pub(super) fn clients_want(&self, now: Duration) -> Option<Text<64>> {
        let config = self.config.clients.as_ref().filter(|c| c.may_ask)?;
        let (at, _) = self.following.look.as_ref()?;
        // The thread that counts may have got stuck.
        let recent = now.saturating_sub(*at) <= longest_gap(config);
        let (leader, _) = self.following.turn.leader()?;
        let understood = self.following.understood;
        (recent && understood && self.following.turn.state() == State::Elsewhere)
            .then(|| Text::clipped(leader))
    }

    /// Shares of regions, and nothing else of the clients.
    pub(super) fn clients_evidence(&self, now: Duration) -> Vec<Evidence> {
        let following = &self.following;
        let Some((config, (_, look))) = self.config.clients.as_ref().zip(following.look.as_ref()) else {
            return Vec::new();
        };
        let Some((leader, since)) = following.turn.leader() else { return Vec::new() };
        let here = self.link.place.as_ref().map_or("", |p| p.region.as_str());
        let (theirs, ours) = (shares_of(look, leader), shares_of(look, here));
        let one = |metric, now_permille, here_permille| Evidence {
            workload: Text::clipped(leader),
            metric,
            now: now_permille,
            baseline: Some(here_permille),
            threshold: Some((config.majority * 1000.0).round() as u64),
            for_s: u32::try_from(now.saturating_sub(since).as_secs()).unwrap_or(u32::MAX),
            samples: u32::try_from(look.flows).unwrap_or(u32::MAX),
        };
        vec![
            one(Metric::TrafficPermille, theirs.traffic, ours.traffic),
            one(Metric::ClientsPermille, theirs.clients, ours.clients),
        ]
    }

    /// The VM has moved: what is held against its place begins anew.
    pub(super) fn clients_moved(&mut self) {
        self.following.turn.afresh();
        self.following.told = None;
    }

    /// For `coms status` and `coms clients`. None: nothing is counted.
    pub(super) fn following_json(&self, now: Now) -> Option<Value> {
        let config = self.config.clients.as_ref()?;
        let f = &self.following;
        let state = f.turn.state();
        let leader = f.turn.leader();
        let left = |until: Duration| Some(until.saturating_sub(now.mono).as_secs()).filter(|s| *s > 0);
        let asks_not = match state {
            _ if f.database.is_some() && f.look.is_none() => Some("the database cannot be used"),
            _ if f.trouble.is_some() => Some("the connections cannot be seen"),
            State::Unknown if !self.link.established => Some("the host is not connected"),
            State::Unknown => Some("nothing was counted yet"),
            State::TooFew => Some("too few clients"),
            State::PlacesUnknown => Some("the database does not know where most of them are"),
            State::NoRegions => {
                Some("neither the operator nor [clients] regions says which regions there are")
            }
            State::NoMajority => Some("no region has the majority, and the lead, of traffic and of clients"),
            State::Here => Some("the VM is where most of them are"),
            State::Rising => Some("not for long enough yet"),
            State::Elsewhere if !config.may_ask => Some("may_ask = false"),
            State::Elsewhere if !f.understood => {
                Some("the host's broker has not said that it understands this")
            }
            State::Elsewhere if left(self.cooldown_until).is_some() => Some("the last move was not long ago"),
            State::Elsewhere if left(self.backoff_until).is_some() => Some("a refusal was not long ago"),
            State::Elsewhere => None,
        };
        let region = |r: &Share, look: &Look| {
            let s = shares(look, r);
            json!({ "region": Some(&r.name).filter(|name| !name.is_empty()), "clients": r.clients, "clients_permille": s.clients, "traffic_bytes": r.traffic,
                "traffic_permille": s.traffic, "rtt_ms": r.rtt_us.map(ms) })
        };
        let look = f.look.as_ref().map(|(at, look)| {
            let countries = look.countries.iter().map(|c| {
                let s = shares(look, c);
                json!({ "country": c.name, "clients": c.clients, "clients_permille": s.clients,
                    "traffic_permille": s.traffic })
            });
            json!({
                "seen_s": now.mono.saturating_sub(*at).as_secs(),
                "regions": look.regions.iter().map(|r| region(r, look)).collect::<Vec<_>>(),
                "in_no_region": region(&look.elsewhere, look),
                "unknown_place": { "clients": look.unplaced.clients, "traffic_bytes": look.unplaced.traffic },
                "countries": countries.collect::<Vec<_>>(),
                "placed": placed(look).clients,
                "connections": look.flows,
                "left_out": look.left_out,
                "one_of": (look.one_of > 1).then_some(look.one_of),
                "by_plugin": look.by_plugin.then_some(true),
            })
        });
        let mut all = fields(json!({
            "state": state,
            "region": leader.map(|(name, _)| name),
            "for_s": leader.map(|(_, since)| now.mono.saturating_sub(since).as_secs()),
            "wanted_for_s": config.hold.as_secs(),
            "here": self.link.place.as_ref().map(|p| p.region.clone()),
            "rtt_ms": f.rtt_us.map(ms),
            "asks_not": asks_not,
            "may_ask": config.may_ask,
            "min_clients": config.min_clients,
            "majority_permille": (config.majority * 1000.0).round(),
            "known_regions": f.given.as_ref().map(|g| g.regions.len()),
            "database_error": f.database,
            "trouble": f.trouble,
            "capture_error": f.no_capture,
        }));
        all.extend(look.map(fields).unwrap_or_default());
        Some(known(Value::Object(all)))
    }

    /// The answer to `coms clients`.
    pub(super) fn clients_report(&self, now: Now) -> Value {
        match self.following_json(now) {
            Some(Value::Object(mut all)) => {
                all.insert("ok".to_owned(), true.into());
                Value::Object(all)
            }
            Some(_) | None => json!({ "ok": false,
                "error": "nothing is counted: [clients] in agent.toml names no database" }),
        }
    }
}

impl Following {
    fn shares_json(&self, region: &str) -> serde_json::Map<String, Value> {
        let Some((_, look)) = &self.look else { return serde_json::Map::new() };
        let s = shares_of(look, region);
        fields(json!({ "region": region, "clients_permille": s.clients, "traffic_permille": s.traffic,
            "clients": placed(look).clients }))
    }
}

#[cfg(test)]
mod tests;
