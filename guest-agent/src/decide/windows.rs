//! When moves are welcome.

use super::Agent;

impl Agent {
    pub(super) fn has_windows(&self) -> bool {
        false
    }

    /// Moves are not welcome at this moment; when they are next, if ever.
    pub(super) fn closed_until(&self, _unix_ms: u64) -> Option<Option<u64>> {
        None
    }
}
