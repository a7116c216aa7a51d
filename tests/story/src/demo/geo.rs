//! The scenario `geo`: the COMS paper's Figure 2.
//!
//! vm1 is at one site, and most of its clients are at another one, 20 ms away. Its agent notices, asks, and moves
//! there, over a stretched network; an outside client that downloads all the time gets more from then on.

use super::follow::{Follow, GuestClock, unix_ms};
use super::geo_svg;
use super::screen::Screen;
use crate::geo::{
    BUSY, FRANCE, QUIET, SWEDEN, addresses, agent_toml, guest, round_trips, settings, stretched,
};
use crate::{HOSTS, REGIONS, Result, Stage, events};
use coms_lab::{Download, Sample};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

/// So long most clients must be elsewhere. Far shorter than anyone would want at home: the audience waits.
const FOR_S: u32 = 20;
/// What the outside client's line brings it at most.
const LINE_MBIT: u32 = 100;
/// What the client lets be on its way to it at once: over a longer way less comes a second.
const WINDOW: usize = 128 << 10;
/// Of the same French provider, with a line of its own.
const OUTSIDE: (Ipv4Addr, u8) = (Ipv4Addr::new(2, 4, 1, 0), 24);
/// Watched for so long once the agent knows what the move did.
const AFTER: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(180);

/// What the paper's client got, in Mbit/s: before, from and to; after.
pub const PAPER_BEFORE: [f64; 2] = [30.0, 70.0];
pub const PAPER_AFTER: f64 = 90.0;

/// What an outside client got, and when the VM moved. In seconds since the download began.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// The middle of each second, and Mbit/s in it.
    pub rates: Vec<(f64, f64)>,
    pub asked_s: Option<f64>,
    /// libvirt was called.
    pub called_s: Option<f64>,
    pub resumed_s: Option<f64>,
}

/// Which part of the story a moment belongs to, as in the paper's figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Before,
    During,
    After,
}

impl Run {
    pub fn part(&self, s: f64) -> Part {
        match (self.called_s, self.resumed_s) {
            (Some(called), _) if s < called - 0.5 => Part::Before,
            // A second that the move has touched is no other.
            (Some(_), Some(resumed)) if s > resumed + 1.5 => Part::After,
            (Some(_), _) => Part::During,
            (None, _) => Part::Before,
        }
    }

    /// Least, median and most of a part. The first 2 s, in which the connection finds its pace, are not counted.
    pub fn figures(&self, part: Part) -> Option<[f64; 3]> {
        let within = self.rates.iter().filter(|(s, _)| *s > 2.0 && self.part(*s) == part);
        let mut rates: Vec<f64> = within.map(|(_, mbit)| *mbit).collect();
        rates.sort_by(f64::total_cmp);
        Some([*rates.first()?, *rates.get(rates.len() / 2)?, *rates.last()?])
    }
}

pub(super) fn geo(screen: &mut Screen) -> Result<Vec<String>> {
    screen
        .phase("Two sites that share no network, 20 ms apart each way: a libvirt host and a broker at each");
    let stage = Stage::up(settings(true))?;
    let vm1 = stage.boot(0, guest()?, &agent_toml(FOR_S))?;
    screen.note(&format!("vm1 runs on {} in {}; logs: {}", HOSTS[0], REGIONS[0], stage.lab.dir().display()));
    let sweden = stage.lab.client_at(0, "sweden", SWEDEN, None)?;
    let france = stage.lab.client_at(1, "france", FRANCE, None)?;
    let outside = stage.lab.client_at(1, "outside", OUTSIDE, Some(LINE_MBIT))?;
    let clock = GuestClock::compare(&vm1)?;
    let watching = Follow::start(&france, &vm1, "coms --json watch")?;

    screen.phase("6 clients in Sweden, beside it; 25 in France, of which one downloads all the time");
    let (began, began_ms) = (Instant::now(), unix_ms());
    let swedes = sweden.converse(vm1.ip(), &addresses(SWEDEN, 6), QUIET)?;
    let frenchmen = france.converse(vm1.ip(), &addresses(FRANCE, 24), BUSY)?;
    let download = outside.download(vm1.stream_address(), Some(WINDOW))?;
    watch(screen, &watching, clock, began_ms, (&download, began))?;
    screen.phase("What vm1 knows of its clients: coms clients");
    screen.line(&vm1.sh("coms clients")?);
    let ended = Instant::now();

    let log = events(&vm1)?;
    let run = run(&stage, &log, clock, began_ms, &rates(&download.samples(), began, ended));
    let effect = log.iter().find(|e| e["event"] == "effect");
    let rtt = effect.and_then(round_trips);
    let alive = [
        ("the clients in Sweden", swedes.alive_since(ended - Duration::from_secs(5)), 6),
        ("the clients in France", frenchmen.alive_since(ended - Duration::from_secs(5)), 24),
    ];
    let mut missing: Vec<String> = alive
        .into_iter()
        .filter(|(_, alive, all)| alive != all)
        .map(|(who, alive, all)| format!("every open connection to survive: of {who} {alive} of {all} did"))
        .chain(download.broke().map(|why| format!("the download to go on: {why}")))
        .collect();
    missing.extend(not_shown(&run, rtt));
    if (stretched(&stage, 0)?, stretched(&stage, 1)?) != (1, 1) {
        missing.push("a network stretched between the two hosts".into());
    }
    let completed = log.iter().find(|e| e["event"] == "completed");
    let record = completed.and_then(|e| e["migration"].as_str()).map(|m| stage.record(0, m)).transpose()?;
    let figures = |part| {
        run.figures(part)
            .map(|[least, median, most]| json!({ "least": least, "median": median, "most": most }))
    };
    let result = json!({
        "scenario": "geo",
        "accel": "tcg",
        "shown": missing.is_empty(),
        "not_shown": missing,
        "paper": { "before_mbit_s": PAPER_BEFORE, "after_mbit_s": PAPER_AFTER },
        "before_mbit_s": figures(Part::Before),
        "during_mbit_s": figures(Part::During),
        "after_mbit_s": figures(Part::After),
        "clients_rtt_before_ms": rtt.map(|(before, _)| before),
        "clients_rtt_after_ms": rtt.map(|(_, after)| after),
        "window_bytes": WINDOW,
        "line_mbit_s": LINE_MBIT,
        "asked_s": run.asked_s,
        "called_s": run.called_s,
        "resumed_s": run.resumed_s,
        "rates_s_mbit_s": run.rates,
        "completed": completed,
        "effect": effect,
        "source": record,
        "events": log,
    });
    let dir = coms_lab::workspace_root().join("target/demo");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("figure2.json"), serde_json::to_string_pretty(&result)? + "\n")?;
    std::fs::write(dir.join("figure2.svg"), geo_svg::chart(&run))?;
    table(screen, &run, &result);
    screen.line(&format!("\n{0}/figure2.svg\n{0}/figure2.json", dir.display()));
    drop((swedes, frenchmen, download));
    stage.finish(&[&vm1])?;
    Ok(missing)
}

/// Shows what the client gets and what vm1 hears, until a while after vm1 knows what the move did.
fn watch(
    screen: &mut Screen,
    watching: &Follow,
    clock: GuestClock,
    began_ms: f64,
    (download, began): (&Download, Instant),
) -> Result<()> {
    let second = Duration::from_secs(1);
    let (mut place, mut shown, mut judged) = (REGIONS[0].to_owned(), 0_u32, None);
    while began.elapsed() < PATIENCE && judged.is_none_or(|at: Instant| at.elapsed() < AFTER) {
        thread::sleep(Duration::from_millis(50));
        for line in watching.take() {
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            match event["event"].as_str() {
                Some("connected") => place = event["region"].as_str().unwrap_or("unknown").to_owned(),
                Some("effect") => judged = judged.or(Some(Instant::now())),
                Some(_) | None => {}
            }
            let at_s = when_ms(&event).map_or(f64::NAN, |ms| (clock.to_host(ms) - began_ms) / 1000.0);
            screen.event(at_s, "vm1", &event);
        }
        let next = began + second * (shown + 1);
        if next < Instant::now() {
            screen.rate(f64::from(shown + 1), &place, download.mbit_s(next - second, next));
            shown += 1;
        }
    }
    Ok(())
}

/// When an event was, by the guest's clock.
fn when_ms(event: &Value) -> Option<f64> {
    let at: jiff::Timestamp = event["at"].as_str()?.parse().ok()?;
    Some(at.as_millisecond() as f64)
}

/// For each whole second its middle, and Mbit/s in it.
fn rates(samples: &[Sample], began: Instant, ended: Instant) -> Vec<(f64, f64)> {
    let had = |by: Instant| samples.iter().rev().find(|s| s.at <= by).map_or(0, |s| s.bytes);
    let seconds = ended.saturating_duration_since(began).as_secs();
    let second = |s: u64| began + Duration::from_secs(s);
    (0..seconds)
        .map(|s| (s as f64 + 0.5, had(second(s + 1)).saturating_sub(had(second(s))) as f64 * 8.0 / 1e6))
        .collect()
}

fn run(stage: &Stage, log: &[Value], clock: GuestClock, began_ms: f64, rates: &[(f64, f64)]) -> Run {
    let since = |ms: f64| (ms - began_ms) / 1000.0;
    let event = |name: &str| log.iter().find(|e| e["event"] == name);
    let migration = event("completed").and_then(|e| e["migration"].as_str());
    let record = |host| migration.and_then(|m| stage.record(host, m).ok()).unwrap_or(Value::Null);
    let (source, destination) = (record(0), record(1));
    let called_ms = source["received_unix_ms"].as_f64().zip(source["request_to_call_ms"].as_f64());
    Run {
        rates: rates.to_vec(),
        asked_s: event("asked").and_then(when_ms).map(|ms| since(clock.to_host(ms))),
        called_s: called_ms.map(|(received, call)| since(received + call)),
        // The destination's broker notes when it hears from libvirt that the guest runs there.
        resumed_s: destination["ended_unix_ms"].as_f64().map(since),
    }
}

/// What the figure promises and this run does not show. Pure.
fn not_shown(run: &Run, rtt: Option<(f64, f64)>) -> Vec<String> {
    let mut out = Vec::new();
    match (run.figures(Part::Before), run.figures(Part::After)) {
        (Some([_, before, _]), Some([_, after, _])) if after >= before * 1.25 => {}
        (Some([_, before, _]), Some([_, after, _])) => {
            out.push(format!(
                "more after the move: {after:.0} Mbit/s, before {before:.0}; wanted: a quarter more"
            ));
        }
        (_, None) | (None, _) => out.push("a download before and after a move".into()),
    }
    match rtt {
        // What the download has on its way waits for its line, and is the most of the traffic.
        Some((before, after)) if before >= 40.0 && after <= before * 0.6 => {}
        Some((before, after)) => {
            out.push(format!(
                "the clients' round trips: {before:.1} ms, then {after:.1} ms; wanted: 40, then 0.6 of it"
            ));
        }
        None => out.push("the clients' round trips before and after".into()),
    }
    out
}

fn table(screen: &mut Screen, run: &Run, result: &Value) {
    let shown = |part| {
        run.figures(part).map_or("unknown".to_owned(), |[least, median, most]| {
            format!("{median:.0} Mbit/s ({least:.0} to {most:.0})")
        })
    };
    let ms = |key: &str| result[key].as_f64().map_or("unknown".to_owned(), |v| format!("{v:.1} ms"));
    let rows = [
        ("", "paper, Figure 2".to_owned(), "here, accel=tcg".to_owned()),
        ("before the move", "30 to 70 Mbit/s".into(), shown(Part::Before)),
        ("during the move", "a bit less".into(), shown(Part::During)),
        ("after the move", "about 90 Mbit/s".into(), shown(Part::After)),
        ("clients' round trip before", "(not shown)".into(), ms("clients_rtt_before_ms")),
        ("clients' round trip after", "(not shown)".into(), ms("clients_rtt_after_ms")),
    ];
    screen.line("");
    for (what, paper, here) in rows {
        screen.line(&format!("  {what:<30}{paper:<22}{here}"));
    }
    screen.line(&format!(
        "  (One TCP connection with a window of {} KiB, on a line of {LINE_MBIT} Mbit/s. The way between the sites is 40 ms there\n  \
         and back and else idle; the paper's was the Internet.)",
        WINDOW >> 10
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Run {
        let rates = (0..60).map(|s| {
            (
                f64::from(s) + 0.5,
                if s < 30 {
                    50.0
                } else if s < 33 {
                    20.0
                } else {
                    92.0
                },
            )
        });
        Run { rates: rates.collect(), asked_s: Some(29.0), called_s: Some(30.1), resumed_s: Some(31.9) }
    }

    #[test]
    fn the_papers_figure_is_recognized_and_what_is_not_is_said() {
        let run = good();
        assert_eq!(run.figures(Part::Before), Some([50.0; 3]));
        assert_eq!(run.figures(Part::After), Some([92.0; 3]));
        assert_eq!(not_shown(&run, Some((41.0, 2.0))), Vec::<String>::new());
        assert!(not_shown(&run, Some((41.0, 39.0)))[0].contains("39.0 ms"));
        let stayed = Run { called_s: None, resumed_s: None, ..run };
        assert_eq!(not_shown(&stayed, None).len(), 2);
    }

    #[test]
    fn each_second_has_what_came_in_it() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let samples: Vec<Sample> = (1..=30).map(|i| Sample { at: at(i * 100), bytes: i * 125_000 }).collect();
        assert_eq!(rates(&samples, began, at(2500)), [(0.5, 10.0), (1.5, 10.0)]);
    }
}
