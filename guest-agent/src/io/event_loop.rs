//! The one loop: wait for the world, let [`Agent`] decide, carry it out, and only then let the session speak
//! (its acknowledgements say "acted on", so what was heard is on disk by then).

use super::clients::Clients as Counting;
use super::commands::Commands;
use super::event_log::EventLog;
use super::hooks::Hooks;
use super::peer::Doors;
use super::port::Port;
use super::probes::{self, Probes};
use super::random::random;
use super::socket::{self, Clients, FromClient};
use super::state_file::StateFile;
use super::ticker::Ticker;
use super::{machine, now};
use crate::action::{Action, Audience, Telling};
use crate::config::{Config, ConfigError};
use crate::decide::Agent;
use crate::event::{Event, PortState};
use coms_protocol::Guest;
use coms_protocol::guest_to_host::GuestHello;
use coms_protocol::session::{Epoch, Now, Session};
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

/// Bytes made ready for the port at a time; the rest waits in the session.
const OUT: usize = 8 * 1024;
/// Bytes read before others get their turn.
const IN_TURN: usize = 64 * 1024;

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket of `coms` cannot be had.
    #[error("{}: cannot listen: {source}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The process cannot be told to end.
    #[error("cannot handle signals: {0}")]
    Signals(std::io::Error),
}

/// Where groups are listed.
const GROUPS: &str = "/etc/group";

/// Runs until SIGTERM or SIGINT. At SIGHUP it reads `file` again, as [`Config::load_or_defaults`] does.
pub async fn run(config: Config, file: Option<PathBuf>) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(StartError::Signals)?;
    let (to_clients, mut from_clients) = mpsc::channel(64);
    let (doors, open) = watch::channel(Doors::new(&config.access, Path::new(GROUPS)));
    socket::listen(&config.socket, open, to_clients)
        .map_err(|source| StartError::Socket { path: config.socket.clone(), source })?;

    let mut shell = Shell::start(config, doors);
    shell.carry_out().await;
    loop {
        shell.speak();
        let pending = !shell.out.is_empty();
        let due = shell.due();
        tokio::select! {
            () = shell.port.wait(pending) => shell.listen().await,
            Some(event) = shell.probes.next() => shell.take(event).await,
            Some(event) = shell.aside.1.recv() => shell.take(event).await,
            Some(what) = from_clients.recv() => shell.client(what).await,
            () = sleep_until(due) => shell.take(Event::Timer).await,
            ran = shell.commands.ended() => shell.take(Event::Ran(ran)).await,
            told = shell.hooks.ended() => shell.tell(told),
            _ = hang_up.recv() => shell.reload(file.as_deref()).await,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    info!("ending");
    if let Err(e) = shell.state_file.save(shell.agent.state()) {
        warn!("the state cannot be saved: {e}");
    }
    Ok(())
}

struct Shell {
    agent: Agent,
    session: Session<Guest>,
    port: Port,
    up: bool,
    out: Vec<u8>,
    log: EventLog,
    state_file: StateFile,
    clients: Clients,
    ticker: Option<Ticker>,
    probes: Probes,
    hooks: Hooks,
    commands: Commands,
    counting: Counting,
    doors: watch::Sender<Doors>,
    /// What is measured aside comes back here.
    aside: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
}

impl Shell {
    fn start(config: Config, doors: watch::Sender<Doors>) -> Self {
        let state_file = StateFile::new(&config.state);
        let log = EventLog::open(&config.events, config.events_max_bytes);
        let state = state_file.load(random());
        let port = Port::new(config.port.clone());
        info!(
            "{} watches {} workloads; {}",
            crate::AGENT,
            config.workloads.len(),
            state.life.asking().map_or("no request is outstanding".to_owned(), |a| format!(
                "request {} is outstanding",
                a.request.id
            ))
        );
        let mut hooks = Hooks::default();
        hooks.set(&config.hooks);
        // 0 stands for nobody.
        let epoch = Epoch(random().max(1));
        Self {
            probes: probes::start(&config.workloads),
            hooks,
            commands: Commands::default(),
            counting: Counting::default(),
            doors,
            agent: Agent::new(config, state, &log.finals(), random(), now()),
            session: Session::new(epoch, &GuestHello::default()),
            port,
            up: false,
            out: Vec::new(),
            log,
            state_file,
            clients: Clients::default(),
            ticker: None,
            aside: mpsc::channel(4),
        }
    }

    /// When something is due, at the latest. Far away when nothing is.
    fn due(&self) -> Instant {
        let next = [self.session.next_timeout(), self.agent.next_timeout()].into_iter().flatten().min();
        let wait = next.map_or(Duration::from_secs(3600), |t| t.saturating_sub(now().mono));
        Instant::now() + wait
    }

    async fn take(&mut self, event: Event) {
        #[cfg(feature = "faults")]
        super::stop_here::before("event", &event);
        self.agent.handle(now(), event);
        self.carry_out().await;
    }

    /// Reads the configuration again, and takes up the log that is there now.
    async fn reload(&mut self, file: Option<&Path>) {
        self.log.take_up();
        // A complaint of several lines is one event.
        let one_line = |e: ConfigError| e.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let config = Config::load_or_defaults(file).map(Box::new).map_err(one_line);
        self.take(Event::Reloaded(config)).await;
    }

    async fn client(&mut self, what: FromClient) {
        match what {
            FromClient::Came(id, lines, alive) => self.clients.came(id, lines, alive),
            FromClient::Wants(client, command) => self.take(Event::Command { client, command }).await,
            FromClient::Gone(id) => {
                self.clients.gone(id);
                self.take(Event::ClientGone(id)).await;
            }
        }
    }

    /// Takes in what the port has.
    async fn listen(&mut self) {
        self.port_changed().await;
        let mut buffer = [0u8; 4096];
        let mut read = 0;
        while read < IN_TURN
            && let Some(n) = self.port.read(&mut buffer)
        {
            read += n;
            let at = now();
            let mut rest = &buffer[..n];
            while !rest.is_empty() {
                let used = self.session.receive(at, rest);
                rest = &rest[used..];
                self.link_events(at).await;
            }
        }
        self.port_changed().await;
    }

    async fn port_changed(&mut self) {
        while let Some(state) = self.port.take_state() {
            let up = state == PortState::Up;
            match &state {
                PortState::Missing(why) => warn!("{why}"),
                PortState::HostAbsent => debug!("nobody at the port's other end"),
                PortState::Up => debug!("somebody at the port's other end"),
            }
            if std::mem::replace(&mut self.up, up) {
                self.session.link_down();
            }
            // A half frame for the former peer is of no use to the next.
            self.out.clear();
            if up {
                self.session.link_up(now());
            }
            self.take(Event::Port(state)).await;
            self.link_events(now()).await;
        }
    }

    async fn link_events(&mut self, at: Now) {
        while let Some(event) = self.session.poll_event() {
            let event = Event::Link(event);
            #[cfg(feature = "faults")]
            super::stop_here::before("event", &event);
            self.agent.handle(at, event);
            self.carry_out().await;
        }
    }

    /// Lets the session say what is due, as far as the port takes it.
    fn speak(&mut self) {
        if !self.up {
            return;
        }
        loop {
            let room = OUT.saturating_sub(self.out.len());
            if room > 0 {
                self.session.poll_transmit(now(), room, &mut self.out);
            }
            let written = if self.out.is_empty() { 0 } else { self.port.write(&self.out) };
            self.out.drain(..written);
            if written == 0 {
                break;
            }
        }
        if self.out.is_empty() {
            // An idle link holds no memory.
            self.out.shrink_to(1024);
        }
    }

    async fn carry_out(&mut self) {
        let mut actions: VecDeque<Action> = self.agent.take_actions().into();
        while let Some(action) = actions.pop_front() {
            #[cfg(feature = "faults")]
            super::stop_here::before("action", &action);
            match action {
                Action::Save(state) => self.state_file.save_aside(state).await,
                Action::SetHello(hello) => self.session.set_hello(&hello),
                Action::Send(message) => {
                    if let Err(e) = self.session.send(message) {
                        warn!("a message to the host is dropped: {e}");
                    }
                }
                Action::SendOnce(message) => {
                    self.session.send_once(message);
                }
                Action::Tell(telling) => self.tell(telling),
                Action::Reply { client, line } => self.clients.reply(client, &line.to_string()),
                Action::Watch(client) => self.clients.watch(client),
                Action::Inform(client) => self.clients.inform(client),
                Action::Run { run, name, argv, timeout, line } => {
                    self.commands.run(run, name, argv, timeout, line);
                }
                Action::Count(count) => self.counting.set(count, &self.aside.0),
                Action::Measure(workloads) => self.probes = probes::start(&workloads),
                Action::Work { units } => machine::measure(units, &self.aside.0),
                Action::Configure(config) => {
                    self.hooks.set(&config.hooks);
                    self.log.set_max(config.events_max_bytes);
                    self.doors.send_replace(Doors::new(&config.access, Path::new(GROUPS)));
                }
                Action::StartTicker => self.ticker = Some(Ticker::start()),
                Action::StopTicker => {
                    let worst = self.ticker.take().map(|t| t.worst()).unwrap_or_default();
                    self.agent.handle(now(), Event::TickerStopped { worst });
                    actions.extend(self.agent.take_actions());
                }
            }
        }
    }

    fn tell(&mut self, telling: Telling) {
        let at = now();
        let mut line = Map::new();
        line.insert("at".to_owned(), crate::decide::rfc3339(at.unix_us / 1000).into());
        line.insert("mono_ms".to_owned(), u64::try_from(at.mono.as_millis()).unwrap_or(u64::MAX).into());
        line.insert("event".to_owned(), telling.event.clone().into());
        line.extend(telling.fields.clone());
        if telling.to == Audience::Everybody {
            self.hooks.tell(&telling.event, &line);
        }
        let line = Value::Object(line).to_string();
        if telling.to == Audience::Everybody {
            self.log.write(&line);
            info!("{}", crate::decide::sentence(&telling));
        }
        self.clients.tell(&line, telling.to);
    }
}
