//! The kernel's list of TCP connections, with what each has carried and its round trip: `sock_diag`, which needs no
//! privileges. It shows those of the agent's own network namespace.

use crate::decide::clients::count::Flow;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use rustix::fd::OwnedFd;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

/// The kernel fills at most this much at a time.
const BUFFER: usize = 32 * 1024;
/// Connections looked at in one go; beyond, the rest is not counted.
const MAX_SOCKETS: usize = 1 << 20;
/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where struct tcp_info has what is wanted. Kernels only ever add to its end; one that is too short lacks it.
const RTT_US: usize = 68;
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;

/// Connections to the ports that listen here, or to these.
pub fn connections(ports: &[u16], mut each: impl FnMut(&Flow)) -> io::Result<()> {
    let mut listening = BTreeSet::new();
    if ports.is_empty() {
        for family in [AF_INET, AF_INET6] {
            dump(family, &StateFlags::LISTEN, &ExtensionFlags::empty(), |socket| {
                listening.insert(socket.header.socket_id.source_port);
            })?;
        }
    } else {
        listening.extend(ports);
    }
    for family in [AF_INET, AF_INET6] {
        dump(family, &StateFlags::ESTABLISHED, &ExtensionFlags::INFO, |socket| {
            let id = &socket.header.socket_id;
            if !listening.contains(&id.source_port) {
                return;
            }
            let info = socket.nlas.iter().find_map(|nla| match nla {
                Nla::TcpInfo(bytes) => Some(bytes.as_slice()),
                Nla::LegacyMemInfo(_)
                | Nla::Congestion(_)
                | Nla::Tos(_)
                | Nla::Tc(_)
                | Nla::MemInfo(_)
                | Nla::Shutdown(_)
                | Nla::Protocol(_)
                | Nla::SkV6Only(_)
                | Nla::Mark(_)
                | Nla::ClassId(_)
                | Nla::Other(_) => None,
            });
            let Some((acked, received, rtt_us)) = info.and_then(figures) else { return };
            each(&Flow {
                peer: id.destination_address,
                own: id.source_address,
                cookie: u64::from_ne_bytes(id.cookie),
                acked,
                received,
                rtt_us: Some(rtt_us).filter(|us| *us > 0),
            });
        })?;
    }
    Ok(())
}

/// Bytes acknowledged and received, and the smoothed round trip.
fn figures(info: &[u8]) -> Option<(u64, u64, u32)> {
    let long = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    let rtt_us = u32::from_ne_bytes(info.get(RTT_US..RTT_US + 4)?.try_into().ok()?);
    Some((long(BYTES_ACKED)?, long(BYTES_RECEIVED)?, rtt_us))
}

fn dump(
    family: u8,
    states: &StateFlags,
    extensions: &ExtensionFlags,
    mut each: impl FnMut(&InetResponse),
) -> io::Result<()> {
    let socket = ask(family, states, extensions)?;
    let mut buffer = vec![0u8; BUFFER];
    let mut left = MAX_SOCKETS;
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel's list ended early"));
        }
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            // Messages begin at multiples of four.
            let used =
                usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4).max(4);
            rest = rest.get(used..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(e) => return Err(e.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                    left = left.saturating_sub(1);
                    if left == 0 {
                        return Ok(());
                    }
                    each(&socket);
                }
                // Nothing of ours; more kinds may come.
                NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | NetlinkPayload::InnerMessage(_) | _ => {}
            }
        }
    }
}

fn ask(family: u8, states: &StateFlags, extensions: &ExtensionFlags) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: extensions.clone(),
        states: states.clone(),
        socket_id: if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() },
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0u8; message.buffer_len()];
    message.serialize(&mut bytes);
    // Nobody else but the kernel is at the other end of a socket that is not bound.
    send(&socket, &bytes, SendFlags::empty())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn of(ports: &[u16]) -> Vec<Flow> {
        let mut flows = Vec::new();
        connections(ports, |f| flows.push(*f)).unwrap();
        flows
    }

    #[test]
    fn what_a_connection_carried_is_seen_in_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(&[1; 300]).unwrap();
            server.read_exact(&mut [0; 300]).unwrap();
            server.write_all(&[2; 5000]).unwrap();
            client.read_exact(&mut [0; 5000]).unwrap();
            let here = client.local_addr().unwrap();
            // An acknowledgement may take a moment.
            let begun = std::time::Instant::now();
            let flow = loop {
                let all = of(&[]);
                let mine: Vec<_> = all.iter().filter(|f| f.cookie != 0 && f.peer == here.ip()).collect();
                let found = mine.iter().find(|f| f.received == 300 && f.acked >= 5000);
                match found {
                    Some(flow) => break **flow,
                    None => assert!(begun.elapsed() < Duration::from_secs(20), "{mine:?}"),
                }
            };
            assert_eq!(flow.own, here.ip());
            assert!(flow.rtt_us.is_some_and(|us| us < 10_000_000), "{flow:?}");
            assert_eq!(of(&[port]).iter().filter(|f| f.cookie == flow.cookie).count(), 1);
            assert!(of(&[1]).iter().all(|f| f.cookie != flow.cookie), "another port");
            drop(listener);
            assert!(of(&[]).iter().all(|f| f.cookie != flow.cookie), "nothing listens there any more");
        }
    }

    #[test]
    fn a_short_structure_lacks_what_it_lacks() {
        let mut info = [0u8; 136];
        info[RTT_US..RTT_US + 4].copy_from_slice(&1500u32.to_ne_bytes());
        info[BYTES_ACKED..BYTES_ACKED + 8].copy_from_slice(&7u64.to_ne_bytes());
        info[BYTES_RECEIVED..].copy_from_slice(&9u64.to_ne_bytes());
        assert_eq!(figures(&info), Some((7, 9, 1500)));
        for length in 0..136 {
            assert_eq!(figures(&info[..length]), None);
        }
    }
}
