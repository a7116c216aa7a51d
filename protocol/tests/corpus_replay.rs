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
