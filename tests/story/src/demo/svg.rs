//! The chart: each round of both runs over time.

use super::measure::{Figures, Run};
use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 560.0;
/// The plot within: left, top, right, bottom.
const LEFT: f64 = 74.0;
const TOP: f64 = 138.0;
const RIGHT: f64 = 936.0;
const BOTTOM: f64 = 500.0;

const MAIN: &str = "#1f5fbf";
const CONTROL: &str = "#c8452d";
const INK: &str = "#222";
const FAINT: &str = "#666";

/// A value's place on the paper.
struct Axes {
    from_s: f64,
    to_s: f64,
    top_ms: f64,
}

impl Axes {
    fn x(&self, s: f64) -> f64 {
        LEFT + (s - self.from_s) / (self.to_s - self.from_s) * (RIGHT - LEFT)
    }

    fn y(&self, ms: f64) -> f64 {
        BOTTOM - ms / self.top_ms * (BOTTOM - TOP)
    }
}

/// The chart as SVG.
pub(super) fn chart(f: &Figures, main: &Run, control: &Run) -> String {
    let runs = [main, control];
    let longest = runs.iter().flat_map(|r| &r.rounds).map(|r| r.ms).fold(1.0, f64::max);
    let step_ms = nice_step(longest / 5.0);
    let axes = Axes {
        from_s: runs.iter().map(|r| r.began_s).fold(-1.0, f64::min),
        to_s: runs.iter().map(|r| r.ended_s).fold(1.0, f64::max),
        top_ms: (longest / step_ms).ceil() * step_ms,
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"DejaVu Sans, Verdana, sans-serif\" font-size=\"13\" fill=\"{INK}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    text(
        &mut out,
        LEFT,
        30.0,
        "font-size=\"18\" font-weight=\"bold\"",
        "A VM saves itself from busy neighbours",
    );
    text(
        &mut out,
        LEFT,
        50.0,
        &format!("fill=\"{FAINT}\""),
        "Each mark is one round of the same work. Real libvirt hosts with one CPU each, accel=tcg.",
    );
    legend(&mut out, f);
    grid(&mut out, &axes, step_ms);
    if let Some(baseline) = f.baseline_ms {
        let y = axes.y(baseline);
        line(&mut out, (LEFT, y), (RIGHT, y), "stroke=\"#2a8a4a\" stroke-dasharray=\"2 4\"");
        // Where the rounds are elsewhere: the neighbours have just got busy.
        let at = "fill=\"#2a8a4a\" font-size=\"12\"";
        text(&mut out, axes.x(0.0) + 8.0, y - 6.0, at, &format!("baseline {baseline:.0} ms"));
    }
    moments(&mut out, &axes, main);
    series(&mut out, &axes, control, CONTROL, cross);
    series(&mut out, &axes, main, MAIN, circle);
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String, f: &Figures) {
    let ms = |v: Option<f64>| v.map_or("unknown".to_owned(), |v| format!("{v:.0} ms"));
    let main = format!(
        "moved at its own request: {} idle, {} busy, {} after the move",
        ms(f.baseline_ms),
        ms(f.degraded_ms),
        ms(f.after_ms)
    );
    let control = format!(
        "control, request denied: {} idle, {} busy (medians)",
        ms(f.control_baseline_ms),
        ms(f.control_ms)
    );
    circle(out, LEFT + 7.0, 70.0, MAIN);
    text(out, LEFT + 20.0, 74.5, "", &main);
    cross(out, LEFT + 7.0, 90.0, CONTROL);
    text(out, LEFT + 20.0, 94.5, "", &control);
}

fn grid(out: &mut String, axes: &Axes, step_ms: f64) {
    let mut ms = 0.0;
    while ms <= axes.top_ms + 0.5 {
        let y = axes.y(ms);
        line(out, (LEFT, y), (RIGHT, y), "stroke=\"#e4e4e4\"");
        text(out, LEFT - 8.0, y + 4.5, "text-anchor=\"end\"", &format!("{ms:.0}"));
        ms += step_ms;
    }
    let step_s = nice_step((axes.to_s - axes.from_s) / 12.0);
    let mut s = (axes.from_s / step_s).ceil() * step_s;
    while s <= axes.to_s {
        let x = axes.x(s);
        line(out, (x, BOTTOM), (x, BOTTOM + 5.0), &format!("stroke=\"{INK}\""));
        text(out, x, BOTTOM + 20.0, "text-anchor=\"middle\"", &format!("{s:.0}"));
        s += step_s;
    }
    line(out, (LEFT, BOTTOM), (RIGHT, BOTTOM), &format!("stroke=\"{INK}\""));
    line(out, (LEFT, TOP), (LEFT, BOTTOM), &format!("stroke=\"{INK}\""));
    let middle = f64::midpoint(LEFT, RIGHT);
    text(
        out,
        middle,
        BOTTOM + 44.0,
        "text-anchor=\"middle\"",
        "time since the neighbours got busy, in s (they stay busy to the end)",
    );
    let y = f64::midpoint(TOP, BOTTOM);
    let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 20 {y:.1})\"");
    text(out, 20.0, y, &turned, "length of a round, in ms");
}

/// Vertical lines, each label a row lower than the one before so that near ones do not overlap.
fn moments(out: &mut String, axes: &Axes, main: &Run) {
    let named = [
        (Some(0.0), "neighbours busy"),
        (main.asked_s, "asked"),
        (main.resumed_s, "resumed on the other host"),
    ];
    let mut end_of_row: [f64; 2] = [f64::MIN; 2];
    for (s, name) in named {
        let Some(s) = s else { continue };
        let x = axes.x(s);
        line(out, (x, TOP - 8.0), (x, BOTTOM), &format!("stroke=\"{FAINT}\" stroke-dasharray=\"5 4\""));
        let row = end_of_row.iter().position(|end| *end + 8.0 < x).unwrap_or(0);
        end_of_row[row] = x + name.len() as f64 * 7.0;
        text(out, x, TOP - 13.0 - row as f64 * 15.0, &format!("fill=\"{FAINT}\" font-size=\"12\""), name);
    }
}

fn series(out: &mut String, axes: &Axes, run: &Run, colour: &str, mark: fn(&mut String, f64, f64, &str)) {
    let points: Vec<_> = run.rounds.iter().map(|r| (axes.x(r.ended_s), axes.y(r.ms))).collect();
    let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-opacity=\"0.35\"/>",
        path.join(" ")
    );
    for (x, y) in points {
        mark(out, x, y, colour);
    }
}

fn circle(out: &mut String, x: f64, y: f64, colour: &str) {
    let _ = writeln!(
        out,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\" fill=\"#fff\" stroke=\"{colour}\" stroke-width=\"1.6\"/>"
    );
}

fn cross(out: &mut String, x: f64, y: f64, colour: &str) {
    let (l, r, t, b) = (x - 3.2, x + 3.2, y - 3.2, y + 3.2);
    let _ = writeln!(
        out,
        "<path d=\"M{l:.1} {t:.1}L{r:.1} {b:.1}M{l:.1} {b:.1}L{r:.1} {t:.1}\" stroke=\"{colour}\" stroke-width=\"1.6\"/>"
    );
}

pub fn line(out: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {style}/>",
        from.0, from.1, to.0, to.1
    );
}

/// The words are ours: nothing in them needs escaping.
pub fn text(out: &mut String, x: f64, y: f64, style: &str, words: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{words}</text>");
}

/// 1, 2 or 5 times a power of ten, at least `least`.
pub fn nice_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|m| m * power).find(|step| *step >= least).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_numbers() {
        assert_eq!([7.0, 12.0, 31.0, 50.0, 180.0].map(nice_step), [10.0, 20.0, 50.0, 50.0, 200.0]);
    }

    #[test]
    fn a_run_without_a_move_can_be_drawn_too() {
        let run = Run { began_s: -20.0, ended_s: 40.0, ..Run::default() };
        let svg = chart(&Figures::of(&run, &run), &run, &run);
        assert!(svg.contains("accel=tcg") && svg.contains("unknown") && !svg.contains("NaN"), "{svg}");
    }
}
