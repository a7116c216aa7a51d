//! `coms clients`, and its line in `coms status`.

use crate::show::{if_known, items, table, text};
use serde_json::Value;
use std::fmt::Write;

fn percent(v: &Value, path: &str) -> String {
    v.pointer(path).and_then(Value::as_f64).map_or("-".to_owned(), |p| format!("{:.1} %", p / 10.0))
}

/// How they stand, in a line.
pub(crate) fn line(v: &Value) -> String {
    let wanted = text(v, "/region");
    let largest = items(v, "/regions").max_by_key(|r| r["clients_permille"].as_u64().unwrap_or(0));
    let shown =
        items(v, "/regions").find(|r| !wanted.is_empty() && r["region"] == wanted.as_str()).or(largest);
    let mut out = match shown {
        Some(r) => format!(
            "{}: {} of {} clients, {} of traffic",
            text(r, "/region"),
            percent(r, "/clients_permille"),
            text(v, "/placed"),
            percent(r, "/traffic_permille")
        ),
        None => "not counted yet".to_owned(),
    };
    if_known(&mut out, ", round trip of all ", v, "/rtt_ms", " ms");
    if !wanted.is_empty() {
        let _ = write!(out, "; for {} s of {} s", text(v, "/for_s"), text(v, "/wanted_for_s"));
    }
    if_known(&mut out, "; asks for no move: ", v, "/asks_not", "");
    if_known(&mut out, "\n           ", v, "/database_error", "");
    if_known(&mut out, "\n           ", v, "/trouble", "");
    out
}

/// All of it.
pub(crate) fn show(v: &Value) -> String {
    let mut out = String::new();
    let number = |path: &str| Some(text(v, path)).filter(|t| !t.is_empty()).unwrap_or("0".to_owned());
    if v.get("placed").is_some() {
        let _ = writeln!(
            out,
            "{} clients of known place, {} of unknown, over {} connections; {} connections left out",
            number("/placed"),
            number("/unknown_place/clients"),
            number("/connections"),
            number("/left_out")
        );
        if_known(&mut out, "One client of ", v, "/one_of", " is counted, and stands for the others\n");
        if v["by_plugin"] == true {
            out.push_str("As a plugin reports them: the connections here are its load balancer's\n");
        }
    }
    let here = text(v, "/here");
    let row = |r: &Value, name: String| {
        let rtt = Some(text(r, "/rtt_ms")).filter(|t| !t.is_empty());
        [
            name,
            text(r, "/clients"),
            percent(r, "/clients_permille"),
            percent(r, "/traffic_permille"),
            rtt.map_or("-".to_owned(), |t| format!("{t} ms")),
        ]
    };
    let mut rows: Vec<_> = items(v, "/regions")
        .map(|r| {
            let name = text(r, "/region");
            row(r, if name == here { format!("{name} (here)") } else { name })
        })
        .collect();
    rows.extend(v.get("in_no_region").map(|r| row(r, "(no region)".to_owned())));
    if !rows.is_empty() {
        out.push_str(&table(["REGION", "CLIENTS", "SHARE", "OF TRAFFIC", "ROUND TRIP"], &rows));
    }
    let countries: Vec<_> = items(v, "/countries")
        .map(|c| format!("{} {}", text(c, "/country"), percent(c, "/clients_permille")))
        .collect();
    if !countries.is_empty() {
        let _ = writeln!(out, "Countries  {}", countries.join(", "));
    }
    let _ = write!(
        out,
        "Rule       {} of traffic and of clients, for {} s, of at least {} clients: {}",
        percent(v, "/majority_permille"),
        text(v, "/wanted_for_s"),
        text(v, "/min_clients"),
        text(v, "/state")
    );
    if_known(&mut out, ", ", v, "/region", "");
    if_known(&mut out, " for ", v, "/for_s", " s");
    out.push('\n');
    match text(v, "/asks_not").as_str() {
        "" => out.push_str("Asks       as soon as nothing else is under way"),
        why => {
            let _ = write!(out, "Asks       no: {why}");
        }
    }
    if_known(&mut out, "\nDatabase   ", v, "/database_error", "");
    if_known(&mut out, "\nTrouble    ", v, "/trouble", "");
    if_known(&mut out, "\nCapture    ", v, "/capture_error", "");
    out
}
