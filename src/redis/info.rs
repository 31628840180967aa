//! The fields of INFO.

/// Every line `field:value` of an answer to INFO, as Redis gives it: neither is escaped.
pub fn fields(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = text.split(|byte| *byte == b'\n');
    lines.filter_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let at = line.iter().position(|byte| *byte == b':').filter(|_| line[0] != b'#')?;
        Some((&line[..at], &line[at + 1..]))
    })
}
