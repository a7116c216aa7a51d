//! Measures workloads: one task each, one probe at a time. A probe that takes longer than its interval makes
//! the next ones fall out; they do not pile up.
//!
//! The place for plugins of other kinds: one more [`Probe`], one more arm in [`measure`].

use super::http;
use crate::config::{Address, Probe, Workload};
use crate::event::{Event, Sample};
use rustix::process::{Pid, Signal, kill_process_group};
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Begins to measure. Ends when nobody listens any more.
pub(super) fn start(workloads: &[Workload], to: &mpsc::Sender<Event>) {
    for (index, workload) in workloads.iter().cloned().enumerate() {
        let to = to.clone();
        tokio::spawn(async move {
            let mut tick = interval(workload.interval);
            tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                tick.tick().await;
                let outcome = measure(&workload.probe, workload.timeout).await;
                if to.send(Event::Probe { workload: index, outcome }).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// One measurement, in at most `limit` (and the moment it takes to kill a command).
pub async fn measure(probe: &Probe, limit: Duration) -> Sample {
    let begun = Instant::now();
    let result = match probe {
        Probe::Http(target) => {
            within(limit, async {
                let mut stream = connect(&target.address).await?;
                http::get(&mut stream, target).await
            })
            .await
        }
        Probe::Tcp(address) => within(limit, async { connect(address).await.map(drop) }).await,
        Probe::Command(argv) => run(argv, limit).await,
    };
    match result {
        Ok(()) => Sample::Took(begun.elapsed()),
        Err(error) => Sample::Failed(error),
    }
}

async fn within(limit: Duration, probe: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    timeout(limit, probe).await.unwrap_or_else(|_| Err(timed_out(limit)))
}

fn timed_out(limit: Duration) -> String {
    format!("no answer within {} ms", limit.as_millis())
}

async fn connect(to: &Address) -> Result<TcpStream, String> {
    let mut error = String::new();
    for address in &to.0 {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(e) => error = format!("cannot connect to {address}: {e}"),
        }
    }
    Err(error)
}

/// Runs a program in a process group of its own; at the time limit the group dies, children included.
async fn run(argv: &[String], limit: Duration) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else { return Err("no program".to_owned()) };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("cannot start {program}: {e}"))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    match timeout(limit, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{program}: {status}")),
        Ok(Err(e)) => Err(format!("{program}: {e}")),
        Err(_) => {
            if let Some(group) = group {
                // Not reaped yet, so its number is still its own. Gone already is as good.
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait().await;
            Err(timed_out(limit))
        }
    }
}
