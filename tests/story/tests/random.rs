//! Random moves over three hosts: thirty in a row, and what holds them.

use coms_lab::{Guest, GuestConfig, Signal};
use coms_story::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const MOVES: usize = 30;

fn settings() -> Settings {
    let pool = HOSTS.map(|h| format!("\"{h}\"")).join(", ");
    Settings {
        // The cooldown stands for one that must not count.
        limits: format!(
            "cooldown_s = 600\nrequests_per_minute = 1\n[random]\npool = [{pool}]\nmin_gap_s = 1\nmax_per_day = 1000"
        ),
        hosts: vec![(0, None), (1, None), (0, None)],
        ..Settings::default()
    }
}

/// The schedule in the guest's metadata where it runs now.
fn schedule(stage: &Stage, guest: &Guest) -> Result<String> {
    let here = guest.current_host()?.name().to_owned();
    let xml =
        stage.lab.host(&here).virsh(&["metadata", guest.name(), "--uri", "urn:coms:random:1", "--live"])?;
    Ok(xml.trim().to_owned())
}

fn next_unix_ms(xml: &str) -> Option<u64> {
    xml.split_once("next_unix_ms='")
        .or_else(|| xml.split_once("next_unix_ms=\""))?
        .1
        .split(['\'', '"'])
        .next()?
        .parse()
        .ok()
}

fn random_moves(guest: &Guest) -> Result<Vec<Value>> {
    Ok(events_named(guest, "completed")?.into_iter().filter(|e| e["initiator"] == "random").collect())
}

/// `coms random ARGS`; once more where the VM moved away under the question.
fn random(guest: &Guest, args: &[&str]) -> Result<Value> {
    let args: Vec<&str> = ["random"].into_iter().chain(args.iter().copied()).collect();
    let (mut status, mut answer) = coms_within(guest, &args, Duration::from_secs(60))?;
    if status != 0 && answer["error"].as_str().is_some_and(|e| e.contains("not answered")) {
        (status, answer) = coms_within(guest, &args, Duration::from_secs(60))?;
    }
    if status == 0 { Ok(answer) } else { Err(format!("coms {args:?}: exit {status}: {answer}").into()) }
}

#[test]
fn thirty_random_moves_and_what_holds_them() -> Result<()> {
    let mut stage = Stage::up(settings())?;
    let guest = stage.boot(0, GuestConfig { persistent: true, ..GuestConfig::default() }, "")?;

    // The operator's bound.
    let (status, answer) =
        coms_within(&guest, &["random", "start", "--between", "1s..50000h"], Duration::from_secs(30))?;
    let why = answer["error"].as_str().unwrap_or_default();
    assert!(status == 1 && why.contains("from 1 s"), "{answer}");

    // A broker that is killed between the draw and the move.
    let started = random(&guest, &["start", "--between", "12s..16s", "--law", "uniform"])?;
    assert_eq!((&started["state"], &started["pool"]), (&"on".into(), &3.into()), "{started}");
    let drawn = schedule(&stage, &guest)?;
    let due = next_unix_ms(&drawn).ok_or("no move is drawn")?;
    stage.stop_broker(0, Signal::KILL)?;
    stage.start_broker(0)?;
    assert_eq!(schedule(&stage, &guest)?, drawn, "a fresh broker takes it up as it is");
    stage.wait("the first random move", 60, || Ok(random_moves(&guest)?.len() == 1))?;
    let first = random_moves(&guest)?[0].clone();
    let record = stage.record(0, first["migration"].as_str().unwrap_or_default())?;
    let begun = record["received_unix_ms"].as_u64().unwrap_or_default();
    assert!(begun >= due && begun < due + 20_000, "due {due}, begun {begun}");
    println!("accel=tcg killed broker: the move began {} ms after the moment drawn before", begun - due);

    // Stopped is stopped.
    random(&guest, &["start", "--between", "1s..3s"])?;
    stage.wait("some moves", 120, || Ok(random_moves(&guest)?.len() >= 6))?;
    let stopped = random(&guest, &["stop"])?;
    assert_eq!(stopped["state"], "off", "{stopped}");
    // A move is told once the clocks were compared.
    std::thread::sleep(Duration::from_secs(4));
    let made = random_moves(&guest)?.len();
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(random_moves(&guest)?.len(), made, "moved after it was stopped");
    assert_eq!(stopped["made"], made, "{stopped}");

    // On to thirty, which is the budget.
    let began = Instant::now();
    random(&guest, &["start", "--between", "1s..3s", "--max-per-day", &MOVES.to_string()])?;
    stage.wait("the budget to be used up", 300, || {
        let told = events_named(&guest, "random")?;
        Ok(told.iter().any(|e| e["state"] == "budget-used-up"))
    })?;
    println!("accel=tcg {} moves in {:.0} s, gaps of 1 to 3 s", MOVES - made, began.elapsed().as_secs_f64());
    std::thread::sleep(Duration::from_secs(8));
    let told = random_moves(&guest)?;
    assert_eq!(told.len(), MOVES, "none lost, none beyond the budget\n{}", stage.logs());
    let ids: BTreeSet<_> = told.iter().filter_map(|e| e["migration"].as_str()).collect();
    assert_eq!(ids.len(), MOVES, "each told once");
    let status = random(&guest, &["status", "--stay", "2s"])?;
    assert_eq!((&status["state"], &status["made"]), (&"budget-used-up".into(), &MOVES.into()), "{status}");

    no_two_at_once(&stage, &told)?;
    let running: Vec<_> = (0..3)
        .filter(|i| stage.host(*i).virsh(&["list", "--name"]).is_ok_and(|l| l.contains(guest.name())))
        .collect();
    assert_eq!(running.len(), 1, "it runs once");
    guest.sh("true")?;
    stage.finish(&[&guest])
}

/// By the brokers' records: each begins where the one before ended, and after it.
fn no_two_at_once(stage: &Stage, told: &[Value]) -> Result<()> {
    let mut moves = Vec::new();
    for i in 0..3 {
        for r in stage.comsctl(i, &["migrations"])?.as_array().into_iter().flatten() {
            if r["initiator"] == "random" && r["state"] == "left" {
                moves.push((r["received_unix_ms"].as_u64().unwrap_or_default(), i, r.clone()));
            }
        }
    }
    moves.sort_by_key(|(at, ..)| *at);
    assert_eq!(moves.len(), told.len(), "what left is what was told");
    let mut visited = [0; 3];
    for (pair, heard) in moves.windows(2).zip(told) {
        let [(_, _, a), (begun, from, b)] = pair else { continue };
        let to = HOSTS.iter().position(|h| a["to"] == *h).ok_or("no destination")?;
        let arrival = stage.record(to, a["migration"].as_str().unwrap_or_default())?;
        let ended = arrival["ended_unix_ms"].as_u64().unwrap_or(u64::MAX);
        assert!(ended <= *begun && to == *from, "{a}\n{b}");
        assert_eq!((&arrival["state"], &heard["migration"]), (&"completed".into(), &a["migration"]));
        visited[to] += 1;
    }
    println!("arrivals by host: {visited:?}");
    assert!(visited.iter().all(|n| *n > 0), "{visited:?}");
    Ok(())
}
