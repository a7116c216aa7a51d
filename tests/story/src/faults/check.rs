//! What must hold after every row, and how it is found out.

use super::arena::{Arena, Asked, boot_id};
use super::row::{Expect, Initiator, Row};
use super::strike::Ends;
use crate::{HOSTS, Result, coms, events, ticket, wait};
use serde_json::Value;
use std::fmt;

/// A request has its end, the records are final and the ticket is gone by then.
const SETTLED_S: u64 = 150;
const FINALS: [&str; 5] = ["denied", "failed", "cancelled", "completed", "answered"];

/// What was seen when everything had settled.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Where it runs; None: nowhere.
    pub host: Option<usize>,
    pub ends: Ends,
    /// Final events about this move, as the guest's log has them.
    pub finals: Vec<String>,
    /// How often the guest heard whether the move helped.
    effects: usize,
    /// The guest heard that a move of the operator's was to begin.
    noticed: bool,
    request: Option<u64>,
    heard_before: usize,
    initiator: Initiator,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            None => f.write_str("dead")?,
            Some(host) if host == self.ends.to => f.write_str("moved")?,
            Some(_) => f.write_str("stayed")?,
        }
        if !self.finals.is_empty() {
            write!(f, ", {}", self.finals.join(" + "))?;
        }
        Ok(())
    }
}

/// Waits until nothing is under way any more.
pub fn settle(arena: &Arena, ends: Ends, row: &Row, asked: &Asked, heard_before: usize) -> Result<Seen> {
    if row.expect == Expect::Dies {
        wait("the guest to be dead", SETTLED_S, || Ok(arena.guest.qemu_pids()?.is_empty()))?;
        let (request, initiator) = (asked.request, row.initiator);
        return Ok(Seen {
            host: None,
            ends,
            finals: Vec::new(),
            effects: 0,
            noticed: false,
            request,
            heard_before,
            initiator,
        });
    }
    let mut last = String::new();
    let settled = wait("everything to settle", SETTLED_S, || {
        if let Some(why) = memory_was_lost(arena) {
            return Ok(true).inspect(|_| last = why);
        }
        let unsettled = unsettled(arena, ends, row, asked, heard_before);
        last = match &unsettled {
            Ok(what) => what.clone().unwrap_or_default(),
            Err(e) => e.to_string(),
        };
        Ok(matches!(unsettled, Ok(None)))
    });
    if settled.is_err() || !last.is_empty() {
        println!("{}", arena.stage.logs());
        return Err(format!("not settled: {last}").into());
    }
    // An answer too many would come about now.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    look(arena, ends, asked.request, heard_before, row.initiator)
}

/// The guest's kernel fell over something that it had not written.
pub fn memory_was_lost(arena: &Arena) -> Option<String> {
    let console = arena.guest.console_text();
    let line = console.lines().find(|l| l.contains("BUG: ") || l.contains("Kernel panic"))?;
    Some(format!("memory: the guest's kernel: {line}"))
}

/// What is still under way, if anything is.
fn unsettled(
    arena: &Arena,
    ends: Ends,
    row: &Row,
    asked: &Asked,
    heard_before: usize,
) -> Result<Option<String>> {
    let running = running_on(arena)?;
    let [host] = running.as_slice() else { return Ok(Some(format!("it runs on {running:?}"))) };
    let qemus = arena.guest.qemu_pids()?.len();
    if qemus != 1 {
        return Ok(Some(format!("{qemus} QEMU processes hold it")));
    }
    for (i, name) in HOSTS.iter().enumerate().take(2) {
        if ticket(&arena.stage, i, &arena.guest).is_ok_and(|t| t.is_some()) {
            return Ok(Some(format!("the ticket is there on {name}")));
        }
        if arena.stage.has_broker(i)
            && let Some(open) = open_record(arena, i)?
        {
            return Ok(Some(format!("a record of {name} is open: {open}")));
        }
    }
    let heard = events(&arena.guest)?;
    let told = told_of(&heard[heard_before.min(heard.len())..], asked.request, row.initiator);
    let status = coms(&arena.guest, &["status"])?;
    if status["connected"] != true {
        return Ok(Some("the agent is not connected".into()));
    }
    match row.initiator {
        Initiator::Customer if told.is_empty() => Ok(Some(format!("request {:?} has no end", asked.request))),
        Initiator::Customer if !status["request"].is_null() => {
            Ok(Some(format!("the agent waits for {}", status["request"])))
        }
        // An order that could not begin leaves no trace; one that moved it is told.
        Initiator::Operator if told.is_empty() && *host == ends.to => {
            Ok(Some("the guest has moved and was not told".into()))
        }
        Initiator::Customer | Initiator::Operator
            if row.measures()
                && effects_of(&heard[heard_before.min(heard.len())..], asked.request, row.initiator) == 0 =>
        {
            Ok(Some("the guest was not told whether it helped".into()))
        }
        Initiator::Customer | Initiator::Operator => Ok(None),
    }
}

fn open_record(arena: &Arena, i: usize) -> Result<Option<Value>> {
    let records = arena.stage.comsctl(i, &["migrations"])?;
    let done = ["left", "completed", "denied", "failed", "cancelled"];
    let open =
        |r: &&Value| r["uuid"] == arena.guest.uuid() && !done.contains(&r["state"].as_str().unwrap_or(""));
    Ok(records.as_array().and_then(|all| all.iter().find(open)).cloned())
}

/// The hosts on which it runs, by asking every libvirtd.
fn running_on(arena: &Arena) -> Result<Vec<usize>> {
    let mut on = Vec::new();
    // One that is down on purpose cannot be asked; what it held is looked for among the processes.
    for i in (0..2).filter(|i| arena.stage.host(*i).libvirtd_pid().is_some()) {
        let running = arena.stage.host(i).virsh(&["list", "--uuid", "--state-running"])?;
        if running.lines().any(|uuid| uuid.trim() == arena.guest.uuid()) {
            on.push(i);
        }
    }
    Ok(on)
}

fn is_about(e: &Value, request: Option<u64>, initiator: Initiator) -> bool {
    match initiator {
        Initiator::Customer => request.is_some() && e["request"].as_u64() == request,
        Initiator::Operator => e["request"].is_null(),
    }
}

fn effects_of(heard: &[Value], request: Option<u64>, initiator: Initiator) -> usize {
    heard.iter().filter(|e| e["event"] == "effect" && is_about(e, request, initiator)).count()
}

/// The final answers among what a guest heard of one move.
pub fn told_of(heard: &[Value], request: Option<u64>, initiator: Initiator) -> Vec<String> {
    let about = |e: &&Value| is_about(e, request, initiator);
    let last_word = |e: &&Value| FINALS.iter().any(|name| e["event"] == *name);
    let words = |e: &Value| {
        let event = e["event"].as_str().unwrap_or_default();
        // A refusal has a reason of its own; elsewhere `reason` is why the guest had asked.
        let why = if event == "denied" { &e["reason"] } else { &e["why"] };
        why.as_str().map_or_else(|| event.to_owned(), |why| format!("{event}:{why}"))
    };
    heard.iter().filter(last_word).filter(about).map(words).collect()
}

fn look(
    arena: &Arena,
    ends: Ends,
    request: Option<u64>,
    heard_before: usize,
    initiator: Initiator,
) -> Result<Seen> {
    let heard = events(&arena.guest)?;
    let heard = &heard[heard_before.min(heard.len())..];
    let noticed = heard.iter().any(|e| e["event"] == "notice" && e["request"].is_null());
    let finals = told_of(heard, request, initiator);
    let effects = effects_of(heard, request, initiator);
    let host = running_on(arena)?.first().copied();
    Ok(Seen { host, ends, finals, effects, noticed, request, heard_before, initiator })
}

/// The same once more, after the guest has moved again: what was told of the row's move must not have changed.
/// The second move is the customer's, so it does not count as the operator's.
pub fn again(arena: &Arena, before: &Seen) -> Result<Seen> {
    look(arena, before.ends, before.request, before.heard_before, before.initiator)
}

/// Is it what the row says?
pub fn expected(row: &Row, seen: &Seen) -> Vec<String> {
    let moved = seen.host == Some(seen.ends.to);
    let told = |kinds: &[&str]| {
        if kinds.is_empty() {
            seen.finals.is_empty()
        } else {
            seen.finals.iter().all(|f| kinds.contains(&f.as_str()))
        }
    };
    let right = match row.expect {
        Expect::Moves => moved && seen.finals == ["completed"],
        Expect::Stays(kinds) => !moved && seen.host.is_some() && told(kinds),
        Expect::Either(_) => seen.host.is_some() && (moved == (seen.finals == ["completed"])),
        Expect::Dies => seen.host.is_none(),
    };
    if right { Vec::new() } else { vec![format!("not what was expected: {seen}")] }
}

/// The rule, whatever the row.
pub fn rule(arena: &Arena, row: &Row, seen: &Seen) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    if row.expect == Expect::Dies {
        let defined = defined_on(arena)?;
        if defined.len() != 1 {
            wrong.push(format!("defined on {defined:?}"));
        }
        return Ok(wrong);
    }
    let running = running_on(arena)?;
    if running.len() != 1 {
        wrong.push(format!("runs on {running:?}"));
    }
    let qemus = arena.guest.qemu_pids()?.len();
    if qemus != 1 {
        wrong.push(format!("{qemus} QEMU processes hold it"));
    }
    let defined = defined_on(arena)?;
    if defined != running {
        wrong.push(format!("runs on {running:?}, is defined on {defined:?}"));
    }
    if let Err(e) = arena.guest.verify_pattern() {
        wrong.push(format!("memory: {e}"));
    }
    if boot_id(&arena.guest)? != arena.boot_id {
        wrong.push("it was booted anew".into());
    }
    if row.measures() && seen.effects != 1 {
        wrong.push(format!("heard {} times whether it helped", seen.effects));
    }
    let heard = seen.finals.len();
    let must_have_heard = seen.initiator == Initiator::Customer || seen.noticed;
    if heard > 1 || (heard == 0 && must_have_heard) {
        wrong.push(format!("{heard} final answers: {:?}", seen.finals));
    }
    Ok(wrong)
}

fn defined_on(arena: &Arena) -> Result<Vec<usize>> {
    let mut on = Vec::new();
    for i in 0..2 {
        let defined = arena.stage.host(i).virsh(&["list", "--all", "--persistent", "--uuid"])?;
        if defined.lines().any(|uuid| uuid.trim() == arena.guest.uuid()) {
            on.push(i);
        }
    }
    Ok(on)
}
