//! Amounts in words for people: one form of each, wherever it is shown.
//!
//! All but lists and counts with a noun are at most six columns wide, and a rate eight, so that they fit
//! into a table. Bytes are decimal, as the rates of lines are.

/// A number of bytes: `999 B`, `1.2 MB`, `12 MB`.
pub fn size(bytes: f64) -> String {
    let mut value = bytes.max(0.0);
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 999.5 {
            let is_small = unit != "B" && value < 9.95;
            return if is_small { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{:.0} PB", value.min(999.0))
}

/// Bytes a second, as in `5.9 MB/s`.
pub fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", size(bytes_per_second))
}

/// A span: `0.3 s`, `12 s`, `5 min`, `23 h`, `364 d`.
pub fn span(seconds: f64) -> String {
    match seconds {
        ..9.95 => format!("{:.1} s", seconds.max(0.0)),
        ..119.5 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", (seconds / 60.0).floor()),
        ..172_800.0 => format!("{:.0} h", (seconds / 3600.0).floor()),
        ..86_400_000.0 => format!("{:.0} d", (seconds / 86_400.0).floor()),
        _ => ">999 d".to_owned(),
    }
}

/// A span in whole seconds at least.
pub fn whole_span(seconds: f64) -> String {
    if seconds < 9.95 { format!("{:.0} s", seconds.max(0.0)) } else { span(seconds) }
}

/// A round trip: `0.1 ms`, `80 ms`, `1.2 s`.
pub fn round_trip(seconds: f64) -> String {
    let millis = seconds * 1000.0;
    match millis {
        ..9.95 => format!("{:.1} ms", millis.max(0.0)),
        ..999.5 => format!("{millis:.0} ms"),
        _ => span(seconds),
    }
}

/// A count with its noun, as in `1 link` or `2 links`.
pub fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// The first names of a list, and the number of the others.
pub fn names<T: AsRef<str>>(names: &[T], most: usize) -> String {
    let more = names.len().saturating_sub(most);
    let first: Vec<&str> = names[..names.len() - more].iter().map(AsRef::as_ref).collect();
    let first = first.join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

/// How many letters two names share at their begin, to list those first that may be meant.
pub fn alike(one: &str, other: &str) -> usize {
    one.chars().zip(other.chars()).take_while(|(one, other)| one.eq_ignore_ascii_case(other)).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_read_as_people_say_them() {
        assert_eq!(
            [0.0, 999.0, 1000.0, 9_940.0, 9_960.0, 1_234_567.0].map(size),
            ["0 B", "999 B", "1.0 kB", "9.9 kB", "10 kB", "1.2 MB"]
        );
        assert_eq!(rate(5_242_880.0), "5.2 MB/s");
        assert_eq!(
            [0.04, 12.4, 125.0, 7_300.0, 31_450_000.0].map(span),
            ["0.0 s", "12 s", "2 min", "2 h", "364 d"]
        );
        assert_eq!([0.000_08, 0.08, 1.25].map(round_trip), ["0.1 ms", "80 ms", "1.2 s"]);
        assert_eq!(whole_span(0.6), "1 s");
        assert_eq!([1, 2].map(|count| plural(count, "link")), ["1 link", "2 links"]);
    }

    #[test]
    fn a_list_of_many_names_is_cut_and_counted() {
        assert_eq!(names(&["a", "b"], 8), "a, b");
        assert_eq!(names(&vec!["a".to_owned(); 600], 8), "a, a, a, a, a, a, a, a and 592 more");
    }

    proptest! {
        #[test]
        fn no_amount_is_wider_than_its_columns(bytes in 0.0..1e30, seconds in 0.0..1e15) {
            for amount in [size(bytes), span(seconds), whole_span(seconds), round_trip(seconds)] {
                prop_assert!(amount.len() <= 6, "{amount}");
            }
        }
    }
}
