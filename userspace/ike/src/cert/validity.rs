//! Times as a person reads them.

use core::time::Duration;

use x509_cert::der::DateTime;

/// `2026-11-24 21:00:00 UTC`; times beyond the year 9999 as seconds.
pub(crate) fn date(unix_time: Duration) -> String {
    match DateTime::from_unix_duration(Duration::from_secs(unix_time.as_secs())) {
        Ok(time) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
            time.year(),
            time.month(),
            time.day(),
            time.hour(),
            time.minutes(),
            time.seconds()
        ),
        Err(_) => format!("{} s after 1970", unix_time.as_secs()),
    }
}

/// The largest unit that a span has at least one of: `3 days`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [
        (86400, "day"),
        (3600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let (unit, name) = units
        .into_iter()
        .find(|(unit, _)| seconds >= *unit)
        .unwrap_or((1, "second"));
    let count = seconds / unit;
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {name}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_spans() {
        assert_eq!(date(Duration::ZERO), "1970-01-01 00:00:00 UTC");
        assert_eq!(
            date(Duration::from_secs(1_767_225_599)),
            "2025-12-31 23:59:59 UTC"
        );
        assert_eq!(date(Duration::MAX), format!("{} s after 1970", u64::MAX));
        assert_eq!(span(Duration::from_secs(0)), "0 seconds");
        assert_eq!(span(Duration::from_secs(61)), "1 minute");
        assert_eq!(span(Duration::from_secs(3 * 86400 + 5)), "3 days");
    }
}
