//! Pages of programs.

use super::{Page, lines, see_also, title};
use clap::Command;
use clap_mangen::Man;
use roff::{Roff, bold, roman};

/// The program's page and one for each subcommand, however deep.
pub fn pages(command: Command, section: &str, others: &str) -> Vec<Page> {
    // Subcommands' options include the global ones only then.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut all = Vec::new();
    collect(&command, section, others, &mut all);
    all
}

fn collect(command: &Command, section: &str, others: &str, all: &mut Vec<Page>) {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    all.push(Page { file: format!("{name}.{section}"), roff: page(command, section, others) });
    for subcommand in command.get_subcommands().filter(|s| !s.is_hide_set()) {
        collect(subcommand, section, others, all);
    }
}

fn page(command: &Command, section: &str, others: &str) -> String {
    let man = Man::new(command.clone()).section(section).source(concat!("COMS ", env!("CARGO_PKG_VERSION")));
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = man.render_title(&mut out);
    let _ = man.render_name_section(&mut out);
    let _ = man.render_synopsis_section(&mut out);
    let _ = man.render_description_section(&mut out);
    let _ = man.render_options_section(&mut out);
    if command.has_subcommands() {
        let _ = man.render_subcommands_section(&mut out);
    }
    let mut rest = Roff::new();
    let said = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    more(&mut rest, &said);
    see_also(&mut rest, others);
    // Each part brings the same preamble; once is enough.
    let preamble = Roff::new().render();
    let parts = String::from_utf8_lossy(&out).into_owned() + &rest.render();
    preamble.clone() + &parts.replace(&preamble, "")
}

/// What follows the options in `--help`, in sections of its own.
fn more(roff: &mut Roff, text: &str) {
    for part in text.split("\n\n") {
        let (first, examples) = part.split_once('\n').unwrap_or((part, ""));
        if first.starts_with("Example") {
            roff.control("SH", ["EXAMPLES"]);
            lines(roff, examples.lines().map(|l| l.strip_prefix("  ").unwrap_or(l)));
        } else if first.starts_with("Exit ") {
            roff.control("SH", ["EXIT STATUS"]);
            roff.text([roman(part)]);
        } else {
            roff.control("SH", ["NOTES"]);
            roff.text([roman(part)]);
        }
    }
}

/// A page made of what `--help` prints, for a program whose parser is its own.
pub fn from_help(name: &str, section: &str, help: &str, others: &str) -> Page {
    let mut roff = Roff::new();
    title(&mut roff, name, section);
    let mut parts = help.trim().split("\n\n");
    let about = parts.next().unwrap_or_default().split_once(": ").map_or("", |(_, about)| about);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{name} - {about}"))]);
    for part in parts {
        if let Some(usage) = part.strip_prefix("Usage: ") {
            roff.control("SH", ["SYNOPSIS"]);
            roff.text([bold(usage)]);
        } else if part.trim_start().starts_with("--") {
            roff.control("SH", ["OPTIONS"]);
            for line in part.lines() {
                let (option, what) = line.trim().split_once("  ").unwrap_or((line.trim(), ""));
                roff.control("TP", []);
                roff.text([bold(option)]);
                roff.text([roman(what.trim())]);
            }
        } else {
            more(&mut roff, part);
        }
    }
    see_also(&mut roff, others);
    Page { file: format!("{name}.{section}"), roff: roff.render() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_becomes_sections() {
        let help = "x: does it\n\nUsage: x [--fast]\n\n  --fast  soon\n\nExamples:\n  x --fast\n\nIt waits.\n\nExit code: 0 done\n";
        let text = from_help("x", "8", help, "y(8)").roff;
        for (section, word) in [
            ("NAME", "x \\- does it"),
            ("SYNOPSIS", "x ["),
            ("OPTIONS", "soon"),
            ("EXAMPLES", "x \\-\\-fast"),
            ("NOTES", "It waits."),
            ("EXIT STATUS", "0 done"),
            ("SEE ALSO", "y(8)"),
        ] {
            let at =
                text.find(&format!(".SH {section}")).or_else(|| text.find(&format!(".SH \"{section}\"")));
            let rest = at.map(|at| &text[at + 4..]).unwrap_or_default();
            let body = rest.split(".SH").next().unwrap();
            assert!(body.contains(word), "{section}: {text}");
        }
    }
}
