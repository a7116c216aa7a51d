//! Ties a host to CPUs with a cpuset cgroup: libvirt undoes plain affinity, but cannot leave this.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::error::{Doing as _, Error, Result};

/// A cpuset cgroup of ours. The guardian removes it.
#[derive(Debug)]
pub(crate) struct Cpuset {
    path: PathBuf,
}

impl Cpuset {
    /// Makes the cgroup `name`, whose processes run on `cpu` only. `before` hears each path first, in the
    /// order in which they can be removed.
    pub(crate) fn create(name: &str, cpu: usize, before: impl Fn(&Path) -> Result<()>) -> Result<Cpuset> {
        let hierarchy = Hierarchy::find()?;
        let make =
            |path: &Path| fs::create_dir(path).doing(|| format!("making the cgroup {}", path.display()));
        let top = hierarchy.root.join(name);
        if !hierarchy.unified {
            before(&top)?;
            make(&top)?;
            // v1 leaves both empty, and lets nobody in before both are set.
            write(&top.join("cpuset.cpus"), &cpu.to_string())?;
            let mems = fs::read_to_string(hierarchy.root.join("cpuset.mems"))
                .doing(|| format!("reading cpuset.mems of {}", hierarchy.root.display()))?;
            write(&top.join("cpuset.mems"), mems.trim())?;
            return Ok(Cpuset { path: top });
        }
        let path = top.join("cpus");
        hierarchy.delegate()?;
        before(&path)?;
        before(&top)?;
        make(&top)?;
        // One that hands cpuset on keeps the machine's systemd from switching it off again above us.
        write(&top.join("cgroup.subtree_control"), "+cpuset")?;
        make(&path)?;
        write(&path.join("cpuset.cpus"), &cpu.to_string())?;
        Ok(Cpuset { path })
    }

    /// The file into which a process writes its PID to join.
    pub(crate) fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).doing(|| format!("writing {value:?} to {}", path.display()))
}

struct Hierarchy {
    root: PathBuf,
    unified: bool,
}

impl Hierarchy {
    fn find() -> Result<Hierarchy> {
        let mounts = fs::read_to_string("/proc/self/mounts").doing(|| "reading /proc/self/mounts".into())?;
        let mut unified = None;
        for line in mounts.lines() {
            let mut words = line.split(' ').skip(1);
            let (Some(root), Some(kind), Some(options)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if kind == "cgroup" && options.split(',').any(|option| option == "cpuset") {
                return Ok(Hierarchy { root: root.into(), unified: false });
            }
            if kind == "cgroup2" {
                unified = Some(Hierarchy { root: root.into(), unified: true });
            }
        }
        unified.ok_or_else(|| {
            Error::Unfit("no cpuset cgroup: neither a v1 cpuset hierarchy nor cgroup v2 is mounted".into())
        })
    }

    /// v2 hands a controller to children only where the parent says so.
    fn delegate(&self) -> Result<()> {
        let file = self.root.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&file).doing(|| format!("reading {}", file.display()))?;
        if enabled.split_whitespace().any(|controller| controller == "cpuset") {
            return Ok(());
        }
        fs::write(&file, "+cpuset").doing(|| {
            format!(
                "enabling cpuset in {} (in a container, cgroup v2 needs the cpuset controller delegated; \
                 or give no host a CPU of its own)",
                file.display()
            )
        })
    }
}
