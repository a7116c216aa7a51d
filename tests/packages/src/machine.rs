//! A host as an operator has it: Debian with its own systemd and libvirtd, booted by systemd-nspawn in the network of one
//! of the lab's hosts, whose directories for libvirt and coms it takes over. So the lab's ways to reach a host's libvirt
//! lead to this one.
//!
//! Its root is `target/lab-cache/host` (tests/setup.sh test-packages) with a tmpfs over it. It is in the lab's network, so
//! the lab's guardian ends it; its cgroup is removed here.

use super::{Result, Said, run, text};
use coms_lab::{Host, Lab, Signal, workspace_root};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A booted machine.
pub struct Machine {
    name: String,
    nspawn: Child,
    /// Its PID 1, as seen from here.
    init: u32,
    cgroup: Option<PathBuf>,
    log: PathBuf,
}

/// Directories of a lab's host that the machine has, too: (inside, both).
const SHARED: [&str; 2] = ["/run/libvirt", "/var/log/libvirt"];

impl Machine {
    /// In the place of this host of the lab, whose libvirtd ends. `files` are put in before it boots: (inside, text).
    pub fn boot(lab: &Lab, host: &Host, files: &[(&str, String)]) -> Result<Machine> {
        let cache = workspace_root().join("target/lab-cache");
        let root = cache.join("host");
        if !root.is_dir() {
            return Err(format!("{} is missing: run: tests/setup.sh test-packages", root.display()).into());
        }
        host.stop_libvirtd(Signal::TERM)?;
        let name = host.name().to_owned();
        let log = host.log_dir().join("machine.log");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", host.holder_pid()));
        command.args(["systemd-nspawn", "--quiet", "--boot", "--read-only", "--volatile=overlay"]);
        command.args(["--register=no", "--keep-unit", "--capability=all", "--link-journal=no"]);
        command.args(["--resolv-conf=off", "--timezone=off", "--bind=/dev/net/tun"]);
        command.arg(format!("--directory={}", root.display()));
        command.arg(format!("--machine=coms-{}-{name}", lab.id())).arg(format!("--hostname={name}"));
        for inside in SHARED {
            let outside = host.path_of(inside);
            // What the lab's own libvirtd left there is not this one's.
            fs::create_dir_all(&outside)?;
            command.arg(format!("--bind={}:{inside}", outside.display()));
        }
        // What guests boot from, and where the lab keeps what it makes for them.
        let run_dir = Path::new("/run/coms-lab").join(lab.id());
        command.arg(format!("--bind={}", run_dir.display()));
        command.arg(format!("--bind-ro={}", cache.display()));
        let seed = host.log_dir().join("seed");
        for (inside, text) in files {
            let outside = seed.join(inside.trim_start_matches('/'));
            fs::create_dir_all(outside.parent().unwrap_or(&seed))?;
            fs::write(&outside, text)?;
            fs::set_permissions(&outside, fs::Permissions::from_mode(0o644))?;
            command.arg(format!("--bind-ro={}:{inside}", outside.display()));
        }
        let cgroup = own_cgroup(&format!("coms-lab-{}-{name}-machine", lab.id()))?;
        let out = File::create(&log)?;
        let mut enter = Command::new("sh");
        let script = match &cgroup {
            Some(dir) => format!("echo $$ >'{}/cgroup.procs' && exec \"$@\"", dir.display()),
            None => "exec \"$@\"".to_owned(),
        };
        enter.args(["-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
        enter.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        let nspawn = enter.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        let mut machine = Machine { name, nspawn, init: 0, cgroup, log };
        machine.wait_until_up()?;
        // QEMU's user must come to what guests boot from, also where this workspace is below a directory of root's.
        let way: Vec<String> = cache.ancestors().skip(1).map(|dir| format!("'{}'", dir.display())).collect();
        machine.must(&format!("chmod a+x {}", way.join(" ")))?;
        Ok(machine)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let up = super::wait(&format!("{} to boot", self.name), 180, || {
            if let Some(status) = self.nspawn.try_wait()? {
                return Err(format!("systemd-nspawn ended with {status}").into());
            }
            self.init = init_below(self.nspawn.id()).unwrap_or(0);
            if self.init == 0 {
                return Ok(false);
            }
            let state = self.run("systemctl is-system-running")?;
            Ok(["running", "degraded"].contains(&state.out.trim()))
        });
        up.map_err(|e| format!("{e}\n{}", fs::read_to_string(&self.log).unwrap_or_default()).into())
    }

    /// Its name, which is the lab's host's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a shell's command line in it.
    pub fn run(&self, line: &str) -> Result<Said> {
        let target = self.init.to_string();
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let enter =
            ["nsenter", "--target", &target, "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"];
        let env = ["env", "-i", path, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "HOME=/root"];
        run(&[&enter[..], &env[..], &["sh", "-c", &format!("cd /root; {line}")]].concat())
    }

    /// Runs a line that must succeed; what it prints.
    pub fn must(&self, line: &str) -> Result<String> {
        let said = self.run(line)?;
        if said.status != 0 {
            let journal = self.run("journalctl --no-pager -n 30").map(|s| s.out).unwrap_or_default();
            return Err(format!(
                "{}: {line}: exit {}: {}{}\n--- its journal\n{journal}",
                self.name, said.status, said.out, said.err
            )
            .into());
        }
        Ok(said.out)
    }

    /// Where a path of its is, as seen from here.
    pub fn path_of(&self, inside: &str) -> String {
        format!("/proc/{}/root{inside}", self.init)
    }

    /// Puts a file into it.
    pub fn copy_in(&self, from: &Path, to: &str) -> Result<()> {
        let inside = self.path_of(to);
        fs::copy(from, &inside).map_err(|e| format!("{} to {inside}: {e}", from.display()))?;
        Ok(())
    }

    pub fn write(&self, to: &str, text: &str) -> Result<()> {
        let inside = self.path_of(to);
        fs::write(&inside, text).map_err(|e| format!("{inside}: {e}").into())
    }

    /// Tells its systemd to end, and waits for that.
    pub fn power_off(mut self) -> Result<()> {
        self.run("systemctl poweroff --no-block")?;
        let nspawn = &mut self.nspawn;
        super::wait("the machine to end", 60, || Ok(nspawn.try_wait()?.is_some()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The last process in its PID namespace takes all others along.
        if self.init > 1 {
            let _ = run(&["kill", "-KILL", &self.init.to_string()]);
        }
        let _ = super::wait("systemd-nspawn to end", 20, || Ok(self.nspawn.try_wait()?.is_some()));
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
        // systemd-nspawn mirrors the one that it was put into where version 1 is beside it.
        let mirror =
            |dir: &PathBuf| Path::new("/sys/fs/cgroup/systemd").join(dir.file_name().unwrap_or_default());
        let mirror = self.cgroup.as_ref().map(mirror).filter(|dir| dir.is_dir());
        for cgroup in self.cgroup.iter().chain(&mirror) {
            let all = run(&["find", &text(cgroup), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
            if let Ok(said) = all
                && said.status != 0
            {
                eprintln!("{}: its cgroup stays: {}", self.name, said.err);
            }
        }
    }
}

/// A cgroup for a systemd of its own, which takes the place of a root. Of version 2, also where the machine's own systemd
/// or none uses version 1: a systemd in a container hears there only that a cgroup of version 2 has become empty.
fn own_cgroup(name: &str) -> Result<Option<PathBuf>> {
    for top in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"] {
        if Path::new(top).join("cgroup.procs").is_file() {
            let dir = Path::new(top).join(name);
            fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            return Ok(Some(dir));
        }
    }
    Ok(None)
}

/// The PID 1 of the container below this systemd-nspawn.
fn init_below(nspawn: u32) -> Option<u32> {
    let mut waiting = vec![nspawn];
    while let Some(pid) = waiting.pop() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let own = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
        if own.split_whitespace().count() > 1 && own.trim().ends_with("\t1") {
            return Some(pid);
        }
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        waiting.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
    }
    None
}
