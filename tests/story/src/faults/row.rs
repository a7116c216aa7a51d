//! The words that a row of the table is made of.

use super::moment::Moment;

/// Who wants the move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initiator {
    /// `coms migrate` in the guest.
    Customer,
    /// `comsctl migrate` on the host.
    Operator,
}

/// One end of the move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

/// What is done. Everything is whole again before the row ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the move itself.
    Nothing,
    /// kill -9; started again a second later.
    KillBroker(End),
    /// kill -9; started again when the guest runs at the destination (or after 20 s).
    KillBrokerUntilArrived(End),
    /// SIGTERM; it must be gone within 5 s. Started again a second later.
    TermBroker(End),
    /// kill -9; the guest's init starts it again.
    KillAgent,
    /// kill -9; started again a second later.
    KillLibvirtd(End),
    /// SIGTERM; started again at once.
    RestartLibvirtd(End),
    /// kill -9 of the QEMU that receives the guest, or has received it.
    KillDestinationQemu,
    /// The destination's libvirtd does not get to say the last word: its QEMU is killed before Finish.
    KillDestinationQemuBeforeFinish,
    /// Both libvirtds are killed at the end of the switch-over, before the destination has been told to finish. Its own is
    /// started again when the source's broker has had time to judge what it sees.
    LeavePausedCopy,
    /// The source's libvirtd is killed when the destination runs the guest and before it has heard so. The copy left
    /// behind is removed as the alarm says, when it has been raised.
    LeavePausedCopyOfRunning,
    /// The destination has finished and runs the guest, and its libvirtd dies before the source's has heard so: libvirt
    /// lets the guest run on at the source, too. The copy that the broker then suspends is removed as its alarm says.
    LoseFinish,
    /// The network between the hosts is cut for so many seconds.
    Cut { seconds: u64 },
    /// The destination's QEMU gets no memory for the guest, until the row ends.
    FullDestination,
    /// The operator leaves the destination too little memory for the guest (`memory_mib`), until the row ends.
    LittleMemory,
    /// The destination's operator has a hook that refuses every guest, until the row ends.
    HookRefuses,
    /// The destination's libvirtd is dead, until the row ends; the source's broker has had time to see that.
    DestinationDown,
    /// The operator lists another guest, until the row ends.
    NotEnabled,
    /// No broker runs at the destination, until the row ends; the source's has had time to see that.
    NoBroker,
    /// The agent stands still until the host raises an alarm because of it.
    SilentAgent,
    /// `virsh domjobabort`, past the brokers.
    AbortByVirsh,
    /// `coms cancel`
    CancelByGuest,
    /// `comsctl cancel`
    CancelByOperator,
}

/// What becomes of the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It runs at the destination, and whoever asked heard so.
    Moves,
    /// It runs at the source. The guest heard one of these (`event` or `event:reason`), or, where this list is
    /// empty, nothing, because nobody there had asked and nothing had moved.
    Stays(&'static [&'static str]),
    /// Both are right: why.
    Either(&'static str),
    /// It is dead, as after any crash of its QEMU: no copy of it runs anywhere.
    Dies,
}

/// The host's limits of a row, beyond the usual ones.
pub type Limits = &'static str;

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub initiator: Initiator,
    pub at: Moment,
    pub fault: Fault,
    /// A second one at the same moment.
    pub also: Fault,
    pub expect: Expect,
    /// Lines of `[limits]`.
    pub limits: Limits,
    /// Memory that the guest rewrites per second beside its pattern, so that copying does not end.
    pub dirty_mib_s: u32,
    /// Also run by `make test`.
    pub sample: bool,
}

impl Fault {
    /// Lasts until the move is over.
    pub fn lasts(self) -> bool {
        matches!(
            self,
            Fault::FullDestination
                | Fault::LittleMemory
                | Fault::HookRefuses
                | Fault::DestinationDown
                | Fault::NotEnabled
                | Fault::NoBroker
        )
    }
}

impl Row {
    pub const fn new(initiator: Initiator, at: Moment, fault: Fault, expect: Expect) -> Row {
        Row { initiator, at, fault, also: Fault::Nothing, expect, limits: "", dirty_mib_s: 0, sample: false }
    }

    /// Run by `make test` too.
    pub const fn sampled(self) -> Row {
        Row { sample: true, ..self }
    }

    pub const fn and(self, also: Fault) -> Row {
        Row { also, ..self }
    }

    pub const fn limits(self, limits: Limits) -> Row {
        Row { limits, ..self }
    }

    pub const fn dirtying(self, mib_s: u32) -> Row {
        Row { dirty_mib_s: mib_s, ..self }
    }

    /// As the table and the filter `COMS_FAULTS` have it.
    pub fn name(&self) -> String {
        let who = match self.initiator {
            Initiator::Customer => "customer",
            Initiator::Operator => "operator",
        };
        format!("{who} | {} {} | {}", self.at.step, self.at.name, self.faults())
    }

    pub fn faults(&self) -> String {
        if self.also == Fault::Nothing {
            return format!("{:?}", self.fault);
        }
        format!("{:?} + {:?}", self.fault, self.also)
    }

    /// The move's effect is part of what must be heard.
    pub fn measures(&self) -> bool {
        self.at.step == "11"
    }
}
