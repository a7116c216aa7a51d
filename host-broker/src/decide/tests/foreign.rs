//! Moves that this broker did not begin, as scripts.

use super::*;
use crate::announced::Stays;
use crate::records::MoveState;
use coms_protocol::host_to_guest::Completed;

fn copies(w: &mut World) -> Option<MigrationId> {
    let actions = w.event(Event::Hypervisor(HvEvent::Iteration { uuid: VM, round: 1 }));
    match find(&actions, |a| matches!(a, Action::Watch { .. })) {
        Some(Action::Watch { migration, .. }) => Some(migration),
        _ => None,
    }
}

fn job(w: &mut World, migration: MigrationId, leaves: bool) -> Vec<Action> {
    let figures = Box::new(JobFigures { leaves: Some(leaves), rounds: Some(1), ..JobFigures::default() });
    w.event(Event::Progress { uuid: VM, migration, figures })
}

#[test]
fn a_foreign_move_is_told_at_the_source_on_its_first_sign() {
    let mut w = World::source();
    let id = copies(&mut w).unwrap();
    assert!(w.told().is_empty(), "not before libvirt says that it is a migration");
    job(&mut w, id, true);
    job(&mut w, id, true);
    assert_eq!(copies(&mut w), None);
    let told = w.told();
    assert!(
        matches!(told[..], [HostToGuest::Notice(n)] if n.initiator == Initiator::Foreign && n.migration == id),
        "{told:?}"
    );
    w.event(Event::Hypervisor(HvEvent::Left { uuid: VM }));
    assert_eq!(w.told().len(), 1, "the rest is told where it is");
    assert_eq!(w.broker.records.back().map(|r| r.state), Some(MoveState::Left));
}

#[test]
fn a_dump_is_no_move() {
    let mut w = World::source();
    let id = copies(&mut w).unwrap();
    job(&mut w, id, false);
    w.event(Event::Watched { uuid: VM, migration: id });
    w.look(domain(DomainState::Running { arrived: false }));
    assert!(w.told().is_empty() && w.broker.records.is_empty());
    assert!(copies(&mut w).is_some(), "the next one is asked about again");
}

#[test]
fn a_foreign_move_that_does_not_leave_is_told_once() {
    let mut w = World::source();
    let id = copies(&mut w).unwrap();
    job(&mut w, id, true);
    // A look that was taken before the job began.
    w.look(domain(DomainState::Running { arrived: false }));
    assert_eq!(w.told().len(), 1);
    let actions = w.event(Event::Watched { uuid: VM, migration: id });
    assert!(find(&actions, |a| matches!(a, Action::Look { .. })).is_some());
    for _ in 0..2 {
        w.look(domain(DomainState::Running { arrived: false }));
    }
    let told = w.told();
    assert!(
        matches!(told[..], [HostToGuest::Notice(_), HostToGuest::Failed(f)] if f.migration == id),
        "{told:?}"
    );
}

#[test]
fn our_own_moves_are_not_foreign() {
    let mut w = World::source();
    w.move_begins(1);
    assert_eq!(copies(&mut w), None);
}

/// A domain arrives here for which nobody wrote a ticket.
fn comes(w: &mut World) -> (MigrationId, String) {
    w.look(domain(DomainState::Incoming));
    w.hello(&[]);
    let actions = w.event(Event::Hypervisor(HvEvent::Arrived { uuid: VM }));
    written(&actions)
}

fn written(actions: &[Action]) -> (MigrationId, String) {
    match find(actions, |a| matches!(a, Action::WriteTicket { .. })) {
        Some(Action::WriteTicket { migration, xml, .. }) => (migration, xml),
        _ => panic!("no ticket: {actions:?}"),
    }
}

fn completed(w: &World) -> Vec<Completed> {
    let completed = |m| if let HostToGuest::Completed(c) = m { Some(c) } else { None };
    w.told().into_iter().filter_map(completed).collect()
}

fn figures(w: &mut World, migration: MigrationId) {
    let figures = Some(Box::new(JobFigures { downtime_ms: Some(31), ..JobFigures::default() }));
    w.event(Event::Figures { uuid: VM, migration, figures });
}

#[test]
fn an_arrival_without_a_ticket_gets_one_and_is_told_once() {
    let mut w = World::destination();
    let (migration, xml) = comes(&mut w);
    assert!(w.told().is_empty(), "not before the next broker would know, too");
    w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
    figures(&mut w, migration);
    let [c] = &completed(&w)[..] else { panic!("{:?}", w.told()) };
    assert_eq!((c.initiator, c.request, c.figures.downtime_ms), (Initiator::Foreign, None, Some(31)));
    assert!(c.from.is_none() && c.told_after_ms.is_some());
    // Looks and lists show the ticket; nothing is told again.
    let here = Domain { ticket_xml: Some(xml), ..domain(DomainState::Running { arrived: true }) };
    w.look(here.clone());
    w.event(Event::Domains(Ok(vec![here])));
    assert_eq!(completed(&w).len(), 1);
    let told = w.told();
    let actions = w.event(Event::Link { uuid: VM, event: LinkEvent::Delivered(told[0].clone()) });
    assert!(find(&actions, |a| matches!(a, Action::ClearTicket { .. })).is_some());
    w.event(Event::TicketCleared { uuid: VM, result: Ok(()) });
    w.look(domain(DomainState::Running { arrived: true }));
    w.event(Event::Hypervisor(HvEvent::Connected));
    w.event(Event::Domains(Ok(vec![domain(DomainState::Running { arrived: true })])));
    assert_eq!(completed(&w).len(), 1);
}

/// What may come in any order, once the domain has resumed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sign {
    Arrived,
    Look,
    List,
    Written,
    Figures,
    Delivered,
    Cleared,
}

/// In whatever order an arrival shows, and however often, it is told once: under its ticket, or as foreign.
#[test]
fn an_arrival_is_told_once_in_whatever_order_it_shows() {
    use Sign::*;
    let orders = prop::collection::vec(
        prop::sample::select(vec![Arrived, Look, List, Written, Figures, Delivered, Cleared]),
        0..12,
    );
    proptest!(|(signs in orders, ours: bool)| {
        let mut w = World::destination();
        let t = ticket(&w);
        let mut metadata = ours.then(|| t.to_xml());
        w.look(Domain { ticket_xml: metadata.clone(), ..domain(DomainState::Incoming) });
        w.hello(&[]);
        let (mut arrived, mut seen) = (false, 0);
        // Whatever comes first, all of it comes in the end, in the usual order.
        for sign in signs.into_iter().chain([Arrived, Look, Written, Figures, Delivered, Cleared, Look, List]) {
            let actions = w.actions.clone();
            let last = |wanted: fn(&Action) -> Option<MigrationId>| actions.iter().rev().find_map(wanted);
            let here = Domain { ticket_xml: metadata.clone(), ..domain(DomainState::Running { arrived: true }) };
            match sign {
                // libvirt says it once.
                Arrived if !std::mem::replace(&mut arrived, true) => {
                    w.event(Event::Hypervisor(HvEvent::Arrived { uuid: VM }));
                }
                Arrived => {}
                Look => drop(w.look(here)),
                List => drop(w.event(Event::Domains(Ok(vec![here])))),
                Written => {
                    let written = last(|a| if let Action::WriteTicket { migration, .. } = a { Some(*migration) } else { None });
                    if let Some(migration) = written {
                        w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
                    }
                }
                Figures => {
                    let fetched = last(|a| if let Action::FetchFigures { migration, .. } = a { Some(*migration) } else { None });
                    if let Some(migration) = fetched {
                        figures(&mut w, migration);
                    }
                }
                Delivered => for message in w.told() {
                    w.event(Event::Link { uuid: VM, event: LinkEvent::Delivered(message) });
                },
                Cleared => if actions.iter().any(|a| matches!(a, Action::ClearTicket { .. })) {
                    metadata = None;
                    w.event(Event::TicketCleared { uuid: VM, result: Ok(()) });
                },
            }
            for action in &w.actions[seen..] {
                if let Action::WriteTicket { xml, .. } = action {
                    prop_assert!(!ours, "a ticket in the place of one that counts");
                    metadata = Some(xml.clone());
                }
            }
            seen = w.actions.len();
        }
        let told = completed(&w);
        prop_assert_eq!(told.len(), 1, "{:?}", told);
        prop_assert_eq!(told[0].migration == t.migration, ours);
        prop_assert_eq!(&metadata, &None);
    });
}

#[test]
fn where_it_came_from_is_told_if_one_host_had_it_a_moment_ago() {
    let mut w = World::destination();
    let there = DomainSample { uuid: VM, vcpus: 1, memory_kib: 1 << 20, cpu_time_ns: 1, vcpu: None };
    let look = HostSample { domains: vec![there], ..sample(H1, 9) };
    w.event(Event::Sampled { host: "h1".into(), result: Ok(look) });
    let (migration, _) = comes(&mut w);
    w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
    figures(&mut w, migration);
    assert_eq!(completed(&w)[0].from.as_ref().map(|p| p.region.as_str()), Some("s"));
}

#[test]
fn an_arrival_is_told_even_if_its_ticket_cannot_be_written() {
    let mut w = World::destination();
    let (migration, _) = comes(&mut w);
    w.event(Event::TicketWritten { uuid: VM, migration, result: Err(other_error()) });
    figures(&mut w, migration);
    assert_eq!(completed(&w).len(), 1);
}

#[test]
fn a_broker_killed_before_it_told_an_arrival_leaves_it_to_the_next() {
    let mut w = World::destination();
    let (migration, xml) = comes(&mut w);
    w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
    let mut w = World::destination();
    w.event(Event::Hypervisor(HvEvent::Connected));
    let here = Domain { ticket_xml: Some(xml), ..domain(DomainState::Running { arrived: true }) };
    w.event(Event::Domains(Ok(vec![here])));
    figures(&mut w, migration);
    assert!(
        matches!(&completed(&w)[..], [c] if c.migration == migration && c.initiator == Initiator::Foreign)
    );
}

#[test]
fn what_came_while_no_broker_listened_is_told_and_what_was_here_is_not() {
    let broker = |stays| {
        let broker = Broker::new(config("h2", "h1"), AliasKey::new(b"k"), Vec::new(), Box::new(|| 99));
        let mut w = World { broker: broker.after(Vec::new(), stays), ..World::destination() };
        w.actions.clear();
        w.event(Event::Sampled { host: "h2".into(), result: Ok(sample(H2, 0)) });
        w.event(Event::Hypervisor(HvEvent::Connected));
        w.event(Event::Domains(Ok(vec![domain(DomainState::Running { arrived: true })])));
        w
    };
    let wrote = |w: &World| find(&w.actions, |a| matches!(a, Action::WriteTicket { .. })).is_some();
    let kept =
        |w: &World| find(&w.actions, |a| matches!(a, Action::KeepStays(s) if s.contains_key(&VM))).is_some();
    let was_here = Stays::from([(VM, "/chan".into())]);
    let was_here_before = Stays::from([(VM, "/chan-of-another-stay".into())]);
    let w = broker(Some(was_here));
    assert!(!wrote(&w));
    for stays in [Stays::new(), was_here_before] {
        let mut w = broker(Some(stays));
        assert!(wrote(&w));
        assert!(!kept(&w), "a next broker would take it for told");
        w.event(Event::TicketWritten { uuid: VM, migration: MigrationId(99), result: Ok(()) });
        assert!(kept(&w));
    }
    // The first broker on this host knows nothing about former times.
    let w = broker(None);
    assert!(!wrote(&w) && kept(&w));
}

#[test]
fn an_arrival_with_a_ticket_that_means_nothing_is_foreign() {
    let mut w = World::destination();
    let old = Ticket { written_unix_ms: w.now.unix_ms - 61_000, ..ticket(&w) };
    w.look(arriving(old, DomainState::Incoming));
    w.hello(&[(1, Some(old.migration.0))]);
    let actions = w.event(Event::Hypervisor(HvEvent::Arrived { uuid: VM }));
    let (migration, _) = written(&actions);
    assert_ne!(migration, old.migration);
    w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
    figures(&mut w, migration);
    assert!(matches!(&completed(&w)[..], [c] if c.request.is_none() && c.initiator == Initiator::Foreign));
    assert!(w.told().iter().any(|m| matches!(m, HostToGuest::Resend(r) if r.request == RequestId(1))));
}
