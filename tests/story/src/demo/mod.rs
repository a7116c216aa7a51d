//! The demo: a scenario is played on the real lab, shown as it happens, measured, and judged.
//!
//! [`scenario`] acts, [`follow`], [`echo`] and [`screen`] watch and show, [`measure`] judges; [`table`] and [`svg`] are for people,
//! `result.json` is for programs. What a scenario promises is checked: a demo that does not show it fails.

mod echo;
mod encrypted;
mod encrypted_table;
mod follow;
mod geo;
mod geo_svg;
mod measure;
mod notice;
mod plugin;
mod random;
mod random_svg;
mod scenario;
mod screen;
pub mod svg;
mod table;

use crate::Result;
use screen::Screen;
use std::process::ExitCode;
use std::time::Instant;

/// Something that the demo can show.
struct Scenario {
    name: &'static str,
    about: &'static str,
    /// Plays it; what it promised and did not show.
    play: fn(&mut Screen) -> Result<Vec<String>>,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario {
        name: "neighbours",
        about: "a VM whose neighbours get busy asks to move, and is itself again (the COMS paper's Figure 1)",
        play: scenario::neighbours,
    },
    Scenario {
        name: "notice",
        about: "an application holds the operator's move, windows put one off, and every move is told",
        play: notice::notice,
    },
    Scenario {
        name: "random",
        about: "a VM is moved at random times over three hosts, up to its budget (the COMS paper's module D)",
        play: random::random,
    },
    Scenario {
        name: "plugin",
        about: "a Nagios check of PostgreSQL's speed, as the customer has it already, makes the VM move",
        play: plugin::plugin,
    },
    Scenario {
        name: "geo",
        about: "a VM follows its clients to another site, and they get more of it (the COMS paper's Figure 2)",
        play: geo::geo,
    },
    Scenario {
        name: "encrypted",
        about: "what a VM holds cannot be read while it moves, or it does not move (the COMS paper's module C)",
        play: encrypted::encrypted,
    },
];

/// Everything after the program's name in, exit status out: 0 shown, 1 not shown, 2 wrong usage.
pub fn main(words: Vec<String>) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let name = match words.as_slice() {
        ["--help" | "-h"] => {
            print!("{}", help());
            return ExitCode::SUCCESS;
        }
        [] => SCENARIOS[0].name,
        [name] if !name.starts_with('-') => name,
        _ => {
            eprint!("{}", help());
            return ExitCode::from(2);
        }
    };
    let Some(scenario) = SCENARIOS.iter().find(|s| s.name == name) else {
        let known: Vec<_> = SCENARIOS.iter().map(|s| s.name).collect();
        eprintln!("coms-demo: no scenario `{name}`; there is: {}", known.join(", "));
        return ExitCode::from(2);
    };
    show(scenario)
}

fn show(scenario: &Scenario) -> ExitCode {
    println!("coms-demo {}: {} (accel=tcg)", scenario.name, scenario.about);
    let building = Instant::now();
    println!("building the broker and the agent ...");
    if let Err(error) = crate::programs() {
        eprintln!("coms-demo: {error}");
        return ExitCode::FAILURE;
    }
    println!("built in {:.0} s", building.elapsed().as_secs_f64());
    let began = Instant::now();
    let played = (scenario.play)(&mut Screen::new());
    let took = began.elapsed().as_secs();
    println!("\ntime: {}:{:02} after building", took / 60, took % 60);
    match played {
        Ok(missing) if missing.is_empty() => {
            println!("coms-demo: shown.");
            ExitCode::SUCCESS
        }
        Ok(missing) => {
            for what in missing {
                eprintln!("coms-demo: not shown: {what}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("coms-demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn help() -> String {
    let mut out = String::from(
        "Shows COMS on real libvirt hosts and guests, in namespaces of this machine, in under 5 minutes after\n\
         building. Needs root and what tests/setup.sh installs. Writes target/demo/.\n\n\
         Usage: coms-demo [SCENARIO]\n\nScenarios:\n",
    );
    for s in &SCENARIOS {
        out += &format!("  {:<12}{}\n", s.name, s.about);
    }
    out += "\nExit status: 0 shown; 1 not shown, with the reason; 2 wrong usage.\n\n\
            Examples:\n  sudo make demo\n  sudo make demo S=neighbours\n  sudo make demo S=notice\n  sudo make demo S=plugin\n  sudo make demo S=geo\n  \
            sudo make demo S=encrypted\n";
    out
}
