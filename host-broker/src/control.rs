//! What `comsctl` asks and what it gets: one JSON line each way over the broker's socket.

use crate::records::MoveRecord;
use coms_protocol::types::{MigrationId, NoticeReason};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command", deny_unknown_fields)]
pub enum Request {
    Guests,
    Hosts,
    /// All that is remembered, newest last; or the one with this id.
    Migrations {
        id: Option<MigrationId>,
    },
    /// Move a domain (name or UUID), to the host named or to the best.
    Migrate {
        domain: String,
        to: Option<String>,
        /// Told to the guest.
        #[serde(default)]
        reason: Option<NoticeReason>,
        /// At once, whatever the guest wants.
        #[serde(default)]
        expedite: bool,
        /// Told this long before, instead of what the guest's applications want.
        #[serde(default)]
        notice_s: Option<u32>,
    },
    /// Give a domain (name or UUID) the port and the permission, for good.
    Enable {
        domain: String,
    },
    /// Take both away.
    Disable {
        domain: String,
    },
    /// Calls off a move that has not switched over.
    Cancel {
        id: MigrationId,
    },
    /// No moves for customers until [`Request::Resume`]; those under way are called off too, unless they may finish.
    Pause {
        let_finish: bool,
    },
    Resume,
    /// Take up the changed configuration.
    Reload,
    /// What somebody should look at.
    Standing,
}

impl Request {
    /// Not only a look: needs the right to change.
    pub fn changes(&self) -> bool {
        match self {
            Request::Guests | Request::Hosts | Request::Migrations { .. } | Request::Standing => false,
            Request::Migrate { .. }
            | Request::Enable { .. }
            | Request::Disable { .. }
            | Request::Cancel { .. }
            | Request::Pause { .. }
            | Request::Resume
            | Request::Reload => true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reply")]
pub enum Reply {
    Guests {
        guests: Vec<GuestView>,
    },
    Hosts {
        hosts: Vec<HostView>,
    },
    Migrations {
        migrations: Vec<MoveRecord>,
    },
    /// Begun; its record tells the rest.
    Started {
        migration: MigrationId,
    },
    /// Done; what, in words.
    Done {
        text: String,
    },
    Standing {
        standing: StandingView,
    },
    /// What was wrong and what would be right.
    Refused {
        text: String,
    },
}

/// One domain with our port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestView {
    pub name: String,
    pub uuid: Uuid,
    /// The operator lets it take part.
    pub enabled: bool,
    pub state: String,
    /// Its agent answers; what it says of itself.
    pub agent: Option<String>,
    pub migration: Option<MigrationId>,
    /// Since its last move, as far as this host knows.
    pub last_moved_unix_ms: Option<u64>,
}

/// What somebody should look at, and what holds for the whole host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StandingView {
    /// Customers' moves are paused.
    pub paused: bool,
    /// The local libvirt answers.
    pub libvirt: bool,
    /// When the configuration in force was read.
    #[serde(default)]
    pub config_read_unix_ms: Option<u64>,
    pub alarms: Vec<Alarm>,
}

/// Something that does not mend itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// The VM that it is about.
    pub domain: Option<String>,
    pub uuid: Option<Uuid>,
    pub since_unix_ms: u64,
    /// What is wrong and what mends it.
    pub text: String,
}

/// One host of the pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostView {
    pub name: String,
    pub region: String,
    pub this_host: bool,
    pub answers: bool,
    /// Why it does not.
    pub trouble: Option<String>,
    pub cpus: Option<u32>,
    /// Running domains' CPU time over the last 10 s per CPU.
    pub load_per_cpu: Option<f64>,
    pub memory_mib: Option<u64>,
    pub committed_mib: Option<u64>,
    pub domains: Option<usize>,
    /// A broker runs there, as its mark in that host's libvirt shows; what it says of itself.
    pub broker: Option<String>,
    /// How far its clock is ahead of this host's (negative: behind), to about 2 s.
    pub clock_ahead_ms: Option<i64>,
    /// QEMU's certificates are there, says that broker: SHA-256 of the one that others are shown.
    #[serde(default)]
    pub certificate_sha256: Option<String>,
}
