//! What brokers and libvirt leave behind as scripts: paused copies, copies that run twice, a former broker's moves.

use super::*;

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
