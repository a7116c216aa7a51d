//! A configuration that changes while the broker runs.

use super::*;
use crate::control::{Reply, Request};
use crate::event::Caller;

const CALLER: Caller = Caller(1);

/// The running configuration, changed.
fn reload(w: &mut World, change: impl FnOnce(&mut Config)) -> Vec<Action> {
    let mut new = w.broker.config.clone();
    change(&mut new);
    w.event(Event::Reloaded { caller: Some(CALLER), config: Ok(Box::new(new)) })
}

fn reply(actions: &[Action]) -> Reply {
    match find(actions, |a| matches!(a, Action::Reply { .. })) {
        Some(Action::Reply { caller: CALLER, reply }) => *reply,
        other => panic!("no reply: {other:?}"),
    }
}

fn done(actions: &[Action]) -> String {
    match reply(actions) {
        Reply::Done { text } => text,
        other => panic!("not taken up: {other:?}"),
    }
}

fn is_configured(actions: &[Action]) -> bool {
    find(actions, |a| matches!(a, Action::Configure(_))).is_some()
}

#[test]
fn comsctl_reload_reads_the_file_and_a_signal_needs_no_caller() {
    let mut w = World::source();
    let actions = w.event(Event::Control { caller: CALLER, request: Request::Reload });
    assert_eq!(actions, [Action::ReadConfig { caller: Some(CALLER) }]);
    let config = Ok(Box::new(w.broker.config.clone()));
    let actions = w.event(Event::Reloaded { caller: None, config });
    assert!(is_configured(&actions) && find(&actions, |a| matches!(a, Action::Reply { .. })).is_none());
}

#[test]
fn a_wrong_file_changes_nothing_and_is_told_to_who_asked_and_to_the_log() {
    let mut w = World::source();
    let before = w.broker.config.clone();
    let config = Err("broker.toml: key `host.region`: is empty".to_owned());
    let actions = w.event(Event::Reloaded { caller: Some(CALLER), config });
    assert!(matches!(reply(&actions), Reply::Refused { text } if text.contains("host.region")));
    assert!(
        find(&actions, |a| matches!(a, Action::Log { text, .. } if text.contains("host.region"))).is_some()
    );
    assert!(!is_configured(&actions));
    assert_eq!(w.broker.config, before);
}

#[test]
fn limits_and_guests_count_from_the_next_decision_on_and_a_guest_hears_whether_it_may_ask() {
    let mut w = World::source();
    let actions = reload(&mut w, |c| c.enabled.clear());
    assert!(done(&actions).contains("guests.enabled"), "{actions:?}");
    let greeted = find(&actions, |a| matches!(a, Action::Greet { hello, .. } if !hello.enabled));
    assert!(greeted.is_some(), "{actions:?}");
    assert!(find(&actions, |a| matches!(a, Action::Attach { .. } | Action::Detach { .. })).is_none());
    assert_eq!(denied(&w.ask(1, Wishes::default())), [DenyReason::NotEnabled]);
    // Nothing that a guest is told differs: it is left alone.
    let actions = reload(&mut w, |c| c.limits.requests_per_minute = 1);
    assert!(done(&actions).contains("limits"));
    assert!(find(&actions, |a| matches!(a, Action::Greet { .. })).is_none());
    w.ask(2, Wishes::default());
    assert_eq!(denied(&w.ask(3, Wishes::default())), [DenyReason::TooOften]);
}

#[test]
fn what_needs_a_restart_stays_and_is_named_each_time() {
    let mut w = World::source();
    let before = w.broker.config.clone();
    for _ in 0..2 {
        let actions = reload(&mut w, |c| {
            c.me.name = "new".into();
            c.me.libvirt = "qemu:///session".into();
            c.socket = "/elsewhere".into();
            c.state = "/elsewhere".into();
            c.alias_key_file = Some("/key".into());
            c.record_links = Some("/links".into());
        });
        let text = done(&actions);
        for key in [
            "host.name",
            "host.libvirt",
            "paths.socket",
            "paths.state",
            "aliases.key_file",
            "debug.record_links",
        ] {
            assert!(text.contains(key), "{key}: {text}");
        }
        assert_eq!(w.broker.config, before);
    }
    // The old name is another host's now, and still this one's until then.
    let actions = reload(&mut w, |c| {
        c.me.name = "new".into();
        c.peers[0].name = "h1".into();
    });
    assert!(matches!(reply(&actions), Reply::Refused { text } if text.contains("`h1`")), "{actions:?}");
    assert_eq!(w.broker.config, before);
}

#[test]
fn hosts_come_and_go_and_one_that_moved_is_met_anew() {
    let mut w = World::source();
    let actions = reload(&mut w, |c| {
        let third = crate::config::Host {
            name: "h3".into(),
            libvirt: "qemu+tcp://h3/system".into(),
            ..c.peers[0].clone()
        };
        c.peers.push(third);
    });
    assert!(done(&actions).contains("hosts"));
    assert!(w.broker.hosts.contains_key("h3"));
    let known = |w: &World| w.broker.hosts["h2"].latest().is_some();
    assert!(known(&w), "what is known of the others stays");
    reload(&mut w, |c| c.peers[0].cpus = Some(7));
    assert!(known(&w));
    reload(&mut w, |c| c.peers[0].libvirt = "qemu+tcp://moved/system".into());
    assert!(!known(&w));
    reload(&mut w, |c| c.peers.retain(|p| p.name == "h3"));
    assert_eq!(w.broker.hosts.keys().collect::<Vec<_>>(), ["h1", "h3"]);
    // A look that was under way.
    w.event(Event::Sampled { host: "h2".into(), result: Ok(sample(H2, 9)) });
    assert!(!w.broker.hosts.contains_key("h2"));
}

#[test]
fn a_host_is_not_taken_away_under_a_move() {
    let mut w = World::source();
    let (migration, _) = w.move_begins(1);
    for change in [
        (|c: &mut Config| c.peers.clear()) as fn(&mut Config),
        |c| c.peers[0].libvirt = "qemu+tcp://moved/system".into(),
        |c| c.peers[0].name = "other".into(),
    ] {
        let actions = reload(&mut w, change);
        assert!(
            done(&actions).contains("reload again when no move needs it any more: hosts `h2`"),
            "{actions:?}"
        );
        assert_eq!(w.broker.config.peers, config("h1", "h2").peers);
    }
    w.event(Event::Hypervisor(HvEvent::Left { uuid: VM }));
    w.event(Event::Returned { uuid: VM, migration, result: Ok(()) });
    assert!(!done(&reload(&mut w, |c| c.peers.clear())).contains("reload again"));
    assert!(w.broker.config.peers.is_empty());
}

#[test]
fn no_host_is_taken_away_while_a_paused_copy_may_be_on_any_of_them() {
    let mut w = left_paused();
    reload(&mut w, |c| {
        let third = crate::config::Host {
            name: "h3".into(),
            libvirt: "qemu+tcp://h3/system".into(),
            ..c.peers[0].clone()
        };
        c.peers.push(third);
    });
    // It went to h2, and may have been moved on to h3.
    let actions = reload(&mut w, |c| c.peers.retain(|p| p.name == "h2"));
    assert!(done(&actions).contains("hosts `h3`"), "{actions:?}");
    let answers = vec![("h2".into(), Elsewhere::No)];
    let actions = w.event(Event::Elsewhere { uuid: VM, answers });
    assert!(find(&actions, |a| matches!(a, Action::Resume { .. })).is_none(), "h3 has not been asked");
}

#[test]
fn when_the_file_in_force_was_read_is_known() {
    let mut w = World::source();
    let read = |w: &World| w.broker.standing_view().config_read_unix_ms.unwrap();
    let first = read(&w);
    w.pass(60);
    w.event(Event::Reloaded { caller: None, config: Err("wrong".into()) });
    assert_eq!(read(&w), first);
    reload(&mut w, |_| ());
    assert_eq!(read(&w), w.now.unix_ms);
}

#[test]
fn a_guest_that_is_greeted_anew_has_time_to_hold_its_announced_move_again() {
    use super::announce::{announced, attends, begins_after, hold, order, say, verdict};
    use coms_protocol::guest_to_host::Attend;
    let held = || {
        let mut w = attends(5000, 60_000);
        let (_, notice) = announced(&order(&mut w, false, None));
        assert!(verdict(&say(&mut w, hold(notice.migration, 30_000))).granted);
        w.pass(10);
        let actions = reload(&mut w, |c| c.me.region = "elsewhere".into());
        assert!(find(&actions, |a| matches!(a, Action::Greet { .. })).is_some(), "{actions:?}");
        w.event(Event::Link { uuid: VM, event: LinkEvent::Lost });
        (w, notice.migration)
    };
    let (mut w, migration) = held();
    assert_eq!(begins_after(&mut w, 1), None);
    w.hello(&[]);
    say(&mut w, Attend { notice_ms: 5000, hold_ms: 60_000 });
    // As long as it might from the beginning, and no longer: 65 s, of which 12 are over.
    assert!(verdict(&say(&mut w, hold(migration, 1_000_000))).granted);
    assert_eq!(begins_after(&mut w, 100), Some(53));
    // Or it has nothing to say any more.
    let (mut w, _) = held();
    assert_eq!(begins_after(&mut w, 100), Some(5));
}
