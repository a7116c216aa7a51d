//! One task per guest port: connects, reconnects, and turns bytes into messages through the sans-IO session.
//!
//! A guest is hostile until shown otherwise: what it may send is bounded in bytes per second and in messages
//! per second, by not reading. What it is owed waits in its own task, so no guest slows another.

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
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

/// Messages from the broker to one guest, waiting for its link.
const OUTBOX: usize = 64;
/// Written at once at most.
const WRITE_ROOM: usize = 16 * 1024;
const READ_AT_ONCE: usize = 4096;
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// All links of this host.
pub struct Links {
    tx: mpsc::Sender<Event>,
    links: HashMap<Uuid, Handle>,
    record: Option<PathBuf>,
}

struct Handle {
    outbox: mpsc::Sender<Out>,
    task: tokio::task::JoinHandle<()>,
}

enum Out {
    Kept(HostToGuest),
    Once(HostToGuest),
}

impl Links {
    pub fn new(tx: mpsc::Sender<Event>, record: Option<PathBuf>) -> Self {
        Self { tx, links: HashMap::new(), record }
    }

    pub fn attach(&mut self, uuid: Uuid, channel: PathBuf, hello: &HostHello) {
        self.detach(uuid);
        let (outbox, rx) = mpsc::channel(OUTBOX);
        let link = Link {
            uuid,
            tx: self.tx.clone(),
            hello: hello.clone(),
            outbox: rx,
            kept: VecDeque::new(),
            record: self.record.as_deref().and_then(|dir| open_record(dir, uuid)),
            clock: Clock::start(),
        };
        self.links.insert(uuid, Handle { outbox, task: tokio::spawn(link.run(channel)) });
    }

    pub fn detach(&mut self, uuid: Uuid) {
        if let Some(handle) = self.links.remove(&uuid) {
            handle.task.abort();
        }
    }

    pub fn tell(&self, uuid: Uuid, message: HostToGuest) {
        self.put(uuid, Out::Kept(message));
    }

    pub fn tell_once(&self, uuid: Uuid, message: HostToGuest) {
        self.put(uuid, Out::Once(message));
    }

    fn put(&self, uuid: Uuid, out: Out) {
        // A full outbox: the guest reads nothing. What it misses it asks for in its next hello.
        if let Some(handle) = self.links.get(&uuid)
            && handle.outbox.try_send(out).is_err()
        {
            debug!(guest = %uuid, "outbox is full, dropped");
        }
    }
}

/// What it may do per second, and at once.
struct Bucket {
    per_s: f64,
    burst: f64,
    level: f64,
    filled: Instant,
}

impl Bucket {
    fn new(per_s: f64, burst: f64) -> Self {
        Self { per_s, burst, level: burst, filled: Instant::now() }
    }

    fn take(&mut self, n: f64) {
        let now = Instant::now();
        let gained = now.duration_since(self.filled).as_secs_f64() * self.per_s;
        self.level = (self.level + gained).min(self.burst) - n;
        self.filled = now;
    }

    /// When it is above zero again.
    fn ready(&self) -> Option<Instant> {
        (self.level < 0.0).then(|| self.filled + Duration::from_secs_f64(-self.level / self.per_s))
    }
}

struct Link {
    uuid: Uuid,
    tx: mpsc::Sender<Event>,
    hello: HostHello,
    outbox: mpsc::Receiver<Out>,
    /// Not acknowledged when the connection ended.
    kept: VecDeque<HostToGuest>,
    /// Where every byte that goes to the guest is written too (`[debug] record_links`).
    record: Option<File>,
    clock: Clock,
}

/// The link's owner detached it, or the broker stops.
struct Closed;

impl Link {
    async fn run(mut self, channel: PathBuf) {
        let mut wait = RECONNECT_FIRST;
        loop {
            match UnixStream::connect(&channel).await {
                Ok(stream) => {
                    wait = RECONNECT_FIRST;
                    if self.connected(stream).await.is_err() {
                        return;
                    }
                }
                Err(e) => debug!(guest = %self.uuid, "{}: {e}", shown(&channel)),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RECONNECT_MAX);
        }
    }

    /// One connection, one epoch: the guest can tell this connection's peer from every other.
    async fn connected(&mut self, stream: UnixStream) -> Result<(), Closed> {
        let epoch = Epoch(rand::random::<u64>().max(1));
        let mut session: Session<Host> = Session::new(epoch, &self.hello);
        for message in self.kept.drain(..) {
            let _ = session.send(message);
        }
        session.link_up(self.now());
        let ended = self.talk(&stream, &mut session).await;
        let was_established = session.is_established();
        self.kept = session.into_undelivered().collect();
        if was_established {
            self.event(LinkEvent::Lost).await?;
        }
        ended
    }

    async fn talk(&mut self, stream: &UnixStream, session: &mut Session<Host>) -> Result<(), Closed> {
        let mut unread: Vec<u8> = Vec::new();
        let mut unwritten: Vec<u8> = Vec::new();
        let mut bytes = Bucket::new(1024.0 * 1024.0, 256.0 * 1024.0);
        let mut messages = Bucket::new(20.0, 40.0);
        loop {
            // As long as taking events makes room for more of what was read.
            loop {
                if !unread.is_empty() && session.wants_input() {
                    let used = session.receive(self.now(), &unread);
                    unread.drain(..used);
                }
                let mut took = false;
                while let Some(event) = session.poll_event() {
                    took = true;
                    self.session_event(session, event, &mut messages).await?;
                }
                if unread.is_empty() {
                    unread = Vec::new();
                    break;
                }
                if !took {
                    break;
                }
            }
            if unwritten.is_empty() {
                session.poll_transmit(self.now(), WRITE_ROOM, &mut unwritten);
            }
            let held_until = [bytes.ready(), messages.ready()].into_iter().flatten().max();
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
                        Err(_) => return Ok(()),
                    }
                }
                out = self.outbox.recv() => match out {
                    Some(Out::Kept(message)) => {
                        if session.send(message).is_err() {
                            debug!(guest = %self.uuid, "queue is full, dropped");
                        }
                    }
                    Some(Out::Once(message)) => { session.send_once(message); }
                    None => return Err(Closed),
                },
                ready = stream.readable(), if unread.is_empty() && held_until.is_none() => {
                    let mut buffer = Vec::with_capacity(READ_AT_ONCE);
                    match ready.and_then(|()| stream.try_read_buf(&mut buffer)) {
                        Ok(0) => return Ok(()),
                        Ok(n) => {
                            bytes.take(n as f64);
                            unread = buffer;
                        }
                        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                        Err(_) => return Ok(()),
                    }
                }
                () = sleep_until(held_until), if held_until.is_some() => {
                    bytes.take(0.0);
                    messages.take(0.0);
                }
                // While bytes wait to be written, more would not help.
                () = sleep_until(timer), if timer.is_some() && unwritten.is_empty() => {}
            }
        }
    }

    async fn session_event(
        &self,
        session: &mut Session<Host>,
        event: session::EventOf<Host>,
        messages: &mut Bucket,
    ) -> Result<(), Closed> {
        match event {
            session::Event::Established { hello, .. } => {
                messages.take(1.0);
                self.event(LinkEvent::Established { hello }).await
            }
            session::Event::Lost => self.event(LinkEvent::Lost).await,
            session::Event::Incompatible { theirs } => {
                debug!(guest = %self.uuid, min = theirs.min, max = theirs.max, "speaks another language");
                Ok(())
            }
            session::Event::Message(GuestToHost::Ping(ping)) => {
                // Its own pings fill its own queue; when that is full it hears no pong and asks again.
                let _ = session.send(Pong { number: ping.number }.into());
                Ok(())
            }
            session::Event::Message(GuestToHost::TimeQuery(query)) => {
                let host_unix_us = Clock::unix().as_micros() as u64;
                session.send_once(TimeReply { number: query.number, host_unix_us }.into());
                Ok(())
            }
            session::Event::Message(message) => {
                messages.take(1.0);
                self.event(LinkEvent::Said(message)).await
            }
            session::Event::Delivered(HostToGuest::Pong(_)) | session::Event::Heartbeat { .. } => Ok(()),
            session::Event::Delivered(message) => self.event(LinkEvent::Delivered(message)).await,
        }
    }

    async fn event(&self, event: LinkEvent) -> Result<(), Closed> {
        self.tx.send(Event::Link { uuid: self.uuid, event }).await.map_err(|_| Closed)
    }

    fn now(&self) -> session::Now {
        session::Now { mono: self.clock.mono(), unix_us: Clock::unix().as_micros() as u64 }
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

fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}
