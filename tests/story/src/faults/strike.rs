//! What is done to the parts, and undone.

use super::arena::Arena;
use super::row::{End, Fault};
use crate::{HOSTS, Result, coms, wait};
use coms_lab::Signal;
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a killed daemon is away: long enough for others to notice.
const AWAY: Duration = Duration::from_secs(1);
/// A broker that is told to end must be gone by then, whatever it is doing.
const TERM_LIMIT: Duration = Duration::from_secs(5);

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
pub fn strike(arena: &mut Arena, ends: Ends, fault: Fault) -> Result<()> {
    match fault {
        Fault::Nothing => Ok(()),
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
        Fault::LoseFinish => Ok(arena.stage.host(ends.to).stop_libvirtd(Signal::KILL)?),
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
            std::thread::sleep(ASKED_TO_FINISH);
            // The source's first: it would take the other's end for a lost answer, and let its guest run.
            arena.stage.host(ends.from).stop_libvirtd(Signal::KILL)?;
            Ok(arena.stage.host(ends.to).stop_libvirtd(Signal::KILL)?)
        }
        Fault::LeavePausedCopyOfRunning => leave_paused_copy_of_running(arena, ends),
        Fault::Cut { .. } => Ok(arena.stage.host(ends.to).set_link(false)?),
        Fault::AbortByVirsh => wait("virsh to abort the job", 20, || {
            // Not quite there yet, it is refused.
            Ok(arena.stage.host(ends.from).virsh(&["domjobabort", arena.guest.name()]).is_ok())
        }),
        Fault::CancelByGuest => match coms(&arena.guest, &["cancel"]) {
            // A guest that stands still for its switch-over can say so only when it is over, and told.
            Err(e) if e.to_string().contains("no request is outstanding") => Ok(()),
            said => said.map(drop),
        },
        // The broker must run to hear of it.
        Fault::CancelByOperator => Ok(()),
        Fault::FullDestination => limit_memory(arena, ends.to, "524288000"),
        Fault::LittleMemory => {
            let name = HOSTS[ends.to];
            // The guest has 160 MiB, and 64 stay free.
            arena.stage.reconfigure(|s| s.memory_mib = Some((name, 200)))
        }
        Fault::HookRefuses => hook(
            arena,
            ends.to,
            "[ \"$2\" != migrate ] || { echo 'qemu+tcp://hostbeta/system says no' >&2; exit 1; }",
        ),
        Fault::DestinationDown => {
            arena.stage.host(ends.to).stop_libvirtd(Signal::KILL)?;
            wait("the source to see that the destination is down", 30, || {
                Ok(arena.stage.comsctl(ends.from, &["hosts"])?[1]["answers"] == false)
            })
        }
        Fault::NotEnabled => {
            arena.stage.reconfigure(|s| s.enabled = "[\"another\"]".into())?;
            arena.stage.wait_for_agent(&arena.guest)
        }
        Fault::NoBroker => {
            arena.stage.stop_broker(ends.to, Signal::KILL)?;
            wait("the source to see that the destination has no broker", 40, || {
                Ok(arena.stage.comsctl(ends.from, &["hosts"])?[1]["broker"].is_null())
            })
        }
        Fault::SilentAgent => Ok(arena.guest.sh("kill -STOP $(pidof coms-agent)").map(drop)?),
    }
}

/// Makes it whole again. By now everybody else goes on.
pub fn mend(arena: &mut Arena, ends: Ends, fault: Fault) -> Result<()> {
    match fault {
        Fault::Nothing
        | Fault::KillAgent
        | Fault::KillDestinationQemu
        | Fault::KillDestinationQemuBeforeFinish
        | Fault::AbortByVirsh
        | Fault::CancelByGuest => Ok(()),
        Fault::CancelByOperator => {
            let all = arena.stage.comsctl(ends.from, &["migrations"])?;
            let last = all.as_array().and_then(|all| all.last()).ok_or("no migration to cancel")?;
            let id = last["migration"].as_str().unwrap_or_default();
            let (status, out, err) = arena.stage.comsctl_raw(ends.from, &["cancel", id])?;
            if status == 0 {
                Ok(())
            } else {
                Err(format!("comsctl cancel {id}: {status}: {out}{err}").into())
            }
        }
        Fault::FullDestination => limit_memory(arena, ends.to, "unlimited"),
        Fault::LittleMemory => {
            let kept = kept(arena, ends, |r| r["considered"][0]["verdict"] == "too-little-memory");
            arena.stage.reconfigure(|s| s.memory_mib = None)?;
            kept
        }
        Fault::HookRefuses => {
            // libvirt's words are the operator's, not the guest's (searched for in all that was sent).
            let kept = kept(arena, ends, |r| r["detail"].as_str().is_some_and(|d| d.contains("says no")));
            hook(arena, ends.to, "exit 0")?;
            kept
        }
        Fault::DestinationDown => {
            let kept = kept(arena, ends, |r| r["considered"][0]["verdict"] == "no-answer");
            arena.stage.host(ends.to).start_libvirtd()?;
            kept
        }
        Fault::NotEnabled => arena.stage.reconfigure(|s| s.enabled = "[\"*\"]".into()),
        Fault::NoBroker => arena.stage.start_broker(ends.to),
        Fault::SilentAgent => {
            let alarmed = wait_for_alarm(arena, ends.to, "agent");
            arena.guest.sh("kill -CONT $(pidof coms-agent)")?;
            alarmed
        }
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
            let alarmed = wait_for_alarm(arena, ends.from, "paused copy");
            let stayed = arena.stage.host(ends.from).virsh(&["domstate", arena.guest.name()]);
            arena.stage.host(ends.to).start_libvirtd()?;
            alarmed?;
            match stayed? {
                state if state.contains("paused") => Ok(()),
                state => Err(format!("with the destination silent, the copy here is {state}").into()),
            }
        }
        Fault::LeavePausedCopyOfRunning => {
            arena.stage.host(ends.from).start_libvirtd()?;
            remove_paused_copy(arena, ends, "remove this copy with virsh destroy")
        }
        Fault::LoseFinish => lost_finish(arena, ends),
        Fault::Cut { seconds } => {
            std::thread::sleep(Duration::from_secs(seconds));
            Ok(arena.stage.host(ends.to).set_link(true)?)
        }
    }
}

/// After the switch-over: by then the source's libvirtd has asked the destination to finish. Killed earlier, it resumes
/// its guest when it is back, and nothing is left.
const ASKED_TO_FINISH: Duration = Duration::from_secs(1);

/// The process that began last holds the copy at the destination.
fn kill_destination_qemu(arena: &Arena) -> Result<()> {
    let pids = arena.guest.qemu_pids()?;
    let others: Vec<u32> = pids.into_iter().filter(|pid| !arena.qemus_before.contains(pid)).collect();
    match others.as_slice() {
        [pid] => signal(*pid, "KILL"),
        other => Err(format!("{} QEMU processes at the destination", other.len()).into()),
    }
}

/// What QEMU inherits from its libvirtd: room for libvirtd itself, and none for a guest. Only the soft limit: not every
/// root may raise the hard one again.
fn limit_memory(arena: &Arena, i: usize, bytes: &str) -> Result<()> {
    let pid = arena.stage.host(i).libvirtd_pid().ok_or("no libvirtd to limit")?;
    let status =
        Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--data={bytes}:")]).status()?;
    if status.success() { Ok(()) } else { Err(format!("prlimit of libvirtd: {status}").into()) }
}

/// The source's operator finds the reason in the last move's record.
fn kept(arena: &Arena, ends: Ends, why: impl Fn(&Value) -> bool) -> Result<()> {
    let all = arena.stage.comsctl(ends.from, &["migrations"])?;
    match all.as_array().and_then(|all| all.last()) {
        Some(last) if why(last) => Ok(()),
        last => Err(format!("its record does not say why: {last:?}").into()),
    }
}

/// libvirt's hook, which it looks for when it starts.
fn hook(arena: &Arena, i: usize, line: &str) -> Result<()> {
    let host = arena.stage.host(i);
    host.write_program("/etc/libvirt/hooks/qemu", format!("#!/bin/sh\n{line}\n"))?;
    host.stop_libvirtd(Signal::TERM)?;
    host.start_libvirtd()?;
    // What the others saw before is older than that; the next sign of life may take as long.
    std::thread::sleep(Duration::from_secs(4));
    arena.stage.wait_for_load()
}

/// `comsctl doctor` and the log say so.
fn wait_for_alarm(arena: &Arena, i: usize, about: &str) -> Result<()> {
    wait(&format!("an alarm about the {about} on {}", HOSTS[i]), 90, || {
        let (_, findings, _) = arena.stage.comsctl_raw(i, &["doctor"])?;
        let log = arena.log(i)?;
        let logged = log[arena.logs_before[i].min(log.len())..]
            .lines()
            .any(|l| l.contains("alarm=true") && l.contains(about));
        Ok(logged && findings.contains("alarm") && findings.contains(about))
    })
}

/// The destination has finished and runs it; the source's libvirtd, which waits for that news, never hears it.
fn leave_paused_copy_of_running(arena: &Arena, ends: Ends) -> Result<()> {
    hang_libvirtd(arena, ends.to, true)?;
    wait_for_switch_over(arena, ends)?;
    std::thread::sleep(ASKED_TO_FINISH);
    hang_libvirtd(arena, ends.from, true)?;
    hang_libvirtd(arena, ends.to, false)?;
    let runs = wait_until_it_runs_there(arena, ends);
    arena.stage.host(ends.from).stop_libvirtd(Signal::KILL)?;
    runs
}

fn wait_until_it_runs_there(arena: &Arena, ends: Ends) -> Result<()> {
    wait("the destination to run the guest", 30, || {
        let running = arena.stage.host(ends.to).virsh(&["list", "--uuid", "--state-running"])?;
        Ok(running.contains(arena.guest.uuid()))
    })
}

/// Mostly the answer was lost, and both had it running; now and then libvirtd had just sent it.
fn lost_finish(arena: &Arena, ends: Ends) -> Result<()> {
    let source = arena.stage.host(ends.from);
    std::thread::sleep(AWAY);
    arena.stage.host(ends.to).start_libvirtd()?;
    let mut left = false;
    wait("the copy at the source to be suspended, or to be gone", 60, || {
        let state = source.virsh(&["domstate", arena.guest.name()]);
        left = state.is_err();
        Ok(state.map_or(true, |s| s.contains("paused")))
    })?;
    println!("    the destination's answer was {}", if left { "heard" } else { "lost: it ran at both" });
    if left {
        Ok(())
    } else {
        remove_paused_copy(arena, ends, "suspended here; remove this copy with virsh destroy")
    }
}

/// The alarm is raised, nothing was resumed by guess, and what the alarm says is done.
fn remove_paused_copy(arena: &Arena, ends: Ends, alarm: &str) -> Result<()> {
    let (source, name) = (arena.stage.host(ends.from), arena.guest.name());
    wait_for_alarm(arena, ends.from, alarm)?;
    // Long enough for the hosts to have been asked again.
    std::thread::sleep(Duration::from_secs(7));
    let state = source.virsh(&["domstate", name])?;
    if !state.contains("paused") {
        return Err(format!("the destination runs it, and the copy here is {state}").into());
    }
    source.virsh(&["destroy", name])?;
    Ok(source.virsh(&["undefine", name]).map(drop)?)
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
