//! Runs the commands that are asked about moves. Of one name one runs at a time, in the order in which they were
//! wanted; what is given and what is not is as with hooks.

use super::hooks::environment;
use super::program::{self, Given, Trouble};
use crate::event::Ran;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

/// Runs that may wait. A move wants two of each of 16 commands.
const MAX_WAITING: usize = 64;

struct Wanted {
    run: u64,
    name: String,
    argv: Vec<String>,
    timeout: Duration,
    line: Map<String, Value>,
}

/// What waits and what runs.
#[derive(Default)]
pub(super) struct Commands {
    waiting: VecDeque<Wanted>,
    /// Dropped, they are killed.
    running: JoinSet<Ran>,
    busy: BTreeSet<String>,
}

impl Commands {
    pub(super) fn run(
        &mut self,
        run: u64,
        name: String,
        argv: Vec<String>,
        timeout: Duration,
        line: Map<String, Value>,
    ) {
        if self.waiting.len() >= MAX_WAITING {
            warn!("{MAX_WAITING} commands wait; dropping {name}: they are too slow");
            return;
        }
        self.waiting.push_back(Wanted { run, name, argv, timeout, line });
        self.start();
    }

    /// Waits until one ended; how it went. Never when none runs.
    pub(super) async fn ended(&mut self) -> Ran {
        loop {
            match self.running.join_next().await {
                Some(Ok(ran)) => {
                    self.busy.remove(&ran.name);
                    self.start();
                    return ran;
                }
                // None of them panics or is given up one by one.
                Some(Err(e)) => warn!("a command was lost: {e}"),
                None => std::future::pending().await,
            }
        }
    }

    fn start(&mut self) {
        while let Some(index) = self.waiting.iter().position(|w| !self.busy.contains(&w.name)) {
            let Some(wanted) = self.waiting.remove(index) else { return };
            self.busy.insert(wanted.name.clone());
            self.running.spawn(carry_out(wanted));
        }
    }
}

async fn carry_out(wanted: Wanted) -> Ran {
    let Wanted { run, name, argv, timeout, line } = wanted;
    let begun = Instant::now();
    let variables = environment(&line);
    let given = Given::Text(format!("{}\n", Value::Object(line)).into_bytes(), variables);
    let result = program::run(&argv, given, timeout).await;
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let exit_code = result.as_ref().ok().and_then(std::process::ExitStatus::code);
    let how = match result {
        Ok(status) => json!({ "exit_code": status.code(), "signal": status.signal(), "took_ms": took_ms }),
        Err(Trouble::TimedOut) => json!({ "timed_out": true, "took_ms": took_ms }),
        Err(Trouble::Start(e)) => json!({ "error": format!("cannot be started: {e}") }),
        Err(Trouble::Wait(e)) => json!({ "error": e.to_string() }),
    };
    Ran { run, name, exit_code, how: crate::decide::fields(how) }
}
