//! The port: a character device that the host's process may leave and take up again at any moment.
//!
//! ```text
//!   Closed ---open---> Absent ---read says EAGAIN or brings data---> Attached
//!     ^  ^  retry        |  ^                                            |
//!     |  +---ENODEV------+  +----------read gives 0, or HUP seen---------+
//!     +------------------------------ENODEV (unplugged)------------------+
//! ```
//!
//! On a virtio port `read` gives 0 while no host process is attached: not the end, ever. The descriptor stays
//! open meanwhile; closing it would tell the host that nobody lives here and drop what waits in it.
//!
//! A descriptor that hung up is taken out of the reactor and put back when the host is there again: the
//! reactor holds a hang-up to be final and would report it for ever, at 100 % CPU.

use super::serial::{self, Line};
use crate::config;
use crate::event::PortState;
use coms_protocol::PORT_NAME;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until};

/// No port, or it cannot be opened.
const RETRY_OPEN: Duration = Duration::from_secs(1);
/// No host process: after a migration it is back within seconds ...
const RETRY_SOON: Duration = Duration::from_millis(100);
/// ... but it may also be away for days.
const RETRY_LATER: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(60);
/// After a hang-up. A port that comes and goes all the time is looked at this often, not more.
const AFTER_HANG_UP: Duration = Duration::from_millis(10);

/// How the host is reached.
pub struct Port {
    kind: config::Port,
    link: Link,
    /// Read while looking whether the host is there.
    early: Vec<u8>,
    complaint: Option<String>,
    /// The reactor saw a hang-up: read what is left, then detach.
    hung_up: bool,
    /// Not taken yet.
    changed: Option<PortState>,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<UnixStream>> + Send>>;

enum Link {
    Closed {
        retry: Instant,
    },
    Absent {
        file: File,
        since: Instant,
        look: Instant,
    },
    Attached(AsyncFd<File>),
    /// Kept while it goes on: dropped half way, the other side would see somebody come and go.
    Connecting(Connecting),
    Unix(UnixStream),
    Serial(Line),
    /// Only inside a change from one to another.
    Changing,
}

impl Port {
    /// A port that is not open yet.
    pub fn new(kind: config::Port) -> Self {
        Self {
            kind,
            link: Link::Closed { retry: Instant::now() },
            early: Vec::new(),
            complaint: None,
            hung_up: false,
            changed: None,
        }
    }

    /// A port that is open already: any non-blocking character device that behaves like one.
    pub fn from_file(file: File) -> Self {
        let mut port = Self::new(config::Port::Virtio { path: None });
        port.link = absent(file, Instant::now());
        port
    }

    /// Waits until [`Port::take_state`] has something, or reading or writing may do something. May be dropped and
    /// called again at any point. `write`: there is something to be written.
    // Cancel safety: each arm either only waits, or has done all its work when it returns.
    pub async fn wait(&mut self, write: bool) {
        while self.changed.is_none() {
            match &mut self.link {
                Link::Closed { retry } => {
                    sleep_until(*retry).await;
                    self.open();
                }
                Link::Connecting(connecting) => {
                    let connected = connecting.await.map(Link::Unix);
                    self.opened(connected.map_err(|e| format!("the port's socket cannot be reached: {e}")));
                }
                Link::Absent { look, .. } => {
                    sleep_until(*look).await;
                    self.look();
                }
                Link::Attached(fd) => {
                    self.hung_up =
                        fd.ready(interest(write)).await.map_or(true, |guard| is_hang_up(guard.ready()));
                    return;
                }
                Link::Unix(stream) => {
                    // Errors show when reading.
                    let _ = stream.ready(interest(write)).await;
                    return;
                }
                Link::Serial(line) => {
                    if !self.early.is_empty() {
                        return;
                    }
                    match line.wait(write, &mut self.early).await {
                        Ok(()) => return,
                        Err(e) => self.close(format!("the serial line is gone: {e}")),
                    }
                }
                Link::Changing => self.link = closed(),
            }
        }
    }

    /// How the port stands, if that changed since the last call.
    pub fn take_state(&mut self) -> Option<PortState> {
        self.changed.take()
    }

    /// Reads what is there. None: nothing more now; see [`Port::take_state`], or wait. Never 0 bytes.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if !self.early.is_empty() {
            let n = self.early.len().min(buffer.len());
            buffer[..n].copy_from_slice(&self.early[..n]);
            self.early.drain(..n);
            return Some(n);
        }
        let result = match &self.link {
            Link::Attached(fd) => fd.try_io(Interest::READABLE, |mut file: &File| file.read(buffer)),
            Link::Unix(stream) => stream.try_read(buffer),
            // What it has is in `early`.
            Link::Serial(_) => return None,
            Link::Closed { .. } | Link::Absent { .. } | Link::Connecting(_) | Link::Changing => return None,
        };
        match result {
            Ok(n) if n > 0 => Some(n),
            Err(e) if is_later(&e) && !self.hung_up => None,
            Ok(_) => {
                self.detach(None);
                None
            }
            Err(e) => {
                self.detach(Some(&e));
                None
            }
        }
    }

    /// Writes what it takes. 0: nothing now, wait.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let result = match &mut self.link {
            Link::Attached(fd) => fd.try_io(Interest::WRITABLE, |mut file: &File| file.write(bytes)),
            Link::Unix(stream) => stream.try_write(bytes),
            Link::Serial(line) => line.write(bytes),
            Link::Closed { .. } | Link::Absent { .. } | Link::Connecting(_) | Link::Changing => return 0,
        };
        match result {
            Ok(n) => n,
            Err(e) if is_later(&e) => 0,
            Err(e) => {
                self.detach(Some(&e));
                0
            }
        }
    }

    /// Somebody may be at the other end.
    pub fn is_up(&self) -> bool {
        match &self.link {
            Link::Attached(_) | Link::Unix(_) | Link::Serial(_) => true,
            Link::Closed { .. } | Link::Absent { .. } | Link::Connecting(_) | Link::Changing => false,
        }
    }

    fn open(&mut self) {
        match &self.kind {
            config::Port::Virtio { path } => {
                let path = path.clone().or_else(find_virtio).unwrap_or_else(default_path);
                let file = open_device(&path).map_err(|e| explain(&path, &e));
                self.opened(file.map(|file| absent(file, Instant::now())));
            }
            config::Port::Serial { path } => {
                let line = Line::open(path).map_err(|e| serial::explain(path, &e));
                self.opened(line.map(Link::Serial));
            }
            config::Port::Unix { path } => {
                let path = path.clone();
                self.link = Link::Connecting(Box::pin(UnixStream::connect(path)));
            }
        }
    }

    fn opened(&mut self, opened: Result<Link, String>) {
        match opened {
            Ok(link) => {
                self.complaint = None;
                self.link = link;
                self.changed = Some(if self.is_up() { PortState::Up } else { PortState::HostAbsent });
            }
            Err(complaint) => {
                self.link = closed();
                // Said once, not at every try.
                if self.complaint.as_ref() != Some(&complaint) {
                    self.complaint = Some(complaint.clone());
                    self.changed = Some(PortState::Missing(complaint));
                }
            }
        }
    }

    /// Looks whether the host is there.
    fn look(&mut self) {
        let mut buffer = [0u8; 512];
        let Link::Absent { mut file, since, .. } = mem::replace(&mut self.link, Link::Changing) else {
            return;
        };
        match file.read(&mut buffer) {
            Ok(n) if n > 0 => self.early.extend_from_slice(&buffer[..n]),
            Err(e) if is_later(&e) => {}
            Err(e) if is_unplugged(&e) => return self.close(format!("the port was unplugged ({e})")),
            // 0, or EIO from a terminal: nobody there.
            Ok(_) | Err(_) => {
                let wait = if since.elapsed() < SOON { RETRY_SOON } else { RETRY_LATER };
                self.link = Link::Absent { file, since, look: Instant::now() + wait };
                return;
            }
        }
        match register(file) {
            Ok(fd) => {
                self.link = Link::Attached(fd);
                self.changed = Some(PortState::Up);
            }
            Err(e) => self.close(format!("the port cannot be waited for: {e}")),
        }
    }

    fn close(&mut self, why: String) {
        self.link = closed();
        self.changed = Some(PortState::Missing(why));
    }

    fn detach(&mut self, error: Option<&io::Error>) {
        self.hung_up = false;
        match mem::replace(&mut self.link, Link::Changing) {
            Link::Attached(_) if error.is_some_and(is_unplugged) => {
                self.close("the port was unplugged".to_owned())
            }
            Link::Attached(fd) => {
                self.link = absent(fd.into_inner(), Instant::now() + AFTER_HANG_UP);
                self.changed = Some(PortState::HostAbsent);
            }
            Link::Unix(_) => {
                self.link = Link::Closed { retry: Instant::now() + RETRY_SOON };
                self.changed = Some(PortState::HostAbsent);
            }
            Link::Serial(_) => self.close("the serial line is gone".to_owned()),
            other @ (Link::Closed { .. } | Link::Absent { .. } | Link::Connecting(_) | Link::Changing) => {
                self.link = other;
            }
        }
    }
}

fn absent(file: File, look: Instant) -> Link {
    Link::Absent { file, since: Instant::now(), look }
}

fn closed() -> Link {
    Link::Closed { retry: Instant::now() + RETRY_OPEN }
}

fn interest(write: bool) -> Interest {
    if write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE }
}

fn is_hang_up(ready: Ready) -> bool {
    ready.is_read_closed() || ready.is_write_closed()
}

fn is_later(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn is_unplugged(e: &io::Error) -> bool {
    matches!(rustix::io::Errno::from_io_error(e), Some(rustix::io::Errno::NODEV | rustix::io::Errno::NXIO))
}

#[expect(unsafe_code, reason = "tokio leaves it to the caller that the descriptor stays the same and open")]
fn register(file: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: `File` owns its descriptor and gives the same one each time; the `AsyncFd` owns the `File`, so it
    // stays open until the `AsyncFd` is dropped or `into_inner` has taken it out of the reactor.
    unsafe { AsyncFd::register(file) }.map_err(|e| e.into_parts().1)
}

fn open_device(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    // CLOEXEC is Rust's default.
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

fn explain(path: &Path, e: &io::Error) -> String {
    let what = path.display();
    match rustix::io::Errno::from_io_error(e) {
        Some(rustix::io::Errno::NOENT) => format!(
            "{what}: there is no such port; the VM needs a virtio channel named {PORT_NAME} (the operator adds it)"
        ),
        Some(rustix::io::Errno::BUSY) => format!("{what}: another process has the port open; only one may"),
        Some(_) | None => format!("{what}: cannot be opened: {e}"),
    }
}

fn default_path() -> PathBuf {
    Path::new("/dev/virtio-ports").join(PORT_NAME)
}

/// udev's link, or without udev the device with the right name.
fn find_virtio() -> Option<PathBuf> {
    let link = default_path();
    if link.exists() {
        return Some(link);
    }
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let named = |dir: &Path| fs::read_to_string(dir.join("name")).is_ok_and(|n| n.trim_end() == PORT_NAME);
    let found = ports.filter_map(Result::ok).find(|p| named(&p.path()))?;
    Some(Path::new("/dev").join(found.file_name()))
}
