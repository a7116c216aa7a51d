//! The counting of clients: is there a database that can be used, are there regions to sort them into, and can the rule
//! ever ask.

use super::{Finding, fail, ok, under, warn};
use coms_agent::config::{Clients, Config};
use coms_agent::io::geo::Geo;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// A round trip needs so many looks after a move to be compared.
const LOOKS: u32 = 3;

/// `root`: as the daemon sees it.
pub(super) fn check(root: &Path, config: &Config, status: Option<&Value>) -> Vec<Finding> {
    let Some(clients) = &config.clients else { return vec![] };
    let following = status.and_then(|s| s.get("following"));
    let mut findings = vec![database(root, clients)];
    findings.extend(regions(clients, following));
    findings.extend(seen(clients, following));
    if config.asking.check < clients.sample * LOOKS {
        let what = format!(
            "asking.check_s = {} is too short for {LOOKS} looks of clients.sample_s = {}: what a move did for the clients' \
             round trips will be unknown",
            config.asking.check.as_secs(),
            clients.sample.as_secs()
        );
        findings.push(warn(
            "clients-effect",
            what,
            "make asking.check_s larger, or clients.sample_s smaller",
        ));
    }
    findings
}

fn database(root: &Path, clients: &Clients) -> Finding {
    let shown = clients.database.display();
    match Geo::open(&under(root, &clients.database)) {
        Ok(geo) => ok("clients-database", format!("{shown}: {}", geo.what())),
        Err(e) => fail(
            "clients-database",
            format!("{shown}: {e}"),
            "put a database of countries there that the agent's user can read; docs/geolocation.md names a free one",
        ),
    }
}

/// Without any region no client is in one.
fn regions(clients: &Clients, following: Option<&Value>) -> Option<Finding> {
    let known = following.and_then(|f| f["known_regions"].as_u64());
    let none = clients.regions.is_empty() && known.is_none_or(|n| n == 0);
    (none && following.is_some()).then(|| {
        let what = "the operator tells of no regions, and [clients] regions lists none: the clients can be in none, and the \
                    rule never asks";
        warn("clients-regions", what, "list countries in [clients] regions, by the operator's names; or ask the operator")
    })
}

/// What the daemon itself complains of.
fn seen(clients: &Clients, following: Option<&Value>) -> Option<Finding> {
    if let Some(why) = following?.get("capture_error").and_then(Value::as_str) {
        let remedy = "add the lines that agent.toml shows at capture, by systemctl edit coms-agent; or set capture = false";
        return Some(fail("clients-capture", why, remedy));
    }
    let trouble = following?.get("trouble")?.as_str()?;
    let remedy = "the kernel must have tcp_diag (modprobe tcp_diag), and the unit allow AF_NETLINK (RestrictAddressFamilies)";
    let looks = clients.sample.max(Duration::from_secs(1)).as_secs();
    Some(fail("clients-seen", format!("{trouble} (tried every {looks} s)"), remedy))
}
