//! Nagios checks: one run each interval. One that takes longer than its interval makes the next ones fall out.

use super::process::{Running, start};
use super::runner::{Of, stopped};
use crate::config::Check;
use crate::decide::bounds::MAX_OUTPUT;
use crate::decide::check::{Exit, understand};
use crate::reading::{Problem, Reading, plain_bytes};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

/// What is left in the pipe when it ends is there; who holds the pipe open longer is not waited for.
pub(super) const REST: Duration = Duration::from_millis(200);
/// What is kept of standard error.
const ERRORS: usize = 1024;
/// So that checks with one interval do not all begin at once.
const APART: Duration = Duration::from_millis(50);

pub(super) async fn run(of: &mut Of, check: &Check) {
    let first = Instant::now() + APART * u32::try_from(of.index).unwrap_or(0);
    let mut tick = interval_at(first, of.plugin.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = stopped(&mut of.stop) => return,
            _ = tick.tick() => {}
        }
        let mut stop = of.stop.clone();
        let reading = tokio::select! {
            // Dropped in the middle, it is killed.
            () = stopped(&mut stop) => return,
            reading = once(of, check) => reading,
        };
        of.reading(reading).await;
    }
}

/// One run.
async fn once(of: &Of, check: &Check) -> Reading {
    let started = start(&of.plugin.name, of.index, &check.program, of.run_as, Stdio::null(), &of.keeper);
    match started {
        Ok(running) => {
            let ended = follow(running, check.timeout).await;
            let mut reading = understand(&ended.exit, &ended.out, ended.cut, &check.figures);
            if reading.failed.is_some() && !ended.err.is_empty() {
                let said = plain_bytes(&ended.err);
                reading.problems.push(Problem::new(
                    format!("on standard error it said: {said}"),
                    "run it by hand as its user: sudo -u USER COMMAND",
                ));
            }
            reading
        }
        Err(why) => understand(&Exit::NotStarted(why), b"", false, &check.figures),
    }
}

struct Ended {
    exit: Exit,
    out: Vec<u8>,
    err: Vec<u8>,
    cut: bool,
}

async fn follow(mut running: Running, limit: Duration) -> Ended {
    let (_, mut stdout, mut stderr) = running.streams();
    let (mut out, mut err) = (vec![0; 0], vec![0; 0]);
    let mut until = Instant::now() + limit;
    let mut status: Option<ExitStatus> = None;
    let (mut buffer, mut errors) = ([0u8; 4096], [0u8; 1024]);
    let (cut, timed_out) = loop {
        if status.is_some() && stdout.is_none() && stderr.is_none() {
            break (false, false);
        }
        tokio::select! {
            n = read(&mut stdout, &mut buffer), if stdout.is_some() => match n {
                0 => stdout = None,
                n if out.len() + n > MAX_OUTPUT => break (true, false),
                n => out.extend_from_slice(&buffer[..n]),
            },
            n = read(&mut stderr, &mut errors), if stderr.is_some() => match n {
                0 => stderr = None,
                // Read on, so that it does not wait for us; at most as much as it may print in all.
                n => err.extend_from_slice(&errors[..n.min(ERRORS.saturating_sub(err.len()))]),
            },
            ended = running.wait(), if status.is_none() => match ended {
                Ok(ended) => {
                    status = Some(ended);
                    until = Instant::now() + REST;
                }
                Err(e) => {
                    let why = not_waited_for(&e);
                    return Ended { exit: Exit::NotStarted(why), out, err, cut: false };
                }
            },
            () = sleep_until(until) => break (false, status.is_none()),
        }
    };
    if status.is_none() {
        running.kill().await;
    }
    let exit = match status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(0)),
        },
        None if timed_out => Exit::TimedOut(limit),
        // It printed too much, and was ended for that.
        None => Exit::Signal(9),
    };
    Ended { exit, out, err, cut }
}

/// The kernel says nothing of its own child.
pub(super) fn not_waited_for(e: &std::io::Error) -> Problem {
    Problem::new(format!("it cannot be waited for: {e}"), "the kernel's log may say more: dmesg")
}

/// 0 at the end, and for a stream that is not there.
pub(super) async fn read(stream: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
    match stream {
        Some(stream) => stream.read(buffer).await.unwrap_or(0),
        None => 0,
    }
}
