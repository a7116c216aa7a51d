//! Starts what was decided. Each action is a task of its own; its result comes back as an event.

use super::certificate;
use super::control_socket::Callers;
use super::event_loop::Clock;
use super::guest_links::Links;
use super::libvirt::Libvirt;
use super::link;
use super::log_limit::LogLimit;
use super::migration_link;
use super::peer::{Doors, GROUPS};
use super::samplers::Samplers;
use super::state::State;
use super::step;
use crate::action::{Action, Level};
use crate::certificates::installed;
use crate::config::{Config, ConfigError};
use crate::event::{Answer, Elsewhere, Event};
use crate::hypervisor::{DomainState, HvError, JobFigures, Mark, MigrateSpec, Needs};
use crate::storage::{Copy, MakeError, Question, Refusal, RefusalKind};
use coms_protocol::types::MigrationId;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};
use uuid::Uuid;

const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// How often a running job is asked how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// libvirt hands out a completed job's figures at the destination a moment after Finish.
const FIGURES_TRIES: u32 = 8;
const FIGURES_EVERY: Duration = Duration::from_millis(40);

/// What it works with.
pub struct Given {
    pub libvirt: Libvirt,
    pub tx: mpsc::Sender<Event>,
    /// For what guests say.
    pub words: mpsc::Sender<Event>,
    pub callers: Callers,
    pub doors: watch::Sender<Doors>,
    /// The other brokers, and those of them that wait for an answer.
    pub pool: watch::Sender<link::Pool>,
    pub others: link::Waiting,
    pub state: State,
    /// The configuration.
    pub file: PathBuf,
}

pub struct Executor {
    libvirt: Libvirt,
    tx: mpsc::Sender<Event>,
    links: Links,
    callers: Callers,
    doors: watch::Sender<Doors>,
    pool: watch::Sender<link::Pool>,
    others: link::Waiting,
    measuring: link::OneAtATime,
    samplers: Samplers,
    state: State,
    /// The last note of images at destinations is on disk; why not, for the operator.
    disks_kept: Result<(), String>,
    file: PathBuf,
    me: String,
    /// Where the configuration says that QEMU's are.
    certificates: Option<PathBuf>,
    clock: Clock,
    log_limit: LogLimit,
}

impl Executor {
    pub fn new(given: Given, config: &Config) -> Self {
        let Given { libvirt, tx, words, callers, doors, pool, others, state, file } = given;
        let mut samplers = Samplers::new(libvirt.clone(), tx.clone());
        samplers.set(config);
        Self {
            links: Links::new(words, config.record_links.clone()),
            libvirt,
            tx,
            callers,
            doors,
            pool,
            others,
            measuring: link::OneAtATime::default(),
            samplers,
            state,
            disks_kept: Ok(()),
            file,
            me: config.me.name.clone(),
            certificates: config.encryption.certificates.clone(),
            clock: Clock::start(),
            log_limit: LogLimit::default(),
        }
    }

    pub fn start(&mut self, action: Action) {
        let libvirt = self.libvirt.clone();
        match action {
            Action::ListDomains => self.spawn(async move { Event::Domains(libvirt.domains().await) }),
            Action::Look { uuid } => {
                self.spawn(async move { Event::Domain { uuid, result: libvirt.domain(uuid).await } });
            }
            Action::SampleMe => {
                let host = self.me.clone();
                self.spawn(async move { Event::Sampled { host, result: libvirt.local_sample().await } });
            }
            Action::Attach { uuid, channel, hello } => self.links.attach(uuid, channel, &hello),
            Action::Detach { uuid } => self.links.detach(uuid),
            Action::Tell { uuid, message } => self.links.tell(uuid, message),
            Action::TellOnce { uuid, message } => self.links.tell_once(uuid, message),
            Action::Survey { uuid, migration, needs, hosts, storage, within } => {
                let me = self.me.clone();
                self.spawn(async move {
                    let look = async { libvirt.domain(uuid).await.map(Box::new) };
                    let asked = Asked { uuid, needs, storage: *storage, me };
                    let (domain, answers) = tokio::join!(look, survey(&libvirt, asked, hosts, within));
                    Event::Surveyed { uuid, migration, domain, answers }
                });
            }
            Action::MakeDisks { uuid, migration, uri, copies } => {
                let kept = self.disks_kept.clone();
                self.spawn(async move {
                    let result = make_disks(&libvirt, kept, &uri, copies).await;
                    Event::DisksMade { uuid, migration, result }
                });
            }
            Action::RemoveDisks { uuid, migration, uri, copies } => self.spawn(async move {
                let result = libvirt.remove_disks(&uri, uuid, copies).await;
                Event::DisksRemoved { uuid, migration, result }
            }),
            Action::RemoveSource { uuid, migration, uri, copies } => self.spawn(async move {
                let result = libvirt.remove_source(&uri, uuid, copies).await;
                Event::SourceRemoved { uuid, migration, result }
            }),
            Action::KeepDisks(all) => self.disks_kept = self.state.keep_disks(&all),
            Action::WriteTicket { uuid, migration, xml, seal } => self.spawn(async move {
                let result = match (libvirt.set_ticket(uuid, Some(xml)).await, seal) {
                    (Ok(()), Some(seal)) => libvirt.set_seal(uuid, Some(seal)).await,
                    (result, _) => result,
                };
                Event::TicketWritten { uuid, migration, result }
            }),
            Action::WriteSeal { uuid, xml } => self
                .spawn(async move { Event::SealWritten { uuid, result: libvirt.set_seal(uuid, xml).await } }),
            Action::ClearTicket { uuid } => {
                self.spawn(async move {
                    Event::TicketCleared { uuid, result: libvirt.set_ticket(uuid, None).await }
                });
            }
            Action::WriteSchedule { uuid, xml } => self.spawn(async move {
                Event::ScheduleWritten { uuid, result: libvirt.set_schedule(uuid, xml).await }
            }),
            Action::SetPart { caller, uuid, on } => self.spawn(async move {
                Event::PartSet { caller, uuid, on, result: libvirt.set_part(uuid, on).await }
            }),
            Action::Migrate { migration, spec } => {
                tokio::spawn(migrate(libvirt, self.tx.clone(), migration, spec));
            }
            Action::Watch { uuid, migration } => {
                tokio::spawn(watch(libvirt, self.tx.clone(), uuid, migration));
            }
            Action::Abort { uuid, cut } => {
                tokio::spawn(async move {
                    if cut {
                        match libvirt.cut_copies(uuid).await {
                            Ok(cut) => info!(guest = %uuid, "QEMU gave up {cut} connections"),
                            Err(e) => {
                                warn!(guest = %uuid, "QEMU keeps its connections, and may wait for TCP: {e}")
                            }
                        }
                    }
                    if let Err(e) = libvirt.abort(uuid).await {
                        warn!(guest = %uuid, "aborting: {e}");
                    }
                });
            }
            Action::FindElsewhere { uuid, hosts } => self.spawn(async move {
                let mut answers = Vec::new();
                for (host, uri) in hosts {
                    let answer = match libvirt.domain_on(&uri, uuid).await {
                        Ok(None) => Elsewhere::No,
                        Ok(Some(state)) if state.runs() => Elsewhere::Runs,
                        Ok(Some(DomainState::Incoming)) => Elsewhere::Coming,
                        Ok(Some(_)) => Elsewhere::Yes,
                        Err(e) => Elsewhere::NoAnswer(e.to_string()),
                    };
                    answers.push((host, answer));
                }
                Event::Elsewhere { uuid, answers }
            }),
            Action::Resume { uuid } => {
                self.spawn(async move { Event::Resumed { uuid, result: libvirt.resume(uuid).await } });
            }
            Action::Suspend { uuid } => {
                self.spawn(async move { Event::Resumed { uuid, result: libvirt.suspend(uuid).await } });
            }
            Action::Beat(mark) => {
                let dir = installed::directory(Path::new("/"), self.certificates.as_deref());
                let mark = Mark { tls: dir.and_then(|dir| certificate::installed(&dir)), ..mark };
                self.spawn(async move { Event::Marked(libvirt.set_mark(mark).await) });
            }
            Action::Measure { uuid, migration, host, link } => {
                let (pool, turn) = (self.pool.borrow().clone(), self.measuring.clone());
                self.spawn(async move {
                    let result = link::measure(&pool, &host, link, turn).await;
                    Event::Measured { uuid, migration, host, result }
                });
            }
            Action::LookAtLink { interface, to } => self.spawn(async move {
                let looked = tokio::task::spawn_blocking(move || migration_link::look(&interface, &to)).await;
                let told = looked.map_err(|e| e.to_string()).and_then(|told| told.map_err(|e| e.to_string()));
                Event::MigrationLink(told.map(Box::new))
            }),
            Action::NetworkStep { verb, input, command, limit } => self.spawn(async move {
                let uuid = input.vm;
                Event::StepDone { uuid, verb, result: step::run(&command, verb, &input, limit).await }
            }),
            Action::AskPeer { host, link, ask } => {
                let pool = self.pool.borrow().clone();
                self.spawn(async move {
                    let result = link::ask(&pool, &host, link, &ask).await;
                    Event::PeerAnswered { ask, result }
                });
            }
            Action::AnswerPeer { caller, result } => self.others.answer(caller, result),
            Action::KeepStretches(all) => self.state.keep_stretches(&all),
            Action::KeepPaused(paused) => self.state.keep_paused(paused),
            Action::KeepAnnounced(announced) => self.state.keep_announced(&announced),
            Action::KeepStays(stays) => self.state.keep_stays(&stays),
            Action::FetchFigures { uuid, migration } => self.spawn(async move {
                Event::Figures {
                    uuid,
                    migration,
                    figures: completed_figures(&libvirt, uuid).await.map(Box::new),
                }
            }),
            Action::SetAutostart { uuid } => {
                tokio::spawn(async move {
                    if let Err(e) = libvirt.set_autostart(uuid, true).await {
                        warn!(guest = %uuid, "autostart is lost: {e}; set it again with virsh autostart");
                    }
                });
            }
            Action::ReadConfig { caller } => {
                let config = read_config(&self.file);
                self.spawn(async move { Event::Reloaded { caller, config } });
            }
            Action::Configure(config) => {
                self.certificates.clone_from(&config.encryption.certificates);
                self.samplers.set(&config);
                let key = self.state.alias_key.link_key();
                self.pool.send_replace(link::Pool::of(&config, key));
                self.doors.send_replace(Doors::new(&config.access, Path::new(GROUPS)));
            }
            Action::Greet { uuid, hello } => self.links.greet(uuid, hello),
            Action::Reply { caller, reply } => self.callers.reply(caller, &reply),
            Action::Record(record) => self.state.append(&record),
            Action::Log { level, guest, text } => {
                // Alarms are few by themselves: each is raised once.
                let limited = level != Level::Alarm;
                if let Some(guest) = guest
                    && limited
                    && !self.log_limit.admits(self.clock.mono(), guest)
                {
                    return;
                }
                let guest = guest.map(tracing::field::display);
                match level {
                    Level::Info => info!(guest, "{text}"),
                    Level::Warn => warn!(guest, "{text}"),
                    Level::Alarm => error!(guest, alarm = true, "{text}"),
                }
            }
        }
    }

    /// Says what the log does not show. For every turn of the loop.
    pub fn tell_left_out(&mut self) {
        for one in self.log_limit.left_out(self.clock.mono()) {
            let last_s = one.last.as_secs();
            info!(guest = %one.guest, "{} more lines about this guest were left out in the last {last_s} s", one.lines);
        }
    }

    /// On the way out: no other broker should choose this host any more. A libvirt that hangs is not waited for.
    /// With networks stretched the mark stays, for it says so to the hosts of this site; its age says that the broker is gone.
    pub async fn farewell(self, stretches: bool) {
        if stretches {
            return;
        }
        let removed = tokio::time::timeout(FAREWELL_LIMIT, self.libvirt.remove_mark()).await;
        if !matches!(removed, Ok(Ok(()))) {
            info!("the mark in libvirt stays; other hosts see by its age that this broker has gone");
        }
    }

    fn spawn(&self, work: impl Future<Output = Event> + Send + 'static) {
        let tx = self.tx.clone();
        tokio::spawn(async move {
            let event = work.await;
            let _ = tx.send(event).await;
        });
    }
}

/// A complaint of several lines is one line of the log.
fn read_config(file: &Path) -> Result<Box<Config>, String> {
    let one_line = |e: ConfigError| e.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    Config::load(file).map(Box::new).map_err(one_line)
}

/// On a domain's behalf.
#[derive(Clone)]
struct Asked {
    uuid: Uuid,
    needs: Needs,
    storage: Question,
    /// The name of this host.
    me: String,
}

async fn survey(
    libvirt: &Libvirt,
    asked: Asked,
    hosts: Vec<(String, String)>,
    within: Duration,
) -> Vec<Answer> {
    let (tx, mut answers) = mpsc::channel(hosts.len() + 1);
    if !asked.storage.is_empty() {
        let (libvirt, Asked { needs, storage, me, .. }, tx) = (libvirt.clone(), asked.clone(), tx.clone());
        tokio::spawn(async move {
            let storage = libvirt.storage(None, &needs, &storage).await.map_err(|e| e.to_string());
            let _ = tx.send(Answer { host: me, can_run: Ok(()), has_it: false, storage }).await;
        });
    }
    for (host, uri) in hosts {
        let (libvirt, Asked { uuid, needs, storage, .. }, tx) = (libvirt.clone(), asked.clone(), tx.clone());
        tokio::spawn(async move {
            let look = async {
                // One after the other: they share the host's connection.
                let can_run = libvirt.can_run(&uri, &needs).await.map_err(|e| e.to_string());
                (can_run, libvirt.domain_on(&uri, uuid).await)
            };
            let ((can_run, there), storage) =
                tokio::join!(look, libvirt.storage(Some(&uri), &needs, &storage));
            if let Ok(there) = there {
                let storage = storage.map_err(|e| e.to_string());
                let _ = tx.send(Answer { host, can_run, has_it: there.is_some(), storage }).await;
            }
        });
    }
    drop(tx);
    let mut all = Vec::new();
    let collect = async {
        while let Some(answer) = answers.recv().await {
            all.push(answer);
        }
    };
    // Who is late is missing; the decision says so.
    let _ = tokio::time::timeout(within, collect).await;
    all
}

/// Not without a note of them on disk: after a crash nobody would know of them.
async fn make_disks(
    libvirt: &Libvirt,
    kept: Result<(), String>,
    uri: &str,
    copies: Vec<Copy>,
) -> Result<(), MakeError> {
    match kept {
        Ok(()) => libvirt.make_disks(uri, copies).await,
        Err(detail) => {
            let refusal = Refusal { kind: RefusalKind::NotKnown, detail };
            Err(MakeError { refusal, unsure: false })
        }
    }
}

async fn migrate(libvirt: Libvirt, tx: mpsc::Sender<Event>, migration: MigrationId, spec: MigrateSpec) {
    let uuid = spec.uuid;
    // Beside the call, not around it: a job that does not answer in switch-over must not hold back the end.
    let progress = tokio::spawn(progress(libvirt.clone(), tx.clone(), uuid, migration));
    let result = libvirt.migrate(spec).await;
    progress.abort();
    let _ = tx.send(Event::Returned { uuid, migration, result }).await;
}

async fn progress(libvirt: Libvirt, tx: mpsc::Sender<Event>, uuid: Uuid, migration: MigrationId) {
    let mut every = tokio::time::interval(PROGRESS_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Ok(Some(figures)) = libvirt.job(uuid).await {
            let _ = tx.try_send(Event::Progress { uuid, migration, figures: Box::new(figures) });
        }
    }
}

/// Somebody else's job, until it is over. The first answer is the news, so nothing is waited for before it.
async fn watch(libvirt: Libvirt, tx: mpsc::Sender<Event>, uuid: Uuid, migration: MigrationId) {
    let mut every = tokio::time::interval(PROGRESS_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        match libvirt.job(uuid).await {
            Ok(Some(figures)) => {
                let _ = tx.try_send(Event::Progress { uuid, migration, figures: Box::new(figures) });
            }
            Ok(None) | Err(HvError::NoDomain { .. }) => break,
            // In switch-over its QEMU does not answer; and a libvirtd that is being restarted is back soon.
            Err(
                HvError::Busy { .. }
                | HvError::Unreachable { .. }
                | HvError::Refused { .. }
                | HvError::RefusedThere { .. }
                | HvError::NotEncrypted { .. }
                | HvError::Aborted { .. }
                | HvError::Other { .. },
            ) => {}
        }
    }
    let _ = tx.send(Event::Watched { uuid, migration }).await;
}

async fn completed_figures(libvirt: &Libvirt, uuid: Uuid) -> Option<JobFigures> {
    for _ in 0..FIGURES_TRIES {
        if let Ok(Some(figures)) = libvirt.completed_job(uuid).await {
            return Some(figures);
        }
        tokio::time::sleep(FIGURES_EVERY).await;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    /// At libvirt's own test driver, which has a storage pool.
    #[test]
    fn no_image_is_made_without_a_note_of_it_on_disk() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let uri = "test:///default";
            let libvirt = Libvirt::start(uri, mpsc::unbounded_channel().0);
            let copy = Copy {
                target: "vda".into(),
                path: "/default-pool/noted.raw".into(),
                format: "raw".into(),
                capacity_bytes: 1 << 20,
                needs_bytes: 1 << 20,
                base: None,
            };
            let made = async |kept| make_disks(&libvirt, kept, uri, vec![copy.clone()]).await;
            let refused = made(Err("disk full".into())).await.unwrap_err();
            assert_eq!((refused.refusal.kind, refused.unsure), (RefusalKind::NotKnown, false));
            made(Ok(())).await.unwrap();
            assert_eq!(made(Ok(())).await.unwrap_err().refusal.kind, RefusalKind::InTheWay);
            libvirt.remove_disks(uri, Uuid::from_u128(1), vec![copy.clone()]).await.unwrap();
        });
    }
}
