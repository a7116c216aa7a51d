//! What a host tells a guest. Never a host's name, address or URI; never libvirt's error text.

use crate::types::{
    DenyReason, Encryption, FailReason, Figures, Initiator, MigrationId, Phase, Place, RequestId, Technique,
};
use serde::{Deserialize, Serialize};

crate::messages! {
    /// Host to guest, numbers 256 to 511.
    pub enum HostToGuest {
        /// Your request became a migration.
        Accepted = 256,
        /// You are being moved already.
        AlreadyRunning = 257,
        /// Your request is refused.
        Denied = 258,
        /// I do not know this request: send it again.
        Resend = 259,
        /// You are going to be moved.
        Notice = 260,
        /// How far it is.
        Progress = 261,
        /// You were moved and run here now.
        Completed = 262,
        /// You were to be moved and run where you were.
        Failed = 263,
        /// The move was called off; you run where you were.
        Cancelled = 264,
        /// The answer to a ping.
        Pong = 265,
        /// The host's time.
        TimeReply = 266,
    }
}

/// The host's part of a hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHello {
    /// Where the guest is, as it may know it.
    pub place: Place,
    /// Whether the operator lets this guest take part. When not, it is told about moves and nothing else.
    pub enabled: bool,
}

/// Your request became a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The request.
    pub request: RequestId,
    /// What its outcome will be told under.
    pub migration: MigrationId,
}

/// You are being moved already; that migration's outcome answers this request too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlreadyRunning {
    /// The request.
    pub request: RequestId,
    /// The migration that is under way.
    pub migration: MigrationId,
}

/// Your request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// The request.
    pub request: RequestId,
    /// Why.
    pub reason: DenyReason,
    /// When asking again may help, in seconds.
    pub retry_after_s: Option<u32>,
}

/// I do not know this request: send it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resend {
    /// The request that the hello named.
    pub request: RequestId,
}

/// You are going to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The migration.
    pub migration: MigrationId,
    /// The request behind it.
    pub request: Option<RequestId>,
    /// Who wanted it.
    pub initiator: Initiator,
    /// How.
    pub technique: Technique,
    /// Not before this many milliseconds from now.
    pub starts_in_ms: u32,
    /// Expected downtime in milliseconds, where it is known.
    pub predicted_downtime_ms: Option<u32>,
    /// Expected total time in milliseconds, where it is known.
    pub predicted_total_ms: Option<u32>,
}

/// How far it is. Not resent: the next one says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The migration.
    pub migration: MigrationId,
    /// The stage.
    pub phase: Phase,
    /// Milliseconds since it started.
    pub elapsed_ms: u64,
    /// Bytes of memory in all.
    pub bytes_total: Option<u64>,
    /// Bytes still to copy; grows when the guest writes faster than the link carries.
    pub bytes_remaining: Option<u64>,
    /// Round of copying.
    pub round: Option<u64>,
}

/// You were moved and run here now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// The migration.
    pub migration: MigrationId,
    /// The request behind it.
    pub request: Option<RequestId>,
    /// Who wanted it.
    pub initiator: Initiator,
    /// How it was done.
    pub technique: Technique,
    /// What protected it.
    pub encryption: Encryption,
    /// Where the guest was, if this host can tell.
    pub from: Option<Place>,
    /// Where it is.
    pub to: Place,
    /// What it took.
    pub figures: Figures,
    /// Milliseconds from the resumption here to this message's making.
    pub told_after_ms: Option<u64>,
}

/// You were to be moved and run where you were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The migration.
    pub migration: MigrationId,
    /// The request behind it.
    pub request: Option<RequestId>,
    /// Why.
    pub reason: FailReason,
    /// What it took until then.
    pub figures: Figures,
}

/// The move was called off; you run where you were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// The migration.
    pub migration: MigrationId,
    /// The request behind it.
    pub request: Option<RequestId>,
    /// Who called it off.
    pub by: Initiator,
    /// What it took until then.
    pub figures: Figures,
}

/// The answer to a [`Ping`](crate::guest_to_host::Ping).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The ping's number.
    pub number: u64,
}

/// The host's time, for finding out how long the guest's clocks stood still (ARCHITECTURE.md, "Time").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeReply {
    /// The query's number.
    pub number: u64,
    /// The host's wall clock when it answered, microseconds since 1970.
    pub host_unix_us: u64,
}
