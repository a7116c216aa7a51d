//! Waits for a move that was begun, and says how far it is.

use super::client::{Broker, unexpected};
use super::show::{in_full, waiting};
use super::tables::table_of_moves;
use super::{Failure, print};
use coms_broker::records::{MoveRecord, MoveState};
use coms_protocol::types::MigrationId;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What became of a move is mostly known within seconds of its end; after this long, waiting is no answer.
const UNCLEAR_FOR: Duration = Duration::from_secs(60);
/// A broker that is being restarted is back by then.
const GONE_FOR: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Shows how far the move is until it is over here.
pub fn follow(
    json: bool,
    socket: &Path,
    mut broker: Broker,
    id: MigrationId,
    timeout: Option<Duration>,
) -> Result<ExitCode, Failure> {
    say_on_interrupt(id);
    let live = !json && std::io::stderr().is_terminal();
    let begun = Instant::now();
    let mut unclear_since: Option<Instant> = None;
    loop {
        let record = look(&mut broker, socket, id)?;
        if live {
            let left =
                record.bytes_remaining.map(|b| format!(", {} MiB to copy", b >> 20)).unwrap_or_default();
            let waits = record.waits.as_ref().map(|w| format!(", {}", waiting(w))).unwrap_or_default();
            eprint!("\r\x1b[K{id}: {}{left}{waits}", record.state.name());
        }
        if record.state.is_final() {
            if live {
                eprintln!();
            }
            let done = matches!(record.state, MoveState::Left | MoveState::Completed);
            print(json, &record, |r| table_of_moves(std::slice::from_ref(r)))?;
            return Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        let unclear =
            (record.state == MoveState::Unclear).then(|| unclear_since.unwrap_or_else(Instant::now));
        unclear_since = unclear;
        let too_long = timeout.is_some_and(|limit| begun.elapsed() >= limit);
        let nobody_knows = timeout.is_none() && unclear.is_some_and(|since| since.elapsed() >= UNCLEAR_FOR);
        if too_long || nobody_knows {
            if live {
                eprintln!();
            }
            return give_up(json, &record, begun.elapsed());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The record; a broker that is being restarted is waited for, and remembers what it had saved.
fn look(broker: &mut Broker, socket: &Path, id: MigrationId) -> Result<MoveRecord, Failure> {
    let goes_on = |why: &str| {
        Failure::unreachable(format!(
            "{why}; the move goes on in libvirt: comsctl show {id}, virsh list --all"
        ))
    };
    let found = match broker.moves(Some(id)) {
        Ok(found) => found,
        Err(Failure { code: 3, text }) => {
            let until = Instant::now() + GONE_FOR;
            *broker = loop {
                match Broker::connect(socket) {
                    Ok(again) => break again,
                    Err(_) if Instant::now() < until => std::thread::sleep(LOOK_EVERY),
                    Err(_) => return Err(goes_on(&text)),
                }
            };
            broker.moves(Some(id))?
        }
        Err(e) => return Err(e),
    };
    found.into_iter().next().ok_or_else(|| {
        Failure::refused(format!(
            "the broker does not know {id} any more; where the VM is: virsh list --all here and at the destination"
        ))
    })
}

/// What is known so far, and where to look.
fn give_up(json: bool, record: &MoveRecord, after: Duration) -> Result<ExitCode, Failure> {
    print(json, record, in_full)?;
    let (vm, id, s) = (&record.domain, record.migration, after.as_secs());
    let to = record.to.as_deref().unwrap_or("the destination");
    let text = match record.state {
        MoveState::Unclear => format!(
            "after {s} s it is not known what became of {id}: `virsh domstate {vm} --reason` here and at {to} say \
             where it runs; a copy that is paused here and runs there is a leftover"
        ),
        MoveState::Announced => {
            let waits = record.waits.as_ref().map(waiting).unwrap_or_default();
            format!(
                "{id} has not begun; it waits {waits}; at once: comsctl cancel {id}, then comsctl migrate {vm} --expedite"
            )
        }
        MoveState::Choosing
        | MoveState::Measuring
        | MoveState::Connecting
        | MoveState::MakingDisks
        | MoveState::WritingTicket
        | MoveState::Copying
        | MoveState::Arriving
        | MoveState::Arrived
        | MoveState::Left
        | MoveState::Completed
        | MoveState::Denied
        | MoveState::Failed
        | MoveState::Cancelled => format!(
            "{id} is still {} after {s} s and goes on; look again: comsctl show {id}; end it: comsctl cancel {id}",
            record.state.name()
        ),
    };
    Err(Failure::refused(text))
}

/// Ctrl-C ends `comsctl` and nothing else; whoever pressed it should know.
fn say_on_interrupt(id: MigrationId) {
    let wait = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            eprintln!("\ncomsctl: {id} goes on; look: comsctl show {id}; call it off: comsctl cancel {id}");
            std::process::exit(130);
        }
    };
    // Without the thread, Ctrl-C ends it as it ends any program.
    let _ = std::thread::Builder::new().name("interrupt".into()).spawn(wait);
}

/// The answer to an order.
pub fn begun(reply: coms_broker::control::Reply) -> Result<MigrationId, Failure> {
    match reply {
        coms_broker::control::Reply::Started { migration } => Ok(migration),
        other => Err(unexpected(&other)),
    }
}
