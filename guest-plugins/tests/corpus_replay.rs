//! Every input that the fuzzers found interesting, without the fuzzer (see `tests/fuzz`).
#![allow(clippy::unwrap_used)]

#[path = "../../tests/fuzz/fuzz_targets/plugins.rs"]
mod plugins;

use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let mut played = 0;
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run(&std::fs::read(&path).unwrap());
        played += 1;
    }
    assert!(played >= 5, "a corpus of {played} files finds nothing");
}

#[test]
fn the_fuzzers_corpora_hold() {
    replay("perfdata", plugins::perfdata);
    replay("plugin_line", plugins::plugin_line);
    replay("metrics", plugins::metrics);
    replay("statsd", plugins::statsd);
}
