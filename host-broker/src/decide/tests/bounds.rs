//! What one guest may cost the others, as scripts.

use super::*;

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
    assert_eq!(w.broker.records.len(), super::super::past::RECORDS);
    let most = (0..300u128).map(|g| of(&w, Uuid::from_u128(1000 + g))).max();
    assert!(most.is_some_and(|most| most <= super::super::past::REFUSALS), "{most:?}");
}
