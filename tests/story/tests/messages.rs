//! What crosses the port while the VM moves, and tickets that must mean nothing.

use coms_lab::GuestConfig;
use coms_story::*;
use serde_json::Value;
use std::time::Duration;

#[test]
fn a_thousand_numbered_messages_each_way_cross_ten_moves_none_lost_none_doubled() -> Result<()> {
    const MOVES: usize = 10;
    let stage = Stage::up(Settings::default())?;
    let guest = stage.boot(0, GuestConfig::default(), "")?;
    // Each number goes to the broker of the moment, and its answer comes back, with up to 16 under way: numbers
    // cross in both directions during every switch-over.
    let ping = std::thread::scope(|s| -> Result<_> {
        let ping = s.spawn(|| {
            coms_within(&guest, &["ping", "--count", "1000", "--interval-ms", "50"], Duration::from_secs(240))
        });
        for n in 0..MOVES {
            let (from, to) = (n % 2, (n + 1) % 2);
            let moved = stage.comsctl(from, &["migrate", guest.name(), "--to", HOSTS[to]])?;
            assert_eq!(moved["state"], "left", "move {n}: {moved}\n{}", stage.logs());
            stage.wait("the guest to have heard of it", 20, || {
                Ok(events_named(&guest, "completed")?.len() == n + 1)
            })?;
            stage.wait("the destination to be ready", 20, || {
                Ok(stage
                    .comsctl(to, &["migrations"])?
                    .as_array()
                    .and_then(|a| a.last())
                    .is_some_and(|r| r["state"] == "completed"))
            })?;
        }
        assert!(!ping.is_finished(), "the numbers ran out before the moves: nothing crossed the last ones");
        ping.join().map_err(|_| "ping panicked")?
    })?;
    let (status, said) = ping;
    println!("accel=tcg {said}");
    assert_eq!(status, 0, "{said}");
    assert_eq!((&said["sent"], &said["answered"]), (&1000.into(), &1000.into()), "{said}");
    assert_eq!((&said["lost"], &said["doubled"]), (&0.into(), &0.into()), "{said}");
    // Ten moves, ten outcomes, each migration once.
    let mut told: Vec<String> =
        events_named(&guest, "completed")?.iter().map(|e| e["migration"].to_string()).collect();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), MOVES);
    stage.finish(&[&guest])
}

#[test]
fn a_ticket_that_is_expired_for_another_host_or_of_an_older_attempt_never_answers_for_its_move() -> Result<()>
{
    let stage = Stage::up(Settings::default())?;
    let guest = stage.boot(0, GuestConfig::default(), "")?;
    let uuid = |i: usize| -> Result<String> {
        let xml = stage.host(i).virsh(&["capabilities"])?;
        let uuid = xml.split_once("<uuid>").and_then(|(_, rest)| rest.split_once("</uuid>"));
        Ok(uuid.ok_or("no host uuid")?.0.to_owned())
    };
    let hosts = [uuid(0)?, uuid(1)?];
    let stranger = "00000000-0000-4000-8000-00000000beef".to_owned();
    // In ms around now: written, expires; and whom it is for.
    let cases = [
        ("expired", -10_000i64, -1_000i64, 1usize),
        ("for another host", 0, 600_000, 2),
        ("of an older attempt", -120_000, 600_000, 1),
    ];
    for (n, (name, written, expires, whom)) in cases.into_iter().enumerate() {
        let (from, to) = (n % 2, (n + 1) % 2);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64;
        let destination = if whom == 2 { &stranger } else { &hosts[to] };
        let xml = format!(
            "<ticket v='1' migration='m00000000000000{n:02}' attempt='{n}' request='77' initiator='0' technique='0' \
             source='{}' destination='{destination}' written_unix_ms='{}' expires_unix_ms='{}' autostart='no'/>",
            hosts[from],
            now + written,
            now + expires,
        );
        // Past the broker: what a broken or older one may have left behind, and a move that it knows nothing of.
        stage.host(from).virsh(&[
            "metadata",
            guest.name(),
            "--uri",
            "urn:coms:domain:1",
            "--key",
            "coms",
            "--live",
            "--set",
            &xml,
        ])?;
        guest.migrate_to(HOSTS[to], &[])?;
        stage.wait_for_agent(&guest)?;
        stage.wait(&format!("the ticket {name} to be removed"), 15, || {
            Ok(ticket(&stage, to, &guest)?.is_none())
        })?;
        // The arrival is told, for every arrival is, as somebody else's: with an id of its own, and nobody's answer.
        stage.wait("the arrival to be told", 15, || Ok(events_named(&guest, "completed")?.len() > n))?;
        std::thread::sleep(Duration::from_secs(1));
        let told = events_named(&guest, "completed")?;
        let foreign = |e: &Value| {
            let of_a_ticket = e["migration"].as_str().is_some_and(|id| id.starts_with("m00000000"));
            e["initiator"] == "foreign" && e["request"].is_null() && !of_a_ticket
        };
        assert!(
            told.len() == n + 1 && told.iter().all(foreign),
            "a ticket {name} yielded {told:?}\n{}",
            stage.logs()
        );
    }
    stage.finish(&[&guest])
}
