//! Moves that must be encrypted, and what stands for that in a domain's metadata.

use super::*;
use crate::config::EncryptionRule;
use crate::seal::{Refused, Seal};
use crate::ticket::Channels;
use coms_protocol::guest_to_host::{Protect, ProtectedRequest};
use coms_protocol::host_to_guest::{Enforced, Protected};
use coms_protocol::types::EncryptionLevel::{self, IfPossible, Never, Required};
use coms_protocol::types::{Encryption, Protection};

const PRINT: &str = "aa";

/// Both hosts leave signs of life, with certificates or without.
pub(super) fn signs(w: &mut World, here: bool, there: bool) {
    let tls = |ready: bool| ready.then(|| PRINT.repeat(32));
    for beat in 10..12 {
        for (host, uuid, ready) in [("h1", H1, here), ("h2", H2, there)] {
            let mut sample = sample(uuid, beat + w.now.mono.as_secs());
            sample.broker = sample.broker.map(|mark| Mark { tls: tls(ready), ..mark });
            w.event(Event::Sampled { host: host.into(), result: Ok(sample) });
        }
        w.pass(1);
    }
}

/// A source whose libvirt reaches the other host by TLS, and a guest that has said hello.
fn source(here: bool, there: bool) -> World {
    let mut w = World::source();
    reconfigure(&mut w, |c| c.peers[0].libvirt = "qemu+tls://h2/system".into());
    signs(&mut w, here, there);
    w
}

fn reconfigure(w: &mut World, change: impl FnOnce(&mut Config)) {
    let mut config = w.broker.config.clone();
    change(&mut config);
    w.event(Event::Reloaded { caller: None, config: Ok(Box::new(config)) });
    for beat in 0..2 {
        w.event(Event::Sampled { host: "h1".into(), result: Ok(sample(H1, beat)) });
        w.event(Event::Sampled { host: "h2".into(), result: Ok(sample(H2, beat)) });
        w.pass(2);
    }
}

fn said(w: &mut World, message: impl Into<GuestToHost>) -> Vec<Action> {
    w.event(Event::Link { uuid: VM, event: LinkEvent::Said(message.into()) })
}

fn ask(w: &mut World, id: u64, level: EncryptionLevel) -> Vec<Action> {
    let request = Request {
        id: RequestId(id),
        reason: RequestReason::Manual,
        evidence: List::default(),
        wishes: Wishes::default(),
    };
    said(w, ProtectedRequest { request, level })
}

fn surveyed(w: &mut World, actions: &[Action]) -> Vec<Action> {
    let Some(Action::Survey { migration, .. }) = find(actions, |a| matches!(a, Action::Survey { .. })) else {
        panic!("no survey: {actions:?}");
    };
    w.hosts_answer(migration)
}

fn ticket_of(actions: &[Action]) -> (MigrationId, Ticket, Option<Seal>) {
    let Some(Action::WriteTicket { migration, xml, seal, .. }) =
        find(actions, |a| matches!(a, Action::WriteTicket { .. }))
    else {
        panic!("no ticket: {actions:?}");
    };
    (migration, Ticket::from_xml(&xml).unwrap(), seal.map(|s| Seal::from_xml(&s).unwrap()))
}

fn written(actions: &[Action]) -> Option<Option<Seal>> {
    let seal = |a: &Action| {
        if let Action::WriteSeal { xml, .. } = a {
            Some(xml.as_ref().map(|x| Seal::from_xml(x).unwrap()))
        } else {
            None
        }
    };
    actions.iter().find_map(seal)
}

fn protected(actions: &[Action]) -> Vec<(Option<u64>, EncryptionLevel, EncryptionLevel)> {
    let of = |m| if let HostToGuest::Protected(p) = m { Some((p.number, p.level, p.wish)) } else { None };
    told(actions).into_iter().filter_map(of).collect()
}

fn tls() -> Channels {
    Channels { ram: Protection::Tls, disk: Protection::None, control: Protection::Tls }
}

#[test]
fn a_request_that_requires_it_moves_with_tls_and_no_other_way() {
    let mut w = source(true, true);
    let actions = ask(&mut w, 1, Required);
    let actions = surveyed(&mut w, &actions);
    let (migration, ticket, seal) = ticket_of(&actions);
    assert_eq!((ticket.channels, seal), (Some(tls()), None), "for this move alone");
    let actions = w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
    let call = find(&actions, |a| matches!(a, Action::Migrate { spec, .. } if spec.tls));
    assert!(call.is_some(), "{actions:?}");

    for (here, there) in [(true, false), (false, true), (false, false)] {
        let mut w = source(here, there);
        let actions = ask(&mut w, 1, Required);
        let actions = surveyed(&mut w, &actions);
        assert_eq!(denied(&actions), [DenyReason::NotEncryptable], "{here} {there}");
        // What does not require it is not held up by it.
        let actions = ask(&mut w, 2, IfPossible);
        let actions = surveyed(&mut w, &actions);
        assert_eq!(ticket_of(&actions).1.channels.map(|c| c.ram), Some(Protection::Plain));
    }
}

#[test]
fn where_tls_breaks_what_need_not_be_encrypted_goes_without_and_the_rest_tries_again() {
    let mut w = source(true, true);
    let actions = ask(&mut w, 1, IfPossible);
    let (migration, ticket, _) = ticket_of(&surveyed(&mut w, &actions));
    assert_eq!(ticket.channels, Some(tls()));
    w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
    let broke = HvError::NotEncrypted { operation: "migrate", detail: "no issuer".into() };
    w.event(Event::Returned { uuid: VM, migration, result: Err(broke) });
    w.actions.clear();
    w.look(domain(DomainState::Running { arrived: false }));
    assert_eq!(denied(&w.actions), [DenyReason::NotEncryptable]);
    w.event(Event::TicketCleared { uuid: VM, result: Ok(()) });
    let actions = ask(&mut w, 2, IfPossible);
    let (migration, ticket, _) = ticket_of(&surveyed(&mut w, &actions));
    assert_eq!(ticket.channels.map(|c| c.ram), Some(Protection::Plain));
    w.event(Event::TicketWritten { uuid: VM, migration, result: Err(other_error()) });
    w.event(Event::TicketCleared { uuid: VM, result: Ok(()) });
    let actions = ask(&mut w, 3, Required);
    assert_eq!(ticket_of(&surveyed(&mut w, &actions)).1.channels, Some(tls()));
}

#[test]
fn a_plain_control_connection_is_not_encrypted_enough() {
    let mut w = World::source();
    signs(&mut w, true, true);
    let actions = ask(&mut w, 1, Required);
    assert_eq!(denied(&surveyed(&mut w, &actions)), [DenyReason::NotEncryptable]);
    let actions = ask(&mut w, 2, IfPossible);
    let channels = ticket_of(&surveyed(&mut w, &actions)).1.channels;
    assert_eq!(channels, Some(Channels { control: Protection::Plain, ..tls() }), "and it is told as it is");
}

#[test]
fn an_operators_never_weakens_nothing() {
    let mut w = World::source();
    reconfigure(&mut w, |c| {
        c.peers[0].libvirt = "qemu+tls://h2/system".into();
        let never = EncryptionRule { guests: Vec::new(), hosts: Vec::new(), to: Vec::new(), level: Never };
        c.encryption.rules.push(never);
    });
    signs(&mut w, true, true);
    let actions = ask(&mut w, 1, Required);
    assert_eq!(denied(&surveyed(&mut w, &actions)), [DenyReason::NotEncryptable]);
    let actions = ask(&mut w, 2, IfPossible);
    assert_eq!(ticket_of(&surveyed(&mut w, &actions)).1.channels.map(|c| c.ram), Some(Protection::Plain));
}

/// The guest's wish is in the metadata before it is answered, and every move of it, whoever orders it, obeys.
#[test]
fn a_standing_wish_is_kept_then_answered_then_obeyed() {
    let mut w = source(true, true);
    let actions = said(&mut w, Protect { number: 5, level: Required });
    assert_eq!(protected(&actions), [(None, Never, Never)], "understood, not kept yet");
    let seal = Seal { level: Required, wish: Required, waybill: None };
    assert_eq!(written(&actions), Some(Some(seal.clone())));
    let actions = w.event(Event::SealWritten { uuid: VM, result: Ok(()) });
    assert_eq!(protected(&actions), [(Some(5), Required, Required)]);

    // A plain request, as of an old agent or of the operator: the standing wish counts.
    let actions = w.ask(1, Wishes::default());
    let (migration, ticket, sealed) = ticket_of(&surveyed(&mut w, &actions));
    assert_eq!(ticket.channels, Some(tls()));
    let sealed = sealed.unwrap();
    // This pool has no common secret: nothing is signed, and nothing compared.
    assert_eq!(sealed.admits(None, VM, "h2", w.now.unix_ms), Ok(()));
    assert_eq!(sealed.admits(None, VM, "h3", w.now.unix_ms), Err(Refused::ForAnother("h2".into())));

    // It comes to nothing: the waybill is taken back.
    w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
    let refused = HvError::NotEncrypted { operation: "migrate", detail: "no certificate".into() };
    w.event(Event::Returned { uuid: VM, migration, result: Err(refused) });
    w.actions.clear();
    w.pass(2);
    w.look(domain(DomainState::Running { arrived: false }));
    assert_eq!(denied(&w.actions), [DenyReason::NotEncryptable], "{:?}", w.actions);
    w.pass(2);
    w.event(Event::Tick);
    assert_eq!(written(&w.actions), Some(Some(seal)));
}

#[test]
fn a_wish_that_is_taken_back_holds_until_it_is_out_of_the_metadata() {
    let mut w = source(true, false);
    said(&mut w, Protect { number: 5, level: Required });
    w.event(Event::SealWritten { uuid: VM, result: Ok(()) });
    w.pass(2);
    let actions = said(&mut w, Protect { number: 6, level: Never });
    assert_eq!(written(&actions), Some(None));
    let actions = w.ask(1, Wishes::default());
    assert_eq!(denied(&surveyed(&mut w, &actions)), [DenyReason::NotEncryptable]);
    let busy = HvError::Busy { operation: "set seal", detail: "a job".into() };
    let actions = w.event(Event::SealWritten { uuid: VM, result: Err(busy) });
    assert_eq!(protected(&actions), []);
    w.pass(6);
    assert_eq!(written(&w.event(Event::Tick)), Some(None), "tried again");
    let actions = w.event(Event::SealWritten { uuid: VM, result: Ok(()) });
    assert_eq!(protected(&actions), [(Some(6), Never, Never)]);
}

#[test]
fn a_new_broker_reads_what_the_last_one_wrote_and_tells_the_guest() {
    let mut w = World::new("h1", "h2", H1, H2);
    let seal = Seal { level: Required, wish: Required, waybill: None };
    w.look(Domain { seal_xml: Some(seal.to_xml()), ..domain(DomainState::Running { arrived: false }) });
    assert_eq!(protected(&w.hello(&[])), [(None, Required, Required)]);
    let actions = w.ask(1, Wishes::default());
    assert_eq!(denied(&surveyed(&mut w, &actions)), [DenyReason::NotEncryptable], "nobody has certificates");

    // One that cannot be read is the strongest.
    let mut w = World::new("h1", "h2", H1, H2);
    w.look(Domain { seal_xml: Some("<seal/>".into()), ..domain(DomainState::Running { arrived: false }) });
    assert_eq!(protected(&w.hello(&[])), [(None, Required, Required)]);
}

#[test]
fn what_the_operator_demands_is_sealed_told_and_taken_back() {
    let mut w = World::source();
    reconfigure(&mut w, |c| c.encryption.default = Required);
    let actions = w.event(Event::Tick);
    let all = [w.actions.clone(), actions].concat();
    assert_eq!(written(&all), Some(Some(Seal { level: Required, wish: Never, waybill: None })));
    let actions = w.event(Event::SealWritten { uuid: VM, result: Ok(()) });
    let by = |m| if let HostToGuest::Protected(Protected { by, .. }) = m { by } else { None };
    let all = [w.actions.clone(), actions].concat();
    assert!(told(&all).into_iter().filter_map(by).any(|by| by == Initiator::Operator), "{all:?}");
    reconfigure(&mut w, |c| c.encryption.default = Never);
    w.actions.clear();
    w.event(Event::Tick);
    assert_eq!(written(&w.actions), Some(None));
}

#[test]
fn a_guest_that_takes_no_part_wishes_in_vain() {
    let mut w = World::source();
    reconfigure(&mut w, |c| c.enabled.clear());
    let actions = said(&mut w, Protect { number: 5, level: Required });
    assert_eq!(written(&actions), None);
    assert_eq!(protected(&actions), [(Some(5), Never, Never)]);
}

#[test]
fn who_joins_a_move_that_is_settled_gets_no_less_than_it_asked_for() {
    let mut w = source(true, false);
    let (_, ticket) = w.move_begins(1);
    assert_eq!(ticket.channels.map(|c| c.ram), Some(Protection::Plain));
    assert_eq!(denied(&ask(&mut w, 2, Required)), [DenyReason::Busy]);
    // One that is not settled yet is made as the strongest wants it.
    let mut w = source(true, true);
    let actions = w.ask(1, Wishes::default());
    assert_eq!(denied(&ask(&mut w, 2, Required)), []);
    assert_eq!(ticket_of(&surveyed(&mut w, &actions)).1.channels, Some(tls()));
}

#[test]
fn where_it_arrives_it_is_told_what_was_enforced_before_the_outcome() {
    let mut w = World::destination();
    signs(&mut w, true, true);
    let arriving_by = Ticket { channels: Some(tls()), ..ticket(&w) };
    let seal = Seal { level: Required, wish: Required, waybill: None };
    let with = |state| Domain { seal_xml: Some(seal.to_xml()), ..arriving(arriving_by, state) };
    w.look(with(DomainState::Incoming));
    w.event(Event::Hypervisor(HvEvent::Arrived { uuid: VM }));
    w.look(with(DomainState::Running { arrived: true }));
    w.actions.clear();
    w.event(Event::Figures { uuid: VM, migration: arriving_by.migration, figures: None });
    let all = told(&w.actions);
    let [HostToGuest::Enforced(enforced), HostToGuest::Completed(done)] = &all[..] else {
        panic!("{all:?}");
    };
    let expected = Enforced {
        migration: arriving_by.migration,
        ram: Protection::Tls,
        disk: Protection::None,
        control: Protection::Tls,
        destination_certificate_sha256: Some(Text::clipped(&PRINT.repeat(32))),
    };
    assert_eq!((enforced, done.encryption), (&expected, Encryption::Tls));
}
