//! What a guest may say. All of it is a claim: the broker checks what it can and believes nothing about
//! outcomes or budgets.

use crate::types::{List, Metric, MigrationId, RequestId, RequestReason, Technique, Text};
use serde::{Deserialize, Serialize};

crate::messages! {
    /// Guest to host, numbers 16 to 255 (0 to 15 belong to the session).
    pub enum GuestToHost {
        /// Please move me.
        Request = 16,
        /// Answer me with this number.
        Ping = 17,
        /// What time is it on your side?
        TimeQuery = 18,
        /// I do not want it any more.
        Cancel = 19,
    }
}

/// The guest's part of a hello.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GuestHello {
    /// The agent's name and version.
    pub agent: Text<32>,
    /// Requests without a final answer. The broker answers each, or asks for it again.
    pub waiting: List<Waiting, 8>,
}

/// A request without a final answer, as the guest remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The request.
    pub request: RequestId,
    /// The migration it was accepted as, if the guest heard that.
    pub migration: Option<MigrationId>,
}

/// Please move me. Sent until it is acknowledged; final once answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// New for every request of this guest; a repeated id is the same request again.
    pub id: RequestId,
    /// Why.
    pub reason: RequestReason,
    /// What was measured.
    pub evidence: List<Evidence, 8>,
    /// What the move should be like.
    pub wishes: Wishes,
}

/// One measurement behind a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The customer's name for the workload.
    pub workload: Text<64>,
    /// What `now`, `baseline` and `threshold` measure, and their unit.
    pub metric: Metric,
    /// Measured over the last window.
    pub now: u64,
    /// What this workload normally shows, if it has learned that.
    pub baseline: Option<u64>,
    /// The limit that was crossed.
    pub threshold: Option<u64>,
    /// For how long it has been crossed, in seconds.
    pub for_s: u32,
    /// Measurements in the window.
    pub samples: u32,
}

/// What the move should be like. Absent means no wish.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wishes {
    /// One of the operator's regions.
    pub region: Option<Text<64>>,
    /// Better nowhere than here.
    pub avoid_this_host: bool,
    /// Pointless when not begun within this many seconds from its receipt.
    pub deadline_s: Option<u32>,
    /// Longest downtime the workload bears, in milliseconds.
    pub max_downtime_ms: Option<u32>,
    /// Techniques never to use.
    pub never: List<Technique, 8>,
}

/// Answer me with this number: a numbered round trip through both daemons (`coms ping`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Comes back in the [`Pong`](crate::host_to_guest::Pong).
    pub number: u64,
}

/// What time is it on your side? Not resent: a late answer is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeQuery {
    /// Comes back in the [`TimeReply`](crate::host_to_guest::TimeReply).
    pub number: u64,
}

/// The request is not wanted any more. It still gets its one final answer: cancelled, or what came first (after
/// switch-over a move is completed all the same). Nothing happens when it has had its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// Which.
    pub request: RequestId,
}
