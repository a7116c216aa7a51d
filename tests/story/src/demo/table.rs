//! The paper's figure beside this one.

use super::measure::Figures;
use serde_json::Value;
use std::fmt::Write as _;

/// For the terminal.
pub fn table(f: &Figures, result: &Value) -> String {
    let rounds = |value: Option<f64>, of: Option<f64>| match (value, of) {
        (Some(v), Some(of)) => format!("{v:.0} ms a round ({:+.0} %)", (v / of - 1.0) * 100.0),
        (Some(v), None) => format!("{v:.0} ms a round"),
        (None, _) => "unknown".into(),
    };
    let rows = [
        ("", "paper, Figure 1", "here, accel=tcg".to_owned()),
        ("neighbours idle", "18 s a run", rounds(f.baseline_ms, None)),
        ("neighbours busy", "50 % worse", rounds(f.degraded_ms, f.baseline_ms)),
        ("busy, after the move", "as before, or better", rounds(f.after_ms, f.baseline_ms)),
        ("control: busy, no move", "(not shown)", rounds(f.control_ms, f.control_baseline_ms)),
        ("  its last third", "", rounds(f.control_last_third_ms, f.control_baseline_ms)),
    ];
    let mut out = String::from("\n");
    for (what, paper, here) in rows {
        let _ = writeln!(out, "  {what:<24}{paper:<22}{here}");
    }
    let _ = writeln!(
        out,
        "  (Here all VMs share one CPU, so busy neighbours cost more than on the paper's four cores.)\n"
    );

    let number = |path: &str, unit: &str| match result.pointer(path).and_then(Value::as_f64) {
        Some(v) => format!("{v:.0} {unit}"),
        None => "unknown".into(),
    };
    let text = |path: &str| result.pointer(path).and_then(Value::as_str).unwrap_or("unknown").to_owned();
    let place = |p: &str| format!("{} in {}", text(&format!("/{p}/alias")), text(&format!("/{p}/region")));
    let mib = result.pointer("/bytes").and_then(Value::as_f64);
    let gap = format!("{} +- {}", number("/guest_gap_ms", "ms"), number("/guest_gap_error_ms", "ms"));
    let rows = [
        ("outcome, as the guest saw it", format!("{}, {}", text("/outcome"), text("/effect/verdict"))),
        ("from", place("from")),
        ("to", place("to")),
        ("asked after the load began", number("/asked_after_ms", "ms")),
        ("request to migrate call", number("/request_to_migrate_call_ms", "ms")),
        ("migration, in all", number("/total_ms", "ms")),
        ("downtime, by libvirt", number("/downtime_ms", "ms")),
        ("gap at an outside client", number("/client_gap_ms", "ms")),
        ("  while it was copied", number("/client_gap_copying_ms", "ms")),
        ("gap by the guest's clock", gap),
        ("resumed to told", number("/resumed_to_told_ms", "ms")),
        ("moved", mib.map_or("unknown".into(), |b| format!("{:.1} MiB", b / f64::from(1 << 20)))),
    ];
    for (what, value) in rows {
        let _ = writeln!(out, "  {what:<30}{value}");
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_unknown_is_said_to_be() {
        let f = Figures {
            baseline_ms: Some(200.0),
            degraded_ms: Some(900.0),
            after_ms: None,
            control_baseline_ms: Some(200.0),
            control_ms: Some(900.0),
            control_last_third_ms: Some(900.0),
        };
        let text = table(&f, &json!({ "downtime_ms": 52, "total_ms": null }));
        assert!(text.contains("900 ms a round (+350 %)"), "{text}");
        assert!(text.contains("downtime, by libvirt          52 ms"), "{text}");
        assert!(text.contains("migration, in all             unknown"), "{text}");
        assert!(!text.contains(" 0 ms"), "{text}");
    }
}
