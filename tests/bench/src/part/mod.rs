//! What a bench runs as a process of its own: inside a host, or to be measured alone.

mod guests;
mod links;
mod mover;
mod qga;

use clap::Subcommand;
use coms_story::Result;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum Part {
    /// The broker's migrate call without a broker around it
    #[command(name = "part-move", hide = true)]
    Move {
        #[arg(long)]
        uuid: uuid::Uuid,
        /// The destination, as this host's libvirtd reaches it
        #[arg(long)]
        to: String,
        /// The local libvirt
        #[arg(long)]
        libvirt: String,
    },
    /// guest-ping round trips on the raw port of a qemu-guest-agent
    #[command(name = "part-qga", hide = true)]
    Qga {
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        count: usize,
        #[arg(long)]
        interval_ms: u64,
        /// Whoever is there sends back what it gets, and is no qemu-guest-agent
        #[arg(long)]
        echo: bool,
    },
    /// Keeps a port attached and reads what comes, until it is killed
    #[command(name = "part-attach", hide = true)]
    Attach {
        #[arg(long)]
        socket: PathBuf,
    },
    /// The broker's links to so many guests, until its input ends
    #[command(name = "part-links", hide = true)]
    Links {
        #[arg(long)]
        dir: PathBuf,
    },
    /// Guests' ends of such links
    #[command(name = "part-guests", hide = true)]
    Guests {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        count: usize,
        /// Ping all the time, this many at once
        #[arg(long, default_value_t = 0)]
        pings: usize,
    },
}

pub fn run(part: Part) -> ExitCode {
    let done = match part {
        Part::Move { uuid, to, libvirt } => mover::run(uuid, to, &libvirt),
        Part::Qga { socket, count, interval_ms, echo } => qga::run(&socket, count, interval_ms, echo),
        Part::Attach { socket } => qga::attach(&socket),
        Part::Links { dir } => links::run(&dir),
        Part::Guests { dir, count, pings } => guests::run(&dir, count, pings),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coms-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One thread, as in the broker.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// This program, for starting its parts.
pub fn program() -> Result<String> {
    Ok(std::env::current_exe()?.display().to_string())
}
