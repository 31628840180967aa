//! What a link leaves for the next one of its replica: the last bytes of the master's stream, up to
//! the last one that its connection to the master can still give.
//!
//! Whatever is not certain leaves nothing: then the replica's request goes to the master as it is.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Driver;
use super::redis::Read;
use crate::buffer::{Chunk, PAYLOAD};
use crate::tap::{Action, Remembered};

/// Longest time for which the connection to the master is still read.
const READ_ON: Duration = Duration::from_secs(1);

/// Reads the master's connection until nothing more is there, at most for [`READ_ON`] and as far as
/// memory suffices. Returns the end of the stream if the link has ended because its replica has come
/// again, if that may need it, and if the connection is still open.
pub(super) async fn left_behind(driver: &mut Driver<'_>) -> Option<Remembered> {
    let mut chunks = driver.link.take_left_behind()?;
    let before = driver.tap.position()?;
    let (flow, start) = (driver.outward_flow(), Instant::now());
    // This link may itself have continued from an earlier one.
    while let Some(chunk) = driver.tap.recall(PAYLOAD, start) {
        chunks.push_back(chunk);
    }
    let mut held = chunks.iter().map(Chunk::charge).sum();
    driver.share.keep(0);
    driver.share.set(held, 0);
    let mut added = driver.outward.again(driver.tap.as_mut(), flow, start);
    driver.redis.gather(false);
    loop {
        for action in added.drain(..) {
            let Action::Forward { chunk, .. } = action else { return None };
            held += chunk.charge();
            chunks.push_back(chunk);
        }
        // Many links may do this at a time.
        driver.share.set(held, 0);
        let room = usize::try_from(driver.share.room()).unwrap_or(usize::MAX);
        let now = Instant::now();
        if driver.redis.has_ended() {
            return None;
        }
        if room == 0 || now >= start + READ_ON {
            break;
        }
        let limit = room.min(PAYLOAD);
        match poll_fn(|cx| Poll::Ready(driver.redis.poll_read(cx, limit, now))).await {
            Read::Bytes(chunk) => {
                let count = chunk.len();
                driver.entry.count(flow, count);
                let (outward, tap) = (&mut driver.outward, driver.tap.as_mut());
                added = outward.through(tap, flow, chunk.settled(), count as u64, now);
            }
            Read::Ended(_) => return None,
            // The runtime reports what comes a little later than the kernel has it.
            Read::Nothing if driver.redis.has_unread() => tokio::task::yield_now().await,
            Read::Nothing => break,
        }
    }
    let position = driver.tap.position()?;
    (position.history == before.history).then(|| Remembered::new(position, chunks, driver.share.hand_over()))
}
