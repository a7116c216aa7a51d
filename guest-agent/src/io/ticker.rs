//! Notices delays inside the guest while a migration is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const TICK: Duration = Duration::from_millis(5);

/// A running ticker; ends when dropped.
pub(super) struct Ticker {
    task: JoinHandle<()>,
    worst_us: Arc<AtomicU64>,
}

impl Ticker {
    pub(super) fn start() -> Self {
        let worst_us = Arc::new(AtomicU64::new(0));
        let shared = Arc::clone(&worst_us);
        let task = tokio::spawn(async move {
            loop {
                let due = Instant::now() + TICK;
                tokio::time::sleep_until(due).await;
                let late = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                shared.fetch_max(late, Ordering::Relaxed);
            }
        });
        Self { task, worst_us }
    }

    /// Worst delay beyond a tick's due time.
    pub(super) fn worst(&self) -> Duration {
        Duration::from_micros(self.worst_us.load(Ordering::Relaxed))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.task.abort();
    }
}
