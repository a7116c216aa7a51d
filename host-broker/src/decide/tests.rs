//! The broker's decisions as scripts: the world that they play in.

#![expect(clippy::wildcard_enum_match_arm, reason = "a script looks for what it is about")]

mod announce;
mod arrivals;
mod blame;
mod bounds;
mod disks;
mod encryption;
mod foreign;
mod geo;
mod isolation;
mod orders;
mod part;
mod recovery;
mod reload;
mod requests;

use super::Broker;
use crate::action::Action;
use crate::alias::AliasKey;
use crate::config::Config;
use crate::event::{Answer, Elsewhere, Event, LinkEvent, Now};
use crate::hypervisor::{
    Domain, DomainSample, DomainState, HostSample, HvError, HvEvent, JobFigures, Mark, Needs, VcpuTimes,
};
use crate::ticket::Ticket;
use coms_protocol::guest_to_host::{GuestHello, GuestToHost, Request, Waiting, Wishes};
use coms_protocol::host_to_guest::HostToGuest;
use coms_protocol::types::{
    DenyReason, FailReason, Initiator, List, MigrationId, RequestId, RequestReason, Text,
};
use proptest::prelude::*;
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

use super::guest::Guest;
use coms_protocol::guest_to_host::{Attend, Hold, Postpone, Ready, Veto};
use coms_protocol::types::Cause;

const VM: Uuid = Uuid::from_u128(7);
const H1: Uuid = Uuid::from_u128(0xa1);
const H2: Uuid = Uuid::from_u128(0xa2);

/// A broker and everything it has asked of the world so far.
struct World {
    broker: Broker,
    now: Now,
    actions: Vec<Action>,
}

fn config(me: &str, other: &str) -> Config {
    let text = format!(
        "[host]\nname = \"{me}\"\nregion = \"r\"\n[[hosts]]\nname = \"{other}\"\nregion = \"s\"\n\
         libvirt = \"qemu+tcp://{other}/system\"\n[guests]\nenabled = [\"vm*\"]\n[limits]\ncooldown_s = 60\n"
    );
    Config::parse(Path::new("broker.toml"), &text).unwrap()
}

/// A look at a host whose broker shows this sign of life.
fn sample(host_uuid: Uuid, beat: u64) -> HostSample {
    let broker = Some(Mark { broker: "test".into(), beat, unix_ms: 0, stretched: Vec::new(), tls: None });
    HostSample { cpus: 1, memory_kib: 16 << 20, host_uuid: Some(host_uuid), domains: Vec::new(), broker }
}

fn domain(state: DomainState) -> Domain {
    Domain {
        uuid: VM,
        name: "vm1".into(),
        state,
        persistent: true,
        autostart: false,
        channel: Some("/chan".into()),
        memory_kib: 1 << 20,
        vcpus: 1,
        needs: Needs { virt_type: "qemu".into(), arch: "x86_64".into(), machine: "pc".into() },
        ticket_xml: None,
        random_xml: None,
        seal_xml: None,
        permitted: false,
        interfaces: Vec::new(),
        storage: Default::default(),
        job_active: false,
    }
}

fn other_error() -> HvError {
    HvError::Other { operation: "migrate", code: 1, domain: 1, detail: "qemu+tcp://h2/system said no".into() }
}

impl World {
    /// Host `me` with the other host answering, nothing running.
    fn new(me: &str, other: &str, my_uuid: Uuid, other_uuid: Uuid) -> World {
        let mut counter = 0;
        let draw = Box::new(move || {
            counter += 1;
            counter
        });
        let broker = Broker::new(config(me, other), AliasKey::new(b"k"), Vec::new(), draw);
        let now = Now { mono: Duration::from_secs(100), unix_ms: 1_000_000 };
        let mut world = World { broker, now, actions: Vec::new() };
        world.event(Event::Hypervisor(HvEvent::Connected));
        world.event(Event::Domains(Ok(Vec::new())));
        for beat in 0..2 {
            world.event(Event::Sampled { host: me.into(), result: Ok(sample(my_uuid, beat)) });
            world.event(Event::Sampled { host: other.into(), result: Ok(sample(other_uuid, beat)) });
            world.pass(2);
        }
        world
    }

    fn source() -> World {
        let mut world = World::new("h1", "h2", H1, H2);
        world.look(domain(DomainState::Running { arrived: false }));
        world.hello(&[]);
        world
    }

    fn destination() -> World {
        World::new("h2", "h1", H2, H1)
    }

    fn pass(&mut self, seconds: u64) {
        self.now.mono += Duration::from_secs(seconds);
        self.now.unix_ms += seconds * 1000;
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        let actions = self.broker.handle(self.now, event);
        self.actions.extend(actions.clone());
        actions
    }

    fn look(&mut self, domain: Domain) -> Vec<Action> {
        self.event(Event::Domain { uuid: VM, result: Ok(domain) })
    }

    fn hello(&mut self, waiting: &[(u64, Option<u64>)]) -> Vec<Action> {
        let waiting =
            waiting.iter().map(|(r, m)| Waiting { request: RequestId(*r), migration: m.map(MigrationId) });
        let hello = GuestHello { agent: Text::clipped("test"), waiting: List::clipped(waiting) };
        self.event(Event::Link { uuid: VM, event: LinkEvent::Established { hello, new_peer: true } })
    }

    fn ask(&mut self, id: u64, wishes: Wishes) -> Vec<Action> {
        let request =
            Request { id: RequestId(id), reason: RequestReason::Manual, evidence: List::default(), wishes };
        self.event(Event::Link { uuid: VM, event: LinkEvent::Said(GuestToHost::Request(request)) })
    }

    fn hosts_answer(&mut self, migration: MigrationId) -> Vec<Action> {
        let answers = vec![Answer {
            host: "h2".into(),
            can_run: Ok(()),
            has_it: false,
            storage: Ok(Default::default()),
        }];
        self.event(Event::Surveyed {
            uuid: VM,
            migration,
            domain: Ok(Box::new(domain(DomainState::Running { arrived: false }))),
            answers,
        })
    }

    /// From the request to the migrate call.
    fn move_begins(&mut self, id: u64) -> (MigrationId, Ticket) {
        let actions = self.ask(id, Wishes::default());
        let Some(Action::Survey { migration, .. }) = find(&actions, |a| matches!(a, Action::Survey { .. }))
        else {
            panic!("no survey: {actions:?}");
        };
        let actions = self.hosts_answer(migration);
        let Some(Action::WriteTicket { xml, .. }) =
            find(&actions, |a| matches!(a, Action::WriteTicket { .. }))
        else {
            panic!("no ticket: {actions:?}");
        };
        let actions = self.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
        assert!(find(&actions, |a| matches!(a, Action::Migrate { .. })).is_some(), "{actions:?}");
        (migration, Ticket::from_xml(&xml).unwrap())
    }

    fn told(&self) -> Vec<HostToGuest> {
        told(&self.actions)
    }
}

fn find(actions: &[Action], wanted: impl Fn(&Action) -> bool) -> Option<Action> {
    actions.iter().find(|a| wanted(a)).cloned()
}

fn told(actions: &[Action]) -> Vec<HostToGuest> {
    let told = |a: &Action| if let Action::Tell { message, .. } = a { Some(message.clone()) } else { None };
    actions.iter().filter_map(told).collect()
}

fn denied(actions: &[Action]) -> Vec<DenyReason> {
    let reason = |m| if let HostToGuest::Denied(d) = m { Some(d.reason) } else { None };
    told(actions).into_iter().filter_map(reason).collect()
}

fn arriving(ticket: Ticket, state: DomainState) -> Domain {
    Domain { ticket_xml: Some(ticket.to_xml()), ..domain(state) }
}

fn ticket(w: &World) -> Ticket {
    let mut source = World::source();
    let (_, ticket) = source.move_begins(1);
    // Ids that no other broker of a script draws.
    let (migration, attempt) = (MigrationId(500), 501);
    let (written_unix_ms, expires_unix_ms) = (w.now.unix_ms, w.now.unix_ms + 600_000);
    // Of a source that is older than the word for it: what was enforced has scripts of its own.
    let channels = None;
    Ticket { migration, attempt, written_unix_ms, expires_unix_ms, channels, ..ticket }
}

fn cancel(w: &mut World, id: u64) -> Vec<Action> {
    let cancel = coms_protocol::guest_to_host::Cancel { request: RequestId(id) };
    w.event(Event::Link { uuid: VM, event: LinkEvent::Said(GuestToHost::Cancel(cancel)) })
}

fn alarms(w: &World) -> usize {
    w.actions.iter().filter(|a| matches!(a, Action::Log { level: crate::action::Level::Alarm, .. })).count()
}

/// A move broke, its copy is paused here, and the other host is asked.
fn left_paused() -> World {
    let mut w = World::source();
    let (migration, _) = w.move_begins(1);
    w.event(Event::Returned { uuid: VM, migration, result: Err(other_error()) });
    let paused = domain(DomainState::Paused { migration: true });
    w.look(paused.clone());
    assert!(find(&w.actions, |a| matches!(a, Action::FindElsewhere { .. })).is_none(), "libvirt may mend it");
    w.pass(4);
    let actions = w.look(paused);
    assert!(find(&actions, |a| matches!(a, Action::FindElsewhere { .. })).is_some(), "{actions:?}");
    w
}
