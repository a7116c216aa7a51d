//! For tests, with the feature `faults` only: the agent stops itself (SIGSTOP) at a moment that the test names,
//! because the moments between two steps are too short to be hit from outside.
//!
//! `COMS_TEST_STOP_AT` names a file. While there is one, each event is compared with it just before it is taken in,
//! and each action just before it is carried out: as Rust's `Debug` prints them, after the word `event` or `action`.
//! Its first line is how that begins, every further line a part of it. The file is used up by the stop, so that
//! who goes on, or is started again, does not stop there a second time.

use rustix::process::{Signal, getpid, kill_process};
use std::fmt::Debug;

pub fn before(what: &str, thing: &dyn Debug) {
    let Some(path) = std::env::var_os("COMS_TEST_STOP_AT") else { return };
    let Ok(wanted) = std::fs::read_to_string(&path) else { return };
    let text = format!("{what} {thing:?}");
    let mut parts = wanted.lines();
    let here = parts.next().is_some_and(|first| text.starts_with(first)) && parts.all(|p| text.contains(p));
    if here && std::fs::remove_file(&path).is_ok() {
        tracing::warn!("stopped for a test before the {text}");
        let _ = kill_process(getpid(), Signal::STOP);
    }
}
