//! What is legal in a configuration and still seldom meant. For `comsctl config check`.

use super::{Config, GuestPattern, Host, Vetoes};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// One key that deserves a second look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unwise {
    pub key: String,
    /// What it leads to.
    pub leads_to: String,
    /// What is usual.
    pub better: String,
}

impl fmt::Display for Unwise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; usual: {}", self.key, self.leads_to, self.better)
    }
}

impl Config {
    pub fn unwise(&self) -> Vec<Unwise> {
        let mut found = Vec::new();
        let mut say = |key: &str, leads_to: String, better: &str| {
            found.push(Unwise { key: key.to_owned(), leads_to, better: better.to_owned() });
        };
        self.unwise_guests(&mut say);
        self.unwise_limits(&mut say);
        self.unwise_notices(&mut say);
        self.unwise_random(&mut say);
        self.unwise_places(&mut say);
        self.unwise_regions(&mut say);
        if self.storage.copy && !self.storage.remove_source {
            let text = "a VM whose disks were copied cannot come back until its old copy here is removed";
            say(
                "storage.remove_source",
                text.into(),
                "true, if the copy at the destination is enough for you",
            );
        }
        if self.storage.copy && self.storage.copy_in_the_clear {
            let text = "without TLS, whoever reaches the destination's port while a disk is copied reads it and writes to it";
            say(
                "storage.copy_in_the_clear",
                text.into(),
                "false, and certificates for QEMU (docs/encryption.md)",
            );
        }
        if self.me.libvirt.ends_with(":///session") {
            say(
                "host.libvirt",
                format!("`{}` shows one user's VMs only", self.me.libvirt),
                "qemu:///system has the host's VMs",
            );
        }
        if self.peers.is_empty() {
            say("hosts", "no other host is named, so nothing can move".into(), "add a [[hosts]] for each");
        }
        for (i, peer) in self.peers.iter().enumerate() {
            unwise_peer(&format!("hosts[{i}]"), peer, &mut say);
        }
        found
    }

    fn unwise_guests(&self, say: &mut impl FnMut(&str, String, &str)) {
        const KEY: &str = "guests.enabled";
        if self.enabled.is_empty() {
            let text = "no guest may ask for anything but those that `comsctl enable` let";
            say(KEY, text.into(), "comsctl enable VM, or list the VMs whose owners take part");
        }
        if self.enabled.contains(&GuestPattern::Name("*".into())) {
            say(KEY, "`*` lets every VM with the port ask".into(), "list VMs, or a prefix as in web-*");
        }
    }

    fn unwise_limits(&self, say: &mut impl FnMut(&str, String, &str)) {
        let l = &self.limits;
        let max_total_s = l.max_total.as_secs();
        if l.cooldown < Duration::from_secs(60) {
            let s = l.cooldown.as_secs();
            let text = format!("a guest may be moved again {s} s after a move");
            say("limits.cooldown_s", text, "600; a move costs its neighbours bandwidth");
        }
        if max_total_s < 30 {
            let text = format!("a move is aborted after {max_total_s} s; large guests never get through");
            say("limits.max_total_s", text, "600");
        }
        if l.requests_per_minute > 60 {
            let text = format!("each guest may ask {} times a minute", l.requests_per_minute);
            say("limits.requests_per_minute", text, "6");
        }
        if l.min_load_gain < 0.05 {
            let text = "guests move between hosts that are as busy as each other".into();
            say("limits.min_load_gain", text, "0.2");
        }
        if l.min_load_gain > 1.0 {
            let text = format!("hardly any host is less busy by {} per CPU", l.min_load_gain);
            say("limits.min_load_gain", text, "0.2");
        }
        if l.simultaneous_moves > 8 {
            let text = format!("{} moves share one link; each takes that much longer", l.simultaneous_moves);
            say("limits.simultaneous_moves", text, "2");
        }
        if let Some(mib_s) = l.bandwidth_mib_s
            && mib_s.saturating_mul(max_total_s) < 1024
        {
            let text = format!(
                "{mib_s} MiB/s for max_total_s = {max_total_s} s carry {} MiB: a larger guest never arrives",
                mib_s.saturating_mul(max_total_s)
            );
            say("limits.bandwidth_mib_s", text, "raise one of the two");
        }
        match l.max_downtime_ms {
            Some(ms) if ms > 5000 => {
                let text = format!("guests may stand still for {ms} ms; their clients will notice");
                say("limits.max_downtime_ms", text, "300");
            }
            Some(ms) if ms < 20 => {
                let text =
                    format!("hardly any guest can switch over within {ms} ms; moves end by time limit");
                say("limits.max_downtime_ms", text, "300");
            }
            Some(_) | None => {}
        }
    }

    fn unwise_notices(&self, say: &mut impl FnMut(&str, String, &str)) {
        let n = &self.notices;
        for (key, value, usual) in
            [("notice.notice_max_s", n.notice_max, "60"), ("notice.hold_max_s", n.hold_max, "300")]
        {
            let s = value.as_secs();
            if s > 3600 {
                let text = format!("one guest may make whoever empties this host wait for {s} s");
                say(key, text, &format!("{usual}; comsctl migrate --expedite does not wait"));
            }
        }
        if n.postpone_max > Duration::from_secs(7 * 86_400) {
            let text =
                format!("guests may put off maintenance by {} days", n.postpone_max.as_secs() / 86_400);
            say("notice.postpone_max_s", text, "86400");
        }
        if n.veto == Vetoes::All {
            let text = "a guest may refuse the operator's moves; only --expedite empties this host".into();
            say("notice.veto", text, "\"own\"");
        }
    }

    fn unwise_random(&self, say: &mut impl FnMut(&str, String, &str)) {
        let r = &self.random;
        if r.pool.is_empty() {
            return;
        }
        if r.pool.len() == 2 {
            let text = "of two hosts the next one is known: only the time is random".into();
            say("random.pool", text, "name at least three");
        }
        if !r.pool.contains(&self.me.name) {
            let text = format!("guests leave {} at random and do not come back", self.me.name);
            say("random.pool", text, "the same list on all hosts, each of them in it");
        }
        if r.least_gap_s < 20 {
            let text = format!("a guest may be moved every {} s, all day", r.least_gap_s);
            say("random.min_gap_s", text, "20, the shortest gap of the paper, or more");
        }
    }

    fn unwise_regions(&self, say: &mut impl FnMut(&str, String, &str)) {
        if self.regions.len() > 16 {
            let text = format!("guests hear of the first 16 of {} regions", self.regions.len());
            say("regions", text, "name those first in which hosts are");
        }
        let unknown =
            |h: &&Host| !self.regions.is_empty() && !self.regions.iter().any(|r| r.name == h.region);
        if let Some(host) = std::iter::once(&self.me).chain(&self.peers).find(unknown) {
            let text = format!(
                "`{}`, where {} is, is none of them: no client is ever there",
                host.region, host.name
            );
            say("regions", text, "a [[regions]] for each region that has hosts");
        }
        let elsewhere = self.peers.iter().find(|p| p.site != self.me.site);
        if let Some(peer) = elsewhere.filter(|_| self.network.is_none()) {
            let text =
                format!("no VM moves to {}: its clients could not reach it at another site", peer.name);
            say("network.step", text, "[\"/usr/libexec/coms/stretch-vxlan\"], or a command of your own");
        }
        if self.link.listen.is_some_and(|l| l.ip().is_unspecified()) {
            let text = "answers on every address of this host, though only to configured hosts".into();
            say("link.listen", text, "the address that the other hosts reach");
        }
    }

    fn unwise_places(&self, say: &mut impl FnMut(&str, String, &str)) {
        if self.alias_key_file.is_none() && !self.peers.is_empty() {
            let text = "each host makes its own secret: guests see other aliases after each move".into();
            say("aliases.key_file", text, "the same file of 32 random bytes on all hosts of the pool");
        }
        if !self.socket.starts_with("/run") {
            let text = format!("{} is not in /run: a dead socket stays there", self.socket.display());
            say("paths.socket", text, "/run/coms/broker.sock");
        }
        if ["/tmp", "/run", "/var/tmp", "/dev/shm"].iter().any(|t| self.state.starts_with(t)) {
            let text = format!("{} does not outlive a reboot: cooldowns are forgotten", self.state.display());
            say("paths.state", text, "/var/lib/coms");
        }
        if let Some(dir) = &self.record_links {
            let text = format!("every byte to each guest is appended in {}, without bound", dir.display());
            say("debug.record_links", text, "take it out when you have found what you looked for");
        }
    }
}

fn unwise_peer(key: &str, peer: &Host, say: &mut impl FnMut(&str, String, &str)) {
    let (uri_key, uri) = (format!("{key}.libvirt"), peer.libvirt.as_str());
    let transport = uri.split_once("://").and_then(|(scheme, _)| scheme.split_once('+')).map(|(_, t)| t);
    match transport {
        Some("tcp") => say(
            &uri_key,
            format!("libvirt's commands to {} are neither encrypted nor, mostly, authenticated", peer.name),
            "qemu+tls://, or keep this network to hosts",
        ),
        Some("ssh") => say(
            &uri_key,
            format!("needs a key without passphrase for root's libvirtd here at {}", peer.name),
            "qemu+tls://; or try it: sudo virsh -c URI list",
        ),
        Some("unix") => say(
            &uri_key,
            format!("a unix socket leads to this machine, not to {}", peer.name),
            "qemu+tls://HOST/system",
        ),
        Some(_) | None => {}
    }
    if uri.contains("no_verify=1") {
        let text = format!("whoever answers at {}'s address is believed", peer.name);
        say(&uri_key, text, "take no_verify out and install certificates");
    }
    if uri.contains("known_hosts_verify=ignore") || uri.contains("known_hosts_verify=auto") {
        let text = format!("whoever answers at {}'s address is believed, at least the first time", peer.name);
        say(&uri_key, text, "take known_hosts_verify out and put its key into known_hosts");
    }
    let host = uri.split_once("://").map_or("", |(_, rest)| rest.split(['/', ':', '?']).next().unwrap_or(""));
    if host == "localhost" || host.starts_with("127.") {
        say(
            &uri_key,
            format!("`{host}` is this host, not {}", peer.name),
            "its name or address in your network",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const WISE: &str = r#"
        [host]
        name = "h1"
        region = "north"
        [[hosts]]
        name = "h2"
        region = "south"
        libvirt = "qemu+tls://h2/system"
        [guests]
        enabled = ["web-*"]
        [aliases]
        key_file = "/etc/coms/alias.key"
    "#;

    fn keys(text: &str) -> Vec<String> {
        let config = Config::parse(Path::new("b.toml"), text).unwrap();
        config.unwise().into_iter().map(|u| u.key).collect()
    }

    #[test]
    fn has_nothing_to_say_about_a_usual_file() {
        assert_eq!(keys(WISE), Vec::<String>::new());
    }

    #[test]
    fn each_doubt_names_its_key() {
        let limit = |line: &str| WISE.replace("[guests]", &format!("[limits]\n{line}\n[guests]"));
        let notice = |line: &str| WISE.replace("[guests]", &format!("[notice]\n{line}\n[guests]"));
        let peer = |uri: &str| WISE.replace("qemu+tls://h2/system", uri);
        for (text, key) in [
            (WISE.replace("\"web-*\"", ""), "guests.enabled"),
            (WISE.replace("web-*", "*"), "guests.enabled"),
            (
                WISE.replace("/etc/coms/alias.key\"", "/k\"\n[debug]\nrecord_links = \"/l\""),
                "debug.record_links",
            ),
            (WISE.replace("key_file = \"/etc/coms/alias.key\"", ""), "aliases.key_file"),
            (WISE.to_owned() + "[paths]\nstate = \"/tmp/coms\"", "paths.state"),
            (WISE.to_owned() + "[[regions]]\nname = \"north\"", "regions"),
            (WISE.replace("region = \"south\"", "region = \"south\"\nsite = \"b\""), "network.step"),
            (WISE.to_owned() + "[link]\nlisten = \"0.0.0.0:7466\"", "link.listen"),
            (WISE.to_owned() + "[paths]\nsocket = \"/srv/coms.sock\"", "paths.socket"),
            (
                WISE.replace("region = \"north\"", "region = \"n\"\nlibvirt = \"qemu:///session\""),
                "host.libvirt",
            ),
            (peer("qemu+tcp://h2/system"), "hosts[0].libvirt"),
            (peer("qemu+ssh://root@h2/system"), "hosts[0].libvirt"),
            (peer("qemu+tls://h2/system?no_verify=1"), "hosts[0].libvirt"),
            (peer("qemu+tls://127.0.0.1/system"), "hosts[0].libvirt"),
            (notice("notice_max_s = 7200"), "notice.notice_max_s"),
            (notice("hold_max_s = 7200"), "notice.hold_max_s"),
            (notice("postpone_max_s = 2000000"), "notice.postpone_max_s"),
            (notice("veto = \"all\""), "notice.veto"),
            (limit("cooldown_s = 5"), "limits.cooldown_s"),
            (limit("max_total_s = 5"), "limits.max_total_s"),
            (limit("requests_per_minute = 600"), "limits.requests_per_minute"),
            (limit("min_load_gain = 0.0"), "limits.min_load_gain"),
            (limit("min_load_gain = 2.0"), "limits.min_load_gain"),
            (limit("simultaneous_moves = 32"), "limits.simultaneous_moves"),
            (limit("bandwidth_mib_s = 1"), "limits.bandwidth_mib_s"),
            (limit("max_downtime_ms = 60000"), "limits.max_downtime_ms"),
            (limit("max_downtime_ms = 5"), "limits.max_downtime_ms"),
            (
                WISE.to_owned() + "[storage]\ncopy = true\nremove_source = true\ncopy_in_the_clear = true",
                "storage.copy_in_the_clear",
            ),
            (WISE.to_owned() + "[storage]\ncopy = true", "storage.remove_source"),
            (WISE.to_owned() + "[random]\npool = [\"h1\", \"h2\"]", "random.pool"),
        ] {
            assert_eq!(keys(&text), [key], "{text}");
        }
    }
}
