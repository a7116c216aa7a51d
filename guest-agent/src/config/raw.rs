//! The file as people type it. Units are in the keys; what is left out gets its default here and nowhere else.

use super::{asked, clients, hook, random};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct Raw {
    pub port: Port,
    pub socket: Socket,
    pub state: State,
    pub events: Events,
    pub asking: Asking,
    pub wishes: Wishes,
    pub workload: Vec<Workload>,
    pub hooks: Vec<hook::Raw>,
    pub notice: asked::RawNotice,
    pub asked: Vec<asked::Raw>,
    pub random: Option<random::Raw>,
    pub clients: clients::Raw,
    pub windows: crate::calendar::Windows,
    pub encryption: Encryption,
}

#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Port {
    pub transport: Transport,
    pub path: Option<PathBuf>,
}

#[derive(Debug, Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub(super) enum Transport {
    #[default]
    Virtio,
    Serial,
    Unix,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Socket {
    pub path: PathBuf,
    pub status_group: String,
    pub change_group: String,
    pub plugins_group: String,
}

impl Default for Socket {
    fn default() -> Self {
        Self {
            path: "/run/coms/agent.sock".into(),
            status_group: "coms".into(),
            change_group: "coms-admin".into(),
            plugins_group: "coms-plugins".into(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct State {
    pub path: PathBuf,
}

impl Default for State {
    fn default() -> Self {
        Self { path: "/var/lib/coms/agent.json".into() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Events {
    pub path: PathBuf,
    pub max_mib: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self { path: "/var/log/coms/events.jsonl".into(), max_mib: 4 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asking {
    pub cooldown_s: u64,
    pub backoff_s: u64,
    pub backoff_max_s: u64,
    pub settle_s: u64,
    pub check_s: u64,
    pub ask_for_own_load: bool,
}

impl Default for Asking {
    fn default() -> Self {
        Self {
            cooldown_s: 900,
            backoff_s: 60,
            backoff_max_s: 3600,
            settle_s: 5,
            check_s: 30,
            ask_for_own_load: false,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wishes {
    pub region: Option<String>,
    pub avoid_this_host: bool,
    pub deadline_s: Option<u32>,
    pub max_downtime_ms: Option<u32>,
    pub never: Vec<String>,
}

impl Default for Wishes {
    // Asking to be moved because this host is slow, and to stay on it, would make no sense.
    fn default() -> Self {
        Self { region: None, avoid_this_host: true, deadline_s: None, max_downtime_ms: None, never: vec![] }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Encryption {
    pub moves: String,
}

impl Default for Encryption {
    fn default() -> Self {
        Self { moves: "never".into() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Workload {
    pub name: String,
    pub probe: Probe,
    #[serde(default = "one_second")]
    pub interval_ms: u64,
    #[serde(default = "five_seconds")]
    pub timeout_ms: u64,
    #[serde(default)]
    pub metric: Percentile,
    #[serde(default = "thirty")]
    pub window_s: u64,
    pub slower_than_ms: Option<f64>,
    pub slower_than_factor: Option<f64>,
    #[serde(default = "thirty")]
    pub for_s: u64,
    #[serde(default = "four_fifths")]
    pub healthy_below: f64,
    #[serde(default = "five_minutes")]
    pub learn_s: u64,
    #[serde(default = "five")]
    pub min_samples: u32,
    #[serde(default)]
    pub on_failure: OnFailure,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Probe {
    Http(String),
    Tcp(String),
    Command(Vec<String>),
    Plugin(String),
}

#[derive(Debug, Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub(super) enum Percentile {
    P50,
    #[default]
    P95,
    P99,
}

#[derive(Debug, Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnFailure {
    Ask,
    #[default]
    Ignore,
}

fn one_second() -> u64 {
    1000
}
fn five_seconds() -> u64 {
    5000
}
fn thirty() -> u64 {
    30
}
fn five_minutes() -> u64 {
    300
}
fn four_fifths() -> f64 {
    0.8
}
fn five() -> u32 {
    5
}
