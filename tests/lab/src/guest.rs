//! A guest: started on one host, reached over the LAN on whichever it is now.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    debian,
    domain_xml::{console_path, domain_xml, mac},
    error::{Doing as _, Error, Result},
    fabric::GATEWAY,
    guest_spec::{ECHO_PORT, EXEC_PORT, ExecReply, ExecRequest, HTTP_PORT, STREAM_PORT, Workload},
    host::Host,
    initramfs,
    lab::Inner,
    random::random_uuid,
    secret::Secret,
};

/// How long a guest may take to start, also on a machine that does much else.
const BOOT_TIME: Duration = Duration::from_secs(90);
const DEBIAN_BOOT_TIME: Duration = Duration::from_secs(300);
/// How long [`Guest::exec`] waits for a program.
const EXEC_TIME: Duration = Duration::from_secs(30);

/// What a guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum System {
    /// The lab's own program as PID 1, busybox, all in memory: starts in 3 s.
    #[default]
    Busybox,
    /// Debian with systemd and what `tests/setup.sh bench` puts beside it, from a disk that nobody writes to: 20 s.
    /// Its agent runs by the unit of `packaging/systemd`.
    Debian,
    /// The same with PostgreSQL, nginx, monitoring plugins and Python, as `make setup` makes it; both servers run.
    DebianServices,
}

/// What a guest should be like.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// Its name, unique in the lab: letters, digits, `-`.
    pub name: String,
    /// Its address, unique in the lab; 10.78.0.0/16 unless there is a reason.
    pub ip: Ipv4Addr,
    /// Where its packets to other networks go; [`crate::Lab::boot`] sets it in a lab of two sites.
    pub gateway: Option<Ipv4Addr>,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// Its memory.
    pub memory_mib: u32,
    /// Whether libvirt knows it by a definition that outlives it.
    pub persistent: bool,
    /// Whether it has the virtio-serial port of the agent.
    pub port: bool,
    /// Names of more virtio-serial ports. One called org.qemu.guest_agent.0 libvirt takes for itself.
    pub more_ports: Vec<String>,
    /// What it runs.
    pub system: System,
    /// A serial line of the agent's, for guests without that port.
    pub line: Option<Line>,
    /// How to run the agent, which [`crate::LabConfig::agent`] must name; `None`: it does not run.
    pub agent: Option<AgentConfig>,
    /// Work that it does all the time.
    pub workload: Option<Workload>,
    /// Threads that burn CPU from the start (later: [`Guest::start_hog`]).
    pub hog_threads: u32,
    /// More files for its root file system, such as plugins.
    pub files: Vec<GuestFile>,
    /// What its domain's `<metadata>` contains from the start.
    pub metadata_xml: String,
    /// More elements of its domain's `<devices>`: disks, a TPM.
    pub devices_xml: String,
}

impl Default for GuestConfig {
    /// A transient guest of one CPU and 256 MiB with the port, without agent and work.
    fn default() -> GuestConfig {
        GuestConfig {
            name: "vm1".into(),
            ip: Ipv4Addr::new(10, 78, 0, 1),
            gateway: None,
            vcpus: 1,
            memory_mib: 256,
            persistent: false,
            port: true,
            more_ports: Vec::new(),
            system: System::Busybox,
            line: None,
            agent: None,
            workload: None,
            hog_threads: 0,
            files: Vec::new(),
            metadata_xml: String::new(),
            devices_xml: String::new(),
        }
    }
}

/// A serial line between the agent and the host, known there by its alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The second ISA UART: /dev/ttyS1 (the first is the console).
    Isa,
    /// A virtio console: /dev/hvc0.
    Hvc,
}

/// How the guest runs its agent: started again 1 s after it ends, its outputs in
/// /var/log/coms-agent.stderr and on the console.
#[derive(Clone, Debug, Default)]
pub struct AgentConfig {
    /// /etc/coms/agent.toml; `None`: there is none.
    pub toml: Option<String>,
    /// Arguments. Under systemd they are the unit's own.
    pub args: Vec<String>,
    /// Environment, beside PATH. Under systemd it is the unit's own.
    pub env: BTreeMap<String, String>,
}

/// A file for a guest's root file system.
#[derive(Clone, Debug)]
pub struct GuestFile {
    /// Where, from the root.
    pub path: String,
    /// Its permissions, such as 0o755.
    pub mode: u32,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// How a program in a guest ended.
#[derive(Clone, Debug)]
pub struct ExecOutput {
    /// Its exit status; 128 + the signal's number if it was killed by one.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    command: String,
}

impl ExecOutput {
    /// Its standard output if it ended well, else an error that quotes it.
    pub fn success(self) -> Result<String> {
        if self.status == 0 {
            return Ok(self.stdout);
        }
        Err(Error::Command {
            command: self.command,
            status: format!("exit status {} in the guest", self.status),
            stderr: format!("{}{}", self.stderr, self.stdout),
        })
    }
}

/// A running guest; it ends with its lab, or by [`Guest::destroy`].
#[derive(Debug)]
pub struct Guest {
    lab: Arc<Inner>,
    config: GuestConfig,
    uuid: String,
}

impl Guest {
    pub(crate) fn boot(lab: Arc<Inner>, mut config: GuestConfig, host: &Host) -> Result<Guest> {
        if config.name.is_empty()
            || !config.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Err(Error::Unfit(format!("guest name {:?}: letters, digits and - only", config.name)));
        }
        if lab.fabric.has_two_sites() {
            config.gateway = Some(GATEWAY);
            lab.fabric.know_guest(config.ip, &mac(config.ip))?;
            lab.fabric.settle_guest(config.ip, host.site())?;
        }
        let initrd = lab.run_dir.join(format!("{}.cpio", config.name));
        match debian::dir(config.system) {
            None => initramfs::write_for_guest(&initrd, &initramfs::base_path(&lab.run_dir), &config)?,
            Some(dir) => debian::write_initrd(&initrd, &dir, &lab.programs, &config)?,
        }
        let uuid = random_uuid()?;
        let xml = lab.run_dir.join(format!("{}.xml", config.name));
        fs::write(&xml, domain_xml(&config, &uuid, &initrd))
            .doing(|| format!("writing {}", xml.display()))?;
        let xml = xml.display().to_string();
        if config.persistent {
            host.virsh(&["define", &xml])?;
            host.virsh(&["start", &config.name])?;
        } else {
            host.virsh(&["create", &xml])?;
        }
        let guest = Guest { lab, config, uuid };
        guest.wait_for_user_space(host)?;
        Ok(guest)
    }

    fn wait_for_user_space(&self, host: &Host) -> Result<()> {
        let start = Instant::now();
        let at_most = match self.config.system {
            System::Busybox => BOOT_TIME,
            System::Debian | System::DebianServices => DEBIAN_BOOT_TIME,
        };
        loop {
            let error = match self.try_exec(&["true"], "", Duration::from_millis(500), EXEC_TIME) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let running = self.is_running_on(host)?;
            let after = start.elapsed();
            if !running || after > at_most {
                let found = format!(
                    "{error}; {}; the end of its console:\n{}",
                    if running { "QEMU runs" } else { "QEMU has ended" },
                    tail(&self.console_text(), 2000)
                );
                let what = format!("user space of guest {} on {}", self.config.name, host.name());
                return Err(Error::Timeout { what, after, found });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its name, as libvirt and its own host name have it.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its domain's UUID, the same on every host.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Its address on the LAN.
    pub fn ip(&self) -> Ipv4Addr {
        self.config.ip
    }

    /// Where its workload serves its page.
    pub fn http_address(&self) -> SocketAddr {
        (self.config.ip, HTTP_PORT).into()
    }

    /// Where it sends without end over TCP.
    pub fn stream_address(&self) -> SocketAddr {
        (self.config.ip, STREAM_PORT).into()
    }

    /// Where it echoes UDP and TCP.
    pub fn echo_address(&self) -> SocketAddr {
        (self.config.ip, ECHO_PORT).into()
    }

    /// The host on which it runs (not: is being received), by asking every libvirtd.
    pub fn current_host(&self) -> Result<&Host> {
        for host in self.lab.hosts() {
            if host.libvirtd_pid().is_some() && self.is_running_on(host)? {
                return Ok(host);
            }
        }
        Err(Error::Unfit(format!("guest {} runs on no host with a running libvirtd", self.config.name)))
    }

    fn is_running_on(&self, host: &Host) -> Result<bool> {
        let running = host.virsh(&["list", "--uuid", "--state-running"])?;
        Ok(running.lines().any(|uuid| uuid.trim() == self.uuid))
    }

    /// Migrates it, live and peer to peer, with more flags for `virsh migrate` if wanted.
    pub fn migrate_to(&self, host: &str, more_flags: &[&str]) -> Result<()> {
        let destination = self.lab.host(host).libvirt_uri_remote();
        let mut args = vec!["migrate", "--live", "--p2p"];
        if self.config.persistent {
            args.extend(["--persistent", "--undefinesource"]);
        }
        args.extend(more_flags);
        args.extend([self.name(), &destination]);
        self.current_host()?.virsh(&args).map(drop)
    }

    /// Runs a program in it, at most 30 s long.
    pub fn exec(&self, argv: &[&str]) -> Result<ExecOutput> {
        self.exec_with(argv, "", EXEC_TIME)
    }

    /// Runs a shell command line in it and gives what it prints; it must succeed.
    pub fn sh(&self, line: &str) -> Result<String> {
        self.exec(&["sh", "-c", line])?.success()
    }

    /// Runs a program in it that reads `stdin`, and kills it after `at_most`.
    pub fn exec_with(&self, argv: &[&str], stdin: &str, at_most: Duration) -> Result<ExecOutput> {
        self.try_exec(argv, stdin, Duration::from_secs(10), at_most)
    }

    fn try_exec(
        &self,
        argv: &[&str],
        stdin: &str,
        connect: Duration,
        at_most: Duration,
    ) -> Result<ExecOutput> {
        let command = argv.join(" ");
        let request = ExecRequest {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            stdin: stdin.to_owned(),
            timeout_ms: u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX),
        };
        let doing = || format!("running `{command}` in guest {}", self.config.name);
        let mut line = serde_json::to_string(&request).doing(doing)?;
        line.push('\n');
        let mut stream = self.lab.control()?.connect((self.config.ip, EXEC_PORT).into(), connect)?;
        // The guest keeps the time; this is for a guest that has gone away.
        stream.set_read_timeout(Some(at_most + Duration::from_secs(15))).doing(doing)?;
        stream.write_all(line.as_bytes()).doing(doing)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).doing(doing)?;
        let reply: ExecReply = serde_json::from_str(&answer).doing(doing)?;
        match reply.error {
            Some(error) => Err(Error::Unfit(format!("{}: {error}", doing()))),
            None => Ok(ExecOutput {
                status: reply.status,
                stdout: reply.stdout,
                stderr: reply.stderr,
                command: format!("{command} (in guest {})", self.config.name),
            }),
        }
    }

    /// Burns its CPU with so many threads, until [`Guest::stop_hog`].
    pub fn start_hog(&self, threads: u32) -> Result<()> {
        self.exec(&["coms-lab-guest", "hog", "start", &threads.to_string()])?.success().map(drop)
    }

    /// Ends what [`Guest::start_hog`] began.
    pub fn stop_hog(&self) -> Result<()> {
        self.exec(&["coms-lab-guest", "hog", "stop"])?.success().map(drop)
    }

    /// Rewrites `mib` of memory at `mib_s`, until [`Guest::stop_dirtying`].
    pub fn start_dirtying(&self, mib: u32, mib_s: u32) -> Result<()> {
        let words = ["coms-lab-guest", "dirty", "start", &mib.to_string(), &mib_s.to_string()];
        self.exec(&words)?.success().map(drop)
    }

    /// Ends what [`Guest::start_dirtying`] began.
    pub fn stop_dirtying(&self) -> Result<()> {
        self.exec(&["coms-lab-guest", "dirty", "stop"])?.success().map(drop)
    }

    /// Keeps `mib` of memory filled with a pattern that tells every lost page, rewritten at `mib_s`.
    pub fn start_pattern(&self, mib: u32, mib_s: u32) -> Result<()> {
        let words = ["coms-lab-guest", "pattern", "start", &mib.to_string(), &mib_s.to_string()];
        self.exec(&words)?.success().map(drop)
    }

    /// Checks every page of [`Guest::start_pattern`]; gives how often each has been rewritten since the start.
    pub fn verify_pattern(&self) -> Result<u64> {
        let words = ["coms-lab-guest", "pattern", "verify"];
        let told = self.exec_with(&words, "", Duration::from_secs(75))?.success()?;
        told.split(' ')
            .next()
            .and_then(|cycles| cycles.parse().ok())
            .ok_or_else(|| Error::Unfit(format!("the pattern of guest {} said {told:?}", self.config.name)))
    }

    /// Keeps `mib` of memory full of a secret, which is never written anew.
    pub fn hold_secret(&self, secret: &Secret, mib: u32) -> Result<()> {
        let words = ["coms-lab-guest", "secret", "start", &mib.to_string(), &secret.hex()];
        self.exec(&words)?.success().map(drop)
    }

    /// Fills the first `mib` of a disk or file with a secret, and waits until it is there for good.
    pub fn write_secret(&self, secret: &Secret, path: &str, mib: u32) -> Result<()> {
        let words = ["coms-lab-guest", "secret", "write", path, &mib.to_string(), &secret.hex()];
        self.exec(&words)?.success().map(drop)
    }

    /// Every QEMU process that holds this guest, running or not, on whichever host.
    pub fn qemu_pids(&self) -> Result<Vec<u32>> {
        let processes = fs::read_dir("/proc").doing(|| "reading /proc".into())?;
        let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        Ok(pids
            .filter(|pid| {
                // Gone in between is not there.
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let mut words = command.split(|byte| *byte == 0);
                words.next().is_some_and(|program| program.windows(4).any(|w| w == b"qemu"))
                    && words.any(|word| word == self.uuid.as_bytes())
            })
            .collect())
    }

    /// The console's log on each host, whether or not the guest has been there.
    pub fn console_logs(&self) -> Vec<PathBuf> {
        let path = console_path(&self.config.name);
        self.lab.hosts().iter().map(|host| host.path_of(&path)).collect()
    }

    /// What it said on its console, one host's part after the other's.
    pub fn console_text(&self) -> String {
        let texts = self.console_logs().into_iter().filter_map(|path| fs::read(path).ok());
        texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect()
    }

    /// Ends it at once.
    pub fn destroy(self) -> Result<()> {
        let host = self.current_host()?;
        host.virsh(&["destroy", self.name()])?;
        if self.config.persistent {
            host.virsh(&["undefine", self.name()])?;
        }
        Ok(())
    }
}

/// The last bytes of a text, cut between characters.
fn tail(text: &str, bytes: usize) -> &str {
    let start = text.ceil_char_boundary(text.len().saturating_sub(bytes));
    text.get(start..).unwrap_or(text)
}
