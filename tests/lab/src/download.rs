//! How much a client gets from a guest over one TCP connection, over time.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{client::Client, error::Result};

/// How often it is noted how much there is.
const EVERY: Duration = Duration::from_millis(100);

/// So much had come by then.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// Bytes since the beginning.
    pub bytes: u64,
}

/// A connection over which a guest sends without end, until dropped.
#[derive(Debug)]
pub struct Download {
    samples: Arc<Mutex<Vec<Sample>>>,
    broke: Arc<Mutex<Option<String>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Download {
    /// `window`: how much may be on its way to the client at once, in bytes; `None`: what its kernel thinks right.
    /// `mbit_s`: how fast it reads at most.
    pub(crate) fn start(
        client: &Client,
        from: Ipv4Addr,
        guest: SocketAddr,
        window: Option<usize>,
        mbit_s: Option<u32>,
    ) -> Result<Download> {
        let stream = client.connect_from(from, guest, Duration::from_secs(20), window)?;
        let (samples, broke) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
        let over = Arc::new(AtomicBool::new(false));
        let (noted, why, stop) = (Arc::clone(&samples), Arc::clone(&broke), Arc::clone(&over));
        let thread = thread::spawn(move || {
            let pace = mbit_s.map(|rate| Pace::new(rate, Instant::now()));
            if let Err(error) = read_on(stream, pace, &noted, &stop) {
                *why.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
        });
        Ok(Download { samples, broke, over, thread: Some(thread) })
    }

    /// How much there was when, about every 100 ms; without a byte there is no sample.
    pub fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the connection ended, if it did.
    pub fn broke(&self) -> Option<String> {
        self.broke.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its mean rate between two moments, in Mbit/s.
    pub fn mbit_s(&self, from: Instant, to: Instant) -> f64 {
        mbit_s(&self.samples(), from, to)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn mbit_s(samples: &[Sample], from: Instant, to: Instant) -> f64 {
    let had = |by: Instant| samples.iter().rev().find(|s| s.at <= by).map_or(0, |s| s.bytes);
    let bits = had(to).saturating_sub(had(from)) as f64 * 8.0;
    bits / 1e6 / to.saturating_duration_since(from).as_secs_f64().max(1e-9)
}

/// When a reader that keeps to a rate may read on.
struct Pace {
    bytes_s: f64,
    /// When what was read so far should have come.
    due: Instant,
}

impl Pace {
    /// What a reader may fall behind and make up for.
    const SLACK: Duration = Duration::from_millis(20);

    fn new(mbit_s: u32, now: Instant) -> Pace {
        Pace { bytes_s: f64::from(mbit_s) * 1e6 / 8.0, due: now }
    }

    /// So much was read; how long to wait before the next.
    fn after(&mut self, bytes: usize, now: Instant) -> Duration {
        // A pause is not made up for, or a burst would follow it.
        let from = now.checked_sub(Pace::SLACK).map_or(self.due, |earliest| self.due.max(earliest));
        self.due = from + Duration::from_secs_f64(bytes as f64 / self.bytes_s);
        self.due.saturating_duration_since(now)
    }
}

fn read_on(
    mut stream: TcpStream,
    mut pace: Option<Pace>,
    samples: &Mutex<Vec<Sample>>,
    over: &AtomicBool,
) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut buffer = vec![0; if pace.is_some() { 1 << 16 } else { 1 << 17 }];
    let (mut bytes, mut noted) = (0, Instant::now());
    while !over.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::Error::other("the guest closed it")),
            Ok(more) => {
                bytes += more as u64;
                if let Some(pace) = &mut pace {
                    thread::sleep(pace.after(more, Instant::now()));
                }
            }
            Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {
                continue;
            }
            Err(error) => return Err(error),
        }
        if noted.elapsed() >= EVERY {
            noted = Instant::now();
            samples.lock().unwrap_or_else(PoisonError::into_inner).push(Sample { at: noted, bytes });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_came_in_between() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let samples: Vec<Sample> =
            (0..=20).map(|i| Sample { at: at(i * 100), bytes: i * 1_000_000 }).collect();
        assert_eq!(mbit_s(&samples, at(500), at(1500)).round(), 80.0);
        assert_eq!(mbit_s(&samples, at(2000), at(9000)), 0.0, "nothing came");
    }

    #[test]
    fn a_paced_reader_keeps_its_rate_and_makes_up_for_no_pause() {
        let start = Instant::now();
        let mut pace = Pace::new(8, start);
        let mut now = start;
        for _ in 0..100 {
            now += pace.after(10_000, now);
        }
        // A megabyte at one megabyte a second, less what it may be ahead.
        let took = now - start;
        assert!((Duration::from_millis(970)..=Duration::from_millis(1000)).contains(&took), "{took:?}");
        now += Duration::from_secs(5);
        assert_eq!(pace.after(10_000, now), Duration::ZERO, "behind");
        let mut waited = Duration::ZERO;
        for _ in 0..10 {
            waited += pace.after(10_000, now + waited);
        }
        assert!(waited >= Duration::from_millis(70), "{waited:?}");
    }
}
