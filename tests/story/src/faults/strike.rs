//! What is done to the parts, and undone.

use super::arena::Arena;
use super::row::{End, Fault};
use crate::{HOSTS, Result, coms, wait};
use coms_lab::Signal;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a killed daemon is away: long enough for others to notice.
const AWAY: Duration = Duration::from_secs(1);
/// A broker that is told to end must be gone by then, whatever it is doing.
const TERM_LIMIT: Duration = Duration::from_secs(5);
/// How long the broker has to judge a copy that a broken switch-over left behind.
const JUDGING: Duration = Duration::from_secs(8);

/// A move under way: which host is which.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    pub from: usize,
    pub to: usize,
}

impl Ends {
    pub fn of(self, end: End) -> usize {
        match end {
            End::Source => self.from,
            End::Destination => self.to,
        }
    }
}

/// Does it. What stood still still does.
pub fn strike(arena: &mut Arena, ends: Ends, fault: Fault, migration: Option<&str>) -> Result<()> {
    match fault {
        Fault::None => Ok(()),
        Fault::KillBroker(end) | Fault::KillBrokerUntilArrived(end) => {
            arena.stage.stop_broker(ends.of(end), Signal::KILL)
        }
        Fault::TermBroker(end) => {
            let i = ends.of(end);
            let broker = arena.stage.broker(i).ok_or("no broker to end")?;
            broker.signal(Signal::TERM)?;
            broker.signal(Signal::CONT)?;
            let told = Instant::now();
            broker.wait_for_exit(TERM_LIMIT).map_err(|e| format!("SIGTERM: {e}"))?;
            println!("    the broker of {} ended {} ms after SIGTERM", HOSTS[i], told.elapsed().as_millis());
            arena.stage.forget_broker(i);
            Ok(())
        }
        Fault::KillAgent => Ok(arena.guest.sh("kill -9 $(pidof coms-agent)").map(drop)?),
        Fault::KillLibvirtd(end) => Ok(arena.stage.host(ends.of(end)).stop_libvirtd(Signal::KILL)?),
        Fault::RestartLibvirtd(end) => Ok(arena.stage.host(ends.of(end)).stop_libvirtd(Signal::TERM)?),
        Fault::KillDestinationQemu => kill_destination_qemu(arena),
        Fault::KillDestinationQemuBeforeFinish => {
            hang_libvirtd(arena, ends.to, true)?;
            wait_for_switch_over(arena, ends)?;
            let killed = kill_destination_qemu(arena);
            hang_libvirtd(arena, ends.to, false)?;
            killed
        }
        Fault::LeavePausedCopy => {
            hang_libvirtd(arena, ends.to, true)?;
            wait_for_switch_over(arena, ends)?;
            Ok(arena.stage.host(ends.from).stop_libvirtd(Signal::KILL)?)
        }
        Fault::Cut { .. } => Ok(arena.stage.host(ends.to).set_link(false)?),
        Fault::AbortByVirsh => wait("virsh to abort the job", 20, || {
            // Not quite there yet, it is refused.
            Ok(arena.stage.host(ends.from).virsh(&["domjobabort", arena.guest.name()]).is_ok())
        }),
        Fault::CancelByGuest => coms(&arena.guest, &["cancel"]).map(drop),
        Fault::CancelByOperator => {
            let migration = migration.ok_or("no migration to cancel")?;
            let (status, out, err) = arena.stage.comsctl_raw(ends.from, &["cancel", migration])?;
            if status == 0 {
                Ok(())
            } else {
                Err(format!("comsctl cancel: exit {status}: {out}{err}").into())
            }
        }
    }
}

/// Makes it whole again. By now everybody else goes on.
pub fn mend(arena: &mut Arena, ends: Ends, fault: Fault) -> Result<()> {
    match fault {
        Fault::None
        | Fault::KillAgent
        | Fault::KillDestinationQemu
        | Fault::KillDestinationQemuBeforeFinish
        | Fault::AbortByVirsh
        | Fault::CancelByGuest
        | Fault::CancelByOperator => Ok(()),
        Fault::KillBroker(end) | Fault::TermBroker(end) => {
            std::thread::sleep(AWAY);
            arena.stage.start_broker(ends.of(end))
        }
        Fault::KillBrokerUntilArrived(end) => {
            let arrived = wait("the guest to be at the destination", 20, || {
                Ok(arena.guest.current_host()?.name() == HOSTS[ends.to])
            });
            arena.stage.start_broker(ends.of(end))?;
            arrived
        }
        Fault::KillLibvirtd(end) => {
            std::thread::sleep(AWAY);
            Ok(arena.stage.host(ends.of(end)).start_libvirtd()?)
        }
        Fault::RestartLibvirtd(end) => Ok(arena.stage.host(ends.of(end)).start_libvirtd()?),
        Fault::LeavePausedCopy => {
            arena.stage.host(ends.from).start_libvirtd()?;
            std::thread::sleep(JUDGING);
            hang_libvirtd(arena, ends.to, false)
        }
        Fault::Cut { seconds } => {
            std::thread::sleep(Duration::from_secs(seconds));
            Ok(arena.stage.host(ends.to).set_link(true)?)
        }
    }
}

/// The process that began last holds the copy at the destination.
fn kill_destination_qemu(arena: &Arena) -> Result<()> {
    let pids = arena.guest.qemu_pids()?;
    let others: Vec<u32> = pids.into_iter().filter(|pid| !arena.qemus_before.contains(pid)).collect();
    match others.as_slice() {
        [pid] => signal(*pid, "KILL"),
        other => Err(format!("{} QEMU processes at the destination", other.len()).into()),
    }
}

fn hang_libvirtd(arena: &Arena, i: usize, hang: bool) -> Result<()> {
    let pid = arena.stage.host(i).libvirtd_pid().ok_or("no libvirtd to stop")?;
    signal(pid, if hang { "STOP" } else { "CONT" })
}

/// The source's QEMU has sent everything and stands still.
fn wait_for_switch_over(arena: &Arena, ends: Ends) -> Result<()> {
    wait("the switch-over", 60, || {
        Ok(arena.stage.host(ends.from).virsh(&["domstate", arena.guest.name()])?.contains("paused"))
    })
}

pub fn signal(pid: u32, signal: &str) -> Result<()> {
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status()?;
    if status.success() { Ok(()) } else { Err(format!("kill -{signal} {pid}: {status}").into()) }
}
