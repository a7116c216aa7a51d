//! A running program of the lab, killed by its PID and reaped when dropped.

use std::{
    fs::File,
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::error::{Doing as _, Error, Result};

/// A program that was started in a host or client.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both its outputs appended to `log`.
    pub(crate) fn spawn(mut command: Command, name: &str, log: PathBuf) -> Result<Process> {
        let open = || File::options().create(true).append(true).open(&log);
        let file = open().doing(|| format!("opening {}", log.display()))?;
        let other = file.try_clone().doing(|| format!("opening {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(other)
            .process_group(0)
            .spawn()
            .doing(|| format!("starting {name}"))?;
        Ok(Process { name: name.to_owned(), child, log })
    }

    /// Its process ID, the same inside and outside (the lab has no PID namespaces).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its standard output and error go.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Everything that it has said so far.
    pub fn log_text(&self) -> String {
        std::fs::read(&self.log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// Sends a signal; fails if it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.try_wait()? {
            return Err(Error::Unfit(format!(
                "cannot signal {}: it ended with {status}; see {}",
                self.name,
                self.log.display()
            )));
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).doing(|| format!("sending {signal:?} to {} ({pid})", self.name))
    }

    /// Its exit status, if it has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().doing(|| format!("waiting for {}", self.name))
    }

    /// Waits until it ends by itself.
    pub fn wait_for_exit(&mut self, at_most: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_until(&format!("{} to end", self.name), at_most, || {
            status = self.try_wait()?;
            Ok(status.is_some())
        })?;
        status.ok_or_else(|| Error::Unfit(format!("{} has no exit status", self.name)))
    }

    /// Sends `signal` and waits up to 20 s for its end.
    pub fn stop(mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.wait_for_exit(Duration::from_secs(20))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended and been reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end, at most `at_most` long, and gives what it said.
pub(crate) fn run(mut command: Command, words: &[impl AsRef<str>], at_most: Duration) -> Result<Output> {
    let name = words.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(" ");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .doing(|| format!("starting `{name}`"))?;
    let collect = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let stdout = collect(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = collect(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let mut status = None;
    let waited = wait_until(&format!("`{name}` to end"), at_most, || {
        status = child.try_wait().doing(|| format!("waiting for `{name}`"))?;
        Ok(status.is_some())
    });
    let Some(status) = status else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(waited.err().unwrap_or_else(|| Error::Unfit(format!("`{name}` has no exit status"))));
    };
    let joined = |thread: thread::JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
    Ok(Output { status, stdout: joined(stdout), stderr: joined(stderr) })
}

/// Polls every few milliseconds until `done` says yes; an error of `done` ends the wait.
pub fn wait_until(what: &str, at_most: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    while !done()? {
        let after = start.elapsed();
        if after > at_most {
            return Err(Error::Timeout { what: what.into(), after, found: "it did not come".into() });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}
