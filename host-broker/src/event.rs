//! Every way the world wakes the broker. One queue, one owner: `io/event_loop.rs` hands these to
//! [`Broker::handle`](crate::decide::Broker::handle), one at a time.

use crate::config::Config;
use crate::control::Request as ControlRequest;
use crate::hypervisor::{Domain, HostSample, HvError, HvEvent, JobFigures, Part};
use crate::isolation::LinkFacts;
use crate::network::{LinkFigures, PeerAsk, PeerCaller, StepError, Verb};
use crate::storage::{MakeError, Removal, View};
use coms_protocol::guest_to_host::{GuestHello, GuestToHost};
use coms_protocol::host_to_guest::HostToGuest;
use coms_protocol::types::MigrationId;
use std::time::Duration;
use uuid::Uuid;

/// A moment, by the host's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since the broker's start; never runs backwards.
    pub mono: Duration,
    /// Wall clock, milliseconds since 1970: only for what is compared across hosts or shown to people.
    pub unix_ms: u64,
}

/// Names a `comsctl` that waits for its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller(pub u64);

#[derive(Debug)]
pub enum Event {
    Hypervisor(HvEvent),
    /// All domains of this host (answer to `ListDomains`).
    Domains(Result<Vec<Domain>, HvError>),
    /// One domain (answer to `Look`).
    Domain {
        uuid: Uuid,
        result: Result<Domain, HvError>,
    },
    /// A look at a host: every few seconds, for each.
    Sampled {
        host: String,
        result: Result<HostSample, HvError>,
    },
    Link {
        uuid: Uuid,
        event: LinkEvent,
    },
    /// Answer to `Survey`: the domain as it is now, for there is no event when a job ends or autostart changes;
    /// and what the hosts say, without those that did not answer in time.
    Surveyed {
        uuid: Uuid,
        migration: MigrationId,
        domain: Result<Box<Domain>, HvError>,
        answers: Vec<Answer>,
    },
    /// The images are there (answer to `MakeDisks`), or none of them is, if the error is not unsure.
    DisksMade {
        uuid: Uuid,
        migration: MigrationId,
        result: Result<(), MakeError>,
    },
    /// Answer to `RemoveDisks`.
    DisksRemoved {
        uuid: Uuid,
        migration: MigrationId,
        result: Result<Removal, HvError>,
    },
    /// Answer to `RemoveSource`.
    SourceRemoved {
        uuid: Uuid,
        migration: MigrationId,
        result: Result<(), HvError>,
    },
    TicketWritten {
        uuid: Uuid,
        migration: MigrationId,
        result: Result<(), HvError>,
    },
    TicketCleared {
        uuid: Uuid,
        result: Result<(), HvError>,
    },
    ScheduleWritten {
        uuid: Uuid,
        result: Result<(), HvError>,
    },
    SealWritten {
        uuid: Uuid,
        result: Result<(), HvError>,
    },
    /// The domain takes part from now on, or not any more (answer to `SetPart`).
    PartSet {
        caller: Caller,
        uuid: Uuid,
        on: bool,
        result: Result<Part, HvError>,
    },
    /// How the running job stands.
    Progress {
        uuid: Uuid,
        migration: MigrationId,
        figures: Box<JobFigures>,
    },
    /// The job that was watched is over, or the domain is not here any more.
    Watched {
        uuid: Uuid,
        migration: MigrationId,
    },
    /// The migrate call came back.
    Returned {
        uuid: Uuid,
        migration: MigrationId,
        result: Result<(), HvError>,
    },
    /// Figures of the completed job (answer to `FetchFigures`).
    Figures {
        uuid: Uuid,
        migration: MigrationId,
        figures: Option<Box<JobFigures>>,
    },
    /// What the hosts say about a domain that may have been left behind here (answer to `FindElsewhere`).
    Elsewhere {
        uuid: Uuid,
        answers: Vec<(String, Elsewhere)>,
    },
    /// The copy here was told to run, or to stop (answer to `Resume` and `Suspend`).
    Resumed {
        uuid: Uuid,
        result: Result<(), HvError>,
    },
    /// The sign of life is left, or not (answer to `Beat`).
    Marked(Result<(), HvError>),
    /// The way to a host (answer to `Measure`); why it could not be measured, for the operator.
    Measured {
        uuid: Uuid,
        migration: MigrationId,
        host: String,
        result: Result<LinkFigures, StepError>,
    },
    /// The migration network (answer to `LookAtLink`); why the kernel did not tell.
    MigrationLink(Result<Box<LinkFacts>, String>),
    /// The operator's network step has ended (answer to `NetworkStep`).
    StepDone {
        uuid: Uuid,
        verb: Verb,
        result: Result<(), StepError>,
    },
    /// What another broker says (answer to `AskPeer`).
    PeerAnswered {
        ask: Box<PeerAsk>,
        result: Result<(), StepError>,
    },
    /// The broker of this host asks; it has shown that it is.
    PeerAsked {
        caller: PeerCaller,
        host: String,
        ask: Box<PeerAsk>,
    },
    /// The configuration was read again (answer to `ReadConfig`, or at a signal); what is wrong with it, in one line.
    Reloaded {
        caller: Option<Caller>,
        config: Result<Box<Config>, String>,
    },
    Control {
        caller: Caller,
        request: ControlRequest,
    },
    /// Once a second.
    Tick,
}

#[derive(Debug)]
pub enum LinkEvent {
    /// The guest's agent is there. `hello` is a claim.
    Established {
        hello: GuestHello,
        /// Another agent than before, or the first; what the former one wanted is over.
        new_peer: bool,
    },
    Lost,
    Said(GuestToHost),
    /// The guest has acted on it.
    Delivered(HostToGuest),
}

/// What one host says when asked whether it has a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    No,
    /// It is being received there, which may still fail.
    Coming,
    /// In whatever other state but running.
    Yes,
    Runs,
    /// For the operator.
    NoAnswer(String),
}

/// What one host says to one domain. This host itself says of its storage only.
#[derive(Debug, Clone)]
pub struct Answer {
    pub host: String,
    pub can_run: Result<(), String>,
    pub has_it: bool,
    /// Of what the survey asked; why it is not known, for the operator.
    pub storage: Result<View, String>,
}
