//! What `comsctl` sees.

use super::placement::has_room;
use super::requests::Wish;
use super::{Broker, load};
use crate::action::Action;
use crate::config::Host;
use crate::control::{GuestView, HostView, Reply, Request};
use crate::event::{Caller, Now};
use crate::hypervisor::DomainState;
use crate::records::{MoveRecord, MoveState};
use coms_protocol::host_to_guest::Hosts;
use coms_protocol::types::{Fitness, HostEntry, Initiator, List, NoticeReason};
use std::time::Duration;
use uuid::Uuid;

/// A move that is further away is better ordered later.
const LONGEST_NOTICE_S: u32 = 30 * 86_400;

impl Broker {
    pub(super) fn control(&mut self, now: Now, caller: Caller, request: Request) {
        let reply = match request {
            Request::Guests => Reply::Guests { guests: self.guest_views() },
            Request::Hosts => Reply::Hosts { hosts: self.host_views(now) },
            Request::Migrations { id } => Reply::Migrations {
                migrations: self
                    .records
                    .iter()
                    .filter(|r| id.is_none_or(|id| r.migration == id))
                    .cloned()
                    .collect(),
            },
            Request::Migrate { domain, to, reason, expedite, notice_s } => match self
                .check_order(&domain, to.as_deref())
                .and_then(|uuid| Ok((uuid, check_reason(reason)?)))
            {
                Ok((uuid, reason)) => {
                    let wish = Wish {
                        only: to,
                        expedited: expedite,
                        notice: notice_s.map(|s| Duration::from_secs(s.min(LONGEST_NOTICE_S).into())),
                        ..Wish::of(Initiator::Operator, reason)
                    };
                    return self.order(now, caller, uuid, wish);
                }
                Err(text) => Reply::Refused { text },
            },
            Request::Enable { domain } => return self.set_part(caller, &domain, true),
            Request::Disable { domain } => return self.set_part(caller, &domain, false),
            Request::Cancel { id } => return self.cancel_by_id(now, caller, id),
            Request::Pause { let_finish } => return self.pause(now, caller, let_finish),
            Request::Resume => return self.resume(caller),
            Request::Reload => return self.out.push(Action::ReadConfig { caller: Some(caller) }),
            Request::Standing => Reply::Standing { standing: self.standing_view() },
        };
        self.out.push(Action::Reply { caller, reply: Box::new(reply) });
    }

    pub(super) fn check_order(&self, domain: &str, to: Option<&str>) -> Result<Uuid, String> {
        if let Some(to) = to
            && !self.config.peers.iter().any(|p| p.name == to)
        {
            let names: Vec<_> = self.config.peers.iter().map(|p| p.name.as_str()).collect();
            return Err(format!("`{to}` is no other host of this broker; it knows {}", list(&names)));
        }
        let by_uuid = Uuid::parse_str(domain).ok().filter(|u| self.guests.contains_key(u));
        let by_name = || self.guests.values().find(|g| g.domain.name == domain).map(|g| g.domain.uuid);
        by_uuid.or_else(by_name).ok_or_else(|| {
            let names: Vec<_> = self.guests.values().map(|g| g.domain.name.as_str()).collect();
            format!("no domain `{domain}` on this host; it has {}", list(&names))
        })
    }

    /// Where a guest may run, as it may know it. One that takes no part learns of no other host.
    pub(super) fn hosts_for(&mut self, now: Now, uuid: Uuid, number: u64) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let peers = match self.takes_part(&guest.domain) {
            true => self.config.peers.as_slice(),
            false => &[],
        };
        let here = HostEntry { place: self.place_for(uuid, &self.config.me), fitness: Fitness::Here };
        let others = peers.iter().map(|peer| HostEntry {
            place: self.place_for(uuid, peer),
            fitness: self.fitness(now, peer, guest.domain.memory_kib),
        });
        let hosts = List::clipped(std::iter::once(here).chain(others));
        let all = u16::try_from(peers.len() + 1).unwrap_or(u16::MAX);
        self.tell(uuid, Hosts { number, hosts, all });
    }

    fn fitness(&self, now: Now, peer: &Host, memory_kib: u64) -> Fitness {
        let history = self.hosts.get(&peer.name).filter(|h| h.is_fresh(now.mono));
        let Some(load) = history.and_then(|h| h.load(peer.cpus, peer.memory_kib)) else {
            return Fitness::Silent;
        };
        let needs_broker = self.config.limits.require_broker;
        if needs_broker && history.and_then(|h| h.broker(now.mono)).is_none() {
            return Fitness::NoBroker;
        }
        match has_room(&load, memory_kib) {
            Ok(()) => Fitness::Fit,
            Err(_) => Fitness::Full,
        }
    }

    fn guest_views(&self) -> Vec<GuestView> {
        let mut views: Vec<GuestView> = self
            .guests
            .values()
            .filter(|g| g.domain.channel.is_some())
            .map(|g| GuestView {
                name: g.domain.name.clone(),
                uuid: g.domain.uuid,
                enabled: self.takes_part(&g.domain),
                state: state_name(g.domain.state).into(),
                agent: g.agent.clone(),
                migration: g.mv.plan().map(|p| p.migration),
                last_moved_unix_ms: self
                    .last_moved_unix_ms(g.domain.uuid)
                    .max(self.last_random_unix_ms(g.domain.uuid)),
            })
            .collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// When it last moved at random, as far back as there are records.
    fn last_random_unix_ms(&self, uuid: Uuid) -> Option<u64> {
        let moved = |r: &&MoveRecord| {
            r.uuid == uuid
                && r.initiator == Initiator::Random
                && matches!(r.state, MoveState::Left | MoveState::Arrived | MoveState::Completed)
        };
        self.records.iter().filter(moved).filter_map(|r| r.ended_unix_ms).max()
    }

    fn host_views(&self, now: Now) -> Vec<HostView> {
        let all = std::iter::once(&self.config.me).chain(&self.config.peers);
        all.map(|host| {
            let history = self.hosts.get(&host.name);
            let load = history.and_then(|h| h.load(host.cpus, host.memory_kib));
            HostView {
                name: host.name.clone(),
                region: host.region.clone(),
                this_host: host.name == self.config.me.name,
                answers: history.is_some_and(|h| h.is_fresh(now.mono)),
                trouble: history.and_then(|h| h.trouble.clone()),
                cpus: load.as_ref().map(|l| l.cpus),
                load_per_cpu: load.as_ref().and_then(|l| l.per_cpu),
                memory_mib: load.as_ref().map(|l| l.memory_kib / 1024),
                committed_mib: load.as_ref().map(|l| l.committed_kib / 1024),
                domains: load.as_ref().map(|l| l.domains),
                broker: history.and_then(|h| h.broker(now.mono)).map(|m| m.broker.clone()),
                clock_ahead_ms: history.and_then(load::History::ahead_ms),
                certificate_sha256: history.and_then(|h| h.broker(now.mono)).and_then(|m| m.tls.clone()),
            }
        })
        .collect()
    }
}

/// Of the reasons that a notice may give, those that an operator may have.
fn check_reason(reason: Option<NoticeReason>) -> Result<NoticeReason, String> {
    match reason.unwrap_or(NoticeReason::Unstated) {
        r @ (NoticeReason::Maintenance | NoticeReason::Balance | NoticeReason::Unstated) => Ok(r),
        r @ (NoticeReason::Workload
        | NoticeReason::Manual
        | NoticeReason::Schedule
        | NoticeReason::Random
        | NoticeReason::Clients
        | NoticeReason::Unknown(_)) => {
            Err(format!("`{r}` is a guest's reason; an operator's are maintenance and balance"))
        }
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn state_name(state: DomainState) -> &'static str {
    match state {
        DomainState::Running { .. } => "running",
        DomainState::RunningPostCopy => "running-post-copy",
        DomainState::Incoming => "incoming",
        DomainState::Paused { .. } => "paused",
        DomainState::ShutOff => "shut-off",
        DomainState::Other => "other",
    }
}
