//! The socket of `coms` and of applications: one JSON object per line, both ways. Every buffer is bounded; who
//! does not read what it asked for is dropped, and holds nobody up; who may not even look takes no place.

use super::peer::{Doors, Peer, Right};
use super::state_file::make_parent;
use crate::action::Audience;
use crate::event::{ClientId, Command};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, warn};

const MAX_CLIENTS: usize = 32;
/// Lines that may wait for a client to read them.
const MAX_LINES: usize = 256;
const MAX_COMMAND: u64 = 16 * 1024;

/// What clients do.
pub(super) enum FromClient {
    /// A new one, and how to reach it. Dropping the second sender cuts it off.
    Came(ClientId, mpsc::Sender<Arc<str>>, oneshot::Sender<()>),
    /// It wants something.
    Wants(ClientId, Command),
    /// It hung up.
    Gone(ClientId),
}

/// Begins to listen. An agent that runs already is an error; a socket left by a dead one is replaced.
pub(super) fn listen(
    path: &Path,
    doors: watch::Receiver<Doors>,
    to: mpsc::Sender<FromClient>,
) -> io::Result<()> {
    make_parent(path);
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another coms-agent answers there"));
    }
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    tokio::spawn(accept(listener, doors, to));
    Ok(())
}

async fn accept(listener: UnixListener, doors: watch::Receiver<Doors>, to: mpsc::Sender<FromClient>) {
    let mut next = 0;
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CLIENTS));
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                warn!("the socket cannot take a client: {e}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(e) => {
                debug!("a client is turned away: who it is cannot be known: {e}");
                continue;
            }
        };
        if doors.borrow().right(&peer) == Right::Nothing {
            // It fits into the socket's empty buffer, or the client does without.
            let _ = stream.try_write(refusal(&doors.borrow().refusal(Right::Status)).as_bytes());
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            debug!("a client is turned away: {MAX_CLIENTS} are connected");
            continue;
        };
        next += 1;
        let client = Door { id: ClientId(next), peer, doors: doors.clone() };
        let to = to.clone();
        tokio::spawn(async move {
            serve(client, stream, &to).await;
            drop(place);
        });
    }
}

/// A client and what it may do; asked anew at each command, so that a reload counts at once.
struct Door {
    id: ClientId,
    peer: Peer,
    doors: watch::Receiver<Doors>,
}

impl Door {
    fn refuses(&self, command: &Command) -> Option<String> {
        let wanted = if command.changes() {
            Right::Change
        } else if command.reports() {
            Right::Report
        } else {
            Right::Status
        };
        let doors = self.doors.borrow();
        (doors.right(&self.peer) < wanted).then(|| doors.refusal(wanted))
    }
}

fn refusal(error: &str) -> String {
    format!("{}\n", json!({ "ok": false, "error": error }))
}

async fn serve(client: Door, stream: UnixStream, to: &mpsc::Sender<FromClient>) {
    let id = client.id;
    let (reader, writer) = stream.into_split();
    let (lines, waiting) = mpsc::channel(MAX_LINES);
    let (alive, cut_off) = oneshot::channel();
    if to.send(FromClient::Came(id, lines.clone(), alive)).await.is_err() {
        return;
    }
    let writing = tokio::spawn(write(writer, waiting));
    tokio::select! {
        () = read(&client, reader, lines.clone(), to) => {}
        () = lines.closed() => {}
        // It did not read what it asked for.
        _ = cut_off => writing.abort(),
    }
    drop(lines);
    if to.send(FromClient::Gone(id)).await.is_ok() {
        // What is still to be said is said, to a client that only closed its sending half.
        let _ = tokio::time::timeout(Duration::from_secs(5), writing).await;
    }
}

async fn read(
    client: &Door,
    reader: OwnedReadHalf,
    lines: mpsc::Sender<Arc<str>>,
    to: &mpsc::Sender<FromClient>,
) {
    let mut reader = BufReader::with_capacity(1024, reader);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(MAX_COMMAND).read_until(b'\n', &mut line).await {
            Ok(n) if n > 0 => {}
            Ok(_) | Err(_) => return,
        }
        match serde_json::from_slice(&line) {
            Ok(command) => {
                if let Some(error) = client.refuses(&command) {
                    let _ = lines.try_send(refusal(&error).trim_end().into());
                    continue;
                }
                if to.send(FromClient::Wants(client.id, command)).await.is_err() {
                    return;
                }
            }
            Err(e) => {
                let _ = lines.try_send(refusal(&format!("not a command: {e}")).trim_end().into());
                return;
            }
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut waiting: mpsc::Receiver<Arc<str>>) {
    while let Some(line) = waiting.recv().await {
        if writer.write_all(line.as_bytes()).await.is_err() || writer.write_all(b"\n").await.is_err() {
            return;
        }
    }
}

/// The clients, as the event loop knows them.
#[derive(Default)]
pub(super) struct Clients {
    all: BTreeMap<ClientId, Client>,
}

struct Client {
    lines: mpsc::Sender<Arc<str>>,
    watches: bool,
    registered: bool,
    _alive: oneshot::Sender<()>,
}

impl Clients {
    pub(super) fn came(&mut self, id: ClientId, lines: mpsc::Sender<Arc<str>>, alive: oneshot::Sender<()>) {
        self.all.insert(id, Client { lines, watches: false, registered: false, _alive: alive });
    }

    pub(super) fn gone(&mut self, id: ClientId) {
        self.all.remove(&id);
    }

    pub(super) fn watch(&mut self, id: ClientId) {
        if let Some(client) = self.all.get_mut(&id) {
            client.watches = true;
        }
    }

    pub(super) fn inform(&mut self, id: ClientId) {
        if let Some(client) = self.all.get_mut(&id) {
            client.registered = true;
        }
    }

    pub(super) fn reply(&mut self, id: ClientId, line: &str) {
        let slow = self.all.get(&id).is_some_and(|c| c.lines.try_send(line.into()).is_err());
        if slow {
            self.drop_slow(id);
        }
    }

    pub(super) fn tell(&mut self, line: &str, to: Audience) {
        let line: Arc<str> = line.into();
        let hears = |c: &Client| match to {
            Audience::Everybody | Audience::Watchers => c.watches,
            Audience::Apps => c.registered,
        };
        let watching = self.all.iter().filter(|(_, c)| hears(c));
        let slow: Vec<_> = watching
            .filter(|(_, c)| c.lines.try_send(Arc::clone(&line)).is_err())
            .map(|(id, _)| *id)
            .collect();
        slow.into_iter().for_each(|id| self.drop_slow(id));
    }

    fn drop_slow(&mut self, id: ClientId) {
        debug!("client {} is dropped: it does not read", id.0);
        self.all.remove(&id);
    }
}
