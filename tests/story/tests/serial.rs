//! Guests without virtio-serial: the same flow over a line that never hangs up and drops what nobody hears. An ISA line
//! is the slow one: each byte is an access to an emulated register, and its queue holds 16.

use coms_lab::{Guest, GuestConfig, Line, Signal};
use coms_story::*;
use std::time::Duration;

fn boot(stage: &Stage, line: Line, device: &str) -> Result<Guest> {
    let config = GuestConfig { port: false, line: Some(line), ..GuestConfig::default() };
    stage.boot(0, config, &format!("[port]\ntransport = \"serial\"\npath = \"{device}\"\n"))
}

fn there_and_back(stage: &Stage, guest: &Guest) -> Result<()> {
    for (n, to) in [(1, 1), (2, 0)] {
        let (status, told) = coms_within(guest, &["migrate", "--wait"], Duration::from_secs(90))?;
        assert_eq!(status, 0, "{told}\n{}", stage.logs());
        assert_eq!(guest.current_host()?.name(), HOSTS[to]);
        let completed = events_named(guest, "completed")?;
        assert_eq!(completed.len(), n, "told once: {completed:?}");
        assert_eq!(completed[n - 1]["to"]["region"], REGIONS[to]);
        println!(
            "accel=tcg over a line to {}: downtime {} ms, resumed to told {} ms",
            HOSTS[to],
            completed[n - 1]["downtime_ms"],
            completed[n - 1]["told_after_ms"]
        );
    }
    Ok(())
}

#[test]
fn over_an_isa_line_a_guest_asks_moves_and_is_told() -> Result<()> {
    let mut stage = Stage::up(Settings::default())?;
    let guest = boot(&stage, Line::Isa, "/dev/ttyS1")?;
    there_and_back(&stage, &guest)?;

    // Nothing hangs up when the broker dies; the next one is met by its epoch, although what was said meanwhile was
    // dropped, perhaps in the middle of a frame.
    stage.stop_broker(0, Signal::KILL)?;
    coms_within(&guest, &["ping", "--count", "3", "--wait-s", "1"], Duration::from_secs(60))?;
    let met = events_named(&guest, "connected")?.len();
    stage.start_broker(0)?;
    stage.wait("the new broker to be met", 60, || Ok(events_named(&guest, "connected")?.len() > met))?;
    let pings = coms(&guest, &["ping", "--count", "200", "--interval-ms", "5"])?;
    assert_eq!((&pings["answered"], &pings["doubled"]), (&200.into(), &0.into()), "{pings}");
    println!("accel=tcg over an ISA line, 200 a second: {pings}");
    // One at a time: without the queue of those that are under way at once.
    let pings = coms(&guest, &["ping", "--count", "20", "--interval-ms", "300"])?;
    assert_eq!(pings["answered"], 20, "{pings}");
    println!("accel=tcg over an ISA line, one at a time: {pings}");

    // The agent dies while the broker listens: the same the other way round.
    guest.sh("kill -9 $(pidof coms-agent)")?;
    stage.wait_for_agent(&guest)?;
    assert_eq!(coms(&guest, &["ping"])?["answered"], 5);
    stage.finish(&[&guest])
}

#[test]
fn over_a_virtio_console_too() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    let guest = boot(&stage, Line::Hvc, "/dev/hvc0")?;
    there_and_back(&stage, &guest)?;
    stage.finish(&[&guest])
}
