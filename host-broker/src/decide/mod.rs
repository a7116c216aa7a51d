//! What the broker decides. Pure: events, time and random ids in; actions and records out. No IO, no clock.
//!
//! ```text
//!   seen        what libvirt shows of each domain        heard    what guests' links bring
//!   requests    a guest or the operator wants a move     step 3 of the flow (ARCHITECTURE.md)
//!   choice      where to?                                step 4
//!   moves       a domain leaves this host                steps 5 and 6, and every way they can fail
//!   cancel      moves that are not wanted any more       recovery  what a former broker or a broken move left
//!   arrivals    a domain comes to this host              steps 7 to 10
//!   admission   may it be moved now?                     placement  which host?   load  how busy is a host?
//!   standing    what does a ticket in a domain mean?     views      what comsctl sees
//!   alarms      what somebody should look at          reload    the configuration changes
//!   random      moves at random times
//!   announce    a guest is asked before it is moved    foreign    moves that this broker did not begin
//!   part        who may take part                      past       the moves that were
//!   encryption  how well must a move be encrypted, and can it be?
//!   isolation   does memory leave by the migration network only?
//!   geo         how far are regions?                  way, network  is the way there fit, does the VM's network go along?
//!   disks       images that a move needs at its destination
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
mod choice;
mod disks;
pub mod encryption;
mod foreign;
pub mod geo;
mod guest;
mod heard;
mod isolation;
pub mod load;
mod moves;
mod network;
mod part;
mod past;
pub mod placement;
pub mod random;
mod recovery;
mod reload;
mod requests;
mod seen;
mod standing;
#[cfg(test)]
mod tests;
mod views;
pub mod way;

use crate::action::{Action, Level};
use crate::alias::AliasKey;
use crate::announced::{Kept, Stays};
use crate::config::{Config, Host};
use crate::control::Alarm;
use crate::event::{Event, Now};
use crate::hypervisor::{Domain, HvError, HvEvent, Mark};
use crate::isolation::LinkFacts;
use crate::network::{LinkFigures, Stretch};
use crate::records::{MoveRecord, MoveState};
use crate::storage::Made;
use coms_protocol::host_to_guest::{HostHello, HostToGuest};
use coms_protocol::types::{Initiator, Place, Text};
use guest::{Guest, Move};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use uuid::Uuid;

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
    /// What was measured of the ways to other hosts, or why it could not be, and when.
    links: BTreeMap<String, (Duration, Result<LinkFigures, String>)>,
    /// The migration network as it was seen last, why the latest look failed; since when it is the configured one.
    migration_link: Option<(Duration, LinkFacts)>,
    link_trouble: Option<String>,
    /// Looks that were asked for since.
    link_asked: u32,
    link_since: Duration,
    /// Networks that are stretched for VMs, by the VM.
    stretches: BTreeMap<Uuid, network::Held>,
    /// Images made at destinations for moves, by the VM.
    made: BTreeMap<Uuid, disks::Held>,
    made_unread: Option<String>,
    /// Those of which nobody knows whether they are there, by the VM.
    perhaps_left: BTreeMap<Uuid, crate::storage::Made>,
    /// Moves that choose as soon as every host was looked at.
    to_survey: Vec<Uuid>,
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
    /// When TLS with a host did not come about, although both have certificates.
    tls_failed: BTreeMap<String, Duration>,
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
        let skip = past.len().saturating_sub(past::RECORDS);
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
            links: BTreeMap::new(),
            migration_link: None,
            link_trouble: None,
            link_asked: 0,
            link_since: Duration::ZERO,
            stretches: BTreeMap::new(),
            made: BTreeMap::new(),
            made_unread: None,
            perhaps_left: BTreeMap::new(),
            to_survey: Vec::new(),
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
            tls_failed: BTreeMap::new(),
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

    /// Some VM's network is stretched from here, or to here.
    pub fn stretches_networks(&self) -> bool {
        !self.stretches.is_empty()
    }

    /// The networks that a former broker had stretched.
    pub fn stretched(self, kept: Vec<Stretch>) -> Self {
        let stretches = kept.into_iter().map(|s| (s.input.vm, network::Held::new(s))).collect();
        Self { stretches, ..self }
    }

    /// The images that a former broker had made at destinations, or why it is not known which.
    pub fn with_disks(self, kept: Vec<Made>, made_unread: Option<String>) -> Self {
        let made = kept.into_iter().map(|m| (m.vm, disks::Held::found(m))).collect();
        Self { made, made_unread, ..self }
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
            Event::DisksMade { uuid, migration, result } => self.disks_made(now, uuid, migration, result),
            Event::DisksRemoved { uuid, migration, result } => {
                self.disks_removed(now, uuid, migration, result)
            }
            Event::SourceRemoved { uuid, migration, result } => self.source_removed(uuid, migration, result),
            Event::TicketWritten { uuid, migration, result } => {
                self.ticket_written(now, uuid, migration, result)
            }
            Event::TicketCleared { uuid, result } => self.ticket_cleared(now, uuid, result),
            Event::ScheduleWritten { uuid, result } => self.schedule_written(now, uuid, result),
            Event::SealWritten { uuid, result } => self.seal_written(now, uuid, result),
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
            Event::Measured { uuid, migration, host, result } => {
                self.measured(now, uuid, migration, &host, result)
            }
            Event::MigrationLink(result) => self.link_seen(now, result.map(|facts| *facts)),
            Event::StepDone { uuid, verb, result } => self.step_done(now, uuid, verb, result),
            Event::PeerAnswered { ask, result } => self.peer_answered(now, &ask, result),
            Event::PeerAsked { caller, host, ask } => self.peer_asked(now, caller, &host, *ask),
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
            HvEvent::Gone { uuid } => {
                self.disks_of_ended(uuid);
                self.out.push(Action::Look { uuid });
            }
            HvEvent::Iteration { uuid, round } => self.iteration(now, uuid, round),
            HvEvent::JobCompleted { uuid, figures } => self.job_completed(uuid, &figures),
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
        self.survey_waiting(now);
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
            self.out.push(Action::Beat(Mark {
                broker,
                beat: self.beat,
                unix_ms: now.unix_ms,
                stretched: self.stretched_bridges(),
                tls: None,
            }));
        }
        let keep_ms = self.config.limits.cooldown.max(MOVED_KEPT).as_millis() as u64;
        self.moved_unix_ms.retain(|_, at| at.saturating_add(keep_ms) > now.unix_ms);
        let uuids: Vec<Uuid> = self.guests.keys().copied().collect();
        for uuid in uuids {
            self.time_limit(now, uuid);
            self.announced_tick(now, uuid);
            self.connecting_tick(now, uuid);
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
            self.seal_tick(now, uuid);
        }
        self.look_at_link();
        self.watch_link(now);
        self.network_tick(now);
        self.disks_tick(now);
        self.survey_waiting(now);
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
}
