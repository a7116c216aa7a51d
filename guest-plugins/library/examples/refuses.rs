//! refuses: a move is unwelcome for as long as a file exists. In plugins.toml: notices = true, notice_s = 5, hold_s = 600.

use coms_plugin::{Event, Plugin, Sample};
use std::path::PathBuf;
use std::time::Duration;

fn main() {
    let lock: PathBuf = std::env::args_os().nth(1).unwrap_or_else(|| "/run/backup.lock".into()).into();
    let mut was_busy = None;
    Plugin::new(Duration::from_secs(1)).run(|event| {
        let busy = lock.exists();
        match event {
            Event::Due if was_busy.replace(busy) == Some(busy) => None,
            Event::Due if busy => Some(Sample::new().bad_moment("a backup runs")),
            Event::Due => Some(Sample::new().good_moment()),
            Event::Told(line) if line["event"] == "notice" && !busy => Some(Sample::new().ready()),
            Event::Told(_) => None,
        }
    });
}
