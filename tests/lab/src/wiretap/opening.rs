//! How TCP connections begin, and whether what they begin with is TLS.
//!
//! Of TLS 1.3 nobody who listens sees more than the two hellos: which certificates are asked for and shown is encrypted.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    ops::RangeInclusive,
};

use etherparse::{NetSlice, SlicedPacket, TcpSlice, TransportSlice};

/// A hello is far shorter, with all that it may carry.
const KEPT_BYTES: usize = 16 << 10;
/// A lab has some dozens.
const MOST_CONNECTIONS: usize = 4096;

/// The beginning of a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Who connected.
    pub client: SocketAddrV4,
    /// To whom.
    pub server: SocketAddrV4,
    /// What the client sent first, without gaps.
    pub said: Vec<u8>,
    /// What the server sent first.
    pub answered: Vec<u8>,
}

/// What two hellos say in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Versions that the client can do: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3.
    pub offered: Vec<u16>,
    /// The one that the server chose.
    pub chosen: u16,
}

impl Opening {
    /// Disks are copied by it: it is NBD, with TLS or without.
    pub fn is_of_disks(&self) -> bool {
        self.answered.starts_with(NBD_GREETING)
    }

    /// None: it is not TLS, or it did not get as far as the server's hello. NBD, by which disks are copied, asks for TLS
    /// in its own words first.
    pub fn tls(&self) -> Option<Tls> {
        let skip = if self.is_of_disks() { NBD_WORDS } else { (0, 0) };
        let client = handshake(self.said.get(skip.0..)?);
        let server = handshake(self.answered.get(skip.1..)?);
        Some(Tls { offered: Words(&client).client_hello()?, chosen: Words(&server).server_hello()? })
    }
}

const NBD_GREETING: &[u8] = b"NBDMAGICIHAVEOPT";
/// What the client says before its hello (flags, and the option NBD_OPT_STARTTLS), and the server before its own (greeting,
/// flags, and the option's acknowledgement), in bytes.
const NBD_WORDS: (usize, usize) = (4 + 16, 18 + 20);

/// What is known of one direction so far: where in the stream, and what.
#[derive(Debug, Default)]
struct Stream {
    pieces: BTreeMap<usize, Vec<u8>>,
}

impl Stream {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(KEPT_BYTES.saturating_sub(at))];
        if !bytes.is_empty() && self.pieces.get(&at).is_none_or(|known| known.len() < bytes.len()) {
            self.pieces.insert(at, bytes.to_vec());
        }
    }

    /// As far as there is no gap.
    fn joined(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (at, piece) in &self.pieces {
            let Some(known) = out.len().checked_sub(*at) else { break };
            out.extend(piece.iter().skip(known));
        }
        out
    }
}

#[derive(Debug, Default)]
struct Connection {
    /// The client's and the server's numbers of the byte before the first.
    numbers: [Option<u32>; 2],
    streams: [Stream; 2],
}

pub(super) struct Openings {
    to: RangeInclusive<u16>,
    connections: BTreeMap<(SocketAddrV4, SocketAddrV4), Connection>,
}

impl Openings {
    pub(super) fn new(to: RangeInclusive<u16>) -> Openings {
        Openings { to, connections: BTreeMap::new() }
    }

    pub(super) fn see(&mut self, frame: &[u8]) {
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return };
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (&packet.net, &packet.transport)
        else {
            return;
        };
        let (from, to) = (ip.header().source_addr(), ip.header().destination_addr());
        self.segment(from, to, tcp);
    }

    fn segment(&mut self, from: Ipv4Addr, to: Ipv4Addr, tcp: &TcpSlice<'_>) {
        let from = SocketAddrV4::new(from, tcp.source_port());
        let to = SocketAddrV4::new(to, tcp.destination_port());
        let (key, side) = if self.to.contains(&to.port()) { ((from, to), 0) } else { ((to, from), 1) };
        if !self.to.contains(&key.1.port()) {
            return;
        }
        if tcp.syn() && side == 0 && self.connections.len() < MOST_CONNECTIONS {
            self.connections.entry(key).or_default();
        }
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if tcp.syn() {
            connection.numbers[side].get_or_insert(tcp.sequence_number());
        } else if let Some(before) = connection.numbers[side] {
            let at = tcp.sequence_number().wrapping_sub(before).wrapping_sub(1);
            connection.streams[side].put(at as usize, tcp.payload());
        }
    }

    pub(super) fn finish(self) -> Vec<Opening> {
        let opening = |((client, server), connection): (_, Connection)| {
            let [said, answered] = [0, 1].map(|side| connection.streams[side].joined());
            Opening { client, server, said, answered }
        };
        self.connections.into_iter().map(opening).collect()
    }
}

const RECORD_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const SUPPORTED_VERSIONS: u16 = 43;

/// What the first records carry, as long as they carry a handshake in the clear.
fn handshake(stream: &[u8]) -> Vec<u8> {
    let mut words = Words(stream);
    let mut out = Vec::new();
    while words.byte() == Some(RECORD_HANDSHAKE) {
        // 3 since SSL 3.0; the second byte means nothing any more.
        let (Some(3), Some(_)) = (words.byte(), words.byte()) else { break };
        let Some(record) = words.list_16() else { break };
        out.extend(record);
    }
    out
}

/// Bytes that are read in turn; nothing is beyond their end.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    fn two(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes(2)?.try_into().ok()?))
    }

    fn list_8(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.bytes(length.into())
    }

    fn list_16(&mut self) -> Option<&'a [u8]> {
        let length = self.two()?;
        self.bytes(length.into())
    }

    /// The first message's body and the version in it, up to where the two hellos differ.
    fn hello(&mut self, kind: u8) -> Option<(u16, Words<'a>)> {
        if self.byte()? != kind {
            return None;
        }
        let length = [0, self.byte()?, self.byte()?, self.byte()?];
        let mut body = Words(self.bytes(u32::from_be_bytes(length) as usize)?);
        let version = body.two()?;
        let _random = body.bytes(32)?;
        let _session = body.list_8()?;
        Some((version, body))
    }

    fn extension(&mut self, wanted: u16) -> Option<&'a [u8]> {
        let mut extensions = Words(self.list_16()?);
        loop {
            let (kind, data) = (extensions.two()?, extensions.list_16()?);
            if kind == wanted {
                return Some(data);
            }
        }
    }

    fn client_hello(&mut self) -> Option<Vec<u16>> {
        let (version, mut rest) = self.hello(CLIENT_HELLO)?;
        let (_ciphers, _compressions) = (rest.list_16()?, rest.list_8()?);
        let Some(data) = rest.extension(SUPPORTED_VERSIONS) else { return Some(vec![version]) };
        let mut list = Words(Words(data).list_8()?);
        Some(std::iter::from_fn(|| list.two()).collect())
    }

    fn server_hello(&mut self) -> Option<u16> {
        let (version, mut rest) = self.hello(SERVER_HELLO)?;
        let (_cipher, _compression) = (rest.two()?, rest.byte()?);
        match rest.extension(SUPPORTED_VERSIONS) {
            Some(data) => Words(data).two(),
            None => Some(version),
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const CLIENT: ([u8; 4], u16) = ([10, 77, 0, 1], 40_000);
    const SERVER: ([u8; 4], u16) = ([10, 77, 0, 2], 49_152);

    fn list_16(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    /// A record with a hello; `between` is what the two kinds have between session and extensions.
    fn hello(kind: u8, between: &[u8], versions: &[u8]) -> Vec<u8> {
        let extensions = [&[0, 23][..], &list_16(&[]), &[0, 43], &list_16(versions)].concat();
        let body = [&[3, 3][..], &[9; 32], &[2, 7, 7], between, &list_16(&extensions)].concat();
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[kind, 0][..], &length, &body].concat();
        [&[22, 3, 1][..], &list_16(&message)].concat()
    }

    fn client_hello() -> Vec<u8> {
        hello(1, &[0, 2, 0x13, 1, 1, 0], &[4, 3, 4, 3, 3])
    }

    fn server_hello() -> Vec<u8> {
        let mut stream = hello(2, &[0x13, 1, 0], &[3, 4]);
        // What follows is encrypted.
        stream.extend([23, 3, 3, 0, 1, 0xff]);
        stream
    }

    fn frame(from: ([u8; 4], u16), to: ([u8; 4], u16), number: u32, syn: bool, payload: &[u8]) -> Vec<u8> {
        let built = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64);
        let built = built.tcp(from.1, to.1, number, 1000);
        let built = if syn { built.syn() } else { built.ack(1) };
        let mut out = Vec::new();
        built.write(&mut out, payload).unwrap();
        out
    }

    fn seen(frames: &[Vec<u8>]) -> Vec<Opening> {
        let mut openings = Openings::new(49_152..=49_215);
        frames.iter().for_each(|frame| openings.see(frame));
        openings.finish()
    }

    #[test]
    fn a_handshake_is_read_however_its_packets_come() {
        let (said, answered) = (client_hello(), server_hello());
        let mut frames = vec![
            frame(CLIENT, SERVER, u32::MAX - 3, true, b""),
            frame(SERVER, CLIENT, 77, true, b""),
            // Numbers go around, and the second half is here first.
            frame(CLIENT, SERVER, 6, false, &said[9..]),
            frame(CLIENT, SERVER, u32::MAX - 2, false, &said[..10]),
            frame(SERVER, CLIENT, 78, false, &answered),
        ];
        // Two interfaces.
        frames.extend(frames.clone());
        let found = seen(&frames);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((&found[0].said, &found[0].answered), (&said, &answered));
        assert_eq!(found[0].server, SocketAddrV4::new(SERVER.0.into(), SERVER.1));
        assert_eq!(found[0].tls(), Some(Tls { offered: vec![0x0304, 0x0303], chosen: 0x0304 }));
    }

    #[test]
    fn what_is_not_tls_or_not_seen_from_the_start_is_not_taken_for_it() {
        let syn = || frame(CLIENT, SERVER, 0, true, b"");
        assert_eq!(seen(&[frame(CLIENT, SERVER, 1, false, &client_hello())]), []);
        assert_eq!(seen(&[frame(CLIENT, ([10, 77, 0, 2], 16_509), 0, true, b"")]), []);
        let plain = seen(&[syn(), frame(CLIENT, SERVER, 1, false, b"QEVM\0\0\0\x03")]);
        assert_eq!((plain[0].tls(), &plain[0].said[..4]), (None, &b"QEVM"[..]));
        let gap = seen(&[syn(), frame(CLIENT, SERVER, 5, false, b"later")]);
        assert_eq!(gap[0].said, b"");
    }

    #[test]
    fn no_hello_that_was_cut_or_changed_is_a_panic() {
        let opening = |said: &[u8], answered: &[u8]| Opening {
            client: SocketAddrV4::new(CLIENT.0.into(), 1),
            server: SocketAddrV4::new(SERVER.0.into(), 2),
            said: said.to_vec(),
            answered: answered.to_vec(),
        };
        let (said, answered) = (client_hello(), server_hello());
        for cut in 0..said.len() {
            assert_eq!(opening(&said[..cut], &answered).tls(), None, "{cut}");
        }
        for at in 0..answered.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = answered.clone();
                changed[at] = value;
                let _ = opening(&said, &changed).tls();
                let _ = opening(&changed, &said).tls();
            }
        }
        // As a disk's copy begins.
        let said = [&[0, 0, 0, 3][..], b"IHAVEOPT", &[0, 0, 0, 5, 0, 0, 0, 0], &said].concat();
        let acknowledged = [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0];
        let answered = [b"NBDMAGICIHAVEOPT", &[0, 3][..], &acknowledged, &answered].concat();
        assert_eq!(opening(&said, &answered).tls().map(|tls| tls.chosen), Some(0x0304));
        assert!(opening(&said, &answered).is_of_disks() && !opening(&said, &server_hello()).is_of_disks());
        for cut in 0..said.len() {
            assert_eq!(opening(&said[..cut], &answered).tls(), None, "{cut}");
        }
        let said = client_hello();
        // TLS 1.2 has no list of versions in the server's hello.
        let old =
            [&[22, 3, 3, 0, 44, 2, 0, 0, 40, 3, 3][..], &[1; 32], &[0, 0xc0, 0x2f, 0], &[0, 0]].concat();
        assert_eq!(opening(&said, &old).tls().map(|tls| tls.chosen), Some(0x0303));
    }
}
