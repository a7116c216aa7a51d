//! The table. A row is a line: who wants the move, at which moment, what goes wrong, what becomes of the VM.

use super::moment::*;
use super::row::{
    End::{Destination, Source},
    Expect::{Dies, Either, Moves, Stays},
    Fault,
    Fault::*,
    Initiator::{Customer, Operator},
    Row,
};

const fn row(initiator: super::row::Initiator, at: Moment, fault: Fault, expect: super::row::Expect) -> Row {
    Row::new(initiator, at, fault, expect)
}

/// libvirt breaks a move whose other end is silent, or the move is done before anybody notices.
const LIBVIRT_DECIDES: super::row::Expect = Either(
    "libvirt decides by its own time limits whether the move outlives this; the rule holds either way",
);

pub fn rows() -> Vec<Row> {
    vec![
        // The move itself.
        row(Customer, IDLE, Fault::None, Moves).sampled(),
        row(Operator, IDLE, Fault::None, Moves).sampled(),
        // kill -9 of the source's broker, at every step that it takes part in.
        row(Customer, IDLE, KillBroker(Source), Moves),
        row(Customer, RECEIVED, KillBroker(Source), Moves).sampled(),
        row(Customer, ANSWERED, KillBroker(Source), Moves),
        row(Customer, TICKET_DUE, KillBroker(Source), Moves),
        row(
            Customer,
            TICKET_WRITTEN,
            KillBroker(Source),
            Either("the ticket without a move is answered: failed"),
        ),
        row(Customer, CALLING, KillBroker(Source), Either("the ticket without a move is answered: failed")),
        row(Customer, COPYING, KillBroker(Source), Moves).sampled(),
        row(Customer, SWITCHING, KillBroker(Source), Moves),
        row(Customer, LEFT, KillBroker(Source), Moves),
        row(Customer, RETURNED, KillBroker(Source), Moves),
        row(Operator, RECEIVED, KillBroker(Source), Stays(&[])),
        row(Operator, ANSWERED, KillBroker(Source), Stays(&[])),
        row(Operator, TICKET_DUE, KillBroker(Source), Stays(&[])),
        row(Operator, TICKET_WRITTEN, KillBroker(Source), Stays(&["failed:unexplained"])),
        row(Operator, CALLING, KillBroker(Source), Stays(&["failed:unexplained"])),
        row(Operator, COPYING, KillBroker(Source), Moves).sampled(),
        row(Operator, SWITCHING, KillBroker(Source), Moves),
        row(Operator, LEFT, KillBroker(Source), Moves),
        row(Operator, RETURNED, KillBroker(Source), Moves),
        // kill -9 of the destination's broker.
        row(Customer, RECEIVED, KillBroker(Destination), Moves),
        row(Customer, TICKET_WRITTEN, KillBroker(Destination), Moves),
        row(Customer, INCOMING, KillBroker(Destination), Moves),
        row(Customer, ATTACHING, KillBroker(Destination), Moves),
        row(Customer, ARRIVED, KillBroker(Destination), Moves).sampled(),
        row(Customer, FIGURES, KillBroker(Destination), Moves),
        row(Customer, TELLING, KillBroker(Destination), Moves),
        row(Customer, DELIVERED, KillBroker(Destination), Moves),
        row(Customer, CLEARING, KillBroker(Destination), Moves),
        row(Customer, CLEARED, KillBroker(Destination), Moves),
        row(Customer, COPYING, KillBrokerUntilArrived(Destination), Moves),
        row(Operator, INCOMING, KillBroker(Destination), Moves),
        row(Operator, ARRIVED, KillBroker(Destination), Moves),
        row(Operator, TELLING, KillBroker(Destination), Moves),
        row(Operator, CLEARING, KillBroker(Destination), Moves),
        row(Operator, COPYING, KillBrokerUntilArrived(Destination), Moves),
        // kill -9 of the agent.
        row(Customer, SAVED, KillAgent, Moves),
        row(Customer, RECEIVED, KillAgent, Moves),
        row(Customer, ACCEPTED, KillAgent, Moves),
        row(Customer, NOTICED, KillAgent, Moves),
        row(Customer, COPYING, KillAgent, Moves),
        row(Customer, HEARD, KillAgent, Moves),
        row(Customer, KEPT, KillAgent, Moves).sampled(),
        row(Operator, NOTICED, KillAgent, Moves),
        row(Operator, HEARD, KillAgent, Moves),
        row(Operator, KEPT, KillAgent, Moves),
        // SIGTERM.
        row(Customer, COPYING, TermBroker(Source), Moves).sampled(),
        row(Customer, SWITCHING, TermBroker(Source), Moves),
        row(Customer, INCOMING, TermBroker(Destination), Moves),
        row(Operator, COPYING, TermBroker(Source), Moves),
        // libvirtd.
        row(Customer, IDLE, RestartLibvirtd(Source), Moves),
        row(Customer, IDLE, RestartLibvirtd(Destination), Moves),
        row(Customer, IDLE, KillLibvirtd(Source), Moves),
        row(Customer, IDLE, KillLibvirtd(Destination), Moves),
        row(Customer, COPYING, RestartLibvirtd(Source), LIBVIRT_DECIDES),
        row(Customer, COPYING, KillLibvirtd(Source), LIBVIRT_DECIDES).sampled(),
        row(Customer, COPYING, RestartLibvirtd(Destination), LIBVIRT_DECIDES),
        row(Customer, COPYING, KillLibvirtd(Destination), LIBVIRT_DECIDES),
        row(Operator, COPYING, KillLibvirtd(Source), LIBVIRT_DECIDES),
        row(Operator, COPYING, KillLibvirtd(Destination), LIBVIRT_DECIDES),
        row(Customer, ARRIVED, KillLibvirtd(Destination), LIBVIRT_DECIDES),
        // The destination's QEMU.
        row(
            Customer,
            COPYING,
            KillDestinationQemu,
            Stays(&["failed:destination-lost", "failed:source-error"]),
        ),
        row(
            Customer,
            COPYING,
            KillDestinationQemuBeforeFinish,
            Stays(&["failed:source-error", "failed:destination-lost"]),
        ),
        row(Customer, TELLING, KillDestinationQemu, Dies),
        // The network between the hosts.
        row(Customer, RECEIVED, Cut { seconds: 4 }, LIBVIRT_DECIDES),
        row(Customer, TICKET_WRITTEN, Cut { seconds: 4 }, LIBVIRT_DECIDES),
        row(Customer, COPYING, Cut { seconds: 4 }, LIBVIRT_DECIDES).sampled(),
        row(Customer, COPYING, Cut { seconds: 60 }, LIBVIRT_DECIDES),
        row(Customer, SWITCHING, Cut { seconds: 4 }, LIBVIRT_DECIDES),
        row(Customer, ARRIVED, Cut { seconds: 4 }, Moves),
        row(Operator, COPYING, Cut { seconds: 4 }, LIBVIRT_DECIDES),
        // The destination cannot, or is not there.
        row(Customer, ANSWERED, FullDestination, Stays(&["denied:destination-refused"])),
        row(Operator, ANSWERED, FullDestination, Stays(&["failed:destination-refused"])),
        row(Customer, IDLE, NoBroker, Stays(&["denied:no-destination"])),
        row(Operator, IDLE, NoBroker, Stays(&[])),
        row(Customer, COPYING, SilentAgent, Moves).limits("hello_s = 10"),
        // A paused copy left behind.
        row(Customer, COPYING, LeavePausedCopy, Stays(&["failed:unexplained", "failed:source-error"])),
        row(Operator, COPYING, LeavePausedCopy, Stays(&["failed:unexplained", "failed:source-error"])),
        // Ended on purpose.
        row(Customer, ANSWERED, CancelByGuest, Stays(&["cancelled:by-customer"])),
        row(Customer, TICKET_WRITTEN, CancelByGuest, Stays(&["cancelled:by-customer"])),
        row(Customer, COPYING, CancelByGuest, Stays(&["cancelled:by-customer"])),
        row(Customer, SWITCHING, CancelByGuest, Moves),
        row(Customer, COPYING, CancelByOperator, Stays(&["cancelled:by-operator"])),
        row(Operator, COPYING, CancelByOperator, Stays(&["cancelled:by-operator"])),
        row(Customer, COPYING, Fault::None, Stays(&["failed:time-limit"]))
            .limits("max_total_s = 8")
            .dirtying(60),
        row(Customer, COPYING, AbortByVirsh, Stays(&["cancelled:by-foreign", "failed:source-error"])),
    ]
}

/// What `COMS_FAULTS` selects: the sample, all, or rows whose name contains each of the words between commas.
pub fn selected(wanted: &str) -> Vec<Row> {
    let chosen = |row: &Row| match wanted {
        "" | "sample" => row.sample,
        "all" => true,
        words => words.split(',').all(|w| row.name().contains(w)),
    };
    rows().into_iter().filter(chosen).collect()
}
