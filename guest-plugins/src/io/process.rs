//! One run of a plugin's program: begun through [`super::launch`], ended with all that it started.

use super::keeper::Keeper;
use super::users::RunAs;
use super::{cgroup, users};
use crate::config::Program;
use crate::reading::Problem;
use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Where programs find others.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// As whom plugins run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// As each is configured.
    Configured,
    /// As who calls: `coms plugin test` without root.
    Caller,
}

/// A program that runs. Dropped, it is killed.
pub(super) struct Running {
    child: Child,
    /// None: it ended, and its number may be another's.
    leader: Option<Pid>,
    cgroup: Option<PathBuf>,
    keeper: Arc<Keeper>,
}

/// Begins it; why it cannot be.
pub(super) fn start(
    name: &str,
    index: usize,
    program: &Program,
    run_as: As,
    stdin: Stdio,
    keeper: &Arc<Keeper>,
) -> Result<Running, Problem> {
    let run_as = match run_as {
        // Who is that user already need not, and could not, become it.
        As::Configured => Some(users::user(&program.user)?).filter(|u| u.uid != geteuid().as_raw()),
        As::Caller => None,
    };
    let dir = keeper.tree.as_ref().map(|t| t.of(index, program.memory_mib, program.processes)).transpose();
    let cgroup = dir.map_err(|e| {
        Problem::new(format!("its cgroup cannot be made: {e}"), "as root: systemctl restart coms-plugins")
    })?;
    // This very program, also when the file was replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("coms-plugins").arg("launch").arg("--memory-mib").arg(program.memory_mib.to_string());
    if let Some(RunAs { uid, gid, groups }) = &run_as {
        let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
        command.arg("--uid").arg(uid.to_string()).arg("--gid").arg(gid.to_string());
        command.arg("--groups").arg(groups.join(","));
    }
    match &cgroup {
        Some(dir) => command.arg("--cgroup").arg(dir),
        None => command.arg("--processes").arg(program.processes.to_string()),
    };
    command.arg("--parent").arg(std::process::id().to_string());
    command.arg("--").args(&program.argv);
    command.env_clear().env("PATH", PATH);
    command.env("LANG", "C.UTF-8").env("HOME", "/").env("COMS_PLUGIN", name).envs(&program.env);
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(|e| {
        Problem::new(
            format!("no process can be made: {e}"),
            "does the machine have memory and processes left?",
        )
    })?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(leader) = leader {
        keeper.began(leader);
    }
    Ok(Running { child, leader, cgroup, keeper: Arc::clone(keeper) })
}

impl Running {
    pub(super) fn streams(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take())
    }

    /// Until it ends; then what it left goes, too.
    pub(super) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await;
        if let Some(leader) = self.leader.take() {
            self.keeper.ended(leader);
        }
        if let Some(dir) = &self.cgroup {
            cgroup::kill(dir);
        }
        self.keeper.sweep();
        status
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // Not reaped: its number is its own. Before it has its session it has no group; gone already is as good.
            let _ = kill_process_group(leader, signal);
            let _ = kill_process(leader, signal);
        }
    }

    /// At once.
    pub(super) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(dir) = &self.cgroup {
            cgroup::kill(dir);
        }
        let _ = self.wait().await;
    }

    /// Politely, and then at once.
    pub(super) async fn end(&mut self, within: Duration) {
        // Its standard input ended already; who notices may end by itself.
        if timeout(within / 4, self.wait()).await.is_ok() {
            return;
        }
        self.signal(Signal::TERM);
        if timeout(within / 4 * 3, self.wait()).await.is_err() {
            self.kill().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(leader) = self.leader.take() {
            self.keeper.ended(leader);
        }
    }
}
