//! Connections too short for the kernel's list, by their first and last segments; and, weaker, exchanges over UDP.
//!
//! ```text
//!   TCP   in SYN -> out SYN-ACK -> in FIN and out FIN, in any order     bytes: from the sequence numbers
//!   UDP   in -> out -> in                                               bytes: from then on
//! ```
//!
//! This machine sends a FIN only over a connection that its peer has confirmed with the number drawn here, and the peer's
//! own FIN must acknowledge data of ours that was really sent: who forges an address sees neither. Over UDP the third
//! packet shows only that somebody expected an answer; whoever guesses that one was sent can forge it.
//!
//! Both tables have a fixed size, and a keyed hash finds the place, over UDP one of a few. A flood takes places away from
//! others: then they are missed, and nothing is made up.

use super::count::Flow;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

const PLACES: usize = 8192;
/// So many places are one exchange's, as good as each other: with one, two of twenty clients met once in forty times.
const SHARED: usize = 8;
/// Ended connections that wait to be counted; beyond, they are missed.
const MAX_DONE: usize = 16_384;
/// An exchange over UDP that was quiet for so long gives its place away.
const QUIET: Duration = Duration::from_secs(60);
/// No kernel numbers its sockets from here on.
const OURS: u64 = 1 << 63;

/// A packet that was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Who.
    pub peer: SocketAddr,
    /// The end here.
    pub own: SocketAddr,
    /// From here to there.
    pub out: bool,
    /// What it carries.
    pub what: What,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A segment.
    Tcp {
        /// The first of a connection.
        syn: bool,
        /// The last.
        fin: bool,
        /// What it acknowledges.
        ack: Option<u32>,
        /// Number of its first byte.
        seq: u32,
        /// Bytes of data.
        data: u32,
    },
    /// A datagram with so many bytes of data.
    Udp(u32),
}

/// A connection that has ended, or an exchange that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// As the kernel would have told it.
    pub flow: Flow,
    /// When it began. None: the kernel's list never has it.
    pub begun: Option<Duration>,
}

/// A TCP connection of which not all was seen yet.
#[derive(Debug, Clone, Copy)]
struct Half {
    ends: (SocketAddr, SocketAddr),
    begun: Duration,
    peer_first: u32,
    own_first: Option<u32>,
    /// Number of this machine's end, and what it acknowledged with it.
    own_end: Option<(u32, u32)>,
    /// Number of the peer's end, and what it acknowledged with it.
    peer_end: Option<(u32, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Exchange {
    ends: (SocketAddr, SocketAddr),
    begun: Duration,
    last: Duration,
    answered: bool,
    confirmed: bool,
    bytes: u64,
    news: bool,
}

/// Puts packets together.
pub struct Tracker {
    hash: RandomState,
    tcp: Vec<Option<Half>>,
    udp: Vec<Option<Exchange>>,
    done: Vec<Short>,
}

impl Tracker {
    /// Nothing seen. `hash`: keyed at random.
    pub fn new(hash: RandomState) -> Self {
        Self { hash, tcp: vec![None; PLACES], udp: Vec::new(), done: Vec::new() }
    }

    /// Takes in a packet.
    pub fn see(&mut self, now: Duration, packet: &Packet) {
        let ends = (packet.peer, packet.own);
        let hash = self.hash.hash_one(ends);
        let place = (hash % PLACES as u64) as usize;
        match packet.what {
            What::Tcp { syn, fin, ack, seq, data } => {
                let Some(place) = self.tcp.get_mut(place) else { return };
                if syn && !packet.out && ack.is_none() {
                    let half = Half {
                        ends,
                        begun: now,
                        peer_first: seq,
                        own_first: None,
                        own_end: None,
                        peer_end: None,
                    };
                    // The same SYN said again changes nothing.
                    let again = place.is_some_and(|h| h.ends == ends && h.peer_first == seq);
                    if !again {
                        *place = Some(half);
                    }
                    return;
                }
                let Some(half) = place.as_mut().filter(|h| h.ends == ends) else { return };
                let answers = ack == Some(half.peer_first.wrapping_add(1));
                match (packet.out, syn, fin, ack) {
                    (true, true, _, _) if answers => half.own_first = Some(seq),
                    (true, false, true, Some(ack)) => half.own_end = Some((seq.wrapping_add(data), ack)),
                    (false, false, true, Some(ack)) => half.peer_end = Some((seq.wrapping_add(data), ack)),
                    _ => return,
                }
                if half.own_end.is_none() || half.peer_end.is_none() {
                    return;
                }
                let (half, hash) = (*half, self.hash.hash_one((ends, half.begun)));
                *place = None;
                if self.done.len() < MAX_DONE {
                    self.done.extend(half.over(hash | OURS));
                }
            }
            What::Udp(bytes) => self.datagram(now, place / SHARED * SHARED, ends, packet.out, bytes),
        }
    }

    fn datagram(
        &mut self,
        now: Duration,
        place: usize,
        ends: (SocketAddr, SocketAddr),
        out: bool,
        bytes: u32,
    ) {
        if self.udp.is_empty() {
            self.udp = vec![None; PLACES];
        }
        let Some(places) = self.udp.get_mut(place..place + SHARED) else { return };
        let goes_on = |e: &Exchange| now < e.last + QUIET;
        if let Some(e) = places.iter_mut().flatten().find(|e| e.ends == ends && goes_on(e)) {
            e.last = now;
            e.confirmed |= e.answered && !out;
            e.answered |= out;
            if e.confirmed {
                e.bytes += u64::from(bytes);
                e.news = true;
            }
            return;
        }
        if out {
            return;
        }
        // An empty place, or an old one's; else that of who was quiet longest of those that nothing confirms. One that is
        // confirmed and going on keeps its place.
        let free = |place: &&mut Option<Exchange>| !place.is_some_and(|e| e.confirmed && goes_on(&e));
        let worth = |place: &&mut Option<Exchange>| place.filter(|e| goes_on(e)).map(|e| e.last);
        if let Some(place) = places.iter_mut().filter(free).min_by_key(worth) {
            let (answered, confirmed, bytes, news) = (false, false, 0, false);
            *place = Some(Exchange { ends, begun: now, last: now, answered, confirmed, bytes, news });
        }
    }

    /// What is to be counted: connections that have ended since, exchanges that went on.
    pub fn take(&mut self) -> Vec<Short> {
        let mut all = std::mem::take(&mut self.done);
        for exchange in self.udp.iter_mut().flatten() {
            if !std::mem::take(&mut exchange.news) {
                continue;
            }
            let (peer, own) = exchange.ends;
            let cookie = self.hash.hash_one((exchange.ends, exchange.begun)) | OURS;
            // Answered: that is what `acked` is for.
            let (acked, received) = (exchange.bytes, 0);
            let flow = Flow { peer: peer.ip(), own: own.ip(), cookie, acked, received, rtt_us: None };
            all.push(Short { flow, begun: None });
        }
        all
    }
}

impl Half {
    /// What it carried, if the peer really was at its other end.
    fn over(&self, cookie: u64) -> Option<Short> {
        let own_first = self.own_first?;
        let ((own_end, received_to), (peer_end, acked_to)) = (self.own_end?, self.peer_end?);
        // A SYN counts as one byte, and so does a FIN.
        let sent = own_end.wrapping_sub(own_first).wrapping_sub(1);
        let acked = acked_to.wrapping_sub(own_first).wrapping_sub(1);
        // What the peer says that it sent, as far as this machine has acknowledged it.
        let of_peer = |end: u32| end.wrapping_sub(self.peer_first).wrapping_sub(1);
        let received = of_peer(peer_end).min(of_peer(received_to));
        if sent == 0 || acked == 0 || acked > sent.saturating_add(1) {
            return None;
        }
        let flow = Flow {
            peer: self.ends.0.ip(),
            own: self.ends.1.ip(),
            cookie,
            acked: u64::from(sent) + 1,
            received: received.into(),
            rtt_us: None,
        };
        Some(Short { flow, begun: Some(self.begun) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "81.2.3.4:5555";
    const OWN: &str = "193.0.0.1:80";

    fn packet(out: bool, what: What) -> Packet {
        Packet { peer: PEER.parse().unwrap(), own: OWN.parse().unwrap(), out, what }
    }

    fn tcp(out: bool, syn: bool, fin: bool, ack: Option<u32>, seq: u32, data: u32) -> Packet {
        packet(out, What::Tcp { syn, fin, ack, seq, data })
    }

    fn all(packets: &[Packet]) -> Vec<Short> {
        let mut tracker = Tracker::new(RandomState::new());
        for (ms, packet) in (0..).zip(packets) {
            tracker.see(Duration::from_millis(ms), packet);
        }
        tracker.take()
    }

    /// A request of 100 bytes, an answer of 5000; numbers wrap on the way.
    const P: u32 = u32::MAX - 10;
    const O: u32 = u32::MAX - 99;

    fn conversation(ack_of_answer: u32) -> [Packet; 4] {
        [
            tcp(false, true, false, None, P, 0),
            tcp(true, true, false, Some(P.wrapping_add(1)), O, 0),
            tcp(true, false, true, Some(P.wrapping_add(101)), O.wrapping_add(4001), 1000),
            tcp(false, false, true, Some(ack_of_answer), P.wrapping_add(101), 0),
        ]
    }

    #[test]
    fn a_short_connection_is_counted_with_what_it_carried() {
        let real = conversation(O.wrapping_add(5002));
        for order in [[0, 1, 2, 3], [0, 1, 3, 2]] {
            let found = all(&order.map(|i| real[i]));
            let [Short { flow, begun }] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!((flow.acked, flow.received, *begun), (5001, 100, Some(Duration::ZERO)));
            assert_eq!(
                (flow.peer.to_string(), flow.own.to_string()),
                ("81.2.3.4".into(), "193.0.0.1".into())
            );
            assert!(flow.cookie >= OURS);
        }
        let twice: Vec<_> = real.iter().flat_map(|p| [*p, *p]).collect();
        assert_eq!(all(&twice).len(), 1, "seen on two interfaces");
    }

    /// Out of the window, so that the kernel ignores it; and then an end as it should be.
    #[test]
    fn what_the_peer_claims_to_have_sent_counts_as_far_as_it_came() {
        let [syn, answer, own_end, end] = conversation(O.wrapping_add(5002));
        let far = P.wrapping_add(4_000_000_000);
        let claim = tcp(false, false, true, Some(O.wrapping_add(5002)), far, 0);
        for packets in [[syn, answer, claim, own_end, end], [syn, answer, own_end, claim, end]] {
            for short in all(&packets) {
                assert!(short.flow.received <= 101, "{short:?}");
            }
        }
        assert_eq!(all(&[syn, answer, claim, own_end])[0].flow.received, 100);
    }

    #[test]
    fn who_does_not_know_our_numbers_is_not_counted() {
        let real = conversation(O.wrapping_add(5002));
        for missing in 0..4 {
            let some: Vec<_> = (0..4).filter(|i| *i != missing).map(|i| real[i]).collect();
            assert_eq!(all(&some), [], "without {missing}");
        }
        for wrong in [O, O.wrapping_add(1), O.wrapping_add(5003), O.wrapping_add(1 << 30), O.wrapping_sub(1)]
        {
            assert_eq!(all(&conversation(wrong)), [], "{wrong}");
        }
        // A million SYNs, each answered by the kernel, and a guessed end: nothing, and no memory.
        let mut tracker = Tracker::new(RandomState::new());
        for n in 0..1_000_000u32 {
            let peer = SocketAddr::from(([81, (n >> 16) as u8, (n >> 8) as u8, n as u8], 5555));
            for packet in [real[0], real[1], tcp(false, false, true, Some(n), P.wrapping_add(1), 0)] {
                tracker.see(Duration::from_secs(1), &Packet { peer, ..packet });
            }
        }
        assert_eq!(tracker.take(), []);
        assert_eq!((tracker.tcp.len(), tracker.done.capacity()), (PLACES, 0));
    }

    #[test]
    fn exchanges_whose_places_are_the_same_are_all_counted() {
        const CROWD: u16 = 400;
        let mut tracker = Tracker::new(RandomState::new());
        let peer = |port| SocketAddr::new([81, 2, 3, 4].into(), port);
        for n in 1..=CROWD {
            for out in [false, true, false] {
                tracker.see(Duration::ZERO, &Packet { peer: peer(n), ..packet(out, What::Udp(10)) });
            }
            // Nobody confirms these; each takes at most a place that was nobody's.
            tracker.see(Duration::ZERO, &Packet { peer: peer(CROWD + n), ..packet(false, What::Udp(10)) });
        }
        assert_eq!(tracker.take().len(), usize::from(CROWD));
    }

    #[test]
    fn an_exchange_over_udp_counts_from_its_third_packet_on() {
        let udp = |out, bytes| packet(out, What::Udp(bytes));
        assert_eq!(all(&[udp(false, 50), udp(false, 50), udp(false, 50)]), [], "never answered");
        assert_eq!(all(&[udp(true, 50), udp(true, 50), udp(false, 50)]), [], "we began it: no client");
        assert_eq!(all(&[udp(false, 50), udp(true, 1000)]), [], "whoever asked may never have got it");
        let mut tracker = Tracker::new(RandomState::new());
        let mut at = 0;
        let mut see = |tracker: &mut Tracker, out, bytes| {
            at += 1;
            tracker.see(Duration::from_secs(at), &udp(out, bytes));
        };
        for (out, bytes) in [(false, 50), (true, 1000), (false, 60), (true, 2000)] {
            see(&mut tracker, out, bytes);
        }
        let first = tracker.take();
        assert_eq!((first.len(), first[0].flow.acked, first[0].begun), (1, 2060, None));
        assert_eq!(tracker.take(), [], "nothing new");
        see(&mut tracker, true, 40);
        let then = tracker.take();
        assert_eq!((then[0].flow.acked, then[0].flow.cookie), (2100, first[0].flow.cookie));
    }
}
