//! The configuration changes while the broker runs: at SIGHUP, or by `comsctl reload`.
//!
//! Whole or not at all: a configuration with a mistake changes nothing. Of a good one everything counts from the next
//! decision on, except what a running broker stands on (`keep_fixed`), and except that no host is taken away under a
//! move: neither one that a move goes to, nor any while a move is unclear, because a paused copy is let run only when
//! every host it might be on has denied having it (`recovery.rs`). What stays as it was is named, each time.
//!
//! No link is attached anew. A guest that is to know something else of its host (region, may it ask) is greeted again
//! over the same connection, keeps what it is owed, and has time to say again what holds a move that is announced.

use super::Broker;
use super::guest::Guest;
use crate::action::{Action, Level};
use crate::config::{Config, Host};
use crate::control::Reply;
use crate::event::{Caller, Now};

impl Broker {
    pub(super) fn reloaded(&mut self, now: Now, caller: Option<Caller>, new: Result<Box<Config>, String>) {
        let reply = match new.and_then(|new| self.take_up(now, *new)) {
            Ok(text) => Reply::Done { text },
            Err(wrong) => {
                let text = format!("the configuration is refused, the old one stays: {wrong}");
                self.log(Level::Warn, None, text.clone());
                Reply::Refused { text }
            }
        };
        if let Some(caller) = caller {
            self.out.push(Action::Reply { caller, reply: Box::new(reply) });
        }
    }

    /// What was taken up, in words; or why nothing was.
    fn take_up(&mut self, now: Now, mut new: Config) -> Result<String, String> {
        let old = self.config.clone();
        let fixed = keep_fixed(&old, &mut new);
        if new.peers.iter().any(|p| p.name == new.me.name || p.libvirt == new.me.libvirt) {
            return Err(format!("until a restart this host is `{}` at {}", new.me.name, new.me.libvirt));
        }
        let kept = self.keep_hosts_in_use(&mut new);
        let mut text = if new == old {
            "the configuration was read again; nothing in force changes".to_owned()
        } else {
            format!("the configuration was read again; changed: {}", changed(&old, &new).join(", "))
        };
        if !fixed.is_empty() {
            text.push_str(&format!("; as before until a restart: {}", fixed.join(", ")));
        }
        if !kept.is_empty() {
            let kept = kept.join(", ");
            text.push_str(&format!("; as before, reload again when no move needs it any more: {kept}"));
        }
        self.log(Level::Info, None, text.clone());
        for unwise in new.unwise() {
            self.log(Level::Warn, None, unwise.to_string());
        }
        self.config_read_unix_ms = Some(now.unix_ms);
        self.switch_to(now, new);
        Ok(text)
    }

    /// Hosts that the new configuration drops or finds elsewhere, and that a move may need: put back. Their names.
    fn keep_hosts_in_use(&self, new: &mut Config) -> Vec<String> {
        let unclear = self.guests.values().any(|g| g.mv.is_unclear() || g.undecided);
        let is_needed = |host: &Host| {
            let goes_there =
                |g: &Guest| g.mv.plan().and_then(|p| p.destination.as_ref()).is_some_and(|d| *d == host.name);
            let stretched = |h: &super::network::Held| h.stretch.input.there.name == host.name;
            unclear || self.guests.values().any(goes_there) || self.stretches.values().any(stretched)
        };
        let mut kept = Vec::new();
        for host in self.config.peers.iter().filter(|host| is_needed(host)) {
            let same = |p: &Host| p.name == host.name && p.libvirt == host.libvirt;
            if !new.peers.iter().any(same) {
                // Whatever has its name or its address meanwhile waits until then.
                new.peers.retain(|p| p.name != host.name && p.libvirt != host.libvirt);
                new.peers.push(host.clone());
                kept.push(format!("hosts `{}`", host.name));
            }
        }
        kept
    }

    fn switch_to(&mut self, now: Now, new: Config) {
        let hellos = |broker: &Self| -> Vec<_> {
            let attached = broker.guests.values().filter(|g| g.attached.is_some());
            attached.map(|g| (g.domain.uuid, broker.hello_for(&g.domain))).collect()
        };
        let before = hellos(self);
        let old = std::mem::replace(&mut self.config, new);
        self.hosts.retain(|name, _| {
            let uri = |config: &Config| config.host(name).map(|h| h.libvirt.clone());
            uri(&old).is_some() && uri(&old) == uri(&self.config)
        });
        for host in std::iter::once(&self.config.me).chain(&self.config.peers) {
            self.hosts.entry(host.name.clone()).or_default();
        }
        // Another address may be another way.
        self.links.clear();
        if old.migration_interface != self.config.migration_interface || old.peers != self.config.peers {
            (self.migration_link, self.link_trouble) = (None, None);
            (self.link_asked, self.link_since) = (0, now.mono);
            self.look_at_link();
        }
        self.out.push(Action::Configure(Box::new(self.config.clone())));
        for ((uuid, was), (_, hello)) in before.into_iter().zip(hellos(self)) {
            if was != hello {
                self.leave_time_to_hold_again(now, uuid);
                self.out.push(Action::Greet { uuid, hello });
            }
        }
    }
}

/// What needs a restart stays what it is, so that the next reload is compared with that. The keys that differ.
fn keep_fixed(old: &Config, new: &mut Config) -> Vec<&'static str> {
    let keys = [
        ("host.name", old.me.name == new.me.name),
        ("host.libvirt", old.me.libvirt == new.me.libvirt),
        ("paths.socket", old.socket == new.socket),
        ("paths.state", old.state == new.state),
        ("aliases.key_file", old.alias_key_file == new.alias_key_file),
        ("debug.record_links", old.record_links == new.record_links),
        ("link.listen", old.link.listen == new.link.listen),
    ];
    new.link.listen = old.link.listen;
    new.me.link = old.me.link;
    new.me.name.clone_from(&old.me.name);
    new.me.libvirt.clone_from(&old.me.libvirt);
    new.socket.clone_from(&old.socket);
    new.state.clone_from(&old.state);
    new.alias_key_file.clone_from(&old.alias_key_file);
    new.record_links.clone_from(&old.record_links);
    differing(&keys)
}

/// The parts that differ, by their names in the file.
fn changed(old: &Config, new: &Config) -> Vec<&'static str> {
    differing(&[
        ("host", old.me == new.me),
        ("hosts", old.peers == new.peers),
        ("guests.enabled", old.enabled == new.enabled),
        ("limits", old.limits == new.limits),
        ("notice", old.notices == new.notices),
        ("random", old.random == new.random),
        ("encryption", old.encryption == new.encryption),
        ("storage", old.storage == new.storage),
        ("regions", old.regions == new.regions),
        ("distances", old.distances == new.distances),
        ("link", old.link == new.link),
        ("host.migration_interface", old.migration_interface == new.migration_interface),
        ("network", old.network == new.network),
        ("access", old.access == new.access),
    ])
}

fn differing(parts: &[(&'static str, bool)]) -> Vec<&'static str> {
    parts.iter().filter(|(_, same)| !same).map(|(part, _)| *part).collect()
}
