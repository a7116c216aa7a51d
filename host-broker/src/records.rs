//! What the broker remembers of each move: for `comsctl migrations`, and across its own restarts (cooldown).

use crate::decide::placement::Considered;
use crate::hypervisor::Domain;
use coms_protocol::types::{Figures, Initiator, MigrationId, RequestId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Far more than a move has: between copying and unclear it may go back and forth.
const STEPS: usize = 32;

/// How far a move is, as this host knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveState {
    Choosing,
    WritingTicket,
    Copying,
    /// The call ended in an error or was lost; finding out where the VM is.
    Unclear,
    /// Left this host.
    Left,
    /// Being received.
    Arriving,
    /// Runs here; the guest has not heard yet.
    Arrived,
    /// Runs here, and the guest knows.
    Completed,
    Denied,
    Failed,
    Cancelled,
}

impl MoveState {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Choosing => "choosing",
            Self::WritingTicket => "writing the ticket",
            Self::Copying => "copying",
            Self::Unclear => "unclear",
            Self::Left => "left",
            Self::Arriving => "arriving",
            Self::Arrived => "arrived",
            Self::Completed => "completed",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn is_final(self) -> bool {
        match self {
            Self::Choosing
            | Self::WritingTicket
            | Self::Copying
            | Self::Unclear
            | Self::Arriving
            | Self::Arrived => false,
            Self::Left | Self::Completed | Self::Denied | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// One move as seen from this host. For the operator: holds host names and libvirt's texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoveRecord {
    pub migration: MigrationId,
    pub domain: String,
    pub uuid: Uuid,
    pub initiator: Initiator,
    pub request: Option<RequestId>,
    pub from: Option<String>,
    pub to: Option<String>,
    pub state: MoveState,
    /// Typed reason of a denial or failure.
    pub reason: Option<String>,
    /// libvirt's own words, for the operator only.
    pub detail: Option<String>,
    /// Why each host was or was not chosen.
    #[serde(default)]
    pub considered: Vec<Considered>,
    pub received_unix_ms: u64,
    /// From the request's receipt to libvirt's migrate call.
    pub request_to_call_ms: Option<f64>,
    /// From the resumption here to the outcome's being acted on in the guest.
    pub resumed_to_told_ms: Option<f64>,
    pub ended_unix_ms: Option<u64>,
    pub figures: Figures,
    /// Of the memory still to copy, while it is copied.
    pub bytes_remaining: Option<u64>,
    /// When it came into which state, oldest first.
    #[serde(default)]
    pub steps: Vec<Step>,
}

/// One change of a move's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub at_unix_ms: u64,
    pub state: MoveState,
}

impl MoveRecord {
    /// A move that has just begun here; everything else about it is not known yet.
    pub fn begun(migration: MigrationId, domain: &Domain, initiator: Initiator, unix_ms: u64) -> Self {
        Self {
            migration,
            domain: domain.name.clone(),
            uuid: domain.uuid,
            initiator,
            request: None,
            from: None,
            to: None,
            state: MoveState::Choosing,
            reason: None,
            detail: None,
            considered: Vec::new(),
            received_unix_ms: unix_ms,
            request_to_call_ms: None,
            resumed_to_told_ms: None,
            ended_unix_ms: None,
            figures: Figures::default(),
            bytes_remaining: None,
            steps: Vec::new(),
        }
    }

    /// Notes when it came into the state that it is in.
    pub fn note_step(&mut self, unix_ms: u64) {
        if self.steps.last().map(|s| s.state) != Some(self.state) {
            if self.steps.len() >= STEPS {
                // The first ones tell how it began, the last one how it ended.
                self.steps.pop();
            }
            self.steps.push(Step { at_unix_ms: unix_ms, state: self.state });
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn record(id: u64, uuid: u128, state: MoveState) -> MoveRecord {
        MoveRecord {
            migration: MigrationId(id),
            domain: "vm".into(),
            uuid: Uuid::from_u128(uuid),
            initiator: Initiator::Customer,
            request: None,
            from: None,
            to: None,
            state,
            reason: None,
            detail: None,
            considered: Vec::new(),
            received_unix_ms: id,
            request_to_call_ms: None,
            resumed_to_told_ms: None,
            ended_unix_ms: Some(id),
            figures: Figures::default(),
            bytes_remaining: None,
            steps: Vec::new(),
        }
    }
}
