//! However a lab ends, nothing of it stays on the machine but its logs.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy.toml spares only the test functions themselves"
)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    panic::catch_unwind,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use coms_lab::{HostConfig, Lab, LabConfig};
use rustix::process::{Pid, Signal, kill_process};

/// What tells that somebody or something belongs to one lab.
struct Traces {
    id: String,
    namespaces: BTreeSet<PathBuf>,
}

impl Traces {
    fn of(id: &str, holder_pids: impl Iterator<Item = u32>) -> Traces {
        let links = holder_pids.flat_map(namespaces_of).collect::<BTreeSet<_>>();
        let ours: BTreeSet<_> = namespaces_of(std::process::id()).into_iter().collect();
        let namespaces: BTreeSet<_> = links.difference(&ours).cloned().collect();
        assert!(!namespaces.is_empty());
        Traces { id: id.to_owned(), namespaces }
    }

    /// Everything that is left, in words; empty is what is wanted.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for pid in pids() {
            if namespaces_of(pid).iter().any(|link| self.namespaces.contains(link)) {
                left.push(format!("process {pid} in its namespaces"));
            }
            let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            if mounts.contains(&self.id) {
                left.push(format!("a mount seen by process {pid}"));
            }
        }
        let names =
            [Path::new("/run/coms-lab"), Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/cpuset")];
        for name in names.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten() {
            if name.file_name().to_string_lossy().contains(&self.id) {
                left.push(name.path().display().to_string());
            }
        }
        left
    }

    fn wait_until_gone(&self) {
        let start = Instant::now();
        while !self.left().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(15), "still there: {:?}", self.left());
            thread::sleep(Duration::from_millis(50));
        }
        println!("gone after {:?}", start.elapsed());
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let names = fs::read_dir("/proc").unwrap().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn namespaces_of(pid: u32) -> Vec<PathBuf> {
    let link = |kind| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
    ["net", "mnt", "uts"].into_iter().filter_map(|kind| link(kind).ok()).collect()
}

fn links() -> String {
    let output = Command::new("ip").args(["-o", "link"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn small() -> LabConfig {
    LabConfig { hosts: vec![HostConfig::new("h1").cpu(0)], ..LabConfig::default() }
}

fn traces(lab: &Lab) -> Traces {
    Traces::of(lab.id(), lab.hosts().iter().map(coms_lab::Host::holder_pid))
}

#[test]
fn a_finished_lab_leaves_nothing_and_a_dropped_one_only_logs() {
    let links_before = links();
    let lab = Lab::new(small()).unwrap();
    let (traces_seen, logs) = (traces(&lab), lab.dir().to_owned());
    assert!(
        !traces_seen.left().is_empty(),
        "a running lab is not to be seen: the test looks in the wrong places"
    );
    lab.finish().unwrap();
    assert_eq!(traces_seen.left(), Vec::<String>::new());
    assert!(!logs.exists() || std::env::var_os("COMS_LAB_KEEP").is_some());

    let lab = Lab::new(small()).unwrap();
    let (traces_seen, logs) = (traces(&lab), lab.dir().to_owned());
    drop(lab);
    assert_eq!(traces_seen.left(), Vec::<String>::new());
    assert!(logs.join("h1/libvirt").exists());
    fs::remove_dir_all(logs).unwrap();
    assert_eq!(links(), links_before, "the lab changed the machine's own links");
}

#[test]
fn a_panic_leaves_only_logs() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = catch_unwind(|| {
        let lab = Lab::new(small()).unwrap();
        sender.send((traces(&lab), lab.dir().to_owned())).unwrap();
        panic!("as a failed assertion would");
    });
    assert!(panicked.is_err());
    let (traces, logs) = receiver.recv().unwrap();
    assert_eq!(traces.left(), Vec::<String>::new());
    assert!(logs.exists());
    fs::remove_dir_all(logs).unwrap();
}

/// `coms-lab up` as a process of its own, with a mark that all its descendants carry.
struct Up {
    child: Child,
    mark: String,
}

impl Up {
    fn start(mark: &str) -> Up {
        let mark = format!("{mark}-{}", std::process::id());
        // A test run in a shell's background was told to ignore Ctrl-C, and hands that on: this one may not.
        let child = Command::new("env")
            .args(["--default-signal=INT", env!("CARGO_BIN_EXE_coms-lab"), "up"])
            .env("COMS_LAB_MARK", &mark)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Up { child, mark }
    }

    /// Reads what it prints until it is up.
    fn wait(&mut self) -> Traces {
        let mut lines = BufReader::new(self.child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let first = lines.next().unwrap();
        let id = first.split(' ').nth(1).unwrap().to_owned();
        let mut holders = Vec::new();
        for line in lines {
            if let Some(rest) = line.trim().strip_prefix("nsenter --target ") {
                holders.push(rest.split(' ').next().unwrap().parse().unwrap());
            }
            if line.starts_with("Ctrl-C") {
                break;
            }
        }
        Traces::of(&id, holders.into_iter())
    }

    fn kill(&mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap();
    }

    /// All processes that carry the mark.
    fn marked(&self) -> Vec<u32> {
        let marked = |pid: &u32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let pair = format!("COMS_LAB_MARK={}", self.mark);
            String::from_utf8_lossy(&environ).split('\0').any(|found| found == pair)
        };
        pids().filter(marked).collect()
    }

    /// Its lab's name, as the command lines of its processes give it away (if it got that far).
    fn ids(&self) -> BTreeSet<String> {
        let lines = self
            .marked()
            .into_iter()
            .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok());
        let id = |line: String| Some(line.split_once("/run/coms-lab/")?.1.get(..6)?.to_owned());
        lines.filter_map(id).collect()
    }

    /// The guardian carries the mark too, and is the last to go.
    fn wait_until_unmarked(&self) {
        let start = Instant::now();
        loop {
            let left = self.marked();
            if left.is_empty() {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{}: still there: {left:?}", self.mark);
            thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn sigkill_and_sigint_leave_only_logs() {
    for signal in [Signal::KILL, Signal::INT] {
        let mut up = Up::start("up");
        let traces = up.wait();
        assert!(traces.left().iter().any(|what| what.starts_with("process")), "{:?}", traces.left());
        up.kill(signal);
        traces.wait_until_gone();
        up.wait_until_unmarked();
        let _ = fs::remove_dir_all(coms_lab::workspace_root().join("target/lab").join(&traces.id));
    }
}

#[test]
fn sigkill_while_it_comes_up_leaves_only_logs() {
    for delay_ms in [200, 350, 600, 2000] {
        let mut up = Up::start(&format!("early{delay_ms}"));
        thread::sleep(Duration::from_millis(delay_ms));
        let ids = up.ids();
        up.kill(Signal::KILL);
        up.wait_until_unmarked();
        for id in ids {
            let traces = Traces { id: id.clone(), namespaces: BTreeSet::new() };
            assert_eq!(traces.left(), Vec::<String>::new(), "{delay_ms} ms after its start");
            let _ = fs::remove_dir_all(coms_lab::workspace_root().join("target/lab").join(id));
        }
    }
}
