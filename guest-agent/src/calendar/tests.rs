use super::*;
use proptest::prelude::*;

/// Berlin's rule, without the machine's tables.
const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

fn calendar(welcome: &[&str], unwelcome: &[&str]) -> Result<Calendar, (&'static str, String)> {
    let own = |all: &[&str]| all.iter().map(|r| (*r).to_owned()).collect();
    Calendar::new(&Windows {
        time_zone: Some(BERLIN.to_owned()),
        welcome: own(welcome),
        unwelcome: own(unwelcome),
        ask_outside: false,
    })
}

fn at(text: &str) -> u64 {
    u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
}

#[test]
fn nights_run_over_midnight_and_only_on_their_days() {
    let c = calendar(&["mon-fri 22:00-06:00"], &[]).unwrap();
    // 2026-11-20 is a Friday; Berlin is one hour ahead.
    assert!(!c.is_open(at("2026-11-20T20:59:00Z")));
    assert!(c.is_open(at("2026-11-20T21:00:00Z")));
    assert!(c.is_open(at("2026-11-21T04:59:00Z")), "Friday's night ends on Saturday");
    assert!(!c.is_open(at("2026-11-21T05:00:00Z")));
    assert!(!c.is_open(at("2026-11-21T22:00:00Z")), "Saturday has none");
    assert_eq!(c.next_open(at("2026-11-21T05:00:00Z")), Some(at("2026-11-23T21:00:00Z")));
    assert_eq!(c.next_change(at("2026-11-20T21:30:00Z")), Some(at("2026-11-21T05:00:00Z")));
    // Sunday into Monday, over the week's end.
    let c = calendar(&["sun 23:00-01:00"], &[]).unwrap();
    assert!(c.is_open(at("2026-11-22T23:30:00Z")));
}

#[test]
fn a_moment_inside_a_window_is_the_next_at_which_it_is_open() {
    let c = calendar(&["daily 22:00-06:00"], &[]).unwrap();
    let inside = at("2026-11-20T22:30:00Z");
    assert_eq!(c.next_open(inside), Some(inside));
}

#[test]
fn unwelcome_outranks_welcome() {
    let c = calendar(&["daily 00:00-24:00"], &["mon 08:00-12:00", "tue-mon 09:00-10:00"]).unwrap();
    assert!(!c.is_open(at("2026-11-23T10:30:00Z")));
    assert_eq!(c.next_open(at("2026-11-23T07:30:00Z")), Some(at("2026-11-23T11:00:00Z")));
    assert!(calendar(&["mon 08:00-12:00"], &["mon 08:00-12:00"]).is_err(), "never open");
    assert!(calendar(&[], &["daily 00:00-24:00"]).is_err());
    assert!(calendar(&["sat 22:00-06:00"], &["sat 22:00-24:00", "sun 00:00-05:59"]).is_ok(), "one minute");
}

#[test]
fn an_hour_that_is_left_out_and_one_that_comes_twice() {
    // 2026-03-29: at 01:00Z the wall goes from 02:00 to 03:00.
    let c = calendar(&["sun 02:30-04:00"], &[]).unwrap();
    assert_eq!(c.next_open(at("2026-03-28T12:00:00Z")), Some(at("2026-03-29T01:00:00Z")), "right behind it");
    assert_eq!(c.next_change(at("2026-03-29T01:00:00Z")), Some(at("2026-03-29T02:00:00Z")));
    let c = calendar(&["sun 01:00-02:30"], &[]).unwrap();
    assert_eq!(c.next_change(at("2026-03-29T00:30:00Z")), Some(at("2026-03-29T01:00:00Z")));
    let c = calendar(&["sun 02:10-02:50"], &[]).unwrap();
    assert_eq!(c.next_open(at("2026-03-28T12:00:00Z")), Some(at("2026-04-05T00:10:00Z")), "a week later");
    // 2026-10-25: at 01:00Z the wall goes from 03:00 back to 02:00.
    let c = calendar(&["sun 02:30-04:00"], &[]).unwrap();
    assert_eq!(c.next_open(at("2026-10-24T12:00:00Z")), Some(at("2026-10-25T00:30:00Z")), "the first time");
    assert_eq!(
        c.next_change(at("2026-10-25T00:30:00Z")),
        Some(at("2026-10-25T03:00:00Z")),
        "without a break"
    );
    let c = calendar(&["sun 01:00-02:30"], &[]).unwrap();
    assert_eq!(
        c.next_change(at("2026-10-24T23:30:00Z")),
        Some(at("2026-10-25T01:30:00Z")),
        "the second time"
    );
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_would_be_right() {
    for wrong in [
        "",
        "mon",
        "mon 8:00-12:00",
        "mon 08:00",
        "mon 24:00-24:00",
        "mon 08:00-08:00",
        "mo 08:00-09:00",
        "mon 08:60-09:00",
        "mon 08:00-25:00",
        "mon- 08:00-09:00",
        "daily,mon 08:00-09:00",
    ] {
        let (key, what) = calendar(&[wrong], &[]).unwrap_err();
        assert!(key == "welcome" && what.contains("mon-fri 22:00-06:00"), "{wrong}: {what}");
    }
    let windows = Windows { time_zone: Some("Mars/Olympus".into()), ..Windows::default() };
    assert!(Calendar::new(&windows).unwrap_err().1.contains("Europe/Berlin"));
}

#[test]
fn moments_as_people_type_them() {
    let c = calendar(&[], &[]).unwrap();
    let now = at("2026-11-21T15:30:00Z");
    assert_eq!(c.moment_of("17:00", now), Ok(at("2026-11-21T16:00:00Z")));
    assert_eq!(c.moment_of("16:00", now), Ok(at("2026-11-22T15:00:00Z")), "tomorrow's");
    assert_eq!(c.moment_of("2026-12-01 03:00", now), Ok(at("2026-12-01T02:00:00Z")));
    assert_eq!(c.moment_of("2026-12-01T03:00:00Z", now), Ok(at("2026-12-01T03:00:00Z")));
    assert!(c.moment_of("tomorrow", now).unwrap_err().contains("03:00"));
    assert_eq!(c.wall(now), "Sat 2026-11-21 16:30 +01:00");
}

proptest! {
    #[test]
    fn the_wall_decides_where_it_is_clear(minutes in 0..60 * 24 * 400u64, from in 0..1440u64, len in 1..1440u64) {
        let to = (from + len) % 1440;
        let text = format!("daily {:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60);
        let c = calendar(&[&text], &[]).unwrap();
        let now = at("2026-01-01T00:00:00Z") + minutes * 60_000;
        let wall = c.zone.to_datetime(Timestamp::from_millisecond(i64::try_from(now).unwrap()).unwrap());
        let shown = u64::try_from(wall.hour()).unwrap() * 60 + u64::try_from(wall.minute()).unwrap();
        let within = (shown + 1440 - from) % 1440 < len;
        // Open whenever the wall says so; beyond that only in the hour that comes twice.
        if within { prop_assert!(c.is_open(now)); }
        let fold = wall.month() == 10 && wall.day() >= 25 && wall.hour() <= 3;
        if !within && !fold { prop_assert!(!c.is_open(now), "{} {}", text, wall); }
        let next = c.next_open(now).unwrap();
        prop_assert!(next >= now && c.is_open(next));
    }
}
