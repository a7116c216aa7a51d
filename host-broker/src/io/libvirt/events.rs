//! Lifecycle events into the broker's own, told apart by what was heard before.
//!
//! One libvirt event means different things at the two ends. RESUMED with detail MIGRATED is the arrival at the
//! destination, and at the source the end of a failed attempt (libvirt gives MIGRATION_CANCELED the same detail).
//! STOPPED is a departure at the source and a failed arrival at the destination. Which end this is follows from
//! STARTED/MIGRATED, which only a destination has.

use super::ffi::Raw;
use super::figures::job_figures;
use crate::hypervisor::HvEvent;
use std::collections::HashSet;
use std::ffi::c_int;
use uuid::Uuid;
use virt_sys as sys;

/// Domains being received here.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    incoming: HashSet<Uuid>,
}

impl Tracker {
    /// After a gap: what was heard before it no longer counts.
    pub(super) fn reset(&mut self) {
        self.incoming.clear();
    }

    /// A look at the domain found it being received; STARTED may have been missed.
    pub(super) fn known_incoming(&mut self, uuid: Uuid) {
        self.incoming.insert(uuid);
    }

    pub(super) fn hear(&mut self, raw: Raw) -> Vec<HvEvent> {
        match raw {
            Raw::Lifecycle { uuid, event, detail } => {
                let specific = self.lifecycle(uuid, event, detail);
                specific.into_iter().chain([HvEvent::Changed { uuid }]).collect()
            }
            Raw::Iteration { uuid, round } => {
                // Only a source counts rounds.
                self.incoming.remove(&uuid);
                match u32::try_from(round) {
                    Ok(round) => vec![HvEvent::Iteration { uuid, round }],
                    Err(_) => vec![],
                }
            }
            Raw::JobCompleted { uuid, params } => {
                vec![HvEvent::JobCompleted { uuid, figures: Box::new(job_figures(&params)) }]
            }
            // The keeper of the connection acts on this one.
            Raw::Closed { .. } => vec![],
        }
    }

    fn lifecycle(&mut self, uuid: Uuid, event: c_int, detail: c_int) -> Option<HvEvent> {
        let detail = detail as u32;
        match event as sys::virDomainEventType {
            sys::VIR_DOMAIN_EVENT_STARTED if detail == sys::VIR_DOMAIN_EVENT_STARTED_MIGRATED => {
                self.incoming.insert(uuid);
                Some(HvEvent::Incoming { uuid })
            }
            sys::VIR_DOMAIN_EVENT_RESUMED => match detail {
                sys::VIR_DOMAIN_EVENT_RESUMED_MIGRATED => {
                    self.incoming.remove(&uuid).then_some(HvEvent::Arrived { uuid })
                }
                // Stays in the set: RESUMED/MIGRATED follows when the rest of the memory is here.
                sys::VIR_DOMAIN_EVENT_RESUMED_POSTCOPY => {
                    self.incoming.contains(&uuid).then_some(HvEvent::ArrivedPostCopy { uuid })
                }
                _ => None,
            },
            sys::VIR_DOMAIN_EVENT_SUSPENDED
                if detail == sys::VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED
                    || detail == sys::VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY =>
            {
                (!self.incoming.contains(&uuid)).then_some(HvEvent::SwitchingOver { uuid })
            }
            sys::VIR_DOMAIN_EVENT_STOPPED => {
                let received = self.incoming.remove(&uuid);
                if detail == sys::VIR_DOMAIN_EVENT_STOPPED_MIGRATED && !received {
                    Some(HvEvent::Left { uuid })
                } else {
                    Some(HvEvent::Gone { uuid })
                }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::*;

    const VM: Uuid = Uuid::from_u128(7);

    fn heard(tracker: &mut Tracker, event: u32, detail: u32) -> Option<HvEvent> {
        let mut events =
            tracker.hear(Raw::Lifecycle { uuid: VM, event: event as c_int, detail: detail as c_int });
        assert_eq!(
            events.pop(),
            Some(HvEvent::Changed { uuid: VM }),
            "every lifecycle event says Changed, last"
        );
        assert!(events.len() <= 1);
        events.pop()
    }

    #[test]
    fn a_migration_seen_from_the_destination() {
        let mut t = Tracker::default();
        assert_eq!(
            heard(&mut t, VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_MIGRATED),
            Some(HvEvent::Incoming { uuid: VM })
        );
        assert_eq!(
            heard(&mut t, VIR_DOMAIN_EVENT_RESUMED, VIR_DOMAIN_EVENT_RESUMED_MIGRATED),
            Some(HvEvent::Arrived { uuid: VM })
        );
    }

    #[test]
    fn a_migration_seen_from_the_source() {
        let mut t = Tracker::default();
        assert_eq!(
            t.hear(Raw::Iteration { uuid: VM, round: 1 }),
            vec![HvEvent::Iteration { uuid: VM, round: 1 }]
        );
        assert_eq!(
            heard(&mut t, VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED),
            Some(HvEvent::SwitchingOver { uuid: VM })
        );
        assert_eq!(
            heard(&mut t, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_MIGRATED),
            Some(HvEvent::Left { uuid: VM })
        );
    }

    #[test]
    fn a_source_that_runs_on_after_a_failed_switch_over_has_not_arrived() {
        let mut t = Tracker::default();
        heard(&mut t, VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED);
        assert_eq!(heard(&mut t, VIR_DOMAIN_EVENT_RESUMED, VIR_DOMAIN_EVENT_RESUMED_MIGRATED), None);
    }

    #[test]
    fn a_destination_that_gives_up_is_gone_and_has_not_left() {
        let mut t = Tracker::default();
        heard(&mut t, VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_MIGRATED);
        assert_eq!(
            heard(&mut t, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_MIGRATED),
            Some(HvEvent::Gone { uuid: VM })
        );
    }

    #[test]
    fn post_copy_arrives_twice() {
        let mut t = Tracker::default();
        heard(&mut t, VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_MIGRATED);
        assert_eq!(
            heard(&mut t, VIR_DOMAIN_EVENT_RESUMED, VIR_DOMAIN_EVENT_RESUMED_POSTCOPY),
            Some(HvEvent::ArrivedPostCopy { uuid: VM })
        );
        assert_eq!(
            heard(&mut t, VIR_DOMAIN_EVENT_RESUMED, VIR_DOMAIN_EVENT_RESUMED_MIGRATED),
            Some(HvEvent::Arrived { uuid: VM })
        );
    }

    #[test]
    fn a_domain_found_incoming_after_a_gap_arrives() {
        let mut t = Tracker::default();
        heard(&mut t, VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_MIGRATED);
        t.reset();
        t.known_incoming(VM);
        assert_eq!(
            heard(&mut t, VIR_DOMAIN_EVENT_RESUMED, VIR_DOMAIN_EVENT_RESUMED_MIGRATED),
            Some(HvEvent::Arrived { uuid: VM })
        );
    }

    #[test]
    fn other_events_only_say_that_something_changed() {
        let mut t = Tracker::default();
        assert_eq!(heard(&mut t, VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_BOOTED), None);
        assert_eq!(heard(&mut t, VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_PAUSED), None);
        assert_eq!(heard(&mut t, VIR_DOMAIN_EVENT_RESUMED, VIR_DOMAIN_EVENT_RESUMED_UNPAUSED), None);
        assert_eq!(heard(&mut t, VIR_DOMAIN_EVENT_DEFINED, VIR_DOMAIN_EVENT_DEFINED_ADDED), None);
        assert_eq!(heard(&mut t, VIR_DOMAIN_EVENT_UNDEFINED, VIR_DOMAIN_EVENT_UNDEFINED_REMOVED), None);
        assert_eq!(heard(&mut t, 42, 42), None);
        assert_eq!(
            heard(&mut t, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN),
            Some(HvEvent::Gone { uuid: VM })
        );
    }
}
