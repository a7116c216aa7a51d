//! A migration network in the lab, as docs/migration-network.md makes one.

use crate::Result;
use coms_lab::{Capture, Host, Passed};
use std::ops::RangeInclusive;

/// The interface on each host.
pub const INTERFACE: &str = "mig0";
/// The network that everything else uses.
pub const OTHER: &str = "eth0";
/// Where libvirt has QEMU listen, for memory and for disks.
pub const PORTS: RangeInclusive<u16> = 49152..=49215;

const NETWORK: &str = "10.79.0.0/24";

/// A default route by the other network, as hosts have one, and the guard against it. Nobody else takes a port of a
/// migration's.
pub fn prepare(host: &Host) -> Result<()> {
    run(host, "echo 32768 49151 >/proc/sys/net/ipv4/ip_local_port_range")?;
    run(host, &format!("ip route add default dev {OTHER}"))?;
    guard(host, true)
}

/// Puts the guard up, or takes it away.
pub fn guard(host: &Host, up: bool) -> Result<()> {
    let verb = if up { "add" } else { "del" };
    run(host, &format!("ip route {verb} unreachable {NETWORK} metric 4294967295"))
}

/// The operator's side of the link.
pub fn set_up(host: &Host, up: bool) -> Result<()> {
    run(host, &format!("ip link set {INTERFACE} {}", if up { "up" } else { "down" }))
}

/// Runs a line of shell in the host; it must succeed.
pub fn run(host: &Host, line: &str) -> Result<()> {
    let out = host.run(&["sh", "-c", line])?;
    if out.status.success() { Ok(()) } else { Err(format!("{} on {}: {out:?}", line, host.name()).into()) }
}

/// What has passed through the migration network, and through the other one.
pub fn passed(capture: &Capture) -> Result<(Passed, Passed)> {
    Ok((capture.passed(INTERFACE)?, capture.passed(OTHER)?))
}
