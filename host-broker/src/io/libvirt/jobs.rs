//! Questions about a domain's job: the only ones for which libvirtd asks QEMU itself.
//!
//! A QEMU that switches over does not answer until it is done, and over a link that breaks just then that is
//! minutes; everybody who asks hangs with it. So these questions have threads of their own, at most one
//! question per domain is open, and silence is an answer: the destination's libvirtd needs no QEMU to say what
//! it is, hence a domain that nobody answers for has a job that is not an arrival.

use super::calls::{Connection, Job};
use super::lane::{Lane, lock};
use crate::hypervisor::{HvError, JobFigures};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// An answer takes 1-5 ms.
const KIND_WITHIN: Duration = Duration::from_millis(300);
const FIGURES_WITHIN: Duration = Duration::from_secs(1);

pub(super) struct Jobs {
    lane: Lane,
    /// Held while a question about the domain is open, by the thread that asks.
    turns: Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>>,
}

impl Jobs {
    pub(super) fn new(lane: Lane) -> Jobs {
        Jobs { lane, turns: Mutex::default() }
    }

    /// What runs on the domain, as far as can be told in a moment.
    pub(super) async fn kind(&self, uuid: Uuid) -> Job {
        match self.ask("look at job", uuid, KIND_WITHIN, Connection::job_kind).await {
            Ok(kind) => kind,
            Err(HvError::NoDomain { .. }) => Job::None,
            Err(
                HvError::Busy { .. }
                | HvError::Unreachable { .. }
                | HvError::Refused { .. }
                | HvError::RefusedThere { .. }
                | HvError::NotEncrypted { .. }
                | HvError::Aborted { .. }
                | HvError::Other { .. },
            ) => Job::Outgoing,
        }
    }

    pub(super) async fn figures(&self, uuid: Uuid) -> Result<Option<JobFigures>, HvError> {
        self.ask("read job", uuid, FIGURES_WITHIN, Connection::job).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        operation: &'static str,
        uuid: Uuid,
        within: Duration,
        question: fn(&Connection, Uuid) -> Result<T, HvError>,
    ) -> Result<T, HvError> {
        let silent = || HvError::Busy { operation, detail: "its QEMU does not answer".to_owned() };
        let until = Instant::now() + within;
        let Ok(turn) = timeout_at(until, self.turn(uuid).lock_owned()).await else { return Err(silent()) };
        let call = self.lane.call(operation, move |c| {
            // Given back when the thread is done, however early the caller gave up.
            let _turn = &turn;
            question(c, uuid)
        });
        timeout_at(until, call).await.unwrap_or_else(|_| Err(silent()))
    }

    fn turn(&self, uuid: Uuid) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.turns);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(uuid).or_default().clone()
    }
}
