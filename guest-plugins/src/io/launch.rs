//! Between fork and exec, but as a program of its own: this binary, run as `coms-plugins launch`, gives up what it is and
//! becomes the plugin. So nothing needs to be done in a forked copy of a daemon, where hardly anything may be.

use super::users::RunAs;
use rustix::process::{Gid, Uid};
use rustix::process::{Resource, Rlimit, Signal, getppid, nice, setrlimit, setsid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Below everything that the VM is there for, the agent included.
const NICE: i32 = 10;

/// What the plugin is to be.
#[derive(Debug, Default)]
pub struct Launch {
    /// None: who calls.
    pub run_as: Option<RunAs>,
    /// Data of each process; 0: no bound.
    pub memory_mib: u64,
    /// Processes of its user. None: a cgroup bounds them.
    pub processes: Option<u64>,
    /// The cgroup that it joins.
    pub cgroup: Option<PathBuf>,
    /// The daemon.
    pub parent: Option<i32>,
    /// Program and arguments.
    pub argv: Vec<String>,
}

/// Becomes the plugin. Returns only when that is not possible, with the exit code that says so.
pub fn launch(launch: &Launch) -> ExitCode {
    let Some((program, arguments)) = launch.argv.split_first() else { return ExitCode::from(2) };
    if let Err((what, e)) = prepare(launch) {
        eprintln!("coms-plugins: {what}: {e}");
        return ExitCode::from(126);
    }
    let error = Command::new(program).args(arguments).exec();
    eprintln!("coms-plugins: {program}: {error}");
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
}

fn prepare(launch: &Launch) -> Result<(), (&'static str, io::Error)> {
    let told = |what: &'static str| move |e: rustix::io::Errno| (what, io::Error::from(e));
    if let Some(cgroup) = &launch.cgroup {
        std::fs::write(cgroup.join("cgroup.procs"), "0").map_err(|e| ("its cgroup cannot be joined", e))?;
    }
    // A session of its own: no terminal, and its number is that of all its processes.
    setsid().map_err(told("no session of its own"))?;
    // A kernel that forbids it has its reasons; the cgroup's weight does the same.
    let _ = nice(NICE);
    let at_most = |n: u64| Rlimit { current: Some(n), maximum: Some(n) };
    setrlimit(Resource::Core, at_most(0)).map_err(told("core files cannot be forbidden"))?;
    if launch.memory_mib > 0 {
        let bytes = launch.memory_mib.saturating_mul(1024 * 1024);
        setrlimit(Resource::Data, at_most(bytes)).map_err(told("its memory cannot be bounded"))?;
    }
    if let Some(processes) = launch.processes {
        setrlimit(Resource::Nproc, at_most(processes)).map_err(told("its processes cannot be bounded"))?;
    }
    if let Some(RunAs { uid, gid, groups }) = &launch.run_as {
        let groups: Vec<_> = groups.iter().map(|g| Gid::from_raw(*g)).collect();
        let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
        thread::set_thread_groups(&groups).map_err(told("its groups cannot be set"))?;
        thread::set_thread_res_gid(gid, gid, gid).map_err(told("its group cannot be set"))?;
        thread::set_thread_res_uid(uid, uid, uid).map_err(told("its user cannot be set"))?;
    }
    // What the daemon may (become other users, end their processes) must not be handed down by exec.
    let _ = thread::clear_ambient_capability_set();
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    thread::set_capabilities(None, none).map_err(told("capabilities cannot be given up"))?;
    // After the change of user, which would forget it: it dies with the daemon.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(told("no signal of its parent's end"))?;
    // Killed before, it gave no such signal.
    if launch.parent.is_some_and(|pid| getppid().is_none_or(|now| now.as_raw_nonzero().get() != pid)) {
        return Err(("not begun", io::Error::other("coms-plugins has ended")));
    }
    std::env::set_current_dir("/").map_err(|e| ("/ cannot be entered", e))
}
