//! Long-running plugins: read in their own time, but no more than they may say; begun again when they end.

use super::check::{REST, not_waited_for, read};
use super::now;
use super::process::{Running, start};
use super::runner::{Of, stopped};
use crate::config::Execd;
use crate::contract::{self, MAX_LINE};
use crate::decide;
use crate::decide::bounds::{
    BYTES_PER_S, BYTES_SAVED, Backoff, Budget, COMPLAINTS_PER_S, COMPLAINTS_SAVED, LINES_PER_S, LINES_SAVED,
    Line, Lines,
};
use crate::decide::desk::Event;
use crate::reading::{Problem, Reading, plain_bytes};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};

/// What waits for a plugin to read it; more is thrown away.
const MAX_UNREAD: usize = 64 * 1024;
/// Who closed its standard output has nothing more to say, and is given so long to end.
const AFTER_LAST_WORD: Duration = Duration::from_secs(5);
/// Longest line of standard error that is logged.
const MAX_COMPLAINT: usize = 1024;

pub(super) async fn run(of: &mut Of, execd: &Execd) {
    let mut backoff = Backoff::default();
    loop {
        let began = now();
        let Some(how) = life(of, execd).await else { return };
        let again_in = backoff.ended(now().saturating_sub(began));
        info!("plugin {} ended ({}); started again in {} s", of.plugin.name, how.what, again_in.as_secs());
        let failure = Reading::failure(&format!("the plugin ended: {}", how.what));
        of.say(Event::Ended { how, again_in }).await;
        of.reading(failure).await;
        let until = Instant::now() + again_in;
        loop {
            tokio::select! {
                () = stopped(&mut of.stop) => return,
                () = sleep_until(until) => break,
                // What it misses meanwhile it does not hear later.
                Some(_) = of.inbox.recv() => {}
            }
        }
    }
}

/// One life. None: it was told to stop.
async fn life(of: &mut Of, execd: &Execd) -> Option<Problem> {
    let started = start(&of.plugin.name, of.index, &execd.program, of.run_as, Stdio::piped(), &of.keeper);
    let mut running = match started {
        Ok(running) => running,
        Err(why) => return Some(why),
    };
    of.say(Event::Started).await;
    let how = talk(of, execd, &mut running).await;
    if how.is_none() {
        running.end(of.stop_within).await;
    }
    how
}

async fn talk(of: &mut Of, execd: &Execd, running: &mut Running) -> Option<Problem> {
    let (mut stdin, mut stdout, mut stderr) = running.streams();
    let (mut said, mut complaints) = (Words::new(MAX_LINE), Words::new(MAX_COMPLAINT));
    let mut unread: Vec<u8> = Vec::new();
    let mut budget = Budget::new(LINES_PER_S, LINES_SAVED, now());
    let mut logged = Budget::new(COMPLAINTS_PER_S, COMPLAINTS_SAVED, now());
    let mut collect = interval(of.plugin.interval);
    collect.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last_word: Option<Instant> = None;
    let mut over: Option<Problem> = None;
    let (mut buffer, mut errors) = ([0u8; 4096], [0u8; 1024]);
    loop {
        if over.is_some() && stdout.is_none() && stderr.is_none() {
            return over;
        }
        let far = Instant::now() + Duration::from_secs(3600);
        tokio::select! {
            () = stopped(&mut of.stop) => return None,
            n = said.more(&mut stdout, &mut buffer), if stdout.is_some() => {
                if n == 0 {
                    stdout = None;
                    last_word.get_or_insert_with(|| Instant::now() + AFTER_LAST_WORD);
                }
                let (mut many, mut long) = (0, 0);
                for line in said.take(&buffer[..n]) {
                    match line {
                        Line::TooLong => long += 1,
                        Line::Whole(_) if !budget.take(now()) => many += 1,
                        Line::Whole(line) => of.reading(contract::understand(&line)).await,
                    }
                }
                for (lines, why) in [(long, "lines of more than 8 KiB"), (many, "more than 10 lines a second")] {
                    if lines > 0 {
                        of.say(Event::Dropped { lines, why }).await;
                    }
                }
            }
            n = complaints.more(&mut stderr, &mut errors), if stderr.is_some() => {
                if n == 0 {
                    stderr = None;
                }
                for line in complaints.take(&errors[..n]) {
                    if logged.take(now()) {
                        let line = match line {
                            Line::Whole(line) => plain_bytes(&line),
                            Line::TooLong => "(a line too long to be told)".to_owned(),
                        };
                        warn!("plugin {}: {line}", of.plugin.name);
                    }
                }
            }
            Some(line) = of.inbox.recv() => {
                if unread.len() + line.len() < MAX_UNREAD {
                    unread.extend_from_slice(line.as_bytes());
                    unread.push(b'\n');
                }
            }
            _ = collect.tick(), if execd.collect => {
                // One that has not read the last question is not asked again.
                if unread.is_empty() {
                    unread.push(b'\n');
                }
            }
            written = write(&mut stdin, &unread), if !unread.is_empty() => match written {
                Some(n) => {
                    unread.drain(..n);
                }
                None => {
                    stdin = None;
                    unread.clear();
                }
            },
            ended = running.wait(), if over.is_none() => {
                // What it said last is still in the pipe.
                over = Some(match ended {
                    Ok(status) => decide::check::ended(&status.to_string(), status.code()),
                    Err(e) => not_waited_for(&e),
                });
                last_word = Some(Instant::now() + REST);
            }
            () = sleep_until(last_word.unwrap_or(far)) => {
                if over.is_some() {
                    return over;
                }
                if last_word.is_some() {
                    running.kill().await;
                    return Some(decide::check::ended("it closed its standard output and did not end", None));
                }
            }
        }
    }
}

/// A stream of a stranger's, read no faster than it may be.
struct Words {
    lines: Lines,
    bytes: Budget,
    not_before: Instant,
}

impl Words {
    fn new(max_line: usize) -> Self {
        let bytes = Budget::new(BYTES_PER_S, BYTES_SAVED, now());
        Self { lines: Lines::new(max_line), bytes, not_before: Instant::now() }
    }

    /// Can be given up at any moment: what was read was returned.
    async fn more(&self, stream: &mut Option<impl tokio::io::AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
        sleep_until(self.not_before).await;
        read(stream, buffer).await
    }

    fn take(&mut self, bytes: &[u8]) -> Vec<Line> {
        self.not_before = Instant::now() + self.bytes.spend(now(), bytes.len() as f64);
        self.lines.push(bytes)
    }
}

/// None: it does not listen any more.
async fn write(stdin: &mut Option<ChildStdin>, bytes: &[u8]) -> Option<usize> {
    match stdin {
        Some(stdin) => stdin.write(bytes).await.ok().filter(|n| *n > 0),
        None => None,
    }
}
