//! The whole mind against a model: restarts at any moment, outcomes repeated, late and out of order, brokers
//! that know nothing. Whatever happens, each request ends once, and each migration is told once.

mod asked;
mod protection;

use super::request::Life;
use super::*;
use crate::event::{Cancel, ClientId, Command, Counters, Measured, Migrate, Sample};
use coms_protocol::GuestToHost;
use coms_protocol::host_to_guest::{
    Accepted, AlreadyRunning, Cancelled, Completed, Denied, Failed, HostHello, HostToGuest, Notice, Resend,
};
use coms_protocol::session::{Epoch, Event as Session};
use coms_protocol::types::{
    DenyReason, Encryption, FailReason, Figures, Initiator, Metric, Phase, RequestId, RequestReason,
    Technique,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

pub(super) fn at(ms: u64) -> Now {
    Now { mono: Duration::from_millis(ms), unix_us: 1_700_000_000_000_000 + ms * 1000 }
}

pub(super) fn config(text: &str) -> Config {
    Config::parse(text, std::path::Path::new("test.toml")).unwrap()
}

fn hello(alias: &str) -> HostHello {
    HostHello { place: Place { alias: Text::clipped(alias), region: Text::clipped("r") }, enabled: true }
}

fn met(alias: &str) -> Event {
    Event::Link(Session::Established { new_peer: true, peer: Epoch(1), version: 1, hello: hello(alias) })
}

fn completed(migration: MigrationId, request: Option<RequestId>) -> Completed {
    Completed {
        migration,
        request,
        initiator: Initiator::Customer,
        technique: Technique::PreCopy,
        encryption: Encryption::None,
        from: None,
        to: hello("x").place,
        figures: Figures::default(),
        told_after_ms: None,
    }
}

/// An agent with a disk and a log around it, as the event loop gives it.
struct World {
    agent: Agent,
    disk: State,
    log: Vec<Telling>,
    sent: Vec<GuestToHost>,
    ms: u64,
    random: u64,
}

impl World {
    fn new() -> Self {
        let disk = State::new(0x1234_5678_9abc_def0);
        let agent = Agent::new(config(""), disk.clone(), &BTreeSet::new(), 1, at(0));
        let mut world = Self { agent, disk, log: vec![], sent: vec![], ms: 0, random: 1 };
        world.carry_out(usize::MAX);
        world
    }

    /// Carries out this many actions; false: the agent was killed before all were done.
    fn carry_out(&mut self, mut left: usize) -> bool {
        let mut actions = std::collections::VecDeque::from(self.agent.take_actions());
        while let Some(action) = actions.pop_front() {
            if left == 0 {
                return false;
            }
            left -= 1;
            match action {
                Action::Save(state) => {
                    // What is saved can be read.
                    let text = serde_json::to_string(&state).unwrap();
                    self.disk = serde_json::from_str(&text).unwrap();
                    assert_eq!(self.disk, *state);
                }
                Action::Send(message) => {
                    if let GuestToHost::Request(request) = &message {
                        let saved = self.disk.life.asking().map(|a| a.request.id);
                        assert_eq!(saved, Some(request.id), "saved before it is sent");
                    }
                    if let GuestToHost::Cancel(cancel) = &message
                        && let Some(asking) = self.disk.life.asking()
                    {
                        assert_eq!(
                            (asking.request.id, asking.cancelled),
                            (cancel.request, true),
                            "saved first"
                        );
                    }
                    self.sent.push(message);
                }
                // Applications hear what everybody hears; the log has it once.
                Action::Tell(telling) if telling.to == Audience::Apps => {}
                Action::Tell(telling) => self.log.push(telling),
                Action::StopTicker => {
                    self.agent.handle(at(self.ms), Event::TickerStopped { worst: Duration::ZERO });
                    actions.extend(self.agent.take_actions());
                }
                Action::SetHello(_) | Action::SendOnce(_) | Action::Reply { .. } | Action::Watch(_) => {}
                Action::Inform(_) | Action::Run { .. } | Action::Count(_) => {}
                Action::StartTicker | Action::Measure(_) | Action::Configure(_) | Action::Work { .. } => {}
            }
        }
        true
    }

    /// False: killed on the way, and restarted.
    fn feed(&mut self, event: Event, kill_after: Option<usize>) -> bool {
        self.ms += 7;
        self.agent.handle(at(self.ms), event);
        let survived = self.carry_out(kill_after.unwrap_or(usize::MAX));
        if !survived {
            self.restart();
        }
        survived
    }

    fn restart(&mut self) {
        self.random += 1;
        let finals = self.log.iter().filter_map(|t| t.fields.get("final").and_then(Value::as_u64)).collect();
        self.agent = Agent::new(config(""), self.disk.clone(), &finals, self.random, at(self.ms));
        self.carry_out(usize::MAX);
    }

    fn finals(&self) -> impl Iterator<Item = &Telling> {
        self.log.iter().filter(|t| t.fields.contains_key("final"))
    }
}

#[derive(Debug, Clone)]
enum Move {
    Ask,
    Cancel,
    Accept { migration: u64, running: bool },
    Deny,
    Resend,
    Complete { migration: u64, named: bool },
    Fail { migration: u64, named: bool },
    NewPeer(bool),
    Restart,
    Wait,
}

fn moves() -> impl Strategy<Value = Vec<(Move, Option<usize>)>> {
    let one = prop_oneof![
        4 => Just(Move::Ask),
        1 => Just(Move::Cancel),
        4 => (1..6u64, any::<bool>()).prop_map(|(migration, running)| Move::Accept { migration, running }),
        1 => Just(Move::Deny),
        1 => Just(Move::Resend),
        3 => (1..6u64, any::<bool>()).prop_map(|(migration, named)| Move::Complete { migration, named }),
        2 => (1..6u64, any::<bool>()).prop_map(|(migration, named)| Move::Fail { migration, named }),
        1 => any::<bool>().prop_map(Move::NewPeer),
        1 => Just(Move::Restart),
        1 => Just(Move::Wait),
    ];
    prop::collection::vec((one, prop::option::weighted(0.2, 0..4usize)), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn each_request_ends_once_and_each_migration_is_told_once_or_outranked(script in moves()) {
        let mut world = World::new();
        // The model: migrations that ended (acknowledged, so they must be told), by number.
        let mut ended: BTreeMap<u64, Vec<&'static str>> = BTreeMap::new();
        let mut asked: BTreeSet<u64> = BTreeSet::new();
        for (step, kill) in script {
            let outstanding = world.agent.state.life.asking().map(|a| a.request.id);
            let request = outstanding.unwrap_or(RequestId(3));
            let link = |m: HostToGuest| Event::Link(Session::Message(m));
            match step {
                Move::Ask => {
                    let command = Command::Migrate(Migrate::default());
                    world.feed(Event::Command { client: ClientId(1), command }, kill);
                }
                Move::Cancel => {
                    let command = Command::Cancel(Cancel::default());
                    world.feed(Event::Command { client: ClientId(1), command }, kill);
                }
                Move::Accept { migration, running } => {
                    let migration = MigrationId(migration);
                    let message = if running {
                        AlreadyRunning { request, migration }.into()
                    } else {
                        Accepted { request, migration }.into()
                    };
                    world.feed(link(message), kill);
                }
                Move::Deny => {
                    let m = Denied { request, reason: DenyReason::Policy, retry_after_s: Some(1) };
                    world.feed(link(m.into()), kill);
                }
                Move::Resend => { world.feed(link(Resend { request }.into()), kill); }
                Move::Complete { migration, named } => {
                    let m = completed(MigrationId(migration), named.then_some(request));
                    // Killed before it was acknowledged: the broker says it again.
                    if !world.feed(link(m.clone().into()), kill) {
                        world.feed(link(m.into()), None);
                    }
                    let told = ended.entry(migration).or_default();
                    if told.last() != Some(&"completed") {
                        told.push("completed");
                    }
                }
                Move::Fail { migration, named } => {
                    let m = Failed {
                        migration: MigrationId(migration),
                        request: named.then_some(request),
                        reason: FailReason::TimeLimit,
                        figures: Figures::default(),
                    };
                    if !world.feed(link(m.into()), kill) {
                        world.feed(link(m.into()), None);
                    }
                    ended.entry(migration).or_insert_with(|| vec!["failed"]);
                }
                Move::NewPeer(same) => { world.feed(met(if same { "a" } else { "b" }), kill); }
                Move::Restart => world.restart(),
                Move::Wait => {
                    world.ms += 500;
                    world.feed(Event::Timer, kill);
                }
            }
            asked.extend(world.agent.state.life.asking().map(|a| a.request.id.0));
            let waiting = world.agent.hello.waiting.as_slice().first().copied();
            prop_assert_eq!(waiting, world.agent.state.life.waiting(), "the hello names what waits");
        }
        // Whatever still waits to be told.
        world.ms += 1000 + u64::try_from(super::TELL_WAIT.as_millis()).unwrap();
        world.feed(Event::Timer, None);

        for (migration, how) in &ended {
            let id = Value::from(MigrationId(*migration).to_string());
            let told: Vec<_> = world
                .finals()
                .filter(|t| t.event != "answered" && t.fields.get("migration") == Some(&id))
                .map(|t| t.event.as_str())
                .collect();
            prop_assert_eq!(&told, how, "migration {}: once, but completed outranks failed", migration);
        }
        let outstanding = world.agent.state.life.asking().map(|a| a.request.id.0);
        for request in asked {
            let answers = world.finals().filter(|t| t.fields.get("request") == Some(&request.into())).count();
            prop_assert_eq!(answers, usize::from(outstanding != Some(request)), "request {}", request);
        }
        let mut numbers: Vec<_> = world.finals().filter_map(|t| t.fields["final"].as_u64()).collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        prop_assert_eq!(numbers.len(), all, "no final word twice");
    }
}

#[test]
fn a_cancel_follows_its_request_to_every_broker_until_the_answer_comes() {
    let command = |command| Event::Command { client: ClientId(1), command };
    let mut world = World::new();
    world.feed(command(Command::Migrate(Migrate::default())), None);
    let id = world.agent.state.life.asking().unwrap().request.id;
    assert!(world.sent.is_empty(), "nobody to say it to");
    world.feed(met("a"), None);
    let said = |world: &mut World| {
        std::mem::take(&mut world.sent)
            .iter()
            .map(coms_protocol::message::Message::number)
            // What applications want is said to whom is met, whatever else is.
            .filter(|number| *number != 20)
            .collect::<Vec<_>>()
    };
    assert_eq!(said(&mut world), [16], "said to whom was met");
    world.feed(command(Command::Cancel(Cancel::default())), None);
    world.feed(command(Command::Cancel(Cancel::default())), None);
    assert_eq!(said(&mut world), [19], "once is enough");

    world.restart();
    world.feed(met("a"), None);
    assert_eq!(said(&mut world), [19], "a restart forgets nothing");
    world.feed(Event::Link(Session::Message(Resend { request: id }.into())), None);
    assert_eq!(said(&mut world), [16, 19], "the request again, and right behind it the cancel");
    world.feed(Event::Link(Session::Lost), None);
    world.feed(met("b"), None);
    assert_eq!(said(&mut world), [] as [u16; 0], "the session still has both for the next broker");

    let m = Denied { request: id, reason: DenyReason::Policy, retry_after_s: None };
    world.feed(Event::Link(Session::Message(m.into())), None);
    world.feed(met("c"), None);
    assert!(said(&mut world).is_empty(), "over is over");
}

#[test]
fn completed_outranks_the_cancel_of_a_request_that_had_joined_the_move() {
    let command = |command| Event::Command { client: ClientId(1), command };
    let link = |m: HostToGuest| Event::Link(Session::Message(m));
    let mut world = World::new();
    world.feed(met("a"), None);
    world.feed(command(Command::Migrate(Migrate::default())), None);
    let request = world.agent.state.life.asking().unwrap().request.id;
    let migration = MigrationId(7);
    world.feed(link(AlreadyRunning { request, migration }.into()), None);
    world.feed(command(Command::Cancel(Cancel::default())), None);
    let by = Initiator::Customer;
    let figures = Figures::default();
    let cancelled = Cancelled { migration, request: Some(request), by, figures };
    world.feed(link(cancelled.into()), None);
    world.feed(link(cancelled.into()), None);
    world.restart();

    // The operator's move went on.
    world.feed(met("b"), None);
    let m = Completed { initiator: Initiator::Operator, ..completed(migration, Some(request)) };
    for _ in 0..2 {
        world.feed(link(m.clone().into()), None);
        world.ms += u64::try_from(super::TELL_WAIT.as_millis()).unwrap();
        world.feed(Event::Timer, None);
    }
    // What the source says late does not outrank.
    let reason = FailReason::TimeLimit;
    world.feed(link(Failed { migration, request: None, reason, figures }.into()), None);
    world.restart();

    let told: Vec<_> = world
        .finals()
        .map(|t| (t.event.as_str(), t.fields.get("request"), t.fields.get("told_before")))
        .collect();
    let (id, before) = (Value::from(request.0), Value::from("cancelled"));
    assert_eq!(told, [("cancelled", Some(&id), None), ("completed", None, Some(&before))]);
    assert!(world.agent.state.life == Life::Idle && world.agent.cooldown_until > Duration::ZERO);
    assert_eq!(world.agent.state.ended(migration), Some(crate::state::Outcome::Completed));
}

#[test]
fn a_foreign_move_that_began_under_one_id_and_ended_under_another_is_one_move() {
    let link = |m: HostToGuest| Event::Link(Session::Message(m));
    let mut world = World::new();
    world.feed(met("a"), None);
    let (at_source, on_arrival) = (MigrationId(7), MigrationId(8));
    let notice = Notice {
        migration: at_source,
        request: None,
        initiator: Initiator::Foreign,
        technique: Technique::PreCopy,
        starts_in_ms: 0,
        predicted_downtime_ms: None,
        predicted_total_ms: None,
    };
    world.feed(link(notice.into()), None);
    let progress = Progress {
        migration: at_source,
        phase: Phase::Copying,
        elapsed_ms: 20,
        bytes_total: None,
        bytes_remaining: None,
        round: None,
    };
    world.feed(link(progress.into()), None);
    world.feed(met("b"), None);
    let arrived = Completed { initiator: Initiator::Foreign, ..completed(on_arrival, None) };
    world.feed(link(arrived.into()), None);
    world.ms += u64::try_from(super::TELL_WAIT.as_millis()).unwrap();
    world.feed(Event::Timer, None);
    // Late words of the source about the same move say nothing new.
    world.feed(link(progress.into()), None);
    let (reason, figures) = (FailReason::Unexplained, Figures::default());
    world.feed(link(Failed { migration: at_source, request: None, reason, figures }.into()), None);
    let told: Vec<_> = world.finals().map(|t| (t.event.as_str(), t.fields.get("begun_as"))).collect();
    assert_eq!(told, [("completed", Some(&Value::from(at_source.to_string())))]);
    assert!(world.agent.moving.is_none());
}

#[test]
fn a_request_that_no_host_heard_of_ends_where_it_was_made() {
    let command = |command| Event::Command { client: ClientId(1), command };
    let mut world = World::new();
    world.feed(command(Command::Migrate(Migrate::default())), None);
    world.restart();
    world.feed(command(Command::Cancel(Cancel::default())), None);
    let told: Vec<_> = world.finals().map(|t| (t.event.as_str(), t.fields["why"].as_str())).collect();
    assert_eq!(told, [("cancelled", Some("by-customer"))]);
    world.feed(met("a"), None);
    assert!(world.sent.iter().all(|m| matches!(m, GuestToHost::Attend(_))));
    assert!(world.agent.hello.waiting.as_slice().is_empty());
}

const WATCHED: &str = "[asking]\ncooldown_s = 100\nbackoff_s = 10\nbackoff_max_s = 25\nsettle_s = 1\ncheck_s = 2\n\
    [[workload]]\nname = \"a\"\nprobe = { tcp = \"127.0.0.1:1\" }\ninterval_ms = 100\nwindow_s = 1\nfor_s = 0\n\
    min_samples = 3\nslower_than_ms = 10\n\
    [[workload]]\nname = \"b\"\nprobe = { tcp = \"127.0.0.1:2\" }\ninterval_ms = 100\nwindow_s = 1\nfor_s = 0\n\
    min_samples = 3\nslower_than_ms = 10\n";

fn probe(workload: usize, ms: u64) -> Event {
    Event::Probe { workload, outcome: Sample::Took(Duration::from_millis(ms)) }
}

/// What measuring the machine gives.
#[derive(Clone, Copy)]
struct Found {
    unit_us: u64,
    crowded: bool,
}

const USUAL: Found = Found { unit_us: 250, crowded: false };

/// Both workloads measured for a while; what was done meanwhile.
fn watch_on(agent: &mut Agent, found: Found, from_ms: u64, to_ms: u64, latency_ms: [u64; 2]) -> Vec<Action> {
    let mut done = Vec::new();
    for ms in (from_ms..to_ms).step_by(100) {
        for (w, latency) in latency_ms.into_iter().enumerate() {
            agent.handle(at(ms), probe(w, latency));
        }
        let mut actions = agent.take_actions();
        while let Some(action) = (!actions.is_empty()).then(|| actions.remove(0)) {
            if let Action::Work { units } = action {
                let seen = Counters { at: at(ms).mono, crowded: Some(found.crowded), ..Counters::default() };
                let cost = Some(Duration::from_micros(found.unit_us * u64::from(units)));
                agent.handle(at(ms), Event::Measured(Measured { before: seen, after: seen, units, cost }));
                actions.extend(agent.take_actions());
            }
            done.push(action);
        }
    }
    done
}

fn requests(actions: &[Action]) -> Vec<coms_protocol::guest_to_host::Request> {
    let request = |a: &Action| {
        if let Action::Send(GuestToHost::Request(request)) = a { Some(request.clone()) } else { None }
    };
    actions.iter().filter_map(request).collect()
}

/// The requests sent meanwhile, on a machine as usual.
fn run(
    agent: &mut Agent,
    from_ms: u64,
    to_ms: u64,
    latency_ms: [u64; 2],
) -> Vec<coms_protocol::guest_to_host::Request> {
    requests(&watch_on(agent, USUAL, from_ms, to_ms, latency_ms))
}

/// Knows its machine.
fn learned(more: &str) -> Agent {
    let mut agent = Agent::new(
        config(&WATCHED.replace("[asking]", &format!("[asking]\n{more}"))),
        State::new(5),
        &BTreeSet::new(),
        9,
        at(0),
    );
    agent.handle(at(1), met("a"));
    assert!(run(&mut agent, 100, 20_000, [1, 1]).is_empty());
    agent
}

fn told<'a>(actions: &'a [Action], event: &str) -> Vec<&'a Telling> {
    let telling = |a: &'a Action| if let Action::Tell(telling) = a { Some(telling) } else { None };
    actions.iter().filter_map(telling).filter(|t| t.event == event).collect()
}

#[test]
fn own_load_does_not_ask_and_says_why_once_until_the_host_is_to_blame() {
    let crowded = Found { crowded: true, ..USUAL };
    let mut agent = learned("");
    let done = watch_on(&mut agent, crowded, 20_000, 80_000, [90, 1]);
    assert!(requests(&done).is_empty());
    let why = told(&done, "workload_slow_by_itself");
    assert_eq!(why.len(), 1, "once per episode");
    assert_eq!(why[0].fields["workloads"], serde_json::json!(["a"]));
    assert!(why[0].fields["why"].as_str().unwrap().contains("1.0 of its own tasks wait"), "{why:?}");
    let machine = agent.machine(at(80_000).mono).unwrap();
    assert_eq!(machine["verdict"], "own");

    // Neighbours come in addition.
    let asked = requests(&watch_on(&mut agent, Found { unit_us: 500, ..crowded }, 80_000, 90_000, [90, 1]));
    assert_eq!(asked.len(), 1);
    let calibration =
        asked[0].evidence.as_slice().iter().find(|e| e.metric == Metric::CalibrationUs).unwrap();
    assert_eq!((calibration.baseline, calibration.threshold), (Some(2500), Some(3750)));
    assert!(calibration.now > 3750);

    // Who wants to ask all the same may.
    let mut agent = learned("ask_for_own_load = true");
    assert_eq!(requests(&watch_on(&mut agent, crowded, 20_000, 30_000, [90, 1])).len(), 1);
}

#[test]
fn a_verdict_that_does_not_come_is_not_waited_for_forever() {
    let mut agent = Agent::new(config(WATCHED), State::new(5), &BTreeSet::new(), 9, at(0));
    agent.handle(at(1), met("a"));
    let mut asked = None;
    for ms in (100..30_000).step_by(100) {
        agent.handle(at(ms), probe(0, 90));
        let actions = agent.take_actions();
        let due = agent.next_timeout().map(|t| t.as_millis() as u64);
        assert!(due.is_none_or(|due| due + 250 >= ms), "no timer stays in the past: {due:?} at {ms}");
        asked = asked.or_else(|| (!requests(&actions).is_empty()).then_some(ms));
    }
    let asked = asked.unwrap();
    assert!((10_000..13_000).contains(&asked), "{asked}");
}

#[test]
fn others_first_means_measure_again_and_paused_means_wait() {
    let denied = |request, reason, retry_after_s| {
        Event::Link(Session::Message(Denied { request, reason, retry_after_s }.into()))
    };
    let mut agent = learned("");
    let first = run(&mut agent, 20_000, 30_000, [90, 1]);
    agent.handle(at(30_000), denied(first[0].id, DenyReason::OthersFirst, Some(20)));
    assert!(run(&mut agent, 30_000, 50_000, [90, 1]).is_empty(), "not before its time");
    // The neighbour that left was what slowed it.
    assert!(run(&mut agent, 50_000, 70_000, [1, 1]).is_empty(), "what was slow before says nothing now");
    // Or not: then a whole window must show it.
    let second = run(&mut agent, 70_000, 80_000, [90, 1]);
    assert_eq!(second.len(), 1);
    agent.handle(at(80_000), denied(second[0].id, DenyReason::OthersFirst, Some(5)));
    let third = run(&mut agent, 80_000, 90_000, [90, 1]);
    assert_eq!(third.len(), 1, "a turn is no failure: nothing doubles");
    agent.handle(at(90_000), denied(third[0].id, DenyReason::Paused, Some(30)));
    assert!(run(&mut agent, 90_000, 120_000, [90, 1]).is_empty(), "the operator's pause");
    let fourth = run(&mut agent, 120_000, 125_000, [90, 1]);
    assert_eq!((fourth.len(), agent.state.refusals), (1, 0));
    agent.handle(at(125_000), denied(fourth[0].id, DenyReason::OwnLoad, None));
    assert_eq!(agent.state.refusals, 1, "a no is a no");
}

#[test]
fn whether_it_helped_is_told_once_also_when_the_agent_is_killed_before_it_says_so() {
    let mut agent = learned("");
    agent.handle(
        at(20_000),
        Event::Link(Session::Message(completed(MigrationId(1), Some(RequestId(3))).into())),
    );
    let (mut saved, mut told) = (None, None);
    for ms in (20_000..40_000).step_by(100) {
        agent.handle(at(ms), probe(0, 10));
        for action in agent.take_actions() {
            if let Action::Save(state) = action {
                saved = Some(*state);
            } else if let Action::Tell(telling) = action
                && telling.event == "effect"
            {
                assert!(told.replace((telling, saved.clone())).is_none(), "told once");
            }
        }
    }
    let (telling, saved) = told.unwrap();
    let effects = |in_log: BTreeSet<u64>| {
        let mut next = Agent::new(config(WATCHED), saved.clone().unwrap(), &in_log, 9, at(41_000));
        let told = |a: &Action| matches!(a, Action::Tell(t) if *t == telling);
        next.take_actions().iter().filter(|a| told(a)).count()
    };
    assert_eq!(effects(BTreeSet::new()), 1, "killed before it was in the log");
    let number = telling.fields["final"].as_u64().unwrap();
    assert_eq!(effects([number].into()), 0, "killed after it was");
}

#[test]
fn several_slow_workloads_make_one_request_and_waiting_times_hold() {
    let mut agent = Agent::new(config(WATCHED), State::new(5), &BTreeSet::new(), 9, at(0));
    agent.handle(at(1), met("a"));
    assert!(run(&mut agent, 100, 2000, [1, 1]).is_empty());
    let asked = run(&mut agent, 2000, 8000, [90, 20]);
    assert_eq!(asked.len(), 1, "one at a time");
    assert_eq!(asked[0].reason, RequestReason::WorkloadSlow);
    assert_eq!(asked[0].evidence.as_slice()[0].workload.as_str(), "a");

    let denied = |request| {
        Event::Link(Session::Message(
            Denied { request, reason: DenyReason::NoBetterHost, retry_after_s: None }.into(),
        ))
    };
    agent.handle(at(8000), denied(asked[0].id));
    assert!(run(&mut agent, 8000, 18_000, [90, 20]).is_empty(), "10 s after the first refusal");
    let second = run(&mut agent, 18_000, 19_500, [90, 20]);
    assert_eq!(second.len(), 1);
    let of_workloads = second[0].evidence.as_slice().iter().filter(|e| !e.workload.as_str().is_empty());
    assert_eq!(of_workloads.count(), 2, "both, the worst first");
    agent.handle(at(19_500), denied(second[0].id));
    assert!(run(&mut agent, 19_500, 39_500, [90, 20]).is_empty(), "20 s after the second");
    let third = run(&mut agent, 39_500, 43_000, [90, 20]);
    assert_eq!(third.len(), 1);

    let m = completed(MigrationId(1), Some(third[0].id));
    agent.handle(at(43_000), Event::Link(Session::Message(m.into())));
    assert!(run(&mut agent, 43_100, 143_000, [90, 20]).is_empty(), "100 s after a move");
    let told = agent.state.history.back().unwrap().effect.clone().unwrap();
    assert_eq!(told.worst.verdict, super::effect::Verdict::NoChange);
    assert_eq!(run(&mut agent, 143_000, 144_000, [90, 20]).len(), 1, "still slow: asks again");
}

#[test]
fn a_wall_clock_that_jumps_back_does_not_lengthen_the_cooldown() {
    let mut state = State::new(5);
    state.cooldown_until_ms = u64::MAX / 2;
    let agent = Agent::new(config(WATCHED), state, &BTreeSet::new(), 9, at(0));
    assert_eq!(agent.cooldown_until, Duration::from_secs(100));
}

#[test]
fn ids_stay_whole_in_every_json_reader() {
    let mut state = State::new(u64::MAX);
    for _ in 0..1000 {
        assert!(state.next_id() < 1 << 53);
    }
    assert!(matches!(state.life, Life::Idle));
}
