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
const SILENT: Duration = Duration::from_secs(20);

/// For how long who stays must be well: a slow moment is asked about after `for_s` and a window.
const WELL: Duration = Duration::from_secs(15);

fn victim(n: u8) -> GuestConfig {
    GuestConfig {
        name: format!("vm{n}"),
        ip: [10, 78, 0, n].into(),
        memory_mib: 128,
        // Idle but for the page, so that three of them do not squeeze each other.
        workload: Some(Workload { round_iterations: 0, request_iterations: 8_000_000 }),
        ..GuestConfig::default()
    }
}

/// Its virtual CPUs compete as so many threads for the host's one.
fn noisy(vcpus: u32) -> GuestConfig {
    GuestConfig {
        name: "noisy".into(),
        ip: [10, 78, 1, 1].into(),
        vcpus,
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
    measured(overloads_itself)
}

fn overloads_itself() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    // Long enough that the guest's scheduler, which favours who has slept, has to give others their turn meanwhile.
    let page = Workload { round_iterations: 0, request_iterations: 32_000_000 };
    let agent = AGENT
        .replace("interval_ms = 400", "interval_ms = 1200")
        .replace("window_s = 4", "window_s = 8")
        .replace("learn_s = 12", "learn_s = 24");
    let guest = stage.boot(0, GuestConfig { workload: Some(page), ..victim(1) }, &agent)?;
    learned(&stage, &guest)?;
    guest.start_hog(6)?;
    stage.wait("the agent to see its own load", 90, || {
        Ok(!events_named(&guest, "workload_slow_by_itself")?.is_empty())
    })?;
    let begun = Instant::now();
    while begun.elapsed() < SILENT {
        let status = coms(&guest, &["status"])?;
        let machine = status["machine"].clone();
        let page = &status["workloads"][0];
        println!("accel=tcg own overload: calibration x{:.2} {machine}, {page}", factor(&machine));
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
    measured(squeezed)
}

fn squeezed() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    let neighbour = stage.lab.boot(noisy(4), HOSTS[0])?;
    let guest = stage.boot(0, victim(1), AGENT)?;
    learned(&stage, &guest)?;
    neighbour.start_hog(4)?;
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

/// The moves that guests asked this host for and that left it, oldest first: from when to when (ms since 1970).
fn left(stage: &Stage) -> Result<Vec<(String, u64, u64)>> {
    let records = stage.comsctl(0, &["migrations"])?;
    let mut moves = Vec::new();
    for r in records.as_array().into_iter().flatten() {
        if r["initiator"] == "customer" && r["state"] == "left" {
            let at = |key: &str| r[key].as_u64().ok_or_else(|| format!("no {key} in {r}"));
            let name = r["domain"].as_str().unwrap_or_default().to_owned();
            moves.push((name, at("received_unix_ms")?, at("ended_unix_ms")?));
        }
    }
    moves.sort_by_key(|(_, from, _)| *from);
    Ok(moves)
}

#[test]
fn of_three_that_one_neighbour_squeezes_one_at_a_time_moves_and_the_others_are_measured_again() -> Result<()>
{
    measured(one_of_three)
}

fn one_of_three() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    let neighbour = stage.lab.boot(noisy(4), HOSTS[0])?;
    // They learned what is usual while the next one booted, which makes it more than it is when all is quiet.
    let agent = AGENT.replace("slower_than_factor = 1.7", "slower_than_factor = 1.5");
    let guests: Vec<Guest> = (1..=3).map(|n| stage.boot(0, victim(n), &agent)).collect::<Result<_>>()?;
    for guest in &guests {
        learned(&stage, guest)?;
    }
    neighbour.start_hog(4)?;
    stage.wait("the first to leave", 150, || Ok(!left(&stage)?.is_empty()))?;
    // The others are measured again. Who is still squeezed asks (anew) and leaves, too; who is well with one less beside
    // it stays, and may never have asked. Which of these depends on how much of the machine's CPU there is to share.
    let settled = |guest: &Guest| -> Result<bool> {
        if guest.current_host()?.name() != HOSTS[0] {
            return Ok(true);
        }
        let status = coms(guest, &["status"])?;
        Ok(status["workloads"][0]["state"] == "healthy" && status["backoff_s"].is_null())
    };
    let all_settled = || guests.iter().try_fold(true, |all, guest| Ok(settled(guest)? && all));
    let told = |e: Box<dyn std::error::Error + Send + Sync>| {
        let of =
            |g: &Guest| events(g).unwrap_or_default().iter().map(|e| format!("\n{e}")).collect::<String>();
        format!("{e}{}", guests.iter().map(|g| format!("\n--- {}{}", g.name(), of(g))).collect::<String>())
    };
    let mut since: Option<Instant> = None;
    let lasts = || {
        if !all_settled()? {
            since = None;
            return Ok(false);
        }
        Ok(since.get_or_insert_with(Instant::now).elapsed() > WELL)
    };
    stage.wait("each to have left or to be well", 180, lasts).map_err(told)?;
    neighbour.stop_hog()?;
    stage.wait("who stayed to be well, and free to ask", 90, all_settled).map_err(told)?;
    thread::sleep(Duration::from_secs(8));

    let moves = left(&stage)?;
    let mut first: Option<u64> = None;
    let mut put_off = 0;
    for guest in &guests {
        let (asked, denied) = (events_named(guest, "asked")?, events_named(guest, "denied")?);
        let moved = moves.iter().filter(|(name, ..)| name == guest.name()).count();
        println!(
            "accel=tcg {}: asked {} times, moved {moved} times, denied {denied:?}",
            guest.name(),
            asked.len()
        );
        assert_eq!(asked.len(), denied.len() + moved, "each request has its answer");
        // Who squeezes the guests squeezes their host's libvirtd, too: what it says of the other host may be too old.
        let of = |reason: &str| denied.iter().filter(|d| d["reason"] == reason).count();
        assert_eq!(of("others-first") + of("no-destination"), denied.len(), "{denied:?}");
        put_off += of("others-first");
        assert_eq!(guest.current_host()?.name(), HOSTS[moved], "{} moved {moved} times", guest.name());
    }
    // How many depends on how far apart they notice; that none follows too soon is judged below.
    println!("accel=tcg {put_off} requests were put off for the sake of others");
    assert!(!moves.is_empty(), "one of them at least had to leave");
    for (name, from, to) in moves {
        if let Some(before) = first.replace(to) {
            let rest_s = (from as f64 - before as f64) / 1000.0;
            println!("accel=tcg {name} begins to move {rest_s:.1} s after the one before it has left");
            assert!(rest_s >= 10.0, "the others are measured again in between");
        }
    }
    stage.finish(&guests.iter().collect::<Vec<_>>())
}
