//! One end of a link with everything it noticed, and virtual time: what every session test needs.

#![allow(dead_code, reason = "each test file uses its part")]

use coms_protocol::frame::Decoder;
use coms_protocol::guest_to_host::{GuestHello, Ping};
use coms_protocol::host_to_guest::{HostHello, Pong};
use coms_protocol::session::{End, Epoch, EventOf, Now, Session};
use coms_protocol::types::{Place, Text};
use coms_protocol::{Guest, GuestToHost, Host, HostToGuest};
use std::time::Duration;

/// The moment `ms` milliseconds after the test began.
pub fn at(ms: u64) -> Now {
    Now { mono: Duration::from_millis(ms), unix_us: 1_790_000_000_000_000 + ms * 1000 }
}

/// A numbered message from the guest, so that a test can tell one from another.
pub fn ping(number: u64) -> GuestToHost {
    Ping { number }.into()
}

/// A numbered message from the host.
pub fn pong(number: u64) -> HostToGuest {
    Pong { number }.into()
}

/// What every host in the tests says of itself.
pub fn host_hello() -> HostHello {
    HostHello {
        place: Place { alias: Text::clipped("host-7f3a"), region: Text::clipped("eu-west") },
        enabled: true,
    }
}

/// What every guest in the tests says of itself.
pub fn guest_hello() -> GuestHello {
    GuestHello { agent: Text::clipped("coms-agent 0.1.0"), ..GuestHello::default() }
}

/// One end and what it noticed.
pub struct Side<E: End> {
    /// The end itself.
    pub session: Session<E>,
    /// Everything taken from it, oldest first.
    pub noticed: Vec<EventOf<E>>,
}

/// A guest's end whose link is not up yet.
pub fn guest(epoch: u64) -> Side<Guest> {
    Side::of(Session::new(Epoch(epoch), &guest_hello()))
}

/// A host's end whose link is not up yet.
pub fn host(epoch: u64) -> Side<Host> {
    Side::of(Session::new(Epoch(epoch), &host_hello()))
}

impl<E: End> Side<E> {
    /// An end that noticed nothing yet.
    pub fn of(session: Session<E>) -> Self {
        Self { session, noticed: Vec::new() }
    }

    /// Reads `bytes` as a daemon does: takes every event, then goes on reading.
    pub fn hear(&mut self, ms: u64, mut bytes: &[u8]) {
        loop {
            let used = self.session.receive(at(ms), bytes);
            bytes = &bytes[used..];
            let before = self.noticed.len();
            while let Some(event) = self.session.poll_event() {
                self.noticed.push(event);
            }
            if bytes.is_empty() {
                return;
            }
            assert!(used > 0 || self.noticed.len() > before, "refuses input though nothing waits");
        }
    }

    /// Everything it wants to say now.
    pub fn speak(&mut self, ms: u64) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.poll_transmit(at(ms), usize::MAX, &mut out);
        while let Some(event) = self.session.poll_event() {
            self.noticed.push(event);
        }
        out
    }

    /// When it wants to be called next, in milliseconds, rounded up.
    pub fn due(&self) -> Option<u64> {
        self.session.next_timeout().map(|t| t.as_micros().div_ceil(1000) as u64)
    }
}

/// Connects two ends by a perfect link from `from_ms` to `until_ms`, calling each when it asks to be called.
/// Returns the numbers of all frames that crossed.
pub fn talk(a: &mut Side<Guest>, b: &mut Side<Host>, from_ms: u64, until_ms: u64) -> Vec<u16> {
    let mut ms = from_ms;
    let mut crossed = Vec::new();
    while ms <= until_ms {
        // Back and forth until both are silent; a reply costs no time here.
        for round in 0.. {
            assert!(round < 1000, "the two ends never fall silent");
            let (there, back) = (a.speak(ms), b.speak(ms));
            crossed.extend(numbers(&there).into_iter().chain(numbers(&back)));
            if there.is_empty() && back.is_empty() {
                break;
            }
            a.hear(ms, &back);
            b.hear(ms, &there);
        }
        let next = [a.due(), b.due()].into_iter().flatten().min().unwrap_or(u64::MAX);
        assert!(next > ms, "asks to be called in the past, at {next} ms, now is {ms} ms");
        ms = next;
    }
    crossed
}

/// The number of a [`ping`].
pub fn number_of(message: &GuestToHost) -> u64 {
    match message {
        GuestToHost::Ping(Ping { number }) => *number,
        GuestToHost::Request(_)
        | GuestToHost::TimeQuery(_)
        | GuestToHost::Cancel(_)
        | GuestToHost::Attend(_)
        | GuestToHost::Ready(_)
        | GuestToHost::Hold(_)
        | GuestToHost::Postpone(_)
        | GuestToHost::Veto(_)
        | GuestToHost::HostsQuery(_)
        | GuestToHost::RandomStart(_)
        | GuestToHost::RandomStop(_)
        | GuestToHost::RandomQuery(_)
        | GuestToHost::RegionsQuery(_)
        | GuestToHost::Protect(_)
        | GuestToHost::ProtectedRequest(_) => {
            unreachable!("these tests send pings")
        }
    }
}

/// The numbers (varints of two bytes at the most) of the frames in `bytes`.
pub fn numbers(mut bytes: &[u8]) -> Vec<u16> {
    let mut decoder = Decoder::new();
    std::iter::from_fn(|| decoder.next_frame(&mut bytes))
        .map(|body| u16::from(body[0] & 0x7f) | (u16::from(body[0] >> 7) * u16::from(body[1])) << 7)
        .collect()
}
