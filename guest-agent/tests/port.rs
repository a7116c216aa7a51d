//! The port over a real character device that hangs up and comes back: the master end of a pty, whose hang-ups
//! read as EIO where a virtio port gives 0, and are sticky in the reactor in just the same way.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use coms_agent::event::PortState;
use coms_agent::io::port::Port;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

struct Host {
    path: String,
}

impl Host {
    fn attach(&self) -> File {
        let file = File::options().read(true).write(true).open(&self.path).unwrap();
        let mut raw = tcgetattr(&file).unwrap();
        raw.make_raw();
        tcsetattr(&file, OptionalActions::Now, &raw).unwrap();
        file
    }
}

fn port() -> (Port, Host) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    rustix::io::ioctl_fionbio(&master, true).unwrap();
    let host = Host { path };
    // As a virtio port whose host was there once and left.
    drop(host.attach());
    (Port::from_file(File::from(master)), host)
}

/// Waits for a state, counting wake-ups.
async fn state(port: &mut Port) -> PortState {
    loop {
        if let Some(state) = port.take_state() {
            return state;
        }
        port.wait(false).await;
        while port.read(&mut [0; 64]).is_some() {}
    }
}

async fn bytes(port: &mut Port, wanted: usize) -> Vec<u8> {
    let (mut got, mut buffer) = (Vec::new(), [0u8; 64]);
    while got.len() < wanted {
        match port.read(&mut buffer) {
            Some(n) => got.extend_from_slice(&buffer[..n]),
            None => port.wait(false).await,
        }
    }
    got
}

/// How often `wait` returns within half a second in which nothing happens. Who waited to write then writes, as the agent
/// does: only a write that found no room ends the room that a line once told of.
async fn wakes(port: &mut Port, write: bool) -> u32 {
    let (begun, mut wakes) = (Instant::now(), 0);
    loop {
        let left = Duration::from_millis(500).saturating_sub(begun.elapsed());
        if left.is_zero() || tokio::time::timeout(left, port.wait(write)).await.is_err() {
            return wakes;
        }
        wakes += 1;
        port.read(&mut [0; 64]);
        while write && port.write(&[1; 4096]) > 0 {}
        port.take_state();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn goes_through_hang_ups_without_losing_bytes_or_spinning() {
    let (mut port, host) = port();
    assert_eq!(wakes(&mut port, true).await, 0, "absent is quiet");
    for round in 0..5u8 {
        let mut end = host.attach();
        end.write_all(&[round; 10]).unwrap();
        tokio::time::timeout(Duration::from_secs(5), async {
            assert_eq!(state(&mut port).await, PortState::Up);
        })
        .await
        .unwrap();
        // Read by the state loop above or still there: ask for a fresh lot.
        end.write_all(&[100 + round; 10]).unwrap();
        assert!(bytes(&mut port, 10).await.ends_with(&[100 + round; 10]));
        // One: a reader learns only by an empty read that there is nothing more.
        assert!(wakes(&mut port, false).await <= 1, "attached and quiet, after {round} hang-ups");
        assert_eq!(port.write(b"hello"), 5);
        let mut heard = [0; 5];
        end.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        end.write_all(b"last words").unwrap();
        drop(end);
        assert_eq!(bytes(&mut port, 10).await, b"last words", "said before the hang-up");
        assert_eq!(state(&mut port).await, PortState::HostAbsent);
        assert_eq!(port.write(b"nobody"), 0);
        assert_eq!(wakes(&mut port, true).await, 0, "hung up is quiet");
    }
}

/// A serial line without its hardware: the agent has the slave end, the "host" is the master.
#[tokio::test(flavor = "current_thread")]
async fn a_serial_line_is_raw_exclusive_and_quiet() {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let mut host = File::from(openpt(flags).unwrap());
    grantpt(&host).unwrap();
    unlockpt(&host).unwrap();
    let path = std::path::PathBuf::from(ptsname(&host, Vec::new()).unwrap().into_string().unwrap());
    let mut port = Port::new(coms_agent::config::Port::Serial { path: path.clone() });
    assert_eq!(state(&mut port).await, PortState::Up);

    let mut second = Port::new(coms_agent::config::Port::Serial { path });
    let PortState::Missing(why) = state(&mut second).await else { unreachable!() };
    assert!(why.contains("another process has the line open"), "{why}");

    // Every byte passes as it is, both ways: no echo, no line discipline.
    let all: Vec<u8> = (0..=255).collect();
    host.write_all(&all).unwrap();
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), bytes(&mut port, 256)).await.unwrap(), all);
    assert!(wakes(&mut port, false).await <= 1, "nothing is said");
    let mut rest = &all[..];
    while !rest.is_empty() {
        port.wait(true).await;
        let n = port.write(rest);
        rest = &rest[n..];
    }
    let mut heard = vec![0; 256];
    host.read_exact(&mut heard).unwrap();
    assert_eq!(heard, all);

    // A host that takes nothing: writing ends, and waiting for room is no spinning.
    while port.write(&[1; 4096]) > 0 {}
    assert!(wakes(&mut port, true).await <= 2, "full and quiet");
    drop(host);
    let PortState::Missing(why) = state(&mut port).await else { unreachable!() };
    assert!(why.contains("gone"), "{why}");
}
