//! One line of a long-running plugin: a JSON object, version 1 of guest-agent/PLUGINS.md. What is wrong in one key costs
//! that key; only a line that is no object, or of another version, says nothing at all.

use crate::reading::{Client, MAX_CLIENTS, Moment, Problem, Reading, plain, plain_bytes};
use serde_json::{Map, Value};

/// The only version so far.
pub const VERSION: u64 = 1;
/// Longer lines are thrown away.
pub const MAX_LINE: usize = 8 * 1024;
/// Figures of a wish.
const MAX_EVIDENCE: usize = 8;
/// All that a line may say.
const KEYS: [&str; 9] = [
    "latency_ms",
    "throughput_per_s",
    "requests",
    "errors",
    "failed",
    "bad_moment",
    "ready",
    "wish",
    "clients",
];
const EXAMPLE: &str = r#"a line is one JSON object, such as {"v":1,"latency_ms":12.5}"#;

/// Understands one line, without its newline.
pub fn understand(line: &[u8]) -> Reading {
    let value = match serde_json::from_slice::<Value>(line) {
        Ok(Value::Object(map)) => map,
        Ok(other) => {
            let kind = kind_of(&other);
            return Reading::trouble(Problem::new(format!("the line is {kind}, not an object"), EXAMPLE));
        }
        Err(e) => {
            let shown = plain_bytes(line);
            return Reading::trouble(Problem::new(
                format!("not JSON ({e}): {shown}"),
                format!("{EXAMPLE}; messages for people belong on standard error"),
            ));
        }
    };
    match value.get("v") {
        Some(v) if v.as_u64() == Some(VERSION) => {}
        Some(v) => {
            let shown = plain(&v.to_string());
            return Reading::trouble(Problem::new(format!("v is {shown}"), format!("v must be {VERSION}")));
        }
        None => return Reading::trouble(Problem::new("v is missing", format!("begin with \"v\":{VERSION}"))),
    }
    let mut reading = Reading::default();
    for (key, value) in &value {
        take(&mut reading, key, value);
    }
    if !value.keys().any(|key| KEYS.contains(&key.as_str())) {
        reading.problems.push(Problem::new("the line says nothing", EXAMPLE));
    }
    reading
}

fn take(reading: &mut Reading, key: &str, value: &Value) {
    match key {
        "v" => {}
        "latency_ms" => {
            if let Some(ms) = number(reading, key, value) {
                reading.set_latency(ms / 1000.0, key);
            }
        }
        "throughput_per_s" => reading.throughput_per_s = number(reading, key, value),
        "requests" => reading.requests = number(reading, key, value),
        "errors" => reading.errors = number(reading, key, value),
        "failed" => reading.failed = text(reading, key, value),
        "bad_moment" => match value {
            Value::Bool(false) => reading.moment = Some(Moment::Good),
            Value::Bool(true) => reading.moment = Some(Moment::Bad(String::new())),
            Value::String(why) => reading.moment = Some(Moment::Bad(plain(why))),
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                wrong(reading, key, value, "true, false, or a text that says why")
            }
        },
        "ready" => match value {
            Value::Bool(ready) => reading.ready = *ready,
            Value::Null | Value::String(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                wrong(reading, key, value, "true or false")
            }
        },
        "wish" => reading.wish = wish(reading, value),
        "clients" => reading.clients = clients(reading, value),
        unknown => {
            let shown = plain(unknown);
            reading.problems.push(Problem::new(
                format!("{shown} is no key of version {VERSION}; ignored"),
                format!("keys: v {}", KEYS.join(" ")),
            ));
        }
    }
}

fn wrong(reading: &mut Reading, key: &str, value: &Value, right: &str) {
    let mut shown = value.to_string();
    shown.truncate(shown.floor_char_boundary(60));
    reading
        .problems
        .push(Problem::new(format!("{key} is {}", plain(&shown)), format!("{key} must be {right}")));
}

/// A figure: finite, and not below 0.
fn number(reading: &mut Reading, key: &str, value: &Value) -> Option<f64> {
    let number = value.as_f64().filter(|n| n.is_finite() && *n >= 0.0);
    if number.is_none() {
        wrong(reading, key, value, "a number that is not below 0, with a decimal point and without quotes");
    }
    number
}

fn text(reading: &mut Reading, key: &str, value: &Value) -> Option<String> {
    let text = value.as_str().map(plain).filter(|t| !t.is_empty());
    if text.is_none() {
        wrong(reading, key, value, "a text that says why");
    }
    text
}

fn wish(reading: &mut Reading, value: &Value) -> Option<String> {
    const RIGHT: &str =
        r#"a text, or {"why":"…","evidence":{"disk_await_ms":220}}: at most 8 figures by their names"#;
    let (why, evidence) = match value {
        Value::String(why) => (Some(why.as_str()), None),
        Value::Object(map) => (map.get("why").and_then(Value::as_str), map.get("evidence")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => (None, None),
    };
    let Some(why) = why.map(plain).filter(|w| !w.is_empty()) else {
        wrong(reading, "wish", value, RIGHT);
        return None;
    };
    let empty = Map::new();
    let figures = match evidence {
        None => &empty,
        Some(Value::Object(map)) if map.len() <= MAX_EVIDENCE && map.values().all(Value::is_number) => map,
        Some(other) => {
            wrong(reading, "evidence", other, "an object of at most 8 numbers");
            &empty
        }
    };
    let figures: Vec<_> = figures.iter().map(|(name, n)| format!("{name} {n}")).collect();
    Some(if figures.is_empty() { why } else { plain(&format!("{why} ({})", figures.join(", "))) })
}

fn clients(reading: &mut Reading, value: &Value) -> Option<Vec<Client>> {
    const RIGHT: &str = r#"a list such as [{"address":"203.0.113.7","weight":12}]"#;
    let Value::Array(items) = value else {
        wrong(reading, "clients", value, RIGHT);
        return None;
    };
    let mut clients = Vec::new();
    let (mut left_out, mut first) = (0, None);
    for (at, item) in items.iter().enumerate() {
        match client(item) {
            Ok(client) => clients.push(client),
            Err(why) => {
                left_out += 1;
                first.get_or_insert_with(|| format!("clients[{at}]: {why}"));
            }
        }
    }
    if let Some(first) = first {
        let what = format!("{first}; {left_out} of {} are left out", items.len());
        reading.problems.push(Problem::new(what, format!("clients must be {RIGHT}")));
    }
    Some(aggregate(&clients))
}

/// One of the list; what is wrong with it.
fn client(item: &Value) -> Result<Client, String> {
    let address = match item.get("address") {
        Some(Value::String(text)) => {
            text.parse().map_err(|_| format!("address \"{}\" is no IP address in numbers", plain(text)))?
        }
        Some(other) => return Err(format!("address is {}, not a text", kind_of(other))),
        None if item.is_object() => return Err("address is missing".to_owned()),
        None => return Err(format!("it is {}, not an object", kind_of(item))),
    };
    let weight = item.get("weight").map_or(Some(1.0), Value::as_f64).filter(|w| w.is_finite() && *w > 0.0);
    Ok(Client { address, weight: weight.ok_or("weight must be a number above 0")? })
}

/// Clients of one network are one: that is all that geography needs, and it bounds what is kept. The heaviest stay.
pub fn aggregate(clients: &[Client]) -> Vec<Client> {
    let mut networks = std::collections::BTreeMap::<_, f64>::new();
    for c in clients {
        *networks.entry(network(c.address)).or_default() += c.weight;
    }
    let mut out: Vec<_> = networks
        .into_iter()
        .map(|(address, weight)| Client { address, weight: weight.min(f64::MAX) })
        .collect();
    out.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    out.truncate(MAX_CLIENTS);
    out
}

/// The first address of its /24 or /48.
fn network(address: std::net::IpAddr) -> std::net::IpAddr {
    match address.to_canonical() {
        std::net::IpAddr::V4(v4) => std::net::Ipv4Addr::from_bits(v4.to_bits() & !0xff).into(),
        std::net::IpAddr::V6(v6) => std::net::Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80).into(),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(line: &str) -> Reading {
        understand(line.as_bytes())
    }

    fn complains(line: &str, what: &str) {
        let problems = of(line).problems;
        assert!(problems.iter().any(|p| p.what.contains(what)), "{line}: {problems:?}");
    }

    #[test]
    fn a_whole_line_is_understood() {
        let r = of(r#"{"v":1,"latency_ms":12.5,"throughput_per_s":250,"requests":500,"errors":2,
            "bad_moment":"backup","wish":{"why":"slow disk","evidence":{"await_ms":220}},
            "clients":[{"address":"203.0.113.7","weight":3},{"address":"203.0.113.9"},{"address":"2001:db8::1","weight":9}]}"#);
        assert_eq!(r.problems, []);
        assert_eq!((r.latency_us, r.throughput_per_s), (Some(12_500), Some(250.0)));
        assert_eq!((r.requests, r.errors), (Some(500.0), Some(2.0)));
        assert_eq!(r.moment, Some(Moment::Bad("backup".into())));
        assert_eq!(r.wish.as_deref(), Some("slow disk (await_ms 220)"));
        let clients = r.clients.unwrap();
        assert_eq!(clients.len(), 2, "one network is one");
        assert_eq!(clients[0].address.to_string(), "2001:db8::");
        assert_eq!((clients[1].address.to_string().as_str(), clients[1].weight), ("203.0.113.0", 4.0));
        assert_eq!(of(r#"{"v":1,"bad_moment":false}"#).moment, Some(Moment::Good));
        assert_eq!(of(r#"{"v":1,"failed":"no \u001b[31mdisk"}"#).failed.unwrap(), "no \u{fffd}[31mdisk");
    }

    #[test]
    fn each_mistake_is_named_with_what_would_be_right() {
        complains("12", "a number, not an object");
        complains("OK - all is well", "not JSON");
        complains("{\"latency_ms\":1}", "v is missing");
        complains(r#"{"v":"1"}"#, r#"v is "1""#);
        complains(r#"{"v":2}"#, "v is 2");
        complains(r#"{"v":1}"#, "says nothing");
        complains(r#"{"v":1,"latency_ms":"12"}"#, "latency_ms");
        complains(r#"{"v":1,"latency_ms":-5}"#, "latency_ms is -5");
        complains(r#"{"v":1,"latency":5}"#, "latency is no key");
        complains(r#"{"v":1,"bad_moment":1}"#, "bad_moment");
        complains(r#"{"v":1,"wish":{"why":""}}"#, "wish");
        complains(r#"{"v":1,"wish":{"why":"x","evidence":{"a":"b"}}}"#, "evidence");
        complains(r#"{"v":1,"latency":5}"#, "says nothing");
        complains(r#"{"v":1,"clients":[{"address":"shop.example"}]}"#, "\"shop.example\" is no IP address");
        let second = r#"{"v":1,"clients":[{"address":"192.0.2.1"},{"address":"192.0.2.2","weight":0}]}"#;
        complains(second, "clients[1]: weight must be a number above 0; 1 of 2");
        complains(r#"{"v":1,"clients":{"1.2.3.4":1}}"#, "clients");
        let partly = of(r#"{"v":1,"latency_ms":3,"errors":-1}"#);
        assert_eq!((partly.latency_us, partly.problems.len()), (Some(3_000), 1), "the rest counts");
    }

    #[test]
    fn a_latency_beyond_a_minute_is_a_failure() {
        assert!(of(r#"{"v":1,"latency_ms":3600000}"#).failed.is_some());
    }

    #[test]
    fn clients_are_bounded_and_the_heaviest_stay() {
        let many: Vec<_> = (0..500u32)
            .map(|i| Client {
                address: std::net::Ipv4Addr::from_bits(i << 8).into(),
                weight: 1.0 + f64::from(i),
            })
            .collect();
        let kept = aggregate(&many);
        assert_eq!((kept.len(), kept[0].weight, kept[63].weight), (MAX_CLIENTS, 500.0, 437.0));
    }

    proptest! {
        #[test]
        fn any_line_is_bounded(line in proptest::collection::vec(any::<u8>(), 0..MAX_LINE)) {
            let reading = understand(&line);
            prop_assert!(reading.problems.iter().all(|p| p.what.len() <= 500 && p.mend.len() <= 500));
        }
    }
}
