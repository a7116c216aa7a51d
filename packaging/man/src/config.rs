//! Pages of configurations, from the commented files.

use super::{Page, lines, paragraph, see_also, title};
use roff::{Roff, bold, roman};

/// A line of such a file.
enum Line<'a> {
    Blank,
    /// `[limits]`, or `#[[hooks]]` where there may be none.
    Table(&'a str),
    /// `#cooldown_s = 600`: what is commented out is the default.
    Key {
        key: &'a str,
        value: &'a str,
    },
    Comment(&'a str),
}

fn read(line: &str) -> Line<'_> {
    let bare = line.strip_prefix('#').unwrap_or(line);
    if bare.trim().is_empty() {
        return Line::Blank;
    }
    if bare.starts_with('[') && bare.ends_with(']') {
        return Line::Table(bare);
    }
    if let Some((key, value)) = bare.split_once(" = ")
        && !key.is_empty()
        && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    {
        return Line::Key { key, value };
    }
    Line::Comment(bare.strip_prefix(' ').unwrap_or(bare))
}

/// `path`: where the file is on a machine.
pub fn page(name: &str, path: &str, text: &str, others: &str) -> Page {
    let mut roff = Roff::new();
    title(&mut roff, name, "5");
    let first = text.lines().next().unwrap_or_default();
    let about = first.split_once(": ").map_or("", |(_, about)| about).trim_end_matches('.');
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{name} - {about}"))]);
    roff.control("SH", ["DESCRIPTION"]);
    let mut said: Vec<&str> = Vec::new();
    for line in text.lines().skip(1) {
        match read(line) {
            Line::Comment(comment) => said.push(comment),
            Line::Blank => comment(&mut roff, &mut said, true),
            Line::Table(table) => {
                let intro = std::mem::take(&mut said);
                roff.control("SH", [table]);
                comment(&mut roff, &mut intro.clone(), true);
            }
            Line::Key { key, value } => {
                roff.control("TP", []);
                roff.text([bold(key), roman(format!(" = {value}"))]);
                comment(&mut roff, &mut said, false);
            }
        }
    }
    comment(&mut roff, &mut said, true);
    roff.control("SH", ["FILES"]);
    roff.text([roman(path)]);
    see_also(&mut roff, others);
    Page { file: format!("{name}.5"), roff: roff.render() }
}

/// Comments as they flow, or as they stand where they were laid out by hand.
fn comment(roff: &mut Roff, said: &mut Vec<&str>, own_paragraph: bool) {
    let said = std::mem::take(said);
    if said.is_empty() {
        return;
    }
    if said.iter().any(|l| l.starts_with("  ")) {
        lines(roff, said);
    } else if own_paragraph {
        paragraph(roff, &said.join(" "));
    } else {
        roff.text([roman(said.join(" "))]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_keys_and_their_comments() {
        let text = "# /etc/x.toml: what x does.\n#\n# Read me.\n\n[a]\n# How long.\n# Really.\n#for_s = 3\n\n# Many.\n#[[b]]\n# One of:\n#   { k = 1 }\n#kind = { k = 1 }\nname = \"n\"\n";
        let roff = page("x.toml", "/etc/x.toml", text, "y(8)").roff;
        let at = |needle: &str| roff.find(needle).unwrap_or_else(|| panic!("{needle}: {roff}"));
        let order = [
            "x.toml \\- what x does",
            "Read me.",
            ".SH [a]",
            "\\fBfor_s\\fR = 3",
            "How long. Really.",
            ".SH [[b]]",
            "Many.",
            "\\fBkind\\fR",
            "One of:\n",
            "\\fBname\\fR",
        ];
        assert!(order.windows(2).all(|w| at(w[0]) < at(w[1])), "{roff}");
    }
}
