//! The customer's log: one JSON object per line, at most two files of bounded size.

use super::state_file::make_parent;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tracing::warn;

/// How far back a restarted agent looks for final words that were written.
const LOOK_BACK: u64 = 256 * 1024;

/// The log.
pub struct EventLog {
    path: PathBuf,
    max_bytes: u64,
    file: Option<File>,
    size: u64,
    complained: bool,
}

impl EventLog {
    /// Opens it, or makes it. Without it the agent still works.
    pub fn open(path: &Path, max_bytes: u64) -> Self {
        make_parent(path);
        let mut log = Self { path: path.to_owned(), max_bytes, file: None, size: 0, complained: false };
        if let Err(e) = log.reopen() {
            log.complain(&e);
        }
        log
    }

    /// Adds a line.
    pub fn write(&mut self, line: &str) {
        if let Err(e) = self.try_write(line) {
            self.file = None;
            self.complain(&e);
        } else {
            self.complained = false;
        }
    }

    /// From now on it may grow to this.
    pub fn set_max(&mut self, max_bytes: u64) {
        self.max_bytes = max_bytes;
    }

    /// Takes up the file that is at its path now: somebody may have put the former one aside.
    pub fn take_up(&mut self) {
        make_parent(&self.path);
        if let Err(e) = self.reopen() {
            self.file = None;
            self.complain(&e);
        }
    }

    /// The `final` numbers in the latest lines.
    pub fn finals(&self) -> BTreeSet<u64> {
        [self.aside(), self.path.clone()]
            .iter()
            .filter_map(|p| tail(p).ok())
            .flat_map(|t| numbers(&t))
            .collect()
    }

    fn try_write(&mut self, line: &str) -> io::Result<()> {
        if self.size + line.len() as u64 + 1 > self.max_bytes {
            self.file = None;
            fs::rename(&self.path, self.aside())?;
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        // In one write: a kill in the middle of the agent leaves no half line.
        let whole = format!("{line}\n");
        file.write_all(whole.as_bytes())?;
        self.size += whole.len() as u64;
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn aside(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".1");
        name.into()
    }

    fn complain(&mut self, e: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            warn!("{}: cannot be written: {e}; events are only in this journal", self.path.display());
        }
    }
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOOK_BACK)))?;
    let mut bytes = Vec::new();
    file.take(LOOK_BACK).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn numbers(text: &str) -> Vec<u64> {
    let lines = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    lines.filter_map(|v| v.get("final").and_then(Value::as_u64)).collect()
}
