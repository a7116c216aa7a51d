//! One task per guest port: connects, reconnects, and turns bytes into messages through the sans-IO session.
//!
//! A guest is hostile until shown otherwise. What is heard of it costs its [`Budget`]. While that is in debt, what
//! it says goes past a short window: the newest bytes wait there, older ones are thrown away unread. To the session
//! that is one more link that loses bytes: what matters is resent. So no backlog stands between the end of a flood
//! and the first sensible word after it. What a guest is owed waits in its own task, so no guest slows another.

use super::budget::{Budget, Spare};
use super::event_loop::Clock;
use crate::event::{Event, LinkEvent};
use coms_protocol::Host;
use coms_protocol::guest_to_host::GuestToHost;
use coms_protocol::host_to_guest::{HostHello, HostToGuest, Pong, TimeReply};
use coms_protocol::session::{self, Epoch, Session};
use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant as StdInstant};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

/// Messages from the broker to one guest, waiting for its link.
const OUTBOX: usize = 32;
/// Written at once at most.
const WRITE_ROOM: usize = 4 * 1024;
const READ_AT_ONCE: usize = 4096;
/// Heard in one go, before the budget is looked at again ...
const SLICE: usize = 128;
/// ... and before the other guests have their turn, with what it caused.
const TURN: usize = 1024;
/// What a message costs that the broker is to decide on, beyond its bytes ...
const DECIDED: usize = 512;
/// ... and one that it only takes note of, or that the link answers by itself.
const ANSWERED: usize = 64;
/// What a frame costs beyond its bytes that turned out to be none: it may be as short as 7.
const DAMAGED: usize = 20;
/// The newest bytes of a guest in debt. A hello fits twice.
const WINDOW: usize = 1024;
/// How often the port of a guest in debt is looked at, and how much of it is taken away then: all that its socket
/// holds. Behind that may wait what its virtio ring holds, 4 MiB, before its first sensible word.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Drawn anew each time: what all may look past together must not go to the same ones always.
const LOOK_JITTER_MS: u64 = 8;
const LOOK_AT: usize = 16 * 1024;
const LOOKS: usize = 16;
/// A guest's flood is worth one line in so long, whatever it does.
const COMPLAIN_EVERY: Duration = Duration::from_secs(300);
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// All links of this host.
pub struct Links {
    tx: mpsc::Sender<Event>,
    links: HashMap<Uuid, Handle>,
    record: Option<PathBuf>,
    spare: Spare,
}

struct Handle {
    outbox: mpsc::Sender<Out>,
    hello: watch::Sender<HostHello>,
    task: tokio::task::JoinHandle<()>,
    /// When it was said last that a message found no place.
    said_full: Option<Instant>,
}

enum Out {
    Kept(HostToGuest),
    Once(HostToGuest),
}

impl Links {
    /// `tx` should be short: what waits in it goes ahead of other guests' words.
    pub fn new(tx: mpsc::Sender<Event>, record: Option<PathBuf>) -> Self {
        Self { tx, links: HashMap::new(), record, spare: Spare::new(StdInstant::now()) }
    }

    pub fn attach(&mut self, uuid: Uuid, channel: PathBuf, hello: &HostHello) {
        self.detach(uuid);
        let (outbox, rx) = mpsc::channel(OUTBOX);
        let (hello, heard) = watch::channel(hello.clone());
        let link = Link {
            uuid,
            tx: self.tx.clone(),
            hello: heard,
            outbox: rx,
            kept: VecDeque::new(),
            record: self.record.as_deref().and_then(|dir| open_record(dir, uuid)),
            clock: Clock::start(),
            budget: Budget::new(StdInstant::now(), self.spare.clone()),
            complaint: Complaint::default(),
        };
        let task = tokio::spawn(link.run(channel));
        self.links.insert(uuid, Handle { outbox, hello, task, said_full: None });
    }

    pub fn detach(&mut self, uuid: Uuid) {
        if let Some(handle) = self.links.remove(&uuid) {
            handle.task.abort();
        }
    }

    pub fn tell(&mut self, uuid: Uuid, message: HostToGuest) {
        self.put(uuid, Out::Kept(message));
    }

    pub fn tell_once(&mut self, uuid: Uuid, message: HostToGuest) {
        self.put(uuid, Out::Once(message));
    }

    /// What the guest is to know of this host from now on.
    pub fn greet(&mut self, uuid: Uuid, hello: HostHello) {
        if let Some(handle) = self.links.get(&uuid) {
            handle.hello.send_replace(hello);
        }
    }

    fn put(&mut self, uuid: Uuid, out: Out) {
        let Some(handle) = self.links.get_mut(&uuid) else { return };
        // A full outbox: the guest reads nothing. What it misses it asks for in its next hello.
        let full = handle.outbox.try_send(out).is_err();
        if full && handle.said_full.is_none_or(|at| at + COMPLAIN_EVERY <= Instant::now()) {
            handle.said_full = Some(Instant::now());
            debug!(guest = %uuid, "reads nothing; what it is owed is dropped");
        }
    }
}

struct Link {
    uuid: Uuid,
    tx: mpsc::Sender<Event>,
    hello: watch::Receiver<HostHello>,
    outbox: mpsc::Receiver<Out>,
    /// Not acknowledged when the connection ended.
    kept: VecDeque<HostToGuest>,
    /// Where every byte that goes to the guest is written too (`[debug] record_links`).
    record: Option<File>,
    clock: Clock,
    budget: Budget,
    complaint: Complaint,
}

/// What was thrown away, to be said now and then.
#[derive(Default)]
struct Complaint {
    bytes: u64,
    said: Option<Instant>,
}

/// The link's owner detached it, or the broker stops.
struct Closed;

/// Why a session ended whose link goes on.
enum Ended {
    HungUp,
    /// The guest is to hear another hello: only a peer of a new epoch is listened to.
    MeetAnew,
}

impl Link {
    async fn run(mut self, channel: PathBuf) {
        let mut wait = RECONNECT_FIRST;
        let mut said = false;
        loop {
            match UnixStream::connect(&channel).await {
                Ok(stream) => {
                    (wait, said) = (RECONNECT_FIRST, false);
                    if self.connected(stream).await.is_err() {
                        return;
                    }
                }
                Err(e) if !std::mem::replace(&mut said, true) => {
                    debug!(guest = %self.uuid, "{}: {e}", channel.display());
                }
                Err(_) => {}
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RECONNECT_MAX);
        }
    }

    /// One connection, one epoch after the other: the guest can tell this peer from every other.
    async fn connected(&mut self, stream: UnixStream) -> Result<(), Closed> {
        loop {
            match self.met(&stream).await? {
                Ended::HungUp => return Ok(()),
                Ended::MeetAnew => {}
            }
        }
    }

    async fn met(&mut self, stream: &UnixStream) -> Result<Ended, Closed> {
        let epoch = Epoch(rand::random::<u64>().max(1));
        let hello = self.hello.borrow_and_update().clone();
        let mut session: Session<Host> = Session::new(epoch, &hello);
        for message in self.kept.drain(..) {
            let _ = session.send(message);
        }
        session.link_up(self.now());
        let ended = self.talk(stream, &mut session).await;
        let was_established = session.is_established();
        self.kept = session.into_undelivered().collect();
        if was_established {
            self.event(LinkEvent::Lost).await?;
        }
        ended
    }

    async fn talk(&mut self, stream: &UnixStream, session: &mut Session<Host>) -> Result<Ended, Closed> {
        let mut unread: Vec<u8> = Vec::new();
        let mut unwritten: Vec<u8> = Vec::new();
        let mut look = Instant::now();
        loop {
            self.hear(session, &mut unread).await?;
            if unwritten.is_empty() {
                session.poll_transmit(self.now(), WRITE_ROOM, &mut unwritten);
            }
            let debt = self.budget.in_debt_until(StdInstant::now()).map(Instant::from_std);
            let wake = debt.map(|paid| paid.min(look));
            let timer =
                session.next_timeout().map(|at| Instant::now() + at.saturating_sub(self.clock.mono()));
            tokio::select! {
                biased;
                ready = stream.writable(), if !unwritten.is_empty() => {
                    match ready.and_then(|()| stream.try_write(&unwritten)) {
                        Ok(n) => {
                            if let Some(record) = &mut self.record {
                                let _ = record.write_all(&unwritten[..n]);
                            }
                            unwritten.drain(..n);
                            if unwritten.is_empty() { unwritten = Vec::new(); }
                        }
                        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                        Err(_) => return Ok(Ended::HungUp),
                    }
                }
                out = self.outbox.recv() => match out {
                    Some(Out::Kept(message)) => {
                        // A full queue: the guest acknowledges nothing. It is said again when it asks.
                        let _ = session.send(message);
                    }
                    Some(Out::Once(message)) => { session.send_once(message); }
                    None => return Err(Closed),
                },
                Ok(()) = self.hello.changed() => return Ok(Ended::MeetAnew),
                ready = stream.readable(), if unread.is_empty() && debt.is_none() => {
                    let mut buffer = Vec::with_capacity(READ_AT_ONCE);
                    match ready.and_then(|()| stream.try_read_buf(&mut buffer)) {
                        Ok(0) => return Ok(Ended::HungUp),
                        Ok(_) => unread = buffer,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                        Err(_) => return Ok(Ended::HungUp),
                    }
                }
                () = sleep_until(wake), if wake.is_some() => {
                    if look <= Instant::now() {
                        let jitter = Duration::from_millis(rand::random::<u64>() % LOOK_JITTER_MS);
                        look = Instant::now() + LOOK_EVERY + jitter;
                        let Some(lost) = self.look_past(stream, &mut unread) else { return Ok(Ended::HungUp) };
                        if lost > 0 {
                            session.input_lost();
                            self.complain(lost);
                        }
                    }
                }
                // While bytes wait to be written, more would not help.
                () = sleep_until(timer), if timer.is_some() && unwritten.is_empty() => {}
            }
        }
    }

    /// Hears what was read, as far as the budget goes and no further than other guests' patience.
    async fn hear(&mut self, session: &mut Session<Host>, unread: &mut Vec<u8>) -> Result<(), Closed> {
        let (mut at, mut turn) = (0, 0);
        while at < unread.len() && self.budget.in_debt_until(StdInstant::now()).is_none() {
            let slice = &unread[at..unread.len().min(at + SLICE)];
            let skipped = damaged(session);
            let mut work = session.receive(self.now(), slice);
            at += work;
            work += DAMAGED * damaged(session).saturating_sub(skipped) as usize;
            while let Some(event) = session.poll_event() {
                work += self.session_event(session, event).await?;
            }
            self.budget.charge(StdInstant::now(), work);
            turn += work;
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        // Events of the clock.
        while let Some(event) = session.poll_event() {
            self.session_event(session, event).await?;
        }
        unread.drain(..at);
        if unread.is_empty() {
            *unread = Vec::new();
        }
        Ok(())
    }

    /// Tells the broker what it is to know; gives what that costs.
    async fn session_event(
        &self,
        session: &mut Session<Host>,
        event: session::EventOf<Host>,
    ) -> Result<usize, Closed> {
        match event {
            session::Event::Established { hello, new_peer, .. } => {
                if new_peer {
                    // Answers to another agent. What this one waits for, it has just named.
                    session.withdraw(|m| !is_news(m));
                }
                self.event(LinkEvent::Established { hello, new_peer }).await?;
            }
            session::Event::Lost => self.event(LinkEvent::Lost).await?,
            // Seen as a guest whose agent is not there; its hello repeats what it speaks.
            session::Event::Incompatible { .. } => {}
            session::Event::Message(GuestToHost::Ping(ping)) => {
                // Its own pings must not take the place of its answers. Who hears no pong asks again.
                if session.queued() < session::MAX_QUEUED / 2 {
                    let _ = session.send(Pong { number: ping.number }.into());
                }
                return Ok(ANSWERED);
            }
            session::Event::Message(GuestToHost::TimeQuery(query)) => {
                let host_unix_us = Clock::unix().as_micros() as u64;
                session.send_once(TimeReply { number: query.number, host_unix_us }.into());
                return Ok(ANSWERED);
            }
            session::Event::Message(message) => self.event(LinkEvent::Said(message)).await?,
            session::Event::Delivered(HostToGuest::Pong(_)) | session::Event::Heartbeat { .. } => {
                return Ok(0);
            }
            session::Event::Delivered(message) => {
                self.event(LinkEvent::Delivered(message)).await?;
                return Ok(ANSWERED);
            }
        }
        Ok(DECIDED)
    }

    /// Takes away what waits at the port of a guest in debt, all but the newest bytes. Gives how many were lost;
    /// None: the port hung up.
    fn look_past(&mut self, stream: &UnixStream, unread: &mut Vec<u8>) -> Option<usize> {
        let mut lost = 0;
        for _ in 0..LOOKS {
            if !self.budget.may_look_past(StdInstant::now(), LOOK_AT) {
                break;
            }
            let mut buffer = [0; LOOK_AT];
            let n = match stream.try_read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return None,
            };
            let newest = &buffer[n.saturating_sub(WINDOW)..n];
            let over = (unread.len() + newest.len()).saturating_sub(WINDOW).min(unread.len());
            unread.drain(..over);
            unread.extend_from_slice(newest);
            lost += over + n - newest.len();
            if n < LOOK_AT {
                break;
            }
        }
        Some(lost)
    }

    /// For the operator, seldom: whoever floods must not fill the log too.
    fn complain(&mut self, lost: usize) {
        self.complaint.bytes += lost as u64;
        if self.complaint.said.is_none_or(|at| at + COMPLAIN_EVERY <= Instant::now()) {
            self.complaint.said = Some(Instant::now());
            warn!(guest = %self.uuid, bytes = self.complaint.bytes, "says more than it is listened to; the rest is thrown away");
            self.complaint.bytes = 0;
        }
    }

    async fn event(&self, event: LinkEvent) -> Result<(), Closed> {
        self.tx.send(Event::Link { uuid: self.uuid, event }).await.map_err(|_| Closed)
    }

    fn now(&self) -> session::Now {
        session::Now { mono: self.clock.mono(), unix_us: Clock::unix().as_micros() as u64 }
    }
}

fn damaged(session: &Session<Host>) -> u64 {
    let frames = session.skipped().frames;
    frames.malformed.saturating_add(frames.bad_crc).saturating_add(frames.too_long)
}

/// Told whether or not the agent waits for it.
fn is_news(message: &HostToGuest) -> bool {
    match message {
        HostToGuest::Notice(_)
        | HostToGuest::Terms(_)
        | HostToGuest::Enforced(_)
        | HostToGuest::Completed(_)
        | HostToGuest::Failed(_)
        | HostToGuest::Cancelled(_) => true,
        HostToGuest::Accepted(_)
        | HostToGuest::AlreadyRunning(_)
        | HostToGuest::Denied(_)
        | HostToGuest::Resend(_)
        | HostToGuest::Progress(_)
        | HostToGuest::Pong(_)
        | HostToGuest::TimeReply(_)
        | HostToGuest::Verdict(_)
        | HostToGuest::Hosts(_)
        | HostToGuest::RandomStatus(_)
        | HostToGuest::Regions(_)
        | HostToGuest::Protected(_) => false,
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

fn open_record(dir: &Path, uuid: Uuid) -> Option<File> {
    let path = dir.join(format!("{uuid}.to-guest"));
    let opened = std::fs::create_dir_all(dir)
        .and_then(|()| OpenOptions::new().append(true).create(true).mode(0o600).open(&path));
    opened.map_err(|e| warn!("{}: {e}; this link is not recorded", path.display())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coms_protocol::host_to_guest::{Enforced, Protected};
    use coms_protocol::types::{EncryptionLevel, MigrationId, Protection};

    /// What was enforced belongs to the outcome: an agent that was started anew meanwhile is told both.
    #[test]
    fn what_was_enforced_is_told_to_the_next_agent_and_what_the_last_one_wanted_to_know_is_not() {
        let enforced = Enforced {
            migration: MigrationId(1),
            ram: Protection::Tls,
            disk: Protection::None,
            control: Protection::Tls,
            destination_certificate_sha256: None,
        };
        assert!(is_news(&HostToGuest::Enforced(enforced)));
        let never = EncryptionLevel::Never;
        let answer = Protected { number: Some(1), level: never, by: None, wish: never };
        assert!(!is_news(&HostToGuest::Protected(answer)));
    }
}
