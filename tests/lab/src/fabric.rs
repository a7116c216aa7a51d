//! The wires: one namespace with two bridges and nothing else.
//!
//! ```text
//!            fabric: bridge "mig" ---- m1 ===== eth0  (migration and management, 10.77.0.1)
//!                                                      host h1
//!            fabric: bridge "lan" ---- g1 ===== up0 -- bridge "guests" -- taps of the guests
//!                              \------ c1 ===== eth0  a client
//! ```
//! Neither has a way out of the lab. On the LAN every address is on the link (default route without
//! a gateway), so a client may have any, also a public one.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{error::Result, node::Node};

/// How wide the prefix of the migration network is.
pub(crate) const MIGRATION_PREFIX: u8 = 24;

#[derive(Debug)]
pub(crate) struct Fabric {
    node: Node,
    clients: AtomicU32,
}

impl Fabric {
    pub(crate) fn new() -> Result<Fabric> {
        let node = Node::net_only("fabric")?;
        Ok(Fabric { node, clients: AtomicU32::new(0) })
    }

    pub(crate) fn holder_pid(&self) -> u32 {
        self.node.holder_pid()
    }

    pub(crate) fn build(&self) -> Result<()> {
        self.node.ip("link add mig type bridge mcast_snooping 0\n\
             link add lan type bridge mcast_snooping 0\n\
             link set mig up\n\
             link set lan up\n")
    }

    /// Wires a host: `eth0` with `address`, and its bridge `guests`.
    pub(crate) fn connect_host(&self, number: usize, host: &Node, address: Ipv4Addr) -> Result<()> {
        let pid = host.holder_pid();
        self.node.ip(&format!(
            "link add m{number} type veth peer name eth0 netns {pid}\n\
             link set m{number} master mig up\n\
             link add g{number} type veth peer name up0 netns {pid}\n\
             link set g{number} master lan up\n"
        ))?;
        host.ip(&format!(
            "address add {address}/{MIGRATION_PREFIX} dev eth0\n\
             link set eth0 up\n\
             link add guests type bridge mcast_snooping 0\n\
             link set up0 master guests up\n\
             link set guests up\n"
        ))
    }

    /// Wires a client to the guests' LAN.
    pub(crate) fn connect_client(&self, client: &Node, address: Ipv4Addr) -> Result<()> {
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        let pid = client.holder_pid();
        self.node.ip(&format!(
            "link add c{number} type veth peer name eth0 netns {pid}\n\
             link set c{number} master lan up\n"
        ))?;
        client.ip(&format!(
            "address add {address}/32 dev eth0\n\
             link set eth0 up\n\
             route add default dev eth0\n"
        ))
    }

    /// Pulls or plugs the cable of a host's migration link: packets vanish, nobody is told.
    pub(crate) fn set_migration_link(&self, number: usize, up: bool) -> Result<()> {
        self.node.ip(&format!("link set m{number} {}\n", if up { "up" } else { "down" }))
    }
}
