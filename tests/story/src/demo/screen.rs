//! The terminal, as it happens. On anything else: the same lines, plain.

use serde_json::Value;
use std::io::{IsTerminal as _, Write as _};

/// A bar's character stands for so much of a round.
const MS_PER_CHAR: f64 = 25.0;
const MBIT_PER_CHAR: f64 = 2.0;
const LONGEST_BAR: usize = 60;

/// Where lines go.
pub struct Screen {
    colours: bool,
    /// What a round took while all was well.
    normal_ms: Option<f64>,
}

impl Screen {
    /// Standard output.
    pub fn new() -> Screen {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Screen { colours, normal_ms: None }
    }

    /// A new part of the story.
    pub fn phase(&mut self, text: &str) {
        self.line(&format!("\n{}", self.paint("1", text)));
    }

    /// What was just done.
    pub fn note(&mut self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// Rounds are judged by this from now on.
    pub fn set_normal(&mut self, normal_ms: Option<f64>) {
        self.normal_ms = normal_ms;
    }

    /// What the rounds of the last second took.
    pub fn round(&mut self, at_s: f64, place: &str, round_ms: f64) {
        let length = ((round_ms / MS_PER_CHAR).round().max(1.0) as usize).min(LONGEST_BAR);
        let bar = if self.colours { "█" } else { "#" }.repeat(length);
        let colour = match self.normal_ms.map(|n| round_ms / n) {
            Some(ratio) if ratio > 1.5 => "31",
            Some(ratio) if ratio > 1.2 => "33",
            Some(_) | None => "32",
        };
        let bar = self.paint(colour, &bar);
        // Never "-0".
        let at_s = at_s.round() + 0.0;
        self.line(&format!("  {at_s:>5.0} s  {place:<6} round {round_ms:>5.0} ms  {bar}"));
    }

    /// What a client got in the last second.
    pub fn rate(&mut self, at_s: f64, place: &str, mbit_s: f64) {
        let length = ((mbit_s / MBIT_PER_CHAR).round().max(0.0) as usize).min(LONGEST_BAR);
        let bar = self.paint("32", &if self.colours { "█" } else { "#" }.repeat(length));
        let at_s = at_s.round() + 0.0;
        self.line(&format!("  {at_s:>5.0} s  {place:<6} {mbit_s:>5.0} Mbit/s  {bar}"));
    }

    /// An event of the guest's agent.
    pub fn event(&mut self, at_s: f64, whose: &str, event: &Value) {
        if let Some(text) = sentence(event) {
            let text = self.paint("36", &format!("{whose}: {text}"));
            self.line(&format!("  {at_s:>5.1} s  {text}"));
        }
    }

    /// As it is.
    pub fn line(&mut self, text: &str) {
        // Nobody reads it: then nobody misses it.
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// An event for people. None: nothing that belongs to the story.
fn sentence(event: &Value) -> Option<String> {
    let word = |path: &str| match event.pointer(path) {
        Some(Value::String(s)) => s.clone(),
        Some(v) => v.to_string(),
        None => "unknown".to_owned(),
    };
    let ms = |path: &str| {
        event.pointer(path).and_then(Value::as_f64).map_or("unknown".to_owned(), |v| format!("{v:.0} ms"))
    };
    Some(match event["event"].as_str()? {
        "connected" => format!("connected to a broker in region {} ({})", word("/region"), word("/alias")),
        "workload_learned" => format!("learned its baseline: {} {}", word("/metric"), ms("/baseline_ms")),
        "workload_slow" => format!(
            "slow: {} {}, above {} (baseline {})",
            word("/metric"),
            ms("/now_ms"),
            ms("/threshold_ms"),
            ms("/baseline_ms")
        ),
        "workload_recovered" => format!("well again: {} {}", word("/metric"), ms("/now_ms")),
        "clients_elsewhere" => format!(
            "most of its clients are in {}: {} of 1000, and {} of 1000 bytes",
            word("/region"),
            word("/clients_permille"),
            word("/traffic_permille")
        ),
        "asked" if event["reason"] == "clients" => {
            format!("asked to be nearer to its clients, in {}", word("/evidence/0/workload"))
        }
        "asked" if event.pointer("/evidence/0").is_none() => "asked to be moved".to_owned(),
        "asked" => format!(
            "asked to be moved: {} {} {}",
            word("/evidence/0/workload"),
            word("/evidence/0/metric"),
            ms("/evidence/0/now_ms")
        ),
        "accepted" => format!("accepted: migration {}", word("/migration")),
        "notice" => format!(
            "notice: {} by {} ({}), begins in {}, may be held for {}",
            word("/migration"),
            word("/initiator"),
            word("/reason"),
            ms("/starts_in_ms"),
            ms("/hold_up_to_ms")
        ),
        "app_registered" => format!("the application {} wants to be asked", word("/app")),
        "app_holds" => format!("the application {} holds the move", word("/app")),
        "app_ready" => format!("the application {} is ready", word("/app")),
        "hold" | "postpone" => format!("to the host: {}, because of {}", word("/event"), word("/cause")),
        "ready" => "to the host: ready".to_owned(),
        "verdict" => format!(
            "the host: {} granted: {}, begins in {}",
            word("/asked"),
            word("/granted"),
            ms("/starts_in_ms")
        ),
        "windows_changed" => format!("windows open: {}", word("/open")),
        "encryption" => format!("its moves' encryption: {}, as {} wants", word("/in_force"), word("/by")),
        "started" => "memory is being copied".to_owned(),
        // One that somebody asked for by hand, or that may be asked again at once, is not put off.
        "denied" => match event["next_automatic_request_s"].as_u64() {
            Some(seconds) => format!("denied: {}; asks again in {seconds} s", word("/reason")),
            None => format!("denied: {}", word("/reason")),
        },
        "completed" => format!(
            "completed: {} -> {}, downtime {}, in {}",
            word("/from/region"),
            word("/to/region"),
            ms("/downtime_ms"),
            ms("/total_ms")
        ),
        "failed" | "cancelled" => format!("{}: {}", word("/event"), word("/why")),
        "effect" => format!(
            "effect: {} by {} % ({} -> {})",
            word("/verdict"),
            word("/improved_percent"),
            ms("/before_ms"),
            ms("/after_ms")
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_request_that_was_put_off_is_asked_again() {
        let denied = |next: Option<u64>| {
            sentence(&json!({ "event": "denied", "reason": "busy", "next_automatic_request_s": next }))
        };
        assert_eq!(denied(Some(60)).as_deref(), Some("denied: busy; asks again in 60 s"));
        assert_eq!(denied(None).as_deref(), Some("denied: busy"));
    }
}
