//! When moves are welcome: the configuration's windows, or those that `coms window set` put in their place, and what
//! `coms window open` or `close` says for a while.

use super::{Agent, fields};
use crate::action::{Action, Audience};
use crate::calendar::Calendar;
use crate::event::{ClientId, Window};
use coms_protocol::session::Now;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// For a while, whatever the windows say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Moves are welcome.
    pub open: bool,
    /// Until then, ms since 1970.
    pub until_ms: u64,
}

impl Agent {
    /// The windows that count. What was set was checked then; should it not hold any more (a zone is gone), the
    /// configuration's count.
    pub(super) fn calendar(&self) -> &Calendar {
        self.windows_set.as_ref().unwrap_or(&self.config.windows)
    }

    pub(super) fn has_windows(&self) -> bool {
        !self.calendar().is_empty() || self.state.window_override.is_some_and(|o| !o.open)
    }

    fn overridden(&self, unix_ms: u64) -> Option<Override> {
        self.state.window_override.filter(|o| unix_ms < o.until_ms)
    }

    /// Moves are not welcome at this moment; when they are next, if ever.
    pub(super) fn closed_until(&self, unix_ms: u64) -> Option<Option<u64>> {
        let calendar = self.calendar();
        match self.overridden(unix_ms) {
            Some(o) if o.open => None,
            Some(o) => Some(calendar.next_open(o.until_ms).or(calendar.is_empty().then_some(o.until_ms))),
            None if calendar.is_open(unix_ms) => None,
            None => Some(calendar.next_open(unix_ms)),
        }
    }

    pub(super) fn on_window(&mut self, now: Now, client: ClientId, wanted: Window) {
        let now_ms = now.unix_us / 1000;
        let changed = match wanted {
            Window::Show => false,
            Window::Set(text) => match Calendar::new(&text) {
                Ok(calendar) => {
                    self.windows_set = Some(calendar);
                    self.state.windows = Some(text);
                    true
                }
                Err((key, what)) => return self.refuse(client, format!("{key}: {what}")),
            },
            Window::Reset => {
                self.windows_set = None;
                self.state.windows = None;
                self.state.window_override = None;
                true
            }
            Window::Open { for_s } | Window::Close { for_s } if for_s == 0 => {
                return self.refuse(client, "for_s: is 0; must be at least 1");
            }
            Window::Open { for_s } => {
                self.state.window_override =
                    Some(Override { open: true, until_ms: now_ms + u64::from(for_s) * 1000 });
                true
            }
            Window::Close { for_s } => {
                self.state.window_override =
                    Some(Override { open: false, until_ms: now_ms + u64::from(for_s) * 1000 });
                true
            }
        };
        let line = self.windows_json(now_ms);
        if changed {
            self.unsaved = true;
            self.tell("windows_changed", fields(&line), Audience::Everybody);
        }
        let mut line = fields(line);
        line.insert("ok".to_owned(), true.into());
        self.actions.push(Action::Reply { client, line: Value::Object(line) });
    }

    /// What was said for a while is over.
    pub(super) fn settle_windows(&mut self, now: Now) {
        self.unsaved |= self.state.window_override.take_if(|o| o.until_ms <= now.unix_us / 1000).is_some();
    }

    /// For status and `coms window`.
    pub(super) fn windows_json(&self, now_ms: u64) -> Value {
        let calendar = self.calendar();
        let closed = self.closed_until(now_ms);
        let overridden = self.overridden(now_ms);
        let changes = match (overridden, closed) {
            (Some(o), _) if o.open => Some(o.until_ms),
            (_, Some(opens)) => opens,
            (_, None) => calendar.next_change(now_ms),
        };
        json!({
            "open": closed.is_none(),
            "until": changes.map(|at| calendar.wall(at)),
            "until_unix_ms": changes,
            "welcome": calendar.text.welcome,
            "unwelcome": calendar.text.unwelcome,
            "time_zone": calendar.text.time_zone,
            "from": if self.windows_set.is_some() { "coms window" } else { "configuration" },
            "for_a_while": overridden.map(|o| if o.open { "open" } else { "closed" }),
        })
    }
}
