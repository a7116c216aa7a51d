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
    pub(crate) fn start(
        client: &Client,
        from: Ipv4Addr,
        guest: SocketAddr,
        window: Option<usize>,
    ) -> Result<Download> {
        let stream = client.connect_from(from, guest, Duration::from_secs(20), window)?;
        let (samples, broke) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
        let over = Arc::new(AtomicBool::new(false));
        let (noted, why, stop) = (Arc::clone(&samples), Arc::clone(&broke), Arc::clone(&over));
        let thread = thread::spawn(move || {
            if let Err(error) = read_on(stream, &noted, &stop) {
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

fn read_on(mut stream: TcpStream, samples: &Mutex<Vec<Sample>>, over: &AtomicBool) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut buffer = vec![0; 1 << 17];
    let (mut bytes, mut noted) = (0, Instant::now());
    while !over.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::Error::other("the guest closed it")),
            Ok(more) => bytes += more as u64,
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
}
