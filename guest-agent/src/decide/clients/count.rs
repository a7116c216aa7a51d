//! How much traffic and how many clients each region has, over a window, in memory that does not grow with either.
//!
//! A client is counted by a keyed hash of its address; no address is kept. When a table is full, every other client is
//! left out, by that hash and so for good, and each that stays stands for two; and so on. Shares stay true to within the
//! noise of some ten thousand clients, and nobody outside can choose who stays.

use super::place::{Located, Regions, is_nowhere, one_client};
use crate::config::Clients;
use coms_protocol::types::Country;
use hdrhistogram::Histogram;
use ipnetwork::IpNetwork;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

/// Clients that are told apart.
pub const MAX_CLIENTS: usize = 16_384;
/// Connections whose traffic is followed.
pub const MAX_FLOWS: usize = 32_768;
/// Connections of one client whose traffic is followed: one that opens thousands must not crowd the others out.
const MAX_OF_ONE: u32 = 1024;
/// Kinds of places: a country in a region. Beyond, a place counts as unknown.
const MAX_BINS: usize = 512;
/// A guest's own addresses; of more than these a connection to itself may count as a client's.
const MAX_OWN: usize = 64;
/// The window slides in this many steps.
const SLOTS: usize = 6;
/// Countries that are shown.
const SHOWN: usize = 10;
/// Longer round trips are not told apart.
const MAX_RTT_US: u64 = 60_000_000;

/// A connection as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Who.
    pub peer: IpAddr,
    /// The address here.
    pub own: IpAddr,
    /// The kernel's number for it, never given twice.
    pub cookie: u64,
    /// Bytes of ours that the peer has acknowledged, since it began.
    pub acked: u64,
    /// Bytes of the peer's, since it began.
    pub received: u64,
    /// Smoothed round trip.
    pub rtt_us: Option<u32>,
}

/// What one part of the clients has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// Region or country.
    pub name: String,
    /// Bytes, both ways.
    pub traffic: u64,
    /// Clients.
    pub clients: u64,
    /// Median round trip in the last look, weighted by traffic.
    pub rtt_us: Option<u64>,
}

/// What was counted over the window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Each region.
    pub regions: Vec<Share>,
    /// The place is known and in no region.
    pub elsewhere: Share,
    /// The database does not know the place.
    pub unplaced: Share,
    /// The largest countries.
    pub countries: Vec<Share>,
    /// Median round trip of all in the last look, weighted by traffic.
    pub rtt_us: Option<u64>,
    /// Connections that count.
    pub flows: u64,
    /// Connections that do not: own, private and configured networks.
    pub left_out: u64,
    /// One client of so many is counted, and stands for the others.
    pub one_of: u64,
    /// A plugin said who the clients are.
    pub by_plugin: bool,
}

struct Known {
    client: u64,
    bytes: u64,
    turn: u32,
}

struct Client {
    bin: u16,
    /// When it last carried something.
    slot: u64,
    /// Its connections that are followed.
    flows: u32,
}

struct Bin {
    country: Option<Country>,
    region: Option<usize>,
    traffic: [u64; SLOTS],
}

/// Counts. See the module's first words for how it stays small.
pub struct Counter {
    hash: RandomState,
    regions: Regions,
    leave_out: Vec<IpNetwork>,
    step: Duration,
    slot: u64,
    turn: u32,
    /// Each client that is counted stands for 2^level.
    level: u32,
    /// What unknown connections carried before is not known to be of this window.
    fresh: bool,
    flows: HashMap<u64, Known, RandomState>,
    clients: HashMap<u64, Client, RandomState>,
    bins: Vec<Bin>,
    own: BTreeSet<IpAddr>,
    seen: u64,
    left_out: u64,
    /// By region, and at the end of those without one; filled when first needed.
    rtt: Vec<Option<Histogram<u64>>>,
}

impl Counter {
    /// Nothing counted. `hash`: keyed at random.
    pub fn new(config: &Clients, regions: Regions, hash: RandomState) -> Self {
        let rtt = std::iter::repeat_with(|| None).take(regions.len() + 1).collect();
        Self {
            flows: HashMap::with_hasher(hash.clone()),
            clients: HashMap::with_hasher(hash.clone()),
            hash,
            regions,
            leave_out: config.leave_out.clone(),
            step: (config.window / SLOTS as u32).max(Duration::from_millis(1)),
            slot: 0,
            turn: 0,
            level: 0,
            fresh: true,
            bins: vec![Bin { country: None, region: None, traffic: [0; SLOTS] }],
            own: BTreeSet::new(),
            seen: 0,
            left_out: 0,
            rtt,
        }
    }

    /// What clients weigh, as somebody else counted them: at one moment, without a past.
    pub fn listed(
        config: &Clients,
        regions: Regions,
        hash: RandomState,
        clients: &[(IpAddr, f64)],
        mut locate: impl FnMut(IpAddr) -> Located,
    ) -> Look {
        let mut counter = Self::new(config, regions, hash);
        counter.begin(Duration::ZERO);
        counter.fresh = false;
        let most = clients.iter().map(|(_, w)| *w).fold(f64::MIN_POSITIVE, f64::max);
        for (cookie, (peer, weight)) in (0..).zip(clients) {
            let acked = 2 + (weight / most * 1e9) as u64;
            let own = IpAddr::from([0, 0, 0, 0]);
            let flow = Flow { peer: *peer, own, cookie, acked, received: 0, rtt_us: None };
            counter.see(&flow, &mut locate);
        }
        Look { by_plugin: true, ..counter.end() }
    }

    /// Begins a look: every connection there is follows.
    pub fn begin(&mut self, now: Duration) {
        let slot = u64::try_from(now.as_nanos() / self.step.as_nanos()).unwrap_or(u64::MAX);
        let passed = slot.saturating_sub(self.slot).min(SLOTS as u64);
        for k in 0..passed {
            let index = ((slot - k) % SLOTS as u64) as usize;
            self.bins.iter_mut().for_each(|b| b.traffic[index] = 0);
        }
        self.slot = slot;
        if passed > 0 {
            self.clients.retain(|_, c| c.flows > 0 || slot.saturating_sub(c.slot) < SLOTS as u64);
            // Kinds of places from long ago make room, once nobody is there any more.
            if self.clients.is_empty() {
                self.bins.truncate(1);
            }
        }
        self.turn = self.turn.wrapping_add(1);
        (self.seen, self.left_out) = (0, 0);
        self.rtt.iter_mut().flatten().for_each(Histogram::reset);
    }

    /// Counts a connection. The kernel has one only after the peer has acknowledged our first number, which who only
    /// pretends to be that peer never sees; and it counts once the peer has acknowledged data: it was answered.
    pub fn see(&mut self, flow: &Flow, locate: impl FnOnce(IpAddr) -> Located) {
        let (peer, own) = (flow.peer.to_canonical(), flow.own.to_canonical());
        // The kernel may count our SYN as one byte.
        if flow.acked <= 1 {
            return;
        }
        if self.own.len() < MAX_OWN {
            self.own.insert(own);
        }
        if is_nowhere(peer) || self.own.contains(&peer) || self.leave_out.iter().any(|n| n.contains(peer)) {
            self.left_out += 1;
            return;
        }
        let key = self.hash.hash_one(one_client(peer));
        if !counts(key, self.level) {
            return;
        }
        self.seen += 1;
        let total = flow.acked.saturating_add(flow.received);
        let (turn, slot) = (self.turn, self.slot);
        let known = self.flows.get_mut(&flow.cookie).map(|known| {
            known.turn = turn;
            total.saturating_sub(std::mem::replace(&mut known.bytes, total))
        });
        if known == Some(0) {
            return;
        }
        let place = self.clients.get(&key).map(|c| c.bin).unwrap_or_else(|| self.bin(&locate(peer)));
        let client = self.clients.entry(key).or_insert(Client { bin: place, slot, flows: 0 });
        let bin = client.bin;
        let news = match known {
            Some(news) => news,
            None if client.flows >= MAX_OF_ONE => return,
            None => {
                client.flows += 1;
                self.flows.insert(flow.cookie, Known { client: key, bytes: total, turn });
                if self.fresh { 0 } else { total }
            }
        };
        client.slot = slot;
        if let Some(bin) = self.bins.get_mut(usize::from(bin)) {
            let sum = &mut bin.traffic[(slot % SLOTS as u64) as usize];
            *sum = sum.saturating_add(news.saturating_mul(1 << self.level.min(32)));
            let region = bin.region.unwrap_or(self.regions.len());
            if let Some(us) = flow.rtt_us.filter(|_| news > 0)
                && let Some(rtt) = self.rtt.get_mut(region)
            {
                // Two digits are always a valid precision, and it may grow.
                if rtt.is_none() {
                    *rtt = Histogram::new(2).ok();
                }
                if let Some(rtt) = rtt {
                    let _ = rtt.record_n(u64::from(us).clamp(1, MAX_RTT_US), news);
                }
            }
        }
        while self.clients.len() > MAX_CLIENTS || self.flows.len() > MAX_FLOWS {
            self.level += 1;
            let level = self.level;
            self.clients.retain(|key, _| counts(*key, level));
            self.flows.retain(|_, known| counts(known.client, level));
        }
    }

    fn bin(&mut self, place: &Located) -> u16 {
        let region = self.regions.of(place);
        let same = |b: &Bin| b.country == place.country && b.region == region;
        let index = self.bins.iter().position(same).unwrap_or_else(|| {
            if self.bins.len() >= MAX_BINS {
                return 0;
            }
            self.bins.push(Bin { country: place.country, region, traffic: [0; SLOTS] });
            self.bins.len() - 1
        });
        u16::try_from(index).unwrap_or(0)
    }

    /// Ends the look: connections that were not seen for a while are over.
    pub fn end(&mut self) -> Look {
        let turn = self.turn;
        // The kernel's list is read in parts and may miss one; its past must not count when it is back.
        let clients = &mut self.clients;
        self.flows.retain(|_, known| {
            let there = turn.wrapping_sub(known.turn) < 3;
            if !there && let Some(client) = clients.get_mut(&known.client) {
                client.flows = client.flows.saturating_sub(1);
            }
            there
        });
        let one_of = 1u64 << self.level.min(32);
        let mut clients = vec![0u64; self.bins.len()];
        let recent = |c: &&Client| self.slot.saturating_sub(c.slot) < SLOTS as u64;
        for client in self.clients.values().filter(recent) {
            if let Some(count) = clients.get_mut(usize::from(client.bin)) {
                *count += one_of;
            }
        }
        let mut look = Look { flows: self.seen * one_of, left_out: self.left_out, one_of, ..Look::default() };
        look.regions = (0..self.regions.len())
            .map(|i| Share {
                name: self.regions.name(i).to_owned(),
                rtt_us: self.rtt.get(i).and_then(|r| median(r.as_ref())),
                ..Share::default()
            })
            .collect();
        let mut countries: Vec<Share> = Vec::new();
        for (bin, clients) in self.bins.iter().zip(clients) {
            let traffic = bin.traffic.iter().fold(0u64, |a, b| a.saturating_add(*b));
            let share = match (bin.region, bin.country) {
                (Some(region), _) => look.regions.get_mut(region),
                (None, Some(_)) => Some(&mut look.elsewhere),
                (None, None) => Some(&mut look.unplaced),
            };
            if let Some(share) = share {
                share.traffic = share.traffic.saturating_add(traffic);
                share.clients += clients;
            }
            let Some(country) = bin.country else { continue };
            let name = country.to_string();
            match countries.iter_mut().find(|c| c.name == name) {
                Some(c) => (c.traffic, c.clients) = (c.traffic.saturating_add(traffic), c.clients + clients),
                None => countries.push(Share { name, traffic, clients, rtt_us: None }),
            }
        }
        countries.retain(|c| c.clients > 0 || c.traffic > 0);
        countries.sort_by_key(|c| std::cmp::Reverse((c.traffic, c.clients)));
        countries.truncate(SHOWN);
        look.countries = countries;
        let mut all: Option<Histogram<u64>> = None;
        for rtt in self.rtt.iter().flatten().filter(|r| !r.is_empty()) {
            match &mut all {
                None => all = Some(rtt.clone()),
                // Fails only for a histogram that may not grow; this one may.
                Some(all) => drop(all.add(rtt)),
            }
        }
        look.rtt_us = median(all.as_ref());
        let few = self.clients.len() < MAX_CLIENTS / 4 && self.flows.len() < MAX_FLOWS / 4;
        self.fresh = self.level > 0 && few;
        self.level -= u32::from(self.fresh);
        if few && self.flows.capacity() > MAX_FLOWS {
            // A crowd that has gone leaves no memory behind.
            self.flows.shrink_to(MAX_FLOWS / 4);
            self.clients.shrink_to(MAX_CLIENTS / 4);
        }
        look
    }

    /// What unknown connections carried before the next look is not known to be of this window.
    pub fn forget_past(&mut self) {
        self.fresh = true;
    }

    /// Entries of the tables: connections, clients, kinds of places.
    pub fn held(&self) -> [usize; 3] {
        [self.flows.len(), self.clients.len(), self.bins.len()]
    }
}

/// Whether a client is among those that are counted: the upper bits of its hash are zero.
fn counts(key: u64, level: u32) -> bool {
    level == 0 || key >> (64 - level.min(63)) == 0
}

fn median(rtt: Option<&Histogram<u64>>) -> Option<u64> {
    rtt.filter(|r| !r.is_empty()).map(|r| r.value_at_quantile(0.5))
}
