//! Arrivals as scripts: told once, after Finish, by whoever has the VM then.

use super::*;

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
