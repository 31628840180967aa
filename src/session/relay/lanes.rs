//! The lanes of one link: those that carry it now, the source of new ones, and those that are being
//! closed.
//!
//! The link decides what is sent on which lane, and which lane is closed. This file moves the
//! bytes. A lane is removed only by [`Lanes::close`], which the relay calls for an event of the
//! link. So positions stay valid while lanes are read and written.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::DropGuard;
use tracing::debug;

use super::closures::Closures;
use crate::buffer;
use crate::clock;
use crate::lane::{Lane, LaneError};
use crate::link::{LaneIo, LaneLoss, Link};
use crate::registry::{Kind, LinkGuard};
use crate::session::announce::log_link;
use crate::session::dial::redial::{Dialled, Redial, Want};
use crate::session::exchange::Courier;
use crate::session::inbound::part;
use crate::session::link_table::{AttachRequest, Legacy, ToLink};
use crate::tls::handshake::Verdict;
use crate::wire::frame::{Frame, Item};
use crate::wire::hello::Accept;

/// Time given to the frames that end a link, and to the close of a lane.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);

/// Most lanes of a link that are being closed at a time, including refused ones: as many as it may
/// have. Further ones are reset.
const MAX_CLOSING: usize = 24;

/// Least and most bytes of one read of a lane.
const READS: (usize, usize) = (16 * 1024, buffer::STORAGE);

/// Time for one read, with its decryption and decoding, above which the next read is smaller.
const LONG_READ: Duration = Duration::from_millis(2);

/// A lane with a certificate that ends within so many seconds is replaced before others.
const ENDS_SOON: i64 = 600;
/// Time for which one lane is the first to take what is to be sent. Then it is the next one's turn, so
/// that each is known to work and to carry much, also while one would suffice.
const TURN: Duration = Duration::from_millis(20);

/// Least time between two looks at the round trip of the lanes.
const ROUND_TRIP_EVERY: Duration = Duration::from_secs(1);

/// First and longest pause between two looks at whether the lanes are spread evenly.
const BALANCE_EVERY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// The source of a link's lanes.
#[derive(Debug)]
pub enum LaneSource {
    /// The dialler dials them.
    Dials(Box<Redial>),
    /// The acceptor receives them.
    Requests(mpsc::Receiver<ToLink>),
}

/// A lane in use.
pub(super) struct Carrier {
    pub(super) number: u32,
    pub(super) lane: Lane,
    /// Whether the last read found nothing more.
    empty: bool,
}

/// The lanes of one link.
pub(super) struct Lanes {
    pub(super) carriers: Vec<Carrier>,
    pub(super) source: LaneSource,
    /// Lanes that are being closed in good order, and refusals.
    pub(super) closing: JoinSet<()>,
    /// Dropped once this link has proven that it is alive, or has left its Redis: other links of what
    /// may be the same replica wait for that. Each with the place for what this one leaves.
    pub(super) rivals: Vec<(DropGuard, Option<Legacy>)>,
    /// The part of the link in the exchange of revocation lists.
    courier: Option<Courier>,
    closures: Closures,
    order: ReadOrder,
    turns: Turns,
    read_size: ReadSize,
    balance: Balance,
    round_trip: RoundTrip,
}

/// The least round trip of the lanes, and when the kernel is asked for it next.
#[derive(Default)]
struct RoundTrip {
    least: Option<Duration>,
    due: Option<Instant>,
}

/// When it is next seen to that the lanes are spread evenly.
struct Balance {
    due: Instant,
    pause: Duration,
}

/// The order in which lanes are read. Each lane is the first in its turn, since the time of a turn
/// may be over before the last one.
#[derive(Default)]
struct ReadOrder {
    first: usize,
}

impl ReadOrder {
    /// The order of one round.
    fn round(&mut self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let first = (self.first + 1) % count.max(1);
        self.first = first;
        (0..count).map(move |step| (first + step) % count)
    }
}

/// Which lane is written to first, and since when.
struct Turns {
    first: usize,
    since: Instant,
}

impl Turns {
    /// The order in which the lanes are written to now.
    fn order(&mut self, count: usize, now: Instant) -> impl Iterator<Item = usize> + use<> {
        if now >= self.since + TURN {
            (self.first, self.since) = (self.first + 1, now);
        }
        self.first %= count.max(1);
        let first = self.first;
        (0..count).map(move |step| (first + step) % count)
    }
}

/// The number of bytes of one read of a lane.
struct ReadSize(usize);

impl ReadSize {
    /// Adapts the next read to the time that the last one took.
    fn adapt(&mut self, took: Duration) {
        self.0 = if took > LONG_READ { (self.0 / 2).max(READS.0) } else { (self.0 * 2).min(READS.1) };
    }
}

impl Lanes {
    /// The first lane of a link has number 0.
    pub(super) fn new(first: Lane, source: LaneSource, courier: Option<Courier>) -> Self {
        Self {
            carriers: vec![Carrier { number: 0, lane: first, empty: false }],
            source,
            closing: JoinSet::new(),
            rivals: Vec::new(),
            courier,
            closures: Closures::default(),
            order: ReadOrder::default(),
            turns: Turns { first: 0, since: Instant::now() },
            read_size: ReadSize(READS.1),
            balance: Balance { due: Instant::now() + BALANCE_EVERY.0, pause: BALANCE_EVERY.0 },
            round_trip: RoundTrip::default(),
        }
    }

    /// Bytes of storage of what is sealed and not sent yet.
    pub(super) fn storage(&self) -> u64 {
        self.carriers.iter().map(|carrier| carrier.lane.storage() as u64).sum()
    }

    /// The least round trip of the lanes, as of the last second or so; `None` without a lane.
    pub(super) fn round_trip(&mut self, now: Instant) -> Option<Duration> {
        if self.carriers.is_empty() {
            self.round_trip = RoundTrip::default();
        } else if self.round_trip.due.is_none_or(|due| now >= due) {
            let least = self.carriers.iter().filter_map(|carrier| carrier.lane.round_trip()).min();
            self.round_trip = RoundTrip { least, due: Some(now + ROUND_TRIP_EVERY) };
        }
        self.round_trip.least
    }

    /// Removes the lanes that are closed by now.
    pub(super) fn reap(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(())) = self.closing.poll_join_next(cx).map(|done| done.map(|_| ())) {}
    }

    /// Handles the next event of the source.
    pub(super) fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut Link,
        entry: &LinkGuard,
    ) -> Poll<()> {
        let now = Instant::now();
        match &mut self.source {
            LaneSource::Dials(redial) => match redial.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Dialled::Lane(number, lane, accept)) => {
                    if link.dialled(number, accept.received, now) {
                        redial.settle();
                        entry.note_far(lane.peer());
                        let pause = BALANCE_EVERY.0;
                        self.balance = Balance { due: now + pause, pause };
                        self.carriers.push(Carrier { number, lane: *lane, empty: false });
                        self.judge(link, entry, now);
                        self.share(link);
                    }
                }
                Poll::Ready(Dialled::Failed(number, words)) => {
                    link.dial_failed(number, now);
                    entry.note_redial_failed(&words);
                    if link.is_held() {
                        log_link!(warn, entry, throttled(Kind::NoNewLaneYet, &words); "no new lane yet: {words}");
                    }
                }
                // A failed dial for an additional lane does not end a link that has a lane.
                Poll::Ready(Dialled::Over(_, end)) if link.is_held() => link.given_up(end),
                Poll::Ready(Dialled::Over(number, _)) => link.dial_failed(number, now),
            },
            LaneSource::Requests(requests) => match requests.poll_recv(cx) {
                Poll::Pending | Poll::Ready(None) => return Poll::Pending,
                Poll::Ready(Some(ToLink::Superseded)) => link.superseded(now),
                Poll::Ready(Some(ToLink::Returned(returned))) => {
                    link.replica_returned(returned.since, now);
                    self.rivals.push((returned.settled, returned.legacy));
                }
                Poll::Ready(Some(ToLink::Attach(arrival))) => self.attach(*arrival, link, entry, now),
            },
        }
        Poll::Ready(())
    }

    /// Answers a lane that asks to carry the link.
    fn attach(&mut self, arrival: AttachRequest, link: &mut Link, entry: &LinkGuard, now: Instant) {
        let AttachRequest { lane, seat, dial, accept } = arrival;
        if seat.is_evicted() {
            return;
        }
        match link.attach(&dial, now) {
            Ok(received) => {
                let accept = Frame::Accept(Accept { received, ..accept });
                entry.note_far(lane.peer());
                // Another thread may have accepted it.
                let moved = lane.moved_here().map_err(LaneError::from);
                match moved.and_then(|mut lane| lane.push(&accept.encode()).map(|()| lane)) {
                    Ok(lane) => {
                        self.carriers.push(Carrier { number: dial.lane, lane, empty: false });
                        // The files of trust may have changed while it was opened.
                        self.judge(link, entry, now);
                        self.share(link);
                    }
                    Err(error) => self.lost(dial.lane, error, link, entry, now),
                }
            }
            Err(why) => {
                debug!(link = %entry.name, number = entry.number, from = %lane.peer(), "lane refused: {}", why.text);
                // It is not a lane of the link, and keeps its seat until it is closed.
                self.closing.spawn(async move { part(lane, &seat, why).await });
            }
        }
    }

    /// Judges every lane by its certificates. Those that do not count any more are closed; those that are
    /// not the ones in use are replaced.
    pub(super) fn judge(&mut self, link: &mut Link, entry: &LinkGuard, now: Instant) {
        let (mut replaced, mut refused, mut why) = (Vec::new(), Vec::new(), None);
        for Carrier { number, lane, .. } in &self.carriers {
            match lane.handshake().verdict() {
                Verdict::Good => {}
                Verdict::Replace => replaced.push(*number),
                Verdict::Refused(words) => {
                    refused.push(*number);
                    why = Some(words);
                }
            }
        }
        if let Some(why) = why {
            refused.retain(|number| link.has_lane(*number));
            link.refuse(&refused, &why, now);
            if !link.is_ended() {
                let loss = LaneLoss::Outdated(why.to_string());
                refused.iter().for_each(|number| tell_lost(*number, &loss, link, entry));
            }
        }
        link.renew(&replaced);
    }

    /// Lets the kernel keep as much of each lane as suits their number.
    fn share(&self, link: &Link) {
        for Carrier { lane, .. } in &self.carriers {
            if link.is_shared() { lane.share() } else { lane.share_no_more() }
        }
    }

    /// Asks the source for another lane.
    pub(super) fn dial(&mut self, link: &mut Link, entry: &LinkGuard, now: Instant) {
        if !link.is_held() {
            // What the kernel has and was not read yet is no silence.
            let unread = self.carriers.iter().filter(|carrier| carrier.lane.has_unread());
            unread.for_each(|carrier| link.on_activity(carrier.number, now));
            if link.dial_due().is_none_or(|due| due > now) {
                return;
            }
        }
        let in_use = self.in_use(link);
        let soon = clock::now() + ENDS_SOON;
        let ends_soon = self.carriers.iter().any(|carrier| carrier.lane.handshake().is_past(soon));
        if let LaneSource::Dials(redial) = &mut self.source {
            let want = match (link.is_held(), link.is_moving()) {
                (true, _) => Want::Any,
                (false, true) => Want::Move(&in_use),
                (false, false) if link.wants_spare() => Want::Spare(&in_use),
                (false, false) if link.wants_renewal() && !ends_soon => Want::Renew(&in_use),
                (false, false) => Want::More(&in_use),
            };
            redial.start(&link.begin_dial(now), want);
            entry.note_redial();
        }
    }

    /// Moves a lane to another address now and then, if they are not spread evenly. There is no
    /// timer for this, since a link with several lanes is never idle for long.
    pub(super) fn balance(&mut self, link: &mut Link, now: Instant) {
        if now < self.balance.due || !link.may_move() {
            return;
        }
        let in_use = self.in_use(link);
        let LaneSource::Dials(redial) = &mut self.source else { return };
        let uneven = redial.uneven(&in_use);
        let moving = self
            .carriers
            .iter()
            .rev()
            .find(|carrier| Some(carrier.lane.peer()) == uneven && link.carries(carrier.number));
        let pause = match moving {
            Some(carrier) => {
                link.move_lane(carrier.number);
                (self.balance.pause * 2).min(BALANCE_EVERY.1)
            }
            None => BALANCE_EVERY.0,
        };
        self.balance = Balance { due: now + pause, pause };
    }

    /// The addresses of the lanes that carry the link, once for each.
    fn in_use(&self, link: &Link) -> Vec<SocketAddr> {
        let carrying = self.carriers.iter().filter(|carrier| link.carries(carrier.number));
        carrying.map(|carrier| carrier.lane.peer()).collect()
    }

    /// Whether a far gateway has been asked to accept a lane and is about to answer.
    pub(super) fn awaits_answer(&self) -> bool {
        matches!(&self.source, LaneSource::Dials(redial) if redial.awaits_answer())
    }

    /// Closes a lane that no longer belongs to the link: in good order if it was retired, or if the
    /// far side is done with the link, otherwise by reset.
    pub(super) fn close(&mut self, number: u32, retired: bool, link: &Link, entry: &LinkGuard) {
        let Some(at) = self.carriers.iter().position(|carrier| carrier.number == number) else { return };
        let Carrier { lane, .. } = self.carriers.remove(at);
        if let Some(courier) = &self.courier {
            courier.closed(number, Instant::now());
        }
        if !link.is_ended() {
            self.share(link);
        }
        if !retired && !link.is_over_far_away() {
            // A reset ensures that nothing that is still queued in the kernel arrives late.
            lane.reset();
            if !self.closures.has(number) {
                entry.note_lane_lost();
            }
        } else if self.closing.len() >= MAX_CLOSING {
            lane.reset();
        } else {
            self.closing.spawn(async move {
                let _ = timeout(LAST_WORDS, lane.close()).await;
            });
        }
    }

    /// Reads every lane once into the link: the first one always, the others as long as it is not
    /// `until`. Returns whether anything was received.
    pub(super) fn read(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut Link,
        entry: &LinkGuard,
        now: Instant,
        until: Instant,
    ) -> bool {
        let mut moved = false;
        for (step, at) in self.order.round(self.carriers.len()).enumerate() {
            // A lane that is not read here is checked by `check_silence`.
            self.carriers[at].empty = false;
            if step == 0 || Instant::now() < until {
                moved |= self.read_one(at, cx, link, entry, now);
            }
        }
        moved
    }

    /// Lets the lanes gather bytes, or no longer.
    pub(super) fn gather(&mut self, bulk: bool) {
        self.carriers.iter_mut().for_each(|carrier| carrier.lane.gather(bulk));
    }

    /// When [`Lanes::read`] must be called again, though nothing may have been received.
    pub(super) fn gathered_by(&self) -> Option<Instant> {
        self.carriers.iter().filter_map(|carrier| carrier.lane.gathered_by()).min()
    }

    /// Leaves every lane unread in this round. They count as read empty, so that
    /// [`Lanes::check_silence`] checks them.
    pub(super) fn skip_read(&mut self) {
        // The order advances as if they had been read.
        let _ = self.order.round(self.carriers.len());
        self.carriers.iter_mut().for_each(|carrier| carrier.empty = true);
    }

    /// Reads one lane into the link. Returns whether anything was received.
    fn read_one(
        &mut self,
        at: usize,
        cx: &mut Context<'_>,
        link: &mut Link,
        entry: &LinkGuard,
        now: Instant,
    ) -> bool {
        let Some(Carrier { number, lane, empty }) = self.carriers.get_mut(at) else { return false };
        let number = *number;
        if !link.has_lane(number) {
            return false;
        }
        let began = Instant::now();
        let courier = self.courier.as_ref();
        let read = lane.poll_read(cx, self.read_size.0, now, &mut |item| match (courier, &item) {
            (Some(courier), Item::Frame(frame)) if courier.take(frame, now) => {}
            _ => link.handle(number, item, now),
        });
        self.read_size.adapt(began.elapsed());
        match read {
            Poll::Pending => {
                *empty = true;
                false
            }
            Poll::Ready(Ok(())) => {
                link.on_activity(number, now);
                true
            }
            Poll::Ready(Err(error)) => {
                self.lost(number, error, link, entry, now);
                true
            }
        }
    }

    /// Writes the link's frames to every lane with room. Returns whether anything was written.
    pub(super) fn write(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut Link,
        entry: &LinkGuard,
        now: Instant,
        until: Instant,
    ) -> bool {
        let mut moved = false;
        for at in self.turns.order(self.carriers.len(), now) {
            moved |= self.write_one(at, cx, link, entry, now, until);
            self.carriers[at].lane.pace(now);
        }
        moved
    }

    /// Writes to one lane as long as it accepts anything.
    fn write_one(
        &mut self,
        at: usize,
        cx: &mut Context<'_>,
        link: &mut Link,
        entry: &LinkGuard,
        now: Instant,
        until: Instant,
    ) -> bool {
        let mut moved = false;
        loop {
            let Carrier { number, lane, .. } = &mut self.carriers[at];
            let number = *number;
            let pushed = match seal(link, number, lane, self.courier.as_ref(), now) {
                Ok(pushed) => pushed,
                Err(error) => {
                    self.lost(number, error, link, entry, now);
                    return true;
                }
            };
            moved |= pushed;
            match lane.poll_flush(cx) {
                Poll::Ready(Ok(())) if pushed && Instant::now() < until => {}
                Poll::Pending | Poll::Ready(Ok(())) => return moved,
                Poll::Ready(Err(error)) => {
                    // The far side's last frames may still be unread.
                    while self.read_one(at, cx, link, entry, now) {}
                    self.lost(number, error.into(), link, entry, now);
                    return true;
                }
            }
        }
    }

    /// Makes the link check the lanes that were silent for long. A lane is checked only after it
    /// was read empty.
    pub(super) fn check_silence(&self, link: &mut Link, entry: &LinkGuard, now: Instant) {
        for Carrier { number, lane, empty } in &self.carriers {
            if *empty && link.is_silent(*number, now) {
                if lane.has_unread() {
                    // The kernel has bytes that the runtime has not reported yet, or that are left
                    // there because memory is short.
                    link.on_activity(*number, now);
                } else {
                    link.check_liveness(*number, now);
                    debug!(link = %entry.name, number = entry.number, lane = *number, "nothing received on a lane");
                }
            }
        }
    }

    /// Reports a lost lane to the link, and logs it unless the loss was expected.
    fn lost(&mut self, number: u32, error: LaneError, link: &mut Link, entry: &LinkGuard, now: Instant) {
        if !link.has_lane(number) {
            return;
        }
        let loss = match error {
            LaneError::Closed => LaneLoss::Closed,
            LaneError::Socket(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                LaneLoss::Failed("the connection to the far gateway was reset".to_owned())
            }
            LaneError::Frame(error) => return link.fault(&error.into()),
            other => LaneLoss::Failed(other.to_string()),
        };
        let expected =
            link.is_ended() || link.is_over_far_away() || link.is_retired(number) && loss == LaneLoss::Closed;
        link.lane_lost(number, loss.clone(), now);
        if expected || link.lanes() == 0 || loss == LaneLoss::Closed && self.closures.note(number, now) {
            return;
        }
        tell_lost(number, &loss, link, entry);
    }

    /// Logs and counts the lanes that the far side has closed although the link lives on.
    pub(super) fn tell_closed(&mut self, link: &Link, entry: &LinkGuard, now: Instant) {
        if link.is_ended() || link.is_over_far_away() {
            return self.closures.clear();
        }
        for number in self.closures.lost(link.is_held(), now) {
            entry.note_lane_lost();
            tell_lost(number, &LaneLoss::Closed, link, entry);
        }
    }

    /// When [`Lanes::tell_closed`] must be called.
    pub(super) fn tells_at(&self) -> Option<Instant> {
        self.closures.due()
    }

    /// The state of each lane that decides when the link must act next.
    pub(super) fn io(&self, number: u32) -> LaneIo {
        let carrier = self.carriers.iter().find(|carrier| carrier.number == number);
        carrier.map_or(LaneIo { room: false, empty: false }, |carrier| LaneIo {
            room: carrier.lane.has_room(),
            empty: carrier.empty,
        })
    }
}

/// Logs a lost lane of a link that has others, or had.
fn tell_lost(number: u32, loss: &LaneLoss, link: &Link, entry: &LinkGuard) {
    let (cause, words) = (loss.code(), loss.to_string());
    log_link!(info, entry, throttled(Kind::LaneLost, &words); cause, lane = number, left = link.lanes(), "lane lost: {words}");
}

/// Seals the link's frames for a lane, as far as the lane has room. Returns whether there were any.
fn seal(
    link: &mut Link,
    number: u32,
    lane: &mut Lane,
    courier: Option<&Courier>,
    now: Instant,
) -> Result<bool, LaneError> {
    let mut pushed = false;
    // One frame about revocation lists, between those of the link: neither keeps the other back.
    if let Some(courier) = courier
        && lane.has_room()
        && link.carries(number)
        && !link.is_ended()
        && let Some(frame) = courier.next(number, now)
    {
        lane.push(&frame.encode())?;
        pushed = true;
    }
    while lane.has_room() {
        let mut sealed = Ok(());
        if !link.poll_transmit(number, now, &mut |frame| sealed = lane.push(frame)) {
            break;
        }
        pushed = true;
        sealed?;
    }
    Ok(pushed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_takes_its_turn_to_be_read_first() {
        let mut order = ReadOrder::default();
        let rounds: Vec<Vec<usize>> = (0..3).map(|_| order.round(3).collect()).collect();
        assert_eq!(rounds, [[1, 2, 0], [2, 0, 1], [0, 1, 2]]);
        // Lanes come and go.
        assert_eq!(order.round(0).count(), 0);
        assert_eq!(order.round(1).collect::<Vec<_>>(), [0]);
        assert_eq!(order.round(2).collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn each_lane_takes_its_turn_to_be_written_to_first() {
        let now = Instant::now();
        let mut turns = Turns { first: 0, since: now };
        let mut at = |count, millis| -> Vec<usize> {
            turns.order(count, now + Duration::from_millis(millis)).collect()
        };
        assert_eq!((at(3, 0), at(3, 19)), (vec![0, 1, 2], vec![0, 1, 2]));
        assert_eq!((at(3, 20), at(3, 39), at(3, 40)), (vec![1, 2, 0], vec![1, 2, 0], vec![2, 0, 1]));
        // Lanes come and go.
        assert_eq!((at(1, 41), at(2, 100), at(0, 200)), (vec![0], vec![1, 0], vec![]));
    }

    #[test]
    fn long_reads_make_smaller_ones_down_to_the_least() {
        let mut size = ReadSize(READS.1);
        size.adapt(LONG_READ);
        assert_eq!(size.0, READS.1);
        size.adapt(2 * LONG_READ);
        assert_eq!(size.0, READS.1 / 2);
        (0..20).for_each(|_| size.adapt(2 * LONG_READ));
        assert_eq!(size.0, READS.0);
        (0..20).for_each(|_| size.adapt(Duration::ZERO));
        assert_eq!(size.0, READS.1);
    }
}
