//! A line between two sites: what goes into one TAP comes out of the other, later.
//!
//! The machine's kernel delays nothing by itself (it has no netem), so two threads for each direction do: one takes
//! frames and notes when each is due, one waits and hands them over. They are this process's own and not a program
//! apart: a test changes the line by a call, and the line ends with the lab, however that ends.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    ioctl::{Opcode, Setter, ioctl, opcode},
};

use crate::{
    error::{Doing as _, Result},
    node::Node,
};

/// Room for a frame of the line, whose packets have at most 9000 bytes.
const FRAME_BYTES: usize = 9216;
/// What waits for a slow line longer than this is lost, as in any router.
const QUEUE: Duration = Duration::from_millis(100);
/// What may be on its way at once, in each direction: more than a fast line of the lab's holds.
const UNDERWAY_BYTES: usize = 64 << 20;
/// How often the threads look whether it is over.
const LOOK: Duration = Duration::from_millis(100);

/// What the line is like now.
#[derive(Debug, Default)]
struct Shape {
    delay_us: AtomicU64,
    /// 0: no limit.
    rate_mbit: AtomicU64,
    cut: AtomicBool,
    over: AtomicBool,
}

/// A running line. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    shape: Arc<Shape>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Makes a TAP called `name` in each node, and carries frames between them. The TAPs are down yet.
    pub(crate) fn between(ends: [&Node; 2], name: &str, delay: Duration) -> Result<Relay> {
        let [one, other] = ends;
        let (one, other) = (one.within(|| open_tap(name))??, other.within(|| open_tap(name))??);
        let shape = Arc::new(Shape::default());
        let mut relay = Relay { shape, threads: Vec::new() };
        relay.set_delay(delay);
        for (from, to) in [(&one, &other), (&other, &one)] {
            let doing = || "sharing a TAP".to_owned();
            let (from, to) = (from.try_clone().doing(doing)?, to.try_clone().doing(doing)?);
            relay.carry(from, to);
        }
        Ok(relay)
    }

    pub(crate) fn set_delay(&self, one_way: Duration) {
        let us = u64::try_from(one_way.as_micros()).unwrap_or(u64::MAX);
        self.shape.delay_us.store(us, Ordering::Relaxed);
    }

    pub(crate) fn set_rate_mbit(&self, rate_mbit: Option<u32>) {
        self.shape.rate_mbit.store(rate_mbit.map_or(0, u64::from), Ordering::Relaxed);
    }

    /// Nothing passes, and nobody is told.
    pub(crate) fn set_up(&self, up: bool) {
        self.shape.cut.store(!up, Ordering::Relaxed);
    }

    fn carry(&mut self, from: File, to: File) {
        let (sender, receiver) = mpsc::channel();
        let underway = Arc::new(AtomicUsize::new(0));
        let (shape, counted) = (Arc::clone(&self.shape), Arc::clone(&underway));
        self.threads.push(thread::spawn(move || take(&from, &shape, &counted, &sender)));
        let shape = Arc::clone(&self.shape);
        self.threads.push(thread::spawn(move || hand_over(&to, &shape, &underway, &receiver)));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shape.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

type Frame = (Instant, Vec<u8>);

fn take(mut tap: &File, shape: &Shape, underway: &AtomicUsize, on: &mpsc::Sender<Frame>) {
    be_prompt();
    let mut line = Line::new(Instant::now());
    let mut frame = vec![0; FRAME_BYTES];
    while !shape.over.load(Ordering::Relaxed) {
        if !readable(tap) {
            continue;
        }
        // Until it has no more: the TAP does not block. Its end being down is as good as nothing to read.
        while let Ok(length) = tap.read(&mut frame) {
            if shape.cut.load(Ordering::Relaxed) || underway.load(Ordering::Relaxed) > UNDERWAY_BYTES {
                continue;
            }
            let rate = shape.rate_mbit.load(Ordering::Relaxed);
            let delay = Duration::from_micros(shape.delay_us.load(Ordering::Relaxed));
            if let Some(due) = line.admit(Instant::now(), length, rate, delay) {
                underway.fetch_add(length, Ordering::Relaxed);
                if on.send((due, frame[..length].to_vec())).is_err() {
                    return;
                }
            }
        }
    }
}

fn hand_over(mut tap: &File, shape: &Shape, underway: &AtomicUsize, from: &mpsc::Receiver<Frame>) {
    be_prompt();
    while !shape.over.load(Ordering::Relaxed) {
        let Ok((due, frame)) = from.recv_timeout(LOOK) else { continue };
        let early = due.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            thread::sleep(early);
        }
        // An end that is down loses what arrives there.
        let _ = tap.write(&frame);
        underway.fetch_sub(frame.len(), Ordering::Relaxed);
    }
}

fn readable(tap: &File) -> bool {
    let mut fds = [PollFd::new(tap, PollFlags::IN)];
    let at_most = Timespec::try_from(LOOK).ok();
    let ready = poll(&mut fds, at_most.as_ref()).is_ok_and(|ready| ready > 0);
    // Down, it is never readable and always in error.
    if ready && !fds[0].revents().contains(PollFlags::IN) {
        thread::sleep(LOOK);
    }
    ready
}

/// When each frame is at the other end. Pure.
#[derive(Debug)]
struct Line {
    /// When all that was admitted has left.
    free_at: Instant,
}

impl Line {
    fn new(now: Instant) -> Line {
        Line { free_at: now }
    }

    /// None: the queue is full. `rate_mbit` 0: no limit.
    fn admit(&mut self, now: Instant, bytes: usize, rate_mbit: u64, delay: Duration) -> Option<Instant> {
        let begins = self.free_at.max(now);
        if begins.duration_since(now) > QUEUE {
            return None;
        }
        // Bits over Mbit/s are microseconds.
        let bits = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(8);
        let takes =
            bits.saturating_mul(1000).checked_div(rate_mbit).map_or(Duration::ZERO, Duration::from_nanos);
        self.free_at = begins + takes;
        Some(self.free_at + delay)
    }
}

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
/// The kernel's header says `int`, and means the structure above.
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);

/// A new TAP of this name in the network namespace of the calling thread, which lives as long as the file.
fn open_tap(name: &str) -> Result<File> {
    let doing = || format!("making the TAP {name} from /dev/net/tun");
    let file = File::options().read(true).write(true).open("/dev/net/tun").doing(doing)?;
    let mut request = Request { name: [0; 16], flags: IFF_TAP | IFF_NO_PI, rest: [0; 22] };
    // One byte stays zero.
    for (to, from) in request.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    attach(&file, request).doing(doing)?;
    rustix::io::ioctl_fionbio(&file, true).doing(doing)?;
    Ok(file)
}

#[expect(unsafe_code, reason = "the kernel's only way to make a TAP")]
fn attach(tun: impl AsFd, request: Request) -> rustix::io::Result<()> {
    // SAFETY: TUNSETIFF reads a `struct ifreq` of 40 bytes, which `Request` is laid out like.
    let request = unsafe { Setter::<TUNSETIFF, Request>::new(request) };
    // SAFETY: the kernel keeps no pointer into the request after the call.
    unsafe { ioctl(tun, request) }
}

/// Guests under TCG keep every CPU busy; their waiting is not the line's.
fn be_prompt() {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), -20);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(20);

    #[test]
    fn a_fast_line_only_delays() {
        let now = Instant::now();
        let mut line = Line::new(now);
        for _ in 0..1000 {
            assert_eq!(line.admit(now, 1500, 0, DELAY), Some(now + DELAY));
        }
    }

    #[test]
    fn a_slow_line_takes_one_frame_after_the_other_and_loses_what_would_wait_too_long() {
        let now = Instant::now();
        let mut line = Line::new(now);
        // 12 Mbit/s: 1500 bytes a millisecond.
        let due: Vec<_> = (0..200).filter_map(|_| line.admit(now, 1500, 12, DELAY)).collect();
        assert_eq!(
            due[..2],
            [now + DELAY + Duration::from_millis(1), now + DELAY + Duration::from_millis(2)]
        );
        assert_eq!(due.len(), 101, "100 ms of them wait, and one is being sent");
        // Later there is room again.
        let later = now + Duration::from_millis(50);
        assert!(line.admit(later, 1500, 12, DELAY).is_some());
        let much_later = now + Duration::from_secs(1);
        let due = line.admit(much_later, 1500, 12, DELAY);
        assert_eq!(due, Some(much_later + DELAY + Duration::from_millis(1)), "idle time is not saved up");
    }

    #[test]
    fn the_request_is_as_long_as_the_kernels() {
        assert_eq!(size_of::<Request>(), 40);
    }
}
