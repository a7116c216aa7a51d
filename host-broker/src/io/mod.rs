//! Doing. No branch in here depends on policy.

mod budget;
pub mod certificate;
mod control_socket;
mod event_loop;
mod execute;
pub mod guest_links;
mod journal;
mod kernel;
pub mod libvirt;
pub mod link;
mod log_limit;
pub mod migration_link;
pub mod peer;
mod samplers;
mod state;
pub mod step;
#[cfg(feature = "faults")]
mod stop_here;

pub use event_loop::{WORDS, run};

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the broker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the runtime cannot be started: {0}")]
    Runtime(std::io::Error),
    #[error("{path}: {operation} failed: {source}; the broker's user must be able to write there")]
    Path { path: PathBuf, operation: &'static str, source: std::io::Error },
    #[error(
        "{path}: the aliases' secret has {has} bytes, it needs at least {needs}; head -c 32 /dev/urandom > {path} makes one"
    )]
    WeakSecret { path: PathBuf, has: usize, needs: usize },
    #[error(
        "link.listen: {address}: {source}; it must be an address of this host, and a port that nobody else has"
    )]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{path}: another coms-broker already answers on this socket; stop it first")]
    AlreadyRunning { path: PathBuf },
}
