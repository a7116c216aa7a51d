//! What brokers ask each other directly, and what is asked of the operator's network step (docs/network-step.md).

use coms_protocol::types::MigrationId;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use uuid::Uuid;

/// Network cards of one VM that are looked at.
pub const INTERFACES: usize = 16;

/// Stretched bridges that a sign of life tells of.
pub const STRETCHED: usize = 16;

/// The way between two hosts, as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LinkFigures {
    pub rtt_ms: f64,
    pub rate_mib_s: f64,
}

/// One network card of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub mac: String,
    /// The host's bridge that it is plugged into; of the same name on all hosts.
    pub bridge: Option<String>,
}

pub fn is_bridge(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

impl Interface {
    /// None for a MAC that is none. A bridge whose name no kernel would take is as good as none.
    pub fn new(mac: &str, bridge: Option<&str>) -> Option<Self> {
        let parts: Vec<&str> = mac.split(':').collect();
        let is_byte = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
        (parts.len() == 6 && parts.iter().all(is_byte)).then(|| Self {
            mac: mac.to_ascii_lowercase(),
            bridge: bridge.filter(|name| is_bridge(name)).map(str::to_owned),
        })
    }

    /// A card of which nothing is known but that it is there.
    pub fn unknown() -> Self {
        Self { mac: "00:00:00:00:00:00".to_owned(), bridge: None }
    }

    /// As another host says it: as good as if it had been read here, or None.
    fn checked(&self) -> Option<Self> {
        Self::new(&self.mac, self.bridge.as_deref()).filter(|new| new.bridge == self.bridge)
    }
}

/// What the step is called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// At the source, before anything moves.
    Prepare,
    /// At the destination, after that.
    Receive,
    /// The move does not take place: as before.
    Undo,
    /// The VM is back, or nowhere any more.
    Release,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Receive => "receive",
            Self::Undo => "undo",
            Self::Release => "release",
        }
    }
}

/// One end of a stretched network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub name: String,
    pub site: Option<String>,
    pub address: IpAddr,
}

/// What the step reads on its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepInput {
    pub vm: Uuid,
    pub migration: MigrationId,
    pub interfaces: Vec<Interface>,
    /// The host on which it runs.
    pub here: End,
    pub there: End,
}

/// Why a step, or another broker, did not do it. For the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepError {
    /// It may work later.
    pub later: bool,
    pub text: String,
}

/// A network that is stretched for a VM, as one of its ends knows it. Kept across restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// This is the end at which the VM is at home.
    pub home: bool,
    /// `migration` is the move that it was made for.
    pub input: StepInput,
    pub stage: Stage,
    /// The step by which it was made, should the configuration name none any more.
    pub command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// This end is being made, or the other one; the VM has not been sent.
    Making,
    Up,
    /// This end is being taken down.
    Ending(Verb),
}

/// What a broker asks another one to do at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAsk {
    /// `receive` or `undo`.
    pub verb: Verb,
    pub vm: Uuid,
    pub migration: MigrationId,
    pub interfaces: Vec<Interface>,
    /// As the one who asks knows both ends: its own, and the one that is asked. Compared, and not used.
    pub here: End,
    pub there: End,
}

impl PeerAsk {
    /// It is believed no further than this.
    pub fn checked(self) -> Option<Self> {
        let may_be_asked = match self.verb {
            Verb::Receive | Verb::Undo => true,
            Verb::Prepare | Verb::Release => false,
        };
        let few = self.interfaces.len() <= INTERFACES;
        let interfaces: Option<Vec<_>> = self.interfaces.iter().map(Interface::checked).collect();
        interfaces.filter(|_| may_be_asked && few).map(|interfaces| Self { interfaces, ..self })
    }
}

/// Names another broker that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerCaller(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_host_says_of_interfaces_is_checked() {
        let good = Interface::new("52:54:00:AA:bb:01", Some("br0")).unwrap();
        assert_eq!((good.mac.as_str(), good.bridge.as_deref()), ("52:54:00:aa:bb:01", Some("br0")));
        assert_eq!(Interface::new("52:54:00:aa:bb", None), None);
        assert_eq!(Interface::new("52:54:00:aa:bb:0g", None), None);
        for bridge in ["", "-b", "../x", "a b", "sixteen-letters-", "b;reboot"] {
            assert_eq!(Interface::new(&good.mac, Some(bridge)).unwrap().bridge, None, "{bridge}");
        }
        let end = |n: u8| End { name: format!("h{n}"), site: None, address: [10, 0, 0, n].into() };
        let (vm, migration) = (Uuid::nil(), MigrationId(1));
        let ask = |verb, interfaces| PeerAsk { verb, vm, migration, interfaces, here: end(1), there: end(2) };
        assert!(ask(Verb::Receive, vec![good.clone(); INTERFACES]).checked().is_some());
        assert!(ask(Verb::Receive, vec![good.clone(); INTERFACES + 1]).checked().is_none());
        assert!(ask(Verb::Prepare, vec![good.clone()]).checked().is_none());
        let bad = Interface { bridge: Some("$(x)".into()), ..good };
        assert!(ask(Verb::Undo, vec![bad]).checked().is_none());
    }
}
