//! What the broker remembers of each move: for `comsctl migrations`, and across its own restarts (cooldown).

use crate::decide::placement::Considered;
use crate::hypervisor::Domain;
use crate::network::LinkFigures;
use crate::ticket::Channels;
use coms_protocol::types::{Cause, Figures, Initiator, MigrationId, NoticeReason, RequestId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Far more than a move has: between copying and unclear it may go back and forth.
const STEPS: usize = 32;

/// How far a move is, as this host knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveState {
    /// The guest was told and has time; `waits` says until when.
    Announced,
    Choosing,
    /// The way to the chosen host.
    Measuring,
    /// The VM's network is stretched to another site.
    Connecting,
    /// Images for its disks are made at the destination.
    MakingDisks,
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
            Self::Announced => "announced",
            Self::Choosing => "choosing",
            Self::Measuring => "measuring the way",
            Self::Connecting => "stretching the network",
            Self::MakingDisks => "making disks at the destination",
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
            Self::Announced
            | Self::Choosing
            | Self::Measuring
            | Self::Connecting
            | Self::MakingDisks
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
    /// Why it is made.
    #[serde(default = "unstated")]
    pub why: NoticeReason,
    /// The operator's hurry: the guest was not asked.
    #[serde(default)]
    pub expedited: bool,
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
    /// What protects it, channel by channel.
    #[serde(default)]
    pub channels: Option<Channels>,
    /// Of memory and disks still to copy, while they are copied.
    pub bytes_remaining: Option<u64>,
    /// Bytes of disks that were copied, as far as libvirt has told.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// What becomes of each disk.
    #[serde(default)]
    pub disks: Vec<String>,
    /// The way to the last host that was measured for it.
    #[serde(default)]
    pub link: Option<LinkFigures>,
    /// While it is announced: until when, and for what.
    #[serde(default)]
    pub waits: Option<Waits>,
    /// When it came into which state, oldest first.
    #[serde(default)]
    pub steps: Vec<Step>,
}

fn unstated() -> NoticeReason {
    NoticeReason::Unstated
}

/// What an announced move waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// It begins then, as things stand.
    pub until_unix_ms: u64,
    /// However long its guest holds it; only postponing it makes it later.
    pub at_most_unix_ms: u64,
    #[serde(flatten)]
    pub waits_for: WaitsFor,
}

/// Why it has not begun. What a guest says of itself is a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "for")]
pub enum WaitsFor {
    /// The guest was promised that much time.
    Notice,
    /// Something in the guest is not ready.
    Guest { cause: Cause, holders: u16 },
    /// The guest wanted it later.
    Postponed { cause: Cause },
    /// As many moves as this host makes at once are under way.
    OtherMoves,
    /// Somebody past the broker moves it.
    ForeignMove,
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
            why: NoticeReason::Unstated,
            expedited: false,
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
            channels: None,
            bytes_remaining: None,
            disk_bytes: None,
            disks: Vec::new(),
            link: None,
            waits: None,
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
            why: NoticeReason::Manual,
            expedited: false,
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
            channels: None,
            bytes_remaining: None,
            disk_bytes: None,
            disks: Vec::new(),
            link: None,
            waits: None,
            steps: Vec::new(),
        }
    }
}
