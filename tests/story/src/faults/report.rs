//! The table that people read: `target/faults/table.md`, and the same as JSON.

use super::row::Row;
use crate::Result;
use serde_json::{Value, json};

/// What came of a row.
#[derive(Debug)]
pub struct Line {
    pub row: Row,
    /// What was seen, in a few words.
    pub got: String,
    /// Empty: all is as it must be.
    pub wrong: Vec<String>,
    pub seconds: f64,
    /// Memory was lost in an earlier try of this row; how that showed. Why is not known.
    pub lost_before: Option<String>,
}

impl Line {
    /// The guest's memory was not what it had written.
    /// Seen once under TCG, in a move whose broker was killed; the cause is not known, and no row is excused by it.
    pub fn lost_memory(&self) -> Option<&String> {
        self.wrong.iter().find(|w| w.contains("memory:"))
    }

    fn json(&self) -> Value {
        json!({
            "row": self.row.name(),
            "expected": format!("{:?}", self.row.expect),
            "got": self.got,
            "wrong": self.wrong,
            "memory_lost_before": self.lost_before,
            "seconds": (self.seconds * 10.0).round() / 10.0,
            "sample": self.row.sample,
        })
    }

    fn markdown(&self) -> String {
        let verdict =
            if self.wrong.is_empty() { "ok".to_owned() } else { format!("**{}**", self.wrong.join("; ")) };
        let verdict = match &self.lost_before {
            Some(how) => format!("{verdict} (second try: {how})"),
            None => verdict,
        };
        let clean = |text: &str| text.replace('|', "/").replace('\n', " ");
        format!(
            "| {:?} | {} {} | {:?} | {} | {} | {} | {:.0} |\n",
            self.row.initiator,
            self.row.at.step,
            self.row.at.name,
            self.row.fault,
            clean(&format!("{:?}", self.row.expect)),
            clean(&self.got),
            clean(&verdict),
            self.seconds
        )
    }
}

pub fn markdown(lines: &[Line]) -> String {
    let good = lines.iter().filter(|l| l.wrong.is_empty()).count();
    let seconds: f64 = lines.iter().map(|l| l.seconds).sum();
    let again = lines.iter().filter(|l| l.lost_before.is_some()).count();
    let mut text = format!(
        "# Faults\n\n{good} of {} rows hold, in {seconds:.0} s (accel=tcg); {again} of them at the second try, because guest memory was lost at the first (cause unknown, the emulator is suspected).\n\n\
         | initiator | step | fault | expected | got | verdict | s |\n|---|---|---|---|---|---|---|\n",
        lines.len()
    );
    text.extend(lines.iter().map(Line::markdown));
    text
}

/// Writes both files.
pub fn write(lines: &[Line]) -> Result<()> {
    let dir = coms_lab::workspace_root().join("target/faults");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("table.md"), markdown(lines))?;
    let all: Vec<Value> = lines.iter().map(Line::json).collect();
    std::fs::write(dir.join("table.json"), serde_json::to_string_pretty(&all)? + "\n")?;
    Ok(())
}
