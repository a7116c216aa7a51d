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
        Ok(mut status) => {
            // Who may not ask the agent does without.
            let may_wish = config.plugins.iter().any(|p| p.may_wish);
            if let Some(why) =
                control::ask_agent(&config.agent).ok().filter(|_| may_wish).and_then(|a| in_the_way(&a))
            {
                status["wishes_wait"] = why.into();
            }
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

/// Why the agent would not ask the host now, whoever wishes it.
fn in_the_way(agent: &Value) -> Option<String> {
    if agent["ok"] != true {
        return None;
    }
    if agent["connected"] != true {
        return Some("the host is not connected".to_owned());
    }
    if agent["enabled"] == false {
        return Some("requests are not enabled for this VM (the operator decides)".to_owned());
    }
    if agent["request"].is_object() {
        return Some("a request is outstanding".to_owned());
    }
    if agent["moving"].is_object() || agent["announced"].is_object() || agent["measuring_effect"] == true {
        return Some("a move is under way, or its effect is being measured".to_owned());
    }
    if agent["windows"]["open"] == false {
        return Some(
            "moves are not welcome now (coms window), unless agent.toml says ask_outside = true".to_owned(),
        );
    }
    let left = |key: &str| agent[key].as_u64().filter(|s| *s > 0);
    let after = |s: u64, what: &str| format!("no automatic request for {s} s after {what}");
    left("cooldown_s").map(|s| after(s, "the last move")).or(left("backoff_s").map(|s| after(s, "a refusal")))
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
    if let Some(why) = status["wishes_wait"].as_str() {
        let _ = writeln!(out, "a wish moves nothing now, and is gone a minute after it was said: {why}");
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wish_that_nobody_hears_is_told_with_why() {
        let well = json!({ "ok": true, "connected": true, "enabled": true, "measuring_effect": false });
        assert_eq!(in_the_way(&well), None);
        for (key, value, words) in [
            ("connected", json!(false), "not connected"),
            ("enabled", json!(false), "not enabled"),
            ("request", json!({ "request": "r1" }), "outstanding"),
            ("moving", json!({ "migration": "m1" }), "under way"),
            ("windows", json!({ "open": false }), "not welcome"),
            ("cooldown_s", json!(12), "12 s after the last move"),
            ("backoff_s", json!(9), "9 s after a refusal"),
        ] {
            let mut agent = well.clone();
            agent[key] = value;
            assert!(in_the_way(&agent).is_some_and(|why| why.contains(words)), "{agent}");
        }
        assert_eq!(in_the_way(&json!({ "ok": false, "error": "no" })), None, "who may not look");
        let shown =
            text(&json!({ "agent": "connected", "plugins": [], "wishes_wait": "the host is not connected" }));
        assert!(
            shown.contains("moves nothing now, and is gone a minute after it was said: the host is not"),
            "{shown}"
        );
    }
}
