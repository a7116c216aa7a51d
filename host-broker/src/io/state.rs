//! What outlives the broker under `/var/lib/coms`: the moves (for cooldown and `comsctl migrations`) and, where
//! the operator gave none, a secret for the aliases. Where a VM is, only libvirt knows.

use super::StartError;
use crate::alias::AliasKey;
use crate::config::Config;
use crate::records::{MoveRecord, MoveState};
use coms_protocol::types::MigrationId;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tracing::warn;
use uuid::Uuid;

/// Rewritten with what is remembered when it has grown beyond this.
const LARGEST: u64 = 4 * 1024 * 1024;
const REMEMBERED: usize = 500;
/// A guest knows its own UUID: with a secret that can be guessed it could try host names.
const SHORTEST_SECRET: usize = 16;

pub struct State {
    pub past: Vec<MoveRecord>,
    pub alias_key: AliasKey,
    /// The operator paused customers' moves.
    pub paused: bool,
    paused_file: PathBuf,
    path: PathBuf,
    file: File,
}

impl State {
    pub fn open(config: &Config) -> Result<Self, StartError> {
        let dir = &config.state;
        let failed = |path: &Path, operation| {
            let path = path.to_owned();
            move |source| StartError::Path { path, operation, source }
        };
        fs::create_dir_all(dir).map_err(failed(dir, "creating the directory"))?;
        let key_file = match &config.alias_key_file {
            Some(file) => file.clone(),
            None => {
                let file = dir.join("alias.key");
                if !file.exists() {
                    warn!(
                        "made {}: guests see other aliases after each move unless all hosts of the pool have the same \
                         file; name it in [aliases] key_file",
                        file.display()
                    );
                    // Whole or not at all: an empty file would be a secret that everybody knows.
                    let new = file.with_extension("new");
                    OpenOptions::new()
                        .write(true)
                        .create(true)
                        .truncate(true)
                        .mode(0o600)
                        .open(&new)
                        .and_then(|mut f| {
                            f.write_all(&rand::random::<[u8; 32]>()).and_then(|()| f.sync_all())
                        })
                        .and_then(|()| fs::rename(&new, &file))
                        .map_err(failed(&file, "writing a new secret"))?;
                }
                file
            }
        };
        let secret = fs::read(&key_file).map_err(failed(&key_file, "reading the aliases' secret"))?;
        if secret.len() < SHORTEST_SECRET {
            return Err(StartError::WeakSecret { path: key_file, has: secret.len(), needs: SHORTEST_SECRET });
        }
        let path = dir.join("migrations.jsonl");
        let past = read_past(&path);
        if fs::metadata(&path).is_ok_and(|m| m.len() > LARGEST) {
            rewrite(&path, &past).map_err(failed(&path, "shortening"))?;
        }
        let file = open_to_append(&path).map_err(failed(&path, "opening"))?;
        let paused_file = dir.join("paused");
        let paused = paused_file.exists();
        Ok(Self { past, alias_key: AliasKey::new(&secret), paused, paused_file, path, file })
    }

    /// Whether the file is there says it.
    pub fn keep_paused(&self, paused: bool) {
        let done = if paused {
            File::create(&self.paused_file).map(drop)
        } else {
            fs::remove_file(&self.paused_file)
        };
        if let Err(e) = done
            && e.kind() != std::io::ErrorKind::NotFound
        {
            warn!("{}: {e}; whether moves are paused will not survive a restart", self.paused_file.display());
        }
    }

    /// One line per change of a move; the last one of each id counts.
    pub fn append(&mut self, record: &MoveRecord) {
        if let Err(e) = self.try_append(record) {
            warn!("{}: {e}; this move's cooldown will not survive a restart", self.path.display());
        }
    }

    fn try_append(&mut self, record: &MoveRecord) -> std::io::Result<()> {
        if self.file.metadata()?.len() > LARGEST {
            rewrite(&self.path, &read_past(&self.path))?;
            self.file = open_to_append(&self.path)?;
        }
        let mut line = serde_json::to_string(record)?;
        line.push('\n');
        self.file.write_all(line.as_bytes())?;
        // A refusal that is lost with the power is no loss.
        if record.state == MoveState::Denied { Ok(()) } else { self.file.sync_data() }
    }
}

fn open_to_append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// The last line of each move, in order; the last move of each guest, and the youngest of the others.
fn read_past(path: &Path) -> Vec<MoveRecord> {
    let mut last: HashMap<MigrationId, usize> = HashMap::new();
    let mut past: Vec<Option<MoveRecord>> = Vec::new();
    // A torn last line of a killed broker is skipped like any other that does not parse.
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        if let Ok(record) = serde_json::from_str::<MoveRecord>(line) {
            if let Some(before) = last.insert(record.migration, past.len()) {
                past[before] = None;
            }
            past.push(Some(record));
        }
    }
    let past: Vec<MoveRecord> = past.into_iter().flatten().collect();
    let moved =
        |r: &MoveRecord| matches!(r.state, MoveState::Left | MoveState::Arrived | MoveState::Completed);
    let skip = past.len().saturating_sub(REMEMBERED);
    let last: HashMap<Uuid, MigrationId> =
        past.iter().filter(|r| moved(r)).map(|r| (r.uuid, r.migration)).collect();
    let is_last = |r: &MoveRecord| last.get(&r.uuid) == Some(&r.migration);
    past.into_iter().enumerate().filter(|(i, r)| *i >= skip || is_last(r)).map(|(_, r)| r).collect()
}

fn rewrite(path: &Path, past: &[MoveRecord]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    for record in past {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    file.sync_all()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coms_protocol::types::{Figures, Initiator};

    fn record(id: u64, state: MoveState) -> MoveRecord {
        MoveRecord {
            migration: MigrationId(id),
            domain: "vm".into(),
            uuid: uuid::Uuid::nil(),
            initiator: Initiator::Customer,
            request: None,
            from: None,
            to: None,
            state,
            reason: None,
            detail: None,
            considered: Vec::new(),
            received_unix_ms: id,
            request_to_call_ms: None,
            resumed_to_told_ms: None,
            ended_unix_ms: Some(id),
            figures: Figures::default(),
            bytes_remaining: None,
            steps: Vec::new(),
        }
    }

    #[test]
    fn the_last_line_of_each_move_counts_and_refusals_do_not_push_out_moves() {
        let path = std::env::temp_dir().join(format!("coms-state-{}.jsonl", std::process::id()));
        let mut lines = String::new();
        let mut all = vec![record(0, MoveState::Completed)];
        all.extend([record(1, MoveState::Arrived), record(1, MoveState::Completed)]);
        all.extend((2..=REMEMBERED as u64 + 100).map(|i| record(i, MoveState::Denied)));
        for r in &all {
            lines += &(serde_json::to_string(r).unwrap() + "\n");
        }
        fs::write(&path, lines + "{\"torn").unwrap();
        let past = read_past(&path);
        fs::remove_file(&path).unwrap();
        assert_eq!((past[0].migration, past[0].state), (MigrationId(1), MoveState::Completed));
        assert_eq!(past.len(), REMEMBERED + 1, "a guest that moves all the time fills nothing either");
    }
}
