//! What a guest costs the broker: memory for 1,000 and 10,000 idle sessions, and how many messages one core serves.
//!
//! The broker's own links, alone in a process, over unix sockets to guests' ends of the protocol in another process.
//! Beside it a whole broker with one real guest.

use crate::pool::Pool;
use crate::report::Finding;
use crate::{amount, part};
use coms_lab::GuestConfig;
use coms_story::Result;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than a heartbeat: whatever a greeting used is given back.
const IDLE: Duration = Duration::from_secs(20);
/// Pings of each guest at once, and how many guests: one's share of the broker is bounded.
const PINGS: usize = 8;
const PINGING: usize = 200;
const PING_FOR: Duration = Duration::from_secs(10);

pub fn run() -> Result<(Value, Vec<Finding>)> {
    let most = amount("COMS_BENCH_SESSIONS", 10_000)?;
    let mut raw = Vec::new();
    let mut findings = Vec::new();
    for sessions in [most.div_ceil(10), most] {
        let (empty, full) = idle(sessions)?;
        let each = (full - empty) / sessions as f64;
        raw.push(json!({ "sessions": sessions, "pss_kib_before": empty, "pss_kib": full }));
        let what = format!("broker memory (Pss) for {sessions} idle sessions");
        findings.push(
            Finding::plain(&format!("memory-{sessions:05}"), &what, "MiB", "once", (full - empty) / 1024.0)
                .detail("kib_per_session", each),
        );
    }
    let served = flood()?;
    raw.push(served.clone());
    let per_s = served["round_trips"].as_f64().unwrap_or(0.0) / served["cpu_s"].as_f64().unwrap_or(f64::NAN);
    let what = "numbered messages answered by the broker's links per second of one core's time";
    findings.push(
        Finding::plain("messages-per-core", what, "per s", "mean", per_s)
            .detail("guests", PINGING)
            .detail("note", "each is a frame in, its answer out and an acknowledgement in"),
    );
    let (broker, one) = one_real_guest()?;
    raw.push(json!({ "real_broker_pss_kib_without_guest": broker, "real_broker_pss_kib_with_one": one }));
    findings.push(
        Finding::plain(
            "memory-real",
            "a whole broker with one real guest (Pss)",
            "MiB",
            "once",
            one / 1024.0,
        )
        .detail("without_guest_mib", broker / 1024.0),
    );
    Ok((json!(raw), findings))
}

fn idle(sessions: usize) -> Result<(f64, f64)> {
    let dir = Sockets::new()?;
    let mut guests = Part::start(&["part-guests", "--count", &sessions.to_string()], &dir.0)?;
    guests.line()?;
    let mut links = Part::start(&["part-links"], &dir.0)?;
    // With one it has done everything once.
    links.ask("1")?;
    std::thread::sleep(Duration::from_secs(1));
    let empty = pss_kib(links.child.id())?;
    links.ask(&sessions.to_string())?;
    std::thread::sleep(IDLE);
    Ok((empty, pss_kib(links.child.id())?))
}

fn flood() -> Result<Value> {
    let dir = Sockets::new()?;
    let (count, pings) = (PINGING.to_string(), PINGS.to_string());
    let mut guests = Part::start(&["part-guests", "--count", &count, "--pings", &pings], &dir.0)?;
    guests.line()?;
    let mut links = Part::start(&["part-links"], &dir.0)?;
    links.ask(&count)?;
    std::thread::sleep(Duration::from_secs(2));
    let answered = |guests: &mut Part| -> Result<u64> { Ok(guests.ask("")?.trim().parse()?) };
    let (began, answered_before, cpu_before) =
        (Instant::now(), answered(&mut guests)?, cpu_s(links.child.id())?);
    std::thread::sleep(PING_FOR);
    let round_trips = answered(&mut guests)? - answered_before;
    let cpu = cpu_s(links.child.id())? - cpu_before;
    Ok(json!({ "round_trips": round_trips, "cpu_s": cpu, "elapsed_s": began.elapsed().as_secs_f64() }))
}

fn one_real_guest() -> Result<(f64, f64)> {
    let pool = Pool::up(&[0])?;
    std::thread::sleep(IDLE);
    let without = pss_kib(pool.broker_pid(0)?)?;
    let guest = pool.boot(0, GuestConfig::default(), "")?;
    std::thread::sleep(IDLE);
    let with = pss_kib(pool.broker_pid(0)?)?;
    guest.destroy()?;
    pool.finish()?;
    Ok((without, with))
}

/// A directory for sockets, short enough for their names.
struct Sockets(PathBuf);

impl Sockets {
    fn new() -> Result<Self> {
        let dir = PathBuf::from(format!("/run/coms-bench-{}", std::process::id()));
        std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A part of this program that talks by lines.
struct Part {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Part {
    fn start(args: &[&str], dir: &Path) -> Result<Self> {
        let mut child = Command::new(part::program()?)
            .args(args)
            .arg("--dir")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { return Err("no pipes".into()) };
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("a part of the bench ended early; its last words are above".into()),
            _ => Ok(line),
        }
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        self.input.write_all(format!("{line}\n").as_bytes())?;
        self.line()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pss_kib(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    crate::footprint::pss_kib_in(&text).ok_or_else(|| format!("no Pss of {pid}: {text}").into())
}

/// User and system time used so far; the kernel counts in hundredths of a second.
fn cpu_s(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> =
        text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let ticks = |i: usize| fields.get(i).and_then(|t| t.parse::<f64>().ok());
    let used = ticks(11).zip(ticks(12)).ok_or_else(|| format!("no CPU times in {text}"))?;
    Ok((used.0 + used.1) / 100.0)
}
