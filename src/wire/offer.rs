//! What a gateway tells of a master that it follows: where it stands in the history of its data.
//!
//! A far site with several sites to choose from decides by it ([`crate::lineage`]). The process of the
//! Redis is not told.

use super::fields::{FieldError, T_OFFER};
use crate::lineage::{History, Standing};

/// Whether an earlier history comes behind the present one.
const EARLIER: u8 = 1;

/// A master that is followed, and offered now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Where it stands.
    pub standing: Standing,
}

impl Offer {
    /// The value of the field, without the process.
    pub(super) fn encode(&self) -> Vec<u8> {
        let Standing { history, offset, earlier, .. } = &self.standing;
        let mut value = vec![if earlier.is_some() { EARLIER } else { 0 }];
        for (history, offset) in [(*history, *offset)].into_iter().chain(*earlier) {
            value.extend(history.as_bytes());
            value.extend(offset.to_be_bytes());
        }
        value
    }

    /// Reads it. A later release may append to the value, and use other flags.
    pub(super) fn decode(value: &[u8]) -> Result<Self, FieldError> {
        let (flags, rest) = value.split_first().ok_or(FieldError::Value(T_OFFER))?;
        let ((history, offset), rest) = place(rest)?;
        let earlier = if flags & EARLIER == 0 { None } else { Some(place(rest)?.0) };
        Ok(Self { standing: Standing { history, offset, earlier, run: None } })
    }

    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        let history = |letter: u8| History::read(&[letter; 40]).expect("forty letters");
        let standing = Standing {
            history: history(b'a'),
            offset: 1_000,
            earlier: Some((history(b'b'), 901)),
            run: None,
        };
        Self { standing }
    }
}

/// A history and an offset in it, and what follows.
fn place(value: &[u8]) -> Result<((History, u64), &[u8]), FieldError> {
    let wrong = FieldError::Value(T_OFFER);
    let (history, rest) = value.split_at_checked(40).ok_or(wrong.clone())?;
    let (offset, rest) = rest.split_first_chunk().ok_or(wrong.clone())?;
    Ok(((History::read(history).ok_or(wrong)?, u64::from_be_bytes(*offset)), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> impl Strategy<Value = (History, u64)> {
        let history = "[0-9a-z]{39}[1-9a-z]".prop_map(|id| History::read(id.as_bytes()).unwrap());
        (history, any::<u64>())
    }

    proptest! {
        #[test]
        fn an_offer_is_read_as_it_was_written_whatever_a_later_release_appends(
            (history, offset) in place(),
            earlier in proptest::option::of(place()),
            more in proptest::collection::vec(any::<u8>(), 0..60),
            flags: u8,
        ) {
            let offer = Offer { standing: Standing { history, offset, earlier, run: None } };
            let mut value = offer.encode();
            prop_assert_eq!(value.len(), if earlier.is_some() { 97 } else { 49 });
            for end in 0..value.len() {
                prop_assert_eq!(Offer::decode(&value[..end]), Err(FieldError::Value(T_OFFER)), "cut at {}", end);
            }
            value[0] |= flags & !EARLIER;
            value.extend(more);
            prop_assert_eq!(Offer::decode(&value), Ok(offer));
        }

        #[test]
        fn any_value_is_an_offer_that_is_written_alike_or_a_fault(value in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(offer) = Offer::decode(&value) {
                prop_assert_eq!(Offer::decode(&offer.encode()), Ok(offer));
            }
        }
    }

    #[test]
    fn the_process_is_not_told_and_what_is_no_history_is_a_fault() {
        let mut offer = Offer::sample();
        offer.standing.run = Some("f00d".to_owned());
        assert_eq!(Offer::decode(&offer.encode()), Ok(Offer::sample()));
        for letter in [b'0', b'\n', 0, 0xff] {
            let mut value = Offer::sample().encode();
            value[1..41].fill(letter);
            assert_eq!(Offer::decode(&value), Err(FieldError::Value(T_OFFER)), "{letter}");
        }
    }
}
