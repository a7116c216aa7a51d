//! What the broker holds of one domain.

use super::encryption::sealed::Sealing;
use super::placement::Considered;
use super::random::Random;
use crate::announced::Kept;
use crate::hypervisor::{Domain, HvError, JobFigures};
use crate::storage;
use crate::ticket::Ticket;
use coms_protocol::guest_to_host::{Attend, Waiting, Wishes};
use coms_protocol::host_to_guest::{Completed, Enforced, HostToGuest};
use coms_protocol::types::{
    Cause, EncryptionLevel, Initiator, MigrationId, NoticeReason, RequestId, Technique,
};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

/// Final answers kept to repeat them.
const ANSWERS: usize = 16;
/// Requests that one move may answer.
pub const FOLLOWERS: usize = 8;
/// Requests that wait until it is known what became of a move; as many as a hello can name.
pub const WAITING: usize = 8;

#[derive(Debug)]
pub struct Guest {
    pub domain: Domain,
    /// The socket that its link is attached to.
    pub attached: Option<PathBuf>,
    /// Its agent, while it answers.
    pub agent: Option<String>,
    /// What its applications want to be asked, since its agent said so to this broker.
    pub attend: Option<Attend>,
    /// What its last hello waits for and has not been answered yet.
    pub waiting: Vec<Waiting>,
    answers: VecDeque<(RequestId, HostToGuest)>,
    /// When it asked, within the last minute.
    pub asked_at: VecDeque<Duration>,
    /// Away from here.
    pub mv: Move,
    /// To here.
    pub arrival: Option<Arrival>,
    /// Away from here, by somebody past the broker.
    pub foreign: Option<Foreign>,
    /// It came by migration, and no ticket of a broker's has explained that.
    pub came: Option<Came>,
    /// Its ticket does not tell yet what became of a move: answers wait.
    pub undecided: bool,
    /// When it was last looked at because of that.
    pub looked: Duration,
    /// It was here, or on its way, when this broker began to listen.
    pub began_unseen: bool,
    /// The attempt whose ticket was too old when the domain began to arrive.
    pub outdated_attempt: Option<u64>,
    /// The last move that was found not to have happened: its ticket has been answered for, even while it is
    /// still in the metadata.
    pub concluded: Option<MigrationId>,
    /// A ticket that means nothing any more is in the metadata; try again then.
    pub clear_ticket_at: Option<Duration>,
    pub random: Random,
    pub seal: Sealing,
}

impl Guest {
    pub fn new(domain: Domain) -> Self {
        Self {
            domain,
            attached: None,
            agent: None,
            attend: None,
            waiting: Vec::new(),
            answers: VecDeque::new(),
            asked_at: VecDeque::new(),
            mv: Move::None,
            arrival: None,
            foreign: None,
            came: None,
            undecided: false,
            looked: Duration::ZERO,
            began_unseen: false,
            outdated_attempt: None,
            concluded: None,
            clear_ticket_at: None,
            random: Random::default(),
            seal: Sealing::default(),
        }
    }

    /// One that was here, or on its way, before this broker listened.
    pub fn found(domain: Domain) -> Self {
        Self { began_unseen: true, ..Self::new(domain) }
    }

    /// The final answer to a request, if it has one.
    pub fn answer_to(&self, request: RequestId) -> Option<&HostToGuest> {
        self.answers.iter().find(|(r, _)| *r == request).map(|(_, a)| a)
    }

    pub fn remember_answer(&mut self, request: RequestId, answer: HostToGuest) {
        if self.answers.len() >= ANSWERS {
            self.answers.pop_front();
        }
        self.answers.push_back((request, answer));
    }
}

/// A move away from this host.
///
/// ```text
///   None -> Announced -> Choosing -> ... (a guest that does not attend is not announced to: None -> Choosing)
///     ^        | cancelled, vetoed
///     |        v
///   None -> Choosing -> WritingTicket -> Running --call ok / left--> (forgotten: it is elsewhere)
///     ^        |             |              |  error, or the call was lost, or begun by a former broker
///     |        v             v              v
///     +---- denied -------denied <------ Unclear --runs here, no job--> failed, cancelled or denied
///                                          |  ^
///                                  paused, |  | one of them has it, or is silent
///                                   no job v  |
///                               are the others without it? --all--> resumed
/// ```
#[derive(Debug)]
pub enum Move {
    None,
    /// The guest was told, and has the time that policy gives it.
    Announced {
        plan: Plan,
        wait: Wait,
    },
    Choosing(Plan),
    /// The way to the chosen host is being measured, the network stretched there, or images made.
    Connecting {
        plan: Plan,
        way: Way,
        since: Duration,
    },
    WritingTicket {
        plan: Plan,
        ticket: Ticket,
    },
    Running {
        plan: Plan,
        started: Duration,
        rounds: u32,
        time_limit_hit: bool,
        /// When libvirt is told (again) to abort.
        abort_at: Duration,
        /// The guest is stopped for switch-over: too late to cancel.
        switching_over: bool,
    },
    Unclear {
        plan: Plan,
        rounds: u32,
        time_limit_hit: bool,
        error: Option<HvError>,
        looked: Duration,
        since: Duration,
        abort_at: Duration,
        /// When the other hosts were asked whether they have it.
        asked: Option<Duration>,
        /// It may have begun to run at the destination before the call failed.
        may_run_there: bool,
        /// It ran there, too, and was suspended here.
        suspended: bool,
    },
}

impl Move {
    pub fn is_none(&self) -> bool {
        matches!(self, Move::None)
    }

    /// Uses the host, or is about to: an announced one only waits.
    pub fn is_under_way(&self) -> bool {
        match self {
            Move::None | Move::Announced { .. } => false,
            Move::Choosing(_)
            | Move::Connecting { .. }
            | Move::WritingTicket { .. }
            | Move::Running { .. }
            | Move::Unclear { .. } => true,
        }
    }

    pub fn plan(&self) -> Option<&Plan> {
        match self {
            Move::None => None,
            Move::Announced { plan, .. }
            | Move::Choosing(plan)
            | Move::Connecting { plan, .. }
            | Move::WritingTicket { plan, .. }
            | Move::Running { plan, .. }
            | Move::Unclear { plan, .. } => Some(plan),
        }
    }

    pub fn plan_mut(&mut self) -> Option<&mut Plan> {
        match self {
            Move::None => None,
            Move::Announced { plan, .. }
            | Move::Choosing(plan)
            | Move::Connecting { plan, .. }
            | Move::WritingTicket { plan, .. }
            | Move::Running { plan, .. }
            | Move::Unclear { plan, .. } => Some(plan),
        }
    }

    /// How it is made is decided and cannot be changed any more.
    pub fn is_settled(&self) -> bool {
        match self {
            Move::None | Move::Announced { .. } | Move::Choosing(_) | Move::Connecting { .. } => false,
            Move::WritingTicket { .. } | Move::Running { .. } | Move::Unclear { .. } => true,
        }
    }

    pub fn is_unclear(&self) -> bool {
        matches!(self, Move::Unclear { .. })
    }

    /// libvirt may have moved it: a domain that is no longer here need not be dead.
    pub fn may_have_left(&self) -> bool {
        match self {
            Move::None
            | Move::Announced { .. }
            | Move::Choosing(_)
            | Move::Connecting { .. }
            | Move::WritingTicket { .. } => false,
            Move::Running { .. } | Move::Unclear { .. } => true,
        }
    }
}

/// What a chosen move waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Measuring,
    Stretching,
    /// Images are made at the destination.
    Making,
}

/// What is wanted, and what came of choosing.
#[derive(Debug, Clone)]
pub struct Plan {
    pub migration: MigrationId,
    /// Answered by this move: the one that began it first.
    pub requests: Vec<RequestId>,
    pub initiator: Initiator,
    pub reason: NoticeReason,
    /// The operator's hurry: what the guest wants does not count.
    pub expedited: bool,
    pub wishes: Wishes,
    /// The least that the requests behind it want; what holds for all of the guest's moves comes on top.
    pub encryption: EncryptionLevel,
    pub technique: Technique,
    /// Only to this host (`comsctl migrate --to`).
    pub only: Option<String>,
    /// Only to a host that is less busy: the guest complains of this one.
    pub wants_relief: bool,
    pub received: Duration,
    /// When its hosts were asked first.
    pub choosing_since: Duration,
    /// The guest was told of it: that it is accepted, or that it is to come.
    pub accepted: bool,
    pub destination: Option<String>,
    pub considered: Vec<Considered>,
    /// Hosts to be tried after the present one, the best first.
    pub ranked: VecDeque<String>,
    /// What becomes of its disks, by the destination.
    pub disks: BTreeMap<String, storage::Plan>,
    /// What was found of its complaint, for the operator.
    pub claim: Option<String>,
    pub figures: JobFigures,
    /// Not wanted any more, and by whom.
    pub cancelled_by: Option<Initiator>,
    /// The migration network was lost while it was under way: it is aborted, and why; for the operator.
    pub link_lost: Option<String>,
    /// What a next broker is to know of it, should this one be killed before the ticket is written.
    pub kept: Option<Box<Kept>>,
}

impl Plan {
    pub fn copies_disks_to(&self, host: &str) -> bool {
        self.disks.get(host).is_some_and(|plan| !plan.copies.is_empty())
    }
}

/// How long an announced move waits.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// The end of its notice, put off by postpones.
    pub earliest: Duration,
    /// A hold may last this long beyond `earliest`.
    pub hold: Duration,
    pub held_until: Option<Duration>,
    /// What holds it or put it off, and how many, as the guest says.
    pub held_by: Option<(Cause, u16)>,
    /// It cannot be postponed beyond that.
    pub latest: Duration,
    pub postpones: u32,
}

impl Wait {
    pub fn begins(&self) -> Duration {
        self.held_until.map_or(self.earliest, |held| held.max(self.earliest))
    }
}

/// A migration away from here that this broker has not begun.
#[derive(Debug)]
pub struct Foreign {
    pub migration: MigrationId,
    pub since: Duration,
    /// libvirt says that it is a migration, and the guest was told.
    pub told: bool,
    /// Its job is over; where the domain is, a look will show.
    pub over: bool,
    pub figures: JobFigures,
}

/// Its arrival here.
#[derive(Debug, Clone, Copy)]
pub struct Came {
    /// When Finish succeeded, if this broker was there.
    pub at: Option<Duration>,
    /// Being written, so that the arrival is told even by a next broker.
    pub ticket: Option<Ticket>,
}

/// A move to this host, as its ticket tells it.
#[derive(Debug)]
pub struct Arrival {
    pub ticket: Ticket,
    pub stage: Stage,
    /// In this stage or the one before it.
    pub since: Duration,
    /// The outcome, once it is made.
    pub told: Option<Completed>,
    /// What goes before it.
    pub enforced: Option<Enforced>,
}

impl Arrival {
    /// The guest asked for this move and has not acknowledged how it ended.
    pub fn owes_an_answer(&self) -> bool {
        self.ticket.request.is_some() && matches!(self.stage, Stage::Here { .. } | Stage::Telling { .. })
    }

    /// This move is what the guest waits for: by the request behind it, or by the id it was accepted under. A
    /// guest that knows the request under another id was told so by a later attempt.
    pub fn answers(&self, w: Waiting) -> bool {
        match w.migration {
            Some(migration) => migration == self.ticket.migration,
            None => self.ticket.request == Some(w.request),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Memory is coming; anything may still go wrong.
    Coming,
    /// Finish succeeded (when, if this broker was there); its figures are being fetched.
    Here { at: Option<Duration>, since: Duration },
    /// The outcome is on its way into the guest.
    Telling { at: Option<Duration> },
    /// The guest acted on it.
    Told,
}
