//! What the lab needs of the machine, checked before anything is started.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

const PROGRAMS: [&str; 17] = [
    "certtool",
    "bash",
    "ip",
    "libvirtd",
    "mount",
    "mountpoint",
    "nsenter",
    "qemu-img",
    "qemu-nbd",
    "qemu-system-x86_64",
    "setsid",
    "tc",
    "unshare",
    "virsh",
    "stat",
    "swtpm",
    "swtpm_setup",
];

/// The guest kernel, its modules and busybox, as tests/setup.sh leaves them.
pub(crate) fn kernel_dir() -> PathBuf {
    crate::workspace_root().join("target/lab-cache/kernel")
}

/// PATH, and where Debian keeps system programs: root's PATH after a plain `su` does not lead there.
pub(crate) fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin:/usr/bin:/bin");
    path
}

/// Fails with everything that is missing, not only the first.
pub(crate) fn check() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let path = search_path();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let in_path = |program: &&str| dirs.iter().any(|dir| dir.join(program).is_file());
    let mut missing: Vec<String> =
        PROGRAMS.iter().filter(|program| !in_path(program)).map(|program| (*program).to_owned()).collect();
    let kernel = kernel_dir();
    for file in ["vmlinuz", "busybox", "modules/ORDER"] {
        let path = kernel.join(file);
        if !path.is_file() {
            missing.push(path.display().to_string());
        }
    }
    if !Path::new("/etc/nsswitch.conf").exists() {
        missing.push("/etc/nsswitch.conf (the hosts' own is mounted over it)".into());
    }
    if missing.is_empty() { Ok(()) } else { Err(Error::Missing(missing)) }
}
