//! Measures workloads: one task each, one probe at a time. A probe that takes longer than its interval makes
//! the next ones fall out; they do not pile up.
//!
//! Plugins are not measured here: coms-plugins runs them outside the agent's sandbox, and reports on the socket.

use super::http;
use super::program::{self, Given, Trouble};
use crate::config::{Address, Probe, Workload};
use crate::event::{Event, Sample};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// What measures. Ends when dropped, in the middle of a probe if need be, and what it said last is lost with it.
pub(super) struct Probes {
    _tasks: JoinSet<()>,
    samples: mpsc::Receiver<Event>,
}

impl Probes {
    /// The next result.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.samples.recv().await
    }
}

/// Begins to measure.
pub(super) fn start(workloads: &[Workload]) -> Probes {
    let (to, samples) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    for (index, workload) in workloads.iter().cloned().enumerate() {
        if let Probe::Plugin(_) = workload.probe {
            continue;
        }
        let to = to.clone();
        tasks.spawn(async move {
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
    Probes { _tasks: tasks, samples }
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
        Probe::Plugin(name) => Err(format!("plugin {name} is measured by coms-plugins, not from here")),
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

async fn run(argv: &[String], limit: Duration) -> Result<(), String> {
    let name = argv.first().map_or("", String::as_str);
    match program::run(argv, Given::Nothing, limit).await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name}: {status}")),
        Err(Trouble::Start(e)) => Err(format!("cannot start {name}: {e}")),
        Err(Trouble::Wait(e)) => Err(format!("{name}: {e}")),
        Err(Trouble::TimedOut) => Err(timed_out(limit)),
    }
}
