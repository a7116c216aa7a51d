//! Regions, sites, and what lies between hosts: from what was typed to what may be relied on.

use super::check::{Wrong, is_name, is_region, wrong};
use super::raw::{TypedDistance, TypedLink, TypedNetwork, TypedRegion};
use super::{Distance, Host, Link, NetworkStep, Region};
use crate::network::{STRETCHED, is_bridge};
use coms_protocol::types::{Coordinates, Country};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// As many as one message can carry to a guest.
const COUNTRIES: usize = 60;
/// Far more than guests hear of.
const REGIONS: usize = 256;

pub(super) fn at_a_place(
    key: &str,
    host: &mut Host,
    site: Option<String>,
    address: Option<String>,
    link: Option<String>,
) -> Result<(), Wrong> {
    if let Some(site) = site.as_ref().filter(|s| !is_name(s)) {
        let right = "use 1 to 64 letters, digits, dots, dashes, underscores";
        return wrong(format!("{key}.site"), format!("`{}` is no name", site.escape_debug()), right);
    }
    let no_address = |text: &str| format!("`{}` is no IP address", text.escape_debug());
    host.site = site;
    host.address = match address {
        Some(text) => match text.parse::<IpAddr>() {
            Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() => Some(ip),
            Ok(_) | Err(_) => {
                let right = "write one address, as in 10.1.0.2; names are not looked up";
                return wrong(format!("{key}.address"), no_address(&text), right);
            }
        },
        None => None,
    };
    host.link = link.map(|text| socket(&format!("{key}.link"), &text)).transpose()?;
    if host.link.is_some_and(|l| l.ip().is_unspecified()) {
        let right = "write the address on which that host listens (its link.listen)";
        return wrong(format!("{key}.link"), "leads to no host", right);
    }
    Ok(())
}

fn socket(key: &str, text: &str) -> Result<SocketAddr, Wrong> {
    match text.parse::<SocketAddr>() {
        Ok(at) if at.port() != 0 => Ok(at),
        Ok(_) | Err(_) => wrong(
            key,
            format!("`{}` is no IP address with a port", text.escape_debug()),
            "write for example 10.1.0.2:7466 or [fd00::2]:7466; names are not looked up",
        ),
    }
}

pub(super) fn check_places(
    regions: Vec<TypedRegion>,
    distances: Vec<TypedDistance>,
    me: &Host,
    peers: &[Host],
) -> Result<(Vec<Region>, Vec<Distance>), Wrong> {
    if regions.len() > REGIONS {
        let what = format!("{} regions are too many", regions.len());
        return wrong("regions", what, "name at most 256; guests hear of the first 16");
    }
    let (mut names, mut of_country) = (BTreeSet::new(), BTreeSet::new());
    let mut checked = Vec::new();
    for (i, region) in regions.into_iter().enumerate() {
        let key = |key: &str| format!("regions[{i}].{key}");
        if !is_region(&region.name) {
            let right = "use 1 to 64 printable ASCII characters; guests see it";
            return wrong(key("name"), format!("`{}` is no region", region.name.escape_debug()), right);
        }
        if !names.insert(region.name.clone()) {
            return wrong(key("name"), format!("`{}` is there twice", region.name), "name each region once");
        }
        let at = coordinates(i, region.latitude, region.longitude)?;
        if region.countries.len() > COUNTRIES {
            let what = format!("{} countries are more than a guest can be told of", region.countries.len());
            return wrong(
                key("countries"),
                what,
                "list at most 60; split the region, or give it coordinates",
            );
        }
        let mut countries = Vec::new();
        for text in region.countries {
            let Some(country) = Country::new(&text) else {
                let right = "write the two letters of ISO 3166-1, as in \"FR\"";
                return wrong(key("countries"), format!("`{}` is no country", text.escape_debug()), right);
            };
            if !of_country.insert(country) {
                let what = format!("`{country}` belongs to two regions, or is there twice");
                return wrong(key("countries"), what, "list each country once");
            }
            countries.push(country);
        }
        checked.push(Region { name: region.name, at, countries });
    }
    names.extend(std::iter::once(me).chain(peers).map(|h| h.region.clone()));
    let mut pairs = BTreeSet::new();
    let mut between = Vec::new();
    for (i, TypedDistance { from, to, ms }) in distances.into_iter().enumerate() {
        let key = |key: &str| format!("distances[{i}].{key}");
        for (end, region) in [("from", &from), ("to", &to)] {
            if !names.contains(region) {
                let right = "name a region of [[regions]], or one in which a host is";
                return wrong(key(end), format!("there is no region `{}`", region.escape_debug()), right);
            }
        }
        if from == to
            || !pairs.insert([from.clone(), to.clone()])
            || pairs.contains(&[to.clone(), from.clone()])
        {
            let right = "give each two regions one distance; it holds both ways";
            return wrong(key("to"), format!("`{from}` and `{to}` are said already, or the same"), right);
        }
        if ms > 10_000 {
            let right = "write the usual round trip in milliseconds";
            return wrong(key("ms"), format!("{ms} is not between 0 and 10000"), right);
        }
        between.push(Distance { from, to, ms });
    }
    Ok((checked, between))
}

fn coordinates(
    i: usize,
    latitude: Option<f64>,
    longitude: Option<f64>,
) -> Result<Option<Coordinates>, Wrong> {
    let right = "give both, in degrees; north and east are positive";
    let (latitude, longitude) = match (latitude, longitude) {
        (None, None) => return Ok(None),
        (Some(latitude), Some(longitude)) => (latitude, longitude),
        (None, Some(_)) => return wrong(format!("regions[{i}].latitude"), "is missing", right),
        (Some(_), None) => return wrong(format!("regions[{i}].longitude"), "is missing", right),
    };
    let in_cdeg = |key: &str, degrees: f64, most: f64| {
        // Not a number is in no range.
        if (-most..=most).contains(&degrees) {
            return Ok((degrees * 100.0).round() as i16);
        }
        wrong(format!("regions[{i}].{key}"), format!("{degrees} is not between -{most} and {most}"), right)
    };
    Ok(Some(Coordinates {
        latitude_cdeg: in_cdeg("latitude", latitude, 90.0)?,
        longitude_cdeg: in_cdeg("longitude", longitude, 180.0)?,
    }))
}

impl TypedLink {
    pub(super) fn check(self) -> Result<Link, Wrong> {
        let range = |key: &str, value: u64, high: u64| {
            if (1..=high).contains(&value) {
                return Ok(value);
            }
            let what = format!("{value} is not between 1 and {high}");
            wrong(format!("link.{key}"), what, "take a value in that range")
        };
        Ok(Link {
            listen: self.listen.map(|text| socket("link.listen", &text)).transpose()?,
            max_rtt_ms: range("max_rtt_ms", self.max_rtt_ms, 10_000)?,
            min_rate_mib_s: range("min_rate_mib_s", self.min_rate_mib_s, 100_000)?,
        })
    }
}

impl TypedNetwork {
    pub(super) fn check(self) -> Result<Option<NetworkStep>, Wrong> {
        if !(1..=600).contains(&self.timeout_s) {
            let what = format!("{} is not between 1 and 600", self.timeout_s);
            return wrong("network.timeout_s", what, "take a value in that range; 30 is usual");
        }
        if !(5..=86_400).contains(&self.release_after_s) {
            let what = format!("{} is not between 5 and 86400", self.release_after_s);
            return wrong("network.release_after_s", what, "take a value in that range; 60 is usual");
        }
        let Some(program) = self.step.first() else { return Ok(None) };
        if !program.starts_with('/') || self.step.iter().any(|part| part.contains('\0')) {
            return wrong(
                "network.step",
                format!("`{}` is no absolute path", program.escape_debug()),
                "write [\"/usr/libexec/coms/stretch-vxlan\"], or your own command (docs/network-step.md)",
            );
        }
        if self.bridges.is_empty() {
            let right =
                "name the bridges that VMs are plugged into, as in [\"br0\"]; no other one is stretched";
            return wrong("network.bridges", "is not set, and network.step is", right);
        }
        if let Some(no) = self.bridges.iter().find(|b| !is_bridge(b)) {
            let right = "use 1 to 15 letters, digits, dots, dashes, underscores";
            return wrong("network.bridges", format!("`{}` is no bridge", no.escape_debug()), right);
        }
        if self.bridges.len() > STRETCHED {
            let what = format!("names {} bridges", self.bridges.len());
            return wrong("network.bridges", what, "at most 16: brokers tell each other of no more");
        }
        Ok(Some(NetworkStep {
            command: self.step,
            bridges: self.bridges,
            one_per_site: self.one_per_site,
            timeout: Duration::from_secs(self.timeout_s),
            release_after: Duration::from_secs(self.release_after_s),
        }))
    }
}

/// With a step both ends of each way between two sites must be known.
pub(super) fn check_step(step: Option<&NetworkStep>, me: &Host, peers: &[Host]) -> Result<(), Wrong> {
    if step.is_none() {
        return Ok(());
    }
    for (i, peer) in peers.iter().enumerate().filter(|(_, p)| p.site != me.site) {
        if me.link.is_none() {
            let right = "set it, so that the other site's broker can have this end made";
            return wrong(
                "link.listen",
                format!("is not set, and `{}` is at another site", peer.name),
                right,
            );
        }
        if me.tunnel().is_none() {
            let right = "write this host's address that the other sites reach";
            return wrong("host.address", "is not set, and link.listen names no single address", right);
        }
        if peer.link.is_none() {
            let what = format!("is not set, and `{}` is at another site", peer.name);
            return wrong(format!("hosts[{i}].link"), what, "write that host's link.listen");
        }
    }
    Ok(())
}
