//! What a guest does, as it happens and on the host's clock, at next to no cost for the guest.

use crate::Result;
use coms_lab::{Client, Guest};
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 on this machine.
pub fn unix_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
}

/// What a program in the guest prints, as it does. One long connection, which moves with the guest: to ask again
/// and again would cost the guest a new program each time, and the measured work would feel it.
pub struct Follow {
    lines: mpsc::Receiver<String>,
}

impl Follow {
    /// Starts it.
    pub fn start(outside: &Client, guest: &Guest, command: &str) -> Result<Follow> {
        let ip = outside.ip();
        let listener = outside.within(|| TcpListener::bind((ip, 0)))??;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        guest.sh(&format!("{{ {command} | nc {ip} {port}; }} >/dev/null 2>&1 &"))?;
        let mut stream = None;
        crate::wait(&format!("{} to run {command}", guest.name()), 20, || {
            stream = listener.accept().ok();
            Ok(stream.is_some())
        })?;
        let (stream, _) = stream.ok_or("no connection")?;
        stream.set_nonblocking(false)?;
        let (sender, lines) = mpsc::channel();
        // Ends with the guest, or with the demo.
        thread::spawn(move || {
            BufReader::new(stream).lines().map_while(std::io::Result::ok).try_for_each(|l| sender.send(l))
        });
        Ok(Follow { lines })
    }

    /// What has come since the last call.
    pub fn take(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }
}

/// The guest's wall clock, which nobody sets to the host's.
#[derive(Clone, Copy)]
pub struct GuestClock {
    /// Host less guest.
    offset_ms: f64,
}

impl GuestClock {
    /// Compares the two: right to within half the time of the quickest answer, some 10 ms. The move then sets
    /// the guest's clock back by its downtime, which is not corrected here.
    pub fn compare(guest: &Guest) -> Result<GuestClock> {
        let mut best: Option<(f64, f64)> = None;
        for _ in 0..8 {
            let before = unix_ms();
            let text = guest.sh("adjtimex")?;
            let after = unix_ms();
            let field = |name: &str| {
                let value = text.lines().find_map(|l| l.trim().strip_prefix(name)).map(str::trim);
                let value = value.and_then(|v| v.parse::<f64>().ok());
                value.ok_or_else(|| format!("adjtimex in {} says no {name} {text}", guest.name()))
            };
            let guest_ms = field("time.tv_sec:")? * 1000.0 + field("time.tv_usec:")? / 1000.0;
            if best.is_none_or(|(rtt, _)| after - before < rtt) {
                best = Some((after - before, (before + after) / 2.0 - guest_ms));
            }
        }
        let (_, offset_ms) = best.ok_or("no answer")?;
        Ok(GuestClock { offset_ms })
    }

    /// A moment of the guest's clock on the host's.
    pub fn to_host(self, guest_unix_ms: f64) -> f64 {
        guest_unix_ms + self.offset_ms
    }
}
