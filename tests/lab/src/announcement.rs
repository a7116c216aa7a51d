//! QEMU's announcement of a VM that has arrived: a RARP to everybody, from which switches learn where it is now.

use std::{
    net::Ipv4Addr,
    num::NonZeroU32,
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, Protocol, RecvFlags, SocketType, recv, socket},
};

use crate::{
    error::{Doing as _, Result},
    host::Host,
    lab::Inner,
    node::{COMMAND_TIME, Node},
};

/// ETH_P_RARP in the network's order, as the kernel wants it.
const RARP: Option<NonZeroU32> = NonZeroU32::new(0x8035_u16.to_be() as u32);
const LOOK: Duration = Duration::from_millis(200);

/// Hears every announcement in a network.
#[derive(Debug)]
pub struct Announcements {
    socket: OwnedFd,
}

impl Announcements {
    pub(crate) fn listen(node: &Node) -> Result<Announcements> {
        let protocol = RARP.map(Protocol::from_raw);
        let open = || socket(AddressFamily::PACKET, SocketType::DGRAM, protocol);
        let socket = node.within(open)?.doing(|| "opening a packet socket for RARP".into())?;
        Ok(Announcements { socket })
    }

    /// The address of the guest that is announced next, if one is within this time.
    pub fn next(&self, at_most: Duration) -> Option<Ipv4Addr> {
        let end = std::time::Instant::now() + at_most;
        loop {
            let left = Timespec::try_from(end.saturating_duration_since(std::time::Instant::now())).ok()?;
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            if poll(&mut fds, Some(&left)).ok()? == 0 {
                return None;
            }
            let mut packet = [0; 128];
            let (length, _) = recv(&self.socket, &mut packet, RecvFlags::DONTWAIT).ok()?;
            if let Some(guest) = announced(&packet[..length]) {
                return Some(guest);
            }
        }
    }
}

/// Whom a RARP announces. The lab's guests have their address in their MAC.
fn announced(packet: &[u8]) -> Option<Ipv4Addr> {
    // Ethernet, IPv4, a "reverse request" as from a machine that asks for its own address.
    let [0, 1, 8, 0, 6, 4, 0, 3, 0x52, 0x54, 0, b, c, d, ..] = packet else { return None };
    Some(Ipv4Addr::new(10, *b, *c, *d))
}

/// What a routed network does about a VM that moves, for one host: once it is announced from a tap here, the site's
/// router sends to its own LAN what is for it. In earnest the host would say so by BGP.
pub(crate) fn follow(lab: &Arc<Inner>, host: &Host) -> Result<()> {
    let announcements = Announcements::listen(host.node())?;
    let (lab, name) = (Arc::downgrade(lab), host.name().to_owned());
    // Ends with the lab.
    thread::spawn(move || {
        while lab.strong_count() > 0 {
            if let Some(guest) = announcements.next(LOOK) {
                settle(&lab, &name, guest);
            }
        }
    });
    Ok(())
}

fn settle(lab: &Weak<Inner>, host: &str, guest: Ipv4Addr) {
    let Some(lab) = lab.upgrade() else { return };
    let Some(host) = lab.hosts().iter().find(|other| other.name() == host) else { return };
    // A stretched LAN carries the announcement to hosts where the guest is not.
    let learnt = host.node().output(&["bridge", "fdb", "show", "br", "guests"], None, COMMAND_TIME);
    let mac = crate::domain_xml::mac(guest);
    let here = learnt.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .any(|line| line.starts_with(&mac) && line.contains(" dev vnet") && !line.contains("permanent"))
    });
    if here && let Err(error) = lab.fabric.settle_guest(guest, host.site()) {
        eprintln!("coms-lab {}: the way to {guest}: {error:?}", lab.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_rarp_of_a_guest_of_the_labs_announces_one() {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 3, 0x52, 0x54, 0, 78, 1, 2, 0, 0, 0, 0];
        assert_eq!(announced(&packet), Some(Ipv4Addr::new(10, 78, 1, 2)));
        packet[7] = 1;
        assert_eq!(announced(&packet), None);
        assert_eq!(announced(&packet[..8]), None);
    }
}
