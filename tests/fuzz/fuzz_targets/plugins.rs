//! One input of the fuzzers of what plugins say, played. Shared with `guest-plugins/tests/corpus_replay.rs`.

use coms_plugins::config::Figures;
use coms_plugins::contract::understand;
use coms_plugins::decide::bounds::{Line, Lines};
use coms_plugins::decide::check::{self, Exit};
use coms_plugins::metrics::watch::{Wanted, Watch};
use coms_plugins::perfdata;
use coms_plugins::reading::{MAX_CLIENTS, MAX_LATENCY, MAX_TEXT, Reading};
use coms_plugins::statsd;
use std::time::Duration;

/// What holds of every reading, whatever was said.
fn bounded(reading: &Reading) {
    let texts = [&reading.failed, &reading.wish].into_iter().flatten();
    texts.for_each(|t| assert!(t.len() <= MAX_TEXT && !t.chars().any(char::is_control), "{t:?}"));
    assert!(reading.latency_us.is_none_or(|us| us <= MAX_LATENCY.as_micros() as u64 * 2));
    for n in [reading.throughput_per_s, reading.requests, reading.errors].into_iter().flatten() {
        assert!(!n.is_nan() && n >= 0.0, "{n}");
    }
    assert!(reading.clients.as_ref().is_none_or(|c| c.len() <= MAX_CLIENTS));
    assert!(reading.problems.len() < 1000);
    for p in &reading.problems {
        assert!(p.what.len() + p.mend.len() < 4000 && !p.what.chars().any(char::is_control), "{p:?}");
    }
    assert!(reading.notes.len() < 10);
    assert!(
        reading.notes.iter().all(|n| n.len() < 4000 && !n.chars().any(char::is_control)),
        "{:?}",
        reading.notes
    );
}

/// A check's output; the first byte is its exit code.
pub fn perfdata(data: &[u8]) {
    let Some((&code, output)) = data.split_first() else { return };
    let parsed = perfdata::parse(output);
    assert!(parsed.figures.len() <= perfdata::MAX_FIGURES);
    for figure in &parsed.figures {
        assert!(figure.value.is_none_or(f64::is_finite) && figure.label.len() <= MAX_TEXT);
    }
    for wanted in [
        Figures::default(),
        Figures { latency: Some("time".into()), throughput: Some("a".into()), ..Figures::default() },
    ] {
        bounded(&check::understand(&Exit::Code(i32::from(code) % 5), output, code > 128, &wanted));
    }
}

/// What a long-running plugin prints, in pieces; the first byte is their length.
pub fn plugin_line(data: &[u8]) {
    let Some((&size, stream)) = data.split_first() else { return };
    let mut lines = Lines::new(512);
    for piece in stream.chunks(1 + usize::from(size)) {
        for line in lines.push(piece) {
            match line {
                Line::Whole(line) => {
                    assert!(!line.is_empty() && line.len() <= 512);
                    bounded(&understand(&line));
                }
                Line::TooLong => {}
            }
        }
    }
}

/// Scrapes, apart by NUL.
pub fn metrics(data: &[u8]) {
    let mut watch = Watch::new(Wanted {
        latency: "q".into(),
        labels: Default::default(),
        quantile: 0.9,
        unit_s: 1.0,
        requests: Some("r".into()),
        errors: Some("e_total".into()),
    });
    for (i, body) in data.split(|b| *b == 0).take(8).enumerate() {
        bounded(&watch.scrape(Duration::from_secs(i as u64), body));
    }
}

/// Datagrams, apart by NUL.
pub fn statsd(data: &[u8]) {
    let wanted = statsd::Wanted { latency: "q".into(), requests: Some("r".into()), errors: Some("e".into()) };
    let mut bag = statsd::Bag::new(wanted, 0.9, Duration::ZERO);
    for (i, datagram) in data.split(|b| *b == 0).take(64).enumerate() {
        bag.datagram(datagram);
        if i % 4 == 3 {
            bounded(&bag.take(Duration::from_secs(i as u64)));
        }
    }
    bounded(&bag.take(Duration::from_secs(100)));
}
