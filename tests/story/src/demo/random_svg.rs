//! The picture of random moves: on which host when, and the gaps beside their law.

use super::random::{Stay, mean};
use super::svg::{line, nice_step, text};
use crate::{HOSTS, REGIONS};
use coms_protocol::gap::Gaps;
use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 640.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 936.0;
/// Upper plot, a lane for each host.
const TOP: f64 = 90.0;
const LANE: f64 = 46.0;
/// Lower plot.
const LAW_TOP: f64 = 340.0;
const LAW_BOTTOM: f64 = 580.0;

const HERE: &str = "#1f5fbf";
const LAW: &str = "#c8452d";
const FAINT: &str = "#666";

pub struct Shown<'a> {
    pub stays: &'a [Stay],
    pub ended_s: f64,
    pub gaps_s: &'a [f64],
    pub law: Gaps,
    pub least_s: u32,
    pub most_s: u32,
}

pub fn chart(s: &Shown<'_>) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"DejaVu Sans, Verdana, sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    text(
        &mut out,
        24.0,
        30.0,
        "font-size=\"18\" font-weight=\"bold\"",
        "A VM that is never long where it is",
    );
    let about = format!(
        "Random moves over three real libvirt hosts, gaps of {} to {} s, accel=tcg. The VM hears of each move when it \
         begins.",
        s.least_s, s.most_s
    );
    text(&mut out, 24.0, 50.0, &format!("fill=\"{FAINT}\""), &about);
    places(&mut out, s);
    law(&mut out, s);
    out.push_str("</svg>\n");
    out
}

fn places(out: &mut String, s: &Shown<'_>) {
    let x = |at: f64| LEFT + at / s.ended_s.max(1.0) * (RIGHT - LEFT);
    let lane = |host: usize| TOP + LANE * host as f64;
    for (host, (name, region)) in HOSTS.iter().zip(REGIONS).enumerate() {
        text(out, LEFT - 12.0, lane(host) + 20.0, "text-anchor=\"end\"", name);
        let style = format!("text-anchor=\"end\" font-size=\"11\" fill=\"{FAINT}\"");
        text(out, LEFT - 12.0, lane(host) + 34.0, &style, region);
        line(out, (LEFT, lane(host) + LANE - 4.0), (RIGHT, lane(host) + LANE - 4.0), "stroke=\"#e4e4e4\"");
    }
    let mut last: Option<(f64, f64)> = None;
    for stay in s.stays {
        let (from, to) = (x(stay.from_s), x(stay.to_s.unwrap_or(s.ended_s)));
        let y = lane(stay.host) + 8.0;
        let _ = writeln!(
            out,
            "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"26\" fill=\"{HERE}\" fill-opacity=\"0.85\"/>",
            (to - from).max(1.0)
        );
        if let Some(before) = last {
            line(out, before, (from, y + 13.0), &format!("stroke=\"{FAINT}\" stroke-opacity=\"0.6\""));
        }
        last = Some((to, y + 13.0));
    }
    let bottom = lane(HOSTS.len()) + 2.0;
    let step = nice_step(s.ended_s / 12.0);
    let mut at = 0.0;
    while at <= s.ended_s {
        line(out, (x(at), bottom), (x(at), bottom + 5.0), "stroke=\"#222\"");
        text(out, x(at), bottom + 20.0, "text-anchor=\"middle\"", &format!("{at:.0}"));
        at += step;
    }
    line(out, (LEFT, bottom), (RIGHT, bottom), "stroke=\"#222\"");
    let middle = f64::midpoint(LEFT, RIGHT);
    text(out, middle, bottom + 40.0, "text-anchor=\"middle\"", "time since it asked, in s");
}

fn law(out: &mut String, s: &Shown<'_>) {
    let longest = s.gaps_s.iter().copied().fold(f64::from(s.most_s) + 1.0, f64::max);
    let x = |at: f64| LEFT + at / longest * (RIGHT - LEFT);
    let y = |share: f64| LAW_BOTTOM - share * (LAW_BOTTOM - LAW_TOP);
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        line(out, (LEFT, y(share)), (RIGHT, y(share)), "stroke=\"#e4e4e4\"");
        let label = format!("{:.0} %", share * 100.0);
        text(out, LEFT - 8.0, y(share) + 4.5, "text-anchor=\"end\"", &label);
    }
    let step = nice_step(longest / 12.0);
    let mut at = 0.0;
    while at <= longest {
        text(out, x(at), LAW_BOTTOM + 20.0, "text-anchor=\"middle\"", &format!("{at:.0}"));
        at += step;
    }
    let curve: Vec<_> = (0..=200)
        .map(|i| longest * f64::from(i) / 200.0)
        .map(|at| format!("{:.1},{:.1}", x(at), y(s.law.longer_than(at))))
        .collect();
    polyline(out, &curve, LAW, "stroke-dasharray=\"6 4\"");
    // What was seen, as stairs.
    let mut gaps = s.gaps_s.to_vec();
    gaps.sort_by(f64::total_cmp);
    let n = gaps.len().max(1) as f64;
    let mut stairs = vec![format!("{:.1},{:.1}", x(0.0), y(1.0))];
    for (i, gap) in gaps.iter().enumerate() {
        stairs.push(format!("{:.1},{:.1}", x(*gap), y(1.0 - i as f64 / n)));
        stairs.push(format!("{:.1},{:.1}", x(*gap), y(1.0 - (i + 1) as f64 / n)));
    }
    polyline(out, &stairs, HERE, "");
    let mean = mean(&gaps).map_or("unknown".to_owned(), |m| format!("{m:.1} s"));
    let legend = [
        (HERE, format!("{} gaps here, mean {mean}", gaps.len())),
        (LAW, format!("the law (exponential, cut), mean {:.1} s", s.law.mean_s())),
    ];
    for (i, (colour, words)) in legend.iter().enumerate() {
        let at = LAW_TOP - 34.0 + 18.0 * i as f64;
        line(
            out,
            (LEFT, at - 4.0),
            (LEFT + 24.0, at - 4.0),
            &format!("stroke=\"{colour}\" stroke-width=\"2\""),
        );
        text(out, LEFT + 32.0, at, "", words);
    }
    let middle = f64::midpoint(LEFT, RIGHT);
    let below =
        "share of stays that lasted longer than this, in s, from an arrival to the next move's beginning";
    text(out, middle, LAW_BOTTOM + 42.0, "text-anchor=\"middle\"", below);
}

fn polyline(out: &mut String, points: &[String], colour: &str, style: &str) {
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" {style}/>",
        points.join(" ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use coms_protocol::types::GapLaw;

    #[test]
    fn without_any_move_it_can_be_drawn_too() {
        let stays = [Stay { host: 0, from_s: 0.0, to_s: None }];
        let law = Gaps::new(GapLaw::Exponential, 2, 10).unwrap();
        let shown = Shown { stays: &stays, ended_s: 5.0, gaps_s: &[], law, least_s: 2, most_s: 10 };
        let svg = chart(&shown);
        assert!(svg.contains("accel=tcg") && svg.contains("unknown") && !svg.contains("NaN"), "{svg}");
    }
}
