#![no_main]

mod plugins;

libfuzzer_sys::fuzz_target!(|data: &[u8]| plugins::metrics(data));
