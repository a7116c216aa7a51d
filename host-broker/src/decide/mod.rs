//! What the broker decides. Pure: events, time and random ids in; actions and records out. No IO, no clock.
//!
//! ```text
//!   requests    a guest or the operator wants a move     steps 3 and 4 of the flow (ARCHITECTURE.md)
//!   moves       a domain leaves this host                steps 5 and 6, and every way they can fail
//!   cancel      moves that are not wanted any more       recovery  what a former broker or a broken move left
//!   arrivals    a domain comes to this host              steps 7 to 10
//!   admission   may it be moved now?                     placement  where to?     load  how busy is a host?
//!   standing    what does a ticket in a domain mean?     views      what comsctl sees
//!   alarms      what somebody should look at          reload    the configuration changes
//!   random      moves at random times
//!   announce    a guest is asked before it is moved    foreign    moves that this broker did not begin
//!   part        who may take part
//! ```
//!
//! libvirt is the truth about where a VM is; this is only what we make of it. Each domain is looked at afresh
//! after every event about it ([`Broker::seen`]), and what must hold is restored from there, so a lost event
//! costs time and nothing else.

pub mod admission;
mod alarms;
mod announce;
mod arrivals;
mod cancel;
mod foreign;
mod guest;
pub mod load;
mod moves;
mod part;
pub mod placement;
pub mod random;
mod recovery;
mod reload;
mod requests;
mod standing;
#[cfg(test)]
mod tests;
mod views;

use crate::action::{Action, Level};
use crate::alias::AliasKey;
use crate::announced::{Kept, Stays};
use crate::config::{Config, Host};
use crate::control::Alarm;
use crate::event::{Event, LinkEvent, Now};
use crate::hypervisor::{Domain, DomainState, HvError, HvEvent, Mark};
use crate::records::{MoveRecord, MoveState};
use admission::Denial;
use coms_protocol::guest_to_host::GuestToHost;
use coms_protocol::host_to_guest::{HostHello, HostToGuest};
use coms_protocol::types::{DenyReason, Initiator, MigrationId, Place, Text};
use guest::{Came, Guest, Move};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use uuid::Uuid;

/// Moves remembered for `comsctl migrations`.
const RECORDS: usize = 500;
/// ... of which refusals to any one guest.
const REFUSALS: usize = 8;
/// All domains are listed anew this often, and this soon after an answer that failed.
const RELIST: Duration = Duration::from_secs(60);
const RELIST_SOON: Duration = Duration::from_secs(2);
/// While somebody else moves the domain, libvirt takes 30 s to refuse a change of its metadata: one try at a
/// time, so that they do not take the place of other guests' tickets.
const CLEAR_LIMIT: Duration = Duration::from_secs(40);
const CLEAR_AGAIN: Duration = Duration::from_secs(5);
/// How long a guest's last move is shown, at least.
const MOVED_KEPT: Duration = Duration::from_secs(7 * 86_400);
/// A domain whose state is unclear is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The broker of one host.
pub struct Broker {
    config: Config,
    aliases: AliasKey,
    /// Random ids; an argument so that tests can repeat a run.
    draw: Box<dyn FnMut() -> u64 + Send>,
    /// libvirt's UUID of this host. Tickets mean nothing until it is known.
    my_uuid: Option<Uuid>,
    hosts: BTreeMap<String, load::History>,
    guests: BTreeMap<Uuid, Guest>,
    records: VecDeque<MoveRecord>,
    /// When each guest last moved, but at random: those moves have a budget of their own.
    moved_unix_ms: BTreeMap<Uuid, u64>,
    /// Customers' moves are paused by the operator.
    paused: bool,
    /// What a former broker announced to domains that were not seen yet, and all that a next one is to know.
    to_take_up: BTreeMap<Uuid, Kept>,
    kept: Vec<Kept>,
    /// Which domains are here. None: no broker was here before.
    stays: Option<Stays>,
    stays_touched: bool,
    /// All domains were listed since the start.
    listed: bool,
    /// The local libvirt answers.
    connected: bool,
    /// The next sign of life for the other hosts' brokers.
    beat: u64,
    beat_at: Duration,
    alarms: BTreeMap<(alarms::Kind, Option<Uuid>), Alarm>,
    /// No guest is moved for relief before that; and measurements from before `relieved_at` do not count.
    relief_rest_until: Duration,
    relieved_at: Duration,
    /// When a guest's last move failed.
    failed_at: BTreeMap<Uuid, Duration>,
    /// Connected, and not yet told what is here: what the next list brings, began unseen.
    first_list_due: bool,
    /// All domains are listed again then: an answer that failed or an event that was lost costs time only.
    relist_at: Duration,
    /// When the configuration in force was read.
    config_read_unix_ms: Option<u64>,
    /// The wall clock of the event in hand.
    unix_ms: u64,
    /// A record may have come into another state.
    records_touched: bool,
    out: Vec<Action>,
}

impl Broker {
    /// `past` is what an earlier run recorded, oldest first.
    pub fn new(
        config: Config,
        aliases: AliasKey,
        past: Vec<MoveRecord>,
        draw: Box<dyn FnMut() -> u64 + Send>,
    ) -> Self {
        let hosts = std::iter::once(&config.me)
            .chain(&config.peers)
            .map(|h| (h.name.clone(), load::History::default()))
            .collect();
        let skip = past.len().saturating_sub(RECORDS);
        let moved =
            |r: &&MoveRecord| matches!(r.state, MoveState::Left | MoveState::Arrived | MoveState::Completed);
        let charged = |r: &&MoveRecord| r.initiator != Initiator::Random;
        let moved_unix_ms = past
            .iter()
            .filter(moved)
            .filter(charged)
            .filter_map(|r| Some((r.uuid, r.ended_unix_ms?)))
            .collect();
        Self {
            config,
            aliases,
            draw,
            my_uuid: None,
            hosts,
            guests: BTreeMap::new(),
            records: past.into_iter().skip(skip).collect(),
            moved_unix_ms,
            paused: false,
            to_take_up: BTreeMap::new(),
            kept: Vec::new(),
            stays: None,
            stays_touched: false,
            listed: false,
            connected: false,
            beat: 0,
            beat_at: Duration::ZERO,
            alarms: BTreeMap::new(),
            relief_rest_until: Duration::ZERO,
            relieved_at: Duration::ZERO,
            failed_at: BTreeMap::new(),
            first_list_due: false,
            relist_at: Duration::ZERO,
            config_read_unix_ms: None,
            unix_ms: 0,
            records_touched: false,
            out: Vec::new(),
        }
    }

    /// As the operator left it.
    pub fn paused(self, paused: bool) -> Self {
        Self { paused, ..self }
    }

    /// What a former broker announced, and which domains it had.
    pub fn after(self, announced: Vec<Kept>, stays: Option<Stays>) -> Self {
        let to_take_up = announced.iter().map(|k| (k.uuid, k.clone())).collect();
        Self { to_take_up, kept: announced, stays, ..self }
    }

    /// Takes one event; returns what is to be done, in order.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Action> {
        self.unix_ms = now.unix_ms;
        // A broker reads it right before it begins.
        self.config_read_unix_ms.get_or_insert(now.unix_ms);
        match event {
            Event::Hypervisor(event) => self.hypervisor(now, event),
            Event::Domains(Ok(domains)) => {
                self.relist_at = now.mono + RELIST;
                self.all_seen(now, domains);
                self.first_list_due = false;
                self.listed = true;
                self.stays_touched = true;
                self.drop_what_is_not_here(now);
            }
            Event::Domains(Err(e)) => {
                self.relist_at = now.mono + RELIST_SOON;
                // Without a connection that has been said already, or the first one is just being made.
                if self.connected {
                    self.log(Level::Warn, None, format!("listing the domains: {e}"));
                }
            }
            Event::Domain { uuid, result: Ok(domain) } => {
                debug_assert_eq!(uuid, domain.uuid);
                self.seen(now, domain);
            }
            Event::Domain { uuid, result: Err(e) } => self.unseen(now, uuid, &e),
            Event::Sampled { host, result } => self.sampled(now, &host, result),
            Event::Link { uuid, event } => self.link(now, uuid, event),
            Event::Surveyed { uuid, migration, domain, answers } => {
                self.surveyed(now, uuid, migration, domain.map(|d| *d), &answers);
            }
            Event::TicketWritten { uuid, migration, result } => {
                self.ticket_written(now, uuid, migration, result)
            }
            Event::TicketCleared { uuid, result } => self.ticket_cleared(now, uuid, result),
            Event::ScheduleWritten { uuid, result } => self.schedule_written(now, uuid, result),
            Event::PartSet { caller, uuid, on, result } => self.part_set(caller, uuid, on, result),
            Event::Progress { uuid, migration, figures } => self.progress(now, uuid, migration, &figures),
            Event::Watched { uuid, migration } => self.watched(uuid, migration),
            Event::Returned { uuid, migration, result } => self.returned(now, uuid, migration, result),
            Event::Figures { uuid, migration, figures } => {
                self.arrival_figures(now, uuid, migration, figures.as_deref())
            }
            Event::Elsewhere { uuid, answers } => self.elsewhere(now, uuid, &answers),
            Event::Resumed { uuid, result } => self.resumed(uuid, result),
            Event::Marked(result) => self.marked(now, result),
            Event::Reloaded { caller, config } => self.reloaded(now, caller, config),
            Event::Control { caller, request } => self.control(now, caller, request),
            Event::Tick => self.tick(now),
        }
        if std::mem::take(&mut self.records_touched) {
            self.records.iter_mut().for_each(|r| r.note_step(now.unix_ms));
        }
        if std::mem::take(&mut self.stays_touched) {
            self.keep_stays();
        }
        std::mem::take(&mut self.out)
    }

    fn hypervisor(&mut self, now: Now, event: HvEvent) {
        match event {
            HvEvent::Connected => {
                self.first_list_due = true;
                self.connected = true;
                self.beat_at = now.mono;
                self.log(Level::Info, None, "connected to libvirt".into());
                self.out.extend([Action::SampleMe, Action::ListDomains]);
            }
            HvEvent::Disconnected { detail } => {
                self.connected = false;
                self.log(Level::Warn, None, format!("lost libvirt, trying again: {detail}"));
            }
            // The first look at an incoming domain finds its port's socket; attach before it runs here.
            HvEvent::Incoming { uuid } | HvEvent::Changed { uuid } => self.out.push(Action::Look { uuid }),
            HvEvent::Arrived { uuid } => self.arrived(now, uuid),
            // Runs here, but fails if the rest of its memory is lost: not arrived before Finish.
            HvEvent::ArrivedPostCopy { .. } => {}
            HvEvent::SwitchingOver { uuid } => self.switching_over(now, uuid),
            HvEvent::Left { uuid } => self.left(now, uuid),
            HvEvent::Gone { uuid } => self.out.push(Action::Look { uuid }),
            HvEvent::Iteration { uuid, round } => self.iteration(now, uuid, round),
            HvEvent::JobCompleted { uuid, figures } => self.job_completed(uuid, &figures),
        }
    }

    fn all_seen(&mut self, now: Now, domains: Vec<Domain>) {
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
    fn seen(&mut self, now: Now, domain: Domain) {
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
        self.answer_waiting(uuid);
    }

    fn unseen(&mut self, now: Now, uuid: Uuid, error: &HvError) {
        match error {
            HvError::NoDomain { .. } => self.forget(now, uuid),
            // Known already from the connection; what matters is looked at again.
            HvError::Unreachable { .. } | HvError::Busy { .. } => {
                self.relist_at = self.relist_at.min(now.mono + RELIST_SOON);
            }
            HvError::Refused { .. }
            | HvError::RefusedThere { .. }
            | HvError::Aborted { .. }
            | HvError::Other { .. } => {
                self.log(Level::Warn, Some(uuid), error.to_string());
            }
        }
    }

    /// The domain is not on this host (any more).
    fn forget(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        if guest.attached.take().is_some() {
            guest.agent = None;
            self.out.push(Action::Detach { uuid });
        }
        match &guest.mv {
            // The call is about to tell whether it left or was destroyed on the way.
            Move::Running { .. } => return,
            Move::Unclear { .. } => self.left(now, uuid),
            Move::Announced { .. } | Move::Choosing(_) | Move::WritingTicket { .. } => {
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
    fn keep_stays(&mut self) {
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

    fn sampled(&mut self, now: Now, host: &str, result: Result<crate::hypervisor::HostSample, HvError>) {
        let is_me = host == self.config.me.name;
        let Some(history) = self.hosts.get_mut(host) else { return };
        match result {
            Ok(sample) => {
                if is_me && self.my_uuid.is_none() && sample.host_uuid.is_some() {
                    self.my_uuid = sample.host_uuid;
                    // Tickets could not be read before.
                    self.out.push(Action::ListDomains);
                }
                history.add(now.mono, now.unix_ms, sample);
            }
            // Said already, as above.
            Err(_) if is_me && !self.connected => {}
            Err(e) => {
                if history.trouble.is_none() {
                    let text = format!("host {host} does not answer: {e}");
                    history.trouble = Some(e.to_string());
                    self.log(Level::Warn, None, text);
                } else {
                    history.trouble = Some(e.to_string());
                }
            }
        }
    }

    fn link(&mut self, now: Now, uuid: Uuid, event: LinkEvent) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        match event {
            LinkEvent::Established { hello, new_peer } => {
                guest.agent = Some(hello.agent.to_string());
                guest.waiting = hello.waiting.as_slice().to_vec();
                if new_peer {
                    guest.attend = None;
                }
                self.settled(alarms::Kind::Silent, Some(uuid));
                self.answer_waiting(uuid);
                if new_peer {
                    self.let_go(now, uuid);
                    self.tell_announced(now, uuid);
                }
            }
            LinkEvent::Lost => {
                guest.agent = None;
                self.let_go(now, uuid);
            }
            LinkEvent::Said(GuestToHost::Request(request)) => self.request(now, uuid, request),
            // Answered on the spot by the link: they ask nothing of the broker.
            LinkEvent::Said(GuestToHost::Cancel(cancel)) => {
                self.cancelled_by_guest(now, uuid, cancel.request)
            }
            LinkEvent::Said(GuestToHost::Ping(_) | GuestToHost::TimeQuery(_)) => {}
            LinkEvent::Said(GuestToHost::Attend(m)) => self.attend(now, uuid, m),
            LinkEvent::Said(GuestToHost::Ready(m)) => self.ready(now, uuid, m),
            LinkEvent::Said(GuestToHost::Hold(m)) => self.hold(now, uuid, m),
            LinkEvent::Said(GuestToHost::Postpone(m)) => self.postpone(now, uuid, m),
            LinkEvent::Said(GuestToHost::Veto(m)) => self.veto(now, uuid, m),
            LinkEvent::Said(GuestToHost::HostsQuery(m)) => self.hosts_for(now, uuid, m.number),
            LinkEvent::Said(GuestToHost::RandomStart(start)) => self.random_start(now, uuid, start),
            LinkEvent::Said(GuestToHost::RandomStop(stop)) => self.random_stop(now, uuid, stop.number),
            LinkEvent::Said(GuestToHost::RandomQuery(query)) => self.random_query(now, uuid, query.number),
            LinkEvent::Delivered(HostToGuest::Completed(c)) => {
                self.completed_delivered(now, uuid, c.migration)
            }
            LinkEvent::Delivered(_) => {}
        }
    }

    fn tick(&mut self, now: Now) {
        if self.relist_at <= now.mono {
            self.relist_at = now.mono + RELIST;
            self.out.push(Action::ListDomains);
        }
        if self.connected && self.beat_at <= now.mono {
            self.beat_at = now.mono + load::BEAT;
            self.beat = self.beat.wrapping_add(1);
            let broker = concat!("coms-broker ", env!("CARGO_PKG_VERSION")).to_owned();
            self.out.push(Action::Beat(Mark { broker, beat: self.beat, unix_ms: now.unix_ms }));
        }
        let keep_ms = self.config.limits.cooldown.max(MOVED_KEPT).as_millis() as u64;
        self.moved_unix_ms.retain(|_, at| at.saturating_add(keep_ms) > now.unix_ms);
        let uuids: Vec<Uuid> = self.guests.keys().copied().collect();
        for uuid in uuids {
            self.time_limit(now, uuid);
            self.announced_tick(now, uuid);
            self.foreign_tick(now, uuid);
            let Some(guest) = self.guests.get_mut(&uuid) else { continue };
            if let Move::Unclear { looked, .. } = &mut guest.mv
                && *looked + LOOK_AGAIN <= now.mono
            {
                *looked = now.mono;
                self.out.push(Action::Look { uuid });
            }
            if guest.undecided && guest.looked + LOOK_AGAIN <= now.mono {
                guest.looked = now.mono;
                self.out.push(Action::Look { uuid });
            }
            if guest.clear_ticket_at.is_some_and(|at| at <= now.mono) && guest.mv.is_none() {
                guest.clear_ticket_at = Some(now.mono + CLEAR_LIMIT);
                self.out.push(Action::ClearTicket { uuid });
            }
            self.arrival_tick(now, uuid);
            self.random_tick(now, uuid);
        }
    }

    fn marked(&mut self, now: Now, result: Result<(), HvError>) {
        match result {
            Ok(()) => self.settled(alarms::Kind::NoMark, None),
            // Known already, and the next sign follows.
            Err(HvError::Unreachable { .. }) => {}
            Err(e) => {
                let text = format!(
                    "other hosts cannot see this broker and do not choose this host: {e}; libvirt needs its secret \
                     driver, or their [limits] require_broker = false"
                );
                self.raise(now, alarms::Kind::NoMark, None, text);
            }
        }
    }

    fn ticket_cleared(&mut self, now: Now, uuid: Uuid, result: Result<(), HvError>) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        match result {
            Ok(()) => {
                guest.clear_ticket_at = None;
                guest.domain.ticket_xml = None;
            }
            // Tried again by the clock.
            Err(HvError::NoDomain { .. }) => {}
            Err(e) => {
                guest.clear_ticket_at = Some(now.mono + CLEAR_AGAIN);
                self.log(Level::Warn, Some(uuid), format!("the ticket stays for now: {e}"));
            }
        }
    }

    /// Takes the ticket out of the domain, now and again until it is gone.
    fn clear_ticket(&mut self, now: Now, uuid: Uuid) {
        if let Some(guest) = self.guests.get_mut(&uuid) {
            guest.clear_ticket_at = Some(now.mono + CLEAR_LIMIT);
            self.out.push(Action::ClearTicket { uuid });
        }
    }

    fn tell(&mut self, uuid: Uuid, message: impl Into<HostToGuest>) {
        self.out.push(Action::Tell { uuid, message: message.into() });
    }

    fn log(&mut self, level: Level, guest: Option<Uuid>, text: String) {
        self.out.push(Action::Log { level, guest, text });
    }

    fn hello_for(&self, domain: &Domain) -> HostHello {
        HostHello { place: self.place_for(domain.uuid, &self.config.me), enabled: self.takes_part(domain) }
    }

    /// A host as this guest may know it.
    fn place_for(&self, guest: Uuid, host: &Host) -> Place {
        Place { alias: self.aliases.alias(guest, &host.name), region: Text::clipped(&host.region) }
    }

    /// The configured host with this libvirt UUID, if it was ever sampled.
    fn host_by_uuid(&self, uuid: Uuid) -> Option<&Host> {
        let (name, _) =
            self.hosts.iter().find(|(_, h)| h.latest().and_then(|s| s.host_uuid) == Some(uuid))?;
        self.config.host(name)
    }

    fn record_mut(&mut self, migration: MigrationId) -> Option<&mut MoveRecord> {
        self.records_touched = true;
        self.records.iter_mut().rev().find(|r| r.migration == migration)
    }

    fn add_record(&mut self, mut record: MoveRecord) {
        record.note_step(self.unix_ms);
        let refused = |r: &MoveRecord| r.state == MoveState::Denied;
        let own = |r: &&MoveRecord| r.uuid == record.uuid && refused(r);
        if self.records.iter().filter(own).count() >= REFUSALS
            && let Some(oldest) = self.records.iter().position(|r| own(&r))
        {
            self.records.remove(oldest);
        }
        if self.records.len() >= RECORDS {
            // Refusals first, which cost a guest nothing; never one that is still being written.
            let oldest = self.records.iter().position(refused);
            let oldest = oldest.or_else(|| self.records.iter().position(|r| r.state.is_final()));
            self.records.remove(oldest.unwrap_or(0));
        }
        self.records.push_back(record);
    }

    /// Keeps a finished (or arriving) move across restarts.
    fn save_record(&mut self, migration: MigrationId) {
        let unix_ms = self.unix_ms;
        if let Some(record) = self.record_mut(migration) {
            record.note_step(unix_ms);
            let record = Box::new(record.clone());
            self.out.push(Action::Record(record));
        }
    }

    /// When this guest last moved, from either end.
    fn last_moved_unix_ms(&self, uuid: Uuid) -> Option<u64> {
        self.moved_unix_ms.get(&uuid).copied()
    }

    /// Apart from the records, which are as many as they are: no guest can crowd out another's rest.
    fn moved(&mut self, uuid: Uuid, unix_ms: u64, by: Initiator) {
        if by != Initiator::Random {
            self.moved_unix_ms.insert(uuid, unix_ms);
        }
    }
}
