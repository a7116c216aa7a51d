//! An honest guest: the agent's session on a socket.

use coms_protocol::Guest;
use coms_protocol::frame;
use coms_protocol::guest_to_host::{GuestHello, Request, Wishes};
use coms_protocol::host_to_guest::HostToGuest;
use coms_protocol::session::{self, Epoch, Event, Now, Session};
use coms_protocol::types::{List, RequestId, RequestReason, Text};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Far beyond what anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Neighbour {
    stream: UnixStream,
    session: Session<Guest>,
    began: Instant,
    asked: u64,
    met: bool,
}

impl Neighbour {
    pub fn new(stream: UnixStream, number: u64) -> Self {
        let hello = GuestHello { agent: Text::clipped("neighbour"), ..GuestHello::default() };
        let session = Session::new(Epoch(number << 32 | 1), &hello);
        let mut new = Self { stream, session, began: Instant::now(), asked: 0, met: false };
        let now = new.now();
        new.session.link_up(now);
        new
    }

    fn now(&self) -> Now {
        Now { mono: self.began.elapsed(), unix_us: 0 }
    }

    /// Says hello and waits until the broker knows it.
    pub fn meet(&mut self) {
        let began = Instant::now();
        while !self.met {
            assert!(began.elapsed() < PATIENCE, "not met");
            self.turn();
        }
    }

    /// Asks, and gives the time until the refusal was there.
    pub fn ask(&mut self) -> Duration {
        self.meet();
        self.asked += 1;
        let id = RequestId(self.asked);
        let request = Request {
            id,
            reason: RequestReason::Manual,
            evidence: List::default(),
            wishes: Wishes::default(),
        };
        self.session.send(request.into()).unwrap();
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "no answer");
            if self.turn().iter().any(|m| matches!(m, HostToGuest::Denied(d) if d.request == id)) {
                return began.elapsed();
            }
        }
    }

    /// Writes what is to be written, and waits a little for what comes.
    fn turn(&mut self) -> Vec<HostToGuest> {
        let mut out = Vec::new();
        self.session.poll_transmit(self.now(), usize::MAX, &mut out);
        self.stream.write_all(&out).unwrap();
        let due = self.session.next_timeout().map(|at| at.saturating_sub(self.began.elapsed()));
        let wait = due.unwrap_or(PATIENCE).clamp(Duration::from_millis(1), Duration::from_millis(100));
        self.stream.set_read_timeout(Some(wait)).unwrap();
        let mut buffer = [0; 4096];
        let mut told = Vec::new();
        match self.stream.read(&mut buffer) {
            Ok(0) => panic!("the broker hung up"),
            Ok(n) => {
                let mut rest = &buffer[..n];
                while !rest.is_empty() {
                    let used = self.session.receive(self.now(), rest);
                    rest = &rest[used..];
                    while let Some(event) = self.session.poll_event() {
                        match event {
                            Event::Established { .. } => self.met = true,
                            Event::Message(message) => told.push(message),
                            Event::Lost | Event::Incompatible { .. } => {}
                            Event::Delivered(_) | Event::Heartbeat { .. } => {}
                        }
                    }
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => panic!("{e}"),
        }
        told
    }

    /// Says hello under a name that the types would not let it have: as an attacker writes it.
    pub fn say_hello_as(&mut self, agent: &str) {
        // Learn the broker's epoch first.
        self.meet();
        let mut decoder = frame::Decoder::new();
        let (mut probe, mut broker) = (Vec::new(), [0; 8]);
        self.session.link_up(self.now());
        std::thread::sleep(session::GREET_SPACING);
        self.session.poll_transmit(self.now(), usize::MAX, &mut probe);
        let mut rest = probe.as_slice();
        while let Some(body) = decoder.next_frame(&mut rest) {
            broker = postcard::from_bytes::<(u16, [u8; 8], [u8; 8])>(&body).unwrap().2;
        }
        let me = (agent.len() as u64 + 1) << 40;
        let header = (0u16, me.to_le_bytes(), broker, 1u64, 1u64);
        let mut body = postcard::to_stdvec(&header).unwrap();
        body.extend(b"COMS\x01\0\x01\0");
        body.extend(postcard::to_stdvec(&(agent, Vec::<u64>::new())).unwrap());
        let mut out = Vec::new();
        frame::encode(&body, &mut out).unwrap();
        self.stream.write_all(&out).unwrap();
    }

    pub fn into_stream(self) -> UnixStream {
        self.stream
    }
}
