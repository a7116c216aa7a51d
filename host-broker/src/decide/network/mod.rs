//! A VM that goes to another site takes its network along: the operator's step stretches it, at both ends, before
//! anything moves, and it is taken down when the VM is back, or nowhere any more.
//!
//! ```text
//!             the VM's home                                      the other site
//!   chosen ──> STEP prepare ──> asks the other broker ──────────> STEP receive
//!                 │ refused          │ refused, silent    <────── done, or why not
//!                 v                  v
//!   denied: unreachable; STEP undo at both ends              up: the ticket is written, the VM moves
//!   it did not leave: STEP undo at both ends
//!   the VM is home again for `release_after_s`, or on no host for ten minutes: STEP release, at each end by its own clock
//! ```
//! Each end finds out by itself where the VM is, from the looks at all hosts that every broker takes; so no message must
//! arrive for a network to be taken down. While a host is silent that may have it, it stays (for an hour, if the VM is seen at home). What is under way is kept on
//! disk; a step that a killed broker had begun is begun again, or undone. What stands is made again at the broker's start, and
//! every few minutes: a reboot takes it along, and so does a bridge that is built anew.
//!
//! A VM that is away goes home or stays: a network stretched twice would be a loop.

mod asked;
mod barred;
mod idle;

use super::Broker;
use super::admission::Denial;
use super::alarms::Kind;
use super::guest::{Move, Way};
use super::moves::End as MoveEnd;
use super::placement::Verdict;
use crate::action::{Action, Level};
use crate::config::{Host, NetworkStep};
use crate::event::Now;
use crate::network::{End, Interface, PeerAsk, PeerCaller, Stage, StepError, StepInput, Stretch, Verb};
use crate::records::MoveState;
use coms_protocol::types::{DenyReason, MigrationId};
use std::time::Duration;
use uuid::Uuid;

/// Networks stretched at the same time; another broker cannot have more made here.
const STRETCHES: usize = 1024;
/// A step that failed to take a network down is tried again.
const STEP_AGAIN: Duration = Duration::from_secs(60);
/// What stands is made again this often, and at this broker's start.
const RENEW: Duration = Duration::from_secs(300);
/// Of a step where the configuration names none any more.
const UNSAID_LIMIT: Duration = Duration::from_secs(30);
/// Steps are killed at their limit: one of which nothing is heard so long after that was lost.
const STEP_SLACK: Duration = Duration::from_secs(30);

/// A stretched network, with what need not survive a restart.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) stretch: Stretch,
    /// This step runs, since then.
    running: Option<(Verb, Duration)>,
    /// Another broker waits for it.
    caller: Option<PeerCaller>,
    /// Since when it has not been needed.
    idle_since: Option<Duration>,
    /// When the step that ends it, or makes it again, is due.
    again_at: Duration,
    /// The VM has been here, or on its way to here, since this broker's start.
    was_here: bool,
}

impl Held {
    pub(super) fn new(stretch: Stretch) -> Self {
        Self {
            stretch,
            running: None,
            caller: None,
            idle_since: None,
            again_at: Duration::ZERO,
            was_here: false,
        }
    }
}

impl Broker {
    pub(super) fn step_limit(&self) -> Duration {
        self.config.network.as_ref().map_or(UNSAID_LIMIT, |n| n.timeout)
    }

    /// The way is fit: the VM's network first, if it does not reach there.
    pub(super) fn reach(&mut self, now: Now, uuid: Uuid) {
        let Some(guest) = self.guests.get_mut(&uuid) else { return };
        let Some(plan) = guest.mv.plan().cloned() else { return };
        let destination = plan.destination.as_ref().and_then(|d| self.config.host(d)).cloned();
        let Some(there) = destination else { return };
        let claim = plan.claim.as_ref().map(|found| format!("; {found}")).unwrap_or_default();
        let migration = plan.migration;
        self.log(Level::Info, Some(uuid), format!("{migration}: to {}{claim}", there.name));
        if self.is_late(now, uuid) {
            return self.call_off(now, uuid, Denial::new(DenyReason::DeadlinePassed), None);
        }
        let held = self.stretches.get(&uuid);
        // Home again: what is there already carries it.
        let is_going_home = held.is_some_and(|h| !h.stretch.home && h.stretch.input.there.site == there.site);
        if there.site == self.config.me.site || is_going_home {
            return self.make_disks(now, uuid);
        }
        let in_the_way = held.is_some_and(|h| {
            h.running.is_some()
                || matches!(h.stretch.stage, Stage::Ending(_))
                || h.stretch.input.there.name != there.name
        });
        if in_the_way {
            // One that stands and is only made again is the one that is wanted, a moment later.
            let stands = held
                .is_some_and(|h| h.stretch.stage == Stage::Up && h.stretch.input.there.name == there.name);
            if held.is_some_and(|h| h.stretch.home) && !stands {
                self.end_stretch(now, uuid, Verb::Release);
            }
            let text =
                "a network that was stretched for it before is in use, or still being taken down".to_owned();
            return self.cannot_reach(now, uuid, StepError { later: true, text });
        }
        let Some((step, input)) = self.step_input(uuid, migration, &there) else {
            let text = "[network] step, or an address of one of both hosts, is not set".to_owned();
            return self.cannot_reach(now, uuid, StepError { later: false, text });
        };
        let stretch = Stretch {
            home: true,
            input: StepInput { interfaces: self.interfaces(uuid), ..input },
            stage: Stage::Making,
            command: step.command,
        };
        if let Some(guest) = self.guests.get_mut(&uuid) {
            guest.mv = Move::Connecting { plan, way: Way::Stretching, since: now.mono };
        }
        if let Some(record) = self.record_mut(migration) {
            record.state = MoveState::Connecting;
        }
        self.stretches.insert(uuid, Held::new(stretch));
        // The other hosts of this site are to see it soon.
        self.beat_at = now.mono;
        self.run_step(now, uuid, Verb::Prepare);
    }

    fn interfaces(&self, uuid: Uuid) -> Vec<Interface> {
        self.guests.get(&uuid).map(|g| g.domain.interfaces.clone()).unwrap_or_default()
    }

    fn step_input(&self, vm: Uuid, migration: MigrationId, there: &Host) -> Option<(NetworkStep, StepInput)> {
        let end = |host: &Host| {
            Some(End { name: host.name.clone(), site: host.site.clone(), address: host.tunnel()? })
        };
        let (here, there) = (end(&self.config.me)?, end(there)?);
        let input = StepInput { vm, migration, interfaces: Vec::new(), here, there };
        Some((self.config.network.clone()?, input))
    }

    fn run_step(&mut self, now: Now, uuid: Uuid, verb: Verb) {
        let now_in_force = self.config.network.as_ref().map(|step| step.command.clone());
        let limit = self.step_limit();
        let Some(held) = self.stretches.get_mut(&uuid) else { return };
        held.running = Some((verb, now.mono));
        held.idle_since = None;
        held.stretch.command = now_in_force.unwrap_or_else(|| held.stretch.command.clone());
        let (command, input) = (held.stretch.command.clone(), Box::new(held.stretch.input.clone()));
        // On disk before it begins: who comes after a crash knows what may be half done.
        self.keep_stretches();
        self.out.push(Action::NetworkStep { verb, input, command, limit });
    }

    fn keep_stretches(&mut self) {
        let all = self.stretches.values().map(|h| h.stretch.clone()).collect();
        self.out.push(Action::KeepStretches(all));
    }

    /// A step has ended at this end.
    pub(super) fn step_done(&mut self, now: Now, uuid: Uuid, verb: Verb, result: Result<(), StepError>) {
        let Some(held) = self.stretches.get_mut(&uuid) else { return };
        if held.running.take_if(|(running, _)| *running == verb).is_none() {
            return;
        }
        let makes = matches!(verb, Verb::Prepare | Verb::Receive);
        if makes && held.stretch.stage == Stage::Up {
            return self.renewed(now, uuid, verb, result);
        }
        let migration = held.stretch.input.migration;
        match verb {
            Verb::Prepare => match result {
                _ if !self.is_awaited(uuid, migration) => self.connected_in_vain(now, uuid, migration),
                Ok(()) => self.ask_there(now, uuid),
                Err(e) => self.cannot_reach(now, uuid, e),
            },
            Verb::Receive => {
                let caller = held.caller.take();
                // The other end may have given up meanwhile.
                let wanted = held.stretch.stage == Stage::Making;
                let given_up = || StepError { later: true, text: "it was given up meanwhile".to_owned() };
                let result = if wanted { result } else { result.and(Err(given_up())) };
                if result.is_ok() {
                    held.stretch.stage = Stage::Up;
                    held.again_at = now.mono + RENEW;
                    self.keep_stretches();
                    // It may have failed to be taken down before.
                    self.settled(Kind::Network, Some(uuid));
                } else {
                    self.end_stretch(now, uuid, Verb::Undo);
                }
                if let Some(caller) = caller {
                    self.out.push(Action::AnswerPeer { caller, result });
                }
            }
            Verb::Undo | Verb::Release => match result {
                Ok(()) => {
                    self.stretches.remove(&uuid);
                    self.keep_stretches();
                    self.settled(Kind::Network, Some(uuid));
                }
                Err(e) => {
                    held.again_at = now.mono + STEP_AGAIN;
                    let text = format!(
                        "{migration}: the network that was stretched for this VM is still there: {} {}: {}; tried again \
                         every {} s",
                        held.stretch.command.join(" "),
                        verb.name(),
                        e.text,
                        STEP_AGAIN.as_secs()
                    );
                    self.raise(now, Kind::Network, Some(uuid), text);
                }
            },
        }
    }

    /// Its move still waits for the network, and is wanted.
    fn is_awaited(&self, uuid: Uuid, migration: MigrationId) -> bool {
        let mv = self.guests.get(&uuid).map(|g| &g.mv);
        matches!(mv, Some(Move::Connecting { plan, way: Way::Stretching, .. })
            if plan.migration == migration && plan.cancelled_by.is_none())
    }

    /// The network is there and the move is not wanted any more.
    fn connected_in_vain(&mut self, now: Now, uuid: Uuid, migration: MigrationId) {
        let plan = self.guests.get(&uuid).and_then(|g| match &g.mv {
            Move::Connecting { plan, .. } if plan.migration == migration => Some(plan.clone()),
            Move::Connecting { .. }
            | Move::None
            | Move::Announced { .. }
            | Move::Choosing(_)
            | Move::WritingTicket { .. }
            | Move::Running { .. }
            | Move::Unclear { .. } => None,
        });
        match plan.as_ref().and_then(|p| Some((p, p.cancelled_by?))) {
            Some((plan, by)) => self.did_not_leave(now, uuid, plan, MoveEnd::Cancelled(by)),
            None => self.undo_network(now, uuid, migration),
        }
    }

    fn ask_there(&mut self, now: Now, uuid: Uuid) {
        if !self.ask(uuid, Verb::Receive) {
            let text = "[[hosts]] link of the destination is not set any more".to_owned();
            self.cannot_reach(now, uuid, StepError { later: false, text });
        }
    }

    /// Whether it can be asked.
    fn ask(&mut self, uuid: Uuid, verb: Verb) -> bool {
        let Some(held) = self.stretches.get(&uuid) else { return false };
        let StepInput { vm, migration, interfaces, here, there } = held.stretch.input.clone();
        let Some(link) = self.config.host(&there.name).and_then(|h| h.link) else { return false };
        let host = there.name.clone();
        let ask = Box::new(PeerAsk { verb, vm, migration, interfaces, here, there });
        self.out.push(Action::AskPeer { host, link, ask });
        true
    }

    /// The other end has answered.
    pub(super) fn peer_answered(&mut self, now: Now, ask: &PeerAsk, result: Result<(), StepError>) {
        let uuid = ask.vm;
        match ask.verb {
            // Its own clock takes it down if this was lost.
            Verb::Undo | Verb::Prepare | Verb::Release => {
                if let Err(e) = result {
                    let text = format!("{}: the other end's network: {}", ask.migration, e.text);
                    self.log(Level::Info, Some(uuid), text);
                }
                return;
            }
            Verb::Receive => {}
        }
        let Some(held) = self.stretches.get_mut(&uuid) else { return };
        if held.stretch.input.migration != ask.migration || held.stretch.stage != Stage::Making {
            return;
        }
        if !self.is_awaited(uuid, ask.migration) {
            return self.connected_in_vain(now, uuid, ask.migration);
        }
        match result {
            Ok(()) => {
                if let Some(held) = self.stretches.get_mut(&uuid) {
                    held.stretch.stage = Stage::Up;
                    held.again_at = now.mono + RENEW;
                }
                self.keep_stretches();
                self.settled(Kind::Network, Some(uuid));
                // Begun at the same time elsewhere: neither goes, and each may ask again.
                if let Some(text) = self.stretched_beside(&self.interfaces(uuid)) {
                    return self.cannot_reach(now, uuid, StepError { later: true, text });
                }
                if self.is_late(now, uuid) {
                    return self.call_off(now, uuid, Denial::new(DenyReason::DeadlinePassed), None);
                }
                self.make_disks(now, uuid);
            }
            Err(e) => {
                let text = format!("at the other end: {}", e.text);
                self.cannot_reach(now, uuid, StepError { text, ..e });
            }
        }
    }

    pub(super) fn cannot_reach(&mut self, now: Now, uuid: Uuid, e: StepError) {
        let Some(plan) = self.guests.get_mut(&uuid).and_then(|g| g.mv.plan_mut()) else { return };
        let line = plan.considered.iter_mut().find(|c| Some(&c.host) == plan.destination.as_ref());
        if let Some(line) = line {
            line.verdict = Verdict::NetworkRefused { detail: e.text.clone() };
        }
        let plan = plan.clone();
        self.note_choice(&plan);
        if let Some(by) = plan.cancelled_by {
            return self.did_not_leave(now, uuid, &plan, MoveEnd::Cancelled(by));
        }
        let retry_after_s = e.later.then_some(30);
        self.call_off(now, uuid, Denial { reason: DenyReason::Unreachable, retry_after_s }, Some(e.text));
    }

    /// The move that this network was stretched for does not take place.
    pub(super) fn undo_network(&mut self, now: Now, uuid: Uuid, migration: MigrationId) {
        let is_its = |h: &Held| h.stretch.home && h.stretch.input.migration == migration;
        if self.stretches.get(&uuid).is_some_and(is_its) {
            // Its own clock takes that end down if this does not reach it.
            self.ask(uuid, Verb::Undo);
            self.end_stretch(now, uuid, Verb::Undo);
        }
    }

    /// Taken down, as soon as no other step runs.
    fn end_stretch(&mut self, now: Now, uuid: Uuid, verb: Verb) {
        let Some(held) = self.stretches.get_mut(&uuid) else { return };
        if matches!(held.stretch.stage, Stage::Ending(_)) {
            return;
        }
        held.stretch.stage = Stage::Ending(verb);
        held.again_at = now.mono;
        if held.running.is_none() {
            self.run_step(now, uuid, verb);
        } else {
            self.keep_stretches();
        }
    }
}
