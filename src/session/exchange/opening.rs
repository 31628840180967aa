//! Exchanges revocation lists over a lane that carries no link yet.
//!
//! With `crl_expired = "refuse"` a far site whose issuer's list is stale here gets no link. A later
//! list may come over this very connection, and nothing else does until one has.

use std::future::{Future, pending};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Courier, Exchange, Far};
use crate::clock;
use crate::current::Current;
use crate::lane::{Lane, LaneError};
use crate::tls::handshake::Verdict;
use crate::tls::loaded::Loaded;
use crate::wire::frame::Frame;
use crate::wire::hello::Id;
use crate::x509::Certificate;

/// Time given to a far gateway to hand over a list that is not stale.
const FETCH: Duration = Duration::from_secs(2);

/// Why a connection is refused.
pub enum Unfit {
    /// A list is stale, and no later one came.
    Stale(String),
    /// By what came, the far side's certificate is not good any more.
    Refused(String),
}

/// Whether the list of an issuer of the far side's certificate is stale, in words.
pub fn stale(tls: &Current<Loaded>, lane: &Lane) -> Option<String> {
    tls.now().material.revocation.stale(&lane.handshake().shown(), clock::now())
}

/// If the list of an issuer of the far side's certificate is stale, exchanges lists with it for a while
/// and judges it again.
pub async fn refresh(
    lane: &mut Lane,
    tls: &Current<Loaded>,
    mut reloads: watch::Receiver<u64>,
    courier: Option<Courier>,
) -> Result<(), Unfit> {
    let Some(mut words) = stale(tls, lane) else { return Ok(()) };
    let chain = lane.handshake().shown();
    if let Some(courier) = courier {
        let ours = tls.now();
        let fresh = async {
            while tls.now().material.revocation.stale(&chain, clock::now()).is_some() {
                if reloads.changed().await.is_err() {
                    pending::<()>().await;
                }
            }
        };
        // Whatever else comes is no reason to accept it.
        let _ = timeout(FETCH, converse(lane, &courier, &ours.material.leaf, fresh)).await;
        match stale(tls, lane) {
            None => {
                return match lane.handshake().verdict() {
                    Verdict::Refused(words) => Err(Unfit::Refused(words.to_string())),
                    Verdict::Good | Verdict::Replace => Ok(()),
                };
            }
            Some(still) => words = still,
        }
    }
    Err(Unfit::Stale(words))
}

/// Waits for the answer to HELLO, and takes part in an exchange if the acceptor wants one first.
pub async fn answer(
    lane: &mut Lane,
    exchange: &std::sync::Arc<Exchange>,
    site: &str,
    ours: &Certificate,
) -> Result<Frame, LaneError> {
    let first = lane.receive(ours).await?;
    if !matches!(first, Frame::Lists(_) | Frame::Want(_)) {
        return Ok(first);
    }
    // Which process it is, only the ACCEPT tells.
    let courier = exchange.join(Far::new(site, Id::random()), Instant::now());
    courier.take(&first, Instant::now());
    match converse(lane, &courier, ours, pending()).await? {
        Some(frame) => Ok(frame),
        None => Err(LaneError::Unexpected),
    }
}

/// Exchanges lists until `enough` completes, or a frame comes that is about something else.
async fn converse(
    lane: &mut Lane,
    courier: &Courier,
    ours: &Certificate,
    enough: impl Future<Output = ()>,
) -> Result<Option<Frame>, LaneError> {
    let mut enough = std::pin::pin!(enough);
    loop {
        while let Some(frame) = courier.next(0, Instant::now()) {
            lane.send(&frame).await?;
        }
        tokio::select! {
            frame = lane.receive(ours) => {
                let frame = frame?;
                if !courier.take(&frame, Instant::now()) && !matches!(frame, Frame::Heartbeat(_)) {
                    return Ok(Some(frame));
                }
            }
            () = courier.mail().notified() => {}
            () = &mut enough => return Ok(None),
        }
    }
}
