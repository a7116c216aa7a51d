//! A few threads with a connection each, a bounded queue before them, and a deadline for whoever waits.
//!
//! libvirt's calls block, sometimes for good, and cannot be interrupted. So a caller waits only so long; the thread
//! is left where it is, counts as stuck until it returns, and when all threads of a lane are stuck, further calls
//! fail at once instead of piling up.

use super::calls::{Connection, internal};
use crate::hypervisor::HvError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Calls that may wait for a free thread.
const QUEUE: usize = 64;
/// A thread stuck this long past its deadline may be stuck for good (a host that vanished in mid-handshake sends
/// no reset): another takes its place ...
const REPLACE_AFTER: Duration = Duration::from_secs(120);
/// ... as long as no more than this many were given up.
const MAX_GIVEN_UP: usize = 4;

pub(super) const NOT_CONNECTED: &str = "not connected";

type Call = Box<dyn FnOnce(&mut Session) + Send>;

pub(super) struct Lane {
    name: String,
    uri: Arc<str>,
    deadline: Duration,
    /// While false nobody is asked: it is known that there is no answer.
    up: Arc<AtomicBool>,
    queue: SyncSender<Call>,
    shared: Arc<Shared>,
    workers: Mutex<Vec<Arc<Worker>>>,
}

struct Shared {
    epoch: Instant,
    calls: Mutex<Receiver<Call>>,
    given_up: AtomicUsize,
}

#[derive(Default)]
struct Worker {
    /// Milliseconds of the lane's epoch by which the call in hand should be done; 0: idle.
    busy_until: AtomicU64,
    /// Another thread has taken this one's place; it ends when its call returns.
    replaced: AtomicBool,
}

impl Lane {
    pub(super) fn new(
        name: &str,
        uri: &str,
        threads: usize,
        deadline: Duration,
        up: Arc<AtomicBool>,
    ) -> Lane {
        let (queue, calls) = sync_channel(QUEUE);
        let lane = Lane {
            name: name.to_owned(),
            uri: uri.into(),
            deadline,
            up,
            queue,
            shared: Arc::new(Shared {
                epoch: Instant::now(),
                calls: Mutex::new(calls),
                given_up: AtomicUsize::new(0),
            }),
            workers: Mutex::default(),
        };
        let workers = (0..threads).filter_map(|_| lane.hire()).collect();
        *lock(&lane.workers) = workers;
        lane
    }

    /// Runs `f` over a connection of this lane. `f` runs a second time, over a fresh connection, when the first
    /// turned out to be dead, so it must be harmless to repeat.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        f: impl Fn(&Connection) -> Result<T, HvError> + Send + 'static,
    ) -> Result<T, HvError> {
        if !self.up.load(Ordering::Acquire) {
            return Err(self.unreachable(operation, NOT_CONNECTED));
        }
        if !self.has_a_thread_left() {
            return Err(self.unreachable(operation, "still waiting for the previous call"));
        }
        let (reply, answer) = oneshot::channel();
        let call: Call = Box::new(move |session| {
            // Whoever asked has given up: they were told it did not happen, so it must not.
            if !reply.is_closed() {
                let _ = reply.send(session.run(&f));
            }
        });
        match self.queue.try_send(call) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(self.unreachable(operation, "too many calls wait")),
            Err(TrySendError::Disconnected(_)) => return Err(self.unreachable(operation, "no thread to ask")),
        }
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(internal(operation, "the thread that asked libvirt panicked".to_owned())),
            Err(_) => {
                let waited = format!("no answer within {:?}", self.deadline);
                Err(self.unreachable(operation, &waited))
            }
        }
    }

    fn unreachable(&self, operation: &'static str, detail: &str) -> HvError {
        HvError::Unreachable { operation, uri: self.uri.to_string(), detail: detail.to_owned() }
    }

    fn has_a_thread_left(&self) -> bool {
        let now = millis(self.shared.epoch);
        let mut workers = lock(&self.workers);
        let mut longest: Option<(u64, &mut Arc<Worker>)> = None;
        for worker in workers.iter_mut() {
            let until = worker.busy_until.load(Ordering::Acquire);
            if until == 0 || now <= until {
                return true;
            }
            if longest.as_ref().is_none_or(|(earliest, _)| until < *earliest) {
                longest = Some((until, worker));
            }
        }
        let Some((until, worker)) = longest else { return false };
        if now - until < REPLACE_AFTER.as_millis() as u64
            || self.shared.given_up.load(Ordering::Relaxed) >= MAX_GIVEN_UP
        {
            return false;
        }
        let Some(fresh) = self.hire() else { return false };
        self.shared.given_up.fetch_add(1, Ordering::Relaxed);
        worker.replaced.store(true, Ordering::Release);
        *worker = fresh;
        true
    }

    fn hire(&self) -> Option<Arc<Worker>> {
        let worker = Arc::new(Worker::default());
        let (me, shared, deadline) = (worker.clone(), self.shared.clone(), self.deadline);
        let mut session = Session { uri: self.uri.clone(), conn: None };
        let spawned = std::thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || work(&me, &shared, deadline, &mut session));
        match spawned {
            Ok(_) => Some(worker),
            Err(e) => {
                tracing::error!(lane = %self.name, error = %e, "no thread for libvirt calls");
                None
            }
        }
    }
}

fn work(me: &Worker, shared: &Shared, deadline: Duration, session: &mut Session) {
    while !me.replaced.load(Ordering::Acquire) {
        let Ok(call) = lock(&shared.calls).recv() else { return };
        let until =
            millis(shared.epoch).saturating_add(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        me.busy_until.store(until.max(1), Ordering::Release);
        if catch_unwind(AssertUnwindSafe(|| call(session))).is_err() {
            session.conn = None;
        }
        me.busy_until.store(0, Ordering::Release);
    }
    shared.given_up.fetch_sub(1, Ordering::Relaxed);
}

/// A connection that is opened when first needed, and again when it broke.
pub(super) struct Session {
    uri: Arc<str>,
    conn: Option<Connection>,
}

impl Session {
    fn run<T>(&mut self, f: &impl Fn(&Connection) -> Result<T, HvError>) -> Result<T, HvError> {
        // A connection can be dead without anybody knowing until it is used; a fresh one cannot.
        if let Some(conn) = self.conn.take().filter(Connection::alive) {
            let result = f(&conn);
            if conn.alive() {
                self.conn = Some(conn);
            }
            if self.conn.is_some() || !matches!(result, Err(HvError::Unreachable { .. })) {
                return result;
            }
        }
        let conn = Connection::open(&self.uri)?;
        let result = f(&conn);
        self.conn = Some(conn);
        result
    }
}

fn millis(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A panic elsewhere leaves nothing half-done under these locks.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::libvirt::keeper::start_event_loop;

    /// libvirt's own test driver: a hypervisor inside the process, no daemon.
    const URI: &str = "test:///default";
    const SOON: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_millis(1500);

    fn lane(threads: usize, up: bool) -> Lane {
        start_event_loop().unwrap();
        Lane::new("test", URI, threads, SOON, Arc::new(AtomicBool::new(up)))
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test)
    }

    async fn quick(lane: &Lane) -> Result<bool, HvError> {
        lane.call("look", |c| Ok(c.alive())).await
    }

    async fn slow(lane: &Lane) -> Result<(), HvError> {
        lane.call("look", |_| {
            std::thread::sleep(LONG);
            Ok(())
        })
        .await
    }

    fn detail(result: Result<impl Sized, HvError>) -> String {
        match result {
            Err(HvError::Unreachable { detail, .. }) => detail,
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("answered"),
        }
    }

    #[test]
    fn a_stuck_thread_is_waited_for_once_and_comes_back() {
        run(async {
            let lane = lane(1, true);
            assert_eq!(quick(&lane).await, Ok(true));
            assert_eq!(detail(slow(&lane).await), "no answer within 300ms");
            // The thread began a moment after its caller.
            tokio::time::sleep(SOON / 2).await;
            let asked = Instant::now();
            assert_eq!(detail(quick(&lane).await), "still waiting for the previous call");
            assert!(asked.elapsed() < SOON);
            tokio::time::sleep(LONG).await;
            assert_eq!(quick(&lane).await, Ok(true));
        });
    }

    #[test]
    fn one_stuck_thread_of_two_delays_nobody() {
        run(async {
            let lane = lane(2, true);
            detail(slow(&lane).await);
            assert_eq!(quick(&lane).await, Ok(true));
        });
    }

    #[test]
    fn a_call_given_up_in_the_queue_is_not_made() {
        run(async {
            let lane = lane(1, true);
            let made = Arc::new(AtomicBool::new(false));
            let mark = made.clone();
            let second = lane.call("change", move |_| {
                mark.store(true, Ordering::Release);
                Ok(())
            });
            let (first, second) = tokio::join!(slow(&lane), second);
            detail(first);
            detail(second);
            tokio::time::sleep(LONG).await;
            assert_eq!(quick(&lane).await, Ok(true));
            assert!(!made.load(Ordering::Acquire));
        });
    }

    #[test]
    fn a_panic_in_a_call_costs_that_call() {
        run(async {
            // What a panic prints, a backtrace perhaps, takes its time.
            start_event_loop().unwrap();
            let patient = 20 * LONG;
            let lane = Lane::new("test", URI, 1, patient, Arc::new(AtomicBool::new(true)));
            let result: Result<(), _> = lane.call("look", |_| panic!("in the call")).await;
            assert!(matches!(result, Err(HvError::Other { .. })));
            assert_eq!(quick(&lane).await, Ok(true));
        });
    }

    #[test]
    fn nobody_is_asked_while_not_connected() {
        run(async { assert_eq!(detail(quick(&lane(1, false)).await), NOT_CONNECTED) });
    }
}
