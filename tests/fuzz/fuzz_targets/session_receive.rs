//! Bytes from a port into both ends of a link; what is tried and checked is in `run.rs`.
#![no_main]

mod run;

libfuzzer_sys::fuzz_target!(|data: &[u8]| run::run(data));
