//! Times as people say them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long ago a moment was, in milliseconds since 1970: `3m ago`.
pub(crate) fn ago(unix_ms: u64) -> String {
    let then = UNIX_EPOCH + Duration::from_millis(unix_ms);
    // Clocks of two hosts differ a little.
    format!("{} ago", rough(SystemTime::now().duration_since(then).unwrap_or_default()))
}

/// A moment, in milliseconds since 1970, as `2026-11-25T01:12:27.000Z`; `None` for what no clock shows.
pub(crate) fn rfc3339(unix_ms: u64) -> Option<String> {
    let then = UNIX_EPOCH + Duration::from_millis(unix_ms);
    // Later years have more than four digits, which it cannot write.
    (unix_ms < YEAR_10_000).then(|| humantime::format_rfc3339_millis(then).to_string())
}

const YEAR_10_000: u64 = 253_402_300_800_000;

/// This moment, to the second.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// A duration that was measured: `820µs`, `1.4ms`, `350ms`, `2.1s`.
pub(crate) fn measured(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros}µs"),
        1_000..10_000 => format!("{:.1}ms", duration.as_secs_f64() * 1e3),
        10_000..1_000_000 => format!("{}ms", duration.as_millis()),
        _ => format!("{:.1}s", duration.as_secs_f64()),
    }
}

/// A duration with its greatest unit: `42s`, `3m`, `5h`, `2d`.
pub(crate) fn rough(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{}ms", duration.as_millis()),
        seconds @ 1..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_clocks() {
        assert_eq!(rfc3339(1_795_000_000_123).as_deref(), Some("2026-11-18T11:06:40.123Z"));
        assert_eq!(rfc3339(YEAR_10_000 - 1).as_deref(), Some("9999-12-31T23:59:59.999Z"));
        assert_eq!((rfc3339(YEAR_10_000), rfc3339(u64::MAX)), (None, None));
    }

    #[test]
    fn what_was_measured_has_two_digits_at_least() {
        for (micros, want) in [(0, "0µs"), (999, "999µs"), (1_400, "1.4ms"), (35_900, "35ms"), (2_100_000, "2.1s")] {
            assert_eq!(measured(Duration::from_micros(micros)), want);
        }
    }

    #[test]
    fn the_greatest_unit_is_told() {
        for (duration, want) in [
            (Duration::from_millis(20), "20ms"),
            (Duration::from_millis(59_900), "59s"),
            (Duration::from_secs(3_599), "59m"),
            (Duration::from_secs(100_000), "27h"),
            (Duration::from_secs(172_800), "2d"),
        ] {
            assert_eq!(rough(duration), want);
        }
        assert_eq!(ago(u64::MAX), "0ms ago");
    }
}
