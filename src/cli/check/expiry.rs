//! When certificates, CAs and revocation lists end. Pure.

use super::codes::Code;
use super::report::Finding;
use crate::tls::expiry::{Kind, Standing, Term};

/// A day in seconds.
const DAY: i64 = 86_400;

/// What a term is told as: from a third of its lifetime on as a warning, within 14 days as another,
/// and as a failure within three days, or within a tenth of a lifetime of less than a month.
/// A revocation list that ends still counts, so that is never a failure.
pub(super) fn judge(term: &Term, now: i64) -> Option<Finding> {
    if matches!(term.standing(now), Standing::Good | Standing::Past) {
        return None;
    }
    let left = term.until.saturating_sub(now);
    let last = (3 * DAY).min(term.until.saturating_sub(term.from) / 10);
    let code = match term.kind {
        Kind::List if left <= last => Code::StaleIn3Days,
        Kind::Certificate | Kind::Ca if left <= last => Code::ExpiresIn3Days,
        _ if left <= 14 * DAY => Code::ExpiresIn14Days,
        _ => Code::Expires,
    };
    Some(Finding::new(code, &term.name, term.words(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(kind: Kind, days: i64, left: i64) -> Option<Code> {
        let term = Term { kind, name: "tls.crt".to_owned(), from: 0, until: days * DAY };
        judge(&term, days * DAY - left).map(|finding| finding.code)
    }

    #[test]
    fn a_year_has_three_levels_and_a_short_life_is_not_always_at_its_end() {
        let year = |left| code(Kind::Certificate, 365, left);
        assert_eq!([year(200 * DAY), year(100 * DAY)], [None, Some(Code::Expires)]);
        assert_eq!([year(14 * DAY), year(3 * DAY + 1)], [Some(Code::ExpiresIn14Days); 2]);
        assert_eq!([year(3 * DAY), year(1)], [Some(Code::ExpiresIn3Days); 2]);
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
