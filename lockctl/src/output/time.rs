//! Times as people say them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long ago a moment was, in milliseconds since 1970: `3m ago`.
pub(crate) fn ago(unix_ms: u64) -> String {
    let then = UNIX_EPOCH + Duration::from_millis(unix_ms);
    // Clocks of two hosts differ a little.
    format!("{} ago", rough(SystemTime::now().duration_since(then).unwrap_or_default()))
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
        assert_eq!(ago(u64::MAX / 4), "0ms ago");
    }
}
