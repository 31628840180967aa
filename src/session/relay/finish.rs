//! The end of a link: the last frames on its lanes, the close towards Redis, and an ABORT that the
//! far side has not received yet.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Driver;
use super::lanes::{Carrier, LAST_WORDS, LaneSource, Lanes};
use super::legacy::left_behind;
use crate::lane::LaneError;
use crate::link::dials::Dial;
use crate::link::{End, Link};
use crate::registry::LinkStats;
use crate::session::dial::redial::Redial;
use crate::wire::frame::Frame;

/// Time Redis is given to read the last bytes and to close: as long as Redis itself waits for a
/// peer by default.
const LINGER: Duration = Duration::from_secs(60);

/// The end of a link that the far side does not know of, because it could not be reached. It still
/// holds the link.
#[derive(Debug)]
pub struct PendingAbort {
    redial: Redial,
    words: Vec<Frame>,
    dial: Dial,
    within: Duration,
}

impl PendingAbort {
    /// Dials until the far side has received the reason or no longer holds the link, or until this
    /// gateway stops.
    pub async fn send(self) {
        self.redial.tell(&self.words, self.dial, self.within).await;
    }
}

/// Closes everything. Returns why the link ended, and what the far side must still learn.
pub(super) async fn finish(mut driver: Driver<'_>) -> (End, Option<PendingAbort>) {
    driver.take_events();
    if driver.lanes.rivals.iter().any(|(_, legacy)| legacy.is_some()) {
        let remembered = left_behind(&mut driver).await;
        let mut legacies = driver.lanes.rivals.iter().filter_map(|(_, legacy)| legacy.as_ref());
        // The latest link is the one that the replica uses.
        if let Some(legacy) = legacies.next_back() {
            *legacy.lock().expect("no code panics while it holds a legacy") = remembered;
        }
    }
    let Driver { mut link, lanes, ended, share, redis, entry, .. } = driver;
    let Lanes { carriers, mut source, closing, rivals, .. } = lanes;
    drop((share, closing));
    let (end, delivered) = ended.unwrap_or((End::Stopping, false));
    entry.update(LinkStats {
        breaks: link.breaks_by_cause(),
        resent: link.resent(),
        carried: link.carried(),
        packed: link.packed(),
        ..LinkStats::default()
    });
    // The Redis socket is closed at once, unless Redis must still read what was delivered: a stale
    // connection would appear as a second replica.
    let redis = delivered.then_some(redis);
    drop(rivals);
    if let LaneSource::Requests(requests) = &mut source
        && redis.is_none()
    {
        // Whoever waits for the end of the connection to Redis waits no longer.
        requests.close();
        while requests.try_recv().is_ok() {}
    }
    let cut = matches!(end, End::LaneLost(_) | End::NoNewLane(..) | End::Superseded | End::Returned);
    let last_words = send_last_words(&mut link, carriers, cut);
    let lingers = async {
        if let Some(redis) = redis {
            let _ = timeout(LINGER, redis.read_to_its_end()).await;
        }
    };
    let (acknowledged, ()) = tokio::join!(last_words, lingers);
    let pending = match source {
        LaneSource::Dials(redial) if !acknowledged && link.is_held_far_away() => Some(PendingAbort {
            redial: *redial,
            words: link.last_words(),
            dial: link.begin_dial(Instant::now()),
            within: link.hold(),
        }),
        _ => None,
    };
    (end, pending)
}

/// Sends the link's last frames on every lane, since the first one to arrive ends the link there,
/// and closes the lanes. The lanes of a link that was `cut` are reset. Returns whether a lane was
/// closed in good order.
async fn send_last_words(link: &mut Link, mut carriers: Vec<Carrier>, cut: bool) -> bool {
    let now = Instant::now();
    if cut {
        // A reset ensures that nothing that is still queued in a kernel arrives late.
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
