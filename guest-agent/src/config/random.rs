//! Moves at random times, as the customer wants them.

use super::check::{Bad, Checked, bad};
use coms_protocol::gap::Gaps;
use coms_protocol::types::GapLaw;
use coms_protocol::words::seconds;
use serde::{Deserialize, Serialize};

/// Move me at random times: what the host is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RandomMoves {
    /// How gaps are drawn.
    pub law: GapLaw,
    /// Shortest gap in seconds.
    pub least_s: u32,
    /// Longest gap in seconds.
    pub most_s: u32,
    /// Fewer within 24 hours than the operator allows.
    pub most_per_day: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    between: String,
    #[serde(default = "exponential")]
    law: String,
    max_per_day: Option<u64>,
}

fn exponential() -> String {
    GapLaw::Exponential.name().to_owned()
}

pub(super) fn checked(raw: Raw) -> Checked<RandomMoves> {
    let (least_s, most_s) = between(&raw.between).map_err(|what| Bad {
        key: "random.between".to_owned(),
        what: format!("is \"{}\"; {what}", raw.between),
    })?;
    let law = gap_law(&raw.law).map_err(|what| Bad { key: "random.law".to_owned(), what })?;
    let most_per_day = match raw.max_per_day {
        None => None,
        Some(n) => match u16::try_from(n) {
            Ok(n) if n > 0 => Some(n),
            Ok(_) | Err(_) => {
                return bad("random.max_per_day", format!("is {n}; must be from 1 to {}", u16::MAX));
            }
        },
    };
    Ok(RandomMoves { law, least_s, most_s, most_per_day })
}

/// `5m..10m` in seconds.
pub fn between(text: &str) -> Result<(u32, u32), String> {
    let wanted = || "write it like 5m..10m, the shorter gap first".to_owned();
    let (least, most) = text.split_once("..").ok_or_else(wanted)?;
    let (least_s, most_s) = (seconds(least.trim())?, seconds(most.trim())?);
    // Not whether the host allows it: it says so itself.
    Gaps::new(GapLaw::Uniform, least_s, most_s).map(|_| (least_s, most_s)).ok_or_else(wanted)
}

/// A law by its name.
pub fn gap_law(name: &str) -> Result<GapLaw, String> {
    let known = GapLaw::KNOWN.iter().copied().find(|law| law.name() == name);
    known.ok_or_else(|| {
        let names: Vec<_> = GapLaw::KNOWN.iter().map(|law| law.name()).collect();
        format!("\"{}\" is no law; must be {}", name.escape_debug(), names.join(" or "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_units_and_a_width() {
        assert_eq!(between("5m..10m"), Ok((300, 600)));
        assert_eq!(between("20s .. 50s"), Ok((20, 50)));
        for wrong in ["", "5m", "10m..5m", "5m..5m", "5..10", "0s..5s", "..5m"] {
            assert!(between(wrong).is_err(), "{wrong}");
        }
    }
}
