//! What a VM keeps outside of its memory, and what becomes of it when the VM moves. Pure: texts and views in, plans and
//! refusals with reasons out.
//!
//! ```text
//!   live XML ──> DomainStorage::read ──> question ──> asked of this host and of each destination (io/libvirt/storage.rs)
//!                                                                         │ View, View
//!                                                                         v
//!                                            plan: what is copied, and how  |  Refusal: why it cannot go there
//! ```
//! An image's format is what the domain's XML says. What libvirt finds by looking into an image a guest may have written:
//! where the two differ, nothing is copied.

mod plan;
mod read;
#[cfg(test)]
mod tests;

pub use plan::{plan, question};

use coms_protocol::types::{DenyReason, MigrationId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Disks, and other things with state elsewhere, of one VM that are looked at; one with more of either is not moved.
pub const MOST: usize = 64;

/// What a domain keeps outside of its memory, as its live XML tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainStorage {
    pub disks: Vec<Disk>,
    pub devices: Vec<Device>,
    /// There is more than was looked at.
    pub too_many: bool,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its name in the guest, as libvirt has it: `vda`. What a migrate call lists.
    pub target: String,
    pub image: Image,
    pub readonly: bool,
    /// Other VMs may write to it, too (`<shareable/>`).
    pub shareable: bool,
    /// What it is an overlay of, nearest first.
    pub chain: Vec<Image>,
    /// libvirt has told where the chain ends.
    pub chain_known: bool,
}

/// A disk's own image, or one that it is an overlay of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub source: Source,
    /// As QEMU was told; empty where nobody said.
    pub format: String,
    pub encrypted: bool,
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// No medium is in.
    Empty,
    File(String),
    Block(String),
    /// Reached over the network by QEMU itself, wherever it runs: `rbd`, `iscsi`, `nbd` ...
    Network(String),
    /// libvirt's type of it.
    Other(String),
}

/// Something besides disks that holds state, or needs something of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// An emulated TPM: libvirt moves its state when it can start swtpm there.
    Tpm,
    /// Rules for a network card, by name. They do not travel: libvirt applies what has that name there.
    Filter(String),
    /// A key or a password, which libvirt looks up on each host.
    Secret(Uuid),
    /// The same, named in another way than we look it up.
    SecretByUsage(String),
    /// It is part of this host, and no move takes it along. What it is, for the operator.
    Stays(&'static str),
}

/// What a host is asked on a domain's behalf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    pub files: BTreeSet<String>,
    pub filters: BTreeSet<String>,
    pub secrets: BTreeSet<Uuid>,
    pub tpm: bool,
}

impl Question {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a host answers. What is not in it, is not there; of a file that was not asked for, nothing is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    pub files: BTreeMap<String, Seen>,
    /// With those that they include: what each says, as far as it is not the host's own.
    pub filters: BTreeMap<String, String>,
    pub secrets: BTreeSet<Uuid>,
    /// It can emulate a TPM.
    pub tpm: bool,
}

/// Where a path belongs on one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The active storage pool whose directory it is in.
    pub pool: Option<Pool>,
    /// What is there, as that pool knows it.
    pub volume: Option<Volume>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    /// What it mounts, if it is a network's file system: equal at both hosts, the files are the same files.
    pub network: Option<String>,
    pub available_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub format: String,
    /// What the guest sees as its disk's size.
    pub capacity_bytes: u64,
    /// What it takes on the host.
    pub allocation_bytes: u64,
}

/// How a domain's disks go to one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub copies: Vec<Copy>,
    /// What becomes of each disk, for the operator.
    pub notes: Vec<String>,
}

impl Plan {
    /// One of them is an overlay whose base is there already. QEMU then sends of each disk its uppermost image only, which
    /// of one without a base is all of it; so both kinds go in one call.
    pub fn incremental(&self) -> bool {
        self.copies.iter().any(|c| c.base.is_some())
    }

    pub fn targets(&self) -> Vec<String> {
        self.copies.iter().map(|c| c.target.clone()).collect()
    }
}

/// One image that is copied; at the destination it is made first, empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    pub target: String,
    /// The same at both hosts.
    pub path: String,
    pub format: String,
    pub capacity_bytes: u64,
    /// Room that the destination must have for it.
    pub needs_bytes: u64,
    /// What it is an overlay of: path and format, the same at both hosts.
    pub base: Option<(String, String)>,
}

/// Why a domain cannot go somewhere with what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// For the operator: names paths.
    pub detail: String,
}

/// What stands against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// A disk that is neither shared nor can be copied.
    Disk,
    /// No storage pool for a disk, no base for an overlay, or no image for a read-only disk.
    NoPlace,
    /// A file of that name is there.
    InTheWay,
    NoRoom,
    /// More than policy lets be copied.
    TooMuch,
    /// A device that is part of its host.
    Device,
    /// What a device needs is not there.
    DeviceNotReady,
    /// A host did not answer, or the domain has changed since it was asked.
    NotKnown,
}

impl RefusalKind {
    /// As the guest may know it.
    pub fn reason(self) -> DenyReason {
        match self {
            Self::Disk => DenyReason::DiskNotMovable,
            Self::NoPlace | Self::InTheWay => DenyReason::DiskNotReady,
            Self::NoRoom => DenyReason::DiskNoRoom,
            Self::TooMuch => DenyReason::Policy,
            Self::Device => DenyReason::DeviceNotMovable,
            Self::DeviceNotReady => DenyReason::DeviceNotReady,
            Self::NotKnown => DenyReason::HostTrouble,
        }
    }

    /// When asking again may help.
    pub fn retry_after_s(self) -> Option<u32> {
        match self {
            Self::NotKnown => Some(10),
            Self::NoRoom => Some(300),
            Self::Disk
            | Self::NoPlace
            | Self::InTheWay
            | Self::TooMuch
            | Self::Device
            | Self::DeviceNotReady => None,
        }
    }
}

/// Making images at a destination failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MakeError {
    pub refusal: Refusal,
    /// Some may be there all the same.
    pub unsure: bool,
}

/// What came of removing images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// None of them is there any more.
    Gone,
    /// A VM there has them; who, for the operator. Nothing is removed under it, also not when it is shut off later.
    InUse(String),
}

/// Images that this broker had made at a destination, or is having made. Kept across restarts, for they are to go again
/// if the move fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub vm: Uuid,
    /// Of the domain, for people.
    pub domain: String,
    pub migration: MigrationId,
    /// The destination's name, and its libvirt then: by the same name the configuration may mean another machine now.
    pub host: String,
    #[serde(default)]
    pub uri: String,
    pub stage: MadeStage,
    pub copies: Vec<Copy>,
}

impl Made {
    pub fn paths(&self) -> String {
        self.copies.iter().map(|c| c.path.as_str()).collect::<Vec<_>>().join(", ")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MadeStage {
    /// Asked for; which of them are there and ours is not known.
    Making,
    /// There, and ours.
    Made,
    /// The move has failed: they are being removed.
    Removing,
    /// The move is done: those at the source are being removed.
    Left,
}
