//! The language between a guest (`coms-agent`) and the host it runs on (`coms-broker`).
//!
//! Pure: bytes in, bytes out. No clock, no file, no socket, no libvirt. Both daemons and the fuzz target
//! link the same code, so whatever holds here holds at both ends.
//!
//! ```text
//!   message      Request, Completed, ...      guest_to_host, host_to_guest   (what is said)
//!   session      epochs, seq/ack, resend      session                        (that it arrives, once)
//!   handshake    who are you, which versions  handshake                      (frozen for ever)
//!   frame        COBS + CRC-32, <= 4 KiB      frame                          (where it begins and ends)
//!   port         a byte stream that loses, cuts, and changes its other end
//! ```
//!
//! # How the language grows
//!
//! 1. The frame, the header and the [`handshake`] never change.
//! 2. A message's number and layout never change. A new field is a new message, or a new message beside it.
//! 3. A number is never used again. An unknown message is acknowledged, counted and skipped.
//! 4. Enumerations are open ([`types::open_enum`]): a value from the future reads as `Unknown(n)`.
//! 5. [`VERSION`] counts up when an end must know whether the other understands something.
//!
//! `tests/golden.rs` holds the bytes of every message of every version; a change there is a break.

#![warn(missing_docs)]

pub mod frame;
pub mod gap;
pub mod guest_to_host;
pub mod handshake;
pub mod host_to_guest;
pub mod message;
pub mod session;
pub mod types;
pub mod words;

pub use guest_to_host::GuestToHost;
pub use host_to_guest::HostToGuest;

/// Name of the virtio-serial port.
pub const PORT_NAME: &str = "org.coms.agent.0";

/// Alias of the serial line that stands in for it where a guest has none. libvirt wants `ua-` in front, and no dots.
pub const LINE_ALIAS: &str = "ua-org-coms-agent-0";

/// Newest version of the language this build speaks.
pub const VERSION: u16 = 1;

/// Oldest version of the language this build still speaks.
pub const MIN_VERSION: u16 = 1;

/// The language as the guest end sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {}

/// The language as the host end sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {}

impl session::End for Guest {
    type Out = GuestToHost;
    type In = HostToGuest;
    type OutHello = guest_to_host::GuestHello;
    type InHello = host_to_guest::HostHello;
}

impl session::End for Host {
    type Out = HostToGuest;
    type In = GuestToHost;
    type OutHello = host_to_guest::HostHello;
    type InHello = guest_to_host::GuestHello;
}
