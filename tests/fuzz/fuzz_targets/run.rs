//! One input of the fuzzer, played. Shared with `protocol/tests/corpus_replay.rs`.
//!
//! The first byte chooses the end that is tried (bit 0: host) and how the rest is read (bit 1): as the bytes of a
//! port, or as a script that puts well-formed frames together and mangles them, which gets behind the CRC.

use coms_protocol::frame::{self, Decoder, MAX_BODY, MAX_FRAME};
use coms_protocol::guest_to_host::{GuestHello, Ping};
use coms_protocol::host_to_guest::{HostHello, Pong};
use coms_protocol::message::Message;
use coms_protocol::session::{End, Epoch, Event, MAX_EVENTS, MAX_QUEUED, Now, Session};
use coms_protocol::types::{Place, Text};
use coms_protocol::{Guest, Host};
use std::time::Duration;

/// Plays one input; panics when something does not hold.
pub fn run(data: &[u8]) {
    let Some((&mode, rest)) = data.split_first() else { return };
    if mode & 1 == 0 {
        let session = Session::<Guest>::new(Epoch(ME), &GuestHello::default());
        Trial::new(session, |n| Ping { number: n }.into()).play(mode, rest);
    } else {
        let place = Place { alias: Text::clipped("a"), region: Text::clipped("r") };
        let session = Session::<Host>::new(Epoch(ME), &HostHello { place, enabled: true });
        Trial::new(session, |n| Pong { number: n }.into()).play(mode, rest);
    }
}

const ME: u64 = 7;
/// The peers that a script's frames come from; bytes of a port know them too.
const PEERS: [u64; 4] = [0, ME, 100, 200];

struct Trial<E: End> {
    session: Session<E>,
    make: fn(u64) -> E::Out,
    ms: u64,
    queued: u64,
    delivered: u64,
    last_hello: Option<u64>,
}

impl<E: End> Trial<E> {
    fn new(mut session: Session<E>, make: fn(u64) -> E::Out) -> Self {
        session.link_up(at(0));
        Trial { session, make, ms: 0, queued: 0, delivered: 0, last_hello: None }
    }

    fn play(mut self, mode: u8, rest: &[u8]) {
        self.speak();
        if mode & 2 == 0 {
            self.queue(3);
            for bytes in rest.chunks(1 + usize::from(mode >> 2)) {
                self.hear(bytes);
                self.speak();
            }
        } else {
            self.script(rest);
        }
        self.an_honest_peer_comes();
    }

    /// Each step is a byte that says what, and what that takes.
    fn script(&mut self, mut rest: &[u8]) {
        while let Some((&what, after)) = rest.split_first() {
            rest = after;
            match what {
                0 => self.queue(1),
                1 => self.session.link_down(),
                2 => self.session.link_up(at(self.ms)),
                3 => self.wait(take(&mut rest, 1)[0].into()),
                4 => self.wait(60_000),
                5 => self.session.withdraw(|m| {
                    let mut bytes = Vec::new();
                    m.encode(&mut bytes);
                    bytes.first().is_some_and(|b| b % 2 == 0)
                }),
                6 => {
                    let raw = take_counted(&mut rest);
                    self.hear(&raw);
                }
                _ => {
                    let frame = frame_of(what, &mut rest);
                    self.hear(&frame);
                }
            }
            // Bit 7: nobody takes events or asks for bytes yet.
            if what & 0x80 == 0 {
                self.speak();
            }
        }
        self.session.link_up(at(self.ms));
    }

    fn queue(&mut self, how_many: u64) {
        for _ in 0..how_many {
            if self.session.send((self.make)(self.queued)).is_ok() {
                self.queued += 1;
            }
        }
        assert!(self.session.queued() <= MAX_QUEUED);
    }

    fn wait(&mut self, ms: u64) {
        self.ms += ms;
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        // The frame decoder by itself gives no body that is too long, and stops only when all is read.
        let (mut decoder, mut alone) = (Decoder::new(), bytes);
        while let Some(body) = decoder.next_frame(&mut alone) {
            assert!(body.len() <= MAX_FRAME);
        }
        assert!(alone.is_empty());
        loop {
            let used = self.session.receive(at(self.ms), bytes);
            bytes = &bytes[used..];
            if bytes.is_empty() {
                return;
            }
            assert!(!self.session.wants_input(), "stopped reading for no reason");
            self.take_events();
        }
    }

    fn take_events(&mut self) {
        let mut taken = 0;
        while let Some(event) = self.session.poll_event() {
            taken += 1;
            if let Event::Delivered(_) = event {
                self.delivered += 1;
            }
        }
        assert!(taken < MAX_EVENTS + 20, "{taken} events waited");
        assert!(self.delivered <= self.queued, "delivered what was never sent");
    }

    fn speak(&mut self) {
        self.take_events();
        let mut out = Vec::new();
        self.session.poll_transmit(at(self.ms), usize::MAX, &mut out);
        let mut input = out.as_slice();
        let mut decoder = Decoder::new();
        while let Some(body) = decoder.next_frame(&mut input) {
            if body[0] == 0 {
                assert!(self.last_hello.is_none_or(|last| self.ms >= last + 20), "hellos too often");
                self.last_hello = Some(self.ms);
            }
        }
        assert_eq!(decoder.errors(), Default::default(), "wrote what it cannot read");
        let due = self.session.next_timeout();
        assert!(due.is_none_or(|due| due > at(self.ms).mono), "asks to be called in the past");
    }

    /// Whatever was heard before: a new peer's hello is answered, and the two meet.
    fn an_honest_peer_comes(&mut self) {
        const HONEST: u64 = 0x1234_5678_9abc_def0;
        self.wait(1_000);
        self.hear(&[0]);
        for to in [0, ME] {
            self.hear(&framed(0, HONEST, to, 1, 0, &[b"COMS\x01\0\x01\0", &GENEROUS[..]].concat()));
            self.wait(20);
            self.speak();
        }
        assert!(self.session.is_established(), "no longer meets anybody");
    }
}

/// The body of a hello that either end can read: two empty texts and a yes, or an empty text and an empty list.
const GENEROUS: [u8; 3] = [0, 0, 1];

fn at(ms: u64) -> Now {
    Now { mono: Duration::from_millis(ms), unix_us: ms * 1_000 }
}

/// The next `n` bytes, zeros where the input is at its end.
fn take(rest: &mut &[u8], n: usize) -> Vec<u8> {
    let (head, tail) = rest.split_at(n.min(rest.len()));
    *rest = tail;
    let mut bytes = head.to_vec();
    bytes.resize(n, 0);
    bytes
}

/// A length byte and so many bytes.
fn take_counted(rest: &mut &[u8]) -> Vec<u8> {
    let n = usize::from(take(rest, 1)[0]).min(rest.len().max(1));
    take(rest, n)
}

/// A frame from a script: `what`'s bits say from whom, to whom, and whether it is mangled.
fn frame_of(what: u8, rest: &mut &[u8]) -> Vec<u8> {
    let head = take(rest, 4);
    let number = match head[0] {
        n @ 0..=31 => u16::from(n),
        n @ 32..=63 => 256 + u16::from(n) - 32,
        n => u16::from(n) * 257,
    };
    // Small counters find their way to the ones that count; the top ones find the overflows.
    let counter = |b: u8| if b < 200 { u64::from(b) } else { u64::MAX - u64::from(255 - b) };
    let mut payload = take_counted(rest);
    if number == 0 && head[3] & 1 == 0 {
        payload = [b"COMS\x01\0", &[1 + head[3] / 128, 0][..], &payload].concat();
    }
    let from = PEERS[usize::from(what >> 3 & 3)];
    let to = PEERS[usize::from(what >> 5 & 3)];
    let mut frame = framed(number, from, to, counter(head[1]), counter(head[2]), &payload);
    match what & 7 {
        5 => frame.truncate(usize::from(head[3])),
        6 => {
            let index = usize::from(head[3]) % frame.len();
            frame[index] ^= 1 << (head[3] & 7);
        }
        7 => frame = [frame.clone(), frame].concat(),
        _ => {}
    }
    frame
}

fn framed(number: u16, from: u64, to: u64, seq: u64, ack: u64, payload: &[u8]) -> Vec<u8> {
    let mut body = postcard::to_stdvec(&(number, from.to_le_bytes(), to.to_le_bytes(), seq, ack)).unwrap();
    body.extend_from_slice(payload);
    body.truncate(MAX_BODY);
    let mut out = Vec::new();
    frame::encode(&body, &mut out).unwrap();
    out
}
