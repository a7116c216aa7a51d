//! coms-agent: the customer's side of COMS, inside the virtual machine.
//!
//! ```text
//!   io::event_loop   the only select!: port, probes, clients, timers, signals  -> Event
//!   decide::Agent    pure: Event + time -> what to remember, say and tell      -> Action
//!   io::event_loop   carries the actions out, in order: what must be remembered is on disk first
//! ```
//!
//! The guest's steps of the one flow (ARCHITECTURE.md has all eleven):
//!
//!  1. a probe's result arrives ([`io::probes`]) and the workload's rule judges it ([`decide::rule`]);
//!  2. slow for long enough: a request is made, saved, then sent ([`decide::request`]);
//!  6. accepted, already running or denied; the guest's clock is compared with the host's ([`decide::clock`]);
//!  8. the VM moves; the port's peer changes; hello names the request that still waits;
//! 10. the outcome arrives, is saved, acknowledged, and told ([`io::event_log`], [`io::socket`]);
//! 11. the workloads are measured again: did it help? ([`decide::effect`]).
//!
//! Never here: a decision in `io`, a clock or a file in `decide`, an acknowledgement before its message is saved.

pub mod action;
pub mod calendar;
pub mod config;
pub mod decide;
pub mod event;
pub mod io;
pub mod state;

/// Name and version, as the hello tells them.
pub const AGENT: &str = concat!("coms-agent ", env!("CARGO_PKG_VERSION"));
