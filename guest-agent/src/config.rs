//! `/etc/coms/agent.toml`: as typed ([`raw`]), then as checked (here). The rest of the agent sees only what
//! was checked, so it need not ask again.

mod asked;
mod check;
mod clients;
mod hook;
mod random;
mod raw;
mod target;

pub use asked::Asked;
pub use check::encryption_level;
pub(crate) use check::technique;
pub use clients::Clients;
pub use coms_protocol::words::seconds;
pub use hook::{EVENTS, Hook};
pub use random::{RandomMoves, between, gap_law};

use crate::calendar::Calendar;
use coms_protocol::types::{EncryptionLevel, Metric, Technique, Text};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the configuration is looked for unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/coms/agent.toml";

/// Everything the customer decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How the host is reached.
    pub port: Port,
    /// The socket of `coms`.
    pub socket: PathBuf,
    /// Who may do what there.
    pub access: Access,
    /// What survives a restart.
    pub state: PathBuf,
    /// The customer's log.
    pub events: PathBuf,
    /// The log is put aside (one generation) beyond this many bytes.
    pub events_max_bytes: u64,
    /// When to ask, and when not.
    pub asking: Asking,
    /// What a move should be like when the agent asks by itself.
    pub wishes: Wishes,
    /// What is watched.
    pub workloads: Vec<Workload>,
    /// What runs when something happens.
    pub hooks: Vec<Hook>,
    /// Be told of a move so long before it begins, also when nobody here asks for it.
    pub least_notice: Duration,
    /// Commands that are asked about moves.
    pub asked: Vec<Asked>,
    /// Moves at random times.
    pub random: Option<RandomMoves>,
    /// Who the clients are, if they are to be counted.
    pub clients: Option<Clients>,
    /// When moves are welcome.
    pub windows: Calendar,
    /// How well every move is to be encrypted at least.
    pub encryption: EncryptionLevel,
}

/// Who may do what at the socket: groups by name or number. Root may do everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Its members may look.
    pub status_group: String,
    /// Its members may also change.
    pub change_group: String,
    /// Its members may look, and speak for plugins.
    pub plugins_group: String,
}

/// How the host is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// A virtio-serial port; without a path it is found by its name.
    Virtio {
        /// Device node, when it is not where udev or the kernel puts it.
        path: Option<PathBuf>,
    },
    /// A serial line (ISA, PCI, or hvc), for guests without virtio-serial. It never hangs up.
    Serial {
        /// The line.
        path: PathBuf,
    },
    /// A unix stream socket, for guests whose port is handed on by something else (a container, a relay).
    Unix {
        /// The socket.
        path: PathBuf,
    },
}

/// When to ask, and when not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asking {
    /// No automatic request for this long after a completed move.
    pub cooldown: Duration,
    /// Wait after the first refusal or failure; doubles with each further one ...
    pub backoff: Duration,
    /// ... up to this.
    pub backoff_max: Duration,
    /// After a move, wait this long before measuring ...
    pub settle: Duration,
    /// ... for this long, to see whether it helped.
    pub check: Duration,
    /// Also when the guest's own load is what makes it slow.
    pub ask_for_own_load: bool,
}

/// What a move should be like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// One of the operator's regions.
    pub region: Option<Text<64>>,
    /// Rather not stay with this host's neighbours.
    pub avoid_this_host: bool,
    /// Pointless when not begun within this many seconds.
    pub deadline_s: Option<u32>,
    /// Longest downtime the workloads bear, in milliseconds.
    pub max_downtime_ms: Option<u32>,
    /// Techniques never to use.
    pub never: Vec<Technique>,
}

/// One thing that is watched.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// The customer's name for it.
    pub name: String,
    /// How it is measured.
    pub probe: Probe,
    /// From the start of one measurement to the start of the next.
    pub interval: Duration,
    /// A measurement that takes longer has failed.
    pub timeout: Duration,
    /// When it counts as slow.
    pub rule: Rule,
}

/// How a workload is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// GET; 2xx and 3xx are a success.
    Http(HttpTarget),
    /// Connecting is a success.
    Tcp(Address),
    /// Exit code 0 is a success. Program and arguments, no shell.
    Command(Vec<String>),
    /// Not by the agent: coms-plugins hands on what the plugin of this name measures.
    Plugin(String),
}

/// A URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    /// Whom to connect to.
    pub address: Address,
    /// As the Host header tells it.
    pub host: String,
    /// From the first slash on.
    pub path: String,
}

/// Where to connect. More than one for `localhost`: tried in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(pub Vec<SocketAddr>);

/// When a workload counts as slow, and when as well again.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Which percentile of latency.
    pub metric: Metric,
    /// Over the last so long.
    pub window: Duration,
    /// Slow above this ...
    pub slower_than: Option<Duration>,
    /// ... and above this many times its own baseline. At least one of the two, or nothing is ever slow.
    pub slower_than_factor: Option<f64>,
    /// For how long without a break.
    pub hold: Duration,
    /// Well again below this fraction of the threshold.
    pub healthy_below: f64,
    /// Healthy time from which the baseline is learned.
    pub learn: Duration,
    /// With fewer successful measurements in the window nothing is decided.
    pub min_samples: u32,
    /// Whether failing probes are a reason to ask.
    pub ask_on_failure: bool,
}

/// Why a configuration is refused. The text names the file, the key, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No TOML, an unknown key, or a value of the wrong kind.
    #[error("{}: {message}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Line, key, and what was expected.
        message: String,
    },
    /// A value that cannot be meant.
    #[error("{}: {key}: {what}", file.display())]
    Impossible {
        /// The file.
        file: PathBuf,
        /// The key, with its table.
        key: String,
        /// What is wrong and what would be right.
        what: String,
    },
}

impl Config {
    /// What holds without a file: nothing is watched, every migration is told.
    pub fn defaults() -> Result<Self, ConfigError> {
        Self::parse("", Path::new("(defaults)"))
    }

    /// Reads and checks a file; without a name the usual one, or defaults where there is none.
    pub fn load_or_defaults(named: Option<&Path>) -> Result<Self, ConfigError> {
        match named {
            Some(file) => Self::load(file),
            None if Path::new(DEFAULT_PATH).exists() => Self::load(Path::new(DEFAULT_PATH)),
            None => Self::defaults(),
        }
    }

    /// Reads and checks a file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
        Self::parse(&text, file)
    }

    /// Checks a text; `file` is named in errors.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let raw: raw::Raw = toml::from_str(text).map_err(|e| ConfigError::Syntax {
            file: file.to_owned(),
            message: e.to_string().trim_end().to_owned(),
        })?;
        check::checked(raw).map_err(|check::Bad { key, what }| ConfigError::Impossible {
            file: file.to_owned(),
            key,
            what,
        })
    }
}
