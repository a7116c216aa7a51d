//! How long was a guest not there? A client sends a packet every 2 ms; the longest time
//! without an answer is what somebody outside saw of the guest's downtime.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    error::{Doing as _, Result},
    guest_spec::ECHO_PORT,
};

/// Time between two packets.
pub const ECHO_INTERVAL: Duration = Duration::from_millis(2);

/// One packet: when it was sent, and when its echo came, if it did.
#[derive(Clone, Copy, Debug)]
pub struct Echo {
    /// When it left.
    pub sent: Instant,
    /// When it was back.
    pub received: Option<Instant>,
}

/// Packets going to and fro until dropped.
#[derive(Debug)]
pub struct UdpEcho {
    record: Arc<Mutex<Vec<Echo>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl UdpEcho {
    pub(crate) fn start(socket: UdpSocket, guest: Ipv4Addr) -> Result<UdpEcho> {
        let doing = || format!("setting up the echo client of {guest}");
        socket.connect((guest, ECHO_PORT)).doing(doing)?;
        socket.set_read_timeout(Some(Duration::from_millis(100))).doing(doing)?;
        let receiving = socket.try_clone().doing(doing)?;
        let record = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let sender = {
            let (record, stop) = (Arc::clone(&record), Arc::clone(&stop));
            thread::spawn(move || send(&socket, &record, &stop))
        };
        let receiver = {
            let (record, stop) = (Arc::clone(&record), Arc::clone(&stop));
            thread::spawn(move || receive(&receiving, &record, &stop))
        };
        Ok(UdpEcho { record, stop, threads: vec![sender, receiver] })
    }

    /// All packets so far, in the order sent.
    pub fn record(&self) -> Vec<Echo> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The longest time between `from` and `to` in which no echo came.
    pub fn worst_gap(&self, from: Instant, to: Instant) -> Duration {
        let mut arrivals: Vec<Instant> = self.record().iter().filter_map(|echo| echo.received).collect();
        // Not always in order: what waited at a switch may be overtaken.
        arrivals.sort_unstable();
        worst_gap(&arrivals, from, to)
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn worst_gap(arrivals: &[Instant], from: Instant, to: Instant) -> Duration {
    let mut worst = Duration::ZERO;
    let mut last = from;
    for arrival in arrivals.iter().copied().filter(|arrival| (from..=to).contains(arrival)).chain([to]) {
        worst = worst.max(arrival.saturating_duration_since(last));
        last = arrival;
    }
    worst
}

fn send(socket: &UdpSocket, record: &Mutex<Vec<Echo>>, stop: &AtomicBool) {
    be_prompt();
    let mut next = Instant::now();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let echo = Echo { sent: Instant::now(), received: None };
        record.lock().unwrap_or_else(PoisonError::into_inner).push(echo);
        // Refused or unreachable is an answer that did not come, and shows as such.
        let _ = socket.send(&number.to_le_bytes());
        next += ECHO_INTERVAL;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn receive(socket: &UdpSocket, record: &Mutex<Vec<Echo>>, stop: &AtomicBool) {
    be_prompt();
    let mut number = [0; 8];
    while !stop.load(Ordering::Relaxed) {
        let Ok(8) = socket.recv(&mut number) else { continue };
        let now = Instant::now();
        let index = usize::try_from(u64::from_le_bytes(number)).unwrap_or(usize::MAX);
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(echo) = record.get_mut(index) {
            echo.received.get_or_insert(now);
        }
    }
}

/// Guests under TCG keep every CPU busy; this thread's own waiting is not to be measured.
fn be_prompt() {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), -20);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_gap_counts_both_ends_of_the_interval() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let arrivals = [at(1), at(10), at(12), at(14)];
        assert_eq!(worst_gap(&arrivals, at(9), at(15)), Duration::from_millis(2));
        assert_eq!(worst_gap(&arrivals, at(0), at(15)), Duration::from_millis(9));
        assert_eq!(worst_gap(&arrivals, at(12), at(40)), Duration::from_millis(26));
        assert_eq!(worst_gap(&[], at(0), at(5)), Duration::from_millis(5));
    }
}
