//! Makes sure that nothing of a lab outlives it: see `guardian.sh`, which does the work.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::error::{Doing as _, Error, Result};

/// Something that must be gone when the lab is.
pub(crate) enum Belonging<'a> {
    /// The network namespace that this process is in, and every process in it.
    NetOf(u32),
    /// A cgroup, and every process in it.
    Cgroup(&'a Path),
    /// A directory below /run.
    Dir(&'a Path),
}

/// The process that cleans up once this end of its pipe is closed, by drop or by death.
pub(crate) struct Guardian {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Guardian {
    pub(crate) fn start() -> Result<Guardian> {
        let mut child = Command::new("setsid")
            .args(["bash", "-c", include_str!("guardian.sh"), "coms-lab-guardian"])
            // Its own group (and by setsid its own session): Ctrl-C at the tests' terminal is not for it.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .doing(|| "starting the lab's guardian (setsid bash)".into())?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(orders), Some(answers)) => Ok(Guardian { child, orders, answers: BufReader::new(answers) }),
            _ => Err(Error::Unfit("the lab's guardian has no pipes".into())),
        }
    }

    /// Returns when the guardian knows, so that from then on even SIGKILL leaves nothing behind.
    pub(crate) fn entrust(&mut self, what: Belonging<'_>) -> Result<()> {
        let order = match what {
            Belonging::NetOf(pid) => format!("net {pid}"),
            Belonging::Cgroup(path) => format!("cgroup {}", path.display()),
            Belonging::Dir(path) => format!("dir {}", path.display()),
        };
        let doing = || format!("telling the lab's guardian {order:?}");
        writeln!(self.orders, "{order}").doing(doing)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).doing(doing)?;
        if answer == "ok\n" { Ok(()) } else { Err(Error::Unfit(format!("{}: answered {answer:?}", doing()))) }
    }

    /// Has everything cleaned and gives what could not be (empty when all is well).
    pub(crate) fn clean(self) -> Result<String> {
        let Guardian { mut child, orders, mut answers } = self;
        drop(orders);
        let mut left = String::new();
        let read = answers.read_to_string(&mut left).doing(|| "reading the guardian's report".into());
        child.wait().doing(|| "waiting for the guardian".into())?;
        read.map(|_| left)
    }
}
