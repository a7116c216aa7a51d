//! Memory leaves by the migration network or not at all.

use super::*;
use crate::isolation::{Asked, Interface, LinkFacts, Network, Route, Way};
use crate::records::MoveState;
use coms_protocol::host_to_guest::Failed;
use std::net::IpAddr;

const THERE: &str = "10.9.0.2";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn isolated() -> Config {
    let text = "[host]\nname = \"h1\"\nregion = \"r\"\nmigration_interface = \"mig0\"\n[[hosts]]\nname = \"h2\"\nregion = \
                \"s\"\nlibvirt = \"qemu+tcp://h2/system\"\nmigrate_uri = \"tcp://10.9.0.2\"\n[guests]\nenabled = \
                [\"vm*\"]\n[limits]\ncooldown_s = 60\n";
    Config::parse(Path::new("broker.toml"), text).unwrap()
}

fn leads(from: Option<IpAddr>) -> Asked {
    let source = Some(ip("10.9.0.1"));
    Asked {
        to: ip(THERE),
        from,
        way: Way::Leads { interface: "mig0".into(), source, direct: true, table: 254 },
    }
}

fn good() -> LinkFacts {
    let net = |address: &str, prefix| Network { address: ip(address), prefix };
    let guard = Route { to: net("10.9.0.0", 24), table: 254, metric: u32::MAX, interface: None, ends: true };
    LinkFacts {
        name: "mig0".into(),
        interface: Some(Interface { up: true, carrier: true, networks: vec![net("10.9.0.1", 24)] }),
        ways: [None, Some(ip("10.9.0.1"))].map(leads).into(),
        routes: vec![
            Route {
                to: net("0.0.0.0", 0),
                table: 254,
                metric: 0,
                interface: Some("eth0".into()),
                ends: false,
            },
            Route { interface: Some("mig0".into()), metric: 0, ends: false, ..guard.clone() },
            guard,
        ],
    }
}

/// As it is when somebody pulled it.
fn without_carrier() -> LinkFacts {
    let mut facts = good();
    facts.interface.as_mut().unwrap().carrier = false;
    facts
}

fn see(w: &mut World, facts: LinkFacts) -> Vec<Action> {
    w.event(Event::MigrationLink(Ok(Box::new(facts))))
}

/// The configuration is in force, and nobody has looked yet.
fn unseen() -> World {
    let mut w = World::source();
    w.event(Event::Reloaded { caller: None, config: Ok(Box::new(isolated())) });
    w
}

fn source() -> World {
    let mut w = unseen();
    see(&mut w, good());
    w
}

fn looks(actions: &[Action]) -> usize {
    actions.iter().filter(|a| matches!(a, Action::LookAtLink { .. })).count()
}

fn aborts(actions: &[Action]) -> usize {
    actions.iter().filter(|a| matches!(a, Action::Abort { .. })).count()
}

fn asked(w: &mut World, id: u64) -> MigrationId {
    let actions = w.ask(id, Wishes::default());
    let survey = find(&actions, |a| matches!(a, Action::Survey { .. }));
    let Some(Action::Survey { migration, .. }) = survey else { panic!("no survey: {actions:?}") };
    migration
}

/// What became of a request that this world denies.
fn refused(mut w: World, facts: Option<LinkFacts>) -> World {
    if let Some(facts) = facts {
        see(&mut w, facts);
    }
    let migration = asked(&mut w, 1);
    let actions = w.hosts_answer(migration);
    assert_eq!(denied(&actions), [DenyReason::MigrationLinkDown]);
    assert!(find(&w.actions, |a| matches!(a, Action::WriteTicket { .. } | Action::Migrate { .. })).is_none());
    w
}

#[test]
fn a_move_goes_to_the_address_of_the_network_and_to_no_other() {
    let mut w = source();
    w.move_begins(1);
    let Some(Action::Migrate { spec, .. }) = find(&w.actions, |a| matches!(a, Action::Migrate { .. })) else {
        panic!("no move");
    };
    assert_eq!((spec.migrate_uri.as_deref(), spec.only_at), (Some("tcp://10.9.0.2"), Some(ip(THERE))));
    // Where there is no such network, nothing is looked at and nothing is demanded.
    let mut w = World::source();
    w.move_begins(1);
    let Some(Action::Migrate { spec, .. }) = find(&w.actions, |a| matches!(a, Action::Migrate { .. })) else {
        panic!("no move");
    };
    assert_eq!((spec.only_at, looks(&w.actions)), (None, 0));
}

#[test]
fn a_link_that_does_not_lead_there_is_a_refusal_and_an_alarm() {
    let w = refused(source(), Some(without_carrier()));
    let line = &w.broker.records.back().unwrap().considered[0];
    assert!(format!("{line:?}").contains("mig0 has no carrier"), "{line:?}");
    assert!(w.broker.standing_view().alarms[0].text.contains("mig0 has no carrier"));
    refused(source(), Some(LinkFacts { interface: None, ..good() }));
    let no_way = Asked { way: Way::None("no route".into()), ..leads(None) };
    refused(source(), Some(LinkFacts { ways: vec![no_way], ..good() }));
    // Nothing would keep the kernel from another way.
    let unguarded = good().routes.into_iter().filter(|r| !r.ends).collect();
    refused(source(), Some(LinkFacts { routes: unguarded, ..good() }));
    // Nobody has looked, or not lately, or at another one.
    refused(unseen(), None);
    let mut w = source();
    w.pass(6);
    for host in [("h1", H1), ("h2", H2)] {
        w.event(Event::Sampled { host: host.0.into(), result: Ok(sample(host.1, 9)) });
    }
    refused(w, None);
    refused(unseen(), Some(LinkFacts { name: "mig1".into(), ..good() }));
}

#[test]
fn once_it_is_back_so_are_the_moves() {
    let mut w = refused(source(), Some(without_carrier()));
    let actions = see(&mut w, good());
    assert!(
        find(&actions, |a| matches!(a, Action::Log { text, .. } if text.starts_with("over: "))).is_some()
    );
    assert_eq!(w.broker.standing_view().alarms.len(), 0);
    w.pass(61);
    for host in [("h1", H1), ("h2", H2)] {
        w.event(Event::Sampled { host: host.0.into(), result: Ok(sample(host.1, 9)) });
    }
    see(&mut w, good());
    w.move_begins(2);
}

#[test]
fn it_is_looked_at_each_second_and_before_the_call() {
    let mut w = source();
    assert_eq!(looks(&w.event(Event::Tick)), 1);
    let migration = asked(&mut w, 1);
    assert_eq!(looks(&w.hosts_answer(migration)), 1, "with the ticket");
    see(&mut w, without_carrier());
    let actions = w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
    assert_eq!(denied(&actions), [DenyReason::MigrationLinkDown]);
    assert!(find(&actions, |a| matches!(a, Action::Migrate { .. })).is_none());
    assert!(find(&actions, |a| matches!(a, Action::ClearTicket { .. })).is_some());
    let record = w.broker.records.back().unwrap();
    assert!(record.detail.as_ref().unwrap().contains("no carrier"), "{record:?}");
}

/// libvirt's own word for the end is "aborted", or whatever broke first.
fn ends_for_want_of_link(mut w: World, error: HvError) {
    let migration = w.broker.guests[&VM].mv.plan().unwrap().migration;
    w.event(Event::Returned { uuid: VM, migration, result: Err(error) });
    let actions = w.look(domain(DomainState::Running { arrived: false }));
    let failed = told(&actions).into_iter().find_map(|m| match m {
        HostToGuest::Failed(Failed { reason, .. }) => Some(reason),
        _ => None,
    });
    assert_eq!(failed, Some(FailReason::MigrationLinkLost), "{actions:?}");
    let record = w.broker.records.back().unwrap();
    assert_eq!(record.state, MoveState::Failed);
    assert!(record.detail.as_ref().unwrap().contains("mig0"), "{record:?}");
}

#[test]
fn lost_while_memory_is_copied_the_move_is_aborted_and_says_why() {
    for error in [
        HvError::Aborted { operation: "migrate", detail: "by the client".into() },
        HvError::Unreachable {
            operation: "migrate",
            uri: "qemu+tcp://h2/system".into(),
            detail: "gone".into(),
        },
    ] {
        let mut w = source();
        w.move_begins(1);
        assert_eq!(aborts(&see(&mut w, good())), 0);
        assert_eq!(aborts(&see(&mut w, without_carrier())), 1);
        assert_eq!(aborts(&see(&mut w, without_carrier())), 0, "once is enough");
        // libvirt refuses while the job is not quite there.
        w.pass(2);
        assert_eq!(aborts(&w.event(Event::Tick)), 1);
        // That it is back changes nothing any more.
        see(&mut w, good());
        ends_for_want_of_link(w, error);
    }
}

/// Of a disk's copy, and nothing else: the domain is tainted by it.
#[test]
fn a_copy_of_disks_is_cut_before_the_abort() {
    for copies in [true, false] {
        let mut w = source();
        w.move_begins(1);
        let made = disks::former(crate::storage::MadeStage::Made);
        w.broker = w.broker.with_disks(if copies { made } else { Vec::new() }, None);
        let cuts = |actions: &[Action]| -> Vec<bool> {
            let cut = |a: &Action| if let Action::Abort { cut, .. } = a { Some(*cut) } else { None };
            actions.iter().filter_map(cut).collect()
        };
        assert_eq!(cuts(&see(&mut w, without_carrier())), [copies]);
        w.pass(2);
        assert_eq!(cuts(&w.event(Event::Tick)), [copies]);
    }
    // Nor is it known at the end of its time whether the other host still answers.
    let mut w = source();
    w.move_begins(1);
    w.broker = w.broker.with_disks(disks::former(crate::storage::MadeStage::Made), None);
    see(&mut w, good());
    w.pass(w.broker.config.limits.max_total.as_secs());
    let actions = w.event(Event::Tick);
    assert!(find(&actions, |a| matches!(a, Action::Abort { cut: true, .. })).is_some(), "{actions:?}");
}

#[test]
fn a_look_that_fails_once_aborts_nothing_and_one_that_never_comes_does() {
    let mut w = source();
    w.move_begins(1);
    w.pass(1);
    assert_eq!(aborts(&w.event(Event::MigrationLink(Err("busy".into())))), 0);
    see(&mut w, good());
    for _ in 0..4 {
        w.pass(1);
        assert_eq!(aborts(&w.event(Event::Tick)), 0);
    }
    w.pass(1);
    assert_eq!(aborts(&w.event(Event::Tick)), 1);
    ends_for_want_of_link(w, HvError::Aborted { operation: "migrate", detail: "by the client".into() });
}

#[test]
fn a_guard_that_goes_while_the_link_is_up_aborts_nothing() {
    let mut w = source();
    w.move_begins(1);
    let unguarded = good().routes.into_iter().filter(|r| !r.ends).collect();
    assert_eq!(aborts(&see(&mut w, LinkFacts { routes: unguarded, ..good() })), 0);
    assert_eq!(w.broker.standing_view().alarms.len(), 1);
}

#[test]
fn a_move_that_its_guest_cancelled_ends_as_cancelled() {
    let mut w = source();
    let (migration, _) = w.move_begins(1);
    w.event(Event::Control {
        caller: crate::event::Caller(1),
        request: crate::control::Request::Cancel { id: migration },
    });
    assert_eq!(aborts(&see(&mut w, without_carrier())), 0);
}

#[test]
fn a_change_of_the_configuration_waits_for_the_first_look_and_not_longer() {
    let mut w = World::source();
    w.move_begins(1);
    let actions = w.event(Event::Reloaded { caller: None, config: Ok(Box::new(isolated())) });
    assert_eq!((looks(&actions), aborts(&actions)), (1, 0));
    for _ in 0..4 {
        w.pass(1);
        assert_eq!(aborts(&w.event(Event::Tick)), 0);
    }
    w.pass(1);
    assert_eq!(aborts(&w.event(Event::Tick)), 1);
}

#[test]
fn a_broker_that_stood_still_looks_again_before_it_ends_anything() {
    let mut w = source();
    w.move_begins(1);
    w.pass(60);
    assert_eq!(aborts(&w.event(Event::Tick)), 0);
    assert_eq!(aborts(&see(&mut w, good())), 0);
    w.pass(60);
    assert_eq!(aborts(&w.event(Event::Tick)), 0);
    assert_eq!(aborts(&see(&mut w, without_carrier())), 1);
}
