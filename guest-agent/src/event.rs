//! Every way the world wakes the agent.

use crate::calendar::Windows;
use crate::config::{Config, RandomMoves};
use crate::decide::clients::count::Look;
use coms_protocol::Guest;
use coms_protocol::session::EventOf;
use coms_protocol::types::{EncryptionLevel, MigrationId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// The session with the broker noticed something, or brought a message.
    Link(EventOf<Guest>),
    /// The port can be used, or not.
    Port(PortState),
    /// A probe ended.
    Probe {
        /// Index of the workload.
        workload: usize,
        /// How it went.
        outcome: Sample,
    },
    /// The machine was measured.
    Measured(Measured),
    /// The clients of the workloads were looked at.
    Clients(Seen),
    /// A client on the socket wants something.
    Command {
        /// Who.
        client: ClientId,
        /// What.
        command: Command,
    },
    /// A client hung up.
    ClientGone(ClientId),
    /// The ticker was stopped; its worst delay since it was started.
    TickerStopped {
        /// Delay beyond the tick's due time.
        worst: Duration,
    },
    /// The customer wants the configuration read again: the new one, or why there is none.
    Reloaded(Result<Box<Config>, String>),
    /// A command that [`Action::Run`](crate::action::Action::Run) began ended.
    Ran(Ran),
    /// The moment that [`Agent::next_timeout`](crate::decide::Agent::next_timeout) named has come.
    Timer,
}

/// How a command went.
#[derive(Debug, Clone, PartialEq)]
pub struct Ran {
    /// Which run.
    pub run: u64,
    /// The command's name.
    pub name: String,
    /// Absent: it was killed, or could not be started.
    pub exit_code: Option<i32>,
    /// Exit code, signal, error and how long it took, as they are told.
    pub how: Map<String, Value>,
}

/// What the thread that counts clients saw.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// The database was read, and what it is; or why it is not used.
    Database(Result<String, String>),
    /// The connections cannot be seen; why.
    Trouble(String),
    /// Nothing can be captured; why.
    NoCapture(String),
    /// What was counted.
    Look(Box<Look>),
}

/// A fixed piece of work was done, between two looks at what the kernel counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Right before the work.
    pub before: Counters,
    /// Right after it.
    pub after: Counters,
    /// How much work.
    pub units: u32,
    /// CPU time of the thread that did it. None: it could not be done.
    pub cost: Option<Duration>,
}

/// What the kernel had counted at a moment. Absent is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// The moment.
    pub at: Duration,
    /// Time that tasks of the guest waited for a CPU, per CPU, in microseconds.
    pub waited_us: Option<u64>,
    /// More tasks want to run than there are CPUs, at this moment.
    pub crowded: Option<bool>,
    /// Time of all CPUs.
    pub all_ticks: Option<u64>,
    /// Time that the hypervisor says it kept away.
    pub steal_ticks: Option<u64>,
    /// Packets that came in.
    pub packets: Option<u64>,
}

/// How a probe went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sample {
    /// It succeeded, in this time.
    Took(Duration),
    /// It failed or took longer than its timeout: no latency, neither fast nor slow.
    Failed(String),
}

/// What is known of the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortState {
    /// There is none (yet), or it cannot be opened; why.
    Missing(String),
    /// Open; no host process at its other end.
    HostAbsent,
    /// Open, and somebody listens.
    Up,
}

/// A connection to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// One line of a client on the socket, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// How things stand.
    Status,
    /// What was.
    History,
    /// Where the clients are.
    Clients,
    /// What happens from now on: one line per event until the client hangs up.
    Watch,
    /// Ask to be moved.
    Migrate(Migrate),
    /// Call the outstanding request off.
    Cancel(Cancel),
    /// Numbered round trips through both daemons.
    Ping(Ping),
    /// An application wants to be asked about moves, for as long as it keeps its connection.
    Register(Register),
    /// A registered application does not object to the announced move.
    Ready(Ready),
    /// It does, for now.
    Hold(Hold),
    /// The announced move should begin later.
    Postpone(Postpone),
    /// The announced move should not take place.
    Veto(Veto),
    /// Which hosts are there?
    Hosts,
    /// When moves are welcome.
    Window(Window),
    /// Play a migration to applications and hooks.
    Simulate(Simulate),
    /// Moves at random times.
    Random(Random),
    /// What a plugin measured or wishes, as coms-plugins hands it on.
    Report(Report),
}

impl Command {
    /// Whether it speaks for plugins, and may make the VM ask.
    pub fn reports(&self) -> bool {
        matches!(self, Command::Report(_))
    }

    /// Whether it needs more than looking. A ping does: it takes the link's and the host's time.
    pub fn changes(&self) -> bool {
        match self {
            Command::Status | Command::History | Command::Clients | Command::Watch => false,
            Command::Window(Window::Show) => false,
            // Who may look may be asked, too: what an application can hold up, its limits and the operator bound.
            Command::Register(_) | Command::Ready(_) | Command::Hold(_) => false,
            // Its own right; see [`Command::reports`].
            Command::Report(_) => false,
            Command::Random(Random::Status { .. }) => false,
            Command::Random(Random::Start(_) | Random::Stop) => true,
            Command::Migrate(_)
            | Command::Ping(_)
            | Command::Cancel(_)
            | Command::Postpone(_)
            | Command::Veto(_)
            | Command::Hosts
            | Command::Window(_)
            | Command::Simulate(_) => true,
        }
    }
}

/// Of one measurement by a plugin at most one of `took_us` and `failed`; a report without either is only a wish, or clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The plugin's name: that of `probe = { plugin = "NAME" }`.
    pub plugin: String,
    /// It measured this, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
    /// It could not measure; why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// It wishes the VM elsewhere; why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wish: Option<String>,
    /// Whom it serves, in place of what it said before: each an address (or a network's first), a blank, and its weight
    /// beside the others'. Texts, because a list of them is read already, and the static agent is small.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clients: Option<Vec<String>>,
}

/// Moves at random times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Random {
    /// From now on.
    Start(RandomMoves),
    /// Not any more.
    Stop,
    /// How they stand.
    Status {
        /// Reckon the chance of staying longer than each of these, in seconds.
        #[serde(default)]
        stays_s: Vec<u32>,
    },
}

/// The customer's own request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Migrate {
    /// One of the operator's regions.
    pub region: Option<String>,
    /// Better nowhere than here.
    pub avoid_this_host: bool,
    /// Pointless when not begun within this many seconds.
    pub deadline_s: Option<u32>,
    /// Longest downtime borne, in milliseconds.
    pub max_downtime_ms: Option<u32>,
    /// Techniques never to use, by name.
    pub never: Vec<String>,
    /// Not now but at this time, as people write it.
    pub at: Option<String>,
    /// Any time within so many seconds, asked for again where the host says no.
    pub within_s: Option<u32>,
    /// Any time before that one, likewise.
    pub before: Option<String>,
    /// Whatever the windows say.
    pub outside_windows: bool,
    /// Encrypted so well at least.
    pub encryption: Option<EncryptionLevel>,
    /// Watch from now on, as with [`Command::Watch`].
    pub watch: bool,
}

/// Looks at the windows, or changes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Window {
    /// Looks.
    Show,
    /// These, in place of the configuration's.
    Set(Windows),
    /// The configuration's again.
    Reset,
    /// Moves are welcome for a while, whatever the windows say.
    Open {
        /// For so long.
        for_s: u32,
    },
    /// They are not.
    Close {
        /// For so long.
        for_s: u32,
    },
}

/// Calls the outstanding request off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cancel {
    /// Not the outstanding request but this scheduled move.
    pub scheduled: Option<u64>,
    /// Watch from now on, as with [`Command::Watch`].
    pub watch: bool,
}

/// An application wants to be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// Its name, as status and events show it.
    pub name: String,
    /// The notice that it wants: as long as it may take to answer.
    #[serde(default)]
    pub notice_s: u32,
    /// The longest that it may hold a move, beyond that.
    #[serde(default)]
    pub hold_s: u32,
}

/// It does not object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ready {
    /// To which; absent: to the one that is announced.
    pub migration: Option<MigrationId>,
}

/// It does, for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// To which; absent: to the one that is announced.
    #[serde(default)]
    pub migration: Option<MigrationId>,
    /// From now on. A later hold replaces an earlier one, ready ends it.
    pub for_s: u32,
}

/// The announced move should begin later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postpone {
    /// Which.
    pub migration: MigrationId,
    /// Not before this many seconds from now.
    pub for_s: u32,
}

/// The announced move should not take place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Veto {
    /// Which.
    pub migration: MigrationId,
}

/// A migration that only applications and hooks see.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Simulate {
    /// The notice; absent: as long as is wanted here.
    pub notice_s: Option<u32>,
    /// The longest hold; absent: as long as is wanted here.
    pub hold_s: Option<u32>,
    /// As if the operator overrode everything: no waiting.
    pub expedited: bool,
    /// completed, failed or cancelled; absent: completed.
    pub outcome: Option<String>,
    /// Watch from now on, as with [`Command::Watch`].
    pub watch: bool,
}

/// Numbered round trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ping {
    /// How many.
    pub count: u32,
    /// From one to the next, in milliseconds.
    pub interval_ms: u32,
    /// After the last one was sent, wait this long for what is missing, in seconds.
    pub wait_s: u32,
    /// Report each round trip's time, not only how they are spread.
    pub times: bool,
}

impl Default for Ping {
    fn default() -> Self {
        Self { count: 5, interval_ms: 200, wait_s: 60, times: false }
    }
}
