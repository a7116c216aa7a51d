//! Runs one plugin, of whichever kind, and says what it said.

use super::keeper::Keeper;
use super::{check, execd, scrape, statsd};
use crate::config::{Kind, Plugin};
use crate::decide::desk::Event;
use crate::reading::Reading;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// What a runner needs.
pub struct Of {
    /// Its place in the configuration.
    pub index: usize,
    /// What it runs.
    pub plugin: Plugin,
    /// Where it says so.
    pub to: mpsc::Sender<(usize, Event)>,
    /// Lines for its standard input.
    pub inbox: mpsc::Receiver<String>,
    /// True: end.
    pub stop: watch::Receiver<bool>,
    /// How long it may take to end.
    pub stop_within: Duration,
    /// As whom.
    pub run_as: RunAs,
    /// Who keeps its processes.
    pub keeper: Arc<Keeper>,
}

pub use super::process::As as RunAs;

impl Of {
    pub(super) async fn say(&self, event: Event) {
        // Nobody listens any more: it is about to be ended.
        let _ = self.to.send((self.index, event)).await;
    }

    pub(super) async fn reading(&self, reading: Reading) {
        self.say(Event::Reading(reading)).await;
    }
}

/// Until it is told to stop.
pub async fn run(mut of: Of) {
    match of.plugin.kind.clone() {
        Kind::Nagios(check) => check::run(&mut of, &check).await,
        Kind::Execd(execd) => execd::run(&mut of, &execd).await,
        Kind::OpenMetrics(scrape) => scrape::run(&mut of, &scrape).await,
        Kind::StatsD(statsd) => statsd::run(&mut of, &statsd).await,
    }
}

/// Ends when the other end says so, or is gone.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
