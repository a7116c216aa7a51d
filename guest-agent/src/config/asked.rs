//! Who is asked about moves without code of its own, and how much notice the customer wants in any case.

use super::check::{Bad, Checked, bad, between};
use coms_protocol::types::Text;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;

const MAX_ASKED: usize = 16;

/// Commands that run before and after a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The customer's name for it.
    pub name: String,
    /// Runs at the notice: exit code 0 is ready, [`Asked::HOLD`] is hold.
    pub before: Option<Vec<String>>,
    /// Runs when the move ended, however it did.
    pub after: Option<Vec<String>>,
    /// What runs longer is killed, with its children, and is no reason to wait.
    pub timeout: Duration,
    /// The longest that it may hold a move, beyond its timeout.
    pub hold: Duration,
    /// From a hold to the next try.
    pub retry: Duration,
}

impl Asked {
    /// The exit code that means hold: EX_TEMPFAIL of sysexits.h. Any other is no reason to wait, so that a broken
    /// script does not delay anything.
    pub const HOLD: i32 = 75;
}

#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawNotice {
    pub least_s: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    name: String,
    before: Option<Vec<String>>,
    after: Option<Vec<String>>,
    #[serde(default = "thirty")]
    timeout_s: u64,
    #[serde(default = "sixty")]
    hold_s: u64,
    #[serde(default = "five")]
    retry_s: u64,
}

fn thirty() -> u64 {
    30
}
fn sixty() -> u64 {
    60
}
fn five() -> u64 {
    5
}

pub(super) fn least(raw: &RawNotice) -> Checked<Duration> {
    between("notice.least_s", raw.least_s, 0, 3600).map(Duration::from_secs)
}

pub(super) fn checked(raw: Vec<Raw>) -> Checked<Vec<Asked>> {
    if raw.len() > MAX_ASKED {
        return bad("asked", format!("there are {}; at most {MAX_ASKED}", raw.len()));
    }
    let all = raw.into_iter().map(asked).collect::<Checked<Vec<_>>>()?;
    let mut names = BTreeSet::new();
    for a in &all {
        if !names.insert(&a.name) {
            return bad("asked.name", format!("\"{}\" is used twice; give each its own", a.name));
        }
    }
    Ok(all)
}

fn asked(raw: Raw) -> Checked<Asked> {
    if raw.name.is_empty() || Text::<64>::clipped(&raw.name).as_str() != raw.name {
        return bad("asked.name", "must be 1 to 64 bytes of text without control characters");
    }
    let key = |k: &str| format!("asked \"{}\": {k}", raw.name);
    for (which, command) in [("before", &raw.before), ("after", &raw.after)] {
        let what = match command.as_deref().map(<[String]>::first) {
            None => continue,
            Some(Some(program)) if program.starts_with('/') => continue,
            Some(Some(program)) => {
                format!("begins with \"{program}\"; must be a program's whole path, beginning with /")
            }
            Some(None) => "is empty; must be a program and its arguments".to_owned(),
        };
        return Err(Bad { key: key(which), what });
    }
    if raw.before.is_none() && raw.after.is_none() {
        return bad(&key("before"), "there is neither before nor after; give at least one command");
    }
    let timeout = Duration::from_secs(between(&key("timeout_s"), raw.timeout_s, 1, 3600)?);
    let hold = Duration::from_secs(between(&key("hold_s"), raw.hold_s, 0, 3600)?);
    let retry = Duration::from_secs(between(&key("retry_s"), raw.retry_s, 1, 3600)?);
    Ok(Asked { name: raw.name, before: raw.before, after: raw.after, timeout, hold, retry })
}
