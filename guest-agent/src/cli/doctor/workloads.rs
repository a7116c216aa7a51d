//! Each workload is measured once, now, from here.

use super::{Finding, fail, ok, warn};
use coms_agent::config::{Config, Probe, Workload};
use coms_agent::event::Sample;
use coms_agent::io::probes::measure;
use serde_json::Value;

pub(super) fn check(config: &Config, status: Option<&Value>) -> Vec<Finding> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return vec![warn("workloads", format!("cannot be measured: {e}"), "try again")],
    };
    let one = |w: &Workload| match &w.probe {
        Probe::Plugin(name) => reported(w, name, status),
        Probe::Http(_) | Probe::Tcp(_) | Probe::Command(_) => {
            judge(w, &runtime.block_on(measure(&w.probe, w.timeout)), status)
        }
    };
    config.workloads.iter().map(one).collect()
}

/// Nothing to run here: what counts is whether reports arrive.
fn reported(w: &Workload, plugin: &str, status: Option<&Value>) -> Finding {
    let check = format!("workload {}", w.name);
    let seen = status
        .and_then(|s| s.get("workloads")?.as_array()?.iter().find(|v| v["workload"] == w.name.as_str()))
        .map(|v| v["samples"].as_u64().unwrap_or(0) + v["failures"].as_u64().unwrap_or(0));
    match seen {
        None => warn(check, format!("plugin {plugin}: not known without the daemon"), "start coms-agent"),
        Some(0) => fail(
            check,
            format!("nothing came from plugin {plugin} within window_s"),
            "systemctl status coms-plugins; coms plugin list; coms plugin test NAME",
        ),
        Some(n) => ok(check, format!("plugin {plugin} reported {n} times within window_s")),
    }
}

pub(super) fn judge(w: &Workload, sample: &Sample, status: Option<&Value>) -> Finding {
    let check = format!("workload {}", w.name);
    let daemon = status
        .and_then(|s| s.get("workloads")?.as_array()?.iter().find(|v| v["workload"] == w.name.as_str()))
        .and_then(|v| v["state"].as_str());
    match sample {
        Sample::Took(_) if daemon == Some("failing") => fail(
            check,
            "its probe works from here, but fails for the agent",
            "the unit allows less than a shell: no home directories, a /tmp of its own, no devices; see the journal of coms-agent",
        ),
        Sample::Took(took) => {
            let seen = daemon.map(|state| format!("; the agent sees it {state}")).unwrap_or_default();
            ok(check, format!("its probe took {:.1} ms{seen}", took.as_secs_f64() * 1000.0))
        }
        Sample::Failed(why) => {
            let remedy = match &w.probe {
                Probe::Http(_) | Probe::Tcp(_) => "does it run, and is the address of the probe right?",
                Probe::Command(_) => "run the command by hand, and look at its exit code",
                Probe::Plugin(_) => "coms plugin test NAME",
            };
            fail(check, format!("its probe fails now: {why}"), remedy)
        }
    }
}
