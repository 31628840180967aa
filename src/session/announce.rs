//! What the log says of a link's life: that it is up, once its sync has begun, and its end.
//!
//! A link that ends before has no line of its own for its beginning, and its end is one of
//! a few lines a minute: a replica whose sync is refused asks again every second.

use std::time::Instant;

use tracing::{Level, debug, info, warn};

use crate::clock;
use crate::link::{End, Side};
use crate::registry::{Kind, LinkEntry, Place};

/// A link is open. A plain tunnel is up at once.
pub(super) fn opened(link: &LinkEntry) {
    debug!(link = %link.name, number = link.number, site = %link.site, far = %link.far(), redis = %link.redis, "link opened");
    look(link);
}

/// Tells once that the link is up, when its sync has begun.
pub(super) fn look(link: &LinkEntry) {
    if !link.begins_now() {
        return;
    }
    let (client, master) = match link.side {
        Side::Dialler => (Some(link.redis), None),
        Side::Acceptor => (None, Some(link.redis)),
    };
    let [client, master] = [client, master].map(|redis| redis.map(tracing::field::display));
    info!(link = %link.name, number = link.number, site = %link.site, node = %link.node, far = %link.far(), client, master, plain = link.plain, hold = clock::tenths(link.agreed.hold), lanes = link.agreed.lanes, compressed = link.agreed.compressed, "link up");
}

/// The link has ended; `status` remembers it.
pub(super) fn ended(place: Place, end: &End) {
    look(&place);
    let observed = place.observed.as_ref().map(|observed| observed.view(Instant::now())).unwrap_or_default();
    let complaint = match (&observed.complaint, end) {
        // Said already.
        (_, End::CommandRefused(_) | End::Declined(_)) | (None, _) => String::new(),
        (Some(complaint), _) => format!("; {complaint}"),
    };
    let words = format!("{end}{complaint}");
    let (to_replica, to_master) = place.counts();
    let stage = if place.plain { "tunnel".to_owned() } else { observed.stage.to_string() };
    let (offset, acknowledged) = (observed.master_offset, observed.acknowledged_offset);
    let seconds = clock::tenths(place.since.elapsed());
    let (name, number, site) = (&place.name, place.number, &place.site);
    let kind = kind(end, !complaint.is_empty());
    let begun = place.has_begun();
    let (level, more) = match kind {
        None if begun => (Level::INFO, None),
        Some(Kind::CommandRefused | Kind::Broken) if begun => (Level::WARN, None),
        _ => match place.tell(kind.unwrap_or(Kind::NoSync), &words) {
            Some(line) => (if kind.is_some() { Level::WARN } else { Level::INFO }, line.more),
            None if begun => (Level::INFO, None),
            None => (Level::DEBUG, None),
        },
    };
    macro_rules! down {
        ($say:ident) => {
            $say!(more, link = %name, number, %site, %stage, offset, acknowledged, to_replica, to_master, seconds, "link down: {words}")
        };
    }
    match level {
        Level::WARN => down!(warn),
        Level::INFO => down!(info),
        _ => down!(debug),
    }
    place.end(words, matches!(end, End::CommandRefused(_)));
}

/// What is wrong with the end of a link, if anything.
fn kind(end: &End, complaint: bool) -> Option<Kind> {
    match end {
        End::CommandRefused(_) => Some(Kind::CommandRefused),
        End::Protocol(_)
        | End::LaneLost(_)
        | End::NoWayBack(..)
        | End::Forgotten(_)
        | End::MemoryShort
        | End::Costly
        | End::Outdated
        | End::NotDelivered => Some(Kind::Broken),
        End::Declined(_) => Some(Kind::Declined),
        _ => complaint.then_some(Kind::Complaint),
    }
}
