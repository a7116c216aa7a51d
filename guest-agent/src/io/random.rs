//! Numbers that no other agent, and no earlier life of this one, has drawn.
//!
//! Not the `rand` crate, though the broker uses it: in a static binary its system source falls back to waiting
//! for `/dev/random` to become readable, and in a VM without a hardware generator nothing makes it so: the agent
//! would hang at boot, for good. The standard library's hasher keys come from the same kernel generator and
//! never wait. These numbers must be unique and need not be secret; clock and pid go in for the case that the
//! generator was cloned with the VM.

use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

/// A new one at each call.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one((SystemTime::now(), std::process::id()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_number_comes_twice() {
        let numbers: std::collections::BTreeSet<u64> = (0..1000).map(|_| super::random()).collect();
        assert_eq!(numbers.len(), 1000);
    }
}
