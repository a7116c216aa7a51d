//! Files, put in place whole.

use super::super::Failure;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// A file that is to be put somewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Put {
    pub to: PathBuf,
    pub bytes: Vec<u8>,
    pub mode: u32,
    /// User; the group is root's. None: whoever runs this.
    pub uid: Option<u32>,
}

/// Keys are among them.
impl fmt::Debug for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes to {} ({:o}, user {:?})",
            self.bytes.len(),
            self.to.display(),
            self.mode,
            self.uid
        )
    }
}

fn failed(path: &Path, what: &str) -> impl Fn(io::Error) -> Failure {
    let path = path.display().to_string();
    let what = what.to_owned();
    move |e| {
        let hint =
            if e.kind() == ErrorKind::PermissionDenied { "; as root: sudo comsctl tls …" } else { "" };
        Failure::refused(format!("{path}: {what}: {e}{hint}"))
    }
}

/// Puts all of them in place, in this order, or none: all are written and on the disk before the first one gets its name,
/// so that between the first and the last there are only renames. What was there is kept beside as `.before`.
pub fn all(puts: &[Put], keep_before: bool) -> Result<(), Failure> {
    let mut staged = Vec::new();
    let result = stage_all(puts, keep_before, &mut staged);
    if result.is_err() {
        for (temp, _) in &staged {
            let _ = fs::remove_file(temp);
        }
        return result;
    }
    for (temp, to) in &staged {
        fs::rename(temp, to).map_err(failed(to, "putting it in place, after those before it were"))?;
    }
    let mut dirs: Vec<&Path> = puts.iter().filter_map(|p| p.to.parent()).collect();
    dirs.dedup();
    for dir in dirs {
        File::open(dir).and_then(|d| d.sync_all()).map_err(failed(dir, "writing it to the disk"))?;
    }
    Ok(())
}

fn stage_all<'a>(
    puts: &'a [Put],
    keep_before: bool,
    staged: &mut Vec<(PathBuf, &'a Path)>,
) -> Result<(), Failure> {
    for put in puts {
        let temp = beside(&put.to, ".new");
        let _ = fs::remove_file(&temp);
        staged.push((temp.clone(), &put.to));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp)?;
            file.write_all(&put.bytes)?;
            if let Some(uid) = put.uid {
                // Not by its name, which may be another file's by now.
                fchown(&file, Some(uid), Some(0))?;
            }
            file.set_permissions(fs::Permissions::from_mode(put.mode))?;
            file.sync_all()
        };
        write().map_err(failed(&temp, "writing it"))?;
    }
    for put in puts.iter().filter(|_| keep_before) {
        let (link, before) = (beside(&put.to, ".before.new"), beside(&put.to, ".before"));
        let _ = fs::remove_file(&link);
        match fs::hard_link(&put.to, &link).and_then(|()| fs::rename(&link, &before)) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(failed(&before, "keeping what was there")(e));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// A directory, with its parents; an existing one is left as it is.
pub fn directory(path: &Path, mode: u32) -> Result<(), Failure> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        directory(parent, 0o755)?;
    }
    // Whatever the umask is.
    fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(failed(path, "making the directory"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn all_are_put_or_none_and_the_old_ones_are_kept() {
        let dir = std::env::temp_dir().join(format!("coms-put-{}", std::process::id()));
        directory(&dir.join("a/b"), 0o700).unwrap();
        let put = |name: &str, bytes: &str, mode| Put {
            to: dir.join("a/b").join(name),
            bytes: bytes.into(),
            mode,
            uid: None,
        };
        all(&[put("x", "1", 0o644), put("y", "1", 0o400)], true).unwrap();
        all(&[put("x", "2", 0o644), put("y", "2", 0o400)], true).unwrap();
        let read = |name: &str| fs::read_to_string(dir.join("a/b").join(name)).ok();
        assert_eq!((read("x"), read("x.before")), (Some("2".into()), Some("1".into())));
        let mode = fs::metadata(dir.join("a/b/y")).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o400);
        let nowhere = Put { to: dir.join("none/z"), ..put("z", "3", 0o644) };
        assert!(all(&[put("x", "3", 0o644), nowhere], true).is_err());
        assert_eq!((read("x"), read("x.new")), (Some("2".into()), None), "nothing has changed");
        fs::remove_dir_all(&dir).unwrap();
    }
}
