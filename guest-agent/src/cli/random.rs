//! `coms random`.

use crate::args::{Random, RandomWhat};
use coms_agent::config::RandomMoves;
use coms_agent::event;
use serde_json::Value;
use std::fmt::Write;

impl Random {
    pub(crate) fn command(&self) -> event::Command {
        event::Command::Random(match &self.what {
            RandomWhat::Start(s) => event::Random::Start(RandomMoves {
                law: s.law,
                least_s: s.between.0,
                most_s: s.between.1,
                most_per_day: s.max_per_day,
            }),
            RandomWhat::Stop => event::Random::Stop,
            RandomWhat::Status(s) => event::Random::Status { stays_s: s.stay.clone() },
        })
    }
}

fn number(v: &Value, path: &str) -> f64 {
    v.pointer(path).and_then(Value::as_f64).unwrap_or_default()
}

/// The answer as text.
pub(crate) fn show(v: &Value) -> String {
    if v["connected"] == false {
        let wanted = if v["wanted"].is_null() { "no random moves" } else { "random moves" };
        return format!("The host is not connected. It will be told when it is that {wanted} are wanted.");
    }
    let state = v["state"].as_str().unwrap_or("unknown");
    let means = match state {
        "on" => "",
        "off" => ": nobody asked for them, or they were stopped",
        "budget-used-up" => ": they go on by themselves when 24 hours have passed over the first ones",
        "no-destination" => ": no other host of the pool can take this VM now; tried again later",
        "paused" => ": the operator has paused customers' moves; they go on when he resumes",
        "not-offered" => ": the operator does not offer them to this VM",
        _ => "",
    };
    let mut out = format!("Random moves are {state}{means}\n");
    if v["law"].is_string() {
        let _ = writeln!(
            out,
            "Gaps of {} to {}, {}, {:.0} s on average; drawn by the host, which does not tell",
            time(number(v, "/least_s")),
            time(number(v, "/most_s")),
            v["law"].as_str().unwrap_or_default(),
            number(v, "/mean_s"),
        );
        let _ = write!(
            out,
            "{} of at most {} moves within 24 hours",
            number(v, "/made"),
            number(v, "/most_per_day")
        );
        if let Some(pool) = v["pool"].as_u64() {
            let _ = write!(out, ", among {pool} hosts");
        }
        out.push('\n');
    }
    if let Some(stays) = v["stays"].as_array() {
        out.push_str("The chance to be on one host for longer than\n");
        for stay in stays {
            let _ = writeln!(
                out,
                "  {:<6} {:>6.2} %  {}",
                time(number(stay, "/longer_than_s")),
                number(stay, "/chance") * 100.0,
                stay["what"].as_str().unwrap_or_default()
            );
        }
        out.push_str("From an arrival to the next move's beginning; the move itself comes on top.\n");
    }
    out.trim_end().to_owned()
}

fn time(s: f64) -> String {
    match s as u64 {
        s if s >= 3600 && s.is_multiple_of(3600) => format!("{}h", s / 3600),
        s if s >= 60 && s.is_multiple_of(60) => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}
