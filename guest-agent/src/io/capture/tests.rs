//! The filter is run here as the kernel would run it, on packets made by hand.

use super::filter::{
    GO, IF_ANY_BIT, IF_EQUAL, LOAD_BYTE, LOAD_BYTE_AT_X, LOAD_HALF, LOAD_HALF_AT_X, PACKET_TYPE, PROTOCOL,
    RETURN, TYPES, X_IS, X_IS_HEADER_LENGTH, program,
};
use super::*;

const PEER: [u8; 4] = [81, 2, 3, 4];
const OWN: [u8; 4] = [193, 0, 0, 1];

/// What the kernel would hand on of it.
fn passed(ports: &[u16], way: u32, protocol: u16, packet: &[u8]) -> usize {
    let program = program(ports);
    let (mut a, mut x, mut at) = (0u32, 0usize, 0);
    let half = |i: usize| packet.get(i..i + 2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]])));
    let byte = |i: usize| packet.get(i).map(|b| u32::from(*b));
    loop {
        let op = program[at];
        let k = op.k as usize;
        at += 1;
        // Behind the packet's end the kernel gives up, and drops it.
        let loaded = match op.code {
            LOAD_BYTE if op.k == PACKET_TYPE => Some(way),
            LOAD_HALF if op.k == PROTOCOL => Some(protocol.into()),
            LOAD_BYTE => byte(k),
            LOAD_HALF => half(k),
            LOAD_BYTE_AT_X => byte(x + k),
            LOAD_HALF_AT_X => half(x + k),
            X_IS_HEADER_LENGTH => {
                x = usize::from(packet[0] & 0xf) * 4;
                Some(a)
            }
            X_IS => {
                x = k;
                Some(a)
            }
            IF_EQUAL | IF_ANY_BIT => {
                let yes = if op.code == IF_EQUAL { a == op.k } else { a & op.k != 0 };
                at += usize::from(if yes { op.yes } else { op.no });
                Some(a)
            }
            GO => {
                at += k;
                Some(a)
            }
            RETURN => return k,
            other => panic!("{other:#x}"),
        };
        match loaded {
            Some(value) => a = value,
            None => return 0,
        }
    }
}

fn tcp(flags: u8, seq: u32, ack: u32, data: usize) -> Vec<u8> {
    let mut segment = vec![0x15, 0xb3, 0, 80];
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([6 << 4, flags, 4, 0, 0, 0, 0, 0, 1, 1, 1, 1]);
    segment.extend(vec![7; data]);
    segment
}

fn udp(data: usize) -> Vec<u8> {
    let mut datagram = vec![0x15, 0xb3, 0x01, 0xbb];
    datagram.extend(((8 + data) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(vec![7; data]);
    datagram
}

fn v4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    // With four bytes of options.
    let mut packet = vec![0x46, 0];
    packet.extend(((24 + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend([PEER, OWN].concat());
    packet.extend([1, 1, 1, 1]);
    packet.extend(payload);
    packet
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend(payload);
    packet
}

#[test]
fn only_ends_of_connections_and_wanted_datagrams_pass_and_only_their_headers() {
    const SYN: u8 = 2;
    const FIN: u8 = 1;
    const ACK: u8 = 16;
    let incoming = |ports: &[u16], protocol, packet: &[u8]| passed(ports, TYPES[0], protocol, packet);
    for (flags, wanted) in [(SYN, SNAP), (FIN | ACK, SNAP), (SYN | ACK, SNAP), (ACK, 0), (4, 0)] {
        assert_eq!(incoming(&[], 0x0800, &v4(6, 0, &tcp(flags, 1, 2, 900))), wanted, "{flags}");
        assert_eq!(incoming(&[], 0x86dd, &v6(6, &tcp(flags, 1, 2, 900))), wanted, "{flags}");
    }
    let syn = v4(6, 0x4000, &tcp(SYN, 1, 2, 0));
    assert_eq!(incoming(&[], 0x0800, &syn), SNAP, "that must not be fragmented");
    assert_eq!(incoming(&[], 0x0800, &v4(6, 0x2001, &tcp(SYN, 1, 2, 0))), 0, "a later fragment");
    assert_eq!(incoming(&[], 0x0806, &syn), 0);
    assert_eq!(passed(&[], TYPES[1], 0x0800, &syn), SNAP, "what goes out");
    assert_eq!(passed(&[], 3, 0x0800, &syn), 0, "of others, on the same wire");
    assert_eq!(incoming(&[], 0x0800, &syn[..30]), 0, "cut");
    let ports: Vec<u16> = (400..463).collect();
    for (protocol, packet) in [(0x0800, v4(17, 0, &udp(100))), (0x86dd, v6(17, &udp(100)))] {
        assert_eq!(incoming(&[], protocol, &packet), 0);
        assert_eq!(incoming(&ports, protocol, &packet), SNAP, "to port 443");
        assert_eq!(passed(&[5555], TYPES[1], protocol, &packet), SNAP, "from port 5555");
        assert_eq!(incoming(&[80, 1234], protocol, &packet), 0, "of no port that is wanted");
    }
    assert_eq!(incoming(&[443], 0x0800, &v4(1, 0, &udp(9))), 0);
}

#[test]
fn what_passed_is_understood_also_when_its_data_is_cut_off() {
    let own = SocketAddr::from((OWN, 80));
    let peer = SocketAddr::from((PEER, 5555));
    let whole = v4(6, 0x4000, &tcp(0x11, 1000, 2000, 900));
    let what = What::Tcp { syn: false, fin: true, ack: Some(2000), seq: 1000, data: 900 };
    assert_eq!(understood(&whole[..SNAP], false), Some(Packet { peer, own, out: false, what }));
    let (peer, own) = (SocketAddr::new(OWN.into(), 80), SocketAddr::new(PEER.into(), 5555));
    assert_eq!(understood(&whole[..SNAP], true), Some(Packet { peer, own, out: true, what }));
    let whole = v6(17, &udp(1000));
    let packet = understood(&whole[..SNAP], false).unwrap();
    assert_eq!((packet.what, packet.own.port()), (What::Udp(1000), 443));
    for length in 0..whole.len().min(SNAP) {
        let _ = understood(&whole[..length], false);
    }
    assert_eq!(understood(b"\x45nonsense", false), None);
}
