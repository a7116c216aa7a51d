//! From what is measured of the machine to "ask" or "do not ask": the agent's side of [`super::blame`].

use super::blame::{Verdict, judge};
use super::{Agent, fields};
use crate::action::{Action, Audience};
use crate::event::Measured;
use coms_protocol::session::Now;
use serde_json::{Value, json};
use std::time::Duration;

/// A request that is wanted waits so long for a verdict, at most.
const VERDICT_WAIT: Duration = Duration::from_secs(10);

/// One time in which workloads want to be moved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Episode {
    since: Duration,
    /// The customer was told that it is the guest's own doing.
    told: bool,
    /// The verdict is waited for.
    waiting: bool,
}

impl Agent {
    fn is_well(&self) -> bool {
        !self.watches.iter().any(super::rule::Watch::suffers)
    }

    /// Beside a probe, so that it costs no wake-up of its own.
    pub(super) fn measure_machine(&mut self, now: Now) {
        if self.moving.is_some() {
            return;
        }
        let well = self.is_well();
        if let Some(units) = self.blame.poll(now.mono, well) {
            self.actions.push(Action::Work { units });
        }
    }

    pub(super) fn on_measured(&mut self, m: &Measured) {
        // The brown-out around a migration is not how this machine normally is.
        let settled = self.moving.is_none() && self.measuring.is_none();
        if self.blame.measured(m, self.is_well(), settled) {
            self.state.usual = self.blame.usual().cloned();
            self.unsaved = true;
        }
    }

    /// An episode ends when all is well; nobody waits for a verdict unless a request is wanted.
    pub(super) fn settle_episode(&mut self) {
        if self.is_well() {
            self.episode = None;
        }
        if let Some(episode) = &mut self.episode {
            episode.waiting = false;
        }
    }

    /// Only what is surely the guest's own doing is no reason to ask: where the agent cannot tell, it asks with what
    /// it measured, and the host moves the guest only if it sees the guest's virtual CPUs wait.
    fn speaks_against(&self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Own => !self.config.asking.ask_for_own_load,
            Verdict::Host | Verdict::Unclear => false,
        }
    }

    /// Whether a wanted request may be made, as far as the guest's own load is concerned. Tells the customer
    /// when it may not.
    pub(super) fn may_ask(&mut self, now: Now) -> bool {
        let mut episode = self.episode.unwrap_or(Episode { since: now.mono, told: false, waiting: false });
        let ready = self.blame.is_ready(now.mono);
        episode.waiting = !ready && now.mono < episode.since + VERDICT_WAIT;
        let own = ready && {
            let figures = self.blame.figures(now.mono);
            let (verdict, why) = judge(&figures);
            let own = self.speaks_against(verdict);
            if own && !std::mem::replace(&mut episode.told, true) {
                let mut told = fields(figures);
                let workloads: Vec<_> =
                    self.watches.iter().filter(|w| w.suffers()).map(|w| w.name().to_owned()).collect();
                told.extend(fields(json!({ "workloads": workloads, "why": why })));
                self.tell("workload_slow_by_itself", told, Audience::Everybody);
            }
            own
        };
        let waiting = episode.waiting;
        self.episode = Some(episode);
        if waiting {
            self.measure_machine(now);
        }
        !waiting && !own
    }

    /// When a verdict that is waited for needs the next measurement, or will be waited for no more.
    pub(super) fn verdict_timeout(&self) -> Option<Duration> {
        let episode = self.episode.filter(|e| e.waiting)?;
        let end = episode.since + VERDICT_WAIT;
        Some(if self.blame.is_measuring() { end } else { end.min(self.blame.due(false)) })
    }

    /// For `coms status`. None: nothing is measured.
    pub(super) fn machine(&self, now: Duration) -> Option<Value> {
        let figures = self.blame.figures(now);
        if self.watches.is_empty() {
            return None;
        }
        let judged = (!self.is_well() && self.blame.is_ready(now)).then(|| judge(&figures));
        let (verdict, why) = judged.unzip();
        let mut map = fields(figures);
        let reason_to_ask = verdict.map(|v| !self.speaks_against(v));
        map.extend(fields(json!({ "verdict": verdict, "why": why, "reason_to_ask": reason_to_ask })));
        Some(Value::Object(map))
    }
}
