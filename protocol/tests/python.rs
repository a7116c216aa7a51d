//! The agent in another language (`tests/python`) against PROTOCOL.md, the golden bytes and a host made of Python.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::Path;
use std::process::Command;

/// Runs a file's tests, or those of one class; there must be at least so many.
fn run(file: &str, class: Option<&str>, least: u32) {
    let test = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python").join(file);
    let run = Command::new("python3").arg("-B").arg(&test).args(class).output();
    let output = run.unwrap_or_else(|e| {
        panic!("python3 cannot be run: {e}; `make setup` installs it (or: apt install python3)")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {}\n{said}", test.display(), output.status);
    // A file without tests would end well too.
    let ran = said.split_once("\nRan ").and_then(|(_, r)| r.split_once(" test")?.0.parse::<u32>().ok());
    assert!(ran >= Some(least), "{said}");
}

#[test]
fn the_python_client_speaks_the_golden_bytes() {
    run("test_golden.py", None, 11);
}

#[test]
fn the_python_client_lives_with_a_host() {
    run("test_client.py", Some("Everyday"), 7);
}

#[test]
fn the_python_client_survives_lines_in_trouble_and_being_killed() {
    run("test_client.py", Some("Trouble"), 2);
}
