//! This machine's clock.

use super::{Finding, ok, warn};

/// `kept`: whether something keeps it right, as the kernel says.
pub(super) fn check(kept: Option<bool>) -> Finding {
    let remedy =
        "timedatectl set-ntp true, or install chrony; times in the log and after a move depend on it";
    match kept {
        Some(true) => ok("clock", "it is kept right"),
        Some(false) => {
            warn("clock", "nothing keeps this machine's clock right: the kernel says unsynchronised", remedy)
        }
        None => warn("clock", "the kernel does not say whether the clock is kept right", remedy),
    }
}
