//! Bad host or bad guest? A guest that overloads itself must not move for it; one squeezed by neighbours must.
//!
//! What tells them apart:
//! - **Calibration**: what a fixed piece of work costs in CPU time, against what it usually costs. A guest's own
//!   tasks do not change it; a host that keeps the CPU away does.
//! - **Steal**, where the hypervisor tells of it: the same, in other words.
//! - **Own wait**: how long the guest's own tasks wait for a CPU. Neighbours lengthen it too, so it speaks against
//!   the guest only while calibration and steal are as usual.
//! - **Packets**: more is asked of the guest than usual.
//!
//! "Usual" is learned while all workloads are well. It goes along to the next host, until enough was measured
//! there. One stall is no sign: the dearest piece of work is left out.

use crate::event::{Counters, Measured};
use coms_protocol::guest_to_host::Evidence;
use coms_protocol::types::{Metric, Text};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Host when the work costs so much more than usual.
const DEARER: f64 = 1.5;
/// Host when so much is stolen.
const STOLEN_PERMILLE: u64 = 100;
/// Own when tasks wait so much, and more than usual by [`WAITS_MORE`]. A slower host lengthens the waiting as it
/// lengthens the work, so this is more than [`DEARER`].
const WAITS_PERMILLE: u64 = 500;
const WAITS_MORE: f64 = 2.0;
/// Own when so many times the usual packets come in, and so many more per second.
const BUSIER: u64 = 3;
const BUSIER_BY_PER_S: u64 = 200;

/// Pieces of work that are judged together, at least and at most, and how old they may be.
const JUDGED_MIN: usize = 6;
const JUDGED_MAX: usize = 12;
const JUDGED_AGE: Duration = Duration::from_secs(120);
/// Pieces from which "usual" is learned: the first guess, the whole lesson, and the most remembered.
const LEARN_MIN: usize = 8;
const LEARN: usize = 16;
const LEARN_MAX: usize = 32;

/// A piece of work should take so long: half of it to four times.
const PIECE_US: f64 = 5000.0;
const DOUBLINGS_MAX: u32 = 10;
/// What costs less is not counted: a kernel that knows the time by its ticks is far off there.
const COUNTED_US: f64 = 1000.0;
/// It leaves the CPU alone for so many times as long.
const REST: u32 = 50;
const REST_MIN: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(1);
/// Once all is well and known, look so often.
const REST_WELL: Duration = Duration::from_secs(60);
/// A measurement that did not come back is lost.
const LOST: Duration = Duration::from_secs(60);

/// What is usual here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Usual {
    /// What a million rounds of the fixed work cost, in microseconds of CPU time: a good moment's price.
    pub calibration_us: u64,
    /// Time that tasks waited for each CPU, in thousandths of elapsed time: 2000 when two always wait.
    pub own_wait_permille: Option<u64>,
    /// Packets that came in per second.
    pub packets_per_s: Option<u64>,
    /// The program that measured it: another one's work may cost something else.
    pub of: String,
}

/// What was measured lately, and what is usual. Absent is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Pieces of work that this is made of.
    pub measurements: u32,
    /// CPU time of a million rounds of the fixed work.
    pub calibration_us: Option<u64>,
    /// The same, usually.
    pub calibration_usual_us: Option<u64>,
    /// Stolen time, in thousandths of all CPUs' time.
    pub steal_permille: Option<u64>,
    /// Time that tasks waited for each CPU, in thousandths of elapsed time.
    pub own_wait_permille: Option<u64>,
    /// The same, usually.
    pub own_wait_usual_permille: Option<u64>,
    /// Packets that came in per second.
    pub packets_per_s: Option<u64>,
    /// The same, usually.
    pub packets_usual_per_s: Option<u64>,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The host gives less than usual.
    Host,
    /// The guest does more than usual.
    Own,
    /// Neither can be seen.
    Unclear,
}

/// Judges, and says why.
pub fn judge(f: &Figures) -> (Verdict, String) {
    if let Some(steal) = f.steal_permille.filter(|s| *s >= STOLEN_PERMILLE) {
        let percent = steal / 10;
        return (Verdict::Host, format!("the hypervisor keeps {percent} % of the CPU time away"));
    }
    let Some((now, usual)) = f.calibration_us.zip(f.calibration_usual_us) else {
        return (
            Verdict::Unclear,
            "too little was measured to tell the host's part from the guest's".to_owned(),
        );
    };
    let dearer = now as f64 / usual.max(1) as f64;
    if dearer >= DEARER {
        let why =
            format!("a fixed piece of work takes {dearer:.1} times its usual CPU time: the host gives less");
        return (Verdict::Host, why);
    }
    let speed = format!(
        "the CPU is about as fast as usual ({dearer:.2} times the usual time for a fixed piece of work)"
    );
    let waits_usually = f.own_wait_usual_permille.unwrap_or(0);
    if let Some(waits) = f.own_wait_permille.filter(|w| *w >= WAITS_PERMILLE)
        && waits as f64 >= waits_usually as f64 * WAITS_MORE
    {
        let why = format!(
            "{:.1} of its own tasks wait for each CPU (usually {:.1}), while {speed}",
            waits as f64 / 1000.0,
            waits_usually as f64 / 1000.0
        );
        return (Verdict::Own, why);
    }
    if let Some((now, usual)) = f.packets_per_s.zip(f.packets_usual_per_s)
        && now >= usual.saturating_mul(BUSIER)
        && now >= usual.saturating_add(BUSIER_BY_PER_S)
    {
        let why = format!("{now} packets come in per second (usually {usual}), while {speed}");
        return (Verdict::Own, why);
    }
    (Verdict::Unclear, format!("{speed}, and the guest does no more than usual"))
}

/// One measurement, and what was counted since the one before. The measuring itself is in none of the counts.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    at: Duration,
    /// Of a million rounds.
    cost_us: Option<f64>,
    elapsed_us: Option<u64>,
    waited_us: Option<u64>,
    all_ticks: Option<u64>,
    steal_ticks: Option<u64>,
    packets: Option<u64>,
}

/// What is measured of the machine, when, and what it means.
#[derive(Debug, Default)]
pub struct Blame {
    usual: Option<Usual>,
    well: VecDeque<Piece>,
    lately: VecDeque<Piece>,
    last: Option<Counters>,
    well_before: bool,
    /// A measurement under way, since when.
    running: Option<Duration>,
    rested_at: Duration,
    /// The next piece of work, as a power of two.
    doublings: u32,
}

impl Blame {
    /// `known` was usual before a restart.
    pub fn new(known: Option<&Usual>) -> Self {
        Self { usual: known.filter(|u| u.of == crate::AGENT).cloned(), ..Self::default() }
    }

    /// Units of work to measure now, if it is time to. `well`: no workload suffers.
    pub fn poll(&mut self, now: Duration, well: bool) -> Option<u32> {
        if std::mem::replace(&mut self.well_before, well) && !well {
            // How it was while all was well does not speak for or against anybody.
            self.afresh();
        }
        if self.running.is_some_and(|since| now < since + LOST) || now < self.due(well) {
            return None;
        }
        self.running = Some(now);
        Some(self.units())
    }

    /// When the next measurement is due.
    pub fn due(&self, well: bool) -> Duration {
        if well && self.well.len() >= LEARN {
            return self.rested_at + REST_WELL.saturating_sub(REST_MIN);
        }
        self.rested_at
    }

    /// A measurement is under way.
    pub fn is_measuring(&self) -> bool {
        self.running.is_some()
    }

    /// How much work is right is found out step by step: no single measurement can make the next one long.
    fn units(&self) -> u32 {
        1 << self.doublings
    }

    fn fit(&mut self, cost_us: f64) {
        if cost_us < PIECE_US / 2.0 {
            self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
        } else if cost_us > PIECE_US * 4.0 {
            self.doublings = self.doublings.saturating_sub(1);
        }
    }

    /// Takes a measurement in. True: what is usual is known now, better than before.
    pub fn measured(&mut self, m: &Measured, well: bool, settled: bool) -> bool {
        self.running = None;
        let cost_us = m.cost.map(|c| c.as_secs_f64() * 1e6);
        if let Some(us) = cost_us {
            self.fit(us);
        }
        let rest = m.cost.unwrap_or_default().saturating_mul(REST).clamp(REST_MIN, REST_MAX);
        self.rested_at = m.after.at + rest;
        let Some(last) = self.last.replace(m.after) else { return false };
        let since = |now: Option<u64>, then: Option<u64>| now.zip(then).and_then(|(n, t)| n.checked_sub(t));
        let elapsed_us = u64::try_from(m.before.at.saturating_sub(last.at).as_micros()).unwrap_or(u64::MAX);
        let piece = Piece {
            at: m.after.at,
            // Ten units are a million rounds.
            cost_us: cost_us.filter(|us| *us >= COUNTED_US).map(|us| us * 10.0 / f64::from(m.units.max(1))),
            elapsed_us: Some(elapsed_us),
            // Without pressure figures: was there a crowd when it was looked at?
            waited_us: since(m.before.waited_us, last.waited_us)
                .or_else(|| m.before.crowded.map(|c| if c { elapsed_us } else { 0 })),
            all_ticks: since(m.before.all_ticks, last.all_ticks),
            steal_ticks: since(m.before.steal_ticks, last.steal_ticks),
            packets: since(m.before.packets, last.packets),
        };
        push(&mut self.lately, piece, JUDGED_MAX);
        self.lately.retain(|p| p.at + JUDGED_AGE >= piece.at);
        if !(well && self.well_before && settled) {
            return false;
        }
        push(&mut self.well, piece, LEARN_MAX);
        self.learn();
        self.well.len() == LEARN
    }

    fn learn(&mut self) {
        let mut costs: Vec<f64> = self.well.iter().filter_map(|p| p.cost_us).collect();
        if costs.len() < LEARN_MIN {
            return;
        }
        costs.sort_by(f64::total_cmp);
        // A tenth were cheaper.
        let Some(cost) = costs.get(costs.len() / 10) else { return };
        self.usual = Some(Usual {
            calibration_us: (*cost as u64).max(1),
            own_wait_permille: own_wait_permille(&self.well),
            packets_per_s: packets_per_s(&self.well),
            of: crate::AGENT.to_owned(),
        });
    }

    /// What is usual, to be remembered.
    pub fn usual(&self) -> Option<&Usual> {
        self.usual.as_ref()
    }

    /// Enough was measured lately for a verdict.
    pub fn is_ready(&self, now: Duration) -> bool {
        self.recent(now).count() >= JUDGED_MIN
    }

    /// What was measured lately counts no more, because time has passed in which all may have changed.
    pub fn afresh(&mut self) {
        self.lately.clear();
        self.last = None;
    }

    /// Runs on another host now. What was usual goes along until it is known here.
    pub fn moved(&mut self) {
        self.afresh();
        self.well.clear();
    }

    fn recent(&self, now: Duration) -> impl Iterator<Item = &Piece> {
        self.lately.iter().filter(move |p| p.at + JUDGED_AGE >= now)
    }

    /// What was measured lately.
    pub fn figures(&self, now: Duration) -> Figures {
        let pieces: VecDeque<Piece> = self.recent(now).copied().collect();
        let usual = self.usual.as_ref();
        Figures {
            measurements: u32::try_from(pieces.len()).unwrap_or(u32::MAX),
            calibration_us: calibration_us(&pieces),
            calibration_usual_us: usual.map(|u| u.calibration_us),
            steal_permille: ratio(&pieces, |p| p.steal_ticks, |p| p.all_ticks, 1000),
            own_wait_permille: own_wait_permille(&pieces),
            own_wait_usual_permille: usual.and_then(|u| u.own_wait_permille),
            packets_per_s: packets_per_s(&pieces),
            packets_usual_per_s: usual.and_then(|u| u.packets_per_s),
        }
    }
}

fn push(pieces: &mut VecDeque<Piece>, piece: Piece, most: usize) {
    if pieces.len() >= most {
        pieces.pop_front();
    }
    pieces.push_back(piece);
}

/// Mean without the dearest: one stall is no sign.
fn calibration_us(pieces: &VecDeque<Piece>) -> Option<u64> {
    let costs: Vec<f64> = pieces.iter().filter_map(|p| p.cost_us).collect();
    let dearest = costs.iter().copied().reduce(f64::max)?;
    if costs.len() < JUDGED_MIN {
        return None;
    }
    Some(((costs.iter().sum::<f64>() - dearest) / (costs.len() - 1) as f64) as u64)
}

fn own_wait_permille(pieces: &VecDeque<Piece>) -> Option<u64> {
    ratio(pieces, |p| p.waited_us, |p| p.elapsed_us, 1000)
}

fn packets_per_s(pieces: &VecDeque<Piece>) -> Option<u64> {
    ratio(pieces, |p| p.packets, |p| p.elapsed_us, 1_000_000)
}

type Count = fn(&Piece) -> Option<u64>;

/// The sum of `part` over the sum of `whole`, times `scale`, over the pieces that have both.
fn ratio(pieces: &VecDeque<Piece>, part: Count, whole: Count, scale: u128) -> Option<u64> {
    let both = pieces.iter().filter_map(|p| part(p).zip(whole(p)));
    let (part, whole) =
        both.fold((0u128, 0u128), |(a, b), (part, whole)| (a + u128::from(part), b + u128::from(whole)));
    (part * scale).checked_div(whole).and_then(|r| u64::try_from(r).ok())
}

impl Figures {
    /// As a request tells it, behind what was measured of the workloads.
    pub fn evidence(&self) -> Vec<Evidence> {
        let limit = |usual: Option<u64>, times: f64| usual.map(|u| (u as f64 * times) as u64);
        let one = |metric, now: Option<u64>, baseline, threshold| {
            now.map(|now| Evidence {
                workload: Text::default(),
                metric,
                now,
                baseline,
                threshold,
                for_s: 0,
                samples: self.measurements,
            })
        };
        let waits = limit(self.own_wait_usual_permille, WAITS_MORE).map(|w| w.max(WAITS_PERMILLE));
        [
            one(
                Metric::CalibrationUs,
                self.calibration_us,
                self.calibration_usual_us,
                limit(self.calibration_usual_us, DEARER),
            ),
            one(Metric::StealPermille, self.steal_permille, None, Some(STOLEN_PERMILLE)),
            one(Metric::OwnWaitPermille, self.own_wait_permille, self.own_wait_usual_permille, waits),
            one(Metric::PacketsPerS, self.packets_per_s, self.packets_usual_per_s, None),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests;
