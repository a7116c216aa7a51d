//! The agent's port without the agent: said into raw, or spoken over honestly.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    thread,
    time::{Duration, Instant},
};

use coms_protocol::{
    Guest, GuestToHost, HostToGuest,
    frame::Decoder,
    guest_to_host::GuestHello,
    session::{self, Epoch, Event, Now, Session},
    types::Text,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};

const PORT: &str = "/dev/virtio-ports/org.coms.agent.0";
/// A port that hangs up wakes whoever waits, again and again.
const HUNG_UP: Duration = Duration::from_millis(2);

pub(crate) struct Port(File);

impl Port {
    pub(crate) fn open() -> io::Result<Port> {
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        OpenOptions::new().read(true).write(true).custom_flags(nonblock).open(PORT).map(Port)
    }

    /// What is there, which may be nothing.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        or_nothing(self.0.read(buffer))
    }

    /// How much of it was taken, which may be nothing.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_nothing(self.0.write(bytes))
    }

    /// Until there is something to read, or room to write if that is wanted.
    pub(crate) fn wait(&self, to_write: bool, at_most: Duration) -> io::Result<()> {
        let flags = if to_write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut fds = [PollFd::new(&self.0, flags)];
        let timeout = Timespec::try_from(at_most).map_err(io::Error::other)?;
        poll(&mut fds, Some(&timeout))?;
        if fds[0].revents().contains(PollFlags::HUP) {
            thread::sleep(HUNG_UP.min(at_most));
        }
        Ok(())
    }
}

fn or_nothing(done: io::Result<usize>) -> io::Result<usize> {
    match done {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        done => done,
    }
}

/// An agent that does nothing but speak.
pub(crate) struct Honest<'a> {
    port: &'a mut Port,
    session: Session<Guest>,
    began: Instant,
    unwritten: Vec<u8>,
    established: bool,
    hellos: usize,
}

impl Honest<'_> {
    /// `epoch`: of no agent before it.
    pub(crate) fn new(port: &mut Port, epoch: u64) -> Honest<'_> {
        let hello = GuestHello { agent: Text::clipped("honest"), ..GuestHello::default() };
        let session = Session::new(Epoch(epoch), &hello);
        let (began, unwritten) = (Instant::now(), Vec::new());
        let mut new = Honest { port, session, began, unwritten, established: false, hellos: 0 };
        let now = new.now();
        new.session.link_up(now);
        new
    }

    fn now(&self) -> Now {
        Now { mono: self.began.elapsed(), unix_us: 0 }
    }

    /// Says hello until the broker knows it; gives how long that took.
    pub(crate) fn meet(&mut self, at_most: Duration) -> io::Result<Duration> {
        while !self.established {
            self.turn(at_most)?;
        }
        Ok(self.began.elapsed())
    }

    /// How often it has said hello.
    pub(crate) fn hellos(&self) -> usize {
        self.hellos
    }

    /// Says something; gives the time until what `answers` picks was there.
    pub(crate) fn round_trip(
        &mut self,
        message: GuestToHost,
        at_most: Duration,
        answers: impl Fn(&HostToGuest) -> bool,
    ) -> io::Result<Duration> {
        let until = self.began.elapsed() + at_most;
        self.session.send(message).map_err(io::Error::other)?;
        let said = Instant::now();
        loop {
            if self.turn(until)?.iter().any(&answers) {
                return Ok(said.elapsed());
            }
        }
    }

    /// Stays there and answers acknowledgements for so long.
    pub(crate) fn rest(&mut self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
            self.speak_and_hear(left)?;
        }
        Ok(())
    }

    fn turn(&mut self, until: Duration) -> io::Result<Vec<HostToGuest>> {
        if self.began.elapsed() > until {
            let what = if self.established { "an answer" } else { "the broker's hello" };
            return Err(io::Error::other(format!("waited {until:?} for {what}")));
        }
        self.speak_and_hear(Duration::from_millis(100))
    }

    fn speak_and_hear(&mut self, at_most: Duration) -> io::Result<Vec<HostToGuest>> {
        let now = self.now();
        if self.unwritten.is_empty() {
            self.session.poll_transmit(now, usize::MAX, &mut self.unwritten);
            let (mut decoder, mut said) = (Decoder::new(), self.unwritten.as_slice());
            let frames = std::iter::from_fn(|| decoder.next_frame(&mut said));
            self.hellos +=
                frames.filter(|body| body.first().is_some_and(|n| u16::from(*n) == session::HELLO)).count();
        }
        let written = self.port.write(&self.unwritten)?;
        self.unwritten.drain(..written);
        let due = self.session.next_timeout().map_or(at_most, |at| at.saturating_sub(self.began.elapsed()));
        self.port.wait(!self.unwritten.is_empty(), due.min(at_most))?;
        let mut buffer = [0; 4096];
        let length = self.port.read(&mut buffer)?;
        let mut rest = &buffer[..length];
        let mut told = Vec::new();
        while !rest.is_empty() {
            let used = self.session.receive(self.now(), rest);
            rest = &rest[used..];
            while let Some(event) = self.session.poll_event() {
                match event {
                    Event::Established { .. } => self.established = true,
                    Event::Lost => self.established = false,
                    Event::Message(message) => told.push(message),
                    Event::Incompatible { .. } | Event::Delivered(_) | Event::Heartbeat { .. } => {}
                }
            }
        }
        Ok(told)
    }
}
