//! Whether the agent can write what it must: state, log; and whether there is room.

use super::{Finding, fail, ok, under, warn};
use coms_agent::config::Config;
use rustix::fs::{Access, access, statvfs};
use std::path::{Path, PathBuf};

const MIB: u64 = 1024 * 1024;
/// The state is rewritten as a whole beside the old one.
const NEEDED: u64 = MIB;
const COMFORTABLE: u64 = 16 * MIB;

/// `root`: as the daemon sees it.
pub(super) fn check(root: &Path, config: &Config) -> Vec<Finding> {
    [("state", &config.state, NEEDED), ("log", &config.events, config.events_max_bytes)]
        .into_iter()
        .map(|(check, file, grows)| one(check, root, file, grows))
        .collect()
}

fn one(check: &str, root: &Path, file: &Path, grows: u64) -> Finding {
    let shown = file.display();
    let dir = existing(&under(root, file));
    let allow = format!(
        "make its directory writable for the agent; under systemd also: systemctl edit coms-agent, [Service] ReadWritePaths={}",
        file.parent().unwrap_or(file).display()
    );
    if let Err(e) = access(&dir, Access::WRITE_OK | Access::EXEC_OK) {
        return fail(check, format!("{shown}: its directory cannot be written: {e}"), allow);
    }
    let whole = under(root, file);
    if let Ok(meta) = whole.metadata() {
        if !meta.is_file() {
            return fail(check, format!("{shown} is no file"), "put it aside, or give another path");
        }
        if let Err(e) = access(&whole, Access::WRITE_OK) {
            return fail(check, format!("{shown} cannot be written: {e}"), allow);
        }
    }
    match statvfs(&dir) {
        Ok(disk) => {
            let inodes = if disk.f_files == 0 { u64::MAX } else { disk.f_favail };
            room(check, file, disk.f_bavail.saturating_mul(disk.f_frsize), inodes, grows)
        }
        Err(e) => warn(check, format!("{shown}: the free space is unknown: {e}"), "look with df"),
    }
}

pub(super) fn room(check: &str, file: &Path, free: u64, inodes: u64, grows: u64) -> Finding {
    let (shown, mib) = (file.display(), free / MIB);
    let remedy = "make room on that disk";
    if free < NEEDED || inodes == 0 {
        let what = if inodes == 0 {
            "no room for more files".to_owned()
        } else {
            format!("{} KiB left", free / 1024)
        };
        fail(check, format!("{shown}: the disk is full, {what}"), remedy)
    } else if free < COMFORTABLE.max(grows) {
        warn(check, format!("{shown}: the disk is nearly full, {mib} MiB left"), remedy)
    } else {
        ok(check, format!("{shown} can be written, {mib} MiB left"))
    }
}

/// The file's directory, or what there is of it: the agent makes the rest.
fn existing(file: &Path) -> PathBuf {
    file.ancestors().skip(1).find(|dir| dir.exists()).unwrap_or(Path::new("/")).to_owned()
}
