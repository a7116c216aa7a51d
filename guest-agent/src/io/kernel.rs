//! Questions to the kernel that neither the standard library nor rustix asks.

use rustix::fd::{AsFd, AsRawFd};
use std::io;
use std::mem::{MaybeUninit, size_of};

/// The kernel's own limit on groups is 65,536.
const MAX_GROUPS: usize = 65_536;

/// The supplementary groups that the other end of a unix socket had when it connected.
#[expect(unsafe_code, reason = "SO_PEERGROUPS has no safe binding")]
pub(super) fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let fd = socket.as_fd();
    let mut groups = vec![0u32; 32];
    loop {
        let bytes = groups.len() * size_of::<u32>();
        let mut length = libc::socklen_t::try_from(bytes).map_err(io::Error::other)?;
        // SAFETY: the descriptor is borrowed and so open; `groups` has room for `length` bytes, of which the kernel
        // writes at most as many and says in `length` how many.
        let result = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut length,
            )
        };
        let told = usize::try_from(length).map_err(io::Error::other)? / size_of::<u32>();
        if result == 0 {
            groups.truncate(told);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Too small: the kernel told how much it needs.
        if error.raw_os_error() != Some(libc::ERANGE) || told <= groups.len() || told > MAX_GROUPS {
            return Err(error);
        }
        groups.resize(told, 0);
    }
}

/// Whether something keeps the system's clock right (NTP, or a paravirtual clock's daemon). None: the kernel does
/// not say.
#[expect(unsafe_code, reason = "adjtimex has no safe binding")]
pub fn clock_is_synchronised() -> Option<bool> {
    let mut what = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: `timex` is plain numbers, for which zero is a value; modes = 0 only reads, into memory of that size.
    let (state, what) = unsafe {
        let state = libc::adjtimex(what.as_mut_ptr());
        (state, what.assume_init())
    };
    (state >= 0).then_some(state != libc::TIME_ERROR && what.status & libc::STA_UNSYNC == 0)
}

/// The next packet of a packet socket, as far as it fits, and which way it went (PACKET_HOST, PACKET_OUTGOING, ...).
#[expect(unsafe_code, reason = "sockaddr_ll has no safe binding")]
pub(super) fn next_packet(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, u8)> {
    let mut from = MaybeUninit::<libc::sockaddr_ll>::zeroed();
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed and so open; the kernel writes at most as much into `buffer` and `from` as they
    // have room for, and `from` is plain numbers, for which zero is a value.
    let (read, from) = unsafe {
        let read = libc::recvfrom(
            socket.as_fd().as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            from.as_mut_ptr().cast(),
            &mut length,
        );
        (read, from.assume_init())
    };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    Ok((read, from.sll_pkttype))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_groups_of_a_peer_are_its_own() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let told = super::peer_groups(&one).unwrap();
        let mine: Vec<u32> = rustix::process::getgroups().unwrap().into_iter().map(|g| g.as_raw()).collect();
        assert_eq!(told, mine);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(super::peer_groups(file).is_err());
    }

    #[test]
    fn the_kernel_knows_whether_its_clock_is_kept() {
        assert!(super::clock_is_synchronised().is_some());
    }
}
