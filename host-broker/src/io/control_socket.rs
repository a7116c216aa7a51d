//! The operator's socket: one JSON line in, one JSON line out, as often as the caller likes.

use super::StartError;
use crate::control::{Reply, Request};
use crate::event::{Caller, Event};
use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// A request's line.
const LONGEST_LINE: u64 = 16 * 1024;
/// Connections at once.
const CONNECTIONS: usize = 64;

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
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
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

pub fn serve(listener: UnixListener, tx: mpsc::Sender<Event>) -> Callers {
    let callers = Callers::default();
    let given = callers.clone();
    tokio::spawn(async move {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut next = 0u64;
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors: wait for some to be freed.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let (callers, tx) = (callers.clone(), tx.clone());
            let first = next;
            next += 1 << 32;
            tokio::spawn(async move {
                converse(stream, first, callers, tx).await;
                drop(permit);
            });
        }
    });
    given
}

async fn converse(stream: UnixStream, first: u64, callers: Callers, tx: mpsc::Sender<Event>) {
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
        let reply = match serde_json::from_str::<Request>(&line) {
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
            Err(e) => {
                let refused = Reply::Refused { text: format!("not understood: {e}") };
                serde_json::to_string(&refused).unwrap_or_default()
            }
        };
        if write.write_all(reply.as_bytes()).await.is_err() || write.write_all(b"\n").await.is_err() {
            return;
        }
    }
}
