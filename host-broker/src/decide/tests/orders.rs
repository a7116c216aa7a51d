//! A search for an order of events that breaks a promise.

use super::super::Move;
use super::*;

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
                    Some(Move::None) if asked % 2 == 0 => Step::Ask(asked + 10),
                    Some(Move::None) => Step::Look(0, false),
                    Some(Move::Announced { .. }) => Step::Tick(60),
                    Some(Move::Choosing(_) | Move::Connecting { .. }) => Step::Surveyed(true),
                    Some(Move::WritingTicket { .. }) => Step::Written(true),
                    Some(Move::Running { .. }) => Step::Returned(1),
                    Some(Move::Unclear { .. }) => Step::Look(0, false),
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
                Some(Guest { mv: Move::Announced { plan, wait }, .. }) => {
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
