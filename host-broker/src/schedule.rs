//! The schedule of a VM's random moves: what travels with it in its domain's metadata, beside the ticket and apart
//! from it, so that it outlives the broker and every move. The guest never sees it. Numbers only.
//!
//! ```xml
//! <coms:random xmlns:coms='urn:coms:random:1' v='1' on='yes' law='0' least_s='300' most_s='600' most_per_day='100'
//!   host='uuid' next_unix_ms='…' made='497221:11 497222:3'/>
//! ```
//! `next_unix_ms` counts only at the host that it was drawn for: the VM that stands at another has arrived since, and
//! its next gap is drawn there (libvirt admits no change while it moves). `made` counts moves by the hour since 1970.

use coms_protocol::gap::Gaps;
use coms_protocol::types::GapLaw;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use uuid::Uuid;

/// The metadata namespace.
pub const NAMESPACE: &str = "urn:coms:random:1";

const HOUR_MS: u64 = 3_600_000;
/// A day begins anywhere within an hour: 24 whole ones and the rest of another.
const HOURS: u64 = 25;

/// What the guest asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub law: GapLaw,
    pub least_s: u32,
    pub most_s: u32,
    pub most_per_day: Option<u16>,
}

impl Terms {
    pub fn gaps(&self) -> Option<Gaps> {
        Gaps::new(self.law, self.least_s, self.most_s)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Stopped ones are kept as long as there are moves to count: stopping does not fill the budget.
    pub on: bool,
    pub terms: Terms,
    /// libvirt's UUID of the host that the next move was drawn for.
    pub host: Uuid,
    /// None: no move is due.
    pub next_unix_ms: Option<u64>,
    pub made: Made,
}

/// Moves of the last 24 hours, counted by the hour. Never too few: of the oldest hour, all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made(BTreeMap<u64, u16>);

impl Made {
    pub fn add(&mut self, unix_ms: u64) {
        self.forget(unix_ms);
        let count = self.0.entry(unix_ms / HOUR_MS).or_default();
        *count = count.saturating_add(1);
    }

    pub fn count(&self, unix_ms: u64) -> u16 {
        let hours = self.0.iter().filter(|(hour, _)| counts(**hour, unix_ms));
        hours.fold(0, |all: u16, (_, n)| all.saturating_add(*n))
    }

    pub fn forget(&mut self, unix_ms: u64) {
        self.0.retain(|hour, _| counts(*hour, unix_ms));
    }
}

/// Hours to come are those of a clock that was set back since: they count until they are past.
fn counts(hour: u64, unix_ms: u64) -> bool {
    let now = unix_ms / HOUR_MS;
    hour.saturating_add(HOURS) > now && hour < now.saturating_add(HOURS)
}

/// Why a text is no schedule of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    #[error("the schedule of random moves is no XML: {0}")]
    Xml(String),
    #[error("in the schedule of random moves `{0}` is missing or out of shape")]
    Field(&'static str),
}

impl Schedule {
    pub fn to_xml(&self) -> String {
        let mut out = format!(
            "<random v='1' on='{}' law='{}' least_s='{}' most_s='{}' host='{}'",
            if self.on { "yes" } else { "no" },
            self.terms.law.number(),
            self.terms.least_s,
            self.terms.most_s,
            self.host,
        );
        // Writing to a String cannot fail.
        if let Some(n) = self.terms.most_per_day {
            let _ = write!(out, " most_per_day='{n}'");
        }
        if let Some(at) = self.next_unix_ms {
            let _ = write!(out, " next_unix_ms='{at}'");
        }
        let made: Vec<_> = self.made.0.iter().map(|(hour, n)| format!("{hour}:{n}")).collect();
        let _ = write!(out, " made='{}'/>", made.join(" "));
        out
    }

    pub fn from_xml(text: &str) -> Result<Self, ScheduleError> {
        let doc = roxmltree::Document::parse(text).map_err(|e| ScheduleError::Xml(e.to_string()))?;
        let node = doc.root_element();
        if node.tag_name().name() != "random" {
            return Err(ScheduleError::Field("random"));
        }
        fn field<T: std::str::FromStr>(
            node: roxmltree::Node<'_, '_>,
            name: &'static str,
        ) -> Result<T, ScheduleError> {
            node.attribute(name).and_then(|v| v.parse().ok()).ok_or(ScheduleError::Field(name))
        }
        fn optional<T: std::str::FromStr>(
            node: roxmltree::Node<'_, '_>,
            name: &'static str,
        ) -> Result<Option<T>, ScheduleError> {
            node.attribute(name).map(|_| field(node, name)).transpose()
        }
        if field::<u16>(node, "v")? != 1 {
            return Err(ScheduleError::Field("v"));
        }
        let made = node.attribute("made").ok_or(ScheduleError::Field("made"))?;
        let hour = |word: &str| {
            let (hour, n) = word.split_once(':')?;
            Some((hour.parse().ok()?, n.parse().ok()?))
        };
        // More than it ever holds is nothing that it wrote.
        let made: Option<BTreeMap<u64, u16>> =
            made.split_ascii_whitespace().take(2 * HOURS as usize).map(hour).collect();
        let terms = Terms {
            law: GapLaw::from_number(field(node, "law")?),
            least_s: field(node, "least_s")?,
            most_s: field(node, "most_s")?,
            most_per_day: optional(node, "most_per_day")?,
        };
        if terms.gaps().is_none() {
            return Err(ScheduleError::Field("most_s"));
        }
        Ok(Schedule {
            on: node.attribute("on") == Some("yes"),
            terms,
            host: field(node, "host")?,
            next_unix_ms: optional(node, "next_unix_ms")?,
            made: Made(made.ok_or(ScheduleError::Field("made"))?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(on: bool, law in 0u16..2, least in 1u32..1000, width in 1u32..100_000,
                                    most: Option<u16>, host: u128, next: Option<u64>,
                                    made in prop::collection::btree_map(0u64..1_000_000, 1u16..5000, 0..26)) {
            let schedule = Schedule {
                on,
                terms: Terms {
                    law: GapLaw::from_number(law), least_s: least, most_s: least + width, most_per_day: most,
                },
                host: Uuid::from_u128(host),
                next_unix_ms: next,
                made: Made(made),
            };
            prop_assert_eq!(Schedule::from_xml(&schedule.to_xml()), Ok(schedule));
        }

        #[test]
        fn never_panics(text in ".{0,200}") { let _ = Schedule::from_xml(&text); }

        /// Of all moves, whenever they were made, those of the last 24 hours are counted, and none older than 25.
        #[test]
        fn a_day_is_never_counted_short(mut at_s in prop::collection::vec(0u64..300_000, 0..200)) {
            at_s.sort_unstable();
            at_s.dedup();
            let mut made = Made::default();
            for s in &at_s {
                made.add(s * 1000);
                let within = |h: u64| at_s.iter().filter(|t| *t <= s && **t + h * 3600 > *s).count();
                let counted = usize::from(made.count(s * 1000));
                prop_assert!(counted >= within(24) && counted <= within(25), "{counted}");
            }
            prop_assert!(made.0.len() <= HOURS as usize);
        }
    }

    #[test]
    fn refuses_what_it_would_not_write() {
        let good = "<random v='1' on='yes' law='0' least_s='20' most_s='50' \
                    host='00000000-0000-0000-0000-000000000001' made='1:2'/>";
        assert!(Schedule::from_xml(good).is_ok());
        for (from, to, field) in [
            ("random v", "ticket v", "random"),
            ("v='1'", "v='2'", "v"),
            ("most_s='50'", "most_s='20'", "most_s"),
            ("law='0'", "law='7'", "most_s"),
            ("made='1:2'", "made='1'", "made"),
            ("least_s='20'", "", "least_s"),
        ] {
            assert_eq!(Schedule::from_xml(&good.replace(from, to)), Err(ScheduleError::Field(field)), "{to}");
        }
    }
}
