//! The host's side, as the agent sees it.

use super::{Finding, fail, ok, warn};
use serde_json::Value;

/// A host that is there has answered by now.
const ANSWERS_WITHIN_S: u64 = 15;
/// Beyond these the clocks are apart.
const WARN_MS: f64 = 1000.0;
const FAIL_MS: f64 = 60_000.0;

pub(super) fn check(status: Option<&Value>) -> Vec<Finding> {
    let Some(status) = status else { return vec![] };
    let mut findings = vec![link(status)];
    let is = |key: &str| status.get(key).and_then(Value::as_bool);
    if is("connected") == Some(true) && is("enabled") == Some(false) {
        let what = "the operator has not enabled this VM: it is told about its moves, and may ask for none";
        findings.push(warn(
            "enabled",
            what,
            "ask the operator to list it in /etc/coms/broker.toml, [guests] enabled",
        ));
    }
    findings.extend(protocol(status));
    findings.extend(clocks(status));
    findings
}

fn link(status: &Value) -> Finding {
    let text = |path: &str| status.pointer(path).and_then(Value::as_str).unwrap_or("unknown");
    if status.get("connected").and_then(Value::as_bool) == Some(true) {
        return ok("host", format!("connected to {} in {}", text("/place/alias"), text("/place/region")));
    }
    let since = status.get("port_since_s").and_then(Value::as_u64).unwrap_or(u64::MAX);
    match text("/port") {
        "missing" => {
            fail("host", format!("not connected: {}", text("/port_error")), "see the check of the port")
        }
        "host-absent" => fail(
            "host",
            "not connected: nobody is at the port's other end",
            "ask the operator whether coms-broker runs on this host (comsctl guests shows this VM)",
        ),
        _ if since < ANSWERS_WITHIN_S => {
            warn("host", "not connected yet: the port was opened just now", "look again in a few seconds")
        }
        _ => fail(
            "host",
            format!("somebody may be at the port's other end, but did not say hello in {since} s"),
            "ask the operator which program has this VM's port open (it must be coms-broker), and for its log",
        ),
    }
}

fn protocol(status: &Value) -> Option<Finding> {
    let spoken = status.get("version")?.as_u64()?;
    (spoken < u64::from(coms_protocol::VERSION)).then(|| {
        let what = format!(
            "the host speaks version {spoken} of the protocol, this agent {}",
            coms_protocol::VERSION
        );
        warn(
            "protocol",
            what,
            "nothing is wrong, but what is newer is missing until the operator upgrades coms-broker",
        )
    })
}

/// The host's clock against this one, by the agent's own comparison.
fn clocks(status: &Value) -> Option<Finding> {
    let ahead = status.get("host_clock_ahead_ms")?.as_f64()?;
    let error = status.get("host_clock_error_ms")?.as_f64()?;
    let apart = ahead.abs() - error;
    let what = format!("the host's clock is {ahead} ms ahead of this one (± {error})");
    let remedy = "let NTP keep both clocks (timedatectl set-ntp true, here; the operator there)";
    if apart > FAIL_MS {
        Some(fail("host-clock", what, remedy))
    } else if apart > WARN_MS {
        Some(warn("host-clock", what, remedy))
    } else {
        Some(ok("host-clock", what))
    }
}
