//! The hello. Frozen: every agent and broker that will ever exist must be able to read this much of it.
//!
//! ```text
//!   header   message 0 · from epoch · to epoch (0: I do not know you) · seq 0 · ack 0
//!   payload  "COMS" · min version u16 LE · max version u16 LE · body
//! ```
//!
//! The body is the sender's [`GuestHello`](crate::guest_to_host::GuestHello) or
//! [`HostHello`](crate::host_to_guest::HostHello): postcard, read from its front; bytes behind what the
//! reader knows are left unread, which is how a hello may grow.

use crate::session::Epoch;

/// First bytes of a hello's payload.
pub const MAGIC: [u8; 4] = *b"COMS";

/// What a hello says of the languages its sender speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// Oldest version understood.
    pub min: u16,
    /// Newest version understood.
    pub max: u16,
}

impl Versions {
    /// What this build speaks.
    pub const OURS: Versions = Versions { min: crate::MIN_VERSION, max: crate::VERSION };

    /// The newest version both understand.
    pub fn common(self, other: Versions) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min && newest >= other.min).then_some(newest)
    }
}

/// A hello's payload.
pub fn encode(versions: Versions, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&versions.min.to_le_bytes());
    out.extend_from_slice(&versions.max.to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// Reads a hello's payload: versions and body. None: not a hello of ours, or a range that is none.
pub fn decode(payload: &[u8]) -> Option<(Versions, &[u8])> {
    let rest = payload.strip_prefix(&MAGIC)?;
    let (min, rest) = rest.split_first_chunk::<2>()?;
    let (max, body) = rest.split_first_chunk::<2>()?;
    let versions = Versions { min: u16::from_le_bytes(*min), max: u16::from_le_bytes(*max) };
    (versions.min <= versions.max).then_some((versions, body))
}

/// In a header's `to`: the sender has not heard from the receiver yet.
pub const NOBODY: Epoch = Epoch(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_wins() {
        let v = |min, max| Versions { min, max };
        assert_eq!(v(1, 3).common(v(2, 9)), Some(3));
        assert_eq!(v(1, 3).common(v(1, 1)), Some(1));
        assert_eq!(v(1, 3).common(v(4, 9)), None);
        assert_eq!(v(5, 5).common(v(1, 4)), None);
    }

    #[test]
    fn reads_back_what_it_wrote_and_refuses_the_rest() {
        let payload = encode(Versions { min: 1, max: 7 }, b"body");
        assert_eq!(decode(&payload), Some((Versions { min: 1, max: 7 }, &b"body"[..])));
        for cut in 0..8 {
            assert_eq!(decode(&payload[..cut]), None);
        }
        assert_eq!(decode(b"SMOC\x01\0\x01\0"), None);
        assert_eq!(decode(b"COMS\x02\0\x01\0"), None, "min above max");
    }
}
