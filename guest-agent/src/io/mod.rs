//! Everything that touches the world. Nothing here decides.

mod capture;
mod clients;
mod commands;
pub mod event_log;
pub mod event_loop;
pub mod geo;
mod hooks;
mod http;
pub mod kernel;
pub mod machine;
pub mod peer;
pub mod port;
pub mod probes;
mod program;
mod random;
mod serial;
pub mod sock_diag;
mod socket;
pub mod state_file;
#[cfg(feature = "faults")]
mod stop_here;
mod ticker;

use coms_protocol::session::Now;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// Both clocks, now. The monotonic one counts from the boot, so that it goes on across the agent's restarts.
pub fn now() -> Now {
    let mono = since_zero(clock_gettime(ClockId::Monotonic));
    let wall = since_zero(clock_gettime(ClockId::Realtime));
    Now { mono, unix_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX) }
}

fn since_zero(t: Timespec) -> Duration {
    // Before 1970, or before the boot: neither can be.
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(t.tv_nsec).unwrap_or(0))
}
