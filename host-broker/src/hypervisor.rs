//! The hypervisor in our own words: what the broker asks of libvirt and what it hears back.
//!
//! Plain values, no libvirt type: `decide/` reasons about these, and `io/libvirt.rs` is the one file that
//! turns them into calls. Nothing here is ever shown to a guest.

use crate::network::Interface;
use crate::storage::DomainStorage;
use std::net::IpAddr;
use std::path::PathBuf;
use uuid::Uuid;

/// Why libvirt did not do what was asked, sorted by what the broker can do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HvError {
    /// The daemon did not answer, the connection broke, or it took longer than allowed. Whether what was asked
    /// happens all the same is not known.
    #[error("{operation}: libvirt at {uri} cannot be reached: {detail}")]
    Unreachable { operation: &'static str, uri: String, detail: String },
    /// There is no such domain (any more): it was shut off, or it has left this host.
    #[error("{operation}: no such domain: {detail}")]
    NoDomain { operation: &'static str, detail: String },
    /// Another job holds the domain (a migration started by someone else, a dump, a backup), or its QEMU does not
    /// answer, as in a switch-over.
    #[error("{operation}: the domain is busy with another job: {detail}")]
    Busy { operation: &'static str, detail: String },
    /// libvirt considers the move unsafe or impossible (cache mode, host devices, CPU, missing disk ...), a hook
    /// said no, or the domain is not in a state for it (not running, no job to abort).
    #[error("{operation}: refused: {detail}")]
    Refused { operation: &'static str, detail: String },
    /// The destination does not want it: its hook said no, its CPU is another.
    #[error("{operation}: the destination refused: {detail}")]
    RefusedThere { operation: &'static str, detail: String },
    /// The two hosts could not agree on TLS: a certificate is missing, expired, somebody else's.
    #[error("{operation}: no encrypted connection: {detail}")]
    NotEncrypted { operation: &'static str, detail: String },
    /// The job was aborted, by us or by somebody else.
    #[error("{operation}: aborted: {detail}")]
    Aborted { operation: &'static str, detail: String },
    /// Anything else libvirt said. `code` is virErrorNumber, `domain` virErrorDomain.
    #[error("{operation}: libvirt error {code} of {domain}: {detail}")]
    Other { operation: &'static str, code: i32, domain: i32, detail: String },
}

impl HvError {
    /// Turned away because somebody else migrates the domain: a dump or a backup is waited for, and says so after 30 s.
    pub fn is_another_migration(&self) -> bool {
        matches!(self, Self::Busy { detail, .. } if detail.contains("another migration job"))
    }
}

/// What a domain is doing here, as far as a migration cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainState {
    /// Runs here. `arrived` when it came by migration and Finish succeeded
    /// (VIR_DOMAIN_RUNNING with reason MIGRATED).
    Running { arrived: bool },
    /// Runs here already while the rest of its memory still comes from the source.
    RunningPostCopy,
    /// Being received: exists since Prepare, has never run here. PAUSED with reason MIGRATION, as the source is in
    /// switch-over; told from that by libvirt's refusal of job figures, which only the destination gives.
    Incoming,
    /// Stopped by somebody or something; `migration` when it was for switch-over or left by a broken one.
    Paused { migration: bool },
    /// Defined, not running.
    ShutOff,
    /// Crashed, shutting down, suspended by its own power management.
    Other,
}

impl DomainState {
    /// Its CPUs run.
    pub fn runs(self) -> bool {
        match self {
            Self::Running { .. } | Self::RunningPostCopy => true,
            Self::Incoming | Self::Paused { .. } | Self::ShutOff | Self::Other => false,
        }
    }
}

/// One domain as the local libvirt shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    pub uuid: Uuid,
    pub name: String,
    pub state: DomainState,
    /// Has a definition that outlives its shutdown.
    pub persistent: bool,
    pub autostart: bool,
    /// Host path of our virtio-serial port's unix socket, from the *live* XML (it changes with every host).
    /// None: the domain has no such port.
    pub channel: Option<PathBuf>,
    pub memory_kib: u64,
    pub vcpus: u32,
    /// Accelerator, architecture and machine: what a destination must offer.
    pub needs: Needs,
    /// The element stored under `urn:coms:domain:1`, untrusted. As it is in the domain's XML: libvirt gives its
    /// elements the prefix `coms` and indents them anew.
    pub ticket_xml: Option<String>,
    /// The same under `urn:coms:random:1`: the schedule of random moves.
    pub random_xml: Option<String>,
    /// The same under `urn:coms:seal:1`: its moves are to be encrypted.
    pub seal_xml: Option<String>,
    /// It has an element under `urn:coms:part:1`: the operator lets it take part (`comsctl enable`). Whoever can write
    /// it may manage the VM anyhow; the guest cannot.
    pub permitted: bool,
    /// Its network cards, the first few of them.
    pub interfaces: Vec<Interface>,
    /// Its disks, and devices with state outside of its memory.
    pub storage: DomainStorage,
    /// A job runs on it right now (whoever started it), or its QEMU does not answer.
    pub job_active: bool,
}

/// What a destination must offer for a domain to run there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Needs {
    /// `kvm`, `qemu` ...: the `type` of `<domain>`.
    pub virt_type: String,
    /// `<os><type arch=…>`
    pub arch: String,
    /// `<os><type machine=…>`
    pub machine: String,
}

/// Where a domain's metadata says that the operator lets it take part.
pub const PART_NAMESPACE: &str = "urn:coms:part:1";

/// What a domain got, or lost, when it was let take part or not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The running VM has it now.
    pub running: bool,
    /// So does its definition, from which it starts.
    pub persistent: bool,
}

/// One look at a host: raw counters, judged by `decide::placement` from two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSample {
    /// CPUs and memory libvirt claims (virNodeGetInfo).
    pub cpus: u32,
    pub memory_kib: u64,
    /// virConnectGetHostname and the host UUID of its capabilities: tells two hosts apart, and finds a
    /// configuration that names the same host twice.
    pub host_uuid: Option<Uuid>,
    pub domains: Vec<DomainSample>,
    /// The last sign of life of that host's broker.
    pub broker: Option<Mark>,
}

/// A broker's sign of life, left in its own libvirt where the other hosts' brokers read it with every look: so
/// they need no connection to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Name and version.
    pub broker: String,
    /// Another one with every sign.
    pub beat: u64,
    /// The host's wall clock when it was left.
    pub unix_ms: u64,
    /// Bridges that are stretched to another site there.
    pub stretched: Vec<String>,
    /// The certificates that QEMU needs for encrypted moves are there: SHA-256, in hexadecimal, of the one it shows to
    /// others. None: they are not, or nobody could read them.
    pub tls: Option<String>,
}

/// One running domain in a [`HostSample`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainSample {
    pub uuid: Uuid,
    pub vcpus: u32,
    pub memory_kib: u64,
    /// CPU time used since it started, of the whole QEMU process (virDomainInfo.cpuTime).
    pub cpu_time_ns: u64,
    /// None: this libvirt does not tell.
    pub vcpu: Option<VcpuTimes>,
}

/// What all vCPU threads of a domain together got and waited for, since it started here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VcpuTimes {
    /// `vcpu.N.time`: ran.
    pub run_ns: u64,
    /// `vcpu.N.delay`: wanted to run, and the host ran something else.
    pub wait_ns: u64,
}

/// How one migration is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateSpec {
    pub uuid: Uuid,
    /// libvirt URI of the destination, as the *source's libvirtd* reaches it (peer-to-peer).
    pub dest_uri: String,
    /// Where the destination's QEMU listens, when it differs from the control address (`tcp://10.0.0.2`).
    pub migrate_uri: Option<String>,
    /// On no other address of the destination memory and disks arrive.
    pub only_at: Option<IpAddr>,
    /// PERSIST_DEST and UNDEFINE_SOURCE, so that exactly one host keeps a definition.
    pub persistent: bool,
    pub bandwidth_mib_s: Option<u64>,
    /// VIR_MIGRATE_AUTO_CONVERGE
    pub auto_converge: bool,
    /// VIR_MIGRATE_TLS: memory, devices' state, and copies of disks.
    pub tls: bool,
    /// Allowed downtime; libvirt's default (300 ms) when absent.
    pub max_downtime_ms: Option<u64>,
    /// Disks that are copied, by their targets (`vda`). Their images are at the destination already, made empty.
    pub disks: Vec<String>,
    /// Of each only the uppermost image is sent.
    pub incremental: bool,
}

/// Figures of a running or completed job (virDomainGetJobStats). Absent means unknown, never 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFigures {
    /// `time_elapsed`
    pub total_ms: Option<u64>,
    /// `downtime`
    pub downtime_ms: Option<u64>,
    /// `setup_time`
    pub setup_ms: Option<u64>,
    /// `memory_processed`
    pub bytes: Option<u64>,
    /// `memory_total`, `memory_remaining`
    pub bytes_total: Option<u64>,
    pub bytes_remaining: Option<u64>,
    /// `disk_processed`, `disk_total`, `disk_remaining`; absent where no disk is copied
    pub disk_bytes: Option<u64>,
    pub disk_bytes_total: Option<u64>,
    pub disk_bytes_remaining: Option<u64>,
    /// `memory_normal`, `memory_constant`
    pub pages_normal: Option<u64>,
    pub pages_zero: Option<u64>,
    /// `memory_iteration`
    pub rounds: Option<u64>,
    /// `memory_dirty_rate`, in pages of `memory_page_size` bytes per second
    pub dirty_pages_per_s: Option<u64>,
    pub page_size: Option<u64>,
    /// `errmsg` of a failed job. For the host's log only.
    pub error: Option<String>,
    /// It is a migration away from here, not a dump or a backup (`operation`).
    pub leaves: Option<bool>,
}

impl JobFigures {
    /// Newer ones. Of the disks libvirt tells while they are copied, and not always in the end.
    pub fn take(&mut self, newer: &JobFigures) {
        let disk = (self.disk_bytes, self.disk_bytes_total, self.disk_bytes_remaining);
        *self = newer.clone();
        if newer.disk_bytes.is_none() {
            (self.disk_bytes, self.disk_bytes_total, self.disk_bytes_remaining) = disk;
        }
    }

    /// Memory and disks together.
    pub fn all_total(&self) -> Option<u64> {
        sum(self.bytes_total, self.disk_bytes_total)
    }

    /// Memory and disks together.
    pub fn all_remaining(&self) -> Option<u64> {
        sum(self.bytes_remaining, self.disk_bytes_remaining)
    }
}

fn sum(memory: Option<u64>, disks: Option<u64>) -> Option<u64> {
    [memory, disks].into_iter().flatten().reduce(u64::saturating_add)
}

/// What the local libvirt tells without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HvEvent {
    /// The connection to the local libvirtd is up (again): list everything afresh, events were lost in between.
    Connected,
    /// The connection broke, or could not be made at the start; calls fail until [`HvEvent::Connected`].
    Disconnected { detail: String },
    /// Something about this domain changed; look at it again. Sent for every lifecycle event.
    Changed { uuid: Uuid },
    /// First sign here of a domain being received (STARTED, detail MIGRATED): its port's socket exists now.
    Incoming { uuid: Uuid },
    /// Finish succeeded *here*: the domain runs on this host (RESUMED, detail MIGRATED, after STARTED, MIGRATED).
    /// Not sent when a broken switch-over lets the domain run on at its source, nor when the start was missed
    /// (see [`HvEvent::Connected`]); [`HvEvent::Changed`] is, always.
    Arrived { uuid: Uuid },
    /// Resumed here in post-copy, memory still coming (RESUMED, detail POSTCOPY).
    ArrivedPostCopy { uuid: Uuid },
    /// Stopped for switch-over at the source (SUSPENDED, detail MIGRATED or PAUSED with reason migration).
    SwitchingOver { uuid: Uuid },
    /// Left this host for good (STOPPED, detail MIGRATED).
    Left { uuid: Uuid },
    /// Gone for another reason: shut down, destroyed, crashed, or not received after all.
    Gone { uuid: Uuid },
    /// A migration of this domain began its nth round of copying (MIGRATION_ITERATION); 1 is the first sign of
    /// a migration that somebody else started.
    Iteration { uuid: Uuid, round: u32 },
    /// A job ended well, with these figures (JOB_COMPLETED). Of one that failed or was aborted the source says
    /// nothing at all.
    JobCompleted { uuid: Uuid, figures: Box<JobFigures> },
}
