//! May this guest be moved now? By policy, before anything is asked; by its state, as libvirt shows it then.

use crate::config::Limits;
use crate::hypervisor::{Domain, DomainState};
use coms_protocol::guest_to_host::Wishes;
use coms_protocol::types::{DenyReason, Technique};
use std::time::Duration;

/// What admission looks at.
#[derive(Debug)]
pub struct Situation<'a> {
    pub enabled: bool,
    /// Since its last move, if that is known.
    pub since_last_move: Option<Duration>,
    /// Moves away from this host that are under way.
    pub moves_running: usize,
    /// Requests of this guest within the last minute, this one included.
    pub requests_last_minute: usize,
    pub wishes: &'a Wishes,
    /// An operator's order: only what is impossible stops it.
    pub by_operator: bool,
    /// The operator has paused customers' moves.
    pub paused: bool,
    /// For how long still it rests after a move that failed.
    pub rest_after_failure: Option<Duration>,
}

/// A refusal, and when asking again may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denial {
    pub reason: DenyReason,
    pub retry_after_s: Option<u32>,
}

impl Denial {
    pub fn new(reason: DenyReason) -> Self {
        Self { reason, retry_after_s: None }
    }

    pub fn after(reason: DenyReason, wait: Duration) -> Self {
        Self {
            reason,
            retry_after_s: Some(
                wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).min(u32::MAX.into()) as u32,
            ),
        }
    }
}

/// The technique this host uses, unless a wish forbids it.
pub fn technique(limits: &Limits, wishes: &Wishes) -> Option<Technique> {
    let ours = if limits.auto_converge {
        [Technique::AutoConverge, Technique::PreCopy]
    } else {
        [Technique::PreCopy; 2]
    };
    ours.into_iter().find(|t| !wishes.never.as_slice().contains(t))
}

/// Whether the domain, as libvirt shows it this moment, can be moved at all.
pub fn movable(domain: &Domain) -> Result<(), Denial> {
    match domain.state {
        DomainState::Running { .. } if domain.job_active => {
            Err(Denial::after(DenyReason::Busy, Duration::from_secs(5)))
        }
        DomainState::Running { .. } => Ok(()),
        DomainState::RunningPostCopy | DomainState::Incoming => {
            Err(Denial::after(DenyReason::Busy, Duration::from_secs(5)))
        }
        DomainState::Paused { .. } | DomainState::ShutOff | DomainState::Other => {
            Err(Denial::new(DenyReason::CannotMove))
        }
    }
}

/// Whether policy lets it be moved now.
pub fn admit(limits: &Limits, s: &Situation<'_>) -> Result<Technique, Denial> {
    if !s.by_operator {
        // First, so that what follows it costs a record and a line of log only so often.
        if s.requests_last_minute > limits.requests_per_minute as usize {
            return Err(Denial::after(DenyReason::TooOften, Duration::from_secs(60)));
        }
        if !s.enabled {
            return Err(Denial::new(DenyReason::NotEnabled));
        }
        if s.paused {
            return Err(Denial::after(DenyReason::Paused, Duration::from_secs(300)));
        }
        if let Some(rest) = s.rest_after_failure {
            return Err(Denial::after(DenyReason::Cooldown, rest));
        }
        if let Some(rest) = s.since_last_move.and_then(|since| limits.cooldown.checked_sub(since))
            && !rest.is_zero()
        {
            return Err(Denial::after(DenyReason::Cooldown, rest));
        }
    }
    if s.moves_running >= limits.simultaneous_moves as usize {
        return Err(Denial::after(DenyReason::TooManyMoves, Duration::from_secs(15)));
    }
    technique(limits, s.wishes).ok_or(Denial::new(DenyReason::NoTechnique))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::Needs;
    use coms_protocol::types::List;
    use uuid::Uuid;

    fn limits() -> Limits {
        Limits {
            simultaneous_moves: 2,
            cooldown: Duration::from_secs(60),
            max_total: Duration::from_secs(60),
            requests_per_minute: 3,
            min_load_gain: 0.2,
            bandwidth_mib_s: None,
            max_downtime_ms: None,
            auto_converge: false,
            ticket_ttl: Duration::from_secs(60),
            require_broker: true,
            min_vcpu_wait: 0.2,
            hello: Duration::from_secs(60),
        }
    }

    fn domain() -> Domain {
        Domain {
            uuid: Uuid::nil(),
            name: "vm".into(),
            state: DomainState::Running { arrived: false },
            persistent: true,
            autostart: false,
            channel: None,
            memory_kib: 1,
            vcpus: 1,
            needs: Needs { virt_type: "qemu".into(), arch: "x86_64".into(), machine: "pc".into() },
            ticket_xml: None,
            random_xml: None,
            seal_xml: None,
            permitted: false,
            interfaces: Vec::new(),
            storage: Default::default(),
            job_active: false,
        }
    }

    fn ask(change: impl FnOnce(&mut Situation<'_>, &mut Limits)) -> Result<Technique, Denial> {
        let (mut l, w) = (limits(), Wishes::default());
        let mut s = Situation {
            enabled: true,
            since_last_move: None,
            moves_running: 0,
            requests_last_minute: 1,
            wishes: &w,
            by_operator: false,
            paused: false,
            rest_after_failure: None,
        };
        change(&mut s, &mut l);
        admit(&l, &s)
    }

    #[test]
    fn admits_what_nothing_speaks_against() {
        assert_eq!(ask(|_, _| ()), Ok(Technique::PreCopy));
        assert_eq!(ask(|s, _| s.since_last_move = Some(Duration::from_secs(60))), Ok(Technique::PreCopy));
    }

    #[test]
    fn each_refusal_is_typed_and_says_when_to_ask_again() {
        let denied = |r, after| Err(Denial { reason: r, retry_after_s: after });
        assert_eq!(ask(|s, _| s.enabled = false), denied(DenyReason::NotEnabled, None));
        assert_eq!(
            ask(|s, _| s.since_last_move = Some(Duration::from_secs(20))),
            denied(DenyReason::Cooldown, Some(40))
        );
        assert_eq!(ask(|s, _| s.paused = true), denied(DenyReason::Paused, Some(300)));
        let rest = Some(Duration::from_secs(5));
        assert_eq!(ask(|s, _| s.rest_after_failure = rest), denied(DenyReason::Cooldown, Some(5)));
        assert_eq!(ask(|s, _| s.moves_running = 2), denied(DenyReason::TooManyMoves, Some(15)));
        assert_eq!(ask(|s, _| s.requests_last_minute = 4), denied(DenyReason::TooOften, Some(60)));
    }

    #[test]
    fn an_operator_overrides_rules_but_not_facts() {
        let order = |s: &mut Situation<'_>, _: &mut Limits| {
            s.by_operator = true;
            s.enabled = false;
            s.paused = true;
            s.since_last_move = Some(Duration::ZERO);
        };
        assert_eq!(ask(order), Ok(Technique::PreCopy));
        assert!(
            ask(|s, l| {
                order(s, l);
                s.moves_running = 2
            })
            .is_err()
        );
    }

    #[test]
    fn only_a_running_domain_without_a_job_can_be_moved() {
        assert_eq!(movable(&domain()), Ok(()));
        for (state, job_active, reason) in [
            (DomainState::Running { arrived: true }, true, DenyReason::Busy),
            (DomainState::Incoming, false, DenyReason::Busy),
            (DomainState::Paused { migration: false }, false, DenyReason::CannotMove),
            (DomainState::ShutOff, false, DenyReason::CannotMove),
        ] {
            let denied = movable(&Domain { state, job_active, ..domain() });
            assert_eq!(denied.map_err(|d| d.reason), Err(reason), "{state:?}");
        }
    }

    #[test]
    fn a_forbidden_technique_is_not_used() {
        let mut l = limits();
        let w = Wishes { never: List::clipped([Technique::AutoConverge]), ..Wishes::default() };
        l.auto_converge = true;
        assert_eq!(technique(&l, &w), Some(Technique::PreCopy));
        let w = Wishes { never: List::clipped([Technique::PreCopy]), ..Wishes::default() };
        assert_eq!(technique(&limits(), &w), None);
    }
}
