//! The socket of `coms plugin list`: whoever connects gets one line, how all plugins stand.

use super::users;
use rustix::fs::{Gid, chown};
use serde_json::Value;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tracing::debug;

const PATIENCE: Duration = Duration::from_secs(2);

/// Begins to listen. A daemon that runs already is an error; a socket left by a dead one is replaced.
pub(super) fn listen(path: &Path, group: &str) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another coms-plugins answers there"));
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    if let Some(gid) = users::group(group)
        && let Err(e) = chown(path, None, Some(Gid::from_raw(gid)))
    {
        debug!("the group {group} cannot be let in: {e}");
    }
    Ok(listener)
}

/// Tells one who asked. It need not read.
pub(super) fn tell(mut stream: UnixStream, status: &Value) {
    let line = format!("{status}\n");
    tokio::spawn(async move {
        let _ = timeout(PATIENCE, stream.write_all(line.as_bytes())).await;
    });
}

/// What the agent says of itself, to whoever may look.
pub fn ask_agent(path: &Path) -> io::Result<Value> {
    let mut stream = std::os::unix::net::UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"{\"command\":\"status\"}\n")?;
    let mut line = Vec::new();
    BufReader::new(stream.take(1 << 20)).read_until(b'\n', &mut line)?;
    serde_json::from_slice(&line).map_err(io::Error::other)
}

/// Asks a daemon.
pub fn ask(path: &Path) -> io::Result<Value> {
    let stream = std::os::unix::net::UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    stream.take(1 << 20).read_to_end(&mut line)?;
    serde_json::from_slice(&line).map_err(io::Error::other)
}
