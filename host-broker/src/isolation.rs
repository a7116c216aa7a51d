//! The migration network: memory and disks leave this host by one interface, or not at all.
//!
//! What the kernel shows of it ([`LinkFacts`], read by `io/migration_link.rs`) and what that means ([`fault`]; pure).
//! While the interface is down its own route is gone, and the kernel takes the next best one: so it is asked beforehand
//! what that would be. A *guard*, a route of the kind `unreachable` with the worst metric, is the only good answer.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// The routing table that is meant where none is named.
const MAIN: u32 = 254;

/// What the kernel shows at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFacts {
    /// The interface's name.
    pub name: String,
    /// None: there is no such interface.
    pub interface: Option<Interface>,
    /// By which way the kernel would reach these addresses now.
    pub ways: Vec<Asked>,
    /// All routes of all tables.
    pub routes: Vec<Route>,
}

/// The interface itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The operator's side of it: IFF_UP.
    pub up: bool,
    /// The cable's side of it.
    pub carrier: bool,
    pub networks: Vec<Network>,
}

/// An address with the length of its prefix in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Network {
    pub fn covers(&self, address: IpAddr) -> bool {
        // A prefix of 0 shifts by the whole width, which leaves nothing to compare.
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(one)) => {
                let differ = net.to_bits() ^ one.to_bits();
                differ.checked_shr(32_u32.saturating_sub(self.prefix.into())).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(one)) => {
                let differ = net.to_bits() ^ one.to_bits();
                differ.checked_shr(128_u32.saturating_sub(self.prefix.into())).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Its first address and its length, as `ip route` writes it.
    fn text(&self) -> String {
        let kept = |width: u32| width.saturating_sub(self.prefix.into());
        let first: IpAddr = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(kept(32)).unwrap_or(0);
                std::net::Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(kept(128)).unwrap_or(0);
                std::net::Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        };
        format!("{first}/{}", self.prefix)
    }
}

/// A question to the kernel with its answer. Rules may send elsewhere what has a source, so each address is asked for twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub to: IpAddr,
    /// None: as a connection is begun. Else as its packets are sent, with the source that it got.
    pub from: Option<IpAddr>,
    pub way: Way,
}

/// The kernel's answer to `ip route get`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Packets leave by this interface ...
    Leads {
        interface: String,
        /// ... with this source address ...
        source: Option<IpAddr>,
        /// ... to nobody in between ...
        direct: bool,
        /// ... by this routing table.
        table: u32,
    },
    /// No packet leaves; in the kernel's words.
    None(String),
}

/// One route of the kernel's tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub to: Network,
    pub table: u32,
    /// Of two routes to the same network the lower one is taken.
    pub metric: u32,
    /// None: it has none (it ends here), or several.
    pub interface: Option<String>,
    /// Packets go no further: unreachable, prohibit or blackhole.
    pub ends: bool,
}

/// Why nothing may be sent to an address of the migration network now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nobody has looked, or the kernel did not tell.
    Unknown {
        why: String,
    },
    Missing,
    Down,
    NoCarrier,
    /// The interface has no address in the network of that one.
    OtherNetwork,
    /// The address is this host's own.
    Own,
    NoWay {
        from: Option<IpAddr>,
        why: String,
    },
    /// The kernel sends elsewhere.
    Elsewhere {
        from: Option<IpAddr>,
        by: String,
    },
    /// There is no guard: once the interface is down, the kernel sends by this.
    Unguarded {
        by: String,
        network: String,
        /// Where the guard is to be.
        table: u32,
    },
}

impl Fault {
    /// Whatever is on its way stops arriving, or arrives elsewhere. A guard that is missing harms nobody yet.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Unknown { .. }
            | Self::Missing
            | Self::Down
            | Self::NoCarrier
            | Self::OtherNetwork
            | Self::Own
            | Self::NoWay { .. }
            | Self::Elsewhere { .. } => true,
            Self::Unguarded { .. } => false,
        }
    }

    /// For the operator: what is wrong, and what would be right.
    pub fn text(&self, name: &str, to: IpAddr) -> String {
        let pair = |from: &Option<IpAddr>| from.map_or(to.to_string(), |from| format!("{to} from {from}"));
        match self {
            Self::Unknown { why } => format!("it is not known whether {name} leads to {to}: {why}"),
            Self::Missing => {
                format!("there is no interface {name}; make it, or correct host.migration_interface")
            }
            Self::Down => format!("{name} is down; ip link set {name} up"),
            Self::NoCarrier => format!("{name} has no carrier; look at its cable and its switch"),
            Self::OtherNetwork => {
                format!("{name} has no address in the network of {to}; ip address show dev {name}")
            }
            Self::Own => format!("{to} is this host's own address; correct hosts[].migrate_uri"),
            Self::NoWay { from, why } => format!("the kernel knows no way to {}: {why}", pair(from)),
            Self::Elsewhere { from, by } => {
                let pair = pair(from);
                format!("the kernel sends to {pair} {by}, and not by {name}; ip route get {pair}")
            }
            Self::Unguarded { by, network, table } => {
                let table = if *table == MAIN { String::new() } else { format!(" table {table}") };
                format!(
                    "without {name} the kernel would send to {to} {by}; ip route add unreachable {network} \
                     metric 4294967295{table} keeps it from that (docs/migration-network.md)"
                )
            }
        }
    }
}

/// What speaks against sending memory and disks to this address now.
pub fn fault(facts: &LinkFacts, to: IpAddr) -> Option<Fault> {
    let Some(interface) = &facts.interface else { return Some(Fault::Missing) };
    if !interface.up {
        return Some(Fault::Down);
    }
    if !interface.carrier {
        return Some(Fault::NoCarrier);
    }
    if interface.networks.iter().any(|n| n.address == to) {
        return Some(Fault::Own);
    }
    let Some(own) = interface.networks.iter().find(|n| n.covers(to)) else {
        return Some(Fault::OtherNetwork);
    };
    let tables = leads(facts, interface, to, None).and_then(|(source, first)| {
        let (_, then) = leads(facts, interface, to, Some(source))?;
        Ok([first, then])
    });
    let tables = match tables {
        Ok(tables) => tables,
        Err(fault) => return Some(fault),
    };
    let (table, next) = tables.into_iter().find_map(|table| Some((table, without(facts, table, to)?)))?;
    let of = if next.table == table { String::new() } else { format!(" of table {}", next.table) };
    let by = match &next.interface {
        Some(other) => format!("by {other} (route to {}{of})", next.to.text()),
        None => format!("by the route to {}{of}", next.to.text()),
    };
    Some(Fault::Unguarded { by, network: own.text(), table })
}

/// The source address and the routing table by which the interface leads there.
fn leads(
    facts: &LinkFacts,
    interface: &Interface,
    to: IpAddr,
    from: Option<IpAddr>,
) -> Result<(IpAddr, u32), Fault> {
    let elsewhere = |by: String| Err(Fault::Elsewhere { from, by });
    match facts.ways.iter().find(|asked| (asked.to, asked.from) == (to, from)).map(|asked| &asked.way) {
        None => Err(Fault::Unknown { why: "the kernel was not asked for the way".to_owned() }),
        Some(Way::None(why)) => Err(Fault::NoWay { from, why: why.clone() }),
        Some(Way::Leads { interface: by, .. }) if *by != facts.name => elsewhere(format!("by {by}")),
        Some(Way::Leads { direct: false, .. }) => elsewhere("by way of a router".to_owned()),
        // Another source may be another network's, and the answers come by that.
        Some(Way::Leads { source, table, .. }) => match source {
            Some(source) if interface.networks.iter().any(|n| n.address == *source && n.covers(to)) => {
                Ok((*source, *table))
            }
            Some(source) => elsewhere(format!("from {source}")),
            None => elsewhere("from an address that it does not tell".to_owned()),
        },
    }
}

/// What the kernel would send by if the interface had no routes. A table without another route there is no end: it goes
/// on to other tables, and to which ones is for rules to say that are not read here. So all of them count then.
fn without(facts: &LinkFacts, table: u32, to: IpAddr) -> Option<&Route> {
    let others = |r: &&Route| r.interface.as_ref() != Some(&facts.name) && r.to.covers(to);
    // The longest prefix, then the lowest metric.
    let best = |table: u32| {
        let of_table = facts.routes.iter().filter(others).filter(|r| r.table == table);
        of_table.min_by_key(|r| (std::cmp::Reverse(r.to.prefix), r.metric, r.ends))
    };
    match best(table) {
        Some(next) => Some(next).filter(|r| !r.ends),
        None => {
            let tables: BTreeSet<u32> = facts.routes.iter().map(|r| r.table).collect();
            tables.into_iter().filter_map(best).find(|r| !r.ends)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const THERE: &str = "10.9.0.2";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> Network {
        let (address, prefix) = text.split_once('/').unwrap();
        Network { address: ip(address), prefix: prefix.parse().unwrap() }
    }

    fn route(to: &str, interface: Option<&str>, metric: u32) -> Route {
        let ends = interface.is_none();
        Route { to: net(to), table: MAIN, metric, interface: interface.map(str::to_owned), ends }
    }

    /// A host as the documentation makes it.
    fn good() -> LinkFacts {
        LinkFacts {
            name: "mig0".into(),
            interface: Some(Interface {
                up: true,
                carrier: true,
                networks: vec![net("fe80::1/64"), net("10.9.0.1/24")],
            }),
            ways: [None, Some(ip("10.9.0.1"))]
                .map(|from| Asked { to: ip(THERE), from, way: leads("mig0", "10.9.0.1", true) })
                .into(),
            routes: vec![
                route("0.0.0.0/0", Some("eth0"), 100),
                route("10.9.0.0/24", Some("mig0"), 0),
                route("10.9.0.0/24", None, u32::MAX),
            ],
        }
    }

    fn leads(interface: &str, source: &str, direct: bool) -> Way {
        Way::Leads { interface: interface.into(), source: Some(ip(source)), direct, table: MAIN }
    }

    fn found(change: impl FnOnce(&mut LinkFacts)) -> Option<Fault> {
        let mut facts = good();
        change(&mut facts);
        fault(&facts, ip(THERE))
    }

    fn interface(facts: &mut LinkFacts) -> &mut Interface {
        facts.interface.as_mut().unwrap()
    }

    #[test]
    fn a_good_link_has_no_fault() {
        assert_eq!(found(|_| ()), None);
        // Nothing else leads there: nothing to guard against.
        assert_eq!(found(|f| f.routes.retain(|r| r.interface.as_deref() == Some("mig0"))), None);
    }

    #[test]
    fn each_fault_is_found_and_said() {
        assert_eq!(found(|f| f.interface = None), Some(Fault::Missing));
        assert_eq!(found(|f| interface(f).up = false), Some(Fault::Down));
        assert_eq!(found(|f| interface(f).carrier = false), Some(Fault::NoCarrier));
        assert_eq!(found(|f| interface(f).networks = vec![net("10.8.0.1/24")]), Some(Fault::OtherNetwork));
        assert_eq!(found(|f| interface(f).networks = vec![net("10.9.0.2/24")]), Some(Fault::Own));
        // As a connection is begun, and as its packets are sent.
        for (i, from) in [(0, None), (1, Some(ip("10.9.0.1")))] {
            let by = |text: &str| Some(Fault::Elsewhere { from, by: text.into() });
            assert_eq!(found(|f| drop(f.ways.remove(i))).map(|f| f.is_loss()), Some(true));
            assert_eq!(
                found(|f| f.ways[i].way = Way::None("no route".into())),
                Some(Fault::NoWay { from, why: "no route".into() })
            );
            assert_eq!(found(|f| f.ways[i].way = leads("eth0", "10.9.0.1", true)), by("by eth0"));
            assert_eq!(found(|f| f.ways[i].way = leads("mig0", "10.9.0.1", false)), by("by way of a router"));
            assert_eq!(found(|f| f.ways[i].way = leads("mig0", "10.77.0.1", true)), by("from 10.77.0.1"));
        }
        let rule = found(|f| f.ways[1].way = leads("eth0", "10.9.0.1", true)).unwrap();
        let text = rule.text("mig0", ip(THERE));
        assert!(text.ends_with("ip route get 10.9.0.2 from 10.9.0.1"), "{text}");
        for fault in [Fault::Missing, Fault::Down, Fault::NoCarrier, Fault::OtherNetwork] {
            assert!(fault.is_loss() && fault.text("mig0", ip(THERE)).contains("mig0"));
        }
    }

    #[test]
    fn without_a_guard_the_next_best_route_is_named() {
        let unguarded =
            |by: &str| Some(Fault::Unguarded { by: by.into(), network: "10.9.0.0/24".into(), table: MAIN });
        let missing = found(|f| f.routes.retain(|r| !r.ends));
        assert_eq!(missing, unguarded("by eth0 (route to 0.0.0.0/0)"));
        let text = missing.unwrap().text("mig0", ip(THERE));
        assert!(text.contains("ip route add unreachable 10.9.0.0/24 metric 4294967295"), "{text}");
        // A longer prefix wins over the guard, and so does a better metric.
        assert_eq!(
            found(|f| f.routes.push(route("10.9.0.0/28", Some("eth1"), 5))),
            unguarded("by eth1 (route to 10.9.0.0/28)")
        );
        assert_eq!(
            found(|f| f.routes.push(route("10.9.0.0/24", Some("eth1"), 5))),
            unguarded("by eth1 (route to 10.9.0.0/24)")
        );
        // A guard of another table or another network guards nothing.
        let elsewhere = found(|f| f.routes[2].table = 7);
        assert_eq!(elsewhere, unguarded("by eth0 (route to 0.0.0.0/0)"));
        assert_eq!(found(|f| f.routes[2].to = net("10.8.0.0/24")), elsewhere);
        // A wider one does, as long as nothing comes between.
        assert_eq!(found(|f| f.routes[2].to = net("10.0.0.0/8")), None);
        assert!(!elsewhere.unwrap().is_loss());
    }

    #[test]
    fn prefixes_of_every_length_cover_what_they_should() {
        assert!(net("0.0.0.0/0").covers(ip(THERE)) && net("10.9.0.2/32").covers(ip(THERE)));
        assert!(!net("10.9.0.3/32").covers(ip(THERE)) && !net("::/0").covers(ip(THERE)));
        assert!(net("::/0").covers(ip("fd09::2")) && net("fd09::/64").covers(ip("fd09::2")));
        assert!(!net("fd09:0:0:1::/64").covers(ip("fd09::2")) && !net("0.0.0.0/0").covers(ip("fd09::2")));
        assert_eq!(net("10.9.0.1/24").text(), "10.9.0.0/24");
        assert_eq!(net("10.9.0.1/0").text(), "0.0.0.0/0");
        assert_eq!(net("fd09::1/64").text(), "fd09::/64");
    }

    /// Rules send it by a table of its own, which has nothing but the interface's route.
    fn ruled(ways: std::ops::Range<usize>, facts: &mut LinkFacts) {
        facts.routes.push(Route { table: 100, ..route("10.9.0.0/24", Some("mig0"), 0) });
        for asked in &mut facts.ways[ways] {
            let Way::Leads { table, .. } = &mut asked.way else { panic!("{asked:?}") };
            *table = 100;
        }
    }

    #[test]
    fn a_table_without_another_route_is_no_end() {
        let by = "by eth0 (route to 0.0.0.0/0 of table 254)";
        let unguarded =
            |by: &str| Some(Fault::Unguarded { by: by.into(), network: "10.9.0.0/24".into(), table: 100 });
        for ways in [0..1, 1..2, 0..2] {
            let found = |change: fn(&mut LinkFacts)| {
                found(|f| {
                    ruled(ways.clone(), f);
                    change(f);
                })
            };
            // The kernel goes on, and comes to a guard ...
            assert_eq!(found(|_| ()), None);
            // ... unless another table comes before it, or it is none.
            let elsewhere = |f: &mut LinkFacts| {
                f.routes.push(Route { table: 7, ..route("10.0.0.0/8", Some("eth1"), 0) });
            };
            assert_eq!(found(elsewhere), unguarded("by eth1 (route to 10.0.0.0/8 of table 7)"));
            // A guard in its own table ends it before that.
            assert_eq!(found(|f| f.routes.push(Route { table: 100, ..f.routes[2].clone() })), None);
            assert!(found(|f| f.routes[2].table = 7).is_some());
        }
        let missing = found(|f| {
            ruled(0..2, f);
            f.routes.retain(|r| !r.ends);
        });
        assert_eq!(missing, unguarded(by));
        let text = missing.unwrap().text("mig0", ip(THERE));
        assert!(text.contains("unreachable 10.9.0.0/24 metric 4294967295 table 100 keeps"), "{text}");
    }

    /// What the kernel sends by, as it does it: table by table, in the order that rules give.
    fn sent<'a>(order: &[u32], routes: &[&'a Route], to: IpAddr) -> Option<&'a Route> {
        order.iter().find_map(|table| {
            let mut of_table: Vec<&Route> =
                routes.iter().copied().filter(|r| r.table == *table && r.to.covers(to)).collect();
            of_table.sort_by_key(|r| (std::cmp::Reverse(r.to.prefix), r.metric));
            of_table.first().copied()
        })
    }

    proptest! {
        /// However tables and rules look: with no fault, taking the interface's routes away leaves nothing that leads on.
        #[test]
        fn no_fault_means_that_nothing_is_ever_rerouted(
            routes in proptest::collection::vec(
                (0u8..=32, any::<u32>(), 0u32..4, 0u8..4, prop::sample::select(vec![MAIN, 7, 100])), 0..12),
            // In which order the tables are asked for what has no source, and for what has it: some, or all.
            orders in [Just(vec![MAIN, 7, 100]).prop_shuffle(), Just(vec![MAIN, 7, 100]).prop_shuffle()],
            lengths in [1usize..4, 1usize..4],
        ) {
            let there = ip(THERE);
            let routes: Vec<Route> = routes.into_iter().map(|(prefix, noise, metric, by, table)| {
                // Most of the networks cover the address, else few would ever matter.
                let bits = if noise & 3 == 0 { noise } else { 0x0a09_0002 };
                let interface = match by { 0 => None, 1 => Some("eth0"), _ => Some("mig0") };
                let to = Network { address: std::net::Ipv4Addr::from_bits(bits).into(), prefix };
                Route { to, table, metric, interface: interface.map(str::to_owned), ends: by == 0 }
            }).collect();
            let all: Vec<&Route> = routes.iter().collect();
            let left: Vec<&Route> = all.iter().copied().filter(|r| r.interface.as_deref() != Some("mig0")).collect();
            let orders = [&orders[0][..lengths[0]], &orders[1][..lengths[1]]];
            let ways = orders.iter().zip([None, Some(ip("10.9.0.1"))]).map(|(order, from)| {
                let way = match sent(order, &all, there) {
                    Some(Route { interface: Some(interface), table, .. }) => Way::Leads {
                        interface: interface.clone(), source: Some(ip("10.9.0.1")), direct: true, table: *table,
                    },
                    Some(_) | None => Way::None("no route".into()),
                };
                Asked { to: there, from, way }
            }).collect();
            let facts = LinkFacts { ways, routes: routes.clone(), ..good() };
            if fault(&facts, there).is_none() {
                for order in orders {
                    prop_assert!(sent(order, &left, there).is_none_or(|r| r.ends), "{:?} {:?}", order, left);
                }
            }
        }
    }
}
