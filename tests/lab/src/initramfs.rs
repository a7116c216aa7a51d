//! The guests' root file system: one archive for all guests of a lab, and a small one for each
//! guest behind it (the kernel unpacks both, one after the other).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cpio::Archive,
    error::{Doing as _, Error, Result, require_success},
    guest::{GuestConfig, GuestFile},
    guest_spec::{AgentSpec, GuestSpec, SPEC_PATH},
    lab::LabConfig,
    requirements::kernel_dir,
};

/// Where the archive for all guests is.
pub(crate) fn base_path(run_dir: &Path) -> PathBuf {
    run_dir.join("base.cpio")
}

/// Writes the archive for all guests: init, busybox, modules, our programs.
pub(crate) fn write_base(path: &Path, guest_bin: &Path, config: &LabConfig) -> Result<()> {
    let read = |path: &Path| fs::read(path).doing(|| format!("reading {}", path.display()));
    let mut archive = Archive::default();
    add_base(&mut archive, guest_bin, &kernel_dir().join("modules"))?;
    for (inside, outside) in [("usr/bin/coms-agent", &config.agent), ("usr/bin/coms", &config.cli)] {
        if let Some(outside) = outside {
            archive.file(inside, 0o755, &read(outside)?);
        }
    }
    fs::write(path, archive.finish()).doing(|| format!("writing {}", path.display()))
}

/// Writes what a guest boots from: the archive for all, then its own.
pub(crate) fn write_for_guest(path: &Path, base: &Path, config: &GuestConfig) -> Result<()> {
    let spec = spec_json(&GuestSpec {
        name: config.name.clone(),
        ip: config.ip,
        agent: config
            .agent
            .as_ref()
            .map(|agent| AgentSpec { args: agent.args.clone(), env: agent.env.clone() }),
        workload: config.workload,
        hog_threads: config.hog_threads,
        gateway: config.gateway,
        from_disk: false,
    })?;
    let mut archive = Archive::default();
    archive.file(SPEC_PATH, 0o644, &spec);
    if let Some(toml) = config.agent.as_ref().and_then(|agent| agent.toml.as_ref()) {
        archive.file("etc/coms/agent.toml", 0o644, toml.as_bytes());
    }
    for GuestFile { path, mode, bytes } in &config.files {
        add_parents(&mut archive, path);
        archive.file(path, *mode, bytes);
    }
    let mut bytes = fs::read(base).doing(|| format!("reading {}", base.display()))?;
    bytes.extend(archive.finish());
    fs::write(path, bytes).doing(|| format!("writing {}", path.display()))
}

/// The directories above `path`.
pub(crate) fn add_parents(archive: &mut Archive, path: &str) {
    let mut parent = String::new();
    for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
        if let std::path::Component::Normal(part) = part {
            parent = format!("{parent}/{}", part.display());
            archive.dir(&parent);
        }
    }
}

pub(crate) fn spec_json(spec: &GuestSpec) -> Result<Vec<u8>> {
    serde_json::to_vec(spec)
        .map_err(|error| Error::Unfit(format!("writing the guest's {SPEC_PATH}: {error}")))
}

/// What every guest starts from: init (which also is the rest of the lab's program), busybox, modules.
pub(crate) fn add_base(archive: &mut Archive, guest_bin: &Path, modules: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).doing(|| format!("reading {}", path.display()));
    for dir in
        "bin dev etc etc/coms lib lib/modules proc root run sbin sys tmp usr usr/bin usr/sbin var var/lib \
                var/lib/coms var/log"
            .split_whitespace()
    {
        archive.dir(dir);
    }
    // Until devtmpfs is mounted, PID 1 has nothing else to speak through.
    archive.character_device("dev/console", 5, 1);
    archive.file("init", 0o755, &read(guest_bin)?);
    archive.symlink("usr/bin/coms-lab-guest", "/init");

    let busybox = kernel_dir().join("busybox");
    archive.file("bin/busybox", 0o755, &read(&busybox)?);
    for applet in busybox_applets(&busybox)? {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }
    let order = modules.join("ORDER");
    let names = fs::read_to_string(&order).doing(|| format!("reading {}", order.display()))?;
    for name in names.lines() {
        let file = format!("{name}.ko");
        archive.file(&format!("lib/modules/{file}"), 0o644, &read(&modules.join(&file))?);
    }
    archive.file("lib/modules/ORDER", 0o644, names.as_bytes());
    Ok(())
}

fn busybox_applets(busybox: &Path) -> Result<Vec<String>> {
    let output =
        Command::new(busybox).arg("--list").output().doing(|| format!("running {}", busybox.display()))?;
    let output = require_success(&["busybox", "--list"], output)?;
    let names = String::from_utf8_lossy(&output.stdout);
    Ok(names.lines().filter(|name| *name != "busybox").map(str::to_owned).collect())
}
