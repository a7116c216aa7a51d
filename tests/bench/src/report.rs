//! What a bench found: raw samples, a summary, a line of the table.

use crate::stats::Estimate;
use coms_story::Result;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Which end of the estimate must be within the goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judged {
    Value,
    UpperEnd,
}

#[derive(Debug, Clone, Serialize)]
pub struct Goal {
    pub at_most: f64,
    pub judged: Judged,
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    pub name: String,
    /// What is compared or counted, in words.
    pub what: String,
    /// `ratio`, `ms`, `KiB` ...
    pub unit: &'static str,
    /// Which figure of the samples `value` is: `p50`, `p99` ...
    pub statistic: &'static str,
    pub value: f64,
    pub ci95: Option<[f64; 2]>,
    /// The same for the 50th percentile.
    pub median: f64,
    pub n: usize,
    pub goal: Option<Goal>,
    pub met: Option<bool>,
    /// Every guest of the lab runs without hardware virtualisation.
    pub accel: &'static str,
    /// Both sides of a ratio, the worst case, what disturbed it ...
    pub details: Map<String, Value>,
}

impl Finding {
    pub fn new(name: &str, what: &str, unit: &'static str, statistic: &'static str, found: Estimate) -> Self {
        Self { ci95: Some([found.low, found.high]), ..Self::plain(name, what, unit, statistic, found.value) }
    }

    /// A figure that was measured once.
    pub fn plain(name: &str, what: &str, unit: &'static str, statistic: &'static str, value: f64) -> Self {
        Self {
            name: name.into(),
            what: what.into(),
            unit,
            statistic,
            value,
            ci95: None,
            median: value,
            n: 1,
            goal: None,
            met: None,
            accel: "tcg",
            details: Map::new(),
        }
    }

    pub fn of(self, n: usize, median: f64) -> Self {
        Self { n, median, ..self }
    }

    pub fn goal(self, at_most: f64, judged: Judged) -> Self {
        let shown = match judged {
            Judged::Value => self.value,
            Judged::UpperEnd => self.ci95.map_or(self.value, |[_, high]| high),
        };
        Self { goal: Some(Goal { at_most, judged }), met: Some(shown <= at_most), ..self }
    }

    pub fn detail(mut self, key: &str, value: impl Serialize) -> Self {
        self.details.insert(key.into(), json!(value));
        self
    }
}

/// Where everything goes.
pub fn dir() -> PathBuf {
    coms_lab::workspace_root().join("target/bench")
}

/// Writes `NAME.raw.json` of a bench and `NAME.json` of each figure, and the table of all figures there are.
pub fn write(bench: &str, raw: &Value, findings: &[Finding]) -> Result<()> {
    let dir = dir();
    std::fs::create_dir_all(&dir)?;
    put(&dir.join(format!("{bench}.raw.json")), &json!({ "bench": bench, "accel": "tcg", "raw": raw }))?;
    for finding in findings {
        let mut value = serde_json::to_value(finding)?;
        value["bench"] = bench.into();
        value["raw"] = format!("{bench}.raw.json").into();
        value["at"] = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
        value["cpus"] = std::thread::available_parallelism().map_or(0, usize::from).into();
        put(&dir.join(format!("{}.json", finding.name)), &value)?;
    }
    Ok(())
}

fn put(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()).into())
}

/// Everything that was ever found here, as a table; also into `table.md`.
pub fn table() -> Result<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(dir())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.ends_with(".json") || name.ends_with(".raw.json") {
            continue;
        }
        let value: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)
            .map_err(|e| format!("{}: {e}", path.display()))?;
        lines.push((value["bench"].to_string() + &name, row(&value)));
    }
    lines.sort();
    let mut text = String::from(
        "| figure | found | 95 % interval | n | goal | met | what |\n|---|---|---|---|---|---|---|\n",
    );
    for (_, line) in lines {
        text.push_str(&line);
    }
    text.push_str("\naccel=tcg; intervals by bootstrap (10,000 resamples); raw samples beside this file.\n");
    std::fs::write(dir().join("table.md"), &text)?;
    Ok(text)
}

fn row(v: &Value) -> String {
    let number = |v: &Value| v.as_f64().map_or_else(|| "-".into(), shown);
    let unit = v["unit"].as_str().unwrap_or_default();
    let goal = v["goal"]["at_most"].as_f64().map_or_else(
        || "none".into(),
        |g| {
            let end = if v["goal"]["judged"] == "upper-end" { ", upper end" } else { "" };
            format!("<= {}{end}", shown(g))
        },
    );
    let interval = match v["ci95"].as_array() {
        Some(ends) => ends.iter().map(number).collect::<Vec<_>>().join(" .. "),
        None => "-".into(),
    };
    let met = v["met"].as_bool().map_or("-", |met| if met { "yes" } else { "NO" });
    let mut out = String::new();
    let _ = writeln!(
        out,
        "| {} | {} {} ({}) | {interval} | {} | {goal} | {met} | {} |",
        v["name"].as_str().unwrap_or_default(),
        number(&v["value"]),
        unit,
        v["statistic"].as_str().unwrap_or_default(),
        v["n"],
        v["what"].as_str().unwrap_or_default(),
    );
    out
}

/// Three figures that count.
fn shown(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_on_the_upper_end_is_missed_by_the_interval_although_the_value_is_within() {
        let found = Estimate { value: 1.0, low: 0.9, high: 1.1 };
        let finding = |judged| Finding::new("a", "b", "ratio", "p50", found).goal(1.05, judged);
        assert_eq!(finding(Judged::Value).met, Some(true));
        assert_eq!(finding(Judged::UpperEnd).met, Some(false));
        let line = row(&serde_json::to_value(finding(Judged::UpperEnd)).unwrap());
        assert!(line.contains("<= 1.05, upper end | NO"), "{line}");
    }
}
