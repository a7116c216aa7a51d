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
}

impl Line {
    fn json(&self) -> Value {
        json!({
            "row": self.row.name(),
            "expected": format!("{:?}", self.row.expect),
            "got": self.got,
            "wrong": self.wrong,
            "seconds": (self.seconds * 10.0).round() / 10.0,
            "sample": self.row.sample,
        })
    }

    fn markdown(&self) -> String {
        let verdict =
            if self.wrong.is_empty() { "ok".to_owned() } else { format!("**{}**", self.wrong.join("; ")) };
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
    let mut text = format!(
        "# Faults\n\n{good} of {} rows hold, in {seconds:.0} s (accel=tcg).\n\n\
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
