//! `coms`: the customer's command line. Talks to the daemon over its socket and decides nothing itself.

mod args;
mod asked;
mod client;
mod clients;
mod doctor;
mod live;
mod random;
mod show;

use args::{Args, Wanted};
use clap::Parser;
use client::{Client, Trouble};
use coms_agent::event::{Cancel, Command, Migrate, Ping, Postpone, Veto};
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    // Exit code 2 and a hint for wrong usage, 0 for --help: clap's own ways.
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Trouble::Unreachable(why)) => {
            complain(&args, &why);
            ExitCode::from(3)
        }
        Err(Trouble::Refused(why)) => {
            complain(&args, &why);
            ExitCode::FAILURE
        }
    }
}

fn complain(args: &Args, why: &str) {
    if args.json {
        println!("{}", serde_json::json!({ "ok": false, "error": why }));
    } else {
        eprintln!("coms: {why}");
    }
}

/// Does what is wanted. False: it was done, and the answer is no.
fn run(args: &Args) -> Result<bool, Trouble> {
    if let Wanted::Plugin(wanted) = &args.wanted {
        return Err(plugin(args, wanted));
    }
    // It works without the daemon.
    if let Wanted::Doctor(wanted) = &args.wanted {
        return Ok(doctor::run(args, wanted));
    }
    let socket = args.socket.as_deref().unwrap_or(Path::new("/run/coms/agent.sock"));
    let mut client = Client::connect(socket)?;
    let out = |line: &Value, text: fn(&Value) -> String| {
        let shown = if args.json { line.to_string() } else { text(line) };
        // A closed pipe (`coms watch | head`) is no error.
        writeln!(std::io::stdout(), "{shown}").is_ok()
    };
    match &args.wanted {
        Wanted::Doctor(wanted) => Ok(doctor::run(args, wanted)),
        Wanted::Plugin(wanted) => Err(plugin(args, wanted)),
        Wanted::Status => {
            out(&client.ask(&Command::Status)?, show::status);
            Ok(true)
        }
        Wanted::Clients => {
            out(&client.ask(&Command::Clients)?, clients::show);
            Ok(true)
        }
        Wanted::History => {
            out(&client.ask(&Command::History)?, show::history);
            Ok(true)
        }
        Wanted::Watch(wanted) => {
            if !args.json && !wanted.lines && std::io::stdout().is_terminal() {
                return live::run(client, socket);
            }
            client.ask(&Command::Watch)?;
            loop {
                let event = client.next(None)?.unwrap_or_default();
                if !out(&event, show::event) {
                    return Ok(true);
                }
            }
        }
        Wanted::Migrate(wanted) => {
            let command = Command::Migrate(Migrate {
                region: wanted.region.clone(),
                avoid_this_host: wanted.avoid_this_host,
                deadline_s: wanted.deadline,
                max_downtime_ms: wanted.max_downtime_ms,
                never: wanted.never.clone(),
                at: wanted.at.clone(),
                within_s: wanted.within,
                before: wanted.before.clone(),
                outside_windows: wanted.outside_windows,
                encryption: wanted.encryption,
                watch: wanted.wait,
            });
            let answer = client.ask(&command)?;
            if !wanted.wait {
                out(&answer, show::asked);
                return Ok(true);
            }
            let stage = "asked; waiting for the host's answer";
            Ok(wait(args, &mut client, &answer, stage)? == "completed")
        }
        Wanted::Cancel(wanted) => {
            let answer =
                client.ask(&Command::Cancel(Cancel { scheduled: wanted.scheduled, watch: wanted.wait }))?;
            if !wanted.wait {
                out(&answer, show::cancelling);
                return Ok(true);
            }
            let stage = "called off; waiting for the final answer";
            Ok(wait(args, &mut client, &answer, stage)? != "completed")
        }
        Wanted::Register(wanted) => asked::register(client, wanted),
        Wanted::Postpone(wanted) => {
            let said = Postpone { migration: wanted.migration, for_s: wanted.wait };
            out(&client.ask(&Command::Postpone(said))?, asked::postponed);
            Ok(true)
        }
        Wanted::Veto(wanted) => {
            out(&client.ask(&Command::Veto(Veto { migration: wanted.migration }))?, asked::vetoed);
            Ok(true)
        }
        Wanted::Window { change } => {
            out(&client.ask(&Command::Window(asked::window(change.as_ref())))?, asked::windows);
            Ok(true)
        }
        Wanted::Hosts => {
            out(&client.ask(&Command::Hosts)?, asked::hosts);
            Ok(true)
        }
        Wanted::Simulate(wanted) => asked::simulate(args, &mut client, wanted),
        Wanted::Random(wanted) => {
            out(&client.ask(&wanted.command())?, random::show);
            Ok(true)
        }
        Wanted::Ping(wanted) => {
            let ping = Ping {
                count: wanted.count,
                interval_ms: wanted.interval_ms,
                wait_s: wanted.wait_s,
                times: wanted.times,
            };
            client.say(&Command::Ping(ping))?;
            let mut progress = Progress::new();
            loop {
                match client.next(Some(Duration::from_secs(1)))? {
                    Some(report) => {
                        if let Some(error) = report.get("error").and_then(Value::as_str) {
                            return Err(Trouble::Refused(error.to_owned()));
                        }
                        progress.end();
                        out(&report, show::ping);
                        return Ok(report.get("ok").and_then(Value::as_bool).unwrap_or(false));
                    }
                    None => progress.show("pinging"),
                }
            }
        }
    }
}

/// coms-plugins takes over: what it knows of Prometheus and Nagios is none of this program's business. Returns only
/// why that did not work.
fn plugin(args: &Args, wanted: &args::Plugin) -> Trouble {
    let beside = std::env::current_exe().ok().map(|coms| coms.with_file_name("coms-plugins"));
    let program = beside.filter(|p| p.exists()).unwrap_or_else(|| "coms-plugins".into());
    let mut command = std::process::Command::new(&program);
    command.args(&wanted.words);
    if args.json {
        command.arg("--json");
    }
    let why = command.exec();
    Trouble::Refused(format!("{}: cannot be run: {why}; is coms-plugins installed?", program.display()))
}

/// Waits for the request's last word, and tells what it was. Progress goes to stderr, so that stdout has the
/// answer alone.
fn wait(args: &Args, client: &mut Client, asked: &Value, stage: &str) -> Result<String, Trouble> {
    let request = asked.get("request").cloned().unwrap_or_default();
    let mut migration = Value::Null;
    let mut stage = stage.to_owned();
    let mut progress = Progress::new();
    loop {
        let Some(event) = client.next(Some(Duration::from_secs(1)))? else {
            progress.show(&stage);
            continue;
        };
        let field = |name: &str| event.get(name).cloned().unwrap_or_default();
        let ours = field("request") == request || !migration.is_null() && field("migration") == migration;
        if !ours {
            continue;
        }
        let name = event.get("event").and_then(Value::as_str).unwrap_or_default();
        match name {
            "accepted" | "already_running" => {
                migration = field("migration");
                stage = "accepted; the VM is being moved".to_owned();
            }
            "progress" => stage = show::progress(&event),
            "completed" | "failed" | "cancelled" | "denied" | "answered" => {
                progress.end();
                let shown = if args.json { event.to_string() } else { show::event(&event) };
                let _ = writeln!(std::io::stdout(), "{shown}");
                let outcome = field("outcome").as_str().unwrap_or(name).to_owned();
                return Ok(outcome);
            }
            _ => {}
        }
        progress.show(&stage);
    }
}

/// A line on the terminal for what takes longer than two seconds.
struct Progress {
    begun: Instant,
    shown: bool,
}

impl Progress {
    fn new() -> Self {
        Self { begun: Instant::now(), shown: false }
    }

    fn show(&mut self, what: &str) {
        let seconds = self.begun.elapsed().as_secs();
        if seconds < 2 {
            return;
        }
        let mut err = std::io::stderr();
        if err.is_terminal() {
            let _ = write!(err, "\r\x1b[K{what} ({seconds} s)");
            let _ = err.flush();
        } else if !self.shown || seconds.is_multiple_of(10) {
            let _ = writeln!(err, "{what} ({seconds} s)");
        }
        self.shown = true;
    }

    fn end(&mut self) {
        if self.shown && std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}
