//! Text for a screen: wrapped, cut, and what only a table of every detail needs; `crate::words` has the amounts.
//!
//! A column is a character: names and sites are ASCII, and what a far side says is escaped.

/// The columns that a text takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().count()
}

/// A text in one line: line breaks and other control characters become blanks.
pub(super) fn one_line(text: &str) -> String {
    text.split(|letter: char| letter.is_whitespace() || letter.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A text in lines of at most `most` columns, all but the first indented by `indent`. A word that is longer
/// than a line is cut into pieces.
pub(super) fn wrapped(text: &str, most: usize, indent: usize) -> Vec<String> {
    wrapped_after("", text, most, indent)
}

/// As [`wrapped`], behind a `head` that stays as it is and leaves room for a few columns.
pub(super) fn wrapped_after(head: &str, text: &str, most: usize, indent: usize) -> Vec<String> {
    let indent = " ".repeat(indent.min(most / 2));
    let (mut lines, mut line, mut is_empty) = (Vec::new(), head.to_owned(), true);
    for mut word in one_line(text).split(' ') {
        loop {
            let blank = usize::from(!is_empty);
            let room = most.saturating_sub(width(&line) + blank);
            if width(word) <= room {
                line.extend([" "].into_iter().take(blank));
                line.push_str(word);
                is_empty = false;
                break;
            }
            if is_empty {
                let end = word.char_indices().nth(room).map_or(word.len(), |(at, _)| at);
                line.push_str(&word[..end]);
                word = &word[end..];
            }
            lines.push(std::mem::replace(&mut line, indent.clone()));
            is_empty = true;
        }
    }
    lines.push(line);
    lines
}

/// The begin of a text, as much as fits.
pub(super) fn cut(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(3)).collect();
    format!("{kept}{}", &"..."[..most.min(3)])
}

/// Both ends of a name, as much as fits: names of one kind often differ in their ends.
pub(super) fn both_ends(name: &str, most: usize) -> String {
    let count = width(name);
    if count <= most {
        return name.to_owned();
    }
    let kept = most.saturating_sub(2);
    let head: String = name.chars().take(kept - kept / 2).collect();
    let tail: String = name.chars().skip(count - kept / 2).collect();
    format!("{head}{}{tail}", &".."[..most.min(2)])
}

/// A number of bytes, exact enough to see a small change.
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A count in at most six columns.
pub(super) fn count(count: u64) -> String {
    match count {
        0..=99_999 => count.to_string(),
        100_000..=9_999_999 => format!("{}k", count / 1000),
        10_000_000..=9_999_999_999 => format!("{}M", count / 1_000_000),
        _ => ">9999M".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_count_is_short() {
        assert_eq!([7, 123_456, 98_000_000].map(count), ["7", "123k", "98M"]);
    }

    #[test]
    fn text_is_wrapped_between_words_and_cut_where_it_must() {
        assert_eq!(wrapped("one two three", 7, 2), ["one two", "  three"]);
        assert_eq!(wrapped("of 123456789 on", 6, 2), ["of", "  1234", "  5678", "  9 on"]);
        assert_eq!(
            wrapped("a\nb\x1b[31m c", 80, 2),
            ["a b [31m c"],
            "no control character reaches a terminal"
        );
        assert_eq!(both_ends("orders-eu-west-1", 9), "orde..t-1");
        assert_eq!(cut("ääääää", 5), "ää...");
    }

    proptest! {
        #[test]
        fn nothing_is_wider_than_it_may_be(text in "\\PC{0,200}", most in 1_usize..100, indent in 0_usize..20, number: u64) {
            let lines = wrapped(&text, most, indent);
            prop_assert!(lines.iter().all(|line| width(line) <= most), "{lines:?}");
            let kept: String = lines.concat().chars().filter(|letter| !letter.is_whitespace()).collect();
            let all: String = one_line(&text).chars().filter(|letter| !letter.is_whitespace()).collect();
            prop_assert_eq!(kept, all);
            prop_assert!(width(&cut(&text, most)) <= most && width(&both_ends(&text, most)) <= most);
            prop_assert!(width(&count(number)) <= 6);
        }
    }
}
