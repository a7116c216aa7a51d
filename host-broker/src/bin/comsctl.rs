//! `comsctl`: the operator's command line. Speaks to the local broker's socket.

#![expect(clippy::wildcard_enum_match_arm, reason = "an answer of another kind is an error, whichever it is")]

use clap::{Parser, Subcommand};
use coms_broker::control::{GuestView, HostView, Reply, Request};
use coms_broker::records::{MoveRecord, MoveState};
use coms_protocol::types::MigrationId;
use std::io::{BufRead, BufReader, ErrorKind, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// See and move the VMs of this host.
#[derive(Parser)]
#[command(
    name = "comsctl",
    version,
    after_help = "Examples:\n  comsctl guests                     which VMs take part, and whether their agents answer\n  comsctl hosts                      how busy the hosts are\n  comsctl migrate web-1              move web-1 to the least busy host and wait\n  comsctl migrate web-1 --to h2      move it to h2\n  comsctl migrations --json | jq .   every move, with the reasons for and against each host\n\nExit status: 0 done, 1 refused or failed, 2 wrong usage, 3 the broker cannot be reached."
)]
struct Args {
    /// The broker's socket
    #[arg(long, value_name = "FILE", default_value = "/run/coms/broker.sock", global = true)]
    socket: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// VMs of this host that have the port
    Guests,
    /// The hosts of the pool and how busy they are
    Hosts,
    /// Moves from and to this host, newest last
    Migrations {
        /// Only this one
        id: Option<MigrationId>,
    },
    /// Move a VM and wait for the outcome
    Migrate {
        /// The domain's name or UUID
        domain: String,
        /// To this host instead of the least busy one
        #[arg(long, value_name = "HOST")]
        to: Option<String>,
        /// Do not wait for the outcome
        #[arg(long)]
        no_wait: bool,
    },
}

/// Why nothing was printed, and the exit status that says so.
struct Failure(u8, String);

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(Failure(code, text)) => {
            eprintln!("comsctl: {text}");
            ExitCode::from(code)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut broker = Broker::connect(&args.socket)?;
    match &args.command {
        Command::Guests => match broker.ask(&Request::Guests)? {
            Reply::Guests { guests } => print(args.json, &guests, |g| table_of_guests(g)),
            other => Err(unexpected(&other)),
        },
        Command::Hosts => match broker.ask(&Request::Hosts)? {
            Reply::Hosts { hosts } => print(args.json, &hosts, |h| table_of_hosts(h)),
            other => Err(unexpected(&other)),
        },
        Command::Migrations { id } => match broker.ask(&Request::Migrations { id: *id })? {
            Reply::Migrations { migrations } => print(args.json, &migrations, |m| table_of_moves(m)),
            other => Err(unexpected(&other)),
        },
        Command::Migrate { domain, to, no_wait } => {
            match broker.ask(&Request::Migrate { domain: domain.clone(), to: to.clone() })? {
                Reply::Started { migration } if *no_wait => {
                    print(args.json, &serde_json::json!({ "migration": migration }), |_| {
                        format!("{migration} begun\n")
                    })
                }
                Reply::Started { migration } => follow(args.json, &mut broker, migration),
                Reply::Refused { text } => Err(Failure(1, text)),
                other => Err(unexpected(&other)),
            }
        }
    }
}

/// Shows how far the move is until it is over here.
fn follow(json: bool, broker: &mut Broker, id: MigrationId) -> Result<ExitCode, Failure> {
    let live = !json && std::io::stderr().is_terminal();
    loop {
        let Reply::Migrations { migrations } = broker.ask(&Request::Migrations { id: Some(id) })? else {
            return Err(Failure(1, format!("the broker does not know {id} any more")));
        };
        let Some(record) = migrations.first() else {
            return Err(Failure(1, format!("the broker does not know {id} any more")));
        };
        if live {
            let left =
                record.bytes_remaining.map(|b| format!(", {} MiB to copy", b >> 20)).unwrap_or_default();
            eprint!("\r\x1b[K{id}: {}{left}", name(record.state));
        }
        if record.state.is_final() {
            if live {
                eprintln!();
            }
            let done = matches!(record.state, MoveState::Left | MoveState::Completed);
            print(json, record, |r| table_of_moves(std::slice::from_ref(r)))?;
            return Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn unexpected(reply: &Reply) -> Failure {
    match reply {
        Reply::Refused { text } => Failure(1, text.clone()),
        Reply::Guests { .. }
        | Reply::Hosts { .. }
        | Reply::Migrations { .. }
        | Reply::Started { .. }
        | Reply::Done { .. }
        | Reply::Standing { .. } => Failure(
            1,
            "the broker answered something else; are comsctl and coms-broker of one version?".into(),
        ),
    }
}

fn print<T: serde::Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<ExitCode, Failure> {
    let out = if json {
        serde_json::to_string_pretty(value).map(|s| s + "\n").map_err(|e| Failure(1, e.to_string()))?
    } else {
        text(value)
    };
    match std::io::stdout().write_all(out.as_bytes()) {
        // `comsctl … | head` is no failure.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Failure(1, e.to_string())),
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

struct Broker {
    write: UnixStream,
    read: BufReader<UnixStream>,
}

impl Broker {
    fn connect(socket: &std::path::Path) -> Result<Self, Failure> {
        let unreachable = |e: std::io::Error| {
            let hint = match e.kind() {
                ErrorKind::PermissionDenied => "run it as root or as a member of the socket's group",
                _ => "is coms-broker running? try: systemctl status coms-broker",
            };
            Failure(3, format!("{}: {e}; {hint}", socket.display()))
        };
        let write = UnixStream::connect(socket).map_err(unreachable)?;
        write.set_read_timeout(Some(Duration::from_secs(30))).map_err(unreachable)?;
        let read = BufReader::new(write.try_clone().map_err(unreachable)?);
        Ok(Self { write, read })
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, Failure> {
        let lost = |e: std::io::Error| Failure(3, format!("the broker hung up: {e}"));
        let mut line = serde_json::to_string(request).map_err(|e| Failure(2, e.to_string()))?;
        line.push('\n');
        self.write.write_all(line.as_bytes()).map_err(lost)?;
        let mut answer = String::new();
        self.read.read_line(&mut answer).map_err(lost)?;
        if answer.is_empty() {
            return Err(Failure(3, "the broker hung up".into()));
        }
        serde_json::from_str(&answer)
            .map_err(|e| Failure(1, format!("the broker's answer is not understood: {e}")))
    }
}

fn table_of_guests(guests: &[GuestView]) -> String {
    let rows = guests.iter().map(|g| {
        let agent = g.agent.clone().unwrap_or_else(|| "-".into());
        let moving = g.migration.map_or("-".into(), |m| m.to_string());
        [
            g.name.clone(),
            if g.enabled { "yes" } else { "no" }.into(),
            g.state.clone(),
            agent,
            moving,
            ago(g.last_moved_unix_ms),
        ]
    });
    table(["VM", "TAKES PART", "STATE", "AGENT", "MOVING", "LAST MOVED"], rows)
}

fn table_of_hosts(hosts: &[HostView]) -> String {
    let rows = hosts.iter().map(|h| {
        let load = h.load_per_cpu.map_or("-".into(), |l| format!("{:.0} %", l * 100.0));
        let memory = match (h.committed_mib, h.memory_mib) {
            (Some(used), Some(all)) => format!("{used} of {all} MiB"),
            _ => "-".into(),
        };
        let count = h.domains.map_or("-".into(), |d| d.to_string());
        let answers = match (&h.trouble, h.answers) {
            (_, true) => if h.this_host { "this host" } else { "yes" }.to_owned(),
            (Some(trouble), false) => format!("no: {trouble}"),
            (None, false) => "no".into(),
        };
        [
            h.name.clone(),
            h.region.clone(),
            h.cpus.map_or("-".into(), |c| c.to_string()),
            load,
            memory,
            count,
            answers,
        ]
    });
    table(["HOST", "REGION", "CPUS", "LOAD", "MEMORY", "VMS", "ANSWERS"], rows)
}

fn table_of_moves(moves: &[MoveRecord]) -> String {
    let rows = moves.iter().map(|m| {
        let unknown = || "?".to_owned();
        [
            m.migration.to_string(),
            m.domain.clone(),
            m.initiator.to_string(),
            format!("{} -> {}", m.from.clone().unwrap_or_else(unknown), m.to.clone().unwrap_or_else(unknown)),
            name(m.state).to_owned() + &m.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default(),
            m.figures.total_ms.map_or("-".into(), |v| format!("{v} ms")),
            m.figures.downtime_ms.map_or("-".into(), |v| format!("{v} ms")),
            ago(Some(m.received_unix_ms)),
        ]
    });
    table(["MIGRATION", "VM", "BY", "WAY", "STATE", "TOTAL", "DOWNTIME", "BEGUN"], rows)
}

fn name(state: MoveState) -> &'static str {
    match state {
        MoveState::Choosing => "choosing",
        MoveState::WritingTicket => "writing the ticket",
        MoveState::Copying => "copying",
        MoveState::Unclear => "unclear",
        MoveState::Left => "left",
        MoveState::Arriving => "arriving",
        MoveState::Arrived => "arrived",
        MoveState::Completed => "completed",
        MoveState::Denied => "denied",
        MoveState::Failed => "failed",
        MoveState::Cancelled => "cancelled",
    }
}

fn ago(unix_ms: Option<u64>) -> String {
    let Some(ms) = unix_ms else { return "-".into() };
    let now = jiff::Timestamp::now().as_millisecond();
    match now.saturating_sub(ms as i64) / 1000 {
        s @ ..120 => format!("{s} s ago"),
        s @ ..7200 => format!("{} min ago", s / 60),
        s @ ..172_800 => format!("{} h ago", s / 3600),
        s => format!("{} days ago", s / 86_400),
    }
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(c, w)| format!("{c:w$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}
