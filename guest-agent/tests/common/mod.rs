//! The real agent as a process, and a tiny broker: the real host end of the session over a real unix socket.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use coms_protocol::guest_to_host::GuestHello;
use coms_protocol::host_to_guest::{Completed, HostHello, Pong, TimeReply};
use coms_protocol::session::{Epoch, Event, EventOf, Now, Session};
use coms_protocol::types::{Encryption, Figures, Initiator, MigrationId, Place, RequestId, Technique, Text};
use coms_protocol::{GuestToHost, Host, HostToGuest};
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

pub const PATIENCE: Duration = Duration::from_secs(10);

/// A machine with an agent in it.
pub struct Machine {
    pub dir: tempfile::TempDir,
    agent: Option<Child>,
}

impl Machine {
    /// `more` is added to a configuration with everything in a directory of its own.
    pub fn new(more: &str) -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap(), agent: None };
        let p = |name: &str| machine.path(name).display().to_string();
        let config = format!(
            "[port]\ntransport = \"unix\"\npath = \"{}\"\n[socket]\npath = \"{}\"\n[state]\npath = \"{}\"\n[events]\npath = \"{}\"\n{more}",
            p("port"),
            p("agent.sock"),
            p("lib/agent.json"),
            p("log/events.jsonl")
        );
        std::fs::write(machine.path("agent.toml"), config).unwrap();
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("stderr")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_coms-agent"))
            .arg("--config")
            .arg(self.path("agent.toml"))
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(child);
        let begun = Instant::now();
        while UnixStream::connect(self.path("agent.sock")).is_err() {
            assert!(begun.elapsed() < PATIENCE, "no socket: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    /// kill -9, and gone.
    pub fn kill(&mut self) {
        let mut child = self.agent.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; how long it took to end, and how it ended.
    pub fn terminate(&mut self) -> (Duration, std::process::ExitStatus) {
        let mut child = self.agent.take().unwrap();
        let begun = Instant::now();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = child.wait().unwrap();
        (begun.elapsed(), status)
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    pub fn coms_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coms"));
        command.arg("--socket").arg(self.path("agent.sock")).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn coms(&self, args: &[&str]) -> Output {
        self.coms_command(args).output().unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.coms(&[args, &["--json"]].concat());
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}\n{}", self.stderr()))
    }

    /// The event log's lines of this name.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("log/events.jsonl")).unwrap_or_default();
        let all = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("whole JSON lines only"));
        all.filter(|v| v["event"] == name).collect()
    }

    pub fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < PATIENCE, "never {what}: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Processor time used and voluntary waits so far.
    pub fn effort(&self) -> (Duration, u64) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let waits = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        (Duration::from_millis(ticks * 10), waits.trim().parse().unwrap())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut child) = self.agent.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The host's end of the port.
pub struct Port {
    listener: UnixListener,
}

impl Port {
    pub fn new(machine: &Machine) -> Self {
        let path = machine.path("port");
        let _ = std::fs::remove_file(&path);
        Self { listener: UnixListener::bind(path).unwrap() }
    }

    pub fn accept(&self) -> UnixStream {
        self.listener.set_nonblocking(true).unwrap();
        let begun = Instant::now();
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return stream,
                Err(e) => assert!(begun.elapsed() < PATIENCE, "no agent at the port: {e}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// One host's broker at the port.
pub struct Broker {
    stream: UnixStream,
    pub session: Session<Host>,
    /// This host's clock is ahead by so much: as if the guest had stood still before it came here.
    ahead: Duration,
    pub hello: Option<GuestHello>,
    pub heard: Vec<GuestToHost>,
    pub delivered: Vec<HostToGuest>,
    pub answers_pings: bool,
}

impl Broker {
    pub fn new(stream: UnixStream, host: &str, ahead: Duration) -> Self {
        stream.set_nonblocking(true).unwrap();
        let hello = HostHello {
            place: Place { alias: Text::clipped(host), region: Text::clipped("test") },
            enabled: true,
        };
        let mut session = Session::new(Epoch(rand::random::<u64>().max(1)), &hello);
        session.link_up(clock(ahead));
        Self { stream, session, ahead, hello: None, heard: vec![], delivered: vec![], answers_pings: true }
    }

    /// The same stream under another broker, in the middle of everything: no hang-up.
    pub fn handed_over(self, host: &str, ahead: Duration) -> Self {
        Self::new(self.stream, host, ahead)
    }

    pub fn hang_up(self) {}

    pub fn say(&mut self, message: impl Into<HostToGuest>) {
        self.session.send(message.into()).unwrap();
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// One turn. False: the agent hung up.
    pub fn turn(&mut self) -> bool {
        let mut buffer = [0u8; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => {
                let mut rest = &buffer[..n];
                while !rest.is_empty() {
                    let used = self.session.receive(clock(self.ahead), rest);
                    rest = &rest[used..];
                    while let Some(event) = self.session.poll_event() {
                        self.event(event);
                    }
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_micros(300)),
            Err(_) => return false,
        }
        let mut out = Vec::new();
        self.session.poll_transmit(clock(self.ahead), 16 * 1024, &mut out);
        let mut rest = &out[..];
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => return false,
            }
        }
        true
    }

    fn event(&mut self, event: EventOf<Host>) {
        match event {
            Event::Established { hello, .. } => self.hello = Some(hello),
            Event::Message(GuestToHost::TimeQuery(q)) => {
                let host_unix_us = clock(self.ahead).unix_us;
                self.session.send_once(TimeReply { number: q.number, host_unix_us }.into());
            }
            Event::Message(GuestToHost::Ping(p)) if self.answers_pings => self.say(Pong { number: p.number }),
            Event::Message(message) => self.heard.push(message),
            Event::Delivered(message) => self.delivered.push(message),
            Event::Lost | Event::Incompatible { .. } | Event::Heartbeat { .. } => {}
        }
    }

    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(self.turn(), "the agent hung up before {what}");
            assert!(begun.elapsed() < PATIENCE, "never {what}; heard {:?}", self.heard);
        }
    }

    pub fn for_a_while(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time && self.turn() {}
    }

    pub fn meet(&mut self) -> GuestHello {
        self.until("met", |b| b.hello.is_some());
        self.hello.clone().unwrap()
    }

    pub fn request(&mut self) -> coms_protocol::guest_to_host::Request {
        self.until("asked", |b| !b.requests().is_empty());
        self.requests()[0].clone()
    }

    pub fn requests(&self) -> Vec<coms_protocol::guest_to_host::Request> {
        let requests = self.heard.iter().filter_map(|m| match m {
            GuestToHost::Request(r) => Some(r.clone()),
            GuestToHost::Ping(_)
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
            | GuestToHost::ProtectedRequest(_) => None,
        });
        requests.collect()
    }

    /// Says it and waits until the agent has acted on it.
    pub fn tell(&mut self, message: impl Into<HostToGuest>) {
        self.say(message);
        self.until("delivered", |b| b.session.queued() == 0);
    }
}

pub fn clock(ahead: Duration) -> Now {
    static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + ahead;
    Now { mono: BEGUN.get_or_init(Instant::now).elapsed(), unix_us: unix.as_micros() as u64 }
}

pub fn completed(migration: u64, request: Option<RequestId>, to: &str) -> Completed {
    let place = |alias: &str| Place { alias: Text::clipped(alias), region: Text::clipped("test") };
    Completed {
        migration: MigrationId(migration),
        request,
        initiator: Initiator::Customer,
        technique: Technique::PreCopy,
        encryption: Encryption::None,
        from: None,
        to: place(to),
        figures: Figures { downtime_ms: Some(46), total_ms: Some(700), ..Figures::default() },
        told_after_ms: Some(12),
    }
}

/// A real HTTP server whose answers take as long as it is told.
pub struct Shop {
    pub address: std::net::SocketAddr,
    delay_ms: Arc<AtomicU64>,
}

impl Shop {
    pub fn open() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let shop = Self { address: listener.local_addr().unwrap(), delay_ms: Arc::default() };
        let delay_ms = Arc::clone(&shop.delay_ms);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, delay_ms) = (stream.unwrap(), Arc::clone(&delay_ms));
                std::thread::spawn(move || {
                    let _ = stream.read(&mut [0u8; 1024]);
                    std::thread::sleep(Duration::from_millis(delay_ms.load(Ordering::Relaxed)));
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                });
            }
        });
        shop
    }

    pub fn answers_in(&self, ms: u64) {
        self.delay_ms.store(ms, Ordering::Relaxed);
    }

    /// A configuration that finds it slow above 30 ms, within a second.
    pub fn watched(&self, asking: &str) -> String {
        format!(
            "[asking]\nsettle_s = 0\ncheck_s = 1\n{asking}\n[[workload]]\nname = \"shop\"\nprobe = {{ http = \"http://{}/\" }}\n\
             interval_ms = 20\nmetric = \"p50\"\nwindow_s = 1\nslower_than_ms = 30\nfor_s = 0\nmin_samples = 3\n",
            self.address
        )
    }
}

pub fn exists(path: &Path) -> bool {
    path.exists()
}
