//! PLUGINS.md's tables of plugins.toml say what the code does: every key, its type, its kinds, its default and its range, each
//! tried; and every configuration that the page shows is right.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use coms_plugins::config::{Config, MAX_PLUGINS};
use std::collections::BTreeMap;
use std::path::Path;

const PAGE: &str = include_str!("../../guest-agent/PLUGINS.md");
/// Where the keys are declared.
const SOURCE: &str = include_str!("../src/config/raw.rs");
const KINDS: [&str; 4] = ["nagios", "openmetrics", "statsd", "execd"];

/// The rows of a table, by its first line.
fn rows(head: &str) -> Vec<Vec<String>> {
    let start = PAGE.find(head).unwrap_or_else(|| panic!("PLUGINS.md lacks the table {head:?}"));
    let lines = PAGE[start..].lines().take_while(|l| l.starts_with('|'));
    lines.skip(2).map(|l| l.trim_matches('|').split(" | ").map(|c| c.trim().to_owned()).collect()).collect()
}

/// What is between backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// A structure's fields and their types.
fn fields(name: &str) -> Vec<(String, String)> {
    let start = SOURCE.find(&format!("pub(super) struct {name} {{")).unwrap();
    let lines = SOURCE[start..].lines().skip(1).take_while(|l| *l != "}");
    let field = |l: &str| {
        let (field, rust) = l.trim().strip_prefix("pub ")?.strip_suffix(',')?.split_once(": ")?;
        let rust = rust.strip_prefix("Option<").and_then(|r| r.strip_suffix('>')).unwrap_or(rust);
        Some((field.to_owned(), rust.to_owned()))
    };
    lines.filter_map(field).collect()
}

/// How the page calls a type; one that names its values is told by them.
fn as_the_page_says(rust: &str) -> Option<&'static str> {
    match rust {
        "String" | "PathBuf" => Some("text"),
        "u64" | "u32" | "f64" => Some("number"),
        "bool" => Some("true or false"),
        "Vec<String>" => Some("list of texts"),
        "BTreeMap<String, String>" => Some("texts by name"),
        "Kind" | "Measure" | "Signal" => None,
        other => panic!("{other} is no type that the page has a word for"),
    }
}

type Keys = BTreeMap<String, String>;

/// The least that a plugin of this kind needs.
fn least(kind: &str) -> Keys {
    let keys: &[(&str, &str)] = match kind {
        "nagios" | "execd" => &[("command", "[\"/bin/true\"]")],
        "openmetrics" => &[("url", "\"http://127.0.0.1:9100/metrics\""), ("latency", "\"q_seconds\"")],
        "statsd" => &[("listen", "\"127.0.0.1:8125\""), ("latency", "\"q\"")],
        other => panic!("{other}"),
    };
    let all = [("name", "\"p\"".to_owned()), ("kind", format!("{kind:?}"))].into_iter();
    all.chain(keys.iter().map(|(k, v)| (*k, (*v).to_owned()))).map(|(k, v)| (k.to_owned(), v)).collect()
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("plugins.toml")).map_err(|e| e.to_string())
}

fn plugin(keys: &Keys) -> Result<Config, String> {
    let lines: String = keys.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
    parse(&format!("[[plugin]]\n{lines}"))
}

fn with(kind: &str, key: &str, value: &str) -> Result<Config, String> {
    let mut keys = least(kind);
    keys.insert(key.to_owned(), value.to_owned());
    plugin(&keys)
}

fn without(kind: &str, key: &str) -> Result<Config, String> {
    let mut keys = least(kind);
    keys.remove(key);
    plugin(&keys)
}

/// "number, 8 to 100": the bounds, and what is just beyond them.
fn range(cell: &str) -> Option<[String; 4]> {
    let (low, high) = cell.strip_prefix("number, ")?.split_once(" to ")?;
    let beyond = |n: &str, by: f64| match n.parse::<i64>() {
        Ok(n) => (n + by as i64).to_string(),
        Err(_) => (n.parse::<f64>().unwrap() + by * 0.0001).to_string(),
    };
    let above = beyond(high, 1.0);
    Some([low.to_owned(), high.to_owned(), beyond(low, -1.0), above])
}

/// A value of this type that no key minds.
fn any(key: &str, is: &str) -> String {
    match (key, is) {
        ("listen", _) => "\"127.0.0.1:8126\"".to_owned(),
        ("url", _) => "\"http://localhost/\"".to_owned(),
        ("command", _) => "[\"/bin/true\", \"x\"]".to_owned(),
        (_, "text") => "\"x\"".to_owned(),
        (_, "true or false") => "true".to_owned(),
        (_, "texts by name") => "{ a = \"b\" }".to_owned(),
        (_, choice) if choice.starts_with('`') => quoted(choice)[0].to_owned(),
        (_, number) => range(number).unwrap()[1].clone(),
    }
}

const HEAD: &str = "| key | of kind | is |";

#[test]
fn every_key_is_in_the_table_with_its_type() {
    let keys = rows(HEAD);
    let mut declared = fields("Plugin");
    let mut told: Vec<_> = keys.iter().map(|row| quoted(&row[0])[0].to_owned()).collect();
    for (key, rust) in &declared {
        let row = keys.iter().find(|row| row[0] == format!("`{key}`"));
        let is = &row.unwrap_or_else(|| panic!("{key} is not in the table"))[2];
        let right = as_the_page_says(rust)
            .is_none_or(|word| is.starts_with(word) || word == "text" && is.starts_with('`'));
        assert!(right, "{key} is {rust}, not {is}");
    }
    declared.sort();
    told.sort();
    assert_eq!(told, declared.into_iter().map(|d| d.0).collect::<Vec<_>>(), "and no other");
    assert!(PAGE.contains(&format!("At most {MAX_PLUGINS} `[[plugin]]`.")));
}

#[test]
fn every_key_is_for_its_kinds_and_no_other() {
    for row in rows(HEAD) {
        let (key, kinds, is) = (quoted(&row[0])[0], &row[1], &row[2]);
        let of = if kinds == "all" { KINDS.to_vec() } else { quoted(kinds) };
        assert!(of.iter().all(|kind| KINDS.contains(kind)), "{key}: {kinds}");
        for kind in KINDS.into_iter().filter(|_| key != "kind") {
            let taken = with(kind, key, &any(key, is));
            assert_eq!(taken.is_ok(), of.contains(&kind), "{key} of {kind}: {taken:?}");
        }
    }
}

#[test]
fn defaults_are_those_of_the_table() {
    for row in rows(HEAD) {
        let (key, kinds, default) = (quoted(&row[0])[0], &row[1], row[3].as_str());
        let of = if kinds == "all" { KINDS.to_vec() } else { quoted(kinds) };
        let exception = default.split_once("; ").map(|(_, of)| quoted(of)).unwrap_or_default();
        for kind in of {
            let left_out = without(kind, key);
            if default.starts_with("required") && !exception.contains(&kind) {
                assert!(left_out.is_err(), "{key} of {kind} is not required");
                continue;
            }
            let left_out = left_out.unwrap_or_else(|e| panic!("{key} of {kind} is required: {e}"));
            if let [value] = quoted(default)[..]
                && default == format!("`{value}`")
            {
                assert_eq!(with(kind, key, value).unwrap(), left_out, "{key} of {kind}");
            }
        }
    }
    // Those that a value alone does not tell.
    let is = |kind: &str, more: &[(&str, &str)], same: &[(&str, &str)]| {
        let of = |more: &[(&str, &str)]| {
            let mut keys = least(kind);
            keys.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
            plugin(&keys).unwrap()
        };
        assert_eq!(of(more), of(same));
    };
    is("execd", &[("notice_s", "5")], &[("notice_s", "5"), ("notices", "true")]);
    is("execd", &[], &[("notices", "false")]);
    is("execd", &[], &[("user", "\"coms-probe\"")]);
    for (name, unit) in [
        ("q_milliseconds", "ms"),
        ("q_ms", "ms"),
        ("q_microseconds", "us"),
        ("q_us", "us"),
        ("q", "s"),
        ("q_ns", "s"),
    ] {
        let (name, unit) = (format!("{name:?}"), format!("{unit:?}"));
        is("openmetrics", &[("latency", &name)], &[("latency", &name), ("unit", &unit)]);
    }
}

#[test]
fn ranges_and_choices_are_those_of_the_table() {
    let mut ranges = 0;
    for row in rows(HEAD) {
        let (key, is) = (quoted(&row[0])[0], row[2].as_str());
        let of = if row[1] == "all" { KINDS.to_vec() } else { quoted(&row[1]) };
        if let Some([low, high, below, above]) = range(is) {
            ranges += 1;
            for kind in of {
                // Its own row says so.
                let low = if (key, kind) == ("interval_ms", "nagios") { "200" } else { &low };
                for (value, right) in [(low, true), (&high, true), (&below, false), (&above, false)] {
                    // No bound at all is said beside.
                    let right = right || (key == "memory_mib" && value == "0");
                    let taken = with(kind, key, value);
                    assert_eq!(taken.is_ok(), right, "{key} = {value} of {kind}: {taken:?}");
                }
            }
        } else if is.starts_with('`') && key != "kind" {
            assert!(quoted(is).iter().all(|value| with(of[0], key, value).is_ok()), "{key}: {is}");
            assert!(with(of[0], key, "\"other\"").is_err(), "{key}");
        }
    }
    assert_eq!(ranges, 8);
    assert!(with("nagios", "interval_ms", "199").is_err() && with("nagios", "memory_mib", "0").is_ok());
    let kinds: Vec<String> = KINDS.iter().map(|k| format!("{k:?}")).collect();
    let row = rows(HEAD).into_iter().find(|row| row[0] == "`kind`").unwrap();
    let mut told = quoted(&row[2]);
    told.sort_by_key(|t| kinds.iter().position(|k| k == t));
    assert_eq!(told, kinds);
}

#[test]
fn the_sections_are_in_their_table_with_their_defaults() {
    let mut told = Vec::new();
    for row in rows("| section | key | is |") {
        let (section, key, default) = (quoted(&row[0])[0], quoted(&row[1])[0], quoted(&row[3])[0]);
        let config = parse(&format!("{section}\n{key} = {default}\n"));
        assert_eq!(config.unwrap(), parse("").unwrap(), "{section} {key}");
        if let Some([low, high, below, above]) = range(&row[2]) {
            for (value, right) in [(low, true), (high, true), (below, false), (above, false)] {
                assert_eq!(parse(&format!("{section}\n{key} = {value}\n")).is_ok(), right, "{key} = {value}");
            }
        }
        told.push((section.trim_matches(['[', ']']).to_owned(), key.to_owned()));
    }
    let declared = ["Agent", "Control", "Run"]
        .iter()
        .flat_map(|section| fields(section).into_iter().map(move |(key, _)| (section.to_lowercase(), key)));
    assert_eq!(told, declared.collect::<Vec<_>>());
    let sections: Vec<_> = fields("Raw").into_iter().map(|f| f.0).collect();
    assert_eq!(sections, ["agent", "control", "run", "plugin"]);
}

#[test]
fn every_configuration_that_the_page_shows_is_right() {
    let blocks = PAGE.split("```toml\n").skip(1).map(|b| b.split("```").next().unwrap());
    let mut kinds: Vec<_> = blocks
        .filter(|b| b.contains("[[plugin]]"))
        .map(|b| parse(b).unwrap_or_else(|e| panic!("{b}{e}")).plugins[0].kind.name())
        .collect();
    kinds.dedup();
    assert_eq!(kinds, ["execd", "nagios", "openmetrics", "statsd", "execd"]);
}
