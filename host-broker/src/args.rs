//! The command line.

use clap::Parser;
use std::path::PathBuf;

/// Decides on live migrations that guests ask for, performs them with libvirt, and tells the guests.
#[derive(Parser)]
#[command(
    name = "coms-broker",
    version,
    after_help = "Examples:\n  coms-broker                               run with /etc/coms/broker.toml\n  coms-broker --config ./b.toml --check     say what is wrong with a configuration and stop\n  COMS_LOG=debug coms-broker                say more\n\nSIGHUP (systemctl reload coms-broker, comsctl reload) reads the configuration again; a wrong one is refused and the\nold one stays.\n\nExit status: 0 stopped as told, 1 failed, 2 wrong usage or configuration."
)]
pub struct Args {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/coms/broker.toml")]
    pub config: PathBuf,
    /// Check the configuration and stop
    #[arg(long)]
    pub check: bool,
}
