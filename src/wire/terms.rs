//! Terms: what each gateway states about itself, and what follows for a link.

use std::time::Duration;

use super::fields::FieldError;
use crate::buffer::PAYLOAD;

/// Most lanes of one link.
pub const MAX_LANES: u8 = 16;

/// Bit in [`Terms::compression`]: blocks of zstd.
pub const ZSTD: u8 = 1;

/// Bit in the byte after the compressions: [`Terms::reports`].
const REPORTS: u8 = 1;

/// Bit in the same byte: [`Terms::lists`].
const LISTS: u8 = 2;

/// What a gateway states about itself. The terms of a link follow from both gateways' statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Unacknowledged bytes that it allows in each direction; the smaller value counts.
    pub window: u64,
    /// Largest DATA payload that it accepts.
    pub max_frame: u32,
    /// Time after which it sends a heartbeat.
    pub heartbeat: Duration,
    /// Silence after which a lane counts as dead for it.
    pub dead_after: Duration,
    /// How long a link survives the loss of its last lane; the smaller value counts.
    pub hold: Duration,
    /// Lanes that it accepts for one link, 1 to [`MAX_LANES`].
    pub lanes: u8,
    /// Compressions that it can decode, as bits; 0 is none.
    pub compression: u8,
    /// Whether it states what it has received, and understands such statements.
    pub reports: bool,
    /// Whether it exchanges revocation lists.
    pub lists: bool,
}

/// The agreed terms of one link, as they apply to one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Whether it is a passthrough: any bytes are carried, and each direction closes separately.
    pub passthrough: bool,
    /// Most unacknowledged bytes in each direction.
    pub window: u64,
    /// Lanes that the link may have.
    pub lanes: u8,
    /// How long it survives the loss of its last lane; zero for a passthrough.
    pub hold: Duration,
    /// Whether the acceptor's stream is compressed.
    pub compressed: bool,
    /// Largest DATA payload that this side may send.
    pub max_data: usize,
    /// Longest pause after which this side sends a heartbeat.
    pub speak_every: Duration,
    /// Longest pause after which the far side sends a heartbeat.
    pub hears_every: Duration,
    /// Silence after which a lane counts as dead for this side.
    pub dead_after: Duration,
    /// Whether each side states what it has received.
    pub reports: bool,
    /// Whether the lanes carry frames about revocation lists.
    pub lists: bool,
}

impl Agreed {
    /// Whether the link may have several lanes at a time.
    pub fn is_shared(&self) -> bool {
        self.lanes > 1
    }
}

impl Terms {
    /// The terms of a link between the side that states these terms and the one that states
    /// `theirs`. `passthrough` is the field of ACCEPT.
    pub fn agree(&self, theirs: &Self, passthrough: bool) -> Agreed {
        Agreed {
            passthrough,
            window: self.window.min(theirs.window),
            lanes: self.lanes.min(theirs.lanes),
            hold: if passthrough { Duration::ZERO } else { self.hold.min(theirs.hold) },
            compressed: !passthrough && self.compression & theirs.compression & ZSTD != 0,
            max_data: PAYLOAD.min(theirs.max_frame as usize),
            speak_every: self.heartbeat.min(theirs.dead_after / 3),
            hears_every: theirs.heartbeat.min(self.dead_after / 3),
            dead_after: self.dead_after,
            reports: self.reports && theirs.reports,
            lists: self.lists && theirs.lists,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.window.to_be_bytes().to_vec();
        out.extend(self.max_frame.to_be_bytes());
        for time in [self.heartbeat, self.dead_after, self.hold] {
            out.extend(u32::try_from(time.as_millis()).unwrap_or(u32::MAX).to_be_bytes());
        }
        out.extend([self.lanes, self.compression, self.understood()]);
        out
    }

    /// What it understands, as bits.
    fn understood(&self) -> u8 {
        u8::from(self.reports) * REPORTS + u8::from(self.lists) * LISTS
    }

    /// A later release may append to the terms; known values stay at the front. An earlier one ends
    /// them before the bits that say what is understood.
    pub(super) fn decode(tag: u16, value: &[u8]) -> Result<Self, FieldError> {
        let (known, later) = value.split_at_checked(26).ok_or(FieldError::Value(tag))?;
        let u32_at = |at: usize| u32::from_be_bytes(known[at..at + 4].try_into().expect("four bytes"));
        let millis = |at: usize| Duration::from_millis(u64::from(u32_at(at)));
        let terms = Self {
            window: u64::from_be_bytes(known[..8].try_into().expect("eight bytes")),
            max_frame: u32_at(8),
            heartbeat: millis(12),
            dead_after: millis(16),
            hold: millis(20),
            lanes: known[24],
            compression: known[25],
            reports: later.first().is_some_and(|bits| bits & REPORTS != 0),
            lists: later.first().is_some_and(|bits| bits & LISTS != 0),
        };
        let sane = terms.window >= 64 * 1024
            && terms.max_frame >= 1024
            && terms.heartbeat >= Duration::from_millis(10)
            && terms.dead_after >= Duration::from_millis(100)
            && (1..=MAX_LANES).contains(&terms.lanes);
        if sane { Ok(terms) } else { Err(FieldError::Value(tag)) }
    }
}

impl Terms {
    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        Self {
            window: 1 << 20,
            max_frame: 262_128,
            heartbeat: Duration::from_secs(1),
            dead_after: Duration::from_secs(3),
            hold: Duration::ZERO,
            lanes: 1,
            compression: 0,
            reports: true,
            lists: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_agree_on_the_smaller_of_what_they_state() {
        let ours = Terms { hold: Duration::from_secs(45), compression: ZSTD, ..Terms::sample() };
        let theirs =
            Terms { window: 64 * 1024, lanes: 4, dead_after: Duration::from_secs(1), ..ours.clone() };
        let (here, there) = (ours.agree(&theirs, false), theirs.agree(&ours, false));
        assert_eq!((here.window, here.lanes, here.hold), (64 * 1024, 1, Duration::from_secs(45)));
        assert!(here.compressed && here.speak_every < theirs.dead_after / 2);
        let both = |agreed: &Agreed| (agreed.window, agreed.lanes, agreed.hold, agreed.compressed);
        assert_eq!(both(&here), both(&there));
    }

    #[test]
    fn a_gateway_of_an_earlier_release_is_understood_and_states_nothing_it_does_not_know() {
        let ours = Terms::sample();
        let early = Terms::decode(0, &ours.encode()[..26]).unwrap();
        assert_eq!(early, Terms { reports: false, lists: false, ..ours.clone() });
        assert!(!ours.agree(&early, false).reports && ours.agree(&ours, false).reports);
        let mut reports_only = ours.encode();
        reports_only[26] = REPORTS;
        let earlier = Terms::decode(0, &reports_only).unwrap();
        assert!(ours.agree(&earlier, false).reports && !ours.agree(&earlier, false).lists);
        let later = [&ours.encode()[..], &[1, 2, 3]].concat();
        assert_eq!(Terms::decode(0, &later), Ok(ours));
    }

    #[test]
    fn a_passthrough_is_neither_held_nor_compressed() {
        let terms = Terms { hold: Duration::from_secs(45), compression: ZSTD, ..Terms::sample() };
        let agreed = terms.agree(&terms, true);
        assert!(agreed.hold.is_zero() && !agreed.compressed);
    }
}
