//! Numbers and times in words.

use time::OffsetDateTime;

use crate::clock;

/// Bytes, as in `5.9 GiB`.
pub(super) fn bytes(count: f64) -> String {
    let mut value = count;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        // What would be rounded to 1024 is one of the next unit.
        if value < if unit == "B" { 1023.5 } else { 1023.95 } {
            return if unit == "B" { format!("{value:.0} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// Bytes a second, as in `5.9 MiB/s`.
pub(super) fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// A time that passes between two events: tenths below ten seconds, and the largest unit that fits above.
pub(super) fn seconds(value: f64) -> String {
    if value < 9.95 { format!("{value:.1} s") } else { clock::span(value.round() as i64) }
}

/// A round trip, as in `0.3 ms` or `120 ms`.
pub(super) fn milliseconds(seconds: f64) -> String {
    let value = seconds * 1000.0;
    if value < 9.95 { format!("{value:.1} ms") } else { format!("{value:.0} ms") }
}

/// A count with its noun, as in `1 link` or `2 links`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// How long ago a time in seconds since 1970 was, as in `5 minutes ago`.
pub(super) fn ago(at: i64, now: i64) -> String {
    format!("{} ago", clock::span(now.saturating_sub(at).max(0)))
}

/// The time of day in UTC, as in `15:04:05`.
pub(super) fn time_of_day(at: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(at).map(OffsetDateTime::time);
    time.map_or_else(
        |_| format!("@{at}"),
        |time| format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second()),
    )
}

/// The date in UTC, as in `2027-11-22`.
pub(super) fn date(at: i64) -> String {
    OffsetDateTime::from_unix_timestamp(at).map_or_else(|_| format!("@{at}"), |time| time.date().to_string())
}

/// The first names of a list, and the number of the others.
pub(super) fn names<'a>(names: impl ExactSizeIterator<Item = &'a str>, most: usize) -> String {
    let more = names.len().saturating_sub(most);
    let first: Vec<&str> = names.take(most).collect();
    let first = first.join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_the_unit_that_fits() {
        assert_eq!(
            [0.0, 1023.0, 1023.9, 1536.0, 1_048_575.0, 6.3e9, 5e15].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.9 GiB", "4547.5 TiB"]
        );
        assert_eq!([0.04, 9.94, 9.96, 300.0].map(seconds), ["0.0 s", "9.9 s", "10 s", "5 minutes"]);
        assert_eq!([0.000_31, 0.1204].map(milliseconds), ["0.3 ms", "120 ms"]);
        assert_eq!((time_of_day(3661), date(86_400)), ("01:01:01".to_owned(), "1970-01-02".to_owned()));
        assert_eq!(ago(100, 90), "0 s ago", "clocks differ");
        assert_eq!(names(["a", "b", "c"].into_iter(), 2), "a, b and 1 more");
    }
}
