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
    /// How many of them say what they have.
    told: usize,
}

impl<'a> Answers<'a> {
    /// None yet. `followed` is what was followed.
    pub(super) fn new(followed: Option<&'a Followed>) -> Self {
        Self { followed, best: None, told: 0 }
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
        self.told += usize::from(kind > Kind::Away);
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
        self.told > 0
    }

    /// What the site is, which has this many gateways; `away` if nobody has answered. The one that `is_followed`
    /// is not given up for what one gateway says while another is not reached, which may have its master.
    pub(super) fn look(self, gateways: usize, is_followed: bool, away: &str) -> Look {
        let is_partial = self.told < gateways;
        match self.best {
            None => Look::Away(away.to_owned()),
            Some((kind, ..)) if is_followed && is_partial && Kind::Away < kind && kind < Kind::Vouched => {
                Look::Away(
                    "is reached in part: a gateway of it does not answer, and no other has the master"
                        .to_owned(),
                )
            }
            Some((_, _, look)) => look,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::{History, Standing};
    use crate::wire::hello::{Hello, VERSION};
    use crate::wire::reason::Reason;

    fn standing(letter: u8, earlier: Option<(u8, u64)>) -> Standing {
        let history = |letter| History::read(&[letter; 40]).unwrap();
        let earlier = earlier.map(|(letter, offset)| (history(letter), offset));
        Standing { history: history(letter), offset: 100, earlier, run: None }
    }

    fn accepts(offer: Option<Offer>) -> Result<Accept, Unreached> {
        let Hello { identity, terms, .. } = Hello::sample();
        let offer = offer.map(Box::new);
        Ok(Accept { version: VERSION, identity, terms, link: None, received: 0, plain: false, offer })
    }

    fn offers(letter: u8, earlier: Option<(u8, u64)>, vouched: bool) -> Result<Accept, Unreached> {
        accepts(Some(Offer { standing: standing(letter, earlier), vouched }))
    }

    fn refuses(code: ReasonCode, standing: Option<Standing>) -> Result<Accept, Unreached> {
        let reason = Reason::new(code, "so\u{1b}");
        let refuse = Refuse { reason, clock: None, by: None, standing: standing.map(Box::new) };
        Err(Unreached { words: "a:1: refused: so".to_owned(), answered: true, refusals: vec![refuse] })
    }

    fn look(answers: Vec<Result<Accept, Unreached>>) -> Look {
        let history = History::read(&[b'a'; 40]).unwrap();
        let followed = Followed { history, passed: Some(50), run: None };
        // Whichever answers first.
        let mut looks = [false, true].map(|backwards| {
            let mut all = Answers::new(Some(&followed));
            let mut order: Vec<_> = (0..answers.len()).collect();
            if backwards {
                order.reverse();
            }
            for at in order {
                let answer = match &answers[at] {
                    Ok(accept) => Ok(accept.clone()),
                    Err(Unreached { words, answered, refusals }) => Err(Unreached {
                        words: words.clone(),
                        answered: *answered,
                        refusals: refusals.clone(),
                    }),
                };
                all.take(at, answer);
            }
            all.look(answers.len(), false, "is silent")
        });
        assert_eq!(looks[0], looks[1]);
        std::mem::replace(&mut looks[0], Look::NotYet)
    }

    fn history(look: &Look) -> Option<char> {
        match look {
            Look::Master { standing, .. } => standing.history.as_str().chars().next(),
            _ => None,
        }
    }

    #[test]
    fn of_several_gateways_the_one_counts_whose_master_goes_on_from_what_was_followed() {
        let (blank, vouched) = (|| offers(b'x', None, false), || offers(b'y', None, true));
        let successor = || offers(b'b', Some((b'a', 51)), false);
        let nobody = || refuses(ReasonCode::NoMaster, None);
        for (answers, best) in [
            (vec![blank(), nobody()], 'x'),
            (vec![nobody(), blank(), offers(b'z', None, false)], 'x'),
            (vec![blank(), vouched()], 'y'),
            (vec![vouched(), blank(), successor()], 'b'),
            (vec![vouched(), offers(b'a', None, false)], 'a'),
            // It took over without the last byte that came here.
            (vec![offers(b'b', Some((b'a', 50)), false), vouched()], 'y'),
        ] {
            assert_eq!(history(&look(answers)), Some(best));
        }
    }

    #[test]
    fn what_a_site_is_that_offers_no_master_is_told_apart() {
        let other = |standing, words: &str| Look::Other { standing, words: words.to_owned() };
        let replica = || Some(standing(b'a', None));
        let stopping = || refuses(ReasonCode::Stopping, None);
        let told = other(replica(), "offers no master: so\\x1b");
        assert_eq!(look(vec![stopping(), refuses(ReasonCode::NoMaster, replica())]), told);
        assert_eq!(look(vec![accepts(None)]), other(None, UNTOLD));
        assert_eq!(look(vec![refuses(ReasonCode::NotAvailable, None)]), other(None, "refuses: so\\x1b"));
        // It may be back in a moment.
        for code in [ReasonCode::Stopping, ReasonCode::RedisDown, ReasonCode::Limit] {
            let away = Look::Away("is not reached: a:1: refused: so".to_owned());
            assert_eq!(look(vec![refuses(code, None)]), away);
        }
        assert_eq!(look(vec![]), Look::Away("is silent".to_owned()));
    }

    #[test]
    fn a_site_is_not_given_up_while_the_gateway_may_be_away_that_has_its_master() {
        let looks = |is_followed, away: bool, other: Result<Accept, Unreached>| {
            let mut all = Answers::new(None);
            if away {
                all.take(0, refuses(ReasonCode::Stopping, None));
            }
            all.take(1, other);
            matches!(all.look(2, is_followed, "is silent"), Look::Away(_))
        };
        let nobody = || refuses(ReasonCode::NoMaster, None);
        for away in [true, false] {
            // Without an answer it is away too.
            assert!(looks(true, away, nobody()) && looks(true, away, offers(b'x', None, false)));
            assert!(!looks(false, away, nobody()) && !looks(true, away, offers(b'x', None, true)));
        }
        let mut both = Answers::new(None);
        both.take(0, nobody());
        both.take(1, nobody());
        assert!(matches!(both.look(2, true, "is silent"), Look::Other { .. }));
    }
}
