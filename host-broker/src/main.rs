//! `coms-broker`: the daemon on each host.

mod args;

use args::Args;
use clap::Parser;
use coms_broker::config::Config;
use coms_broker::io;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

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
    let done =
        runtime.map_err(io::StartError::Runtime).and_then(|rt| rt.block_on(io::run(config, args.config)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("coms-broker: {e}");
            ExitCode::FAILURE
        }
    }
}
