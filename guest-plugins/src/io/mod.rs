//! Everything that touches the world. Nothing here decides.

mod asked;
mod cgroup;
mod check;
pub mod control;
pub mod daemon;
mod execd;
mod feed;
pub mod keeper;
pub mod launch;
mod process;
pub mod programs;
pub mod runner;
mod scrape;
mod statsd;
pub mod users;

use std::time::Duration;

/// Monotonic: a clock that is set, or jumps, changes nothing here.
pub fn now() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Before the boot cannot be.
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}
