//! The text that Prometheus scrapes, in its own form and as OpenMetrics: one sample per line. Any bytes come in; a line
//! that cannot be read is said, and the others count.

pub mod watch;

use std::borrow::Cow;

/// One sample of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    /// The metric's name, with `_bucket`, `_sum` or `_count`.
    pub name: &'a str,
    /// Its labels, as they stand.
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    /// The value; may be infinite, or no number at all.
    pub value: f64,
}

/// A line that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad {
    /// Counted from 1.
    pub line: usize,
    /// Why.
    pub why: &'static str,
}

/// Labels of one sample that are read.
const MAX_LABELS: usize = 64;

/// The samples whose name `wanted` wants; the labels of others are not even looked at.
pub fn samples<'a>(
    text: &'a str,
    wanted: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = Result<Sample<'a>, Bad>> + 'a {
    text.lines().enumerate().filter_map(move |(index, line)| {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let end = line.find(|c: char| !is_name(c)).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        if !name.is_empty() && !wanted(name) {
            return None;
        }
        let bad = |why| Bad { line: index + 1, why };
        Some(sample(name, rest).map_err(bad))
    })
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.')
}

fn sample<'a>(name: &'a str, rest: &'a str) -> Result<Sample<'a>, &'static str> {
    if name.is_empty() {
        return Err("it begins with no name of a metric");
    }
    let rest = rest.trim_start();
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Vec::new(), rest),
    };
    // A time and an exemplar may follow; neither is of use.
    let value = rest.split_whitespace().next().ok_or("there is no value")?;
    Ok(Sample { name, labels, value: number(value).ok_or("the value is no number")? })
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" | "Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        other => other.parse().ok(),
    }
}

type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

fn labels(mut rest: &str) -> Result<(Labels<'_>, &str), &'static str> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let (name, after) = rest.split_once('=').ok_or("a label has no =")?;
        let quoted = after.trim_start().strip_prefix('"').ok_or("a label's value has no quotes")?;
        let (value, after) = text(quoted)?;
        if labels.len() >= MAX_LABELS {
            return Err("too many labels");
        }
        labels.push((name.trim(), value));
        rest = after.trim_start();
        if let Some(after) = rest.strip_prefix(',') {
            rest = after;
        } else if !rest.starts_with('}') {
            return Err("labels are not separated by commas");
        }
    }
}

/// A quoted text whose first quote was read, and what is behind its last one.
fn text(quoted: &str) -> Result<(Cow<'_, str>, &str), &'static str> {
    const OPEN: &str = "a quote is not closed";
    let end = quoted.find(['"', '\\']).ok_or(OPEN)?;
    if quoted.as_bytes()[end] == b'"' {
        return Ok((Cow::Borrowed(&quoted[..end]), &quoted[end + 1..]));
    }
    let mut out = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Cow::Owned(out), &quoted[at + 1..])),
            '\\' => match chars.next().ok_or(OPEN)?.1 {
                'n' => out.push('\n'),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    Err(OPEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &str) -> Vec<Result<Sample<'_>, Bad>> {
        samples(text, |_| true).collect()
    }

    #[test]
    fn lines_of_both_forms() {
        let text = "# HELP a help\n# TYPE a histogram\na_bucket{le=\"0.1\",path=\"/x \\\"y\\\"\\n\"} 5 1700000000000\n\
            a_bucket{ le = \"+Inf\" , } 7 # {trace=\"1\"} 0.5\n\na_sum 1.5e-3\na_count 7\nb NaN\nc:d{} +Inf\n# EOF\n";
        let all: Vec<_> = all(text).into_iter().map(Result::unwrap).collect();
        assert_eq!(all.len(), 6);
        assert_eq!(all[0].labels[1], ("path", Cow::Borrowed("/x \"y\"\n")));
        assert_eq!((all[1].labels[0].1.as_ref(), all[1].value), ("+Inf", 7.0));
        assert_eq!(all[2].value, 0.0015);
        assert!(all[4].value.is_nan() && all[5].value == f64::INFINITY && all[5].name == "c:d");
    }

    #[test]
    fn what_cannot_be_read_names_its_line() {
        for (text, line) in [
            ("a 1\nb", 2),
            ("{x=\"1\"} 2", 1),
            ("a{x=\"1} 2", 1),
            ("a{x=1} 2", 1),
            ("a{x} 2", 1),
            ("a{x=\"1\"y=\"2\"} 2", 1),
            ("a one", 1),
            ("<html>", 1),
        ] {
            let bad: Vec<_> = all(text).into_iter().filter_map(Result::err).collect();
            assert_eq!(bad.iter().map(|b| b.line).collect::<Vec<_>>(), [line], "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text(text in "\\PC{0,400}") {
            prop_assert!(all(&text).len() <= text.lines().count());
        }

        #[test]
        fn what_is_written_is_read(name in "[a-z_:][a-z0-9_:]{0,20}", value in any::<f64>(), label in "\\PC{0,20}") {
            let quoted = label.replace('\\', "\\\\").replace('"', "\\\"");
            let shown = if value.is_infinite() { format!("{value:+}").replace("inf", "Inf") } else { value.to_string() };
            let line = format!("{name}{{l=\"{quoted}\"}} {shown}");
            let read = samples(&line, |_| true).next().unwrap().unwrap();
            prop_assert_eq!(read.name, name.as_str());
            prop_assert_eq!(read.labels[0].1.as_ref(), label.as_str());
            prop_assert!(read.value == value || value.is_nan() && read.value.is_nan());
        }
    }
}
