//! The sweep as a picture: a panel for each parameter, its values from left to right.

use std::fmt::Write as _;

use mitregate_control::{GateConfig, Role};

use super::{KNOBS, Knob, Outcome};

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 190.0;
const COLUMNS: usize = 3;
/// Around the lines of a panel.
const LEFT: f64 = 34.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 26.0;
const RIGHT: f64 = 12.0;
/// Of the heading.
const HEAD: f64 = 54.0;

/// A line in each panel.
struct Line {
    name: &'static str,
    colour: &'static str,
    get: fn(&Outcome) -> f64,
}

const LINES: [Line; 4] = [
    Line {
        name: "NAT crash or remap: median",
        colour: "#1b7837",
        get: |o| o.crash_s.0,
    },
    Line {
        name: "worst",
        colour: "#7fbf7b",
        get: |o| o.crash_s.1,
    },
    Line {
        name: "server restart: median",
        colour: "#762a83",
        get: |o| o.restart_s.0,
    },
    Line {
        name: "worst",
        colour: "#c2a5cf",
        get: |o| o.restart_s.1,
    },
];

/// Seconds at the top of every panel.
const SECONDS: f64 = 8.0;

/// All panels.
pub fn svg(outcomes: &[Outcome]) -> String {
    let rows = KNOBS.len().div_ceil(COLUMNS);
    let (width, height) = (COLUMNS as f64 * WIDTH, HEAD + rows as f64 * HEIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n<text x=\"12\" y=\"20\" font-size=\"14\">Seconds without traffic, by one parameter of the gate at a time; circled: the default; dashed: 3 s</text>\n"
    );
    let mut x = 12.0;
    for line in &LINES {
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" y1=\"38\" x2=\"{:.0}\" y2=\"38\" stroke=\"{}\" stroke-width=\"3\"/><text x=\"{:.0}\" y=\"42\">{}</text>",
            x + 22.0,
            line.colour,
            x + 28.0,
            line.name
        );
        x += 48.0 + 6.2 * line.name.len() as f64;
    }
    for (n, knob) in KNOBS.iter().enumerate() {
        let (column, row) = (n % COLUMNS, n / COLUMNS);
        let (x, y) = (column as f64 * WIDTH, HEAD + row as f64 * HEIGHT);
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">");
        panel(&mut out, knob, outcomes);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, knob: &Knob, outcomes: &[Outcome]) {
    let default = (knob.get)(&GateConfig::new(Role::Client));
    let of = |value: f64| {
        let changes = |o: &&Outcome| match o.point.changes.as_slice() {
            [] => value == default,
            [(name, v)] => *name == knob.name && *v == value,
            _ => false,
        };
        outcomes.iter().find(changes)
    };
    let mut values = knob.values.to_vec();
    if !values.contains(&default) {
        values.push(default);
        values.sort_by(f64::total_cmp);
    }
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let step = (right - LEFT) / (values.len().max(2) - 1) as f64;
    let at_x = |n: usize| LEFT + step * n as f64;
    let at_y = |seconds: f64| bottom - (bottom - TOP) * seconds.min(SECONDS) / SECONDS;
    let title = format!("{} {}", knob.name, knob.unit);
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"16\" font-size=\"12\">{}</text>",
        title.trim_end()
    );
    for seconds in [0.0, 2.0, 4.0, 6.0, SECONDS] {
        let y = at_y(seconds);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{seconds}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    let y = at_y(super::TARGET.as_secs_f64());
    let _ = writeln!(
        out,
        "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#b2182b\" stroke-dasharray=\"4 3\"/>"
    );
    for (n, value) in values.iter().enumerate() {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>",
            at_x(n),
            bottom + 16.0
        );
    }
    for line in &LINES {
        let points: Vec<(f64, f64, bool)> = values
            .iter()
            .enumerate()
            .filter_map(|(n, value)| {
                let outcome = of(*value)?;
                Some((at_x(n), at_y((line.get)(outcome)), *value == default))
            })
            .collect();
        let path: Vec<String> = points
            .iter()
            .map(|(x, y, _)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            path.join(" "),
            line.colour
        );
        for (x, y, is_default) in points {
            let _ = match is_default {
                true => writeln!(
                    out,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"white\" stroke=\"{}\" stroke-width=\"2\"/>",
                    line.colour
                ),
                false => writeln!(
                    out,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{}\"/>",
                    line.colour
                ),
            };
        }
    }
}
