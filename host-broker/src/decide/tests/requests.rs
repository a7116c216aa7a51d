//! Requests as scripts: answered once, moved for, called off, paused.

use super::*;

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

#[test]
fn a_host_that_answered_lately_is_asked_again_before_all_is_refused() {
    let asked = |w: &mut World| {
        let actions = w.event(Event::Tick);
        find(&actions, |a| matches!(a, Action::Survey { .. })).is_some()
    };
    let silent = |w: &mut World| {
        w.event(Event::Surveyed {
            uuid: VM,
            migration: MigrationId(1),
            domain: Ok(Box::new(domain(DomainState::Running { arrived: false }))),
            answers: Vec::new(),
        })
    };
    // It answers the second time.
    let mut w = World::source();
    w.ask(1, Wishes::default());
    assert_eq!(denied(&silent(&mut w)), []);
    w.pass(1);
    assert!(asked(&mut w));
    let actions = w.hosts_answer(MigrationId(1));
    assert!(find(&actions, |a| matches!(a, Action::WriteTicket { .. })).is_some(), "{actions:?}");

    // It never does.
    let mut w = World::source();
    w.ask(1, Wishes::default());
    for _ in 0..5 {
        assert_eq!(denied(&silent(&mut w)), []);
        w.pass(1);
        assert!(asked(&mut w));
    }
    assert_eq!(denied(&silent(&mut w)), [DenyReason::NoDestination]);
    assert!(!asked(&mut w));
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
fn a_broker_that_just_began_chooses_once_it_has_looked_at_every_host() {
    let begun = |seconds: u64, other: Option<Result<HostSample, HvError>>| {
        let mut world = World::source();
        world.broker = Broker::new(config("h1", "h2"), AliasKey::new(b"k"), Vec::new(), Box::new(|| 9));
        world.now.mono = Duration::ZERO;
        world.event(Event::Hypervisor(HvEvent::Connected));
        world.event(Event::Domains(Ok(vec![domain(DomainState::Running { arrived: false })])));
        world.event(Event::Sampled { host: "h1".into(), result: Ok(sample(H1, 1)) });
        world.hello(&[]);
        let mut actions = world.ask(1, Wishes::default());
        assert_eq!(denied(&actions), Vec::<DenyReason>::new());
        world.pass(seconds);
        if let Some(result) = other {
            actions.extend(world.event(Event::Sampled { host: "h2".into(), result }));
        }
        actions.extend(world.event(Event::Tick));
        let survey = find(&actions, |a| matches!(a, Action::Survey { .. }));
        survey.map(|a| if let Action::Survey { hosts, .. } = a { hosts.len() } else { 0 })
    };
    assert_eq!(begun(1, None), None, "it may answer yet");
    assert_eq!(begun(1, Some(Ok(sample(H2, 1)))), Some(1));
    assert_eq!(begun(1, Some(Err(other_error()))), Some(0));
    assert_eq!(begun(5, None), Some(0), "whoever hangs does not hold this up");
}
