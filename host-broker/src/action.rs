//! Every way the broker touches the world. Decided in `decide/`, done in `io/execute.rs`, which has no
//! branch on policy.

use crate::announced::{Kept, Stays};
use crate::config::Config;
use crate::control::Reply;
use crate::event::Caller;
use crate::hypervisor::{Mark, MigrateSpec, Needs};
use crate::network::{PeerAsk, PeerCaller, StepError, StepInput, Stretch, Verb};
use crate::records::MoveRecord;
use crate::storage::{Copy, Made, Question};
use coms_protocol::host_to_guest::{HostHello, HostToGuest};
use coms_protocol::types::MigrationId;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Answered by `Event::Domains`.
    ListDomains,
    /// Answered by `Event::Domain`.
    Look {
        uuid: Uuid,
    },
    /// Answered by `Event::Sampled` for this host, besides the regular looks.
    SampleMe,
    /// Connect to the guest's port and stay connected until `Detach`.
    Attach {
        uuid: Uuid,
        channel: PathBuf,
        hello: HostHello,
    },
    Detach {
        uuid: Uuid,
    },
    /// Until the guest acknowledged it.
    Tell {
        uuid: Uuid,
        message: HostToGuest,
    },
    /// Now or never.
    TellOnce {
        uuid: Uuid,
        message: HostToGuest,
    },
    /// Ask these hosts about this domain. Answered by `Event::Surveyed`.
    Survey {
        uuid: Uuid,
        migration: MigrationId,
        needs: Needs,
        hosts: Vec<(String, String)>,
        /// Also asked of this host, if there is anything to be asked.
        storage: Box<Question>,
        /// Who has not answered by then is left out.
        within: Duration,
    },
    /// Round trip and rate of the way to this host. Answered by `Event::Measured`.
    Measure {
        uuid: Uuid,
        migration: MigrationId,
        host: String,
        link: SocketAddr,
    },
    /// The migration network's interface, and the ways to these addresses. Answered by `Event::MigrationLink`.
    LookAtLink {
        interface: String,
        to: Vec<IpAddr>,
    },
    /// The operator's command. Answered by `Event::StepDone`.
    NetworkStep {
        verb: Verb,
        input: Box<StepInput>,
        command: Vec<String>,
        limit: Duration,
    },
    /// Answered by `Event::PeerAnswered`.
    AskPeer {
        host: String,
        link: SocketAddr,
        ask: Box<PeerAsk>,
    },
    AnswerPeer {
        caller: PeerCaller,
        result: Result<(), StepError>,
    },
    /// Remember across restarts which networks are stretched; all of them.
    KeepStretches(Vec<Stretch>),
    /// Make these images, empty, at this host. Answered by `Event::DisksMade`.
    MakeDisks {
        uuid: Uuid,
        migration: MigrationId,
        uri: String,
        copies: Vec<Copy>,
    },
    /// Remove them there again, unless a domain there has them. Answered by `Event::DisksRemoved`.
    RemoveDisks {
        uuid: Uuid,
        migration: MigrationId,
        uri: String,
        copies: Vec<Copy>,
    },
    /// Remove the images of these paths here, once the domain runs at that host. Answered by `Event::SourceRemoved`.
    RemoveSource {
        uuid: Uuid,
        migration: MigrationId,
        uri: String,
        copies: Vec<Copy>,
    },
    /// Remember across restarts which images were made at destinations; all of them.
    KeepDisks(Vec<Made>),
    WriteTicket {
        uuid: Uuid,
        migration: MigrationId,
        xml: String,
        /// Written after it, right before the call, where the VM does not arrive without.
        seal: Option<String>,
    },
    ClearTicket {
        uuid: Uuid,
    },
    /// The schedule of random moves; None removes it. Answered by `Event::ScheduleWritten`.
    WriteSchedule {
        uuid: Uuid,
        xml: Option<String>,
    },
    /// How well its moves are to be encrypted; None removes it. Answered by `Event::SealWritten`.
    WriteSeal {
        uuid: Uuid,
        xml: Option<String>,
    },
    /// Port and permission. Answered by `Event::PartSet`.
    SetPart {
        caller: Caller,
        uuid: Uuid,
        on: bool,
    },
    /// Answered by `Event::Returned`, with `Event::Progress` in between.
    Migrate {
        migration: MigrationId,
        spec: MigrateSpec,
    },
    /// Somebody else's job. `Event::Progress` as it goes on, `Event::Watched` when it is over.
    Watch {
        uuid: Uuid,
        migration: MigrationId,
    },
    Abort {
        uuid: Uuid,
        /// QEMU is to give up its connections first: on a line that is lost it would wait for TCP, for the copy of a disk.
        cut: bool,
    },
    /// Does any of these hosts have it? Answered by `Event::Elsewhere`.
    FindElsewhere {
        uuid: Uuid,
        hosts: Vec<(String, String)>,
    },
    /// Stop a copy that runs at its destination, too. Answered by `Event::Resumed`.
    Suspend {
        uuid: Uuid,
    },
    /// Let a paused copy run that is known to be the only one. Answered by `Event::Resumed`.
    Resume {
        uuid: Uuid,
    },
    /// Leave a sign of life for the other hosts' brokers, with what this host's certificates are just then. Answered by
    /// `Event::Marked`.
    Beat(Mark),
    /// Remember across restarts whether customers' moves are paused.
    KeepPaused(bool),
    /// Remember across restarts what is announced; all of it.
    KeepAnnounced(Vec<Kept>),
    /// Remember across restarts which domains are here and since when; all of them.
    KeepStays(Stays),
    /// Answered by `Event::Figures`.
    FetchFigures {
        uuid: Uuid,
        migration: MigrationId,
    },
    SetAutostart {
        uuid: Uuid,
    },
    /// Answered by `Event::Reloaded`.
    ReadConfig {
        caller: Option<Caller>,
    },
    /// What `io/` needs of a configuration that is in force from now on.
    Configure(Box<Config>),
    /// An attached guest is to know this of the host from now on. Nothing that it is owed is lost.
    Greet {
        uuid: Uuid,
        hello: HostHello,
    },
    Reply {
        caller: Caller,
        reply: Box<Reply>,
    },
    /// Keep for `comsctl migrations` and across restarts.
    Record(Box<MoveRecord>),
    Log {
        level: Level,
        guest: Option<Uuid>,
        text: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    /// Somebody should look, also at 3 a.m.
    Alarm,
}
