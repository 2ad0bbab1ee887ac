//! Texts with units.

use std::time::Duration;

/// `250ms`, `5s`, `1.5s`, `30m`, `1h`, `1d`. A bare number is refused: of what?
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(|| format!("{text:?} needs a unit: ms, s, m, h or d"))?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit.trim() {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => {
            return Err(format!(
                "{text:?} is not a time: the units are ms, s, m, h and d"
            ));
        }
    };
    number
        .parse::<f64>()
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number * seconds).ok())
        // Whole microseconds: what is configured in decimal should read so.
        .map(|time| Duration::from_micros(micros(time)))
        .ok_or_else(|| format!("{text:?} is not a time, such as \"250ms\" or \"1h\""))
}

/// As it is written: in the largest unit that leaves a whole number.
pub fn show(time: Duration) -> String {
    let ms = time.as_millis();
    for (unit, of) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
    ] {
        if ms >= of && ms.is_multiple_of(of) {
            return format!("{}{unit}", ms / of);
        }
    }
    format!("{ms}ms")
}

fn micros(time: Duration) -> u64 {
    let nanos = time.as_nanos().saturating_add(500);
    u64::try_from(nanos / 1000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        for text in ["250ms", "1500ms", "7s", "30m", "1h", "2d"] {
            assert_eq!(show(duration(text).unwrap()), text);
        }
        assert_eq!(duration("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration(" 2 d "), Ok(Duration::from_secs(172_800)));
        for wrong in ["", "5", "s", "1.2.3s", "-1s", "1y", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
