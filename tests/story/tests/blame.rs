//! Bad host or bad guest? A guest that overloads itself stays; one squeezed by neighbours moves; and of three that
//! one noisy neighbour squeezes, one at a time moves, and the others are measured again.

use coms_lab::{Guest, GuestConfig, Workload};
use coms_story::*;
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

/// The page costs enough to be slow when it gets less of the CPU; nothing else runs all the time.
const AGENT: &str = r#"
[asking]
cooldown_s = 600
backoff_s = 10
settle_s = 2
check_s = 6

[[workload]]
name = "page"
probe = { http = "http://127.0.0.1:8080/" }
interval_ms = 400
timeout_ms = 20000
metric = "p50"
window_s = 4
slower_than_factor = 1.7
for_s = 4
learn_s = 12
"#;

/// How long a guest that overloads itself must stay silent.
const SILENT: Duration = Duration::from_secs(35);

fn victim(n: u8) -> GuestConfig {
    GuestConfig {
        name: format!("vm{n}"),
        ip: [10, 78, 0, n].into(),
        memory_mib: 128,
        // Works all the time, as the neighbours' victims in `make demo` do.
        workload: Some(Workload { request_iterations: 4_000_000, ..Workload::default() }),
        ..GuestConfig::default()
    }
}

fn noisy(n: u8) -> GuestConfig {
    GuestConfig {
        name: format!("noisy{n}"),
        ip: [10, 78, 1, n].into(),
        memory_mib: 128,
        port: false,
        ..GuestConfig::default()
    }
}

fn learned(stage: &Stage, guest: &Guest) -> Result<()> {
    stage.wait("the agent to learn what is usual", 120, || {
        let status = coms(guest, &["status"])?;
        Ok(status["workloads"][0]["state"] == "healthy"
            && !status["machine"]["calibration_usual_us"].is_null())
    })
}

/// Calibration now against usual.
fn factor(machine: &Value) -> f64 {
    let number = |key: &str| machine[key].as_f64().unwrap_or(f64::NAN);
    number("calibration_us") / number("calibration_usual_us")
}

#[test]
fn a_guest_that_overloads_itself_stays_and_says_why() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    let guest = stage.boot(0, victim(1), AGENT)?;
    learned(&stage, &guest)?;
    guest.start_hog(4)?;
    stage.wait("the agent to see its own load", 90, || {
        Ok(!events_named(&guest, "workload_slow_by_itself")?.is_empty())
    })?;
    let begun = Instant::now();
    while begun.elapsed() < SILENT {
        let machine = coms(&guest, &["status"])?["machine"].clone();
        println!("accel=tcg own overload: calibration x{:.2} {machine}", factor(&machine));
        assert!(events_named(&guest, "asked")?.is_empty(), "it asked: {:?}", events(&guest)?);
        thread::sleep(Duration::from_secs(4));
    }
    let told = events_named(&guest, "workload_slow_by_itself")?;
    assert_eq!(told.len(), 1, "once: {told:?}");
    let why = told[0]["why"].as_str().unwrap_or_default();
    assert!(why.contains("of its own tasks wait"), "{why}");
    let status = coms(&guest, &["status"])?;
    assert_eq!(
        (&status["workloads"][0]["state"], &status["machine"]["verdict"]),
        (&"slow".into(), &"own".into())
    );
    assert!(guest.sh("coms status")?.contains("its own load slows it"));

    // The load goes, and all is well; nobody moved.
    guest.stop_hog()?;
    stage.wait("the workload to recover", 60, || {
        Ok(!events_named(&guest, "workload_recovered")?.is_empty())
    })?;
    assert_eq!(guest.current_host()?.name(), HOSTS[0]);
    stage.finish(&[&guest])
}

#[test]
fn a_guest_squeezed_by_neighbours_asks_and_has_the_evidence() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    let neighbours = [stage.lab.boot(noisy(1), HOSTS[0])?, stage.lab.boot(noisy(2), HOSTS[0])?];
    let guest = stage.boot(0, victim(1), AGENT)?;
    learned(&stage, &guest)?;
    for neighbour in &neighbours {
        neighbour.start_hog(1)?;
    }
    stage.wait("the agent to ask", 90, || Ok(!events_named(&guest, "asked")?.is_empty()))?;
    let asked = &events_named(&guest, "asked")?[0];
    let calibration = asked["evidence"]
        .as_array()
        .and_then(|all| all.iter().find(|e| e["metric"] == "calibration-us"))
        .ok_or_else(|| format!("no calibration in {asked}"))?;
    let number = |key: &str| calibration[key].as_f64().unwrap_or_default();
    println!("accel=tcg squeezed: calibration x{:.2} {asked}", number("now") / number("baseline"));
    assert!(number("now") > number("threshold"), "{asked}");
    stage.wait("the outcome", 90, || Ok(!events_named(&guest, "completed")?.is_empty()))?;
    assert_eq!(guest.current_host()?.name(), HOSTS[1]);
    assert!(events_named(&guest, "workload_slow_by_itself")?.is_empty());
    stage.finish(&[&guest])
}
