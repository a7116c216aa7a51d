//! A libvirtd of a host's own: its configuration, start and stop.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    error::{Doing as _, Error, Result},
    node::{COMMAND_TIME, Node},
    process::{Process, wait_until},
    random::random_id,
    tls,
};

/// Where clients inside a host reach its libvirtd.
pub(crate) const URI_INSIDE: &str = "qemu+unix:///system?socket=/run/libvirt/libvirt-sock";

/// Writes libvirtd.conf and qemu.conf into the directory that becomes the host's /etc/libvirt.
pub(crate) fn configure(
    etc_libvirt: &Path,
    address: Ipv4Addr,
    host_uuid: &str,
    with_tls: bool,
) -> Result<()> {
    let (listen_tls, own_tls) = if with_tls { (1, tls::libvirtd_conf()) } else { (0, String::new()) };
    let libvirtd = format!(
        r#"listen_tls = {listen_tls}
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "{host_uuid}"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
{own_tls}"#
    );
    let tls = if with_tls { tls::qemu_conf() } else { String::new() };
    let qemu = format!(
        r#"user = "root"
group = "root"
swtpm_user = "root"
swtpm_group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
migration_address = "{address}"
migration_host = "{address}"
{tls}"#
    );
    for (name, text) in [("libvirtd.conf", libvirtd), ("qemu.conf", qemu)] {
        let path = etc_libvirt.join(name);
        fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// What QEMU can do takes libvirt 4 s to find out. It keeps that in files, and checks them against the
/// QEMU and the kernel at hand before it believes them: so a lab may start with those of an earlier one.
fn kept_capabilities() -> PathBuf {
    crate::workspace_root().join("target/lab-cache/qemu-capabilities")
}

const CAPABILITIES: &str = "qemu/capabilities";

/// Gives a new host what earlier ones found out.
pub(crate) fn take_capabilities(cache: &Path) -> Result<()> {
    copy_files(&kept_capabilities(), &cache.join(CAPABILITIES))
}

/// Keeps what a host found out for later ones.
fn keep_capabilities(cache: &Path) -> Result<()> {
    copy_files(&cache.join(CAPABILITIES), &kept_capabilities())
}

/// Each file appears at once and whole: another lab may be reading.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let doing = || format!("copying QEMU's capabilities from {} to {}", from.display(), to.display());
    fs::create_dir_all(to).doing(doing)?;
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).doing(doing),
    };
    for entry in entries {
        let source = entry.doing(doing)?.path();
        if source.extension().is_some_and(|extension| extension == "xml") {
            let bytes = fs::read(&source).doing(doing)?;
            let target = to.join(source.file_name().unwrap_or_default());
            if fs::read(&target).is_ok_and(|old| old == bytes) {
                continue;
            }
            let half = target.with_extension(format!("{}.new", random_id()?));
            fs::write(&half, bytes).and_then(|()| fs::rename(&half, &target)).doing(doing)?;
        }
    }
    Ok(())
}

/// Starts libvirtd and returns when it answers. `dir` is the host's directory.
pub(crate) fn start(node: &Node, dir: &Path, log: PathBuf) -> Result<Process> {
    let socket = dir.join("run-libvirt/libvirt-sock");
    let own_log = dir.join("log/libvirt/libvirtd.log");
    // Left behind by a killed one, it would look like an answer.
    let _ = fs::remove_file(&socket);
    let mut command = node.command("libvirtd");
    command
        .args(["--listen", "--pid-file", "/run/libvirt/libvirtd.pid"])
        // Not the machine's bus: its systemd-machined would take our guests into its own slices.
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/libvirt/no-bus")
        .env_remove("NOTIFY_SOCKET");
    let mut process = Process::spawn(command, "libvirtd", log)?;
    // Makes it look at QEMU now, on all hosts at once, and not in the middle of the first migration.
    let probe = ["virsh", "-c", URI_INSIDE, "domcapabilities", "--virttype", "qemu"];
    wait_until("libvirtd's answer", Duration::from_secs(30), || {
        if let Some(status) = process.try_wait()? {
            // What failed is the last that it wrote; before that come harmless complaints.
            let text = fs::read_to_string(&own_log).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(3).collect();
            return Err(Error::Unfit(format!(
                "libvirtd ended with {status}: {}{} (all of it: {})",
                process.log_text(),
                last.join("; after: "),
                own_log.display()
            )));
        }
        // Its socket is there before its drivers are; only an answer says that it is ready.
        Ok(socket.exists() && node.output(&probe, None, COMMAND_TIME)?.status.success())
    })?;
    keep_capabilities(&dir.join("cache-libvirt"))?;
    Ok(process)
}
