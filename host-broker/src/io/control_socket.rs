//! The operator's socket: one JSON line in, one JSON line out, as often as the caller likes. Who may not even look
//! takes no place.

use super::StartError;
use super::peer::{Doors, Peer, Right};
use crate::control::{Reply, Request};
use crate::event::{Caller, Event};
use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::debug;

/// A request's line.
const LONGEST_LINE: u64 = 16 * 1024;
/// Connections at once, of those who may change and of those who may look: the latter cannot lock the former out.
const CONNECTIONS: usize = 32;

pub fn listen(path: &Path) -> Result<UnixListener, StartError> {
    let failed = |operation| move |source| StartError::Path { path: path.to_owned(), operation, source };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed("creating its directory"))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(StartError::AlreadyRunning { path: path.to_owned() });
    }
    // Left behind by a broker that was killed.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(failed("listening"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
        .map_err(failed("setting permissions"))?;
    Ok(listener)
}

/// Those who wait for a reply.
#[derive(Clone, Default)]
pub struct Callers(Arc<Mutex<HashMap<Caller, oneshot::Sender<String>>>>);

impl Callers {
    pub fn reply(&self, caller: Caller, reply: &Reply) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&caller);
        if let (Some(waiting), Ok(line)) = (waiting, serde_json::to_string(reply)) {
            let _ = waiting.send(line);
        }
    }

    fn wait(&self, caller: Caller) -> oneshot::Receiver<String> {
        let (tx, rx) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(caller, tx);
        rx
    }
}

pub fn serve(listener: UnixListener, doors: watch::Receiver<Doors>, tx: mpsc::Sender<Event>) -> Callers {
    let callers = Callers::default();
    let given = callers.clone();
    tokio::spawn(async move {
        let places = || Arc::new(Semaphore::new(CONNECTIONS));
        let (changing, looking) = (places(), places());
        let mut next = 0u64;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors: wait for some to be freed.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let peer = match Peer::of(&stream) {
                Ok(peer) => peer,
                Err(e) => {
                    debug!("a caller is turned away: who it is cannot be known: {e}");
                    continue;
                }
            };
            // It fits into the socket's empty buffer, or the caller does without.
            let turn_away = |why: String| drop(stream.try_write((refusal(why) + "\n").as_bytes()));
            let room = match doors.borrow().right(&peer) {
                Right::Nothing => {
                    turn_away(doors.borrow().refusal(Right::Status));
                    continue;
                }
                Right::Status => looking.clone(),
                Right::Change => changing.clone(),
            };
            let Ok(permit) = room.try_acquire_owned() else {
                turn_away(format!(
                    "{CONNECTIONS} others are connected; end some of them, or try again later"
                ));
                continue;
            };
            let door = Door { peer, doors: doors.clone() };
            let (callers, tx) = (callers.clone(), tx.clone());
            let first = next;
            next += 1 << 32;
            tokio::spawn(async move {
                converse(stream, first, door, callers, tx).await;
                drop(permit);
            });
        }
    });
    given
}

/// A caller and what it may do; asked anew at each request, so that a reload counts at once.
struct Door {
    peer: Peer,
    doors: watch::Receiver<Doors>,
}

impl Door {
    fn refuses(&self, request: &Request) -> Option<String> {
        let wanted = if request.changes() { Right::Change } else { Right::Status };
        let doors = self.doors.borrow();
        (doors.right(&self.peer) < wanted).then(|| doors.refusal(wanted))
    }
}

fn refusal(text: String) -> String {
    serde_json::to_string(&Reply::Refused { text }).unwrap_or_default()
}

async fn converse(stream: UnixStream, first: u64, door: Door, callers: Callers, tx: mpsc::Sender<Event>) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    for number in first.. {
        line.clear();
        let mut limited = (&mut read).take(LONGEST_LINE);
        match limited.read_line(&mut line).await {
            Ok(n) if n > 0 && line.ends_with('\n') => {}
            Ok(_) | Err(_) => return,
        }
        let request = serde_json::from_str::<Request>(&line).map_err(|e| format!("not understood: {e}"));
        let allowed = request.and_then(|request| door.refuses(&request).map_or(Ok(request), Err));
        let reply = match allowed {
            Ok(request) => {
                let caller = Caller(number);
                let waiting = callers.wait(caller);
                if tx.send(Event::Control { caller, request }).await.is_err() {
                    return;
                }
                match waiting.await {
                    Ok(reply) => reply,
                    Err(_) => return,
                }
            }
            Err(text) => refusal(text),
        };
        if write.write_all(reply.as_bytes()).await.is_err() || write.write_all(b"\n").await.is_err() {
            return;
        }
    }
}
