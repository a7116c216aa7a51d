//! Brokers, what libvirt shows them, and one guest. Moves succeed at once unless held.

use crate::action::Action;
use crate::alias::AliasKey;
use crate::config::Config;
use crate::control::Request as ControlRequest;
use crate::decide::Broker;
use crate::event::{Answer, Caller, Event, LinkEvent, Now};
use crate::hypervisor::{Domain, DomainState, HostSample, HvEvent, JobFigures, Mark, Needs};
use crate::records::MoveRecord;
use crate::schedule::Schedule;
use coms_protocol::guest_to_host::{
    GuestHello, GuestToHost, RandomQuery, RandomStart, RandomStop, Request, Wishes,
};
use coms_protocol::host_to_guest::{HostToGuest, RandomStatus};
use coms_protocol::types::{GapLaw, List, RandomState, RequestId, RequestReason, Text};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uuid::Uuid;

const VM: Uuid = Uuid::from_u128(7);

/// One random move, as the guest can see it.
#[derive(Debug, Clone, Copy)]
pub struct Stay {
    pub from: usize,
    pub to: usize,
    /// From the draw to the moment drawn.
    pub gap_ms: u64,
    pub called_unix_ms: u64,
}

type Draw = Arc<Mutex<dyn FnMut() -> u64 + Send>>;

pub struct Pool {
    configs: Vec<Config>,
    brokers: Vec<Broker>,
    draw: Draw,
    /// Where the VM is.
    at: usize,
    arrived: bool,
    now: Now,
    pub xml: Option<String>,
    ticket: Option<String>,
    /// Of what is in `xml`.
    gap_ms: u64,
    beat: u64,
    stays: VecDeque<Stay>,
    moves: usize,
    told: Vec<RandomStatus>,
    asked: u64,
    pub surveys: usize,
    /// No other host can take it.
    pub full: bool,
    /// The migrate call does not come back.
    hold: bool,
    held: Option<Action>,
}

fn name(i: usize) -> String {
    format!("h{i}")
}

fn host_uuid(i: usize) -> Uuid {
    Uuid::from_u128(0xa0 + i as u128)
}

impl Pool {
    pub fn new(hosts: usize, draw: impl FnMut() -> u64 + Send + 'static) -> Pool {
        let all: Vec<_> = (0..hosts).map(name).collect();
        let config = |me: usize| {
            let mut text = format!(
                "[host]\nname = \"h{me}\"\nregion = \"r\"\n[guests]\nenabled = [\"vm*\"]\n[random]\npool = {all:?}\n\
                 max_per_day = 4000\n"
            );
            for other in all.iter().filter(|h| **h != name(me)) {
                text += &format!(
                    "[[hosts]]\nname = \"{other}\"\nregion = \"r\"\nlibvirt = \"qemu+tcp://{other}/system\"\n"
                );
            }
            Config::parse(Path::new("broker.toml"), &text).unwrap()
        };
        let mut pool = Pool {
            configs: (0..hosts).map(config).collect(),
            brokers: Vec::new(),
            draw: Arc::new(Mutex::new(draw)),
            at: 0,
            arrived: false,
            now: Now { mono: Duration::from_secs(100), unix_ms: 1_790_000_000_000 },
            xml: None,
            ticket: None,
            gap_ms: 0,
            beat: 0,
            stays: VecDeque::new(),
            moves: 0,
            told: Vec::new(),
            asked: 0,
            surveys: 0,
            full: false,
            hold: false,
            held: None,
        };
        for i in 0..hosts {
            let broker = pool.broker(i, Vec::new());
            pool.brokers.push(broker);
        }
        (0..hosts).for_each(|i| pool.begin(i));
        pool
    }

    fn broker(&self, i: usize, past: Vec<MoveRecord>) -> Broker {
        let draw = self.draw.clone();
        let draw = Box::new(move || (draw.lock().unwrap())());
        Broker::new(self.configs[i].clone(), AliasKey::new(b"k"), past, draw)
    }

    /// A broker's first minutes.
    fn begin(&mut self, i: usize) {
        self.event(i, Event::Hypervisor(HvEvent::Connected));
        let here = if i == self.at { vec![self.domain(false)] } else { Vec::new() };
        self.event(i, Event::Domains(Ok(here)));
        self.samples();
        self.now.mono += Duration::from_secs(3);
        self.samples();
        if i == self.at {
            self.look(false);
            self.hello();
        }
    }

    fn samples(&mut self) {
        self.beat += 1;
        for me in 0..self.brokers.len() {
            for host in 0..self.brokers.len() {
                let broker = Some(Mark {
                    broker: "test".into(),
                    beat: self.beat,
                    unix_ms: self.now.unix_ms,
                    stretched: Vec::new(),
                    tls: None,
                });
                let sample = HostSample {
                    cpus: 1,
                    memory_kib: 16 << 20,
                    host_uuid: Some(host_uuid(host)),
                    domains: Vec::new(),
                    broker,
                };
                self.event(me, Event::Sampled { host: name(host), result: Ok(sample) });
            }
        }
    }

    fn domain(&self, arrived: bool) -> Domain {
        Domain {
            uuid: VM,
            name: "vm1".into(),
            state: DomainState::Running { arrived },
            persistent: true,
            autostart: false,
            channel: Some("/chan".into()),
            memory_kib: 1 << 20,
            vcpus: 1,
            needs: Needs { virt_type: "qemu".into(), arch: "x86_64".into(), machine: "pc".into() },
            ticket_xml: self.ticket.clone(),
            random_xml: self.xml.clone(),
            seal_xml: None,
            permitted: false,
            interfaces: Vec::new(),
            storage: Default::default(),
            job_active: false,
        }
    }

    fn look(&mut self, arrived: bool) {
        let domain = self.domain(arrived);
        self.event(self.at, Event::Domain { uuid: VM, result: Ok(domain) });
    }

    fn hello(&mut self) {
        let hello = GuestHello { agent: Text::clipped("test"), waiting: List::default() };
        self.event(
            self.at,
            Event::Link { uuid: VM, event: LinkEvent::Established { hello, new_peer: true } },
        );
    }

    fn said(&mut self, message: impl Into<GuestToHost>) {
        self.event(self.at, Event::Link { uuid: VM, event: LinkEvent::Said(message.into()) });
    }

    fn event(&mut self, i: usize, event: Event) {
        let mut events = VecDeque::from([(i, event)]);
        while let Some((i, event)) = events.pop_front() {
            for action in self.brokers[i].handle(self.now, event) {
                self.act(i, action, &mut events);
            }
        }
    }

    fn act(&mut self, i: usize, action: Action, events: &mut VecDeque<(usize, Event)>) {
        match action {
            Action::WriteSchedule { uuid, xml } => {
                let drawn = xml.as_deref().and_then(|x| Schedule::from_xml(x).ok()?.next_unix_ms);
                self.gap_ms = drawn.unwrap_or(0).saturating_sub(self.now.unix_ms);
                self.xml = xml;
                events.push_back((i, Event::ScheduleWritten { uuid, result: Ok(()) }));
            }
            Action::WriteTicket { uuid, migration, xml, .. } => {
                self.ticket = Some(xml);
                events.push_back((i, Event::TicketWritten { uuid, migration, result: Ok(()) }));
            }
            Action::ClearTicket { uuid } => {
                self.ticket = None;
                events.push_back((i, Event::TicketCleared { uuid, result: Ok(()) }));
            }
            Action::Survey { uuid, migration, hosts, .. } => {
                self.surveys += 1;
                let can_run = if self.full { Err("full".to_owned()) } else { Ok(()) };
                let answers = hosts
                    .into_iter()
                    .map(|(host, _)| Answer {
                        host,
                        can_run: can_run.clone(),
                        has_it: false,
                        storage: Ok(Default::default()),
                    })
                    .collect();
                let domain = Ok(Box::new(self.domain(false)));
                events.push_back((i, Event::Surveyed { uuid, migration, domain, answers }));
            }
            Action::Migrate { .. } if self.hold => self.held = Some(action),
            Action::Migrate { migration, spec } => {
                assert_eq!(i, self.at, "moved from where it is not");
                let to = (0..self.brokers.len()).find(|h| spec.dest_uri.contains(&name(*h))).unwrap();
                self.moves += 1;
                self.stays.push_back(Stay {
                    from: i,
                    to,
                    gap_ms: self.gap_ms,
                    called_unix_ms: self.now.unix_ms,
                });
                self.at = to;
                self.arrived = true;
                events.push_back((i, Event::Hypervisor(HvEvent::Left { uuid: VM })));
                events.push_back((i, Event::Returned { uuid: VM, migration, result: Ok(()) }));
                // The last look before it runs there shows its job, and none follows by itself.
                let coming = Domain { state: DomainState::Incoming, job_active: true, ..self.domain(false) };
                events.push_back((to, Event::Domain { uuid: VM, result: Ok(coming) }));
                events.push_back((to, Event::Hypervisor(HvEvent::Arrived { uuid: VM })));
                let hello = GuestHello { agent: Text::clipped("test"), waiting: List::default() };
                events.push_back((
                    to,
                    Event::Link { uuid: VM, event: LinkEvent::Established { hello, new_peer: true } },
                ));
            }
            Action::Look { uuid } if i == self.at => {
                let domain = Ok(self.domain(self.arrived));
                events.push_back((i, Event::Domain { uuid, result: domain }));
            }
            Action::FetchFigures { uuid, migration } => {
                let figures = Some(Box::new(JobFigures::default()));
                events.push_back((i, Event::Figures { uuid, migration, figures }));
            }
            Action::Tell { uuid, message } => {
                if let HostToGuest::RandomStatus(status) = &message {
                    self.told.push(*status);
                }
                events.push_back((i, Event::Link { uuid, event: LinkEvent::Delivered(message) }));
            }
            _ => {}
        }
    }

    /// Lets so much time pass, with a tick each second.
    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now.mono += Duration::from_secs(1);
            self.now.unix_ms += 1000;
            if self.now.mono.as_secs().is_multiple_of(3) {
                self.samples();
            }
            self.event(self.at, Event::Tick);
        }
    }

    pub fn settle(&mut self) {
        self.pass(2);
    }

    /// Waits for the next random move: straight to the moment that is drawn.
    pub fn next_move(&mut self) -> Stay {
        self.settle();
        for _ in 0..200 {
            if let Some(stay) = self.stays.pop_front() {
                self.settle();
                return stay;
            }
            let next = self.schedule().and_then(|s| s.next_unix_ms).unwrap_or(0);
            let left = next.saturating_sub(self.now.unix_ms);
            self.now.mono += Duration::from_millis(left);
            self.now.unix_ms += left;
            self.samples();
            self.pass(1);
        }
        panic!("no move: {:?}", self.xml);
    }

    pub fn moves_within(&mut self, seconds: u64) -> usize {
        let before = self.moves;
        self.pass(seconds);
        self.stays.clear();
        self.moves - before
    }

    fn numbered(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    fn answer(&mut self, number: u64) -> RandomStatus {
        self.pass(1);
        let of = |s: &RandomStatus| s.number == Some(number);
        let at = self.told.iter().position(of).expect("no answer");
        self.told.remove(at)
    }

    pub fn start(
        &mut self,
        law: GapLaw,
        least_s: u32,
        most_s: u32,
        most_per_day: Option<u16>,
    ) -> RandomStatus {
        let number = self.numbered();
        self.said(RandomStart { number, law, least_s, most_s, most_per_day });
        self.answer(number)
    }

    pub fn stop(&mut self) -> RandomStatus {
        let number = self.numbered();
        self.said(RandomStop { number });
        self.answer(number)
    }

    pub fn query(&mut self) -> RandomStatus {
        let number = self.numbered();
        self.said(RandomQuery { number });
        self.answer(number)
    }

    pub fn told_unasked(&mut self) -> Vec<RandomState> {
        std::mem::take(&mut self.told).into_iter().filter(|s| s.number.is_none()).map(|s| s.state).collect()
    }

    pub fn schedule(&self) -> Option<Schedule> {
        self.xml.as_deref().map(|x| Schedule::from_xml(x).unwrap())
    }

    pub fn now_unix_ms(&self) -> u64 {
        self.now.unix_ms
    }

    /// A fresh one takes its place; only what is in the metadata is left.
    pub fn kill_broker(&mut self) {
        self.brokers[self.at] = self.broker(self.at, Vec::new());
        self.begin(self.at);
    }

    pub fn configure(&mut self, change: impl Fn(&mut Config)) {
        for i in 0..self.brokers.len() {
            change(&mut self.configs[i]);
            self.brokers[i] = self.broker(i, Vec::new());
        }
        (0..self.brokers.len()).for_each(|i| self.begin(i));
    }

    pub fn pause(&mut self, on: bool) {
        let request = if on { ControlRequest::Pause { let_finish: false } } else { ControlRequest::Resume };
        self.event(self.at, Event::Control { caller: Caller(1), request });
    }

    /// `comsctl migrate`, of a move that takes its time.
    pub fn order_and_hold(&mut self) {
        self.hold = true;
        let request = ControlRequest::Migrate {
            domain: "vm1".into(),
            to: None,
            reason: None,
            expedite: false,
            notice_s: None,
        };
        self.event(self.at, Event::Control { caller: Caller(1), request });
        assert!(self.held.is_some());
    }

    pub fn let_go(&mut self) {
        self.hold = false;
        let action = self.held.take().unwrap();
        let mut events = VecDeque::new();
        self.act(self.at, action, &mut events);
        self.stays.clear();
        for (i, event) in events {
            self.event(i, event);
        }
    }

    /// The guest asks by itself.
    pub fn ask_is_taken(&mut self) -> bool {
        let before = self.surveys;
        let request = Request {
            id: RequestId(1),
            reason: RequestReason::Manual,
            evidence: List::default(),
            wishes: Wishes::default(),
        };
        self.said(request);
        self.surveys > before
    }
}
