//! `coms-first` builds the first version's programs, if they are not there yet, and prints where things are, one word each:
//! its commit, its sources, the directory of the guest's programs, that of the host's. For tests/packages/previous.sh.

use coms_story::{FIRST, first_programs, first_sources};
use std::process::ExitCode;

fn main() -> ExitCode {
    let programs = match first_programs() {
        Ok(programs) => programs,
        Err(e) => {
            eprintln!("coms-first: {e}");
            return ExitCode::FAILURE;
        }
    };
    let dir =
        |program: &std::path::Path| program.parent().map(|dir| dir.display().to_string()).unwrap_or_default();
    println!(
        "{FIRST} {} {} {}",
        first_sources().display(),
        dir(&programs.guest.agent),
        dir(&programs.broker)
    );
    ExitCode::SUCCESS
}
