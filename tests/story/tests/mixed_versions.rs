//! Hosts and VMs are not upgraded in one moment: an agent of the first version with brokers of this one, the reverse,
//! and moves between hosts of both.

use coms_lab::{Guest, GuestConfig, GuestFile};
use coms_story::*;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Asks in the guest, moves, and is told once.
fn asks_and_moves(stage: &Stage, guest: &Guest, to: usize) -> Result<()> {
    let before = events_named(guest, "completed")?.len();
    let (status, last) = coms_within(guest, &["migrate", "--wait"], Duration::from_secs(60))?;
    assert_eq!(status, 0, "{} to {}: {last}\n{}", guest.name(), HOSTS[to], stage.logs());
    was_told(stage, guest, to, before + 1)
}

fn was_told(stage: &Stage, guest: &Guest, to: usize, times: usize) -> Result<()> {
    assert_eq!(guest.current_host()?.name(), HOSTS[to]);
    stage.wait("the guest to be told", 20, || Ok(events_named(guest, "completed")?.len() >= times))?;
    // What comes twice comes soon.
    std::thread::sleep(Duration::from_millis(300));
    let completed = events_named(guest, "completed")?;
    assert_eq!(completed.len(), times, "told once each: {completed:?}");
    let told = completed.last().cloned().unwrap_or_default();
    assert!(told["downtime_ms"].as_u64().is_some_and(|ms| ms > 0), "{told}");
    assert_eq!(told["to"]["region"], REGIONS[to]);
    let status = coms(guest, &["status"])?;
    assert_eq!((&status["place"], &status["connected"]), (&told["to"], &true.into()), "{status}");
    stage.wait("the ticket to be removed", 10, || Ok(ticket(stage, to, guest)?.is_none()))?;
    println!("accel=tcg {} is at {}: downtime {} ms", guest.name(), HOSTS[to], told["downtime_ms"]);
    Ok(())
}

/// The operator moves it, with notice for whoever understands that.
fn is_moved(stage: &Stage, guest: &Guest, from: usize, to: usize, more: &[&str]) -> Result<()> {
    let before = events_named(guest, "completed")?.len();
    let args: Vec<&str> =
        ["migrate", guest.name(), "--to", HOSTS[to]].into_iter().chain(more.iter().copied()).collect();
    let moved = stage.comsctl(from, &args)?;
    assert_eq!(moved["state"], "left", "{moved}\n{}", stage.logs());
    was_told(stage, guest, to, before + 1)
}

#[test]
fn agents_and_brokers_of_the_first_version_and_of_this_one_move_vms_between_them() -> Result<()> {
    let first = first_programs()?;
    let mut stage = Stage::up(Settings { first_version: vec![0], ..Settings::default() })?;
    let file = |path: &str, program: &std::path::Path| -> Result<GuestFile> {
        Ok(GuestFile { path: path.into(), mode: 0o755, bytes: std::fs::read(program)? })
    };
    let files =
        vec![file("/usr/bin/coms-agent", &first.guest.agent)?, file("/usr/bin/coms", &first.guest.cli)?];
    let older = GuestConfig { name: "older".into(), files, ..GuestConfig::default() };
    let older = stage.boot(0, older, "")?;
    let files = vec![geo::database(geo::DATABASE)?];
    let newer =
        GuestConfig { name: "newer".into(), ip: [10, 78, 0, 2].into(), files, ..GuestConfig::default() };
    let follows =
        geo::agent_toml(1).replace("min_clients = 20", "min_clients = 1\nregions = { south = [\"FR\"] }");
    let newer = stage.boot(0, newer, &follows)?;
    // They are what they are called: only one of the two knows of hosts.
    let knows_hosts =
        |guest: &Guest| guest.exec_with(&["coms", "hosts", "--help"], "", Duration::from_secs(10));
    assert_ne!(knows_hosts(&older)?.status, 0, "the older coms is not old");
    assert_eq!(knows_hosts(&newer)?.status, 0);

    // Its clients are elsewhere, and the host has no word for that: it is not asked, and what it is asked still works.
    let paris = stage.lab.client("paris", Ipv4Addr::new(2, 4, 0, 1))?;
    let talk = paris.converse(newer.ip(), &[paris.ip()], geo::BUSY)?;
    let asks_not = |why: &str| -> Result<bool> {
        Ok(coms(&newer, &["clients"])?["asks_not"].as_str().is_some_and(|said| said.contains(why)))
    };
    stage.wait("it to be for a broker that understands", 60, || {
        asks_not("has not said that it understands")
    })?;
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(events_named(&newer, "asked")?.len(), 0);
    drop(talk);
    stage.wait("its client to be forgotten", 60, || asks_not("too few clients"))?;

    // What must be encrypted is not asked of a host that has no word for it.
    let required = ["migrate", "--encryption", "required", "--wait"];
    let (status, said) = coms_within(&newer, &required, Duration::from_secs(60))?;
    let denied = events_named(&newer, "denied")?.last().cloned().unwrap_or_default();
    assert_eq!((status, &denied["reason"]), (1, &"host-too-old-to-encrypt".into()), "{said} {denied}");

    // From a host of the first version to one of this.
    for guest in [&older, &newer] {
        asks_and_moves(&stage, guest, 1)?;
    }
    let hosts = coms(&newer, &["hosts"])?;
    assert_eq!(hosts["hosts"].as_array().map(Vec::len), Some(2), "{hosts}");
    // And back, at the operator's wish with a notice that the older agent has no word for, and at the guest's own.
    is_moved(&stage, &older, 1, 0, &["--notice", "1s"])?;
    asks_and_moves(&stage, &newer, 0)?;
    // A host that has no answer to a newer question does not harm the agent that asks it.
    let (status, said) = coms_within(&newer, &["hosts"], Duration::from_secs(30))?;
    println!("coms hosts at a host of the first version: exit {status}: {said}");
    assert_ne!(status, 0, "{said}");
    assert_eq!(coms(&newer, &["status"])?["connected"], true);

    // The other host is upgraded under them; an agent may stay as it is.
    stage.reconfigure(|s| s.first_version.clear())?;
    for guest in [&older, &newer] {
        stage.wait_for_agent(guest)?;
        asks_and_moves(&stage, guest, 1)?;
    }
    // And it may be upgraded the other way round: the hosts go back, the agents stay.
    stage.reconfigure(|s| s.first_version = vec![0, 1])?;
    for guest in [&older, &newer] {
        stage.wait_for_agent(guest)?;
        asks_and_moves(&stage, guest, 0)?;
    }
    stage.finish(&[&older, &newer])
}
