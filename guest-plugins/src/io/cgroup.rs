//! A cgroup for each plugin, where systemd hands this daemon a part of the tree (`Delegate=` in its unit): memory,
//! processes and CPU of all that the plugin starts, and an end that none of it escapes.
//!
//! Only where the unit says so (`COMS_PLUGINS_CGROUP=delegated`): somebody else's tree is not ours to change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// Less than the 100 that everything else has.
const CPU_WEIGHT: &str = "20";

/// The delegated part of the tree.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(super) fn take() -> Option<Self> {
        if std::env::var_os("COMS_PLUGINS_CGROUP").is_none_or(|v| v != "delegated") {
            return None;
        }
        match Self::prepare() {
            Ok(tree) => {
                info!("each plugin has a cgroup below {}", tree.root.display());
                Some(tree)
            }
            Err(e) => {
                warn!("no cgroup for each plugin (rlimits and the unit's own bounds hold all the same): {e}");
                None
            }
        }
    }

    fn prepare() -> io::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let path = own.lines().find_map(|l| l.strip_prefix("0::")).ok_or(io::ErrorKind::Unsupported)?;
        let path = path.strip_suffix("/daemon").unwrap_or(path);
        let root = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
        // Processes are in leaves only; this one goes first.
        make(&root.join("daemon"))?;
        fs::write(root.join("daemon/cgroup.procs"), std::process::id().to_string())?;
        fs::write(root.join("cgroup.subtree_control"), "+pids +memory +cpu")?;
        Ok(Self { root })
    }

    /// The plugin's own, bounded.
    pub(super) fn of(&self, index: usize, memory_mib: u64, processes: u64) -> io::Result<PathBuf> {
        // Not by its name: that may be anything.
        let dir = self.root.join(format!("plugin-{index}"));
        make(&dir)?;
        fs::write(dir.join("pids.max"), processes.to_string())?;
        let memory = if memory_mib == 0 { "max".to_owned() } else { format!("{memory_mib}M") };
        fs::write(dir.join("memory.max"), memory)?;
        // Absent without swap accounting.
        let _ = fs::write(dir.join("memory.swap.max"), "0");
        fs::write(dir.join("cpu.weight"), CPU_WEIGHT)?;
        Ok(dir)
    }
}

/// Ends all that is in it.
pub(super) fn kill(dir: &Path) {
    // Since Linux 5.14; the group's signal came before it.
    let _ = fs::write(dir.join("cgroup.kill"), "1");
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
