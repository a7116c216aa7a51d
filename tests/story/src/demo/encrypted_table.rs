//! Moves in the clear beside encrypted ones.

use serde_json::Value;
use std::fmt::Write as _;

/// What one move cost, as its guest was told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moved {
    pub total_ms: Option<f64>,
    pub downtime_ms: Option<f64>,
}

impl Moved {
    pub fn of(told: &Value) -> Moved {
        Moved { total_ms: told["total_ms"].as_f64(), downtime_ms: told["downtime_ms"].as_f64() }
    }
}

/// For the terminal.
pub fn table(plain: &[Moved], sealed: &[Moved]) -> String {
    let mut out = format!("\n  {:<28}{:<26}{}\n", "accel=tcg", "in the clear", "encrypted");
    let rows = [
        ("migration, in all", (|m| m.total_ms) as fn(&Moved) -> Option<f64>),
        ("downtime, by libvirt", |m| m.downtime_ms),
    ];
    for (what, figure) in rows {
        let _ = writeln!(out, "  {what:<28}{:<26}{}", side(plain, figure), side(sealed, figure));
    }
    out + "  (Few moves, for a first impression: make bench B=encrypted measures.)"
}

fn side(moved: &[Moved], figure: fn(&Moved) -> Option<f64>) -> String {
    let known: Option<Vec<f64>> = moved.iter().map(figure).collect();
    let texts = |known: Vec<f64>| known.iter().map(|ms| format!("{ms:.0}")).collect::<Vec<_>>().join(", ");
    known.filter(|k| !k.is_empty()).map_or("unknown".to_owned(), |known| texts(known) + " ms")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn moves_are_side_by_side_and_what_is_unknown_is_said_to_be() {
        let moved = |total, downtime| Moved::of(&json!({ "total_ms": total, "downtime_ms": downtime }));
        let plain = [moved(Some(900), Some(40)), moved(Some(870), Some(52))];
        let text = table(&plain, &[moved(Some(1200), None)]);
        assert!(text.contains("migration, in all           900, 870 ms               1200 ms"), "{text}");
        assert!(text.contains("downtime, by libvirt        40, 52 ms                 unknown"), "{text}");
        assert!(side(&[], |m| m.total_ms) == "unknown");
    }
}
