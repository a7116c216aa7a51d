//! The seal: in the metadata of a VM whose moves are to be encrypted, beside the ticket and apart from it, so that it
//! goes along with the VM, outlives every broker, and can be seen by libvirt's hook where the VM arrives
//! (`hook.rs`). Numbers and names of hosts only.
//!
//! ```xml
//! <coms:seal xmlns:coms='urn:coms:seal:1' v='1' level='0' wish='0' at='h2,h3'
//!   to='h2' issued_unix_ms='…' expires_unix_ms='…' mac='…'/>
//! ```
//! `level` holds for every move, `wish` is the part of it that the guest asked for; to the hosts in `at` moves must be
//! encrypted whatever the level, as the operator's rules for hosts and links want it. The rest is the *waybill*: the
//! source's broker writes it just before an encrypted move to one host, and takes it back when that failed; where it
//! succeeded, the destination's does.

use coms_protocol::types::EncryptionLevel;
use std::fmt::Write as _;
use uuid::Uuid;

/// The metadata namespace.
pub const NAMESPACE: &str = "urn:coms:seal:1";

/// Hosts' clocks agree to about so much (ARCHITECTURE.md, "Time").
const CLOCKS_MS: u64 = 60_000;
/// No host's name is longer.
const NAME: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// What holds for every move of the VM, whoever begins it.
    pub level: EncryptionLevel,
    /// The guest's own wish.
    pub wish: EncryptionLevel,
    /// Hosts to which it is required, where it is not everywhere.
    pub at: Vec<String>,
    pub waybill: Option<Waybill>,
}

/// Leave for one encrypted move to one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waybill {
    /// The destination, by its name in the pool's configurations.
    pub to: String,
    pub issued_unix_ms: u64,
    pub expires_unix_ms: u64,
    /// Shows that it was written by a broker of the pool; none where the pool has no common secret.
    pub mac: Option<[u8; 32]>,
}

/// By which the brokers of one pool know their waybills.
#[derive(Clone)]
pub struct WaybillKey(pub [u8; 32]);

/// Why a text is no seal of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the seal is no XML: {0}")]
    Xml(String),
    #[error("the seal's `{0}` is missing or out of shape")]
    Field(&'static str),
}

/// Why a waybill does not let a VM in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it has no waybill: the move was not begun by a broker, or is not encrypted")]
    NoWaybill,
    #[error("its waybill is for the host `{0}`")]
    ForAnother(String),
    #[error("its waybill has expired, or the hosts' clocks differ by more than a minute")]
    NotNow,
    #[error(
        "its waybill is not signed with this host's secret: [aliases] key_file must be the same on both hosts"
    )]
    NotOurs,
}

impl Waybill {
    /// For this VM to this host, signed where there is a key.
    pub fn issue(key: Option<&WaybillKey>, vm: Uuid, to: &str, now_unix_ms: u64, lasts_ms: u64) -> Self {
        let mut bill = Self {
            to: to.to_owned(),
            issued_unix_ms: now_unix_ms,
            expires_unix_ms: now_unix_ms.saturating_add(lasts_ms),
            mac: None,
        };
        bill.mac = key.map(|key| *bill.code(key, vm).as_bytes());
        bill
    }

    fn code(&self, key: &WaybillKey, vm: Uuid) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&key.0);
        // The name is last: the rest has a fixed length, so no two waybills are the same bytes.
        hasher.update(vm.as_bytes());
        hasher.update(&self.issued_unix_ms.to_le_bytes());
        hasher.update(&self.expires_unix_ms.to_le_bytes());
        hasher.update(self.to.as_bytes());
        hasher.finalize()
    }

    /// Whether it lets this VM into this host now. Without a key only what it says counts.
    pub fn admits(
        &self,
        key: Option<&WaybillKey>,
        vm: Uuid,
        me: &str,
        now_unix_ms: u64,
    ) -> Result<(), Refused> {
        if self.to != me {
            return Err(Refused::ForAnother(self.to.clone()));
        }
        let begun = self.issued_unix_ms <= now_unix_ms.saturating_add(CLOCKS_MS);
        let over = self.expires_unix_ms.saturating_add(CLOCKS_MS) < now_unix_ms;
        if !begun || over {
            return Err(Refused::NotNow);
        }
        match key {
            None => Ok(()),
            // blake3 compares hashes in constant time.
            Some(key) if self.mac.map(blake3::Hash::from_bytes) == Some(self.code(key, vm)) => Ok(()),
            Some(_) => Err(Refused::NotOurs),
        }
    }
}

/// Encrypted, or not moved. A level that is not known counts as that.
pub fn is_required(level: EncryptionLevel) -> bool {
    match level {
        EncryptionLevel::Never | EncryptionLevel::IfPossible => false,
        EncryptionLevel::Required | EncryptionLevel::Unknown(_) => true,
    }
}

impl Seal {
    /// Every move of the VM to this host must be encrypted.
    pub fn requires(&self, to: &str) -> bool {
        is_required(self.level) || self.at.iter().any(|host| host == to)
    }

    /// Nothing is to be judged, at whichever host.
    pub fn requires_nothing(&self) -> bool {
        !is_required(self.level) && self.at.is_empty()
    }

    /// Whether this VM may arrive here so: anybody's move if nothing is required here, else one with a waybill.
    pub fn admits(
        &self,
        key: Option<&WaybillKey>,
        vm: Uuid,
        me: &str,
        now_unix_ms: u64,
    ) -> Result<(), Refused> {
        if !self.requires(me) {
            return Ok(());
        }
        self.waybill.as_ref().ok_or(Refused::NoWaybill)?.admits(key, vm, me, now_unix_ms)
    }

    pub fn to_xml(&self) -> String {
        let mut out = format!("<seal v='1' level='{}' wish='{}'", self.level.number(), self.wish.number());
        // A host's name is letters, digits, dots, dashes, underscores; writing to a String cannot fail.
        if !self.at.is_empty() {
            let _ = write!(out, " at='{}'", self.at.join(","));
        }
        if let Some(bill) = &self.waybill {
            let _ = write!(
                out,
                " to='{}' issued_unix_ms='{}' expires_unix_ms='{}'",
                bill.to, bill.issued_unix_ms, bill.expires_unix_ms
            );
            if let Some(mac) = bill.mac {
                let _ = write!(out, " mac='{}'", blake3::Hash::from_bytes(mac).to_hex());
            }
        }
        out.push_str("/>");
        out
    }

    pub fn from_xml(text: &str) -> Result<Self, SealError> {
        let doc = roxmltree::Document::parse(text).map_err(|e| SealError::Xml(e.to_string()))?;
        Self::from_node(doc.root_element())
    }

    /// From the element as it stands in a domain's XML.
    pub fn from_node(node: roxmltree::Node<'_, '_>) -> Result<Self, SealError> {
        fn field<T: std::str::FromStr>(
            node: roxmltree::Node<'_, '_>,
            name: &'static str,
        ) -> Result<T, SealError> {
            node.attribute(name).and_then(|v| v.parse().ok()).ok_or(SealError::Field(name))
        }
        if node.tag_name().name() != "seal" {
            return Err(SealError::Field("seal"));
        }
        if field::<u16>(node, "v")? != 1 {
            return Err(SealError::Field("v"));
        }
        let at = node.attribute("at").map_or(Some(Vec::new()), |hosts| {
            hosts.split(',').map(|host| is_host(host).then(|| host.to_owned())).collect()
        });
        let waybill = match node.attribute("to") {
            None => None,
            Some(to) if is_host(to) => Some(Waybill {
                to: to.to_owned(),
                issued_unix_ms: field(node, "issued_unix_ms")?,
                expires_unix_ms: field(node, "expires_unix_ms")?,
                mac: match node.attribute("mac") {
                    None => None,
                    Some(hex) => {
                        let hash = blake3::Hash::from_hex(hex).map_err(|_| SealError::Field("mac"))?;
                        Some(*hash.as_bytes())
                    }
                },
            }),
            Some(_) => return Err(SealError::Field("to")),
        };
        Ok(Self {
            level: EncryptionLevel::from_number(field(node, "level")?),
            wish: EncryptionLevel::from_number(field(node, "wish")?),
            at: at.ok_or(SealError::Field("at"))?,
            waybill,
        })
    }
}

fn is_host(name: &str) -> bool {
    (1..=NAME).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VM: Uuid = Uuid::from_u128(7);
    const NOW: u64 = 1_800_000_000_000;

    fn sealed(waybill: Option<Waybill>) -> Seal {
        Seal { level: EncryptionLevel::Required, wish: EncryptionLevel::Required, at: Vec::new(), waybill }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(level in 0u16..4, wish in 0u16..4, key: Option<[u8; 32]>,
                                    to in "[a-z0-9._-]{1,64}", at: u64, hosts in prop::collection::vec("[a-z0-9._-]{1,64}", 0..4), lasts in 0u64..1_000_000, with: bool) {
            let key = key.map(WaybillKey);
            let seal = Seal {
                level: EncryptionLevel::from_number(level),
                wish: EncryptionLevel::from_number(wish),
                at: hosts,
                waybill: with.then(|| Waybill::issue(key.as_ref(), VM, &to, at, lasts)),
            };
            prop_assert_eq!(Seal::from_xml(&seal.to_xml()), Ok(seal));
        }

        #[test]
        fn never_panics(text in ".{0,200}") { let _ = Seal::from_xml(&text); }
    }

    #[test]
    fn a_waybill_lets_one_vm_into_one_host_for_a_while() {
        let (key, other) = (WaybillKey([1; 32]), WaybillKey([2; 32]));
        let bill = Waybill::issue(Some(&key), VM, "h2", NOW, 600_000);
        let admits =
            |vm, me: &str, key: Option<&WaybillKey>, now| sealed(Some(bill.clone())).admits(key, vm, me, now);
        for now in [NOW - 59_000, NOW, NOW + 600_000, NOW + 659_000] {
            assert_eq!(admits(VM, "h2", Some(&key), now), Ok(()));
        }
        assert_eq!(admits(VM, "h2", None, NOW), Ok(()), "no secret, nothing to compare");
        assert_eq!(admits(VM, "h2", Some(&other), NOW), Err(Refused::NotOurs));
        assert_eq!(admits(Uuid::from_u128(8), "h2", Some(&key), NOW), Err(Refused::NotOurs));
        assert_eq!(admits(VM, "h3", Some(&key), NOW), Err(Refused::ForAnother("h2".into())));
        for now in [NOW - 61_000, NOW + 661_000] {
            assert_eq!(admits(VM, "h2", Some(&key), now), Err(Refused::NotNow));
        }
        let unsigned = Waybill { mac: None, ..bill.clone() };
        assert_eq!(sealed(Some(unsigned)).admits(Some(&key), VM, "h2", NOW), Err(Refused::NotOurs));
        let longer = Waybill { expires_unix_ms: u64::MAX, ..bill };
        assert_eq!(sealed(Some(longer)).admits(Some(&key), VM, "h2", NOW), Err(Refused::NotOurs));
    }

    #[test]
    fn only_what_is_required_needs_a_waybill() {
        assert_eq!(sealed(None).admits(None, VM, "h2", NOW), Err(Refused::NoWaybill));
        let level = |level| Seal { level, ..sealed(None) };
        assert_eq!(level(EncryptionLevel::Unknown(9)).admits(None, VM, "h2", NOW), Err(Refused::NoWaybill));
        for weak in [EncryptionLevel::Never, EncryptionLevel::IfPossible] {
            assert_eq!(level(weak).admits(None, VM, "h2", NOW), Ok(()));
            let at = Seal { at: vec!["h2".into(), "h3".into()], ..level(weak) };
            assert_eq!(at.admits(None, VM, "h3", NOW), Err(Refused::NoWaybill));
            assert_eq!(at.admits(None, VM, "h4", NOW), Ok(()));
            let waybill = Some(Waybill::issue(None, VM, "h3", NOW, 1));
            assert_eq!(Seal { waybill, ..at }.admits(None, VM, "h3", NOW), Ok(()));
        }
    }

    #[test]
    fn refuses_what_it_would_not_write() {
        let good = sealed(Some(Waybill::issue(Some(&WaybillKey([1; 32])), VM, "h2", NOW, 1))).to_xml();
        assert!(Seal::from_xml(&good).is_ok());
        for (from, to, field) in [
            ("seal v", "ticket v", "seal"),
            ("v='1'", "v='2'", "v"),
            ("level='2'", "", "level"),
            ("wish='2'", "wish='two'", "wish"),
            ("to='h2'", "to='h 2'", "to"),
            ("to='h2'", "at='h3,,h4' to='h2'", "at"),
            ("mac='", "mac='x", "mac"),
            ("expires_unix_ms", "expires", "expires_unix_ms"),
        ] {
            assert_eq!(Seal::from_xml(&good.replacen(from, to, 1)), Err(SealError::Field(field)), "{to}");
        }
    }
}
