//! Why a VM's network cannot be stretched to a host, as far as that is known beforehand.

use super::super::Broker;
use crate::config::Host;
use crate::network::{INTERFACES, Interface, STRETCHED, Stage};
use std::collections::BTreeSet;
use uuid::Uuid;

impl Broker {
    /// Why a VM could not be reached at this host, if so.
    pub(in crate::decide) fn cut_off(&self, uuid: Uuid, there: &Host) -> Option<String> {
        let away_from = self.stretches.get(&uuid).filter(|h| !h.stretch.home && h.stretch.stage == Stage::Up);
        if let Some(held) = away_from {
            let home = &held.stretch.input.there;
            let at = home.site.as_deref().unwrap_or("another site");
            let text = format!("its network is stretched to here from {at}: it moves back there, or stays");
            return (there.site != home.site).then_some(text);
        }
        if there.site == self.config.me.site {
            return None;
        }
        if self.config.network.is_none() {
            let right = "the two share no network, and [network] step names nothing that stretches it";
            return Some(right.to_owned());
        }
        let interfaces = self.interfaces(uuid);
        self.not_stretched(&interfaces).or_else(|| self.stretched_beside(&interfaces))
    }

    /// For the other hosts of this site to see.
    pub(in crate::decide) fn stretched_bridges(&self) -> Vec<String> {
        let interfaces = self.stretches.values().flat_map(|h| &h.stretch.input.interfaces);
        let bridges: BTreeSet<&String> = interfaces.filter_map(|i| i.bridge.as_ref()).collect();
        bridges.into_iter().take(STRETCHED).cloned().collect()
    }

    /// Another host of this site that has one of these bridges stretched already: a second stretch could be a loop.
    pub(super) fn stretched_beside(&self, interfaces: &[Interface]) -> Option<String> {
        if !self.config.network.as_ref()?.one_per_site {
            return None;
        }
        let beside = self.config.peers.iter().filter(|p| p.site == self.config.me.site);
        for peer in beside {
            // Also as it was when a host that is silent now was last seen: its network may be up.
            let Some(mark) = self.hosts.get(&peer.name).and_then(|h| h.latest()?.broker.as_ref()) else {
                continue;
            };
            let mut bridges = interfaces.iter().filter_map(|i| i.bridge.as_ref());
            if let Some(bridge) = bridges.find(|b| mark.stretched.contains(b)) {
                let host = &peer.name;
                return Some(format!(
                    "{host} of the same site has {bridge} stretched; a second time, it could be a loop"
                ));
            }
        }
        None
    }

    /// Why a VM with these cards cannot take its network along.
    pub(super) fn not_stretched(&self, interfaces: &[Interface]) -> Option<String> {
        let allowed = self.config.network.as_ref().map(|n| n.bridges.as_slice()).unwrap_or_default();
        if interfaces.len() > INTERFACES {
            return Some(format!("it has more than {INTERFACES} network cards"));
        }
        let other = interfaces.iter().filter_map(|i| i.bridge.as_ref()).find(|b| !allowed.contains(b))?;
        let here = &self.config.me.name;
        Some(format!("its bridge {other} is none of [network] bridges of {here}"))
    }
}
