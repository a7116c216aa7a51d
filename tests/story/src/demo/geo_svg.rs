//! The picture of a VM that follows its clients: what one of them gets, in each second.

use super::geo::{PAPER_AFTER, PAPER_BEFORE, Part, Run};
use super::svg::{line, nice_step, text};
use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 520.0;
/// The plot within.
const LEFT: f64 = 74.0;
const TOP: f64 = 128.0;
const RIGHT: f64 = 936.0;
const BOTTOM: f64 = 460.0;

const INK: &str = "#222";
const FAINT: &str = "#666";
/// As in the paper: red, green, blue.
const PARTS: [(Part, &str, &str); 3] = [
    (Part::Before, "#c8452d", "before"),
    (Part::During, "#2a8a4a", "during"),
    (Part::After, "#1f5fbf", "after the move"),
];

pub fn chart(run: &Run) -> String {
    let to_s = run.rates.last().map_or(1.0, |(s, _)| s + 0.5);
    let most = run.rates.iter().map(|(_, mbit)| *mbit).fold(PAPER_AFTER, f64::max);
    let step = nice_step(most / 5.0);
    let top = (most / step).ceil() * step;
    let x = |s: f64| LEFT + s / to_s * (RIGHT - LEFT);
    let y = |mbit: f64| BOTTOM - mbit / top * (BOTTOM - TOP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"DejaVu Sans, Verdana, sans-serif\" font-size=\"13\" fill=\"{INK}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    text(&mut out, LEFT, 30.0, "font-size=\"18\" font-weight=\"bold\"", "A VM follows its clients");
    let about = "Throughput of one TCP connection of a client at the other site, 40 ms there and back. Real libvirt hosts, accel=tcg.";
    text(&mut out, LEFT, 50.0, &format!("fill=\"{FAINT}\""), about);
    legend(&mut out, run);

    let mut mbit = 0.0;
    while mbit <= top + 0.5 {
        line(&mut out, (LEFT, y(mbit)), (RIGHT, y(mbit)), "stroke=\"#e4e4e4\"");
        text(&mut out, LEFT - 8.0, y(mbit) + 4.5, "text-anchor=\"end\"", &format!("{mbit:.0}"));
        mbit += step;
    }
    let step_s = nice_step(to_s / 12.0);
    let mut s = 0.0;
    while s <= to_s {
        line(&mut out, (x(s), BOTTOM), (x(s), BOTTOM + 5.0), &format!("stroke=\"{INK}\""));
        text(&mut out, x(s), BOTTOM + 20.0, "text-anchor=\"middle\"", &format!("{s:.0}"));
        s += step_s;
    }
    line(&mut out, (LEFT, BOTTOM), (RIGHT, BOTTOM), &format!("stroke=\"{INK}\""));
    line(&mut out, (LEFT, TOP), (LEFT, BOTTOM), &format!("stroke=\"{INK}\""));
    paper(&mut out, run, (x(0.0), x(run.called_s.unwrap_or(to_s)), x(to_s)), y);
    for (moment, name, up) in
        [(run.asked_s, "asked", 0.0), (run.resumed_s, "resumed at the other site", 15.0)]
    {
        let Some(s) = moment else { continue };
        line(
            &mut out,
            (x(s), TOP - 8.0),
            (x(s), BOTTOM),
            &format!("stroke=\"{FAINT}\" stroke-dasharray=\"5 4\""),
        );
        text(&mut out, x(s), TOP - 12.0 - up, &format!("fill=\"{FAINT}\" font-size=\"12\""), name);
    }

    let points: Vec<String> = run.rates.iter().map(|(s, m)| format!("{:.1},{:.1}", x(*s), y(*m))).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{FAINT}\" stroke-opacity=\"0.35\"/>",
        points.join(" ")
    );
    for (s, mbit) in &run.rates {
        mark(&mut out, run.part(*s), x(*s), y(*mbit));
    }
    let middle = f64::midpoint(LEFT, RIGHT);
    text(&mut out, middle, BOTTOM + 44.0, "text-anchor=\"middle\"", "time since the download began, in s");
    let y = f64::midpoint(TOP, BOTTOM);
    let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 20 {y:.1})\"");
    text(&mut out, 20.0, y, &turned, "throughput, in Mbit/s");
    out.push_str("</svg>\n");
    out
}

/// What the paper's client got, before its move and after it.
fn paper(out: &mut String, run: &Run, (from, moved, to): (f64, f64, f64), y: impl Fn(f64) -> f64) {
    let [low, high] = PAPER_BEFORE;
    let _ = writeln!(
        out,
        "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#c8452d\" fill-opacity=\"0.07\"/>",
        y(high),
        (moved - from).max(0.0),
        y(low) - y(high)
    );
    let at = format!("fill=\"{FAINT}\" font-size=\"11\"");
    text(out, from + 6.0, y(high) + 14.0, &at, "the paper's: 30 to 70");
    if run.called_s.is_some() {
        line(
            out,
            (moved, y(PAPER_AFTER)),
            (to, y(PAPER_AFTER)),
            "stroke=\"#1f5fbf\" stroke-dasharray=\"2 4\"",
        );
        text(
            out,
            to - 4.0,
            y(PAPER_AFTER) + 15.0,
            &format!("text-anchor=\"end\" {at}"),
            "the paper's: about 90",
        );
    }
}

fn legend(out: &mut String, run: &Run) {
    for ((part, _, name), at) in PARTS.into_iter().zip([LEFT, LEFT + 270.0, LEFT + 540.0]) {
        let figures = run.figures(part).map_or("unknown".to_owned(), |[least, median, most]| {
            format!("{median:.0} Mbit/s ({least:.0} to {most:.0})")
        });
        mark(out, part, at + 7.0, 74.0);
        text(out, at + 20.0, 78.5, "", &format!("{name}: {figures}"));
    }
}

/// A plus, a circle, an asterisk.
fn mark(out: &mut String, part: Part, x: f64, y: f64) {
    let colour = PARTS.iter().find(|(p, _, _)| *p == part).map_or(INK, |(_, colour, _)| colour);
    let style = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"");
    let plus = format!("M{:.1} {y:.1}h7M{x:.1} {:.1}v7", x - 3.5, y - 3.5);
    let _ = match part {
        Part::Before => writeln!(out, "<path d=\"{plus}\" {style}/>"),
        Part::During => writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\" {style}/>"),
        Part::After => {
            let cross = format!("M{:.1} {:.1}l5 5m0 -5l-5 5", x - 2.5, y - 2.5);
            writeln!(out, "<path d=\"{plus}{cross}\" {style}/>")
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_a_move_can_be_drawn_too() {
        let run = Run { rates: vec![(0.5, 40.0), (1.5, 41.0), (2.5, 42.0)], ..Run::default() };
        let svg = chart(&run);
        assert!(svg.contains("accel=tcg") && svg.contains("unknown") && !svg.contains("NaN"), "{svg}");
        assert!(!chart(&Run::default()).contains("NaN"));
    }
}
