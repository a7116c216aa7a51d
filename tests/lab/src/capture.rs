//! Counts what passes through each network interface of a host, as a packet socket hears it.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    ops::RangeInclusive,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, Protocol, RecvFlags, SocketAddrAny, SocketType, netdevice, recvfrom, socket, sockopt,
    },
};

use crate::{
    error::{Doing as _, Result},
    node::Node,
};

/// ETH_P_ALL in the network's order, as the kernel wants it.
const ALL: Option<NonZeroU32> = NonZeroU32::new(0x0003_u16.to_be() as u32);
/// The headers of IPv4 and TCP with all their options.
const SNAP: usize = 128;
/// A whole migration may be heard while nobody listens for a moment.
const QUEUE: usize = 64 << 20;
const LOOK: Duration = Duration::from_millis(100);

/// What passed through one interface, either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Packets, or what the kernel handed over as one.
    pub packets: u64,
    /// Their bytes from the IP header on.
    pub bytes: u64,
}

type Counts = BTreeMap<u32, Passed>;

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Capture {
    names: OwnedFd,
    over: Arc<AtomicBool>,
    counts: Arc<Mutex<Counts>>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Counts TCP of these ports, at whichever end.
    pub(crate) fn start(node: &Node, ports: RangeInclusive<u16>) -> Result<Capture> {
        let open = || -> rustix::io::Result<(OwnedFd, OwnedFd)> {
            let heard = socket(AddressFamily::PACKET, SocketType::DGRAM, ALL.map(Protocol::from_raw))?;
            sockopt::set_socket_recv_buffer_size_force(&heard, QUEUE)?;
            Ok((heard, socket(AddressFamily::INET, SocketType::DGRAM, None)?))
        };
        let (heard, names) = node.within(open)?.doing(|| "opening a packet socket".into())?;
        let (over, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Counts::new())));
        let (end, sums) = (Arc::clone(&over), Arc::clone(&counts));
        let thread = thread::spawn(move || listen(&heard, &ports, &end, &sums));
        Ok(Capture { names, over, counts, thread: Some(thread) })
    }

    /// What has passed through the interface of this name so far.
    pub fn passed(&self, interface: &str) -> Result<Passed> {
        // What is heard is a moment old.
        thread::sleep(LOOK * 2);
        let index = netdevice::name_to_index(&self.names, interface)
            .doing(|| format!("looking for the interface {interface}"))?;
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(counts.get(&index).copied().unwrap_or_default())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(heard: &OwnedFd, ports: &RangeInclusive<u16>, over: &AtomicBool, counts: &Mutex<Counts>) {
    let at_most = Timespec::try_from(LOOK).ok();
    let mut packet = [0; SNAP];
    while !over.load(Ordering::Relaxed) {
        let _ = poll(&mut [PollFd::new(heard, PollFlags::IN)], at_most.as_ref());
        // With TRUNC the length is the packet's own, however little of it fits here.
        while let Ok((head, length, from)) =
            recvfrom(heard, &mut packet[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC)
        {
            let index = from.as_ref().and_then(interface);
            let of_interest = tcp_ports(&packet[..head.min(SNAP)])
                .is_some_and(|(from, to)| ports.contains(&from) || ports.contains(&to));
            if let (Some(index), true) = (index, of_interest) {
                let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                let passed = counts.entry(index).or_default();
                passed.packets += 1;
                passed.bytes += u64::try_from(length).unwrap_or(0);
            }
        }
    }
}

/// The interface of a `struct sockaddr_ll`.
fn interface(from: &SocketAddrAny) -> Option<u32> {
    let length = usize::try_from(from.addr_len()).ok()?;
    // SAFETY: the address has so many bytes, which the kernel has written.
    #[expect(unsafe_code, reason = "rustix has no type for addresses of packet sockets")]
    let bytes = unsafe { std::slice::from_raw_parts(from.as_ptr().cast::<u8>(), length) };
    Some(u32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?))
}

/// Of an IPv4 packet, from whom to whom.
fn tcp_ports(packet: &[u8]) -> Option<(u16, u16)> {
    let first = *packet.first()?;
    let (is_v4, is_tcp) = (first >> 4 == 4, packet.get(9) == Some(&6));
    let header = usize::from(first & 15) * 4;
    let tcp = packet.get(header..header + 4)?;
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    if is_v4 && is_tcp { Some((port(0)?, port(2)?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tcp_of_ipv4_has_ports_that_count() {
        let mut packet = [0; 40];
        packet[0] = 0x46;
        packet[9] = 6;
        packet[24..28].copy_from_slice(&[0xc0, 0x00, 0x12, 0x34]);
        assert_eq!(tcp_ports(&packet), Some((49152, 0x1234)));
        assert_eq!(tcp_ports(&packet[..26]), None);
        packet[9] = 17;
        assert_eq!(tcp_ports(&packet), None);
        assert_eq!(tcp_ports(&[]), None);
    }
}
