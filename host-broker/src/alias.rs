//! What a guest may know a host by: an alias keyed per guest, so that two guests cannot find out from theirs
//! whether they share a host.

use crate::seal::WaybillKey;
use coms_protocol::types::Text;
use uuid::Uuid;

/// The pool's secret. The same on all hosts, or a guest sees other aliases after each move.
#[derive(Clone)]
pub struct AliasKey([u8; 32]);

impl AliasKey {
    pub fn new(secret: &[u8]) -> Self {
        Self(blake3::derive_key("coms 2026 host alias per guest", secret))
    }

    /// By which brokers of one pool know each other.
    pub fn link_key(&self) -> [u8; 32] {
        blake3::derive_key("coms 2026 link between brokers", &self.0)
    }

    /// By which they know their waybills.
    pub fn waybill_key(&self) -> WaybillKey {
        WaybillKey(blake3::derive_key("coms 2026 waybill of an encrypted move", &self.0))
    }

    /// Forty bits: two hosts of one pool get the same alias once in many million guests.
    pub fn alias(&self, guest: Uuid, host: &str) -> Text<32> {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(guest.as_bytes()).update(host.as_bytes());
        let hex = hasher.finalize().to_hex();
        Text::clipped(&format!("host-{}", &hex[..10]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_for_a_guest_and_different_for_the_next() {
        let (key, other) = (AliasKey::new(b"a"), AliasKey::new(b"b"));
        let (g1, g2) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(key.alias(g1, "h1"), key.alias(g1, "h1"));
        assert_ne!(key.alias(g1, "h1"), key.alias(g1, "h2"));
        assert_ne!(key.alias(g1, "h1"), key.alias(g2, "h1"));
        assert_ne!(key.alias(g1, "h1"), other.alias(g1, "h1"));
        assert!(!key.alias(g1, "h1").as_str().contains("h1"));
    }
}
