//! Logs that a link is up, once its sync has begun, and that it has ended.
//!
//! A link that ends before its sync has no line for its start, and the line for its end is
//! throttled: a replica whose sync is refused asks again every second.

use std::time::Instant;

use tracing::Level;

use crate::clock;
use crate::link::{End, LaneLoss, Side};
use crate::registry::{Kind, LinkEntry, LinkGuard, notice};
use crate::wire::reason::ReasonCode;

/// Logs a line about a link, which the fields `link`, `number` and `site` name: `log_link!(level,
/// link; fields…, "message")`. With `throttled(kind, words)` after the link, the throttle may
/// suppress the line. `more = count` adds a count of suppressed lines.
macro_rules! log_link {
    ($level:ident, $link:expr; $($line:tt)+) => {
        tracing::$level!(link = %$link.name, number = $link.number, site = %$link.site, $($line)+)
    };
    ($level:ident, $link:expr, more = $more:expr; $($line:tt)+) => {
        tracing::$level!(more = $more, link = %$link.name, number = $link.number, site = %$link.site, $($line)+)
    };
    ($level:ident, $link:expr, throttled($kind:expr, $words:expr); $($line:tt)+) => {
        crate::registry::log_throttled!(
            $level, $link, $kind, $words;
            link = %$link.name, number = $link.number, site = %$link.site, $($line)+
        )
    };
}
pub(super) use log_link;

/// A link is open. A passthrough is up at once.
pub(super) fn opened(link: &LinkEntry) {
    log_link!(debug, link; far = %link.far(), redis = %link.redis, "link opened");
    look(link);
}

/// Logs once that the link is up, when its sync has begun.
pub(super) fn look(link: &LinkEntry) {
    if !link.begins_now() {
        return;
    }
    let (client, master) = match link.side {
        Side::Dialler => (Some(link.redis), None),
        Side::Acceptor => (None, Some(link.redis)),
    };
    let [client, master] = [client, master].map(|redis| redis.map(tracing::field::display));
    log_link!(info, link; kind = notice::UP, node = %link.node, far = %link.far(), client, master, plain = link.passthrough, hold = clock::tenths(link.agreed.hold), lanes = link.agreed.lanes, compressed = link.agreed.compressed, "link up");
    if let Some(why) = link.observed.as_ref().and_then(|observed| observed.full_because()) {
        log_link!(info, link; kind = notice::FULL_RESYNC, "the replica gets all data again by a full sync: {why}");
    }
}

/// The link has ended; `status` remembers it.
pub(super) fn ended(guard: LinkGuard, end: &End) {
    look(&guard);
    let observed = guard.observed.as_ref().map(|observed| observed.view(Instant::now())).unwrap_or_default();
    let complaint = match (&observed.complaint, end) {
        // The reason of the end already includes it.
        (_, End::CommandRefused(_) | End::Declined(_)) | (None, _) => String::new(),
        (Some(complaint), _) => format!("; {complaint}"),
    };
    let words = format!("{end}{complaint}");
    let (to_replica, to_master) = guard.counts();
    let stage = if guard.passthrough { "tunnel".to_owned() } else { observed.stage.to_string() };
    let (offset, acknowledged) = (observed.master_offset, observed.acknowledged_offset);
    let seconds = clock::tenths(guard.since.elapsed());
    let kind = kind(end, !complaint.is_empty());
    let begun = guard.has_begun();
    let (level, more) = match kind {
        None if begun => (Level::INFO, None),
        Some(Kind::CommandRefused | Kind::Broken) if begun => (Level::WARN, None),
        _ => match guard.may_log(kind.unwrap_or(Kind::NoSync), &words) {
            Some(line) => (if kind.is_some() { Level::WARN } else { Level::INFO }, line.more),
            None if begun => (Level::INFO, None),
            None => (Level::DEBUG, None),
        },
    };
    // Of a link that was never up, the kind that its suppressed lines are counted by.
    let code = if begun { notice::DOWN } else { kind.unwrap_or(Kind::NoSync).code() };
    macro_rules! down {
        ($level:ident) => {
            log_link!($level, guard, more = more; kind = code, end = end.code(), reason = end.reason().map(ReasonCode::name), cause = end.cause().map(LaneLoss::code), %stage, offset, acknowledged, to_replica, to_master, seconds, "link down: {words}")
        };
    }
    match level {
        Level::WARN => down!(warn),
        Level::INFO => down!(info),
        _ => down!(debug),
    }
    guard.end(words, end);
}

/// The kind of a bad end; `None` if the link ended well.
fn kind(end: &End, complaint: bool) -> Option<Kind> {
    match end {
        End::CommandRefused(_) => Some(Kind::CommandRefused),
        End::Protocol(_)
        | End::LaneLost(_)
        | End::NoNewLane(..)
        | End::Forgotten(_)
        | End::MemoryShort
        | End::Costly
        | End::Outdated(_)
        | End::NotDelivered => Some(Kind::Broken),
        End::Declined(_) => Some(Kind::Declined),
        _ => complaint.then_some(Kind::Complaint),
    }
}
