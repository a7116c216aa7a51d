//! What a guest may say. All of it is a claim: the broker checks what it can and believes nothing about
//! outcomes or budgets.

use crate::types::{
    Cause, EncryptionLevel, GapLaw, List, Metric, MigrationId, RequestId, RequestReason, Technique, Text,
};
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
        /// What applications here want to be asked about moves.
        Attend = 20,
        /// Nothing here objects any more: begin.
        Ready = 21,
        /// Wait, something here is not ready.
        Hold = 22,
        /// Not now: later.
        Postpone = 23,
        /// Not this move.
        Veto = 24,
        /// Which hosts may I run on?
        HostsQuery = 25,
        /// Move me at random times from now on.
        RandomStart = 26,
        /// No random moves any more.
        RandomStop = 27,
        /// How do my random moves stand?
        RandomQuery = 28,
        /// Which regions are there, and what belongs to each?
        RegionsQuery = 29,
        /// Encrypt my moves from now on, or no more.
        Protect = 30,
        /// Please move me, so well encrypted at least.
        ProtectedRequest = 31,
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
    /// The customer's name for the workload; of shares of clients the region's name.
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
    /// One of the operator's regions. With [`RequestReason::Clients`] also a host that is nearer to it than this one will
    /// do; with any other reason only one in it.
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

/// What applications here want to be asked about moves. Replaces what was said before; a guest that has not said it
/// since its hello is not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attend {
    /// The longest notice that one of them wants, in milliseconds.
    pub notice_ms: u32,
    /// The longest hold that one of them may ask for, in milliseconds.
    pub hold_ms: u32,
}

/// Nothing here objects to the announced move any more: it need not wait for the end of its notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The announced migration.
    pub migration: MigrationId,
}

/// Something here is not ready for the announced move. Answered with a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The announced migration.
    pub migration: MigrationId,
    /// How long it wants, in milliseconds from now; a later hold replaces an earlier one.
    pub for_ms: u32,
    /// What is not ready.
    pub cause: Cause,
    /// How many are not ready.
    pub holders: u16,
}

/// The announced move should begin later. Answered with a verdict, and with a new notice when granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Postpone {
    /// The announced migration.
    pub migration: MigrationId,
    /// Not before this many seconds from now.
    pub for_s: u32,
    /// Why.
    pub cause: Cause,
}

/// The announced move should not take place. Answered with a verdict, and with cancelled when granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Veto {
    /// The announced migration.
    pub migration: MigrationId,
    /// Why.
    pub cause: Cause,
}

/// Which hosts may I run on? Answered with hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsQuery {
    /// Comes back in the answer.
    pub number: u64,
}

/// Move me at random times from now on: each gap is drawn anew, by the host. Replaces what was asked for before.
/// Answered with random_status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RandomStart {
    /// Comes back in the answer.
    pub number: u64,
    /// How gaps are drawn.
    pub law: GapLaw,
    /// Shortest gap in seconds.
    pub least_s: u32,
    /// Longest gap in seconds.
    pub most_s: u32,
    /// Moves within 24 hours, if the guest wants fewer than the operator allows.
    pub most_per_day: Option<u16>,
}

/// No random moves any more. Answered with random_status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RandomStop {
    /// Comes back in the answer.
    pub number: u64,
}

/// How do my random moves stand? Answered with random_status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RandomQuery {
    /// Comes back in the answer.
    pub number: u64,
}

/// Which regions are there, and what belongs to each? Answered with regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionsQuery {
    /// Comes back in the answer.
    pub number: u64,
}

/// The guest's standing wish: so its moves are to be encrypted at least, whoever begins them, until it says otherwise.
/// Answered with protection once the host has kept it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protect {
    /// Comes back in the answer.
    pub number: u64,
    /// The least that will do.
    pub level: EncryptionLevel,
}

/// A request whose move must be encrypted so well at least. One message, so that no host can hear the request without
/// the level: one that does not know it answers nothing, and moves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectedRequest {
    /// As by itself.
    pub request: Request,
    /// The least that will do.
    pub level: EncryptionLevel,
}
