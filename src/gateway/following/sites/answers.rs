//! What the gateways of one site answer together, of which each may be beside another Redis. Pure.
//!
//! One that offers a master counts more than one that does not, and of several the one whose master goes on
//! from what was followed.

use crate::escape::shown;
use crate::lineage::Followed;
use crate::lineage::judge::Look;
use crate::session::choice::UNTOLD;
use crate::session::dial::Unreached;
use crate::wire::hello::{Accept, Refuse};
use crate::wire::offer::Offer;
use crate::wire::reason::ReasonCode;

/// What one gateway answers; a later kind counts more than an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// It cannot be told what it has.
    Away,
    /// Nothing that could be followed.
    Nothing,
    /// A Redis that is no master.
    NoMaster,
    Offer,
    Vouched,
    Proof,
}

/// The answers so far, of which the best is kept.
pub(super) struct Answers<'a> {
    followed: Option<&'a Followed>,
    best: Option<(Kind, usize, Look)>,
}

impl<'a> Answers<'a> {
    /// None yet. `followed` is what was followed.
    pub(super) fn new(followed: Option<&'a Followed>) -> Self {
        Self { followed, best: None }
    }

    /// The answer of the gateway at this place in `peers`.
    pub(super) fn take(&mut self, at: usize, answer: Result<Accept, Unreached>) {
        let (kind, look) = match answer {
            Ok(Accept { offer: Some(offer), .. }) => {
                let Offer { standing, vouched } = *offer;
                let goes_on = self.followed.is_some_and(|followed| {
                    followed.history == standing.history || followed.kinship(&standing).is_proof()
                });
                let kind = match (goes_on, vouched) {
                    (true, _) => Kind::Proof,
                    (false, true) => Kind::Vouched,
                    (false, false) => Kind::Offer,
                };
                (kind, Look::Master { standing, vouched })
            }
            Ok(_) => (Kind::Nothing, Look::Other { standing: None, words: UNTOLD.to_owned() }),
            Err(unreached) => refused(unreached),
        };
        // Among equals the first of `peers` counts, whichever answered first.
        let counts_more =
            self.best.as_ref().is_none_or(|(best, place, _)| kind > *best || kind == *best && at < *place);
        if counts_more {
            self.best = Some((kind, at, look));
        }
    }

    /// Whether one of them proves that it has what was followed.
    pub(super) fn has_proof(&self) -> bool {
        self.best.as_ref().is_some_and(|(kind, ..)| *kind == Kind::Proof)
    }

    /// Whether any of them says what it has.
    pub(super) fn is_told(&self) -> bool {
        self.best.as_ref().is_some_and(|(kind, ..)| *kind > Kind::Away)
    }

    /// What the site is; `away` if nobody has answered.
    pub(super) fn look(self, away: &str) -> Look {
        self.best.map_or_else(|| Look::Away(away.to_owned()), |(_, _, look)| look)
    }
}

/// What a gateway is that has accepted nothing.
fn refused(unreached: Unreached) -> (Kind, Look) {
    let says = |refuse: &Refuse| shown(refuse.reason.text.as_bytes());
    let of = |code| unreached.refusals.iter().find(move |refuse| refuse.reason.code == code);
    if let Some(refuse) = of(ReasonCode::NoMaster) {
        let standing = refuse.standing.as_deref().cloned();
        return (
            Kind::NoMaster,
            Look::Other { standing, words: format!("offers no master: {}", says(refuse)) },
        );
    }
    if let Some(refuse) = of(ReasonCode::NotAvailable) {
        return (Kind::Nothing, Look::Other { standing: None, words: format!("refuses: {}", says(refuse)) });
    }
    (Kind::Away, Look::Away(format!("is not reached: {}", unreached.words)))
}
