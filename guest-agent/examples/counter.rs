//! An application in Rust that is asked about moves: it stops counting before each, and goes on after it.
//!
//! ```text
//! cargo run --example counter -- [SOCKET]
//! ```
//!
//! One JSON object per line, both ways, on the agent's socket. Registered is who keeps the connection open. The types
//! of the commands are the agent's own ([`coms_agent::event::Command`]); plain JSON does as well.

use coms_agent::event::{Command, Hold, Ready, Register};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

static RUNNING: AtomicBool = AtomicBool::new(true);
static COUNT: AtomicU64 = AtomicU64::new(0);

fn main() -> std::io::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "/run/coms/agent.sock".to_owned());
    let mut stream = UnixStream::connect(path)?;
    let lines = BufReader::new(stream.try_clone()?).lines();
    std::thread::spawn(|| {
        loop {
            if RUNNING.load(Ordering::Relaxed) {
                COUNT.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let register = Register { name: "counter".to_owned(), notice_s: 5, hold_s: 10 };
    say(&mut stream, &Command::Register(register))?;
    for line in lines {
        let heard: Value = serde_json::from_str(&line?)?;
        let migration = heard["migration"].as_str().and_then(|m| m.parse().ok());
        match heard["event"].as_str() {
            Some("notice") => {
                say(&mut stream, &Command::Hold(Hold { migration, for_s: 10 }))?;
                RUNNING.store(false, Ordering::Relaxed);
                // What is still under way ends.
                std::thread::sleep(Duration::from_millis(50));
                say(&mut stream, &Command::Ready(Ready { migration }))?;
                println!("counter: stopped at {}", COUNT.load(Ordering::Relaxed));
            }
            Some("completed" | "failed" | "cancelled") => {
                RUNNING.store(true, Ordering::Relaxed);
                println!("counter: goes on");
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn say(stream: &mut UnixStream, command: &Command) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    stream.write_all(&line)
}
