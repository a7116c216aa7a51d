//! Announced moves as scripts.

use super::*;
use crate::announced::Kept;
use crate::records::{MoveState, WaitsFor};
use coms_protocol::guest_to_host::{Attend, Hold, HostsQuery, Postpone, Ready, Veto};
use coms_protocol::host_to_guest::{Hosts, Notice, Terms, Verdict};
use coms_protocol::types::{Cause, Fitness, NoticeReason, Phase};

pub(super) fn say(w: &mut World, message: impl Into<GuestToHost>) -> Vec<Action> {
    w.event(Event::Link { uuid: VM, event: LinkEvent::Said(message.into()) })
}

pub(super) fn order(w: &mut World, expedite: bool, notice_s: Option<u32>) -> Vec<Action> {
    let request = crate::control::Request::Migrate {
        domain: "vm1".into(),
        to: None,
        reason: Some(NoticeReason::Maintenance),
        expedite,
        notice_s,
    };
    w.event(Event::Control { caller: crate::event::Caller(1), request })
}

pub(super) fn attends(notice_ms: u32, hold_ms: u32) -> World {
    let mut w = World::source();
    say(&mut w, Attend { notice_ms, hold_ms });
    w
}

fn surveyed(actions: &[Action]) -> bool {
    find(actions, |a| matches!(a, Action::Survey { .. })).is_some()
}

/// Second by second, until it begins; how long that took.
pub(super) fn begins_after(w: &mut World, at_most_s: u64) -> Option<u64> {
    for s in 0..=at_most_s {
        if surveyed(&w.event(Event::Tick)) {
            return Some(s);
        }
        w.pass(1);
    }
    None
}

pub(super) fn announced(actions: &[Action]) -> (Terms, Notice) {
    match told(actions)[..] {
        [.., HostToGuest::Terms(terms), HostToGuest::Notice(notice)] => (terms, notice),
        _ => panic!("not announced: {actions:?}"),
    }
}

pub(super) fn verdict(actions: &[Action]) -> Verdict {
    let found = told(actions).into_iter().find_map(|m| match m {
        HostToGuest::Verdict(v) => Some(v),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no verdict: {actions:?}"))
}

pub(super) fn hold(migration: MigrationId, for_ms: u32) -> Hold {
    Hold { migration, for_ms, cause: Cause::App, holders: 2 }
}

#[test]
fn an_agent_that_does_not_attend_sees_what_it_always_saw() {
    let mut w = World::source();
    let (migration, _) = w.move_begins(1);
    assert!(
        matches!(w.told()[..], [HostToGuest::Accepted(_), HostToGuest::Notice(n)] if n.starts_in_ms == 0)
    );
    assert!(find(&w.actions, |a| matches!(a, Action::TellOnce { .. })).is_none());
    // ... and the answer to a word about it is a verdict that nothing waits.
    let v = verdict(&say(&mut w, hold(migration, 1000)));
    assert!(!v.granted && v.starts_in_ms == 0);
    let mut w = World::source();
    assert!(surveyed(&order(&mut w, false, None)));
}

#[test]
fn one_that_attends_without_wanting_time_hears_the_terms_and_each_stage() {
    let mut w = attends(0, 0);
    w.move_begins(1);
    let told = w.told();
    assert!(
        matches!(told[..], [HostToGuest::Accepted(_), HostToGuest::Terms(t), HostToGuest::Notice(n)]
            if n.starts_in_ms == 0 && t.hold_up_to_ms == 0 && t.reason == NoticeReason::Manual),
        "{told:?}"
    );
    let phase = |a: &Action| match a {
        Action::TellOnce { message: HostToGuest::Progress(p), .. } => Some(p.phase),
        _ => None,
    };
    let phases: Vec<_> = w.actions.iter().filter_map(phase).collect();
    assert_eq!(phases, [Phase::Preparing, Phase::Copying]);
}

#[test]
fn a_silent_guest_delays_nothing_beyond_its_notice() {
    let mut w = attends(5000, 100_000);
    let actions = order(&mut w, false, None);
    assert!(!surveyed(&actions));
    let (terms, notice) = announced(&actions);
    assert_eq!((notice.starts_in_ms, notice.initiator, notice.request), (5000, Initiator::Operator, None));
    assert_eq!((terms.reason, terms.hold_up_to_ms), (NoticeReason::Maintenance, 105_000));
    assert!(!terms.may_veto && !terms.expedited && terms.postpone_up_to_s == 86_400);
    assert_eq!(begins_after(&mut w, 100), Some(5));
    let steps: Vec<_> = w.broker.records.back().unwrap().steps.iter().map(|s| s.state).collect();
    assert_eq!(steps, [MoveState::Announced, MoveState::Choosing]);
    // Its notice was told; it is not told again that it begins, but how far it is.
    assert!(matches!(w.told().last(), Some(HostToGuest::Notice(_))));
}

#[test]
fn policy_and_wish_both_limit_notice_and_hold() {
    for (notice_ms, hold_ms, expected) in [
        (u32::MAX, u32::MAX, (60_000, 360_000)),
        (1500, 2500, (1500, 4000)),
        (0, 2500, (1000, 3500)),
        (700, 0, (700, 0)),
    ] {
        let mut w = attends(notice_ms, hold_ms);
        let (terms, notice) = announced(&order(&mut w, false, None));
        assert_eq!((notice.starts_in_ms, terms.hold_up_to_ms), expected);
    }
}

#[test]
fn a_hold_lasts_as_long_as_is_asked_and_no_longer_than_is_allowed() {
    for (for_ms, begins_s) in [(8000, 8), (1000, 5), (u32::MAX, 15)] {
        let mut w = attends(5000, 10_000);
        let (_, notice) = announced(&order(&mut w, false, None));
        let v = verdict(&say(&mut w, hold(notice.migration, for_ms)));
        assert_eq!((v.granted, v.starts_in_ms), (true, begins_s * 1000));
        let waits = w.broker.records.back().and_then(|r| r.waits).unwrap();
        assert_eq!(waits.waits_for, WaitsFor::Guest { cause: Cause::App, holders: 2 });
        assert_eq!(waits.until_unix_ms - w.now.unix_ms, begins_s * 1000);
        assert_eq!(begins_after(&mut w, 100), Some(begins_s));
    }
    // Again and again: the limit stays.
    let mut w = attends(5000, 10_000);
    let (_, notice) = announced(&order(&mut w, false, None));
    for _ in 0..15 {
        assert!(!surveyed(&w.event(Event::Tick)));
        assert!(verdict(&say(&mut w, hold(notice.migration, 20_000))).granted);
        w.pass(1);
    }
    assert!(!verdict(&say(&mut w, hold(notice.migration, 20_000))).granted);
    assert!(surveyed(&w.event(Event::Tick)));
}

#[test]
fn a_guest_that_is_ready_does_not_wait() {
    let mut w = attends(5000, 10_000);
    let (_, notice) = announced(&order(&mut w, false, None));
    say(&mut w, hold(notice.migration, 9000));
    assert!(!surveyed(&say(&mut w, Ready { migration: MigrationId(4711) })));
    assert!(surveyed(&say(&mut w, Ready { migration: notice.migration })));
    assert_eq!(w.broker.records.back().map(|r| r.state), Some(MoveState::Choosing));
}

#[test]
fn who_holds_and_goes_holds_no_more() {
    type Goes = fn(&mut World);
    let ways: [Goes; 3] = [
        |w| drop(w.event(Event::Link { uuid: VM, event: LinkEvent::Lost })),
        |w| drop(w.hello(&[])),
        |w| drop(say(w, Attend { notice_ms: 0, hold_ms: 0 })),
    ];
    for goes in ways {
        let mut w = attends(2000, 100_000);
        let (_, notice) = announced(&order(&mut w, false, None));
        say(&mut w, hold(notice.migration, 90_000));
        w.pass(3);
        assert!(!surveyed(&w.event(Event::Tick)));
        goes(&mut w);
        assert!(surveyed(&w.event(Event::Tick)));
    }
}

#[test]
fn a_new_agent_hears_of_what_is_still_announced() {
    let mut w = attends(20_000, 0);
    let (_, first) = announced(&order(&mut w, false, None));
    w.pass(5);
    let (_, again) = announced(&w.hello(&[]));
    assert_eq!((again.migration, again.starts_in_ms), (first.migration, 15_000));
}

#[test]
fn postponing_adds_up_to_no_more_than_is_allowed() {
    let mut w = attends(5000, 10_000);
    let (terms, notice) = announced(&order(&mut w, false, None));
    let postpone = |for_s| Postpone { migration: notice.migration, for_s, cause: Cause::Window };
    let actions = say(&mut w, postpone(3600));
    assert_eq!(verdict(&actions).starts_in_ms, 3_600_000);
    let (again, moved) = announced(&actions);
    assert_eq!((moved.migration, moved.starts_in_ms), (notice.migration, 3_600_000));
    assert_eq!(again.hold_up_to_ms, 3_610_000);
    w.pass(3000);
    // Further than allowed: as far as allowed.
    let actions = say(&mut w, postpone(u32::MAX));
    assert_eq!(verdict(&actions).starts_in_ms / 1000 + 3000, u64::from(terms.postpone_up_to_s));
    w.pass(u64::from(terms.postpone_up_to_s) - 3000);
    assert!(!verdict(&say(&mut w, postpone(60))).granted);
    assert!(surveyed(&w.event(Event::Tick)));
}

#[test]
fn postponing_is_granted_so_often_and_each_time_is_kept() {
    let mut w = attends(1000, 0);
    let (_, notice) = announced(&order(&mut w, false, None));
    let granted = (1..=100u32)
        .filter(|i| {
            let migration = notice.migration;
            verdict(&say(&mut w, Postpone { migration, for_s: 60 + i, cause: Cause::Manual })).granted
        })
        .count();
    assert_eq!(granted, 16);
    let kept = w.actions.iter().filter(|a| matches!(a, Action::KeepAnnounced(_))).count();
    assert_eq!(kept, 17);
}

#[test]
fn a_veto_ends_what_is_made_for_the_guest_and_not_what_the_operator_wants() {
    let mut w = attends(5000, 0);
    let (terms, notice) = announced(&w.ask(1, Wishes::default()));
    assert!(terms.may_veto);
    let actions = say(&mut w, Veto { migration: notice.migration, cause: Cause::Manual });
    assert!(
        matches!(told(&actions)[..], [HostToGuest::Verdict(v), HostToGuest::Cancelled(c)]
            if v.granted && c.request == Some(RequestId(1)) && c.by == Initiator::Customer),
        "{actions:?}"
    );
    assert!(find(&actions, |a| matches!(a, Action::ClearTicket { .. })).is_none(), "it has none");
    assert_eq!(begins_after(&mut w, 20), None);

    let mut w = attends(5000, 0);
    let (_, notice) = announced(&order(&mut w, false, None));
    let v = verdict(&say(&mut w, Veto { migration: notice.migration, cause: Cause::Manual }));
    assert_eq!((v.granted, v.starts_in_ms), (false, 5000));
    assert_eq!(begins_after(&mut w, 20), Some(5));
}

#[test]
fn an_expedited_move_is_told_and_not_asked() {
    let mut w = attends(5000, 10_000);
    let actions = order(&mut w, true, None);
    assert!(surveyed(&actions));
    let Some(Action::Survey { migration, .. }) = find(&actions, |a| matches!(a, Action::Survey { .. }))
    else {
        panic!()
    };
    w.hosts_answer(migration);
    let actions = w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
    assert!(announced(&actions).0.expedited);

    let mut w = attends(5000, 10_000);
    let (terms, notice) = announced(&order(&mut w, true, Some(20)));
    assert!(terms.expedited && terms.hold_up_to_ms == 0 && terms.postpone_up_to_s == 0 && !terms.may_veto);
    let migration = notice.migration;
    assert!(!verdict(&say(&mut w, hold(migration, 9000))).granted);
    assert!(!verdict(&say(&mut w, Postpone { migration, for_s: 60, cause: Cause::App })).granted);
    assert!(!verdict(&say(&mut w, Veto { migration, cause: Cause::App })).granted);
    assert_eq!(begins_after(&mut w, 50), Some(20));
}

#[test]
fn an_operators_notice_reaches_agents_that_know_no_terms() {
    let mut w = World::source();
    let (_, notice) = announced(&order(&mut w, false, Some(30)));
    assert_eq!(notice.starts_in_ms, 30_000);
    assert_eq!(begins_after(&mut w, 50), Some(30));
}

/// The other host answers, and cannot take it.
fn nobody() -> Answer {
    let storage = Ok(Default::default());
    Answer { host: "h2".into(), can_run: Err("another CPU".into()), has_it: false, storage }
}

#[test]
fn an_announced_move_that_is_called_off_is_told_whoever_wanted_it() {
    // The operator's: nobody can take it.
    let mut w = attends(2000, 0);
    let (_, notice) = announced(&order(&mut w, false, None));
    assert_eq!(begins_after(&mut w, 9), Some(2));
    let actions = w.event(Event::Surveyed {
        uuid: VM,
        migration: notice.migration,
        domain: Ok(Box::new(domain(DomainState::Running { arrived: false }))),
        answers: vec![nobody()],
    });
    assert!(matches!(told(&actions)[..], [HostToGuest::Cancelled(c)] if c.migration == notice.migration));
    // The guest's own.
    let mut w = attends(2000, 0);
    let actions = w.ask(1, Wishes::default());
    assert!(matches!(told(&actions)[0], HostToGuest::Accepted(_)));
    assert_eq!(begins_after(&mut w, 9), Some(2));
    let actions = w.event(Event::Surveyed {
        uuid: VM,
        migration: announced(&actions).1.migration,
        domain: Ok(Box::new(domain(DomainState::Running { arrived: false }))),
        answers: vec![nobody()],
    });
    assert!(matches!(told(&actions)[..], [HostToGuest::Denied(_)]), "{actions:?}");
    // Cancelled by whoever wanted it, or by a pause.
    let mut w = attends(2000, 0);
    w.ask(1, Wishes::default());
    assert!(matches!(told(&cancel(&mut w, 1))[..], [HostToGuest::Cancelled(_)]));
    let mut w = attends(2000, 0);
    w.ask(1, Wishes::default());
    let pause = crate::control::Request::Pause { let_finish: true };
    let actions = w.event(Event::Control { caller: crate::event::Caller(2), request: pause });
    assert!(matches!(told(&actions)[..], [HostToGuest::Cancelled(c)] if c.by == Initiator::Operator));
}

#[test]
fn announced_moves_take_no_place_and_wait_for_one() {
    let mut w = attends(2000, 0);
    let mut others = Vec::new();
    for n in [8, 9] {
        let uuid = Uuid::from_u128(n);
        let other =
            Domain { uuid, name: format!("vm{n}"), ..domain(DomainState::Running { arrived: false }) };
        w.event(Event::Domain { uuid, result: Ok(other) });
        others.push(uuid);
    }
    order(&mut w, false, None);
    for uuid in &others {
        let request = Request {
            id: RequestId(1),
            reason: RequestReason::Manual,
            evidence: List::default(),
            wishes: Wishes::default(),
        };
        let said = LinkEvent::Said(GuestToHost::Request(request));
        assert!(surveyed(&w.event(Event::Link { uuid: *uuid, event: said })), "both places are free");
    }
    assert_eq!(begins_after(&mut w, 10), None);
    let waits = w.broker.records.iter().find(|r| r.uuid == VM).and_then(|r| r.waits).unwrap();
    assert_eq!(waits.waits_for, WaitsFor::OtherMoves);
    w.event(Event::Domain {
        uuid: others[0],
        result: Err(HvError::NoDomain { operation: "look", detail: String::new() }),
    });
    assert!(surveyed(&w.event(Event::Tick)));
}

pub(super) fn last_kept(w: &World) -> Vec<Kept> {
    let kept = |a: &Action| if let Action::KeepAnnounced(k) = a { Some(k.clone()) } else { None };
    w.actions.iter().rev().find_map(kept).unwrap_or_default()
}

/// The same host with a new broker, which has what the former one left on disk.
pub(super) fn restarted(w: &World) -> World {
    let saved = |a: &Action| if let Action::Record(r) = a { Some((**r).clone()) } else { None };
    let past = w.actions.iter().filter_map(saved).collect();
    let mut draws = 1000;
    let draw = Box::new(move || {
        draws += 1;
        draws
    });
    let broker = Broker::new(config("h1", "h2"), AliasKey::new(b"k"), past, draw).after(last_kept(w), None);
    let mut w = World { broker, now: w.now, actions: Vec::new() };
    w.event(Event::Hypervisor(HvEvent::Connected));
    for beat in 0..2 {
        w.event(Event::Sampled { host: "h1".into(), result: Ok(sample(H1, beat)) });
        w.event(Event::Sampled { host: "h2".into(), result: Ok(sample(H2, beat)) });
        w.pass(2);
    }
    w
}

#[test]
fn an_operators_announced_move_survives_a_killed_broker_under_its_id() {
    let mut w = attends(60_000, 10_000);
    let (_, notice) = announced(&order(&mut w, false, None));
    w.pass(10);
    let mut w = restarted(&w);
    w.event(Event::Domains(Ok(vec![domain(DomainState::Running { arrived: false })])));
    assert_eq!(w.broker.records.len(), 1);
    assert_eq!(w.broker.records.back().map(|r| r.state), Some(MoveState::Announced));
    let (terms, again) = announced(&w.hello(&[]));
    assert_eq!((again.migration, again.starts_in_ms), (notice.migration, 46_000));
    assert_eq!((terms.reason, terms.hold_up_to_ms), (NoticeReason::Maintenance, 56_000));
    assert_eq!(begins_after(&mut w, 100), Some(46));
    // It is kept until its ticket is there, and not a moment longer.
    assert!(find(&w.actions, |a| *a == Action::KeepAnnounced(Vec::new())).is_none());
    w.event(Event::Sampled { host: "h2".into(), result: Ok(sample(H2, 7)) });
    w.hosts_answer(notice.migration);
    let actions = w.event(Event::TicketWritten { uuid: VM, migration: notice.migration, result: Ok(()) });
    let at = |wanted: &dyn Fn(&Action) -> bool| actions.iter().position(wanted).unwrap();
    assert!(at(&|a| *a == Action::KeepAnnounced(Vec::new())) < at(&|a| matches!(a, Action::Migrate { .. })));
    assert!(!actions.iter().any(|a| matches!(a, Action::Tell { .. })), "{actions:?}");
}

#[test]
fn one_whose_time_passed_while_no_broker_ran_leaves_the_agent_time_to_come_back() {
    let mut w = attends(5000, 60_000);
    let (_, notice) = announced(&order(&mut w, false, None));
    w.pass(600);
    let mut w = restarted(&w);
    w.event(Event::Domains(Ok(vec![domain(DomainState::Running { arrived: false })])));
    w.hello(&[]);
    say(&mut w, Attend { notice_ms: 5000, hold_ms: 60_000 });
    assert!(verdict(&say(&mut w, hold(notice.migration, 20_000))).granted);
    assert_eq!(begins_after(&mut w, 100), Some(20));
}

#[test]
fn a_killed_brokers_announcement_to_a_domain_that_is_gone_is_over() {
    let mut w = attends(60_000, 0);
    order(&mut w, false, None);
    let mut w = restarted(&w);
    let actions = w.event(Event::Domains(Ok(Vec::new())));
    assert!(find(&actions, |a| *a == Action::KeepAnnounced(Vec::new())).is_some());
    assert_eq!(w.broker.records.back().map(|r| r.state), Some(MoveState::Cancelled));
}

#[test]
fn what_a_guest_asked_for_is_in_its_own_hello_and_not_kept() {
    let mut w = attends(60_000, 0);
    let (_, notice) = announced(&w.ask(1, Wishes::default()));
    assert_eq!(last_kept(&w), []);
    let mut w = restarted(&w);
    w.event(Event::Domains(Ok(vec![domain(DomainState::Running { arrived: false })])));
    let actions = w.hello(&[(1, Some(notice.migration.0))]);
    assert!(matches!(told(&actions)[..], [HostToGuest::Resend(r)] if r.request == RequestId(1)));
}

#[test]
fn a_request_joins_what_is_announced_and_its_move_answers_it() {
    let mut w = attends(5000, 0);
    let (_, notice) = announced(&order(&mut w, false, None));
    let actions = w.ask(1, Wishes::default());
    assert!(matches!(told(&actions)[..], [HostToGuest::Accepted(a)] if a.migration == notice.migration));
    let order = crate::control::Request::Cancel { id: notice.migration };
    let actions = w.event(Event::Control { caller: crate::event::Caller(3), request: order });
    assert!(
        matches!(told(&actions)[..], [HostToGuest::Cancelled(c)] if c.request == Some(RequestId(1))),
        "{actions:?}"
    );
    assert_eq!(last_kept(&w), []);
}

#[test]
fn a_guest_hears_where_it_may_run_by_aliases_only() {
    let mut w = World::source();
    let hosts = |actions: &[Action]| match told(actions)[..] {
        [HostToGuest::Hosts(Hosts { number: 5, ref hosts, all })] => {
            (hosts.as_slice().iter().map(|h| h.fitness).collect::<Vec<_>>(), all)
        }
        _ => panic!("{actions:?}"),
    };
    let actions = say(&mut w, HostsQuery { number: 5 });
    assert_eq!(hosts(&actions), (vec![Fitness::Here, Fitness::Fit], 2));
    let text = format!("{:?}", told(&actions));
    assert!(!text.contains("h1\"") && !text.contains("h2\""), "{text}");
    w.pass(60);
    assert_eq!(hosts(&say(&mut w, HostsQuery { number: 5 })).0[1], Fitness::Silent);
    let full = |memory_kib| Event::Sampled {
        host: "h2".into(),
        result: Ok(HostSample { memory_kib, ..sample(H2, 99) }),
    };
    w.event(full(1 << 20));
    assert_eq!(hosts(&say(&mut w, HostsQuery { number: 5 })).0[1], Fitness::Full);
    w.event(Event::Sampled { host: "h2".into(), result: Ok(HostSample { broker: None, ..sample(H2, 0) }) });
    assert_eq!(hosts(&say(&mut w, HostsQuery { number: 5 })).0[1], Fitness::NoBroker);
    // One that takes no part learns nothing of others.
    let stranger = Domain { name: "x".into(), ..domain(DomainState::Running { arrived: false }) };
    w.look(stranger);
    assert_eq!(hosts(&say(&mut w, HostsQuery { number: 5 })), (vec![Fitness::Here], 1));
}
