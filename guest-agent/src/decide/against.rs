//! Postpone and veto, by hand or by windows, the hosts that the guest may run on, and the host's answers to that.
//!
//! A client that asked hears the host's verdict; where none comes in time (an older broker knows nothing of this) it
//! hears that.

use super::{Agent, fields};
use crate::action::{Action, Audience};
use crate::event::{ClientId, Postpone, Veto};
use coms_protocol::GuestToHost;
use coms_protocol::guest_to_host::{self, HostsQuery};
use coms_protocol::host_to_guest::{Hosts, Verdict};
use coms_protocol::session::Now;
use coms_protocol::types::{Asked, Cause, MigrationId};
use serde_json::json;
use std::time::Duration;

/// A client is not kept waiting longer: `coms` gives up after 10 s.
const ANSWER_WAIT: Duration = Duration::from_secs(8);
/// Answers that are awaited.
const MAX_AWAITED: usize = 16;

/// An answer of the host that somebody waits for.
#[derive(Debug)]
pub(super) struct Awaited {
    what: What,
    client: Option<ClientId>,
    until: Duration,
}

/// What speaks against a move.
#[derive(Debug, Clone, Copy)]
pub(super) enum Against {
    Postpone(guest_to_host::Postpone),
    Veto(guest_to_host::Veto),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Verdict(MigrationId, Asked),
    Hosts(u64),
}

impl Agent {
    pub(super) fn on_postpone(&mut self, now: Now, client: ClientId, wanted: Postpone) {
        let limit = match self.objection(wanted.migration) {
            Ok(terms) => terms.postpone_up_to_s,
            Err(error) => return self.refuse(client, error),
        };
        if wanted.for_s == 0 || wanted.for_s > limit {
            let most =
                if limit == 0 { "not at all".to_owned() } else { format!("by 1 to {limit} s from now") };
            return self
                .refuse(client, format!("{}: the operator lets it be postponed {most}", wanted.migration));
        }
        let Postpone { migration, for_s } = wanted;
        let message = guest_to_host::Postpone { migration, for_s, cause: Cause::Manual };
        self.say_against(now, Against::Postpone(message), Some(client));
    }

    pub(super) fn on_veto(&mut self, now: Now, client: ClientId, wanted: Veto) {
        match self.objection(wanted.migration) {
            Ok(terms) if terms.may_veto => {
                let message = guest_to_host::Veto { migration: wanted.migration, cause: Cause::Manual };
                self.say_against(now, Against::Veto(message), Some(client));
            }
            Ok(_) => self.refuse(
                client,
                format!("{}: the operator does not let this move be vetoed", wanted.migration),
            ),
            Err(error) => self.refuse(client, error),
        }
    }

    /// The terms of the announced move, if it is the one that is meant.
    fn objection(&self, migration: MigrationId) -> Result<coms_protocol::host_to_guest::Terms, String> {
        let announced = self.announced.as_ref().filter(|a| a.migration() == migration);
        let Some(announced) = announced else {
            let which = match &self.announced {
                Some(a) => format!("that is {}", a.migration()),
                None => "none is".to_owned(),
            };
            return Err(format!("{migration} is not the announced move; {which}"));
        };
        if announced.simulated.is_some() {
            return Err(format!("{migration} is simulated; nothing will move"));
        }
        if !self.link.established {
            return Err("the host is not connected".to_owned());
        }
        announced.terms.ok_or_else(|| format!("{migration}: nothing is offered for this move"))
    }

    /// Says it, and waits for the verdict.
    pub(super) fn say_against(&mut self, now: Now, said: Against, client: Option<ClientId>) {
        let (event, told, what, message): (_, _, _, GuestToHost) = match said {
            Against::Postpone(m) => {
                ("postpone", fields(m), What::Verdict(m.migration, Asked::Postpone), m.into())
            }
            Against::Veto(m) => ("veto", fields(m), What::Verdict(m.migration, Asked::Veto), m.into()),
        };
        if !self.await_answer(now, what, client) {
            return;
        }
        if let (Against::Postpone(_), Some(announced)) = (said, &mut self.announced) {
            announced.put_off = true;
        }
        self.tell(event, told, Audience::Everybody);
        self.actions.push(Action::Send(message));
    }

    /// False: too much is asked already.
    fn await_answer(&mut self, now: Now, what: What, client: Option<ClientId>) -> bool {
        if self.awaited.len() >= MAX_AWAITED {
            if let Some(client) = client {
                self.refuse(client, "too much is asked of the host at once; try again");
            }
            return false;
        }
        self.awaited.push(Awaited { what, client, until: now.mono + ANSWER_WAIT });
        true
    }

    pub(super) fn on_verdict(&mut self, now: Now, m: Verdict) {
        self.tell_all("verdict", fields(m));
        match m.asked {
            Asked::Hold => self.hold_answered(now, m.migration, m.granted, m.starts_in_ms),
            Asked::Postpone | Asked::Veto if !m.granted => self.put_off_refused(now),
            Asked::Postpone => self.put_off_granted(now, m.migration, m.starts_in_ms),
            Asked::Veto | Asked::Unknown(_) => {}
        }
        self.answer(What::Verdict(m.migration, m.asked), || {
            if m.granted {
                json!({ "ok": true, "migration": m.migration, "asked": m.asked, "starts_in_ms": m.starts_in_ms })
            } else {
                json!({ "ok": false, "error": format!("{}: the host does not grant it", m.migration) })
            }
        });
    }

    pub(super) fn on_hosts_wanted(&mut self, now: Now, client: ClientId) {
        if !self.link.established {
            return self.refuse(client, "the host is not connected");
        }
        self.next_ping += 1;
        let number = self.next_ping;
        if self.await_answer(now, What::Hosts(number), Some(client)) {
            self.actions.push(Action::Send(HostsQuery { number }.into()));
        }
    }

    pub(super) fn on_hosts(&mut self, m: &Hosts) {
        let here = self.link.place.clone();
        self.answer(
            What::Hosts(m.number),
            || json!({ "ok": true, "here": here, "hosts": m.hosts.as_slice(), "all": m.all }),
        );
    }

    fn answer(&mut self, what: What, line: impl FnOnce() -> serde_json::Value) {
        let Some(index) = self.awaited.iter().position(|a| a.what == what) else { return };
        if let Some(client) = self.awaited.remove(index).client {
            self.actions.push(Action::Reply { client, line: line() });
        }
    }

    /// What did not come in time does not come.
    pub(super) fn settle_awaited(&mut self, now: Now) {
        let over: Vec<_> = self.awaited.extract_if(.., |a| a.until <= now.mono).collect();
        for client in over.into_iter().filter_map(|a| a.client) {
            self.refuse(client, "the host did not answer: its coms-broker may be too old for this");
        }
    }

    pub(super) fn awaited_timeout(&self) -> Option<Duration> {
        self.awaited.iter().map(|a| a.until).min()
    }
}
