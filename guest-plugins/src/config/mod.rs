//! `/etc/coms/plugins.toml`: as typed ([`raw`]), then as checked (here). What was checked need not be asked again.

mod check;
mod raw;

use crate::metrics::watch::Wanted as Metrics;
use crate::statsd::Wanted as Timers;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the configuration is looked for unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/coms/plugins.toml";
/// Most plugins.
pub const MAX_PLUGINS: usize = 16;

/// Everything the customer decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The agent's socket.
    pub agent: PathBuf,
    /// The socket of `coms plugin list`.
    pub control: PathBuf,
    /// Its members may look there.
    pub control_group: String,
    /// Who ends is waited for so long before it is killed.
    pub stop: Duration,
    /// What runs.
    pub plugins: Vec<Plugin>,
}

/// One plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    /// The customer's name for it; that of `probe = { plugin = "NAME" }` in agent.toml.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// From one measurement to the next.
    pub interval: Duration,
    /// What the agent hears of it.
    pub judging: Judging,
    /// Its wish to be moved is handed on.
    pub may_wish: bool,
}

/// What of a reading the agent hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judging {
    /// What counts.
    pub measure: Measure,
    /// With more errors than this a reading is a failure.
    pub max_errors_permille: Option<u32>,
}

/// What counts of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// How long it took.
    Latency,
    /// How much was done: told as the time that each takes.
    Throughput,
}

/// What a plugin is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Runs each interval.
    Nagios(Check),
    /// Runs all the time.
    Execd(Execd),
    /// A URL of Prometheus metrics.
    OpenMetrics(Scrape),
    /// Datagrams that an application sends.
    StatsD(StatsD),
}

impl Kind {
    /// As it is typed.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Nagios(_) => "nagios",
            Kind::Execd(_) => "execd",
            Kind::OpenMetrics(_) => "openmetrics",
            Kind::StatsD(_) => "statsd",
        }
    }
}

/// A program and its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Program and arguments, no shell.
    pub argv: Vec<String>,
    /// As whom it runs.
    pub user: String,
    /// Added to its environment.
    pub env: BTreeMap<String, String>,
    /// What it may have of memory; 0: no bound of its own.
    pub memory_mib: u64,
    /// How many processes.
    pub processes: u64,
}

/// A Nagios check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What runs.
    pub program: Program,
    /// What runs longer is killed.
    pub timeout: Duration,
    /// Which of its figures.
    pub figures: Figures,
}

/// Labels of performance data. None: the first that has a unit of time; for the others, none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// How long it took.
    pub latency: Option<String>,
    /// What is done, per second.
    pub throughput: Option<String>,
    /// Requests since the last run.
    pub requests: Option<String>,
    /// Errors since the last run.
    pub errors: Option<String>,
}

/// A long-running plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execd {
    /// What runs.
    pub program: Program,
    /// An empty line on its standard input each interval asks for a sample.
    pub collect: bool,
    /// It hears of moves on its standard input.
    pub notices: bool,
    /// Time to answer a notice.
    pub notice_s: u32,
    /// The longest that it may hold a move beyond that.
    pub hold_s: u32,
}

/// A URL to scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Scrape {
    /// Whom to connect to, in this order.
    pub addresses: Vec<SocketAddr>,
    /// As the Host header tells it.
    pub host: String,
    /// From the first slash on.
    pub path: String,
    /// What takes longer has failed.
    pub timeout: Duration,
    /// What is looked at.
    pub wanted: Metrics,
}

/// Where an application sends its timers.
#[derive(Debug, Clone, PartialEq)]
pub struct StatsD {
    /// Where they are received.
    pub listen: Listen,
    /// What is looked at.
    pub wanted: Timers,
    /// Of the timer.
    pub quantile: f64,
}

/// Where datagrams are received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A port on loopback.
    Udp(SocketAddr),
    /// A unix datagram socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listen::Udp(address) => write!(f, "{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
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
        /// The key, with its plugin.
        key: String,
        /// What is wrong and what would be right.
        what: String,
    },
}

impl Config {
    /// Reads and checks a file; without a name the usual one, or nothing where there is none.
    pub fn load_or_defaults(named: Option<&Path>) -> Result<Self, ConfigError> {
        let file = named.unwrap_or(Path::new(DEFAULT_PATH));
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text, file),
            Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => Self::parse("", file),
            Err(source) => Err(ConfigError::Unreadable { file: file.to_owned(), source }),
        }
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

    /// The plugin of this name.
    pub fn plugin(&self, name: &str) -> Option<&Plugin> {
        self.plugins.iter().find(|p| p.name == name)
    }
}
