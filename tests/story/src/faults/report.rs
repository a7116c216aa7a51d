//! The table that people read: `target/faults/table.md`, and the same as JSON. A run of some rows puts their outcome
//! into the table that is there; a run of all begins it anew.

use super::row::Row;
use super::table;
use crate::Result;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

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
            "expected": format!("{:?}", self.row.expect),
            "got": self.got,
            "wrong": self.wrong,
            "seconds": (self.seconds * 10.0).round() / 10.0,
            "sample": self.row.sample,
            "played": jiff::Timestamp::now().strftime("%F %R").to_string(),
        })
    }
}

/// The outcomes by the rows' names.
#[derive(Debug, Default)]
pub struct Report(Map<String, Value>);

impl Report {
    /// What earlier runs left there.
    pub fn so_far() -> Report {
        let text = std::fs::read_to_string(path("table.json")).unwrap_or_default();
        Report(serde_json::from_str(&text).unwrap_or_default())
    }

    /// It was played and held.
    pub fn holds(&self, row: &Row) -> bool {
        self.0.get(&row.name()).is_some_and(|line| line["wrong"] == json!([]))
    }

    /// Takes a row's outcome in and writes both files.
    pub fn add(&mut self, line: &Line) -> Result<()> {
        self.0.insert(line.row.name(), line.json());
        std::fs::create_dir_all(path(""))?;
        std::fs::write(path("table.md"), self.markdown())?;
        std::fs::write(path("table.json"), serde_json::to_string_pretty(&self.0)? + "\n")?;
        Ok(())
    }

    /// Every row of the table, also those that nobody has played.
    pub fn markdown(&self) -> String {
        let rows = table::rows();
        let played: Vec<&Value> = rows.iter().filter_map(|r| self.0.get(&r.name())).collect();
        let good = played.iter().filter(|line| line["wrong"] == json!([])).count();
        let seconds: f64 = played.iter().filter_map(|line| line["seconds"].as_f64()).sum();
        let mut text = format!(
            "# Faults\n\n{good} of {} rows hold, {} do not, {} were not played; {seconds:.0} s (accel=tcg).\n\n\
             | initiator | step | fault | expected | got | verdict | s | played (UTC) |\n\
             |---|---|---|---|---|---|---|---|\n",
            rows.len(),
            played.len() - good,
            rows.len() - played.len(),
        );
        text.extend(rows.iter().map(|row| markdown(row, self.0.get(&row.name()))));
        text
    }
}

fn markdown(row: &Row, line: Option<&Value>) -> String {
    let clean = |text: &str| text.replace('|', "/").replace('\n', " ");
    let word = |key: &str| clean(line.and_then(|l| l[key].as_str()).unwrap_or_default());
    let wrong: Vec<String> = (line.and_then(|l| l["wrong"].as_array()).into_iter().flatten())
        .filter_map(|w| w.as_str().map(clean))
        .collect();
    let verdict = match line {
        None => "not played".to_owned(),
        Some(_) if wrong.is_empty() => "ok".to_owned(),
        Some(_) => format!("**{}**", wrong.join("; ")),
    };
    format!(
        "| {:?} | {} {} | {} | {} | {} | {verdict} | {:.0} | {} |\n",
        row.initiator,
        row.at.step,
        row.at.name,
        row.faults(),
        clean(&format!("{:?}", row.expect)),
        word("got"),
        line.and_then(|l| l["seconds"].as_f64()).unwrap_or_default(),
        word("played"),
    )
}

fn path(name: &str) -> PathBuf {
    coms_lab::workspace_root().join("target/faults").join(name)
}
