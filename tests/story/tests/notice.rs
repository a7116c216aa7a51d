//! Guests are told of moves that others want: asked first where they care, and told all the same where nobody asked
//! the broker.

use coms_lab::{Guest, GuestConfig, Signal};
use coms_story::*;
use serde_json::Value;
use std::time::Duration;

/// A command that is not ready as long as /tmp/busy is there, and never answers as long as /tmp/mute is.
const SHOP: &str = r#"
[[asked]]
name = "shop"
before = ["/tmp/shop"]
timeout_s = 3
hold_s = 60
retry_s = 1
"#;
const SHOP_PROGRAM: &str = "printf '#!/bin/sh\\n[ ! -e /tmp/mute ] || exec sleep 60\\n[ ! -e /tmp/busy ] || exit 75\\n' \
                            > /tmp/shop; chmod +x /tmp/shop";

fn steps_ms(record: &Value) -> Vec<(String, u64)> {
    let step = |s: &Value| Some((s["state"].as_str()?.to_owned(), s["at_unix_ms"].as_u64()?));
    record["steps"].as_array().map(|all| all.iter().filter_map(step).collect()).unwrap_or_default()
}

/// How long it was announced before its hosts were asked.
fn waited_ms(record: &Value) -> Option<u64> {
    let steps = steps_ms(record);
    let at = |name: &str| steps.iter().find(|(s, _)| s == name).map(|(_, at)| *at);
    at("choosing")?.checked_sub(at("announced")?)
}

fn told_of(guest: &Guest, event: &str, migration: &str) -> Result<Vec<Value>> {
    Ok(events_named(guest, event)?.into_iter().filter(|e| e["migration"] == *migration).collect())
}

/// Orders a move and gives its id.
fn order(stage: &Stage, from: usize, guest: &Guest, more: &[&str]) -> Result<String> {
    let args: Vec<&str> =
        ["migrate", guest.name(), "--no-wait"].into_iter().chain(more.iter().copied()).collect();
    let begun = stage.comsctl(from, &args)?;
    Ok(begun["migration"].as_str().ok_or(format!("{begun}"))?.to_owned())
}

/// The guest is at the host, and its agent knows, once.
fn completed(stage: &Stage, guest: &Guest, migration: &str, at: usize) -> Result<Value> {
    let mut told = Vec::new();
    stage
        .wait("the guest to hear that it was moved", 60, || {
            told = told_of(guest, "completed", migration)?;
            Ok(!told.is_empty())
        })
        .map_err(|e| format!("{e}\n{:?}", events(guest)))?;
    assert_eq!(guest.current_host()?.name(), HOSTS[at]);
    assert_eq!(told.len(), 1, "{told:?}");
    Ok(told.remove(0))
}

fn shop(stage: &Stage) -> Result<Guest> {
    let guest = stage.boot(0, GuestConfig { persistent: true, ..GuestConfig::default() }, SHOP)?;
    guest.sh(SHOP_PROGRAM)?;
    Ok(guest)
}

#[test]
fn an_operators_move_is_announced_held_as_long_as_policy_allows_and_never_by_the_silent() -> Result<()> {
    let settings = Settings { notice: "notice_max_s = 5\nhold_max_s = 6".into(), ..Settings::default() };
    let mut stage = Stage::up(settings)?;
    let guest = shop(&stage)?;

    // Not ready, for longer than allowed.
    guest.sh("touch /tmp/busy")?;
    let id = order(&stage, 0, &guest, &["--reason", "maintenance"])?;
    stage.wait("the operator to see what it waits for", 20, || {
        let record = stage.record(0, &id)?;
        Ok(record["state"] == "announced"
            && record["waits"]["for"] == "guest"
            && record["waits"]["cause"] == "command")
    })?;
    let told = completed(&stage, &guest, &id, 1)?;
    assert_eq!(told["initiator"], "operator", "{told}");
    let waited = waited_ms(&stage.record(0, &id)?).ok_or("it was not announced")?;
    println!(
        "held to the end: announced for {waited} ms of 3 s notice, by its wish, and 6 s hold, by policy (accel=tcg)"
    );
    assert!((9000..=13_000).contains(&waited), "{waited} ms");
    let notice = told_of(&guest, "notice", &id)?;
    assert_eq!(notice.len(), 1, "{notice:?}");
    assert_eq!(notice[0]["reason"], "maintenance", "{notice:?}");

    // Silent: its notice, and not a moment for its sake beyond that.
    guest.sh("rm /tmp/busy; touch /tmp/mute")?;
    let id = order(&stage, 1, &guest, &[])?;
    completed(&stage, &guest, &id, 0)?;
    let waited = waited_ms(&stage.record(1, &id)?).ok_or("it was not announced")?;
    println!("silent: announced for {waited} ms (accel=tcg)");
    assert!(waited <= 7000, "{waited} ms");
    guest.sh("rm /tmp/mute; killall sleep || true")?;

    // Ready at once: hardly any wait.
    let id = order(&stage, 0, &guest, &["--notice", "60"])?;
    completed(&stage, &guest, &id, 1)?;
    let waited = waited_ms(&stage.record(0, &id)?).ok_or("it was not announced")?;
    println!("ready: announced for {waited} ms of 60 s (accel=tcg)");
    assert!(waited <= 10_000, "{waited} ms");

    // Not asked at all.
    guest.sh("touch /tmp/busy")?;
    let id = order(&stage, 1, &guest, &["--expedite"])?;
    completed(&stage, &guest, &id, 0)?;
    let record = stage.record(1, &id)?;
    assert_eq!((waited_ms(&record), &record["expedited"]), (None, &Value::Bool(true)), "{record}");
    let notice = told_of(&guest, "notice", &id)?;
    assert_eq!(notice[0]["expedited"], true, "{notice:?}");

    // The broker is killed while it waits: the next one takes it up, and it ends once.
    stage.reconfigure(|s| s.notice = "notice_max_s = 5\nhold_max_s = 120".into())?;
    stage.wait_for_agent(&guest)?;
    let id = order(&stage, 0, &guest, &[])?;
    let held = |stage: &Stage| {
        let record = stage.record(0, &id)?;
        Ok(record["state"] == "announced" && record["waits"]["for"] == "guest")
    };
    stage.wait("the guest to hold it", 20, || held(&stage))?;
    stage.stop_broker(0, Signal::KILL)?;
    stage.start_broker(0)?;
    stage.wait("the guest to hold it again", 30, || held(&stage))?;
    guest.sh("rm /tmp/busy")?;
    completed(&stage, &guest, &id, 1)?;
    let ends: Vec<Value> = (events(&guest)?.into_iter())
        .filter(|e| {
            e["migration"] == *id && ["completed", "failed", "cancelled"].iter().any(|n| e["event"] == *n)
        })
        .collect();
    assert_eq!(ends.len(), 1, "{ends:?}");

    stage.finish(&[&guest])
}

fn foreign(guest: &Guest, event: &str) -> Result<usize> {
    let all = events_named(guest, event)?;
    Ok(all.iter().filter(|e| e["initiator"] == "foreign").count())
}

#[test]
fn a_foreign_move_is_told_at_its_source_and_always_on_arrival() -> Result<()> {
    let settings = Settings { hosts: vec![(0, Some(200)), (1, Some(200))], ..Settings::default() };
    let mut stage = Stage::up(settings)?;
    let guest = stage.boot(0, GuestConfig { persistent: true, ..GuestConfig::default() }, "")?;
    let arrived = |stage: &Stage, guest: &Guest, times: usize, host: usize| -> Result<()> {
        let found =
            stage.wait("the guest to hear of its arrival", 30, || Ok(foreign(guest, "completed")? >= times));
        found.map_err(|e| format!("{e}\n{:?}", events(guest)))?;
        assert_eq!(foreign(guest, "completed")?, times);
        assert_eq!(guest.current_host()?.name(), HOSTS[host]);
        stage.wait("the ticket to be gone", 10, || Ok(ticket(stage, host, guest)?.is_none()))
    };

    // Brokers at both ends.
    guest.migrate_to(HOSTS[1], &[])?;
    arrived(&stage, &guest, 1, 1)?;
    assert_eq!(foreign(&guest, "notice")?, 1, "{:?}", events(&guest)?);
    let told = events_named(&guest, "completed")?.remove(0);
    assert!(told["request"].is_null() && told["downtime_ms"].is_u64(), "{told}");
    let noticed = events_named(&guest, "notice")?.remove(0);
    assert_eq!(told["begun_as"], noticed["migration"], "one move, and both its ids are known: {told}");
    println!(
        "foreign, both brokers: from {} to {}, told {} ms after (accel=tcg)",
        told["from"], told["to"], told["told_after_ms"]
    );

    // None at the source.
    stage.stop_broker(1, Signal::KILL)?;
    guest.migrate_to(HOSTS[0], &[])?;
    arrived(&stage, &guest, 2, 0)?;

    // None at the destination: told when one is there, and by the next one not again.
    guest.migrate_to(HOSTS[1], &[])?;
    stage.start_broker(1)?;
    arrived(&stage, &guest, 3, 1)?;
    stage.stop_broker(1, Signal::KILL)?;
    stage.start_broker(1)?;
    stage.wait_for_agent(&guest)?;
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(foreign(&guest, "completed")?, 3);

    // One that does not get there.
    guest.start_dirtying(128, 200)?;
    let failed = std::thread::scope(|s| {
        let moving = s.spawn(|| guest.migrate_to(HOSTS[0], &[]));
        wait("a job to abort", 20, || {
            Ok(stage.host(1).virsh(&["domjobinfo", guest.name()])?.contains("Data remaining"))
        })?;
        std::thread::sleep(Duration::from_millis(1500));
        stage.host(1).virsh(&["domjobabort", guest.name()])?;
        moving.join().map_err(|_| "moving panicked".into()).map(|moved| moved.is_err())
    });
    let failed: Result<bool> = failed;
    assert!(failed?);
    guest.stop_dirtying()?;
    stage.wait("the guest to hear that it stays", 20, || Ok(events_named(&guest, "failed")?.len() == 1))?;
    assert_eq!(guest.current_host()?.name(), HOSTS[1]);

    stage.finish(&[&guest])
}
