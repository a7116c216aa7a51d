//! The one owner: takes an event, lets the broker decide, starts what it decided.

use super::StartError;
use super::control_socket;
use super::execute::Executor;
use super::libvirt::Libvirt;
use super::state::State;
use crate::config::Config;
use crate::decide::Broker;
use crate::event::{Event, Now};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::info;

/// How often each host is looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// Events waiting for the broker; beyond that, who sends them waits.
const EVENTS: usize = 1024;
/// Guests' words waiting for the broker. Few, so that nobody's burst stands in front of others': behind these each
/// guest waits with one.
pub const WORDS: usize = 16;

/// Runs until SIGTERM or SIGINT. A migration under way goes on without the broker: libvirt performs it, and the
/// next broker finds out from the domain.
pub async fn run(config: Config) -> Result<(), StartError> {
    let state = State::open(&config)?;
    let (tx, mut events) = mpsc::channel::<Event>(EVENTS);
    let (words_tx, mut words) = mpsc::channel::<Event>(WORDS);
    let (hv_tx, mut hypervisor) = mpsc::unbounded_channel();
    let listener = control_socket::listen(&config.socket)?;
    let libvirt = Libvirt::start(&config.me.libvirt, hv_tx);

    let mut broker = Broker::new(
        config.clone(),
        state.alias_key.clone(),
        state.past.clone(),
        Box::new(rand::random::<u64>),
    )
    .paused(state.paused)
    .after(state.announced.clone(), state.stays.clone());
    let callers = control_socket::serve(listener, tx.clone());
    for host in std::iter::once(&config.me).chain(&config.peers) {
        let remote = (host.name != config.me.name).then(|| host.libvirt.clone());
        tokio::spawn(sample(libvirt.clone(), host.name.clone(), remote, tx.clone()));
    }
    let mut executor = Executor::new(libvirt, tx, words_tx, callers, state, &config);

    let signals = |e| StartError::Runtime(e);
    let mut term = signal(SignalKind::terminate()).map_err(signals)?;
    let mut int = signal(SignalKind::interrupt()).map_err(signals)?;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let clock = Clock::start();
    info!(host = config.me.name, region = config.me.region, peers = config.peers.len(), "coms-broker runs");
    loop {
        let event = tokio::select! {
            // libvirt's news first: what guests say is judged by it.
            biased;
            _ = term.recv() => break,
            _ = int.recv() => break,
            Some(event) = hypervisor.recv() => Event::Hypervisor(event),
            _ = tick.tick() => Event::Tick,
            Some(event) = events.recv() => event,
            Some(event) = words.recv() => event,
        };
        #[cfg(feature = "faults")]
        super::stop_here::before("event", &event);
        for action in broker.handle(clock.now(), event) {
            #[cfg(feature = "faults")]
            super::stop_here::before("action", &action);
            executor.start(action);
        }
        executor.tell_left_out();
    }
    info!("coms-broker stops; migrations under way go on in libvirt");
    executor.farewell().await;
    let _ = std::fs::remove_file(&config.socket);
    Ok(())
}

async fn sample(libvirt: Libvirt, host: String, remote: Option<String>, tx: mpsc::Sender<Event>) {
    let mut every = tokio::time::interval(SAMPLE_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let result = match &remote {
            Some(uri) => libvirt.sample(uri).await,
            None => libvirt.local_sample().await,
        };
        if tx.send(Event::Sampled { host: host.clone(), result }).await.is_err() {
            return;
        }
    }
}

/// The host's clocks.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    pub fn mono(self) -> Duration {
        self.started.elapsed()
    }

    pub fn unix() -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn now(self) -> Now {
        Now { mono: self.mono(), unix_ms: Self::unix().as_millis() as u64 }
    }
}
