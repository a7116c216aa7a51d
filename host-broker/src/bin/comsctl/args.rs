//! The command line.

use clap::{Parser, Subcommand};
use coms_protocol::types::MigrationId;
use std::path::PathBuf;
use tls::TlsCommand;

#[path = "tls/args.rs"]
pub mod tls;

/// Where the broker listens unless its configuration says otherwise.
pub const SOCKET: &str = "/run/coms/broker.sock";

/// See and move the VMs of this host.
#[derive(Parser)]
#[command(
    name = "comsctl",
    version,
    after_help = "Examples:\n  comsctl guests                     which VMs take part, and whether their agents answer\n  comsctl hosts                      how busy the hosts are\n  comsctl enable web-1               let web-1 take part: it gets the port and the permission\n  comsctl migrate web-1              move web-1 to the least busy host and wait\n  comsctl show web-1                 its last move in full: who asked, why there, what it took\n  comsctl reload                     take up a changed /etc/coms/broker.toml\n  comsctl pause                      no more moves for customers, until `comsctl resume`\n  comsctl doctor                     what is set up wrong on this host, and what mends it\n  comsctl config check               what is wrong or unwise in /etc/coms/broker.toml\n  comsctl tls check                  whether encrypted migration would find its certificates in order\n  comsctl migrations --json | jq .   every move, with the reasons for and against each host\n\nExit status: 0 done, 1 refused or failed, 2 wrong usage, 3 the broker cannot be reached."
)]
pub struct Args {
    /// The broker's socket [default: /run/coms/broker.sock]
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        help = "The broker's socket [default: /run/coms/broker.sock]"
    )]
    pub socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// VMs of this host that have the port
    #[command(
        after_help = "Examples:\n  comsctl guests\n  comsctl guests --json | jq '.[] | select(.agent == null) | .name'   whose agents are silent"
    )]
    Guests,
    /// The hosts of the pool: how busy they are, whether a broker runs there, whether clocks agree
    #[command(
        after_help = "Examples:\n  comsctl hosts\n  comsctl hosts --json | jq '.[] | select(.answers | not) | .trouble'"
    )]
    Hosts,
    /// Moves from and to this host, newest last
    #[command(
        after_help = "Examples:\n  comsctl migrations\n  comsctl migrations --json | jq '.[] | select(.state == \"failed\") | .detail'"
    )]
    Migrations {
        /// Only this one
        id: Option<MigrationId>,
    },
    /// One move in full: who asked and when, every host with its verdict, every step, the figures
    #[command(
        after_help = "Examples:\n  comsctl show m0123456789abcdef     that move\n  comsctl show web-1                 the last move of this VM\n  comsctl show web-1 --json | jq .considered"
    )]
    Show {
        /// A move's id, or a VM's name or UUID (its last move)
        #[arg(value_name = "ID|VM")]
        what: String,
    },
    /// Move a VM and wait for the outcome
    #[command(
        after_help = "Examples:\n  comsctl migrate web-1              to the least busy host\n  comsctl migrate web-1 --to h2      to h2\n  comsctl migrate web-1 --no-wait    begin, and print the id for `comsctl show`\n  comsctl migrate web-1 --reason maintenance --notice 10m   told ten minutes before\n  comsctl migrate web-1 --expedite   at once, whatever its owner wants; the notice says so\n\nA guest whose applications want to be asked is told first and may hold or postpone the move, as far as [notice] in broker.toml lets it; `comsctl show` says what it waits for.\nCtrl-C ends the waiting and not the move (`comsctl cancel ID` does); exit status 130 then."
    )]
    Migrate {
        /// The domain's name or UUID
        domain: String,
        /// To this host instead of the least busy one
        #[arg(long, value_name = "HOST")]
        to: Option<String>,
        /// What the guest is told
        #[arg(long, value_parser = ["maintenance", "balance"])]
        reason: Option<String>,
        /// Neither notice nor holds of the guest count
        #[arg(long, conflicts_with = "notice")]
        expedite: bool,
        /// Tell the guest this long before, whatever its applications want; one that is ready moves sooner
        #[arg(long, value_name = "TIME", value_parser = time)]
        notice: Option<u32>,
        /// Do not wait for the outcome
        #[arg(long, conflicts_with = "timeout")]
        no_wait: bool,
        /// Wait this long in all; the move goes on. Without it, as long as the move takes, and a minute more for
        /// one of which nobody knows what became of it
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Let a VM take part: give it the port, also while it runs, and the permission to ask
    #[command(
        after_help = "Examples:\n  comsctl enable web-1               a VM of this host, running or shut off\n  comsctl guests                     its agent answers soon, if it is installed\n\nThe permission is kept in the VM's definition and goes with it to other hosts, as if [guests] enabled in broker.toml named it on each. It is refused while the VM is being moved."
    )]
    Enable {
        /// The domain's name or UUID
        domain: String,
    },
    /// Undo `comsctl enable`: take port and permission away
    #[command(after_help = "Example:\n  comsctl disable web-1")]
    Disable {
        /// The domain's name or UUID
        domain: String,
    },
    /// Call off a move that has not switched over: the VM runs on here
    #[command(
        after_help = "Examples:\n  comsctl cancel m0123456789abcdef\n  comsctl migrations --json | jq -r '.[] | select(.state == \"copying\") | .migration' | xargs -n1 comsctl cancel"
    )]
    Cancel {
        /// As `comsctl migrations` shows it
        id: MigrationId,
    },
    /// No moves for customers until `comsctl resume`; `comsctl migrate` still works
    #[command(
        after_help = "Examples:\n  comsctl pause                      also calls off customers' moves that are under way\n  comsctl pause --let-finish         lets those finish"
    )]
    Pause {
        /// Let moves that are under way finish
        #[arg(long)]
        let_finish: bool,
    },
    /// Customers may ask for moves again
    #[command(after_help = "Example:\n  comsctl resume")]
    Resume,
    /// Take up the changed configuration, as `systemctl reload coms-broker` does, and say what came of it
    #[command(
        after_help = "Examples:\n  comsctl config check && comsctl reload\n  comsctl reload --json | jq -r .done\n\nMoves under way and guests' links go on. What needs a restart is named. Exit status: 0 taken up, 1 refused (the old one stays)."
    )]
    Reload,
    /// Find what is set up wrong on this host and say what mends it; works without the broker too
    #[command(
        after_help = "Examples:\n  sudo comsctl doctor                every check: ok, warn or FAIL, and what mends it\n  comsctl doctor --json | jq '.[] | select(.status != \"ok\")'\n  comsctl doctor --config ./new.toml\n\nExit status: 0 nothing fails (there may be warnings), 1 something does. As another user than root it cannot see everything, and says so."
    )]
    Doctor {
        /// The broker's configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/coms/broker.toml")]
        config: PathBuf,
    },
    /// Whether a VM may arrive here: for libvirt's hook, which calls it with the VM's XML on standard input
    #[command(
        after_help = "Example, as libvirt does it:\n  comsctl hook web-1 migrate begin - < web-1.xml\n\nA VM whose moves must be encrypted comes with a waybill of the broker that sends it, or not at all, whoever moves it. Prints nothing on standard output. Exit status: 0 it may come, 1 it may not; standard error says why, and libvirt shows that to who began the move. Examples of both: docs/encryption.md."
    )]
    Hook {
        /// The broker's configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/coms/broker.toml")]
        config: PathBuf,
        /// The VM's name
        vm: String,
        /// What libvirt does with it
        operation: String,
        /// Which part of that
        part: String,
        /// What libvirt adds
        more: Vec<String>,
    },
    /// Certificates for encrypted migration: make an authority, issue, install, check and renew them
    #[command(subcommand)]
    Tls(TlsCommand),
    /// The configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Say what is wrong with a configuration, and what is legal but unwise; needs no broker
    #[command(
        after_help = "Examples:\n  comsctl config check               /etc/coms/broker.toml\n  comsctl config check ./new.toml && cp new.toml /etc/coms/broker.toml && comsctl reload\n\nExit status: 0 usable (there may be warnings), 1 not."
    )]
    Check {
        /// The file
        #[arg(default_value = "/etc/coms/broker.toml")]
        file: PathBuf,
    },
}
/// Seconds, with their unit or without.
fn time(text: &str) -> Result<u32, String> {
    text.parse().or_else(|_| coms_protocol::words::seconds(text))
}
