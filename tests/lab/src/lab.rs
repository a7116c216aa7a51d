//! One lab: its hosts, its wires, its clients, its end.

use std::{
    fmt, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use crate::{
    announcement,
    client::Client,
    cpuset::Cpuset,
    error::{Doing as _, Error, Result},
    fabric::{Access, Fabric},
    guardian::{Belonging, Guardian},
    guest::{Guest, GuestConfig},
    host::{Host, HostConfig, Places, migration_address},
    initramfs,
    random::random_id,
    requirements,
    tls::{self, Authority, Papers},
    wiretap::Wiretap,
};

/// Where labs live while they run. Short: socket paths must fit into 108 bytes.
const RUN_DIR: &str = "/run/coms-lab";
/// The lab's own client, from which it talks to guests.
const CONTROL_IP: Ipv4Addr = Ipv4Addr::new(10, 78, 255, 254);

/// What a lab should have.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// Its hosts, 1 to 200.
    pub hosts: Vec<HostConfig>,
    /// Whether hosts have certificates, so that `virsh migrate --tls` works.
    pub tls: bool,
    /// How long a packet takes from one site to the other, if hosts are at two.
    pub sites_apart: Duration,
    /// A static `coms-agent` for the guests (see [`crate::build_agent`]).
    pub agent: Option<PathBuf>,
    /// A static `coms` for the guests.
    pub cli: Option<PathBuf>,
}

impl Default for LabConfig {
    /// h1 on CPU 0 and h2 on CPU 1 at one site, no certificates, no agent.
    fn default() -> LabConfig {
        let hosts = vec![HostConfig::new("h1").cpu(0), HostConfig::new("h2").cpu(1)];
        LabConfig { hosts, tls: false, sites_apart: Duration::from_millis(20), agent: None, cli: None }
    }
}

/// A running lab. Everything of it is gone when it is dropped, or when its process dies.
///
/// Logs stay in [`Lab::dir`] unless [`Lab::finish`] says that all went well.
#[derive(Debug)]
pub struct Lab {
    inner: Arc<Inner>,
}

/// What is put into the guests.
pub(crate) struct Programs {
    pub(crate) guest: PathBuf,
    pub(crate) agent: Option<PathBuf>,
    pub(crate) cli: Option<PathBuf>,
}

/// What hosts, guests and clients share.
pub(crate) struct Inner {
    pub(crate) id: String,
    pub(crate) run_dir: PathBuf,
    log_dir: PathBuf,
    pub(crate) fabric: Fabric,
    pub(crate) programs: Programs,
    hosts: OnceLock<Vec<Host>>,
    control: OnceLock<Client>,
    guardian: Mutex<Option<Guardian>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab").field("id", &self.id).field("logs", &self.log_dir).finish_non_exhaustive()
    }
}

impl Lab {
    /// Brings up the hosts, each with a libvirtd that answers.
    pub fn new(config: LabConfig) -> Result<Lab> {
        requirements::check()?;
        check_names(&config)?;
        let guest_bin = crate::build_lab_guest()?;
        let mut guardian = Guardian::start()?;
        let (id, run_dir) = make_run_dir(&mut guardian)?;
        let log_dir = crate::workspace_root().join("target/lab").join(&id);
        fs::create_dir_all(&log_dir).doing(|| format!("making {}", log_dir.display()))?;

        let fabric = Fabric::new(if config.hosts.iter().any(|host| host.site != 0) { 2 } else { 1 })?;
        for holder in fabric.holder_pids() {
            guardian.entrust(Belonging::NetOf(holder))?;
        }
        let lab = Lab {
            inner: Arc::new(Inner {
                id,
                run_dir,
                log_dir,
                fabric,
                programs: Programs {
                    guest: guest_bin.clone(),
                    agent: config.agent.clone(),
                    cli: config.cli.clone(),
                },
                hosts: OnceLock::new(),
                control: OnceLock::new(),
                guardian: Mutex::new(Some(guardian)),
            }),
        };
        lab.inner.fabric.build(config.sites_apart)?;
        let inner = &lab.inner;
        let (hosts, image) = thread::scope(|scope| {
            let image = scope
                .spawn(|| initramfs::write_base(&initramfs::base_path(&inner.run_dir), &guest_bin, &config));
            let hosts = start_hosts(inner, &config);
            (hosts, image.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        image?;
        let _ = inner.hosts.set(hosts?);
        if inner.fabric.has_two_sites() {
            inner.hosts().iter().try_for_each(|host| announcement::follow(inner, host))?;
        }
        let _ = inner.control.set(inner.client("control", CONTROL_IP)?);
        Ok(lab)
    }

    /// Its name, part of the names of everything that it has outside of its namespaces.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Where its logs are: one directory per host, with libvirt's and QEMU's logs and the guests' consoles.
    pub fn dir(&self) -> &Path {
        &self.inner.log_dir
    }

    /// The host of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn host(&self, name: &str) -> &Host {
        self.inner.host(name)
    }

    /// All hosts, in the order of the configuration.
    pub fn hosts(&self) -> &[Host] {
        self.inner.hosts()
    }

    /// A new client on the guests' LAN (that of site 0), with any IPv4 address; with two sites, one of the guests' network.
    pub fn client(&self, name: &str, ip: Ipv4Addr) -> Result<Client> {
        self.inner.client(name, ip)
    }

    /// A new client behind a site's router that has every address of a network, and speaks as the second of it.
    /// `rate_mbit`: what its line brings it at most. Only with two sites.
    pub fn client_at(
        &self,
        site: usize,
        name: &str,
        net: (Ipv4Addr, u8),
        rate_mbit: Option<u32>,
    ) -> Result<Client> {
        let access = Access { site, net: net.0, prefix: net.1, rate_mbit };
        let ip = Ipv4Addr::from_bits(net.0.to_bits().saturating_add(1));
        let client = Client::new(name, ip, &self.inner.log_dir)?;
        self.inner.entrust(Belonging::NetOf(client.node().holder_pid()))?;
        self.inner.fabric.connect_network(client.node(), ip, &access)?;
        Ok(client)
    }

    /// Limits what the line between the two sites carries each way.
    pub fn set_line_rate_mbit(&self, rate_mbit: Option<u32>) -> Result<()> {
        self.inner.fabric.line().map(|line| line.set_rate_mbit(rate_mbit))
    }

    /// Changes how long a packet takes from one site to the other.
    pub fn set_sites_apart(&self, one_way: Duration) -> Result<()> {
        self.inner.fabric.line().map(|line| line.set_delay(one_way))
    }

    /// Cuts (`false`) or mends the line between the two sites: packets vanish, nobody is told.
    pub fn set_line(&self, up: bool) -> Result<()> {
        self.inner.fabric.line().map(|line| line.set_up(up))
    }

    /// Captures all that passes any interface of the hosts and of the wires between them, from now on, into
    /// `wiretap-NAME` in the lab's directory of logs.
    pub fn wiretap(&self, name: &str) -> Result<Wiretap> {
        let wires = self.inner.fabric.nodes().iter();
        let nodes = self.inner.hosts().iter().map(Host::node).chain(wires);
        Wiretap::start(self.inner.log_dir.join(format!("wiretap-{name}")), nodes)
    }

    /// Gives a host's QEMU other certificates, from its next migration on, or the right ones again. Those by which libvirt
    /// itself is reached stay.
    pub fn give_papers(&self, host: &str, papers: Papers) -> Result<()> {
        let host = self.host(host);
        let pki = host.path_of(crate::tls::DIR_INSIDE);
        tls::give(&self.inner.run_dir, &pki, host.name(), &[host.ip(), host.migration_ip()], papers)
    }

    /// Starts a guest on a host and waits until its user space answers.
    pub fn boot(&self, config: GuestConfig, host: &str) -> Result<Guest> {
        Guest::boot(Arc::clone(&self.inner), config, self.host(host))
    }

    /// Ends the lab after success: fails if anything of it is left, deletes its logs
    /// (unless `COMS_LAB_KEEP` is 1).
    pub fn finish(self) -> Result<()> {
        self.inner.clean()?;
        if std::env::var("COMS_LAB_KEEP").is_ok_and(|keep| keep == "1") {
            return Ok(());
        }
        let dir = &self.inner.log_dir;
        fs::remove_dir_all(dir).doing(|| format!("deleting {}", dir.display()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.inner.clean() {
            eprintln!("coms-lab {}: {error}", self.inner.id);
        }
        if self.inner.log_dir.exists() {
            eprintln!("coms-lab {}: logs are in {}", self.inner.id, self.inner.log_dir.display());
        }
    }
}

impl Inner {
    pub(crate) fn hosts(&self) -> &[Host] {
        self.hosts.get().map_or(&[], Vec::as_slice)
    }

    #[expect(clippy::panic, reason = "a wrong name is a mistake in the test, like an index out of bounds")]
    pub(crate) fn host(&self, name: &str) -> &Host {
        self.hosts().iter().find(|host| host.name() == name).unwrap_or_else(|| {
            let names: Vec<&str> = self.hosts().iter().map(Host::name).collect();
            panic!("this lab has no host {name}; it has {}", names.join(", "))
        })
    }

    pub(crate) fn control(&self) -> Result<&Client> {
        self.control.get().ok_or_else(|| Error::Unfit("the lab is not up yet".into()))
    }

    fn client(&self, name: &str, ip: Ipv4Addr) -> Result<Client> {
        let client = Client::new(name, ip, &self.log_dir)?;
        self.entrust(Belonging::NetOf(client.node().holder_pid()))?;
        self.fabric.connect_client(client.node(), ip)?;
        Ok(client)
    }

    fn entrust(&self, what: Belonging<'_>) -> Result<()> {
        match self.guardian.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(guardian) => guardian.entrust(what),
            None => Err(Error::Unfit("the lab is over".into())),
        }
    }

    /// Does nothing the second time.
    fn clean(&self) -> Result<()> {
        let guardian = self.guardian.lock().unwrap_or_else(PoisonError::into_inner).take();
        match guardian.map(Guardian::clean).transpose()? {
            Some(left) if !left.is_empty() => {
                Err(Error::Unfit(format!("not all of the lab {} could be removed: {}", self.id, left.trim())))
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn make_run_dir(guardian: &mut Guardian) -> Result<(String, PathBuf)> {
    // Another lab that ends may take the empty parent away between the two steps: try again.
    for _ in 0..20 {
        let id = random_id()?;
        let dir = Path::new(RUN_DIR).join(&id);
        let made = fs::create_dir_all(RUN_DIR).and_then(|()| fs::create_dir(&dir));
        match made {
            Ok(()) => {
                guardian.entrust(Belonging::Dir(&dir))?;
                return Ok((id, dir));
            }
            Err(error)
                if [std::io::ErrorKind::AlreadyExists, std::io::ErrorKind::NotFound]
                    .contains(&error.kind()) => {}
            Err(error) => return Err(error).doing(|| format!("making {}", dir.display())),
        }
    }
    Err(Error::Unfit(format!("could not make a directory of this lab's own in {RUN_DIR}")))
}

/// All hosts at once: most of the time is libvirtd finding out what QEMU can do.
fn start_hosts(inner: &Arc<Inner>, config: &LabConfig) -> Result<Vec<Host>> {
    let authority = config.tls.then(|| Authority::create(inner.run_dir.join(tls::AUTHORITY))).transpose()?;
    let authority = authority.as_ref();
    let configs = &config.hosts;
    let mut hosts_file = String::from("127.0.0.1 localhost\n");
    for (index, config) in configs.iter().enumerate() {
        hosts_file += &format!("{} {}\n", migration_address(config.site, index + 1), config.name);
    }
    let hosts_file = hosts_file.as_str();
    thread::scope(|scope| {
        let starts: Vec<_> = configs
            .iter()
            .enumerate()
            .map(|(index, config)| {
                scope.spawn(move || start_host(inner, config, index + 1, hosts_file, authority))
            })
            .collect();
        // Collected first: every thread must have ended before the first error is given back.
        let results: Vec<_> = starts
            .into_iter()
            .map(|start| start.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        results.into_iter().collect()
    })
}

fn start_host(
    inner: &Arc<Inner>,
    config: &HostConfig,
    number: usize,
    hosts_file: &str,
    authority: Option<&Authority>,
) -> Result<Host> {
    let name = format!("coms-lab-{}-{}", inner.id, config.name);
    let cpuset = config
        .cpu
        .filter(|_| std::env::var_os("COMS_LAB_FREE_CPUS").is_none())
        .map(|cpu| Cpuset::create(&name, cpu, |path| inner.entrust(Belonging::Cgroup(path))))
        .transpose()?;
    let dir = inner.run_dir.join(&config.name);
    let places = Places { dir: &dir, log: &inner.log_dir, hosts_file, authority };
    let host = Host::new(config, number, &Arc::downgrade(inner), places, cpuset)?;
    inner.entrust(Belonging::NetOf(host.node().holder_pid()))?;
    inner.fabric.connect_host(host.number(), host.site(), host.node(), host.ip())?;
    if config.migration_network {
        inner.fabric.connect_apart(host.number(), host.node(), host.migration_ip())?;
    }
    if config.rate_mbit.is_some() {
        host.set_rate_mbit(config.rate_mbit)?;
    }
    host.start_libvirtd()?;
    Ok(host)
}

fn check_names(config: &LabConfig) -> Result<()> {
    let fits = |name: &str| {
        (1..=8).contains(&name.len())
            && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    if let Some(host) = config.hosts.iter().find(|host| !fits(&host.name)) {
        return Err(Error::Unfit(format!("host name {:?}: 1 to 8 of a-z, 0-9 and -", host.name)));
    }
    if let Some(host) = config.hosts.iter().find(|host| host.site > 1) {
        return Err(Error::Unfit(format!("host {} at site {}: sites are 0 and 1", host.name, host.site)));
    }
    if !(1..=200).contains(&config.hosts.len()) {
        return Err(Error::Unfit(format!("{} hosts: a lab has 1 to 200", config.hosts.len())));
    }
    Ok(())
}
