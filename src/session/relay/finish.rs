//! The end of a link: last words on its lanes, the close towards Redis, and an ABORT that
//! the far side has still to get.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Driver;
use super::lanes::{Carrier, LAST_WORDS, LaneSource, Lanes};
use crate::lane::LaneError;
use crate::link::dials::Dial;
use crate::link::{End, Link};
use crate::registry::LinkStats;
use crate::session::dial::redial::Redial;
use crate::wire::frame::Frame;

/// The time for Redis to read the last bytes that were written to it, and to close: as
/// long as Redis itself waits for a peer by default.
const LINGER: Duration = Duration::from_secs(60);

/// The end of a link, which the far side does not know of yet and so still holds the link:
/// it was out of reach.
#[derive(Debug)]
pub struct PendingAbort {
    redial: Redial,
    words: Vec<Frame>,
    dial: Dial,
    within: Duration,
}

impl PendingAbort {
    /// Dials until the far side has heard, or holds the link no longer, or this
    /// gateway stops.
    pub async fn send(self) {
        self.redial.tell(&self.words, self.dial, self.within).await;
    }
}

/// Closes everything. Answers why the link ended, and what the far side has still to get.
pub(super) async fn finish(mut driver: Driver<'_>) -> (End, Option<PendingAbort>) {
    driver.take_events();
    let Driver { mut link, lanes, ended, share, redis, entry, .. } = driver;
    let Lanes { carriers, source, closing, .. } = lanes;
    drop((share, closing));
    let (end, delivered) = ended.unwrap_or((End::Stopping, false));
    entry.update(LinkStats {
        breaks: link.breaks(),
        resent: link.resent(),
        carried: link.carried(),
        ..LinkStats::default()
    });
    // Closed at once, unless Redis here is still to read what was delivered: a
    // stale connection would show as a second replica.
    let redis = delivered.then_some(redis);
    let cut = matches!(end, End::LaneLost(_) | End::NoWayBack(..) | End::Superseded);
    let last_words = send_last_words(&mut link, carriers, cut);
    let lingers = async {
        if let Some(redis) = redis {
            let _ = timeout(LINGER, redis.read_to_its_end()).await;
        }
    };
    let (heard, ()) = tokio::join!(last_words, lingers);
    let pending = match source {
        LaneSource::Dials(redial) if !heard && link.is_held_far_away() => Some(PendingAbort {
            redial: *redial,
            words: link.last_words(),
            dial: link.begin_dial(Instant::now()),
            within: link.hold(),
        }),
        _ => None,
    };
    (end, pending)
}

/// Sends the link's last frames on every lane, as the first to arrive ends it there, and
/// closes the lanes. A link that was `cut` off has its lanes reset. Answers whether a lane
/// was closed in good order.
async fn send_last_words(link: &mut Link, mut carriers: Vec<Carrier>, cut: bool) -> bool {
    let now = Instant::now();
    if cut {
        // By reset: nothing that still waits in a kernel may arrive late.
        carriers.drain(..).for_each(|carrier| carrier.lane.reset());
    }
    carriers.retain(|carrier| link.has_lane(carrier.number));
    let mut closings = JoinSet::new();
    for Carrier { number, mut lane, .. } in carriers {
        let mut words = Vec::new();
        while link.poll_transmit(number, now, &mut |frame| words.push(frame.to_vec())) {}
        closings.spawn(async move {
            let closed = timeout(LAST_WORDS, async {
                for frame in words {
                    poll_fn(|cx| lane.poll_flush(cx)).await?;
                    lane.push(&frame)?;
                }
                Ok::<_, LaneError>(lane.close().await)
            });
            matches!(closed.await, Ok(Ok(true)))
        });
    }
    closings.join_all().await.contains(&true)
}
