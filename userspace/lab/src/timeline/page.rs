//! The page: HTML with its pictures inside, which needs nothing from anywhere.

use std::fmt::Write as _;

use super::{
    Outcome, Row, Scene,
    play::{Event, Kind, Lane, PACE, whole},
    script::{Script, Way},
};

const STYLE: &str = include_str!("page.css");

// Of a picture, in its own units.
const WIDTH: f64 = 600.0;
const LEFT: f64 = 92.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 36.0;
const LANE: f64 = 20.0;
const EVENTS: f64 = 16.0;
const BETWEEN: f64 = 3.0;
const AFTER_CLIENT: f64 = 9.0;
const AXIS: f64 = 20.0;
/// What arrived is drawn in steps of so many seconds, a quarter of a lane high.
const BIN: f64 = 0.25;
/// An outage that is wide enough is told in numbers, too.
const TELLING: f64 = 34.0;

/// All of it.
pub fn page(scenes: &[Scene], command: &str, machine: &str) -> String {
    let mut text = format!(
        "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<title>Mitregate: the failure cases, live</title>
<style>
{STYLE}</style>
</head>
<body>
<header>
<h1>The failure cases, with the gate and without it</h1>
<p>Real daemons in network namespaces, behind a NAT that is played packet by packet; {} datagrams a second each way
that has a bar. Made by <code>{}</code>. {}</p>
{LEGEND}
</header>
<main>
{}
",
        (1.0 / PACE.as_secs_f64()).round(),
        escape(command),
        escape(machine),
        summary(scenes)
    );
    for scene in scenes {
        text += &section(scene);
    }
    text + "</main>\n</body>\n</html>\n"
}

const LEGEND: &str = "<ul class=\"legend\">
<li><svg viewBox=\"0 0 28 14\"><rect class=\"sent\" width=\"28\" height=\"14\"/></svg> sent</li>
<li><svg viewBox=\"0 0 28 14\"><rect class=\"arrived\" y=\"2\" width=\"28\" height=\"12\"/></svg> arrived</li>
<li><svg viewBox=\"0 0 28 14\"><rect class=\"outage\" width=\"28\" height=\"14\"/></svg> nothing arrives</li>
<li><svg viewBox=\"0 0 14 14\"><path class=\"answered\" d=\"M7 2v10\"/></svg> ping answered</li>
<li><svg viewBox=\"0 0 14 14\"><path class=\"unanswered\" d=\"M4 4l6 6m0-6l-6 6\"/></svg> ping unanswered</li>
<li><svg viewBox=\"0 0 14 14\"><path class=\"epoch\" d=\"M7 2l5 5-5 5-5-5z\"/></svg> data goes by another epoch</li>
<li><svg viewBox=\"0 0 14 14\"><rect class=\"session\" x=\"3\" y=\"3\" width=\"8\" height=\"8\"/></svg> new IKE SA</li>
</ul>";

fn summary(scenes: &[Scene]) -> String {
    let mut text = "<table>
<thead><tr><th>case</th><th>NAT</th><th>what happens</th><th colspan=\"2\">with the gate</th>\
<th colspan=\"2\">gate off</th></tr>
<tr><th></th><th></th><th></th><th>longest silence</th><th>lost</th><th>longest silence</th><th>lost</th></tr></thead>
<tbody>
"
    .to_owned();
    for scene in scenes {
        let case = scene.case;
        let _ = write!(
            text,
            "<tr><td><a href=\"#{case}\">{case}</a></td><td>{}</td><td>{}</td>",
            scene
                .script
                .as_ref()
                .map_or("", |script| script.model.name()),
            escape(case.about())
        );
        for outcome in &scene.outcomes {
            match outcome {
                Ok(played) => {
                    let row = Row::of(scene, played, true);
                    let class = if row.longest_silence_s.is_some() {
                        ""
                    } else {
                        " class=\"bad\""
                    };
                    let _ = write!(text, "<td{class}>{}</td><td>{}</td>", told(&row), row.lost);
                }
                Err(_) => text += "<td colspan=\"2\" class=\"bad\">could not be played</td>",
            }
        }
        if scene.outcomes.is_empty() {
            text += "<td colspan=\"4\">in the simulator only</td>";
        }
        text += "</tr>\n";
    }
    text + "</tbody>\n</table>"
}

fn told(row: &Row) -> String {
    match row.longest_silence_s {
        Some(seconds) if seconds > 0.0 => format!("{seconds:.1} s"),
        Some(_) => "none".to_owned(),
        None => "to the end".to_owned(),
    }
}

fn section(scene: &Scene) -> String {
    let case = scene.case;
    let mut text = format!(
        "<section id=\"{case}\">\n<h2>{case}: {}</h2>\n",
        escape(case.about())
    );
    let Some(script) = &scene.script else {
        return text
            + &format!(
                "<p>Each side picks its SPIs at random, and nobody can make two of them alike from outside. The \
                 simulator can: <code>cargo xtask sim --scenario '{case}*'</code>.</p>\n</section>\n"
            );
    };
    let _ = writeln!(
        text,
        "<p>{} <span class=\"nat\">NAT: {}, {}.</span></p>\n<div class=\"pair\">",
        escape(script.about),
        script.model.name(),
        if script.clients == 1 {
            "one client".to_owned()
        } else {
            format!("{} clients", script.clients)
        }
    );
    for (outcome, title) in scene.outcomes.iter().zip(["with the gate", "gate off"]) {
        let _ = writeln!(text, "<figure>\n<figcaption>{title}</figcaption>");
        match outcome {
            Ok(played) => text += &picture(script, played),
            Err(error) => {
                let _ = writeln!(text, "<p class=\"bad\">{}</p>", escape(error));
            }
        }
        text += "</figure>\n";
    }
    text + "</div>\n</section>\n"
}

/// Where a time is, from the left.
fn x(script: &Script, seconds: f64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * seconds.clamp(0.0, script.seconds) / script.seconds
}

fn picture(script: &Script, played: &Outcome) -> String {
    let client_height = 2.0 * (LANE + BETWEEN) + EVENTS + AFTER_CLIENT;
    let bottom = TOP + f64::from(script.clients) * client_height;
    let height = bottom + AXIS;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n");
    let every = if script.seconds > 30.0 { 8.0 } else { 4.0 };
    let mut tick = 0.0;
    while tick <= script.seconds {
        let at = x(script, tick);
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/><text class=\"axis\" x=\"{at:.1}\" y=\"{}\">{tick} s</text>",
            height - 5.0
        );
        tick += every;
    }
    for client in 1..=script.clients {
        let top = TOP + f64::from(client - 1) * client_height;
        for (nth, way) in [Way::C2s, Way::S2c].into_iter().enumerate() {
            let y = top + nth as f64 * (LANE + BETWEEN);
            let arrow = match way {
                Way::C2s => "→",
                Way::S2c => "←",
            };
            let _ = writeln!(
                svg,
                "<text class=\"name\" x=\"{}\" y=\"{:.1}\">client {client} {arrow}</text>",
                LEFT - 8.0,
                y + LANE - 6.0
            );
            let lane = played
                .lanes
                .iter()
                .find(|lane| (lane.client, lane.way) == (client, way));
            match lane {
                Some(lane) => svg += &strip(script, lane, y),
                None => {
                    let _ = writeln!(
                        svg,
                        "<path class=\"grid\" d=\"M{LEFT} {:.1}H{}\"/>",
                        y + LANE,
                        WIDTH - RIGHT
                    );
                }
            }
        }
        let y = top + 2.0 * (LANE + BETWEEN) + EVENTS / 2.0;
        svg += &marks(script, &played.events, client, y);
    }
    for (nth, step) in script.steps.iter().enumerate() {
        let at = x(script, step.at);
        let y = if nth % 2 == 0 { 12.0 } else { 25.0 };
        let _ = writeln!(
            svg,
            "<path class=\"step\" d=\"M{at:.1} {:.1}V{bottom}\"/><text class=\"step\" x=\"{:.1}\" y=\"{y}\">{}</text>",
            y - 9.0,
            at + 4.0,
            escape(step.label)
        );
    }
    svg + "</svg>\n"
}

/// What was sent, what of it arrived when, and where nothing did.
fn strip(script: &Script, lane: &Lane, y: f64) -> String {
    let mut svg = String::new();
    // Where it was sent without a pause.
    let mut runs: Vec<(f64, f64)> = Vec::new();
    for (sent, _) in &lane.datagrams {
        match runs.last_mut() {
            Some((_, end)) if sent - *end < 1.0 => *end = *sent,
            _ => runs.push((*sent, *sent)),
        }
    }
    for (from, until) in runs {
        let (from, until) = (x(script, from), x(script, until));
        let _ = writeln!(
            svg,
            "<rect class=\"sent\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{LANE}\"/>",
            until - from
        );
    }
    let bins = whole(script.seconds, BIN);
    let mut counts = vec![0.0; bins + 1];
    for at in lane.datagrams.iter().filter_map(|(_, arrived)| *arrived) {
        counts[whole(at, BIN).min(bins)] += 1.0;
    }
    let due = BIN / PACE.as_secs_f64();
    let mut path = format!("M{:.1} {:.1}", x(script, 0.0), y + LANE);
    let mut level = 0.0;
    for (bin, count) in counts[..bins].iter().enumerate() {
        // What comes a moment late, on a busy machine, is no loss.
        let next = (4.0 * count / due + 0.8).floor().min(4.0) / 4.0;
        if next != level {
            let _ = write!(
                path,
                "H{:.1}V{:.1}",
                x(script, bin as f64 * BIN),
                y + LANE - (LANE - 3.0) * next
            );
            level = next;
        }
    }
    let _ = writeln!(
        svg,
        "<path class=\"arrived\" d=\"{path}H{:.1}V{:.1}z\"/>",
        x(script, script.seconds),
        y + LANE
    );
    for (nth, (from, until)) in lane.outages.iter().enumerate() {
        let (left, right) = (x(script, *from), x(script, *until));
        let length = until - from;
        let for_good = lane.for_good && nth + 1 == lane.outages.len();
        let words = match for_good {
            true => "to the end".to_owned(),
            false => format!("{length:.1} s"),
        };
        let _ = writeln!(
            svg,
            "<rect class=\"outage\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{LANE}\"><title>{words}</title></rect>",
            right - left
        );
        if right - left > TELLING {
            let _ = writeln!(
                svg,
                "<text class=\"outage\" x=\"{:.1}\" y=\"{:.1}\">{words}</text>",
                f64::midpoint(left, right),
                y + LANE - 6.0
            );
        }
    }
    svg
}

/// Pings and keys of a client, around `y`.
fn marks(script: &Script, events: &[Event], client: u8, y: f64) -> String {
    let mut svg = String::new();
    for event in events
        .iter()
        .filter(|event| event.client == client && event.at <= script.seconds)
    {
        let at = x(script, event.at);
        let (class, d) = match event.kind {
            Kind::Answered => ("answered", format!("M{at:.1} {:.1}v10", y - 5.0)),
            Kind::Unanswered => (
                "unanswered",
                format!("M{:.1} {:.1}l6 6m0 -6l-6 6", at - 3.0, y - 3.0),
            ),
            Kind::Epoch => ("epoch", format!("M{at:.1} {:.1}l5 5-5 5-5-5z", y - 5.0)),
            Kind::Session => (
                "session",
                format!("M{:.1} {:.1}h8v8h-8z", at - 4.0, y - 4.0),
            ),
        };
        let _ = writeln!(
            svg,
            "<path class=\"{class}\" d=\"{d}\"><title>{:.2} s: {}</title></path>",
            event.at,
            escape(&event.text)
        );
    }
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{super::script::script, *};
    use crate::case::Case;

    fn scene(case: Case) -> Scene {
        let script = script(case);
        let lane = Lane {
            client: 1,
            way: Way::S2c,
            datagrams: (0..1000)
                .map(|n| f64::from(n) * 0.02)
                .map(|at| (at, (at < 5.0).then_some(at)))
                .collect(),
            outages: vec![(5.0, 20.0)],
            for_good: true,
        };
        let event = Event {
            at: 6.0,
            client: 1,
            kind: Kind::Unanswered,
            text: "a <ping>".into(),
        };
        let played = Outcome {
            lanes: vec![lane],
            events: vec![event],
        };
        let outcomes = match script {
            Some(_) => vec![Ok(played), Err("no & never".to_owned())],
            None => Vec::new(),
        };
        Scene {
            case,
            script,
            outcomes,
        }
    }

    #[test]
    fn all_cases_are_on_the_page_and_nothing_from_elsewhere() {
        let scenes: Vec<_> = Case::ALL.into_iter().map(scene).collect();
        let page = page(&scenes, "a < b", "machine");
        for case in Case::ALL {
            assert!(page.contains(&format!("id=\"{case}\"")), "{case}");
        }
        assert!(!page.contains("http") && !page.contains("<script") && !page.contains("<ping>"));
        assert!(page.contains("no &amp; never") && page.contains("a &lt; b"));
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert!(page.contains("to the end"));
    }
}
