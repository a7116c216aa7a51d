//! What a hostile guest may say into its port: one source for the program in the guest and for the tests without a VM.

use std::time::Duration;

use coms_protocol::{
    GuestToHost,
    frame::{self, Decoder, MAX_BODY},
    guest_to_host::{Cancel, Evidence, GuestHello, Ping, Request, TimeQuery, Waiting, Wishes},
    message::Message,
    types::{List, Metric, MigrationId, RequestId, RequestReason, Text},
};

/// Kinds of nonsense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Random bytes, at full speed.
    Garbage,
    /// Frames of 60,000 bytes.
    Oversize,
    /// One frame that never ends.
    Endless,
    /// The smallest damaged frames, at full speed.
    Damaged,
    /// Valid messages at full speed.
    Messages,
    /// A new request per millisecond, each with all the evidence there may be.
    Requests,
    /// Versions, ids, times, numbers and sizes that cannot be true.
    Lies,
    /// A hello per millisecond, each of another agent that waits for as much as it may.
    Hellos,
    /// Markup, shell and terminal escapes wherever there is a text.
    Strings,
}

/// Texts that would do harm if somebody took them for more than texts. The first ones are allowed on the wire.
pub const TEXTS: [&str; 10] = [
    "<b>&lt;</metadata><x a='",
    "$(reboot)`id`;|&>x",
    "{\"a\":%s}{0}{{",
    "'; DROP TABLE x; --",
    "e\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}\u{307}",
    "\u{1b}[2J\u{1b}]0;x\u{7}",
    "a\r\nWARN forged=line",
    "\u{202e}drawkcab\u{2066}",
    "\u{9b}31m\0\u{7f}",
    "\u{2028}\u{85}",
];

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 9] = [
        Kind::Garbage,
        Kind::Oversize,
        Kind::Endless,
        Kind::Damaged,
        Kind::Messages,
        Kind::Requests,
        Kind::Lies,
        Kind::Hellos,
        Kind::Strings,
    ];

    /// As typed.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Garbage => "garbage",
            Kind::Oversize => "oversize",
            Kind::Endless => "endless",
            Kind::Damaged => "damaged",
            Kind::Messages => "messages",
            Kind::Requests => "requests",
            Kind::Lies => "lies",
            Kind::Hellos => "hellos",
            Kind::Strings => "strings",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Between two pieces; none: at full speed.
    pub fn pace(self) -> Option<Duration> {
        match self {
            Kind::Requests | Kind::Hellos => Some(Duration::from_millis(1)),
            Kind::Garbage
            | Kind::Oversize
            | Kind::Endless
            | Kind::Damaged
            | Kind::Messages
            | Kind::Lies
            | Kind::Strings => None,
        }
    }
}

/// A source of nonsense. It listens to the broker, so that what it says is meant for that one.
pub struct Nonsense {
    kind: Kind,
    random: u64,
    me: u64,
    broker: u64,
    decoder: Decoder,
    greeted: bool,
    count: u64,
}

impl Nonsense {
    /// `seed`: not 0.
    pub fn new(kind: Kind, seed: u64) -> Nonsense {
        let (random, me) = (seed, seed | 1 << 63);
        Nonsense { kind, random, me, broker: 0, decoder: Decoder::new(), greeted: false, count: 0 }
    }

    /// Takes what the broker says.
    pub fn hear(&mut self, mut bytes: &[u8]) {
        while let Some(body) = self.decoder.next_frame(&mut bytes) {
            if let Ok(((_, from, _), _)) = postcard::take_from_bytes::<(u16, [u8; 8], [u8; 8])>(&body) {
                let from = u64::from_le_bytes(from);
                self.greeted &= from == self.broker;
                self.broker = from;
            }
        }
    }

    /// Heard it say something: what is meant for it can be addressed.
    pub fn knows_the_broker(&self) -> bool {
        self.broker != 0
    }

    /// Goes on with another kind.
    pub fn turn_to(&mut self, kind: Kind) {
        self.kind = kind;
        self.greeted = false;
    }

    /// The next piece.
    pub fn piece(&mut self) -> Vec<u8> {
        self.count += 1;
        let mut out = Vec::new();
        match self.kind {
            Kind::Garbage => out.extend((0..512).flat_map(|_| self.draw().to_le_bytes())),
            Kind::Oversize => {
                out.push(0);
                out.extend((0..60_000).map(|_| (self.draw() as u8).max(1)));
                out.push(0);
            }
            Kind::Endless => out.extend(std::iter::repeat_n(7, 4096)),
            Kind::Damaged => out.extend([1, 0].repeat(2048)),
            Kind::Messages => {
                self.greet(&mut out);
                while out.len() < 4096 {
                    let number = self.draw();
                    match number % 4 {
                        0 => self.say(Ping { number }.into(), &mut out),
                        1 => self.say(TimeQuery { number }.into(), &mut out),
                        2 => self.say(Cancel { request: RequestId(number) }.into(), &mut out),
                        _ => self.frame(2, 0, 0, &postcard::to_stdvec(&number).unwrap_or_default(), &mut out),
                    }
                }
            }
            Kind::Requests => {
                self.greet(&mut out);
                let id = self.draw();
                self.say(request(id, "workload", "north"), &mut out);
            }
            Kind::Hellos => {
                self.me = self.draw() | 1;
                self.greeted = false;
                self.greet(&mut out);
            }
            Kind::Lies => self.lie(&mut out),
            Kind::Strings => self.strings(&mut out),
        }
        out
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// A hello that the broker believes.
    fn greet(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.greeted, true) {
            let waiting = (0..8).map(|_| Waiting {
                request: RequestId(self.random.rotate_left(7)),
                migration: Some(MigrationId(self.random)),
            });
            let hello = GuestHello { agent: Text::clipped("nonsense"), waiting: List::clipped(waiting) };
            self.hello((1, 1), &postcard::to_stdvec(&hello).unwrap_or_default(), out);
        }
    }

    fn hello(&mut self, versions: (u16, u16), body: &[u8], out: &mut Vec<u8>) {
        let (min, max) = (versions.0.to_le_bytes(), versions.1.to_le_bytes());
        self.frame(0, 1, 1, &[b"COMS", &min[..], &max[..], body].concat(), out);
    }

    fn say(&mut self, message: GuestToHost, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        message.encode(&mut payload);
        self.frame(message.number(), 0, 0, &payload, out);
    }

    fn frame(&mut self, number: u16, seq: u64, ack: u64, payload: &[u8], out: &mut Vec<u8>) {
        let header = (number, self.me.to_le_bytes(), self.broker.to_le_bytes(), seq, ack);
        let mut body = postcard::to_stdvec(&header).unwrap_or_default();
        body.extend_from_slice(payload);
        body.truncate(MAX_BODY);
        // It is cut to what fits.
        let _ = frame::encode(&body, out);
    }

    fn lie(&mut self, out: &mut Vec<u8>) {
        let any = self.draw();
        match self.count % 10 {
            0 => self.hello((any as u16, (any >> 16) as u16), &[], out),
            1 => self.hello((2, u16::MAX), &[0xff; 40], out),
            // A text and a list longer than all there is.
            2 => self.hello((1, 1), &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1], out),
            3 => {
                self.greeted = false;
                self.greet(out);
            }
            4 => self.frame(0, u64::MAX, u64::MAX, b"COMS\x01\0\x01\0\x00\x00", out),
            5 => self.frame(2, 0, u64::MAX, &[0xff; 10], out),
            6 => self.frame(16, u64::MAX, any, &[0xff; 300], out),
            // For somebody else, from somebody else.
            7 => {
                let (me, broker) = (self.me, self.broker);
                (self.me, self.broker) = (any, any.rotate_left(9));
                self.say(request(any, "x", "y"), out);
                (self.me, self.broker) = (me, broker);
            }
            // One id, ever other contents; and called off before and after.
            8 => {
                let region = format!("{any:x}");
                self.say(request(7, "x", &region), out);
                self.say(Cancel { request: RequestId(7) }.into(), out);
            }
            _ => self.frame(any as u16, any >> 40, any >> 50, &any.to_le_bytes(), out),
        }
    }

    fn strings(&mut self, out: &mut Vec<u8>) {
        // Past the types that would clip them: as an attacker writes them.
        let text = TEXTS[self.count as usize % TEXTS.len()];
        self.me = self.draw() | 1;
        let hello = (text, Vec::<(u64, Option<u64>)>::new());
        self.hello((1, 1), &postcard::to_stdvec(&hello).unwrap_or_default(), out);
        let evidence = vec![(text, 1u16, 1u64, None::<u64>, None::<u64>, 1u32, 1u32)];
        let wishes = (Some(text), true, None::<u32>, None::<u32>, Vec::<u16>::new());
        let request = (self.draw(), 1u16, evidence, wishes);
        self.frame(16, 0, 0, &postcard::to_stdvec(&request).unwrap_or_default(), out);
    }
}

fn request(id: u64, workload: &str, region: &str) -> GuestToHost {
    let evidence = Evidence {
        workload: Text::clipped(workload),
        metric: Metric::KNOWN[0],
        now: u64::MAX,
        baseline: Some(0),
        threshold: Some(u64::MAX),
        for_s: u32::MAX,
        samples: u32::MAX,
    };
    let wishes = Wishes {
        region: Some(Text::clipped(region)),
        deadline_s: Some(u32::MAX),
        max_downtime_ms: Some(u32::MAX),
        ..Wishes::default()
    };
    Request {
        id: RequestId(id),
        reason: RequestReason::Manual,
        evidence: List::clipped(vec![evidence; 8]),
        wishes,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coms_protocol::{
        Host,
        host_to_guest::HostHello,
        session::{Epoch, Event, Now, Session},
        types::Place,
    };

    /// What claims to be valid is: else a test of a flood would flood with nothing.
    #[test]
    fn the_broker_believes_what_it_should_believe() {
        let hello = HostHello {
            place: Place { alias: Text::clipped("a"), region: Text::clipped("r") },
            enabled: true,
        };
        for kind in Kind::ALL {
            let mut session: Session<Host> = Session::new(Epoch(5), &hello);
            let at = |ms| Now { mono: Duration::from_millis(ms), unix_us: 0 };
            session.link_up(at(0));
            let mut source = Nonsense::new(kind, 99);
            let (mut established, mut said) = (0, 0);
            for ms in 0..500 {
                let mut out = Vec::new();
                session.poll_transmit(at(ms), usize::MAX, &mut out);
                source.hear(&out);
                let piece = source.piece();
                let mut rest = piece.as_slice();
                while !rest.is_empty() {
                    let used = session.receive(at(ms), rest);
                    rest = &rest[used..];
                    while let Some(event) = session.poll_event() {
                        match event {
                            Event::Established { .. } => established += 1,
                            Event::Message(_) => said += 1,
                            Event::Lost
                            | Event::Incompatible { .. }
                            | Event::Delivered(_)
                            | Event::Heartbeat { .. } => {}
                        }
                    }
                }
            }
            let (meets, speaks) = match kind {
                Kind::Garbage | Kind::Oversize | Kind::Endless | Kind::Damaged => (false, false),
                Kind::Messages | Kind::Requests | Kind::Lies | Kind::Strings => (true, true),
                Kind::Hellos => (true, false),
            };
            assert_eq!((established > 0, said > 0), (meets, speaks), "{}: {established} {said}", kind.name());
        }
    }
}
