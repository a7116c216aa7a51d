//! What a host tells a guest. Never a host's name, address or URI; never libvirt's error text.

use crate::types::{
    Asked, DenyReason, Encryption, EncryptionLevel, FailReason, Figures, GapLaw, HostEntry, Initiator, List,
    MigrationId, NoticeReason, Phase, Place, Protection, RandomState, RegionEntry, RequestId, Technique,
    Text,
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
        /// What the guest may do about the move that a notice tells of.
        Terms = 267,
        /// The answer to hold, postpone and veto.
        Verdict = 268,
        /// The answer to a hosts query.
        Hosts = 269,
        /// How the guest's random moves stand.
        RandomStatus = 270,
        /// The answer to a regions query.
        Regions = 271,
        /// How well the guest's moves are encrypted from now on.
        Protected = 272,
        /// How well the move that the next completed tells of was encrypted.
        Enforced = 273,
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
    /// Bytes of memory in all, and of the disks that are copied.
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

/// What the guest may do about the move that the notice after it tells of. A newer one for the same migration
/// replaces it. A guest that knows no terms may do nothing about a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The migration.
    pub migration: MigrationId,
    /// Why it is made.
    pub reason: NoticeReason,
    /// Hold is granted until at most this many milliseconds from now; 0: not at all.
    pub hold_up_to_ms: u32,
    /// Postpone is granted until at most this many seconds from now; 0: not at all.
    pub postpone_up_to_s: u32,
    /// Veto is granted.
    pub may_veto: bool,
    /// The operator overrides what the guest wants: neither windows nor holds count.
    pub expedited: bool,
}

/// The answer to hold, postpone and veto.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The migration.
    pub migration: MigrationId,
    /// What was asked.
    pub asked: Asked,
    /// Granted, at least in part.
    pub granted: bool,
    /// The move begins after at most this many milliseconds from now, unless it is put off again; 0: it has begun
    /// or will not take place.
    pub starts_in_ms: u64,
}

/// The answer to a hosts query: where the guest may run, as it may know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// The query's number.
    pub number: u64,
    /// The first 16 of the operator's pool.
    pub hosts: List<HostEntry, 16>,
    /// Hosts of the pool in all.
    pub all: u16,
}

/// How the guest's random moves stand. Sent as an answer, and when they stop by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RandomStatus {
    /// The number of the query that it answers.
    pub number: Option<u64>,
    /// Whether moves are made, and if not, why.
    pub state: RandomState,
    /// How gaps are drawn.
    pub law: GapLaw,
    /// Shortest gap in seconds.
    pub least_s: u32,
    /// Longest gap in seconds.
    pub most_s: u32,
    /// Moves within 24 hours at most.
    pub most_per_day: u16,
    /// Of them made within the last 24 hours.
    pub made: u16,
    /// Hosts among which a destination is drawn, the present one included; 0: not known now.
    pub pool: u16,
}

/// The answer to a regions query: the operator's regions, for a guest to find the one its clients are in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regions {
    /// The query's number.
    pub number: u64,
    /// The first 16 of them.
    pub regions: List<RegionEntry, 16>,
    /// Regions in all.
    pub all: u16,
}

/// How well the guest's moves are encrypted from now on. Sent as an answer, and to a new peer where it is more than
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protected {
    /// The number of the wish that it answers.
    pub number: Option<u64>,
    /// What holds for every move: the strongest of the guest's wish and what the operator demands.
    pub level: EncryptionLevel,
    /// Who demands that; none: nobody demands anything.
    pub by: Option<Initiator>,
    /// The guest's wish, as this host knows it.
    pub wish: EncryptionLevel,
}

/// How well a move was encrypted, channel by channel: what both hosts' hypervisors were told to enforce. Stands before
/// the completed of the same migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// The migration.
    pub migration: MigrationId,
    /// Memory and devices' state.
    pub ram: Protection,
    /// Copies of disks.
    pub disk: Protection,
    /// What the hypervisors said to each other about it.
    pub control: Protection,
    /// SHA-256, in small hexadecimal letters, of the certificate that is installed at the destination, as its broker
    /// reads it. Not what was seen on the wire: hypervisors do not tell that.
    pub destination_certificate_sha256: Option<Text<64>>,
}
