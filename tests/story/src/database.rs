//! A Debian guest with PostgreSQL and coms-plugins, as their packages set them up: what the test of plugins and the demo
//! of them begin with.

use crate::{Result, Stage};
use coms_lab::{Guest, GuestConfig, GuestFile, System};
use std::time::Duration;

/// A Nagios check says how long a transaction takes.
pub const PGBENCH: &str = "[[plugin]]\nname = \"pgbench\"\nkind = \"nagios\"\n\
    command = [\"/etc/coms/plugins/check_pgbench.sh\", \"--transactions=6\"]\nuser = \"postgres\"\ninterval_ms = 2000\ntimeout_ms = 20000\n";

/// The agent's rule for it, far shorter than anyone would want at home. On an emulated CPU of which others take two thirds
/// a run of the check takes some seconds, and of those the window must hold more than one.
pub const SLOW_DATABASE: &str = "[[workload]]\nname = \"database\"\nprobe = { plugin = \"pgbench\" }\ninterval_ms = 2000\n\
    metric = \"p50\"\nwindow_s = 16\nslower_than_factor = 1.8\nfor_s = 0\nmin_samples = 2\nlearn_s = 48\n";

/// The examples that it has, in /etc/coms/plugins.
const EXAMPLES: [&str; 3] = ["check_pgbench.sh", "postgres.py", "nginx.py"];

/// Boots it on a host. Its plugins do not run yet.
pub fn boot(stage: &Stage, host: usize, agent: &str, plugins: &str, more: Vec<GuestFile>) -> Result<Guest> {
    let packaging = coms_lab::workspace_root().join("packaging");
    let file = |path: &str, mode, bytes| GuestFile { path: path.into(), mode, bytes };
    let read = |path: &str| std::fs::read(packaging.join(path));
    let mut files = more;
    files.push(file("/usr/bin/coms-plugins", 0o755, std::fs::read(coms_lab::build_plugins()?)?));
    files.push(file("/etc/coms/plugins.toml", 0o644, plugins.into()));
    // At a first boot systemd enables whatever no preset names.
    files.push(file(
        "/etc/systemd/system-preset/00-plugins.preset",
        0o644,
        "disable coms-plugins.service\n".into(),
    ));
    // An empty unit is none: eth0 has its address from PID 1, and nginx would wait for who else is to give it one.
    files.push(file("/etc/systemd/system/systemd-networkd-wait-online.service", 0o644, Vec::new()));
    for (from, to) in [
        ("systemd/coms-plugins.service", "/etc/systemd/system/coms-plugins.service"),
        ("sysusers.d/coms-agent.conf", "/usr/lib/sysusers.d/coms-agent.conf"),
        ("sysusers.d/coms-plugins.conf", "/usr/lib/sysusers.d/coms-plugins.conf"),
    ] {
        files.push(file(to, 0o644, read(from)?));
    }
    for example in EXAMPLES {
        let path = format!("examples/plugins/{example}");
        files.push(file(&format!("/etc/coms/plugins/{example}"), 0o755, read(&path)?));
    }
    let system = System::DebianServices;
    let config = GuestConfig { memory_mib: 768, system, files, ..GuestConfig::default() };
    let guest = stage.boot(host, config, agent)?;
    stage.wait("PostgreSQL to answer", 60, || {
        Ok(guest.sh("runuser -u postgres -- psql -c 'SELECT 1' >/dev/null 2>&1 && echo yes || true")?
            == "yes\n")
    })?;
    let initialize = "runuser -u postgres -- pgbench --quiet --initialize postgres 2>&1";
    guest.exec_with(&["sh", "-c", initialize], "", Duration::from_secs(90))?.success()?;
    Ok(guest)
}

/// Has coms-plugins take up another configuration.
pub fn reload(guest: &Guest, plugins: &str) -> Result<()> {
    let write = ["sh", "-c", "cat > /etc/coms/plugins.toml && systemctl reload coms-plugins"];
    guest.exec_with(&write, plugins, Duration::from_secs(60))?.success()?;
    Ok(())
}

/// Neighbours that idle until they are told to hog their host's CPU.
pub fn neighbours(stage: &Stage, host: usize, count: u8) -> Result<Vec<Guest>> {
    let boot = |i: u8| {
        let config = GuestConfig {
            name: format!("noisy{i}"),
            ip: [10, 78, 1, i].into(),
            memory_mib: 128,
            port: false,
            ..GuestConfig::default()
        };
        stage.lab.boot(config, crate::HOSTS[host])
    };
    std::thread::scope(|scope| {
        let boots: Vec<_> = (1..=count).map(|i| scope.spawn(move || boot(i))).collect();
        let booted: Vec<_> = boots.into_iter().map(|b| b.join().map_err(|_| "a boot panicked")).collect();
        booted.into_iter().map(|b| Ok(b??)).collect()
    })
}
