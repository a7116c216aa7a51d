//! The customer does not want the outstanding request any more.
//!
//! A request that no host can have heard of ends at once, here. Any other gets its one final answer from a host,
//! for only a host knows whether the VM moves: the cancel is remembered and said to every broker that is met until
//! that answer comes. Where a broker wants the request again (`resend`), the cancel follows it.

use super::host::{Ending, record_json};
use super::request::{Asking, Life};
use super::{Agent, fields};
use crate::action::{Action, Audience};
use crate::event::ClientId;
use crate::state::Outcome;
use coms_protocol::GuestToHost;
use coms_protocol::guest_to_host;
use coms_protocol::session::Now;
use coms_protocol::types::{Initiator, RequestId};
use serde_json::json;

impl Agent {
    pub(super) fn on_cancel(&mut self, now: Now, client: ClientId, watch: bool) {
        let line = match self.cancel(now, client, watch) {
            Ok((request, ended)) => {
                json!({ "ok": true, "request": request, "ended": ended, "connected": self.link.established })
            }
            Err(error) => json!({ "ok": false, "error": error }),
        };
        // Before what watchers hear: the client must know the number first.
        self.actions.insert(0, Action::Reply { client, line });
    }

    /// The request, and whether it is over already.
    fn cancel(&mut self, now: Now, client: ClientId, watch: bool) -> Result<(RequestId, bool), String> {
        let (request, unheard) = match &self.state.life {
            Life::Idle => {
                let announced = self.announced.as_ref().filter(|a| a.simulated.is_none());
                let others = match (announced.map(|a| a.notice), &self.moving) {
                    (Some(notice), _) if notice.initiator == Initiator::Random => {
                        "; the random move is called off by `coms random stop`".to_owned()
                    }
                    (Some(notice), None) => {
                        let id = notice.migration;
                        format!(
                            "; see `coms postpone {id}` and `coms veto {id}` for the move that is announced"
                        )
                    }
                    (_, Some(_)) => {
                        "; the move that is under way was not asked for from here, and only the operator \
                                     can call it off"
                            .to_owned()
                    }
                    (None, None) => String::new(),
                };
                return Err(format!("no request is outstanding: there is nothing to cancel{others}"));
            }
            Life::Asked(asking) => (asking.request.id, !asking.said),
            Life::Accepted(taken) => (taken.asking.request.id, false),
        };
        if watch {
            self.actions.push(Action::Watch(client));
        }
        if unheard {
            self.end_unheard(now);
            return Ok((request, true));
        }
        if let Some(asking) = self.state.life.asking_mut().filter(|a| !a.cancelled) {
            asking.cancelled = true;
            self.unsaved = true;
            self.tell("cancelling", fields(json!({ "request": request })), Audience::Everybody);
        }
        self.say_cancel(request);
        Ok((request, false))
    }

    /// No host has heard of it, so none will answer.
    fn end_unheard(&mut self, now: Now) {
        let Life::Asked(asking) = std::mem::replace(&mut self.state.life, Life::Idle) else { return };
        let why = Some("by-customer".to_owned());
        let record = self.remember(now, Some(&asking), Ending { why, ..Ending::of(Outcome::Cancelled) });
        self.back_off(now, &asking, None);
        self.tell_finally("cancelled", record_json(&record));
    }

    /// Another broker: the one that heard the cancel may have forgotten it. One that the session still holds, or
    /// that will follow the request, comes to it anyway.
    pub(super) fn repeat_cancel(&mut self) {
        let cancelled = self.state.life.asking().filter(|a| a.cancelled && !self.request_queued);
        if let Some(request) = cancelled.map(|a| a.request.id) {
            self.say_cancel(request);
        }
    }

    fn say_cancel(&mut self, request: RequestId) {
        if self.cancel_queued.replace(request) != Some(request) {
            self.push_cancel(request);
        }
    }

    /// Behind a request that is said again, whatever was said before.
    pub(super) fn follow_with_cancel(&mut self, asking: &Asking) {
        if asking.cancelled {
            self.cancel_queued = Some(asking.request.id);
            self.push_cancel(asking.request.id);
        }
    }

    fn push_cancel(&mut self, request: RequestId) {
        self.actions.push(Action::Send(GuestToHost::Cancel(guest_to_host::Cancel { request })));
    }
}
