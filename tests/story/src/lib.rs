//! The whole product on the lab: brokers on real hosts, the agent in real guests, and short words for what
//! the tests and the demo do with them.

pub mod database;
pub mod demo;
pub mod disks;
pub mod faults;
mod first;
pub mod geo;
pub mod isolated;
mod measured;
pub mod secrecy;
mod told;

use coms_lab::{
    AgentBinaries, AgentConfig, Guest, GuestConfig, Host, HostConfig, Lab, LabConfig, Process, Signal, System,
};
pub use first::{FIRST, first_programs, first_sources};
pub use measured::measured;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
pub use told::check_nothing_of_the_host_was_told;

pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Hosts are called so everywhere: long enough that finding one in a guest's bytes is no accident.
pub const HOSTS: [&str; 3] = ["hostalfa", "hostbeta", "hostgama"];
pub const REGIONS: [&str; 3] = ["north", "south", "west"];
/// No guest hears of these either.
pub const SITES: [&str; 2] = ["halfhill", "fullford"];
/// Where brokers measure the way between sites.
const LINK_PORT: u16 = 7466;

/// Where a broker with stop points looks for the moment at which to stop, and where an agent does.
pub const BROKER_STOPS_AT: &str = "/run/coms/stop-at";
pub const AGENT_STOPS_AT: &str = "/run/coms-stop-at";

/// The host's programs, built once.
pub struct Programs {
    pub broker: PathBuf,
    pub comsctl: PathBuf,
    pub guest: AgentBinaries,
}

/// Builds what the lab runs; quick when nothing has changed.
pub fn programs() -> Result<&'static Programs> {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    if let Some(programs) = PROGRAMS.get() {
        return Ok(programs);
    }
    let target = coms_lab::workspace_root().join("target");
    let (broker, comsctl) = build_broker(&["--bins"], &target.join("labs"))?;
    let programs = Programs { broker, comsctl, guest: coms_lab::build_agent()? };
    Ok(PROGRAMS.get_or_init(|| programs))
}

/// The same programs, able to stop at a moment that a test names (the feature `faults`).
pub fn programs_with_stop_points() -> Result<&'static Programs> {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    if let Some(programs) = PROGRAMS.get() {
        return Ok(programs);
    }
    let kept = coms_lab::workspace_root().join("target/faults");
    let (broker, comsctl) = build_broker(&["--bins", "--features", "faults"], &kept)?;
    let programs = Programs { broker, comsctl, guest: coms_lab::build_agent_with_faults(&kept)? };
    Ok(PROGRAMS.get_or_init(|| programs))
}

/// `coms-broker` and `comsctl`, taken to a directory.
fn build_broker(what: &[&str], to: &Path) -> Result<(PathBuf, PathBuf)> {
    let _alone = coms_lab::building()?;
    let root = coms_lab::workspace_root();
    let target = root.join("target");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--release", "-p", "coms-broker"])
        .args(what)
        .arg("--target-dir")
        .arg(&target)
        .current_dir(&root)
        .stdin(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("cargo build -p coms-broker {} failed", what.join(" ")).into());
    }
    let keep = |name: &str| coms_lab::keep(&target.join("release").join(name), to);
    Ok((keep("coms-broker")?, keep("comsctl")?))
}

/// A lab with a broker on each host.
pub struct Stage {
    pub lab: Lab,
    /// In the hosts' order; None while stopped.
    brokers: Vec<Option<Process>>,
    settings: Settings,
}

/// What the operator configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[guests] enabled`
    pub enabled: String,
    /// Lines of `[limits]`.
    pub limits: String,
    /// Lines of `[notice]`.
    pub notice: String,
    /// Each host's CPU, and its link's rate.
    pub hosts: Vec<(usize, Option<u32>)>,
    /// Which of two sites each host is at; empty: all at one, and brokers know of no sites.
    pub sites: Vec<usize>,
    /// More tables, such as `[[regions]]` and `[network]`.
    pub places: String,
    /// More lines of `[link]`, where there are sites.
    pub link: String,
    /// Hosts have `mig0`, and their brokers use nothing else for migrations.
    pub migration_network: bool,
    /// Hosts have no CPU of their own: the test says who runs where.
    pub free_cpus: bool,
    /// A host of which only so much memory counts.
    pub memory_mib: Option<(&'static str, u64)>,
    /// More lines of `[encryption]`. Hosts have certificates then, reach each other's libvirt by TLS, and have the
    /// broker's hook.
    pub encryption: Option<String>,
    /// Run programs that can be stopped between two steps.
    pub stop_points: bool,
    /// Hosts whose broker and comsctl are still the first version's.
    pub first_version: Vec<usize>,
}

impl Settings {
    fn programs_of_host(&self, i: usize) -> Result<&'static Programs> {
        if self.first_version.contains(&i) { first_programs() } else { self.programs() }
    }

    fn programs(&self) -> Result<&'static Programs> {
        if self.stop_points { programs_with_stop_points() } else { programs() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: "[\"*\"]".into(),
            limits: "cooldown_s = 0\nrequests_per_minute = 600".into(),
            notice: String::new(),
            hosts: vec![(0, None), (1, None)],
            sites: Vec::new(),
            places: String::new(),
            link: String::new(),
            migration_network: false,
            free_cpus: false,
            memory_mib: None,
            encryption: None,
            stop_points: false,
            first_version: Vec::new(),
        }
    }
}

impl Stage {
    /// Hosts up, brokers running.
    pub fn up(settings: Settings) -> Result<Stage> {
        let programs = settings.programs()?;
        let sites = settings.sites.iter().copied().chain(std::iter::repeat(0));
        let hosts = settings.hosts.iter().zip(HOSTS).zip(sites).map(|(((cpu, rate), name), site)| {
            let host = HostConfig::new(name).site(site);
            let host = if settings.free_cpus { host } else { host.cpu(*cpu) };
            let host = if settings.migration_network { host.migration_network() } else { host };
            rate.map_or(host.clone(), |r| host.rate_mbit(r))
        });
        let lab = Lab::new(LabConfig {
            hosts: hosts.collect(),
            tls: settings.encryption.is_some(),
            agent: Some(programs.guest.agent.clone()),
            cli: Some(programs.guest.cli.clone()),
            ..LabConfig::default()
        })?;
        let brokers = settings.hosts.iter().map(|_| None).collect();
        let mut stage = Stage { lab, brokers, settings };
        if stage.settings.encryption.is_some() {
            stage.give_hooks()?;
        }
        for i in 0..stage.brokers.len() {
            if stage.settings.migration_network {
                isolated::prepare(stage.host(i))?;
            }
            stage.start_broker(i)?;
        }
        stage.wait_for_load()?;
        Ok(stage)
    }

    /// libvirt's hook as the package brings it, which libvirt looks for when it starts.
    fn give_hooks(&self) -> Result<()> {
        let file = coms_lab::workspace_root().join("packaging/libvirt/hook");
        let program = self.comsctl_program()?.display().to_string();
        let hook = std::fs::read_to_string(file)?.replace("/usr/bin/comsctl", &program);
        for i in 0..self.brokers.len() {
            let host = self.host(i);
            host.write_program("/etc/libvirt/hooks/qemu.d/coms-broker", &hook)?;
            host.stop_libvirtd(Signal::TERM)?;
            host.start_libvirtd()?;
        }
        Ok(())
    }

    pub fn host(&self, i: usize) -> &Host {
        self.lab.host(HOSTS[i])
    }

    /// `/etc/coms/broker.toml` of one host.
    fn broker_toml(&self, me: usize) -> String {
        let mut toml = format!(
            "[host]\nname = \"{}\"\nregion = \"{}\"\ncpus = 1\n{}{}\n[guests]\nenabled = {}\n\n[aliases]\nkey_file = \
             \"/etc/coms/alias.key\"\n\n[debug]\nrecord_links = \"/var/lib/coms/links\"\n\n[limits]\n{}\n",
            HOSTS[me],
            REGIONS[me],
            self.site_lines(me, false),
            if self.settings.migration_network { "migration_interface = \"mig0\"\n" } else { "" },
            self.settings.enabled,
            self.settings.limits
        );
        // While hosts are upgraded: the first version leaves no sign of life.
        let first = &self.settings.first_version;
        if !first.is_empty() && !first.contains(&me) {
            toml.push_str("require_broker = false\n");
        }
        if !self.settings.sites.is_empty() {
            let listen = format!("{}:{LINK_PORT}", self.host(me).ip());
            toml.push_str(&format!("\n[link]\nlisten = \"{listen}\"\n{}\n", self.settings.link));
        }
        toml.push_str(&format!("\n{}\n", self.settings.places));
        if let Some(more) = &self.settings.encryption {
            // Where the certificates are, the broker reads in the host's qemu.conf.
            toml.push_str(&format!("\n[encryption]\n{more}\n"));
        }
        if !self.settings.notice.is_empty() {
            toml.push_str(&format!("\n[notice]\n{}\n", self.settings.notice));
        }
        for i in (0..self.brokers.len()).filter(|i| *i != me) {
            toml.push_str(&format!(
                "\n[[hosts]]\nname = \"{}\"\nregion = \"{}\"\nlibvirt = \"{}\"\ncpus = 1\n",
                HOSTS[i],
                REGIONS[i],
                match self.settings.encryption {
                    Some(_) => self.host(i).libvirt_uri_tls(),
                    None => self.host(i).libvirt_uri_remote(),
                }
            ));
            toml.push_str(&self.site_lines(i, true));
            if self.settings.migration_network {
                toml.push_str(&format!("migrate_uri = \"tcp://{}\"\n", self.host(i).migration_ip()));
            }
            if let Some((_, mib)) = self.settings.memory_mib.filter(|(name, _)| *name == HOSTS[i]) {
                toml.push_str(&format!("memory_mib = {mib}\n"));
            }
        }
        toml
    }

    /// What is said of a host's place, where there are sites.
    fn site_lines(&self, i: usize, with_link: bool) -> String {
        let Some(site) = self.settings.sites.get(i) else { return String::new() };
        let ip = self.host(i).ip();
        let link = if with_link { format!("link = \"{ip}:{LINK_PORT}\"\n") } else { String::new() };
        format!("site = \"{}\"\naddress = \"{ip}\"\n{link}", SITES[*site])
    }

    pub fn start_broker(&mut self, i: usize) -> Result<()> {
        let host = self.host(i);
        host.write_file("/etc/coms/alias.key", "the pool's secret")?;
        std::fs::set_permissions(
            host.path_of("/etc/coms/alias.key"),
            std::fs::Permissions::from_mode(0o600),
        )?;
        host.write_file("/etc/coms/broker.toml", self.broker_toml(i))?;
        let process = host.spawn(
            &self.settings.programs_of_host(i)?.broker,
            &[],
            &[("COMS_LOG", "info,coms_broker=debug"), ("COMS_TEST_STOP_AT", BROKER_STOPS_AT)],
            "coms-broker.log",
        )?;
        self.brokers[i] = Some(process);
        let socket = self.host(i).path_of("/run/coms/broker.sock");
        self.wait(&format!("the broker of {}", HOSTS[i]), 30, || {
            Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok())
        })
    }

    /// The broker of a host, if it was started and not stopped.
    pub fn broker(&mut self, i: usize) -> Option<&mut Process> {
        self.brokers[i].as_mut()
    }

    pub fn stop_broker(&mut self, i: usize, signal: Signal) -> Result<()> {
        if let Some(process) = self.brokers[i].take() {
            process.stop(signal)?;
        }
        Ok(())
    }

    pub fn has_broker(&self, i: usize) -> bool {
        self.brokers[i].is_some()
    }

    /// It has ended by itself.
    pub fn forget_broker(&mut self, i: usize) {
        self.brokers[i] = None;
    }

    pub fn comsctl_program(&self) -> Result<&'static PathBuf> {
        Ok(&self.settings.programs()?.comsctl)
    }

    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Settings)) -> Result<()> {
        change(&mut self.settings);
        for i in 0..self.brokers.len() {
            self.stop_broker(i, Signal::TERM)?;
            self.start_broker(i)?;
        }
        self.wait_for_load()
    }

    /// Every broker has seen every host for long enough to judge it.
    pub fn wait_for_load(&self) -> Result<()> {
        for i in 0..self.brokers.len() {
            // The first version knew no signs of life, and leaves none.
            let tells_no_brokers = !self.settings.first_version.is_empty();
            // After a long cut TCP itself takes its time.
            self.wait("each broker to know each host's load", 90, || {
                let hosts = self.comsctl(i, &["hosts"])?;
                let known = |h: &Value| {
                    let broker = h["this_host"] == true || !h["broker"].is_null() || tells_no_brokers;
                    h["answers"] == true && !h["load_per_cpu"].is_null() && broker
                };
                Ok(hosts.as_array().is_some_and(|h| h.iter().all(known)))
            })?;
        }
        Ok(())
    }

    /// Runs `comsctl --json` on a host; its output, or what it complained of.
    pub fn comsctl(&self, i: usize, args: &[&str]) -> Result<Value> {
        let (status, out, err) = self.comsctl_raw(i, args)?;
        if status != 0 && out.is_empty() {
            return Err(format!("comsctl {args:?} on {}: exit {status}: {err}", HOSTS[i]).into());
        }
        Ok(serde_json::from_str(&out)?)
    }

    pub fn comsctl_raw(&self, i: usize, args: &[&str]) -> Result<(i32, String, String)> {
        let program = self.settings.programs_of_host(i)?.comsctl.display().to_string();
        let argv: Vec<&str> = [program.as_str(), "--json"].into_iter().chain(args.iter().copied()).collect();
        let out = self.host(i).run(&argv)?;
        Ok((
            out.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&out.stdout).into_owned(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        ))
    }

    /// One move as a host's broker remembers it.
    pub fn record(&self, i: usize, migration: &str) -> Result<Value> {
        let all = self.comsctl(i, &["migrations", migration])?;
        all.get(0).cloned().ok_or_else(|| format!("{} does not know {migration}", HOSTS[i]).into())
    }

    /// A guest with the agent.
    pub fn boot(&self, i: usize, config: GuestConfig, agent_toml: &str) -> Result<Guest> {
        let env = [("COMS_TEST_STOP_AT".to_owned(), AGENT_STOPS_AT.to_owned())].into();
        let agent = Some(AgentConfig { toml: Some(agent_toml.into()), env, ..AgentConfig::default() });
        // systemd starts everything at once.
        let seconds = match config.system {
            System::Busybox => 20,
            System::Debian | System::DebianServices => 120,
        };
        let guest = self.lab.boot(GuestConfig { agent, ..config }, HOSTS[i])?;
        self.wait_for_agent_within(&guest, seconds)?;
        Ok(guest)
    }

    pub fn wait_for_agent(&self, guest: &Guest) -> Result<()> {
        self.wait_for_agent_within(guest, 60)
    }

    fn wait_for_agent_within(&self, guest: &Guest, seconds: u64) -> Result<()> {
        let mut last = Value::Null;
        self.wait(&format!("the agent of {} to be connected", guest.name()), seconds, || {
            last = coms(guest, &["status"])?;
            Ok(last["connected"] == true)
        })
        .map_err(|e| {
            let log = guest
                .sh("cat /var/log/coms-agent.stderr || { systemctl list-jobs; systemctl status coms-agent; \
                     journalctl -b -n 60; }")
                .unwrap_or_else(|e| e.to_string());
            format!("{e}\nstatus {last}\n--- agent of {}\n{log}", guest.name()).into()
        })
    }

    pub fn wait(&self, what: &str, seconds: u64, done: impl FnMut() -> Result<bool>) -> Result<()> {
        wait(what, seconds, done).map_err(|e| format!("{e}\n{}", self.logs()).into())
    }

    /// The ends of the brokers' logs, for a failure's message.
    pub fn logs(&self) -> String {
        let tail = |i: &usize| {
            let text =
                std::fs::read_to_string(self.host(*i).log_dir().join("coms-broker.log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- broker of {}\n{}\n", HOSTS[*i], lines[lines.len().saturating_sub(25)..].join("\n"))
        };
        (0..self.brokers.len()).collect::<Vec<_>>().iter().map(tail).collect()
    }

    /// Ends well: nothing about hosts was told to guests, and the lab's logs may go.
    pub fn finish(self, guests: &[&Guest]) -> Result<()> {
        check_nothing_of_the_host_was_told(&self, guests.len())?;
        let Stage { lab, brokers, .. } = self;
        for broker in brokers.into_iter().flatten() {
            broker.stop(Signal::TERM)?;
        }
        Ok(lab.finish()?)
    }
}

/// Runs `coms --json` in the guest.
pub fn coms(guest: &Guest, args: &[&str]) -> Result<Value> {
    coms_within(guest, args, Duration::from_secs(60)).and_then(|(status, value)| {
        if status == 0 { Ok(value) } else { Err(format!("coms {args:?}: exit {status}: {value}").into()) }
    })
}

/// The same, with its exit status.
pub fn coms_within(guest: &Guest, args: &[&str], at_most: Duration) -> Result<(i32, Value)> {
    let argv: Vec<&str> = ["coms", "--json"].into_iter().chain(args.iter().copied()).collect();
    let out = guest.exec_with(&argv, "", at_most)?;
    let value =
        serde_json::from_str(&out.stdout).unwrap_or_else(|_| Value::String(out.stdout.clone() + &out.stderr));
    Ok((out.status, value))
}

/// The guest's event log.
pub fn events(guest: &Guest) -> Result<Vec<Value>> {
    let text = guest.sh("cat /var/log/coms/events.jsonl 2>/dev/null || true")?;
    Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
}

/// The events of one kind.
pub fn events_named(guest: &Guest, name: &str) -> Result<Vec<Value>> {
    Ok(events(guest)?.into_iter().filter(|e| e["event"] == name).collect())
}

pub fn wait(what: &str, seconds: u64, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    loop {
        let found = done();
        if matches!(found, Ok(true)) {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(seconds) {
            return Err(format!("waited {seconds} s for {what}: {found:?}").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The ticket in a guest's metadata on a host, if there is one.
pub fn ticket(stage: &Stage, i: usize, guest: &Guest) -> Result<Option<String>> {
    match stage.host(i).virsh(&["metadata", guest.name(), "--uri", "urn:coms:domain:1", "--live"]) {
        Ok(xml) => Ok(Some(xml).filter(|x| x.contains("ticket"))),
        Err(e) if e.to_string().contains("not found") || e.to_string().contains("metadata") => Ok(None),
        Err(e) => Err(e.into()),
    }
}
