//! Runs a program of the customer's: no shell, a time limit, and nothing of it left behind when that is over.

use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// What a program is given beside its arguments.
pub(super) enum Given {
    /// Nothing; it has the agent's environment.
    Nothing,
    /// This on its standard input, and no environment but this.
    Text(Vec<u8>, BTreeMap<String, String>),
}

/// Why it did not end by itself.
#[derive(Debug)]
pub(super) enum Trouble {
    Start(std::io::Error),
    TimedOut,
    Wait(std::io::Error),
}

/// Kills the whole process group unless its leader was reaped: at the time limit, and when the waiting is given up.
struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Group {
    fn kill(&mut self) {
        if let Some(id) = self.id.take() {
            // Its leader was not reaped, so its number is still its own. Gone already is as good.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `argv` in a process group of its own; at the limit the group dies, children included.
pub(super) async fn run(argv: &[String], given: Given, limit: Duration) -> Result<ExitStatus, Trouble> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(Trouble::Start(std::io::ErrorKind::InvalidInput.into()));
    };
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).kill_on_drop(true);
    let input = match given {
        Given::Nothing => {
            command.stdin(Stdio::null());
            Vec::new()
        }
        Given::Text(text, environment) => {
            command.stdin(Stdio::piped()).env_clear().envs(environment);
            text
        }
    };
    let child = command.spawn().map_err(Trouble::Start)?;
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut group = Group { child, id };
    let pipe = group.child.stdin.take();
    let ended = timeout(limit, async {
        let speak = async {
            if let Some(mut pipe) = pipe {
                // It need not read.
                let _ = pipe.write_all(&input).await;
            }
            std::future::pending::<Infallible>().await
        };
        // Not one after the other: who does not read may end all the same.
        tokio::select! {
            never = speak => match never {},
            status = group.child.wait() => status,
        }
    });
    match ended.await {
        Ok(status) => {
            group.id = None;
            status.map_err(Trouble::Wait)
        }
        Err(_) => {
            group.kill();
            let _ = group.child.wait().await;
            Err(Trouble::TimedOut)
        }
    }
}
