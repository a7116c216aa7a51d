//! Who the clients are: from a connection to its counted region, beside the bare look-up of its address.
//!
//! On the real database of countries that tests/setup.sh fetches, with addresses drawn from all that it places. No guest
//! and no host takes part.

use crate::report::Finding;
use crate::stats::percentile;
use coms_agent::config::Config;
use coms_agent::decide::clients::count::{Counter, Flow, MAX_CLIENTS};
use coms_agent::decide::clients::place::Regions;
use coms_agent::io::geo::Geo;
use coms_story::Result;
use maxminddb::{PathElement, Reader};
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use std::hash::RandomState;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

/// Turns of each side, and clients in each: no more than are told apart, or those left out would make it look fast.
const TURNS: usize = 60;
const CLIENTS: usize = MAX_CLIENTS / 2;

pub fn run() -> Result<(Value, Vec<Finding>)> {
    let file = coms_lab::workspace_root().join("target/lab-cache/geo/geo-whois-asn-country.mmdb");
    let bytes = std::fs::read(&file).map_err(|e| format!("{}: {e}; run tests/setup.sh", file.display()))?;
    let geo = Geo::new(bytes.clone())?;
    let reader = Reader::from_source(bytes)?;
    let text = format!(
        "[clients]\ndatabase = \"{}\"\n[clients.regions]\nwest = [\"FR\", \"GB\", \"IE\"]\nnorth = [\"SE\", \"FI\", \"NO\"]\n",
        file.display()
    );
    let config = Config::parse(&text, Path::new("bench"))?.clients.ok_or("no clients to count")?;
    let regions = Regions::new(&config.regions, &[]);

    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let mut draw = || loop {
        let address = Ipv4Addr::from(random.random::<u32>());
        if is_routed(address) && geo.locate(address.into()).country.is_some() {
            return IpAddr::V4(address);
        }
    };
    let (mut bare, mut new, mut known) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let flows: Vec<Flow> = (1..)
            .take(CLIENTS)
            .map(|cookie| {
                let own = IpAddr::from([193, 0, 0, 1]);
                Flow { peer: draw(), own, cookie, acked: 10_000, received: 500, rtt_us: Some(20_000) }
            })
            .collect();
        bare.push(per_s(&flows, |flow| {
            let found = reader.lookup(flow.peer).ok();
            let country = [PathElement::Key("country_code")];
            black_box(found.and_then(|f| f.decode_path::<&str>(&country).ok().flatten().map(str::len)));
        }));
        let mut counter = Counter::new(&config, regions.clone(), RandomState::new());
        counter.begin(Duration::ZERO);
        counter.end();
        for (samples, at, more) in [(&mut new, 5, 0), (&mut known, 10, 5000)] {
            counter.begin(Duration::from_secs(at));
            samples.push(per_s(&flows, |flow| {
                counter.see(&Flow { acked: flow.acked + more, ..*flow }, |address| geo.locate(address));
            }));
            let look = counter.end();
            if look.flows != CLIENTS as u64 || look.one_of != 1 || look.unplaced.clients != 0 {
                return Err(format!("turn {turn}: not all were counted: {look:?}").into());
            }
        }
    }
    let raw = json!({ "bare": bare, "new": new, "known": known });
    let [bare, new, known] = [&bare, &new, &known].map(|samples| percentile(samples, 0.5));
    let finding = |name, what, value: f64| {
        Finding::plain(name, what, "per s", "p50", value)
            .of(TURNS, value)
            .detail("beside_bare", value / bare)
            .detail("clients_per_turn", CLIENTS)
    };
    Ok((
        raw,
        vec![
            finding("geo-bare", "bare look-ups of an address's country (maxminddb)", bare),
            finding(
                "geo-new",
                "connections of clients not seen before, from connection to counted region",
                new,
            ),
            finding("geo-known", "connections of known clients that carried more, counted", known),
        ],
    ))
}

/// The database places some others, too; they are no clients.
fn is_routed(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    !(address.is_private() || address.is_link_local() || shared || matches!(a, 0 | 127 | 224..))
}

fn per_s(flows: &[Flow], mut each: impl FnMut(&Flow)) -> f64 {
    let begun = Instant::now();
    flows.iter().for_each(&mut each);
    flows.len() as f64 / begun.elapsed().as_secs_f64()
}
