//! Networks that are stretched to another site, kept and taken down, at both ends.

use super::*;

#[test]
fn without_a_step_nothing_leaves_its_site() {
    let mut w = source("");
    let asked = follow(&mut w, 1, "eu-north");
    let (migration, actions) = answer(&mut w, &asked, &[]);
    assert_eq!(denied(&actions), [DenyReason::Unreachable]);
    assert_eq!(verdicts(&w, migration), ["h2 farther", "h3 cut-off", "h4 farther"]);
    // Within its site it moves as ever, and nothing is measured.
    let asked = w.ask(2, Wishes::default());
    let (_, actions) = answer(&mut w, &asked, &[]);
    assert!(writes_ticket(&actions) && measures(&actions).is_empty());
}

#[test]
fn a_network_that_cannot_be_stretched_keeps_it_here_and_is_undone() {
    // At this end.
    let (mut w, migration, _) = stretching();
    let actions = step(&mut w, Verb::Prepare, refused(false));
    assert_eq!(denied(&actions), [DenyReason::Unreachable]);
    assert_eq!(steps(&actions), [Verb::Undo]);
    assert_eq!(verdicts(&w, migration)[1], "h3 network-refused");
    assert!(step(&mut w, Verb::Undo, Ok(())).contains(&Action::KeepStretches(Vec::new())));
    // At the other one.
    let (mut w, ..) = stretching();
    let actions = step(&mut w, Verb::Prepare, Ok(()));
    let actions = answered(&mut w, &actions, refused(true));
    assert_eq!((denied(&actions), steps(&actions)), (vec![DenyReason::Unreachable], vec![Verb::Undo]));
    let undo = |a: &Action| matches!(a, Action::AskPeer { ask, .. } if ask.verb == Verb::Undo);
    assert!(find(&actions, undo).is_some(), "there, too");
    // It fails to be undone: an alarm, and again.
    step(&mut w, Verb::Undo, refused(false));
    assert_eq!(alarms(&w), 1);
    assert!(steps(&seconds(&mut w, 59, &["h1"])).is_empty());
    assert_eq!(steps(&seconds(&mut w, 2, &["h1"])), [Verb::Undo]);
    step(&mut w, Verb::Undo, Ok(()));
    assert!(w.broker.alarms.is_empty() && w.broker.stretches.is_empty());
}

#[test]
fn a_move_that_fails_or_is_cancelled_undoes_its_network() {
    let cancelled = |m: &[HostToGuest]| matches!(m, [HostToGuest::Cancelled(_)]);
    // While the way is measured.
    let mut w = source(STEP);
    let asked = follow(&mut w, 1, "eu-north");
    let (migration, _) = answer(&mut w, &asked, &[]);
    cancel(&mut w, 1);
    let actions = measured(&mut w, migration, "h3", Ok(FIT));
    assert!(cancelled(&told(&actions)) && steps(&actions).is_empty());
    // While this end is made.
    let (mut w, ..) = stretching();
    cancel(&mut w, 1);
    let actions = step(&mut w, Verb::Prepare, Ok(()));
    assert!(cancelled(&told(&actions)) && steps(&actions) == [Verb::Undo]);
    // While the other end is.
    let (mut w, ..) = stretching();
    let asked = step(&mut w, Verb::Prepare, Ok(()));
    cancel(&mut w, 1);
    let actions = answered(&mut w, &asked, Ok(()));
    assert!(cancelled(&told(&actions)) && steps(&actions) == [Verb::Undo]);
    // The VM is shut off meanwhile.
    let (mut w, ..) = stretching();
    let gone = HvError::NoDomain { operation: "look", detail: String::new() };
    w.event(Event::Domain { uuid: VM, result: Err(gone) });
    step(&mut w, Verb::Prepare, Ok(()));
    assert_eq!(steps(&seconds(&mut w, 2, &[])), [Verb::Undo]);
    // libvirt refuses.
    let (mut w, migration, _) = stretching();
    let asked = step(&mut w, Verb::Prepare, Ok(()));
    answered(&mut w, &asked, Ok(()));
    w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
    w.event(Event::Returned { uuid: VM, migration, result: Err(other_error()) });
    assert_eq!(steps(&w.look(here())), [Verb::Undo]);
}

#[test]
fn its_network_stays_while_it_is_away_or_may_be() {
    let (mut w, _) = moved();
    assert!(steps(&seconds(&mut w, 2000, &["h3"])).is_empty());
    // h3 is silent: nobody knows.
    w.pass(3600);
    for _ in 0..700 {
        w.pass(1);
        for verb in steps(&w.event(Event::Tick)) {
            step(&mut w, verb, Ok(()));
        }
    }
    assert!(steps(&w.actions).iter().all(|v| makes(*v)), "nothing was taken down");
    // It was moved on there.
    assert!(steps(&seconds(&mut w, 700, &["h4"])).is_empty());
}

#[test]
fn its_network_is_released_when_it_is_home_or_gone() {
    for (at, after_s) in [(&["h2"][..], 60), (&[][..], 600)] {
        let (mut w, _) = moved();
        seconds(&mut w, 100, &["h3"]);
        assert!(steps(&seconds(&mut w, after_s, at)).is_empty(), "{at:?}");
        assert_eq!(steps(&seconds(&mut w, 2, at)), [Verb::Release], "{at:?}");
        step(&mut w, Verb::Release, Ok(()));
        assert!(w.broker.stretches.is_empty());
    }
    // It comes back slowly: while it comes, it still runs there.
    let (mut w, _) = moved();
    w.look(Domain { state: DomainState::Incoming, ..here() });
    assert!(steps(&seconds(&mut w, 700, &["h3"])).is_empty());
    let actions = w.look(Domain { state: DomainState::Running { arrived: true }, ..here() });
    let own = actions.iter().find_map(|a| match a {
        Action::WriteTicket { migration, .. } => Some(*migration),
        _ => None,
    });
    // Until it has the ticket that its guest is told by, more may come of it.
    assert!(steps(&seconds(&mut w, 100, &[])).is_empty());
    w.event(Event::TicketWritten { uuid: VM, migration: own.unwrap(), result: Ok(()) });
    assert!(steps(&seconds(&mut w, 60, &[])).is_empty());
    assert_eq!(steps(&seconds(&mut w, 2, &[])), [Verb::Release]);
}

fn ask_to_receive(verb: Verb) -> Box<PeerAsk> {
    let (here, there) = (end_of("h1"), end_of("h3"));
    let (migration, interfaces) = (MigrationId(9), self::here().interfaces);
    Box::new(PeerAsk { verb, vm: VM, migration, interfaces, here, there })
}

fn end_of(host: &str) -> End {
    let i = HOSTS.iter().position(|h| h.0 == host).unwrap_or_default();
    let address = [10, 0, 0, i as u8 + 1].into();
    End { name: host.into(), site: Some(HOSTS[i].1.into()), address }
}

fn asked(w: &mut World, host: &str, verb: Verb) -> Vec<Action> {
    let ask = Box::new(PeerAsk { here: end_of(host), ..*ask_to_receive(verb) });
    w.event(Event::PeerAsked { caller: PeerCaller(1), host: host.into(), ask })
}

fn says(actions: &[Action]) -> Option<Result<(), StepError>> {
    actions
        .iter()
        .find_map(|a| if let Action::AnswerPeer { result, .. } = a { Some(result.clone()) } else { None })
}

#[test]
fn the_other_end_is_made_for_hosts_of_another_site_only() {
    let mut w = world("h3", STEP, Vec::new());
    assert!(matches!(says(&asked(&mut w, "h4", Verb::Receive)), Some(Err(_))), "of the same site");
    assert!(matches!(says(&asked(&mut w, "h9", Verb::Receive)), Some(Err(_))), "a stranger");
    let mut none = world("h3", "", Vec::new());
    assert!(matches!(says(&asked(&mut none, "h1", Verb::Receive)), Some(Err(_))), "there is no step");
    let actions = asked(&mut w, "h1", Verb::Receive);
    assert_eq!((steps(&actions), says(&actions)), (vec![Verb::Receive], None));
    let again = says(&asked(&mut w, "h2", Verb::Receive));
    assert!(matches!(again, Some(Err(e)) if e.later), "for one at a time");
    assert_eq!(says(&step(&mut w, Verb::Receive, Ok(()))), Some(Ok(())));
    // The move fails: the source says so ...
    assert_eq!(says(&asked(&mut w, "h2", Verb::Undo)), Some(Ok(())));
    assert_eq!(w.broker.stretches[&VM].stretch.stage, Stage::Up, "who did not ask for it undoes nothing");
    assert_eq!(steps(&asked(&mut w, "h1", Verb::Undo)), [Verb::Undo]);
    // ... or cannot.
    let mut w = world("h3", STEP, Vec::new());
    asked(&mut w, "h1", Verb::Receive);
    step(&mut w, Verb::Receive, Ok(()));
    // Between the answer and the VM's coming much may take its time.
    assert!(steps(&seconds(&mut w, 590, &["h1"])).is_empty());
    assert_eq!(steps(&seconds(&mut w, 12, &["h1"])), [Verb::Release]);
}

#[test]
fn an_end_that_would_not_meet_the_other_is_not_made() {
    let mut w = world("h3", STEP, Vec::new());
    let refusal = |w: &mut World, ask: PeerAsk| {
        let ask = Box::new(ask);
        let actions = w.event(Event::PeerAsked { caller: PeerCaller(1), host: "h1".into(), ask });
        assert!(steps(&actions).is_empty());
        says(&actions).unwrap().unwrap_err().text
    };
    let right = *ask_to_receive(Verb::Receive);
    let elsewhere = End { address: [10, 9, 0, 1].into(), ..end_of("h1") };
    let text = refusal(&mut w, PeerAsk { here: elsewhere, ..right.clone() });
    assert!(text.contains("h1: its address is 10.9.0.1 there, and 10.0.0.1 here"), "{text}");
    let other_site = End { site: Some("c".into()), ..end_of("h3") };
    let text = refusal(&mut w, PeerAsk { there: other_site, ..right.clone() });
    assert!(text.contains("differ in h3"), "{text}");
    let storage = vec![Interface::new("52:54:00:00:00:01", Some("br-mgmt")).unwrap()];
    let text = refusal(&mut w, PeerAsk { interfaces: storage, ..right });
    assert!(text.contains("br-mgmt is none of [network] bridges of h3"), "{text}");
}

#[test]
fn one_host_has_its_share_of_networks_and_no_more() {
    let mut w = world("h3", STEP, Vec::new());
    let ask = |w: &mut World, host: &str, n: u128| {
        let vm = Uuid::from_u128(0xff00 + n);
        let ask = Box::new(PeerAsk { vm, here: end_of(host), ..*ask_to_receive(Verb::Receive) });
        w.event(Event::PeerAsked { caller: PeerCaller(1), host: host.into(), ask })
    };
    let made = (0..1024).filter(|n| steps(&ask(&mut w, "h1", *n)) == [Verb::Receive]).count();
    assert_eq!(made, 1024 / 3);
    assert_eq!(steps(&ask(&mut w, "h2", 5000)), [Verb::Receive], "others have theirs");
}

/// While libvirt copies it, its home host and the one it leaves both list it.
#[test]
fn on_its_way_home_it_keeps_its_network() {
    for me in ["h1", "h3"] {
        let (kept, at) = if me == "h1" {
            let (w, _) = moved();
            (w, true)
        } else {
            let mut w = world("h3", STEP, Vec::new());
            asked(&mut w, "h1", Verb::Receive);
            step(&mut w, Verb::Receive, Ok(()));
            w.look(here());
            (w, false)
        };
        let mut w = kept;
        assert!(steps(&seconds(&mut w, 700, &["h2", "h3"])).is_empty(), "{me}");
        if at {
            // Its former host is silent: it may run there still.
            for _ in 0..600 {
                w.pass(1);
                let seen = |name: &str| w_sample(name, name == "h2", w.now.unix_ms);
                let looks = ["h1", "h2", "h4"].map(|h| (h, seen(h)));
                for (host, look) in looks {
                    w.event(Event::Sampled { host: host.into(), result: Ok(look) });
                }
                for verb in steps(&w.event(Event::Tick)) {
                    assert!(makes(verb), "{verb:?}");
                    step(&mut w, verb, Ok(()));
                }
            }
            seconds(&mut w, 61, &["h2"]);
            assert!(steps(&w.actions).contains(&Verb::Release));
        }
    }
}

fn w_sample(name: &str, has: bool, beat: u64) -> HostSample {
    let one = DomainSample { uuid: VM, vcpus: 1, memory_kib: 1, cpu_time_ns: 0, vcpu: None };
    HostSample { domains: if has { vec![one] } else { Vec::new() }, ..sample(uuid_of(name), beat) }
}

/// A reboot takes devices along, and whoever rebuilds a bridge.
#[test]
fn what_stands_is_made_again_at_the_start_and_now_and_then() {
    let (w, _) = moved();
    let last = |a: &Action| if let Action::KeepStretches(all) = a { Some(all.clone()) } else { None };
    let kept = w.actions.iter().rev().find_map(last).unwrap();
    let mut next = world("h1", STEP, kept);
    all_answer(&mut next, &["h3"]);
    assert_eq!(steps(&next.event(Event::Tick)), [Verb::Prepare], "at once");
    step(&mut next, Verb::Prepare, refused(true));
    assert_eq!(alarms(&next), 1);
    assert!(steps(&seconds_with_renewals(&mut next, 58, &["h3"])).is_empty());
    assert_eq!(steps(&seconds_with_renewals(&mut next, 4, &["h3"])), [Verb::Prepare]);
    assert!(next.broker.alarms.is_empty(), "it went well");
    assert!(steps(&seconds_with_renewals(&mut next, 290, &["h3"])).is_empty());
    assert_eq!(steps(&seconds_with_renewals(&mut next, 20, &["h3"])), [Verb::Prepare]);
    assert_eq!(next.broker.stretches[&VM].stretch.stage, Stage::Up);
    // The other end as well.
    let mut w = world("h3", STEP, Vec::new());
    asked(&mut w, "h1", Verb::Receive);
    step(&mut w, Verb::Receive, Ok(()));
    w.look(here());
    assert_eq!(steps(&seconds_with_renewals(&mut w, 320, &["h3"])), [Verb::Receive]);
}

#[test]
fn a_bridge_that_is_not_named_is_not_stretched() {
    let other = STEP.replace("br0", "br1");
    let mut w = source(&other);
    let request = follow(&mut w, 1, "eu-north");
    let (migration, actions) = answer(&mut w, &request, &[]);
    assert_eq!(denied(&actions), [DenyReason::Unreachable]);
    assert_eq!(verdicts(&w, migration)[1], "h3 cut-off");
}

#[test]
fn an_end_that_cannot_be_made_says_so_and_is_undone() {
    let mut w = world("h3", STEP, Vec::new());
    asked(&mut w, "h1", Verb::Receive);
    let actions = step(&mut w, Verb::Receive, refused(false));
    assert_eq!((says(&actions), steps(&actions)), (Some(refused(false)), vec![Verb::Undo]));
}

#[test]
fn under_a_vm_that_is_here_nothing_is_undone_and_it_goes_home_over_what_is_there() {
    let mut w = world("h3", STEP, Vec::new());
    asked(&mut w, "h1", Verb::Receive);
    step(&mut w, Verb::Receive, Ok(()));
    w.look(here());
    w.hello(&[]);
    assert!(matches!(says(&asked(&mut w, "h1", Verb::Undo)), Some(Err(_))));
    assert!(steps(&seconds(&mut w, 2000, &["h3"])).is_empty());
    // Another host of that site would not do: its network ends here.
    let survey = w.ask(1, Wishes { region: Some(Text::clipped("asia")), ..Wishes::default() });
    let Some(Action::Survey { migration, .. }) = find(&survey, |a| matches!(a, Action::Survey { .. })) else {
        panic!("{survey:?}")
    };
    let answers = ["h1", "h2", "h4"].map(|h| Answer {
        host: h.into(),
        can_run: Ok(()),
        has_it: false,
        storage: Ok(Default::default()),
    });
    let surveyed = |migration| Event::Surveyed {
        uuid: VM,
        migration,
        domain: Ok(Box::new(here())),
        answers: answers.to_vec(),
    };
    let actions = w.event(surveyed(migration));
    assert_eq!(denied(&actions), [DenyReason::Unreachable]);
    let survey = follow(&mut w, 2, "eu-west");
    let Some(Action::Survey { migration, .. }) = find(&survey, |a| matches!(a, Action::Survey { .. })) else {
        panic!("{survey:?}")
    };
    let actions = w.event(surveyed(migration));
    let host = measures(&actions).pop().unwrap();
    let actions = measured(&mut w, migration, &host, Ok(FIT));
    assert!(writes_ticket(&actions) && steps(&actions).is_empty());
}

#[test]
fn what_a_killed_broker_had_stretched_is_known_to_the_next() {
    let kept = |actions: &[Action]| {
        let last = |a: &Action| if let Action::KeepStretches(all) = a { Some(all.clone()) } else { None };
        actions.iter().rev().find_map(last).unwrap()
    };
    // While it was being made: undone, unless somebody asks for it again.
    let (w, ..) = stretching();
    let mut next = world("h1", STEP, kept(&w.actions));
    next.look(here());
    assert_eq!(steps(&seconds(&mut next, 7, &["h1"])), [Verb::Undo]);
    let mut next = world("h1", STEP, kept(&w.actions));
    next.look(here());
    next.hello(&[]);
    let again = follow(&mut next, 1, "eu-north");
    let (migration, _) = answer(&mut next, &again, &[]);
    assert!(
        steps(&seconds(&mut next, 7, &["h1"])).is_empty(),
        "it is on its way there again, under another id"
    );
    assert_eq!(steps(&measured(&mut next, migration, "h3", Ok(FIT))), [Verb::Prepare]);
    // While the VM is away: kept, and released by the next one, even if no step is configured any more.
    let (w, _) = moved();
    let mut next = world("h1", "", kept(&w.actions));
    assert!(steps(&seconds(&mut next, 700, &["h3"])).is_empty());
    let actions = seconds(&mut next, 602, &[]);
    let command = |a: &Action| matches!(a, Action::NetworkStep { verb: Verb::Release, command, .. } if *command == ["/step"]);
    assert!(find(&actions, command).is_some(), "{actions:?}");
    // While it was being taken down: begun again.
    let taken_down = kept(&actions);
    assert_eq!(taken_down[0].stage, Stage::Ending(Verb::Release));
    let mut next = world("h1", STEP, taken_down);
    assert_eq!(steps(&next.event(Event::Tick)), [Verb::Release]);
}

/// This host shows this bridge as stretched.
fn stretched_at(w: &mut World, host: &str, bridge: &str) {
    let mut look = w_sample(host, false, w.now.unix_ms + 7);
    look.broker.as_mut().unwrap().stretched = vec![bridge.to_owned()];
    w.event(Event::Sampled { host: host.into(), result: Ok(look) });
}

#[test]
fn what_stands_is_not_made_again_beside_another_stretch() {
    let (w, _) = moved();
    let last = |a: &Action| if let Action::KeepStretches(all) = a { Some(all.clone()) } else { None };
    let kept = w.actions.iter().rev().find_map(last).unwrap();
    let mut next = world("h1", STEP, kept.clone());
    all_answer(&mut next, &["h3"]);
    stretched_at(&mut next, "h2", "br0");
    assert!(steps(&next.event(Event::Tick)).is_empty());
    assert_eq!(alarms(&next), 1);
    // That one was taken down.
    assert_eq!(steps(&seconds_with_renewals(&mut next, 62, &["h3"])), [Verb::Prepare]);
    assert!(next.broker.alarms.is_empty());
    // Nor before it is known what the others have.
    let mut next = world("h1", STEP, kept);
    next.broker.hosts.values_mut().for_each(|h| *h = Default::default());
    next.now.mono = Duration::from_secs(2);
    assert!(steps(&next.event(Event::Tick)).is_empty());
    let unseen = world("h3", STEP, Vec::new());
    let mut unseen = World { now: Now { mono: Duration::from_secs(2), ..unseen.now }, ..unseen };
    unseen.broker.hosts.values_mut().for_each(|h| *h = Default::default());
    assert!(matches!(says(&asked(&mut unseen, "h1", Verb::Receive)), Some(Err(e)) if e.later));
}

#[test]
fn no_end_is_made_for_a_vm_that_is_here_already() {
    let mut w = world("h3", STEP, Vec::new());
    w.look(here());
    let actions = asked(&mut w, "h1", Verb::Receive);
    assert!(matches!(says(&actions), Some(Err(e)) if e.later) && steps(&actions).is_empty(), "{actions:?}");
}

/// Two networks of two sites that are joined twice are a loop.
#[test]
fn what_another_host_of_the_site_has_stretched_is_not_stretched_again() {
    let mut w = source(STEP);
    stretched_at(&mut w, "h2", "br0");
    let request = follow(&mut w, 1, "eu-north");
    let (migration, actions) = answer(&mut w, &request, &[]);
    assert_eq!(denied(&actions), [DenyReason::Unreachable]);
    assert_eq!(verdicts(&w, migration)[1], "h3 cut-off");
    // Another bridge, the other site's hosts, or a step that bears it.
    for (host, bridge, more) in
        [("h2", "br1", ""), ("h4", "br0", ""), ("h2", "br0", "one_per_site = false\n")]
    {
        let mut w = source(&format!("{STEP}{more}"));
        stretched_at(&mut w, host, bridge);
        let request = follow(&mut w, 1, "eu-north");
        assert_eq!(measures(&answer(&mut w, &request, &[]).1), ["h3"], "{host} {bridge} {more}");
    }
    // Both began at the same time.
    let (mut w, ..) = stretching();
    let beat = |a: &Action| matches!(a, Action::Beat(mark) if mark.stretched == ["br0"]);
    assert!(find(&w.event(Event::Tick), beat).is_some(), "the others hear of it");
    let actions = step(&mut w, Verb::Prepare, Ok(()));
    stretched_at(&mut w, "h2", "br0");
    let actions = answered(&mut w, &actions, Ok(()));
    assert_eq!((denied(&actions), steps(&actions)), (vec![DenyReason::Unreachable], vec![Verb::Undo]));
    // And at the other end.
    let mut w = world("h3", STEP, Vec::new());
    stretched_at(&mut w, "h4", "br0");
    assert!(matches!(says(&asked(&mut w, "h1", Verb::Receive)), Some(Err(e)) if e.later));
}
