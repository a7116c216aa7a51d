//! The command line, as typed.

use clap::{Parser, Subcommand, ValueEnum};
use coms_protocol::words::seconds;
use std::path::PathBuf;

/// Run what measures your workloads, see what it says, try it, write one.
#[derive(Debug, Parser)]
#[command(
    name = "coms-plugins",
    version,
    after_help = "Examples:\n  coms plugin list\n  coms plugin test postgres\n  coms plugin new --lang python postgres\n  \
coms plugin check\n  coms-plugins run\n\n\
`coms plugin …` is the same as `coms-plugins …`. How to write a plugin: guest-agent/PLUGINS.md.\n\n\
Exit code: 0 done, 1 refused or failed, 2 wrong usage or configuration, 3 coms-plugins cannot be reached"
)]
pub struct Args {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// The configuration [default: /etc/coms/plugins.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub wanted: Wanted,
}

#[derive(Debug, Subcommand)]
pub enum Wanted {
    /// How all plugins stand
    #[command(
        after_help = "Examples:\n  coms plugin list\n  coms plugin list --json | jq '.plugins[].problem'"
    )]
    List,
    /// Run one plugin here and now, and show what is understood of each sample, what is wrong, and how to mend it
    #[command(
        after_help = "Examples:\n  sudo coms plugin test postgres\n  coms plugin test web --count 1\n  \
coms plugin test --config ./plugins.toml mine --for 10s\n\n\
As root the plugin runs as its configured user; otherwise as you. Nothing is told to the agent.\n\
Exit code: 0 it measured and nothing is wrong, 1 otherwise"
    )]
    Test(Test),
    /// Write a plugin to begin with, and say how it is set up
    #[command(
        after_help = "Examples:\n  coms plugin new --lang shell mine\n  coms plugin new --lang python --dir /etc/coms/plugins mine\n  \
coms plugin new --lang rust mine"
    )]
    New(New),
    /// Whether the configuration is right, and its users and programs are there
    #[command(after_help = "Examples:\n  coms plugin check\n  coms plugin check --config ./plugins.toml\n  \
sudo coms plugin check --json | jq '.warnings[]'\n\n\
Warns of users that are missing, and of programs that are missing or that their user may not run; as root it sees all of \
them.\nExit code: 0 the file is right (also with warnings), 1 it cannot be read, 2 it is wrong")]
    Check,
    /// The daemon: runs all plugins, and tells coms-agent what they say (the unit does this)
    #[command(after_help = "Examples:\n  coms-plugins run\n  coms-plugins run --config ./plugins.toml")]
    Run,
    /// Becomes a plugin, with less than this program may
    #[command(hide = true)]
    Launch(Launch),
}

#[derive(Debug, clap::Args)]
pub struct Test {
    /// Its name in the configuration
    pub name: String,
    /// End after so many samples
    #[arg(long, default_value_t = 5)]
    pub count: u32,
    /// End after this time: 30s, 2m
    #[arg(long = "for", value_name = "TIME", value_parser = seconds, default_value = "60s")]
    pub for_s: u32,
}

#[derive(Debug, clap::Args)]
pub struct New {
    /// The language
    #[arg(long, value_enum)]
    pub lang: Lang,
    /// Where
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// What it is to be called: letters, digits, - and _
    pub name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lang {
    Shell,
    Python,
    Rust,
}

#[derive(Debug, clap::Args)]
pub struct Launch {
    #[arg(long)]
    pub uid: Option<u32>,
    #[arg(long, requires = "uid")]
    pub gid: Option<u32>,
    #[arg(long, default_value = "")]
    pub groups: String,
    #[arg(long, default_value_t = 0)]
    pub memory_mib: u64,
    #[arg(long)]
    pub processes: Option<u64>,
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    #[arg(long)]
    pub parent: Option<i32>,
    #[arg(last = true)]
    pub argv: Vec<String>,
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
        for sub in command.get_subcommands().filter(|s| s.get_name() != "help" && !s.is_hide_set()) {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", sub.get_name());
        }
    }
}
