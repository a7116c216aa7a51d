//! Who the clients are and where they must be for the agent to ask, as the customer wants it.

use super::check::{Checked, bad, between};
use coms_protocol::types::{Country, Text};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// As many as the host tells of its own.
const MAX_REGIONS: usize = 16;
const MAX_LISTED: usize = 64;
const DAY_S: u64 = 86_400;

/// Where clients are found, and when that is a reason to ask.
#[derive(Debug, Clone, PartialEq)]
pub struct Clients {
    /// Which address is in which country.
    pub database: PathBuf,
    /// Local ports that count. None: all that listen.
    pub ports: Vec<u16>,
    /// Peers here are no clients.
    pub leave_out: Vec<IpNetwork>,
    /// From one look at the connections to the next.
    pub sample: Duration,
    /// Shares are those of the last so long.
    pub window: Duration,
    /// A region must have this share, of the traffic and of the clients ...
    pub majority: f64,
    /// ... and so much more of both than the region where the VM is ...
    pub lead: f64,
    /// ... of at least so many clients whose place is known ...
    pub min_clients: u32,
    /// ... for so long.
    pub hold: Duration,
    /// Whether that is a reason to ask. If not, it is only shown.
    pub may_ask: bool,
    /// Also those that the kernel's list is too slow for, by their first and last packets.
    pub capture: bool,
    /// And exchanges over UDP with `ports`.
    pub capture_udp: bool,
    /// The customer's own lists of countries, by region.
    pub regions: Vec<(String, Vec<Country>)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    database: Option<PathBuf>,
    ports: Vec<u16>,
    leave_out: Vec<String>,
    sample_s: u64,
    window_s: u64,
    majority: f64,
    lead: f64,
    min_clients: u32,
    for_s: u64,
    may_ask: bool,
    capture: bool,
    capture_udp: bool,
    regions: BTreeMap<String, Vec<String>>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            database: None,
            ports: Vec::new(),
            leave_out: Vec::new(),
            sample_s: 5,
            window_s: 600,
            majority: 0.6,
            lead: 0.2,
            min_clients: 20,
            for_s: 1800,
            may_ask: true,
            capture: false,
            capture_udp: false,
            regions: BTreeMap::new(),
        }
    }
}

/// None: no database, so nothing is counted.
pub(super) fn checked(raw: Raw) -> Checked<Option<Clients>> {
    for (key, list) in [("clients.ports", raw.ports.len()), ("clients.leave_out", raw.leave_out.len())] {
        if list > MAX_LISTED {
            return bad(key, format!("has {list} entries; at most {MAX_LISTED}"));
        }
    }
    if raw.ports.contains(&0) {
        return bad("clients.ports", "has 0; must be ports from 1 to 65535");
    }
    if raw.capture_udp && !raw.capture {
        return bad("clients.capture_udp", "is true and capture is not; set capture = true as well");
    }
    if raw.capture_udp && raw.ports.is_empty() {
        return bad("clients.capture_udp", "needs ports: over UDP nothing says which ones clients come to");
    }
    if !(0.5..=1.0).contains(&raw.majority) {
        return bad("clients.majority", format!("is {}; must be a share from 0.5 to 1", raw.majority));
    }
    if !(0.0..=1.0).contains(&raw.lead) {
        return bad("clients.lead", format!("is {}; must be a share from 0 to 1", raw.lead));
    }
    let sample_s = between("clients.sample_s", raw.sample_s, 1, 60)?;
    let window_s = between("clients.window_s", raw.window_s, 6 * sample_s, DAY_S)?;
    let min_clients = between("clients.min_clients", raw.min_clients.into(), 1, 1_000_000)?;
    let hold_s = between("clients.for_s", raw.for_s, 0, 30 * DAY_S)?;
    let leave_out = raw.leave_out.iter().map(|n| network(n)).collect::<Checked<_>>()?;
    let regions = regions(raw.regions)?;
    let Some(database) = raw.database else { return Ok(None) };
    if !database.is_absolute() {
        let what = format!("is \"{}\"; must be a whole path, beginning with /", database.display());
        return bad("clients.database", what);
    }
    Ok(Some(Clients {
        database,
        ports: raw.ports,
        leave_out,
        sample: Duration::from_secs(sample_s),
        window: Duration::from_secs(window_s),
        majority: raw.majority,
        lead: raw.lead,
        min_clients: u32::try_from(min_clients).unwrap_or(u32::MAX),
        hold: Duration::from_secs(hold_s),
        may_ask: raw.may_ask,
        capture: raw.capture,
        capture_udp: raw.capture_udp,
        regions,
    }))
}

fn network(text: &str) -> Checked<IpNetwork> {
    text.parse().or_else(|_| {
        let shown = text.escape_debug();
        bad(
            "clients.leave_out",
            format!("has \"{shown}\"; must be networks like 198.51.100.0/24 or 2001:db8::/32"),
        )
    })
}

fn regions(raw: BTreeMap<String, Vec<String>>) -> Checked<Vec<(String, Vec<Country>)>> {
    if raw.len() > MAX_REGIONS {
        return bad("clients.regions", format!("has {} regions; at most {MAX_REGIONS}", raw.len()));
    }
    let mut regions: Vec<(String, Vec<Country>)> = Vec::new();
    for (name, listed) in raw {
        if name.is_empty() || Text::<64>::clipped(&name).as_str() != name {
            let what = "a region's name must be 1 to 64 bytes of text without control characters";
            return bad("clients.regions", what);
        }
        let mut countries = Vec::new();
        for letters in &listed {
            let Some(country) = Country::new(letters) else {
                let what = format!(
                    "\"{name}\" has \"{}\"; must be a country's two letters, like \"FR\"",
                    letters.escape_debug()
                );
                return bad("clients.regions", what);
            };
            if let Some((other, _)) = regions.iter().find(|(_, known)| known.contains(&country)) {
                let what = format!("{country} is in \"{other}\" and in \"{name}\"; must be in one of them");
                return bad("clients.regions", what);
            }
            countries.push(country);
        }
        regions.push((name, countries));
    }
    Ok(regions)
}
