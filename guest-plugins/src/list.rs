//! `coms plugin list`.

use crate::args::Args;
use coms_plugins::config::Config;
use coms_plugins::io::control;
use serde_json::Value;
use std::fmt::Write;
use std::process::ExitCode;

/// What the daemon says; without one, what would run.
pub(crate) fn show(args: &Args, config: Config) -> ExitCode {
    match control::ask(&config.control) {
        Ok(status) => {
            crate::say(args, &status, &text(&status));
            ExitCode::SUCCESS
        }
        Err(e) => {
            let names: Vec<_> =
                config.plugins.iter().map(|p| format!("{} ({})", p.name, p.kind.name())).collect();
            let hint = if e.kind() == std::io::ErrorKind::PermissionDenied {
                "be root, or a member of its group (sudo usermod -aG coms \"$USER\", and log in again)"
                    .to_owned()
            } else {
                format!("is coms-plugins running? (systemctl status coms-plugins): {e}")
            };
            let configured = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let why =
                format!("{}: cannot be reached; {hint}; configured: {configured}", config.control.display());
            crate::complain(args, &why);
            ExitCode::from(3)
        }
    }
}

fn text(status: &Value) -> String {
    let word = |v: &Value, key: &str| match &v[key] {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    };
    let mut out = String::new();
    let agent = word(status, "agent");
    let _ = writeln!(out, "agent: {agent}");
    let plugins = status["plugins"].as_array().map(Vec::as_slice).unwrap_or_default();
    let width = plugins.iter().map(|p| word(p, "plugin").len()).max().unwrap_or(0).max(6);
    let _ = writeln!(
        out,
        "{:<width$}  {:<11}  {:>8}  {:>8}  {:>8}  LAST",
        "PLUGIN", "KIND", "MEASURED", "FAILED", "DROPPED"
    );
    for p in plugins {
        let last = reading(&p["last"]);
        let ago =
            p["last_s"].as_u64().map_or_else(|| "nothing yet".to_owned(), |s| format!("{last}, {s} s ago"));
        let _ = writeln!(
            out,
            "{:<width$}  {:<11}  {:>8}  {:>8}  {:>8}  {ago}",
            word(p, "plugin"),
            word(p, "kind"),
            word(p, "samples"),
            word(p, "failures"),
            word(p, "dropped"),
        );
        let mut more = |name: &str, text: String| {
            if !text.is_empty() {
                let _ = writeln!(out, "{:width$}    {name}: {text}", "");
            }
        };
        let problem = &p["problem"];
        more("wrong", word(problem, "what"));
        more("mend ", word(problem, "mend"));
        if word(p, "agent") != "taken" {
            more("agent", word(p, "agent"));
        }
        if word(p, "moment") != "good" {
            more("moment", word(p, "moment"));
        }
    }
    if plugins.is_empty() {
        out.push_str("no plugins: /etc/coms/plugins.toml names none\n");
    }
    out.trim_end().to_owned()
}

/// A reading in a few words.
pub(crate) fn reading(r: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(us) = r["latency_us"].as_f64() {
        parts.push(format!("latency {:.3} ms", us / 1000.0));
    }
    if let Some(n) = r["throughput_per_s"].as_f64() {
        parts.push(format!("{n:.1} per s"));
    }
    if let Some(n) = r["requests"].as_f64() {
        parts.push(format!("{n:.0} requests"));
    }
    if let Some(n) = r["errors"].as_f64() {
        parts.push(format!("{n:.0} errors"));
    }
    match &r["moment"] {
        Value::String(_) => parts.push("good moment".to_owned()),
        Value::Object(map) => {
            let why = map.get("bad").and_then(Value::as_str).unwrap_or_default();
            parts.push(if why.is_empty() { "bad moment".to_owned() } else { format!("bad moment: {why}") });
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {}
    }
    if r["ready"] == true {
        parts.push("ready".to_owned());
    }
    if let Some(why) = r["wish"].as_str() {
        parts.push(format!("wishes to be moved: {why}"));
    }
    if let Some(clients) = r["clients"].as_array() {
        parts.push(format!("{} networks of clients", clients.len()));
    }
    if let Some(why) = r["failed"].as_str() {
        parts.push(format!("failed: {why}"));
    }
    if parts.is_empty() { "nothing measured".to_owned() } else { parts.join(", ") }
}
