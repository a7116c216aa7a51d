//! `comsctl enable` and `disable`.

use super::*;
use crate::control::{Reply, Request};
use crate::event::Caller;
use crate::hypervisor::Part;

const CALLER: Caller = Caller(1);

fn order(w: &mut World, on: bool) -> Vec<Action> {
    let domain = "vm1".to_owned();
    let request = if on { Request::Enable { domain } } else { Request::Disable { domain } };
    w.event(Event::Control { caller: CALLER, request })
}

fn refused(actions: &[Action]) -> String {
    match find(actions, |a| matches!(a, Action::Reply { .. })) {
        Some(Action::Reply { reply, .. }) => match *reply {
            Reply::Refused { text } => text,
            other => panic!("not refused: {other:?}"),
        },
        other => panic!("no reply: {other:?}"),
    }
}

/// A host whose configuration names nobody.
fn nobody_is_named() -> World {
    let mut w = World::source();
    let mut config = w.broker.config.clone();
    config.enabled.clear();
    w.event(Event::Reloaded { caller: None, config: Ok(Box::new(config)) });
    w
}

#[test]
fn a_permission_in_the_metadata_counts_at_once_and_the_guest_hears_of_it() {
    let mut w = nobody_is_named();
    assert_eq!(denied(&w.ask(1, Wishes::default())), [DenyReason::NotEnabled]);
    assert_eq!(order(&mut w, true), [Action::SetPart { caller: CALLER, uuid: VM, on: true }]);
    let part = Part { running: true, persistent: true };
    let actions = w.event(Event::PartSet { caller: CALLER, uuid: VM, on: true, result: Ok(part) });
    let done =
        find(&actions, |a| matches!(a, Action::Reply { reply, .. } if matches!(**reply, Reply::Done { .. })));
    assert!(done.is_some() && actions.contains(&Action::Look { uuid: VM }), "{actions:?}");
    let runs = domain(DomainState::Running { arrived: false });
    let actions = w.look(Domain { permitted: true, ..runs.clone() });
    assert!(
        find(&actions, |a| matches!(a, Action::Greet { hello, .. } if hello.enabled)).is_some(),
        "{actions:?}"
    );
    assert!(find(&w.ask(2, Wishes::default()), |a| matches!(a, Action::Survey { .. })).is_some());
    // And it is taken back.
    let actions = w.look(runs);
    assert!(find(&actions, |a| matches!(a, Action::Greet { hello, .. } if !hello.enabled)).is_some());
}

#[test]
fn a_guest_that_was_plugged_in_is_attached() {
    let mut w = nobody_is_named();
    let without = Domain { channel: None, ..domain(DomainState::Running { arrived: false }) };
    assert!(find(&w.look(without.clone()), |a| matches!(a, Action::Detach { .. })).is_some());
    let with = Domain { permitted: true, ..domain(DomainState::Running { arrived: false }) };
    let actions = w.look(with);
    assert!(
        find(&actions, |a| matches!(a, Action::Attach { hello, .. } if hello.enabled)).is_some(),
        "{actions:?}"
    );
    assert!(find(&actions, |a| matches!(a, Action::Greet { .. })).is_none());
}

#[test]
fn nothing_is_changed_while_it_moves_and_the_reason_is_given() {
    let mut w = World::source();
    let (migration, _) = w.move_begins(1);
    for on in [true, false] {
        let why = refused(&order(&mut w, on));
        assert!(why.contains("being moved") && why.contains(&migration.to_string()), "{why}");
    }
    let mut w = World::source();
    let runs = domain(DomainState::Running { arrived: false });
    for (state, word) in [
        (Domain { state: DomainState::Incoming, ..runs.clone() }, "arriving"),
        (Domain { state: DomainState::Paused { migration: true }, ..runs.clone() }, "paused"),
    ] {
        w.look(state);
        let why = refused(&order(&mut w, true));
        assert!(why.contains(word) || why.contains("being moved"), "{word}: {why}");
    }
    // One that is shut off can be changed; and of a job that a look has shown libvirt may know that it is over.
    for domain in
        [Domain { state: DomainState::ShutOff, ..runs.clone() }, Domain { job_active: true, ..runs }]
    {
        let mut w = World::source();
        w.look(domain);
        assert!(matches!(order(&mut w, true)[..], [Action::SetPart { .. }]));
    }
}

#[test]
fn who_is_named_in_the_configuration_takes_part_all_the_same_and_that_is_said() {
    let mut w = World::source();
    order(&mut w, false);
    let result = Ok(Part { running: false, persistent: true });
    let actions = w.event(Event::PartSet { caller: CALLER, uuid: VM, on: false, result });
    let said = format!("{actions:?}");
    assert!(said.contains("[guests] enabled"), "{said}");
    let busy = HvError::Busy { operation: "let take part", detail: "a job".into() };
    let actions = w.event(Event::PartSet { caller: CALLER, uuid: VM, on: false, result: Err(busy) });
    assert!(refused(&actions).contains("busy with another job"), "{actions:?}");
    let nobody = Request::Enable { domain: "nobody".into() };
    let actions = w.event(Event::Control { caller: CALLER, request: nobody });
    assert!(refused(&actions).contains("no domain `nobody`"));
}
