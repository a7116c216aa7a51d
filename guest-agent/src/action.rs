//! Every way the agent touches the world. Carried out in order.

use crate::config::{Config, Workload};
use crate::decide::clients::Count;
use crate::event::ClientId;
use crate::state::State;
use coms_protocol::GuestToHost;
use coms_protocol::guest_to_host::GuestHello;
use serde_json::{Map, Value};
use std::time::Duration;

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Put this on disk; what follows waits for it.
    Save(Box<State>),
    /// The hello from now on.
    SetHello(GuestHello),
    /// Say it until it is acknowledged.
    Send(GuestToHost),
    /// Say it now or never.
    SendOnce(GuestToHost),
    /// Tell the customer: log, journal, watchers.
    Tell(Telling),
    /// Answer a client.
    Reply {
        /// Whom.
        client: ClientId,
        /// One line.
        line: Value,
    },
    /// From now on this client hears every [`Action::Tell`].
    Watch(ClientId),
    /// From now on this client hears what [`Audience::Apps`] hears.
    Inform(ClientId),
    /// Run a command aside; how it went comes as [`Event::Ran`](crate::event::Event::Ran).
    Run {
        /// Its number.
        run: u64,
        /// Its name. Of one name one runs at a time.
        name: String,
        /// Program and arguments, no shell.
        argv: Vec<String>,
        /// What runs longer is killed, with its children.
        timeout: Duration,
        /// What it gets, as a hook does.
        line: Map<String, Value>,
    },
    /// These are the workloads from now on.
    Measure(Vec<Workload>),
    /// Count clients so from now on, or not at all.
    Count(Option<Box<Count>>),
    /// Who may come in, what runs at events and how long the log may be is so from now on.
    Configure(Box<Config>),
    /// Begin to notice in-guest delays, every 5 ms.
    StartTicker,
    /// End it, and say what the worst delay was.
    StopTicker,
    /// Do this much of the fixed work, aside, and say what it cost.
    Work {
        /// How much.
        units: u32,
    },
}

/// Something the customer hears.
#[derive(Debug, Clone, PartialEq)]
pub struct Telling {
    /// Its name, as the log and `coms watch` show it.
    pub event: String,
    /// Details. Unknown ones are absent.
    pub fields: Map<String, Value>,
    /// Who hears it.
    pub to: Audience,
}

/// Who hears something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The log file, the journal, and whoever watches.
    Everybody,
    /// Only who watches: too frequent for a log.
    Watchers,
    /// Registered applications.
    Apps,
}
