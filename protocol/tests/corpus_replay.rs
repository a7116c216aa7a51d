//! Every input that the fuzzer found interesting, without the fuzzer (see `tests/fuzz`).
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../tests/fuzz/fuzz_targets/run.rs"]
mod run;

use std::path::Path;

#[test]
fn the_fuzzers_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/session_receive");
    let mut played = 0;
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run::run(&std::fs::read(&path).unwrap());
        played += 1;
    }
    assert!(played >= 20, "a corpus of {played} files finds nothing");
}

/// For each message of the golden file a script in the corpus, so that the fuzzer starts from every one of them: two
/// ends meet, it is said, said again, and said damaged. `COMS_GOLDEN=add` writes what is missing.
#[test]
fn the_fuzzer_starts_from_every_message() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = std::fs::read_to_string(here.join("tests/golden/v1.txt")).unwrap();
    let mut messages = 0;
    for line in golden.lines() {
        let Some((name, payload)) = line.split_once(" = ") else { continue };
        let mut parts = name.splitn(3, '.');
        let (direction, number) = (parts.next().unwrap(), parts.next().unwrap());
        // The end that hears it, and how `run::frame_of` writes its number.
        let (mode, number) = match (direction, number.parse::<u16>()) {
            ("guest_to_host", Ok(n)) => (0b11, u8::try_from(n).unwrap()),
            ("host_to_guest", Ok(n)) => (0b10, u8::try_from(n - 256 + 32).unwrap()),
            _ => continue,
        };
        let payload: Vec<u8> = (0..payload.len() / 2)
            .map(|i| u8::from_str_radix(&payload[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let script = script(mode, number, &payload);
        run::run(&script);
        let name = format!("message-{}", name.replace('.', "-"));
        let path = here.join("../tests/fuzz/corpus/session_receive").join(&name);
        if std::env::var("COMS_GOLDEN").is_ok_and(|v| v == "add") && !path.exists() {
            std::fs::write(&path, &script).unwrap();
        }
        assert!(
            std::fs::read(&path).is_ok_and(|seed| seed == script),
            "no seed {name}; COMS_GOLDEN=add writes it"
        );
        messages += 1;
    }
    assert!(messages >= 18, "{messages} messages in the golden file");
}

/// As `run.rs` reads it: from the third of its peers, to the end that is tried.
fn script(mode: u8, number: u8, payload: &[u8]) -> Vec<u8> {
    const FROM_TO: u8 = 2 << 3 | 1 << 5;
    const MANGLED: u8 = 6;
    const TWICE: u8 = 7;
    let frame = |how: u8, number: u8, seq: u8, extra: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[FROM_TO | how, number, seq, 1, extra, length][..], payload].concat()
    };
    let hello = frame(0, 0, 1, 0, &[0, 0, 1]);
    let wait = [3, 30];
    let said = [frame(0, number, 1, 0, payload), frame(TWICE, number, 2, 0, payload)];
    let damaged = frame(MANGLED, number, 3, 9, payload);
    [&[mode][..], &hello, &wait, &hello, &said.concat(), &damaged, &frame(0, number, 0, 0, payload)].concat()
}
