//! Columns for people.

use serde_json::Value;

/// Rows of text, aligned; the first row is the heading.
pub fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// The routes that take protected traffic past the tunnels; nothing if there are none.
pub fn bypasses(bypasses: &Value) -> String {
    let count = bypasses["count"].as_u64().unwrap_or(0);
    if count == 0 {
        return String::new();
    }
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let mut rows = vec![
        ["  ROUTE", "INTERFACE", "METRIC", "PROTECTED"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for route in bypasses["routes"].as_array().into_iter().flatten() {
        rows.push(vec![
            format!("  {}", word(&route["destination"])),
            word(&route["interface"]),
            route["metric"].to_string(),
            word(&route["protected"]),
        ]);
    }
    format!(
        "\n{} route(s) past the tunnels, what they carry leaves in clear:\n{}",
        grouped(count),
        columns(&rows)
    )
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Milliseconds as `350ms`, `12s`, `5m 3s`, `2h 10m`, `3d 4h`.
pub fn age(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis}ms"),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            columns(&[row(&["A", "B"]), row(&["long", "x"])]),
            "A     B\nlong  x\n"
        );
        assert_eq!(columns(&[]), "");
        assert_eq!(
            [0, 12, 999, 1000, 1_234_567].map(grouped),
            ["0", "12", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [20, 1500, 65_000, 7_500_000, 180_000_000].map(age),
            ["20ms", "1s", "1m 5s", "2h 5m", "2d 2h"]
        );
    }
}
