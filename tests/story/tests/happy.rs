//! The whole story, steps 1 to 11, on real parts: there and back, persistent and transient.

use coms_lab::{Guest, GuestConfig};
use coms_story::*;
use serde_json::Value;
use std::time::Duration;

/// Moves at its guest's wish, and checks what everyone knows afterwards.
fn asks_and_moves(stage: &Stage, guest: &Guest, from: usize, to: usize) -> Result<Value> {
    let before = events_named(guest, "completed")?.len();
    let (status, last) = coms_within(guest, &["migrate", "--wait"], Duration::from_secs(60))?;
    assert_eq!(status, 0, "{last}\n{}", stage.logs());
    assert_eq!(guest.current_host()?.name(), HOSTS[to]);

    let completed = events_named(guest, "completed")?;
    assert_eq!(completed.len(), before + 1, "told once: {completed:?}");
    let told = completed.last().cloned().unwrap_or_default();
    let migration = told["migration"].as_str().ok_or("no migration id")?.to_owned();
    for figure in ["downtime_ms", "total_ms", "bytes"] {
        assert!(told[figure].as_u64().is_some_and(|v| v > 0), "{figure} in {told}");
    }
    assert_eq!(told["technique"], "pre-copy");
    assert_eq!(told["encryption"], "none");
    assert_eq!(told["from"]["region"], REGIONS[from]);
    assert_eq!(told["to"]["region"], REGIONS[to]);
    assert_ne!(told["from"]["alias"], told["to"]["alias"]);
    let status = coms(guest, &["status"])?;
    assert_eq!(status["place"], told["to"], "the hello and the outcome agree on where it is");
    assert!(status["request"].is_null(), "{status}");

    // Both brokers know it, each from its side.
    stage.wait("the source to know that it left", 10, || {
        Ok(stage.record(from, &migration)?["state"] == "left")
    })?;
    stage.wait("the destination to know that the guest knows", 5, || {
        Ok(stage.record(to, &migration)?["state"] == "completed")
    })?;
    let record = stage.record(to, &migration)?;
    println!(
        "accel=tcg {} -> {}: request to call {} ms, resumed to told {} ms, downtime {} ms, guest gap {} +- {} ms",
        HOSTS[from],
        HOSTS[to],
        stage.record(from, &migration)?["request_to_call_ms"],
        record["resumed_to_told_ms"],
        told["downtime_ms"],
        told["guest_gap_ms"],
        told["guest_gap_error_ms"],
    );
    stage.wait("the ticket to be removed", 5, || Ok(ticket(stage, to, guest)?.is_none()))?;
    Ok(told)
}

#[test]
fn a_transient_guest_goes_there_and_back_and_is_told_each_time() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    let guest = stage.boot(0, GuestConfig::default(), "")?;
    let there = asks_and_moves(&stage, &guest, 0, 1)?;
    let back = asks_and_moves(&stage, &guest, 1, 0)?;
    assert_eq!(there["from"], back["to"], "a host keeps its alias");
    for i in 0..2 {
        assert_eq!(
            stage.host(i).virsh(&["list", "--all", "--persistent", "--name"])?.trim(),
            "",
            "it stays transient"
        );
    }
    stage.finish(&[&guest])
}

#[test]
fn a_persistent_guest_stays_defined_on_one_host_and_keeps_its_autostart() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    let guest = stage.boot(0, GuestConfig { persistent: true, ..GuestConfig::default() }, "")?;
    stage.host(0).virsh(&["autostart", guest.name()])?;
    for (from, to) in [(0, 1), (1, 0)] {
        asks_and_moves(&stage, &guest, from, to)?;
        assert_eq!(stage.host(to).virsh(&["list", "--all", "--persistent", "--name"])?.trim(), guest.name());
        assert_eq!(stage.host(from).virsh(&["list", "--all", "--name"])?.trim(), "");
        stage.wait("autostart at the destination", 5, || {
            Ok(stage.host(to).virsh(&["list", "--all", "--autostart", "--name"])?.trim() == guest.name())
        })?;
    }
    stage.finish(&[&guest])
}

#[test]
fn two_guests_cannot_tell_from_their_aliases_that_they_share_a_host() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    let one = stage.boot(0, GuestConfig::default(), "")?;
    let two = GuestConfig { name: "vm2".into(), ip: "10.78.0.2".parse()?, ..GuestConfig::default() };
    let two = stage.boot(0, two, "")?;
    let place = |g: &Guest| coms(g, &["status"]).map(|s| s["place"].clone());
    assert_eq!(place(&one)?["region"], place(&two)?["region"]);
    assert_ne!(place(&one)?["alias"], place(&two)?["alias"]);
    stage.finish(&[&one, &two])
}
