//! The host's end of a qemu-guest-agent's port, without libvirt in between.

use coms_story::Result;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const PING: &[u8] = b"{\"execute\":\"guest-ping\"}\n";
const PONG: &str = "{\"return\": {}}";

/// Prints the round trips' times as a JSON list of microseconds.
pub fn run(socket: &Path, count: usize, interval_ms: u64, echo: bool) -> Result<()> {
    let pong = if echo { std::str::from_utf8(PING)?.trim() } else { PONG };
    let stream = UnixStream::connect(socket).map_err(|e| format!("{}: {e}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut port = stream;
    let mut times_us = Vec::with_capacity(count);
    let mut line = String::new();
    let mut due = Instant::now();
    // The first one is not counted: it finds the agent after a pause, as the first one of `coms ping` does not.
    for number in 0..=count {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due = (due + Duration::from_millis(interval_ms)).max(Instant::now());
        let begun = Instant::now();
        port.write_all(PING)?;
        line.clear();
        answers.read_line(&mut line)?;
        let took_us = begun.elapsed().as_micros();
        if line.trim() != pong {
            return Err(format!("guest-ping was answered {line:?}").into());
        }
        if number > 0 {
            times_us.push(took_us);
        }
    }
    println!("{}", serde_json::to_string(&times_us)?);
    Ok(())
}

pub fn attach(socket: &Path) -> Result<()> {
    let mut stream = UnixStream::connect(socket).map_err(|e| format!("{}: {e}", socket.display()))?;
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}
