//! The one loop: plugins and the agent speak, [`Desk`] decides, and what it says goes out.

use super::asked::{self, Registered, Told};
use super::feed::{self, Link};
use super::keeper::Keeper;
use super::runner::{self, Of, RunAs};
use super::{control, now};
use crate::config::{Config, ConfigError, Kind};
use crate::decide::Desk;
use crate::decide::ask::{self, Said};
use crate::decide::desk::Event;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{error, info, warn};

/// What may wait on each way; more is thrown away, or waited with.
const WAITING: usize = 64;
const SWEEP: Duration = Duration::from_secs(1);

/// Why it cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket of `coms plugin list` cannot be had.
    #[error("{}: cannot listen: {source}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process cannot be told to end.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
}

/// Runs until SIGTERM or SIGINT. At SIGHUP it reads `file` again.
pub async fn run(mut config: Config, file: Option<PathBuf>) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(StartError::Signals)?;
    let listener = control::listen(&config.control, &config.control_group)
        .map_err(|source| StartError::Socket { path: config.control.clone(), source })?;
    let keeper = Arc::new(Keeper::new());
    let mut life = Life::begin(&config, &keeper);
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            Some((index, event)) = life.events.recv() => life.event(index, event),
            Some((index, refusal)) = life.answers.recv() => life.desk.answered(index, refusal),
            Some(told) = life.told.recv() => life.told(told),
            Ok((stream, _)) = listener.accept() => control::tell(stream, &life.status()),
            _ = sweep.tick() => keeper.sweep(),
            _ = hang_up.recv() => match reload(&config, file.as_deref()) {
                Ok(new) => {
                    life.end(&config).await;
                    config = new;
                    life = Life::begin(&config, &keeper);
                    info!("the configuration is taken up");
                }
                Err(why) => error!("the configuration is refused, the old one stays: {why}"),
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    info!("ending");
    life.end(&config).await;
    keeper.sweep_out(Duration::from_secs(1)).await;
    let _ = std::fs::remove_file(&config.control);
    Ok(())
}

fn reload(old: &Config, file: Option<&Path>) -> Result<Config, ConfigError> {
    let new = Config::load_or_defaults(file)?;
    if (&new.control, &new.control_group) != (&old.control, &old.control_group) {
        warn!("[control] needs a restart");
    }
    Ok(Config { control: old.control.clone(), control_group: old.control_group.clone(), ..new })
}

/// All that runs by one configuration.
struct Life {
    desk: Desk,
    link: Link,
    reports: mpsc::Sender<feed::Report>,
    events: mpsc::Receiver<(usize, Event)>,
    answers: mpsc::Receiver<feed::Answer>,
    told: mpsc::Receiver<Told>,
    inboxes: Vec<mpsc::Sender<String>>,
    words: BTreeMap<usize, mpsc::Sender<Value>>,
    stop: watch::Sender<bool>,
    runners: JoinSet<()>,
    /// Ends with it.
    _links: JoinSet<()>,
}

impl Life {
    fn begin(config: &Config, keeper: &Arc<Keeper>) -> Self {
        let (to, events) = mpsc::channel(WAITING);
        let (reports, reported) = mpsc::channel(WAITING);
        let (answered, answers) = mpsc::channel(WAITING);
        let (tell, told) = mpsc::channel(WAITING);
        let (stop, stopped) = watch::channel(false);
        let link: Link = Arc::new(Mutex::new("not connected yet".to_owned()));
        let (mut runners, mut links) = (JoinSet::new(), JoinSet::new());
        links.spawn(feed::run(config.agent.clone(), reported, answered, Arc::clone(&link)));
        let (mut inboxes, mut words) = (Vec::new(), BTreeMap::new());
        for (index, plugin) in config.plugins.iter().enumerate() {
            let (lines, inbox) = mpsc::channel(WAITING);
            inboxes.push(lines);
            if let Kind::Execd(e) = &plugin.kind
                && (e.notices || e.hold_s > 0)
            {
                let (say, said) = mpsc::channel(WAITING);
                words.insert(index, say);
                let notice_s = ask::notice_s(e.notice_s, e.hold_s);
                let who = Registered { index, name: plugin.name.clone(), notice_s, hold_s: e.hold_s };
                links.spawn(asked::run(config.agent.clone(), who, said, tell.clone()));
            }
            runners.spawn(runner::run(Of {
                index,
                plugin: plugin.clone(),
                to: to.clone(),
                inbox,
                stop: stopped.clone(),
                stop_within: config.stop,
                run_as: RunAs::Configured,
                keeper: Arc::clone(keeper),
            }));
        }
        info!("{} runs {} plugins", crate::PROGRAM, config.plugins.len());
        let desk = Desk::new(config, now());
        Self { desk, link, reports, events, answers, told, inboxes, words, stop, runners, _links: links }
    }

    /// Everybody is told at once, and killed when that did not help.
    async fn end(&mut self, config: &Config) {
        self.stop.send_replace(true);
        let all = async { while self.runners.join_next().await.is_some() {} };
        let drained = async {
            // Whoever has a last word must not wait for room.
            while self.events.recv().await.is_some() {}
        };
        let both = async { tokio::join!(all, drained) };
        if timeout(config.stop + Duration::from_secs(1), both).await.is_err() {
            self.runners.abort_all();
        }
    }

    fn event(&mut self, index: usize, event: Event) {
        let (report, said) = self.desk.handle(now(), index, event);
        if let Some(report) = report
            && self.reports.try_send((index, report)).is_err()
        {
            self.desk.answered(index, Some("the agent is too slow, or not there".to_owned()));
        }
        self.say(index, said);
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::Line(index, line) => {
                let said = self.desk.hears(index, &line);
                self.say(index, said);
            }
            Told::Lost(index) => self.desk.lost(index),
        }
    }

    /// Nobody is waited for: a plugin that does not read misses what is said.
    fn say(&self, index: usize, said: Said) {
        for word in said.agent {
            if let Some(words) = self.words.get(&index) {
                let _ = words.try_send(word);
            }
        }
        if let Some((line, inbox)) = said.plugin.zip(self.inboxes.get(index)) {
            let _ = inbox.try_send(line.to_string());
        }
    }

    fn status(&self) -> Value {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.desk.status(now(), &link)
    }
}
