//! Figures 3 and 4: plain against encrypted, ours beside the paper's.
//!
//! The paper gives its figures over plain ones, so all are drawn so; ours say in milliseconds what they are.

use super::figures::{Figure, Panel};
use coms_story::demo::svg::{line, nice_step, text};
use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 514.0;
const TOP: f64 = 142.0;
const BOTTOM: f64 = 434.0;
/// Left and right of each panel's plot.
const PANELS: [(f64, f64); 2] = [(74.0, 480.0), (546.0, 936.0)];

const INK: &str = "#222";
const FAINT: &str = "#666";
const PLAIN: &str = "#8a97a8";
const TLS: &str = "#1f5fbf";
const PAPER_PLAIN: &str = "#cfcac4";
const PAPER: &str = "#d99a8c";

pub fn chart(figure: &Figure) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"DejaVu Sans, Verdana, sans-serif\" font-size=\"13\" fill=\"{INK}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let left = PANELS[0].0;
    text(&mut out, left, 30.0, "font-size=\"18\" font-weight=\"bold\"", figure.title);
    let bars = "Bars are medians over the plain one's, lines their 95 % intervals (bootstrap); of the paper only the ratios are known.";
    let about = figure.about.iter().map(String::as_str).chain([bars]);
    for (row, about) in about.enumerate() {
        let at = 50.0 + row as f64 * 17.0;
        text(&mut out, left, at, &format!("fill=\"{FAINT}\" font-size=\"12\""), about);
    }
    for (panel, (from, to)) in figure.panels.iter().zip(PANELS) {
        draw(&mut out, panel, from, to);
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel, left: f64, right: f64) {
    let over_plain = |v: f64| v / panel.plain.value;
    let most = [panel.paper[1], over_plain(panel.tls.high), over_plain(panel.plain.high), panel.goal.0];
    // Room for what stands above the bars.
    let most = most.into_iter().filter(|v| v.is_finite()).fold(1.0, f64::max) * 1.25;
    let step = nice_step(most / 6.0);
    let top = (most / step).ceil() * step;
    let y = |over: f64| BOTTOM - over / top * (BOTTOM - TOP);

    let mut over = 0.0;
    while over <= top + step / 2.0 {
        line(out, (left, y(over)), (right, y(over)), "stroke=\"#e4e4e4\"");
        text(out, left - 8.0, y(over) + 4.5, "text-anchor=\"end\"", &format!("{over:.1}"));
        over += step;
    }
    text(
        out,
        f64::midpoint(left, right),
        TOP - 28.0,
        "text-anchor=\"middle\" font-weight=\"bold\"",
        panel.title,
    );
    let middle = f64::midpoint(TOP, BOTTOM);
    let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 {:.1} {middle:.1})\"", left - 46.0);
    text(out, left - 46.0, middle, &turned, &format!("{}, plain = 1", panel.title));

    // Two groups of two bars.
    let slot = (right - left) / 4.0;
    let centre = |bar: usize| left + slot * (bar as f64 + 0.5);
    let wide = slot * 0.62;
    let bar = |out: &mut String, at: usize, over: f64, colour: &str| {
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{wide:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
            centre(at) - wide / 2.0,
            y(over),
            (BOTTOM - y(over)).max(0.0)
        );
    };
    for (at, found, colour) in [(0, &panel.plain, PLAIN), (1, &panel.tls, TLS)] {
        bar(out, at, over_plain(found.value), colour);
        whisker(out, centre(at), y(over_plain(found.low)), y(over_plain(found.high)));
        // Above the goal's line, too.
        let label = y(over_plain(found.high).max(panel.goal.0)) - 21.0;
        text(out, centre(at), label, "text-anchor=\"middle\" font-weight=\"bold\"", &shown(found.value));
        let interval = format!("{} to {}", shown(found.low), shown(found.high));
        let small = format!("text-anchor=\"middle\" font-size=\"10\" fill=\"{FAINT}\"");
        text(out, centre(at), label + 13.0, &small, &interval);
    }
    let [low, high] = panel.paper;
    bar(out, 2, 1.0, PAPER_PLAIN);
    bar(out, 3, low, PAPER);
    if high > low {
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{wide:.1}\" height=\"{:.1}\" fill=\"{PAPER}\" fill-opacity=\"0.35\" \
             stroke=\"{PAPER}\" stroke-dasharray=\"4 3\"/>",
            centre(3) - wide / 2.0,
            y(high),
            y(low) - y(high)
        );
    }
    let paper =
        if high > low { format!("{low:.0} to {high:.0} times") } else { format!("about {low:.1} times") };
    text(out, centre(3), y(high) - 8.0, "text-anchor=\"middle\"", &paper);

    let goal = format!("stroke=\"{INK}\" stroke-dasharray=\"6 4\"");
    line(out, (left, y(panel.goal.0)), (left + slot * 2.0, y(panel.goal.0)), &goal);
    let beside = format!("font-size=\"11\" fill=\"{FAINT}\"");
    text(out, left + slot * 2.0 + 3.0, y(panel.goal.0) - 5.0, &beside, &panel.goal.1);

    line(out, (left, BOTTOM), (right, BOTTOM), &format!("stroke=\"{INK}\""));
    line(out, (left, TOP), (left, BOTTOM), &format!("stroke=\"{INK}\""));
    for (at, name) in ["plain", "TLS", "plain", "encrypted"].into_iter().enumerate() {
        text(out, centre(at), BOTTOM + 18.0, "text-anchor=\"middle\"", name);
    }
    let bold = "text-anchor=\"middle\" font-weight=\"bold\"";
    text(out, left + slot, BOTTOM + 40.0, bold, "here");
    text(out, left + slot * 3.0, BOTTOM + 40.0, bold, "the paper (GPG pipes)");
    text(out, left, BOTTOM + 60.0, &format!("fill=\"{FAINT}\""), &panel.compared);
}

fn whisker(out: &mut String, x: f64, low: f64, high: f64) {
    let _ = writeln!(
        out,
        "<path d=\"M{:.1} {high:.1}h10M{x:.1} {high:.1}V{low:.1}M{:.1} {low:.1}h10\" stroke=\"{INK}\" fill=\"none\"/>",
        x - 5.0,
        x - 5.0
    );
}

fn shown(ms: f64) -> String {
    if ms >= 1000.0 { format!("{:.2} s", ms / 1e3) } else { format!("{ms:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::super::figures::{drawn, tests::measured};
    use super::*;

    #[test]
    fn both_figures_are_whole_and_say_what_they_show() {
        let [three, four] = drawn(&measured(0.99)).unwrap();
        assert_eq!((three.number, four.number), (3, 4));
        for figure in [three, four] {
            let svg = chart(&figure);
            assert!(svg.starts_with("<svg xmlns") && svg.ends_with("</svg>\n"), "{svg}");
            for said in [
                "accel=tcg",
                "6 pairs",
                "500 Mbit/s",
                "filled to 99 %",
                "goal: 1.05",
                "goal: + 20 ms",
                "2 to 3 times",
            ] {
                assert!(svg.contains(said), "no {said}: {svg}");
            }
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            let parsed = roxmltree::Document::parse(&svg).unwrap();
            let background = parsed.root_element().children().find(|e| e.is_element()).unwrap();
            assert_eq!((background.tag_name().name(), background.attribute("fill")), ("rect", Some("#fff")));
        }
    }
}
