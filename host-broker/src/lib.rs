//! The host's side of COMS: hears guests, decides within the operator's policy, migrates with libvirt, and
//! reports into the guest, wherever it is by then.
//!
//! `decide/` decides and is pure; `io/` does and decides nothing; `io/libvirt/` is the one door to the
//! hypervisor. ARCHITECTURE.md has the numbered flow.

pub mod action;
pub mod alias;
pub mod config;
pub mod control;
pub mod decide;
pub mod event;
pub mod hypervisor;
pub mod io;
pub mod records;
pub mod ticket;
