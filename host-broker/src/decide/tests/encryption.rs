//! Moves that must be encrypted, and what stands for that in a domain's metadata.

use super::announce::{announced, attends, begins_after, last_kept, order, restarted};
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

/// As it is between moves, of a guest's wish.
fn seal(level: EncryptionLevel) -> Seal {
    Seal { level, wish: level, at: Vec::new(), waybill: None }
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

/// A line that is lost under TLS is no reason to go without: who can cut it would have everything in the clear next.
#[test]
fn a_line_that_breaks_under_tls_weakens_no_later_move() {
    for (sent, weaker) in [(1 << 20, true), (64 << 20, false)] {
        let mut w = source(true, true);
        let actions = ask(&mut w, 1, IfPossible);
        let (migration, _, _) = ticket_of(&surveyed(&mut w, &actions));
        w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
        w.event(Event::Hypervisor(HvEvent::Iteration { uuid: VM, round: 1 }));
        let figures = Box::new(JobFigures { bytes: Some(sent), rounds: Some(1), ..JobFigures::default() });
        w.event(Event::Progress { uuid: VM, migration, figures });
        let detail = "operation failed: job 'migration out' failed: Cannot write to TLS channel".into();
        let broke = HvError::NotEncrypted { operation: "migrate", detail };
        w.event(Event::Returned { uuid: VM, migration, result: Err(broke) });
        w.actions.clear();
        w.look(domain(DomainState::Running { arrived: false }));
        let why = if weaker { FailReason::EncryptionFailed } else { FailReason::SourceError };
        let ends: Vec<_> = told(&w.actions)
            .into_iter()
            .filter_map(|m| if let HostToGuest::Failed(f) = m { Some(f.reason) } else { None })
            .collect();
        assert_eq!(ends, [why], "{:?}", w.actions);
        w.event(Event::TicketCleared { uuid: VM, result: Ok(()) });
        w.pass(60);
        signs(&mut w, true, true);
        let actions = ask(&mut w, 2, IfPossible);
        let (_, ticket, _) = ticket_of(&surveyed(&mut w, &actions));
        let next = if weaker { Protection::Plain } else { Protection::Tls };
        assert_eq!(ticket.channels.map(|c| c.ram), Some(next), "{sent}");
    }
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
    let wished = seal(Required);
    assert_eq!(written(&actions), Some(Some(wished.clone())));
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
    assert_eq!(written(&w.actions), Some(Some(wished)));
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
    let wished = seal(Required);
    w.look(Domain { seal_xml: Some(wished.to_xml()), ..domain(DomainState::Running { arrived: false }) });
    assert_eq!(protected(&w.hello(&[])), [(None, Required, Required)]);
    let actions = w.ask(1, Wishes::default());
    assert_eq!(denied(&surveyed(&mut w, &actions)), [DenyReason::NotEncryptable], "nobody has certificates");

    // One that cannot be read is the strongest.
    let mut w = World::new("h1", "h2", H1, H2);
    w.look(Domain { seal_xml: Some("<seal/>".into()), ..domain(DomainState::Running { arrived: false }) });
    assert_eq!(written(&w.actions), Some(Some(seal(Required))));
    assert_eq!(protected(&w.hello(&[])), [(None, Required, Required)]);
}

/// Another manager's doing, a boot that nobody saw, a change that libvirt made after it was given up.
#[test]
fn a_seal_that_is_not_what_was_written_is_written_anew() {
    let mut w = source(true, true);
    said(&mut w, Protect { number: 5, level: Required });
    w.event(Event::SealWritten { uuid: VM, result: Ok(()) });
    let running = domain(DomainState::Running { arrived: false });
    let shows = |xml: Option<&str>| Domain { seal_xml: xml.map(str::to_owned), ..running.clone() };
    let good = seal(Required).to_xml();
    for found in [None, Some(seal(IfPossible).to_xml()), Some("<seal/>".into())] {
        w.pass(2);
        assert_eq!(written(&w.look(shows(found.as_deref()))), Some(Some(seal(Required))), "{found:?}");
        // An older look comes late.
        assert_eq!(written(&w.look(shows(found.as_deref()))), None);
        w.event(Event::SealWritten { uuid: VM, result: Ok(()) });
        w.pass(2);
        assert_eq!(written(&w.look(shows(Some(&good)))), None);
    }
    // Nobody's wish: one that appears goes.
    let mut w = source(true, true);
    assert_eq!(written(&w.look(shows(Some(&good)))), Some(None));
    w.event(Event::SealWritten { uuid: VM, result: Ok(()) });
    assert_eq!(protected(&w.hello(&[])), []);
}

#[test]
fn what_the_operator_demands_is_sealed_told_and_taken_back() {
    let mut w = World::source();
    reconfigure(&mut w, |c| c.encryption.default = Required);
    let actions = w.event(Event::Tick);
    let all = [w.actions.clone(), actions].concat();
    assert_eq!(written(&all), Some(Some(Seal { wish: Never, ..seal(Required) })));
    let actions = w.event(Event::SealWritten { uuid: VM, result: Ok(()) });
    let by = |m| if let HostToGuest::Protected(Protected { by, .. }) = m { by } else { None };
    let all = [w.actions.clone(), actions].concat();
    assert!(told(&all).into_iter().filter_map(by).any(|by| by == Initiator::Operator), "{all:?}");
    reconfigure(&mut w, |c| c.encryption.default = Never);
    w.actions.clear();
    w.event(Event::Tick);
    assert_eq!(written(&w.actions), Some(None));
}

/// Rules for hosts and links speak of some moves only: the seal names where to, for moves past the brokers.
#[test]
fn what_the_operator_demands_of_a_way_is_in_the_seal_and_moves_that_way_have_a_waybill() {
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    for (hosts, to) in
        [(names(&["h2"]), names(&[])), (names(&["h1"]), names(&["h2"])), (names(&[]), names(&["h2"]))]
    {
        let mut w = source(true, true);
        let rule = EncryptionRule { guests: Vec::new(), hosts, to, level: Required };
        reconfigure(&mut w, |c| c.encryption.rules.push(rule));
        w.event(Event::Tick);
        let there = Seal { at: names(&["h2"]), ..seal(Never) };
        assert_eq!(written(&w.actions), Some(Some(there.clone())));
        assert_eq!(there.admits(None, VM, "h2", w.now.unix_ms), Err(Refused::NoWaybill));
        w.event(Event::SealWritten { uuid: VM, result: Ok(()) });
        signs(&mut w, true, true);
        let actions = w.ask(1, Wishes::default());
        let (_, ticket, sealed) = ticket_of(&surveyed(&mut w, &actions));
        assert_eq!(ticket.channels, Some(tls()));
        assert_eq!(sealed.unwrap().admits(None, VM, "h2", w.now.unix_ms), Ok(()));
        // By a broker that knows of no such rule any more.
        let mut w = source(true, true);
        let here =
            Domain { seal_xml: Some(there.to_xml()), ..domain(DomainState::Running { arrived: false }) };
        w.broker.guests.clear();
        w.actions.clear();
        w.look(here);
        assert_eq!(written(&w.actions), Some(None));
    }
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

/// It is told that it is accepted, and says its level no more: what the announcement is kept with must say it.
#[test]
fn who_joins_an_announced_move_gets_no_less_from_the_next_broker() {
    let mut w = attends(60_000, 0);
    let (_, notice) = announced(&order(&mut w, false, None));
    let actions = ask(&mut w, 1, Required);
    let at = |wanted: &dyn Fn(&Action) -> bool| actions.iter().position(wanted);
    let accepted = |a: &Action| matches!(a, Action::Tell { message: HostToGuest::Accepted(_), .. });
    let kept = |a: &Action| matches!(a, Action::KeepAnnounced(_));
    assert!(at(&kept).is_some() && at(&kept) < at(&accepted), "{actions:?}");

    let mut w = restarted(&w);
    w.event(Event::Domains(Ok(vec![domain(DomainState::Running { arrived: false })])));
    let actions = w.hello(&[(1, Some(notice.migration.0))]);
    assert!(told(&actions).iter().any(|m| matches!(m, HostToGuest::Accepted(_))), "{actions:?}");
    assert!(begins_after(&mut w, 100).is_some());
    signs(&mut w, true, true);
    let actions = w.hosts_answer(notice.migration);
    assert!(
        find(&actions, |a| matches!(a, Action::WriteTicket { .. })).is_none(),
        "libvirt by TCP: {actions:?}"
    );
    let record = w.broker.records.back().unwrap();
    assert_eq!(record.reason, Some(DenyReason::NotEncryptable.to_string()));

    // Who joins when its hosts are being asked.
    let mut w = attends(1000, 0);
    order(&mut w, false, None);
    assert!(begins_after(&mut w, 10).is_some());
    assert_eq!(denied(&ask(&mut w, 1, Required)), []);
    assert_eq!(last_kept(&w).first().map(|k| k.encryption), Some(Required));
}

/// A wish holds from when it is heard, and the ticket may take half a minute to be written.
#[test]
fn what_is_demanded_while_the_ticket_is_written_is_obeyed() {
    for (ready, why) in [(true, DenyReason::Busy), (false, DenyReason::NotEncryptable)] {
        let begins = || {
            let mut w = source(true, ready);
            let actions = w.ask(1, Wishes::default());
            let (migration, ticket, _) = ticket_of(&surveyed(&mut w, &actions));
            assert_eq!(ticket.channels.map(|c| c.ram), Some(Protection::Plain));
            (w, Event::TicketWritten { uuid: VM, migration, result: Ok(()) })
        };
        let not_called = |w: &mut World, written: Event| {
            let actions = w.event(written);
            assert_eq!(denied(&actions), [why]);
            assert!(find(&actions, |a| matches!(a, Action::Migrate { .. })).is_none(), "{actions:?}");
            assert!(find(&actions, |a| matches!(a, Action::ClearTicket { .. })).is_some(), "{actions:?}");
        };
        let (mut w, written) = begins();
        said(&mut w, Protect { number: 5, level: Required });
        not_called(&mut w, written);
        // By the operator.
        let (mut w, written) = begins();
        reconfigure(&mut w, |c| c.encryption.default = Required);
        signs(&mut w, true, ready);
        not_called(&mut w, written);
    }
}

/// It would be let in with the waybill, and told as the ticket has it.
#[test]
fn somebody_elses_migration_with_our_waybill_is_aborted_and_no_other() {
    let busy = |detail: &str| HvError::Busy { operation: "migrate", detail: detail.into() };
    let rival = || busy("another migration job is already running for domain 'vm1'");
    let aborted = |actions: &[Action]| find(actions, |a| matches!(a, Action::Abort { .. })).is_some();
    let job = |job_active| Domain { job_active, ..domain(DomainState::Running { arrived: false }) };
    for (level, error, expected) in [
        (Required, rival(), true),
        (IfPossible, rival(), false),
        (
            Required,
            busy("cannot acquire state change lock (held by agent=remoteDispatchDomainCoreDump)"),
            false,
        ),
    ] {
        let mut w = source(true, true);
        said(&mut w, Protect { number: 5, level });
        w.event(Event::SealWritten { uuid: VM, result: Ok(()) });
        let actions = w.ask(1, Wishes::default());
        let (migration, ticket, sealed) = ticket_of(&surveyed(&mut w, &actions));
        assert_eq!(ticket.channels, Some(tls()));
        if let Some(waybill) = sealed.and_then(|s| s.waybill) {
            assert!(waybill.expires_unix_ms - waybill.issued_unix_ms <= 60_000, "{waybill:?}");
        }
        w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
        let actions = w.event(Event::Returned { uuid: VM, migration, result: Err(error) });
        assert_eq!(aborted(&actions), expected, "{level} {actions:?}");
        // libvirt refuses while the job is not quite there: again, until there is none.
        w.event(Event::Hypervisor(HvEvent::Iteration { uuid: VM, round: u32::from(expected) }));
        w.look(job(true));
        w.pass(3);
        assert_eq!(aborted(&w.event(Event::Tick)), expected, "{level}");
        w.actions.clear();
        w.look(job(false));
        assert_eq!(denied(&w.actions), [DenyReason::Busy]);
        w.pass(3);
        assert!(!aborted(&w.event(Event::Tick)));
    }
}

#[test]
fn where_it_arrives_it_is_told_what_was_enforced_before_the_outcome() {
    let mut w = World::destination();
    signs(&mut w, true, true);
    let arriving_by = Ticket { channels: Some(tls()), ..ticket(&w) };
    let wished = seal(Required);
    let with = |state| Domain { seal_xml: Some(wished.to_xml()), ..arriving(arriving_by, state) };
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
