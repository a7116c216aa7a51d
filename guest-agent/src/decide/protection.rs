//! How well moves are to be encrypted, as the guest wants it: said to every broker that is met, and with each request.
//!
//! ```text
//!   met ──> nothing wanted: nothing said, requests go out as ever
//!     └──> protect ──answered──> requests go out with their level
//!              └──not answered in time──> the host is too old: what requires encryption is refused here,
//!                                         what does not goes out as ever
//! ```
//! A request that needs a level waits for that answer: a broker that does not know levels would hear nothing of it. What
//! the customer wants is the configuration's word alone; a host that holds something else is told so.

use super::request::Step;
use super::{Agent, fields, known};
use crate::action::{Action, Audience};
use crate::state::{Enforcement, Outcome};
use coms_protocol::GuestToHost;
use coms_protocol::guest_to_host::{Protect, ProtectedRequest, Request};
use coms_protocol::host_to_guest::{Enforced, Protected};
use coms_protocol::session::Now;
use coms_protocol::types::EncryptionLevel;
use serde_json::{Value, json};
use std::time::Duration;

/// A host that knows the question answers at once, whatever else it has to do.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// An old host may have been upgraded by then.
const ASK_AGAIN_S: u32 = 300;

/// Why a request is not made. Told like a host's reasons.
pub(super) const TOO_OLD: &str = "host-too-old-to-encrypt";

/// What is known of the present host.
#[derive(Debug, Default)]
pub(super) struct Standing {
    number: u64,
    said: Option<EncryptionLevel>,
    due: Option<Duration>,
    answer: Option<Protected>,
    too_old: bool,
    /// The outstanding request waits to be said.
    held: bool,
    /// What the customer was told last.
    told: Option<Protected>,
}

impl Standing {
    pub(super) fn new(random: u64) -> Self {
        Self { number: random >> 11, ..Self::default() }
    }
}

impl Agent {
    /// Another broker: what it knows is to be found out.
    pub(super) fn protection_new_peer(&mut self) {
        let (number, told) = (self.protection.number, self.protection.told);
        self.protection = Standing { number, told, ..Standing::default() };
    }

    /// The request as it is to be said to the present host; none: not yet, or not at all.
    pub(super) fn with_its_level(&mut self, request: &Request, own: EncryptionLevel) -> Option<GuestToHost> {
        let level = own.or(self.config.encryption);
        let p = &mut self.protection;
        let plain = level == EncryptionLevel::Never || (p.too_old && level == EncryptionLevel::IfPossible);
        if plain {
            return Some(request.clone().into());
        }
        if p.answer.is_none() {
            p.held = true;
            return None;
        }
        Some(ProtectedRequest { request: request.clone(), level }.into())
    }

    /// Says what is wanted, where anything is or the host believes that something is.
    pub(super) fn settle_protection(&mut self, now: Now) {
        if !self.link.established {
            return;
        }
        let wish = self.config.encryption;
        let asks = self.state.life.asking().is_some_and(|a| a.encryption != EncryptionLevel::Never);
        let p = &mut self.protection;
        let differs = p.answer.is_some_and(|a| a.wish != wish);
        if !p.too_old && p.said != Some(wish) && (wish != EncryptionLevel::Never || asks || differs) {
            p.number = p.number.wrapping_add(1);
            p.said = Some(wish);
            p.due = p.answer.is_none().then_some(now.mono + ANSWER_LIMIT);
            self.actions.push(Action::Send(Protect { number: p.number, level: wish }.into()));
        }
        if self.protection.due.take_if(|due| *due <= now.mono).is_some() {
            self.protection.too_old = true;
            if wish != EncryptionLevel::Never {
                let told = json!({ "wanted": wish, "in_force": EncryptionLevel::Never, "why": TOO_OLD });
                self.tell("encryption", fields(told), Audience::Everybody);
            }
        }
        if self.protection.held && (self.protection.too_old || self.protection.answer.is_some()) {
            self.protection.held = false;
            self.say_or_refuse(now);
        }
    }

    fn say_or_refuse(&mut self, now: Now) {
        let wish = self.config.encryption;
        let Some(asking) = self.state.life.asking() else { return };
        let (request, level) = (asking.request.id, asking.encryption.or(wish));
        if self.protection.answer.is_some() || level != EncryptionLevel::Required {
            return self.say_request();
        }
        let Step::Refused(asking) = self.hear(super::request::Word::Denied { request }) else { return };
        self.end_moving(now);
        let end =
            super::host::Ending { why: Some(TOO_OLD.to_owned()), ..super::host::Ending::of(Outcome::Denied) };
        self.remember(now, Some(&asking), end);
        self.back_off(now, &asking, Some(ASK_AGAIN_S));
        let told = json!({ "request": request, "reason": TOO_OLD });
        self.tell_finally("denied", fields(told));
    }

    pub(super) fn on_protected(&mut self, m: Protected) {
        let plain = Protected { number: None, ..m };
        self.protection.answer = Some(plain);
        self.protection.due = None;
        self.protection.too_old = false;
        let nothing =
            Protected { number: None, level: EncryptionLevel::Never, by: None, wish: EncryptionLevel::Never };
        if self.protection.told.replace(plain).unwrap_or(nothing) != plain {
            let told = known(json!({ "in_force": m.level, "by": m.by, "wanted": m.wish }));
            self.tell("encryption", fields(told), Audience::Everybody);
        }
    }

    /// Kept until the outcome that it belongs to: that may be heard by another life of this agent.
    pub(super) fn on_enforced(&mut self, m: Enforced) {
        self.state.enforced = Some(m);
        self.unsaved = true;
    }

    pub(super) fn enforced_in(
        &mut self,
        migration: coms_protocol::types::MigrationId,
    ) -> Option<Enforcement> {
        let m = self.state.enforced.take_if(|m| m.migration == migration)?;
        let Enforced { migration: _, ram, disk, control, destination_certificate_sha256 } = m;
        Some(Enforcement { ram, disk, control, destination_certificate_sha256 })
    }

    pub(super) fn protection_timeout(&self) -> Option<Duration> {
        self.protection.due
    }

    /// For `coms status`: nothing if nobody wants anything.
    pub(super) fn protection_json(&self) -> Option<Value> {
        let wanted = self.config.encryption;
        let p = &self.protection;
        let found = p.answer.filter(|_| self.link.established);
        let in_force = found.map(|f| f.level);
        let quiet = |level: EncryptionLevel| level == EncryptionLevel::Never;
        if quiet(wanted) && in_force.is_none_or(quiet) {
            return None;
        }
        Some(known(json!({
            "wanted": wanted,
            "in_force": in_force,
            "by": found.and_then(|f| f.by),
            "kept_by_host": found.map(|f| f.wish == wanted),
            "why": p.too_old.then_some(TOO_OLD),
        })))
    }
}
