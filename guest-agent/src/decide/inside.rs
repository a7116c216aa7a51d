//! Moves that nobody tells of, seen from inside: the host's alias is another one, and no `completed` comes; or the
//! clock here fell behind the same host's by more than any reading error, so this VM stood still or a clock was set.

use super::host::{Ending, record_json};
use super::{Agent, fields};
use crate::action::Audience;
use crate::state::Outcome;
use coms_protocol::session::Now;
use coms_protocol::types::Place;
use serde_json::json;
use std::time::Duration;

/// A broker tells of an arrival before this is over, or does not know of it.
const TOLD_WITHIN: Duration = Duration::from_secs(20);
/// A step below this is no event.
const STEP_US: i128 = 50_000;
/// The word of why, in the history.
const SEEN: &str = "seen-from-inside";

/// Another host, and nobody has said why yet.
#[derive(Debug)]
pub(super) struct Unexplained {
    from: Place,
    to: Place,
    due: Duration,
}

impl Agent {
    /// The host's hello names this place. The one before stays remembered until it is known, or told, how the guest
    /// came to this one: also over a restart.
    pub(super) fn see_place(&mut self, now: Now, place: &Place) {
        self.unexplained = match &self.state.place {
            None => {
                self.come_to(place);
                None
            }
            Some(former) if former.alias == place.alias => None,
            Some(former) => {
                let due = self.unexplained.take().map_or(now.mono + TOLD_WITHIN, |u| u.due);
                Some(Unexplained { from: former.clone(), to: place.clone(), due })
            }
        };
    }

    fn come_to(&mut self, place: &Place) {
        self.unsaved |= self.state.place.replace(place.clone()).as_ref() != Some(place);
    }

    /// The host said how the guest came to this place.
    pub(super) fn explained(&mut self, to: &Place) {
        self.unexplained.take_if(|u| u.to.alias == to.alias);
        self.come_to(to);
        // What was only seen is what is told of now.
        let seen = |r: &crate::state::Record| {
            r.why.as_deref() == Some(SEEN) && r.to.as_ref().is_some_and(|t| t.alias == to.alias)
        };
        if self.state.history.back().is_some_and(seen) {
            self.state.history.pop_back();
        }
    }

    pub(super) fn settle_unexplained(&mut self, now: Now) {
        let Some(seen) = self.unexplained.take_if(|u| u.due <= now.mono) else { return };
        self.come_to(&seen.to);
        let stood = self.clocks.stood();
        let to_ms = |us: i128| us as f64 / 1000.0;
        let end = Ending {
            why: Some(SEEN.to_owned()),
            from: Some(seen.from),
            to: Some(seen.to),
            ..Ending::of(Outcome::Completed)
        };
        let mut told = record_json(&self.remember(now, None, end));
        told.extend(fields(json!({
            "guest_gap_ms": stood.map(|s| to_ms(s.gap_us)),
            "guest_gap_error_ms": stood.map(|s| to_ms(s.error_us)),
        })));
        self.tell_all("moved_unannounced", told);
    }

    pub(super) fn unexplained_timeout(&self) -> Option<Duration> {
        self.unexplained.as_ref().map(|u| u.due)
    }

    /// The same host's clock and this one's have parted all at once.
    pub(super) fn clock_stepped(&mut self, by_us: i128) {
        if by_us.abs() < STEP_US {
            return;
        }
        let told = json!({ "host_ahead_by_ms": by_us as f64 / 1000.0 });
        self.tell("clock_stepped", fields(told), Audience::Everybody);
    }
}
