//! The one door to the hypervisor: libvirt, in the words of `crate::hypervisor`.
//!
//! ```text
//!  tokio                 OS threads, each with its own connection
//!  Libvirt::domain() ──> queries (3)      look, sample
//!         ::job()    ──> jobs (4)         what only QEMU can tell
//!         ::abort()  ──> control (4)      abort, allowed downtime: must get through while a migration runs
//!         ::set_…()  ──> changes (2)      ticket, autostart: libvirt may hold these for 30 s
//!         ::migrate()──> one thread per migration, for as long as it takes
//!         ::…disks() ──> storage (1), and one of each remote host: pools are read anew, which takes its time
//!         ::sample() ──> one thread per remote host, so that a hung one delays nobody
//!  HvEvent <──────────── keeper (1) and libvirt's event loop (1)
//! ```
//! libvirt admits five requests at once per connection and a migration holds one throughout, hence the many
//! connections. Nothing here decides anything. `unsafe` is in `ffi` and nowhere else.

mod calls;
mod errors;
mod events;
mod ffi;
mod figures;
mod jobs;
mod keeper;
mod lane;
mod storage;
mod xml;
mod yank;

use crate::hypervisor::{
    Domain, DomainState, HostSample, HvError, HvEvent, JobFigures, Mark, MigrateSpec, Needs, Part,
};
use crate::storage::{Copy, MakeError, Question, Refusal, RefusalKind, Removal, View};
use calls::{Connection, internal};
use events::Tracker;
use jobs::Jobs;
use lane::{Lane, lock};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;
pub use xml::target_dir as pool_directory;

/// The local libvirtd is on the same machine: what takes longer is stuck.
const QUERY_DEADLINE: Duration = Duration::from_secs(15);
/// libvirt waits 30 s for a domain's lock before it says so; its answer says more than our giving up.
const CHANGE_DEADLINE: Duration = Duration::from_secs(35);
/// The first question for its capabilities makes a libvirtd probe its QEMUs: 4 s on a small machine.
const REMOTE_DEADLINE: Duration = Duration::from_secs(10);
/// Pools are read anew, images made and removed.
const STORAGE_DEADLINE: Duration = Duration::from_secs(60);
/// How long "this host can run that" is taken as still true.
const CAN_RUN_FOR: Duration = Duration::from_secs(60);

/// A handle on the local libvirt and, by URI, on those of other hosts. Cheap to clone.
///
/// The calls need a tokio runtime with its timer enabled, and block none of its threads.
#[derive(Clone)]
pub struct Libvirt {
    inner: Arc<Inner>,
}

struct Inner {
    uri: Arc<str>,
    /// Whether the keeper's connection to the local libvirtd holds.
    up: Arc<AtomicBool>,
    tracker: Arc<Mutex<Tracker>>,
    queries: Lane,
    jobs: Jobs,
    control: Lane,
    changes: Lane,
    storage: Lane,
    /// One lane per URI that was ever asked; URIs come from the operator's configuration only.
    remotes: Remotes,
    /// The same for what may take long.
    remote_storage: Remotes,
    can_run: Mutex<HashMap<(String, Needs), Instant>>,
}

type Remotes = Mutex<HashMap<String, Arc<Lane>>>;

impl Inner {
    fn note(&self, domain: &Domain) {
        if domain.state == DomainState::Incoming {
            lock(&self.tracker).known_incoming(domain.uuid);
        }
    }
}

impl Libvirt {
    /// Starts libvirt's event loop and the keeper of the local connection, whether or not libvirtd runs.
    ///
    /// Events go to `tx`: [`HvEvent::Connected`] whenever the connection is up, and [`HvEvent::Disconnected`]
    /// once when it breaks or cannot be made at first. The keeper ends when the receiver is dropped.
    pub fn start(local_uri: &str, tx: mpsc::UnboundedSender<HvEvent>) -> Libvirt {
        let up = Arc::new(AtomicBool::new(false));
        let tracker = Arc::new(Mutex::new(Tracker::default()));
        let started = keeper::start_event_loop().and_then(|()| {
            keeper::start(local_uri, tx.clone(), up.clone(), tracker.clone()).map_err(|e| e.to_string())
        });
        if let Err(detail) = started {
            tracing::error!(detail, "no events from libvirt");
            let _ = tx.send(HvEvent::Disconnected { detail });
        }
        let lane = |name, threads, deadline| Lane::new(name, local_uri, threads, deadline, up.clone());
        Libvirt {
            inner: Arc::new(Inner {
                uri: local_uri.into(),
                tracker,
                jobs: Jobs::new(lane("libvirt job", 4, QUERY_DEADLINE)),
                queries: lane("libvirt query", 3, QUERY_DEADLINE),
                control: lane("libvirt control", 4, CHANGE_DEADLINE),
                changes: lane("libvirt change", 2, CHANGE_DEADLINE),
                storage: lane("libvirt storage", 1, STORAGE_DEADLINE),
                up,
                remotes: Mutex::default(),
                remote_storage: Mutex::default(),
                can_run: Mutex::default(),
            }),
        }
    }

    /// All domains of this host, running or only defined.
    pub async fn domains(&self) -> Result<Vec<Domain>, HvError> {
        let mut jobs = HashMap::new();
        for uuid in self.inner.queries.call("list domains", Connection::active).await? {
            jobs.insert(uuid, self.inner.jobs.kind(uuid).await);
        }
        let domains = self.inner.queries.call("list domains", move |c| c.domains(&jobs)).await?;
        domains.iter().for_each(|domain| self.inner.note(domain));
        Ok(domains)
    }

    /// One domain of this host.
    pub async fn domain(&self, uuid: Uuid) -> Result<Domain, HvError> {
        let job = self.inner.jobs.kind(uuid).await;
        let domain = self.inner.queries.call("look at domain", move |c| c.domain(uuid, job)).await?;
        self.inner.note(&domain);
        Ok(domain)
    }

    /// Stores the ticket in the running domain, or removes it. While the domain migrates, libvirt refuses after
    /// 30 s ([`HvError::Busy`]). Given up here before libvirt answered ([`HvError::Unreachable`]), the change may
    /// still happen, once the migration has ended.
    pub async fn set_ticket(&self, uuid: Uuid, xml: Option<String>) -> Result<(), HvError> {
        self.inner.changes.call("set ticket", move |c| c.set_ticket(uuid, xml.as_deref())).await
    }

    /// The same for the schedule of random moves.
    pub async fn set_schedule(&self, uuid: Uuid, xml: Option<String>) -> Result<(), HvError> {
        self.inner.changes.call("set schedule", move |c| c.set_schedule(uuid, xml.as_deref())).await
    }

    /// The same for the seal.
    pub async fn set_seal(&self, uuid: Uuid, xml: Option<String>) -> Result<(), HvError> {
        self.inner.changes.call("set seal", move |c| c.set_seal(uuid, xml.as_deref())).await
    }

    /// Gives the domain our port and the permission to take part, or takes both away. Not while a job runs on it:
    /// libvirt would take 30 s to refuse.
    pub async fn set_part(&self, uuid: Uuid, on: bool) -> Result<Part, HvError> {
        const OP: &str = "let take part";
        match self.inner.jobs.kind(uuid).await {
            calls::Job::None => {}
            calls::Job::Outgoing | calls::Job::Incoming => {
                let detail = "it is being moved, or another job runs on it".to_owned();
                return Err(HvError::Busy { operation: OP, detail });
            }
        }
        self.inner.changes.call(OP, move |c| c.set_part(uuid, on)).await
    }

    /// Whether the domain starts with its host. A migration does not carry it along.
    pub async fn set_autostart(&self, uuid: Uuid, on: bool) -> Result<(), HvError> {
        self.inner.changes.call("set autostart", move |c| c.set_autostart(uuid, on)).await
    }

    /// Aborts whatever job runs on the domain; only at the source of a migration (at the destination libvirt waits
    /// 30 s and is [`HvError::Busy`]). Returns when libvirt was told; the migrate call that it ends returns
    /// [`HvError::Aborted`] on its own, a second or two later. No job: [`HvError::Refused`].
    ///
    /// An aborted migration leaves neither a JOB_COMPLETED event nor completed figures at the source.
    pub async fn abort(&self, uuid: Uuid) -> Result<(), HvError> {
        self.inner.control.call("abort job", move |c| c.abort(uuid)).await
    }

    /// Has a source's QEMU give up its connections to the destination of a migration that copies disks (its `yank`). Without
    /// that an abort on a lost line ends nothing before TCP gives up (15 minutes), and once memory follows the disks it
    /// stops QEMU's main loop for as long: libvirt drops the copy's target, and QEMU flushes it first. To be called before the
    /// abort. libvirt marks the domain as tainted (custom-monitor). Returns how many.
    pub async fn cut_copies(&self, uuid: Uuid) -> Result<usize, HvError> {
        self.inner.control.call("give up connections", move |c| c.cut_copies(uuid)).await
    }

    /// Lets a paused domain run again. Never one that may run elsewhere.
    pub async fn resume(&self, uuid: Uuid) -> Result<(), HvError> {
        self.inner.changes.call("resume", move |c| c.resume(uuid)).await
    }

    /// Stops a domain's CPUs: one that runs elsewhere, too.
    pub async fn suspend(&self, uuid: Uuid) -> Result<(), HvError> {
        self.inner.changes.call("suspend", move |c| c.suspend(uuid)).await
    }

    /// Leaves this broker's sign of life where the other hosts' brokers see it.
    pub async fn set_mark(&self, mark: Mark) -> Result<(), HvError> {
        self.inner.queries.call("leave a mark", move |c| c.set_mark(&mark)).await
    }

    /// Takes it away: nobody should choose this host any more.
    pub async fn remove_mark(&self) -> Result<(), HvError> {
        self.inner.queries.call("remove the mark", Connection::remove_mark).await
    }

    /// Changes the allowed downtime of the running migration.
    pub async fn set_max_downtime(&self, uuid: Uuid, ms: u64) -> Result<(), HvError> {
        self.inner.control.call("set max downtime", move |c| c.set_max_downtime(uuid, ms)).await
    }

    /// Figures of the running job; its `downtime_ms` is what QEMU expects, not what was measured. None: no job, or
    /// this host is the destination, where libvirt has none. [`HvError::Busy`]: QEMU does not answer, as in a
    /// switch-over.
    pub async fn job(&self, uuid: Uuid) -> Result<Option<JobFigures>, HvError> {
        self.inner.jobs.figures(uuid).await
    }

    /// Figures of the last job, kept for the next reader. A restart of libvirtd forgets them.
    pub async fn completed_job(&self, uuid: Uuid) -> Result<Option<JobFigures>, HvError> {
        self.inner.queries.call("read completed job", move |c| c.completed_job(uuid)).await
    }

    /// A look at this host.
    pub async fn local_sample(&self) -> Result<HostSample, HvError> {
        self.inner.queries.call("sample host", Connection::sample).await
    }

    /// A look at another host.
    pub async fn sample(&self, uri: &str) -> Result<HostSample, HvError> {
        self.remote(uri).call("sample host", Connection::sample).await
    }

    /// Whether a host offers what the domain needs; [`HvError::Refused`] says what is missing. A yes is
    /// remembered for a minute.
    pub async fn can_run(&self, uri: &str, needs: &Needs) -> Result<(), HvError> {
        let key = (uri.to_owned(), needs.clone());
        let known = lock(&self.inner.can_run).get(&key).is_some_and(|at| at.elapsed() < CAN_RUN_FOR);
        if known {
            return Ok(());
        }
        let needs = needs.clone();
        self.remote(uri).call("ask for capabilities", move |c| c.can_run(&needs)).await?;
        let mut can_run = lock(&self.inner.can_run);
        can_run.retain(|_, at| at.elapsed() < CAN_RUN_FOR);
        can_run.insert(key, Instant::now());
        Ok(())
    }

    /// Whether another host has the domain, and what it does there.
    pub async fn domain_on(&self, uri: &str, uuid: Uuid) -> Result<Option<DomainState>, HvError> {
        self.remote(uri).call("look for domain", move |c| c.domain_on(uuid)).await
    }

    /// What a domain's disks and devices need: of this host where no URI is given, else of that one.
    pub async fn storage(
        &self,
        uri: Option<&str>,
        needs: &Needs,
        question: &Question,
    ) -> Result<View, HvError> {
        if question.is_empty() {
            return Ok(View::default());
        }
        let (needs, question) = (needs.clone(), question.clone());
        let look = move |c: &Connection| c.storage_view(&needs, &question);
        match uri {
            Some(uri) => self.remote_storage(uri).call("look at storage", look).await,
            None => self.inner.storage.call("look at storage", look).await,
        }
    }

    /// Makes empty images at another host: all, or none if the error is not unsure.
    pub async fn make_disks(&self, uri: &str, copies: Vec<Copy>) -> Result<(), MakeError> {
        const OP: &str = "make images";
        let made = self.remote_storage(uri).call(OP, move |c| Ok(c.make_images(&copies))).await;
        made.unwrap_or_else(|e| {
            // Else it may have begun.
            let unsure = !matches!(e, HvError::Unreachable { operation: "connect", .. });
            Err(MakeError { refusal: Refusal { kind: RefusalKind::NotKnown, detail: e.to_string() }, unsure })
        })
    }

    /// Removes them there again; not where a VM has them.
    pub async fn remove_disks(&self, uri: &str, vm: Uuid, copies: Vec<Copy>) -> Result<Removal, HvError> {
        self.remote_storage(uri).call("remove images", move |c| c.remove_copies(vm, &copies)).await
    }

    /// Removes the images here of a domain that has gone to another host; refused unless it is seen to run there.
    pub async fn remove_source(&self, uri: &str, vm: Uuid, copies: Vec<Copy>) -> Result<(), HvError> {
        const OP: &str = "remove images";
        if !self.domain_on(uri, vm).await?.is_some_and(DomainState::runs) {
            return Err(HvError::Refused { operation: OP, detail: "the VM does not run there".to_owned() });
        }
        match self.inner.storage.call(OP, move |c| c.remove_originals(vm, &copies)).await? {
            Removal::Gone => Ok(()),
            Removal::InUse(detail) => Err(HvError::Refused { operation: OP, detail }),
        }
    }

    /// Migrates, and returns when libvirt's call does: about a second after the guest runs at the destination.
    /// Dropping the future changes nothing; [`Libvirt::abort`] ends a migration.
    ///
    /// [`HvError::Unreachable`] naming the *local* URI after the migration began means that its outcome is not
    /// known here: libvirtd went away in the middle. Look at both hosts.
    pub async fn migrate(&self, spec: MigrateSpec) -> Result<(), HvError> {
        const OP: &str = "migrate";
        let uri = self.inner.uri.clone();
        let unreachable =
            |detail: String| HvError::Unreachable { operation: OP, uri: uri.to_string(), detail };
        if !self.inner.up.load(Ordering::Acquire) {
            return Err(unreachable(lane::NOT_CONNECTED.to_owned()));
        }
        let stage = Arc::new(AtomicU8::new(PREPARING));
        let (reply, mut answer) = oneshot::channel();
        {
            let (uri, stage) = (uri.clone(), stage.clone());
            std::thread::Builder::new()
                .name("libvirt migrate".to_owned())
                .spawn(move || {
                    let moved = catch_unwind(AssertUnwindSafe(|| migrate(&uri, &stage, &spec)));
                    let _ = reply.send(moved.unwrap_or_else(|_| Err(internal(OP, "panicked".to_owned()))));
                })
                .map_err(|e| unreachable(e.to_string()))?;
        }
        // Only what comes before the migration has a deadline, and whichever side is first decides whether it
        // begins: it never does after the caller was told that it did not.
        let result = match tokio::time::timeout(QUERY_DEADLINE, &mut answer).await {
            Ok(result) => result,
            Err(_) if exchange(&stage, PREPARING, GIVEN_UP) => {
                return Err(unreachable(format!("no answer within {QUERY_DEADLINE:?}")));
            }
            Err(_) => answer.await,
        };
        result.unwrap_or_else(|_| Err(internal(OP, "its thread ended without a word".to_owned())))
    }

    fn remote(&self, uri: &str) -> Arc<Lane> {
        lane_of(&self.inner.remotes, uri, "libvirt remote", REMOTE_DEADLINE)
    }

    fn remote_storage(&self, uri: &str) -> Arc<Lane> {
        lane_of(&self.inner.remote_storage, uri, "libvirt storage", STORAGE_DEADLINE)
    }
}

fn lane_of(remotes: &Remotes, uri: &str, name: &str, deadline: Duration) -> Arc<Lane> {
    let mut remotes = lock(remotes);
    if let Some(lane) = remotes.get(uri) {
        return lane.clone();
    }
    // Nobody keeps a connection to other hosts: they are asked to find out.
    let up = Arc::new(AtomicBool::new(true));
    let lane = Arc::new(Lane::new(name, uri, 1, deadline, up));
    remotes.insert(uri.to_owned(), lane.clone());
    lane
}

const PREPARING: u8 = 0;
const BEGUN: u8 = 1;
const GIVEN_UP: u8 = 2;

fn exchange(stage: &AtomicU8, from: u8, to: u8) -> bool {
    stage.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

fn migrate(uri: &Arc<str>, stage: &AtomicU8, spec: &MigrateSpec) -> Result<(), HvError> {
    let connection = Connection::open(uri)?;
    let dom = connection.migrating(spec)?;
    if !exchange(stage, PREPARING, BEGUN) {
        return Err(internal("migrate", "given up before it began".to_owned()));
    }
    let begun = Instant::now();
    let moved = connection.migrate(&dom, spec);
    // `make bench` compares this figure with that of the same call without a broker.
    tracing::debug!(guest = %spec.uuid, call_us = begun.elapsed().as_micros() as u64, "migrate call returned");
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test)
    }

    /// libvirt's own test driver knows domains, metadata and lifecycle events, but no jobs and no migration.
    #[test]
    fn connects_and_looks() {
        run(async {
            let (tx, mut rx) = mpsc::unbounded_channel();
            let libvirt = Libvirt::start("test:///default", tx);
            assert_eq!(rx.recv().await, Some(HvEvent::Connected));
            let domains = libvirt.domains().await.unwrap();
            // Another test defines one beside it.
            let domain = domains.iter().find(|d| d.name == "test").unwrap();
            assert_eq!(domain.state, DomainState::Running { arrived: false });
            assert_eq!((domain.needs.virt_type.as_str(), &domain.channel), ("test", &None));
            assert_eq!(libvirt.local_sample().await.unwrap().domains[0].uuid, domain.uuid);
            let nobody = libvirt.domain(Uuid::from_u128(1)).await;
            assert!(matches!(nobody, Err(HvError::NoDomain { .. })), "{nobody:?}");
        });
    }

    #[test]
    fn says_once_that_libvirtd_is_not_there_and_fails_calls_at_once() {
        run(async {
            let (tx, mut rx) = mpsc::unbounded_channel();
            let libvirt = Libvirt::start("qemu:///system?socket=/nonexistent/libvirt-sock", tx);
            assert!(matches!(rx.recv().await, Some(HvEvent::Disconnected { .. })));
            assert!(matches!(libvirt.domains().await, Err(HvError::Unreachable { .. })));
            let again = tokio::time::timeout(Duration::from_secs(1), rx.recv()).await;
            assert!(again.is_err(), "{again:?}");
        });
    }
}
