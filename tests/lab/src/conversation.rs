//! TCP connections that stay open: each sends some bytes to a guest's echo port and waits for them, over and over.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{client::Client, error::Result, guest_spec::ECHO_PORT};

/// An answer may take so long: as much as a connection through a move of the lab's could need.
const ANSWER: Duration = Duration::from_secs(60);

/// How much is said.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    /// Bytes each way.
    pub bytes: usize,
    /// From one answer to the next question.
    pub pause: Duration,
}

/// What one connection has seen.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The client's address.
    pub from: Ipv4Addr,
    /// When each answer was there, and how long it took.
    pub answers: Vec<(Instant, Duration)>,
    /// Why it ended, if it did. Nobody opens it again.
    pub broke: Option<String>,
}

/// Conversations of one client, until dropped.
#[derive(Debug)]
pub struct Conversations {
    all: Vec<Arc<Mutex<Conversation>>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Conversations {
    /// Opens a connection from each address; fails if one does not open.
    pub(crate) fn start(
        client: &Client,
        guest: Ipv4Addr,
        from: &[Ipv4Addr],
        talk: Talk,
    ) -> Result<Conversations> {
        let over = Arc::new(AtomicBool::new(false));
        let mut conversations = Conversations { all: Vec::new(), over, threads: Vec::new() };
        for address in from {
            let stream =
                client.connect_from(*address, (guest, ECHO_PORT).into(), Duration::from_secs(20), None)?;
            let seen = Conversation { from: *address, answers: Vec::new(), broke: None };
            let seen = Arc::new(Mutex::new(seen));
            conversations.all.push(Arc::clone(&seen));
            let over = Arc::clone(&conversations.over);
            conversations.threads.push(thread::spawn(move || {
                if let Err(error) = converse(stream, talk, &seen, &over) {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).broke = Some(error.to_string());
                }
            }));
        }
        Ok(conversations)
    }

    /// What each has seen so far.
    pub fn seen(&self) -> Vec<Conversation> {
        self.all.iter().map(|seen| seen.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// How many connections have had an answer since then, each still the one that was opened first.
    pub fn alive_since(&self, since: Instant) -> usize {
        let lives = |seen: &Conversation| {
            seen.broke.is_none() && seen.answers.last().is_some_and(|(at, _)| *at >= since)
        };
        self.seen().iter().filter(|seen| lives(seen)).count()
    }

    /// The median of the times from question to answer since then.
    pub fn median_since(&self, since: Instant) -> Option<Duration> {
        let mut took: Vec<Duration> = self
            .seen()
            .iter()
            .flat_map(|seen| seen.answers.clone())
            .filter(|(at, _)| *at >= since)
            .map(|(_, took)| took)
            .collect();
        took.sort_unstable();
        took.get(took.len() / 2).copied()
    }
}

impl Drop for Conversations {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn converse(
    mut stream: TcpStream,
    talk: Talk,
    seen: &Mutex<Conversation>,
    over: &AtomicBool,
) -> io::Result<()> {
    let look = Duration::from_millis(500);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(look))?;
    let question = vec![b'?'; talk.bytes];
    let mut answer = vec![0; talk.bytes];
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        stream.write_all(&question)?;
        let mut read = 0;
        while read < answer.len() {
            match stream.read(&mut answer[read..]) {
                Ok(0) => return Err(io::Error::other("the guest closed it")),
                Ok(more) => read += more,
                Err(error)
                    if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) =>
                {
                    if over.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    if asked.elapsed() > ANSWER {
                        return Err(io::Error::other(format!("no answer for {ANSWER:?}")));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let now = Instant::now();
        seen.lock().unwrap_or_else(PoisonError::into_inner).answers.push((now, now - asked));
        thread::sleep(talk.pause);
    }
    Ok(())
}
