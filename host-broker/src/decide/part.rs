//! Who may take part: whom the configuration names, and whom `comsctl enable` let. The latter stands in the domain's
//! metadata, so it goes with the VM to whichever host of the pool.

use super::Broker;
use crate::action::{Action, Level};
use crate::control::Reply;
use crate::event::Caller;
use crate::hypervisor::{Domain, DomainState, HvError, Part};
use uuid::Uuid;

impl Broker {
    pub(super) fn takes_part(&self, domain: &Domain) -> bool {
        domain.permitted || self.config.is_enabled(domain.uuid, &domain.name)
    }

    /// The operator lets a domain take part, or not any more.
    pub(super) fn set_part(&mut self, caller: Caller, domain: &str, on: bool) {
        let checked = self.check_order(domain, None).and_then(|uuid| {
            let Some(guest) = self.guests.get(&uuid) else { return Err(format!("`{domain}` has gone")) };
            let moved = match guest.mv.plan() {
                Some(plan) => Some(format!("it is being moved, as {}", plan.migration)),
                None if !guest.mv.is_none() || guest.undecided => Some("it is being moved".to_owned()),
                None => in_between(&guest.domain).map(str::to_owned),
            };
            match moved {
                Some(why) => {
                    Err(format!("`{domain}`: {why}; libvirt changes nothing of it meanwhile: try again then"))
                }
                None => Ok(uuid),
            }
        });
        self.out.push(match checked {
            Ok(uuid) => Action::SetPart { caller, uuid, on },
            Err(text) => Action::Reply { caller, reply: Box::new(Reply::Refused { text }) },
        });
    }

    pub(super) fn part_set(&mut self, caller: Caller, uuid: Uuid, on: bool, result: Result<Part, HvError>) {
        let Some(name) = self.guests.get(&uuid).map(|g| g.domain.name.clone()) else {
            let text = "it has gone meanwhile; look at: virsh list --all".to_owned();
            return self.out.push(Action::Reply { caller, reply: Box::new(Reply::Refused { text }) });
        };
        let reply = match result {
            Ok(part) => {
                let text = said(&name, on, part);
                self.log(Level::Info, Some(uuid), format!("by the operator: {text}"));
                let listed = !on && self.config.is_enabled(uuid, &name);
                let rest = "; broker.toml lets it all the same ([guests] enabled): take it out there, then comsctl reload";
                Reply::Done { text: text + if listed { rest } else { "" } }
            }
            Err(e) => Reply::Refused { text: format!("`{name}`: {e}") },
        };
        // Also after a failure: the first half may have been done.
        self.out.push(Action::Look { uuid });
        self.out.push(Action::Reply { caller, reply: Box::new(reply) });
    }
}

/// Why it cannot be changed in the state in which it was seen last. Whether a job runs on it libvirt is asked right before the
/// change: no event says that one has ended, and after an arrival the last look still shows it.
fn in_between(domain: &Domain) -> Option<&'static str> {
    match domain.state {
        DomainState::Incoming | DomainState::RunningPostCopy => Some("it is arriving"),
        DomainState::Paused { migration: true } => Some("a move left it paused"),
        DomainState::Running { .. }
        | DomainState::Paused { migration: false }
        | DomainState::ShutOff
        | DomainState::Other => None,
    }
}

fn said(name: &str, on: bool, part: Part) -> String {
    match (on, part.running, part.persistent) {
        (true, true, true) => {
            format!("`{name}` takes part: it has the port and the permission, now and when it starts again")
        }
        (true, true, false) => {
            format!("`{name}` takes part until it ends: it has no definition to keep port and permission")
        }
        (true, false, _) => format!("`{name}` takes part when it starts: it has the port and the permission"),
        (false, ..) => format!("`{name}` takes no part any more: port and permission are taken away"),
    }
}
