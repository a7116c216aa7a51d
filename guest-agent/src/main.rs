//! The daemon in the guest. See the library's first page for what it does.

use coms_agent::config::{Config, DEFAULT_PATH};
use coms_agent::io::event_loop;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tracing::{error, info};

/// Also what its manual page is made of.
const HELP: &str = include_str!("help.txt");

struct Options {
    config: Option<PathBuf>,
    check: bool,
    level: tracing::Level,
}

enum Wanted {
    Run(Options),
    Print(String),
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(Wanted::Run(options)) => options,
        Ok(Wanted::Print(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprint!("coms-agent: {wrong}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    start_log(options.level);
    if options.config.is_none() && !Path::new(DEFAULT_PATH).exists() {
        info!("{DEFAULT_PATH} does not exist: nothing is watched, every migration is told");
    }
    let config = match Config::load_or_defaults(options.config.as_deref()) {
        Ok(config) => config,
        Err(e) => {
            error!("{e}");
            return ExitCode::from(2);
        }
    };
    if options.check {
        println!("the configuration is right: {} workloads", config.workloads.len());
        return ExitCode::SUCCESS;
    }
    match run(config, options.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            error!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut options = Options { config: None, check: false, level: tracing::Level::INFO };
    while let Some(arg) = args.next() {
        let mut value = |what: &str| args.next().ok_or_else(|| format!("{arg} needs {what}"));
        match arg.as_str() {
            "--config" => options.config = Some(value("a file")?.into()),
            "--check" => options.check = true,
            "--log" => {
                let level = value("a level")?;
                options.level = level
                    .parse()
                    .map_err(|_| format!("--log {level}: must be error, warn, info, debug or trace"))?;
            }
            "--help" | "-h" => return Ok(Wanted::Print(HELP.trim_end().to_owned())),
            "--version" | "-V" => return Ok(Wanted::Print(coms_agent::AGENT.to_owned())),
            other => return Err(format!("{other} is unknown")),
        }
    }
    Ok(Wanted::Run(options))
}

fn start_log(level: tracing::Level) {
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false);
    // The journal has its own clock.
    if std::env::var_os("JOURNAL_STREAM").is_some() { log.without_time().init() } else { log.init() }
}

fn run(config: Config, file: Option<PathBuf>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // For the state file only.
        .max_blocking_threads(1)
        .thread_keep_alive(Duration::from_secs(1))
        .thread_stack_size(256 * 1024)
        .build()
        .map_err(|e| format!("cannot start: {e}"))?;
    let result = runtime.block_on(event_loop::run(config, file)).map_err(|e| e.to_string());
    // A disk that hangs must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(300));
    result
}
