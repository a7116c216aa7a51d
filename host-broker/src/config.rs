//! `/etc/coms/broker.toml`: as typed ([`Typed`]), and as checked ([`Config`]). Nothing else reads the former.

use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Typed {
    host: TypedHost,
    #[serde(default)]
    hosts: Vec<TypedPeer>,
    #[serde(default)]
    guests: TypedGuests,
    #[serde(default)]
    limits: TypedLimits,
    #[serde(default)]
    aliases: TypedAliases,
    #[serde(default)]
    paths: TypedPaths,
    #[serde(default)]
    debug: TypedDebug,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedHost {
    name: String,
    region: String,
    #[serde(default = "local_libvirt")]
    libvirt: String,
    cpus: Option<u32>,
    memory_mib: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedPeer {
    name: String,
    region: String,
    libvirt: String,
    migrate_uri: Option<String>,
    cpus: Option<u32>,
    memory_mib: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedGuests {
    #[serde(default)]
    enabled: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TypedLimits {
    simultaneous_moves: u32,
    cooldown_s: u64,
    max_total_s: u64,
    requests_per_minute: u32,
    min_load_gain: f64,
    bandwidth_mib_s: Option<u64>,
    max_downtime_ms: Option<u64>,
    auto_converge: bool,
    ticket_ttl_s: u64,
}

impl Default for TypedLimits {
    fn default() -> Self {
        Self {
            simultaneous_moves: 2,
            cooldown_s: 600,
            max_total_s: 600,
            requests_per_minute: 6,
            min_load_gain: 0.2,
            bandwidth_mib_s: None,
            max_downtime_ms: None,
            auto_converge: false,
            ticket_ttl_s: 86_400,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedAliases {
    key_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TypedPaths {
    socket: PathBuf,
    state: PathBuf,
}

impl Default for TypedPaths {
    fn default() -> Self {
        Self { socket: "/run/coms/broker.sock".into(), state: "/var/lib/coms".into() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedDebug {
    record_links: Option<PathBuf>,
}

fn local_libvirt() -> String {
    "qemu:///system".into()
}

/// The configuration, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub me: Host,
    /// The other hosts, in the file's order.
    pub peers: Vec<Host>,
    pub enabled: Vec<GuestPattern>,
    pub limits: Limits,
    /// Secret behind the aliases, the same file on all hosts of a pool.
    pub alias_key_file: Option<PathBuf>,
    pub socket: PathBuf,
    pub state: PathBuf,
    /// Every byte sent to a guest is also appended to a file of its own in this directory. Grows without
    /// bound: to find out what a guest was told, not for every day.
    pub record_links: Option<PathBuf>,
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

type Wrong = (String, String, &'static str);

fn wrong<T>(key: impl Into<String>, wrong: impl Into<String>, right: &'static str) -> Result<T, Wrong> {
    Err((key.into(), wrong.into(), right))
}

impl Typed {
    fn check(self) -> Result<Config, Wrong> {
        let me = check_host(
            "host",
            self.host.name,
            self.host.region,
            self.host.libvirt,
            None,
            self.host.cpus,
            self.host.memory_mib,
        )?;
        let mut peers = Vec::new();
        let mut names = BTreeSet::from([me.name.clone()]);
        let mut uris = BTreeSet::new();
        for (i, p) in self.hosts.into_iter().enumerate() {
            let key = format!("hosts[{i}]");
            let host = check_host(&key, p.name, p.region, p.libvirt, p.migrate_uri, p.cpus, p.memory_mib)?;
            if !names.insert(host.name.clone()) {
                return wrong(
                    format!("{key}.name"),
                    format!("`{}` is already taken", host.name),
                    "give every host, this one included, a name of its own",
                );
            }
            if !uris.insert(host.libvirt.clone()) || host.libvirt == me.libvirt {
                return wrong(
                    format!("{key}.libvirt"),
                    format!("`{}` is another host's URI", host.libvirt),
                    "each host has its own libvirt URI",
                );
            }
            if !host.libvirt.contains("://") || host.libvirt.contains(":///") {
                return wrong(
                    format!("{key}.libvirt"),
                    format!("`{}` names no remote host", host.libvirt),
                    "write for example qemu+tls://host2.example/system",
                );
            }
            peers.push(host);
        }
        let mut enabled = Vec::new();
        for (i, pattern) in self.guests.enabled.into_iter().enumerate() {
            if pattern.is_empty() {
                return wrong(
                    format!("guests.enabled[{i}]"),
                    "is empty",
                    "write a domain's name, its UUID, or a name with *",
                );
            }
            enabled.push(Uuid::parse_str(&pattern).map_or(GuestPattern::Name(pattern), GuestPattern::Uuid));
        }
        let limits = self.limits.check()?;
        for (key, path) in [("paths.socket", &self.paths.socket), ("paths.state", &self.paths.state)] {
            if !path.is_absolute() {
                return wrong(key, format!("`{}` is relative", path.display()), "write an absolute path");
            }
        }
        Ok(Config {
            me,
            peers,
            enabled,
            limits,
            alias_key_file: self.aliases.key_file,
            socket: self.paths.socket,
            state: self.paths.state,
            record_links: self.debug.record_links,
        })
    }
}

impl TypedLimits {
    fn check(self) -> Result<Limits, Wrong> {
        let range = |key: &str, value: u64, low: u64, high: u64| -> Result<u64, Wrong> {
            if (low..=high).contains(&value) {
                Ok(value)
            } else {
                Err((
                    format!("limits.{key}"),
                    format!("{value} is not between {low} and {high}"),
                    "take a value in that range",
                ))
            }
        };
        if !(0.0..=16.0).contains(&self.min_load_gain) {
            return wrong(
                "limits.min_load_gain",
                format!("{} is not between 0 and 16", self.min_load_gain),
                "it is a difference of load per CPU; 0.2 is usual",
            );
        }
        if self.ticket_ttl_s < self.max_total_s.saturating_add(60) {
            return wrong(
                "limits.ticket_ttl_s",
                format!(
                    "{} s may end before a move of max_total_s = {} s does",
                    self.ticket_ttl_s, self.max_total_s
                ),
                "leave at least a minute more than max_total_s, better a day",
            );
        }
        Ok(Limits {
            simultaneous_moves: range("simultaneous_moves", self.simultaneous_moves.into(), 1, 64)? as u32,
            cooldown: Duration::from_secs(range("cooldown_s", self.cooldown_s, 0, 30 * 86_400)?),
            max_total: Duration::from_secs(range("max_total_s", self.max_total_s, 1, 86_400)?),
            requests_per_minute: range("requests_per_minute", self.requests_per_minute.into(), 1, 6000)?
                as u32,
            min_load_gain: self.min_load_gain,
            bandwidth_mib_s: self
                .bandwidth_mib_s
                .map(|v| range("bandwidth_mib_s", v, 1, 1 << 20))
                .transpose()?,
            max_downtime_ms: self
                .max_downtime_ms
                .map(|v| range("max_downtime_ms", v, 1, 2_000_000))
                .transpose()?,
            auto_converge: self.auto_converge,
            ticket_ttl: Duration::from_secs(range("ticket_ttl_s", self.ticket_ttl_s, 60, 30 * 86_400)?),
        })
    }
}

fn check_host(
    key: &str,
    name: String,
    region: String,
    libvirt: String,
    migrate_uri: Option<String>,
    cpus: Option<u32>,
    memory_mib: Option<u64>,
) -> Result<Host, Wrong> {
    if name.is_empty()
        || name.len() > 64
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        return wrong(
            format!("{key}.name"),
            format!("`{name}` is no name"),
            "use 1 to 64 letters, digits, dots, dashes, underscores",
        );
    }
    // A guest is shown its region: it must fit a message and hold nothing that moves a cursor.
    if region.is_empty() || region.len() > 64 || !region.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        return wrong(
            format!("{key}.region"),
            format!("`{region}` is no region"),
            "use 1 to 64 printable ASCII characters; guests see it",
        );
    }
    if cpus == Some(0) || memory_mib == Some(0) {
        return wrong(
            format!("{key}.{}", if cpus == Some(0) { "cpus" } else { "memory_mib" }),
            "0 leaves nothing",
            "leave it out to take what libvirt claims",
        );
    }
    Ok(Host {
        name,
        region,
        libvirt,
        migrate_uri,
        cpus,
        memory_kib: memory_mib.map(|m| m.saturating_mul(1024)),
    })
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
            ("[guests]", "[limits]\nticket_ttl_s = 60\n[guests]", "limits.ticket_ttl_s"),
        ] {
            let text = parse(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(text.contains("/etc/coms/broker.toml") && text.contains(key), "{text}");
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
