//! Fields: the tagged values inside HELLO, ACCEPT, REFUSE and the frames that end a link.
//!
//! A field is a tag (`u16`), a length (`u16`) and that many bytes, all
//! big-endian. A tag with its highest bit set is critical: a reader that does not know
//! it must refuse. Any other unknown tag is skipped, so that neighbouring releases
//! work together. A known tag may come once.

/// Longest text in bytes that is accepted from the far side.
pub const MAX_TEXT: usize = 200;

/// Bit that marks a critical tag.
const CRITICAL: u16 = 0x8000;

pub(super) const T_VERSION: u16 = CRITICAL | 1;
pub(super) const T_SITE: u16 = CRITICAL | 2;
pub(super) const T_NEW: u16 = CRITICAL | 3;
pub(super) const T_ATTACH: u16 = CRITICAL | 4;
pub(super) const T_PROBE: u16 = CRITICAL | 5;
pub(super) const T_NODE: u16 = 6;
pub(super) const T_INSTANCE: u16 = CRITICAL | 7;
pub(super) const T_CLOCK: u16 = 8;
pub(super) const T_TERMS: u16 = CRITICAL | 9;
pub(super) const T_SIBLING: u16 = CRITICAL | 10;
pub(super) const T_LINK: u16 = CRITICAL | 11;
pub(super) const T_RECEIVED: u16 = CRITICAL | 12;
pub(super) const T_PLAIN: u16 = CRITICAL | 13;
pub(super) const T_CODE: u16 = 14;
pub(super) const T_TEXT: u16 = 15;
pub(super) const T_BY: u16 = 16;
pub(super) const T_KEY: u16 = 17;
pub(super) const T_OFFER: u16 = 18;

/// A fault in a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The content ends inside a field.
    #[error("a field is cut short")]
    Short,
    /// A critical tag of a later release.
    #[error("unknown critical field {0:#06x}")]
    Unknown(u16),
    /// The same tag came twice.
    #[error("field {0:#06x} came twice")]
    Twice(u16),
    /// A value outside what the tag allows.
    #[error("field {0:#06x} has an impossible value")]
    Value(u16),
    /// A required field is missing.
    #[error("field {0:#06x} is missing")]
    Missing(u16),
}

/// Builds the content of a frame from fields.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn put(&mut self, tag: u16, value: &[u8]) {
        let length = u16::try_from(value.len()).expect("fields are small");
        self.0.extend(tag.to_be_bytes());
        self.0.extend(length.to_be_bytes());
        self.0.extend(value);
    }
}

/// Calls `take` with each field; `take` returns whether it knows the tag.
pub(super) fn read(
    mut content: &[u8],
    mut take: impl FnMut(u16, &[u8]) -> Result<bool, FieldError>,
) -> Result<(), FieldError> {
    let mut seen = Vec::new();
    while !content.is_empty() {
        let (head, rest) = content.split_at_checked(4).ok_or(FieldError::Short)?;
        let tag = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (value, rest) = rest.split_at_checked(length).ok_or(FieldError::Short)?;
        if seen.contains(&tag) {
            return Err(FieldError::Twice(tag));
        }
        if take(tag, value)? {
            seen.push(tag);
        } else if tag & CRITICAL != 0 {
            return Err(FieldError::Unknown(tag));
        }
        content = rest;
    }
    Ok(())
}

/// A value of exactly `N` bytes.
pub(super) fn fixed<const N: usize>(tag: u16, value: &[u8]) -> Result<[u8; N], FieldError> {
    value.try_into().map_err(|_| FieldError::Value(tag))
}

/// A site's or a master's name: 1 to 253 printable ASCII bytes without spaces.
pub(super) fn name(tag: u16, value: &[u8]) -> Result<String, FieldError> {
    let good = (1..=253).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
    if good { Ok(String::from_utf8_lossy(value).into_owned()) } else { Err(FieldError::Value(tag)) }
}

/// At most [`MAX_TEXT`] bytes of `text`, cut on a whole character.
pub(super) fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Text of the far side, cut as [`cut`] does; bytes that are not UTF-8 are replaced.
pub(super) fn cut_text(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(&value[..value.len().min(MAX_TEXT)]);
    cut(&text).to_owned()
}
