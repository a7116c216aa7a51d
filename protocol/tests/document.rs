//! PROTOCOL.md says what the code does: every message, field, value and limit, and the bytes of its example.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use coms_protocol::frame::{MAX_BODY, MAX_FRAME};
use coms_protocol::session::*;
use coms_protocol::types::*;
use coms_protocol::{GuestToHost, HostToGuest, MIN_VERSION, PORT_NAME, VERSION};
use std::collections::BTreeMap;

const PAGE: &str = include_str!("../PROTOCOL.md");
const GOLDEN: &str = include_str!("golden/v1.txt");
/// Where the structures are declared.
const SOURCES: [&str; 3] = [
    include_str!("../src/guest_to_host.rs"),
    include_str!("../src/host_to_guest.rs"),
    include_str!("../src/types.rs"),
];

/// What stands between a heading and the next.
fn section(heading: &str) -> &'static str {
    let start =
        PAGE.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("PROTOCOL.md lacks {heading:?}"));
    let text = &PAGE[start + heading.len() + 2..];
    &text[..text.find("\n#").unwrap_or(text.len())]
}

/// The rows of a section's first table, without its head.
fn rows(section: &str) -> Vec<Vec<String>> {
    let lines = section.lines().skip_while(|l| !l.starts_with('|')).take_while(|l| l.starts_with('|'));
    let cells = |l: &str| l.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
    lines.skip(2).map(cells).collect()
}

fn snake(camel: &str) -> String {
    let mut out = String::new();
    for c in camel.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// A Rust type as the page writes it.
fn as_the_page_says(rust: &str) -> String {
    rust.replace("Option<", "optional(").replace("Text<", "text(").replace("List<", "list(").replace('>', ")")
}

/// Each structure of the sources: its fields and their types, in order.
fn structures() -> BTreeMap<String, Vec<(String, String)>> {
    let mut found = BTreeMap::new();
    for source in SOURCES {
        let mut lines = source.lines();
        while let Some(line) = lines.next() {
            let Some(name) = line.strip_prefix("pub struct ").and_then(|l| l.strip_suffix(" {")) else {
                continue;
            };
            let fields = lines.by_ref().take_while(|l| *l != "}").filter_map(|l| {
                let (field, rust) = l.trim().strip_prefix("pub ")?.strip_suffix(',')?.split_once(": ")?;
                Some((field.to_owned(), as_the_page_says(rust)))
            });
            found.insert(name.to_owned(), fields.collect());
        }
    }
    found
}

/// Each message of a direction by its number, as the sources declare it.
fn messages(source: &str) -> Vec<(u16, String)> {
    let start = source.find("crate::messages! {").unwrap();
    let inside = &source[start..start + source[start..].find("\n}").unwrap()];
    let line = |l: &str| {
        let (name, number) = l.trim().strip_suffix(',')?.split_once(" = ")?;
        Some((number.parse().ok()?, name.to_owned()))
    };
    inside.lines().filter_map(line).collect()
}

fn fields_on_the_page(heading: &str) -> Vec<(String, String)> {
    rows(section(heading)).into_iter().map(|r| (r[0].clone(), r[1].trim_matches('`').to_owned())).collect()
}

#[test]
fn every_message_and_structure_is_on_the_page_with_every_field() {
    let structures = structures();
    let mut overview = Vec::new();
    let mut told = 0;
    for (source, from, numbers) in
        [(SOURCES[0], "guest", GuestToHost::NUMBERS), (SOURCES[1], "host", HostToGuest::NUMBERS)]
    {
        let messages = messages(source);
        assert_eq!(
            messages.iter().map(|m| m.0).collect::<Vec<_>>(),
            numbers,
            "this test reads the source well"
        );
        for (number, name) in messages {
            let fields = &structures[&name];
            assert!(!fields.is_empty());
            let name = snake(&name);
            assert_eq!(&fields_on_the_page(&format!("### {number} {name}")), fields, "{name}");
            overview.push([number.to_string(), name, from.to_owned()]);
            told += 1;
        }
    }
    for name in [
        "GuestHello",
        "HostHello",
        "Waiting",
        "Evidence",
        "Wishes",
        "Place",
        "HostEntry",
        "RegionEntry",
        "Coordinates",
        "Figures",
    ] {
        assert_eq!(&fields_on_the_page(&format!("### {name}")), &structures[name], "{name}");
        told += 1;
    }
    let with_fields = structures.values().filter(|f| !f.is_empty()).count();
    assert_eq!(told, with_fields, "a structure that the page does not tell of");
    let page: Vec<_> = rows(section("## 9. Messages"))
        .into_iter()
        .map(|r| [r[0].clone(), r[1].clone(), r[2].clone()])
        .collect();
    assert_eq!(page, overview);
}

#[test]
fn every_value_of_every_enumeration_is_on_the_page() {
    macro_rules! check {
        ($($type:ident)*) => {$(
            let known: Vec<_> =
                $type::KNOWN.iter().map(|v| [v.number().to_string(), v.name().to_owned()]).collect();
            let page: Vec<_> = rows(section(concat!("### ", stringify!($type))))
                .into_iter()
                .map(|r| [r[0].clone(), r[1].clone()])
                .collect();
            assert_eq!(page, known, stringify!($type));
            // Who writes an agent from the page should not look for what is left out.
            let given: Vec<u16> = $type::KNOWN.iter().map(|v| v.number()).collect();
            let gap = given.windows(2).find(|pair| pair[1] != pair[0] + 1).map(|p| (p[0] + 1, p[1] - 1));
            let told = gap.map(|(from, to)| format!("\n{from} to {to} were never given"));
            let page = section(concat!("### ", stringify!($type)));
            assert!(told.is_none_or(|told| page.contains(&told)), "{} skips {gap:?}", stringify!($type));
        )*};
    }
    check!(Technique Encryption Initiator RequestReason Metric DenyReason FailReason Phase NoticeReason Cause
        Asked GapLaw RandomState Fitness EncryptionLevel Protection);
    let enumerations = SOURCES[2].matches("\nopen_enum! {").count();
    assert_eq!(enumerations, 16, "name the new one in this test");
}

#[test]
fn every_limit_is_on_the_page() {
    let page = PAGE.split_whitespace().collect::<Vec<_>>().join(" ");
    let says = |words: String| assert!(page.contains(&words), "PROTOCOL.md does not say {words:?}");
    says(format!("named `{PORT_NAME}`"));
    says(format!("at most {MAX_FRAME} bytes with both borders (`MAX_FRAME`)"));
    says(format!("a run between borders at most {}", MAX_FRAME - 2));
    says(format!("body at most {MAX_BODY} (`MAX_BODY`)"));
    says(format!("min {MIN_VERSION}, max {VERSION} (`VERSION`)"));
    says(format!("At most {WINDOW} are sent and not acknowledged (`WINDOW`)"));
    says(format!("may keep {MAX_QUEUED} messages unacknowledged (`MAX_QUEUED`)"));
    says(format!(
        "after {} ms, then after twice as long each time, up to {} s",
        RESEND_FIRST.as_millis(),
        RESEND_MAX.as_secs()
    ));
    says(format!(
        "again after {} ms, and then after twice as long each time, up to {} s",
        GREET_FIRST.as_millis(),
        GREET_MAX.as_secs()
    ));
    says(format!("no two hellos within {} ms", GREET_SPACING.as_millis()));
    says(format!("a hello now and every {} s", GREET_MAX.as_secs()));
    says(format!("sent nothing for {} s sends a heartbeat", HEARTBEAT_IDLE.as_secs()));
    says(format!("heard nothing for {} s is greeting again", SILENCE.as_secs()));
    says(format!("Remember for the last {FORMER} peers"));
    for (number, name) in [(HELLO, "hello"), (ACK, "ack"), (HEARTBEAT, "heartbeat"), (WITHDRAWN, "withdrawn")]
    {
        says(format!("| {number} | {name} |"));
    }
}

/// The broker's bounds, which are not this crate's: read where they are declared.
#[test]
fn what_the_host_bounds_is_on_the_page() {
    let io = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../host-broker/src/io");
    let budget = std::fs::read_to_string(io.join("budget.rs")).unwrap();
    let links = std::fs::read_to_string(io.join("guest_links.rs")).unwrap();
    let requests = std::fs::read_to_string(io.join("../config/raw.rs")).unwrap();
    let page = section("## 8. What the host bounds").split_whitespace().collect::<Vec<_>>().join(" ");
    for (source, declared, told) in [
        (&budget, "OWN_PER_S: f64 = 8.0 * 1024.0;", "an income of 8 KiB a second"),
        (&budget, "OWN_SAVED: f64 = 16.0 * 1024.0;", "may save up 16 KiB"),
        (&budget, "SPARE_PER_S: f64 = 256.0 * 1024.0;", "256 KiB a second"),
        (&budget, "SPARE_SAVED: f64 = 2.0 * 1024.0 * 1024.0;", "2 MiB saved up"),
        (&links, "DECIDED: usize = 512;", "| 512 more |"),
        (&links, "ANSWERED: usize = 64;", "| 64 more |"),
        (&links, "DAMAGED: usize = 20;", "| 20 more |"),
        (&links, "WINDOW: usize = 1024;", "the newest 1 KiB"),
        (&links, "OUTBOX: usize = 32;", "32 before them"),
        (&requests, "requests_per_minute: 6,", "6 unless configured"),
    ] {
        assert!(source.contains(declared), "PROTOCOL.md, section 8, rests on {declared:?}: mend both");
        assert!(page.contains(told), "PROTOCOL.md, section 8, does not say {told:?}");
    }
}

/// The example is the file's, and the bodies told below it are what is in the frames.
#[test]
fn the_example_is_golden() {
    let golden: BTreeMap<&str, &str> = GOLDEN.lines().filter_map(|l| l.split_once(" = ")).collect();
    let example = section("## 13. A whole conversation");
    let shown: Vec<_> = example.lines().filter_map(|l| l.split_once(" = ")).collect();
    for (name, hex) in &shown {
        assert_eq!(golden.get(name), Some(hex), "{name}");
    }
    let frames = golden.keys().filter(|name| name.starts_with("frame.")).count();
    assert_eq!(shown.len(), frames, "the conversation is whole");

    let explained = |frame: &str| {
        let after = &example[example.find(&format!("\n{frame} = ")).unwrap()..];
        let bytes = rows(after).into_iter().map(|r| r[0].replace(['`', ' '], "")).collect::<String>();
        let hex = golden[frame];
        let frame: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let body = coms_protocol::frame::Decoder::new().next_frame(&mut frame.as_slice()).unwrap();
        assert_eq!(bytes, body.iter().map(|b| format!("{b:02x}")).collect::<String>());
    };
    explained("frame.hello.1_guest");
    explained("frame.guest_to_host.request");
}
