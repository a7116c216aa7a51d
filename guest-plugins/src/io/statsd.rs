//! Receives StatsD datagrams, no more of them than one application needs to send.

use super::now;
use super::runner::{Of, stopped};
use crate::config::{Listen, StatsD};
use crate::decide::bounds::Budget;
use crate::decide::desk::Event;
use crate::reading::{Problem, Reading};
use crate::statsd::Bag;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

/// Datagrams a second; what comes faster is thrown away by the kernel, or here.
const DATAGRAMS_PER_S: f64 = 2000.0;
const DATAGRAMS_SAVED: f64 = 4000.0;
/// The longest datagram.
const MAX_DATAGRAM: usize = 64 * 1024;
/// A socket that cannot be had is tried again.
const AGAIN: Duration = Duration::from_secs(5);

enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

pub(super) async fn run(of: &mut Of, statsd: &StatsD) {
    let socket = loop {
        match bind(&statsd.listen).await {
            Ok(socket) => break socket,
            Err(e) => {
                let problem = Problem::new(
                    format!("cannot listen at {}: {e}", shown(&statsd.listen)),
                    "is another StatsD server there? Its directory must exist",
                );
                of.reading(Reading { problems: vec![problem], ..Reading::failure("it cannot listen") }).await;
            }
        }
        tokio::select! {
            () = stopped(&mut of.stop) => return,
            () = sleep(AGAIN) => {}
        }
    };
    listen(of, statsd, &socket).await;
    if let Listen::Unix(path) = &statsd.listen {
        let _ = fs::remove_file(path);
    }
}

async fn listen(of: &mut Of, statsd: &StatsD, socket: &Socket) {
    let mut bag = Bag::new(statsd.wanted.clone(), statsd.quantile, now());
    let mut budget = Budget::new(DATAGRAMS_PER_S, DATAGRAMS_SAVED, now());
    let mut not_before = Instant::now();
    let mut many = false;
    let mut tick = interval(of.plugin.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tick.tick().await;
    let mut buffer = vec![0u8; MAX_DATAGRAM];
    loop {
        tokio::select! {
            () = stopped(&mut of.stop) => return,
            _ = tick.tick() => {
                let reading = bag.take(now());
                if !reading.is_empty() || !reading.problems.is_empty() {
                    of.reading(reading).await;
                }
                if std::mem::take(&mut many) {
                    of.say(Event::Dropped { lines: 1, why: "more than 2000 datagrams a second" }).await;
                }
            }
            received = receive(socket, &mut buffer, not_before) => match received {
                Ok(n) => {
                    bag.datagram(&buffer[..n]);
                    let wait = budget.spend(now(), 1.0);
                    many |= wait > Duration::ZERO;
                    not_before = Instant::now() + wait;
                }
                Err(_) => not_before = Instant::now() + Duration::from_millis(100),
            },
        }
    }
}

async fn receive(socket: &Socket, buffer: &mut [u8], not_before: Instant) -> io::Result<usize> {
    sleep_until(not_before).await;
    match socket {
        Socket::Udp(socket) => socket.recv(buffer).await,
        Socket::Unix(socket) => socket.recv(buffer).await,
    }
}

async fn bind(listen: &Listen) -> io::Result<Socket> {
    match listen {
        Listen::Udp(address) => UdpSocket::bind(address).await.map(Socket::Udp),
        Listen::Unix(path) => {
            remove_stale(path)?;
            let socket = UnixDatagram::bind(path)?;
            // Whoever may enter its directory may measure.
            fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
            Ok(Socket::Unix(socket))
        }
    }
}

/// One that a dead daemon left. One that somebody listens at is not removed, and nothing that is no socket.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            let probe = std::os::unix::net::UnixDatagram::unbound()?;
            if probe.connect(path).is_ok() {
                Err(io::ErrorKind::AddrInUse.into())
            } else {
                fs::remove_file(path)
            }
        }
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn shown(listen: &Listen) -> String {
    match listen {
        Listen::Udp(address) => address.to_string(),
        Listen::Unix(path) => path.display().to_string(),
    }
}
