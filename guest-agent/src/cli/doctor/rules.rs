//! The configuration: can it be read, was it taken up, and can its rules ever fire.

use super::{Finding, fail, ok, warn};
use coms_agent::config::{Config, ConfigError, Probe, Workload};
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

pub(super) fn file(path: &Path, read: &Result<Config, ConfigError>) -> Finding {
    let config = match read {
        Ok(config) => config,
        Err(e) => return fail("config", e.to_string(), "mend the file, then: coms-agent --check"),
    };
    let what = format!("{} workloads, {} hooks", config.workloads.len(), config.hooks.len());
    let Ok(meta) = path.metadata() else {
        return ok("config", format!("{} does not exist: defaults, {what}", path.display()));
    };
    if meta.mode() & 0o022 != 0 {
        let who = format!(
            "{}: others than its owner can write it, and so choose what runs as the agent",
            path.display()
        );
        return warn("config", who, format!("chmod go-w {}", path.display()));
    }
    ok("config", format!("{}: {what}", path.display()))
}

/// Whether the daemon has read the file as it is now.
pub(super) fn changed(path: &Path, status: Option<&Value>) -> Option<Finding> {
    let loaded = status?.get("config_loaded_unix_ms")?.as_u64()?;
    let written = path.metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    (written > Duration::from_millis(loaded) + Duration::from_secs(1)).then(|| {
        let what = format!("{} was changed after the agent read it", path.display());
        warn("config-taken-up", what, "systemctl reload coms-agent")
    })
}

pub(super) fn check(config: &Config, status: Option<&Value>) -> Vec<Finding> {
    config.workloads.iter().filter_map(|w| rule(w, status)).collect()
}

/// Why a workload's rule can never fire, if so.
fn rule(w: &Workload, status: Option<&Value>) -> Option<Finding> {
    let check = format!("rule {}", w.name);
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    if w.rule.slower_than.is_none() && w.rule.slower_than_factor.is_none() {
        if w.rule.ask_on_failure {
            return None;
        }
        let what = "it has no limit, so it is shown and never a reason to ask";
        return Some(warn(check, what, "set slower_than_factor or slower_than_ms, or on_failure = \"ask\""));
    }
    // The limit as it stands: the file's, or the one that the agent has learned.
    let learned = status
        .and_then(|s| s.get("workloads")?.as_array()?.iter().find(|v| v["workload"] == w.name.as_str()))
        .and_then(|v| v["threshold_ms"].as_f64());
    let limit_ms = learned.or(w.rule.slower_than.map(ms))?;
    if limit_ms >= ms(w.timeout) {
        let what = format!(
            "it can never be slow: the limit is {limit_ms} ms, but a probe beyond timeout_ms = {} has failed, and failed ones have no latency",
            ms(w.timeout)
        );
        return Some(fail(check, what, "make timeout_ms larger than the limit, or the limit smaller"));
    }
    // A probe longer than its interval makes the next ones fall out.
    let each_ms = (limit_ms / ms(w.interval)).ceil().max(1.0) * ms(w.interval);
    let fit = (ms(w.rule.window) / each_ms).floor();
    if fit < f64::from(w.rule.min_samples) {
        let what = format!(
            "it can never be slow: probes at its limit of {limit_ms} ms fit {fit} times into window_s = {}, but min_samples = {}",
            w.rule.window.as_secs(),
            w.rule.min_samples
        );
        return Some(fail(check, what, "make window_s larger, or min_samples smaller"));
    }
    match &w.probe {
        Probe::Command(_) if limit_ms < 1.0 => Some(warn(
            check,
            format!("its limit of {limit_ms} ms is less than it takes to start a program"),
            "make the limit larger, or use an http or tcp probe",
        )),
        Probe::Command(_) | Probe::Http(_) | Probe::Tcp(_) | Probe::Plugin(_) => None,
    }
}
