//! All that passes any interface of the lab's hosts and of the wires between them: what somebody who listens
//! everywhere has. In files, one for each network namespace, which Wireshark reads too.
//!
//! ```no_run
//! # fn main() -> coms_lab::Result<()> {
//! # let lab = coms_lab::Lab::new(coms_lab::LabConfig::default())?;
//! let wiretap = lab.wiretap("move")?;
//! // ... a move ...
//! let tapped = wiretap.finish()?; // an error if one frame is missing
//! assert_eq!(tapped.occurrences(b"not to be read")?, 0);
//! # Ok(())
//! # }
//! ```
//! What passes several interfaces is there several times: a packet between two hosts four times.

mod file;
mod opening;

use std::{
    fs,
    num::NonZeroU32,
    ops::RangeInclusive,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use memchr::memmem;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, Protocol, RecvFlags, SocketType, recv, socket, sockopt},
};

use crate::{
    error::{Doing as _, Error, Result},
    node::Node,
};
use file::{Frames, Writer};
pub use opening::{Opening, Tls};

/// ETH_P_ALL in the network's order, as the kernel wants it.
const EVERYTHING: Option<NonZeroU32> = NonZeroU32::new(0x0003_u16.to_be() as u32);
/// What the kernel sends in one piece between these interfaces (64 KiB and headers) has room twice.
const FRAME_BYTES: usize = 128 << 10;
/// What waits in the kernel while this process has no CPU.
const QUEUE_BYTES: usize = 256 << 20;
/// More than this of one namespace is no capture of a move of the lab's, and would fill the machine's disk.
const MOST_BYTES: u64 = 4 << 30;
/// How often threads look whether it is over.
const LOOK: Duration = Duration::from_millis(50);

/// A capture under way; dropped, it comes to nothing.
#[derive(Debug)]
pub struct Wiretap {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<u64>>>,
    files: Files,
}

/// What was captured: complete. Its files are deleted with it, unless a test fails or `COMS_LAB_KEEP` is 1.
#[derive(Debug)]
pub struct Tapped {
    files: Files,
    frames: u64,
}

impl Wiretap {
    pub(crate) fn start<'a>(dir: PathBuf, nodes: impl Iterator<Item = &'a Node>) -> Result<Wiretap> {
        fs::create_dir_all(&dir).doing(|| format!("making {}", dir.display()))?;
        let files = Files { dir, paths: Vec::new() };
        let mut wiretap = Wiretap { over: Arc::default(), threads: Vec::new(), files };
        for node in nodes {
            let name = node.name().to_owned();
            let socket = node.within(open)?.doing(|| format!("opening a packet socket in {name}"))?;
            let path = wiretap.files.dir.join(format!("{name}.pcap"));
            let file = Writer::create(&path, FRAME_BYTES)?;
            wiretap.files.paths.push(path);
            let over = Arc::clone(&wiretap.over);
            wiretap.threads.push(thread::spawn(move || take(&name, &socket, &over, file)));
        }
        Ok(wiretap)
    }

    /// Ends it. An error if the kernel had to throw a frame away or the files are full: then nothing follows from what is
    /// not in them.
    pub fn finish(mut self) -> Result<Tapped> {
        let ends = self.stop();
        let counts: Vec<u64> = ends.into_iter().collect::<Result<_>>()?;
        let files = std::mem::take(&mut self.files);
        Ok(Tapped { files, frames: counts.iter().sum() })
    }

    fn stop(&mut self) -> Vec<Result<u64>> {
        self.over.store(true, Ordering::Release);
        let joined = |thread: JoinHandle<_>| {
            thread.join().unwrap_or_else(|_| Err(Error::Unfit("a thread of the capture panicked".into())))
        };
        self.threads.drain(..).map(joined).collect()
    }
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Tapped {
    /// How many frames there are.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// How long they are together.
    pub fn bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        self.each(|frame| bytes += frame.len() as u64)?;
        Ok(bytes)
    }

    /// How often a pattern is in single frames, at all interfaces together, without overlap.
    ///
    /// What two frames have one part each of is not found. So search for what fills whole pages over and over
    /// ([`crate::Guest::hold_secret`]): wherever frames are cut, one that has twice the pattern's length of such a page has
    /// it whole.
    pub fn occurrences(&self, pattern: &[u8]) -> Result<u64> {
        if pattern.is_empty() {
            return Err(Error::Unfit("an empty pattern is everywhere".into()));
        }
        let finder = memmem::Finder::new(pattern);
        let mut found = 0;
        self.each(|frame| found += finder.find_iter(frame).count() as u64)?;
        Ok(found)
    }

    /// How each TCP connection to one of these ports began, if its first packet was captured. One each, at however many
    /// interfaces it was seen.
    pub fn openings(&self, to: RangeInclusive<u16>) -> Result<Vec<Opening>> {
        let mut openings = opening::Openings::new(to);
        self.each(|frame| openings.see(frame))?;
        Ok(openings.finish())
    }

    fn each(&self, mut see: impl FnMut(&[u8])) -> Result<()> {
        for path in &self.files.paths {
            let mut frames = Frames::open(path)?;
            while let Some(frame) = frames.next_frame()? {
                see(frame);
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Files {
    dir: PathBuf,
    paths: Vec<PathBuf>,
}

impl Drop for Files {
    fn drop(&mut self) {
        let keep = std::env::var("COMS_LAB_KEEP").is_ok_and(|keep| keep == "1");
        if !self.paths.is_empty() && !keep && !thread::panicking() {
            // What stays is in the lab's logs, and goes with those.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// A socket that is bound to no interface hears all of the namespace, also those that come later.
fn open() -> rustix::io::Result<OwnedFd> {
    let socket = socket(AddressFamily::PACKET, SocketType::RAW, EVERYTHING.map(Protocol::from_raw))?;
    sockopt::set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES)?;
    Ok(socket)
}

fn take(name: &str, socket: &OwnedFd, over: &AtomicBool, mut file: Writer) -> Result<u64> {
    // Guests under TCG keep every CPU busy, and the kernel's queue has an end.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), -20);
    let mut frame = vec![0; FRAME_BYTES];
    let mut taken = 0;
    loop {
        // What was sent before somebody said so is in the queue by now.
        let last = over.load(Ordering::Acquire);
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        let _ =
            poll(&mut fds, Timespec::try_from(LOOK).ok().filter(|_| !last).as_ref().or(Some(&NOT_AT_ALL)));
        loop {
            match recv(socket, &mut frame[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
                Ok((kept, length)) if kept == length => file.write(now(), &frame[..kept])?,
                Ok((_, length)) => {
                    return Err(Error::Unfit(format!("a frame of {length} bytes in {name}: no room for it")));
                }
                Err(Errno::AGAIN) => break,
                // An interface that goes down is an error once, and no end.
                Err(Errno::INTR | Errno::NETDOWN) => continue,
                Err(error) => return Err(error).doing(|| format!("capturing in {name}")),
            }
            taken += 1;
            if file.bytes() > MOST_BYTES {
                return Err(Error::Unfit(format!(
                    "more than {MOST_BYTES} bytes in {name}: the capture is not whole"
                )));
            }
        }
        if last {
            break;
        }
    }
    file.finish()?;
    whole(name, taken, statistics(socket).doing(|| format!("asking what was lost in {name}"))?)?;
    Ok(taken)
}

const NOT_AT_ALL: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The kernel's own count: frames that came, and those of them that it threw away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Statistics {
    came: u32,
    lost: u32,
}

/// What came after the end and was not taken any more is nobody's.
fn whole(name: &str, taken: u64, kernel: Statistics) -> Result<()> {
    if kernel.lost == 0 && u64::from(kernel.came) >= taken {
        return Ok(());
    }
    Err(Error::Unfit(format!(
        "the capture in {name} is not whole: {} frames came, {} were lost, {taken} are in the file",
        kernel.came, kernel.lost
    )))
}

#[expect(unsafe_code, reason = "no crate here has this socket option")]
fn statistics(socket: impl AsFd) -> std::io::Result<Statistics> {
    let mut found = [0_u32; 2];
    let mut length = size_of_val(&found) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, a `struct tpacket_stats`: two integers of 32 bits.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            found.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match done {
        0 => Ok(Statistics { came: found[0], lost: found[1] }),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    fn dir(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("coms-wiretap-{}-{name}", std::process::id()))
    }

    fn shouting(node: &Node, packet: &[u8], times: usize) -> Result<()> {
        let [from, to] = [0, 0].map(|_| node.within(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()));
        let (from, to) = (from?, to?);
        let at = to.local_addr().unwrap();
        for _ in 0..times {
            from.send_to(packet, at).unwrap();
        }
        Ok(())
    }

    #[test]
    fn what_passes_an_interface_is_found_and_nothing_else() -> Result<()> {
        let (one, other) = (Node::net_only("one")?, Node::net_only("other")?);
        let wiretap = Wiretap::start(dir("found"), [&one, &other].into_iter())?;
        shouting(&one, b"a known pattern, and more", 3)?;
        shouting(&other, b"something else", 1)?;
        let tapped = wiretap.finish()?;
        shouting(&one, b"a known pattern, too late", 1)?;
        // On its way out and on its way in.
        assert_eq!(tapped.occurrences(b"a known pattern")?, 6);
        assert_eq!(tapped.occurrences(b"something else")?, 2);
        assert_eq!(tapped.occurrences(b"unheard of")?, 0);
        assert!(tapped.occurrences(b"").is_err());
        assert!(tapped.frames() >= 8 && tapped.bytes()? > 8 * 40);
        let dir = tapped.files.dir.clone();
        assert!(dir.join("one.pcap").exists());
        drop(tapped);
        assert!(!dir.exists());
        Ok(())
    }

    #[test]
    fn what_the_kernel_lost_is_known() -> Result<()> {
        let node = Node::net_only("small")?;
        let socket = node.within(open)?.unwrap();
        sockopt::set_socket_recv_buffer_size_force(&socket, 4096).unwrap();
        shouting(&node, &[7; 1400], 50)?;
        let mut taken = 0;
        while recv(&socket, &mut [0; 2048], RecvFlags::DONTWAIT).is_ok() {
            taken += 1;
        }
        let found = statistics(&socket).unwrap();
        assert!(found.came >= 100 && found.lost > 0, "{found:?}, {taken} taken");
        assert!(whole("small", taken, found).is_err());
        assert!(whole("small", 5, Statistics { came: 5, lost: 0 }).is_ok());
        assert!(whole("small", 4, Statistics { came: 5, lost: 0 }).is_ok());
        assert!(whole("small", 5, Statistics { came: 6, lost: 1 }).is_err());
        assert!(whole("small", 5, Statistics { came: 4, lost: 0 }).is_err());
        Ok(())
    }

    #[test]
    fn a_page_full_of_a_pattern_cannot_pass_in_frames_without_it() {
        let pattern: Vec<u8> = (0..32).collect();
        let page: Vec<u8> = pattern.iter().copied().cycle().take(4096).collect();
        let finder = memmem::Finder::new(&pattern);
        for cut in 0..4096 {
            for part in [&page[..cut], &page[cut..]] {
                let has = finder.find(part).is_some();
                assert!(has || part.len() < 2 * pattern.len() - 1, "cut at {cut}");
            }
        }
    }
}
