//! Moments of the flow, as the program that lives them sees them.

use super::row::Initiator;

/// Who stops at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    SourceBroker,
    DestinationBroker,
    Agent,
}

/// A moment. `words` is what the program compares its events and actions with, before it handles them: the
/// beginning, then parts.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The number in ARCHITECTURE.md; 0 is before the flow.
    pub step: &'static str,
    pub name: &'static str,
    pub who: Option<Who>,
    words: &'static [&'static str],
    /// Where they differ for a move that the operator began.
    operators: Option<&'static [&'static str]>,
}

impl Moment {
    const fn of(step: &'static str, name: &'static str, who: Who, words: &'static [&'static str]) -> Moment {
        Moment { step, name, who: Some(who), words, operators: None }
    }

    pub fn words(&self, initiator: Initiator) -> String {
        match (initiator, self.operators) {
            (Initiator::Operator, Some(words)) => words.join("\n"),
            (Initiator::Operator | Initiator::Customer, _) => self.words.join("\n"),
        }
    }
}

use Who::{Agent, DestinationBroker, SourceBroker};

/// Nothing moves: the fault comes and goes, then a move is asked for.
pub const IDLE: Moment = Moment { step: "0", name: "idle", who: None, words: &[], operators: None };
pub const SAVED: Moment = Moment::of("2", "request saved", Agent, &["action Send(Request("]);
pub const RECEIVED: Moment = Moment {
    operators: Some(&["event Control", "Migrate {"]),
    ..Moment::of("3", "request received", SourceBroker, &["event Link", "Said(Request("])
};
pub const ANSWERED: Moment = Moment::of("4", "hosts have answered", SourceBroker, &["event Surveyed"]);
pub const TICKET_DUE: Moment = Moment::of("5", "before the ticket", SourceBroker, &["action WriteTicket"]);
pub const TICKET_WRITTEN: Moment = Moment::of("5", "ticket written", SourceBroker, &["event TicketWritten"]);
pub const ACCEPTED: Moment =
    Moment::of("5", "agent hears accepted", Agent, &["event Link(Message(Accepted("]);
pub const CALLING: Moment = Moment::of("6", "before the migrate call", SourceBroker, &["action Migrate"]);
pub const COPYING: Moment =
    Moment::of("6", "copying", SourceBroker, &["event Hypervisor(Iteration", "round: 1 "]);
pub const NOTICED: Moment = Moment::of("6", "agent hears notice", Agent, &["event Link(Message(Notice("]);
pub const INCOMING: Moment = Moment::of("7", "incoming", DestinationBroker, &["event Hypervisor(Incoming"]);
pub const ATTACHING: Moment = Moment::of("7", "port attached", DestinationBroker, &["action Attach"]);
pub const SWITCHING: Moment =
    Moment::of("8", "switching over", SourceBroker, &["event Hypervisor(SwitchingOver"]);
pub const ARRIVED: Moment =
    Moment::of("8", "Finish succeeded", DestinationBroker, &["event Hypervisor(Arrived"]);
pub const LEFT: Moment = Moment::of("8", "gone from the source", SourceBroker, &["event Hypervisor(Left"]);
pub const RETURNED: Moment = Moment::of("8", "the call returned", SourceBroker, &["event Returned"]);
pub const FIGURES: Moment = Moment::of("9", "figures fetched", DestinationBroker, &["event Figures"]);
pub const TELLING: Moment =
    Moment::of("9", "before telling", DestinationBroker, &["action Tell", "Completed("]);
pub const HEARD: Moment = Moment::of("9", "agent hears completed", Agent, &["event Link(Message(Completed("]);
pub const KEPT: Moment =
    Moment::of("10", "agent has saved it", Agent, &["action Tell", "event: \"completed\""]);
pub const DELIVERED: Moment =
    Moment::of("10", "acknowledged", DestinationBroker, &["event Link", "Delivered(Completed("]);
pub const CLEARING: Moment =
    Moment::of("10", "before the ticket goes", DestinationBroker, &["action ClearTicket"]);
pub const MEASURED: Moment =
    Moment::of("11", "agent has measured again", Agent, &["action Tell", "event: \"effect\""]);
pub const CLEARED: Moment = Moment::of("10", "ticket removed", DestinationBroker, &["event TicketCleared"]);
