//! Packets that only pretend: TCP's first word from addresses that are not the sender's.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::{
    error::{Doing as _, Result},
    node::Node,
};

/// As many as are sent before the clock is looked at.
const BURST: u32 = 500;

/// Sends `count` SYNs, evenly over `over`, each from another address of the network that begins at `from`; gives how
/// many the kernel took.
pub(crate) fn syns(node: &Node, from: Ipv4Addr, to: SocketAddrV4, count: u32, over: Duration) -> Result<u32> {
    node.within(|| {
        // Of this protocol the sender writes the IP header too.
        let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))
            .doing(|| "opening a raw socket".into())?;
        let begin = Instant::now();
        let mut sent = 0;
        for number in 0..count {
            if number % BURST == 0 {
                let due = over.mul_f64(f64::from(number) / f64::from(count));
                thread::sleep(due.saturating_sub(begin.elapsed()));
            }
            let source = Ipv4Addr::from_bits(from.to_bits().wrapping_add(number % (1 << 18)));
            let port = 1024 + u16::try_from(number % 60_000).unwrap_or(0);
            let packet = syn(SocketAddrV4::new(source, port), to, number);
            sent += u32::from(sendto(&raw, &packet, SendFlags::empty(), &SocketAddr::from(to)).is_ok());
        }
        Ok(sent)
    })?
}

/// An IPv4 packet with nothing in it but TCP's first word.
fn syn(from: SocketAddrV4, to: SocketAddrV4, sequence: u32) -> [u8; 40] {
    let mut packet = [0; 40];
    let (ip, tcp) = packet.split_at_mut(20);
    // Version and length; 40 bytes in all; do not fragment; 64 hops; TCP. The kernel sums this header up itself.
    ip[..12].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    tcp[..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    // Five words of header, SYN, a window.
    tcp[12..16].copy_from_slice(&[5 << 4, 0x02, 0xff, 0xff]);
    let pseudo = [from.ip().octets(), to.ip().octets(), [0, 6, 0, 20]].concat();
    let sum = checksum(pseudo.iter().chain(tcp.iter()));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The Internet's, over an even number of bytes.
fn checksum<'a>(bytes: impl Iterator<Item = &'a u8>) -> u16 {
    let mut sum = 0_u32;
    for (index, byte) in bytes.enumerate() {
        sum += u32::from(*byte) << if index % 2 == 0 { 8 } else { 0 };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum ^ 0xffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_that_carries_its_sum_sums_up_to_nothing() {
        let (from, to) =
            (SocketAddrV4::new([2, 4, 5, 6].into(), 4321), SocketAddrV4::new([10, 78, 0, 1].into(), 7));
        let packet = syn(from, to, 77);
        let pseudo = [from.ip().octets(), to.ip().octets(), [0, 6, 0, 20]].concat();
        assert_eq!(checksum(pseudo.iter().chain(&packet[20..])), 0);
        assert_eq!(packet[33], 0x02, "SYN alone");
    }
}
