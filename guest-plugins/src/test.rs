//! `coms plugin test NAME`: one plugin, run here and now, and what is understood of it.

use crate::args::{Args, Test};
use crate::list::reading;
use coms_plugins::config::{Config, Kind, Plugin};
use coms_plugins::decide::desk::Event;
use coms_plugins::decide::judge::{Heard, judge};
use coms_plugins::io::keeper::Keeper;
use coms_plugins::io::programs;
use coms_plugins::io::runner::{Of, RunAs, run as run_plugin};
use coms_plugins::reading::{Moment, Problem, Reading};
use serde_json::json;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

pub(crate) fn run(args: &Args, config: Config, wanted: &Test) -> ExitCode {
    let Some(plugin) = config.plugin(&wanted.name) else {
        let names: Vec<_> = config.plugins.iter().map(|p| p.name.as_str()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        crate::complain(args, &format!("there is no plugin {}; there is: {names}", wanted.name));
        return ExitCode::FAILURE;
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            crate::complain(args, &format!("cannot start: {e}"));
            return ExitCode::FAILURE;
        }
    };
    // What it says on standard error belongs to what is shown.
    if !args.json {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_target(false)
            .without_time()
            .with_ansi(std::io::stderr().is_terminal())
            .init();
    }
    let good = runtime.block_on(try_it(args, &config, plugin, wanted));
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a program prints behind its last sample (complaints, and that it ends) is worth hearing, too.
const LINGER: Duration = Duration::from_millis(500);

/// True: it measured, and nothing was wrong.
async fn try_it(args: &Args, config: &Config, plugin: &Plugin, wanted: &Test) -> bool {
    let (to, mut events) = mpsc::channel(64);
    let (_inbox, lines) = mpsc::channel(1);
    let (stop, stopped) = watch::channel(false);
    let is_root = rustix::process::geteuid().is_root();
    if let Kind::Nagios(_) | Kind::Execd(_) = plugin.kind
        && !is_root
        && !args.json
    {
        println!("runs as you; as root it would run as its own user, as the daemon does it");
    }
    let of = Of {
        index: 0,
        plugin: plugin.clone(),
        to,
        inbox: lines,
        stop: stopped,
        stop_within: config.stop,
        run_as: if is_root { RunAs::Configured } else { RunAs::Caller },
        keeper: Arc::new(Keeper::new()),
    };
    let runner = tokio::spawn(run_plugin(of));
    let warnings = programs::problems(plugin, false);
    for w in &warnings {
        let text = format!("warning: {}\n   mend: {}", w.what, w.mend);
        crate::say(args, &json!({ "warning": w }), &text);
    }
    let is_scraped = matches!(plugin.kind, Kind::OpenMetrics(_));
    let is_program = matches!(plugin.kind, Kind::Execd(_));
    let until = Instant::now() + Duration::from_secs(wanted.for_s.into());
    let (mut shown, mut measured, mut failed, mut wrong) = (0, 0, 0, 0);
    let mut compared = false;
    let mut last = Instant::now();
    let mut linger = None;
    loop {
        if shown >= wanted.count && is_program && linger.is_none() {
            linger = Some(Instant::now() + LINGER);
        } else if shown >= wanted.count && !is_program {
            break;
        }
        let Ok(Some((_, event))) = timeout_at(linger.unwrap_or(until), events.recv()).await else { break };
        let after_ms = u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX);
        match event {
            // What a metric says of the time since the last scrape, the first one cannot.
            Event::Reading(r)
                if is_scraped
                    && !std::mem::replace(&mut compared, true)
                    && r.is_empty()
                    && r.problems.is_empty() =>
            {
                let text = "     the first scrape: nothing to compare with yet";
                crate::say(args, &json!({ "first_scrape": true }), text);
            }
            Event::Reading(_) if linger.is_some() => {}
            Event::Reading(r) => {
                shown += 1;
                last = Instant::now();
                let heard = judge(&r, plugin.judging);
                measured += u32::from(matches!(heard, Some(Heard::TookUs(_))));
                failed += u32::from(matches!(heard, Some(Heard::Failed(_))));
                let problems = all_problems(plugin, &r, heard.as_ref());
                wrong += problems.len();
                show(args, plugin, shown, after_ms, &r, heard.as_ref(), &problems);
            }
            Event::Dropped { lines, why } => {
                wrong += 1;
                let text = format!("     wrong: {lines} lines are not looked at: {why}");
                crate::say(args, &json!({ "dropped": lines, "why": why }), &text);
            }
            Event::Started => {}
            Event::Ended { how, again_in } => {
                wrong += 1;
                let (how, mend) = (how.what, how.mend);
                let text = format!(
                    "     wrong: it ended ({how}); the daemon would start it again in {} s\n     mend:  {mend}",
                    again_in.as_secs()
                );
                let value = json!({ "ended": how, "again_in_s": again_in.as_secs(), "mend": mend });
                crate::say(args, &value, &text);
            }
        }
    }
    stop.send_replace(true);
    let end = async {
        while events.recv().await.is_some() {}
        let _ = runner.await;
    };
    if timeout(config.stop + Duration::from_secs(2), end).await.is_err() {
        wrong += 1;
        crate::say(
            args,
            &json!({ "hangs": true }),
            "     wrong: it does not end, not even when it is killed",
        );
    }
    let good = measured > 0 && wrong == 0;
    let text = match (shown, measured, wrong) {
        (0, _, _) => {
            format!("{}: said nothing within {} s: {}", plugin.name, wanted.for_s, silent(&plugin.kind))
        }
        (_, 0, 0) if failed == 0 => {
            format!("{}: nothing was measured in {shown} samples; is the workload idle?", plugin.name)
        }
        (_, 0, wrong) if failed > 0 => {
            let more = if wrong > 0 { format!("; {wrong} things are wrong (above)") } else { String::new() };
            format!("{}: nothing was measured: {failed} of {shown} samples are failures{more}", plugin.name)
        }
        (_, _, 0) => format!("{}: all is well: {measured} of {shown} were measurements", plugin.name),
        (_, _, wrong) => format!(
            "{}: {measured} of {shown} were measurements; {wrong} things are wrong (above)",
            plugin.name
        ),
    };
    crate::say(
        args,
        &json!({ "ok": good, "plugin": plugin.name, "shown": shown, "measured": measured, "wrong": wrong }),
        &text,
    );
    good
}

/// What is wrong with a reading, here also with what nobody would hear.
fn all_problems(plugin: &Plugin, r: &Reading, heard: Option<&Heard>) -> Vec<Problem> {
    let mut problems = r.problems.clone();
    let (hold_s, notices) = may_say(plugin);
    if hold_s == 0 && r.moment.is_some() {
        let mend = "set hold_s in plugins.toml: the longest that it may hold a move";
        problems.push(Problem::new("a bad moment holds no move: hold_s is 0", mend));
    }
    if !notices && r.ready {
        let mend = "set notices = true, and notice_s: the time that it may take to answer";
        problems.push(Problem::new("nobody asked whether it is ready: it hears no notices", mend));
    }
    if r.wish.is_some() && !plugin.may_wish {
        problems
            .push(Problem::new("its wish is not handed on", "set may_wish = true in plugins.toml if it may"));
    }
    if heard.is_none() && r.throughput_per_s.is_some() && r.problems.is_empty() && r.latency_us.is_none() {
        let mend = "set measure = \"throughput\" in plugins.toml, or measure a latency";
        problems.push(Problem::new(
            "the agent hears nothing of it: latency counts, and there is only throughput",
            mend,
        ));
    }
    problems
}

/// What is right, and may yet surprise.
fn notes(r: &Reading) -> Vec<String> {
    let mut notes = r.notes.clone();
    if let Some((errors, requests)) = r.errors.zip(r.requests)
        && errors > requests
    {
        notes.push(format!("{errors} errors of {requests} requests: counted as {errors} of {errors}"));
    }
    notes
}

/// The longest that it may hold a move, and whether it hears of moves.
fn may_say(plugin: &Plugin) -> (u32, bool) {
    match &plugin.kind {
        Kind::Execd(e) => (e.hold_s, e.notices),
        Kind::Nagios(_) | Kind::OpenMetrics(_) | Kind::StatsD(_) => (0, false),
    }
}

/// Why nothing may have come.
fn silent(kind: &Kind) -> String {
    match kind {
        Kind::Execd(_) => {
            "does it flush its output after each line? (Python: print(..., flush=True))".to_owned()
        }
        Kind::StatsD(s) => format!("nothing came to {}; does the application send there?", s.listen),
        Kind::Nagios(_) => "give it a --for longer than its timeout_ms".to_owned(),
        Kind::OpenMetrics(_) => "give it a --for longer than two times interval_ms".to_owned(),
    }
}

fn show(
    args: &Args,
    plugin: &Plugin,
    number: u32,
    after_ms: u64,
    r: &Reading,
    heard: Option<&Heard>,
    problems: &[Problem],
) {
    let notes = notes(r);
    let value = json!({ "sample": number, "after_ms": after_ms, "understood": r, "heard": heard, "problems": problems,
        "notes": notes });
    let mut text = format!("{number:>3}  after {after_ms} ms: {}", reading(&json!(r)));
    let agent = match heard {
        Some(Heard::TookUs(us)) => format!("{:.3} ms", *us as f64 / 1000.0),
        Some(Heard::Failed(why)) => format!("a failure: {why}"),
        None => "nothing".to_owned(),
    };
    text += &format!("\n     the agent would hear: {agent}");
    let (hold_s, _) = may_say(plugin);
    if hold_s > 0 && matches!(r.moment, Some(Moment::Bad(_))) {
        text += &format!("; an announced move waits, at most {hold_s} s (try it: coms simulate --wait)");
    }
    if r.wish.is_some() && plugin.may_wish {
        text += "; a wish to be moved, for a minute (event plugin_wish: coms watch)";
    }
    for note in &notes {
        text += &format!("\n     note:  {note}");
    }
    for p in problems {
        text += &format!("\n     wrong: {}\n     mend:  {}", p.what, p.mend);
    }
    crate::say(args, &value, &text);
}
