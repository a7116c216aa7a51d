//! One question to the kernel that neither the standard library nor rustix asks.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

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

#[cfg(test)]
mod tests {
    #[test]
    fn only_a_socket_has_a_peer_with_groups() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let told = super::peer_groups(&one).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let mine = status.lines().find_map(|l| l.strip_prefix("Groups:")).unwrap();
        let mine: Vec<u32> = mine.split_whitespace().map(|g| g.parse().unwrap()).collect();
        assert_eq!(told, mine);
        assert!(super::peer_groups(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
