//! What people read.

use super::doctor::CLOCK_NOISE_MS;
use coms_broker::control::{GuestView, HostView};
use coms_broker::records::{MoveRecord, WaitsFor};

pub fn table_of_guests(guests: &[GuestView]) -> String {
    let rows = guests.iter().map(|g| {
        let agent = g.agent.clone().unwrap_or_else(|| "-".into());
        let moving = g.migration.map_or("-".into(), |m| m.to_string());
        [
            g.name.clone(),
            if g.enabled { "yes" } else { "no" }.into(),
            g.state.clone(),
            agent,
            moving,
            ago(g.last_moved_unix_ms),
        ]
    });
    table(["VM", "TAKES PART", "STATE", "AGENT", "MOVING", "LAST MOVED"], rows)
}

pub fn table_of_hosts(hosts: &[HostView]) -> String {
    let rows = hosts.iter().map(|h| {
        let load = h.load_per_cpu.map_or("-".into(), |l| format!("{:.0} %", l * 100.0));
        let memory = match (h.committed_mib, h.memory_mib) {
            (Some(used), Some(all)) => format!("{used} of {all} MiB"),
            _ => "-".into(),
        };
        let count = h.domains.map_or("-".into(), |d| d.to_string());
        let answers = match (&h.trouble, h.answers) {
            (_, true) => if h.this_host { "this host" } else { "yes" }.to_owned(),
            (Some(trouble), false) => format!("no: {trouble}"),
            (None, false) => "no".into(),
        };
        let broker = if h.broker.is_some() { "runs" } else { "-" };
        let clock = h.clock_ahead_ms.filter(|ms| ms.unsigned_abs() > CLOCK_NOISE_MS);
        let clock =
            clock.map_or(String::new(), |ms| format!(" (its clock is {:+.0} s off)", ms as f64 / 1000.0));
        [
            h.name.clone(),
            h.region.clone(),
            h.cpus.map_or("-".into(), |c| c.to_string()),
            load,
            memory,
            count,
            broker.into(),
            if h.certificate_sha256.is_some() { "ready" } else { "-" }.into(),
            answers + &clock,
        ]
    });
    table(["HOST", "REGION", "CPUS", "LOAD", "MEMORY", "VMS", "BROKER", "TLS", "ANSWERS"], rows)
}

pub fn table_of_moves(moves: &[MoveRecord]) -> String {
    let rows = moves.iter().map(|m| {
        let unknown = || "?".to_owned();
        [
            m.migration.to_string(),
            m.domain.clone(),
            m.initiator.to_string(),
            format!("{} -> {}", m.from.clone().unwrap_or_else(unknown), m.to.clone().unwrap_or_else(unknown)),
            m.state.name().to_owned() + &in_brackets(m),
            m.figures.total_ms.map_or("-".into(), |v| format!("{v} ms")),
            m.figures.downtime_ms.map_or("-".into(), |v| format!("{v} ms")),
            ago(Some(m.received_unix_ms)),
        ]
    });
    table(["MIGRATION", "VM", "BY", "WAY", "STATE", "TOTAL", "DOWNTIME", "BEGUN"], rows)
}

fn in_brackets(m: &MoveRecord) -> String {
    match (&m.reason, &m.waits) {
        (Some(reason), _) => format!(" ({reason})"),
        (None, Some(waits)) => match waits.waits_for {
            WaitsFor::Notice => " (the guest was told)".into(),
            WaitsFor::Guest { cause, holders } => format!(" (held by the guest: {cause}, {holders})"),
            WaitsFor::Postponed { cause } => format!(" (postponed by the guest: {cause})"),
            WaitsFor::OtherMoves => " (others first)".into(),
            WaitsFor::ForeignMove => " (moved by somebody else)".into(),
        },
        (None, None) => String::new(),
    }
}

pub fn ago(unix_ms: Option<u64>) -> String {
    let Some(ms) = unix_ms else { return "-".into() };
    let now = jiff::Timestamp::now().as_millisecond();
    match now.saturating_sub(ms as i64) / 1000 {
        s @ ..120 => format!("{s} s ago"),
        s @ ..7200 => format!("{} min ago", s / 60),
        s @ ..172_800 => format!("{} h ago", s / 3600),
        s => format!("{} days ago", s / 86_400),
    }
}

/// Names and libvirt's texts are others' words: nothing in them moves a cursor.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows = rows.map(|row| row.map(|cell| clean(&cell)));
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(c, w)| format!("{c:w$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}
