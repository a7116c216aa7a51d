//! SIGHUP and `comsctl reload` at the real daemon, and a real link whose guest is to hear something else. libvirt is
//! not there: the daemon does without it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "helpers of tests")]

use coms_broker::event::{Event, LinkEvent};
use coms_broker::io::guest_links::Links;
use coms_protocol::Guest;
use coms_protocol::guest_to_host::GuestHello;
use coms_protocol::host_to_guest::{HostHello, HostToGuest, Notice};
use coms_protocol::session::{self, Epoch, Session};
use coms_protocol::types::{Initiator, MigrationId, Place, Technique, Text};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon with everything in a directory of its own.
struct Daemon {
    dir: PathBuf,
    child: Child,
}

impl Daemon {
    fn start() -> Daemon {
        let dir = std::env::temp_dir().join(format!("coms-reload-{:x}", rand::random::<u64>()));
        std::fs::create_dir_all(&dir).unwrap();
        write_config(&dir, "[\"web-*\"]", "");
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_coms-broker"))
            .args(["--config".as_ref(), dir.join("broker.toml").as_os_str()])
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Daemon { dir, child };
        daemon.until("its socket", || daemon.comsctl(&["guests"]).status.success());
        daemon
    }

    fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < PATIENCE, "waited for {what}; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    fn comsctl(&self, args: &[&str]) -> Output {
        let socket = self.dir.join("broker.sock");
        Command::new(env!("CARGO_BIN_EXE_comsctl")).arg("--socket").arg(socket).args(args).output().unwrap()
    }

    fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn write_config(dir: &std::path::Path, enabled: &str, more: &str) {
    let text = format!(
        "[host]\nname = \"h1\"\nregion = \"r\"\nlibvirt = \"qemu+unix:///system?socket={0}/none\"\n\
         [guests]\nenabled = {enabled}\n[paths]\nsocket = \"{0}/broker.sock\"\nstate = \"{0}/lib\"\n{more}",
        dir.display()
    );
    std::fs::write(dir.join("broker.toml"), text).unwrap();
}

#[test]
fn a_changed_file_is_taken_up_a_wrong_one_refused_and_what_cannot_change_named() {
    let mut daemon = Daemon::start();
    let text = |out: &Output| {
        String::from_utf8(out.stdout.clone()).unwrap() + std::str::from_utf8(&out.stderr).unwrap()
    };

    write_config(&daemon.dir, "[\"db\"]", "[limits]\ncooldown_s = 1\n");
    daemon.hang_up();
    daemon.until("the reload", || daemon.log().contains("changed: guests.enabled, limits"));
    assert!(daemon.log().contains("limits.cooldown_s: a guest may be moved again 1 s"), "{}", daemon.log());

    // The same words as those of `comsctl config check`, in one line.
    std::fs::write(daemon.dir.join("broker.toml"), "[host\n").unwrap();
    daemon.hang_up();
    daemon.until("the refusal", || daemon.log().contains("refused, the old one stays"));
    let refused = daemon.comsctl(&["reload"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("the old one stays") && text(&refused).contains("broker.toml"));

    let file = daemon.dir.clone();
    write_config(&file, "[\"db\"]", "[limits]\ncooldown_s = 1\n");
    let same = daemon.comsctl(&["reload"]);
    assert!(same.status.success() && text(&same).contains("nothing in force changes"), "{}", text(&same));

    write_config(
        &file,
        "[\"db\"]",
        "[limits]\ncooldown_s = 1\n[debug]\nrecord_links = \"/l\"\n[access]\nstatus_group = \"4711\"\n",
    );
    let out = daemon.comsctl(&["reload", "--json"]);
    let done: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let done = done["done"].as_str().unwrap();
    assert!(
        done.contains("changed: access") && done.contains("until a restart: debug.record_links"),
        "{done}"
    );
    assert!(daemon.child.try_wait().unwrap().is_none(), "it runs on");
}

/// The agent's end of a link.
struct Agent {
    stream: tokio::net::UnixStream,
    session: Session<Guest>,
    began: Instant,
    /// What it has met, and which notices it has heard.
    met: Vec<bool>,
    heard: Vec<MigrationId>,
}

impl Agent {
    fn now(&self) -> session::Now {
        session::Now { mono: self.began.elapsed(), unix_us: 0 }
    }

    /// Speaks, and listens for a moment. `deaf`: what comes is lost on the way.
    async fn turn(&mut self, deaf: bool) {
        let mut out = Vec::new();
        self.session.poll_transmit(self.now(), usize::MAX, &mut out);
        self.stream.write_all(&out).await.unwrap();
        let mut buffer = [0; 4096];
        let wait = Duration::from_millis(20);
        let Ok(read) = tokio::time::timeout(wait, self.stream.read(&mut buffer)).await else { return };
        let n = read.unwrap();
        assert!(n > 0, "the host hung up");
        if deaf {
            return;
        }
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            let used = self.session.receive(self.now(), rest);
            rest = &rest[used..];
            while let Some(event) = self.session.poll_event() {
                match event {
                    session::Event::Established { hello, .. } => self.met.push(hello.enabled),
                    session::Event::Message(HostToGuest::Notice(n)) => self.heard.push(n.migration),
                    session::Event::Message(_)
                    | session::Event::Delivered(_)
                    | session::Event::Heartbeat { .. }
                    | session::Event::Incompatible { .. }
                    | session::Event::Lost => {}
                }
            }
        }
    }
}

#[tokio::test]
async fn a_guest_that_is_greeted_anew_keeps_its_connection_and_what_it_is_owed() {
    let dir = std::env::temp_dir().join(format!("coms-greet-{:x}", rand::random::<u64>()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("port");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let place = Place { alias: Text::clipped("host-1"), region: Text::clipped("r") };
    let hello = |enabled| HostHello { place: place.clone(), enabled };
    let (tx, mut events) = tokio::sync::mpsc::channel(64);
    let mut links = Links::new(tx, None);
    let uuid = uuid::Uuid::from_u128(1);
    links.attach(uuid, path, &hello(false));
    let (stream, _) = listener.accept().await.unwrap();
    let session = Session::new(Epoch(7), &GuestHello::default());
    let mut agent = Agent { stream, session, began: Instant::now(), met: Vec::new(), heard: Vec::new() };
    let now = agent.now();
    agent.session.link_up(now);
    let both = |agent: &Agent, n: usize| agent.met.len() == n;
    let begun = Instant::now();
    while !both(&agent, 1) {
        assert!(begun.elapsed() < PATIENCE);
        agent.turn(false).await;
    }
    // Until the host has met it too.
    while !matches!(events.recv().await, Some(Event::Link { event: LinkEvent::Established { .. }, .. })) {}

    // Owed to a guest, when its host has something else to say of itself.
    let notice = Notice {
        migration: MigrationId(3),
        request: None,
        initiator: Initiator::Operator,
        technique: Technique::PreCopy,
        starts_in_ms: 0,
        predicted_downtime_ms: None,
        predicted_total_ms: None,
    };
    links.tell(uuid, notice.into());
    agent.turn(true).await;
    links.greet(uuid, hello(true));
    agent.turn(true).await;
    let begun = Instant::now();
    while !both(&agent, 2) || agent.heard.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "met {:?}, heard {:?}", agent.met, agent.heard);
        agent.turn(false).await;
        while let Ok(event) = events.try_recv() {
            drop(event);
        }
    }
    assert_eq!(agent.met, [false, true]);
    assert!(agent.heard.iter().all(|m| *m == MigrationId(3)), "{:?}", agent.heard);
    std::fs::remove_dir_all(&dir).unwrap();
}
