//! `coms-plugins`, also known as `coms plugin`.

mod args;
mod list;
mod new;
mod test;

use args::{Args, Wanted};
use clap::Parser;
use coms_plugins::config::{Config, ConfigError};
use coms_plugins::io::launch::{Launch, launch};
use coms_plugins::io::{daemon, programs, users::RunAs};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.wanted {
        Wanted::Launch(wanted) => launch(&Launch {
            run_as: wanted.uid.zip(wanted.gid).map(|(uid, gid)| RunAs {
                uid,
                gid,
                groups: wanted.groups.split(',').filter_map(|g| g.parse().ok()).collect(),
            }),
            memory_mib: wanted.memory_mib,
            processes: wanted.processes,
            cgroup: wanted.cgroup.clone(),
            parent: wanted.parent,
            argv: wanted.argv.clone(),
        }),
        Wanted::New(wanted) => new::write(&args, wanted),
        Wanted::List => with_config(&args, list::show),
        Wanted::Test(wanted) => with_config(&args, |args, config| test::run(args, config, wanted)),
        Wanted::Check => with_config(&args, check),
        Wanted::Run => with_config(&args, run),
    }
}

fn with_config(args: &Args, work: impl FnOnce(&Args, Config) -> ExitCode) -> ExitCode {
    match Config::load_or_defaults(args.config.as_deref()) {
        Ok(config) => work(args, config),
        Err(e) => {
            complain(args, &e.to_string());
            match e {
                ConfigError::Unreadable { .. } => ExitCode::FAILURE,
                ConfigError::Syntax { .. } | ConfigError::Impossible { .. } => ExitCode::from(2),
            }
        }
    }
}

/// What may be right tomorrow (a user, a program) is no wrong configuration: it is warned of.
fn check(args: &Args, config: Config) -> ExitCode {
    let warnings = programs::warnings(&config, args.config.is_none());
    let mut text = format!("the configuration is right: {} plugins", config.plugins.len());
    for w in &warnings {
        text += &format!("\n{}: {}\n  mend: {}", w.plugin, w.problem.what, w.problem.mend);
    }
    let value = serde_json::json!({ "ok": true, "plugins": config.plugins.len(), "warnings": warnings });
    say(args, &value, &text);
    ExitCode::SUCCESS
}

fn run(args: &Args, config: Config) -> ExitCode {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    // The journal has its own clock.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init()
    } else {
        log.init()
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            complain(args, &format!("cannot start: {e}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(daemon::run(config, args.config.clone())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            complain(args, &e.to_string());
            ExitCode::FAILURE
        }
    }
}

/// One or the other, as is wanted.
fn say(args: &Args, json: &serde_json::Value, text: &str) {
    use std::io::Write;
    let shown = if args.json { json.to_string() } else { text.to_owned() };
    // A closed pipe is no error.
    let _ = writeln!(std::io::stdout(), "{shown}");
}

fn complain(args: &Args, why: &str) {
    if args.json {
        say(args, &serde_json::json!({ "ok": false, "error": why }), "");
    } else {
        eprintln!("coms-plugins: {why}");
    }
}
