//! PID 1: mounts, modules, address, ports; then it starts the services and reaps orphans.

use std::{
    fs,
    os::unix::{fs::symlink, process::CommandExt as _},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use coms_lab::{
    GUEST_NET,
    guest_spec::{ADDED_DIR, GuestSpec, SPEC_PATH},
};

use crate::Outcome;

pub(crate) fn run() -> Outcome {
    if let Err(error) = set_up() {
        // To end would be a kernel panic that hides the reason.
        println!("coms-lab-guest: could not start: {error}");
        loop {
            thread::sleep(Duration::from_secs(3600));
        }
    }
    loop {
        // Whoever has lost his parent is ours; the services are children too, and never end.
        if rustix::process::wait(rustix::process::WaitOptions::empty()).is_err() {
            thread::sleep(Duration::from_secs(1));
        }
    }
}

fn set_up() -> Outcome {
    for (kind, place) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run"), ("tmpfs", "/tmp")]
    {
        busybox(&["mount", "-t", kind, kind, place])?;
    }
    fs::create_dir_all("/run/coms")?;
    for module in fs::read_to_string("/lib/modules/ORDER")?.lines() {
        busybox(&["insmod", &format!("/lib/modules/{module}.ko")])?;
    }
    let spec = read_spec()?;
    fs::write("/proc/sys/kernel/hostname", &spec.name)?;
    wait_for(Path::new("/sys/class/net/eth0"))?;
    busybox(&["ip", "link", "set", "lo", "up"])?;
    busybox(&["ip", "address", "add", &format!("{}/32", spec.ip), "dev", "eth0"])?;
    busybox(&["ip", "link", "set", "eth0", "up"])?;
    match spec.gateway {
        // Whoever asks is on this link: clients may have any address.
        None => busybox(&["ip", "route", "add", "default", "dev", "eth0"])?,
        Some(gateway) => {
            busybox(&["ip", "route", "add", GUEST_NET, "dev", "eth0"])?;
            busybox(&["ip", "route", "add", "default", "via", &gateway.to_string()])?;
        }
    }
    if spec.from_disk {
        return go_on_from_disk();
    }
    thread::spawn(name_ports);
    for service in ["echo", "serve"] {
        Command::new("/init").arg(service).spawn()?;
    }
    if spec.workload.is_some() {
        Command::new("/init").arg("work").spawn()?;
    }
    if spec.hog_threads > 0 {
        crate::load::start("hog", &[&spec.hog_threads.to_string()])?;
    }
    println!("coms-lab-guest: {} is up", spec.name);
    Ok(())
}

/// Hands over to the init of the system on the disk, over which a tmpfs takes what is written. Returns only if that
/// fails.
fn go_on_from_disk() -> Outcome {
    const DISK: &str = "/dev/vda";
    wait_for(Path::new(DISK))?;
    for dir in ["/disk", "/written", "/newroot"] {
        fs::create_dir_all(dir)?;
    }
    busybox(&["mount", "-t", "ext4", "-o", "ro", DISK, "/disk"])?;
    busybox(&["mount", "-t", "tmpfs", "tmpfs", "/written"])?;
    fs::create_dir_all("/written/upper")?;
    fs::create_dir_all("/written/work")?;
    let layers = "lowerdir=/disk,upperdir=/written/upper,workdir=/written/work";
    busybox(&["mount", "-t", "overlay", "-o", layers, "overlay", "/newroot"])?;
    busybox(&["cp", "-a", &format!("{ADDED_DIR}/."), "/newroot/"])?;
    for place in ["/tmp", "/run", "/dev", "/sys", "/proc"] {
        busybox(&["umount", "-l", place])?;
    }
    let error = Command::new("/bin/busybox").args(["switch_root", "/newroot", "/sbin/init"]).exec();
    Err(format!("switch_root: {error}").into())
}

pub(crate) fn read_spec() -> Result<GuestSpec, Box<dyn std::error::Error>> {
    Ok(serde_json::from_slice(&fs::read(SPEC_PATH)?)?)
}

/// udev's part: /dev/virtio-ports/NAME. Names show up a moment after the driver, and with hot-plugging
/// any time later.
fn name_ports() {
    loop {
        let _ = link_ports();
        thread::sleep(Duration::from_millis(200));
    }
}

fn link_ports() -> std::io::Result<()> {
    fs::create_dir_all("/dev/virtio-ports")?;
    for port in fs::read_dir("/sys/class/virtio-ports")? {
        let port = port?;
        let name = fs::read_to_string(port.path().join("name"))?;
        let link = Path::new("/dev/virtio-ports").join(name.trim());
        if !name.trim().is_empty() && !link.exists() {
            symlink(Path::new("/dev").join(port.file_name()), link)?;
        }
    }
    Ok(())
}

fn wait_for(path: &Path) -> Outcome {
    let start = Instant::now();
    while !path.exists() {
        if start.elapsed() > Duration::from_secs(20) {
            return Err(format!("{} did not appear in 20 s", path.display()).into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn busybox(words: &[&str]) -> Outcome {
    let status = Command::new("/bin/busybox").args(words).status()?;
    if status.success() { Ok(()) } else { Err(format!("busybox {}: {status}", words.join(" ")).into()) }
}
