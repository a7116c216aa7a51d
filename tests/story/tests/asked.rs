//! The customer is asked and told: an application in the guest holds an operator's move, windows put one off, history
//! and effect survive a restart and the move, and a simulation moves nothing.

use coms_lab::GuestConfig;
use coms_story::*;
use serde_json::Value;
use std::time::Duration;

/// Registers an application in the guest; its answers are lines written to /tmp/says, what it hears is in /tmp/hears.
fn register(guest: &coms_lab::Guest, name: &str) -> Result<()> {
    guest.sh("rm -f /tmp/says && mkfifo /tmp/says")?;
    guest.sh(&format!(
        "coms register --name {name} --notice 20s --hold 60s <>/tmp/says >/tmp/hears 2>/tmp/complains &"
    ))?;
    wait("the application to be registered", 20, || Ok(coms(guest, &["status"])?["apps"][0]["app"] == name))
}

fn hears(guest: &coms_lab::Guest, event: &str) -> Result<bool> {
    Ok(guest.sh("cat /tmp/hears")?.contains(&format!("\"event\":\"{event}\"")))
}

fn only(stage: &Stage, i: usize) -> Result<Value> {
    let all = stage.comsctl(i, &["migrations"])?;
    all.as_array().and_then(|a| a.last()).cloned().ok_or_else(|| "no move".into())
}

#[test]
fn an_operators_move_waits_for_an_application_and_for_a_window() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    let guest = stage.boot(0, GuestConfig::default(), "[asking]\nsettle_s = 1\ncheck_s = 1\n")?;
    register(&guest, "db")?;

    // Simulated: the application hears a whole migration; the VM stays, and the history is empty.
    guest.sh("(sleep 1; echo ready >/tmp/says) >/dev/null 2>&1 &")?;
    let (status, said) = coms_within(&guest, &["simulate", "--notice", "10s"], Duration::from_secs(10))?;
    assert_eq!((status, &said["asked"]), (0, &1.into()), "{said}");
    stage.wait("the simulation to end", 20, || {
        Ok(events_named(&guest, "completed")?.iter().any(|e| e["simulated"] == true))
    })?;
    assert!(hears(&guest, "notice")? && hears(&guest, "completed")?);
    assert_eq!(guest.current_host()?.name(), HOSTS[0]);
    assert_eq!(coms(&guest, &["history"])?["history"], serde_json::json!([]));
    assert!(stage.comsctl(0, &["migrations"])?.as_array().is_some_and(Vec::is_empty));

    // Held, visible at both ends, and let go.
    guest.sh(": >/tmp/hears")?;
    stage.comsctl(0, &["migrate", guest.name(), "--to", HOSTS[1], "--reason", "maintenance", "--no-wait"])?;
    stage.wait("the notice", 20, || hears(&guest, "notice"))?;
    guest.sh("echo hold 60s >/tmp/says")?;
    stage.wait("the host to wait for the guest", 20, || Ok(only(&stage, 0)?["waits"]["for"] == "guest"))?;
    let shown = coms(&guest, &["status"])?["announced"].clone();
    assert_eq!(
        (&shown["reason"], &shown["asked"][0]["name"], &shown["asked"][0]["state"]),
        (&"maintenance".into(), &"db".into(), &"holding".into()),
        "{shown}"
    );
    assert_eq!(guest.current_host()?.name(), HOSTS[0]);
    guest.sh("echo ready >/tmp/says")?;
    stage.wait("the outcome", 60, || {
        Ok(events_named(&guest, "completed")?.iter().any(|e| e["simulated"] != true))
    })?;
    assert_eq!(guest.current_host()?.name(), HOSTS[1]);
    stage.wait("the application to hear it", 20, || hears(&guest, "completed"))?;

    // The history survived the move, and survives the agent.
    let before = coms(&guest, &["history"])?["history"].clone();
    assert_eq!(before.as_array().map(Vec::len), Some(1), "{before}");
    assert_eq!((&before[0]["initiator"], &before[0]["outcome"]), (&"operator".into(), &"completed".into()));
    guest.sh("kill -9 $(pidof coms-agent)")?;
    stage.wait_for_agent(&guest)?;
    assert_eq!(coms(&guest, &["history"])?["history"], before);

    // Nobody is registered any more; the windows are closed for now, and an operator's move waits for them.
    coms(&guest, &["window", "close", "--for", "20s"])?;
    stage.comsctl(1, &["migrate", guest.name(), "--to", HOSTS[0], "--no-wait"])?;
    stage.wait("the move to be put off", 15, || {
        let verdicts = events_named(&guest, "verdict")?;
        Ok(verdicts.iter().any(|v| v["asked"] == "postpone" && v["granted"] == true))
    })?;
    assert_eq!(guest.current_host()?.name(), HOSTS[1]);
    stage.wait("the window to open, and the move", 60, || Ok(guest.current_host()?.name() == HOSTS[0]))?;
    let put_off = &events_named(&guest, "postpone")?[0];
    assert_eq!(put_off["cause"], "window", "{put_off}");
    stage.wait("the outcome", 20, || {
        Ok(coms(&guest, &["history"])?["history"].as_array().map(Vec::len) == Some(2))
    })?;
    println!("accel=tcg held and put off: {}", coms(&guest, &["history"])?["history"][1]);
    stage.finish(&[&guest])
}
