//! Every command, option and key has its place in the pages. What there is, the programs themselves say.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use clap::Command;
use coms_man::{AGENT_HELP, Page, coms, coms_broker, coms_plugins, comsctl, pages};
use std::path::Path;

fn page<'a>(all: &'a [Page], file: &str) -> &'a str {
    let files: Vec<&str> = all.iter().map(|p| p.file.as_str()).collect();
    all.iter()
        .find(|p| p.file == file)
        .map(|p| p.roff.as_str())
        .unwrap_or_else(|| panic!("no {file}: {files:?}"))
}

/// As it is printed, near enough to look for words.
fn plain(roff: &str) -> String {
    let mut text = roff.replace("\\-", "-").replace("\\&", "").replace("\\*(Aq", "'");
    for font in ["\\fB", "\\fI", "\\fR"] {
        text = text.replace(font, "");
    }
    text
}

fn check(all: &[Page], command: &Command, name: &str, section: &str) {
    let text = plain(page(all, &format!("{name}.{section}")));
    for heading in ["NAME", "SYNOPSIS", "OPTIONS", "SEE ALSO"] {
        assert!(
            text.contains(&format!(".SH {heading}")) || text.contains(&format!(".SH \"{heading}\"")),
            "{name}: {heading}"
        );
    }
    for arg in command.get_arguments() {
        let shown = match arg.get_long() {
            Some(long) => format!("--{long}"),
            None => arg.get_value_names().map_or(arg.get_id().as_str(), |names| &names[0]).to_owned(),
        };
        assert!(text.to_uppercase().contains(&shown.to_uppercase()), "{name}: {shown} is missing:\n{text}");
    }
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for line in examples.lines().filter(|l| l.starts_with("  ")) {
        assert!(text.contains(line.trim()), "{name}: {line}:\n{text}");
    }
    for subcommand in command.get_subcommands().filter(|s| s.get_name() != "help" && !s.is_hide_set()) {
        let sub = format!("{name}-{}", subcommand.get_name());
        assert!(text.contains(&format!("{sub}({section})")), "{name} does not name {sub}");
        check(all, subcommand, &sub, section);
    }
}

#[test]
fn every_command_and_option_has_its_place() {
    let all = pages();
    for (mut command, section) in
        [(coms(), "1"), (comsctl(), "8"), (coms_broker(), "8"), (coms_plugins(), "8")]
    {
        let name = command.get_name().to_owned();
        command.build();
        check(&all, &command, &name, section);
    }
    let agent = plain(page(&all, "coms-agent.8"));
    for word in AGENT_HELP.split_whitespace().filter(|w| w.starts_with("--")) {
        assert!(
            agent.contains(word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-')),
            "{word}"
        );
    }
    assert!(agent.contains("EXIT STATUS"), "{agent}");
}

#[test]
fn every_shell_completes_every_command() {
    let all = coms_man::completions();
    for (mut command, name) in [(coms(), "coms"), (coms_plugins(), "coms-plugins"), (comsctl(), "comsctl")] {
        command.build();
        for file in [format!("bash/{name}.bash"), format!("zsh/_{name}"), format!("fish/{name}.fish")] {
            let found = all.iter().find(|c| c.file == file);
            let found = found.unwrap_or_else(|| panic!("no {file}"));
            let script = String::from_utf8_lossy(&found.script);
            for subcommand in command.get_subcommands().filter(|s| s.get_name() != "help") {
                assert!(script.contains(subcommand.get_name()), "{file}: {}", subcommand.get_name());
            }
        }
    }
}

/// The names between the quotes that the parser puts around what it expects.
fn expected(error: &str) -> Vec<String> {
    let list = error.split_once("expected").unwrap_or_else(|| panic!("{error}")).1;
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn check_keys(file: &str, lists: &[&str], refused: impl Fn(&str) -> String) {
    let all = pages();
    let text = plain(page(&all, file));
    let tables = expected(&refused("no_such_table = 1"));
    assert!(tables.len() > 3, "{tables:?}");
    for table in tables {
        let head =
            if lists.contains(&table.as_str()) { format!("[[{table}]]") } else { format!("[{table}]") };
        // Kinds of one table have a section each.
        let heading = format!(".SH {head}\n");
        let section: String = text.split(&heading).skip(1).map(|s| s.split(".SH ").next().unwrap()).collect();
        assert!(!section.is_empty(), "{head}: {text}");
        let keys = expected(&refused(&format!("{head}\nno_such_key = 1")));
        assert!(!keys.is_empty(), "{table}");
        for key in keys {
            // A list of tables within a table has a section of its own.
            let inner = format!("[[{table}.{key}]]");
            if let Some((_, behind)) = text.split_once(&format!(".SH {inner}\n")) {
                let behind = behind.split(".SH ").next().unwrap();
                for key in expected(&refused(&format!("{inner}\nno_such_key = 1"))) {
                    assert!(behind.contains(&format!("\n{key} = ")), "{file}: {inner} {key}:\n{behind}");
                }
                continue;
            }
            let described = section.contains(&format!("\n{key} = "));
            assert!(described, "{file}: {head} {key} is not described:\n{section}");
        }
    }
}

#[test]
fn every_key_of_the_agents_configuration_is_described() {
    let refused =
        |text: &str| coms_agent::config::Config::parse(text, Path::new("x")).unwrap_err().to_string();
    check_keys("coms-agent.toml.5", &["workload", "hooks", "asked"], refused);
}

#[test]
fn every_key_of_the_brokers_configuration_is_described() {
    let refused =
        |text: &str| coms_broker::config::Config::parse(Path::new("x"), text).unwrap_err().to_string();
    check_keys("coms-broker.toml.5", &["hosts", "regions", "distances"], refused);
}

#[test]
fn every_key_of_the_plugins_configuration_is_described() {
    let refused =
        |text: &str| coms_plugins::config::Config::parse(text, Path::new("x")).unwrap_err().to_string();
    check_keys("coms-plugins.toml.5", &["plugin"], refused);
}
