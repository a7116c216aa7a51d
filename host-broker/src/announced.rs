//! What outlives the broker beside the moves' records: announced moves that no ticket tells of yet, and which
//! domains were here.

use coms_protocol::types::{EncryptionLevel, Initiator, MigrationId, NoticeReason, Technique};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use uuid::Uuid;

/// An announced move that nobody in the guest would ask for again: the operator's, above all. One that the guest
/// asked for is in its own hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub migration: MigrationId,
    pub uuid: Uuid,
    pub initiator: Initiator,
    pub reason: NoticeReason,
    pub technique: Technique,
    pub only: Option<String>,
    pub expedited: bool,
    pub received_unix_ms: u64,
    pub earliest_unix_ms: u64,
    pub hold_ms: u64,
    pub latest_unix_ms: u64,
    pub postpones: u32,
    /// What requests that joined it want: they are told that they are accepted, and do not say it again.
    #[serde(default)]
    pub encryption: EncryptionLevel,
}

/// Each domain that was here, by the path of its port, which is another one whenever it comes again. What is here and
/// not in this, came while no broker listened.
pub type Stays = BTreeMap<Uuid, PathBuf>;
