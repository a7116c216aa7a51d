//! The command line, as typed.

use clap::{Parser, Subcommand};
pub(crate) use coms_agent::config::seconds;
use coms_agent::config::{between, encryption_level, gap_law};
use coms_protocol::types::{EncryptionLevel, GapLaw, MigrationId};
use std::ffi::OsString;
use std::path::PathBuf;

/// See and steer the live migration of this virtual machine.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  coms status\n  coms migrate --avoid-this-host --wait\n  coms history --json\n  coms watch\n\n\
Exit code: 0 done, 1 refused or failed, 2 wrong usage, 3 coms-agent cannot be reached"
)]
pub(crate) struct Args {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// The daemon's socket [default: /run/coms/agent.sock; for doctor the one of the configuration]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    #[command(subcommand)]
    pub wanted: Wanted,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Wanted {
    /// How the workloads, the host and the request stand
    #[command(after_help = "Examples:\n  coms status\n  coms status --json | jq .workloads")]
    Status,
    /// Where the clients are, by region, and whether that is a reason to ask
    #[command(
        after_help = "Examples:\n  coms clients\n  coms clients --json | jq '.regions[] | {region, clients_permille}'"
    )]
    Clients,
    /// Ask to be moved
    #[command(
        after_help = "Examples:\n  coms migrate --wait\n  coms migrate --avoid-this-host --max-downtime-ms 200\n  \
coms migrate --encryption required --wait\n  coms migrate --at 03:00\n  coms migrate --within 2h --avoid-this-host\n  \
coms migrate --region eu-west --deadline 10m --never post-copy --never auto-converge --wait"
    )]
    Migrate(Migrate),
    /// Call the outstanding request off; it still gets its one final answer
    #[command(after_help = "Examples:\n  coms cancel\n  coms cancel --wait\n\n\
Exit code with --wait: 0 the VM stays where it is, 1 it was too late and the VM was moved")]
    Cancel(Cancel),
    /// What became of requests and migrations
    #[command(
        after_help = "Examples:\n  coms history\n  coms history --json | jq '.history[-1].downtime_ms'"
    )]
    History,
    /// How everything stands and what happens, as it happens; a line for each event where nobody looks on
    #[command(
        after_help = "Examples:\n  coms watch\n  coms watch --lines\n  coms watch --json | jq -c 'select(.event == \"completed\")'"
    )]
    Watch(Watch),
    /// Be asked about moves for as long as this runs: events on standard output, "ready" or "hold 30s" on standard input
    #[command(after_help = "Examples:\n  coms register --name shop --notice 10s --hold 60s\n  \
coms register --name shop --notice 5s | while read -r line; do ...; done\n\n\
Each line on standard output is one JSON object; its \"event\" is notice, started, verdict, completed, failed, \
cancelled or moved_unannounced. Not answering a notice is the same as ready once the notice time is over.")]
    Register(Register),
    /// Let the announced move begin later, as far as the operator allows
    #[command(after_help = "Examples:\n  coms postpone m00000000000000a7 2h")]
    Postpone(Postpone),
    /// Do without the announced move, if the operator allows
    #[command(after_help = "Examples:\n  coms veto m00000000000000a7")]
    Veto(Veto),
    /// When moves are welcome: see it, change it
    #[command(after_help = "Examples:\n  coms window\n  coms window close --for 2h\n  \
coms window set --welcome \"mon-fri 22:00-06:00\" --welcome \"sat,sun 00:00-24:00\" --time-zone Europe/Berlin\n  \
coms window reset")]
    Window {
        /// What to do; without it they are shown
        #[command(subcommand)]
        change: Option<Window>,
    },
    /// The hosts on which this VM may run, as it may know them
    #[command(after_help = "Examples:\n  coms hosts\n  coms hosts --json | jq '.hosts[].place.region'")]
    Hosts,
    /// Play a whole migration to applications, commands and hooks; nothing moves, nothing is remembered
    #[command(
        after_help = "Examples:\n  coms simulate --wait\n  coms simulate --notice 30s --outcome failed --wait\n  \
coms simulate --expedited"
    )]
    Simulate(Simulate),
    /// Numbered round trips through both daemons, each answered exactly once, also across a migration
    #[command(after_help = "Examples:\n  coms ping\n  coms ping --count 1000 --interval-ms 50 --json")]
    Ping(Ping),
    /// Be moved at random times, so that nobody can make use of where the VM is
    #[command(
        after_help = "Examples:\n  coms random start --between 5m..10m\n  coms random status --stay 2m\n  coms random stop"
    )]
    Random(Random),
    /// Your own measurements: see them, try them, write one (coms-plugins)
    #[command(
        disable_help_flag = true,
        after_help = "Examples:\n  coms plugin list\n  coms plugin test NAME\n  coms plugin new --lang python NAME\n\n\
`coms plugin --help` shows all of it."
    )]
    Plugin(Plugin),
    /// Find what is wrong with the set-up, and how to mend it; works without the daemon, sees most as root
    #[command(
        after_help = "Examples:\n  sudo coms doctor\n  coms doctor --json | jq '.[] | select(.status == \"fail\")'\n\n\
Exit code: 0 nothing failed, 1 something did"
    )]
    Doctor(Doctor),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// A line for each event, on a terminal too
    #[arg(long)]
    pub lines: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Plugin {
    /// What coms-plugins is to do: list, test NAME, new --lang LANGUAGE NAME, check
    #[arg(value_name = "WORDS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// The agent's configuration [default: /etc/coms/agent.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Migrate {
    /// To one of the operator's regions
    #[arg(long)]
    pub region: Option<String>,
    /// Anywhere but here
    #[arg(long)]
    pub avoid_this_host: bool,
    /// Pointless when not begun within this time: 90s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub deadline: Option<u32>,
    /// Longest downtime to bear, in milliseconds
    #[arg(long, value_name = "MS")]
    pub max_downtime_ms: Option<u32>,
    /// A technique not to use: pre-copy, post-copy, hybrid, auto-converge, compressed, multifd (may be repeated)
    #[arg(long, value_name = "TECHNIQUE")]
    pub never: Vec<String>,
    /// Encrypted so well at least: never, if-possible, required; what agent.toml wants of all moves holds anyway
    #[arg(long, value_name = "LEVEL", value_parser = encryption_level)]
    pub encryption: Option<EncryptionLevel>,
    /// Not now but at this time: 03:00, "2026-11-22 03:00", 2026-11-22T03:00:00+01:00 (in the windows' time zone)
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Any time within this: 90s, 10m, 2h; asked for again where the host says no
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub within: Option<u32>,
    /// Any time before this one, likewise
    #[arg(long, value_name = "TIME")]
    pub before: Option<String>,
    /// With --at, --within or --before: whatever the windows say
    #[arg(long)]
    pub outside_windows: bool,
    /// Wait for the outcome
    #[arg(long, conflicts_with_all = ["at", "within", "before"])]
    pub wait: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Cancel {
    /// Not the outstanding request but this scheduled move, as `coms status` shows it
    #[arg(long, value_name = "ID", conflicts_with = "wait")]
    pub scheduled: Option<u64>,
    /// Wait for the final answer
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Register {
    /// What status and events call it
    #[arg(long)]
    pub name: String,
    /// Time to answer a notice: 90s, 10m
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "10s")]
    pub notice: u32,
    /// Longest time to hold a move beyond that; without it, not at all
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub hold: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Postpone {
    /// The announced migration, as `coms status` shows it
    #[arg(value_name = "ID")]
    pub migration: MigrationId,
    /// Not before so much time from now: 90s, 10m, 2h
    #[arg(value_name = "FOR", value_parser = seconds)]
    pub wait: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Window {
    /// These from now on, in place of the configuration's
    #[command(after_help = "Examples:\n  coms window set --unwelcome \"mon-fri 08:00-18:00\"")]
    Set {
        /// Only then (may be repeated); without any: always
        #[arg(long, value_name = "RANGE")]
        welcome: Vec<String>,
        /// Not then, whatever is welcome (may be repeated)
        #[arg(long, value_name = "RANGE")]
        unwelcome: Vec<String>,
        /// Like Europe/Berlin [default: this machine's]
        #[arg(long, value_name = "ZONE")]
        time_zone: Option<String>,
        /// Slow workloads may ask at any time
        #[arg(long)]
        ask_outside: bool,
    },
    /// The configuration's again
    #[command(after_help = "Examples:\n  coms window reset")]
    Reset,
    /// Moves are welcome for a while, whatever the windows say
    #[command(after_help = "Examples:\n  coms window open --for 30m")]
    Open {
        /// 90s, 10m, 2h
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        time: u32,
    },
    /// Moves are not welcome for a while
    #[command(after_help = "Examples:\n  coms window close --for 2h")]
    Close {
        /// 90s, 10m, 2h
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        time: u32,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Veto {
    /// The announced migration, as `coms status` shows it
    #[arg(value_name = "ID")]
    pub migration: MigrationId,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Simulate {
    /// The notice [default: as long as is wanted here]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub notice: Option<u32>,
    /// The longest hold [default: as long as is wanted here]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub hold: Option<u32>,
    /// As if the operator overrode everything: no waiting
    #[arg(long)]
    pub expedited: bool,
    /// How it ends: completed, failed or cancelled
    #[arg(long, default_value = "completed")]
    pub outcome: String,
    /// Wait for the end
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ping {
    /// How many
    #[arg(long, default_value_t = 5)]
    pub count: u32,
    /// From one to the next, in milliseconds
    #[arg(long, default_value_t = 200, value_name = "MS")]
    pub interval_ms: u32,
    /// After the last one, wait this long for what is missing, in seconds
    #[arg(long, default_value_t = 60, value_name = "S")]
    pub wait_s: u32,
    /// With --json: the time of each round trip too, in microseconds, as the answers came
    #[arg(long)]
    pub times: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Random {
    #[command(subcommand)]
    pub what: RandomWhat,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum RandomWhat {
    /// Be moved at random times from now on; the host draws when and where to, and does not tell
    #[command(after_help = "Examples:\n  coms random start --between 5m..10m\n  \
coms random start --between 20s..50s --law uniform --max-per-day 500")]
    Start(RandomStart),
    /// No random moves any more; one that has begun may still end
    #[command(after_help = "Examples:\n  coms random stop")]
    Stop,
    /// How they stand, and how likely the VM stays on one host for longer than attacks take
    #[command(
        after_help = "Examples:\n  coms random status\n  coms random status --stay 45s --stay 2m --json"
    )]
    Status(RandomStatus),
}

#[derive(Debug, clap::Args)]
pub(crate) struct RandomStart {
    /// Shortest and longest gap
    #[arg(long, value_name = "TIME..TIME", value_parser = between)]
    pub between: (u32, u32),
    /// exponential (time that has passed tells as little as can be) or uniform
    #[arg(long, default_value = "exponential", value_parser = gap_law)]
    pub law: GapLaw,
    /// Fewer within 24 hours than the operator allows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_per_day: Option<u16>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RandomStatus {
    /// The chance of staying longer than this (may be repeated)
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub stay: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed_and_every_command_has_examples() {
        let mut command = Args::command();
        command.build();
        command.clone().debug_assert();
        for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", sub.get_name());
        }
    }
}
