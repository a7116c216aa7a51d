//! What the kernel shows of the migration network, over rtnetlink: needs no privileges.

use crate::isolation::{Asked, Interface, LinkFacts, Network, Route, Way};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, State};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::fd::OwnedFd;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send, socket_with};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// The kernel fills at most this much at a time.
const BUFFER: usize = 32 * 1024;
/// Messages of one answer. A host with more routes carries other people's traffic.
const MESSAGES: usize = 1 << 16;
/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// In an answer that something changed underneath.
const INTERRUPTED: u16 = 0x10;

/// One interface, and the ways to these addresses.
pub fn look(name: &str, to: &[IpAddr]) -> io::Result<LinkFacts> {
    let mut names = Names::new()?;
    let interface = match interface(name)? {
        Some((index, up, carrier)) => Some(Interface { up, carrier, networks: networks(index)? }),
        None => None,
    };
    let mut ways = Vec::new();
    for to in to.iter().copied() {
        let way = way(to, None, &mut names)?;
        let source = if let Way::Leads { source, .. } = &way { *source } else { None };
        ways.push(Asked { to, from: None, way });
        if source.is_some() {
            ways.push(Asked { to, from: source, way: self::way(to, source, &mut names)? });
        }
    }
    Ok(LinkFacts { name: name.to_owned(), interface, ways, routes: routes(&mut names)? })
}

/// Its index, whether it is up, and whether it has a carrier.
fn interface(name: &str) -> io::Result<Option<(u32, bool, bool)>> {
    let mut asked = LinkMessage::default();
    asked.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let answer = match ask(RouteNetlinkMessage::GetLink(asked), NLM_F_ACK) {
        Ok(answer) => answer,
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => return Ok(None),
        Err(e) => return Err(e),
    };
    let new =
        |m: RouteNetlinkMessage| if let RouteNetlinkMessage::NewLink(link) = m { Some(link) } else { None };
    let Some(link) = answer.into_iter().find_map(new) else { return Ok(None) };
    let flags = link.header.flags;
    let state = |a: &LinkAttribute| if let LinkAttribute::OperState(state) = a { Some(*state) } else { None };
    let state = link.attributes.iter().find_map(state);
    // Drivers that tell no state are unknown, and work.
    let works = matches!(state, None | Some(State::Up | State::Unknown));
    let carrier = flags.contains(LinkFlags::LowerUp) && works;
    Ok(Some((link.header.index, flags.contains(LinkFlags::Up), carrier)))
}

fn networks(index: u32) -> io::Result<Vec<Network>> {
    let answer = ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
    let mut networks = Vec::new();
    for message in answer {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        if message.header.index != index {
            continue;
        }
        let (mut local, mut address) = (None, None);
        for attribute in &message.attributes {
            if let AddressAttribute::Local(ip) = attribute {
                local = Some(*ip);
            } else if let AddressAttribute::Address(ip) = attribute {
                address = Some(*ip);
            }
        }
        // With a peer, `address` is the peer's.
        if let Some(address) = local.or(address) {
            networks.push(Network { address, prefix: message.header.prefix_len });
        }
    }
    Ok(networks)
}

fn way(to: IpAddr, from: Option<IpAddr>, names: &mut Names) -> io::Result<Way> {
    let mut asked = RouteMessage::default();
    let (family, width) = if to.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
    asked.header.address_family = family;
    asked.header.destination_prefix_length = width;
    // Else the table is always said to be the main one.
    asked.header.flags = RouteFlags::LookupTable;
    asked.attributes.push(RouteAttribute::Destination(to.into()));
    if let Some(from) = from {
        asked.header.source_prefix_length = width;
        asked.attributes.push(RouteAttribute::Source(from.into()));
    }
    let answer = match ask(RouteNetlinkMessage::GetRoute(asked), NLM_F_ACK) {
        Ok(answer) => answer,
        // The kernel's word for it: unreachable, prohibited, no route.
        Err(e) if e.raw_os_error().is_some() && e.kind() != io::ErrorKind::WouldBlock => {
            return Ok(Way::None(e.to_string()));
        }
        Err(e) => return Err(e),
    };
    let Some(route) = answer.iter().find_map(route_of) else {
        return Err(io::Error::other("the kernel tells of no route"));
    };
    if route.header.kind != RouteType::Unicast {
        return Ok(Way::None(format!("it is {:?}", route.header.kind).to_lowercase()));
    }
    let Some(Device::One(interface)) = device(route, names)? else {
        return Ok(Way::None("it has no interface, or several".to_owned()));
    };
    // What a packet has it keeps, and the kernel does not say it again.
    let mut source = from;
    let mut direct = true;
    for attribute in &route.attributes {
        if let RouteAttribute::PrefSource(address) = attribute {
            source = from.or(ip(address));
        } else if matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_)) {
            direct = false;
        }
    }
    Ok(Way::Leads { interface, source, direct, table: table(route) })
}

fn routes(names: &mut Names) -> io::Result<Vec<Route>> {
    let mut all = Vec::new();
    for (family, any) in [
        (AddressFamily::Inet, IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
        (AddressFamily::Inet6, IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)),
    ] {
        let mut asked = RouteMessage::default();
        asked.header.address_family = family;
        let answer = ask(RouteNetlinkMessage::GetRoute(asked), NLM_F_DUMP)?;
        for route in answer.iter().filter_map(route_of) {
            // Copies of routes that were made for one packet are none of the table's.
            if route.header.flags.contains(RouteFlags::Cloned) {
                continue;
            }
            let (mut address, mut metric) = (any, 0);
            for attribute in &route.attributes {
                if let RouteAttribute::Destination(destination) = attribute {
                    address = ip(destination).unwrap_or(any);
                } else if let RouteAttribute::Priority(value) = attribute {
                    metric = *value;
                }
            }
            let ends = matches!(
                route.header.kind,
                RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
            );
            // Those that end here are on the loopback device, with IPv6.
            let interface = match device(route, names)? {
                Some(Device::One(name)) if !ends => Some(name),
                Some(Device::One(_) | Device::Several) | None => None,
            };
            let to = Network { address, prefix: route.header.destination_prefix_length };
            all.push(Route { to, table: table(route), metric, interface, ends });
        }
    }
    Ok(all)
}

fn route_of(message: &RouteNetlinkMessage) -> Option<&RouteMessage> {
    if let RouteNetlinkMessage::NewRoute(route) = message { Some(route) } else { None }
}

/// The header has room for the first 256 tables only.
fn table(route: &RouteMessage) -> u32 {
    let long = |a: &RouteAttribute| if let RouteAttribute::Table(table) = a { Some(*table) } else { None };
    route.attributes.iter().find_map(long).unwrap_or(route.header.table.into())
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(v4) = address {
        return Some(IpAddr::V4(*v4));
    }
    if let RouteAddress::Inet6(v6) = address { Some(IpAddr::V6(*v6)) } else { None }
}

enum Device {
    One(String),
    Several,
}

fn device(route: &RouteMessage, names: &mut Names) -> io::Result<Option<Device>> {
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            return names.of(*index).map(|name| Some(Device::One(name)));
        }
        if matches!(attribute, RouteAttribute::MultiPath(_)) {
            return Ok(Some(Device::Several));
        }
    }
    Ok(None)
}

/// Interfaces by their indices.
struct Names {
    socket: OwnedFd,
    known: BTreeMap<u32, String>,
}

impl Names {
    fn new() -> io::Result<Self> {
        let family = rustix::net::AddressFamily::INET;
        let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, known: BTreeMap::new() })
    }

    fn of(&mut self, index: u32) -> io::Result<String> {
        if let Some(name) = self.known.get(&index) {
            return Ok(name.clone());
        }
        let name = match netdevice::index_to_name(&self.socket, index) {
            Ok(name) => name,
            // It went in this moment; what is left of it must not be taken for the one that is looked for.
            Err(rustix::io::Errno::NXIO | rustix::io::Errno::NODEV) => format!("interface {index}"),
            Err(e) => return Err(e.into()),
        };
        self.known.insert(index, name.clone());
        Ok(name)
    }
}

/// One question, and all that comes in answer to it.
fn ask(question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let family = rustix::net::AddressFamily::NETLINK;
    // Without a number it is rtnetlink.
    let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
    message.finalize();
    let mut bytes = vec![0u8; message.buffer_len()];
    message.serialize(&mut bytes);
    // Nobody else but the kernel is at the other end of a socket that is not bound.
    send(&socket, &bytes, SendFlags::empty())?;
    let mut buffer = vec![0u8; BUFFER];
    let mut all = Vec::new();
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel's answer ended early"));
        }
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            if message.header.flags & INTERRUPTED != 0 {
                return Err(io::Error::new(
                    io::ErrorKind::Interrupted,
                    "it changed while the kernel told of it",
                ));
            }
            // Messages begin at multiples of four.
            let used =
                usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4).max(4);
            rest = rest.get(used..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(all),
                // Of no error: all that was asked for has come.
                NetlinkPayload::Error(e) if e.code.is_none() => return Ok(all),
                NetlinkPayload::Error(e) => return Err(e.to_io()),
                NetlinkPayload::InnerMessage(message) if all.len() < MESSAGES => all.push(message),
                NetlinkPayload::InnerMessage(_) => {
                    return Err(io::Error::other(format!("the kernel tells of more than {MESSAGES} routes")));
                }
                NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_as_everybody_knows_it() {
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        let facts = look("lo", &[own]).unwrap();
        let lo = facts.interface.unwrap();
        assert!(lo.up && lo.carrier, "{lo:?}");
        assert!(lo.networks.contains(&Network { address: own, prefix: 8 }), "{lo:?}");
        // The kernel delivers it here: no way out.
        assert_eq!(facts.ways, [Asked { to: own, from: None, way: Way::None("it is local".into()) }]);
        let local =
            |r: &Route| r.to == Network { address: own, prefix: 32 } && r.interface.as_deref() == Some("lo");
        assert!(facts.routes.iter().any(local), "{:?}", facts.routes);
    }

    #[test]
    fn an_interface_that_is_not_there_is_no_error() {
        assert_eq!(look("no-such-link", &[]).unwrap().interface, None);
    }
}
