//! The migration network, as the kernel shows it this moment.

use super::Finding;
use coms_broker::config::{Config, Host};
use coms_broker::io::migration_link;
use coms_broker::isolation::{LinkFacts, fault};
use std::net::IpAddr;

const CHECK: &str = "migration network";

/// Nothing, where none is configured.
pub fn link(config: &Config) -> Vec<Finding> {
    let Some(name) = &config.migration_interface else { return Vec::new() };
    let to: Vec<IpAddr> = config.peers.iter().filter_map(Host::migration_address).collect();
    match migration_link::look(name, &to) {
        Ok(facts) => judged(config, &facts),
        Err(e) => vec![Finding::fail(
            CHECK,
            format!("the kernel does not tell of {name}: {e}"),
            "ip link; the broker reads the same, and moves no VM until it can (its unit allows AF_NETLINK)",
        )],
    }
}

/// One line for each thing that is wrong, whichever hosts it concerns.
fn judged(config: &Config, facts: &LinkFacts) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for peer in &config.peers {
        let Some(to) = peer.migration_address() else { continue };
        let Some(fault) = fault(facts, to) else { continue };
        // What would be right stands in it.
        let remedy = "no VM is moved there until then (docs/migration-network.md)";
        found.push(Finding::fail(CHECK, format!("{}: {}", peer.name, fault.text(&facts.name, to)), remedy));
    }
    if found.is_empty() {
        let detail = format!("{} leads to every host, and nothing else would in its place", facts.name);
        found.push(Finding::ok(CHECK, detail));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use coms_broker::isolation::{Asked, Interface, Network, Route, Way};
    use std::path::Path;

    fn config() -> Config {
        let text = r#"
            [host]
            name = "h1"
            region = "north"
            migration_interface = "mig0"
            [[hosts]]
            name = "h2"
            region = "south"
            libvirt = "qemu+tls://h2/system"
            migrate_uri = "tcp://10.9.0.2"
        "#;
        Config::parse(Path::new("broker.toml"), text).unwrap()
    }

    fn facts(guarded: bool) -> LinkFacts {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let net = |text: &str, prefix| Network { address: ip(text), prefix };
        let eth0 = Route {
            to: net("0.0.0.0", 0),
            table: 254,
            metric: 0,
            interface: Some("eth0".into()),
            ends: false,
        };
        let guard =
            Route { to: net("10.9.0.0", 24), table: 254, metric: u32::MAX, interface: None, ends: true };
        let source = Some(ip("10.9.0.1"));
        let way = Way::Leads { interface: "mig0".into(), source, direct: true, table: 254 };
        LinkFacts {
            name: "mig0".into(),
            interface: Some(Interface { up: true, carrier: true, networks: vec![net("10.9.0.1", 24)] }),
            ways: [None, source].map(|from| Asked { to: ip("10.9.0.2"), from, way: way.clone() }).into(),
            routes: if guarded { vec![eth0, guard] } else { vec![eth0] },
        }
    }

    #[test]
    fn a_missing_guard_fails_and_says_how_to_add_it() {
        let found = judged(&config(), &facts(true));
        assert_eq!((found.len(), found[0].status), (1, Status::Ok), "{found:?}");
        let found = judged(&config(), &facts(false));
        assert_eq!((found.len(), found[0].status), (1, Status::Fail), "{found:?}");
        assert!(found[0].detail.contains("ip route add unreachable 10.9.0.0/24"), "{found:?}");
    }

    #[test]
    fn without_a_migration_network_there_is_nothing_to_say() {
        let text = "[host]\nname = \"h1\"\nregion = \"north\"\n";
        assert_eq!(link(&Config::parse(Path::new("broker.toml"), text).unwrap()), []);
    }
}
