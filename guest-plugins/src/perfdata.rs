//! What a Nagios check prints: a text for people, and behind `|` figures for machines.
//!
//! ```text
//!   PING OK - rta 0.5 ms|rta=0.5ms;100;500;0 'lost packets'=0%;40;80
//!   more text for people
//!   and more |'the figures'=go on
//!   'here'=0,012s;;@5:10
//! ```
//!
//! Any bytes come in; what cannot be read is skipped and said.

use crate::reading::{Problem, plain};

/// Figures that are read; the rest is not looked at.
pub const MAX_FIGURES: usize = 256;
/// Problems that are told.
const MAX_PROBLEMS: usize = 8;

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Its name, without quotes.
    pub label: String,
    /// None: `U`, the check could not tell.
    pub value: Option<f64>,
    /// As it was printed: s, ms, %, B, c, or anything.
    pub unit: String,
    /// Alert in or out of this range.
    pub warn: Option<Range>,
    /// The same, worse.
    pub crit: Option<Range>,
    /// The least that can be.
    pub min: Option<f64>,
    /// The most that can be.
    pub max: Option<f64>,
}

impl Figure {
    /// In seconds, if its unit is one of time.
    pub fn seconds(&self) -> Option<f64> {
        let factor = match self.unit.as_str() {
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        self.value.map(|v| v * factor)
    }

    /// The check's own critical range is what this figure violates.
    pub fn is_critical(&self) -> bool {
        self.value.zip(self.crit).is_some_and(|(v, range)| range.alerts(v))
    }
}

/// A threshold: alert outside of it, or inside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// From here on; -∞ for `~`.
    pub start: f64,
    /// Up to here.
    pub end: f64,
    /// `@`: alert inside instead of outside.
    pub inside: bool,
}

impl Range {
    /// Whether this value is one to alert about.
    pub fn alerts(&self, value: f64) -> bool {
        let within = (self.start..=self.end).contains(&value);
        within == self.inside
    }

    fn parse(text: &str) -> Option<Self> {
        let (inside, text) = text.strip_prefix('@').map_or((false, text), |t| (true, t));
        let (start, end) = text.split_once(':').map_or((None, text), |(s, e)| (Some(s), e));
        let start = match start {
            None | Some("") => 0.0,
            Some("~") => f64::NEG_INFINITY,
            Some(n) => whole(n)?,
        };
        let end = if end.is_empty() { f64::INFINITY } else { whole(end)? };
        (start <= end).then_some(Self { start, end, inside })
    }
}

/// What a check printed, taken apart.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// The first line's text.
    pub text: String,
    /// The figures.
    pub figures: Vec<Figure>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// Takes apart what a check printed.
pub fn parse(bytes: &[u8]) -> Output {
    let all = String::from_utf8_lossy(bytes);
    let mut out = Output::default();
    if bytes.contains(&0) || std::str::from_utf8(bytes).is_err() {
        out.problems.push(Problem::new(
            "the output is not text (UTF-8)",
            "print text only; run it with LC_ALL=C.UTF-8",
        ));
    }
    let mut lines = all.lines();
    let (text, first) = lines.next().map_or(("", None), split_bar);
    out.text = plain(text);
    figures(first.unwrap_or(""), &mut out);
    // Behind the first line comes text until a bar, and figures to the end.
    let mut behind_bar = false;
    for line in lines {
        if behind_bar {
            figures(line, &mut out);
        } else if let (_, Some(data)) = split_bar(line) {
            behind_bar = true;
            figures(data, &mut out);
        }
    }
    out.problems.truncate(MAX_PROBLEMS);
    out
}

fn split_bar(line: &str) -> (&str, Option<&str>) {
    line.split_once('|').map_or((line, None), |(text, data)| (text, Some(data)))
}

fn figures(mut rest: &str, out: &mut Output) {
    loop {
        rest = rest.trim_start();
        if rest.is_empty() || out.figures.len() >= MAX_FIGURES {
            return;
        }
        let (label, after) = match label(rest) {
            Ok(found) => found,
            Err((why, after)) => {
                complain(out, rest, why);
                rest = after;
                continue;
            }
        };
        let end = after.find(char::is_whitespace).unwrap_or(after.len());
        let (data, after) = after.split_at(end);
        rest = after;
        match figure(label, data) {
            Ok(figure) => out.figures.push(figure),
            Err(why) => complain(out, data, why),
        }
    }
}

fn complain(out: &mut Output, at: &str, why: &str) {
    if out.problems.len() < MAX_PROBLEMS {
        let shown = plain(&at.chars().take(40).collect::<String>());
        out.problems.push(Problem::new(
            format!("performance data at \"{shown}\": {why}"),
            "'label'=value[unit];[warn];[crit];[min];[max], separated by spaces",
        ));
    }
}

/// The label and what is behind its `=`; or why there is none, and where to go on.
fn label(rest: &str) -> Result<(String, &str), (&'static str, &str)> {
    let skip = |from: &'_ str| from.find(char::is_whitespace).unwrap_or(from.len());
    if let Some(quoted) = rest.strip_prefix('\'') {
        let mut label = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            if c != '\'' {
                label.push(c);
            } else if quoted[at + 1..].starts_with('\'') {
                // Two quotes are one.
                label.push('\'');
                chars.next();
            } else {
                let after = &quoted[at + 1..];
                return after
                    .strip_prefix('=')
                    .map(|data| (label, data))
                    .ok_or(("there is no = behind the label", &after[skip(after)..]));
            }
        }
        return Err(("a quote is not closed", ""));
    }
    let end = skip(rest);
    match rest[..end].split_once('=') {
        Some(("", _)) => Err(("the label is empty", &rest[end..])),
        Some((label, _)) => Ok((label.to_owned(), &rest[label.len() + 1..])),
        None => Err(("there is no =", &rest[end..])),
    }
}

fn figure(label: String, data: &str) -> Result<Figure, &'static str> {
    let mut fields = data.split(';');
    let value = fields.next().unwrap_or("");
    let (value, unit) = if value == "U" {
        (None, "")
    } else {
        let (number, unit) = number(value).ok_or("the value is no number")?;
        (Some(number), unit)
    };
    let mut field = || fields.next().filter(|f| !f.is_empty());
    // Thresholds that cannot be read are as good as none: the value counts.
    let (warn, crit) = (field().and_then(Range::parse), field().and_then(Range::parse));
    let (min, max) = (field().and_then(whole), field().and_then(whole));
    let unit = plain(unit);
    Ok(Figure { label: plain(&label), value, unit, warn, crit, min, max })
}

/// A number that is all of the text; checks print thresholds with their unit now and then.
fn whole(text: &str) -> Option<f64> {
    number(text).filter(|(_, rest)| rest.chars().all(|c| c.is_alphabetic() || c == '%')).map(|(n, _)| n)
}

/// The number at the beginning, and what follows it.
fn number(text: &str) -> Option<(f64, &str)> {
    let bytes = text.as_bytes();
    let mut end = usize::from(matches!(bytes.first(), Some(b'-' | b'+')));
    while matches!(bytes.get(end), Some(b'0'..=b'9' | b'.' | b',')) {
        end += 1;
    }
    let digits_end = end;
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
        let mut exponent = end + 1 + sign;
        while bytes.get(exponent).is_some_and(u8::is_ascii_digit) {
            exponent += 1;
        }
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    let number = decimal_point(&text[..digits_end])? + &text[digits_end..end];
    let value: f64 = number.parse().ok()?;
    value.is_finite().then_some((value, &text[end..]))
}

/// The last of `.` and `,` is the decimal point; what stands before it several times, or of the other kind, groups.
fn decimal_point(digits: &str) -> Option<String> {
    let count = |c: char| digits.matches(c).count();
    let point = match (count('.'), count(',')) {
        (0 | 1, 0) => '.',
        (0, 1) => ',',
        (0, _) | (_, 0) => '\0',
        (1, _) if digits.rfind('.') > digits.rfind(',') => '.',
        (_, 1) if digits.rfind(',') > digits.rfind('.') => ',',
        _ => return None,
    };
    let kept = digits.chars().filter(|c| !matches!(c, '.' | ',') || *c == point);
    Some(kept.map(|c| if c == point { '.' } else { c }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Figure {
        let out = parse(format!("OK|{text}").as_bytes());
        assert_eq!(out.problems, [], "{text}");
        assert_eq!(out.figures.len(), 1, "{text}: {out:?}");
        out.figures[0].clone()
    }

    /// Printed by Debian's monitoring-plugins 2.3.3.
    #[test]
    fn real_checks() {
        let http = parse(b"HTTP OK: HTTP/1.1 200 OK - 849 bytes in 0.001 second response time |time=0.001148s;;;0.000000;10.000000 size=849B;;;0\n");
        assert_eq!(http.text, "HTTP OK: HTTP/1.1 200 OK - 849 bytes in 0.001 second response time");
        assert_eq!(http.figures[0].seconds(), Some(0.001_148));
        assert_eq!((http.figures[0].min, http.figures[0].max), (Some(0.0), Some(10.0)));
        assert_eq!((http.figures[1].unit.as_str(), http.figures[1].value), ("B", Some(849.0)));
        let load = parse(b"LOAD OK - total load average: 0.16, 0.31, 0.52|load1=0.160;15.000;30.000;0; load5=0.310;10.000;25.000;0; load15=0.520;5.000;20.000;0; \n");
        assert_eq!(load.problems, []);
        assert_eq!(
            load.figures.iter().map(|f| f.label.as_str()).collect::<Vec<_>>(),
            ["load1", "load5", "load15"]
        );
        let icmp = parse(b"OK - 127.0.0.1 rta 0.021ms lost 0%|rta=0.021ms;200.000;500.000;0; rtmax=0.054ms;;;; rtmin=0.010ms;;;; pl=0%;40;80;0;100 \n");
        assert!((icmp.figures[0].seconds().unwrap() - 0.000_021).abs() < 1e-12);
        let disk = parse(b"DISK OK - free space: / 50000MiB (20% inode=97%);| /=200000MiB;;;0;250000\n");
        assert_eq!((disk.figures[0].label.as_str(), disk.figures[0].value), ("/", Some(200_000.0)));
    }

    #[test]
    fn several_lines() {
        let out = parse(b"OK - fine|a=1\nlong text\nmore text | b=2s c=3\n'd e'=4%\n");
        let labels: Vec<_> = out.figures.iter().map(|f| f.label.as_str()).collect();
        assert_eq!((labels, out.text.as_str()), (vec!["a", "b", "c", "d e"], "OK - fine"));
    }

    #[test]
    fn labels_and_values() {
        assert_eq!(one("'it''s a = label'=1").label, "it's a = label");
        assert_eq!(one("a=U;1;2").value, None);
        assert_eq!((one("a=-1.5e-3s").value, one("a=-1.5e-3s").unit), (Some(-0.0015), "s".into()));
        assert_eq!((one("a=1EB").value, one("a=1EB").unit), (Some(1.0), "EB".into()), "no exponent");
        assert_eq!(one("a=17us").seconds(), Some(17e-6));
        assert_eq!(one("a=17%").seconds(), None);
    }

    #[test]
    fn commas_of_other_locales() {
        for (text, value) in
            [("0,012", 0.012), ("1.234,5", 1234.5), ("1,234.5", 1234.5), ("1,234,567", 1_234_567.0)]
        {
            assert_eq!(one(&format!("time={text}s;0,5;1,5")).value, Some(value), "{text}");
        }
        assert_eq!(one("time=0,012s;0,5;1,5").crit.unwrap().end, 1.5);
    }

    #[test]
    fn ranges() {
        let alerts = |range: &str, value: f64| Range::parse(range).unwrap().alerts(value);
        assert!(alerts("10", -1.0) && alerts("10", 11.0) && !alerts("10", 10.0));
        assert!(alerts("10:", 9.0) && !alerts("10:", 1e9));
        assert!(alerts("~:10", 11.0) && !alerts("~:10", -1e9));
        assert!(alerts("10:20", 9.0) && alerts("10:20", 21.0) && !alerts("10:20", 15.0));
        assert!(alerts("@10:20", 10.0) && !alerts("@10:20", 9.0));
        for bad in ["20:10", "x", "1:2:3", "@"] {
            assert!(Range::parse(bad).is_none() || bad == "@", "{bad}");
        }
        assert!(
            one("a=5s;1;4").is_critical() && !one("a=3s;1;4").is_critical() && !one("a=3s").is_critical()
        );
    }

    #[test]
    fn what_cannot_be_read_is_said_and_the_rest_counts() {
        let out = parse(b"OK|a=1 nonsense b=x 'open=3");
        assert_eq!((out.figures.len(), out.problems.len()), (1, 3), "{out:?}");
        let out = parse(b"OK|=1 a=2");
        assert_eq!((out.figures.len(), out.problems.len()), (1, 1));
        assert_eq!(parse(b"\xff\xfe|a=1").problems.len(), 1);
        assert_eq!(parse(b"").figures, []);
        assert_eq!(parse("x|".repeat(2000).as_bytes()).problems.len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            let out = parse(&bytes);
            prop_assert!(out.figures.len() <= MAX_FIGURES && out.problems.len() <= MAX_PROBLEMS);
        }

        #[test]
        fn what_is_printed_is_read(labels in proptest::collection::vec("[a-z '=]{1,12}", 1..20), value in -1e6f64..1e6) {
            let line: Vec<_> = labels.iter().map(|l| format!("'{}'={value}s;1;2", l.replace('\'', "''"))).collect();
            let out = parse(format!("OK|{}", line.join(" ")).as_bytes());
            prop_assert_eq!(out.figures.len(), labels.len());
            for (f, label) in out.figures.iter().zip(&labels) {
                prop_assert_eq!(f.label.as_str(), label.trim());
                prop_assert_eq!(f.value, Some(value));
            }
        }
    }
}
