//! Moves that are not wanted any more: one, by whoever asked for it or by the operator; or all of the customers'.
//!
//! A wish to cancel is remembered in the move's plan and acted on where the move stands: not begun, it is called
//! off at its next step; while memory is copied, libvirt is told to abort. After switch-over it is too late.

use super::Broker;
use super::announce::of_customer;
use super::guest::Move;
use super::moves::End;
use crate::action::{Action, Level};
use crate::control::Reply;
use crate::event::{Caller, Now};
use coms_protocol::host_to_guest::Cancelled;
use coms_protocol::types::{Figures, Initiator, MigrationId, RequestId};
use std::time::Duration;
use uuid::Uuid;

/// libvirt refuses to abort a job that is not quite there yet.
pub(super) const CANCEL_AGAIN: Duration = Duration::from_secs(2);

impl Broker {
    /// The guest does not want its request any more. Its final answer is the outcome, as always. One that this
    /// broker does not know is in the guest's next hello, if it still waits.
    pub(super) fn cancelled_by_guest(&mut self, now: Now, uuid: Uuid, request: RequestId) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Some(plan) = guest.mv.plan_mut() else { return };
        if !plan.requests.contains(&request) {
            return;
        }
        let migration = plan.migration;
        let began_it = of_customer(plan.initiator) && plan.requests.first() == Some(&request);
        if began_it && plan.requests.len() == 1 {
            if self.cancel(now, uuid, Initiator::Customer).is_ok() {
                self.log(
                    Level::Info,
                    Some(uuid),
                    format!("{migration}: its guest does not want it any more"),
                );
            }
        } else if !began_it {
            // Somebody else's move goes on without it.
            plan.requests.retain(|r| *r != request);
            let by = Initiator::Customer;
            let cancelled = Cancelled { migration, request: Some(request), by, figures: Figures::default() };
            self.answer(uuid, request, cancelled);
        }
    }

    /// `comsctl cancel`.
    pub(super) fn cancel_by_id(&mut self, now: Now, caller: Caller, id: MigrationId) {
        let found = self.guests.iter().find(|(_, g)| g.mv.plan().is_some_and(|p| p.migration == id));
        let reply = match found.map(|(uuid, _)| *uuid) {
            Some(uuid) => match self.cancel(now, uuid, Initiator::Operator) {
                Ok(()) => Reply::Done { text: format!("{id} is being cancelled; see comsctl show {id}") },
                Err(text) => Reply::Refused { text },
            },
            None => Reply::Refused {
                text: match self.records.iter().rev().find(|r| r.migration == id) {
                    Some(r) if r.state.is_final() => format!("{id} is over: {}", r.state.name()),
                    Some(_) => format!("{id} comes to this host; cancel it where it comes from"),
                    None => format!("this host knows no {id}; comsctl migrations lists what it knows"),
                },
            },
        };
        self.out.push(Action::Reply { caller, reply: Box::new(reply) });
    }

    pub(super) fn cancel(&mut self, now: Now, uuid: Uuid, by: Initiator) -> Result<(), String> {
        let Some(guest) = self.guests.get_mut(&uuid) else { return Ok(()) };
        if let Move::Running { switching_over: true, plan, .. } = &guest.mv {
            return Err(format!("{}: too late, it is switching over", plan.migration));
        }
        if let Some(plan) = guest.mv.plan_mut() {
            plan.cancelled_by.get_or_insert(by);
        }
        if let Move::Announced { plan, .. } = &guest.mv {
            // Nothing was begun: that is its end.
            let plan = plan.clone();
            self.did_not_leave(now, uuid, &plan, End::Cancelled(by));
            return Ok(());
        }
        match &mut guest.mv {
            Move::None
            | Move::Announced { .. }
            | Move::Choosing(_)
            | Move::Connecting { .. }
            | Move::WritingTicket { .. } => {}
            Move::Running { abort_at, .. } | Move::Unclear { abort_at, .. } => {
                *abort_at = now.mono + CANCEL_AGAIN;
                self.abort(uuid);
            }
        }
        Ok(())
    }

    /// `comsctl pause` and `resume`.
    pub(super) fn pause(&mut self, now: Now, caller: Caller, let_finish: bool) {
        self.paused = true;
        self.out.push(Action::KeepPaused(true));
        let customers = |g: &super::Guest| {
            g.mv.plan().is_some_and(|p| of_customer(p.initiator) && p.cancelled_by.is_none())
        };
        // What is only announced has not begun: there is nothing to finish.
        let moving: Vec<(Uuid, bool)> = (self.guests.iter().filter(|(_, g)| customers(g)))
            .map(|(uuid, g)| (*uuid, g.mv.is_under_way()))
            .collect();
        let cancelled = moving
            .iter()
            .filter(|(uuid, begun)| {
                !(let_finish && *begun) && self.cancel(now, *uuid, Initiator::Operator).is_ok()
            })
            .count();
        let text = format!(
            "customers' moves are paused on this host; {cancelled} of {} under way are being cancelled, the others \
             finish; comsctl resume ends it",
            moving.len()
        );
        self.log(Level::Warn, None, text.clone());
        self.out.push(Action::Reply { caller, reply: Box::new(Reply::Done { text }) });
    }

    pub(super) fn resume(&mut self, caller: Caller) {
        self.paused = false;
        self.out.push(Action::KeepPaused(false));
        let text = "customers may ask for moves again".to_owned();
        self.log(Level::Warn, None, text.clone());
        self.out.push(Action::Reply { caller, reply: Box::new(Reply::Done { text }) });
    }
}
