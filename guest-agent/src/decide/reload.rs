//! The configuration changes while the agent runs.

use super::rule::Watch;
use super::{Agent, fields};
use crate::action::{Action, Audience};
use crate::config::Config;
use coms_protocol::session::Now;
use serde_json::json;
use std::time::Duration;

impl Agent {
    /// Takes up what can change at once and says what cannot. A wrong configuration changes nothing. Workloads whose
    /// definition stayed as it was keep what they measured and learned.
    pub(super) fn on_reload(&mut self, now: Now, new: Result<Box<Config>, String>) {
        let new = match new {
            Ok(new) => *new,
            Err(error) => {
                return self.tell("reload_refused", fields(json!({ "error": error })), Audience::Everybody);
            }
        };
        let old = &self.config;
        let fixed = [
            ("port", old.port != new.port),
            ("socket.path", old.socket != new.socket),
            ("state.path", old.state != new.state),
            ("events.path", old.events != new.events),
        ];
        let needs_restart: Vec<_> =
            fixed.iter().filter(|(_, changed)| *changed).map(|(key, _)| *key).collect();
        // What runs stays what it is, so that the next reload is compared with that.
        let config = Config {
            port: old.port.clone(),
            socket: old.socket.clone(),
            state: old.state.clone(),
            events: old.events.clone(),
            ..new
        };
        let kept = self.change_workloads(&config);
        // A wait must not be longer than the new configuration would ever make it.
        self.cooldown_until = self.cooldown_until.min(now.mono + config.asking.cooldown);
        let longest = config.asking.backoff_max.max(Duration::from_secs(86_400));
        self.backoff_until = self.backoff_until.min(now.mono + longest);
        self.actions.push(Action::Configure(Box::new(config.clone())));
        let told = json!({ "workloads": config.workloads.len(), "kept": kept, "hooks": config.hooks.len(),
            "needs_restart": (!needs_restart.is_empty()).then_some(needs_restart) });
        self.config = config;
        self.forget_plugins();
        self.configure_random();
        self.count_anew();
        self.loaded_unix_ms = now.unix_us / 1000;
        self.tell("reloaded", fields(told), Audience::Everybody);
    }

    /// Returns how many workloads stay as they were.
    fn change_workloads(&mut self, new: &Config) -> usize {
        if self.config.workloads == new.workloads {
            return new.workloads.len();
        }
        let watches = std::mem::take(&mut self.watches);
        let mut old: Vec<_> = self.config.workloads.iter().zip(watches).collect();
        let mut kept = 0;
        for workload in &new.workloads {
            let same = old.iter().position(|(w, _)| *w == workload);
            kept += usize::from(same.is_some());
            let watch = match same {
                Some(index) => old.swap_remove(index).1,
                None => Watch::new(workload, self.state.baselines.get(&workload.name)),
            };
            self.watches.push(watch);
        }
        // Results are told by the workload's index: those of the old order must not come any more.
        self.actions.push(Action::Measure(new.workloads.clone()));
        kept
    }
}
