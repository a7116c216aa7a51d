//! `coms-programs` builds all that the story's labs run. tests/run-labs.sh calls it before the first of them: a build
//! beside a lab takes the CPU that the lab's time limits count on.

use coms_story::{Result, first_programs, programs, programs_with_stop_points};

fn main() -> Result<()> {
    programs()?;
    programs_with_stop_points()?;
    first_programs()?;
    coms_lab::build_plugins()?;
    coms_lab::build_lab_guest()?;
    Ok(())
}
