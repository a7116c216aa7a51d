//! `make bench`: measures what the product promises, on the lab, and keeps what it measured.
//!
//! A goal that is missed is a result: the exit status says only whether every bench could run. Samples of two sides
//! are taken in turns, so that whatever drifts meets both.

mod answers;
mod calls;
mod clients;
mod encrypted;
mod footprint;
mod messages;
mod part;
mod pool;
mod report;
mod sessions;
mod stats;

use clap::{Parser, Subcommand};
use coms_story::Result;
use part::Part;
use std::process::ExitCode;
use std::time::Instant;

/// Measures the product on the lab (as root): migrate calls, messages, memory, wake-ups, delays.
#[derive(Parser)]
#[command(
    name = "coms-bench",
    after_help = "Benches: calls, messages, answers, sessions, footprint, clients, encrypted; all of them without a name.\n\
How long: COMS_BENCH_PAIRS (40), COMS_BENCH_MESSAGES (10000), COMS_BENCH_MOVES (200), COMS_BENCH_BUSY_MOVES (60),\n\
COMS_BENCH_SESSIONS (10000), COMS_BENCH_MINUTES (10), COMS_BENCH_ENCRYPTED_PAIRS (30),\n\
COMS_BENCH_ENCRYPTED_BESIDE (6), COMS_BENCH_ENCRYPTED_MBIT (500), COMS_BENCH_ENCRYPTED_MIB (256).\n\n\
Examples:\n  coms-bench\n  coms-bench figures\n  coms-bench calls sessions\n  COMS_BENCH_PAIRS=2 coms-bench calls\n\n\
Exit status: 0 measured (also where a goal was missed), 1 a bench could not run, 2 wrong usage."
)]
struct Args {
    /// Which benches; all without a name
    benches: Vec<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
#[command(disable_help_subcommand = true)]
enum Command {
    /// Draws the paper's Figures 3 and 4 from what `encrypted` measured (which is run first if it has not been)
    Figures,
    /// What a bench runs in a host or beside it
    #[command(flatten)]
    Part(Part),
}

/// Raw samples, and what is found in them.
type Outcome = Result<(serde_json::Value, Vec<report::Finding>)>;

struct Bench {
    name: &'static str,
    run: fn() -> Outcome,
}

const BENCHES: [Bench; 7] = [
    Bench { name: "calls", run: calls::run },
    Bench { name: "messages", run: messages::run },
    Bench { name: "answers", run: answers::run },
    Bench { name: "sessions", run: sessions::run },
    Bench { name: "footprint", run: footprint::run },
    Bench { name: "clients", run: clients::run },
    Bench { name: "encrypted", run: encrypted::run },
];

fn main() -> ExitCode {
    let args = Args::parse();
    match args.command {
        Some(Command::Part(part)) => return part::run(part),
        Some(Command::Figures) => return figures(),
        None => {}
    }
    let is_unknown = |name: &&String| !BENCHES.iter().any(|b| b.name == **name);
    if let Some(unknown) = args.benches.iter().find(is_unknown) {
        let names: Vec<_> = BENCHES.iter().map(|b| b.name).collect();
        eprintln!("coms-bench: no bench `{unknown}`; there are: {}", names.join(", "));
        return ExitCode::from(2);
    }
    let wanted = |bench: &&Bench| args.benches.is_empty() || args.benches.iter().any(|b| b == bench.name);
    let mut status = ExitCode::SUCCESS;
    for bench in BENCHES.iter().filter(wanted) {
        let begun = Instant::now();
        println!("bench {}: accel=tcg ...", bench.name);
        let done = (bench.run)()
            .and_then(|(raw, findings)| report::write(bench.name, &raw, &findings).map(|()| findings));
        match done {
            Ok(_) => println!("bench {}: done in {} s", bench.name, begun.elapsed().as_secs()),
            Err(error) => {
                eprintln!("coms-bench: {} could not run: {error}", bench.name);
                status = ExitCode::FAILURE;
            }
        }
    }
    match report::table() {
        Ok(table) => print!("\n{table}"),
        Err(error) => {
            eprintln!("coms-bench: no table: {error}");
            status = ExitCode::FAILURE;
        }
    }
    status
}

fn figures() -> ExitCode {
    match encrypted::draw() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coms-bench: figures: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How often or how long, from the environment or as the goal asks.
fn amount(name: &str, default: usize) -> Result<usize> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => match text.parse() {
            Ok(n) if n > 0 => Ok(n),
            Ok(_) | Err(_) => Err(format!("{name}={text}: must be a number above 0").into()),
        },
    }
}
