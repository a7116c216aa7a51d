//! What plugins report, as coms-plugins hands it on: one more measurement of a workload, a wish to be elsewhere, and whom
//! the workload serves.

use super::Agent;
use crate::action::Action;
use crate::config::Probe;
use crate::event::{ClientId, Report, Sample};
use coms_protocol::session::Now;
use coms_protocol::types::Text;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

/// A wish that was not repeated for so long is none any more.
const WISH_FRESH: Duration = Duration::from_secs(60);
/// Most clients of one plugin; coms-plugins puts networks together before it reports them.
const MAX_CLIENTS: usize = 64;
/// Longer is not told apart: as a probe's longest timeout.
const MAX_TOOK: Duration = Duration::from_secs(60);

/// What plugins said that is more than a measurement.
#[derive(Debug, Default)]
pub(super) struct Plugins {
    wish: Option<(Value, Duration)>,
    /// By plugin: addresses and weights as they were said, each of them right. A list, for there are few; a map is larger.
    clients: Vec<Named>,
}

/// Whom a plugin named, and when.
#[derive(Debug)]
struct Named {
    plugin: String,
    clients: Vec<String>,
    at: Duration,
}

/// A stranger's text, as it may be told.
fn plain(text: &str) -> String {
    Text::<200>::clipped(text).as_str().to_owned()
}

/// "ADDRESS WEIGHT", the weight above 0.
fn named(text: &str) -> Option<(IpAddr, f64)> {
    let (address, weight) = text.split_once(' ')?;
    let weight = weight.parse::<f64>().ok().filter(|w| *w > 0.0 && w.is_finite())?;
    Some((address.parse().ok()?, weight))
}

impl Plugins {
    pub(super) fn wishes(&self) -> bool {
        self.wish.is_some()
    }

    /// Whom all of them serve, which may be nobody. None: no plugin says.
    pub(super) fn listed(&self) -> Option<Vec<(IpAddr, f64)>> {
        let all: Vec<_> = self.clients.iter().flat_map(|n| &n.clients).filter_map(|c| named(c)).collect();
        (!self.clients.is_empty()).then_some(all)
    }

    /// What was not said again for so long. True: something was forgotten.
    pub(super) fn forget_old_clients(&mut self, now: Duration, window: Duration) -> bool {
        let before = self.clients.len();
        self.clients.retain(|n| now < n.at + window);
        self.clients.len() < before
    }

    /// When something will be.
    pub(super) fn clients_until(&self, window: Duration) -> Option<Duration> {
        self.clients.iter().map(|n| n.at + window).min()
    }

    /// The wish, for a request that is made now. One that is too old goes without.
    pub(super) fn take_wish(&mut self, now: Duration, wanted: bool) -> Option<Value> {
        self.wish.take_if(|(_, at)| *at + WISH_FRESH < now);
        self.wish.take_if(|_| wanted).map(|(wish, _)| wish)
    }
}

impl Agent {
    pub(super) fn on_report(&mut self, now: Now, client: ClientId, report: Report) {
        let Report { plugin, took_us, failed, wish, clients } = report;
        let measured = |p: &Probe| matches!(p, Probe::Plugin(name) if *name == plugin);
        let of: Vec<_> = self.config.workloads.iter().map(|w| measured(&w.probe)).collect();
        let known = of.contains(&true);
        let sample = match (took_us, failed) {
            (_, Some(why)) => Some(Sample::Failed(plain(&why))),
            (Some(us), None) => Some(Sample::Took(Duration::from_micros(us).min(MAX_TOOK))),
            (None, None) => None,
        };
        if !known && (sample.is_some() || clients.is_some()) {
            let error =
                format!("no workload in agent.toml has probe = {{ plugin = \"{}\" }}", plain(&plugin));
            return self.refuse(client, error);
        }
        if let Some(sample) = sample {
            for index in (0..of.len()).filter(|i| of[*i]) {
                self.on_probe(now, index, &sample);
            }
        }
        if let Some(clients) = clients {
            let clients = clients.into_iter().filter(|c| named(c).is_some()).take(MAX_CLIENTS).collect();
            self.plugins.clients.retain(|n| n.plugin != plugin);
            self.plugins.clients.push(Named { plugin: plugin.clone(), clients, at: now.mono });
            self.count_anew();
        }
        if let Some(why) = wish {
            self.plugins.wish = Some((json!({ "plugin": plain(&plugin), "why": plain(&why) }), now.mono));
        }
        self.actions.push(Action::Reply { client, line: json!({ "ok": true }) });
    }

    /// After a reload: of plugins that no workload names any more nothing is kept.
    pub(super) fn forget_plugins(&mut self) {
        let workloads = &self.config.workloads;
        self.plugins.clients.retain(|n| {
            workloads.iter().any(|w| matches!(&w.probe, Probe::Plugin(name) if *name == n.plugin))
        });
    }

    /// How many clients, or networks of them, each plugin named.
    pub(super) fn clients_json(&self) -> Option<Value> {
        let clients = &self.plugins.clients;
        (!clients.is_empty())
            .then(|| clients.iter().map(|n| (n.plugin.clone(), json!(n.clients.len()))).collect())
    }
}
