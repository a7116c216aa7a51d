//! The one owner: takes an event, lets the broker decide, starts what it decided.

use super::StartError;
use super::control_socket;
use super::execute::{Executor, Given};
use super::libvirt::Libvirt;
use super::link;
use super::peer::{Doors, GROUPS};
use super::state::State;
use crate::action::Action;
use crate::config::Config;
use crate::decide::Broker;
use crate::event::{Event, Now};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::info;

/// Events waiting for the broker; beyond that, who sends them waits.
const EVENTS: usize = 1024;
/// Guests' words waiting for the broker. Few, so that nobody's burst stands in front of others': behind these each
/// guest waits with one.
pub const WORDS: usize = 16;

/// Runs until SIGTERM or SIGINT; `file` is read again at SIGHUP. A migration under way goes on without the broker: libvirt performs it, and the
/// next broker finds out from the domain.
pub async fn run(config: Config, file: PathBuf) -> Result<(), StartError> {
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
    .after(state.announced.clone(), state.stays.clone())
    .stretched(state.stretches.clone())
    .with_disks(state.disks.clone(), state.disks_unread.clone());
    let (doors, open) = watch::channel(Doors::new(&config.access, Path::new(GROUPS)));
    let callers = control_socket::serve(listener, open, tx.clone());
    let known = watch::channel(link::Pool::of(&config, state.alias_key.link_key()));
    let others = match config.link.listen {
        Some(listen) => link::serve(link::listen(listen)?, known.1, tx.clone()),
        None => link::Waiting::default(),
    };
    let given = Given { libvirt, tx, words: words_tx, callers, doors, pool: known.0, others, state, file };
    let mut executor = Executor::new(given, &config);

    let signals = |e| StartError::Runtime(e);
    let mut term = signal(SignalKind::terminate()).map_err(signals)?;
    let mut int = signal(SignalKind::interrupt()).map_err(signals)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(signals)?;
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
            _ = hang_up.recv() => {
                executor.start(Action::ReadConfig { caller: None });
                continue;
            }
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
    executor.farewell(broker.stretches_networks()).await;
    let _ = std::fs::remove_file(&config.socket);
    Ok(())
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
