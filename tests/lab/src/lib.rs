//! Real libvirt hosts, real guests and real live migrations on one machine, for tests and the demo.
//!
//! ```no_run
//! use coms_lab::{GuestConfig, Lab, LabConfig};
//!
//! # fn main() -> coms_lab::Result<()> {
//! let lab = Lab::new(LabConfig::default())?; // h1 and h2, one CPU each
//! let guest = lab.boot(GuestConfig { name: "vm1".into(), ..GuestConfig::default() }, "h1")?;
//! guest.migrate_to("h2", &[])?;
//! assert_eq!(guest.exec(&["hostname"])?.success()?, "vm1\n");
//! lab.finish()
//! # }
//! ```
//!
//! A host is a network, mount and UTS namespace with directories and a libvirtd of its own ([`Host`]);
//! guests ([`Guest`]) run under TCG from a Debian kernel and a root file system in memory; clients
//! ([`Client`]) are on the guests' LAN, or have networks of their own at one of two sites that only a slow line joins
//! (`fabric.rs`). Nothing leaves the lab, and nothing of it stays: one guardian
//! process cleans up, whether the lab is dropped, its process panics, or is killed (`guardian.sh`).
//!
//! `tests/setup.sh` installs what it needs. It must be root. Every figure measured here is `accel=tcg`.

mod announcement;
mod build;
mod capture;
mod client;
mod conversation;
mod cpio;
mod cpuset;
mod debian;
mod domain_xml;
mod download;
mod error;
mod fabric;
mod forge;
mod guardian;
mod guest;
pub mod guest_spec;
mod host;
mod initramfs;
mod lab;
mod libvirtd;
mod node;
pub mod nonsense;
mod process;
mod random;
mod relay;
mod requirements;
mod secret;
mod tls;
mod udp_echo;
mod wiretap;

pub use announcement::Announcements;
pub use build::{
    AgentBinaries, build_agent, build_agent_with_faults, build_lab_guest, build_plugins, building, keep,
    workspace_root,
};
pub use capture::{Capture, Passed};
pub use client::Client;
pub use conversation::{Conversation, Conversations, Talk};
pub use download::{Download, Sample};
pub use error::{Error, Result};
pub use fabric::GUEST_NET;
pub use guest::{AgentConfig, ExecOutput, Guest, GuestConfig, GuestFile, Line, System};
pub use guest_spec::Workload;
pub use host::{Host, HostConfig};
pub use lab::{Lab, LabConfig};
pub use process::{Process, Signal, wait_until};
pub use secret::Secret;
pub use tls::{DIR_INSIDE as PKI, Papers};
pub use udp_echo::{ECHO_INTERVAL, Echo, UdpEcho};
pub use wiretap::{Opening, Tapped, Tls, Wiretap};
