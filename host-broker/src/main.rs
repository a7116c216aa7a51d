//! `coms-broker`: the daemon on each host.

use clap::Parser;
use coms_broker::config::Config;
use coms_broker::io;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Decides on live migrations that guests ask for, performs them with libvirt, and tells the guests.
#[derive(Parser)]
#[command(
    name = "coms-broker",
    version,
    after_help = "Examples:\n  coms-broker                               run with /etc/coms/broker.toml\n  coms-broker --config ./b.toml --check     say what is wrong with a configuration and stop\n  COMS_LOG=debug coms-broker                say more\n\nExit status: 0 stopped as told, 1 failed, 2 wrong usage or configuration."
)]
struct Args {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/coms/broker.toml")]
    config: PathBuf,
    /// Check the configuration and stop
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("COMS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // The journal has its own clock.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().with_ansi(false).init();
    } else {
        log.with_ansi(false).init();
    }
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("coms-broker: {e}");
            return ExitCode::from(2);
        }
    };
    if args.check {
        println!("{}: fine", args.config.display());
        return ExitCode::SUCCESS;
    }
    // One thread decides and serves the links; libvirt has threads of its own, because its calls block.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(io::StartError::Runtime).and_then(|rt| rt.block_on(io::run(config)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("coms-broker: {e}");
            ExitCode::FAILURE
        }
    }
}
