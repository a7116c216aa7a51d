//! Programs that run when something happens.

use super::check::{Checked, bad, between};
use serde::Deserialize;
use std::time::Duration;

/// Most hooks.
const MAX_HOOKS: usize = 16;
/// Every event that the log gets. `progress` is not among them: it comes too often to start a program for it.
/// `hook` is not either: it tells how a hook went.
pub const EVENTS: &[&str] = &[
    "accepted",
    "already_running",
    "answered",
    "app_gone",
    "app_holds",
    "app_overdue",
    "app_ready",
    "app_registered",
    "app_silent",
    "asked",
    "asked_command",
    "cancelled",
    "cancelling",
    "clients_database",
    "clients_elsewhere",
    "clients_unseen",
    "clock_stepped",
    "completed",
    "connected",
    "denied",
    "disconnected",
    "effect",
    "encryption",
    "failed",
    "hold",
    "incompatible",
    "moved_unannounced",
    "notice",
    "plugin_wish",
    "postpone",
    "preparing",
    "random",
    "ready",
    "reload_refused",
    "reloaded",
    "schedule_dropped",
    "schedule_missed",
    "scheduled",
    "started",
    "verdict",
    "veto",
    "window_overridden",
    "windows_changed",
    "workload_failing",
    "workload_learned",
    "workload_recovered",
    "workload_slow",
    "workload_slow_by_itself",
    "workload_working",
];

/// A program that runs when something happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// At which events, by name; none stands for all.
    pub events: Vec<String>,
    /// Program and arguments, no shell.
    pub command: Vec<String>,
    /// What runs longer is killed, with its children.
    pub timeout: Duration,
}

impl Hook {
    /// Whether it is to run at this event.
    pub fn wants(&self, event: &str) -> bool {
        EVENTS.contains(&event) && (self.events.is_empty() || self.events.iter().any(|e| e == event))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    event: Names,
    command: Vec<String>,
    #[serde(default = "ten")]
    timeout_s: u64,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "an event's name, a list of names, or \"*\"")]
enum Names {
    One(String),
    Many(Vec<String>),
}

fn ten() -> u64 {
    10
}

pub(super) fn checked(raw: Vec<Raw>) -> Checked<Vec<Hook>> {
    if raw.len() > MAX_HOOKS {
        return bad("hooks", format!("there are {}; at most {MAX_HOOKS}", raw.len()));
    }
    raw.into_iter().map(hook).collect()
}

fn hook(raw: Raw) -> Checked<Hook> {
    let names = match raw.event {
        Names::One(name) => vec![name],
        Names::Many(names) => names,
    };
    if names.is_empty() {
        return bad("hooks.event", "is empty; name an event, or \"*\" for all");
    }
    let all = names.iter().any(|n| n == "*");
    for name in names.iter().filter(|n| *n != "*") {
        let known = format!("must be \"*\" or of {}", EVENTS.join(", "));
        match name.as_str() {
            "progress" => {
                return bad(
                    "hooks.event",
                    format!("has \"progress\", which comes too often (`coms watch` shows it); {known}"),
                );
            }
            other if !EVENTS.contains(&other) => {
                return bad("hooks.event", format!("has \"{other}\"; {known}"));
            }
            _ => {}
        }
    }
    match raw.command.first() {
        Some(program) if program.starts_with('/') => {}
        Some(program) => {
            let what = format!("begins with \"{program}\"; must be a program's whole path, beginning with /");
            return bad("hooks.command", what);
        }
        None => return bad("hooks.command", "is empty; must be a program and its arguments"),
    }
    Ok(Hook {
        events: if all { Vec::new() } else { names },
        command: raw.command,
        timeout: Duration::from_secs(between("hooks.timeout_s", raw.timeout_s, 1, 3600)?),
    })
}
