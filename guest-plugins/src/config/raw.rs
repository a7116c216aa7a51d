//! The file as people type it. Units are in the keys; what is left out gets its default here and nowhere else.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub agent: Agent,
    pub control: Control,
    pub run: Run,
    pub plugin: Vec<Plugin>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Agent {
    pub socket: PathBuf,
}

impl Default for Agent {
    fn default() -> Self {
        Self { socket: "/run/coms/agent.sock".into() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Control {
    pub socket: PathBuf,
    pub group: String,
}

impl Default for Control {
    fn default() -> Self {
        Self { socket: "/run/coms-plugins/plugins.sock".into(), group: "coms".into() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Run {
    pub user: String,
    pub stop_s: u64,
}

impl Default for Run {
    fn default() -> Self {
        Self { user: "coms-probe".into(), stop_s: 2 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Nagios,
    Execd,
    OpenMetrics,
    StatsD,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Measure {
    #[default]
    Latency,
    Throughput,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Signal {
    #[default]
    None,
    Stdin,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plugin {
    pub name: String,
    pub kind: Kind,
    #[serde(default)]
    pub measure: Measure,
    pub max_errors_permille: Option<u32>,
    #[serde(default = "interval_ms")]
    pub interval_ms: u64,

    // nagios, openmetrics
    pub timeout_ms: Option<u64>,

    // nagios, execd
    pub command: Option<Vec<String>>,
    pub user: Option<String>,
    pub env: Option<BTreeMap<String, String>>,
    pub memory_mib: Option<u64>,
    pub processes: Option<u64>,

    // nagios, openmetrics, statsd
    pub latency: Option<String>,
    pub throughput: Option<String>,
    pub requests: Option<String>,
    pub errors: Option<String>,

    // execd
    pub may_wish: Option<bool>,
    pub signal: Option<Signal>,
    pub notices: Option<bool>,
    pub notice_s: Option<u64>,
    pub hold_s: Option<u64>,

    // openmetrics, statsd
    pub quantile: Option<f64>,

    // openmetrics
    pub url: Option<String>,
    pub labels: Option<BTreeMap<String, String>>,
    pub unit: Option<String>,

    // statsd
    pub listen: Option<String>,
}

fn interval_ms() -> u64 {
    5000
}
