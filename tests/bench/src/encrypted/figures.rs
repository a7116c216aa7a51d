//! What the moves show: figures with their intervals, against the goals and beside the paper's.

use super::plan::{BESIDE, Case, Load, Part, Settings, Step, Way};
use super::{Raw, Sample};
use crate::report::{Finding, Judged};
use crate::stats::{Estimate, estimate, paired, percentile};
use std::fmt::Write as _;

/// Encrypted over plain, at most.
const GOAL_RATIO: f64 = 1.05;
/// Encrypted less plain, at most.
const GOAL_DOWNTIME_MS: f64 = 20.0;
/// From this use of it on, the link is what a move waits for.
const BOUND: f64 = 0.95;
/// What the link carries for each byte that its device counts: a big segment is counted with one header, and carried with one
/// for each of its packets.
const CARRIED: f64 = 1514.0 / 1448.0;
/// The paper's encrypted moves, over its plain ones: total times by about 30 %, downtimes "doubled or even tripled".
const PAPER_TOTAL: [f64; 2] = [1.3, 1.3];
const PAPER_DOWNTIME: [f64; 2] = [2.0, 3.0];

/// Plain and encrypted, the same pair at the same place.
struct Pairs<'a> {
    plain: Vec<&'a Sample>,
    tls: Vec<&'a Sample>,
}

impl<'a> Pairs<'a> {
    /// Of those that are whole.
    fn of(raw: &'a Raw, load: Load) -> Pairs<'a> {
        let mut pairs = Pairs { plain: Vec::new(), tls: Vec::new() };
        for round in 1..=raw.settings.pairs {
            let of = |way: Way| {
                let mut all = raw.samples.iter().filter(|s| s.part == Part::Pairs && s.round == round);
                all.find(|s| s.case == Case { load, way, capped: true })
            };
            if let (Some(plain), Some(tls)) = (of(Way::Plain), of(Way::Tls)) {
                pairs.plain.push(plain);
                pairs.tls.push(tls);
            }
        }
        pairs
    }

    fn both(&self, value: fn(&Sample) -> f64) -> [Vec<f64>; 2] {
        [&self.plain, &self.tls].map(|side| side.iter().map(|s| value(s)).collect())
    }

    /// Encrypted over plain.
    fn ratio(&self, value: fn(&Sample) -> f64) -> Estimate {
        let [plain, tls] = self.both(value);
        paired(&tls, &plain, |tls, plain| tls / plain)
    }

    /// Encrypted less plain.
    fn difference(&self, value: fn(&Sample) -> f64) -> Estimate {
        let [plain, tls] = self.both(value);
        paired(&tls, &plain, |tls, plain| tls - plain)
    }
}

/// CPU time of both QEMUs for what was sent; with it that of the destination's start and of the guest.
fn cpu_s_per_gib(sample: &Sample) -> f64 {
    (sample.cpu_source_s + sample.cpu_destination_s) / (sample.sent_bytes / f64::from(1 << 30))
}

fn cpu_source_s_per_gib(sample: &Sample) -> f64 {
    sample.cpu_source_s / (sample.sent_bytes / f64::from(1 << 30))
}

/// How much of the link both kinds of move used, while most of the memory went.
fn link_use(pairs: &Pairs<'_>, settings: &Settings) -> [f64; 2] {
    let carried = |side: Vec<f64>| percentile(&side, 0.5) * CARRIED / f64::from(settings.link_mbit_s);
    pairs.both(|s| s.link_mbit_s).map(carried)
}

pub fn findings(raw: &Raw) -> Vec<Finding> {
    let mut found = Vec::new();
    for load in [Load::Idle, Load::Busy] {
        of_pairs(raw, load, &mut found);
    }
    beside(raw, &mut found);
    found
}

fn of_pairs(raw: &Raw, load: Load, found: &mut Vec<Finding>) {
    let pairs = Pairs::of(raw, load);
    let n = pairs.plain.len();
    let (name, guest) = match load {
        Load::Idle => ("idle", "idle guest".to_owned()),
        Load::Busy => ("busy", busy_guest(&pairs, &raw.settings)),
    };
    let used = link_use(&pairs, &raw.settings);
    let bound = used.iter().all(|used| *used >= BOUND);
    let link = match bound {
        true => format!("link of {} Mbit/s", raw.settings.link_mbit_s),
        false => format!(
            "link of {} Mbit/s WAS NOT FILLED: hosts too slow, choose a lower COMS_BENCH_ENCRYPTED_MBIT",
            raw.settings.link_mbit_s
        ),
    };
    let finding = |what: &str, measured: &str, unit, of: Estimate, value: fn(&Sample) -> f64| {
        let [plain, tls] = pairs.both(value);
        Finding::new(&format!("encrypted-{what}-{name}"), measured, unit, "p50", of)
            .of(n, of.value)
            .detail("plain_p50", estimate(&plain, 0.5))
            .detail("tls_p50", estimate(&tls, 0.5))
            .detail("pairs", n)
            .detail("link_filled", bound)
    };
    let measured = format!("libvirt's total time, TLS / plain, {guest}, {link}");
    found.push(
        finding("total", &measured, "ratio", pairs.ratio(job_ms), job_ms).goal(GOAL_RATIO, Judged::Value),
    );
    let measured = format!("wall time of the call, TLS / plain, {guest}");
    found.push(finding("call", &measured, "ratio", pairs.ratio(call_ms), call_ms));
    let measured = format!("libvirt's downtime, TLS - plain, {guest}");
    found.push(
        finding("downtime", &measured, "ms", pairs.difference(downtime_ms), downtime_ms)
            .goal(GOAL_DOWNTIME_MS, Judged::Value),
    );
    let [plain, tls] = pairs.both(cpu_s_per_gib).map(|side| percentile(&side, 0.5));
    let measured =
        format!("CPU time of both QEMUs from call to end, TLS - plain ({tls:.2} and {plain:.2}), {guest}");
    let mut cpu = finding("cpu", &measured, "s/GiB", pairs.difference(cpu_s_per_gib), cpu_s_per_gib);
    for (end, used) in [
        ("source", cpu_source_s_per_gib as fn(&Sample) -> f64),
        ("destination", |s| cpu_s_per_gib(s) - cpu_source_s_per_gib(s)),
    ] {
        let [plain, tls] = pairs.both(used).map(|side| percentile(&side, 0.5));
        cpu = cpu.detail(&format!("{end}_plain_p50"), plain).detail(&format!("{end}_tls_p50"), tls);
    }
    found.push(cpu);
    let measured = format!("use of the link while most went, the lower of plain and TLS, {guest}, {link}");
    let least = used[0].min(used[1]);
    found.push(
        Finding::plain(&format!("encrypted-link-{name}"), &measured, "of 1", "p50", least)
            .of(n, least)
            .detail("plain", used[0])
            .detail("tls", used[1]),
    );
}

fn busy_guest(pairs: &Pairs<'_>, settings: &Settings) -> String {
    let rates = pairs.both(|s| s.peer_mbit_s.unwrap_or(f64::NAN)).map(|side| percentile(&side, 0.5));
    format!(
        "guest that sends (asked for {} Mbit/s; during a plain move {:.0}, with TLS {:.0})",
        settings.busy_mbit_s, rates[0], rates[1]
    )
}

fn beside(raw: &Raw, found: &mut Vec<Finding>) {
    let of = |case: Case| -> Vec<&Sample> {
        raw.samples.iter().filter(|s| s.part == Part::Beside && s.case == case).collect()
    };
    for case in BESIDE {
        let samples = of(case);
        let all = |value: fn(&Sample) -> f64| samples.iter().map(|s| value(s)).collect::<Vec<f64>>();
        let median = |value: fn(&Sample) -> f64| percentile(&all(value), 0.5);
        let (name, how) = words(case.way);
        let (at, link) = if case.capped {
            ("link", format!("link of {} Mbit/s", raw.settings.link_mbit_s))
        } else {
            ("uncapped", "uncapped link".to_owned())
        };
        let job = estimate(&all(job_ms), 0.5);
        let mbit_s = median(|s| s.link_mbit_s);
        let what = format!(
            "libvirt's total time, {how}, idle guest, {link}: {mbit_s:.0} Mbit/s, downtime {:.0} ms, call {:.0} ms, {:.2} CPU s/GiB",
            median(downtime_ms),
            median(call_ms),
            median(cpu_s_per_gib)
        );
        found.push(
            Finding::new(&format!("encrypted-{at}-{name}"), &what, "ms", "p50", job)
                .of(samples.len(), job.value)
                .detail("mbit_s", mbit_s)
                .detail("downtime_ms", median(downtime_ms))
                .detail("call_ms", median(call_ms))
                .detail("cpu_s_per_gib", median(cpu_s_per_gib)),
        );
    }
    let case = |way| Case { load: Load::Idle, way, capped: false };
    let pairs = Pairs { plain: of(case(Way::Tls)), tls: of(case(Way::TlsOwnGroup)) };
    for (name, measured, value) in [
        ("encrypted-group-call", "wall time of the call", call_ms as fn(&Sample) -> f64),
        ("encrypted-group-total", "libvirt's total time", job_ms),
    ] {
        let [with, without] = pairs.both(value);
        let more = pairs.difference(value);
        let what = format!(
            "{measured} with TLS on an uncapped link, more without dh-params.pem: the destination's QEMU makes a Diffie-Hellman group first"
        );
        found.push(
            Finding::new(name, &what, "ms", "p50", more)
                .of(with.len().min(without.len()), more.value)
                .detail("with_p50", percentile(&with, 0.5))
                .detail("without_p50", percentile(&without, 0.5)),
        );
    }
}

fn job_ms(sample: &Sample) -> f64 {
    sample.job_ms
}

fn call_ms(sample: &Sample) -> f64 {
    sample.call_ms
}

fn downtime_ms(sample: &Sample) -> f64 {
    sample.downtime_ms
}

/// For names of figures, and for people.
fn words(way: Way) -> (&'static str, &'static str) {
    match way {
        Way::Plain => ("plain", "plain"),
        Way::Tls => ("tls", "TLS"),
        Way::TlsOwnGroup => ("tls-own-group", "TLS without dh-params.pem"),
        Way::PlainMultifd => ("plain-multifd", "plain over 2 connections (multifd)"),
        Way::TlsMultifd => ("tls-multifd", "TLS over 2 connections (multifd)"),
        Way::Ssh => ("ssh", "plain through ssh -L (its CPU time not counted)"),
    }
}

/// What the newest moves gave, for whoever watches.
pub fn progress(step: &Step, settings: &Settings, samples: &[Sample]) -> String {
    let (what, of) = match (step.part, step.case.load) {
        (Part::WarmUp, Load::Idle) => ("idle guest, warm-up", 1),
        (Part::WarmUp, Load::Busy) => ("busy guest, warm-up", 1),
        (Part::Pairs, Load::Idle) => ("idle guest, pair", settings.pairs),
        (Part::Pairs, Load::Busy) => ("busy guest, pair", settings.pairs),
        (Part::Beside, _) => ("beside, round", settings.beside),
    };
    let mut text = format!("{what} {} of {of}", step.round);
    let newest = samples.iter().filter(|s| {
        (s.part, s.case.load, s.round) == (step.part, step.case.load, step.round) && s.part == Part::Pairs
    });
    for sample in newest {
        let (_, how) = words(sample.case.way);
        let s = sample.job_ms / 1e3;
        let _ = write!(text, ", {how} {s:.2} s down {:.0} ms", sample.downtime_ms);
    }
    text
}

/// A figure of the paper, with ours in its place.
pub struct Figure {
    pub number: u32,
    pub title: &'static str,
    /// A line each.
    pub about: [String; 2],
    pub panels: [Panel; 2],
}

/// Plain against encrypted in one respect.
pub struct Panel {
    pub title: &'static str,
    /// Medians in milliseconds.
    pub plain: Estimate,
    pub tls: Estimate,
    /// One against the other, in words.
    pub compared: String,
    /// The paper's encrypted, over its plain: from, to.
    pub paper: [f64; 2],
    /// Where the goal is, encrypted over plain, and in words.
    pub goal: (f64, String),
}

/// Figures 3 and 4.
pub fn drawn(raw: &Raw) -> Result<[Figure; 2], String> {
    Ok([figure(raw, Load::Idle)?, figure(raw, Load::Busy)?])
}

fn figure(raw: &Raw, load: Load) -> Result<Figure, String> {
    let pairs = Pairs::of(raw, load);
    let n = pairs.plain.len();
    if n == 0 {
        return Err(format!("no pair of moves of the guest that was {load:?}"));
    }
    let sides = |value: fn(&Sample) -> f64| pairs.both(value).map(|side| estimate(&side, 0.5));
    let ([plain_ms, tls_ms], ratio) = (sides(job_ms), pairs.ratio(job_ms));
    let total = Panel {
        title: "total time",
        plain: plain_ms,
        tls: tls_ms,
        compared: format!("TLS / plain: {:.3} ({:.3} to {:.3})", ratio.value, ratio.low, ratio.high),
        paper: PAPER_TOTAL,
        goal: (GOAL_RATIO, format!("goal: {GOAL_RATIO}")),
    };
    let ([plain_ms, tls_ms], more) = (sides(downtime_ms), pairs.difference(downtime_ms));
    let downtime = Panel {
        title: "downtime",
        plain: plain_ms,
        tls: tls_ms,
        compared: format!("TLS - plain: {:.0} ms ({:.0} to {:.0})", more.value, more.low, more.high),
        paper: PAPER_DOWNTIME,
        goal: (1.0 + GOAL_DOWNTIME_MS / plain_ms.value, format!("goal: + {GOAL_DOWNTIME_MS} ms")),
    };
    let used = link_use(&pairs, &raw.settings);
    let (number, title, guest) = match load {
        Load::Idle => (3, "Encrypted migration, idle guest", "idle guest".to_owned()),
        Load::Busy => (4, "Encrypted migration, network-busy guest", busy_guest(&pairs, &raw.settings)),
    };
    Ok(Figure {
        number,
        title,
        about: [
            format!("{n} pairs of moves by libvirt, {guest}."),
            format!(
                "Link of {} Mbit/s, filled to {:.0} % by plain moves and to {:.0} % with TLS; accel=tcg.",
                raw.settings.link_mbit_s,
                used[0] * 100.0,
                used[1] * 100.0
            ),
        ],
        panels: [total, downtime],
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::encrypted::DEFAULTS;

    /// Moves that take 6 s and 2 % longer with TLS, stand still for 80 ms and 30 ms longer, on a link so full.
    pub fn measured(link: f64) -> Raw {
        let settings = Settings { pairs: 6, beside: 2, ..DEFAULTS };
        let sample = |part, case: Case, round: usize| {
            let tls = if case.way == Way::Plain { 0.0 } else { 1.0 };
            let drift = 1.0 + (round % 5) as f64 / 50.0;
            Sample {
                part,
                case,
                round,
                from: "hostalfa".into(),
                job_ms: 6000.0 * drift * (1.0 + 0.02 * tls),
                call_ms: 7500.0 * drift,
                downtime_ms: 80.0 * drift + 30.0 * tls,
                memory_bytes: 4e8,
                sent_bytes: f64::from(1 << 29),
                link_mbit_s: link / CARRIED * f64::from(settings.link_mbit_s),
                cpu_source_s: 1.0 + tls,
                cpu_destination_s: 0.5,
                peer_mbit_s: (case.load == Load::Busy).then_some(97.0),
            }
        };
        let mut samples = Vec::new();
        for load in [Load::Idle, Load::Busy] {
            for round in 1..=settings.pairs {
                samples.extend([Way::Plain, Way::Tls].map(|way| {
                    let case = Case { load, way, capped: true };
                    sample(Part::Pairs, case, round)
                }));
            }
        }
        for round in 1..=settings.beside {
            samples.extend(BESIDE.map(|case| sample(Part::Beside, case, round)));
        }
        Raw { settings, samples }
    }

    fn named(found: &[Finding], name: &str) -> Finding {
        found.iter().find(|f| f.name == name).cloned().unwrap_or_else(|| panic!("no {name}"))
    }

    #[test]
    fn goals_are_judged_pair_by_pair() {
        let found = findings(&measured(0.99));
        let total = named(&found, "encrypted-total-idle");
        assert!((total.value - 1.02).abs() < 1e-9 && total.met == Some(true), "{total:?}");
        // All pairs say the same, however far they drift.
        assert!(total.ci95.is_some_and(|[low, high]| high - low < 1e-9), "{total:?}");
        let downtime = named(&found, "encrypted-downtime-busy");
        assert!((downtime.value - 30.0).abs() < 1e-9 && downtime.met == Some(false), "{downtime:?}");
        let cpu = named(&found, "encrypted-cpu-idle");
        assert!((cpu.value - 2.0).abs() < 1e-9, "a second for half a GiB: {cpu:?}");
        assert!(cpu.what.contains("(5.00 and 3.00)"), "{cpu:?}");
        assert_eq!(
            (&cpu.details["source_tls_p50"], &cpu.details["destination_plain_p50"]),
            (&4.0.into(), &1.0.into())
        );
    }

    #[test]
    fn a_link_that_was_not_filled_is_said() {
        let total = |link| named(&findings(&measured(link)), "encrypted-total-idle").what;
        assert!(!total(0.97).contains("NOT FILLED"));
        assert!(total(0.8).contains("NOT FILLED"));
    }

    #[test]
    fn half_a_pair_does_not_count() {
        let mut raw = measured(0.99);
        raw.samples.remove(0);
        assert_eq!(named(&findings(&raw), "encrypted-total-idle").n, 5);
        raw.samples.retain(|s| s.case.load == Load::Idle);
        assert!(drawn(&raw).is_err_and(|why| why.contains("Busy")));
    }

    #[test]
    fn raw_samples_come_back_as_they_were_kept() {
        let raw = measured(0.99);
        let text = serde_json::to_string(&raw).unwrap();
        let again: Raw = serde_json::from_str(&text).unwrap();
        assert_eq!((again.settings, again.samples.len()), (raw.settings, raw.samples.len()));
        for (again, before) in again.samples.iter().zip(&raw.samples) {
            assert_eq!(
                (again.part, again.case, again.round, &again.from),
                (before.part, before.case, before.round, &before.from)
            );
            assert!((again.job_ms - before.job_ms).abs() < 1e-6, "{again:?} {before:?}");
        }
    }
}
