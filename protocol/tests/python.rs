//! The agent in another language (`tests/python`) against PROTOCOL.md and the golden bytes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::Path;
use std::process::Command;

#[test]
fn the_python_client_speaks_the_golden_bytes() {
    let test = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python/test_golden.py");
    let run = Command::new("python3").arg("-B").arg(&test).output();
    let output = run.unwrap_or_else(|e| {
        panic!("python3 cannot be run: {e}; `make setup` installs it (or: apt install python3)")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {}\n{said}", test.display(), output.status);
    // A file without tests would end well too.
    let ran = said.split_once("\nRan ").and_then(|(_, r)| r.split_once(" tests")?.0.parse::<u32>().ok());
    assert!(ran >= Some(15), "{said}");
}
