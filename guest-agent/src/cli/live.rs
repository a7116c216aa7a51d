//! `coms watch` on a terminal: how everything stands, drawn anew each second, above what happened last.

use crate::client::{Client, Trouble};
use crate::show::{self, items, text};
use coms_agent::event::Command;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const EACH: Duration = Duration::from_secs(1);
/// Samples of a workload that are drawn: two minutes.
const TRAIL: usize = 120;
const EVENTS: usize = 200;
const LEAST_EVENTS: usize = 5;
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Sample {
    Ms(f64),
    /// Nothing was measured.
    Gap,
    /// The VM arrived on another host.
    Moved,
}

#[derive(Debug, Default)]
struct Live {
    events: VecDeque<String>,
    /// The last event was progress: the next one takes its place.
    progressing: bool,
    trails: BTreeMap<String, VecDeque<Sample>>,
}

/// Until the daemon hangs up or nobody looks any more.
pub(crate) fn run(mut client: Client, socket: &Path) -> Result<bool, Trouble> {
    client.ask(&Command::Watch)?;
    let mut asker = Client::connect(socket)?;
    let mut live = Live::default();
    let mut next = Instant::now();
    // The frame is drawn over the last one; nothing has to be undone when Ctrl-C ends it.
    let mut before = "\x1b[2J";
    loop {
        let status = asker.ask(&Command::Status)?;
        if Instant::now() >= next {
            live.sampled(&status);
            next = Instant::now() + EACH;
        }
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let (width, height) =
            size.filter(|s| s.ws_col > 0 && s.ws_row > 0).map_or((80, 24), |s| (s.ws_col, s.ws_row));
        let frame = live.frame(&status, usize::from(width), usize::from(height));
        let mut out = std::io::stdout();
        if write!(out, "{before}\x1b[H{frame}\x1b[J").and_then(|()| out.flush()).is_err() {
            return Ok(true);
        }
        before = "";
        let left = next.saturating_duration_since(Instant::now());
        if let Some(event) = client.next(Some(left.max(Duration::from_millis(1))))? {
            live.happened(&event);
        }
    }
}

impl Live {
    fn happened(&mut self, event: &Value) {
        let progress = text(event, "/event") == "progress";
        if progress && self.progressing {
            self.events.pop_back();
        }
        self.progressing = progress;
        let arrived = matches!(text(event, "/event").as_str(), "completed" | "moved_unannounced");
        if arrived && event.pointer("/simulated").is_none() {
            self.trails.values_mut().for_each(|trail| push(trail, Sample::Moved));
        }
        self.events.push_back(show::event(event));
        while self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    fn sampled(&mut self, status: &Value) {
        // Those that a reload has ended are not drawn on.
        self.trails.retain(|name, _| items(status, "/workloads").any(|w| text(w, "/workload") == *name));
        for workload in items(status, "/workloads") {
            let now = workload.pointer("/now_ms").and_then(Value::as_f64);
            let trail = self.trails.entry(text(workload, "/workload")).or_default();
            push(trail, now.map_or(Sample::Gap, Sample::Ms));
        }
    }

    /// At most `height` lines of at most `width` characters, each wiping what stood there before.
    fn frame(&self, status: &Value, width: usize, height: usize) -> String {
        let mut lines: Vec<String> = show::status(status).lines().map(str::to_owned).collect();
        let names = self.trails.keys().map(|n| n.chars().count()).max().unwrap_or(0);
        if names > 0 {
            lines.push(String::new());
        }
        for (name, trail) in &self.trails {
            lines.push(format!("{name:<names$}  {}", drawn(trail, width.saturating_sub(names + 16))));
        }
        // The newest events have what room is left, at the bottom, and a few lines in any case.
        lines.truncate(height.saturating_sub(2 + LEAST_EVENTS.min(self.events.len())));
        lines.push(String::new());
        let room = height.saturating_sub(lines.len() + 1).min(self.events.len());
        lines.extend(self.events.iter().skip(self.events.len() - room).cloned());
        lines.truncate(height.saturating_sub(1).max(1));
        let shown: Vec<String> = lines
            .iter()
            .map(|line| {
                let line: String =
                    line.chars().take(width).map(|c| if c.is_control() { ' ' } else { c }).collect();
                format!("\x1b[K{line}")
            })
            .collect();
        shown.join("\n")
    }
}

fn push(trail: &mut VecDeque<Sample>, sample: Sample) {
    trail.push_back(sample);
    while trail.len() > TRAIL {
        trail.pop_front();
    }
}

/// The newest samples that fit, each as high as it is long beside the longest, a move as a bar between them.
fn drawn(trail: &VecDeque<Sample>, room: usize) -> String {
    let shown = trail.iter().skip(trail.len().saturating_sub(room));
    let ms = |s: &Sample| if let Sample::Ms(ms) = s { Some(*ms) } else { None };
    let most = shown.clone().filter_map(ms).fold(0.0, f64::max);
    let mut out: String = shown
        .map(|sample| match sample {
            Sample::Gap => ' ',
            Sample::Moved => '┃',
            Sample::Ms(_) if most <= 0.0 => LEVELS[0],
            // At most the highest level, whose index it is.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Sample::Ms(ms) => LEVELS[((ms / most * 7.0).round() as usize).min(7)],
        })
        .collect();
    out.push_str(&format!("  up to {most:.0} ms"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(now_ms: u64) -> Value {
        json!({
            "connected": true, "enabled": true, "place": { "alias": "h1", "region": "north" },
            "workloads": [{ "workload": "shop", "state": "normal", "metric": "p95", "now_ms": now_ms }],
        })
    }

    fn plain(frame: &str) -> Vec<String> {
        frame.split('\n').map(|l| l.trim_start_matches("\x1b[K").to_owned()).collect()
    }

    #[test]
    fn a_workload_is_drawn_as_high_as_it_is_slow_and_a_move_is_seen() {
        let mut live = Live::default();
        for ms in [10, 10, 80] {
            live.sampled(&status(ms));
        }
        live.happened(&json!({ "at": "now", "event": "completed", "migration": "m1" }));
        live.sampled(&status(10));
        let lines = plain(&live.frame(&status(10), 80, 24));
        assert!(lines.iter().any(|l| l == "shop  ▂▂█┃▂  up to 80 ms"), "{lines:#?}");
        assert!(lines.iter().any(|l| l.starts_with("now completed m1")), "{lines:#?}");
    }

    #[test]
    fn a_frame_fits_whatever_happened_and_nothing_in_it_steers_the_terminal() {
        let mut live = Live::default();
        for n in 0..500 {
            live.sampled(&status(n));
            live.happened(&json!({ "event": "denied", "why": format!("{n}\x1b[31m{}", "x".repeat(300)) }));
        }
        for (width, height) in [(80, 24), (20, 5), (1, 1), (300, 90)] {
            let frame = live.frame(&status(3), width, height);
            let lines = plain(&frame);
            assert!(lines.len() <= height, "{} lines in {height}", lines.len());
            assert!(lines.iter().all(|l| l.chars().count() <= width), "{width}");
            assert!(lines.iter().all(|l| !l.contains('\x1b')), "{lines:#?}");
        }
        let lines = plain(&live.frame(&status(3), 80, 24));
        assert!(lines.last().is_some_and(|l| l.contains("499")), "the newest is the last: {lines:#?}");
    }

    #[test]
    fn progress_takes_the_place_of_progress() {
        let mut live = Live::default();
        for (event, n) in [("started", 0), ("progress", 1), ("progress", 2), ("completed", 3)] {
            live.happened(&json!({ "event": event, "migration": format!("m{n}") }));
        }
        let events: Vec<_> = live.events.iter().map(String::as_str).collect();
        assert_eq!(events.len(), 3, "{events:?}");
        assert!(events[1].contains("m2"), "{events:?}");
    }
}
