//! How a Nagios check went: from its exit code and its figures to a reading.
//!
//! ```text
//!   0 OK, 1 WARNING   what was measured counts
//!   2 CRITICAL        counts too, if the latency itself is what the check finds critical: slow is not broken;
//!                     otherwise a failure
//!   3 UNKNOWN, other  a failure: nothing was measured
//! ```

use crate::config::Figures;
use crate::perfdata::{self, Figure};
use crate::reading::{Problem, Reading, plain};
use std::time::Duration;

/// How its process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It did not within this time, and was killed.
    TimedOut(Duration),
    /// It could not be started.
    NotStarted(Problem),
}

/// What the launcher ends with when the program cannot be run; as a shell does.
pub const CANNOT_RUN: i32 = 126;
/// The same when there is none.
pub const NOT_FOUND: i32 = 127;

/// What mends a program that cannot be run.
const MEND_RUN: &str = "is the path right, and may its user (see [run] user) read and execute it? \
                        coms plugin check looks; by hand: sudo -u USER COMMAND";

/// The end of a program that was to run on, and what to do about it.
pub fn ended(how: &str, code: Option<i32>) -> Problem {
    let mend = match code {
        Some(CANNOT_RUN | NOT_FOUND) => MEND_RUN,
        Some(_) | None => "a plugin of kind execd stays until its standard input ends or it gets SIGTERM",
    };
    Problem::new(how, mend)
}

/// What a check said.
pub fn understand(exit: &Exit, stdout: &[u8], cut: bool, wanted: &Figures) -> Reading {
    let output = perfdata::parse(stdout);
    let said = if output.text.is_empty() { "it printed nothing" } else { output.text.as_str() };
    let mut reading = Reading { problems: output.problems.clone(), ..Reading::default() };
    if cut {
        reading.problems.push(Problem::new(
            format!("it printed more than {} bytes; the rest was cut off", super::bounds::MAX_OUTPUT),
            "a check prints a line or a few",
        ));
    }
    let code = match exit {
        Exit::Code(code) => *code,
        Exit::Signal(n) => {
            reading.failed = Some(plain(&format!("signal {n} ended it; {said}")));
            return reading;
        }
        Exit::TimedOut(limit) => {
            reading.failed = Some(format!("no answer within {} ms", limit.as_millis()));
            return reading;
        }
        Exit::NotStarted(why) => {
            reading.failed = Some(plain(&format!("cannot be started: {}", why.what)));
            reading.problems.push(why.clone());
            return reading;
        }
    };
    match code {
        0 => figures(&output.figures, wanted, &mut reading),
        1 => {
            figures(&output.figures, wanted, &mut reading);
            reading.note("exit code 1 (WARNING): what was measured counts all the same");
        }
        2 => {
            if latency(&output.figures, wanted).is_some_and(Figure::is_critical) {
                figures(&output.figures, wanted, &mut reading);
                reading.note(
                    "exit code 2 (CRITICAL), and the latency violates its own critical range: it is slow, not broken, \
                     and counts",
                );
            } else {
                reading.failed = Some(plain(&format!("CRITICAL: {said}")));
            }
        }
        3 => reading.failed = Some(plain(&format!("UNKNOWN: {said}"))),
        CANNOT_RUN | NOT_FOUND => {
            reading.failed = Some(plain(&format!("exit code {code}: cannot be run; {said}")));
            reading.problems.push(Problem::new("the program cannot be run", MEND_RUN));
        }
        other => {
            reading.failed = Some(plain(&format!("exit code {other}: {said}")));
            reading.problems.push(Problem::new(
                format!("exit code {other} is none of a Nagios check"),
                "0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN",
            ));
        }
    }
    reading
}

/// The figure that is the latency: the named one, or the first that has a unit of time.
fn latency<'a>(figures: &'a [Figure], wanted: &Figures) -> Option<&'a Figure> {
    match &wanted.latency {
        Some(label) => figures.iter().find(|f| f.label == *label),
        None => figures.iter().find(|f| f.seconds().is_some()),
    }
}

fn figures(figures: &[Figure], wanted: &Figures, reading: &mut Reading) {
    let labels = || {
        let labels: Vec<_> = figures.iter().take(16).map(|f| format!("{}={}", f.label, f.unit)).collect();
        if labels.is_empty() {
            "it printed none".to_owned()
        } else {
            plain(&format!("it printed {}", labels.join(" ")))
        }
    };
    match latency(figures, wanted) {
        Some(figure) => match figure.seconds() {
            Some(seconds) => reading.set_latency(seconds, &figure.label),
            None if figure.value.is_none() => {}
            None => reading.problems.push(Problem::new(
                format!("{} has the unit \"{}\", which is none of time", figure.label, figure.unit),
                "s, ms, us or ns right behind the number",
            )),
        },
        // Throughput may be all that is wanted.
        None if wanted.throughput.is_some() && wanted.latency.is_none() => {}
        None => reading.problems.push(Problem::new(
            match &wanted.latency {
                Some(label) => format!("there is no performance data {label}"),
                None => "no performance data has a unit of time".to_owned(),
            },
            format!("set latency to one of its labels; {}", labels()),
        )),
    }
    let mut value = |label: &Option<String>| {
        let label = label.as_deref()?;
        match figures.iter().find(|f| f.label == label) {
            Some(figure) => figure.value.filter(|v| *v >= 0.0),
            None => {
                reading
                    .problems
                    .push(Problem::new(format!("there is no performance data {label}"), labels()));
                None
            }
        }
    };
    let (throughput, requests, errors) =
        (value(&wanted.throughput), value(&wanted.requests), value(&wanted.errors));
    (reading.throughput_per_s, reading.requests, reading.errors) = (throughput, requests, errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: i32, stdout: &str) -> Reading {
        understand(&Exit::Code(code), stdout.as_bytes(), false, &Figures::default())
    }

    #[test]
    fn ok_and_warning_measure() {
        assert_eq!(check(0, "OK|size=5B time=0.012s").latency_us, Some(12_000));
        let warning = check(1, "WARN|time=300ms;100;500");
        assert_eq!((warning.latency_us, warning.problems.len()), (Some(300_000), 0));
        assert!(warning.notes[0].contains("WARNING"), "{warning:?}");
        let idle = check(0, "OK|time=U");
        assert_eq!((idle.latency_us, idle.failed), (None, None), "unknown is not wrong");
    }

    #[test]
    fn critical_by_its_own_latency_is_slow_and_any_other_is_a_failure() {
        assert_eq!(check(2, "HTTP CRITICAL|time=6.1s;1;5").latency_us, Some(6_100_000));
        let broken = check(2, "HTTP CRITICAL: 500 Internal Server Error|time=0.003s;1;5");
        assert_eq!((broken.latency_us, broken.failed.is_some()), (None, true));
        let refused = check(2, "connect to address 127.0.0.1 and port 81: Connection refused");
        assert!(refused.failed.unwrap().contains("Connection refused"));
    }

    #[test]
    fn what_did_not_work_is_told() {
        assert!(check(3, "no such host").failed.unwrap().starts_with("UNKNOWN: no such host"));
        assert_eq!(check(127, "").problems.len(), 1);
        assert_eq!(check(42, "").problems.len(), 1);
        let none = Figures::default();
        let of = |exit| understand(&exit, b"", false, &none).failed.unwrap();
        assert!(of(Exit::Signal(11)).contains("signal 11"));
        assert!(of(Exit::NotStarted(Problem::new("no user x", "name one"))).contains("no user x"));
        assert!(ended("exit status: 127", Some(127)).mend.contains("path"));
        assert!(ended("exit status: 1", Some(1)).mend.contains("stays"));
        assert!(of(Exit::TimedOut(Duration::from_secs(5))).contains("5000 ms"));
    }

    #[test]
    fn a_figure_that_is_missing_is_named_with_those_that_are_there() {
        let r = check(0, "LOAD OK|load1=0.16;15;30 load5=0.3");
        assert!(r.problems[0].mend.contains("load1= load5="), "{r:?}");
        let wanted =
            Figures { throughput: Some("tps".into()), errors: Some("err".into()), ..Figures::default() };
        let r = understand(&Exit::Code(0), b"OK|tps=250", true, &wanted);
        assert_eq!((r.throughput_per_s, r.problems.len()), (Some(250.0), 2), "{r:?}");
        let wanted = Figures { latency: Some("size".into()), ..Figures::default() };
        let r = understand(&Exit::Code(0), b"OK|size=5B", false, &wanted);
        assert!(r.problems[0].what.contains("unit \"B\""), "{r:?}");
    }
}
