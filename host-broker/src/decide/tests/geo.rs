//! A guest follows its clients: where to, whether the way is fit, and how its network goes along.

use super::*;
use crate::action::Level;
use crate::network::{End, Interface, LinkFigures, PeerAsk, PeerCaller, Stage, StepError, Stretch, Verb};
use coms_protocol::guest_to_host::RegionsQuery;

mod network;

/// Three regions, four hosts: h1 (a, eu-west), h2 (a, eu-west), h3 (b, eu-north), h4 (b, asia). Asia is 200 ms away and
/// north 30; from asia to north it is 180.
const PLACES: &str = r#"
    [[regions]]
    name = "eu-west"
    countries = ["FR"]
    [[regions]]
    name = "eu-north"
    countries = ["SE"]
    [[regions]]
    name = "asia"
    countries = ["JP"]
    [[distances]]
    from = "eu-west"
    to = "eu-north"
    ms = 30
    [[distances]]
    from = "asia"
    to = "eu-west"
    ms = 200
    [[distances]]
    from = "asia"
    to = "eu-north"
    ms = 180
    [guests]
    enabled = ["vm*"]
    [limits]
    cooldown_s = 60
    [aliases]
    key_file = "/k"
"#;

const STEP: &str = "[network]\nstep = [\"/step\"]\nbridges = [\"br0\"]\n";

const HOSTS: [(&str, &str, &str); 4] =
    [("h1", "a", "eu-west"), ("h2", "a", "eu-west"), ("h3", "b", "eu-north"), ("h4", "b", "asia")];

fn places(me: &str, more: &str) -> Config {
    let mut text = String::new();
    for (i, (name, site, region)) in HOSTS.into_iter().enumerate() {
        let place = format!("name = \"{name}\"\nregion = \"{region}\"\nsite = \"{site}\"\n");
        let n = i + 1;
        match name == me {
            true => text.insert_str(0, &format!("[host]\n{place}[link]\nlisten = \"10.0.0.{n}:7466\"\n")),
            false => text.push_str(&format!(
                "[[hosts]]\n{place}libvirt = \"qemu+tls://{name}/system\"\nlink = \"10.0.0.{n}:7466\"\n"
            )),
        }
    }
    Config::parse(Path::new("broker.toml"), &(text + PLACES + more)).unwrap()
}

fn uuid_of(host: &str) -> Uuid {
    Uuid::from_u128(HOSTS.iter().position(|h| h.0 == host).unwrap() as u128 + 0xa1)
}

fn here() -> Domain {
    let card = Interface::new("52:54:00:00:00:01", Some("br0")).unwrap();
    Domain { interfaces: vec![card], ..domain(DomainState::Running { arrived: false }) }
}

/// All hosts answer, some of them having the VM.
fn all_answer(w: &mut World, having: &[&str]) {
    for (name, ..) in HOSTS {
        let has = having.contains(&name);
        let one = DomainSample { uuid: VM, vcpus: 1, memory_kib: 1, cpu_time_ns: 0, vcpu: None };
        let beat = w.now.unix_ms;
        let domains = if has { vec![one] } else { Vec::new() };
        let look = HostSample { domains, ..sample(uuid_of(name), beat) };
        w.event(Event::Sampled { host: name.into(), result: Ok(look) });
    }
}

fn world(me: &str, more: &str, kept: Vec<Stretch>) -> World {
    let mut counter = 0;
    let draw = Box::new(move || {
        counter += 1;
        counter
    });
    let broker = Broker::new(places(me, more), AliasKey::new(b"k"), Vec::new(), draw).stretched(kept);
    let now = Now { mono: Duration::from_secs(100), unix_ms: 1_000_000 };
    let mut w = World { broker, now, actions: Vec::new() };
    w.event(Event::Hypervisor(HvEvent::Connected));
    w.event(Event::Domains(Ok(Vec::new())));
    for _ in 0..2 {
        all_answer(&mut w, &[]);
        w.pass(2);
    }
    w
}

/// h1 with the VM on it.
fn source(more: &str) -> World {
    let mut w = world("h1", more, Vec::new());
    w.look(here());
    w.hello(&[]);
    w
}

fn follow(w: &mut World, id: u64, region: &str) -> Vec<Action> {
    let region = Some(Text::clipped(region));
    let (reason, wishes) = (RequestReason::Clients, Wishes { region, ..Wishes::default() });
    let request = Request { id: RequestId(id), reason, evidence: List::default(), wishes };
    w.event(Event::Link { uuid: VM, event: LinkEvent::Said(GuestToHost::Request(request)) })
}

/// All hosts but these can take it.
fn answer(w: &mut World, actions: &[Action], unfit: &[&str]) -> (MigrationId, Vec<Action>) {
    let Some(Action::Survey { migration, .. }) = find(actions, |a| matches!(a, Action::Survey { .. })) else {
        panic!("no survey: {actions:?}");
    };
    let can_run = |name: &str| if unfit.contains(&name) { Err("no".into()) } else { Ok(()) };
    let answers = HOSTS.iter().skip(1).map(|(name, ..)| Answer {
        host: (*name).into(),
        can_run: can_run(name),
        has_it: false,
        storage: Ok(Default::default()),
    });
    let answers = answers.collect();
    let actions = w.event(Event::Surveyed { uuid: VM, migration, domain: Ok(Box::new(here())), answers });
    (migration, actions)
}

const FIT: LinkFigures = LinkFigures { rtt_ms: 30.0, rate_mib_s: 100.0 };

fn measured(
    w: &mut World,
    migration: MigrationId,
    host: &str,
    result: Result<LinkFigures, &str>,
) -> Vec<Action> {
    let result = result.map_err(|text| StepError { later: false, text: text.to_owned() });
    let host = host.to_owned();
    w.event(Event::Measured { uuid: VM, migration, host, result })
}

fn step(w: &mut World, verb: Verb, result: Result<(), StepError>) -> Vec<Action> {
    w.event(Event::StepDone { uuid: VM, verb, result })
}

fn refused(later: bool) -> Result<(), StepError> {
    Err(StepError { later, text: "no such bridge".into() })
}

fn answered(w: &mut World, actions: &[Action], result: Result<(), StepError>) -> Vec<Action> {
    let ask = actions
        .iter()
        .find_map(|a| if let Action::AskPeer { ask, .. } = a { Some(ask.clone()) } else { None });
    let ask = ask.unwrap_or_else(|| panic!("nobody was asked: {actions:?}"));
    w.event(Event::PeerAnswered { ask, result })
}

fn steps(actions: &[Action]) -> Vec<Verb> {
    let verb = |a: &Action| if let Action::NetworkStep { verb, .. } = a { Some(*verb) } else { None };
    actions.iter().filter_map(verb).collect()
}

fn measures(actions: &[Action]) -> Vec<String> {
    let host = |a: &Action| if let Action::Measure { host, .. } = a { Some(host.clone()) } else { None };
    actions.iter().filter_map(host).collect()
}

fn writes_ticket(actions: &[Action]) -> bool {
    find(actions, |a| matches!(a, Action::WriteTicket { .. })).is_some()
}

fn verdicts(w: &World, migration: MigrationId) -> Vec<String> {
    let record = w.broker.records.iter().find(|r| r.migration == migration).unwrap();
    let name = |c: &super::super::placement::Considered| {
        let value = serde_json::to_value(&c.verdict).unwrap();
        format!("{} {}", c.host, value["verdict"].as_str().unwrap())
    };
    record.considered.iter().map(name).collect()
}

/// The VM on h1 wants to the north, the way is fit, and both ends are being made.
fn stretching() -> (World, MigrationId, Vec<Action>) {
    let mut w = source(STEP);
    let asked = follow(&mut w, 1, "eu-north");
    let (migration, _) = answer(&mut w, &asked, &[]);
    let actions = measured(&mut w, migration, "h3", Ok(FIT));
    assert_eq!(steps(&actions), [Verb::Prepare]);
    assert!(matches!(actions[..], [.., Action::KeepStretches(_), Action::NetworkStep { .. }]), "kept first");
    (w, migration, actions)
}

/// ... and it runs on h3 now.
fn moved() -> (World, MigrationId) {
    let (mut w, migration, _) = stretching();
    let actions = step(&mut w, Verb::Prepare, Ok(()));
    assert!(writes_ticket(&answered(&mut w, &actions, Ok(()))));
    w.event(Event::TicketWritten { uuid: VM, migration, result: Ok(()) });
    w.event(Event::Hypervisor(HvEvent::Left { uuid: VM }));
    w.event(Event::Returned { uuid: VM, migration, result: Ok(()) });
    (w, migration)
}

/// Seconds go by; the hosts answer and show the VM at these.
fn seconds_with_renewals(w: &mut World, n: u64, having: &[&str]) -> Vec<Action> {
    let mut all = Vec::new();
    for _ in 0..n {
        w.pass(1);
        all_answer(w, having);
        let actions = w.event(Event::Tick);
        for verb in steps(&actions).into_iter().filter(|v| makes(*v)) {
            all.extend(step(w, verb, Ok(())));
        }
        all.extend(actions);
    }
    all
}

/// ... and what stands is made again, which goes well and is not told of.
fn seconds(w: &mut World, n: u64, having: &[&str]) -> Vec<Action> {
    let mut all = seconds_with_renewals(w, n, having);
    all.retain(|a| !matches!(a, Action::NetworkStep { verb, .. } if makes(*verb)));
    all
}

fn makes(verb: Verb) -> bool {
    match verb {
        Verb::Prepare | Verb::Receive => true,
        Verb::Undo | Verb::Release => false,
    }
}

fn regions(w: &mut World) -> Vec<(String, usize)> {
    let query = GuestToHost::RegionsQuery(RegionsQuery { number: 5 });
    let actions = w.event(Event::Link { uuid: VM, event: LinkEvent::Said(query) });
    let [Action::TellOnce { message: HostToGuest::Regions(r), .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!((r.number, usize::from(r.all)), (5, r.regions.as_slice().len()));
    r.regions.as_slice().iter().map(|r| (r.name.to_string(), r.countries.as_slice().len())).collect()
}

#[test]
fn a_guest_hears_of_regions_and_a_stranger_of_its_own_only() {
    let mut w = source("");
    let all = [("eu-west".into(), 1), ("eu-north".into(), 1), ("asia".into(), 1)];
    assert_eq!(regions(&mut w), all);
    w.broker.config.regions.clear();
    let bare = [("eu-west".into(), 0), ("eu-north".into(), 0), ("asia".into(), 0)];
    assert_eq!(regions(&mut w), bare, "hosts are in regions that no table names");
    w.broker.config.enabled.clear();
    w.look(here());
    assert_eq!(regions(&mut w), [("eu-west".into(), 0)]);
}

#[test]
fn it_goes_to_its_clients_region_when_the_way_is_fit() {
    let (mut w, migration, _) = stretching();
    let record = |w: &World| w.broker.records.iter().find(|r| r.migration == migration).cloned().unwrap();
    assert_eq!(record(&w).link, Some(FIT));
    assert_eq!(verdicts(&w, migration), ["h2 farther", "h3 nearest", "h4 farther"]);
    let actions = step(&mut w, Verb::Prepare, Ok(()));
    assert!(!writes_ticket(&actions), "the other end is not made yet");
    assert!(writes_ticket(&answered(&mut w, &actions, Ok(()))));
    assert_eq!(record(&w).to.as_deref(), Some("h3"));
}

#[test]
fn where_it_cannot_go_there_it_goes_nearer_and_never_farther() {
    // h3 cannot take it; asia is farther from north than here.
    let mut w = source(STEP);
    let asked = follow(&mut w, 1, "eu-north");
    let (migration, actions) = answer(&mut w, &asked, &["h3"]);
    assert_eq!(denied(&actions), [DenyReason::NoNearerHost]);
    assert_eq!(verdicts(&w, migration), ["h2 farther", "h3 cannot-run", "h4 farther"]);
    // North is nearer to asia than here.
    let mut w = source(STEP);
    let asked = follow(&mut w, 1, "asia");
    let (_, actions) = answer(&mut w, &asked, &["h4"]);
    assert_eq!(measures(&actions), ["h3"]);
    // It is there already.
    let mut w = source(STEP);
    let asked = follow(&mut w, 1, "eu-west");
    assert_eq!(denied(&answer(&mut w, &asked, &[]).1), [DenyReason::NoNearerHost]);
    // Nobody knows where that is.
    let mut w = source(STEP);
    let asked = follow(&mut w, 1, "moon");
    assert_eq!(denied(&answer(&mut w, &asked, &[]).1), [DenyReason::NoDestinationInRegion]);
}

#[test]
fn other_reasons_want_the_region_itself_as_ever() {
    let mut w = source(STEP);
    let asked = w.ask(1, Wishes { region: Some(Text::clipped("asia")), ..Wishes::default() });
    assert_eq!(denied(&answer(&mut w, &asked, &["h4"]).1), [DenyReason::NoDestinationInRegion]);
}

#[test]
fn a_way_that_is_not_fit_or_not_measured_is_not_gone() {
    let slow = LinkFigures { rtt_ms: 151.0, ..FIT };
    let narrow = LinkFigures { rate_mib_s: 29.9, ..FIT };
    let strange = LinkFigures { rate_mib_s: f64::NAN, ..FIT };
    for result in [Ok(slow), Ok(narrow), Ok(strange), Err("no answer")] {
        let mut w = source(STEP);
        let asked = follow(&mut w, 1, "asia");
        let (migration, actions) = answer(&mut w, &asked, &[]);
        assert_eq!(measures(&actions), ["h4"], "the region itself first");
        let actions = measured(&mut w, migration, "h4", result);
        assert_eq!(measures(&actions), ["h3"], "then what is nearer than here");
        let actions = measured(&mut w, migration, "h3", result);
        assert_eq!(denied(&actions), [DenyReason::LinkUnfit]);
        assert_eq!(verdicts(&w, migration), ["h2 farther", "h3 link-unfit", "h4 link-unfit"]);
        assert!(steps(&w.actions).is_empty() && !writes_ticket(&w.actions));
    }
}

#[test]
fn what_was_measured_lately_counts() {
    let mut w = source(STEP);
    let asked = follow(&mut w, 1, "asia");
    let (migration, _) = answer(&mut w, &asked, &[]);
    let slow = LinkFigures { rtt_ms: 500.0, ..FIT };
    measured(&mut w, migration, "h4", Ok(slow));
    measured(&mut w, migration, "h3", Ok(slow));
    w.pass(31);
    all_answer(&mut w, &["h1"]);
    let asked = follow(&mut w, 2, "asia");
    assert_eq!(denied(&answer(&mut w, &asked, &[]).1), [DenyReason::LinkUnfit], "not measured again");
    seconds(&mut w, 30, &["h1"]);
    let asked = follow(&mut w, 3, "asia");
    assert_eq!(measures(&answer(&mut w, &asked, &[]).1), ["h4"]);
}

/// Whatever is lost between deciding and doing: a move does not wait for ever.
#[test]
fn silence_ends_a_move_that_waits_for_the_way() {
    let mut w = source(STEP);
    let request = follow(&mut w, 1, "eu-north");
    answer(&mut w, &request, &[]);
    seconds(&mut w, 70, &["h1"]);
    assert!(w.broker.guests[&VM].mv.is_under_way());
    assert_eq!(denied(&seconds(&mut w, 10, &["h1"])), [DenyReason::LinkUnfit]);
    // The step's end is not heard of.
    let (mut w, ..) = stretching();
    let actions = (0..200).flat_map(|_| {
        w.pass(1);
        all_answer(&mut w, &["h1"]);
        w.event(Event::Tick)
    });
    let actions: Vec<_> = actions.collect();
    assert_eq!(denied(&actions), [DenyReason::Unreachable]);
    assert!(steps(&actions).contains(&Verb::Undo));
    // The other end's answer is not.
    let (mut w, ..) = stretching();
    step(&mut w, Verb::Prepare, Ok(()));
    assert_eq!(denied(&seconds(&mut w, 130, &["h1"])), [DenyReason::Unreachable]);
}

#[test]
fn who_does_not_answer_is_not_measured_by_each_guest_anew() {
    let mut w = source(STEP);
    let request = follow(&mut w, 1, "eu-north");
    let (migration, _) = answer(&mut w, &request, &[]);
    assert_eq!(
        denied(&measured(&mut w, migration, "h3", Err("it does not answer"))),
        [DenyReason::LinkUnfit]
    );
    w.pass(31);
    all_answer(&mut w, &["h1"]);
    let request = follow(&mut w, 2, "eu-north");
    let (migration, actions) = answer(&mut w, &request, &[]);
    assert_eq!((denied(&actions), measures(&actions)), (vec![DenyReason::LinkUnfit], Vec::new()));
    assert_eq!(verdicts(&w, migration)[1], "h3 link-unfit");
}

#[test]
fn a_queue_at_the_other_end_says_nothing_of_the_way() {
    let mut w = source(STEP);
    let request = follow(&mut w, 1, "eu-north");
    let (migration, _) = answer(&mut w, &request, &[]);
    let queue = Err(StepError { later: true, text: "others are measuring there".into() });
    let actions = w.event(Event::Measured { uuid: VM, migration, host: "h3".into(), result: queue });
    assert_eq!(denied(&actions), [DenyReason::LinkUnfit]);
    w.pass(31);
    all_answer(&mut w, &["h1"]);
    let request = follow(&mut w, 2, "eu-north");
    assert_eq!(measures(&answer(&mut w, &request, &[]).1), ["h3"]);
}

#[test]
fn a_wish_that_has_become_pointless_meanwhile_is_not_granted() {
    let soon = |w: &mut World| {
        let wishes =
            Wishes { region: Some(Text::clipped("eu-north")), deadline_s: Some(30), ..Wishes::default() };
        let reason = RequestReason::Clients;
        let request = Request { id: RequestId(1), reason, evidence: List::default(), wishes };
        let asked = w.event(Event::Link { uuid: VM, event: LinkEvent::Said(GuestToHost::Request(request)) });
        answer(w, &asked, &[]).0
    };
    // While the way was measured ...
    let mut w = source(STEP);
    let migration = soon(&mut w);
    w.pass(31);
    assert_eq!(denied(&measured(&mut w, migration, "h3", Ok(FIT))), [DenyReason::DeadlinePassed]);
    // ... or the network was stretched.
    let mut w = source(STEP);
    let migration = soon(&mut w);
    measured(&mut w, migration, "h3", Ok(FIT));
    let actions = step(&mut w, Verb::Prepare, Ok(()));
    w.pass(31);
    let actions = answered(&mut w, &actions, Ok(()));
    assert_eq!((denied(&actions), steps(&actions)), (vec![DenyReason::DeadlinePassed], vec![Verb::Undo]));
}

#[test]
fn an_operators_order_is_not_measured_and_takes_the_network_along() {
    let mut w = source(STEP);
    let order = crate::control::Request::Migrate {
        domain: "vm1".into(),
        to: Some("h3".into()),
        reason: None,
        expedite: false,
        notice_s: None,
    };
    let asked = w.event(Event::Control { caller: crate::event::Caller(1), request: order });
    let (_, actions) = answer(&mut w, &asked, &[]);
    assert!(measures(&actions).is_empty());
    assert_eq!(steps(&actions), [Verb::Prepare]);
    let warned = |a: &Action| matches!(a, Action::Log { level: Level::Alarm, .. });
    assert!(find(&w.actions, warned).is_none());
}
