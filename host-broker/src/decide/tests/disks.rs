//! VMs whose disks are copied, and VMs that cannot go with what they have.

use super::encryption::signs;
use super::*;
use crate::records::MoveState;
use crate::storage::{
    Copy, DomainStorage, Made, MadeStage, MakeError, Pool, Refusal, RefusalKind, Removal, Seen, View, Volume,
};
use coms_protocol::types::Protection;

const PATH: &str = "/images/vm1.raw";
const GIB: u64 = 1 << 30;

fn with(devices: &str) -> Domain {
    let xml = format!("<domain><devices>{devices}</devices></domain>");
    let doc = roxmltree::Document::parse(&xml).unwrap();
    let storage = DomainStorage::read(doc.root_element());
    Domain { storage, ..domain(DomainState::Running { arrived: false }) }
}

fn with_disk() -> Domain {
    with(&format!(
        "<disk type='file'><driver type='raw'/><source file='{PATH}'/><backingStore/><target dev='vda'/></disk>"
    ))
}

/// A broker that copies disks, and its guest with one.
fn world(more: &str, former: Vec<Made>) -> World {
    let mut w = World::new("h1", "h2", H1, H2);
    let text = format!(
        "[host]\nname = \"h1\"\nregion = \"r\"\n[[hosts]]\nname = \"h2\"\nregion = \"s\"\n\
         libvirt = \"qemu+tcp://h2/system\"\n[guests]\nenabled = [\"vm*\"]\n[limits]\ncooldown_s = 0\n\
         [storage]\ncopy = true\ncopy_in_the_clear = true\n{more}\n"
    );
    w.broker.config = Config::parse(Path::new("broker.toml"), &text).unwrap();
    w.broker = w.broker.with_disks(former, None);
    w
}

fn source(more: &str) -> World {
    let mut w = world(more, Vec::new());
    w.look(with_disk());
    w.hello(&[]);
    w
}

fn view(available_bytes: u64, volume: Option<Volume>) -> View {
    let pool = Some(Pool { name: "default".into(), network: None, available_bytes });
    View { files: [(PATH.to_owned(), Seen { pool, volume })].into(), ..View::default() }
}

fn volume() -> Option<Volume> {
    Some(Volume { format: "raw".into(), capacity_bytes: GIB, allocation_bytes: 0 })
}

fn answers(w: &mut World, migration: MigrationId, domain: Domain, there: View) -> Vec<Action> {
    let answer = |host: &str, view: View| Answer {
        host: host.into(),
        can_run: Ok(()),
        has_it: false,
        storage: Ok(view),
    };
    let answers = vec![answer("h1", view(0, volume())), answer("h2", there)];
    w.event(Event::Surveyed { uuid: VM, migration, domain: Ok(Box::new(domain)), answers })
}

fn asked(w: &mut World, request: u64) -> MigrationId {
    let actions = w.ask(request, Wishes::default());
    match find(&actions, |a| matches!(a, Action::Survey { .. })) {
        Some(Action::Survey { migration, .. }) => migration,
        _ => panic!("no survey: {actions:?}"),
    }
}

/// From the request to the order to make an image.
fn making(w: &mut World, request: u64) -> (MigrationId, Vec<Copy>) {
    let migration = asked(w, request);
    let actions = answers(w, migration, with_disk(), view(10 * GIB, None));
    assert!(find(&actions, |a| matches!(a, Action::WriteTicket { .. })).is_none(), "first the image");
    match find(&actions, |a| matches!(a, Action::MakeDisks { .. })) {
        Some(Action::MakeDisks { uri, copies, .. }) => {
            assert_eq!((uri.as_str(), copies[0].path.as_str()), ("qemu+tcp://h2/system", PATH));
            assert_eq!(kept(&actions)[0].stage, MadeStage::Making, "on disk before it begins");
            (migration, copies)
        }
        _ => panic!("nothing is made: {actions:?}"),
    }
}

fn made(w: &mut World, migration: MigrationId) -> Vec<Action> {
    w.event(Event::DisksMade { uuid: VM, migration, result: Ok(()) })
}

/// From the request to the migrate call.
fn running(w: &mut World) -> MigrationId {
    let (migration, _) = making(w, 1);
    made(w, migration);
    let actions = w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
    let Some(Action::Migrate { spec, .. }) = find(&actions, |a| matches!(a, Action::Migrate { .. })) else {
        panic!("no call: {actions:?}");
    };
    assert_eq!((spec.disks, spec.incremental), (vec!["vda".to_owned()], false));
    migration
}

/// What a next broker would find.
fn kept(actions: &[Action]) -> Vec<Made> {
    let kept = |a: &Action| if let Action::KeepDisks(all) = a { Some(all.clone()) } else { None };
    actions.iter().rev().find_map(kept).expect("nothing was kept")
}

fn removes(actions: &[Action]) -> usize {
    actions.iter().filter(|a| matches!(a, Action::RemoveDisks { .. })).count()
}

fn asks(actions: &[Action]) -> usize {
    let here = [("h2".to_owned(), "qemu+tcp://h2/system".to_owned())];
    actions.iter().filter(|a| matches!(a, Action::FindElsewhere { hosts, .. } if *hosts == here)).count()
}

fn there(w: &mut World, answer: Elsewhere) -> Vec<Action> {
    w.event(Event::Elsewhere { uuid: VM, answers: vec![("h2".into(), answer)] })
}

fn removed(w: &mut World, migration: MigrationId, result: Result<Removal, HvError>) -> Vec<Action> {
    w.event(Event::DisksRemoved { uuid: VM, migration, result })
}

fn failed(w: &mut World, migration: MigrationId) -> Vec<Action> {
    w.event(Event::Returned { uuid: VM, migration, result: Err(other_error()) });
    w.look(with_disk())
}

#[test]
fn a_disk_of_this_host_is_made_there_copied_and_stays_here_unless_policy_says_otherwise() {
    let mut w = source("");
    let migration = running(&mut w);
    let figures = JobFigures {
        bytes_total: Some(5),
        bytes_remaining: Some(4),
        disk_bytes: Some(60),
        disk_bytes_total: Some(100),
        disk_bytes_remaining: Some(40),
        ..JobFigures::default()
    };
    let actions = w.event(Event::Progress { uuid: VM, migration, figures: Box::new(figures) });
    let told = actions.iter().find_map(|a| match a {
        Action::TellOnce { message: HostToGuest::Progress(p), .. } => {
            Some((p.bytes_total, p.bytes_remaining))
        }
        _ => None,
    });
    assert_eq!(told, Some((Some(105), Some(44))), "disks count, too");
    let actions = w.event(Event::Returned { uuid: VM, migration, result: Ok(()) });
    assert!(kept(&actions).is_empty());
    assert!(
        find(&actions, |a| matches!(a, Action::RemoveSource { .. } | Action::RemoveDisks { .. })).is_none()
    );
    let said =
        |a: &Action| matches!(a, Action::Log { text, .. } if text.contains("stay") && text.contains(PATH));
    assert!(find(&actions, said).is_some(), "where the old copy is, is said: {actions:?}");
    let record = w.broker.records.back().unwrap();
    assert_eq!((record.disk_bytes, record.disks.len(), record.state), (Some(60), 1, MoveState::Left));
}

#[test]
fn the_copy_at_the_source_is_removed_once_and_only_when_it_has_left() {
    for ends_well in [true, false] {
        let mut w = source("remove_source = true");
        let migration = running(&mut w);
        assert!(find(&w.actions, |a| matches!(a, Action::RemoveSource { .. })).is_none());
        let actions = w.event(Event::Returned { uuid: VM, migration, result: Ok(()) });
        assert!(find(&actions, |a| matches!(a, Action::RemoveSource { .. })).is_some(), "{actions:?}");
        assert_eq!(kept(&actions)[0].stage, MadeStage::Left);
        let result = if ends_well { Ok(()) } else { Err(other_error()) };
        let actions = w.event(Event::SourceRemoved { uuid: VM, migration, result });
        assert!(kept(&actions).is_empty());
        let said = |a: &Action| matches!(a, Action::Log { text, .. } if text.contains(PATH));
        assert!(find(&actions, said).is_some());
    }
}

#[test]
fn a_move_that_fails_leaves_no_image_behind() {
    let mut w = source("remove_source = true");
    let migration = running(&mut w);
    let actions = failed(&mut w, migration);
    assert_eq!((removes(&actions), kept(&actions)[0].stage), (1, MadeStage::Removing));
    assert!(find(&actions, |a| matches!(a, Action::RemoveSource { .. })).is_none());
    // Meanwhile its next move waits: what is there is not its own.
    let next = asked(&mut w, 2);
    let actions = answers(&mut w, next, with_disk(), view(10 * GIB, None));
    assert_eq!(denied(&actions), [DenyReason::DiskNotReady]);
    // The destination may still be letting go of it. When it goes on so, somebody should know.
    let again = |w: &mut World, s| {
        w.pass(s);
        removes(&w.event(Event::Tick))
    };
    for soon in [true, true, false] {
        removed(&mut w, migration, Err(other_error()));
        assert_eq!((again(&mut w, 3), again(&mut w, 2)), (0, usize::from(soon)));
    }
    assert_eq!((alarms(&w), w.broker.alarms.len()), (1, 1));
    assert_eq!((again(&mut w, 30), again(&mut w, 31), again(&mut w, 1)), (0, 1, 0));
    let actions = removed(&mut w, migration, Ok(Removal::Gone));
    assert!(kept(&actions).is_empty() && w.broker.alarms.is_empty());
}

#[test]
fn what_a_vm_has_there_is_not_removed_later_either() {
    let mut w = source("");
    let migration = running(&mut w);
    assert_eq!(removes(&failed(&mut w, migration)), 1);
    let actions = removed(&mut w, migration, Ok(Removal::InUse("the VM itself is there".into())));
    assert!(kept(&actions).is_empty() && alarms(&w) == 1, "the operator's from now on: {actions:?}");
    // When it is shut off there, its disks are still its own.
    w.pass(61);
    assert_eq!(removes(&w.event(Event::Tick)), 0);
}

#[test]
fn another_machine_under_the_same_name_is_not_asked_to_remove_anything() {
    let mut w = world("", former(MadeStage::Removing));
    w.broker.config.peers[0].libvirt = "qemu+tcp://h2-new/system".into();
    w.pass(1);
    let actions = w.event(Event::Tick);
    assert_eq!((removes(&actions), alarms(&w), kept(&actions).len()), (0, 1, 0));
}

#[test]
fn what_cannot_be_made_refuses_the_move() {
    let mut w = source("");
    let (migration, _) = making(&mut w, 1);
    let refusal = Refusal { kind: RefusalKind::InTheWay, detail: format!("{PATH} exists") };
    let error = MakeError { refusal: refusal.clone(), unsure: false };
    let actions = w.event(Event::DisksMade { uuid: VM, migration, result: Err(error) });
    assert_eq!((denied(&actions), removes(&actions)), (vec![DenyReason::DiskNotReady], 0));
    assert!(kept(&actions).is_empty() && alarms(&w) == 0);
    // Nobody knows what became of it: it is not removed by guess, and somebody is told where to look.
    let (migration, _) = making(&mut w, 2);
    let error = MakeError { refusal, unsure: true };
    let actions = w.event(Event::DisksMade { uuid: VM, migration, result: Err(error) });
    assert_eq!((denied(&actions).len(), removes(&actions), alarms(&w)), (1, 0, 1));
}

#[test]
fn what_is_made_for_a_move_that_nobody_wants_any_more_goes_again() {
    let mut w = source("");
    let (migration, _) = making(&mut w, 1);
    assert_eq!(removes(&cancel(&mut w, 1)), 0, "they are just being made");
    let actions = made(&mut w, migration);
    assert_eq!(removes(&actions), 1);
    assert!(find(&actions, |a| matches!(a, Action::WriteTicket { .. })).is_none());
    removed(&mut w, migration, Ok(Removal::Gone));

    // The same when it took so long that the move was given up.
    let (migration, _) = making(&mut w, 2);
    w.pass(151);
    assert_eq!(denied(&w.event(Event::Tick)), [DenyReason::HostTrouble]);
    assert_eq!(removes(&made(&mut w, migration)), 1);
}

#[test]
fn a_refusal_is_typed_for_the_guest_and_in_full_for_the_operator() {
    let stays = "<hostdev mode='subsystem' type='pci'/>";
    let tpm = "<tpm><backend type='emulator'/></tpm>";
    for (domain, there, reason, word) in [
        (with_disk(), View::default(), DenyReason::HostTrouble, PATH),
        (with_disk(), view(10 * GIB, volume()), DenyReason::DiskNotReady, PATH),
        (with_disk(), view(GIB - 1, None), DenyReason::DiskNoRoom, "default"),
        (with(stays), View::default(), DenyReason::DeviceNotMovable, "hostdev"),
        (with(tpm), View::default(), DenyReason::DeviceNotReady, "swtpm"),
    ] {
        let mut w = source("");
        let migration = asked(&mut w, 1);
        let actions = answers(&mut w, migration, domain, there);
        assert_eq!(denied(&actions), [reason]);
        assert!(
            find(&actions, |a| matches!(a, Action::MakeDisks { .. } | Action::WriteTicket { .. })).is_none()
        );
        let record = w.broker.records.back().unwrap();
        let detail = record.detail.clone().unwrap_or_default();
        assert!(detail.contains(word) && detail.starts_with("h2: "), "{detail}");
        assert!(!format!("{:?}", told(&actions)).contains("image"), "no path is told");
    }
}

/// Its QEMU ends in the middle of the copy; a persistent one is then shut off here.
fn ended(w: &mut World, migration: MigrationId, persistent: bool) -> Vec<Action> {
    w.event(Event::Hypervisor(HvEvent::Gone { uuid: VM }));
    w.event(Event::Returned { uuid: VM, migration, result: Err(other_error()) });
    if persistent {
        return w.look(Domain { state: DomainState::ShutOff, ..with_disk() });
    }
    let error = HvError::NoDomain { operation: "look", detail: String::new() };
    w.event(Event::Domain { uuid: VM, result: Err(error) })
}

#[test]
fn a_vm_that_ends_in_the_middle_of_its_copy_leaves_no_half_copy_and_nobody_calls_it_a_copy() {
    for (persistent, more) in
        [(true, ""), (false, ""), (true, "remove_source = true"), (false, "remove_source = true")]
    {
        let mut w = source(more);
        let migration = running(&mut w);
        assert_eq!(asks(&ended(&mut w, migration, persistent)), 1);
        // Still being received there, or silent: it is asked again, and the record stays.
        for answer in [Elsewhere::Coming, Elsewhere::NoAnswer("no route".into())] {
            there(&mut w, answer);
            assert_eq!(asks(&w.event(Event::Tick)), 0);
            w.pass(5);
            assert_eq!(asks(&w.event(Event::Tick)), 1);
        }
        let actions = there(&mut w, Elsewhere::No);
        assert_eq!((removes(&actions), kept(&actions)[0].stage), (1, MadeStage::Removing));
        assert!(kept(&removed(&mut w, migration, Ok(Removal::Gone))).is_empty());
        let lie = |a: &Action| matches!(a, Action::Log { text, .. } if text.contains("were copied"));
        assert!(find(&w.actions, lie).is_none(), "half of it is no copy");
        assert!(find(&w.actions, |a| matches!(a, Action::RemoveSource { .. })).is_none());
        assert_eq!(alarms(&w), 0);
    }
}

#[test]
fn whether_a_vm_that_is_gone_is_there_its_destination_says() {
    // The call failed, and the VM had left all the same.
    let mut w = source("remove_source = true");
    let migration = running(&mut w);
    assert_eq!(asks(&ended(&mut w, migration, true)), 1);
    let actions = there(&mut w, Elsewhere::Runs);
    assert!(find(&actions, |a| matches!(a, Action::RemoveSource { .. })).is_some() && removes(&actions) == 0);
    // It ended here after it was stopped for switch-over: it may have run there, whatever is there now.
    let mut w = source("");
    let migration = running(&mut w);
    w.event(Event::Hypervisor(HvEvent::SwitchingOver { uuid: VM }));
    ended(&mut w, migration, false);
    let actions = there(&mut w, Elsewhere::No);
    assert_eq!((removes(&actions), alarms(&w), kept(&actions).len()), (0, 1, 0));
    // Nobody knows for long: somebody should.
    let mut w = source("");
    let migration = running(&mut w);
    ended(&mut w, migration, false);
    for _ in 0..3 {
        there(&mut w, Elsewhere::NoAnswer("no route".into()));
        w.pass(5);
        w.event(Event::Tick);
    }
    assert_eq!((alarms(&w), w.broker.alarms.len()), (1, 1));
    w.pass(60);
    assert_eq!(asks(&w.event(Event::Tick)), 1);
    there(&mut w, Elsewhere::Runs);
    assert!(w.broker.alarms.is_empty());
    // It is started again here: what is there is not for it.
    let mut w = source("");
    let migration = running(&mut w);
    ended(&mut w, migration, true);
    w.look(with_disk());
    w.pass(1);
    assert_eq!(removes(&w.event(Event::Tick)), 1);
    there(&mut w, Elsewhere::Runs);
    assert_eq!(w.broker.made[&VM].made.stage, MadeStage::Removing);
}

pub(super) fn former(stage: MadeStage) -> Vec<Made> {
    let copy = Copy {
        target: "vda".into(),
        path: PATH.into(),
        format: "raw".into(),
        capacity_bytes: GIB,
        needs_bytes: GIB,
        base: None,
    };
    let (migration, host, uri) = (MigrationId(77), "h2".into(), "qemu+tcp://h2/system".into());
    vec![Made { vm: VM, domain: "vm1".into(), migration, host, uri, stage, copies: vec![copy] }]
}

#[test]
fn the_next_broker_removes_what_surely_was_made_and_says_what_may_have_been() {
    let tick = |stage, more: &str, here: bool| {
        let mut w = world(more, former(stage));
        if here {
            w.look(with_disk());
        }
        w.pass(1);
        let actions = w.event(Event::Tick);
        (actions, w)
    };
    let sources = |a: &[Action]| a.iter().filter(|a| matches!(a, Action::RemoveSource { .. })).count();
    // The VM is here and nothing moves.
    let (actions, w) = tick(MadeStage::Made, "remove_source = true", true);
    assert_eq!((removes(&actions), sources(&actions), alarms(&w)), (1, 0, 0));
    // It has gone, and is there: they are its own.
    let gone = |more: &str, answer: Elsewhere| {
        let (actions, mut w) = tick(MadeStage::Made, more, false);
        assert_eq!((removes(&actions), sources(&actions), asks(&actions)), (0, 0, 1));
        (there(&mut w, answer), w)
    };
    let (actions, _) = gone("", Elsewhere::Runs);
    assert_eq!((removes(&actions), kept(&actions).len()), (0, 0));
    let (actions, _) = gone("remove_source = true", Elsewhere::Runs);
    assert_eq!((removes(&actions), sources(&actions)), (0, 1));
    let (actions, w) = gone("", Elsewhere::Yes);
    assert_eq!((removes(&actions), alarms(&w), kept(&actions).len()), (0, 0, 0));
    // It is nowhere, and may have run there meanwhile: nobody removes what may be all that is left of it.
    let (actions, w) = gone("remove_source = true", Elsewhere::No);
    assert_eq!((removes(&actions), sources(&actions), alarms(&w), kept(&actions).len()), (0, 0, 1, 0));
    let (actions, _) = tick(MadeStage::Left, "remove_source = true", false);
    assert_eq!(sources(&actions), 1);
    let (actions, _) = tick(MadeStage::Removing, "", true);
    assert_eq!(removes(&actions), 1);
    let (actions, w) = tick(MadeStage::Making, "", true);
    assert_eq!((removes(&actions), alarms(&w), kept(&actions).len()), (0, 1, 0));
}

#[test]
fn a_note_of_images_that_cannot_be_read_is_an_alarm() {
    let mut w = source("");
    w.broker = w.broker.with_disks(Vec::new(), Some("disks.json: torn".into()));
    for _ in 0..2 {
        w.event(Event::Tick);
    }
    assert_eq!((alarms(&w), w.broker.alarms.len()), (1, 1));
}

#[test]
fn what_may_have_been_left_is_an_alarm_until_a_move_finds_nothing_there() {
    // Whether its first tick or the guest's request comes first.
    for ticks in [true, false] {
        let mut w = world("", former(MadeStage::Making));
        w.look(with_disk());
        w.hello(&[]);
        w.pass(1);
        if ticks {
            let raised = w.event(Event::Tick);
            let says =
                |a: &Action| matches!(a, Action::Log { text, .. } if text.contains("unless vm1 runs there"));
            assert!(find(&raised, says).is_some(), "{raised:?}");
            // It is in the way.
            let migration = asked(&mut w, 1);
            let actions = answers(&mut w, migration, with_disk(), view(10 * GIB, volume()));
            assert_eq!((denied(&actions), w.broker.alarms.len()), (vec![DenyReason::DiskNotReady], 1));
        }
        let (migration, _) = making(&mut w, 2);
        assert_eq!((alarms(&w), w.broker.alarms.len()), (1, 0));
        let actions = made(&mut w, migration);
        assert!(find(&actions, |a| matches!(a, Action::WriteTicket { .. })).is_some(), "{actions:?}");
    }
    // At another host, or of another disk, is something else.
    for elsewhere in [true, false] {
        let mut left = former(MadeStage::Making);
        if elsewhere {
            left[0].host = "h3".into();
        } else {
            left[0].copies[0].path = "/images/other.raw".into();
        }
        let mut w = world("", left);
        w.look(with_disk());
        w.hello(&[]);
        making(&mut w, 1);
        assert_eq!(w.broker.alarms.len(), 1);
    }
}

#[test]
fn a_move_that_a_former_broker_began_keeps_its_images_until_it_has_ended() {
    let mut w = world("", former(MadeStage::Made));
    let mut first = source("");
    let (_, ticket) = {
        let migration = asked(&mut first, 1);
        answers(&mut first, migration, domain(DomainState::Running { arrived: false }), View::default());
        let xml = first.actions.iter().rev().find_map(|a| match a {
            Action::WriteTicket { xml, .. } => Some(xml.clone()),
            _ => None,
        });
        (migration, Ticket::from_xml(&xml.unwrap()).unwrap())
    };
    let ticket = Ticket { migration: MigrationId(77), ..ticket };
    let moving = Domain { job_active: true, ticket_xml: Some(ticket.to_xml()), ..with_disk() };
    w.look(moving.clone());
    w.pass(1);
    assert_eq!(removes(&w.event(Event::Tick)), 0, "it is under way");
    let ended = Domain { job_active: false, ..moving };
    w.look(ended.clone());
    w.event(Event::Elsewhere { uuid: VM, answers: vec![("h2".into(), Elsewhere::No)] });
    let actions = w.look(ended);
    assert_eq!(removes(&w.actions), 1, "it has failed: {actions:?}");
}

#[test]
fn a_disk_is_copied_by_tls_or_not_at_all_unless_the_operator_lets_it_go_in_the_clear() {
    let strict = |here, there| {
        let mut w = source("");
        w.broker.config.storage.copy_in_the_clear = false;
        signs(&mut w, here, there);
        w
    };
    for (here, there) in [(true, false), (false, true), (false, false)] {
        let mut w = strict(here, there);
        let migration = asked(&mut w, 1);
        let actions = answers(&mut w, migration, with_disk(), view(10 * GIB, None));
        assert_eq!(denied(&actions), [DenyReason::NotEncryptable], "{here} {there}");
        assert!(find(&actions, |a| matches!(a, Action::MakeDisks { .. })).is_none());
        let why = format!("{:?}", w.broker.records.back().unwrap().considered);
        assert!(why.contains("[storage] copy_in_the_clear = true"), "{why}");
        // What has no disk to be copied goes as ever.
        let migration = asked(&mut w, 2);
        let diskless = domain(DomainState::Running { arrived: false });
        let actions = answers(&mut w, migration, diskless, View::default());
        assert!(find(&actions, |a| matches!(a, Action::WriteTicket { .. })).is_some(), "{actions:?}");
    }
    // Nobody asked for encryption.
    let mut w = strict(true, true);
    let (migration, _) = making(&mut w, 1);
    made(&mut w, migration);
    let actions = w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
    assert!(
        find(&actions, |a| matches!(a, Action::Migrate { spec, .. } if spec.tls)).is_some(),
        "{actions:?}"
    );
    let channels = w.broker.records.back().unwrap().channels.unwrap();
    assert_eq!((channels.ram, channels.disk), (Protection::Tls, Protection::Tls));
    // What its hosts were ready for when it was chosen they may be no more when it begins.
    let mut w = strict(true, true);
    let (migration, _) = making(&mut w, 1);
    signs(&mut w, true, false);
    let actions = made(&mut w, migration);
    assert_eq!((denied(&actions), removes(&actions)), (vec![DenyReason::NotEncryptable], 1));
}
