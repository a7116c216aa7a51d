//! What encryption costs a move: the paper's Figures 3 and 4 with QEMU's own TLS in place of GPG's pipes.
//!
//! A guest with random bytes in its memory goes to and fro between two hosts, in pairs of one plain and one encrypted move,
//! over a link that is slower than the hosts; first idle, then sending to a peer. That the link was the slowest part is
//! measured with each move: where it was not, the ratio says something of the hosts' CPUs instead, and the table says so.
//! Then other ways, in rounds, without a goal.

mod drawing;
mod figures;
mod plan;
mod run;
mod ssh;
mod watch;

use crate::report::{self, Finding};
use crate::{Outcome, amount};
use coms_story::Result;
use plan::{Case, Part, Settings};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The link: one that two hosts of one core each, with emulated guests, can fill also while they encrypt.
const DEFAULTS: Settings =
    Settings { pairs: 30, beside: 6, link_mbit_s: 500, filled_mib: 256, busy_mbit_s: 100 };
const RAW: &str = "encrypted.raw.json";

/// One move.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sample {
    part: Part,
    #[serde(flatten)]
    case: Case,
    /// Which pair, or which round.
    round: usize,
    from: String,
    /// libvirt's job: from its begin to its end, as the destination tells.
    job_ms: f64,
    /// The whole call, by the clock of who called.
    call_ms: f64,
    /// libvirt's: from the source's stop to the destination's begin.
    downtime_ms: f64,
    /// What libvirt counted, and what left the source.
    memory_bytes: f64,
    sent_bytes: f64,
    /// While most of it went.
    link_mbit_s: f64,
    /// Both QEMUs, from the call to the source's end.
    cpu_source_s: f64,
    cpu_destination_s: f64,
    /// What the peer got during the call, of a busy guest.
    peer_mbit_s: Option<f64>,
}

/// All that a bench has measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Raw {
    settings: Settings,
    samples: Vec<Sample>,
}

fn settings() -> Result<Settings> {
    let small = |name: &str, default: u32| -> Result<u32> {
        Ok(u32::try_from(amount(name, default as usize)?).map_err(|_| format!("{name}: too large"))?)
    };
    let settings = Settings {
        pairs: amount("COMS_BENCH_ENCRYPTED_PAIRS", DEFAULTS.pairs)?,
        beside: amount("COMS_BENCH_ENCRYPTED_BESIDE", DEFAULTS.beside)?,
        link_mbit_s: small("COMS_BENCH_ENCRYPTED_MBIT", DEFAULTS.link_mbit_s)?,
        filled_mib: amount("COMS_BENCH_ENCRYPTED_MIB", DEFAULTS.filled_mib)?,
        ..DEFAULTS
    };
    if settings.link_mbit_s > 1000 {
        return Err(format!(
            "COMS_BENCH_ENCRYPTED_MBIT={}: at most 1000, which is what the goal speaks of",
            settings.link_mbit_s
        )
        .into());
    }
    if settings.filled_mib > run::MOST_FILLED_MIB {
        return Err(format!(
            "COMS_BENCH_ENCRYPTED_MIB={}: at most {}, or the guest has no memory left",
            settings.filled_mib,
            run::MOST_FILLED_MIB
        )
        .into());
    }
    Ok(settings)
}

pub fn run() -> Outcome {
    let settings = settings()?;
    let steps = plan::plan(&settings, &mut StdRng::seed_from_u64(rand::random()));
    let about = plan::expected(&steps, &settings);
    println!(
        "bench encrypted: {} pairs idle, {0} busy, {} rounds beside; link {} Mbit/s, {} MiB random; about {}",
        settings.pairs,
        settings.beside,
        settings.link_mbit_s,
        settings.filled_mib,
        minutes(about)
    );
    let mut stage = run::Stage::up(settings)?;
    let mut samples: Vec<Sample> = Vec::new();
    let begun = Instant::now();
    for (done, step) in steps.iter().enumerate() {
        let sample =
            stage.play(step).map_err(|e| format!("move {} of {}, {step:?}: {e}", done + 1, steps.len()))?;
        samples.extend(sample);
        // After each pair, after each round.
        let next = steps.get(done + 1);
        if next.is_none_or(|n| (n.part, n.case.load, n.round) != (step.part, step.case.load, step.round)) {
            // As much longer or shorter as it has been so far.
            let so_far = plan::expected(&steps[..=done], &settings).as_secs_f64();
            let slower = begun.elapsed().as_secs_f64() / so_far;
            let left = plan::expected(&steps[done + 1..], &settings).mul_f64(slower);
            println!("{}; {} left", figures::progress(step, &settings, &samples), minutes(left));
        }
    }
    stage.finish()?;
    let raw = Raw { settings, samples };
    let findings = figures::findings(&raw);
    Ok((json!(raw), findings))
}

fn minutes(time: Duration) -> String {
    let s = time.as_secs();
    if s < 90 { format!("{s} s") } else { format!("{} min", (s + 30) / 60) }
}

/// `make figures`: from what was measured, or else measured first.
pub fn draw() -> Result<()> {
    let path = report::dir().join(RAW);
    if !path.exists() {
        println!("{} is missing: measuring first (`make bench B=encrypted`)", path.display());
        let (raw, findings): (Value, Vec<Finding>) = run()?;
        report::write("encrypted", &raw, &findings)?;
    }
    let in_file =
        |e: &dyn std::fmt::Display| format!("{}: {e}; delete it and it is measured again", path.display());
    let text = std::fs::read_to_string(&path).map_err(|e| in_file(&e))?;
    let mut value: Value = serde_json::from_str(&text).map_err(|e| in_file(&e))?;
    let raw: Raw = serde_json::from_value(value["raw"].take()).map_err(|e| in_file(&e))?;
    let dir = coms_lab::workspace_root().join("target/figures");
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for figure in figures::drawn(&raw).map_err(|e| in_file(&e))? {
        let path = dir.join(format!("figure{}.svg", figure.number));
        std::fs::write(&path, drawing::chart(&figure)).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}
