//! The broker's decisions as scripts, and as a search for an order of events that breaks a promise.

#![expect(clippy::wildcard_enum_match_arm, reason = "a script looks for what it is about")]

mod reload;

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

mod announce;
mod foreign;

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
    let broker = Some(Mark { broker: "test".into(), beat, unix_ms: 0 });
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
        let answers = vec![Answer { host: "h2".into(), can_run: Ok(()), has_it: false }];
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

#[test]
fn a_request_becomes_a_ticket_then_a_migration() {
    let mut w = World::source();
    let (migration, ticket) = w.move_begins(1);
    assert_eq!((ticket.source, ticket.destination, ticket.request), (H1, H2, Some(RequestId(1))));
    assert!(
        matches!(w.told()[..], [HostToGuest::Accepted(_), HostToGuest::Notice(n)] if n.migration == migration)
    );
    w.event(Event::Hypervisor(HvEvent::Left { uuid: VM }));
    w.event(Event::Returned { uuid: VM, migration, result: Ok(()) });
    assert_eq!(w.told().len(), 2, "the outcome is told where the VM is, not here");
}

#[test]
fn no_ticket_no_move() {
    let mut w = World::source();
    let actions = w.ask(1, Wishes::default());
    assert!(matches!(actions[..], [Action::Survey { .. }]));
    w.hosts_answer(MigrationId(1));
    let busy = HvError::Busy { operation: "set ticket", detail: String::new() };
    let actions = w.event(Event::TicketWritten { uuid: VM, migration: MigrationId(1), result: Err(busy) });
    assert_eq!(denied(&actions), [DenyReason::Busy]);
    assert!(find(&w.actions, |a| matches!(a, Action::Migrate { .. })).is_none());
}

#[test]
fn the_same_request_again_gets_the_same_answer() {
    let mut w = World::source();
    let wishes = Wishes { region: Some(Text::clipped("nowhere")), ..Wishes::default() };
    w.ask(1, wishes.clone());
    let first = denied(&w.hosts_answer(MigrationId(1)));
    assert_eq!(first, [DenyReason::NoDestinationInRegion]);
    let again = w.ask(1, wishes);
    assert_eq!(denied(&again), first);
    assert!(find(&again, |a| matches!(a, Action::Survey { .. })).is_none());
}

#[test]
fn a_request_that_comes_again_while_it_is_moved_for_is_not_asking_too_often() {
    let mut w = World::source();
    let (migration, _) = w.move_begins(1);
    for _ in 0..20 {
        w.ask(1, Wishes::default());
    }
    w.event(Event::Returned { uuid: VM, migration, result: Err(other_error()) });
    w.look(domain(DomainState::Running { arrived: false }));
    w.pass(35);
    let actions = w.ask(2, Wishes::default());
    assert!(find(&actions, |a| matches!(a, Action::Survey { .. })).is_some(), "{actions:?}");
}

#[test]
fn a_second_request_is_answered_by_the_first_ones_move() {
    let mut w = World::source();
    let (migration, _) = w.move_begins(1);
    let actions = w.ask(2, Wishes::default());
    assert!(matches!(told(&actions)[..], [HostToGuest::AlreadyRunning(a)] if a.migration == migration));
    w.event(Event::Returned { uuid: VM, migration, result: Err(other_error()) });
    let actions = w.look(domain(DomainState::Running { arrived: false }));
    let failed: Vec<_> = told(&actions).into_iter().filter(|m| matches!(m, HostToGuest::Failed(_))).collect();
    assert_eq!(failed.len(), 2, "{actions:?}");
    assert!(find(&actions, |a| matches!(a, Action::ClearTicket { .. })).is_some());
}

#[test]
fn an_error_is_not_believed_before_the_domain_was_seen() {
    let mut w = World::source();
    let (migration, _) = w.move_begins(1);
    let actions = w.event(Event::Returned { uuid: VM, migration, result: Err(other_error()) });
    assert!(told(&actions).is_empty() && find(&actions, |a| matches!(a, Action::Look { .. })).is_some());
    let mut busy = domain(DomainState::Running { arrived: false });
    busy.job_active = true;
    assert!(told(&w.look(busy)).is_empty(), "a job still runs");
    let gone = HvError::NoDomain { operation: "look", detail: String::new() };
    let actions = w.event(Event::Domain { uuid: VM, result: Err(gone) });
    assert!(told(&actions).is_empty(), "it left after all: the destination tells");
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

#[test]
fn a_paused_leftover_is_resumed_when_every_other_host_is_without_it() {
    let mut w = left_paused();
    let actions = w.event(Event::Elsewhere { uuid: VM, answers: vec![("h2".into(), Elsewhere::No)] });
    assert!(find(&actions, |a| matches!(a, Action::Resume { .. })).is_some());
    w.event(Event::Resumed { uuid: VM, result: Ok(()) });
    let actions = w.look(domain(DomainState::Running { arrived: false }));
    assert!(matches!(told(&actions)[..], [HostToGuest::Failed(_)]), "{actions:?}");
    assert_eq!(alarms(&w), 0);
}

#[test]
fn a_paused_leftover_stays_paused_while_anybody_may_have_it_and_is_raised_once() {
    for answers in [
        vec![],
        vec![("h2".into(), Elsewhere::Yes)],
        vec![("h2".into(), Elsewhere::NoAnswer("no route".into()))],
        vec![("stranger".into(), Elsewhere::No)],
    ] {
        let mut w = left_paused();
        for _ in 0..3 {
            w.event(Event::Elsewhere { uuid: VM, answers: answers.clone() });
        }
        assert!(find(&w.actions, |a| matches!(a, Action::Resume { .. })).is_none(), "{answers:?}");
        assert_eq!(alarms(&w), 1);
        assert_eq!(w.broker.standing_view().alarms.len(), 1);
        assert_eq!(w.told().len(), 2, "nothing is told before it is known");
        // The answer changes: it is resumed, and the alarm is over.
        w.event(Event::Elsewhere { uuid: VM, answers: vec![("h2".into(), Elsewhere::No)] });
        w.look(domain(DomainState::Running { arrived: false }));
        assert!(w.broker.standing_view().alarms.is_empty());
    }
}

#[test]
fn a_copy_that_runs_again_meanwhile_is_not_resumed() {
    let mut w = left_paused();
    w.look(domain(DomainState::Running { arrived: false }));
    w.event(Event::Elsewhere { uuid: VM, answers: vec![("h2".into(), Elsewhere::No)] });
    assert!(find(&w.actions, |a| matches!(a, Action::Resume { .. })).is_none());
}

/// Switched over, then the destination's libvirt was lost, and libvirt let the VM run on here.
fn runs_on_here() -> (World, Vec<Action>) {
    let mut w = World::source();
    let (migration, _) = w.move_begins(1);
    w.event(Event::Hypervisor(HvEvent::SwitchingOver { uuid: VM }));
    let lost = HvError::Unreachable {
        operation: "migrate",
        uri: "qemu+tls://h2/system".into(),
        detail: "closed".into(),
    };
    w.event(Event::Returned { uuid: VM, migration, result: Err(lost) });
    let actions = w.look(domain(DomainState::Running { arrived: false }));
    assert!(
        find(&actions, |a| matches!(a, Action::FindElsewhere { hosts, .. } if hosts.len() == 1)).is_some()
    );
    assert!(told(&actions).is_empty(), "nothing is told before it is known: {actions:?}");
    (w, actions)
}

#[test]
fn a_vm_that_libvirt_lets_run_twice_is_suspended_at_the_source() {
    let (mut w, _) = runs_on_here();
    let actions = w.event(Event::Elsewhere { uuid: VM, answers: vec![("h2".into(), Elsewhere::Runs)] });
    assert!(find(&actions, |a| matches!(a, Action::Suspend { .. })).is_some(), "{actions:?}");
    assert_eq!(alarms(&w), 1);
    let raised = w.broker.standing_view().alarms[0].text.clone();
    assert!(raised.contains("suspended here; remove this copy with virsh destroy"), "{raised}");
    w.pass(6);
    let suspended = domain(DomainState::Paused { migration: false });
    let actions = w.look(suspended.clone());
    assert!(find(&actions, |a| matches!(a, Action::FindElsewhere { .. })).is_some(), "{actions:?}");
    let actions = w.event(Event::Elsewhere { uuid: VM, answers: vec![("h2".into(), Elsewhere::Runs)] });
    assert!(find(&actions, |a| matches!(a, Action::Resume { .. })).is_none());
    // The operator does what the alarm says.
    let gone = HvError::NoDomain { operation: "look", detail: String::new() };
    let actions = w.event(Event::Domain { uuid: VM, result: Err(gone) });
    assert!(told(&actions).is_empty(), "the destination tells: {actions:?}");
    assert!(w.broker.standing_view().alarms.is_empty());
}

#[test]
fn a_vm_whose_destination_was_lost_is_told_that_it_stayed_when_it_is_known_or_nobody_answers() {
    let (mut w, _) = runs_on_here();
    w.event(Event::Elsewhere { uuid: VM, answers: vec![("h2".into(), Elsewhere::No)] });
    let actions = w.look(domain(DomainState::Running { arrived: false }));
    assert!(
        matches!(told(&actions)[..], [HostToGuest::Failed(f)] if f.reason == FailReason::DestinationLost)
    );

    let (mut w, _) = runs_on_here();
    for answer in [Elsewhere::NoAnswer("no route".into()), Elsewhere::Yes] {
        w.event(Event::Elsewhere { uuid: VM, answers: vec![("h2".into(), answer)] });
        w.pass(30);
        w.event(Event::Tick);
    }
    let actions = w.look(domain(DomainState::Running { arrived: false }));
    assert!(matches!(told(&actions)[..], [HostToGuest::Failed(_)]), "{actions:?}");
    assert!(find(&w.actions, |a| matches!(a, Action::Suspend { .. })).is_none());
}

#[test]
fn a_former_brokers_move_is_taken_up_and_held_to_its_time_limit() {
    let mut w = World::new("h1", "h2", H1, H2);
    let t = ticket(&w);
    let moving = Domain { job_active: true, ..arriving(t, DomainState::Running { arrived: false }) };
    w.pass(10);
    w.look(moving.clone());
    w.hello(&[(1, Some(t.migration.0))]);
    assert!(matches!(&w.told()[..], [HostToGuest::Accepted(a)] if a.migration == t.migration));
    w.pass(580);
    assert!(find(&w.event(Event::Tick), |a| matches!(a, Action::Abort { .. })).is_none());
    w.pass(11);
    assert!(find(&w.event(Event::Tick), |a| matches!(a, Action::Abort { .. })).is_some());
    let actions = w.look(Domain { job_active: false, ..moving });
    assert!(matches!(told(&actions)[..], [HostToGuest::Failed(f)] if f.reason == FailReason::TimeLimit));
}

#[test]
fn a_former_brokers_move_that_left_is_told_by_the_destination() {
    let mut w = World::new("h1", "h2", H1, H2);
    let t = ticket(&w);
    w.look(Domain { job_active: true, ..arriving(t, DomainState::Running { arrived: false }) });
    w.event(Event::Hypervisor(HvEvent::Left { uuid: VM }));
    assert!(w.told().is_empty());
    assert_eq!(w.broker.records.back().map(|r| r.state), Some(crate::records::MoveState::Left));
}

fn cancel(w: &mut World, id: u64) -> Vec<Action> {
    let cancel = coms_protocol::guest_to_host::Cancel { request: RequestId(id) };
    w.event(Event::Link { uuid: VM, event: LinkEvent::Said(GuestToHost::Cancel(cancel)) })
}

#[test]
fn a_cancelled_request_gets_one_answer_wherever_its_move_stands() {
    let cancelled =
        |m: &[HostToGuest]| matches!(m, [HostToGuest::Cancelled(c)] if c.by == Initiator::Customer);
    // Hosts are being asked.
    let mut w = World::source();
    w.ask(1, Wishes::default());
    cancel(&mut w, 1);
    assert!(cancelled(&told(&w.hosts_answer(MigrationId(1)))));
    assert!(find(&w.actions, |a| matches!(a, Action::WriteTicket { .. })).is_none());
    // The ticket is being written.
    let mut w = World::source();
    w.ask(1, Wishes::default());
    w.hosts_answer(MigrationId(1));
    cancel(&mut w, 1);
    let actions = w.event(Event::TicketWritten { uuid: VM, migration: MigrationId(1), result: Ok(()) });
    assert!(cancelled(&told(&actions)));
    assert!(find(&actions, |a| matches!(a, Action::ClearTicket { .. })).is_some());
    assert!(find(&w.actions, |a| matches!(a, Action::Migrate { .. })).is_none());
    // Memory is copied; the first abort finds no job yet.
    let mut w = World::source();
    let (migration, _) = w.move_begins(1);
    assert!(find(&cancel(&mut w, 1), |a| matches!(a, Action::Abort { .. })).is_some());
    w.pass(2);
    assert!(find(&w.event(Event::Tick), |a| matches!(a, Action::Abort { .. })).is_some());
    let aborted = HvError::Aborted { operation: "migrate", detail: String::new() };
    w.event(Event::Returned { uuid: VM, migration, result: Err(aborted) });
    assert!(cancelled(&told(&w.look(domain(DomainState::Running { arrived: false })))));
    // Too late.
    let mut w = World::source();
    w.move_begins(1);
    w.event(Event::Hypervisor(HvEvent::SwitchingOver { uuid: VM }));
    assert!(cancel(&mut w, 1).is_empty());
}

#[test]
fn a_pause_denies_customers_and_calls_off_their_moves_but_not_the_operators() {
    let mut w = World::source();
    w.move_begins(1);
    let pause = |let_finish| Event::Control {
        caller: crate::event::Caller(1),
        request: crate::control::Request::Pause { let_finish },
    };
    assert!(find(&w.event(pause(true)), |a| matches!(a, Action::Abort { .. })).is_none());
    let actions = w.event(pause(false));
    assert!(find(&actions, |a| matches!(a, Action::Abort { .. })).is_some());
    assert!(find(&actions, |a| *a == Action::KeepPaused(true)).is_some());

    let mut w = World::source();
    w.event(pause(false));
    assert_eq!(denied(&w.ask(1, Wishes::default())), [DenyReason::Paused]);
    let order = crate::control::Request::Migrate {
        domain: "vm1".into(),
        to: None,
        reason: None,
        expedite: false,
        notice_s: None,
    };
    let actions = w.event(Event::Control { caller: crate::event::Caller(2), request: order });
    assert!(find(&actions, |a| matches!(a, Action::Survey { .. })).is_some(), "{actions:?}");
}

#[test]
fn a_host_without_a_broker_is_not_chosen() {
    let mut w = World::source();
    let look = |broker| HostSample { broker, ..sample(H2, 0) };
    w.event(Event::Sampled { host: "h2".into(), result: Ok(look(None)) });
    w.ask(1, Wishes::default());
    assert_eq!(denied(&w.hosts_answer(MigrationId(1))), [DenyReason::NoDestination]);
}

/// The host's sample at this moment, with what the VM's vCPU ran and waited so far.
fn vcpu(w: &mut World, run_ms: u64, wait_ms: u64) {
    let times = VcpuTimes { run_ns: run_ms * 1_000_000, wait_ns: wait_ms * 1_000_000 };
    let domains = vec![DomainSample {
        uuid: VM,
        vcpus: 1,
        memory_kib: 1 << 20,
        cpu_time_ns: times.run_ns,
        vcpu: Some(times),
    }];
    w.event(Event::Sampled {
        host: "h1".into(),
        result: Ok(HostSample { domains, ..sample(H1, w.now.unix_ms) }),
    });
    w.event(Event::Sampled { host: "h2".into(), result: Ok(sample(H2, w.now.unix_ms)) });
    w.pass(2);
}

fn complain(w: &mut World, id: u64) -> Vec<Action> {
    let request = Request {
        id: RequestId(id),
        reason: RequestReason::WorkloadSlow,
        evidence: List::default(),
        // As the shipped agent asks.
        wishes: Wishes { avoid_this_host: true, ..Wishes::default() },
    };
    w.event(Event::Link { uuid: VM, event: LinkEvent::Said(GuestToHost::Request(request)) })
}

#[test]
fn a_guest_whose_cpus_do_not_wait_is_slow_by_itself() {
    let mut w = World::source();
    for i in 0..4 {
        vcpu(&mut w, i * 2000, i * 20);
    }
    complain(&mut w, 1);
    assert_eq!(denied(&w.hosts_answer(MigrationId(1))), [DenyReason::OwnLoad]);

    let mut w = World::source();
    for i in 0..4 {
        vcpu(&mut w, i * 500, i * 1500);
    }
    complain(&mut w, 1);
    assert_ne!(denied(&w.hosts_answer(MigrationId(1))), [DenyReason::OwnLoad]);
}

#[test]
fn after_one_was_relieved_the_others_are_measured_again() {
    let mut w = World::source();
    w.broker.relief_rest_until = w.now.mono + Duration::from_secs(10);
    w.broker.relieved_at = w.now.mono;
    assert_eq!(denied(&complain(&mut w, 1)), [DenyReason::OthersFirst]);
    w.pass(10);
    assert!(find(&complain(&mut w, 2), |a| matches!(a, Action::Survey { .. })).is_some());
    // While it is chosen for, or moves, no other.
    let other = Domain {
        uuid: Uuid::from_u128(8),
        name: "vm2".into(),
        ..domain(DomainState::Running { arrived: false })
    };
    w.event(Event::Domain { uuid: other.uuid, result: Ok(other.clone()) });
    let request = Request {
        id: RequestId(1),
        reason: RequestReason::WorkloadSlow,
        evidence: List::default(),
        wishes: Wishes::default(),
    };
    let said = LinkEvent::Said(GuestToHost::Request(request));
    let actions = w.event(Event::Link { uuid: other.uuid, event: said });
    assert_eq!(denied(&actions), [DenyReason::OthersFirst]);
}

#[test]
fn a_guest_that_says_nothing_after_its_arrival_is_an_alarm_until_it_speaks() {
    let mut w = World::destination();
    let t = Ticket { agent: true, ..ticket(&w) };
    w.look(arriving(t, DomainState::Incoming));
    w.event(Event::Hypervisor(HvEvent::Arrived { uuid: VM }));
    w.event(Event::Figures { uuid: VM, migration: t.migration, figures: None });
    w.pass(59);
    w.event(Event::Tick);
    assert_eq!(alarms(&w), 0);
    w.pass(2);
    w.event(Event::Tick);
    w.event(Event::Tick);
    assert_eq!((alarms(&w), w.broker.standing_view().alarms.len()), (1, 1));
    w.hello(&[]);
    assert!(w.broker.standing_view().alarms.is_empty());
}

#[test]
fn the_time_limit_aborts_once_and_says_so() {
    let mut w = World::source();
    let (migration, _) = w.move_begins(1);
    w.pass(601);
    assert!(find(&w.event(Event::Tick), |a| matches!(a, Action::Abort { .. })).is_some());
    assert!(find(&w.event(Event::Tick), |a| matches!(a, Action::Abort { .. })).is_none());
    let aborted = HvError::Aborted { operation: "migrate", detail: String::new() };
    w.event(Event::Returned { uuid: VM, migration, result: Err(aborted) });
    let actions = w.look(domain(DomainState::Running { arrived: false }));
    assert!(matches!(told(&actions)[..], [HostToGuest::Failed(f)] if f.reason == FailReason::TimeLimit));
}

#[test]
fn a_host_that_does_not_answer_is_not_asked() {
    let mut w = World::source();
    w.pass(20);
    let actions = w.ask(1, Wishes::default());
    assert!(matches!(&actions[..], [Action::Survey { hosts, .. }] if hosts.is_empty()), "{actions:?}");
    let actions = w.event(Event::Surveyed {
        uuid: VM,
        migration: MigrationId(1),
        domain: Ok(Box::new(domain(DomainState::Running { arrived: false }))),
        answers: Vec::new(),
    });
    assert_eq!(denied(&actions), [DenyReason::NoDestination]);
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
    Ticket { migration, attempt, written_unix_ms, expires_unix_ms, ..ticket }
}

#[test]
fn the_destination_tells_only_after_finish_and_clears_after_the_guest_knows() {
    let mut w = World::destination();
    let t = ticket(&w);
    let actions = w.look(arriving(t, DomainState::Incoming));
    assert!(find(&actions, |a| matches!(a, Action::Attach { .. })).is_some(), "attached before it runs");
    assert!(w.told().is_empty());
    // The guest may resume, and speak, before libvirt says Finish.
    w.hello(&[(1, Some(t.migration.0))]);
    assert!(w.told().is_empty(), "{:?}", w.told());
    w.event(Event::Hypervisor(HvEvent::Arrived { uuid: VM }));
    let figures = Some(Box::new(JobFigures { downtime_ms: Some(31), ..JobFigures::default() }));
    w.event(Event::Figures { uuid: VM, migration: t.migration, figures });
    let told = w.told();
    let [HostToGuest::Completed(c)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((c.request, c.figures.downtime_ms), (Some(RequestId(1)), Some(31)));
    assert!(find(&w.actions, |a| matches!(a, Action::ClearTicket { .. })).is_none());
    let actions = w.event(Event::Link { uuid: VM, event: LinkEvent::Delivered(told[0].clone()) });
    assert!(find(&actions, |a| matches!(a, Action::ClearTicket { .. })).is_some());
}

#[test]
fn figures_that_never_come_do_not_hold_up_the_outcome() {
    let mut w = World::destination();
    let t = ticket(&w);
    w.look(arriving(t, DomainState::Incoming));
    w.event(Event::Hypervisor(HvEvent::Arrived { uuid: VM }));
    w.pass(1);
    w.event(Event::Tick);
    assert!(matches!(&w.told()[..], [HostToGuest::Completed(c)] if c.figures.downtime_ms.is_none()));
}

#[test]
fn tickets_without_effect_never_yield_completed_and_are_removed() {
    let expired = |w: &World, t: Ticket| Ticket {
        written_unix_ms: w.now.unix_ms - 5000,
        expires_unix_ms: w.now.unix_ms - 1,
        ..t
    };
    let elsewhere = |_: &World, t: Ticket| Ticket { destination: Uuid::from_u128(0xbad), ..t };
    let older = |w: &World, t: Ticket| Ticket { written_unix_ms: w.now.unix_ms - 61_000, ..t };
    let same = |_: &World, t: Ticket| Ticket { source: H2, ..t };
    type Change<'a> = &'a dyn Fn(&World, Ticket) -> Ticket;
    let cases: [(&str, Change<'_>); 4] = [
        ("expired", &expired),
        ("for another host", &elsewhere),
        ("of an older attempt", &older),
        ("from here to here", &same),
    ];
    for (name, change) in cases {
        let mut w = World::destination();
        let t = change(&w, ticket(&w));
        w.look(arriving(t, DomainState::Incoming));
        w.event(Event::Hypervisor(HvEvent::Arrived { uuid: VM }));
        w.look(arriving(t, DomainState::Running { arrived: true }));
        w.pass(2);
        w.event(Event::Tick);
        w.hello(&[(1, Some(t.migration.0))]);
        let completed = w.told().iter().any(|m| matches!(m, HostToGuest::Completed(_)));
        assert!(!completed, "a ticket {name} yielded completed");
        // Somebody else moved it: one that says so takes its place.
        let Some(Action::WriteTicket { migration, .. }) =
            find(&w.actions, |a| matches!(a, Action::WriteTicket { .. }))
        else {
            panic!("a ticket {name} stays");
        };
        w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
        assert!(
            w.told().iter().any(|m| matches!(m, HostToGuest::Resend(_))),
            "{name}: the guest is left waiting"
        );
    }
}

#[test]
fn a_restarted_destination_still_tells() {
    let mut w = World::destination();
    let t = ticket(&w);
    w.event(Event::Domains(Ok(vec![arriving(t, DomainState::Running { arrived: true })])));
    w.event(Event::Figures { uuid: VM, migration: t.migration, figures: None });
    assert!(matches!(&w.told()[..], [HostToGuest::Completed(_)]));
}

#[test]
fn a_restarted_source_finds_that_its_vm_did_not_leave() {
    let mut w = World::new("h1", "h2", H1, H2);
    let t = ticket(&w);
    w.look(arriving(t, DomainState::Running { arrived: false }));
    assert!(w.told().is_empty(), "a call made just before the kill may still become a job");
    w.pass(4);
    w.look(arriving(t, DomainState::Running { arrived: false }));
    assert!(matches!(&w.told()[..], [HostToGuest::Failed(f)] if f.request == Some(RequestId(1))));
    assert!(find(&w.actions, |a| matches!(a, Action::ClearTicket { .. })).is_some());
}

#[test]
fn rest_between_moves_holds_at_the_destination_too_and_across_its_restart() {
    let mut w = World::destination();
    let t = ticket(&w);
    w.look(arriving(t, DomainState::Incoming));
    w.event(Event::Hypervisor(HvEvent::Arrived { uuid: VM }));
    w.hello(&[]);
    w.event(Event::Figures { uuid: VM, migration: t.migration, figures: None });
    let told = w.told();
    w.event(Event::Link { uuid: VM, event: LinkEvent::Delivered(told[0].clone()) });
    w.pass(10);
    assert_eq!(denied(&w.ask(2, Wishes::default())), [DenyReason::Cooldown]);

    let saved = |a: &Action| if let Action::Record(r) = a { Some((**r).clone()) } else { None };
    let past: Vec<_> = w.actions.iter().filter_map(saved).collect();
    assert!(!past.is_empty());
    w.broker = Broker::new(config("h2", "h1"), AliasKey::new(b"k"), past, Box::new(|| 99));
    w.event(Event::Sampled { host: "h2".into(), result: Ok(sample(H2, w.now.unix_ms)) });
    w.event(Event::Hypervisor(HvEvent::Connected));
    w.event(Event::Domains(Ok(vec![domain(DomainState::Running { arrived: true })])));
    w.hello(&[]);
    assert_eq!(denied(&w.ask(3, Wishes::default())), [DenyReason::Cooldown]);
    w.pass(51);
    assert!(denied(&w.ask(4, Wishes::default())).is_empty());
}

#[test]
fn a_destination_that_was_restarted_late_in_a_long_copy_still_tells() {
    let mut w = World::destination();
    let t = ticket(&w);
    w.pass(70);
    w.event(Event::Hypervisor(HvEvent::Connected));
    w.event(Event::Domains(Ok(vec![arriving(t, DomainState::Incoming)])));
    w.event(Event::Hypervisor(HvEvent::Arrived { uuid: VM }));
    w.event(Event::Figures { uuid: VM, migration: t.migration, figures: None });
    assert!(matches!(&w.told()[..], [HostToGuest::Completed(_)]), "{:?}", w.told());
}

#[test]
fn the_next_move_waits_until_the_guest_knows_of_the_last() {
    let mut w = World::destination();
    let t = ticket(&w);
    w.look(arriving(t, DomainState::Incoming));
    w.hello(&[(1, None)]);
    w.event(Event::Hypervisor(HvEvent::Arrived { uuid: VM }));
    let order = Event::Control {
        caller: crate::event::Caller(1),
        request: crate::control::Request::Migrate {
            domain: "vm1".into(),
            to: None,
            reason: None,
            expedite: false,
            notice_s: None,
        },
    };
    let actions = w.event(order);
    assert!(find(&actions, |a| matches!(a, Action::Survey { .. })).is_none(), "{actions:?}");
    assert!(find(&actions, |a| matches!(a, Action::Reply { .. })).is_some());
}

#[test]
fn a_guest_without_permission_cannot_crowd_out_anyone() {
    let mut w = World::source();
    let (migration, _) = w.move_begins(1);
    let other = Uuid::from_u128(8);
    let stranger =
        Domain { uuid: other, name: "stranger".into(), ..domain(DomainState::Running { arrived: false }) };
    w.event(Event::Domain { uuid: other, result: Ok(stranger) });
    let before = w.actions.len();
    for id in 0..600 {
        let request = Request {
            id: RequestId(id),
            reason: RequestReason::Manual,
            evidence: List::default(),
            wishes: Wishes::default(),
        };
        w.event(Event::Link { uuid: other, event: LinkEvent::Said(GuestToHost::Request(request)) });
    }
    let lines = w.actions[before..].iter().filter(|a| matches!(a, Action::Log { .. })).count();
    assert!(lines <= 6, "{lines} lines of log in a minute");
    let actions = w.event(Event::Returned { uuid: VM, migration, result: Ok(()) });
    assert!(find(&actions, |a| matches!(a, Action::Record(_))).is_some(), "its record was crowded out");
}

#[test]
fn a_list_that_failed_is_asked_for_again() {
    let mut w = World::source();
    let failed =
        HvError::Unreachable { operation: "list", uri: "qemu:///system".into(), detail: String::new() };
    w.event(Event::Domains(Err(failed)));
    w.pass(3);
    assert!(find(&w.event(Event::Tick), |a| matches!(a, Action::ListDomains)).is_some());
}

#[test]
fn an_answer_given_before_a_restart_is_the_only_one() {
    let mut w = World::source();
    let (migration, t) = w.move_begins(1);
    let refused = HvError::Refused { operation: "migrate", detail: String::new() };
    w.event(Event::Returned { uuid: VM, migration, result: Err(refused) });
    let actions = w.look(arriving(t, DomainState::Running { arrived: false }));
    assert_eq!(denied(&actions), [DenyReason::CannotMove]);
    let saved = |a: &Action| if let Action::Record(r) = a { Some((**r).clone()) } else { None };
    let past: Vec<_> = w.actions.iter().filter_map(saved).collect();
    w.broker = Broker::new(config("h1", "h2"), AliasKey::new(b"k"), past, Box::new(|| 99));
    w.event(Event::Sampled { host: "h1".into(), result: Ok(sample(H1, w.now.unix_ms)) });
    w.actions.clear();
    w.look(arriving(t, DomainState::Running { arrived: false }));
    assert!(w.told().is_empty(), "{:?}", w.told());
    assert!(find(&w.actions, |a| matches!(a, Action::ClearTicket { .. })).is_some());
}

#[test]
fn a_second_attempt_is_not_taken_for_the_first() {
    let mut w = World::destination();
    let first = ticket(&w);
    let second = Ticket { migration: MigrationId(77), attempt: 77, request: Some(RequestId(8)), ..first };
    w.look(arriving(first, DomainState::Incoming));
    w.look(arriving(second, DomainState::Incoming));
    w.event(Event::Hypervisor(HvEvent::Arrived { uuid: VM }));
    for migration in [first.migration, second.migration] {
        w.event(Event::Figures { uuid: VM, migration, figures: None });
    }
    assert!(
        matches!(&w.told()[..], [HostToGuest::Completed(c)] if c.migration == second.migration),
        "{:?}",
        w.told()
    );
}

#[test]
fn requests_that_must_wait_are_bounded() {
    let mut w = World::new("h1", "h2", H1, H2);
    let t = ticket(&w);
    w.look(Domain { job_active: true, ..arriving(t, DomainState::Running { arrived: false }) });
    for id in 100..200 {
        w.ask(id, Wishes::default());
    }
    assert!(w.broker.guests[&VM].waiting.len() <= 8);
}

#[test]
fn what_a_hello_claims_is_asked_for_again_not_believed() {
    let mut w = World::source();
    let actions = w.hello(&[(5, Some(99))]);
    assert!(matches!(told(&actions)[..], [HostToGuest::Resend(r)] if r.request == RequestId(5)));
}

#[test]
fn nothing_told_to_a_guest_names_a_host() {
    let mut w = World::destination();
    let t = ticket(&w);
    w.look(arriving(t, DomainState::Incoming));
    w.event(Event::Hypervisor(HvEvent::Arrived { uuid: VM }));
    w.event(Event::Figures { uuid: VM, migration: t.migration, figures: None });
    for message in w.told() {
        let text = format!("{message:?}");
        for secret in ["h1", "h2", "qemu", "tcp", "system"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

/// Anything that may happen to a source broker, in any order.
#[derive(Debug, Clone)]
enum Step {
    /// What usually comes next, so that a search gets anywhere.
    Next,
    Ask(u64),
    Hello(Vec<u64>),
    Surveyed(bool),
    Written(bool),
    Returned(u8),
    Look(u8, bool),
    Gone,
    Left,
    Cleared,
    Tick(u64),
    Cancel(u64),
    Elsewhere(u8),
    /// What a guest says that wants to be asked, about the last move or about none.
    Attend(u32, u32),
    Word(u8, bool, u32),
    /// The operator's: expedited, and with a notice of its own.
    Order(bool, Option<u32>),
    Lost,
    /// Somebody else's job is seen, reported on, over.
    Foreign(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => Just(Step::Next),
        1 => (1u64..4).prop_map(Step::Ask),
        1 => prop::collection::vec(1u64..4, 0..3).prop_map(Step::Hello),
        1 => any::<bool>().prop_map(Step::Surveyed),
        1 => prop::bool::weighted(0.8).prop_map(Step::Written),
        1 => (0u8..4).prop_map(Step::Returned),
        1 => (0u8..4, any::<bool>()).prop_map(|(s, j)| Step::Look(s, j)),
        1 => Just(Step::Gone),
        1 => Just(Step::Left),
        1 => Just(Step::Cleared),
        1 => (1u64..400).prop_map(Step::Tick),
        1 => (1u64..20).prop_map(Step::Cancel),
        1 => (0u8..3).prop_map(Step::Elsewhere),
        2 => (0u32..9000, 0u32..90_000).prop_map(|(n, h)| Step::Attend(n, h)),
        3 => (0u8..4, prop::bool::weighted(0.9), 0u32..200_000).prop_map(|(w, l, d)| Step::Word(w, l, d)),
        1 => (any::<bool>(), prop::option::of(0u32..9)).prop_map(|(e, n)| Step::Order(e, n)),
        1 => Just(Step::Lost),
        1 => (0u8..3).prop_map(Step::Foreign),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    /// In every order of events: no migrate call without its ticket, never two at once, never two different
    /// final answers to one request, and `Completed` never from a source. What was told to come ends once, or leaves;
    /// and no guest delays it beyond what policy allows.
    #[test]
    fn no_order_of_events_breaks_a_promise(steps in prop::collection::vec(step(), 1..60)) {
        let mut w = World::source();
        let mut migration = MigrationId(0);
        let mut written: Option<MigrationId> = None;
        let mut running: Option<MigrationId> = None;
        // What the metadata holds: a write may succeed although the call reported an error.
        let mut metadata: Option<String> = None;
        let mut finals: std::collections::BTreeMap<RequestId, HostToGuest> = Default::default();
        // Told to come, since when, and for whom; and how that ended.
        let mut to_come: std::collections::BTreeMap<MigrationId, (Duration, Option<RequestId>)> = Default::default();
        let mut foreign = MigrationId(0);
        for (asked, step) in (0u64..).zip(steps) {
            let step = match step {
                Step::Next => match w.broker.guests.get(&VM).map(|g| &g.mv) {
                    None => Step::Look(0, false),
                    Some(super::Move::None) if asked % 2 == 0 => Step::Ask(asked + 10),
                    Some(super::Move::None) => Step::Look(0, false),
                    Some(super::Move::Announced { .. }) => Step::Tick(60),
                    Some(super::Move::Choosing(_)) => Step::Surveyed(true),
                    Some(super::Move::WritingTicket { .. }) => Step::Written(true),
                    Some(super::Move::Running { .. }) => Step::Returned(1),
                    Some(super::Move::Unclear { .. }) => Step::Look(0, false),
                },
                other => other,
            };
            let may_leave = matches!(step, Step::Left | Step::Gone | Step::Returned(0));
            let may_have_ended = matches!(step, Step::Look(..) | Step::Gone | Step::Left | Step::Returned(0));
            let actions = match step {
                Step::Next => Vec::new(),
                Step::Ask(id) => w.ask(id, Wishes::default()),
                Step::Hello(ids) => w.hello(&ids.iter().map(|i| (*i, None)).collect::<Vec<_>>()),
                Step::Surveyed(true) => w.hosts_answer(migration),
                Step::Surveyed(false) => w.event(Event::Surveyed { uuid: VM, migration, domain: Ok(Box::new(domain(DomainState::Running { arrived: false }))), answers: Vec::new() }),
                Step::Written(ok) => {
                    let result = if ok { Ok(()) } else { Err(other_error()) };
                    written = ok.then_some(migration);
                    w.event(Event::TicketWritten { uuid: VM, migration, result })
                }
                Step::Returned(how) => {
                    let result = match how {
                        0 => Ok(()),
                        1 => Err(other_error()),
                        2 => Err(HvError::Aborted { operation: "migrate", detail: String::new() }),
                        _ => Err(HvError::Refused { operation: "migrate", detail: String::new() }),
                    };
                    w.event(Event::Returned { uuid: VM, migration, result })
                }
                Step::Look(state, job) => {
                    let state = [
                        DomainState::Running { arrived: false },
                        DomainState::Paused { migration: true },
                        DomainState::Other,
                        DomainState::ShutOff,
                    ][usize::from(state)];
                    w.look(Domain { job_active: job, ticket_xml: metadata.clone(), ..domain(state) })
                }
                Step::Gone => w.event(Event::Domain { uuid: VM, result: Err(HvError::NoDomain { operation: "look", detail: String::new() }) }),
                Step::Cleared => {
                    metadata = None;
                    w.event(Event::TicketCleared { uuid: VM, result: Ok(()) })
                }
                Step::Cancel(id) => cancel(&mut w, id),
                Step::Elsewhere(what) => {
                    let answer = [Elsewhere::No, Elsewhere::Yes, Elsewhere::NoAnswer(String::new())][usize::from(what)].clone();
                    let actions = w.event(Event::Elsewhere { uuid: VM, answers: vec![("h2".into(), answer)] });
                    let resumes = find(&actions, |a| matches!(a, Action::Resume { .. })).is_some();
                    prop_assert!(!resumes || what == 0, "resumed although it may be elsewhere");
                    actions
                }
                Step::Left => w.event(Event::Hypervisor(HvEvent::Left { uuid: VM })),
                Step::Attend(notice_ms, hold_ms) => announce::say(&mut w, Attend { notice_ms, hold_ms }),
                Step::Word(which, last, d) => {
                    let migration = if last { migration } else { MigrationId(4711) };
                    let cause = Cause::App;
                    match which {
                        0 => announce::say(&mut w, Ready { migration }),
                        1 => announce::say(&mut w, Hold { migration, for_ms: d, cause, holders: 1 }),
                        2 => announce::say(&mut w, Postpone { migration, for_s: d, cause }),
                        _ => announce::say(&mut w, Veto { migration, cause }),
                    }
                }
                Step::Order(expedite, notice_s) => announce::order(&mut w, expedite, notice_s),
                Step::Lost => w.event(Event::Link { uuid: VM, event: LinkEvent::Lost }),
                Step::Foreign(0) => w.event(Event::Hypervisor(HvEvent::Iteration { uuid: VM, round: 1 })),
                Step::Foreign(1) => {
                    let figures = Box::new(JobFigures { leaves: Some(true), ..JobFigures::default() });
                    w.event(Event::Progress { uuid: VM, migration: foreign, figures })
                }
                Step::Foreign(_) => w.event(Event::Watched { uuid: VM, migration: foreign }),
                Step::Tick(seconds) => {
                    w.pass(seconds);
                    w.event(Event::Sampled { host: "h2".into(), result: Ok(sample(H2, w.now.unix_ms)) });
                    w.event(Event::Tick)
                }
            };
            for action in &actions {
                match action {
                    Action::Survey { migration: m, .. } => migration = *m,
                    Action::WriteTicket { xml, .. } => metadata = Some(xml.clone()),
                    Action::Migrate { migration: m, spec } => {
                        prop_assert_eq!(written, Some(*m), "a migrate call without its ticket");
                        prop_assert!(running.is_none(), "two migrate calls at once");
                        prop_assert_eq!(spec.uuid, VM);
                        running = Some(*m);
                    }
                    Action::Watch { migration: m, .. } => foreign = *m,
                    Action::Tell { message: HostToGuest::Notice(n), .. } => {
                        to_come.entry(n.migration).or_insert((w.now.mono, n.request));
                        if n.initiator != Initiator::Foreign {
                            migration = n.migration;
                        }
                    }
                    Action::Tell { message, .. } => {
                        let request = match message {
                            HostToGuest::Denied(d) => Some(d.request),
                            HostToGuest::Failed(f) => f.request,
                            HostToGuest::Cancelled(c) => c.request,
                            HostToGuest::Completed(_) => return Err(TestCaseError::fail("a source told completed")),
                            _ => None,
                        };
                        if let Some(request) = request {
                            // A domain that went away took its broker's memory of it along.
                            let before = finals.insert(request, message.clone());
                            prop_assert!(before.is_none_or(|b| b == *message), "two final answers to {}", request);
                        }
                        let ended = match message {
                            HostToGuest::Failed(f) => Some((f.migration, f.request)),
                            HostToGuest::Cancelled(c) => Some((c.migration, c.request)),
                            _ => None,
                        };
                        // Whoever joined a move hears its end for itself; of nobody's move it is told once.
                        match ended {
                            Some((m, None)) => prop_assert!(to_come.remove(&m).is_some(), "{} ended and was never to come, or twice", m),
                            // One that joined may be cancelled alone, and the move goes on.
                            Some((m, Some(_))) => to_come.retain(|n, _| {
                                *n != m || w.broker.guests.get(&VM).and_then(|g| g.mv.plan()).is_some_and(|p| p.migration == m)
                            }),
                            // Which move refused it, `accepted` told.
                            None if matches!(message, HostToGuest::Denied(_)) && w.broker.guests.get(&VM).is_none_or(|g| g.mv.is_none()) => {
                                to_come.retain(|m, _| *m == foreign);
                            }
                            None => {}
                        }
                    }
                    _ => {}
                }
            }
            let guest = w.broker.guests.get(&VM);
            let foreign_now = guest.and_then(|g| g.foreign.as_ref()).map(|f| f.migration);
            let now_moved = guest.and_then(|g| g.mv.plan()).map(|p| p.migration);
            match guest {
                None => to_come.clear(),
                Some(Guest { mv: super::Move::Announced { plan, wait }, .. }) => {
                    let Some((told, _)) = to_come.get(&plan.migration) else {
                        return Err(TestCaseError::fail("waits for a guest that was not told"));
                    };
                    let at_most = *told + Duration::from_secs(60 + 86_400 + 300);
                    prop_assert!(wait.begins() <= at_most, "{:?} is put off too far", wait);
                }
                Some(_) => {}
            }
            if may_leave && foreign_now.is_none() {
                // What left is told where it is.
                to_come.remove(&foreign);
            }
            // One that a request began may be told as the end of another that joined it.
            to_come.retain(|m, (_, request)| request.is_none() || now_moved == Some(*m));
            for m in to_come.keys() {
                prop_assert!(now_moved == Some(*m) || foreign_now == Some(*m), "{} was to come and nobody heard more", m);
            }
            if may_have_ended && w.broker.guests.get(&VM).is_none_or(|g| g.mv.is_none()) {
                running = None;
            }
            if !w.broker.guests.contains_key(&VM) {
                finals.clear();
                metadata = None;
            }
        }
    }
}

#[test]
fn refusals_never_push_out_moves_nor_other_guests_refusals() {
    let mut w = World::source();
    let (first, _) = w.move_begins(1);
    w.event(Event::Hypervisor(HvEvent::Left { uuid: VM }));
    w.event(Event::Returned { uuid: VM, migration: first, result: Ok(()) });
    // Hundreds of guests, each of them refused for ever, within what each may ask.
    for round in 0..4u64 {
        for guest in 0..300u128 {
            let uuid = Uuid::from_u128(1000 + guest);
            if round == 0 {
                let other = Domain {
                    uuid,
                    name: format!("x{guest}"),
                    ..domain(DomainState::Running { arrived: false })
                };
                w.event(Event::Domain { uuid, result: Ok(other) });
            }
            for id in 0..5 {
                let request = Request {
                    id: RequestId(round * 5 + id),
                    reason: RequestReason::Manual,
                    evidence: List::default(),
                    wishes: Wishes::default(),
                };
                w.event(Event::Link { uuid, event: LinkEvent::Said(GuestToHost::Request(request)) });
            }
        }
        w.pass(61);
    }
    let of = |w: &World, uuid| w.broker.records.iter().filter(|r| r.uuid == uuid).count();
    assert_eq!(of(&w, VM), 1, "the one move is still known");
    assert_eq!(w.broker.records.len(), super::RECORDS);
    let most = (0..300u128).map(|g| of(&w, Uuid::from_u128(1000 + g))).max();
    assert!(most.is_some_and(|most| most <= super::REFUSALS), "{most:?}");
}
