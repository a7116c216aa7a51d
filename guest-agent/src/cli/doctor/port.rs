//! The way to the host, as far as the guest's kernel knows it. Opens nothing: the host would see somebody come and go.

use super::{Finding, fail, ok, under};
use coms_agent::config::Port;
use coms_protocol::{LINE_ALIAS, PORT_NAME};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

const CHECK: &str = "port";

fn add() -> String {
    format!(
        "ask the operator to add to the domain: <channel type='unix'><target type='virtio' name='{PORT_NAME}'/></channel>"
    )
}

pub(super) fn check(root: &Path, port: &Port, daemon: Option<i32>, status: Option<&Value>) -> Vec<Finding> {
    let (device, found) = match port {
        Port::Virtio { path } => virtio(root, path.as_deref()),
        Port::Serial { path } => serial(root, path),
        Port::Unix { path } => return vec![unix(&under(root, path))],
    };
    let mut findings = vec![found];
    let Some(device) = device else { return findings };
    if let Some((pid, name)) = holder(root, &device, daemon) {
        let what =
            format!("{} is held by {name} (process {pid}); only one may have it open", device.display());
        findings.push(fail(CHECK, what, format!("end {name}, or take the port out of its configuration")));
    }
    let error = status.and_then(|s| s.get("port_error")?.as_str()).unwrap_or_default();
    if error.contains("permitted") || error.contains("denied") {
        let remedy = format!(
            "systemctl edit coms-agent, and add [Service] DeviceAllow={} rw, and its group as SupplementaryGroups=; \
             a virtio port belongs to the agent's user when udev has the package's rule",
            device.display()
        );
        findings.push(fail(CHECK, format!("the agent may not open it: {error}"), remedy));
    }
    findings
}

fn virtio(root: &Path, named: Option<&Path>) -> (Option<PathBuf>, Finding) {
    if let Some(path) = named {
        return if under(root, path).exists() {
            (Some(path.to_owned()), ok(CHECK, format!("{} is there", path.display())))
        } else {
            let what = format!("{} of port.path does not exist", path.display());
            (None, fail(CHECK, what, "leave port.path out: the port is found by its name"))
        };
    }
    let ports = names(root);
    if let Some((device, _)) = ports.iter().find(|(_, name)| name == PORT_NAME) {
        let node = Path::new("/dev").join(device);
        if under(root, &node).exists() {
            let detail = format!("{PORT_NAME} is {}", node.display());
            return (Some(node), ok(CHECK, detail));
        }
        let what = format!("the kernel has {PORT_NAME}, but {} is missing", node.display());
        return (None, fail(CHECK, what, "is devtmpfs mounted at /dev, does udev run?"));
    }
    let devices = entries(&under(root, "/sys/bus/virtio/devices"));
    let console = |d: &PathBuf| fs::read_to_string(d.join("device")).is_ok_and(|id| id.trim() == "0x0003");
    if !devices.iter().any(console) {
        return (None, fail(CHECK, "this VM has no virtio-serial device at all", add()));
    }
    if !under(root, "/sys/bus/virtio/drivers/virtio_console").exists() {
        let what = "the VM has a virtio-serial device, but the kernel no driver for it";
        return (
            None,
            fail(
                CHECK,
                what,
                "modprobe virtio_console; if there is none, install the distribution's full kernel",
            ),
        );
    }
    let others: Vec<_> = ports.into_iter().map(|(_, name)| name).filter(|n| !n.is_empty()).collect();
    let what = if others.is_empty() {
        format!("the virtio-serial device has no port named {PORT_NAME}")
    } else {
        format!("the VM's ports are {}, none is {PORT_NAME}", others.join(", ").escape_debug())
    };
    (None, fail(CHECK, what, add()))
}

/// The kernel's ports: device, name.
fn names(root: &Path) -> Vec<(String, String)> {
    let ports = entries(&under(root, "/sys/class/virtio-ports"));
    let name = |p: &PathBuf| fs::read_to_string(p.join("name")).unwrap_or_default().trim_end().to_owned();
    let mut all: Vec<_> =
        ports.iter().filter_map(|p| Some((p.file_name()?.to_str()?.to_owned(), name(p)))).collect();
    all.sort();
    all
}

fn serial(root: &Path, path: &Path) -> (Option<PathBuf>, Finding) {
    let add = format!(
        "ask the operator for a <serial type='unix'> with <alias name='{LINE_ALIAS}'/>, and set port.path to its device"
    );
    if !under(root, path).exists() {
        return (None, fail(CHECK, format!("{} of port.path does not exist", path.display()), add));
    }
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let read = |file: String| fs::read_to_string(under(root, file)).unwrap_or_default();
    if read("/sys/class/tty/console/active".to_owned()).split_whitespace().any(|tty| tty == name) {
        let what =
            format!("{name} is the kernel's console; its messages would be in the middle of everything");
        return (
            None,
            fail(CHECK, what, "use another line, or take console= out of the kernel's command line"),
        );
    }
    // The kernel makes ttyS0 to 3 whether or not there is hardware behind them.
    if read(format!("/sys/class/tty/{name}/type")).trim() == "0" {
        return (None, fail(CHECK, format!("there is no UART behind {}", path.display()), add));
    }
    (Some(path.to_owned()), ok(CHECK, format!("{} is there", path.display())))
}

fn unix(path: &Path) -> Finding {
    let remedy = "start what hands the port on, or mend port.path";
    match fs::metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => ok(CHECK, format!("{} is there", path.display())),
        Ok(_) => fail(CHECK, format!("{} is no socket", path.display()), remedy),
        Err(e) => fail(CHECK, format!("{}: {e}", path.display()), remedy),
    }
}

/// A process other than the daemon that has the device open. Without root only one's own can be seen.
fn holder(root: &Path, device: &Path, daemon: Option<i32>) -> Option<(String, String)> {
    let target = fs::canonicalize(under(root, device)).unwrap_or_else(|_| device.to_owned());
    let daemon = daemon.map(|pid| pid.to_string());
    entries(&under(root, "/proc")).into_iter().find_map(|process| {
        let pid = process.file_name()?.to_str()?.to_owned();
        if !pid.bytes().all(|b| b.is_ascii_digit()) || daemon.as_ref() == Some(&pid) {
            return None;
        }
        let holds =
            entries(&process.join("fd")).iter().any(|fd| fs::read_link(fd).is_ok_and(|to| to == target));
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned();
        // An agent that runs, but does not answer, is told elsewhere.
        (holds && name != "coms-agent").then_some((pid, name))
    })
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).map(|e| e.path()).collect()
}
