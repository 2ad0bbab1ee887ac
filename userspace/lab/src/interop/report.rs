//! What the matrix found, for machines (JSON) and for people (a table); and what the logs say.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// One case in one role with one peer.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub case: String,
    /// `initiator` or `responder`.
    pub mitregate_role: &'static str,
    /// `strongswan-5.9`
    pub peer: String,
    /// Everything was as it should be.
    pub ok: bool,
    /// What was counted, or what went wrong.
    pub detail: String,
    /// How long it took.
    #[serde(skip)]
    pub took: Duration,
}

/// For machines.
pub fn write_json(path: &Path, rows: &[Row]) -> Result<()> {
    let text = serde_json::to_string_pretty(rows)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// One line, as soon as the case has ended.
pub fn line(row: &Row) -> String {
    let mark = if row.ok { "✓" } else { "✗" };
    let first = row.detail.lines().next().unwrap_or_default();
    format!(
        "  {mark} {:<38} {:<9} {:<14} {:>3} s  {first}",
        row.case,
        row.mitregate_role,
        row.peer,
        row.took.as_secs()
    )
}

/// Cases down, roles and peers across.
pub fn table(rows: &[Row]) -> String {
    let mut cases: Vec<&str> = Vec::new();
    let mut columns: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        if !cases.contains(&row.case.as_str()) {
            cases.push(&row.case);
        }
        let column = (row.peer.as_str(), row.mitregate_role);
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    columns.sort_unstable();
    let mut text = format!("\n{:<40}", "mitregate is");
    for (_, role) in &columns {
        text += &format!(" {role:>14}");
    }
    text += &format!("\n{:<40}", "the peer is");
    for (peer, _) in &columns {
        text += &format!(" {peer:>14}");
    }
    text.push('\n');
    for case in cases {
        text += &format!("{case:<40}");
        for (peer, role) in &columns {
            let found = rows
                .iter()
                .find(|row| row.case == case && row.peer == *peer && row.mitregate_role == *role);
            let word = match found {
                Some(row) if row.ok => "ok",
                Some(_) => "FAILED",
                None => "–",
            };
            text += &format!(" {word:>14}");
        }
        text.push('\n');
    }
    let failed = rows.iter().filter(|row| !row.ok).count();
    text + &format!("\n{} passed, {failed} failed\n", rows.len() - failed)
}

/// The end of a log.
pub fn last_lines(path: &Path, count: usize) -> Vec<String> {
    lines(path, count, |_| true)
}

/// The last lines of a log that matter to a person who looks for a fault.
pub fn telling_lines(path: &Path, count: usize) -> Vec<String> {
    lines(path, count, |line| {
        !line.contains(" DEBUG ") && !line.contains("[CFG]") && !line.contains("[LIB]")
    })
}

fn lines(path: &Path, count: usize, which: impl Fn(&str) -> bool) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<_> = text.lines().filter(|line| which(line)).collect();
    let last = &all[all.len().saturating_sub(count)..];
    last.iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, mitregate_role: &'static str, ok: bool) -> Row {
        Row {
            case: case.into(),
            mitregate_role,
            peer: "strongswan-5.9".into(),
            ok,
            detail: "two\nlines".into(),
            took: Duration::from_secs(1),
        }
    }

    #[test]
    fn the_table_has_every_case_and_the_totals() {
        let rows = [
            row("psk", "initiator", true),
            row("psk", "responder", false),
            row("nat", "initiator", true),
        ];
        let text = table(&rows);
        assert!(text.contains("2 passed, 1 failed"));
        let psk = text.lines().find(|line| line.starts_with("psk")).unwrap();
        assert_eq!(
            psk.split_whitespace().collect::<Vec<_>>(),
            ["psk", "ok", "FAILED"]
        );
        let nat = text.lines().find(|line| line.starts_with("nat")).unwrap();
        assert!(nat.ends_with('–'));
    }

    #[test]
    fn the_promised_fields_are_there() {
        let json = serde_json::to_value([row("psk", "initiator", true)]).unwrap();
        for field in ["case", "mitregate_role", "peer", "ok", "detail"] {
            assert!(json[0].get(field).is_some(), "{field}");
        }
    }
}
