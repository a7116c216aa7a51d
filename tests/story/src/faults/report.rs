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
    /// The emulator had lost memory in an earlier try of this row; how that showed.
    pub lost_before: Option<String>,
}

impl Line {
    /// The guest's memory was not what it had written.
    ///
    /// QEMU's own tests say that TCG "is touchy due to race conditions on dirty bits": a store between the look at
    /// the page's dirty bit and the write itself may go unseen by a migration. `COMS_FAULTS=control` shows how often
    /// it does without any of us: libvirt alone, the same guest. Such a row is played a second time, and the
    /// table says so.
    pub fn lost_memory(&self) -> Option<&String> {
        self.wrong.iter().find(|w| w.contains("memory:"))
    }

    fn json(&self) -> Value {
        json!({
            "row": self.row.name(),
            "expected": format!("{:?}", self.row.expect),
            "got": self.got,
            "wrong": self.wrong,
            "emulator_lost_memory_before": self.lost_before,
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
        "# Faults\n\n{good} of {} rows hold, in {seconds:.0} s (accel=tcg); {again} of them at the second try, because the emulator lost memory.\n\n\
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
