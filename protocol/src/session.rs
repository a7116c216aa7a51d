//! One end of a link, without the link: bytes and time in, events and bytes out.
//!
//! ```text
//!                link_up / new epoch heard              hello that names my epoch
//!   Down  ------------------------------->  Greeting  ---------------------------->  Established
//!    ^                                          ^  |  hello: versions do not overlap      |
//!    |                                          |  +-----> Incompatible (greets slowly)   |
//!    |                                          +-----------------------------------------+
//!    +---- link_down (from anywhere)                 another epoch heard, or long silence
//! ```
//!
//! **Epochs.** Each end draws a random epoch when it begins: the agent once per process, the broker once per
//! connection. Every frame carries its sender's epoch and the one it believes the receiver to have. That is
//! the only sign that the peer changed: at a live migration the port may pass from one broker to another in
//! the middle of a frame, without a hang-up. A frame for another epoch is never acted on; it makes this end
//! greet, and the two ends meet anew.
//!
//! **What matters is resent.** [`Session::send`] keeps a message until the peer has acknowledged it. When a
//! *new* peer establishes itself, what was not acknowledged is sent to it, in order. So a message reaches each
//! peer at most once, and some peer at least once; who answers it is told by its own id, not by the session.
//! An acknowledgement goes out only after the caller has taken the message with [`Session::poll_event`] and
//! asks for bytes again: act (and write to disk) first, then call [`Session::poll_transmit`].
//!
//! **Nothing arrives twice.** Numbers are never used again, not even that of a message that was withdrawn, and
//! how far each of the last peers got is remembered: late bytes of a former peer may make this end turn to it
//! and back.
//!
//! **What does not matter** ([`Session::send_once`]) is dropped when there is no peer to hear it.

use crate::frame::{self, Decoder, FrameErrors};
use crate::handshake::{self, Versions};
use crate::message::{DecodeError, Message, append};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Marks one life of one end of a link. Random; 0 is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

/// A moment, as the caller's clocks show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since any fixed moment; never runs backwards.
    pub mono: Duration,
    /// Wall clock, microseconds since 1970. Only ever told to the peer.
    pub unix_us: u64,
}

/// Which end of the link this is, and so which messages go which way.
pub trait End {
    /// What this end says.
    type Out: Message + Clone;
    /// What this end hears.
    type In: Message;
    /// What this end's hello tells.
    type OutHello: Serialize;
    /// What the peer's hello tells.
    type InHello: for<'de> Deserialize<'de>;
}

/// Messages that may wait for their acknowledgement.
pub const MAX_QUEUED: usize = 64;
/// Messages sent and not yet acknowledged at any moment.
pub const WINDOW: usize = 16;
/// Events that may wait to be taken; bytes behind them are not read. Few: the largest message takes 30 times the
/// bytes in memory that it took on the wire.
pub const MAX_EVENTS: usize = 16;
/// Not acknowledged after this long: say it again, and then after twice as long each time ...
pub const RESEND_FIRST: Duration = Duration::from_millis(300);
/// ... up to this.
pub const RESEND_MAX: Duration = Duration::from_secs(5);
/// No answer to a hello after this long: say it again, and then after twice as long each time ...
pub const GREET_FIRST: Duration = Duration::from_millis(200);
/// ... up to this.
pub const GREET_MAX: Duration = Duration::from_secs(10);
/// A hello in answer to a stray frame: not more often than this, whatever the peer sends.
pub const GREET_SPACING: Duration = Duration::from_millis(20);
/// Said nothing for this long: say that I am here.
pub const HEARTBEAT_IDLE: Duration = Duration::from_secs(15);
/// Heard nothing for this long: greet again.
pub const SILENCE: Duration = Duration::from_secs(50);
/// Former peers whose `heard` is remembered.
pub const FORMER: usize = 16;

// Numbers of the session's own frames. Frozen.
/// Who I am; see [`handshake`].
pub const HELLO: u16 = 0;
/// Nothing but its header's `ack`.
pub const ACK: u16 = 1;
/// I live, and my wall clock says this.
pub const HEARTBEAT: u16 = 2;
/// In the place of a kept message that was withdrawn after a former peer had heard it.
pub const WITHDRAWN: u16 = 3;

/// In front of every frame's payload. Frozen.
#[derive(Serialize, Deserialize)]
struct Header {
    number: u16,
    /// Fixed width, little endian.
    from: [u8; 8],
    to: [u8; 8],
    /// Counts the sender's kept messages, from 1, through its whole epoch; 0: not kept. In a hello: the oldest
    /// one that waits for an acknowledgement, or the next one to come.
    seq: u64,
    /// Highest of the receiver's that arrived. In a hello: 1 for an answer, 0 where an answer is asked for.
    ack: u64,
}

/// What the session noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<M, H, O> {
    /// Both ends know each other.
    Established {
        /// Never met before (or the peer changed in between).
        new_peer: bool,
        /// The peer.
        peer: Epoch,
        /// The version both speak.
        version: u16,
        /// What its hello told.
        hello: H,
    },
    /// The peer is gone, has changed, or fell silent.
    Lost,
    /// No version in common. Greeting goes on, slowly: the peer may be upgraded.
    Incompatible {
        /// What the peer speaks.
        theirs: Versions,
    },
    /// Said by the peer; each message of one peer exactly once, in order, when it was sent with `send`.
    Message(M),
    /// The peer has acted on this message of ours.
    Delivered(O),
    /// The peer lives; its wall clock, microseconds since 1970.
    Heartbeat {
        /// As its heartbeat tells it.
        peer_unix_us: u64,
    },
}

/// The event of one end.
pub type EventOf<E> = Event<<E as End>::In, <E as End>::InHello, <E as End>::Out>;

/// What was skipped so far, to be counted and shown, never to be acted on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Below the level of messages.
    pub frames: FrameErrors,
    /// Bodies without a header of ours.
    pub bad_header: u64,
    /// Messages from a newer peer.
    pub unknown: u64,
    /// Messages or hellos that broke their layout or limits.
    pub malformed: u64,
    /// Repeated, ahead of a gap, or meant for another epoch.
    pub stray: u64,
}

/// More than [`MAX_QUEUED`] messages wait for their acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_QUEUED} messages already wait for the peer's acknowledgement")]
pub struct QueueFull;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Greeting,
    Established,
    Incompatible,
}

/// What is known of the peer. Outlives a hang-up: the same peer may come back.
#[derive(Debug)]
struct Peer {
    epoch: Epoch,
    /// A hello that names its epoch was sent to it.
    greeted: bool,
    /// Established with it at least once; the counters below count.
    met: bool,
    /// Highest of its kept messages that became an event.
    heard: u64,
}

/// An event that waits to be taken.
struct Noticed<E: End> {
    /// The peer and the number of the kept message in it: not acknowledged before it is taken.
    kept: Option<(Epoch, u64)>,
    event: EventOf<E>,
}

/// One end of a link.
pub struct Session<E: End> {
    me: Epoch,
    versions: Versions,
    hello: Vec<u8>,
    link: Link,
    peer: Option<Peer>,
    /// How far former peers got, latest last: one of them may be heard again.
    former: VecDeque<(Epoch, u64)>,
    decoder: Decoder,
    events: VecDeque<Noticed<E>>,
    /// Kept messages, oldest first; the front one has number `first_seq`. None: withdrawn, but its number is
    /// known to a former peer and so must not be given to another.
    queue: VecDeque<Option<E::Out>>,
    first_seq: u64,
    /// Highest number that was ever written.
    used_seq: u64,
    /// How many of `queue` were sent since the last resend ...
    in_flight: usize,
    /// ... and how many were ever sent to this peer: only those can be acknowledged.
    sent: usize,
    once: VecDeque<E::Out>,
    greet_due: Option<Duration>,
    greet_wait: Duration,
    last_greeting: Option<Duration>,
    resend_due: Option<Duration>,
    resend_wait: Duration,
    ack_owed: bool,
    last_sent: Duration,
    last_heard: Duration,
    skipped: Skipped,
}

impl<E: End> Session<E> {
    /// An end that no link reaches yet. `me` must be drawn at random and not be 0.
    pub fn new(me: Epoch, hello: &E::OutHello) -> Self {
        Self {
            me,
            versions: Versions::OURS,
            hello: hello_bytes::<E>(hello),
            link: Link::Down,
            peer: None,
            former: VecDeque::new(),
            decoder: Decoder::new(),
            events: VecDeque::new(),
            queue: VecDeque::new(),
            first_seq: 1,
            used_seq: 0,
            in_flight: 0,
            sent: 0,
            once: VecDeque::new(),
            greet_due: None,
            greet_wait: GREET_FIRST,
            last_greeting: None,
            resend_due: None,
            resend_wait: RESEND_FIRST,
            ack_owed: false,
            last_sent: Duration::ZERO,
            last_heard: Duration::ZERO,
            skipped: Skipped::default(),
        }
    }

    /// Speaks these versions instead of this build's: for tests of the peers to come.
    pub fn with_versions(mut self, versions: Versions) -> Self {
        self.versions = versions;
        self
    }

    /// This end's epoch.
    pub fn epoch(&self) -> Epoch {
        self.me
    }

    /// Both ends know each other right now.
    pub fn is_established(&self) -> bool {
        self.link == Link::Established
    }

    /// Kept messages without acknowledgement.
    pub fn queued(&self) -> usize {
        self.queue.iter().flatten().count()
    }

    /// What was skipped so far.
    pub fn skipped(&self) -> Skipped {
        Skipped { frames: self.decoder.errors(), ..self.skipped }
    }

    /// What the next hello tells. Does not greet by itself.
    pub fn set_hello(&mut self, hello: &E::OutHello) {
        self.hello = hello_bytes::<E>(hello);
    }

    /// Something is attached at the other side (again): greet it.
    pub fn link_up(&mut self, now: Now) {
        self.decoder.reset();
        self.lose(Link::Greeting);
        self.greet_soon(now, true);
        self.last_heard = now.mono;
    }

    /// The other side hung up.
    pub fn link_down(&mut self) {
        self.decoder.reset();
        self.lose(Link::Down);
        self.greet_due = None;
    }

    /// Queues a message that matters: resent until acknowledged, handed on to the next peer if need be.
    pub fn send(&mut self, message: E::Out) -> Result<(), QueueFull> {
        if self.queue.len() >= MAX_QUEUED {
            return Err(QueueFull);
        }
        self.queue.push_back(Some(message));
        Ok(())
    }

    /// Ends this end; what was not acknowledged, oldest first, for the next one to send.
    pub fn into_undelivered(self) -> impl Iterator<Item = E::Out> {
        self.queue.into_iter().flatten()
    }

    /// Says something once, now or never. False: nobody to hear it.
    pub fn send_once(&mut self, message: E::Out) -> bool {
        let heard = self.is_established() && self.once.len() < WINDOW;
        if heard {
            self.once.push_back(message);
        }
        heard
    }

    /// Takes back the kept messages that `unwanted` picks and that were not sent to the present peer yet.
    pub fn withdraw(&mut self, mut unwanted: impl FnMut(&E::Out) -> bool) {
        for slot in self.queue.iter_mut().skip(self.sent) {
            slot.take_if(|m| unwanted(m));
        }
        let mut seq = self.first_seq - 1;
        let used = self.used_seq;
        self.queue.retain(|slot| {
            seq += 1;
            slot.is_some() || seq <= used
        });
    }

    /// Some of what the link brought was thrown away unread: what follows, up to the next border, is no frame.
    pub fn input_lost(&mut self) {
        self.decoder.skip_to_border();
    }

    /// Room for more input: false while events wait to be taken, so that a flood stays outside.
    pub fn wants_input(&self) -> bool {
        self.events.len() < MAX_EVENTS
    }

    /// Reads what the link brought. Returns how many bytes were used; the rest belongs to a later call, after
    /// events were taken.
    pub fn receive(&mut self, now: Now, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        if self.link == Link::Down {
            return bytes.len();
        }
        while self.wants_input() {
            let Some(body) = self.decoder.next_frame(&mut rest) else { break };
            self.frame(now, &body);
        }
        bytes.len() - rest.len()
    }

    /// The next thing noticed.
    pub fn poll_event(&mut self) -> Option<EventOf<E>> {
        self.events.pop_front().map(|noticed| noticed.event)
    }

    /// When [`Session::poll_transmit`] wants to be called next, at the latest.
    pub fn next_timeout(&self) -> Option<Duration> {
        match self.link {
            Link::Down => None,
            Link::Greeting | Link::Incompatible => self.greet_due,
            Link::Established => {
                let idle = self.last_sent + HEARTBEAT_IDLE;
                let silence = self.last_heard + SILENCE;
                [self.greet_due, self.resend_due, Some(idle), Some(silence)].into_iter().flatten().min()
            }
        }
    }

    /// Appends to `out` what is to be written now, at most about `room` bytes beyond one frame; acts on every
    /// timer that is due. Call after each `receive`, `send` and timeout. False: nothing to say.
    pub fn poll_transmit(&mut self, now: Now, room: usize, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        self.timers(now);
        if self.greet_due.is_some_and(|due| due <= now.mono) {
            self.greet(now, out);
        }
        // A hello that is still owed goes first: without it the peer would take the rest for a stranger's.
        if self.is_established() && self.greet_due.is_none() {
            while let Some(message) = (out.len() - before < room).then(|| self.once.pop_front()).flatten() {
                self.say(now, &message, 0, out);
            }
            while out.len() - before < room && self.in_flight < self.queue.len().min(WINDOW) {
                let seq = self.first_seq + self.in_flight as u64;
                match self.queue[self.in_flight].clone() {
                    Some(message) => self.say(now, &message, seq, out),
                    None => self.write(now, WITHDRAWN, seq, &[], out),
                }
                self.used_seq = self.used_seq.max(seq);
                self.in_flight += 1;
                self.sent = self.sent.max(self.in_flight);
                self.resend_due.get_or_insert(now.mono + self.resend_wait);
            }
            let (heard, taken) = self.heard_and_taken();
            if self.ack_owed && heard == taken {
                self.write(now, ACK, 0, &[], out);
            }
            if self.last_sent + HEARTBEAT_IDLE <= now.mono {
                let mut payload = Vec::new();
                append(&now.unix_us, &mut payload);
                self.write(now, HEARTBEAT, 0, &payload, out);
            }
        }
        out.len() > before
    }

    fn timers(&mut self, now: Now) {
        if !self.is_established() {
            return;
        }
        if self.last_heard + SILENCE <= now.mono {
            self.lose(Link::Greeting);
            self.greet_soon(now, true);
        } else if self.resend_due.is_some_and(|due| due <= now.mono) {
            // From the oldest on: the receiver takes messages in order and drops what comes after a gap.
            self.in_flight = 0;
            self.resend_due = None;
            self.resend_wait = (self.resend_wait * 2).min(RESEND_MAX);
            if self.resend_wait == RESEND_MAX {
                // Not a matter of a lost frame: tell it again where my numbers stand.
                self.greet_soon(now, false);
            }
        }
    }

    /// Leaves the established state, if that is where we are.
    fn lose(&mut self, to: Link) {
        if self.link == Link::Established {
            self.notice(Event::Lost);
        }
        self.link = to;
        self.in_flight = 0;
        self.resend_due = None;
        self.resend_wait = RESEND_FIRST;
        self.ack_owed = false;
        self.once.clear();
        if let Some(peer) = &mut self.peer {
            peer.greeted = false;
        }
    }

    fn greet_soon(&mut self, now: Now, afresh: bool) {
        if afresh {
            self.greet_wait = GREET_FIRST;
        }
        let spaced = self.last_greeting.map_or(now.mono, |last| now.mono.max(last + GREET_SPACING));
        self.greet_due = Some(self.greet_due.map_or(spaced, |due| due.min(spaced)));
    }

    fn greet(&mut self, now: Now, out: &mut Vec<u8>) {
        let payload = handshake::encode(self.versions, &self.hello);
        self.write(now, HELLO, self.first_seq, &payload, out);
        self.last_greeting = Some(now.mono);
        if let Some(peer) = &mut self.peer {
            peer.greeted = true;
        }
        self.greet_due = match self.link {
            Link::Down | Link::Established => None,
            Link::Greeting | Link::Incompatible => {
                let due = now.mono + self.greet_wait;
                self.greet_wait = (self.greet_wait * 2).min(GREET_MAX);
                Some(due)
            }
        };
    }

    fn say(&mut self, now: Now, message: &E::Out, seq: u64, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        message.encode(&mut payload);
        self.write(now, message.number(), seq, &payload, out);
    }

    fn write(&mut self, now: Now, number: u16, seq: u64, payload: &[u8], out: &mut Vec<u8>) {
        let to = self.peer.as_ref().map_or(handshake::NOBODY, |p| p.epoch);
        let (heard, taken) = self.heard_and_taken();
        let ack = if number == HELLO { u64::from(self.is_established()) } else { taken };
        let header = Header { number, from: self.me.0.to_le_bytes(), to: to.0.to_le_bytes(), seq, ack };
        let mut body = Vec::with_capacity(32 + payload.len());
        append(&header, &mut body);
        body.extend_from_slice(payload);
        // Cannot be too long: tests/limits.rs builds the largest message of each kind.
        if frame::encode(&body, out).is_ok() {
            self.last_sent = now.mono;
            if number != HELLO {
                self.ack_owed = taken < heard;
            }
        }
    }

    /// Highest of the peer's kept messages that arrived, and that the caller has taken.
    fn heard_and_taken(&self) -> (u64, u64) {
        let Some(peer) = &self.peer else { return (0, 0) };
        let waiting = self.events.iter().filter_map(|n| n.kept).find(|(epoch, _)| *epoch == peer.epoch);
        (peer.heard, waiting.map_or(peer.heard, |(_, seq)| seq - 1))
    }

    fn notice(&mut self, event: EventOf<E>) {
        self.events.push_back(Noticed { kept: None, event });
    }

    fn frame(&mut self, now: Now, body: &[u8]) {
        let Ok((header, payload)) = postcard::take_from_bytes::<Header>(body) else {
            self.skipped.bad_header = self.skipped.bad_header.saturating_add(1);
            return;
        };
        let from = Epoch(u64::from_le_bytes(header.from));
        let to = Epoch(u64::from_le_bytes(header.to));
        if from == handshake::NOBODY || from == self.me {
            self.skipped.stray = self.skipped.stray.saturating_add(1);
            return;
        }
        if header.number == HELLO {
            return self.hello(now, &header, payload);
        }
        let from_peer = self.peer.as_ref().is_some_and(|p| p.epoch == from);
        if to != self.me || !from_peer || !self.is_established() {
            // The peer changed, or it takes me for somebody else: meet anew.
            self.skipped.stray = self.skipped.stray.saturating_add(1);
            self.greet_soon(now, false);
            return;
        }
        self.last_heard = now.mono;
        self.acknowledged(now, header.ack);
        match header.number {
            ACK => {}
            HEARTBEAT => match postcard::from_bytes(payload) {
                Ok(peer_unix_us) => self.notice(Event::Heartbeat { peer_unix_us }),
                Err(_) => self.skipped.malformed = self.skipped.malformed.saturating_add(1),
            },
            number => self.message(number, header.seq, payload),
        }
    }

    fn hello(&mut self, now: Now, header: &Header, payload: &[u8]) {
        let from = Epoch(u64::from_le_bytes(header.from));
        let Some((theirs, body)) = handshake::decode(payload) else {
            self.skipped.malformed = self.skipped.malformed.saturating_add(1);
            return;
        };
        // All of it is read before any of it is acted on: what is no hello must not cost us the peer we have.
        let common = match self.versions.common(theirs) {
            None => None,
            Some(version) => match postcard::from_bytes::<E::InHello>(body) {
                Ok(hello) => Some((version, hello)),
                Err(_) => {
                    self.skipped.malformed = self.skipped.malformed.saturating_add(1);
                    return;
                }
            },
        };
        self.last_heard = now.mono;
        if self.peer.as_ref().is_none_or(|p| p.epoch != from) {
            self.lose(Link::Greeting);
            self.turn_to(from);
        }
        let Some((version, hello)) = common else {
            if self.link != Link::Incompatible {
                self.lose(Link::Incompatible);
                self.notice(Event::Incompatible { theirs });
                self.greet_wait = GREET_MAX;
                self.greet_soon(now, false);
            }
            return;
        };
        if self.link == Link::Incompatible {
            self.link = Link::Greeting;
        }
        let knows_me = header.to == self.me.0.to_le_bytes();
        let Some(peer) = &mut self.peer else { return };
        // What it has put behind itself, with me or with a former peer, will not come again.
        peer.heard = peer.heard.max(header.seq.saturating_sub(1));
        if header.ack == 0 || !knows_me || !peer.greeted {
            self.greet_soon(now, false);
        }
        let Some(peer) = &mut self.peer else { return };
        if knows_me && self.link == Link::Greeting {
            let new_peer = !std::mem::replace(&mut peer.met, true);
            self.link = Link::Established;
            if peer.greeted && header.ack != 0 {
                self.greet_due = None;
            }
            self.greet_wait = GREET_FIRST;
            self.last_sent = now.mono;
            self.notice(Event::Established { new_peer, peer: from, version, hello });
        }
    }

    /// Another peer from now on, perhaps one that was heard before.
    fn turn_to(&mut self, epoch: Epoch) {
        if let Some(left) = self.peer.take().filter(|p| p.heard > 0) {
            if self.former.len() == FORMER {
                self.former.pop_front();
            }
            self.former.push_back((left.epoch, left.heard));
        }
        let known = self.former.iter().position(|(e, _)| *e == epoch).and_then(|i| self.former.remove(i));
        self.peer =
            Some(Peer { epoch, greeted: false, met: false, heard: known.map_or(0, |(_, heard)| heard) });
        self.sent = 0;
    }

    fn acknowledged(&mut self, now: Now, ack: u64) {
        // Only what was sent to this peer can be acknowledged, whatever the number claims.
        let done = match ack.checked_sub(self.first_seq) {
            Some(behind) if behind < self.sent as u64 => behind as usize + 1,
            Some(_) | None => return,
        };
        for message in self.queue.drain(..done).flatten() {
            self.events.push_back(Noticed { kept: None, event: Event::Delivered(message) });
        }
        self.first_seq += done as u64;
        self.sent -= done;
        self.in_flight = self.in_flight.saturating_sub(done);
        self.resend_wait = RESEND_FIRST;
        self.resend_due = (self.in_flight > 0).then_some(now.mono + RESEND_FIRST);
    }

    fn message(&mut self, number: u16, seq: u64, payload: &[u8]) {
        let Some(peer) = &mut self.peer else { return };
        if seq != 0 {
            // Answered even when it is old: the peer repeats itself because an acknowledgement was lost.
            self.ack_owed = true;
            if seq.checked_sub(1) != Some(peer.heard) {
                self.skipped.stray = self.skipped.stray.saturating_add(1);
                return;
            }
            peer.heard = seq;
        }
        let kept = (seq != 0).then_some((peer.epoch, seq));
        if number == WITHDRAWN {
            return;
        }
        match E::In::decode(number, payload) {
            Ok(message) => self.events.push_back(Noticed { kept, event: Event::Message(message) }),
            Err(DecodeError::UnknownMessage(_)) => {
                self.skipped.unknown = self.skipped.unknown.saturating_add(1);
            }
            Err(DecodeError::Malformed(_)) => {
                self.skipped.malformed = self.skipped.malformed.saturating_add(1);
            }
        }
    }
}

fn hello_bytes<E: End>(hello: &E::OutHello) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(hello, &mut bytes);
    bytes
}
