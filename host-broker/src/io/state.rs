//! What outlives the broker under `/var/lib/coms`: the moves (for cooldown and `comsctl migrations`) and, where
//! the operator gave none, a secret for the aliases. Where a VM is, only libvirt knows.

use super::StartError;
use super::journal::Journal;
use crate::alias::AliasKey;
use crate::announced::{Kept, Stays};
use crate::config::Config;
use crate::network::Stretch;
use crate::records::MoveRecord;
use crate::storage::Made;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tracing::warn;

/// A guest knows its own UUID: with a secret that can be guessed it could try host names.
const SHORTEST_SECRET: usize = 16;

pub struct State {
    pub past: Vec<MoveRecord>,
    pub alias_key: AliasKey,
    /// The operator paused customers' moves.
    pub paused: bool,
    /// Moves that were announced and not begun.
    pub announced: Vec<Kept>,
    /// The domains that were here; None: no broker was here before.
    pub stays: Option<Stays>,
    /// Networks that are stretched for VMs.
    pub stretches: Vec<Stretch>,
    /// Images made at destinations for moves that may not have ended.
    pub disks: Vec<Made>,
    /// Why what was kept of those could not be read, for the operator.
    pub disks_unread: Option<String>,
    paused_file: PathBuf,
    announced_file: PathBuf,
    stays_file: PathBuf,
    stretches_file: PathBuf,
    disks_file: PathBuf,
    journal: Journal,
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
        let (journal, past) = Journal::open(&path).map_err(failed(&path, "opening"))?;
        let paused_file = dir.join("paused");
        let paused = paused_file.exists();
        let (announced_file, stays_file) = (dir.join("announced.json"), dir.join("stays.json"));
        let (stretches_file, disks_file) = (dir.join("networks.json"), dir.join("disks.json"));
        let (disks, disks_unread) = match read_disks(&disks_file) {
            Ok(disks) => (disks, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        Ok(Self {
            past,
            alias_key: AliasKey::new(&secret),
            paused,
            announced: read(&announced_file).unwrap_or_default(),
            stays: read(&stays_file),
            stretches: read(&stretches_file).unwrap_or_default(),
            disks,
            disks_unread,
            paused_file,
            announced_file,
            stays_file,
            stretches_file,
            disks_file,
            journal,
        })
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

    pub fn keep_announced(&self, announced: &[Kept]) {
        if let Err(e) = write(&self.announced_file, &announced, true) {
            warn!("{}: {e}; announced moves will not survive a restart", self.announced_file.display());
        }
    }

    pub fn keep_stretches(&self, stretches: &[Stretch]) {
        if let Err(e) = write(&self.stretches_file, &stretches, true) {
            let file = self.stretches_file.display();
            warn!("{file}: {e}; networks that are stretched for VMs are not taken down after a restart");
        }
    }

    /// Nothing is made before this has gone well.
    pub fn keep_disks(&self, disks: &[Made]) -> Result<(), String> {
        write(&self.disks_file, &disks, true).map_err(|e| {
            let text = format!(
                "{}: {e}; images that are made for moves would not be removed after a restart",
                self.disks_file.display()
            );
            warn!("{text}");
            text
        })
    }

    /// With the host's power go the domains, so a file that is lost with it is no loss.
    pub fn keep_stays(&self, stays: &Stays) {
        if let Err(e) = write(&self.stays_file, stays, false) {
            warn!("{}: {e}; a guest that comes while no broker runs is not told", self.stays_file.display());
        }
    }

    /// One line per change of a move; the last one of each id counts.
    pub fn append(&mut self, record: &MoveRecord) {
        if let Err(e) = self.journal.append(record) {
            warn!("{}: {e}; this move's cooldown will not survive a restart", self.journal.path().display());
        }
    }
}

/// What cannot be read is as good as not there.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    let text = fs::read(path).ok()?;
    serde_json::from_slice(&text).map_err(|e| warn!("{}: {e}; it is not used", path.display())).ok()
}

/// What it says is not lost when it cannot be read: images may be at other hosts that nobody else knows of. It is put
/// aside, for the next note takes its place.
fn read_disks(path: &Path) -> Result<Vec<Made>, String> {
    let what = "images that were made at other hosts for moves that failed may be there, and are not removed";
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(format!("{}: {e}; {what}", path.display())),
    };
    serde_json::from_slice(&text).map_err(|e| {
        let aside = path.with_extension("unread");
        let is_aside = match fs::rename(path, &aside) {
            Ok(()) => format!("what it says is in {}", aside.display()),
            Err(e) => format!("it cannot be put aside: {e}"),
        };
        format!("{}: {e}; {what}; {is_aside}", path.display())
    })
}

/// Whole or not at all; `lasting`: and there after a power cut, too.
fn write<T: serde::Serialize>(path: &Path, value: &T, lasting: bool) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&new)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    if lasting {
        file.sync_all()?;
    }
    fs::rename(new, path)?;
    match path.parent().filter(|_| lasting) {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_of_images_is_said_and_put_aside_and_what_cannot_be_kept_is_an_error() {
        let dir = std::env::temp_dir().join(format!("coms-state-{:x}", rand::random::<u64>()));
        let text = format!(
            "[host]\nname = \"h1\"\nregion = \"r\"\n[paths]\nstate = \"{}\"\n[guests]\nenabled = []\n",
            dir.display()
        );
        let config = Config::parse(Path::new("broker.toml"), &text).unwrap();
        let state = State::open(&config).unwrap();
        assert_eq!((state.disks.len(), &state.disks_unread), (0, &None));
        state.keep_disks(&[]).unwrap();
        assert_eq!(State::open(&config).unwrap().disks_unread, None);

        fs::write(dir.join("disks.json"), "[{\"vm\":").unwrap();
        let unread = State::open(&config).unwrap().disks_unread.unwrap();
        assert!(unread.contains("disks.unread"), "{unread}");
        assert_eq!(fs::read(dir.join("disks.unread")).unwrap(), b"[{\"vm\":");
        assert_eq!(State::open(&config).unwrap().disks_unread, None, "once");

        fs::create_dir(dir.join("disks.new")).unwrap();
        assert!(state.keep_disks(&[]).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
