//! Captures the first and the last segments of connections, and datagrams to given ports, where the customer wants that:
//! needs CAP_NET_RAW. The kernel's filter lets nothing else through, and of that only the headers.
//!
//! Which way a packet went is the kernel's word, and what goes out is heard in its place among what comes in: who answered
//! whom is told by nothing else.

use super::kernel::next_packet;
use super::now;
use crate::config::Clients;
use crate::decide::clients::short::{Packet, Short, Tracker, What};
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::hash::RandomState;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

mod filter;

/// Headers of both layers with their options fit into this.
const SNAP: usize = 128;
/// As much as the machine allows of this.
const QUEUE: usize = 1 << 20;
/// Packets taken before who waits for the sums has a turn.
const BATCH: usize = 256;
const YIELD: Duration = Duration::from_millis(1);
/// Whether it is to end is looked at so often.
const LOOK_UP: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

struct Shared {
    over: AtomicBool,
    /// Somebody waits for the tracker.
    awaited: AtomicBool,
    tracker: Mutex<Tracker>,
}

/// A capture under way. Ends, within a second, when dropped.
pub(super) struct Capture(Arc<Shared>);

impl Drop for Capture {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Capture {
    pub(super) fn start(config: &Clients) -> Result<Self, String> {
        let udp = if config.capture_udp { config.ports.as_slice() } else { &[] };
        let socket = open(udp).map_err(|e| {
            // The unit's filter of address families says that there is no such family.
            let unknown = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
            let right = e.kind() == io::ErrorKind::PermissionDenied || e.raw_os_error() == Some(unknown);
            let hint = if right { "; it needs CAP_NET_RAW: see [clients] capture in agent.toml" } else { "" };
            format!("cannot capture: {e}{hint}")
        })?;
        let tracker = Mutex::new(Tracker::new(RandomState::new()));
        let shared =
            Arc::new(Shared { over: AtomicBool::new(false), awaited: AtomicBool::new(false), tracker });
        let (theirs, ports) = (Arc::clone(&shared), config.ports.clone());
        let thread = thread::Builder::new().name("capture".to_owned()).stack_size(128 * 1024);
        thread
            .spawn(move || listen(&theirs, &socket, &ports))
            .map_err(|e| format!("cannot capture: no thread: {e}"))?;
        Ok(Self(shared))
    }

    /// What is to be counted since the last time.
    pub(super) fn take(&self) -> Vec<Short> {
        self.0.awaited.store(true, Ordering::Relaxed);
        let mut tracker = self.0.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.awaited.store(false, Ordering::Relaxed);
        tracker.take()
    }
}

fn open(udp: &[u16]) -> io::Result<Socket> {
    let all = i32::from((libc::ETH_P_ALL as u16).to_be());
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(all)))?;
    let program = filter::program(udp);
    let program: Vec<_> = program.iter().map(|op| SockFilter::new(op.code, op.yes, op.no, op.k)).collect();
    socket.attach_filter(&program)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(QUEUE)?;
    // What came before the filter was there.
    while next_packet(&socket, &mut [0; SNAP]).is_ok() {}
    Ok(socket)
}

fn listen(shared: &Shared, socket: &Socket, ports: &[u16]) {
    let mut buffer = [0u8; SNAP];
    while !shared.over.load(Ordering::Relaxed) {
        let _ = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&LOOK_UP));
        // In a flood there is always something to read, and a lock goes to who is awake.
        if shared.awaited.load(Ordering::Relaxed) {
            thread::sleep(YIELD);
        }
        let mut tracker = shared.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now().mono;
        // An interface that goes down is an error once, and no end.
        for _ in 0..BATCH {
            let Ok((n, way)) = next_packet(socket, &mut buffer) else { break };
            let packet = buffer.get(..n).and_then(|bytes| understood(bytes, way == libc::PACKET_OUTGOING));
            if let Some(packet) = packet.filter(|p| ports.is_empty() || ports.contains(&p.own.port())) {
                tracker.see(at, &packet);
            }
        }
    }
}

/// From the network's header on; what is behind the snapped headers need not be there.
fn understood(bytes: &[u8], out: bool) -> Option<Packet> {
    let packet = LaxSlicedPacket::from_ip(bytes).ok()?;
    let (from, to, length): (IpAddr, IpAddr, u32) = match packet.net? {
        LaxNetSlice::Ipv4(v4) => {
            let header = v4.header();
            let length = u32::from(header.total_len()).checked_sub(u32::from(header.ihl()) * 4)?;
            (header.source_addr().into(), header.destination_addr().into(), length)
        }
        LaxNetSlice::Ipv6(v6) => {
            let header = v6.header();
            (header.source_addr().into(), header.destination_addr().into(), header.payload_length().into())
        }
        LaxNetSlice::Arp(_) => return None,
    };
    let (ports, what) = match packet.transport? {
        TransportSlice::Tcp(tcp) => {
            let data = length.checked_sub(u32::from(tcp.data_offset()) * 4)?;
            let ack = tcp.ack().then(|| tcp.acknowledgment_number());
            let what = What::Tcp { syn: tcp.syn(), fin: tcp.fin(), ack, seq: tcp.sequence_number(), data };
            ((tcp.source_port(), tcp.destination_port()), what)
        }
        TransportSlice::Udp(udp) => {
            ((udp.source_port(), udp.destination_port()), What::Udp(length.checked_sub(8)?))
        }
        TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => return None,
    };
    let (from, to) = (SocketAddr::new(from, ports.0), SocketAddr::new(to, ports.1));
    let (peer, own) = if out { (to, from) } else { (from, to) };
    Some(Packet { peer, own, out, what })
}

#[cfg(test)]
mod tests;
