//! Which processes are there, and that none stays behind.
//!
//! The daemon is the reaper of orphans: what a plugin leaves when it ends, or lets go on purpose (a double fork, a session
//! of its own), becomes a child of the daemon's, and is ended unless it belongs to a plugin that runs.

use super::cgroup::Tree;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};
use std::collections::BTreeSet;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Leaders of the sessions that run.
#[derive(Debug)]
pub struct Keeper {
    leaders: Mutex<BTreeSet<i32>>,
    swept: Mutex<Swept>,
    pub(super) tree: Option<Tree>,
}

/// What was ended and is not told yet, and when something was: a stranger may leave something behind all the time.
#[derive(Debug, Default)]
struct Swept {
    untold: u64,
    told: Option<Instant>,
}

const TELL_EVERY: Duration = Duration::from_secs(60);

impl Keeper {
    /// From now on orphans come here.
    pub fn new() -> Self {
        if let Err(e) = set_child_subreaper(Some(getpid())) {
            warn!("what plugins leave behind cannot be ended: {e}");
        }
        Self { leaders: Mutex::default(), swept: Mutex::default(), tree: Tree::take() }
    }

    fn leaders(&self) -> std::sync::MutexGuard<'_, BTreeSet<i32>> {
        self.leaders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn began(&self, leader: Pid) {
        self.leaders().insert(leader.as_raw_nonzero().get());
    }

    pub(super) fn ended(&self, leader: Pid) {
        self.leaders().remove(&leader.as_raw_nonzero().get());
    }

    /// Ends all that is left, and waits until it is gone; at most for this long.
    pub async fn sweep_out(&self, within: Duration) {
        let begun = Instant::now();
        while !children().is_empty() && begun.elapsed() < within {
            self.sweep();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends orphans of plugins that do not run.
    pub fn sweep(&self) {
        let leaders = self.leaders();
        let mut swept = 0;
        for child in children() {
            let is = |pid: Pid| leaders.contains(&pid.as_raw_nonzero().get());
            if is(child) || session(child).is_some_and(is) {
                continue;
            }
            // Our child, and not waited for: its number is its own.
            let _ = kill_process(child, Signal::KILL);
            swept += u64::from(waitpid(Some(child), WaitOptions::NOHANG).is_ok());
        }
        let mut all = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        all.untold += swept;
        if all.untold > 0 && all.told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            info!("ended {} processes that plugins had left behind", all.untold);
            *all = Swept { untold: 0, told: Some(Instant::now()) };
        }
    }
}

impl Default for Keeper {
    fn default() -> Self {
        Self::new()
    }
}

/// The session of a process. None where its leader is outside of this process's namespace: the kernel then says 0, which
/// rustix's getsid takes for impossible.
fn session(of: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", of.as_raw_nonzero())).ok()?;
    // pid (comm) state ppid pgrp session
    let (_, after) = stat.rsplit_once(") ")?;
    Pid::from_raw(after.split(' ').nth(3)?.parse().ok()?)
}

/// Children of this process, whichever thread had them.
fn children() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|t| fs::read_to_string(t.path().join("children")).ok());
    lists
        .flat_map(|l| l.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<i32>>())
        .filter_map(Pid::from_raw)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_that_of_the_plugins_leader() {
        let mut child = std::process::Command::new("setsid").args(["sleep", "60"]).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let begun = Instant::now();
        while session(pid) != Some(pid) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(session(pid), Some(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(session(pid), None, "it is gone");
    }
}
