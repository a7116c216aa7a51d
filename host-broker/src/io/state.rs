//! What outlives the broker under `/var/lib/coms`: the moves (for cooldown and `comsctl migrations`) and, where
//! the operator gave none, a secret for the aliases. Where a VM is, only libvirt knows.

use super::StartError;
use crate::alias::AliasKey;
use crate::config::Config;
use crate::records::MoveRecord;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tracing::warn;

/// Rewritten with what is remembered when it has grown beyond this.
const LARGEST: u64 = 4 * 1024 * 1024;
const REMEMBERED: usize = 500;

pub struct State {
    pub past: Vec<MoveRecord>,
    pub alias_key: AliasKey,
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
                    OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(0o600)
                        .open(&file)
                        .and_then(|mut f| {
                            f.write_all(&rand::random::<[u8; 32]>()).and_then(|()| f.sync_all())
                        })
                        .map_err(failed(&file, "writing a new secret"))?;
                }
                file
            }
        };
        let secret = fs::read(&key_file).map_err(failed(&key_file, "reading the aliases' secret"))?;
        let path = dir.join("migrations.jsonl");
        let past = read_past(&path);
        if fs::metadata(&path).is_ok_and(|m| m.len() > LARGEST) {
            rewrite(&path, &past).map_err(failed(&path, "shortening"))?;
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&path)
            .map_err(failed(&path, "opening"))?;
        Ok(Self { past, alias_key: AliasKey::new(&secret), path, file })
    }

    /// One line per change of a move; the last one of each id counts.
    pub fn append(&mut self, record: &MoveRecord) {
        let written = serde_json::to_string(record).map_err(std::io::Error::other).and_then(|mut line| {
            line.push('\n');
            self.file.write_all(line.as_bytes())?;
            self.file.sync_data()
        });
        if let Err(e) = written {
            warn!("{}: {e}; this move's cooldown will not survive a restart", self.path.display());
        }
    }
}

fn read_past(path: &Path) -> Vec<MoveRecord> {
    let mut past: Vec<MoveRecord> = Vec::new();
    // A torn last line of a killed broker is skipped like any other that does not parse.
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        if let Ok(record) = serde_json::from_str::<MoveRecord>(line) {
            past.retain(|r| r.migration != record.migration);
            past.push(record);
        }
    }
    let skip = past.len().saturating_sub(REMEMBERED);
    past.split_off(skip)
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
