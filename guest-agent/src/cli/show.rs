//! The daemon's JSON as text for people. What is absent is not shown; nothing is made up for it.

use crate::{asked, clients};
use serde_json::Value;
use std::fmt::Write;

/// Text at `path`, or nothing.
pub(crate) fn text(v: &Value, path: &str) -> String {
    match v.pointer(path) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Number(n)) => n.to_string(),
        Some(other @ (Value::Bool(_) | Value::Array(_) | Value::Object(_))) => other.to_string(),
        Some(Value::Null) | None => String::new(),
    }
}

pub(crate) fn flag(v: &Value, path: &str) -> bool {
    v.pointer(path).and_then(Value::as_bool).unwrap_or(false)
}

/// "before VALUE after", if there is a value.
pub(crate) fn if_known(out: &mut String, before: &str, v: &Value, path: &str, after: &str) {
    let value = text(v, path);
    if !value.is_empty() {
        let _ = write!(out, "{before}{value}{after}");
    }
}

pub(crate) fn items<'a>(v: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    v.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

pub(crate) fn status(v: &Value) -> String {
    let mut out = String::new();
    if flag(v, "/connected") {
        let _ = write!(out, "Host       {} in {}", text(v, "/place/alias"), text(v, "/place/region"));
        out.push_str(if flag(v, "/enabled") {
            ", requests are welcome\n"
        } else {
            ", requests are not enabled for this VM (the operator decides)\n"
        });
    } else {
        let why = match text(v, "/port").as_str() {
            "missing" => text(v, "/port_error"),
            "host-absent" => {
                "nobody is at the port's other end; the host's coms-broker is not running, or just restarting"
                    .to_owned()
            }
            _ => "waiting for the host's coms-broker to answer".to_owned(),
        };
        let _ = writeln!(out, "Host       not connected: {why}");
        if_known(&mut out, "           last seen on ", v, "/place/alias", "\n");
    }
    match v.pointer("/request") {
        None => {
            out.push_str("Request    none outstanding");
            if_known(&mut out, "; no automatic one for ", v, "/cooldown_s", " s after the last move");
            if_known(&mut out, "; no automatic one for ", v, "/backoff_s", " s after a refusal");
            out.push('\n');
        }
        Some(r) => {
            let _ = write!(
                out,
                "Request    {} ({}), {} since {}",
                text(r, "/request"),
                text(r, "/reason"),
                text(r, "/state"),
                text(r, "/asked_at")
            );
            if_known(&mut out, ", migration ", r, "/migration", "");
            if flag(r, "/cancelling") {
                out.push_str(", being called off");
            }
            out.push('\n');
        }
    }
    if let Some(a) = v.pointer("/announced") {
        let _ = writeln!(out, "Announced  {}", asked::announced(a));
    }
    for s in items(v, "/scheduled") {
        let _ = write!(
            out,
            "Scheduled  {} from {} until {}",
            text(s, "/scheduled"),
            text(s, "/from"),
            text(s, "/until")
        );
        if_known(&mut out, ", asked as request ", s, "/request", "");
        out.push('\n');
    }
    if let Some(w) = v.pointer("/windows") {
        let _ = writeln!(out, "Windows    {}", asked::window_state(w));
    }
    if let Some(m) = v.pointer("/moving") {
        let _ = writeln!(
            out,
            "Moving     {} for {} s: {}",
            text(m, "/migration"),
            text(m, "/since_s"),
            progress(m)
        );
    }
    if let Some(r) = v.pointer("/random") {
        let _ = write!(out, "Random     {}", text(r, "/state"));
        if_known(&mut out, ", ", r, "/made", "");
        if_known(&mut out, " of at most ", r, "/most_per_day", " moves within 24 hours");
        out.push('\n');
    }
    if let Some(e) = v.pointer("/encryption") {
        let _ = write!(out, "Encryption {}", protection(e));
    }
    if let Some(f) = v.pointer("/following") {
        let _ = writeln!(out, "Clients    {}", clients::line(f));
    }
    if let Some(last) = v.pointer("/last") {
        let _ = writeln!(out, "Last       {}", record(last));
    }
    if flag(v, "/measuring_effect") {
        out.push_str("           measuring whether it helped\n");
    }
    let apps: Vec<_> = items(v, "/apps").map(|a| text(a, "/app")).collect();
    if !apps.is_empty() {
        let _ = writeln!(out, "Asked      {}", apps.join(", "));
    }
    if let Some(machine) = v.pointer("/machine") {
        let _ = writeln!(out, "Machine    {}", self::machine(machine));
    }
    let rows: Vec<_> = items(v, "/workloads")
        .map(|w| {
            let ms = |path| {
                Some(text(w, path)).filter(|t| !t.is_empty()).map_or("-".to_owned(), |t| format!("{t} ms"))
            };
            let mut state = text(w, "/state");
            if_known(&mut state, " ", w, "/learned_percent", " %");
            if_known(&mut state, " for ", w, "/since_s", " s");
            [
                text(w, "/workload"),
                state,
                text(w, "/metric"),
                ms("/now_ms"),
                ms("/baseline_ms"),
                ms("/threshold_ms"),
                text(w, "/samples"),
                text(w, "/failures"),
            ]
        })
        .collect();
    if rows.is_empty() {
        out.push_str(
            "Workloads  none are watched (see /etc/coms/agent.toml); migrations are told all the same",
        );
    } else {
        out.push('\n');
        out.push_str(&table(
            ["WORKLOAD", "STATE", "METRIC", "NOW", "BASELINE", "LIMIT", "OK", "FAILED"],
            &rows,
        ));
    }
    out.trim_end().to_owned()
}

pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let width =
        |i: usize| rows.iter().map(|r| r[i].chars().count()).chain([head[i].len()]).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in std::iter::once(&head.map(str::to_owned)).chain(rows) {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}

/// What slows the workloads and whether that is a reason to ask, and the figures that say so.
fn machine(m: &Value) -> String {
    let asks = flag(m, "/reason_to_ask");
    let slows = match text(m, "/verdict").as_str() {
        "host" => "the host slows it, which is a reason to ask for a move: ",
        "own" if asks => "its own load slows it; it asks for a move all the same (ask_for_own_load): ",
        "own" => "its own load slows it, so it asks for no move: ",
        "unclear" => "what slows it cannot be told from here; it asks, and the host looks for itself: ",
        _ => "",
    };
    let mut out = String::new();
    let mut figure = |name: &str, now: &str, usual: &str, per: f64, unit: &str| {
        let number = |key: &str| m.get(key).and_then(Value::as_f64).map(|n| n / per);
        let Some(now) = number(now) else { return };
        let digits = usize::from(per > 1.0);
        let _ = write!(out, "{}{name} {now:.digits$}{unit}", if out.is_empty() { "" } else { ", " });
        if let Some(usual) = number(usual) {
            let _ = write!(out, " (usually {usual:.digits$})");
        }
    };
    figure(
        "a fixed piece of work takes",
        "calibration_us",
        "calibration_usual_us",
        1000.0,
        " ms of CPU time",
    );
    figure("stolen CPU time", "steal_permille", "", 10.0, " %");
    figure("tasks waiting per CPU", "own_wait_permille", "own_wait_usual_permille", 1000.0, "");
    figure("packets/s", "packets_per_s", "packets_usual_per_s", 1.0, "");
    let figures = if out.is_empty() { "not measured yet" } else { &out };
    let why = text(m, "/why");
    if slows.is_empty() { figures.to_owned() } else { format!("{slows}{why}\n           {figures}") }
}

/// One line of the history.
fn record(r: &Value) -> String {
    let mut out = format!("{} {}", text(r, "/ended_at"), text(r, "/outcome"));
    if_known(&mut out, " (", r, "/why", ")");
    if_known(&mut out, " after all, ", r, "/told_before", " was told before:");
    if_known(&mut out, " ", r, "/migration", "");
    if_known(&mut out, ", request ", r, "/request", "");
    if_known(&mut out, " (", r, "/reason", ")");
    if_known(&mut out, ", wanted by ", r, "/initiator", "");
    if text(r, "/reason").is_empty() {
        if_known(&mut out, " (", r, "/notice_reason", ")");
    }
    if flag(r, "/expedited") {
        out.push_str(", expedited");
    }
    if_known(&mut out, ", from ", r, "/from/region", "");
    if_known(&mut out, " to ", r, "/to/region", "");
    figures(&mut out, r);
    if let Some(effect) = r.pointer("/effect") {
        let _ = write!(out, "; {}", verdict(effect));
    }
    out
}

fn figures(out: &mut String, v: &Value) {
    if_known(out, ", ", v, "/technique", "");
    if_known(out, ", encryption ", v, "/encryption", "");
    if_known(out, " (memory ", v, "/enforced/ram", "");
    if_known(out, ", disks ", v, "/enforced/disk", "");
    if_known(out, ", control ", v, "/enforced/control", ")");
    if_known(out, ", took ", v, "/total_ms", " ms");
    if_known(out, ", downtime ", v, "/downtime_ms", " ms");
    if_known(out, ", the clock here stood still for ", v, "/guest_gap_ms", " ms");
    if_known(out, " ± ", v, "/guest_gap_error_ms", "");
}

/// What is wanted of all moves, what holds, and who demands it.
fn protection(e: &Value) -> String {
    let mut out = String::new();
    let wanted = text(e, "/wanted");
    match (text(e, "/in_force").as_str(), text(e, "/why").as_str()) {
        ("", "") => out.push_str("what holds is not known yet"),
        ("", _) => out.push_str("the host is too old for it; nothing that requires it is asked for"),
        (level, _) => {
            out.push_str(level);
            if_known(&mut out, ", demanded by the ", e, "/by", "");
        }
    }
    if wanted != "never" {
        let _ = write!(out, "; wanted: {wanted}");
        if e.get("kept_by_host") == Some(&Value::Bool(false)) {
            out.push_str(" (the host has not kept that yet, or this VM takes no part)");
        }
    }
    out.push('\n');
    out
}

fn verdict(e: &Value) -> String {
    let mut out = match text(e, "/verdict").as_str() {
        "helped" => "it helped".to_owned(),
        "no-change" => "it changed nothing".to_owned(),
        "worse" => "it made things worse".to_owned(),
        _ => "whether it helped is unknown".to_owned(),
    };
    if_known(&mut out, ": ", e, "/workload", "");
    if_known(&mut out, " ", e, "/metric", "");
    if_known(&mut out, " ", e, "/before_ms", " ms");
    if_known(&mut out, " -> ", e, "/after_ms", " ms");
    if_known(&mut out, " (", e, "/improved_percent", " % faster)");
    if_known(&mut out, ", at worst ", e, "/worst_during_ms", " ms meanwhile");
    out
}

pub(crate) fn history(v: &Value) -> String {
    let lines: Vec<_> = items(v, "/history").map(record).collect();
    if lines.is_empty() { "nothing yet".to_owned() } else { lines.join("\n") }
}

pub(crate) fn progress(v: &Value) -> String {
    let phase = text(v, "/phase");
    let mut out = if phase.is_empty() { "begun".to_owned() } else { phase };
    if_known(&mut out, ", ", v, "/bytes_remaining", " bytes to go");
    if_known(&mut out, " of ", v, "/bytes_total", "");
    out
}

pub(crate) fn asked(v: &Value) -> String {
    if v.get("scheduled").is_some() {
        let (id, from, until) = (text(v, "/scheduled"), text(v, "/from"), text(v, "/until"));
        return format!(
            "scheduled as {id}: asked for from {from} on, until {until}; `coms cancel --scheduled {id}` calls it off"
        );
    }
    let mut out =
        format!("asked as request {}; see `coms status`, or wait with `coms watch`", text(v, "/request"));
    if !flag(v, "/connected") {
        out.push_str("\nThe host is not connected; it will be told when it is.");
    }
    out
}

pub(crate) fn cancelling(v: &Value) -> String {
    let request = text(v, "/request");
    if v.get("scheduled").is_some() {
        return format!("scheduled move {} is called off", text(v, "/scheduled"));
    }
    if flag(v, "/ended") {
        return format!("request {request} is called off; no host had heard of it");
    }
    let mut out =
        format!("request {request} is being called off; its final answer follows: see `coms watch`");
    if !flag(v, "/connected") {
        out.push_str("\nThe host is not connected; it will be told when it is.");
    }
    out
}

/// One event, as a line.
pub(crate) fn event(v: &Value) -> String {
    let mut out = format!("{} {}", text(v, "/at"), text(v, "/event"));
    match text(v, "/event").as_str() {
        "effect" => {
            let _ = write!(out, " {}: {}", text(v, "/migration"), verdict(v));
        }
        "completed" | "failed" | "cancelled" => {
            if flag(v, "/simulated") {
                out.push_str(" SIMULATED");
            }
            if_known(&mut out, " (", v, "/why", ")");
            if_known(&mut out, " after all, ", v, "/told_before", " was told before:");
            if_known(&mut out, " ", v, "/migration", "");
            if_known(&mut out, ", request ", v, "/request", "");
            if_known(&mut out, ", now in ", v, "/to/region", "");
            if_known(&mut out, " on ", v, "/to/alias", "");
            figures(&mut out, v);
        }
        "progress" => {
            let _ = write!(out, " {}: {}", text(v, "/migration"), progress(v));
        }
        _ => {
            let hidden = ["at", "mono_ms", "event", "final"];
            for (key, value) in
                v.as_object().into_iter().flatten().filter(|(k, _)| !hidden.contains(&k.as_str()))
            {
                let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let _ = write!(out, " {key}={shown}");
            }
        }
    }
    out
}

pub(crate) fn ping(v: &Value) -> String {
    let mut out = format!(
        "{} sent, {} answered, {} lost, {} doubled",
        text(v, "/sent"),
        text(v, "/answered"),
        text(v, "/lost"),
        text(v, "/doubled")
    );
    if_known(&mut out, "; round trip p50 ", v, "/rtt_p50_us", " µs");
    if_known(&mut out, ", p99 ", v, "/rtt_p99_us", " µs");
    if_known(&mut out, ", max ", v, "/rtt_max_us", " µs");
    out
}
