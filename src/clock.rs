//! Wall-clock times as people and files use them. The link's timers use the monotonic clock
//! instead.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Seconds since 1970.
pub fn now() -> i64 {
    i64::try_from(now_millis() / 1000).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970.
pub fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time as in `2027-11-22T15:04:05Z`.
pub fn utc(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("@{seconds}"))
}

/// Its date alone, as in `2027-11-22`.
pub fn date(seconds: i64) -> String {
    let time = utc(seconds);
    time.split('T').next().unwrap_or(&time).to_owned()
}

/// Its time of day alone, as in `15:04:05`.
pub fn time_of_day(seconds: i64) -> String {
    let time = utc(seconds);
    time.split_once('T').map_or(&*time, |(_, time)| time.trim_end_matches('Z')).to_owned()
}

/// How long ago a time was at `now`, as in `5 minutes ago`.
pub fn ago(seconds: i64, now: i64) -> String {
    // Clocks differ: what is yet to come happens now.
    format!("{} ago", span(now.saturating_sub(seconds).max(0)))
}

/// A duration in seconds, rounded to a tenth, for logs.
pub fn tenths(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).round() / 10.0
}

/// A span in its largest fitting unit, as in `3 days`, `5 hours` or `20 s`.
pub fn span(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    let (count, unit) = match seconds {
        172_800.. => (seconds / 86_400, "days"),
        7_200.. => (seconds / 3_600, "hours"),
        120.. => (seconds / 60, "minutes"),
        _ => (seconds, "s"),
    };
    format!("{count} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc_and_spans_have_the_unit_that_fits() {
        assert_eq!(utc(90_061), "1970-01-02T01:01:01Z");
        assert_eq!((date(90_061), time_of_day(90_061)), ("1970-01-02".to_owned(), "01:01:01".to_owned()));
        assert_eq!(time_of_day(i64::MAX), format!("@{}", i64::MAX), "no time that there is");
        assert_eq!([ago(100, 90), ago(0, 300)], ["0 s ago", "5 minutes ago"]);
    }
}
