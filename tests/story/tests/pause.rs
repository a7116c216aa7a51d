//! The operator stops all customers' moves at once, those under way too, and lets them ask again.

use coms_lab::{Guest, GuestConfig, Signal};
use coms_story::*;
use serde_json::Value;
use std::time::Duration;

/// Asks with the agent; the one final answer.
fn answer(guest: &Guest) -> Result<(i32, Value)> {
    coms_within(guest, &["migrate", "--wait"], Duration::from_secs(90))
}

fn refused_as_paused(stage: &Stage, guests: &[Guest]) -> Result<()> {
    for guest in guests {
        let (status, answer) = answer(guest)?;
        assert_eq!((status, &answer["reason"]), (1, &"paused".into()), "{answer}\n{}", stage.logs());
        assert_eq!(answer["retry_after_s"], 300, "{answer}");
        assert_eq!(guest.current_host()?.name(), HOSTS[0]);
    }
    let (_, _, said) = stage.comsctl_raw(0, &["guests"])?;
    assert!(said.contains("paused"), "the operator is not reminded: {said:?}");
    Ok(())
}

#[test]
fn the_operator_stops_all_customers_moves_at_once_and_lets_them_ask_again() -> Result<()> {
    // Slow enough that both are still being copied when the operator says so.
    let hosts = vec![(0, Some(80)), (1, Some(80))];
    let limits = "cooldown_s = 0\nrequests_per_minute = 600\nsimultaneous_moves = 2".into();
    let mut stage = Stage::up(Settings { hosts, limits, ..Settings::default() })?;
    let boot = |n: u8| {
        let config = GuestConfig {
            name: format!("vm{n}"),
            ip: [10, 78, 0, n].into(),
            memory_mib: 160,
            ..GuestConfig::default()
        };
        stage.boot(0, config, "")
    };
    let guests = [boot(1)?, boot(2)?];
    for guest in &guests {
        coms(guest, &["migrate"])?;
    }
    stage.wait("both to be copied", 30, || {
        let all = stage.comsctl(0, &["migrations"])?;
        Ok(all.as_array().is_some_and(|a| a.iter().filter(|r| r["state"] == "copying").count() == 2))
    })?;
    let said = stage.comsctl(0, &["pause"])?;
    assert!(said["done"].as_str().is_some_and(|d| d.contains("2 of 2")), "{said}");
    for guest in &guests {
        stage.wait("the guest to hear of it", 30, || Ok(!events_named(guest, "cancelled")?.is_empty()))?;
        let told = events_named(guest, "cancelled")?;
        assert_eq!((told.len(), &told[0]["why"]), (1, &"by-operator".into()), "{told:?}");
        stage.wait("the ticket to be gone", 10, || Ok(ticket(&stage, 0, guest)?.is_none()))?;
    }
    refused_as_paused(&stage, &guests)?;

    // The next broker keeps to it, however the last one ended.
    for end in [Signal::TERM, Signal::KILL] {
        stage.stop_broker(0, end)?;
        stage.start_broker(0)?;
        stage.wait_for_load()?;
        for guest in &guests {
            stage.wait_for_agent(guest)?;
        }
        refused_as_paused(&stage, &guests)?;
    }

    // The operator's own moves go on.
    stage.host(0).set_rate_mbit(None)?;
    let moved = stage.comsctl(0, &["migrate", guests[0].name(), "--to", HOSTS[1]])?;
    assert_eq!(moved["state"], "left", "{moved}\n{}", stage.logs());
    stage.wait("its guest to be told", 20, || Ok(events_named(&guests[0], "completed")?.len() == 1))?;

    stage.comsctl(0, &["resume"])?;
    let (status, told) = answer(&guests[1])?;
    assert_eq!((status, &told["event"]), (0, &"completed".into()), "{told}\n{}", stage.logs());
    for guest in &guests {
        assert_eq!(guest.current_host()?.name(), HOSTS[1]);
    }
    stage.finish(&[&guests[0], &guests[1]])
}
