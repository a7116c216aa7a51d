//! coms-plugins: runs what customers measure their workloads with, and tells coms-agent what it said.
//!
//! ```text
//!   io::{check, execd, scrape, statsd}   run, read, bound   -> bytes
//!   perfdata, contract, metrics, statsd  pure: bytes in     -> Reading (what was said, what is wrong with it)
//!   decide::Desk                         pure: Reading in   -> what the agent hears, what a plugin hears
//!   io::{feed, asked}                    the agent's socket
//! ```
//!
//! Plugins are strangers. They run as another user than this daemon, which is another than the agent: a plugin reaches
//! neither. Whatever it prints is bounded before it is understood ([`decide::bounds`]), and understood by parsers that
//! take any bytes (tests/fuzz). No wall clock is read anywhere here: clocks may jump.
//!
//! guest-agent/PLUGINS.md is the contract with those who write plugins.

pub mod config;
pub mod contract;
pub mod decide;
pub mod io;
pub mod metrics;
pub mod perfdata;
pub mod reading;
pub mod statsd;

/// Name and version.
pub const PROGRAM: &str = concat!("coms-plugins ", env!("CARGO_PKG_VERSION"));
