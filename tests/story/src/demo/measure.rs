//! From rounds and moments to figures, and from figures to a verdict. Pure.
//!
//! Every time is in seconds since the neighbours got busy; before that it is negative.

use serde_json::{Value, json};

/// Rounds are back when they take at most this many times their baseline ...
const BACK: f64 = 1.2;
/// ... and are this much shorter than before the move.
const BETTER: f64 = 0.30;
/// Without a move they must take at least this many times their baseline, or the neighbours did nothing.
const STILL_SLOW: f64 = 1.3;
/// Neighbours that use less than this of their host's CPU, all together, are not busy.
const BUSY: f64 = 0.6;
/// The first second of the load is neither idle nor busy.
const SETTLE_S: f64 = 1.0;
/// After the guest was told, caches warm up.
const WARM_S: f64 = 2.0;

/// One round of the guest's work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Round {
    pub ended_s: f64,
    pub ms: f64,
}

/// What a run's guest did, and when.
#[derive(Debug, Clone, Default)]
pub struct Run {
    pub rounds: Vec<Round>,
    /// The beginning of its baseline.
    pub began_s: f64,
    pub ended_s: f64,
    /// The guest asked, for the first time.
    pub asked_s: Option<f64>,
    /// The source called libvirt to migrate.
    pub called_s: Option<f64>,
    /// The destination saw the guest resumed.
    pub resumed_s: Option<f64>,
    /// The guest's log says completed.
    pub completed_s: Option<f64>,
    /// What the neighbours used of their host's CPU at the end, all together.
    pub neighbours_load: Option<f64>,
}

impl Run {
    /// The median of the rounds that lie wholly between two moments. None: there are none.
    pub fn median_ms(&self, from_s: f64, to_s: f64) -> Option<f64> {
        let within = |r: &&Round| r.ended_s - r.ms / 1000.0 >= from_s && r.ended_s <= to_s;
        let mut ms: Vec<f64> = self.rounds.iter().filter(within).map(|r| r.ms).collect();
        ms.sort_by(f64::total_cmp);
        let (low, high) = (ms.get(ms.len().checked_sub(1)? / 2)?, ms.get(ms.len() / 2)?);
        Some((low + high) / 2.0)
    }

    /// While the neighbours are idle.
    pub fn baseline_ms(&self) -> Option<f64> {
        self.median_ms(self.began_s, 0.0)
    }

    /// While they are busy, until the move begins.
    fn degraded_ms(&self) -> Option<f64> {
        self.median_ms(SETTLE_S, self.called_s?)
    }

    /// While they are still busy, where it came from.
    fn after_ms(&self) -> Option<f64> {
        self.median_ms(self.completed_s? + WARM_S, self.ended_s)
    }

    /// While they are busy, without a move.
    fn loaded_ms(&self) -> Option<f64> {
        self.median_ms(SETTLE_S, self.ended_s)
    }

    /// At the end, without a move.
    fn last_third_ms(&self) -> Option<f64> {
        self.median_ms(SETTLE_S + (self.ended_s - SETTLE_S) * 2.0 / 3.0, self.ended_s)
    }

    /// For `result.json`: `[ended_s, round_ms]` each.
    pub fn raw(&self) -> Value {
        self.rounds.iter().map(|r| json!([(r.ended_s * 1000.0).round() / 1000.0, r.ms])).collect()
    }
}

/// What the rounds say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    pub baseline_ms: Option<f64>,
    pub degraded_ms: Option<f64>,
    pub after_ms: Option<f64>,
    pub control_baseline_ms: Option<f64>,
    pub control_ms: Option<f64>,
    pub control_last_third_ms: Option<f64>,
}

impl Figures {
    /// Of both runs.
    pub fn of(main: &Run, control: &Run) -> Figures {
        Figures {
            baseline_ms: main.baseline_ms(),
            degraded_ms: main.degraded_ms(),
            after_ms: main.after_ms(),
            control_baseline_ms: control.baseline_ms(),
            control_ms: control.loaded_ms(),
            control_last_third_ms: control.last_third_ms(),
        }
    }
}

/// What the demo promises and these runs do not show. `log`: the main run's guest's own.
pub fn missing(figures: &Figures, main: &Run, control: &Run, log: &[Value]) -> Vec<String> {
    let has = |event: &str, key: &str, value: &str| {
        let mut all = log.iter().filter(|e| e["event"] == event);
        if all.any(|e| e[key] == value) {
            return None;
        }
        let said: Vec<_> = log.iter().filter_map(|e| e["event"].as_str()).collect();
        Some(format!("the guest's log has no {event} with {key} {value}; it has {}", said.join(", ")))
    };
    let rounds = |what: &str, value: Option<f64>, of: Option<f64>, good: fn(f64) -> bool, limit: &str| {
        let (Some(value), Some(of)) = (value, of) else {
            return Some(format!("{what}: there are no rounds to judge it by"));
        };
        let shown = good(value / of);
        (!shown).then(|| format!("{what}: {value:.0} ms is {:.2} of {of:.0} ms; wanted: {limit}", value / of))
    };
    let busy = |what: &str, load: Option<f64>| match load {
        Some(load) if load >= BUSY => None,
        Some(load) => Some(format!("{what}: they use {load:.2} of the CPU; wanted: at least {BUSY}")),
        None => Some(format!("{what}: what they use of the CPU is not known")),
    };
    let f = figures;
    [
        has("completed", "outcome", "completed"),
        has("effect", "verdict", "helped"),
        rounds(
            "back after the move",
            f.after_ms,
            f.baseline_ms,
            |r| r <= BACK,
            &format!("at most {BACK} of the baseline"),
        ),
        rounds(
            "better after the move",
            f.after_ms,
            f.degraded_ms,
            |r| r <= 1.0 - BETTER,
            &format!("at most {} of the rounds before it", 1.0 - BETTER),
        ),
        rounds(
            "slow without a move",
            f.control_ms,
            f.control_baseline_ms,
            |r| r >= STILL_SLOW,
            &format!("at least {STILL_SLOW} of its baseline"),
        ),
        rounds(
            "slow without a move to the end",
            f.control_last_third_ms,
            f.control_baseline_ms,
            |r| r >= STILL_SLOW,
            &format!("at least {STILL_SLOW} of its baseline"),
        ),
        busy("neighbours busy to the end", main.neighbours_load),
        busy("neighbours busy to the end of the control run", control.neighbours_load),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of one length, end to end.
    fn rounds(from_s: f64, to_s: f64, ms: f64) -> Vec<Round> {
        let count = ((to_s - from_s) * 1000.0 / ms) as u32;
        (1..=count).map(|i| Round { ended_s: from_s + f64::from(i) * ms / 1000.0, ms }).collect()
    }

    fn good() -> (Run, Run, Vec<Value>) {
        let parts = [(-20.0, 0.0, 200.0), (0.0, 10.0, 800.0), (12.0, 40.0, 190.0)];
        let main = Run {
            rounds: parts.into_iter().flat_map(|(from, to, ms)| rounds(from, to, ms)).collect(),
            began_s: -20.0,
            ended_s: 40.0,
            asked_s: Some(9.0),
            called_s: Some(9.1),
            resumed_s: Some(11.0),
            completed_s: Some(11.1),
            neighbours_load: Some(0.99),
        };
        let mut slow = rounds(-20.0, 0.0, 200.0);
        slow.extend(rounds(0.0, 40.0, 800.0));
        let control =
            Run { rounds: slow, began_s: -20.0, ended_s: 40.0, neighbours_load: Some(1.0), ..Run::default() };
        let log = vec![
            json!({ "event": "completed", "outcome": "completed" }),
            json!({ "event": "effect", "verdict": "helped" }),
        ];
        (main, control, log)
    }

    #[test]
    fn the_papers_figure_is_recognized() {
        let (main, control, log) = good();
        let figures = Figures::of(&main, &control);
        let shown = [figures.baseline_ms, figures.degraded_ms, figures.after_ms, figures.control_ms];
        assert_eq!(shown, [200.0, 800.0, 190.0, 800.0].map(Some));
        assert_eq!(missing(&figures, &main, &control, &log), Vec::<String>::new());
    }

    #[test]
    fn whatever_is_not_shown_is_said() {
        let (main, control, log) = good();
        let wrong = |main: &Run, control: &Run, log: &[Value]| {
            missing(&Figures::of(main, control), main, control, log)
        };
        assert!(wrong(&main, &control, &log[1..])[0].contains("no completed"));
        assert!(wrong(&main, &control, &log[..1])[0].contains("no effect with verdict helped"));
        let never_moved = Run { called_s: None, completed_s: None, ..main.clone() };
        assert_eq!(wrong(&never_moved, &control, &log).len(), 2, "neither back nor better can be judged");
        assert_eq!(wrong(&control, &main, &log).len(), 4, "nothing came back, and the control did");
        let idle = Run { neighbours_load: Some(0.3), ..main.clone() };
        assert!(wrong(&idle, &control, &log)[0].contains("0.30"));
        let mut late = control.clone();
        late.rounds.retain(|r| r.ended_s < 25.0);
        late.rounds.extend(rounds(25.0, 40.0, 200.0));
        assert!(wrong(&main, &late, &log).iter().any(|w| w.starts_with("slow without a move to the end")));
    }

    #[test]
    fn a_median_takes_whole_rounds_only() {
        let run = Run { rounds: rounds(0.0, 1.0, 200.0), ..Run::default() };
        assert_eq!(run.median_ms(0.1, 0.5), Some(200.0), "one lies within");
        assert_eq!(run.median_ms(0.1, 0.3), None);
        let run = Run { rounds: [1.0, 2.0, 4.0, 9.0].map(|ms| Round { ended_s: 1.0, ms }).to_vec(), ..run };
        assert_eq!(run.median_ms(0.0, 1.0), Some(3.0));
    }
}
