//! The Debian guest: PID 1 of the lab lays a tmpfs over the disk, adds what is the guest's own, and hands over to
//! systemd. The disk is one for all guests and never written to.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    cpio::Archive,
    error::{Doing as _, Error, Result},
    guest::{GuestConfig, System},
    guest_spec::{ADDED_DIR, GuestSpec, SPEC_PATH},
    initramfs::{add_base, add_parents, spec_json},
    lab::Programs,
};

/// As tests/setup.sh leaves it: `vmlinuz`, `modules/`, `disk.img`. None: not from a disk.
pub(crate) fn dir(system: System) -> Option<PathBuf> {
    let name = match system {
        System::Busybox => return None,
        System::Debian => "debian",
        System::DebianServices => "debian-services",
    };
    Some(crate::workspace_root().join("target/lab-cache").join(name))
}

const UNITS: &str = "/etc/systemd/system";

/// One unit for each thing that the lab's program does in a guest.
const LAB_UNIT: &str = "\
[Unit]
Description=The lab's %i

[Service]
ExecStart=/usr/bin/coms-lab-guest %i
Restart=always
Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin

[Install]
WantedBy=multi-user.target
";

/// Writes what the guest boots from.
pub(crate) fn write_initrd(path: &Path, dir: &Path, programs: &Programs, config: &GuestConfig) -> Result<()> {
    let image = dir.join("disk.img");
    if !image.is_file() {
        return Err(Error::Unfit(format!(
            "{} is missing: the Debian guest is made by `tests/setup.sh bench`, the one with services by `tests/setup.sh services`",
            image.display()
        )));
    }
    let read = |path: &Path| fs::read(path).doing(|| format!("reading {}", path.display()));
    let mut archive = Archive::default();
    add_base(&mut archive, &programs.guest, &dir.join("modules"))?;
    let spec = GuestSpec {
        name: config.name.clone(),
        ip: config.ip,
        agent: None, // systemd runs it
        workload: config.workload,
        hog_threads: 0,
        gateway: config.gateway,
        from_disk: true,
    };
    let spec = spec_json(&spec)?;
    archive.file(SPEC_PATH, 0o644, &spec);

    archive.dir(ADDED_DIR);
    let mut add = |inside: &str, mode: u32, bytes: &[u8]| {
        let inside = format!("{ADDED_DIR}{inside}");
        add_parents(&mut archive, &inside);
        archive.file(&inside, mode, bytes);
    };
    add(SPEC_PATH, 0o644, &spec);
    add("/etc/hostname", 0o644, format!("{}\n", config.name).as_bytes());
    add("/usr/bin/coms-lab-guest", 0o755, &read(&programs.guest)?);
    add(&format!("{UNITS}/coms-lab-guest@.service"), 0o644, LAB_UNIT.as_bytes());
    let mut wanted: Vec<String> = vec!["coms-lab-guest@serve".into(), "coms-lab-guest@echo".into()];
    if config.workload.is_some() {
        wanted.push("coms-lab-guest@work".into());
    }
    if let Some(cli) = &programs.cli {
        add("/usr/bin/coms", 0o755, &read(cli)?);
    }
    if let Some((agent, run)) = programs.agent.as_ref().zip(config.agent.as_ref()) {
        let packaging = crate::workspace_root().join("packaging");
        add("/usr/bin/coms-agent", 0o755, &read(agent)?);
        for (from, to) in [
            ("systemd/coms-agent.service", format!("{UNITS}/coms-agent.service")),
            ("sysusers.d/coms-agent.conf", "/usr/lib/sysusers.d/coms-agent.conf".into()),
            ("udev/60-coms-agent.rules", "/usr/lib/udev/rules.d/60-coms-agent.rules".into()),
        ] {
            add(&to, 0o644, &read(&packaging.join(from))?);
        }
        if let Some(toml) = &run.toml {
            add("/etc/coms/agent.toml", 0o644, toml.as_bytes());
        }
        wanted.push("coms-agent".into());
    }
    for file in &config.files {
        add(&file.path, file.mode, &file.bytes);
    }
    let wants = format!("{ADDED_DIR}{UNITS}/multi-user.target.wants");
    add_parents(&mut archive, &format!("{wants}/unit"));
    for name in wanted {
        let (file, _) = name.split_once('@').map_or((format!("{name}.service"), ""), |(unit, instance)| {
            (format!("{unit}@.service"), instance)
        });
        archive.symlink(&format!("{wants}/{name}.service"), &format!("{UNITS}/{file}"));
    }
    fs::write(path, archive.finish()).doing(|| format!("writing {}", path.display()))
}
