//! Writes databases in MaxMind's format, for tests.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::net::IpAddr;

/// A value of the format.
#[derive(Clone)]
pub enum Value {
    Text(&'static str),
    Number(f64),
    Short(u16),
    Middle(u32),
    Long(u64),
    Map(Vec<(&'static str, Value)>),
    EmptyList,
}

fn control(kind: u8, size: usize) -> u8 {
    assert!(size < 29);
    kind << 5 | size as u8
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) => {
            out.push(control(2, text.len()));
            out.extend(text.as_bytes());
        }
        Value::Number(number) => {
            out.push(control(3, 8));
            out.extend(number.to_be_bytes());
        }
        Value::Short(number) => {
            out.push(control(5, 2));
            out.extend(number.to_be_bytes());
        }
        Value::Middle(number) => {
            out.push(control(6, 4));
            out.extend(number.to_be_bytes());
        }
        Value::Long(number) => {
            out.extend([control(0, 8), 9 - 7]);
            out.extend(number.to_be_bytes());
        }
        Value::EmptyList => out.extend([control(0, 0), 11 - 7]),
        Value::Map(entries) => {
            out.push(control(7, entries.len()));
            for (key, value) in entries {
                encode(&Value::Text(key), out);
                encode(value, out);
            }
        }
    }
}

/// `version` 4 or 6; in one of 6 the IPv4 addresses are the first 2^32.
pub fn database(version: u16, networks: &[(&str, u32, Value)]) -> Vec<u8> {
    let mut data = Vec::new();
    // Of each node what is left and right of it: a node, or the place of data.
    let mut nodes: Vec<[Option<Result<usize, usize>>; 2]> = vec![[None; 2]];
    for (address, length, value) in networks {
        let (bits, width, length) = match address.parse().unwrap() {
            IpAddr::V4(v4) if version == 4 => (u128::from(u32::from(v4)) << 96, 32, *length),
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), 128, 96 + length),
            IpAddr::V6(v6) => (u128::from(v6), 128, *length),
        };
        assert!(length <= width);
        let mut node = 0;
        for depth in 0..length {
            let side = (bits >> (127 - depth) & 1) as usize;
            if depth + 1 == length {
                nodes[node][side] = Some(Err(data.len()));
            } else {
                node = match nodes[node][side] {
                    Some(Ok(next)) => next,
                    _ => {
                        nodes.push([None; 2]);
                        let next = nodes.len() - 1;
                        nodes[node][side] = Some(Ok(next));
                        next
                    }
                };
            }
        }
        encode(value, &mut data);
    }
    let count = nodes.len();
    let mut out = Vec::new();
    for side in nodes.iter().flatten() {
        let record = match side {
            None => count,
            Some(Ok(node)) => *node,
            Some(Err(at)) => count + 16 + at,
        };
        out.extend(&(record as u32).to_be_bytes()[1..]);
    }
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    let meta = Value::Map(vec![
        ("binary_format_major_version", Value::Short(2)),
        ("binary_format_minor_version", Value::Short(0)),
        ("build_epoch", Value::Long(1_700_000_000)),
        ("database_type", Value::Text("made-by-a-test")),
        ("description", Value::Map(vec![])),
        ("languages", Value::EmptyList),
        ("ip_version", Value::Short(version)),
        ("node_count", Value::Middle(count as u32)),
        ("record_size", Value::Short(24)),
    ]);
    encode(&meta, &mut out);
    out
}
