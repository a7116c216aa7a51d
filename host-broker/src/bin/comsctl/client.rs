//! The way to the broker.

use super::Failure;
use coms_broker::control::{Reply, Request};
use coms_broker::records::MoveRecord;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A connection to the broker of this host.
pub struct Broker {
    socket: PathBuf,
    write: UnixStream,
    read: BufReader<UnixStream>,
}

impl Broker {
    pub fn connect(socket: &Path) -> Result<Self, Failure> {
        let unreachable = |e: std::io::Error| {
            let hint = match e.kind() {
                ErrorKind::PermissionDenied => {
                    "the socket's directory lets only root through; systemctl restart coms-broker makes it anew"
                }
                ErrorKind::ConnectionRefused => {
                    "a broker that was killed left this socket; systemctl restart coms-broker"
                }
                _ => "is coms-broker running? try: systemctl status coms-broker",
            };
            Failure::unreachable(format!("{}: {e}; {hint}", socket.display()))
        };
        let write = UnixStream::connect(socket).map_err(unreachable)?;
        write.set_read_timeout(Some(ANSWER_WITHIN)).map_err(unreachable)?;
        let read = BufReader::new(write.try_clone().map_err(unreachable)?);
        Ok(Self { socket: socket.to_owned(), write, read })
    }

    /// The broker's process.
    pub fn pid(&self) -> Option<u32> {
        let peer = rustix::net::sockopt::socket_peercred(&self.write).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    }

    pub fn ask(&mut self, request: &Request) -> Result<Reply, Failure> {
        let mut line = serde_json::to_string(request).map_err(|e| Failure::usage(e.to_string()))?;
        line.push('\n');
        // A broker that turns somebody away says why before it reads.
        let sent = self.write.write_all(line.as_bytes());
        let mut answer = String::new();
        match (self.read.read_line(&mut answer), sent) {
            (Ok(n), _) if n > 0 => serde_json::from_str(&answer)
                .map_err(|e| Failure::refused(format!("the broker's answer is not understood: {e}"))),
            (Err(e), _) if e.kind() == ErrorKind::WouldBlock => Err(Failure::unreachable(format!(
                "{}: no answer within {} s; look at: journalctl -u coms-broker",
                self.socket.display(),
                ANSWER_WITHIN.as_secs()
            ))),
            (Err(e), _) | (Ok(_), Err(e)) => Err(Failure::unreachable(format!("the broker hung up: {e}"))),
            (Ok(_), Ok(())) => Err(Failure::unreachable("the broker hung up".into())),
        }
    }

    /// The moves that it remembers, newest last.
    pub fn moves(
        &mut self,
        id: Option<coms_protocol::types::MigrationId>,
    ) -> Result<Vec<MoveRecord>, Failure> {
        match self.ask(&Request::Migrations { id })? {
            Reply::Migrations { migrations } => Ok(migrations),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether customers' moves are paused; a broker that does not say is taken to allow them.
    pub fn paused(&mut self) -> bool {
        matches!(self.ask(&Request::Standing), Ok(Reply::Standing { standing }) if standing.paused)
    }
}

pub fn unexpected(reply: &Reply) -> Failure {
    match reply {
        Reply::Refused { text } => Failure::refused(text.clone()),
        Reply::Guests { .. }
        | Reply::Hosts { .. }
        | Reply::Migrations { .. }
        | Reply::Started { .. }
        | Reply::Done { .. }
        | Reply::Standing { .. } => Failure::refused(
            "the broker answered something else; are comsctl and coms-broker of one version?".into(),
        ),
    }
}
