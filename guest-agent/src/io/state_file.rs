//! The state on disk: replaced as a whole, so that a crash leaves the old one or the new one.

use crate::state::State;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tracing::warn;

/// Where the state is kept.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// Makes the directory if it is missing.
    pub fn new(path: &Path) -> Self {
        make_parent(path);
        Self { path: path.to_owned() }
    }

    /// What was saved last. A file that makes no sense is put aside for people, and a new state begins.
    pub fn load(&self, random: u64) -> State {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return State::new(random),
            Err(e) => {
                warn!(
                    "{}: cannot be read ({e}); beginning anew: a request from before is forgotten",
                    self.path.display()
                );
                return State::new(random);
            }
        };
        serde_json::from_slice(&text).unwrap_or_else(|e| {
            let aside = self.path.with_extension("bad");
            let _ = fs::rename(&self.path, &aside);
            warn!(
                "{}: is damaged ({e}); put aside as {}, beginning anew",
                self.path.display(),
                aside.display()
            );
            State::new(random)
        })
    }

    /// Writes it, on the disk and not just on its way there.
    pub fn save(&self, state: &State) -> io::Result<()> {
        let text = serde_json::to_vec(state)?;
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        match self.path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }

    /// As [`StateFile::save`], without holding up what else runs: a disk may take seconds. An error is
    /// reported, and the agent goes on: it works, but a restart would forget.
    pub(super) async fn save_aside(&self, state: Box<State>) {
        let this = self.clone();
        let result = tokio::task::spawn_blocking(move || this.save(&state)).await;
        if let Err(e) = result.unwrap_or_else(|e| Err(io::Error::other(e))) {
            warn!("{}: cannot be written ({e}); a restart now may forget a request", self.path.display());
        }
    }
}

/// Makes the directory that `path` is in.
pub(super) fn make_parent(path: &Path) {
    if let Some(dir) = path.parent()
        && let Err(e) = fs::create_dir_all(dir)
    {
        warn!("{}: cannot be made: {e}", dir.display());
    }
}
