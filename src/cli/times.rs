//! Times for people.

/// Milliseconds since the epoch as `2026-11-24 09:21:21Z`.
pub(super) fn moment(at: i64) -> String {
    match jiff::Timestamp::from_millisecond(at) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// The same with milliseconds, for histories.
pub(super) fn exact(at: i64) -> String {
    match jiff::Timestamp::from_millisecond(at) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S%.3fZ").to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// Two units at most: `45s`, `3m10s`, `2h5m`, `4d3h`.
pub(super) fn span(milliseconds: i64) -> String {
    let seconds = milliseconds.max(0) / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}

/// Milliseconds since the epoch, now.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        assert_eq!(moment(0), "1970-01-01 00:00:00Z");
        assert_eq!(exact(1_234), "1970-01-01 00:00:01.234Z");
        let spans = [(-5, "0s"), (45_000, "45s"), (190_000, "3m10s"), (7_500_000, "2h5m"), (356_400_000, "4d3h")];
        for (milliseconds, text) in spans {
            assert_eq!(span(milliseconds), text);
        }
    }
}
