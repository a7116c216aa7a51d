//! PLUGINS.md, its schema, and what the code understands are one: each example of the page, and each mistake.
#![allow(clippy::unwrap_used)]

use coms_plugins::contract::{MAX_LINE, understand};
use coms_plugins::reading::{MAX_CLIENTS, MAX_LATENCY, MAX_TEXT};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

const PAGE: &str = include_str!("../../guest-agent/PLUGINS.md");
const SCHEMA: &str = include_str!("../../guest-agent/plugin.schema.json");
/// The reference implementation; of Rust's the small ones bring forty crates along.
const VALIDATE: &str = "
import json, sys
from jsonschema import Draft202012Validator as V
schema, *lines = map(json.loads, sys.stdin)
V.check_schema(schema)
validator = V(schema, format_checker=V.FORMAT_CHECKER)
print(json.dumps([validator.is_valid(line) for line in lines]))
";

/// What the schema says of each line.
fn by_schema(lines: &[Value]) -> Vec<bool> {
    let mut python = Command::new("/usr/bin/python3");
    let python = python.args(["-c", VALIDATE]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut python = python.unwrap();
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let input: String = std::iter::once(&schema).chain(lines).map(|l| format!("{l}\n")).collect();
    python.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = python.wait_with_output().unwrap();
    assert!(out.status.success(), "it needs python3-jsonschema, which tests/setup.sh installs");
    serde_json::from_slice(&out.stdout).unwrap()
}

/// What the code says of a line. Keys that it ignores are ignored by the schema, too; a latency that is too long is right, and
/// a failure.
fn by_code(line: &Value) -> bool {
    let reading = understand(line.to_string().as_bytes());
    reading.problems.iter().all(|p| p.what.contains("is no key of version"))
}

#[test]
fn every_example_of_the_page_is_right() {
    let lines: Vec<Value> =
        PAGE.lines().filter(|l| l.starts_with("{\"v\"")).map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.len() >= 9);
    for (line, right) in lines.iter().zip(by_schema(&lines)) {
        assert!(right && by_code(line), "{line}");
    }
    let keys = |line: &Value| line.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let shown: std::collections::BTreeSet<String> = lines.iter().flat_map(keys).collect();
    let known: Value = serde_json::from_str(SCHEMA).unwrap();
    for key in known["properties"].as_object().unwrap().keys() {
        assert!(shown.contains(key), "no example of {key}");
        assert!(PAGE.contains(&format!("`{key}`")), "PLUGINS.md does not explain {key}");
    }
}

/// What page, schema and code say where a value just is right, and where it stops to be.
#[test]
fn bounds_are_the_same_to_all() {
    let lines = [
        json!({ "v": 1, "latency_ms": MAX_LATENCY.as_millis() as u64 }),
        json!({ "v": 1, "latency_ms": MAX_LATENCY.as_millis() as u64 + 1 }),
        json!({ "v": 1, "ready": true }),
        json!({ "v": 1, "ready": false }),
        json!({ "v": 1, "wish": { "why": "x", "evidence": evidence(8) } }),
        json!({ "v": 1, "clients": vec![json!({ "address": "192.0.2.1" }); 200] }),
        json!({ "v": 1, "failed": "x".repeat(1000), "more": 1 }),
        json!({ "v": 1, "wish": { "why": "x", "evidence": evidence(9) } }),
    ];
    let right = by_schema(&lines);
    assert_eq!(right[..7], [true; 7]);
    assert!(!right[7]);
    for (line, right) in lines.iter().zip(right) {
        assert_eq!(by_code(line), right, "{line}");
    }
    let of = |at: usize| understand(lines[at].to_string().as_bytes());
    assert!(of(0).failed.is_none() && of(1).failed.is_some());
    assert!(of(2).ready && !of(3).ready);
    assert_eq!(of(6).failed.unwrap().len(), MAX_TEXT);
    for (number, what) in [
        (MAX_LATENCY.as_millis().to_string(), "the longest latency"),
        (MAX_LINE.to_string(), "the longest line"),
        (MAX_TEXT.to_string(), "the longest text"),
        (MAX_CLIENTS.to_string(), "most clients"),
    ] {
        assert!(SCHEMA.contains(&number) && PAGE.contains(&number), "{what}: {number}");
    }
    let known: Value = serde_json::from_str(SCHEMA).unwrap();
    let says_something: Vec<_> =
        known["anyOf"].as_array().unwrap().iter().map(|a| &a["required"][0]).collect();
    let keys = known["properties"].as_object().unwrap().keys().filter(|k| *k != "v");
    assert!(
        keys.clone().count() == says_something.len()
            && keys.clone().all(|k| says_something.contains(&&json!(k)))
    );
}

fn evidence(figures: usize) -> Value {
    (0..figures).map(|n| (format!("f{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn every_mistake_is_one_to_both() {
    let lines = [
        json!({}),
        json!({ "v": 1 }),
        json!({ "v": 2, "latency_ms": 1 }),
        json!({ "latency_ms": 1 }),
        json!({ "v": 1, "latency": 3 }),
        json!({ "v": 1, "latency_ms": "1" }),
        json!({ "v": 1, "errors": -1 }),
        json!({ "v": 1, "failed": "" }),
        json!({ "v": 1, "bad_moment": 1 }),
        json!({ "v": 1, "ready": "yes" }),
        json!({ "v": 1, "wish": {} }),
        json!({ "v": 1, "wish": { "why": "x", "evidence": { "a": "b" } } }),
        json!({ "v": 1, "clients": [{ "address": "shop.example" }] }),
        json!({ "v": 1, "clients": [{ "address": "192.0.2.1", "weight": 0 }] }),
        json!([1]),
        json!("x"),
    ];
    for (line, right) in lines.iter().zip(by_schema(&lines)) {
        assert!(!right && !by_code(line), "{line}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-10i64..100_000).prop_map(Value::from),
        (-1.0f64..1e5).prop_map(Value::from),
        "[a-z ]{0,6}".prop_map(Value::from),
        Just(json!("203.0.113.7")),
        Just(json!("2001:db8::1")),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let key = prop_oneof![Just("why"), Just("evidence"), Just("address"), Just("weight"), Just("x")];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(key.prop_map(str::to_owned), inner, 0..3).prop_map(|m| json!(m)),
        ]
    })
}

/// Whatever lines are made, schema and code say the same of each.
#[test]
fn schema_and_code_agree() {
    let key = prop_oneof![
        Just("latency"),
        Just("latency_ms"),
        Just("throughput_per_s"),
        Just("errors"),
        Just("failed"),
        Just("bad_moment"),
        Just("ready"),
        Just("wish"),
        Just("clients"),
    ];
    let line = proptest::collection::btree_map(key, value(), 1..3).prop_map(|keys| {
        let mut line = json!(keys);
        line["v"] = 1.into();
        line
    });
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let lines: Vec<Value> = (0..2000).map(|_| line.new_tree(&mut runner).unwrap().current()).collect();
    let schema = by_schema(&lines);
    assert!(schema.iter().filter(|right| **right).count() > 20, "some are right");
    for (line, right) in lines.iter().zip(schema) {
        assert_eq!(by_code(line), right, "{line}: {:?}", understand(line.to_string().as_bytes()).problems);
    }
}
