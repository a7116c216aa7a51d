//! The files that the broker needs.

use super::Finding;
use coms_broker::config::Config;
use rustix::fs::{Access, access, statvfs};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Records, and the next secret or state written whole beside the old one.
const NEEDED_BYTES: u64 = 16 << 20;
/// A guest knows its own UUID: a shorter secret could be guessed. The broker refuses it too.
const SHORTEST_SECRET: u64 = 16;

pub fn state_directory(dir: &Path) -> Vec<Finding> {
    const CHECK: &str = "state directory";
    let shown = dir.display();
    match std::fs::metadata(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let detail = format!("{shown} is not there; the broker makes it at its first start");
            return vec![Finding::warn(CHECK, detail, "systemctl start coms-broker")];
        }
        Err(e) => return vec![Finding::warn(CHECK, format!("{shown}: {e}"), "sudo comsctl doctor")],
        Ok(m) if !m.is_dir() => {
            let detail = format!("{shown} is no directory");
            return vec![Finding::fail(CHECK, detail, "move it away, or set another [paths] state")];
        }
        Ok(_) => {}
    }
    let mut found = Vec::new();
    if let Err(e) = access(dir, Access::WRITE_OK | Access::EXEC_OK) {
        let detail = format!("{shown} cannot be written by who runs this: {e}");
        let remedy = "as root: sudo comsctl doctor; if it says so there too, look at the mount and at chattr";
        // Others than root need not be able to.
        found.push(if rustix::process::geteuid().is_root() {
            Finding::fail(CHECK, detail, remedy)
        } else {
            Finding::warn(CHECK, detail, remedy)
        });
    }
    if let Ok(disk) = statvfs(dir) {
        found.extend(room(dir, disk.f_bavail.saturating_mul(disk.f_frsize)));
    }
    if found.is_empty() {
        found.push(Finding::ok(CHECK, format!("{shown}: can be written and has room")));
    }
    found
}

fn room(dir: &Path, free_bytes: u64) -> Option<Finding> {
    let detail = format!("{}: {} KiB free", dir.display(), free_bytes >> 10);
    (free_bytes < NEEDED_BYTES).then(|| {
        let remedy =
            "make room: what cannot be recorded is forgotten at the next start (cooldowns, comsctl show)";
        Finding::fail("disk", detail, remedy)
    })
}

/// The operator's secret, or the one that the broker made.
pub fn alias_key(config: &Config) -> Finding {
    let own = config.state.join("alias.key");
    match &config.alias_key_file {
        Some(file) => secret(file, true),
        None => secret(&own, false),
    }
}

fn secret(file: &Path, named: bool) -> Finding {
    const CHECK: &str = "alias key";
    let shown = file.display();
    let make = format!(
        "head -c 32 /dev/urandom > {shown}; chmod 600 {shown}; the same file on all hosts, then systemctl restart coms-broker"
    );
    let meta = match std::fs::metadata(file) {
        Ok(meta) => meta,
        Err(e) if e.kind() == ErrorKind::NotFound && named => {
            return Finding::fail(
                CHECK,
                format!("{shown} is not there, and the broker does not start without"),
                make,
            );
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Finding::ok(CHECK, format!("the broker makes {shown} at its first start"));
        }
        Err(e) => return Finding::warn(CHECK, format!("{shown}: {e}"), "sudo comsctl doctor"),
    };
    let open = meta.permissions().mode() & 0o077;
    if !meta.is_file() {
        Finding::fail(CHECK, format!("{shown} is no file"), make)
    } else if meta.len() < SHORTEST_SECRET {
        Finding::fail(CHECK, format!("{shown} has {} bytes; {SHORTEST_SECRET} are needed", meta.len()), make)
    } else if open != 0 {
        let detail = format!(
            "{shown} has mode {:o}: others than its owner can use it, and tell hosts apart",
            meta.permissions().mode() & 0o777
        );
        Finding::fail(CHECK, detail, format!("chmod 600 {shown}; renew it where strangers have accounts"))
    } else if let Err(e) = access(file, Access::READ_OK) {
        Finding::warn(CHECK, format!("{shown} cannot be read by who runs this: {e}"), "sudo comsctl doctor")
    } else {
        Finding::ok(CHECK, format!("{shown}: {} bytes, its owner's only", meta.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use std::fs::{self, Permissions};
    use std::path::PathBuf;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("coms-doctor-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_secret_must_be_there_long_and_its_owners_only() {
        let dir = Dir::new("key");
        let file = dir.0.join("alias.key");
        assert_eq!(secret(&file, true).status, Status::Fail);
        assert_eq!(secret(&file, false).status, Status::Ok, "the broker makes its own");
        assert_eq!(secret(&dir.0, true).status, Status::Fail, "a directory is no secret");
        for (bytes, mode, expected, word) in [
            (15, 0o600, Status::Fail, "15 bytes"),
            (16, 0o640, Status::Fail, "640"),
            (16, 0o604, Status::Fail, "604"),
            (32, 0o600, Status::Ok, "32 bytes"),
        ] {
            fs::write(&file, vec![7; bytes]).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let found = secret(&file, true);
            assert_eq!(found.status, expected, "{found:?}");
            assert!(found.detail.contains(word), "{found:?}");
        }
    }

    #[test]
    fn the_state_directory_must_be_one() {
        let dir = Dir::new("state");
        assert!(state_directory(&dir.0).iter().all(|f| f.check == "state directory" || f.check == "disk"));
        assert_eq!(state_directory(&dir.0.join("none"))[0].status, Status::Warn);
        let file = dir.0.join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(state_directory(&file)[0].status, Status::Fail);
    }

    #[test]
    fn a_disk_that_is_nearly_full_fails() {
        assert_eq!(room(Path::new("/x"), NEEDED_BYTES), None);
        assert_eq!(room(Path::new("/x"), NEEDED_BYTES - 1).unwrap().status, Status::Fail);
    }
}
