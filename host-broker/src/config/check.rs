//! From what was typed to what may be relied on.

use super::isolated;
use super::places::{at_a_place, check_places};
use super::raw::{Typed, TypedLimits, TypedNotice, TypedRandom, TypedStorage};
use super::{Access, Config, GuestPattern, Host, Limits, Notices, RandomMoves, Storage};
use std::collections::BTreeSet;
use std::path::{Component, Path};
use std::time::Duration;
use uuid::Uuid;

pub(super) type Wrong = (String, String, &'static str);

pub(super) fn wrong<T>(
    key: impl Into<String>,
    wrong: impl Into<String>,
    right: &'static str,
) -> Result<T, Wrong> {
    Err((key.into(), wrong.into(), right))
}

impl Typed {
    pub(super) fn check(self) -> Result<Config, Wrong> {
        let mut me = check_host(
            "host",
            self.host.name,
            self.host.region,
            self.host.libvirt,
            None,
            self.host.cpus,
            self.host.memory_mib,
        )?;
        at_a_place("host", &mut me, self.host.site, self.host.address, None)?;
        let mut peers = Vec::new();
        let mut names = BTreeSet::from([me.name.clone()]);
        let mut uris = BTreeSet::new();
        for (i, p) in self.hosts.into_iter().enumerate() {
            let key = format!("hosts[{i}]");
            let mut host =
                check_host(&key, p.name, p.region, p.libvirt, p.migrate_uri, p.cpus, p.memory_mib)?;
            at_a_place(&key, &mut host, p.site, p.address, p.link)?;
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
        let migration_interface = isolated::check(self.host.migration_interface, &peers)?;
        let mut enabled = Vec::new();
        for (i, pattern) in self.guests.enabled.into_iter().enumerate() {
            enabled.push(guest_pattern(&format!("guests.enabled[{i}]"), pattern)?);
        }
        let limits = self.limits.check()?;
        let notices = self.notice.check()?;
        let random = self.random.check(&names)?;
        let encryption = self.encryption.check(&names)?;
        let places = check_places(self.regions, self.distances, &me, &peers)?;
        let link = self.link.check()?;
        me.link = link.listen;
        let network = self.network.check()?;
        if self.aliases.key_file.is_none()
            && (link.listen.is_some() || peers.iter().any(|p| p.link.is_some()))
        {
            return wrong(
                "aliases.key_file",
                "is not set, and brokers that ask each other (link) know each other by it",
                "name the same file of 32 random bytes on all hosts of the pool",
            );
        }
        super::places::check_step(network.as_ref(), &me, &peers)?;
        for (key, path) in [("paths.socket", &self.paths.socket), ("paths.state", &self.paths.state)] {
            if !path.is_absolute() {
                return wrong(key, format!("`{}` is relative", path.display()), "write an absolute path");
            }
        }
        let access = &self.access;
        for (key, group) in [("status_group", &access.status_group), ("change_group", &access.change_group)] {
            if group.is_empty() || !group.chars().all(|c| c.is_ascii_graphic() && c != ':') {
                return wrong(
                    format!("access.{key}"),
                    format!("`{}` is no group", group.escape_debug()),
                    "write a group of /etc/group, or its number",
                );
            }
        }
        Ok(Config {
            me,
            peers,
            enabled,
            limits,
            notices,
            random,
            encryption,
            regions: places.0,
            distances: places.1,
            link,
            migration_interface,
            network,
            storage: self.storage.check()?,
            alias_key_file: self.aliases.key_file,
            socket: self.paths.socket,
            state: self.paths.state,
            access: Access { status_group: self.access.status_group, change_group: self.access.change_group },
            record_links: self.debug.record_links,
        })
    }
}

pub(super) fn guest_pattern(key: &str, pattern: String) -> Result<GuestPattern, Wrong> {
    if pattern.is_empty() {
        return wrong(key, "is empty", "write a domain's name, its UUID, or a name with *");
    }
    Ok(Uuid::parse_str(&pattern).map_or(GuestPattern::Name(pattern), GuestPattern::Uuid))
}

impl TypedRandom {
    fn check(self, hosts: &BTreeSet<String>) -> Result<RandomMoves, Wrong> {
        const KEY: &str = "random.pool";
        let mut seen = BTreeSet::new();
        for name in &self.pool {
            if !hosts.contains(name) {
                let right = "name hosts of this file: host.name and hosts[].name";
                return wrong(KEY, format!("`{name}` is no host of this file"), right);
            }
            if !seen.insert(name) {
                return wrong(KEY, format!("`{name}` is there twice"), "name each host once");
            }
        }
        if self.pool.len() == 1 {
            let right = "name two hosts or more, better at least three; or none to offer no random moves";
            return wrong(KEY, "one host leaves nothing to draw", right);
        }
        let range = |key: &str, value: u64, high: u64| {
            if (1..=high).contains(&value) {
                return Ok(value);
            }
            let what = format!("{value} is not between 1 and {high}");
            wrong(format!("random.{key}"), what, "take a value in that range")
        };
        Ok(RandomMoves {
            least_gap_s: range("min_gap_s", self.min_gap_s, 86_400)? as u32,
            max_per_day: range("max_per_day", self.max_per_day, u16::MAX.into())? as u16,
            pool: self.pool,
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
        if !(0.0..=1.0).contains(&self.min_vcpu_wait) {
            return wrong(
                "limits.min_vcpu_wait",
                format!("{} is not between 0 and 1", self.min_vcpu_wait),
                "it is a share of time; 0.2 is usual, 0 believes every guest",
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
        if let Some(ms) = self.max_downtime_ms
            && ms >= self.max_total_s.saturating_mul(1000)
        {
            return wrong(
                "limits.max_downtime_ms",
                format!("{ms} ms is as long as a whole move may take (max_total_s = {})", self.max_total_s),
                "allow far less than max_total_s; 300 is usual",
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
            require_broker: self.require_broker,
            min_vcpu_wait: self.min_vcpu_wait,
            hello: Duration::from_secs(range("hello_s", self.hello_s, 5, 86_400)?),
            ticket_ttl: Duration::from_secs(range("ticket_ttl_s", self.ticket_ttl_s, 60, 30 * 86_400)?),
        })
    }
}

impl TypedNotice {
    fn check(self) -> Result<Notices, Wrong> {
        let at_most = |key: &str, value: u64, high: u64| {
            let too_long = || format!("{value} is not between 0 and {high}");
            if value <= high {
                Ok(Duration::from_secs(value))
            } else {
                wrong(format!("notice.{key}"), too_long(), "take a value in that range; 0 allows none")
            }
        };
        Ok(Notices {
            notice_max: at_most("notice_max_s", self.notice_max_s, 86_400)?,
            hold_max: at_most("hold_max_s", self.hold_max_s, 86_400)?,
            postpone_max: at_most("postpone_max_s", self.postpone_max_s, 30 * 86_400)?,
            veto: self.veto,
        })
    }
}

impl TypedStorage {
    fn check(self) -> Result<Storage, Wrong> {
        for (key, dirs) in [("shared", &self.shared), ("bases", &self.bases)] {
            for (i, dir) in dirs.iter().enumerate() {
                let mut parts = Path::new(dir).components();
                let rooted = parts.next() == Some(Component::RootDir);
                let mut named = false;
                let straight = parts.all(|part| {
                    named = true;
                    matches!(part, Component::Normal(_))
                });
                if !(rooted && straight && named) {
                    return wrong(
                        format!("storage.{key}[{i}]"),
                        format!("`{}` is no directory that could be meant", dir.escape_debug()),
                        "write an absolute path below /, without ..",
                    );
                }
            }
        }
        if self.remove_source && !self.copy {
            return wrong(
                "storage.remove_source",
                "is on, and copy is off: nothing is ever copied that could be removed",
                "set copy = true as well, or leave remove_source out",
            );
        }
        if let Some(gib) = self.max_gib
            && !(1..=1 << 20).contains(&gib)
        {
            let what = format!("{gib} is not between 1 and {}", 1 << 20);
            return wrong("storage.max_gib", what, "take a value in that range, or copy = false for none");
        }
        let Self { shared, bases, copy, copy_in_the_clear, remove_source, max_gib } = self;
        Ok(Storage { shared, bases, copy, copy_in_the_clear, remove_source, max_gib })
    }
}

pub(super) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// A guest is shown regions: they must fit a message and hold nothing that moves a cursor.
pub(super) fn is_region(region: &str) -> bool {
    (1..=64).contains(&region.len()) && region.chars().all(|c| c.is_ascii_graphic() || c == ' ')
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
    if !is_name(&name) {
        return wrong(
            format!("{key}.name"),
            format!("`{name}` is no name"),
            "use 1 to 64 letters, digits, dots, dashes, underscores",
        );
    }
    if !is_region(&region) {
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
        site: None,
        address: None,
        link: None,
    })
}
