//! What is installed on a host, read. Judges nothing.

use super::conf::{QEMU_CONF, QemuConf, RemoteConf, below};
use super::{
    Content, Expected, File, Finding, Kind, LibvirtFiles, Meta, Name, Owner, Pair, Set, Severity, User,
    inspect,
};
use crate::config::Config;
use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// No certificate is nearly as long.
const MAX_BYTES: u64 = 1 << 20;
/// As whom distributions let libvirt run QEMU.
const QEMU_USERS: [&str; 2] = ["libvirt-qemu", "qemu"];

/// A host's files, or a tree that becomes one, below `root`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    root: PathBuf,
    pub conf: QemuConf,
    /// Why qemu.conf could not be read, where it is there.
    pub conf_unread: Option<String>,
    /// Where QEMU looks, as QEMU sees it.
    pub qemu_dir: PathBuf,
    pub qemu_user: Option<User>,
    /// Its addresses on the migration network. The kernel is asked elsewhere for them.
    pub migration: Vec<IpAddr>,
}

impl Host {
    /// The host whose files are below `root`: `/` for this one.
    pub fn read(root: &Path) -> Self {
        let (conf, conf_unread) = QemuConf::read(root);
        let qemu_dir = conf.dir(root);
        let table = |path: &str| fs::read_to_string(below(root, path)).unwrap_or_default();
        let qemu_user = qemu_user(&conf, &table("/etc/passwd"), &table("/etc/group"));
        Self { root: root.to_owned(), conf, conf_unread, qemu_dir, qemu_user, migration: Vec::new() }
    }

    /// Where a path of that host is here.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        below(&self.root, path)
    }

    /// What QEMU reads.
    pub fn qemu(&self) -> Set {
        self.set(Owner::Qemu, &self.qemu_dir)
    }

    /// What libvirt's control connection reads.
    pub fn libvirt(&self) -> Set {
        let pki = Path::new("/etc/pki");
        let libvirt = pki.join("libvirt");
        let file = |path: PathBuf| self.file(&path);
        let pair = |name: &str| Pair {
            cert: file(libvirt.join(format!("{name}cert.pem"))),
            key: file(libvirt.join(format!("private/{name}key.pem"))),
        };
        Set {
            owner: Owner::Libvirt,
            ca: file(pki.join("CA/cacert.pem")),
            server: pair("server"),
            client: pair("client"),
            dh_params: None,
        }
    }

    /// What libvirt's daemons are told to read instead.
    pub fn libvirt_elsewhere(&self) -> Vec<RemoteConf> {
        let usual = self.libvirt();
        let read = |file: &str| fs::read_to_string(self.path(file)).unwrap_or_default();
        let mut all = RemoteConf::all(read);
        all.retain(|c| {
            let is_else =
                |named: &Option<PathBuf>, usual: &File| named.as_ref().is_some_and(|n| *n != usual.path);
            is_else(&c.ca, &usual.ca)
                || is_else(&c.cert, &usual.server.cert)
                || is_else(&c.key, &usual.server.key)
        });
        all
    }

    /// All that libvirt may trust or show.
    pub fn libvirt_files(&self) -> LibvirtFiles {
        let usual = self.libvirt();
        let mut all = LibvirtFiles {
            authorities: vec![usual.ca],
            servers: vec![usual.server.cert],
            clients: vec![usual.client.cert],
        };
        for named in self.libvirt_elsewhere() {
            all.authorities.extend(named.ca.map(|path| self.file(&path)));
            all.servers.extend(named.cert.map(|path| self.file(&path)));
        }
        all
    }

    fn set(&self, owner: Owner, dir: &Path) -> Set {
        let pair = |name: &str| Pair {
            cert: self.file(&dir.join(format!("{name}-cert.pem"))),
            key: self.file(&dir.join(format!("{name}-key.pem"))),
        };
        Set {
            owner,
            ca: self.file(&dir.join("ca-cert.pem")),
            server: pair("server"),
            client: pair("client"),
            dh_params: (owner == Owner::Qemu).then(|| self.file(&dir.join("dh-params.pem"))),
        }
    }

    /// As it is here, below the root.
    fn file(&self, path: &Path) -> File {
        let mut dirs: Vec<&Path> = path.ancestors().skip(1).collect();
        dirs.reverse();
        // Who makes an image stands for its root.
        let maker = (!self.is_running()).then(|| rustix::process::geteuid().as_raw());
        let meta =
            |path: &Path| meta(path).map(|m| Meta { uid: if Some(m.uid) == maker { 0 } else { m.uid }, ..m });
        let above = dirs.iter().filter_map(|dir| meta(&self.path(dir))).collect();
        let here = self.path(path);
        File { meta: meta(&here), content: content(&here), path: path.to_owned(), above }
    }

    /// What the certificates here are held against.
    pub fn expected(&self, config: Option<&Config>) -> Expected {
        let must = self.conf.migration_name();
        // An unreadable qemu.conf may set it.
        let usual = if must.is_none() && self.conf_unread.is_none() { self.own_name() } else { None };
        let mut names = self.names(config);
        if self.is_running() {
            let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
            let all = addresses(&read("/proc/net/fib_trie"), &read("/proc/net/if_inet6"));
            names.extend(all.into_iter().map(Name::Ip));
        }
        Expected { names, must, migration: self.migration.clone(), usual, qemu: self.qemu_user.clone() }
    }

    fn own_name(&self) -> Option<Name> {
        let name = if self.is_running() {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        } else {
            fs::read_to_string(self.path("/etc/hostname")).ok()?
        };
        Name::parse(name.trim()).filter(|n| *n != Name::Dns("localhost".into()))
    }

    /// It is this one.
    fn is_running(&self) -> bool {
        self.root == Path::new("/")
    }

    /// What others may call this host by, as far as its configuration says: its name, and what it is told to be. Not all
    /// its addresses: some, of bridges for VMs, are the same on many hosts, and no certificate should hold those.
    pub fn names(&self, config: Option<&Config>) -> Vec<Name> {
        let mut names: Vec<Name> = self.conf.migration_name().into_iter().chain(self.own_name()).collect();
        names.extend(self.migration.iter().copied().map(Name::Ip));
        if let Some(config) = config {
            names.extend(config.me.address.map(Name::Ip));
            let listens = config.link.listen.map(|l| l.ip()).filter(|ip| !ip.is_unspecified());
            names.extend(listens.map(Name::Ip));
        }
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|n| seen.insert(n.clone()));
        names
    }

    /// The broker is told of another directory than QEMU is.
    pub fn other_directory(&self, config: &Config) -> Option<Finding> {
        let named = config.encryption.certificates.as_ref().filter(|dir| **dir != self.qemu_dir)?;
        let (named, qemu) = (named.display(), self.qemu_dir.display());
        Some(Finding::new(
            Severity::Warn,
            Kind::OtherDirectory,
            Path::new(QEMU_CONF),
            format!(
                "QEMU looks in {qemu}, and [encryption] certificates of broker.toml is {named}: the other hosts are told of certificates that QEMU does not use"
            ),
            "take [encryption] certificates out of broker.toml, then comsctl reload",
        ))
    }

    /// All that is to be said of what is installed: QEMU's files, libvirt's, and what its configuration makes of them.
    pub fn inspect(&self, config: Option<&Config>, now_unix_s: i64) -> Vec<Finding> {
        let expected = self.expected(config);
        let mut found = inspect(&self.qemu(), &expected, now_unix_s);
        let libvirt = self.libvirt();
        let by_tls = config.and_then(|c| c.peers.iter().find(|p| p.is_reached_by_tls()));
        match by_tls.filter(|_| libvirt.is_absent()) {
            Some(peer) => found.push(Finding::new(
                Severity::Fail,
                Kind::NothingInstalled,
                &libvirt.ca.path,
                format!("libvirt has no certificates here, and {} is reached by TLS", peer.name),
                "comsctl tls issue HOST where the authority is, comsctl tls install here",
            )),
            None => {
                found.extend(inspect(&libvirt, &expected.of_libvirt(), now_unix_s));
            }
        }
        found.extend(config.and_then(|c| self.other_directory(c)));
        for other in self.libvirt_elsewhere() {
            let detail = "names other files for libvirt's own connections, and those are not judged here";
            let remedy = "take ca_file, cert_file and key_file out of it, and comsctl tls install; or see to them yourself";
            found.push(Finding::new(Severity::Hint, Kind::Setting, &other.file, detail, remedy));
        }
        let conf = Path::new(QEMU_CONF);
        match &self.conf_unread {
            None => found.extend(self.conf.inspect(conf, &self.qemu_dir)),
            Some(why) => found.push(Finding::new(
                Severity::Warn,
                Kind::Unreadable,
                conf,
                format!("cannot be read: {why}; it may name other directories and another user"),
                "as root: sudo comsctl tls check",
            )),
        }
        if self.qemu_user.is_none() && !self.qemu().is_absent() {
            let detail = "as whom QEMU runs is not known here, so whether it can read its keys is not either";
            let remedy = "name the user in qemu.conf (user = \"…\"), as /etc/passwd lists it";
            found.push(Finding::new(Severity::Warn, Kind::UserUnknown, conf, detail, remedy));
        }
        found
    }
}

/// Where the broker looks for QEMU's certificates: what the operator named, else where QEMU here does. None where QEMU
/// asks nobody for one, or where that cannot be known: a move to here would be encrypted, and not known to come from a host.
pub fn directory(root: &Path, named: Option<&Path>) -> Option<PathBuf> {
    let (conf, unread) = QemuConf::read(root);
    (unread.is_none() && conf.verifies()).then(|| named.map_or_else(|| conf.dir(root), Path::to_owned))
}

/// What was made for a host, in one directory.
pub fn bundle(dir: &Path) -> Set {
    let host = Host {
        root: "/".into(),
        conf: QemuConf::default(),
        conf_unread: None,
        qemu_dir: dir.to_owned(),
        qemu_user: None,
        migration: Vec::new(),
    };
    host.set(Owner::Bundle, dir)
}

fn meta(path: &Path) -> Option<Meta> {
    let m = fs::metadata(path).ok()?;
    Some(Meta { uid: m.uid(), gid: m.gid(), mode: m.mode() & 0o7777 })
}

fn content(path: &Path) -> Content {
    let read = || {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    match read() {
        Ok(bytes) => Content::Bytes(bytes),
        Err(e) if e.kind() == ErrorKind::NotFound => Content::Missing,
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Content::Denied(e.to_string()),
        Err(e) => Content::Unreadable(e.to_string()),
    }
}

/// As whom QEMU runs, by qemu.conf and the tables of users and groups. libvirt takes `+7` and `7` for numbers.
fn qemu_user(conf: &QemuConf, passwd: &str, group: &str) -> Option<User> {
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = passwd.lines().map(fields).filter(|f| f.len() >= 4).collect();
    let row = |name: &str| rows.iter().find(|f| f[0] == name);
    let number = |name: &str| name.strip_prefix('+').unwrap_or(name).parse::<u32>().ok();
    let (name, uid, primary) = match conf.user.as_deref() {
        Some(name) => match row(name) {
            Some(f) => (f[0].clone(), f[2].parse().ok()?, f[3].parse().ok()),
            None => (name.to_owned(), number(name)?, None),
        },
        None => {
            let f = QEMU_USERS.iter().find_map(|name| row(name))?;
            (f[0].clone(), f[2].parse().ok()?, f[3].parse().ok())
        }
    };
    let groups: Vec<Vec<String>> = group.lines().map(fields).filter(|f| f.len() >= 4).collect();
    let by_name = |name: &str| groups.iter().find(|f| f[0] == name).and_then(|f| f[2].parse().ok());
    let configured = conf.group.as_deref().and_then(|g| by_name(g).or_else(|| number(g)));
    let member =
        groups.iter().filter(|f| f[3].split(',').any(|m| m == name)).filter_map(|f| f[2].parse().ok());
    Some(User { uid, gids: configured.or(primary).into_iter().chain(member).collect(), name })
}

/// This host's addresses that others can reach, by the kernel's tables of local routes and of IPv6 addresses.
fn addresses(fib_trie: &str, if_inet6: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let mut last = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(last.filter(|ip| !ip.is_loopback()).map(IpAddr::V4));
        }
    }
    for line in if_inet6.lines() {
        let bits = line.split(' ').next().and_then(|hex| u128::from_str_radix(hex, 16).ok());
        let reachable = |ip: &Ipv6Addr| !ip.is_loopback() && !ip.is_unicast_link_local();
        found.extend(bits.map(Ipv6Addr::from).filter(reachable).map(IpAddr::V6));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nlibvirt-qemu:x:64055:106:QEMU:/var/lib/libvirt:/bin/false\nvm:x:70:71::/:/x\n";
    const GROUP: &str = "root:x:0:\nkvm:x:106:alice\ndisk:x:6:libvirt-qemu\n";

    #[test]
    fn addresses_are_read_without_loopback_and_link_local_ones() {
        let trie = "Local:\n  +-- 0.0.0.0/0 2 0 2\n     |-- 10.1.0.1\n        /32 host LOCAL\n     |-- 10.1.0.255\n        \
                    /32 link BROADCAST\n           |-- 127.0.0.1\n              /32 host LOCAL\n";
        let v6 = "00000000000000000000000000000001 01 80 10 80       lo\nfd000000000000000000000000000002 02 40 00 80 eth0\n\
                  fe800000000000000000000000000001 02 40 20 80     eth0\nnonsense\n";
        let all: Vec<IpAddr> = ["10.1.0.1", "fd00::2"].map(|a| a.parse().unwrap()).into();
        assert_eq!(addresses(trie, v6), all);
    }

    #[test]
    fn qemus_user_is_the_configured_one_or_the_distributions() {
        for (conf, uid, gids) in [
            ("", 64055, vec![106, 6]),
            ("user = \"root\"\ngroup = \"root\"", 0, vec![0]),
            ("user = \"+70\"\ngroup = \"+9\"", 70, vec![9]),
            ("user = \"vm\"", 70, vec![71]),
            ("group = \"root\"", 64055, vec![0, 6]),
        ] {
            let user = qemu_user(&QemuConf::parse(conf), PASSWD, GROUP).unwrap();
            assert_eq!((user.uid, user.gids), (uid, gids), "{conf}");
        }
        assert_eq!(qemu_user(&QemuConf::parse("user = \"nobody-here\""), PASSWD, GROUP), None);
        assert_eq!(qemu_user(&QemuConf::default(), "root:x:0:0::/:/x", ""), None);
    }
}
