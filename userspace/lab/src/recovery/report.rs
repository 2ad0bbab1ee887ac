//! What came of the runs: rows for programs, a table, and a picture.

use std::{fmt::Write as _, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

use super::{
    fault::Fault,
    measure::{Flows, Sample},
    system::System,
};

/// All runs of one thing.
pub struct Cell {
    pub system: System,
    pub fault: Fault,
    pub flows: Flows,
    pub samples: Vec<Sample>,
}

/// A line of the JSON. Seconds; none: it did not end within the run.
#[derive(Debug, Serialize)]
pub struct Row {
    system: System,
    fault: Fault,
    flows: Flows,
    runs: usize,
    median_outage_s: Option<f64>,
    worst_outage_s: Option<f64>,
    /// Datagrams, over all runs.
    lost: usize,
}

impl Cell {
    /// As the JSON has it. With an even number of runs the median is the mean of the two in the middle.
    pub fn row(&self) -> Row {
        let mut outages: Vec<_> = self.samples.iter().map(|sample| sample.outage).collect();
        // One that never ended is the longest.
        outages.sort_by_key(|outage| outage.unwrap_or(Duration::MAX));
        let (low, high) = (outages.len().saturating_sub(1) / 2, outages.len() / 2);
        let at = |index: usize| outages.get(index).copied().flatten();
        let median = at(low).zip(at(high)).map(|(low, high)| (low + high) / 2);
        Row {
            system: self.system,
            fault: self.fault,
            flows: self.flows,
            runs: self.samples.len(),
            median_outage_s: median.map(seconds),
            worst_outage_s: at(outages.len().wrapping_sub(1)).map(seconds),
            lost: self.samples.iter().map(|sample| sample.lost).sum(),
        }
    }
}

/// To the millisecond.
fn seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1000.0
}

fn name<T: ValueEnum>(value: &T) -> String {
    value
        .to_possible_value()
        .map_or(String::new(), |value| value.get_name().to_owned())
}

/// For people; also good as it is in a page.
pub fn table(cells: &[Cell]) -> String {
    let mut text = format!(
        "\n| {:<12} | {:<5} | {:<18} | {:>4} | {:>8} | {:>8} | {:>6} |\n|{}|{}|{}|{}|{}|{}|{}|\n",
        "fault",
        "flows",
        "system",
        "runs",
        "median",
        "worst",
        "lost",
        "-".repeat(14),
        "-".repeat(7),
        "-".repeat(20),
        "-".repeat(5) + ":",
        "-".repeat(9) + ":",
        "-".repeat(9) + ":",
        "-".repeat(7) + ":",
    );
    let told = |runs, outage: Option<f64>| match outage {
        Some(outage) => format!("{outage:.2} s"),
        None if runs == 0 => "–".to_owned(),
        None => "never".to_owned(),
    };
    for row in cells.iter().map(Cell::row) {
        let _ = writeln!(
            text,
            "| {:<12} | {:<5} | {:<18} | {:>4} | {:>8} | {:>8} | {:>6} |",
            name(&row.fault),
            name(&row.flows),
            row.system.name(),
            row.runs,
            told(row.runs, row.median_outage_s),
            told(row.runs, row.worst_outage_s),
            row.lost
        );
    }
    text
}

/// A run is a dot, to the right for as long as nothing arrived.
pub fn svg(cells: &[Cell], cutoff: u64) -> String {
    const LEFT: f64 = 250.0;
    const WIDTH: f64 = 560.0;
    const LINE: f64 = 20.0;
    const TOP: f64 = 48.0;
    let longest = cutoff as f64;
    // From 10 ms to the end, each decade as wide as the others; then what never came back.
    let shortest: f64 = 0.01;
    let place = |seconds: f64| {
        let decades = (longest / shortest).log10();
        LEFT + WIDTH * (seconds.max(shortest) / shortest).log10() / decades
    };
    let never = LEFT + WIDTH + 40.0;
    let groups = cells.chunk_by(|a, b| (a.fault, a.flows) == (b.fault, b.flows));
    let height = TOP + LINE * (cells.len() + groups.clone().count()) as f64 + 8.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"12\">
<style>
  svg {{ --ink: #1f2328; --faint: #d0d7de; --paper: #ffffff }}
  .mitregate {{ fill: #0a7f4f }} .mitregate-gate-off {{ fill: #b35900 }}
  .strongswan {{ fill: #a4133c }} .wireguard-go {{ fill: #3554b8 }}
  @media (prefers-color-scheme: dark) {{
    svg {{ --ink: #e6edf3; --faint: #3d444d; --paper: #0d1117 }}
    .mitregate {{ fill: #3fb98a }} .mitregate-gate-off {{ fill: #f0a24b }}
    .strongswan {{ fill: #ff7a93 }} .wireguard-go {{ fill: #8aa4ff }}
  }}
  text {{ fill: var(--ink) }} line {{ stroke: var(--faint) }}
</style>
<rect width=\"100%\" height=\"100%\" fill=\"var(--paper)\"/>
<text x=\"{LEFT}\" y=\"16\">seconds without an arrival, each run a dot</text>
",
        never + 60.0
    );
    let ticks = [0.01, 0.1, 1.0, 3.0, 10.0, 30.0];
    for tick in ticks.into_iter().filter(|tick| *tick < longest) {
        let x = place(tick);
        let label = if tick <= shortest {
            "≤ 0.01".to_owned()
        } else {
            format!("{tick}")
        };
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{height}\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            TOP - 8.0
        );
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{never:.1}\" x2=\"{never:.1}\" y1=\"{TOP}\" y2=\"{height}\"/><text x=\"{never:.1}\" y=\"{}\" text-anchor=\"middle\">never</text>",
        TOP - 8.0
    );
    let mut y = TOP;
    for group in groups {
        y += LINE;
        let _ = writeln!(
            svg,
            "<text x=\"8\" y=\"{:.1}\" font-weight=\"bold\">{}, {}</text>",
            y - 4.0,
            name(&group[0].fault),
            name(&group[0].flows)
        );
        for cell in group {
            y += LINE;
            let system = cell.system.name();
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{system}</text><g class=\"{system}\" fill-opacity=\"0.7\">",
                LEFT - 12.0,
                y - 4.0
            );
            for (nth, sample) in cell.samples.iter().enumerate() {
                let x = match sample.outage {
                    Some(outage) => place(outage.as_secs_f64()),
                    // Beside each other: how many there are is to be seen.
                    None => never - 18.0 + 4.0 * (nth % 10) as f64,
                };
                let _ = write!(svg, "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4\"/>", y - 8.0);
            }
            svg += "</g>\n";
        }
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(outages: &[Option<u64>]) -> Cell {
        let sample = |ms: &Option<u64>| Sample {
            outage: ms.map(Duration::from_millis),
            lost: 2,
        };
        Cell {
            system: System::StrongSwan,
            fault: Fault::Port,
            flows: Flows::S2c,
            samples: outages.iter().map(sample).collect(),
        }
    }

    #[test]
    fn the_middle_and_the_worst() {
        let row = cell(&[Some(3000), Some(1000), Some(2000)]).row();
        assert_eq!(
            (row.median_outage_s, row.worst_outage_s),
            (Some(2.0), Some(3.0))
        );
        let row = cell(&[Some(4000), Some(1000), None, Some(2000)]).row();
        assert_eq!((row.median_outage_s, row.worst_outage_s), (Some(3.0), None));
        let row = cell(&[Some(4000), None, None, Some(2000)]).row();
        assert_eq!((row.median_outage_s, row.worst_outage_s), (None, None));
        assert_eq!((row.runs, row.lost), (4, 8));
        assert_eq!(cell(&[]).row().worst_outage_s, None);
    }

    #[test]
    fn the_rows_are_as_promised() {
        let row = serde_json::to_value(cell(&[None]).row()).unwrap();
        let wanted = serde_json::json!({
            "system": "strongswan", "fault": "port", "flows": "s2c", "runs": 1,
            "median_outage_s": null, "worst_outage_s": null, "lost": 2,
        });
        assert_eq!(row, wanted);
        let names = System::value_variants().iter().map(|system| system.name());
        let wanted = [
            "mitregate",
            "mitregate-gate-off",
            "strongswan",
            "wireguard-go",
        ];
        assert!(names.eq(wanted));
        let named = |system: &System| serde_json::to_value(system).unwrap() == system.name();
        assert!(System::value_variants().iter().all(named));
    }

    #[test]
    fn every_run_is_drawn() {
        let svg = svg(&[cell(&[None, Some(0), Some(70_000)])], 60);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(table(&[cell(&[None])]).contains("never"));
    }
}
