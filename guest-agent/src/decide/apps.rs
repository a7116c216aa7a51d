//! Applications that registered to be asked about moves, and what they say.
//!
//! Registered is who keeps its connection open. What they may take together is told to each host (`attend`): the
//! longest notice and the longest hold that one of them wants. The host waits no longer than that, and no longer than
//! the operator allows; a guest in which nobody registered is not waited for.

use super::round::{Limits, Party};
use super::{Agent, fields};
use crate::action::{Action, Audience};
use crate::event::{ClientId, Hold, Ready, Register};
use coms_protocol::GuestToHost;
use coms_protocol::guest_to_host::Attend;
use coms_protocol::session::Now;
use coms_protocol::types::{MigrationId, Text};
use serde_json::{Value, json};
use std::time::Duration;

/// Most applications; the socket has room for more, so that `coms` still gets in.
pub const MAX_APPS: usize = 16;
/// The longest notice and hold that one may ask for, in seconds. The operator allows less as a rule.
const MAX_S: u32 = 3600;
/// With windows, and nobody to ask, this much notice is enough to say "not now".
const WINDOW_NOTICE: Duration = Duration::from_secs(2);

/// A registered application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct App {
    pub(super) name: String,
    pub(super) limits: Limits,
}

impl Agent {
    pub(super) fn on_register(&mut self, now: Now, client: ClientId, wanted: &Register) {
        let line = match self.register(client, wanted) {
            Ok(()) => json!({ "ok": true, "registered": wanted.name, "connected": self.link.established }),
            Err(error) => return self.refuse(client, error),
        };
        // The answer first, then a notice that is out already.
        self.actions.push(Action::Reply { client, line });
        self.actions.push(Action::Inform(client));
        let told = json!({ "app": wanted.name, "notice_s": wanted.notice_s, "hold_s": wanted.hold_s });
        self.tell("app_registered", fields(told), Audience::Everybody);
        self.settle_attend();
        self.join_round(now, client);
    }

    fn register(&mut self, client: ClientId, wanted: &Register) -> Result<(), String> {
        if wanted.name.is_empty() || Text::<64>::clipped(&wanted.name).as_str() != wanted.name {
            return Err("name: must be 1 to 64 bytes of text without control characters".to_owned());
        }
        for (key, value) in [("notice_s", wanted.notice_s), ("hold_s", wanted.hold_s)] {
            if value > MAX_S {
                return Err(format!("{key}: is {value}; must be from 0 to {MAX_S}"));
            }
        }
        if self.apps.len() >= MAX_APPS && !self.apps.contains_key(&client) {
            return Err(format!("{MAX_APPS} applications are registered; no more are taken"));
        }
        let seconds = |s: u32| Duration::from_secs(s.into());
        let limits = Limits { notice: seconds(wanted.notice_s), hold: seconds(wanted.hold_s) };
        self.apps.insert(client, App { name: wanted.name.clone(), limits });
        Ok(())
    }

    /// It hung up: it is not asked any more, and not waited for.
    pub(super) fn app_gone(&mut self, client: ClientId) {
        let Some(app) = self.apps.remove(&client) else { return };
        if let Some(round) = self.announced.as_mut().and_then(|a| a.round_mut()) {
            round.leave(&Party::App(client));
        }
        self.tell("app_gone", fields(json!({ "app": app.name })), Audience::Everybody);
        self.settle_attend();
    }

    pub(super) fn on_ready(&mut self, client: ClientId, said: Ready) {
        let line = match self.answers(client, said.migration) {
            Ok(migration) => {
                if let Some(round) = self.announced.as_mut().and_then(|a| a.round_mut()) {
                    round.ready(&Party::App(client));
                }
                let app = self.apps.get(&client).map(|a| a.name.clone());
                let told = self.marked(json!({ "migration": migration, "app": app }));
                self.tell("app_ready", told, Audience::Everybody);
                json!({ "ok": true, "migration": migration })
            }
            Err(error) => json!({ "ok": false, "error": error }),
        };
        self.actions.push(Action::Reply { client, line });
    }

    pub(super) fn on_hold(&mut self, now: Now, client: ClientId, said: Hold) {
        let line = match self.app_holds(now, client, said) {
            Ok((migration, for_ms)) => json!({ "ok": true, "migration": migration, "held_for_ms": for_ms }),
            Err(error) => json!({ "ok": false, "error": error }),
        };
        self.actions.push(Action::Reply { client, line });
    }

    fn app_holds(&mut self, now: Now, client: ClientId, said: Hold) -> Result<(MigrationId, u64), String> {
        let migration = self.answers(client, said.migration)?;
        let round = self.announced.as_mut().and_then(|a| a.round_mut());
        let round = round.ok_or("nobody is asked about a move now")?;
        let until = round.hold(now.mono, &Party::App(client), Duration::from_secs(said.for_s.into()))?;
        let for_ms = u64::try_from((until - now.mono).as_millis()).unwrap_or(u64::MAX);
        let app = self.apps.get(&client).map(|a| a.name.clone());
        let told = self.marked(json!({ "migration": migration, "app": app, "for_ms": for_ms }));
        self.tell("app_holds", told, Audience::Everybody);
        Ok((migration, for_ms))
    }

    /// The migration that a registered application may answer now.
    fn answers(&self, client: ClientId, named: Option<MigrationId>) -> Result<MigrationId, String> {
        if !self.apps.contains_key(&client) {
            return Err("register first, and keep the connection open".to_owned());
        }
        let Some(announced) = &self.announced else {
            return Err("no move is announced".to_owned());
        };
        let migration = announced.migration();
        if let Some(named) = named.filter(|n| *n != migration) {
            return Err(format!("{named} is not the announced move; that is {migration}"));
        }
        if announced.round().is_none() {
            return Err(format!("{migration} does not wait for an answer now"));
        }
        Ok(migration)
    }

    /// What applications and commands want to be asked, together.
    pub(super) fn attend(&self) -> Limits {
        let commands = self.config.asked.iter().filter(|a| a.before.is_some());
        let all = self.apps.values().map(|a| a.limits);
        let all = all.chain(commands.map(|a| Limits { notice: a.timeout, hold: a.hold }));
        let windows = if self.has_windows() { WINDOW_NOTICE } else { Duration::ZERO };
        let least = Limits { notice: self.config.least_notice.max(windows), hold: Duration::ZERO };
        all.fold(least, |a, b| Limits { notice: a.notice.max(b.notice), hold: a.hold.max(b.hold) })
    }

    /// Tells the present host what is wanted, if that is news to it.
    pub(super) fn settle_attend(&mut self) {
        let Limits { notice, hold } = self.attend();
        let ms = |d: Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
        let attend = Attend { notice_ms: ms(notice), hold_ms: ms(hold) };
        // Also when that is nothing: who says so hears why a move comes, and each of its stages.
        if self.link.established && self.attend_said != Some(attend) {
            self.attend_said = Some(attend);
            self.actions.push(Action::Send(GuestToHost::Attend(attend)));
        }
    }

    /// Registered applications, for status.
    pub(super) fn apps_json(&self) -> Vec<Value> {
        let one = |a: &App| json!({ "app": a.name, "notice_s": a.limits.notice.as_secs(), "hold_s": a.limits.hold.as_secs() });
        self.apps.values().map(one).collect()
    }

    pub(super) fn refuse(&mut self, client: ClientId, error: impl Into<String>) {
        let line = json!({ "ok": false, "error": error.into() });
        self.actions.push(Action::Reply { client, line });
    }
}
