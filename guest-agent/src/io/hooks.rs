//! Runs the customer's hooks. They never hold the agent up: events wait in a bounded queue, at most
//! [`AT_ONCE`] programs run at a time, each hook's own one after the other, in the order of their events.
//!
//! A hook gets the event as JSON on its standard input, as the log has it, and in its environment. It runs at most
//! once for each event: an agent that is killed does not run it again.

use super::program::{self, Given, Trouble};
use crate::action::{Audience, Telling};
use crate::config::Hook;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

/// Programs that run at the same time.
const AT_ONCE: usize = 4;
/// Runs that may wait.
const MAX_WAITING: usize = 64;
/// Most variables in a hook's environment, and bytes of one's value.
const MAX_VARIABLES: usize = 64;
const MAX_VALUE: usize = 256;

struct Run {
    hook: Arc<Hook>,
    event: String,
    line: Arc<str>,
    variables: BTreeMap<String, String>,
}

/// How a hook went.
struct Ended {
    hook: Arc<Hook>,
    telling: Telling,
}

/// The hooks, what waits for them, and what runs.
#[derive(Default)]
pub(super) struct Hooks {
    hooks: Vec<Arc<Hook>>,
    waiting: VecDeque<Run>,
    /// Dropped, they are killed.
    running: JoinSet<Ended>,
    /// Hooks that run now, by their address: the same hook twice in a file is two hooks.
    busy: BTreeSet<usize>,
    dropping: bool,
}

impl Hooks {
    /// From now on these. What runs or waits still ends as it was.
    pub(super) fn set(&mut self, hooks: &[Hook]) {
        self.hooks = hooks.iter().cloned().map(Arc::new).collect();
    }

    /// Something happened; `line` is what the log has of it.
    pub(super) fn tell(&mut self, event: &str, line: &Map<String, Value>) {
        let wanted: Vec<_> = self.hooks.iter().filter(|h| h.wants(event)).cloned().collect();
        if wanted.is_empty() {
            return;
        }
        let text: Arc<str> = format!("{}\n", Value::Object(line.clone())).into();
        let variables = environment(line);
        for hook in wanted {
            if self.waiting.len() >= MAX_WAITING {
                self.drop_oldest();
            }
            let run =
                Run { hook, event: event.to_owned(), line: Arc::clone(&text), variables: variables.clone() };
            self.waiting.push_back(run);
        }
        self.start();
    }

    /// Waits until one ended; how it went. Never when none runs.
    pub(super) async fn ended(&mut self) -> Telling {
        loop {
            match self.running.join_next().await {
                Some(Ok(Ended { hook, telling })) => {
                    self.busy.remove(&address(&hook));
                    self.start();
                    return telling;
                }
                // None of them panics or is given up one by one.
                Some(Err(e)) => warn!("a hook was lost: {e}"),
                None => std::future::pending().await,
            }
        }
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.waiting.pop_front() else { return };
        // Said at the first of a row; a flood of events is no reason for a flood of lines.
        if !std::mem::replace(&mut self.dropping, true) {
            warn!(
                "{MAX_WAITING} runs of hooks wait; dropping the oldest, {} for {}: the hooks are too slow",
                program_of(&oldest.hook),
                oldest.event
            );
        }
    }

    fn start(&mut self) {
        while self.running.len() < AT_ONCE {
            let free = |run: &Run| !self.busy.contains(&address(&run.hook));
            let Some(run) = self.waiting.iter().position(free).and_then(|i| self.waiting.remove(i)) else {
                break;
            };
            self.busy.insert(address(&run.hook));
            self.running.spawn(carry_out(run));
        }
        self.dropping &= !self.waiting.is_empty();
    }
}

fn address(hook: &Arc<Hook>) -> usize {
    Arc::as_ptr(hook).addr()
}

fn program_of(hook: &Hook) -> &str {
    hook.command.first().map_or("", String::as_str)
}

async fn carry_out(run: Run) -> Ended {
    let Run { hook, event, line, variables } = run;
    let begun = Instant::now();
    let given = Given::Text(line.as_bytes().to_vec(), variables);
    let result = program::run(&hook.command, given, hook.timeout).await;
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let told = match result {
        Ok(status) => json!({ "exit_code": status.code(), "signal": status.signal() }),
        Err(Trouble::TimedOut) => json!({ "timed_out": true }),
        Err(Trouble::Start(e)) => json!({ "error": format!("cannot be started: {e}") }),
        Err(Trouble::Wait(e)) => json!({ "error": e.to_string() }),
    };
    let mut fields = crate::decide::fields(json!({ "for": event, "command": program_of(&hook) }));
    fields.extend(crate::decide::fields(told));
    fields.insert("took_ms".to_owned(), took_ms.into());
    Ended { hook, telling: Telling { event: "hook".to_owned(), fields, to: Audience::Everybody } }
}

/// `{"to": {"region": "x"}}` as `COMS_TO_REGION=x`. Numbers, truth values, and texts without control characters; the
/// rest is in the JSON only. Names are the agent's own.
pub(super) fn environment(line: &Map<String, Value>) -> BTreeMap<String, String> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut out = BTreeMap::from([("PATH".to_owned(), path.to_owned())]);
    add("COMS", line, &mut out);
    out
}

fn add(prefix: &str, fields: &Map<String, Value>, out: &mut BTreeMap<String, String>) {
    for (key, value) in fields {
        let name = format!("{prefix}_{}", key.to_ascii_uppercase());
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Object(inner) => {
                add(&name, inner, out);
                continue;
            }
            Value::Null | Value::Array(_) => continue,
        };
        if text.len() <= MAX_VALUE && !text.chars().any(char::is_control) && out.len() < MAX_VARIABLES {
            out.insert(name, text);
        }
    }
}

#[cfg(test)]
mod tests;
