//! The table. A row is a line: who wants the move, at which moment, what goes wrong, what becomes of the VM.
//!
//! **To add a row**, add a line to [`rows`] where it belongs: `row(initiator, moment, fault, expectation)`.
//!
//! - Moments are the constants of `moment.rs`. A new one is the step's number, a name, who lives it, and how the event
//!   or action begins that it stops before, as Rust's `Debug` prints it.
//! - Faults are those of [`Fault`]. A new one is a variant and two arms in `strike.rs`: how it is done, how undone.
//! - `.and(fault)` adds a second fault at the same moment, `.limits("...")` lines for the broker's `[limits]`,
//!   `.dirtying(mib_s)` a guest that writes faster than can be copied, `.sampled()` puts it into the
//!   sample.
//!
//! The rule (`check.rs`) needs no word: it holds for every row. Play it: `make test-faults FAULTS='word,other word'`.

use super::moment::*;
use super::report::Report;
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

/// It depends on which of its allocations fails whether the destination's QEMU dies before memory is copied.
const FULL: super::row::Expect = Stays(&[
    "denied:destination-refused",
    "failed:destination-refused",
    "failed:destination-lost",
    "failed:source-error",
]);

pub fn rows() -> Vec<Row> {
    vec![
        // The move itself.
        row(Customer, IDLE, Fault::Nothing, Moves).sampled(),
        row(Operator, IDLE, Fault::Nothing, Moves).sampled(),
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
        row(Customer, TELLING, KillBroker(Source), Moves),
        row(Customer, MEASURED, KillBroker(Source), Moves),
        // kill -9 of the destination's broker.
        row(Customer, IDLE, KillBroker(Destination), Moves),
        row(Customer, RECEIVED, KillBroker(Destination), Moves),
        row(Customer, ANSWERED, KillBroker(Destination), Moves),
        row(Customer, TICKET_WRITTEN, KillBroker(Destination), Moves),
        row(Customer, INCOMING, KillBroker(Destination), Moves),
        row(Customer, ATTACHING, KillBroker(Destination), Moves),
        row(Customer, ARRIVED, KillBroker(Destination), Moves).sampled(),
        row(Customer, FIGURES, KillBroker(Destination), Moves),
        row(Customer, TELLING, KillBroker(Destination), Moves),
        row(Customer, DELIVERED, KillBroker(Destination), Moves),
        row(Customer, CLEARING, KillBroker(Destination), Moves),
        row(Customer, CLEARED, KillBroker(Destination), Moves),
        row(Customer, MEASURED, KillBroker(Destination), Moves),
        row(Customer, COPYING, KillBrokerUntilArrived(Destination), Moves),
        row(Operator, ANSWERED, KillBroker(Destination), Moves),
        row(Operator, TICKET_WRITTEN, KillBroker(Destination), Moves),
        row(Operator, INCOMING, KillBroker(Destination), Moves),
        row(Operator, ARRIVED, KillBroker(Destination), Moves),
        row(Operator, FIGURES, KillBroker(Destination), Moves),
        row(Operator, TELLING, KillBroker(Destination), Moves),
        row(Operator, DELIVERED, KillBroker(Destination), Moves),
        row(Operator, CLEARING, KillBroker(Destination), Moves),
        row(Operator, COPYING, KillBrokerUntilArrived(Destination), Moves),
        // kill -9 of the agent.
        row(Customer, IDLE, KillAgent, Moves),
        row(Customer, SAVED, KillAgent, Moves),
        row(Customer, RECEIVED, KillAgent, Moves),
        row(Customer, ANSWERED, KillAgent, Moves),
        row(Customer, ACCEPTED, KillAgent, Moves),
        row(Customer, NOTICED, KillAgent, Moves),
        row(Customer, COPYING, KillAgent, Moves),
        row(Customer, HEARD, KillAgent, Moves),
        row(Customer, KEPT, KillAgent, Moves).sampled(),
        row(Customer, ARRIVED, KillAgent, Moves),
        row(Customer, MEASURED, KillAgent, Moves).sampled(),
        row(Operator, NOTICED, KillAgent, Moves),
        row(Operator, COPYING, KillAgent, Moves),
        row(Operator, HEARD, KillAgent, Moves),
        row(Operator, KEPT, KillAgent, Moves),
        row(Operator, MEASURED, KillAgent, Moves),
        // Two at once.
        row(Customer, COPYING, KillBroker(Source), Moves).and(KillBroker(Destination)),
        row(Customer, ARRIVED, KillBroker(Destination), Moves).and(KillAgent),
        row(Customer, SAVED, KillBroker(Source), Moves).and(KillAgent),
        row(Customer, COPYING, KillBroker(Source), LIBVIRT_DECIDES).and(KillLibvirtd(Source)),
        row(Customer, COPYING, Cut { seconds: 4 }, LIBVIRT_DECIDES).and(KillBroker(Source)),
        // SIGTERM.
        row(Customer, COPYING, TermBroker(Source), Moves).sampled(),
        row(Customer, SWITCHING, TermBroker(Source), Moves),
        row(Customer, INCOMING, TermBroker(Destination), Moves),
        row(Customer, ARRIVED, TermBroker(Destination), Moves),
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
        row(Customer, ARRIVED, LoseFinish, Moves),
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
        row(Customer, ANSWERED, FullDestination, FULL),
        row(Operator, ANSWERED, FullDestination, FULL),
        row(Customer, IDLE, NoBroker, Stays(&["denied:no-destination"])),
        row(Operator, IDLE, NoBroker, Stays(&[])),
        row(Customer, IDLE, HookRefuses, Stays(&["denied:destination-refused"])).sampled(),
        row(Operator, IDLE, HookRefuses, Stays(&["failed:destination-refused"])),
        row(Customer, IDLE, DestinationDown, Stays(&["denied:no-destination"])),
        row(Customer, IDLE, NotEnabled, Stays(&["denied:not-enabled"])),
        row(Customer, IDLE, LittleMemory, Stays(&["denied:no-destination"])),
        row(Operator, IDLE, LittleMemory, Stays(&[])),
        row(Customer, COPYING, SilentAgent, Moves).limits("hello_s = 10"),
        // A paused copy left behind.
        row(Customer, COPYING, LeavePausedCopy, Stays(&["failed:unexplained", "failed:source-error"])),
        row(Operator, COPYING, LeavePausedCopy, Stays(&["failed:unexplained", "failed:source-error"])),
        row(Customer, COPYING, LeavePausedCopyOfRunning, Moves),
        // Ended on purpose.
        row(Customer, ANSWERED, CancelByGuest, Stays(&["cancelled:by-customer"])),
        row(Customer, TICKET_WRITTEN, CancelByGuest, Stays(&["cancelled:by-customer"])),
        row(Customer, COPYING, CancelByGuest, Stays(&["cancelled:by-customer"])),
        row(Customer, SWITCHING, CancelByGuest, Moves),
        row(Customer, COPYING, CancelByOperator, Stays(&["cancelled:by-operator"])),
        row(Operator, COPYING, CancelByOperator, Stays(&["cancelled:by-operator"])),
        row(Customer, COPYING, Fault::Nothing, Stays(&["failed:time-limit"]))
            .limits("max_total_s = 8")
            .dirtying(60)
            .sampled(),
        row(Customer, COPYING, AbortByVirsh, Stays(&["cancelled:by-foreign", "failed:source-error"])),
    ]
}

/// What `COMS_FAULTS` selects: the sample; all; what has not held yet in `target/faults/table.md`; rows by their
/// places, as in `3,10-19`; or rows whose name contains each of the words between commas.
pub fn selected(wanted: &str, so_far: &Report) -> Vec<Row> {
    let place = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    let places: Option<Vec<_>> = wanted.split(',').map(place).collect();
    let chosen = |(i, row): &(usize, Row)| match (wanted, &places) {
        ("" | "sample", _) => row.sample,
        ("all", _) => true,
        ("open", _) => !so_far.holds(row),
        (_, Some(places)) => places.iter().any(|p| p.contains(&(i + 1))),
        (words, None) => words.split(',').all(|w| row.name().contains(w.trim())),
    };
    rows().into_iter().enumerate().filter(chosen).map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_step_has_rows_and_no_two_rows_share_a_name() {
        let rows = rows();
        let names: BTreeSet<String> = rows.iter().map(Row::name).collect();
        assert_eq!(names.len(), rows.len(), "the report knows rows by their names");
        for step in 2..=11 {
            assert!(rows.iter().any(|r| r.at.step == step.to_string()), "step {step} has no row");
        }
    }

    #[test]
    fn rows_are_picked_by_place_word_and_outcome() {
        let so_far = Report::default();
        let all = rows().len();
        assert_eq!(selected("all", &so_far).len(), all);
        assert_eq!(selected("open", &so_far).len(), all);
        assert_eq!(selected("2-4,7", &so_far).len(), 4);
        assert!(selected("sample", &so_far).len() < all / 4);
        let words = selected("operator, copying", &so_far);
        assert!(!words.is_empty() && words.iter().all(|r| r.initiator == Operator), "{words:?}");
    }
}
