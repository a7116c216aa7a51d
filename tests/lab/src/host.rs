//! A libvirt host: namespaces, private directories, a libvirtd, and whatever tests start in it.

use std::{
    fs,
    net::Ipv4Addr,
    ops::RangeInclusive,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
    sync::{Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use crate::{
    capture::Capture,
    cpuset::Cpuset,
    error::{Doing as _, Error, Result, require_success},
    lab::Inner,
    libvirtd,
    node::{COMMAND_TIME, Node},
    process::{Process, Signal},
    random::random_uuid,
    tls::Authority,
};

/// Directories that each host has for itself: inside the host -> below the host's directory.
/// `log/` leads to the lab's log directory, which stays when a test fails.
const PRIVATE: [(&str, &str); 11] = [
    ("/etc/libvirt", "etc-libvirt"),
    ("/var/lib/libvirt", "lib-libvirt"),
    ("/run/libvirt", "run-libvirt"),
    ("/var/log/libvirt", "log/libvirt"),
    ("/var/cache/libvirt", "cache-libvirt"),
    // What libvirt starts for a guest with a TPM.
    ("/var/log/swtpm", "log/swtpm"),
    ("/var/lib/swtpm-localca", "lib-swtpm-localca"),
    ("/etc/coms", "etc-coms"),
    ("/run/coms", "run-coms"),
    ("/var/lib/coms", "lib-coms"),
    ("/var/log/coms", "log/coms"),
];

/// What a host of the lab should be like.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Its host name, at most 8 of `a-z0-9-`.
    pub name: String,
    /// The only CPU that it and its guests may use; `None`: any.
    pub cpu: Option<usize>,
    /// What its migration link sends at most, in Mbit/s; `None`: no limit.
    pub rate_mbit: Option<u32>,
    /// 0 or 1: at which site it is. With hosts at both, the lab has two sites that share no layer 2.
    pub site: usize,
    /// Whether it has `mig0`, on a network that nothing else uses.
    pub migration_network: bool,
}

impl HostConfig {
    /// A host without limits.
    pub fn new(name: &str) -> HostConfig {
        HostConfig { name: name.to_owned(), cpu: None, rate_mbit: None, site: 0, migration_network: false }
    }

    /// Ties it to one CPU.
    pub fn cpu(self, cpu: usize) -> HostConfig {
        HostConfig { cpu: Some(cpu), ..self }
    }

    /// Limits its migration link.
    pub fn rate_mbit(self, rate_mbit: u32) -> HostConfig {
        HostConfig { rate_mbit: Some(rate_mbit), ..self }
    }

    /// Puts it at a site.
    pub fn site(self, site: usize) -> HostConfig {
        HostConfig { site, ..self }
    }

    /// Gives it an interface `mig0` for migrations alone.
    pub fn migration_network(self) -> HostConfig {
        HostConfig { migration_network: true, ..self }
    }
}

/// A running host of the lab.
#[derive(Debug)]
pub struct Host {
    name: String,
    /// 1 for the first; part of its address and of its links' names.
    number: usize,
    site: usize,
    dir: PathBuf,
    node: Node,
    libvirtd: Mutex<Option<Process>>,
    lab: Weak<Inner>,
}

impl Host {
    /// Sets up directories, namespaces and links; libvirtd is started apart.
    pub(crate) fn new(
        config: &HostConfig,
        number: usize,
        lab: &Weak<Inner>,
        places: Places<'_>,
        cpuset: Option<Cpuset>,
    ) -> Result<Host> {
        let make = |path: &Path| fs::create_dir_all(path).doing(|| format!("making {}", path.display()));
        let log = places.log.join(&config.name);
        make(&log)?;
        make(places.dir)?;
        std::os::unix::fs::symlink(&log, places.dir.join("log"))
            .doing(|| format!("linking the logs of {}", config.name))?;
        let mut binds = Vec::new();
        for (inside, below) in PRIVATE {
            let outside = places.dir.join(below);
            make(&outside)?;
            // The mount point: empty directories on the machine, if the packages brought none.
            make(Path::new(inside))?;
            binds.push((outside.display().to_string(), inside.to_owned()));
        }
        // libvirtd insists on its build's user even where qemu.conf names another; the machine has it
        // only if libvirt was installed as a service.
        let with_qemu_user = |file: &str, line: &str| -> Result<String> {
            let text = fs::read_to_string(file).doing(|| format!("reading {file}"))?;
            let known = text.lines().any(|entry| entry.starts_with("libvirt-qemu:"));
            Ok(if known { text } else { format!("{}\n{line}\n", text.trim_end()) })
        };
        let files = [
            ("hosts", places.hosts_file.to_owned()),
            // Nobody answers DNS in here: a look-up would cost 40 s.
            ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n".to_owned()),
            ("passwd", with_qemu_user("/etc/passwd", "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin")?),
            ("group", with_qemu_user("/etc/group", "libvirt-qemu:x:64055:")?),
        ];
        for (name, text) in files {
            let path = places.dir.join(name);
            fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
            binds.push((path.display().to_string(), format!("/etc/{name}")));
        }
        let address = migration_address(config.site, number);
        libvirtd::take_capabilities(&places.dir.join("cache-libvirt"))?;
        let etc_libvirt = places.dir.join("etc-libvirt");
        libvirtd::configure(&etc_libvirt, address, &random_uuid()?, places.authority.is_some())?;
        if let Some(authority) = places.authority {
            authority.equip(&etc_libvirt, &config.name, &[address, apart_address(number)])?;
        }
        let node = Node::host(&config.name, &binds, cpuset)?;
        Ok(Host {
            name: config.name.clone(),
            number,
            site: config.site,
            dir: places.dir.to_owned(),
            node,
            libvirtd: Mutex::new(None),
            lab: lab.clone(),
        })
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// At which site it is.
    pub fn site(&self) -> usize {
        self.site
    }

    /// Its host name, also resolvable from the other hosts.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A process that is in all of its namespaces, for `nsenter --target`.
    pub fn holder_pid(&self) -> u32 {
        self.node.holder_pid()
    }

    /// Its address on the migration and management network (only inside the lab).
    pub fn ip(&self) -> Ipv4Addr {
        migration_address(self.site, self.number)
    }

    /// For clients outside of the lab: its libvirt by the path of its socket.
    pub fn libvirt_uri_local(&self) -> String {
        format!("qemu+unix:///system?socket={}/run-libvirt/libvirt-sock", self.dir.display())
    }

    /// For clients in this host: the usual place.
    pub fn libvirt_uri_inside(&self) -> &'static str {
        libvirtd::URI_INSIDE
    }

    /// For the other hosts, as a migration's destination.
    pub fn libvirt_uri_remote(&self) -> String {
        format!("qemu+tcp://{}/system", self.ip())
    }

    /// The same by TLS, in a lab whose hosts have certificates.
    pub fn libvirt_uri_tls(&self) -> String {
        format!("qemu+tls://{}/system?pkipath={}", self.ip(), crate::tls::DIR_INSIDE)
    }

    /// Where a path of the host's private directories is seen from outside.
    ///
    /// # Panics
    /// If the path is in none of them: a test that writes there would write to the machine.
    #[expect(clippy::panic, reason = "a wrong path is a mistake in the test, like an index out of bounds")]
    pub fn path_of(&self, inside: &str) -> PathBuf {
        match PRIVATE.iter().find_map(|(top, below)| Some((below, Path::new(inside).strip_prefix(top).ok()?)))
        {
            Some((below, rest)) => self.dir.join(below).join(rest),
            None => {
                let tops: Vec<&str> = PRIVATE.iter().map(|(top, _)| *top).collect();
                panic!("{inside} is not private to {}; these are: {}", self.name, tops.join(", "))
            }
        }
    }

    /// Writes a file into one of the host's private directories.
    pub fn write_file(&self, inside: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path_of(inside);
        let doing = || format!("writing {inside} of {} ({})", self.name, path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).doing(doing)?;
        }
        fs::write(&path, text).doing(doing)
    }

    /// Writes an executable file, such as a libvirt hook, into one of the host's private directories.
    pub fn write_program(&self, inside: &str, text: impl AsRef<[u8]>) -> Result<()> {
        self.write_file(inside, text)?;
        let path = self.path_of(inside);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .doing(|| format!("making {} executable", path.display()))
    }

    /// Reads a file from one of the host's private directories.
    pub fn read_file(&self, inside: &str) -> Result<String> {
        let path = self.path_of(inside);
        fs::read_to_string(&path).doing(|| format!("reading {inside} of {} ({})", self.name, path.display()))
    }

    /// Starts a program in the host, with its outputs appended to `log` in the host's log directory.
    pub fn spawn(
        &self,
        program: impl AsRef<Path>,
        args: &[&str],
        env: &[(&str, &str)],
        log: &str,
    ) -> Result<Process> {
        let program = program.as_ref().display().to_string();
        let mut command = self.node.command(&program);
        command.args(args).envs(env.iter().copied());
        Process::spawn(command, &format!("{program} in {}", self.name), self.log_dir().join(log))
    }

    /// Runs a program in the host to its end, whatever its exit status.
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        self.node.output(argv, None, COMMAND_TIME)
    }

    /// Runs virsh in the host against its own libvirtd, and gives what it prints, or fails with it.
    pub fn virsh(&self, args: &[&str]) -> Result<String> {
        let argv: Vec<&str> =
            ["virsh", "-q", "-c", libvirtd::URI_INSIDE].into_iter().chain(args.iter().copied()).collect();
        // A migration that does not converge must not take the test with it unseen.
        let output = require_success(&argv, self.node.output(&argv, None, Duration::from_secs(300))?)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Where its logs are, from outside; libvirt's and QEMU's below `libvirt/`.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Starts libvirtd, which must not be running, and waits until it answers.
    pub fn start_libvirtd(&self) -> Result<()> {
        let mut libvirtd = self.lock();
        if libvirtd.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None))) {
            return Err(Error::Unfit(format!("libvirtd of {} is running already", self.name)));
        }
        let log = self.log_dir().join("libvirtd.out");
        *libvirtd = Some(libvirtd::start(&self.node, &self.dir, log)?);
        Ok(())
    }

    /// Sends a signal to libvirtd and waits for its end. Its guests run on.
    pub fn stop_libvirtd(&self, signal: Signal) -> Result<()> {
        match self.lock().take() {
            Some(process) => process.stop(signal).map(drop),
            None => Err(Error::Unfit(format!("libvirtd of {} is not running", self.name))),
        }
    }

    /// libvirtd's process, if it runs.
    pub fn libvirtd_pid(&self) -> Option<u32> {
        self.lock().as_mut().and_then(|process| match process.try_wait() {
            Ok(None) => Some(process.pid()),
            Ok(Some(_)) | Err(_) => None,
        })
    }

    /// Pulls (`false`) or plugs (`true`) the cable of its migration link.
    pub fn set_link(&self, up: bool) -> Result<()> {
        self.lab()?.fabric.set_migration_link(self.number, self.site, up)
    }

    /// Its address on `mig0`, if it has that.
    pub fn migration_ip(&self) -> Ipv4Addr {
        apart_address(self.number)
    }

    /// Pulls (`false`) or plugs (`true`) the cable of its `mig0`, which then has no carrier.
    pub fn set_migration_cable(&self, up: bool) -> Result<()> {
        self.lab()?.fabric.set_apart_link(self.number, up)
    }

    /// Counts TCP of these ports on each of its interfaces, from now on.
    pub fn capture(&self, ports: RangeInclusive<u16>) -> Result<Capture> {
        Capture::start(&self.node, ports)
    }

    /// Limits what its migration link sends, from now on.
    pub fn set_rate_mbit(&self, rate_mbit: Option<u32>) -> Result<()> {
        match rate_mbit {
            Some(rate) => {
                let rate = format!("{rate}mbit");
                let shape = ["tbf", "rate", &rate, "burst", "256kb", "latency", "100ms"];
                let argv: Vec<&str> =
                    ["tc", "qdisc", "replace", "dev", "eth0", "root"].into_iter().chain(shape).collect();
                self.node.run(&argv).map(drop)
            }
            // Absent is fine: that is what was wanted.
            None => self.run(&["tc", "qdisc", "del", "dev", "eth0", "root"]).map(drop),
        }
    }

    fn lab(&self) -> Result<std::sync::Arc<Inner>> {
        self.lab.upgrade().ok_or_else(|| Error::Unfit("the lab is over".into()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.libvirtd.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a host's things go.
pub(crate) struct Places<'a> {
    /// Its own directory, below /run.
    pub(crate) dir: &'a Path,
    /// The lab's log directory.
    pub(crate) log: &'a Path,
    /// The /etc/hosts of all hosts.
    pub(crate) hosts_file: &'a str,
    /// Who signs its certificates, if it is to have any.
    pub(crate) authority: Option<&'a Authority>,
}

/// The address of the host with this number, counted from 1.
pub(crate) fn migration_address(site: usize, number: usize) -> Ipv4Addr {
    let byte = |value: usize| u8::try_from(value).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, 77, byte(site), byte(number))
}

/// The same on `mig0`.
pub(crate) fn apart_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 79, 0, u8::try_from(number).unwrap_or(u8::MAX))
}
