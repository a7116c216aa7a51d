//! When moves are welcome: weekly ranges in a time zone. Pure but for the zone's rules, which are read once.
//!
//! A range is meant by the clock on the wall. Where daylight saving leaves an hour out, a range that would begin or end
//! in it does so right behind it; where an hour comes twice, a range that begins in it begins the first time, and one
//! that ends in it ends the second time. So whenever the wall shows a time of the range, the range holds.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

const MAX_RANGES: usize = 16;
const DAY_MIN: u16 = 24 * 60;
/// Ranges repeat each week; one that is left out by daylight saving comes a week later.
const AHEAD_DAYS: i64 = 15;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Windows as they are typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Windows {
    /// A name of the time zone database, or a POSIX rule; absent: the machine's.
    pub time_zone: Option<String>,
    /// Only then; none: always.
    pub welcome: Vec<String>,
    /// Not then, whatever `welcome` says.
    pub unwelcome: Vec<String>,
    /// The rules for slow workloads may ask at any time.
    pub ask_outside: bool,
}

/// Windows as they are used.
#[derive(Debug, Clone, PartialEq)]
pub struct Calendar {
    zone: TimeZone,
    welcome: Vec<Range>,
    unwelcome: Vec<Range>,
    /// As they were typed.
    pub text: Windows,
}

/// On these days, from this minute to that one; beyond 24 h it is the next day's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    days: [bool; 7],
    from: u16,
    to: u16,
}

impl Calendar {
    /// Reads it. The error names the key and what would be right.
    pub fn new(text: &Windows) -> Result<Self, (&'static str, String)> {
        let ranges = |key: &'static str, all: &[String]| -> Result<Vec<Range>, (&'static str, String)> {
            if all.len() > MAX_RANGES {
                return Err((key, format!("there are {} ranges; at most {MAX_RANGES}", all.len())));
            }
            all.iter().map(|r| range(r).map_err(|e| (key, e))).collect()
        };
        let calendar = Self {
            zone: zone(text.time_zone.as_deref()).map_err(|e| ("time_zone", e))?,
            welcome: ranges("welcome", &text.welcome)?,
            unwelcome: ranges("unwelcome", &text.unwelcome)?,
            text: text.clone(),
        };
        if calendar.never_open() {
            let what = "leaves no minute of the week in which a move is welcome; leave some";
            return Err(("unwelcome", what.to_owned()));
        }
        Ok(calendar)
    }

    /// It says nothing.
    pub fn is_empty(&self) -> bool {
        self.welcome.is_empty() && self.unwelcome.is_empty()
    }

    fn never_open(&self) -> bool {
        let covers = |ranges: &[Range], day: usize, minute: u16| {
            ranges.iter().any(|r| {
                let yesterday = (day + 6) % 7;
                r.days[day] && (r.from..r.to).contains(&minute)
                    || r.days[yesterday] && (r.from..r.to).contains(&(minute + DAY_MIN))
            })
        };
        let open = |day: usize, minute: u16| {
            (self.welcome.is_empty() || covers(&self.welcome, day, minute))
                && !covers(&self.unwelcome, day, minute)
        };
        !(0..7).any(|day| (0..DAY_MIN).any(|minute| open(day, minute)))
    }

    /// Moves are welcome at this moment.
    pub fn is_open(&self, unix_ms: u64) -> bool {
        self.look(unix_ms).is_open(unix_ms)
    }

    /// When moves are welcome next, from this moment on.
    pub fn next_open(&self, unix_ms: u64) -> Option<u64> {
        let seen = self.look(unix_ms);
        std::iter::once(unix_ms).chain(seen.edges(unix_ms)).find(|at| seen.is_open(*at))
    }

    /// When that changes next.
    pub fn next_change(&self, unix_ms: u64) -> Option<u64> {
        let seen = self.look(unix_ms);
        let now = seen.is_open(unix_ms);
        seen.edges(unix_ms).find(|at| seen.is_open(*at) != now)
    }

    fn look(&self, unix_ms: u64) -> Seen {
        Seen {
            welcome: (!self.welcome.is_empty()).then(|| self.intervals(&self.welcome, unix_ms)),
            unwelcome: self.intervals(&self.unwelcome, unix_ms),
        }
    }

    /// The ranges as moments, for the days around this one.
    fn intervals(&self, ranges: &[Range], unix_ms: u64) -> Vec<(u64, u64)> {
        let Some(today) = self.date(unix_ms) else { return Vec::new() };
        let mut out = Vec::new();
        for offset in -2..=AHEAD_DAYS {
            let Ok(date) = today.checked_add(offset.days()) else { continue };
            let weekday = usize::try_from(date.weekday().to_monday_zero_offset()).unwrap_or(0);
            for r in ranges.iter().filter(|r| r.days.get(weekday) == Some(&true)) {
                let from = self.moment(date, r.from, false);
                let to = self.moment(date, r.to, true);
                out.extend(from.zip(to).filter(|(from, to)| from < to));
            }
        }
        out
    }

    fn date(&self, unix_ms: u64) -> Option<Date> {
        let at = Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()?;
        Some(self.zone.to_datetime(at).date())
    }

    /// The moment at which the wall shows this minute of this day.
    fn moment(&self, date: Date, minute: u16, ends: bool) -> Option<u64> {
        let date = date.checked_add(i64::from(minute / DAY_MIN).days()).ok()?;
        let minute = minute % DAY_MIN;
        let time = Time::new(i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?, 0, 0).ok()?;
        let wall = self.zone.to_ambiguous_timestamp(DateTime::from_parts(date, time));
        let at = match wall.offset() {
            AmbiguousOffset::Unambiguous { .. } => wall.compatible().ok()?,
            AmbiguousOffset::Fold { .. } if ends => wall.later().ok()?,
            AmbiguousOffset::Fold { .. } => wall.earlier().ok()?,
            // Right behind what is left out: where the zone's rules change.
            AmbiguousOffset::Gap { .. } => {
                self.zone.following(wall.earlier().ok()?).next().map(|t| t.timestamp())?
            }
        };
        u64::try_from(at.as_millisecond()).ok()
    }

    /// A moment as people type it, in this calendar's zone: `2026-11-22T03:00:00Z`, `2026-11-22 03:00`, or `03:00` for
    /// the next time that the wall shows it.
    pub fn moment_of(&self, text: &str, now_unix_ms: u64) -> Result<u64, String> {
        let wrong =
            || format!("\"{text}\": write it like 03:00, \"2026-11-22 03:00\" or 2026-11-22T03:00:00+01:00");
        if let Ok(exact) = text.parse::<Timestamp>() {
            return u64::try_from(exact.as_millisecond()).map_err(|_| wrong());
        }
        let of = |wall: DateTime| {
            let at = self.zone.to_ambiguous_timestamp(wall).compatible().ok()?;
            u64::try_from(at.as_millisecond()).ok()
        };
        if text.contains('-') {
            return text.parse::<DateTime>().ok().and_then(of).ok_or_else(wrong);
        }
        let time = text.parse::<Time>().map_err(|_| wrong())?;
        let today = self.date(now_unix_ms).ok_or_else(wrong)?;
        let days = (0..3i64).filter_map(|n| today.checked_add(n.days()).ok());
        days.filter_map(|d| of(DateTime::from_parts(d, time))).find(|at| *at > now_unix_ms).ok_or_else(wrong)
    }

    /// A moment as the wall shows it.
    pub fn wall(&self, unix_ms: u64) -> String {
        let at = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        at.map_or_else(
            || "unknown".to_owned(),
            |t| t.to_zoned(self.zone.clone()).strftime("%a %Y-%m-%d %H:%M %:z").to_string(),
        )
    }
}

/// Intervals of moments.
struct Seen {
    /// None: always.
    welcome: Option<Vec<(u64, u64)>>,
    unwelcome: Vec<(u64, u64)>,
}

impl Seen {
    fn is_open(&self, at: u64) -> bool {
        let within = |all: &[(u64, u64)]| all.iter().any(|(from, to)| (*from..*to).contains(&at));
        self.welcome.as_deref().is_none_or(within) && !within(&self.unwelcome)
    }

    /// Every moment at which something may change, from this one on, in order.
    fn edges(&self, from: u64) -> impl Iterator<Item = u64> + use<> {
        let all = self.welcome.iter().flatten().chain(&self.unwelcome);
        let mut edges: Vec<_> = all.flat_map(|(a, b)| [*a, *b]).filter(|at| *at >= from).collect();
        edges.sort_unstable();
        edges.into_iter()
    }
}

fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    let Some(name) = name else {
        return Ok(TimeZone::try_system().unwrap_or(TimeZone::UTC));
    };
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).or_else(|_| TimeZone::posix(name)).map_err(|_| {
        format!(
            "is \"{}\", which /usr/share/zoneinfo does not have; write it like \"Europe/Berlin\", \"UTC\", or as a rule \
             like \"CET-1CEST,M3.5.0,M10.5.0/3\"",
            name.escape_debug()
        )
    })
}

/// `mon-fri 22:00-06:00`, `sat,sun 00:00-24:00`, `daily 02:00-04:00`.
fn range(text: &str) -> Result<Range, String> {
    let wrong = || {
        format!(
            "has \"{}\"; write it like \"mon-fri 22:00-06:00\", \"sat,sun 00:00-24:00\" or \"daily 02:00-04:00\"",
            text.escape_debug()
        )
    };
    let lower = text.trim().to_ascii_lowercase();
    let (on, times) = lower.split_once(char::is_whitespace).ok_or_else(wrong)?;
    let mut days = [on == "daily"; 7];
    for part in on.split(',').filter(|_| on != "daily") {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let index = |name: &str| DAYS.iter().position(|d| *d == name).ok_or_else(wrong);
        let (first, last) = (index(first)?, index(last)?);
        for n in 0..=(last + 7 - first) % 7 {
            days[(first + n) % 7] = true;
        }
    }
    let (from, to) = times.trim().split_once('-').ok_or_else(wrong)?;
    let (from, mut to) = (minute(from).ok_or_else(wrong)?, minute(to).ok_or_else(wrong)?);
    if from == DAY_MIN || from == to {
        return Err(wrong());
    }
    if to < from {
        to += DAY_MIN;
    }
    Ok(Range { days, from, to })
}

/// Minutes since midnight, up to 24:00.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let two =
        |t: &str| (t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit())).then(|| t.parse::<u16>().ok());
    let (hours, minutes) = (two(hours)??, two(minutes)??);
    let all = hours * 60 + minutes;
    (minutes < 60 && all <= DAY_MIN).then_some(all)
}

#[cfg(test)]
mod tests;
