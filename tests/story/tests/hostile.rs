//! A hostile guest in a real VM, whose program says nonsense into the port for as long as it is let, and a neighbour
//! on the same host who asks all the while.
//!
//! What flooding costs the neighbour is to be the broker's doing, not that of a VM that is busy: the hostile VM has a
//! CPU of its own, broker and neighbour share the other, and between floods the hostile program makes as much
//! nonsense and keeps it to itself.

use coms_lab::nonsense::{Kind, TEXTS};
use coms_lab::{Guest, GuestConfig};
use coms_story::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The goals.
const KIB_ABOVE_IDLE: f64 = 64.0;
const P99_FACTOR: f64 = 1.5;

/// One moment without the CPU, on an emulated machine that does much else: the p99 of a few hundred answers is among
/// the longest of them. A guest that could keep the broker busy would cost hundreds of milliseconds.
const NOISE_MS: f64 = 10.0;
/// Far beyond what it takes to drain what the hostile guest itself left in its port.
const WORKS_AGAIN_US: u64 = 5_000_000;

/// Long enough for everything that the broker does by the clock.
const IDLE: Duration = Duration::from_secs(4);
/// How long each kind of nonsense is said, and how long the neighbour asks meanwhile.
const FLOOD_MS: u64 = 2600;
const ASK_MS: u64 = 2200;
const HEAD_START: Duration = Duration::from_millis(250);
const REQUESTS_PER_MINUTE: usize = 6;
/// What the log's limit lets one guest cause in a minute: its burst, what is allowed again meanwhile, and one line
/// each about what was left out and about the flood.
const LINES_PER_MINUTE: usize = 20 + 6 + 2;

fn guest(stage: &Stage, name: &str, n: u8) -> Result<Guest> {
    let config = GuestConfig {
        name: name.into(),
        ip: [10, 78, 0, n].into(),
        memory_mib: 128,
        ..GuestConfig::default()
    };
    Ok(stage.lab.boot(config, HOSTS[0])?)
}

/// Runs the lab's own program in the guest; what it tells.
fn lab_guest(guest: &Guest, args: &[&str]) -> Result<Value> {
    let argv: Vec<&str> = ["coms-lab-guest"].into_iter().chain(args.iter().copied()).collect();
    let told = guest.exec_with(&argv, "", Duration::from_secs(60))?.success()?;
    Ok(serde_json::from_str(&told)?)
}

/// All threads of these processes, and those to come, on this CPU.
fn pin(pids: &[u32], cpu: usize) -> Result<()> {
    for pid in pids {
        let out =
            Command::new("taskset").args(["-a", "-c", "-p", &cpu.to_string(), &pid.to_string()]).output()?;
        if !out.status.success() {
            return Err(format!("taskset {cpu}: {}", String::from_utf8_lossy(&out.stderr)).into());
        }
    }
    Ok(())
}

/// The broker's memory in KiB: all of it, and what is its alone. The rest are pages of files, whose share changes
/// with whoever else has them in use.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    pss: f64,
    anon: f64,
}

impl Memory {
    fn of(pid: u32) -> Result<Memory> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let kib = |name: &str| -> Result<f64> {
            let line =
                text.lines().find_map(|l| l.strip_prefix(name)).ok_or(format!("no {name} in {text}"))?;
            Ok(line.trim().trim_end_matches(" kB").parse()?)
        };
        Ok(Memory { pss: kib("Pss:")?, anon: kib("Pss_Anon:")? })
    }

    fn or_more(self, other: Memory) -> Memory {
        Memory { pss: self.pss.max(other.pss), anon: self.anon.max(other.anon) }
    }

    /// The most, looked at every 50 ms until it is over.
    fn most(pid: u32, over: &AtomicBool) -> Result<Memory> {
        let mut most = Memory::default();
        while !over.load(Ordering::Relaxed) {
            most = most.or_more(Memory::of(pid)?);
            thread::sleep(Duration::from_millis(50));
        }
        Ok(most)
    }
}

/// KiB that are the broker's alone, by what they belong to: its heap, its stack, a file's data, or nothing named.
fn by_mapping(pid: u32) -> Result<BTreeMap<String, i64>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut all, mut of) = (BTreeMap::new(), String::new());
    for line in text.lines() {
        if let Some(kib) = line.strip_prefix("Anonymous:") {
            *all.entry(of.clone()).or_default() += kib.trim().trim_end_matches(" kB").parse::<i64>()?;
        } else if line.split_whitespace().next().is_some_and(|word| word.contains('-')) {
            of = line.split_whitespace().nth(5).unwrap_or("unnamed").to_owned();
        }
    }
    Ok(all)
}

/// What grew of it.
fn growth(before: &BTreeMap<String, i64>, now: &BTreeMap<String, i64>) -> Vec<String> {
    let grown = now.iter().map(|(of, kib)| (of, kib - before.get(of).unwrap_or(&0)));
    grown.filter(|(_, kib)| *kib != 0).map(|(of, kib)| format!("{of} {kib:+} KiB")).collect()
}

/// What came of one round: the hostile guest did something, and the neighbour asked.
struct Round {
    hostile: Value,
    neighbour: Value,
    most: Memory,
}

fn round(hostile: &Guest, neighbour: &Guest, broker: u32, what: &str) -> Result<Round> {
    let over = AtomicBool::new(false);
    thread::scope(|s| {
        let flood = s.spawn(|| lab_guest(hostile, &["nonsense", what, &FLOOD_MS.to_string()]));
        let memory = s.spawn(|| Memory::most(broker, &over));
        thread::sleep(HEAD_START);
        let neighbour = lab_guest(neighbour, &["ask", &ASK_MS.to_string()]);
        let hostile = flood.join().map_err(|_| "the flood panicked");
        over.store(true, Ordering::Relaxed);
        let most = memory.join().map_err(|_| "the sampler panicked")??;
        Ok(Round { hostile: hostile??, neighbour: neighbour?, most })
    })
}

/// How long the neighbour waited for answers, in ms, sorted.
struct Times(Vec<f64>);

impl Times {
    fn of(rounds: &[Round], keys: &[&str]) -> Times {
        let all = rounds.iter().flat_map(|r| keys.iter().map(|key| &r.neighbour[*key]));
        let mut ms: Vec<f64> = all
            .flat_map(|v| v.as_array().into_iter().flatten())
            .filter_map(|us| Some(us.as_f64()? / 1e3))
            .collect();
        ms.sort_by(f64::total_cmp);
        Times(ms)
    }

    fn percentile(&self, permille: usize) -> f64 {
        let at = (self.0.len() * permille / 1000).min(self.0.len().saturating_sub(1));
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p95, p99, max] = [500, 950, 990, 1000].map(|p| self.percentile(p));
        write!(f, "n={} p50 {p50:.2} p95 {p95:.2} p99 {p99:.2} max {max:.2} ms", self.0.len())
    }
}

/// The neighbour is answered as if there were no flood. Of the requests alone there are too few for a p99.
fn check_answers(quiet: &[Round], flooded: &[Round]) {
    for (what, keys, permille) in [
        ("requests", &["requests_us"][..], 950),
        ("pings", &["pings_us"], 950),
        ("requests and pings", &["requests_us", "pings_us"], 990),
    ] {
        let (quiet, flooded) = (Times::of(quiet, keys), Times::of(flooded, keys));
        println!("accel=tcg a neighbour's {what}, unflooded: {quiet}");
        println!("accel=tcg a neighbour's {what}, flooded:   {flooded}");
        assert!(quiet.0.len() >= 80 && flooded.0.len() >= 80, "too few answers");
        let bound = quiet.percentile(permille) * P99_FACTOR + NOISE_MS;
        let found = flooded.percentile(permille);
        assert!(found <= bound, "{what}: {found:.2} ms, may be {bound:.2} ms");
    }
}

/// What the log says of it is little, and harmless.
fn check_log(log: &str, guest: &Guest) {
    let mut per_minute: BTreeMap<&str, usize> = BTreeMap::new();
    for line in log.lines().filter(|l| l.contains(guest.uuid())) {
        *per_minute.entry(line.get(..16).unwrap_or_default()).or_default() += 1;
    }
    println!("lines of log about the hostile guest per minute: {per_minute:?}");
    assert!(per_minute.values().all(|lines| *lines <= LINES_PER_MINUTE), "{per_minute:?}");
    assert!(log.lines().count() <= 4 * LINES_PER_MINUTE, "{} lines", log.lines().count());
    assert!(log.contains("says more than it is listened to"), "the operator must hear of a flood");
    let raw = |c: char| {
        c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c)
    };
    assert!(!log.replace('\n', "").contains(raw), "{log:?}");
    for text in TEXTS {
        assert!(!log.contains(text), "{text:?} in the log");
    }
}

/// Its definition, without what libvirt notes there of who has the port open.
fn definition(stage: &Stage, guest: &Guest) -> Result<String> {
    let xml = stage.host(0).virsh(&["dumpxml", guest.name()])?;
    Ok(xml.replace(" state='connected'", "").replace(" state='disconnected'", ""))
}

fn boot_ids(guests: [&Guest; 2]) -> Result<Vec<String>> {
    guests.into_iter().map(|g| Ok(g.sh("cat /proc/sys/kernel/random/boot_id")?)).collect()
}

#[test]
fn a_hostile_guest_harms_neither_the_broker_nor_its_neighbour_nor_its_own_port() -> Result<()> {
    measured(flooded)
}

fn flooded() -> Result<()> {
    let mut stage = Stage::up(Settings {
        hosts: vec![(0, None)],
        free_cpus: true,
        limits: format!("cooldown_s = 0\nrequests_per_minute = {REQUESTS_PER_MINUTE}"),
        ..Settings::default()
    })?;
    let broker = stage.broker(0).ok_or("no broker")?.pid();
    let log = stage.host(0).log_dir().join("coms-broker.log");
    let (neighbour, hostile) = (guest(&stage, "neighbour", 1)?, guest(&stage, "hostile", 2)?);
    let another = guest(&stage, "another", 3)?;
    pin(&[broker], 0)?;
    pin(&neighbour.qemu_pids()?, 0)?;
    for guest in [&hostile, &another] {
        pin(&guest.qemu_pids()?, 1)?;
    }

    // Everything is used once; then all are idle.
    for guest in [&neighbour, &hostile, &another] {
        lab_guest(guest, &["ask", "1000"])?;
    }
    for guest in [&hostile, &another] {
        round(guest, &neighbour, broker, "quiet")?;
    }
    let (xml, booted) = (definition(&stage, &hostile)?, boot_ids([&neighbour, &hostile])?);
    let logged = std::fs::read_to_string(&log)?.len();
    let over = AtomicBool::new(false);
    let idle = thread::scope(|s| {
        let memory = s.spawn(|| Memory::most(broker, &over));
        thread::sleep(IDLE);
        over.store(true, Ordering::Relaxed);
        memory.join().map_err(|_| "the sampler panicked")
    })??;
    println!("accel=tcg broker, idle: {idle:?}");
    let idle_by_mapping = by_mapping(broker)?;

    // In turns, so that what else the machine does hits both alike.
    let (mut quiet, mut flooded) = (Vec::new(), Vec::new());
    for (n, kind) in Kind::ALL.into_iter().enumerate() {
        let turns = if n % 2 == 0 { ["quiet", kind.name()] } else { [kind.name(), "quiet"] };
        for what in turns {
            let round = round(&hostile, &neighbour, broker, what)?;
            let (told, most) = (&round.hostile, round.most);
            let (anon, pss) = (most.anon - idle.anon, most.pss - idle.pss);
            let grown = growth(&idle_by_mapping, &by_mapping(broker)?);
            println!(
                "accel=tcg {what:9} broker {anon:+.0} KiB of its own {grown:?}, Pss {pss:+.0} KiB; {told}"
            );
            assert_eq!(told["knew_the_broker"], true, "it spoke into the void: {told}");
            let again_us =
                told["met_us"].as_u64().zip(told["pong_us"].as_u64()).map(|(met, pong)| met + pong);
            assert!(again_us.is_some_and(|us| us < WORKS_AGAIN_US), "{told}");
            if what == "quiet" { quiet.push(round) } else { flooded.push(round) }
        }
    }
    let most = |rounds: &[Round]| rounds.iter().fold(Memory::default(), |most, r| most.or_more(r.most));
    println!("accel=tcg broker at the most, unflooded {:?}, flooded {:?}", most(&quiet), most(&flooded));
    check_answers(&quiet, &flooded);
    check_log(&std::fs::read_to_string(&log)?[logged..], &hostile);
    // Against the broker before any flood: the quiet rounds between floods already hold what a flood left behind.
    // Told and not asserted: at the first flood the heap grows by one step that is not given back, whoever floods.
    let first = most(&flooded);
    let above = first.pss - idle.pss;
    println!("accel=tcg broker {above:.0} KiB (Pss) above idle with one hostile guest");
    // What each further one costs is what the goal is about.
    let mut both = Vec::new();
    for kind in [Kind::Garbage, Kind::Messages, Kind::Requests, Kind::Hellos] {
        both.push(thread::scope(|s| {
            let one = s.spawn(|| lab_guest(&hostile, &["nonsense", kind.name(), &FLOOD_MS.to_string()]));
            let round = round(&another, &neighbour, broker, kind.name());
            one.join().map_err(|_| "the flood panicked")??;
            round
        })?);
    }
    let another_kib = most(&both).anon - first.anon;
    println!(
        "accel=tcg broker {another_kib:+.0} KiB for another hostile guest; the goal is {KIB_ABOVE_IDLE} KiB"
    );
    assert!(another_kib <= KIB_ABOVE_IDLE, "{another_kib} KiB for another hostile guest");

    // Both VMs are as before, to libvirt too, and the shipped agent finds the port in order.
    assert_eq!(definition(&stage, &hostile)?, xml);
    assert_eq!(ticket(&stage, 0, &hostile)?, None);
    assert_eq!(boot_ids([&neighbour, &hostile])?, booted);
    for guest in [&neighbour, &hostile, &another] {
        guest.sh("coms-agent >/dev/null 2>&1 &")?;
        stage.wait_for_agent(guest)?;
        let pings = coms(guest, &["ping", "--count", "20", "--interval-ms", "20"])?;
        assert_eq!((&pings["answered"], &pings["doubled"]), (&20.into(), &0.into()), "{pings}");
    }
    stage.finish(&[&hostile, &another, &neighbour])
}
