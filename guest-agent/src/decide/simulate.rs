//! `coms simulate`: a whole migration for applications, commands and hooks, without moving anything. Everything that
//! is said of it is marked `simulated`; it is never in the history, and the host hears nothing of it.

use super::announced::Announced;
use super::{Agent, fields};
use crate::action::{Action, Audience};
use crate::event::{ClientId, Simulate};
use crate::state::Outcome;
use coms_protocol::host_to_guest::{Notice, Terms};
use coms_protocol::session::Now;
use coms_protocol::types::{Initiator, MigrationId, NoticeReason, Phase, Technique};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How long each stage takes.
const STAGE: Duration = Duration::from_millis(500);
const MAX_MS: u32 = 3_600_000;

/// What is played once the notice is over.
#[derive(Debug)]
pub(super) struct Simulated {
    outcome: Outcome,
    expedited: bool,
    begun: Option<Duration>,
    stages: u32,
}

impl Simulated {
    pub(super) fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.begun.map(|b| b + STAGE * self.stages)
    }
}

impl Agent {
    pub(super) fn on_simulate(&mut self, now: Now, client: ClientId, wanted: &Simulate) {
        if let Some(announced) = &self.announced {
            let what = if announced.simulated.is_some() {
                "a simulation is under way"
            } else {
                "a move is announced"
            };
            return self.refuse(client, format!("{what}: {}", announced.migration()));
        }
        if let Some(moving) = &self.moving {
            return self.refuse(client, format!("the VM is being moved: {}", moving.migration));
        }
        let outcome = match wanted.outcome.as_deref() {
            None | Some("completed") => Outcome::Completed,
            Some("failed") => Outcome::Failed,
            Some("cancelled") => Outcome::Cancelled,
            Some(other) => {
                return self.refuse(
                    client,
                    format!("outcome: is \"{other}\"; must be completed, failed or cancelled"),
                );
            }
        };
        let wants = self.attend();
        let ms = |own: Option<u32>, d: Duration| {
            own.map_or(u32::try_from(d.as_millis()).unwrap_or(u32::MAX), |s| s.saturating_mul(1000))
                .min(MAX_MS)
        };
        let migration = MigrationId(self.state.next_id());
        self.unsaved = true;
        let expedited = wanted.expedited;
        let (notice_ms, hold_ms) = (ms(wanted.notice_s, wants.notice), ms(wanted.hold_s, wants.hold));
        // As a host means it: counted from the notice, so what may be held comes on top of that.
        let hold_up_to_ms = if hold_ms == 0 { 0 } else { notice_ms.saturating_add(hold_ms) };
        let terms = Terms {
            migration,
            reason: NoticeReason::Unstated,
            hold_up_to_ms: if expedited { 0 } else { hold_up_to_ms },
            postpone_up_to_s: 0,
            may_veto: false,
            expedited,
        };
        let notice = Notice {
            migration,
            request: None,
            initiator: Initiator::Operator,
            technique: Technique::PreCopy,
            starts_in_ms: if expedited { 0 } else { notice_ms },
            predicted_downtime_ms: None,
            predicted_total_ms: None,
        };
        if wanted.watch {
            self.actions.push(Action::Watch(client));
        }
        let line = json!({ "ok": true, "simulated": true, "migration": migration, "asked": self.apps.len()
            + self.config.asked.iter().filter(|a| a.before.is_some()).count() });
        self.actions.push(Action::Reply { client, line });
        let simulated = Simulated { outcome, expedited, begun: None, stages: 0 };
        self.announce(now, notice, Some(terms), Some(simulated));
    }

    /// Plays what is due.
    pub(super) fn settle_simulated(&mut self, now: Now) {
        loop {
            let Some(announced) = &mut self.announced else { return };
            let begins = announced.begins(now.mono);
            let migration = announced.migration();
            let Some(simulated) = &mut announced.simulated else { return };
            if simulated.begun.is_none() {
                if !begins {
                    return;
                }
                simulated.begun = Some(now.mono);
            }
            if simulated.next_timeout().is_none_or(|due| due > now.mono) {
                return;
            }
            simulated.stages += 1;
            let (stage, outcome, expedited) = (simulated.stages, simulated.outcome, simulated.expedited);
            let told = fields(json!({ "migration": migration, "simulated": true }));
            let phase = |phase: Phase| {
                let mut told = told.clone();
                told.extend(fields(json!({ "phase": phase })));
                told
            };
            match stage {
                1 => self.tell("preparing", told, Audience::Everybody),
                2 => {
                    self.tell_all("started", told.clone());
                    self.tell("progress", phase(Phase::Copying), Audience::Watchers);
                }
                3 => self.tell("progress", phase(Phase::SwitchingOver), Audience::Watchers),
                _ => {
                    let mut told = told;
                    told.extend(fields(
                        json!({ "outcome": outcome, "expedited": expedited.then_some(true) }),
                    ));
                    return self.end_simulation(migration, outcome.name(), told);
                }
            }
        }
    }

    fn end_simulation(&mut self, migration: MigrationId, event: &str, told: Map<String, Value>) {
        self.tell_all(event, told.clone());
        self.end_announced(migration, event, told);
    }

    /// A real move is more important.
    pub(super) fn stop_simulating(&mut self, why: &str) {
        let simulated = self.announced.as_ref().filter(|a| a.simulated.is_some());
        if let Some(migration) = simulated.map(Announced::migration) {
            let told = json!({ "migration": migration, "simulated": true, "why": why });
            self.end_simulation(migration, "cancelled", fields(told));
        }
    }
}
