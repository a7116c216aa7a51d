//! The kernel's filter: of what comes in for this machine or goes out, IPv4 and IPv6, TCP with SYN or FIN, and UDP of given
//! ports. Classic BPF.

use super::SNAP;

/// One instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Op {
    pub(super) code: u16,
    pub(super) yes: u8,
    pub(super) no: u8,
    pub(super) k: u32,
}

// linux/bpf_common.h: what is loaded from where, and how is jumped.
pub(super) const LOAD_BYTE: u16 = 0x30;
pub(super) const LOAD_HALF: u16 = 0x28;
pub(super) const X_IS: u16 = 0x01;
pub(super) const LOAD_BYTE_AT_X: u16 = 0x50;
pub(super) const LOAD_HALF_AT_X: u16 = 0x48;
pub(super) const X_IS_HEADER_LENGTH: u16 = 0xb1;
pub(super) const IF_EQUAL: u16 = 0x15;
pub(super) const IF_ANY_BIT: u16 = 0x45;
pub(super) const GO: u16 = 0x05;
pub(super) const RETURN: u16 = 0x06;

/// What the kernel knows beside the packet (SKF_AD_OFF).
pub(super) const PROTOCOL: u32 = 0xffff_f000;
pub(super) const PACKET_TYPE: u32 = PROTOCOL + 4;
/// PACKET_HOST and PACKET_OUTGOING.
pub(super) const TYPES: [u32; 2] = [0, 4];

const TCP: u32 = 6;
const UDP: u32 = 17;
const SYN_OR_FIN: u32 = 3;

/// Where a jump goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    Wanted,
    V4,
    V6,
    Transport,
    Tcp,
    Udp,
    Drop,
    Take,
}

/// `udp`: of at most 64 ports, so that each jump is short enough.
pub(super) fn program(udp: &[u16]) -> Vec<Op> {
    use To::{Drop, Next, Take, Tcp, Transport, Udp, V4, V6, Wanted};
    let mut lines = vec![
        (Next, LOAD_BYTE, Next, Next, PACKET_TYPE),
        (Next, IF_EQUAL, Wanted, Next, TYPES[0]),
        (Next, IF_EQUAL, Wanted, Drop, TYPES[1]),
        (Wanted, LOAD_HALF, Next, Next, PROTOCOL),
        (Next, IF_EQUAL, V4, Next, 0x0800),
        (Next, IF_EQUAL, V6, Drop, 0x86dd),
        // A fragment that is not the first has no ports.
        (V4, LOAD_HALF, Next, Next, 6),
        (Next, IF_ANY_BIT, Drop, Next, 0x1fff),
        (Next, X_IS_HEADER_LENGTH, Next, Next, 0),
        (Next, LOAD_BYTE, Next, Next, 9),
        (Next, GO, Transport, Next, 0),
        // What an extension follows is not looked into.
        (V6, X_IS, Next, Next, 40),
        (Next, LOAD_BYTE, Next, Next, 6),
        (Transport, IF_EQUAL, Tcp, Next, TCP),
        (Next, IF_EQUAL, Udp, Drop, UDP),
        (Tcp, LOAD_BYTE_AT_X, Next, Next, 13),
        (Next, IF_ANY_BIT, Take, Drop, SYN_OR_FIN),
    ];
    for (place, port_at) in [(Udp, 0), (Next, 2)] {
        lines.push((place, LOAD_HALF_AT_X, Next, Next, port_at));
        lines.extend(udp.iter().take(64).map(|p| (Next, IF_EQUAL, Take, Next, u32::from(*p))));
    }
    lines.push((Drop, RETURN, Next, Next, 0));
    lines.push((Take, RETURN, Next, Next, SNAP as u32));
    let far = |from: usize, to: To| match to {
        Next => 0,
        Wanted | V4 | V6 | Transport | Tcp | Udp | Drop | Take => {
            lines.iter().position(|l| l.0 == to).map_or(0, |at| at.saturating_sub(from + 1))
        }
    };
    let short = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    let op = |(from, &(_, code, yes, no, k)): (usize, &(To, u16, To, To, u32))| match code {
        GO => Op { code, yes: 0, no: 0, k: u32::try_from(far(from, yes)).unwrap_or(0) },
        _ => Op { code, yes: short(far(from, yes)), no: short(far(from, no)), k },
    };
    lines.iter().enumerate().map(op).collect()
}
