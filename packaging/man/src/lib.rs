//! The manual pages, and the shells' completions. Nothing is written twice: commands come from the command lines as the programs parse them,
//! `coms-agent`'s from its `--help` (it has no parser of that size), configurations from the commented files that are
//! shipped.

mod config;
mod program;

use clap::CommandFactory;
use clap_complete::{Generator as _, Shell};

// The programs' command lines, as they are compiled into them.
#[allow(dead_code, reason = "here it is only looked at")]
#[path = "../../../guest-agent/src/cli/args.rs"]
mod coms_args;
#[allow(dead_code, reason = "here it is only looked at")]
#[path = "../../../host-broker/src/args.rs"]
mod coms_broker_args;
#[allow(dead_code, reason = "here it is only looked at")]
#[path = "../../../guest-plugins/src/args.rs"]
mod coms_plugins_args;
#[allow(dead_code, reason = "here it is only looked at")]
#[path = "../../../host-broker/src/bin/comsctl/args.rs"]
mod comsctl_args;

/// One page.
#[derive(Debug)]
pub struct Page {
    /// Its file, such as `comsctl-migrate.8`.
    pub file: String,
    /// What `man` reads.
    pub roff: String,
}

/// The customer's command line.
pub fn coms() -> clap::Command {
    coms_args::Args::command().name("coms").display_name("coms")
}

/// The operator's command line.
pub fn comsctl() -> clap::Command {
    comsctl_args::Args::command()
}

/// The host's daemon.
pub fn coms_broker() -> clap::Command {
    coms_broker_args::Args::command()
}

/// What runs the customer's plugins; also known as `coms plugin`.
pub fn coms_plugins() -> clap::Command {
    coms_plugins_args::Args::command()
}

/// What `coms-agent --help` prints.
pub const AGENT_HELP: &str = include_str!("../../../guest-agent/src/help.txt");

/// All pages.
pub fn pages() -> Vec<Page> {
    let guest = "coms(1), coms-agent(8), coms-agent.toml(5), coms-plugins(8), coms-plugins.toml(5)";
    let host = "comsctl(8), coms-broker(8), coms-broker.toml(5)";
    let mut pages = program::pages(coms(), "1", guest);
    pages.extend(program::pages(comsctl(), "8", host));
    pages.extend(program::pages(coms_broker(), "8", host));
    pages.extend(program::pages(coms_plugins(), "8", guest));
    pages.push(program::from_help("coms-agent", "8", AGENT_HELP, guest));
    let agent = include_str!("../../config/agent.toml");
    pages.push(config::page("coms-agent.toml", "/etc/coms/agent.toml", agent, guest));
    let plugins = include_str!("../../config/plugins.toml");
    pages.push(config::page("coms-plugins.toml", "/etc/coms/plugins.toml", plugins, guest));
    let broker = include_str!("../../config/broker.toml");
    pages.push(config::page("coms-broker.toml", "/etc/coms/broker.toml", broker, host));
    pages
}

/// What a shell is to know of a command line.
#[derive(Debug)]
pub struct Completion {
    /// Its file, below a directory for each shell, such as `zsh/_coms`.
    pub file: String,
    pub script: Vec<u8>,
}

/// Completions of the commands that people type, for bash, zsh and fish.
pub fn completions() -> Vec<Completion> {
    let mut all = Vec::new();
    for mut command in [coms(), coms_plugins(), comsctl()] {
        let name = command.get_name().to_owned();
        for (shell, dir) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, &name, &mut script);
            all.push(Completion { file: format!("{dir}/{}", shell.file_name(&name)), script });
        }
    }
    all
}

/// The line that every page begins with.
fn title(roff: &mut roff::Roff, name: &str, section: &str) {
    let version = concat!("COMS ", env!("CARGO_PKG_VERSION"));
    roff.control("TH", [name, section, "", version]);
}

/// Words that flow.
fn paragraph(roff: &mut roff::Roff, text: &str) {
    roff.control("PP", []);
    roff.text([roff::roman(text)]);
}

/// Lines that stay as they are.
fn lines<'a>(roff: &mut roff::Roff, lines: impl IntoIterator<Item = &'a str>) {
    roff.control("nf", []);
    for line in lines {
        roff.text([roff::roman(line)]);
    }
    roff.control("fi", []);
}

fn see_also(roff: &mut roff::Roff, others: &str) {
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roff::roman(others)]);
}
