//! `comsctl`: the operator's command line. Speaks to the local broker's socket; `config check`, `doctor` and `tls`
//! work without it.

#![expect(clippy::wildcard_enum_match_arm, reason = "an answer of another kind is an error, whichever it is")]

mod args;
mod client;
mod config_check;
mod doctor;
mod follow;
mod hook;
mod show;
mod tables;
mod tls;

use args::{Args, Command, ConfigCommand};
use clap::Parser;
use client::{Broker, unexpected};
use coms_broker::control::{Reply, Request};
use coms_protocol::types::NoticeReason;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Why it was not done, and the exit status that says so.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub text: String,
}

impl Failure {
    pub fn refused(text: String) -> Self {
        Self { code: 1, text }
    }

    pub fn usage(text: String) -> Self {
        Self { code: 2, text }
    }

    pub fn unreachable(text: String) -> Self {
        Self { code: 3, text }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(Failure { code, text }) => {
            eprintln!("comsctl: {text}");
            ExitCode::from(code)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, Failure> {
    let json = args.json;
    let socket = args.socket.as_deref().unwrap_or(Path::new(args::SOCKET));
    let connect = || Broker::connect(socket);
    match &args.command {
        Command::Guests => {
            let mut broker = connect()?;
            match broker.ask(&Request::Guests)? {
                Reply::Guests { guests } => {
                    say_if_paused(&mut broker);
                    print(json, &guests, |g| tables::table_of_guests(g))
                }
                other => Err(unexpected(&other)),
            }
        }
        Command::Hosts => {
            let mut broker = connect()?;
            match broker.ask(&Request::Hosts)? {
                Reply::Hosts { hosts } => {
                    say_if_paused(&mut broker);
                    print(json, &hosts, |h| tables::table_of_hosts(h))
                }
                other => Err(unexpected(&other)),
            }
        }
        Command::Migrations { id } => print(json, &connect()?.moves(*id)?, |m| tables::table_of_moves(m)),
        Command::Show { what } => show::show(json, &mut connect()?, what),
        Command::Migrate { domain, to, reason, expedite, notice, no_wait, timeout } => {
            let mut broker = connect()?;
            let reason = reason.as_deref().map(|r| match r {
                "maintenance" => NoticeReason::Maintenance,
                "balance" => NoticeReason::Balance,
                _ => NoticeReason::Unstated,
            });
            let (domain, to) = (domain.clone(), to.clone());
            let order = Request::Migrate { domain, to, reason, expedite: *expedite, notice_s: *notice };
            let migration = follow::begun(broker.ask(&order)?)?;
            if *no_wait {
                let value = serde_json::json!({ "migration": migration });
                return print(json, &value, |_| format!("{migration} begun\n"));
            }
            follow::follow(json, socket, broker, migration, timeout.map(Duration::from_secs))
        }
        Command::Enable { domain } => {
            done(json, connect()?.ask(&Request::Enable { domain: domain.clone() })?)
        }
        Command::Disable { domain } => {
            done(json, connect()?.ask(&Request::Disable { domain: domain.clone() })?)
        }
        Command::Cancel { id } => done(json, connect()?.ask(&Request::Cancel { id: *id })?),
        Command::Pause { let_finish } => {
            done(json, connect()?.ask(&Request::Pause { let_finish: *let_finish })?)
        }
        Command::Resume => done(json, connect()?.ask(&Request::Resume)?),
        Command::Reload => done(json, connect()?.ask(&Request::Reload)?),
        Command::Doctor { config } => doctor::doctor(json, config, args.socket.as_deref()),
        Command::Hook { config, vm, operation, part, more: _ } => hook::hook(config, vm, operation, part),
        Command::Tls(command) => tls::run(json, command),
        Command::Config(ConfigCommand::Check { file }) => config_check::check(json, file),
    }
}

/// On stderr, so that JSON stays JSON.
fn say_if_paused(broker: &mut Broker) {
    if broker.paused() {
        eprintln!("customers' moves are paused; `comsctl resume` lets them ask again");
    }
}

fn done(json: bool, reply: Reply) -> Result<ExitCode, Failure> {
    match reply {
        Reply::Done { text } => {
            print(json, &serde_json::json!({ "done": text }), |_| tables::clean(&text) + "\n")
        }
        other => Err(unexpected(&other)),
    }
}

fn print<T: serde::Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<ExitCode, Failure> {
    let out = if json {
        serde_json::to_string_pretty(value).map(|s| s + "\n").map_err(|e| Failure::refused(e.to_string()))?
    } else {
        text(value)
    };
    match std::io::stdout().write_all(out.as_bytes()) {
        // `comsctl … | head` is no failure.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Failure::refused(e.to_string())),
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}
