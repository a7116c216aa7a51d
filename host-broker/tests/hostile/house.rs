//! A broker whose libvirt is made up: its decisions, its links and its queues are the real ones.
#![allow(clippy::wildcard_enum_match_arm, reason = "a made-up world does what it is about")]

use super::heap;
use coms_broker::action::Action;
use coms_broker::alias::AliasKey;
use coms_broker::config::Config;
use coms_broker::control::{Reply, Request};
use coms_broker::decide::Broker;
use coms_broker::event::{Caller, Event, Now};
use coms_broker::hypervisor::{Domain, DomainState, HostSample, HvEvent, Needs};
use coms_broker::io::guest_links::Links;
use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use uuid::Uuid;

/// What one guest may ask, and so the lines of log that it may cause by asking.
pub const REQUESTS_PER_MINUTE: usize = 6;

pub struct House {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    ask: tokio::sync::mpsc::Sender<()>,
    agents: Receiver<Vec<String>>,
    log: Log,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl House {
    /// So many domains with a port each; gives the ports' other ends, with the broker attached to them.
    pub fn open(guests: usize) -> (House, Vec<UnixStream>) {
        let dir = std::env::temp_dir().join(format!("coms-hostile-{:x}", rand::random::<u64>()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut domains: Vec<Domain> = (0..guests)
            .map(|n| Domain { channel: Some(dir.join(format!("{n}.sock"))), ..domain(n) })
            .collect();
        let ports: Vec<UnixListener> =
            domains.iter().map(|d| UnixListener::bind(d.channel.as_ref().unwrap()).unwrap()).collect();
        domains.sort_by_key(|d| d.uuid);
        let (stop, stopped) = oneshot::channel();
        let (to, agents) = channel();
        let (ask, asked) = tokio::sync::mpsc::channel(1);
        let log = Log::default();
        let into = log.clone();
        let thread = std::thread::spawn(move || {
            let writer = move || into.clone();
            let log = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_ansi(false);
            let log = log.with_writer(writer).finish();
            tracing::subscriber::with_default(log, || {
                heap::count_this_thread();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(run(domains, stopped, asked, to));
            });
        });
        let ends = ports.iter().map(|port| port.accept().unwrap().0).collect();
        std::fs::remove_dir_all(&dir).unwrap();
        (House { stop, ask, thread, agents, log }, ends)
    }

    /// What `comsctl guests` shows of the agents right now, in the guests' order.
    pub fn agents(&self) -> Vec<String> {
        self.ask.blocking_send(()).unwrap();
        self.agents.recv_timeout(Duration::from_secs(5)).unwrap()
    }

    /// Ends the broker; what it logged.
    pub fn close(self) -> String {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
        let bytes = self.log.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }
}

fn domain(n: usize) -> Domain {
    Domain {
        uuid: Uuid::from_u128(1 + n as u128),
        name: format!("x{n:03}"),
        state: DomainState::Running { arrived: false },
        persistent: true,
        autostart: false,
        channel: None,
        memory_kib: 1 << 20,
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

/// As `io/event_loop.rs` does it, with libvirt's part left out: nobody takes part, so every request is refused.
async fn run(
    domains: Vec<Domain>,
    mut stopped: oneshot::Receiver<()>,
    mut asked: tokio::sync::mpsc::Receiver<()>,
    agents: Sender<Vec<String>>,
) {
    let text = format!(
        "[host]\nname = \"h1\"\nregion = \"r\"\n[guests]\nenabled = [\"vm*\"]\n[limits]\nrequests_per_minute = {REQUESTS_PER_MINUTE}\n"
    );
    let config = Config::parse(Path::new("broker.toml"), &text).unwrap();
    let draw = Box::new(rand::random::<u64>);
    let mut broker = Broker::new(config, AliasKey::new(b"secret"), Vec::new(), draw);
    let (tx, mut words) = tokio::sync::mpsc::channel(coms_broker::io::WORDS);
    let mut links = Links::new(tx, None);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let began = Instant::now();
    let me = HostSample {
        cpus: 1,
        memory_kib: 1 << 30,
        host_uuid: Some(Uuid::from_u128(u128::MAX)),
        domains: Vec::new(),
        broker: None,
    };
    let mut events = VecDeque::from([
        Event::Hypervisor(HvEvent::Connected),
        Event::Sampled { host: "h1".into(), result: Ok(me) },
        Event::Domains(Ok(domains)),
    ]);
    loop {
        let event = match events.pop_front() {
            Some(event) => event,
            None => tokio::select! {
                biased;
                _ = &mut stopped => return,
                _ = tick.tick() => Event::Tick,
                Some(()) = asked.recv() => Event::Control { caller: Caller(0), request: Request::Guests },
                Some(event) = words.recv() => event,
            },
        };
        let now = Now { mono: began.elapsed(), unix_ms: 1_800_000_000_000 };
        for action in broker.handle(now, event) {
            match action {
                Action::Attach { uuid, channel, hello } => links.attach(uuid, channel, &hello),
                Action::Detach { uuid } => links.detach(uuid),
                Action::Tell { uuid, message } => links.tell(uuid, message),
                Action::TellOnce { uuid, message } => links.tell_once(uuid, message),
                Action::Log { guest, text, .. } => {
                    let guest = guest.map(tracing::field::display);
                    tracing::info!(guest, "{text}");
                }
                Action::Reply { reply, .. } => {
                    if let Reply::Guests { guests } = *reply {
                        let _ = agents.send(guests.into_iter().filter_map(|g| g.agent).collect());
                    }
                }
                _ => {}
            }
        }
    }
}
