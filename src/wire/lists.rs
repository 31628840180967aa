//! What the frames about revocation lists hold: which lists a gateway knows, and a piece of one.
//!
//! A list is named by digests of its issuer's key and of its scope, so that a gateway finds out
//! whether it knows the issuer before it asks for the list. Nothing here is verified: who has signed
//! a list counts, not who has sent it.

/// Names the lists of one issuer and scope: a digest of the issuer's public key, then one of the
/// scope; zeros if the list is of all its certificates.
pub type ListName = [u8; 32];

/// The number of a list, big-endian.
pub type ListNumber = [u8; 20];

/// Most lists that one frame states.
pub const MOST_KNOWN: usize = 64;

/// Largest list in bytes.
pub const LARGEST: usize = 1 << 20;

/// Most bytes of a list in one frame, which has at most 4,096.
pub const LARGEST_PIECE: usize = 4096 - HEAD;

const HEAD: usize = 32 + 20 + 4 + 4;

/// A list that a gateway knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its issuer and scope.
    pub name: ListName,
    /// Its number.
    pub number: ListNumber,
}

/// A piece of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The issuer and the scope of the list.
    pub name: ListName,
    /// Its number.
    pub number: ListNumber,
    /// Size of the whole list in bytes.
    pub total: u32,
    /// Where in the list the piece begins.
    pub at: u32,
    /// The piece.
    pub bytes: Vec<u8>,
}

pub(super) fn encode_known(known: &[Known]) -> Vec<u8> {
    let known = &known[..known.len().min(MOST_KNOWN)];
    let count = u8::try_from(known.len()).expect("they are few");
    let mut out = vec![count];
    for Known { name, number } in known {
        out.extend(name);
        out.extend(number);
    }
    out
}

/// Reads what a gateway knows. A later release may append to it.
pub(super) fn decode_known(content: &[u8]) -> Option<Vec<Known>> {
    let (count, mut rest) = content.split_first()?;
    if usize::from(*count) > MOST_KNOWN {
        return None;
    }
    let mut known = Vec::with_capacity(usize::from(*count));
    for _ in 0..*count {
        let (name, after) = rest.split_first_chunk()?;
        let (number, after) = after.split_first_chunk()?;
        known.push(Known { name: *name, number: *number });
        rest = after;
    }
    Some(known)
}

impl Piece {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.bytes.len());
        out.extend(self.name);
        out.extend(self.number);
        out.extend(self.total.to_be_bytes());
        out.extend(self.at.to_be_bytes());
        out.extend(&self.bytes);
        out
    }

    pub(super) fn decode(content: &[u8]) -> Option<Self> {
        let (name, rest) = content.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (total, rest) = rest.split_first_chunk()?;
        let (at, bytes) = rest.split_first_chunk()?;
        let (total, at) = (u32::from_be_bytes(*total), u32::from_be_bytes(*at));
        // A piece never ends behind its list.
        let ends = u64::from(at) + bytes.len() as u64;
        let fits = !bytes.is_empty() && ends <= u64::from(total);
        fits.then(|| Self { name: *name, number: *number, total, at, bytes: bytes.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::MAX_CONTROL;

    #[test]
    fn what_is_known_may_be_longer_than_stated_and_never_shorter() {
        let known = vec![Known { name: [1; 32], number: [2; 20] }; 3];
        let whole = encode_known(&known);
        assert_eq!(decode_known(&[&whole[..], b"later"].concat()), Some(known));
        assert!((0..whole.len()).all(|cut| decode_known(&whole[..cut]).is_none()));
        assert_eq!(decode_known(&[&[65][..], &[0; 65 * 52]].concat()), None, "more than may be");
        assert_eq!(encode_known(&[Known { name: [1; 32], number: [2; 20] }; 70])[0], 64);
        assert!(encode_known(&[Known { name: [1; 32], number: [2; 20] }; 64]).len() <= MAX_CONTROL);
    }

    #[test]
    fn a_piece_that_is_empty_or_ends_behind_its_list_is_refused() {
        let piece = Piece { name: [1; 32], number: [2; 20], total: 9, at: 4, bytes: vec![7; 5] };
        assert_eq!(Piece::decode(&piece.encode()), Some(piece.clone()));
        for wrong in [
            Piece { at: 5, ..piece.clone() },
            Piece { at: u32::MAX, ..piece.clone() },
            Piece { bytes: Vec::new(), ..piece.clone() },
        ] {
            assert_eq!(Piece::decode(&wrong.encode()), None, "{wrong:?}");
        }
        let largest = Piece { total: 8192, at: 0, bytes: vec![1; LARGEST_PIECE], ..piece };
        assert_eq!(largest.encode().len(), MAX_CONTROL);
    }
}
