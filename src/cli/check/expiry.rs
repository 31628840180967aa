//! When certificates, CAs and revocation lists end. Pure.

use super::codes::Code;
use super::report::Finding;
use crate::tls::expiry::{Kind, Standing, Term, Urgency};

/// What a term is told as: from a third of its lifetime on as a warning, and then by its urgency: within 14 days
/// as another, late as a failure. A revocation list that ends still counts, so that is never a failure.
pub(super) fn judge(term: &Term, now: i64) -> Option<Finding> {
    if matches!(term.standing(now), Standing::Good | Standing::Past) {
        return None;
    }
    let code = match term.urgency(now) {
        Urgency::None => Code::Expires,
        Urgency::Now => Code::ExpiresIn3Days,
        Urgency::Soon if term.kind == Kind::List && term.is_late(now) => Code::StaleIn3Days,
        Urgency::Soon => Code::ExpiresIn14Days,
    };
    Some(Finding::new(code, &term.name, term.words(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn code(kind: Kind, days: i64, left: i64) -> Option<Code> {
        let term = Term { kind, name: "tls.crt".to_owned(), from: 0, until: days * DAY };
        judge(&term, days * DAY - left).map(|finding| finding.code)
    }

    #[test]
    fn a_year_has_three_levels_and_a_short_life_is_not_always_at_its_end() {
        let year = |left| code(Kind::Certificate, 365, left);
        assert_eq!([year(200 * DAY), year(100 * DAY)], [None, Some(Code::Expires)]);
        assert_eq!([year(14 * DAY - 1), year(3 * DAY)], [Some(Code::ExpiresIn14Days); 2]);
        assert_eq!([year(3 * DAY - 1), year(1)], [Some(Code::ExpiresIn3Days); 2]);
        // It is renewed when a third is left, which is less than three days.
        let week = |left| code(Kind::Certificate, 7, left);
        assert_eq!(
            [week(3 * DAY), week(2 * DAY), week(DAY / 2)],
            [None, Some(Code::ExpiresIn14Days), Some(Code::ExpiresIn3Days)]
        );
        assert_eq!(year(-1), None, "that is a fault of the files");
    }

    #[test]
    fn a_list_is_never_a_failure() {
        assert_eq!(code(Kind::List, 30, DAY), Some(Code::StaleIn3Days));
        assert_eq!(code(Kind::Ca, 3650, DAY), Some(Code::ExpiresIn3Days));
    }
}
