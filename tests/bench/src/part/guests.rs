//! Guests' ends of links, over unix sockets as QEMU offers them: the same session as in the agent.

use super::runtime;
use coms_protocol::guest_to_host::{GuestHello, Ping};
use coms_protocol::session::{Epoch, Event, Now, Session};
use coms_protocol::types::{List, Text};
use coms_protocol::{Guest, HostToGuest};
use coms_story::Result;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// A listener or a link for each of 10,000 guests, and a few.
const DESCRIPTORS: u64 = 11_000;

/// As many descriptors as are needed. The hard limit is mostly above that; where it is not, root may raise it.
pub fn allow_descriptors() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let enough = maximum.map(|m| m.max(DESCRIPTORS));
    setrlimit(Resource::Nofile, Rlimit { current: enough, maximum: enough }).map_err(|e| {
        format!("{DESCRIPTORS} open files are needed, and `ulimit -Hn` is {maximum:?}: {e}").into()
    })
}

/// Says when all of them listen; then, for each line of its input, how many pings were answered so far.
pub fn run(dir: &Path, count: usize, pings: usize) -> Result<()> {
    allow_descriptors()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime()?, async {
        let answered = Rc::new(Cell::new(0));
        let begun = Instant::now();
        for number in 0..count {
            let listener = UnixListener::bind(dir.join(number.to_string()))?;
            let answered = answered.clone();
            tokio::task::spawn_local(async move {
                let accepted = listener.accept().await;
                // Two descriptors for each guest are more than a process may have in many places.
                drop(listener);
                match accepted {
                    Ok((stream, _)) => {
                        let epoch = Epoch(1 + number as u64);
                        let _ = talk(stream, epoch, begun, pings, &answered).await;
                    }
                    Err(e) => {
                        // Whoever waits for this guest would wait for ever.
                        eprintln!("coms-bench: guest {number}: accept: {e}");
                        std::process::exit(1);
                    }
                }
            });
        }
        println!("ready");
        let mut lines = BufReader::new(tokio::net::unix::pipe::Receiver::from_owned_fd(rustix::io::dup(
            std::io::stdin(),
        )?)?)
        .lines();
        while lines.next_line().await?.is_some() {
            println!("{}", answered.get());
        }
        Ok(())
    })
}

/// One link until it ends. Like the agent: acts first, then lets the session speak.
async fn talk(
    stream: UnixStream,
    epoch: Epoch,
    begun: Instant,
    pings: usize,
    answered: &Cell<u64>,
) -> std::io::Result<()> {
    let now = || Now {
        mono: begun.elapsed(),
        unix_us: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64,
    };
    let hello = GuestHello { agent: Text::clipped("coms-bench"), waiting: List::default() };
    let mut session: Session<Guest> = Session::new(epoch, &hello);
    session.link_up(now());
    let (mut next, mut outstanding) = (1, 0);
    let mut out = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        while session.is_established() && outstanding < pings {
            if session.send(Ping { number: next }.into()).is_err() {
                break;
            }
            next += 1;
            outstanding += 1;
        }
        session.poll_transmit(now(), 8192, &mut out);
        let wait =
            session.next_timeout().map_or(Duration::from_secs(60), |t| t.saturating_sub(begun.elapsed()));
        tokio::select! {
            ready = stream.writable(), if !out.is_empty() => {
                ready?;
                match stream.try_write(&out) {
                    Ok(n) => drop(out.drain(..n)),
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
            }
            ready = stream.readable() => {
                ready?;
                let read = match stream.try_read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(n) => n,
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
                    Err(e) => return Err(e),
                };
                let mut rest = &buffer[..read];
                while !rest.is_empty() {
                    let used = session.receive(now(), rest);
                    rest = &rest[used..];
                    while let Some(event) = session.poll_event() {
                        if let Event::Message(HostToGuest::Pong(_)) = event {
                            answered.set(answered.get() + 1);
                            outstanding -= 1;
                        }
                    }
                }
            }
            () = tokio::time::sleep(wait), if out.is_empty() => {}
        }
    }
}
