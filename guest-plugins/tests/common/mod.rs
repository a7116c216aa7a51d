//! The real daemon as a process, and an agent that notes what it hears.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const PATIENCE: Duration = Duration::from_secs(30);
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_coms-plugins");

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Plugins never run as root; without root they can run as nobody but who runs the tests.
pub fn user() -> String {
    if is_root() { "nobody".to_owned() } else { rustix::process::geteuid().as_raw().to_string() }
}

/// A report, and when it came.
pub type Heard = Arc<Mutex<Vec<(Instant, Value)>>>;

/// A directory with a configuration, a daemon by it, and an agent's socket.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub heard: Heard,
    daemon: Option<Child>,
}

impl Place {
    pub fn new(plugins: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Plugins run as somebody else.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let place = Self { dir, heard: Heard::default(), daemon: None };
        place.configure(plugins);
        place
    }

    pub fn configure(&self, plugins: &str) {
        let p = |name: &str| self.path(name).display().to_string();
        let text = format!(
            "[agent]\nsocket = \"{}\"\n[control]\nsocket = \"{}\"\n[run]\nuser = \"{}\"\nstop_s = 1\n{plugins}",
            p("agent.sock"),
            p("control.sock"),
            user()
        );
        std::fs::write(self.path("plugins.toml"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program of the customer's.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text.replace("$DIR", &self.dir.path().display().to_string())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// An agent that takes every report.
    pub fn agent(&self) {
        let listener = UnixListener::bind(self.path("agent.sock")).unwrap();
        // As the real one's: open to everybody, and the agent decides.
        let open = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(self.path("agent.sock"), open).unwrap();
        let heard = Arc::clone(&self.heard);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, heard) = (stream.unwrap(), Arc::clone(&heard));
                std::thread::spawn(move || note(stream, &heard));
            }
        });
    }

    pub fn start(&mut self) {
        self.start_with(Command::new(PROGRAM));
    }

    pub fn start_with(&mut self, mut command: Command) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("stderr")).unwrap();
        command.arg("run").arg("--config").arg(self.path("plugins.toml")).stderr(log).stdin(Stdio::null());
        self.daemon = Some(command.spawn().unwrap());
        self.until("a daemon", |p| p.path("control.sock").exists());
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(self.daemon.as_ref().unwrap())
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// SIGTERM; how long it took to end.
    pub fn end(&mut self) -> Duration {
        let begun = Instant::now();
        self.signal(rustix::process::Signal::TERM);
        assert!(self.daemon.take().unwrap().wait().unwrap().success(), "{}", self.stderr());
        begun.elapsed()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(args).arg("--config").arg(self.path("plugins.toml")).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// `list --json`.
    pub fn list(&self) -> Value {
        let out = self.run(&["list", "--json"]);
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}: {}", self.stderr()))
    }

    /// How one plugin stands.
    pub fn plugin(&self, name: &str) -> Value {
        let list = self.list();
        let found = list["plugins"].as_array().unwrap().iter().find(|p| p["plugin"] == name).cloned();
        found.unwrap_or_else(|| panic!("no {name}: {list}"))
    }

    /// Reports of a plugin.
    pub fn reports(&self, name: &str) -> Vec<Value> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|(_, r)| r["plugin"] == name).map(|(_, r)| r.clone()).collect()
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    pub fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < PATIENCE, "never {what}: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // Not at once: it ends what it began.
            let pid = rustix::process::Pid::from_child(&daemon);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = daemon.wait();
        }
    }
}

fn note(stream: UnixStream, heard: &Heard) {
    let mut writer = stream.try_clone().unwrap();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        heard.lock().unwrap().push((Instant::now(), serde_json::from_str(&line).unwrap()));
        if writeln!(writer, "{}", json!({ "ok": true })).is_err() {
            return;
        }
    }
}

/// Processes whose command line has this word.
pub fn processes(word: &Path) -> Vec<i32> {
    let word = word.display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|id| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&word)
    })
    .collect()
}
