//! How well moves are to be encrypted: what is said to whom, and what is not.

use super::*;
use coms_protocol::guest_to_host::{Protect, ProtectedRequest};
use coms_protocol::host_to_guest::{Enforced, Protected};
use coms_protocol::types::EncryptionLevel::{self, IfPossible, Never, Required};
use coms_protocol::types::Protection;

struct Guest {
    agent: Agent,
    done: Vec<Action>,
    ms: u64,
}

impl Guest {
    fn new(text: &str) -> Self {
        let agent = Agent::new(config(text), State::new(5), &BTreeSet::new(), 9, at(0));
        let mut guest = Self { agent, done: vec![], ms: 0 };
        guest.feed(met("a"));
        guest
    }

    fn feed(&mut self, event: Event) {
        self.agent.handle(at(self.ms), event);
        self.done.extend(self.agent.take_actions());
    }

    fn pass(&mut self, ms: u64) {
        self.ms += ms;
        self.feed(Event::Timer);
    }

    fn hears(&mut self, message: impl Into<HostToGuest>) {
        self.feed(Event::Link(Session::Message(message.into())));
    }

    fn migrate(&mut self, encryption: Option<EncryptionLevel>) {
        let command = Command::Migrate(Migrate { encryption, ..Migrate::default() });
        self.feed(Event::Command { client: ClientId(1), command });
    }

    /// What was said of levels and requests since the last time this was asked: `p` and a level, `r` for a plain request,
    /// `e` and a level for another.
    fn said(&mut self) -> String {
        let word = |a: &Action| {
            let Action::Send(message) = a else { return None };
            if let GuestToHost::Protect(Protect { level, .. }) = message {
                Some(format!("p:{level}"))
            } else if let GuestToHost::ProtectedRequest(ProtectedRequest { level, .. }) = message {
                Some(format!("e:{level}"))
            } else {
                matches!(message, GuestToHost::Request(_)).then(|| "r".to_owned())
            }
        };
        let said: Vec<_> = self.done.iter().filter_map(word).collect();
        self.done.clear();
        said.join(" ")
    }
}

fn protected(level: EncryptionLevel, wish: EncryptionLevel) -> Protected {
    Protected { number: None, level, by: Some(Initiator::Customer), wish }
}

const REQUIRED: &str = "[encryption]\nmoves = \"required\"\n";

#[test]
fn who_wants_nothing_says_nothing_of_it() {
    let mut guest = Guest::new("");
    guest.migrate(None);
    assert_eq!(guest.said(), "r");
    assert_eq!(guest.agent.protection_json(), None);
}

#[test]
fn a_request_waits_until_the_host_has_shown_that_it_understands() {
    let mut guest = Guest::new(REQUIRED);
    guest.migrate(None);
    assert_eq!(guest.said(), "p:required");
    guest.hears(protected(Never, Never));
    assert_eq!(guest.said(), "e:required");
    let request = guest.agent.state.life.asking().unwrap().request.clone();
    let delivered = ProtectedRequest { request, level: Required };
    guest.feed(Event::Link(Session::Delivered(delivered.into())));
    // Another broker is to be asked again; what it wants to hear again waits for that.
    guest.feed(met("b"));
    let request = guest.agent.state.life.asking().unwrap().request.id;
    guest.hears(Resend { request });
    assert_eq!(guest.said(), "p:required");
    guest.hears(protected(Required, Required));
    assert_eq!(guest.said(), "e:required");
}

#[test]
fn towards_a_host_that_is_too_old_what_requires_encryption_is_refused_here() {
    let mut guest = Guest::new(REQUIRED);
    guest.migrate(None);
    guest.pass(9_000);
    assert_eq!((guest.said().as_str(), guest.agent.state.life == Life::Idle), ("p:required", false));
    guest.pass(2_000);
    let told = guest.done.iter().any(|a| {
        let is = |t: &Telling| t.event == "denied" && t.fields["reason"] == "host-too-old-to-encrypt";
        matches!(a, Action::Tell(t) if is(t))
    });
    assert!(told, "{:?}", guest.done);
    assert_eq!((guest.said().as_str(), &guest.agent.state.life), ("", &Life::Idle));
    assert_eq!(guest.agent.state.history.back().unwrap().why.as_deref(), Some("host-too-old-to-encrypt"));
    // And the next one at once; what is wanted if possible, and nothing more, goes out as ever.
    guest.migrate(None);
    assert_eq!((guest.said().as_str(), &guest.agent.state.life), ("", &Life::Idle));
    let mut guest = Guest::new("");
    guest.migrate(Some(IfPossible));
    assert_eq!(guest.said(), "p:never");
    guest.pass(11_000);
    assert_eq!(guest.said(), "r");
}

#[test]
fn a_request_may_want_more_than_all_moves_do() {
    let mut guest = Guest::new("");
    guest.migrate(Some(Required));
    assert_eq!(guest.said(), "p:never", "to find out whether the host understands");
    guest.hears(protected(Never, Never));
    assert_eq!(guest.said(), "e:required");
    // Nor does it want less.
    let mut guest = Guest::new(REQUIRED);
    guest.hears(protected(Required, Required));
    guest.migrate(Some(Never));
    assert_eq!(guest.said(), "p:required e:required");
}

#[test]
fn a_host_that_holds_another_wish_is_told() {
    let mut guest = Guest::new("");
    guest.hears(protected(Required, Required));
    assert_eq!(guest.said(), "p:never");
    guest.hears(protected(Required, Required));
    assert_eq!(guest.said(), "", "once: it waits for the move that is under way, or does not want to");
}

#[test]
fn what_was_enforced_is_told_with_the_outcome_also_by_a_next_life() {
    let mut guest = Guest::new("");
    let migration = MigrationId(9);
    guest.hears(Enforced {
        migration,
        ram: Protection::Tls,
        disk: Protection::None,
        control: Protection::Ssh,
        destination_certificate_sha256: Some(Text::clipped("ab")),
    });
    let saved = guest.agent.state.clone();
    guest.agent = Agent::new(config(""), saved, &BTreeSet::new(), 10, at(1));
    guest.feed(met("b"));
    guest.hears(completed(migration, None));
    let enforced = guest.agent.state.history.back().unwrap().enforced.clone().unwrap();
    assert_eq!((enforced.ram, enforced.control), (Protection::Tls, Protection::Ssh));
    assert_eq!(guest.agent.state.enforced, None);
    // Of another move it says nothing.
    guest.hears(completed(MigrationId(10), None));
    assert_eq!(guest.agent.state.history.back().unwrap().enforced, None);
}
