//! The commands about announced moves: to be asked, to put off, to see the hosts, to play it all.

use crate::args::{self, Args};
use crate::client::{Client, Trouble};
use crate::show::{event, flag, if_known, items, table, text};
use coms_agent::calendar::Windows;
use coms_agent::event::{Command, Hold, Ready, Register, Simulate, Window};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufRead, Write};

/// Standard input's words go to the daemon, what it says to standard output. Ends when either does.
pub(crate) fn register(mut client: Client, wanted: &args::Register) -> Result<bool, Trouble> {
    let register =
        Register { name: wanted.name.clone(), notice_s: wanted.notice, hold_s: wanted.hold.unwrap_or(0) };
    let answer = client.ask(&Command::Register(register))?;
    let mut said = client.also()?;
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match word(&line) {
                Ok(Some(command)) => {
                    if said.say(&command).is_err() {
                        break;
                    }
                }
                Ok(None) => {}
                Err(wrong) => eprintln!("coms: {wrong}"),
            }
        }
        // Nobody can answer any more; who only listens closes standard output to end this.
    });
    let mut line = answer;
    loop {
        if writeln!(std::io::stdout(), "{line}").and_then(|()| std::io::stdout().flush()).is_err() {
            return Ok(true);
        }
        line = client.next(None)?.unwrap_or_default();
    }
}

/// A line of standard input. None: nothing was said.
fn word(line: &str) -> Result<Option<Command>, String> {
    let words: Vec<_> = line.split_whitespace().collect();
    match words.as_slice() {
        [] => Ok(None),
        ["ready"] => Ok(Some(Command::Ready(Ready::default()))),
        ["hold", time] => Ok(Some(Command::Hold(Hold { migration: None, for_s: args::seconds(time)? }))),
        _ => Err(format!("\"{line}\" is not understood; say \"ready\" or \"hold 30s\"")),
    }
}

pub(crate) fn simulate(args: &Args, client: &mut Client, wanted: &args::Simulate) -> Result<bool, Trouble> {
    let simulate = Simulate {
        notice_s: wanted.notice,
        hold_s: wanted.hold,
        expedited: wanted.expedited,
        outcome: Some(wanted.outcome.clone()),
        watch: wanted.wait,
    };
    let mut line = client.ask(&Command::Simulate(simulate))?;
    let migration = line.get("migration").cloned().unwrap_or_default();
    let mut first = true;
    loop {
        let ours =
            first || line.get("migration") == Some(&migration) || line.get("event") == Some(&"hook".into());
        let shown = match (args.json, std::mem::take(&mut first)) {
            (true, _) => line.to_string(),
            (false, true) => format!(
                "simulated as {}: {} are asked; nothing moves",
                text(&line, "/migration"),
                text(&line, "/asked")
            ),
            (false, false) => event(&line),
        };
        if ours && writeln!(std::io::stdout(), "{shown}").is_err() {
            return Ok(true);
        }
        let name = text(&line, "/event");
        if !wanted.wait || ours && matches!(name.as_str(), "completed" | "failed" | "cancelled") {
            return Ok(name != "cancelled" || wanted.outcome == "cancelled");
        }
        line = client.next(None)?.unwrap_or_default();
    }
}

pub(crate) fn postponed(v: &Value) -> String {
    format!("{} begins in {} ms at the earliest", text(v, "/migration"), text(v, "/starts_in_ms"))
}

pub(crate) fn vetoed(v: &Value) -> String {
    format!("{} will not take place", text(v, "/migration"))
}

pub(crate) fn hosts(v: &Value) -> String {
    let row = |h: &Value| [text(h, "/place/alias"), text(h, "/place/region"), text(h, "/fitness")];
    let rows: Vec<_> = items(v, "/hosts").map(row).collect();
    if rows.is_empty() {
        return "the operator names no hosts".to_owned();
    }
    let mut out = table(["HOST", "REGION", "FIT"], &rows);
    let more = v.pointer("/all").and_then(Value::as_u64).unwrap_or(0).saturating_sub(rows.len() as u64);
    if more > 0 {
        let _ = write!(out, "and {more} more");
    }
    out.trim_end().to_owned()
}

/// The announced move, for status.
pub(crate) fn announced(v: &Value) -> String {
    let mut out = if flag(v, "/simulated") { "SIMULATED ".to_owned() } else { String::new() };
    let _ = write!(out, "{} by {}", text(v, "/migration"), text(v, "/initiator"));
    if_known(&mut out, " (", v, "/reason", ")");
    if_known(&mut out, ", begins in ", v, "/starts_in_ms", " ms at the earliest");
    if flag(v, "/expedited") {
        out.push_str(", expedited");
    }
    if_known(&mut out, "; ", v, "/stage", "");
    for party in items(v, "/asked") {
        let _ = write!(
            out,
            "\n           {} {}: {}",
            text(party, "/kind"),
            text(party, "/name"),
            text(party, "/state")
        );
        if_known(&mut out, " for ", party, "/for_s", " s at most");
    }
    out
}

pub(crate) fn window(change: Option<&args::Window>) -> Window {
    match change {
        None => Window::Show,
        Some(args::Window::Set { welcome, unwelcome, time_zone, ask_outside }) => Window::Set(Windows {
            time_zone: time_zone.clone(),
            welcome: welcome.clone(),
            unwelcome: unwelcome.clone(),
            ask_outside: *ask_outside,
        }),
        Some(args::Window::Reset) => Window::Reset,
        Some(args::Window::Open { time }) => Window::Open { for_s: *time },
        Some(args::Window::Close { time }) => Window::Close { for_s: *time },
    }
}

/// Whether moves are welcome now.
pub(crate) fn window_state(v: &Value) -> String {
    let mut out = if flag(v, "/open") { "open" } else { "closed" }.to_owned();
    if_known(&mut out, " until ", v, "/until", "");
    if !text(v, "/for_a_while").is_empty() {
        out.push_str(", as was said for a while");
    }
    out
}

pub(crate) fn windows(v: &Value) -> String {
    let mut out = format!(
        "Moves are {} now: {}\n",
        if flag(v, "/open") { "welcome" } else { "not welcome" },
        window_state(v)
    );
    for (name, key) in [("welcome", "/welcome"), ("unwelcome", "/unwelcome")] {
        for range in items(v, key) {
            let _ = writeln!(out, "{name:<11}{}", range.as_str().unwrap_or_default());
        }
    }
    if_known(&mut out, "time zone  ", v, "/time_zone", "\n");
    if_known(&mut out, "from       ", v, "/from", "");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_an_application() {
        assert_eq!(word("  ready "), Ok(Some(Command::Ready(Ready::default()))));
        assert_eq!(word("hold 2m"), Ok(Some(Command::Hold(Hold { migration: None, for_s: 120 }))));
        assert_eq!(word(""), Ok(None));
        for wrong in ["hold", "hold 5", "hold x s", "go", "ready now"] {
            assert!(word(wrong).is_err(), "{wrong}");
        }
    }
}
