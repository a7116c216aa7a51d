//! The host's side of COMS: hears guests, decides within the operator's policy, migrates with libvirt, and
//! reports into the guest, wherever it is by then.
//!
//! `decide/` decides and is pure; `io/` does and decides nothing; `io/libvirt/` is the one door to the
//! hypervisor.
//!
//! The host's steps of the one flow (ARCHITECTURE.md has all eleven):
//!
//! source: 3. a request is admitted or denied ([`decide::admission`]); 4. the hosts are asked and one is chosen
//! ([`decide::placement`]); 5. the [`ticket`] is written; 6. the guest is told and libvirt's migrate call made
//! (`decide/moves.rs`). Destination: 7. the domain comes in, its ticket is read, its port attached; 8. libvirt's
//! Finish succeeded; 9. the guest is told; 10. it acknowledged, and the ticket is removed (`decide/arrivals.rs`).

pub mod action;
pub mod alias;
pub mod announced;
pub mod certificates;
pub mod config;
pub mod control;
pub mod decide;
pub mod event;
pub mod hook;
pub mod hypervisor;
pub mod io;
pub mod isolation;
pub mod network;
pub mod records;
pub mod schedule;
pub mod seal;
pub mod storage;
pub mod ticket;
