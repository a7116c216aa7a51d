//! The connection to the daemon.

use coms_agent::event::Command;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The daemon answers at once, or hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing came of it.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No daemon, or it went away.
    Unreachable(String),
    /// It said no.
    Refused(String),
}

pub(crate) struct Client {
    path: PathBuf,
    stream: UnixStream,
    held: Vec<u8>,
}

impl Client {
    pub fn connect(path: &Path) -> Result<Self, Trouble> {
        let hint = match UnixStream::connect(path) {
            Ok(stream) => return Ok(Self { path: path.to_owned(), stream, held: Vec::new() }),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                "run it as root (sudo coms …)".to_owned()
            }
            Err(e) => format!("is coms-agent running? (systemctl status coms-agent): {e}"),
        };
        Err(Trouble::Unreachable(format!("{}: cannot be reached; {hint}", path.display())))
    }

    pub fn say(&mut self, command: &Command) -> Result<(), Trouble> {
        let mut line = serde_json::to_vec(command).map_err(|e| Trouble::Refused(e.to_string()))?;
        line.push(b'\n');
        self.stream.write_all(&line).map_err(|e| self.lost(&e.to_string()))
    }

    /// The same connection once more, to speak while another thread listens.
    pub fn also(&self) -> Result<Self, Trouble> {
        let stream = self.stream.try_clone().map_err(|e| self.lost(&e.to_string()))?;
        Ok(Self { path: self.path.clone(), stream, held: Vec::new() })
    }

    /// Process and user of the daemon.
    pub fn daemon(&self) -> Option<(i32, u32)> {
        let credentials = rustix::net::sockopt::socket_peercred(&self.stream).ok()?;
        Some((credentials.pid.as_raw_nonzero().get(), credentials.uid.as_raw()))
    }

    /// Says it and takes the answer; a refusal is an error.
    pub fn ask(&mut self, command: &Command) -> Result<Value, Trouble> {
        // Who may not even look is told so and cut off, perhaps before it has spoken: the answer is here all the same.
        let said = self.say(command);
        let heard = self.next(Some(PATIENCE));
        if heard.is_err() {
            said?;
        }
        let answer = heard?.ok_or_else(|| self.lost("no answer within 10 s"))?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(Trouble::Refused(error.to_owned())),
            None => Ok(answer),
        }
    }

    /// The next line. None: not within this time.
    pub fn next(&mut self, within: Option<Duration>) -> Result<Option<Value>, Trouble> {
        let until = within.map(|w| Instant::now() + w);
        loop {
            if let Some(end) = self.held.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|e| self.lost(&e.to_string()));
            }
            let left = until.map(|u| u.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            self.stream.set_read_timeout(left).map_err(|e| self.lost(&e.to_string()))?;
            let mut buffer = [0u8; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(self.lost("it hung up")),
                Ok(n) => self.held.extend_from_slice(&buffer[..n]),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.lost(&e.to_string())),
            }
        }
    }

    fn lost(&self, why: &str) -> Trouble {
        Trouble::Unreachable(format!("{}: coms-agent was lost: {why}", self.path.display()))
    }
}
