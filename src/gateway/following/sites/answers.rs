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
    /// It accepts, and does not say what it has.
    Untold,
    /// Nothing that could be followed.
    Nothing,
    /// A Redis that is no master.
    NoMaster,
    /// A master of which nothing shows that it has what was followed.
    Offer,
    Proof,
}

/// Why a site counts as away, where that makes a difference for what a person does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Why {
    #[default]
    Other,
    /// Its gateway answers, and its Redis does not.
    NoRedis,
    /// Its gateway does not say what it has.
    Untold,
    /// One of its gateways offers a master that does not go on from what was followed, and another one, which
    /// may have that, does not answer.
    Partial,
}

/// What a site is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) look: Look,
    /// What its best answer is by itself: a person may order that although another gateway is away.
    pub(super) best: Look,
    pub(super) why: Why,
    /// A gateway of the site that is followed, whose master is another one than that: as a sentence.
    pub(super) stranger: Option<String>,
}

/// The answer that counts most.
struct Best {
    kind: Kind,
    /// The place of its gateway in `peers`.
    at: usize,
    look: Look,
    why: Why,
}

/// The answers so far, of which the best is kept.
pub(super) struct Answers<'a> {
    followed: Option<&'a Followed>,
    best: Option<Best>,
    /// How many of them say what they have.
    told: usize,
    has_answered: bool,
    stranger: Option<(usize, String)>,
}

impl<'a> Answers<'a> {
    /// None yet. `followed` is what was followed.
    pub(super) fn new(followed: Option<&'a Followed>) -> Self {
        Self { followed, best: None, told: 0, has_answered: false, stranger: None }
    }

    /// The answer of the gateway at this place in `peers`.
    pub(super) fn take(&mut self, at: usize, answer: Result<Accept, Unreached>) {
        let (kind, look, why) = match answer {
            Ok(Accept { offer: Some(offer), identity, .. }) => {
                let Offer { standing } = *offer;
                let goes_on = self.followed.is_some_and(|followed| {
                    followed.history == standing.history || followed.kinship(&standing).is_proof()
                });
                if !goes_on && self.stranger.as_ref().is_none_or(|(place, _)| at < *place) {
                    let node = shown(identity.node.as_bytes());
                    let words = format!(
                        "the gateway {node} is refused: its master has the history {}, which does not go on from what is followed",
                        standing.history.short()
                    );
                    self.stranger = Some((at, words));
                }
                (if goes_on { Kind::Proof } else { Kind::Offer }, Look::Master { standing }, Why::Other)
            }
            Ok(_) => (Kind::Untold, Look::Away(UNTOLD.to_owned()), Why::Untold),
            Err(unreached) => refused(unreached),
        };
        self.told += usize::from(kind > Kind::Untold);
        self.has_answered |= kind > Kind::Away;
        // Among equals the first of `peers` counts, whichever answered first.
        let counts_more =
            self.best.as_ref().is_none_or(|best| kind > best.kind || kind == best.kind && at < best.at);
        if counts_more {
            self.best = Some(Best { kind, at, look, why });
        }
    }

    /// Whether one of them proves that it has what was followed.
    pub(super) fn has_proof(&self) -> bool {
        self.best.as_ref().is_some_and(|best| best.kind == Kind::Proof)
    }

    /// Whether any gateway has answered.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// What the site is, which has this many gateways; `away` if nobody has answered. The one that `is_followed`
    /// is not given up for what one gateway says while another is not reached, which may have its master.
    pub(super) fn look(self, gateways: usize, is_followed: bool, away: &str) -> Found {
        let is_partial = self.told < gateways;
        let Some(Best { kind, look: best, mut why, .. }) = self.best else {
            let look = Look::Away(away.to_owned());
            return Found { look: look.clone(), best: look, why: Why::Other, stranger: None };
        };
        let mut look = best.clone();
        if is_followed && is_partial && Kind::Untold < kind && kind < Kind::Proof {
            let rest = if kind == Kind::Offer {
                why = Why::Partial;
                "what another one offers does not go on from what is followed"
            } else {
                "no other has the master"
            };
            look = Look::Away(format!(
                "is reached in part: a gateway of it does not say what it has, or does not answer, and {rest}"
            ));
        }
        let is_shown = is_followed && kind == Kind::Proof;
        Found { look, best, why, stranger: self.stranger.map(|(_, words)| words).filter(|_| is_shown) }
    }
}

/// What a gateway is that has accepted nothing.
fn refused(unreached: Unreached) -> (Kind, Look, Why) {
    let says = |refuse: &Refuse| shown(refuse.reason.text.as_bytes());
    let of = |code| unreached.refusals.iter().find(move |refuse| refuse.reason.code == code);
    if let Some(refuse) = of(ReasonCode::NoMaster) {
        let standing = refuse.standing.as_deref().cloned();
        let words = format!("offers no master: {}", says(refuse));
        return (Kind::NoMaster, Look::Other { standing, words }, Why::Other);
    }
    if let Some(refuse) = of(ReasonCode::NotAvailable) {
        let words = format!("refuses: {}", says(refuse));
        return (Kind::Nothing, Look::Other { standing: None, words }, Why::Other);
    }
    let why = if of(ReasonCode::RedisDown).is_some() { Why::NoRedis } else { Why::Other };
    (Kind::Away, Look::Away(format!("is not reached: {}", unreached.words)), why)
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

    fn offers(letter: u8, earlier: Option<(u8, u64)>) -> Result<Accept, Unreached> {
        accepts(Some(Offer { standing: standing(letter, earlier) }))
    }

    fn refuses(code: ReasonCode, standing: Option<Standing>) -> Result<Accept, Unreached> {
        let reason = Reason::new(code, "so\u{1b}");
        let refuse = Refuse { reason, clock: None, by: None, standing: standing.map(Box::new) };
        Err(Unreached { words: "a:1: refused: so".to_owned(), answered: true, refusals: vec![refuse] })
    }

    /// The stream `a`, of which 50 bytes have come here.
    fn followed() -> Followed {
        Followed { history: History::read(&[b'a'; 40]).unwrap(), passed: Some(50), run: None }
    }

    fn look(answers: Vec<Result<Accept, Unreached>>) -> Look {
        let followed = followed();
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
            all.look(answers.len(), false, "is silent").look
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
        let blank = || offers(b'x', None);
        let successor = || offers(b'b', Some((b'a', 51)));
        let nobody = || refuses(ReasonCode::NoMaster, None);
        for (answers, best) in [
            (vec![blank(), nobody()], 'x'),
            (vec![nobody(), blank(), offers(b'z', None)], 'x'),
            (vec![nobody(), blank(), successor()], 'b'),
            (vec![blank(), offers(b'a', None)], 'a'),
            // It took over without the last byte that came here.
            (vec![blank(), offers(b'b', Some((b'a', 50)))], 'x'),
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
        assert_eq!(look(vec![accepts(None)]), Look::Away(UNTOLD.to_owned()));
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
        let followed = followed();
        let looks = |is_followed, away: bool, other: Result<Accept, Unreached>| {
            let mut all = Answers::new(Some(&followed));
            if away {
                all.take(0, refuses(ReasonCode::Stopping, None));
            }
            all.take(1, other);
            matches!(all.look(2, is_followed, "is silent").look, Look::Away(_))
        };
        let nobody = || refuses(ReasonCode::NoMaster, None);
        for away in [true, false] {
            // Without an answer it is away too.
            assert!(looks(true, away, nobody()) && looks(true, away, offers(b'x', None)));
            assert!(looks(true, away, offers(b'b', Some((b'a', 50)))), "it lacks a byte");
            assert!(!looks(false, away, nobody()) && !looks(true, away, offers(b'b', Some((b'a', 51)))));
        }
        let mut both = Answers::new(None);
        both.take(0, nobody());
        both.take(1, nobody());
        assert!(matches!(both.look(2, true, "is silent").look, Look::Other { .. }));
        // One of an earlier release may have it.
        let mut both = Answers::new(None);
        both.take(0, nobody());
        both.take(1, accepts(None));
        assert!(matches!(both.look(2, true, "is silent").look, Look::Away(_)));
    }

    #[test]
    fn another_master_at_the_followed_site_is_told_of_and_a_person_may_order_it() {
        let followed = followed();
        let found = |answers: Vec<Result<Accept, Unreached>>, gateways| {
            let mut all = Answers::new(Some(&followed));
            answers.into_iter().enumerate().for_each(|(at, answer)| all.take(at, answer));
            all.look(gateways, true, "is silent")
        };
        let both = found(vec![offers(b'x', None), offers(b'a', None)], 2);
        assert_eq!((history(&both.look), both.why), (Some('a'), Why::Other));
        let words = both.stranger.unwrap();
        assert!(words.contains("is refused: its master has the history xxxxxxxx"), "{words}");
        let alone = found(vec![offers(b'x', None)], 2);
        assert_eq!((history(&alone.look), history(&alone.best), alone.why), (None, Some('x'), Why::Partial));
        let all = found(vec![offers(b'x', None)], 1);
        assert_eq!((history(&all.look), all.stranger), (Some('x'), None), "it is judged");
    }
}
