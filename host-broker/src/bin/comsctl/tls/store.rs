//! The authority's directory.
//!
//! ```text
//! state.json           what was issued, and where its renewal stands
//! ca-N-cert.pem, ca-N-key.pem   the authorities by number; the key of one that signs nothing any more is deleted
//! hosts/HOST/          what was made for a host last, to be copied there
//! ```

use super::super::Failure;
use super::authority::{Authority, FORMAT};
use super::put::{self, Put};
use coms_broker::certificates::DH_PARAMS;
use coms_broker::certificates::make::Made;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const STATE: &str = "state.json";

pub struct Store {
    dir: PathBuf,
    /// Held while this program runs: two at once would make two authorities.
    _lock: File,
}

impl Store {
    /// A new one, in a directory where none is yet.
    pub fn create(dir: &Path) -> Result<Self, Failure> {
        put::directory(dir, 0o700)?;
        // Before it is looked at, as in `open`.
        let lock = lock(dir)?;
        if dir.join(STATE).exists() {
            return Err(Failure::refused(format!(
                "{}: an authority is there already, and hosts may trust it: comsctl tls issue HOST; to renew it: comsctl tls rotate",
                dir.display()
            )));
        }
        let has_something =
            fs::read_dir(dir).is_ok_and(|entries| entries.flatten().any(|e| !is_unfinished(&e)));
        if has_something {
            return Err(Failure::refused(format!(
                "{}: the directory is not empty, and holds no authority of this program; name another one: --authority DIR",
                dir.display()
            )));
        }
        let meta = fs::metadata(dir).map_err(|e| Failure::refused(format!("{}: {e}", dir.display())))?;
        let is_own = meta.uid() == 0 || meta.uid() == rustix::process::geteuid().as_raw();
        if !is_own || meta.mode() & 0o022 != 0 {
            return Err(Failure::refused(format!(
                "{}: others can change what is in this directory; chmod 700 it, or name another one: --authority DIR",
                dir.display()
            )));
        }
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    pub fn open(dir: &Path) -> Result<(Self, Authority), Failure> {
        let file = dir.join(STATE);
        let wrong =
            |why: String, right: &str| Failure::refused(format!("{}: {why}; {right}", file.display()));
        if !file.exists() {
            return Err(wrong(
                "no authority is there".into(),
                "comsctl tls init makes one; elsewhere: --authority DIR; as root?",
            ));
        }
        // Before it is read: what another one is about to write counts.
        let lock = lock(dir)?;
        let text =
            fs::read_to_string(&file).map_err(|e| wrong(e.to_string(), "as root: sudo comsctl tls …"))?;
        let state: Authority = serde_json::from_str(&text)
            .map_err(|e| wrong(format!("cannot be read: {e}"), "restore it from your copy"))?;
        if state.format != FORMAT {
            return Err(wrong(
                format!("was written by another version (format {})", state.format),
                "use that version's comsctl",
            ));
        }
        Ok((Self { dir: dir.to_owned(), _lock: lock }, state))
    }

    pub fn save(&self, state: &Authority) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(state).map_err(|e| Failure::refused(e.to_string()))?;
        self.put(STATE, text + "\n", 0o600)
    }

    pub fn put_authority(&self, number: u32, made: &Made) -> Result<(), Failure> {
        self.put(&format!("ca-{number}-key.pem"), made.key_pem.clone(), 0o600)?;
        self.put(&format!("ca-{number}-cert.pem"), made.cert_pem.clone(), 0o644)
    }

    pub fn authority(&self, number: u32) -> Result<Made, Failure> {
        let read = |what: &str| {
            let file = self.dir.join(format!("ca-{number}-{what}.pem"));
            fs::read_to_string(&file)
                .map_err(|e| Failure::refused(format!("{}: {e}; restore it from your copy", file.display())))
        };
        Ok(Made { cert_pem: read("cert")?, key_pem: read("key")? })
    }

    /// What hosts are given to trust.
    pub fn trusted(&self, state: &Authority) -> Result<String, Failure> {
        let mut all = String::new();
        for number in &state.trusted {
            let file = self.dir.join(format!("ca-{number}-cert.pem"));
            let pem = fs::read_to_string(&file);
            all.push_str(&pem.map_err(|e| {
                Failure::refused(format!("{}: {e}; restore it from your copy", file.display()))
            })?);
        }
        Ok(all)
    }

    /// Of those that sign nothing any more. One that was made for a step that was cut short is newer, and kept for it.
    pub fn delete_old_keys(&self, state: &Authority) -> Result<(), Failure> {
        let oldest = state.trusted.iter().min().copied().unwrap_or(1);
        for number in 1..oldest {
            let file = self.dir.join(format!("ca-{number}-key.pem"));
            let failed = |e: std::io::Error| {
                Failure::refused(format!(
                    "{}: {e}; delete it, nothing is to be signed with it",
                    file.display()
                ))
            };
            match fs::remove_file(&file) {
                Ok(()) => File::open(&self.dir).and_then(|d| d.sync_all()).map_err(failed)?,
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(())
    }

    pub fn bundle(&self, host: &str) -> PathBuf {
        self.dir.join("hosts").join(host)
    }

    /// The key that the host has, where it is still here.
    pub fn key_of(&self, host: &str) -> Option<String> {
        fs::read_to_string(self.bundle(host).join("server-key.pem")).ok()
    }

    /// What the host is to install, all of it or nothing.
    pub fn put_bundle(&self, host: &str, trusted: &str, made: &Made) -> Result<(), Failure> {
        let dir = self.bundle(host);
        put::directory(&dir, 0o700)?;
        let file =
            |name: &str, text: &str, mode| Put { to: dir.join(name), bytes: text.into(), mode, uid: None };
        let files = [
            file("ca-cert.pem", trusted, 0o644),
            file("server-cert.pem", &made.cert_pem, 0o644),
            file("server-key.pem", &made.key_pem, 0o600),
            file("client-cert.pem", &made.cert_pem, 0o644),
            file("client-key.pem", &made.key_pem, 0o600),
            file("dh-params.pem", DH_PARAMS, 0o644),
        ];
        put::all(&files, false)
    }

    fn put(&self, name: &str, text: String, mode: u32) -> Result<(), Failure> {
        put::all(&[Put { to: self.dir.join(name), bytes: text.into(), mode, uid: None }], false)
    }
}

/// Left by an `init` that was killed: nothing was issued with it.
fn is_unfinished(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    let name = name.strip_suffix(".new").unwrap_or(&name);
    ["ca-1-key.pem", "ca-1-cert.pem", STATE].contains(&name)
}

fn lock(dir: &Path) -> Result<File, Failure> {
    let opened = File::open(dir).map_err(|e| Failure::refused(format!("{}: {e}", dir.display())))?;
    rustix::fs::flock(&opened, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|e| {
        Failure::refused(format!("{}: another comsctl tls is at work there ({e}); try again", dir.display()))
    })?;
    Ok(opened)
}
