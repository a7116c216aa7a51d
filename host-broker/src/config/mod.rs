//! `/etc/coms/broker.toml`: as typed (`raw`), and as checked ([`Config`]). Nothing else reads the former. What is
//! legal and still unwise is told by `unwise`.

mod check;
mod encryption;
mod isolated;
mod places;
mod raw;
mod unwise;

use coms_protocol::types::{Coordinates, Country, EncryptionLevel};
use raw::Typed;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

pub use unwise::Unwise;

/// What is wrong with the configuration, where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{file}: cannot be read: {source}; it should be a TOML file readable by the broker's user")]
    Read { file: PathBuf, source: std::io::Error },
    #[error("{file}: {source}")]
    Syntax { file: PathBuf, source: Box<toml::de::Error> },
    #[error("{file}: key `{key}`: {wrong}; {right}")]
    Value { file: PathBuf, key: String, wrong: String, right: String },
}

/// The configuration, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub me: Host,
    /// The other hosts, in the file's order.
    pub peers: Vec<Host>,
    pub enabled: Vec<GuestPattern>,
    pub limits: Limits,
    pub notices: Notices,
    pub random: RandomMoves,
    pub encryption: Encryption,
    /// The operator's regions, in the file's order.
    pub regions: Vec<Region>,
    pub distances: Vec<Distance>,
    pub link: Link,
    /// Memory and disks leave this host by this network interface, or not at all (docs/migration-network.md).
    pub migration_interface: Option<String>,
    /// What makes a VM reachable at another site. None: VMs stay at their site.
    pub network: Option<NetworkStep>,
    pub storage: Storage,
    /// Secret behind the aliases, the same file on all hosts of a pool.
    pub alias_key_file: Option<PathBuf>,
    pub socket: PathBuf,
    pub state: PathBuf,
    pub access: Access,
    /// Every byte sent to a guest is also appended to a file of its own in this directory. Grows without
    /// bound: to find out what a guest was told, not for every day.
    pub record_links: Option<PathBuf>,
}

/// Who may use the control socket, besides root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The group that may look: a name of /etc/group, or a number.
    pub status_group: String,
    /// The group that may also move VMs.
    pub change_group: String,
}

/// One host of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub region: String,
    /// libvirt URI, as this broker *and* this host's libvirtd reach it.
    pub libvirt: String,
    /// Where its QEMU listens for migrations, when that is another address.
    pub migrate_uri: Option<String>,
    /// At most this many CPUs count, whatever libvirt claims.
    pub cpus: Option<u32>,
    /// At most this much memory counts, whatever libvirt claims.
    pub memory_kib: Option<u64>,
    /// Hosts of one site share the VMs' network. Those without one are all at one site.
    pub site: Option<String>,
    /// Where the network between sites is stretched to.
    pub address: Option<IpAddr>,
    /// Where its broker answers other brokers; of this host it is [`Link::listen`].
    pub link: Option<SocketAddr>,
}

impl Host {
    /// The one address at which its QEMU is reached, if `migrate_uri` names it as an address.
    pub fn migration_address(&self) -> Option<IpAddr> {
        isolated::address_of(self.migrate_uri.as_deref()?)
    }

    /// libvirt reaches it by TLS, with the files in the places that are libvirt's own. TLS is also what it takes where a
    /// remote URI names no transport; with `pkipath` the files are elsewhere, named as the caller likes.
    pub fn is_reached_by_tls(&self) -> bool {
        let scheme = self.libvirt.split_once("://").map_or("", |(scheme, _)| scheme);
        (scheme.ends_with("+tls") || !scheme.contains('+')) && !self.libvirt.contains("pkipath=")
    }

    /// Of this host's end of a stretched network.
    pub fn tunnel(&self) -> Option<IpAddr> {
        self.address.or_else(|| self.link.map(|l| l.ip())).filter(|ip| !ip.is_unspecified())
    }
}

/// One of the operator's regions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    pub name: String,
    pub at: Option<Coordinates>,
    pub countries: Vec<Country>,
}

/// How far two regions are from each other, as the operator says. It holds both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distance {
    pub from: String,
    pub to: String,
    pub ms: u32,
}

/// What brokers ask each other directly, and what the way between two hosts must be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// None: this broker answers no other one.
    pub listen: Option<SocketAddr>,
    pub max_rtt_ms: u64,
    pub min_rate_mib_s: u64,
}

/// The operator's command that stretches a network between two sites (docs/network-step.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStep {
    pub command: Vec<String>,
    /// No other bridge of this host is ever stretched, whoever asks.
    pub bridges: Vec<String>,
    /// One host of a site at a time stretches a bridge.
    pub one_per_site: bool,
    pub timeout: Duration,
    /// A VM that is home for so long needs its network no more.
    pub release_after: Duration,
}

/// What becomes of VMs' disks (docs/storage.md).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storage {
    /// Directories in which all hosts see the same files.
    pub shared: Vec<String>,
    /// Directories whose images have the same content on all hosts: overlays of them may be copied alone.
    pub bases: Vec<String>,
    /// Disks that are on this host alone are copied. Else libvirt refuses their VMs, as it always has.
    pub copy: bool,
    /// Also without TLS, where whoever reaches the destination's port reads and writes the copy while it is made.
    pub copy_in_the_clear: bool,
    /// Once the VM runs at its destination, what was copied is removed here.
    pub remove_source: bool,
    /// Most that is copied for one VM.
    pub max_gib: Option<u64>,
}

impl Storage {
    /// What is copied goes by TLS, or not at all.
    pub fn copies_by_tls(&self) -> bool {
        self.copy && !self.copy_in_the_clear
    }
}

/// Which domains take part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestPattern {
    Uuid(Uuid),
    /// A name, with `*` for any run of characters.
    Name(String),
}

impl GuestPattern {
    pub fn matches(&self, uuid: Uuid, name: &str) -> bool {
        match self {
            GuestPattern::Uuid(u) => *u == uuid,
            GuestPattern::Name(pattern) => glob(pattern, name),
        }
    }
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices().map(|(i, _)| i).chain([rest.len()]).any(|i| glob(tail, &rest[i..]))
        }),
    }
}

/// Bounds that the operator sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Moves away from this host at the same time.
    pub simultaneous_moves: u32,
    /// Rest between two moves of one guest.
    pub cooldown: Duration,
    /// A migration that takes longer is aborted.
    pub max_total: Duration,
    /// Requests that one guest may make.
    pub requests_per_minute: u32,
    /// A slow guest moves only to a host whose load per CPU is lower by this much.
    pub min_load_gain: f64,
    pub bandwidth_mib_s: Option<u64>,
    pub max_downtime_ms: Option<u64>,
    pub auto_converge: bool,
    /// How long a ticket may yield an outcome.
    pub ticket_ttl: Duration,
    /// Only hosts whose broker has shown a sign of life lately are chosen.
    pub require_broker: bool,
    /// A guest that asks for relief is believed when its vCPUs, of the time in which they wanted to run, waited at
    /// least this share for a CPU of the host. 0: it is believed.
    pub min_vcpu_wait: f64,
    /// A guest that had an agent and says nothing for this long after its arrival is an alarm.
    pub hello: Duration,
}

/// What guests may want when they are told of a move before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notices {
    /// Longest notice that a guest gets because its applications want it.
    pub notice_max: Duration,
    /// A guest may hold a move that long beyond its notice.
    pub hold_max: Duration,
    /// A guest may postpone a move until that long after it was announced.
    pub postpone_max: Duration,
    pub veto: Vetoes,
}

/// Which moves a guest may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vetoes {
    /// Those that are made for it: its requests, its schedule, its random moves.
    Own,
    All,
    Never,
}

/// Moves at random times, for guests that ask for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RandomMoves {
    /// Hosts by name, this one mostly among them. Empty: not offered.
    pub pool: Vec<String>,
    /// Shortest gap that a guest may ask for, in seconds.
    pub least_gap_s: u32,
    /// Moves of one guest within 24 hours.
    pub max_per_day: u16,
}

/// How well moves must be encrypted, as the operator wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    /// Where QEMU's certificates for migrations are. None: where QEMU looks (`certificates/installed.rs`).
    pub certificates: Option<PathBuf>,
    /// For every move, at least.
    pub default: EncryptionLevel,
    /// Guests hear the fingerprint of the certificate that is installed where they arrive: the same for all that do.
    pub tell_certificate: bool,
    pub rules: Vec<EncryptionRule>,
}

impl Encryption {
    /// The operator wants some move encrypted. What owners want is not known here.
    pub fn wants_any(&self) -> bool {
        let levels = std::iter::once(self.default).chain(self.rules.iter().map(|r| r.level));
        levels.into_iter().any(|level| level != EncryptionLevel::Never)
    }
}

/// What holds for some moves, at least; with the level `never` they are not encrypted by TLS, and one that must be is not
/// made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptionRule {
    /// Of these guests; empty: of all.
    pub guests: Vec<GuestPattern>,
    /// From and to these hosts; empty: from and to all.
    pub hosts: Vec<String>,
    /// Only where one of these is the other end; empty: whichever is.
    pub to: Vec<String>,
    pub level: EncryptionLevel,
}

impl EncryptionRule {
    /// Whether it speaks of a move of this guest. Without `to`: of each, wherever to.
    pub fn covers(&self, uuid: Uuid, name: &str, from: &str, to: Option<&str>) -> bool {
        let named = |list: &[String], host: &str| list.is_empty() || list.iter().any(|h| h == host);
        let ends = |a: &str, b: &str| named(&self.hosts, a) && named(&self.to, b);
        let way = match to {
            Some(to) => ends(from, to) || ends(to, from),
            None => named(&self.hosts, from) && self.to.is_empty(),
        };
        way && (self.guests.is_empty() || self.guests.iter().any(|g| g.matches(uuid, name)))
    }
}

impl Config {
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
        Self::parse(file, &text)
    }

    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let typed: Typed = toml::from_str(text)
            .map_err(|source| ConfigError::Syntax { file: file.to_owned(), source: Box::new(source) })?;
        typed.check().map_err(|(key, wrong, right)| ConfigError::Value {
            file: file.to_owned(),
            key,
            wrong,
            right: right.to_owned(),
        })
    }

    /// The host of this name, this one included.
    pub fn host(&self, name: &str) -> Option<&Host> {
        std::iter::once(&self.me).chain(&self.peers).find(|h| h.name == name)
    }

    pub fn is_enabled(&self, uuid: Uuid, name: &str) -> bool {
        self.enabled.iter().any(|p| p.matches(uuid, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [host]
        name = "h1"
        region = "north"
        [[hosts]]
        name = "h2"
        region = "south"
        libvirt = "qemu+tcp://h2/system"
        cpus = 4
        [guests]
        enabled = ["web-*", "11111111-2222-3333-4444-555555555555"]
    "#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/coms/broker.toml"), text)
    }

    #[test]
    fn reads_a_small_file_and_fills_in_the_rest() {
        let c = parse(GOOD).unwrap();
        assert_eq!(c.me.libvirt, "qemu:///system");
        assert_eq!(c.peers[0].cpus, Some(4));
        assert_eq!(c.limits.cooldown, Duration::from_secs(600));
        assert_eq!(c.storage, Storage::default(), "nothing is copied unless the operator says so");
        assert!(c.is_enabled(Uuid::nil(), "web-1") && !c.is_enabled(Uuid::nil(), "db-web-1"));
        assert!(c.is_enabled(Uuid::parse_str("11111111-2222-3333-4444-555555555555").unwrap(), "x"));
    }

    #[test]
    fn says_file_key_and_what_would_be_right() {
        for (from, to, key) in [
            ("region = \"north\"", "region = \"\"", "host.region"),
            ("name = \"h2\"", "name = \"h1\"", "hosts[0].name"),
            ("qemu+tcp://h2/system", "qemu:///system", "hosts[0].libvirt"),
            ("cpus = 4", "cpus = 0", "hosts[0].cpus"),
            ("[guests]", "[limits]\nsimultaneous_moves = 0\n[guests]", "limits.simultaneous_moves"),
            ("cpus = 4", "cpu = 4", "cpu"),
            ("[guests]", "[access]\nchange_group = \"a b\"\n[guests]", "access.change_group"),
            ("[guests]", "[limits]\nticket_ttl_s = 60\n[guests]", "limits.ticket_ttl_s"),
            ("[guests]", "[notice]\nhold_max_s = 90000\n[guests]", "notice.hold_max_s"),
            ("[guests]", "[limits]\nmax_downtime_ms = 700000\n[guests]", "limits.max_downtime_ms"),
            ("[guests]", "[random]\npool = [\"h1\", \"h3\"]\n[guests]", "random.pool"),
            ("[guests]", "[random]\npool = [\"h1\"]\n[guests]", "random.pool"),
            ("[guests]", "[random]\npool = [\"h1\", \"h1\"]\n[guests]", "random.pool"),
            ("[guests]", "[random]\nmin_gap_s = 0\n[guests]", "random.min_gap_s"),
            ("[guests]", "[random]\nmax_per_day = 0\n[guests]", "random.max_per_day"),
            ("[guests]", "[storage]\nshared = [\"nfs\"]\n[guests]", "storage.shared[0]"),
            ("[guests]", "[storage]\nbases = [\"/a/../b\"]\n[guests]", "storage.bases[0]"),
            ("[guests]", "[storage]\nshared = [\"/\"]\n[guests]", "storage.shared[0]"),
            ("[guests]", "[storage]\nremove_source = true\n[guests]", "storage.remove_source"),
            ("[guests]", "[storage]\nmax_gib = 0\n[guests]", "storage.max_gib"),
        ] {
            let text = parse(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(text.contains("/etc/coms/broker.toml") && text.contains(key), "{text}");
        }
    }

    const PLACES: &str = r#"
        [host]
        name = "h1"
        region = "north"
        site = "a"
        [[hosts]]
        name = "h2"
        region = "south"
        libvirt = "qemu+tls://h2/system"
        site = "b"
        link = "10.0.0.2:7466"
        [link]
        listen = "[fd00::1]:7466"
        [network]
        step = ["/bin/true"]
        bridges = ["br0"]
        [aliases]
        key_file = "/k"
        [[regions]]
        name = "north"
        latitude = 59.33
        longitude = -18.07
        countries = ["se", "NO"]
        [[regions]]
        name = "south"
        countries = ["IT"]
        [[distances]]
        from = "north"
        to = "south"
        ms = 30
    "#;

    #[test]
    fn reads_regions_sites_and_what_lies_between() {
        let c = parse(PLACES).unwrap();
        let at = Coordinates { latitude_cdeg: 5933, longitude_cdeg: -1807 };
        assert_eq!((c.regions[0].at, c.regions[0].countries.len()), (Some(at), 2));
        assert_eq!(c.me.tunnel(), Some("fd00::1".parse().unwrap()));
        assert_eq!(c.peers[0].tunnel(), Some("10.0.0.2".parse().unwrap()));
        assert_eq!((c.link.max_rtt_ms, c.link.min_rate_mib_s), (150, 30));
        assert_eq!(c.network.unwrap().timeout, Duration::from_secs(30));
        let plain = parse(GOOD).unwrap();
        assert_eq!((plain.me.site, plain.link.listen, plain.network), (None, None, None));
    }

    #[test]
    fn says_what_is_wrong_with_places() {
        for (from, to, key) in [
            ("site = \"a\"", "site = \"a b\"", "host.site"),
            ("site = \"a\"", "site = \"a\"\naddress = \"h1\"", "host.address"),
            ("site = \"a\"", "site = \"a\"\naddress = \"0.0.0.0\"", "host.address"),
            ("link = \"10.0.0.2:7466\"", "link = \"h2:7466\"", "hosts[0].link"),
            ("link = \"10.0.0.2:7466\"", "link = \"0.0.0.0:7466\"", "hosts[0].link"),
            ("link = \"10.0.0.2:7466\"", "", "hosts[0].link"),
            ("listen = \"[fd00::1]:7466\"", "", "link.listen"),
            ("listen = \"[fd00::1]:7466\"", "listen = \"[fd00::1]:0\"", "link.listen"),
            ("listen = \"[fd00::1]:7466\"", "listen = \"[::]:7466\"", "host.address"),
            ("[network]", "max_rtt_ms = 0\n[network]", "link.max_rtt_ms"),
            ("[network]", "min_rate_mib_s = 0\n[network]", "link.min_rate_mib_s"),
            ("\"/bin/true\"", "\"true\"", "network.step"),
            ("step =", "timeout_s = 0\nstep =", "network.timeout_s"),
            ("step =", "release_after_s = 4\nstep =", "network.release_after_s"),
            ("bridges = [\"br0\"]", "", "network.bridges"),
            ("\"br0\"", "\"br0\", \"br 1\"", "network.bridges"),
            ("key_file = \"/k\"", "", "aliases.key_file"),
            ("latitude = 59.33", "latitude = 91", "regions[0].latitude"),
            ("latitude = 59.33", "latitude = nan", "regions[0].latitude"),
            ("latitude = 59.33", "", "regions[0].latitude"),
            ("longitude = -18.07", "", "regions[0].longitude"),
            ("\"NO\"", "\"Norway\"", "regions[0].countries"),
            ("\"IT\"", "\"SE\"", "regions[1].countries"),
            ("name = \"south\"\n        countries", "name = \"north\"\n        countries", "regions[1].name"),
            ("to = \"south\"", "to = \"west\"", "distances[0].to"),
            ("to = \"south\"", "to = \"north\"", "distances[0].to"),
            ("ms = 30", "ms = 30000", "distances[0].ms"),
        ] {
            let changed = PLACES.replacen(from, to, 1);
            assert_ne!(changed, PLACES, "{from}");
            let text = parse(&changed).unwrap_err().to_string();
            assert!(text.contains(&format!("`{key}`")), "{key}: {text}");
        }
    }

    #[test]
    fn a_star_stands_for_any_run() {
        for (p, t, yes) in
            [("*", "", true), ("a*b*c", "axxbyc", true), ("a*b", "ab", true), ("a*b", "abc", false)]
        {
            assert_eq!(glob(p, t), yes, "{p} {t}");
        }
    }
}
