//! Tests whose subject is the CPU itself: who gets how much of it, and what that does to others.

use crate::Result;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Plays such a test, and once more if it failed: whoever else had the machine's CPUs for some seconds is part of what
/// it measured. What fails again is a defect; that it failed once is said. Only for tests that measure shares of a CPU:
/// any other test that fails now and then has a cause to be found.
pub fn measured(test: impl Fn() -> Result<()>) -> Result<()> {
    let said = match catch_unwind(AssertUnwindSafe(&test)) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(e)) => e.to_string(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
        }
    };
    // Not by a macro: of a test that passes the harness would keep it to itself.
    let _ = writeln!(std::io::stderr(), "measured once more, because the first time: {said}");
    test()
}
