//! What the ticket found in a domain means to this host.

use crate::hypervisor::{Domain, DomainState};
use crate::ticket::Ticket;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// For me, and the domain is being received.
    Arriving,
    /// For me, and libvirt's Finish has succeeded.
    Arrived,
    /// Mine to give, and the domain still runs here without a job: that attempt is over.
    DidNotLeave,
    /// Mine to give, and nobody can tell yet.
    Undecided,
    /// Never yields an outcome: remove it. Why, for the log.
    Void(&'static str),
}

pub fn judge(ticket: &Ticket, me: Uuid, domain: &Domain, unix_ms: u64) -> Standing {
    if ticket.source == me && ticket.destination == me {
        return Standing::Void("it names this host as source and destination");
    }
    if ticket.destination == me {
        return match domain.state {
            DomainState::Incoming | DomainState::RunningPostCopy => Standing::Arriving,
            DomainState::Running { arrived: _ } if ticket.expires_unix_ms < unix_ms => {
                Standing::Void("it has expired")
            }
            DomainState::Running { arrived: true } => Standing::Arrived,
            DomainState::Running { arrived: false } => {
                Standing::Void("the domain was started here, not received")
            }
            // Running or received before; paused by its owner or by post-copy trouble since.
            DomainState::Paused { .. } | DomainState::Other => Standing::Undecided,
            DomainState::ShutOff => Standing::Void("the domain is shut off"),
        };
    }
    if ticket.source == me {
        return match domain.state {
            DomainState::Running { .. } if !domain.job_active => Standing::DidNotLeave,
            DomainState::Running { .. }
            | DomainState::RunningPostCopy
            | DomainState::Paused { .. }
            | DomainState::Other
            | DomainState::Incoming => Standing::Undecided,
            DomainState::ShutOff => Standing::Void("the domain is shut off"),
        };
    }
    match domain.state {
        // On its way through a host that the ticket does not know: removed once it has settled.
        DomainState::Incoming | DomainState::RunningPostCopy => Standing::Undecided,
        DomainState::Running { .. }
        | DomainState::Paused { .. }
        | DomainState::Other
        | DomainState::ShutOff => Standing::Void("it is for another host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::Needs;
    use coms_protocol::types::{Initiator, MigrationId, Technique};

    const ME: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn judged(
        source: Uuid,
        destination: Uuid,
        state: DomainState,
        job_active: bool,
        unix_ms: u64,
    ) -> Standing {
        let ticket = Ticket {
            migration: MigrationId(1),
            attempt: 1,
            request: None,
            initiator: Initiator::Customer,
            technique: Technique::PreCopy,
            source,
            destination,
            written_unix_ms: 0,
            expires_unix_ms: 1000,
            autostart: false,
            agent: false,
            channels: None,
        };
        let domain = Domain {
            uuid: Uuid::nil(),
            name: "vm".into(),
            state,
            persistent: false,
            autostart: false,
            channel: None,
            memory_kib: 0,
            vcpus: 1,
            needs: Needs { virt_type: String::new(), arch: String::new(), machine: String::new() },
            ticket_xml: None,
            random_xml: None,
            seal_xml: None,
            permitted: false,
            interfaces: Vec::new(),
            storage: Default::default(),
            job_active,
        };
        judge(&ticket, ME, &domain, unix_ms)
    }

    #[test]
    fn only_a_valid_ticket_for_this_host_after_finish_says_arrived() {
        let states = [
            DomainState::Running { arrived: true },
            DomainState::Running { arrived: false },
            DomainState::RunningPostCopy,
            DomainState::Incoming,
            DomainState::Paused { migration: true },
            DomainState::Paused { migration: false },
            DomainState::ShutOff,
            DomainState::Other,
        ];
        for source in [ME, OTHER, Uuid::from_u128(3)] {
            for destination in [ME, OTHER] {
                for state in states {
                    for job in [true, false] {
                        for at in [500, 1001] {
                            let arrived = judged(source, destination, state, job, at) == Standing::Arrived;
                            let should = source != ME
                                && destination == ME
                                && at <= 1000
                                && state == DomainState::Running { arrived: true };
                            assert_eq!(arrived, should, "{source} {destination} {state:?} {at}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_source_that_finds_its_own_ticket_finds_out_first() {
        let running = DomainState::Running { arrived: false };
        assert_eq!(judged(ME, OTHER, running, false, 0), Standing::DidNotLeave);
        assert_eq!(judged(ME, OTHER, running, true, 0), Standing::Undecided);
        assert_eq!(judged(ME, OTHER, DomainState::Paused { migration: true }, false, 0), Standing::Undecided);
        assert!(matches!(judged(OTHER, Uuid::from_u128(3), running, false, 0), Standing::Void(_)));
    }
}
