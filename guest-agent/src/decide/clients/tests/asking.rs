//! The rule by itself; then an agent whose clients are elsewhere.

use super::*;
use crate::action::Action;
use crate::event::{Event, PortState};
use crate::state::State as Disk;
use coms_protocol::GuestToHost;
use coms_protocol::guest_to_host::Request;
use coms_protocol::host_to_guest::{Accepted, Completed, HostHello, HostToGuest};
use coms_protocol::session::{Epoch, Event as Session};
use coms_protocol::types::{Encryption, Figures, Initiator, MigrationId, Place, RequestReason, Technique};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// So many clients and bytes, in thousandths, in the west and in the north; the rest in no region.
fn look(west: (u64, u64), north: (u64, u64)) -> Look {
    let share =
        |name: &str, (clients, traffic)| Share { name: name.to_owned(), traffic, clients, rtt_us: None };
    let rest = (1000u64.saturating_sub(west.0 + north.0), 1000u64.saturating_sub(west.1 + north.1));
    Look {
        regions: vec![share("west", west), share("north", north)],
        elsewhere: share("", rest),
        rtt_us: Some(40_000),
        flows: 1234,
        one_of: 1,
        ..Look::default()
    }
}

#[test]
fn a_majority_is_one_of_traffic_and_of_clients_and_leads() {
    let rule = clients("for_s = 60");
    let state = |look: &Look| Turn::default().look(s(0), look, Some("west"), &rule);
    assert_eq!(state(&look((200, 200), (700, 700))), State::Rising);
    assert_eq!(state(&look((200, 200), (900, 500))), State::NoMajority, "thousand idle ones");
    assert_eq!(state(&look((200, 100), (500, 900))), State::NoMajority, "one busy one");
    assert_eq!(state(&look((700, 700), (200, 200))), State::Here);
    assert_eq!(state(&Look::default()), State::NoRegions);
    let few = Look { elsewhere: Share::default(), ..look((2, 2), (17, 17)) };
    assert_eq!(state(&few), State::TooFew);
    let unplaced = Share { clients: 1001, ..Share::default() };
    assert_eq!(state(&Look { unplaced, ..look((100, 100), (900, 900)) }), State::PlacesUnknown);
    let narrow = clients("majority = 0.5\nlead = 0.2");
    let state = |look: &Look| Turn::default().look(s(0), look, Some("west"), &narrow);
    assert_eq!(state(&look((410, 410), (590, 590))), State::NoMajority, "it does not lead by so much");
    assert_eq!(state(&look((400, 400), (600, 600))), State::Rising);
}

#[test]
fn it_takes_time_and_a_small_dip_is_none() {
    let rule = clients("for_s = 60\nsample_s = 20");
    let mut turn = Turn::default();
    let mut at =
        |seconds, north: u64| turn.look(s(seconds), &look((100, 100), (north, north)), Some("west"), &rule);
    assert_eq!(at(0, 650), State::Rising);
    assert_eq!(at(30, 560), State::Rising, "a dip");
    assert_eq!(at(60, 650), State::Elsewhere);
    assert_eq!(at(65, 540), State::NoMajority, "more than a dip");
    assert_eq!(at(70, 590), State::NoMajority, "not enough to begin with");
    assert_eq!(at(75, 600), State::Rising);
    assert_eq!(at(134, 600), State::Rising);
    assert_eq!(at(135, 600), State::Elsewhere);
    // Looks that are missing are a break: nobody knows what was.
    assert_eq!(at(150, 600), State::Elsewhere);
    assert_eq!(at(3600, 600), State::Rising);
}

/// An agent with a host beside it that moves it wherever it asks to be.
struct World {
    agent: Agent,
    ms: u64,
    sent: Vec<GuestToHost>,
    told: Vec<(String, serde_json::Map<String, Value>)>,
    given: Option<Count>,
    migrations: u64,
    /// The host's broker knows nothing of regions.
    is_old: bool,
}

impl World {
    fn new(more: &str) -> Self {
        let disk = Disk::new(0x1234_5678_9abc_def0);
        let agent = Agent::new(config(more), disk, &BTreeSet::new(), 1, at(0));
        let mut world =
            Self { agent, ms: 0, sent: vec![], told: vec![], given: None, migrations: 0, is_old: false };
        world.carry_out();
        world.feed(Event::Port(PortState::Up));
        world.meet("west");
        world
    }

    fn place(region: &str) -> Place {
        Place { alias: Text::clipped(&format!("host-{region}")), region: Text::clipped(region) }
    }

    fn meet(&mut self, region: &str) {
        let hello = HostHello { place: Self::place(region), enabled: true };
        self.feed(Event::Link(Session::Established { new_peer: true, peer: Epoch(1), version: 1, hello }));
    }

    fn feed(&mut self, event: Event) {
        self.agent.handle(at(self.ms), event);
        self.carry_out();
    }

    fn hear(&mut self, message: impl Into<HostToGuest>) {
        self.feed(Event::Link(Session::Message(message.into())));
    }

    fn carry_out(&mut self) {
        for action in self.agent.take_actions() {
            match action {
                Action::Send(message) | Action::SendOnce(message) => self.sent.push(message),
                Action::Tell(telling) if telling.to == Audience::Everybody => {
                    self.told.push((telling.event, telling.fields));
                }
                Action::Count(count) => self.given = count.map(|c| *c),
                Action::Save(_)
                | Action::SetHello(_)
                | Action::Tell(_)
                | Action::Reply { .. }
                | Action::Watch(_)
                | Action::Inform(_)
                | Action::Run { .. }
                | Action::Measure(_)
                | Action::Configure(_)
                | Action::StartTicker
                | Action::StopTicker
                | Action::Work { .. } => {}
            }
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.ms += seconds * 1000;
        self.feed(Event::Timer);
    }

    fn sees(&mut self, look: Look) {
        let asked = self.sent.iter().rposition(|m| matches!(m, GuestToHost::RegionsQuery(_)));
        if let Some(GuestToHost::RegionsQuery(q)) = asked.map(|i| self.sent.remove(i))
            && !self.is_old
        {
            self.hear(Told { number: q.number, regions: List::default(), all: 0 });
        }
        self.ms += 5000;
        self.feed(Event::Clients(Seen::Look(Box::new(look))));
    }

    fn asked(&mut self) -> Option<Request> {
        let asked = self.sent.iter().rev().find_map(|m| {
            let GuestToHost::Request(r) = m else { return None };
            Some(r.clone())
        });
        self.sent.retain(|m| !matches!(m, GuestToHost::Request(_)));
        asked
    }

    fn moved(&mut self, request: &Request, region: &str) {
        self.migrations += 1;
        let migration = MigrationId(self.migrations);
        self.hear(Accepted { request: request.id, migration });
        self.meet(region);
        self.hear(Completed {
            migration,
            request: Some(request.id),
            initiator: Initiator::Customer,
            technique: Technique::PreCopy,
            encryption: Encryption::None,
            from: None,
            to: Self::place(region),
            figures: Figures::default(),
            told_after_ms: None,
        });
    }

    fn effect(&self) -> Option<&serde_json::Map<String, Value>> {
        self.told.iter().rev().find(|(event, _)| event == "effect").map(|(_, fields)| fields)
    }
}

#[test]
fn it_asks_for_the_clients_region_and_tells_what_the_move_did_for_their_round_trips() {
    let mut w = World::new("for_s = 60");
    for _ in 0..12 {
        w.sees(look((100, 150), (800, 750)));
        assert_eq!(w.asked(), None, "not for long enough");
    }
    w.sees(look((100, 150), (800, 750)));
    let request = w.asked().unwrap();
    assert_eq!(
        (request.reason, request.wishes.region.as_ref().map(Text::as_str)),
        (RequestReason::Clients, Some("north"))
    );
    let evidence: Vec<_> = request
        .evidence
        .as_slice()
        .iter()
        .map(|e| (e.workload.as_str(), e.metric, e.now, e.baseline))
        .collect();
    assert_eq!(
        evidence,
        [
            ("north", Metric::TrafficPermille, 750, Some(150)),
            ("north", Metric::ClientsPermille, 800, Some(100))
        ]
    );
    assert_eq!(request.evidence.as_slice()[0].samples, 1234);
    let told = w.told.iter().filter(|(event, _)| event == "clients_elsewhere").count();
    assert_eq!(told, 1);
    w.moved(&request, "north");
    for _ in 0..8 {
        w.sees(Look { rtt_us: Some(2000), ..look((100, 150), (800, 750)) });
    }
    let effect = w.effect().unwrap();
    assert_eq!(
        (
            &effect["workload"],
            &effect["verdict"],
            effect["before_ms"].as_f64(),
            effect["after_ms"].as_f64().map(f64::round)
        ),
        (&json!(ROUND_TRIP), &json!("helped"), Some(40.0), Some(2.0))
    );
    for _ in 0..1000 {
        w.sees(look((100, 150), (800, 750)));
    }
    assert_eq!(w.asked(), None, "it is where they are");
}

#[test]
fn it_does_not_ask_where_it_may_not_or_cannot_know() {
    for more in ["may_ask = false", "min_clients = 2000", "for_s = 100000"] {
        let mut w = World::new(&format!("{more}\n"));
        for _ in 0..1000 {
            w.sees(look((100, 100), (900, 900)));
        }
        assert_eq!(w.asked(), None, "{more}");
        let status = w.agent.following_json(at(w.ms)).unwrap();
        assert!(status["asks_not"].is_string(), "{status}");
    }
    let mut w = World::new("for_s = 0");
    w.agent.handle(at(w.ms), Event::Link(Session::Lost));
    w.sees(look((100, 100), (900, 900)));
    assert_eq!(w.asked(), None, "nobody to ask");
}

/// One of before would take the request for any other, and move the VM without having measured the way.
#[test]
fn a_broker_that_does_not_understand_is_not_asked() {
    let mut w = World { is_old: true, ..World::new("for_s = 0") };
    for _ in 0..100 {
        w.sees(look((100, 100), (900, 900)));
    }
    assert_eq!(w.asked(), None);
    let status = w.agent.following_json(at(w.ms)).unwrap();
    assert!(status["asks_not"].as_str().unwrap().contains("understands"), "{status}");
    // It is replaced; or the VM comes to an old one again.
    w.is_old = false;
    w.meet("west");
    w.sees(look((100, 100), (900, 900)));
    assert!(w.asked().is_some());
    let mut w = World { is_old: true, ..World::new("for_s = 0") };
    w.sees(look((100, 100), (900, 900)));
    assert_eq!(w.asked(), None);
}

#[test]
fn plugins_are_believed_even_if_they_name_nobody_and_a_change_of_source_begins_anew() {
    let text = "for_s = 60\n[[workload]]\nname = \"shop\"\nprobe = { plugin = \"nginx\" }\n";
    let mut w = World::new(text);
    let report = |w: &mut World, clients: &[&str]| {
        let clients = Some(clients.iter().map(|c| (*c).to_owned()).collect());
        let report = crate::event::Report { plugin: "nginx".to_owned(), clients, ..Default::default() };
        let command = crate::event::Command::Report(report);
        w.feed(Event::Command { client: crate::event::ClientId(1), command });
    };
    for _ in 0..10 {
        w.sees(look((100, 100), (900, 900)));
    }
    report(&mut w, &[]);
    assert_eq!(
        w.given.as_ref().unwrap().listed,
        Some(Vec::new()),
        "the load balancers are not counted instead"
    );
    for _ in 0..10 {
        w.sees(look((100, 100), (900, 900)));
    }
    assert_eq!(w.asked(), None, "what the kernel told does not count with it");
    for _ in 0..4 {
        report(&mut w, &["81.2.3.4 1"]);
        w.sees(look((100, 100), (900, 900)));
    }
    assert!(w.asked().is_some(), "other names are no other source");
}

#[test]
fn of_clients_only_shares_of_regions_leave_the_guest() {
    let text = "for_s = 0\n[[workload]]\nname = \"shop\"\nprobe = { plugin = \"nginx\" }\n";
    let mut w = World::new(text);
    let named = ["81.234.56.78 3", "2001:db8:1234:5678::9 1"];
    let report = crate::event::Report {
        plugin: "nginx".to_owned(),
        clients: Some(named.map(str::to_owned).to_vec()),
        ..Default::default()
    };
    w.feed(Event::Command {
        client: crate::event::ClientId(1),
        command: crate::event::Command::Report(report),
    });
    let listed = w.given.clone().unwrap().listed.unwrap();
    assert_eq!(listed.len(), 2, "the thread that counts hears of them");
    let countries = vec![Share { name: "SE".to_owned(), traffic: 9, clients: 9, rtt_us: None }];
    w.sees(Look { by_plugin: true, countries, ..look((100, 100), (900, 900)) });
    let bytes: Vec<u8> = w.sent.iter().flat_map(|m| format!("{m:?}\n").into_bytes()).collect();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("north") && text.contains("ClientsPermille"), "{text}");
    for secret in ["81.234", "81, 234", "2001:db8", "1234, 5678", "SE"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    // What is not said again is forgotten, and the kernel's list counts.
    w.wait(601);
    assert_eq!(w.given.unwrap().listed, None);
}

#[test]
fn the_hosts_regions_are_asked_for_until_they_come() {
    let mut w = World::new("");
    let number = |w: &World| {
        w.sent.iter().rev().find_map(|m| {
            let GuestToHost::RegionsQuery(q) = m else { return None };
            Some(q.number)
        })
    };
    assert_eq!(number(&w), Some(1));
    w.wait(31);
    assert_eq!(number(&w), Some(2));
    let entry = |countries: &[&str]| RegionEntry {
        name: Text::clipped("south"),
        at: None,
        countries: List::clipped(countries.iter().filter_map(|c| Country::new(c))),
    };
    w.hear(Told { number: 1, regions: List::clipped([entry(&["DE"])]), all: 1 });
    assert_eq!(w.given.as_ref().unwrap().regions.len(), 2, "an old answer");
    w.hear(Told { number: 2, regions: List::clipped([entry(&["IT"])]), all: 1 });
    assert_eq!(w.given.as_ref().unwrap().regions.len(), 3);
    w.wait(60);
    assert_eq!(number(&w), Some(2), "it has them");
    w.meet("north");
    assert_eq!(number(&w), Some(3), "another broker may have others");
    let bare = World { given: None, ..World::new("") };
    assert_eq!(bare.given, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the clients do: from one move to the next it takes the cooldown and then some, the region that is asked
    /// for has the majority at that moment, and has had it since the move before.
    #[test]
    fn no_return_trip_unless_the_majority_really_turns(
        course in prop::collection::vec((0u64..=1000, 0u64..=1000, 1usize..300), 1..24),
    ) {
        let (cooldown_s, for_s) = (900u64, 300u64);
        let mut w = World::new(&format!("for_s = {for_s}\n[asking]\ncooldown_s = {cooldown_s}\n"));
        let mut last: Option<u64> = None;
        let mut here = "west".to_owned();
        // Since when each region has had at least the majority less the slack.
        let mut since: BTreeMap<&str, u64> = BTreeMap::new();
        for (clients, traffic, looks) in course {
            for _ in 0..looks {
                let (west, north) = ((1000 - clients, 1000 - traffic), (clients, traffic));
                w.sees(look(west, north));
                for (name, share) in [("west", west), ("north", north)] {
                    if share.0.min(share.1) >= 550 {
                        since.entry(name).or_insert(w.ms);
                    } else {
                        since.remove(name);
                    }
                }
                let Some(request) = w.asked() else { continue };
                let wanted = request.wishes.region.unwrap();
                let wanted = wanted.as_str();
                prop_assert_ne!(wanted, &here);
                let held = w.ms - since.get(wanted).copied().unwrap_or(w.ms);
                prop_assert!(held >= for_s * 1000, "{} held for {} ms", wanted, held);
                if let Some(last) = last {
                    prop_assert!(w.ms - last >= cooldown_s * 1000, "moved again after {} ms", w.ms - last);
                }
                last = Some(w.ms);
                here = wanted.to_owned();
                let request = Request { wishes: Default::default(), ..request };
                w.moved(&request, &here);
            }
        }
    }
}

#[test]
fn a_capture_that_was_refused_is_told_of_until_it_is_tried_again() {
    let mut w = World::new("capture = true");
    let error = |w: &World| w.agent.following_json(at(w.ms)).unwrap()["capture_error"].clone();
    w.feed(Event::Clients(Seen::NoCapture("no right".into())));
    let query =
        w.sent.iter().find_map(|m| if let GuestToHost::RegionsQuery(q) = m { Some(q.number) } else { None });
    let region = RegionEntry { name: Text::clipped("north"), at: None, countries: List::default() };
    w.hear(Told { number: query.unwrap(), regions: List::clipped([region]), all: 1 });
    assert!(w.given.as_ref().is_some_and(|c| !c.regions.is_empty()), "the regions are counted");
    assert_eq!(error(&w), json!("no right"));
}
