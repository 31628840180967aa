//! Exchanges revocation lists with far gateways.
//!
//! Each gateway states which lists it knows, with their numbers: when the first link to another
//! gateway opens, and whenever something has changed. Whoever has an older one asks for the later,
//! and gets it in pieces. All links to one far gateway share one exchange, so that a list crosses
//! once, however many there are: what is to be sent goes over whichever lane comes for it first,
//! and a list stays on the lane that has taken its first piece.
//!
//! Nothing is verified here, and nothing is taken that was not asked for. A complete list goes to
//! the gateway's task, which tells the verdict by [`Exchange::judged`]. [`conduct`] bounds what a
//! site may cost.

mod conduct;
pub mod opening;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use self::conduct::Conduct;
use crate::tls::revocation::{Offer, Revocation};
use crate::wire::frame::Frame;
use crate::wire::hello::Id;
use crate::wire::lists::{Known, LARGEST, LARGEST_PIECE, ListName, ListNumber, MOST_KNOWN, Piece};

/// Time without another piece after which a list does not come any more.
const STALLED: Duration = Duration::from_secs(10);

/// Time without another piece after which a list is sent again from its start, over another lane.
const MOVED_ELSEWHERE: Duration = Duration::from_secs(2);

/// Time after which all links of a far gateway are woken for what is to be sent.
const UNSENT: Duration = Duration::from_secs(1);

/// Time given to one gateway to hand over a list before another is asked for it as well.
const ELSEWHERE_TOO: Duration = Duration::from_secs(2);

/// Links of a far gateway that are woken first.
const FIRST_WOKEN: usize = 3;

/// Most complete lists that wait for their verdict.
const WAITING: usize = 16;

/// Most sites whose conduct is remembered; only sites with a link are.
const MOST_SITES: usize = 4096;

/// Another gateway's process. Its certificate has proven the site, in lower case.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Far {
    site: String,
    instance: Id,
}

impl Far {
    /// The process `instance` of a site.
    pub fn new(site: &str, instance: Id) -> Self {
        Self { site: site.to_ascii_lowercase(), instance }
    }

    /// Its site.
    pub fn site(&self) -> &str {
        &self.site
    }
}

/// A complete list that nobody has verified.
#[derive(Debug)]
pub struct Arrived {
    /// Who has sent it.
    pub far: Far,
    /// The number that was promised.
    pub promised: ListNumber,
    /// The list.
    pub der: Vec<u8>,
}

/// The verdict on a list that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is good, or was good when it was asked for.
    Good,
    /// It is not what was promised.
    Bad,
}

/// The exchanges with all far gateways.
#[derive(Debug)]
pub struct Exchange {
    state: Mutex<State>,
    arrived: mpsc::Sender<Arrived>,
}

#[derive(Debug, Default)]
struct State {
    offers: Vec<Offer>,
    /// The first halves of the names of lists that can be verified here.
    issuers: Vec<[u8; 16]>,
    fars: HashMap<Far, Peer>,
    sites: HashMap<String, Conduct>,
    couriers: u64,
}

/// What is known of one far gateway while a link to it is open.
#[derive(Debug, Default)]
struct Peer {
    couriers: Vec<(u64, Arc<Mail>)>,
    /// Whether it must still be told which lists are known here.
    tell: bool,
    /// What it has stated to know.
    theirs: Vec<Known>,
    asked: Option<Asked>,
    sending: Option<Sending>,
    /// The courier and the lane that have carried what it was told.
    told_by: Option<(u64, u32)>,
    /// Since when something is to be sent.
    unsent: Option<Instant>,
}

/// A list that it was asked for.
#[derive(Debug)]
struct Asked {
    name: ListName,
    number: ListNumber,
    /// Whether the question is still to be sent.
    unsent: bool,
    /// The courier and the lane that have carried it.
    by: Option<(u64, u32)>,
    /// Number and size of the list that is coming, and what has come.
    coming: Option<(ListNumber, u32)>,
    buffer: Vec<u8>,
    since: Instant,
    moved: Instant,
    /// Whether it is complete and waits for its verdict.
    complete: bool,
}

/// A list that it is being sent.
#[derive(Debug)]
struct Sending {
    offer: Offer,
    at: usize,
    /// The courier and the lane that carry it, once the first piece was sent.
    by: Option<(u64, u32)>,
    moved: Instant,
}

/// What wakes the task of a link.
#[derive(Debug, Default)]
pub struct Mail {
    due: AtomicBool,
    notify: Notify,
}

impl Mail {
    /// Completes when the link may have something to send.
    pub async fn notified(&self) {
        self.notify.notified().await;
    }
}

impl Exchange {
    /// An exchange that knows no list, and where complete lists go.
    pub fn new() -> (Self, mpsc::Receiver<Arrived>) {
        let (arrived, receiver) = mpsc::channel(WAITING);
        (Self { state: Mutex::default(), arrived }, receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses these lists from now on. Each far gateway is told if they are others than before.
    pub fn offer(&self, revocation: &Revocation, now: Instant) {
        let mut state = self.state();
        state.issuers = revocation.issuers();
        let names = |offers: &[Offer]| {
            let mut names: Vec<_> = offers.iter().map(|offer| (offer.name, offer.number)).collect();
            names.sort_unstable();
            names
        };
        let changed = names(&state.offers) != names(&revocation.offers);
        state.offers.clone_from(&revocation.offers);
        state.offers.truncate(MOST_KNOWN);
        let fars: Vec<Far> = state.fars.keys().cloned().collect();
        for far in fars {
            if changed && let Some(peer) = state.fars.get_mut(&far) {
                peer.tell = true;
                peer.wake(now);
            }
            // A CA may be known now that was not before.
            state.consider(&far, now);
        }
    }

    /// A link to a far gateway is open. It exchanges lists until what is returned is dropped.
    pub fn join(self: &Arc<Self>, far: Far, now: Instant) -> Courier {
        let mut state = self.state();
        state.couriers += 1;
        let (number, mail) = (state.couriers, Arc::new(Mail::default()));
        let peer = state.fars.entry(far.clone()).or_default();
        let first = peer.couriers.is_empty();
        peer.couriers.push((number, Arc::clone(&mail)));
        if first {
            peer.tell = true;
        }
        peer.wake(now);
        drop(state);
        Courier { exchange: Arc::clone(self), far, number, mail }
    }

    /// Handles what is due by now. Must be called about once a second.
    pub fn tick(&self, now: Instant) {
        let mut state = self.state();
        let fars: Vec<Far> = state.fars.keys().cloned().collect();
        for far in fars {
            let Some(peer) = state.fars.get_mut(&far) else { continue };
            if let Some(sending) = &mut peer.sending
                && sending.by.is_some()
                && now.saturating_duration_since(sending.moved) >= MOVED_ELSEWHERE
            {
                (sending.by, sending.at, sending.moved) = (None, 0, now);
                peer.wake(now);
            }
            if peer.unsent.is_some_and(|since| now.saturating_duration_since(since) >= UNSENT) {
                peer.couriers.iter().for_each(|(_, mail)| mail.notify.notify_one());
            }
            let late =
                |asked: &Asked| !asked.complete && now.saturating_duration_since(asked.moved) >= STALLED;
            if peer.asked.as_ref().is_some_and(late) {
                peer.asked = None;
                state.conduct(&far.site, now).failed(now);
            }
            state.consider(&far, now);
        }
    }

    /// The verdict on a list that has arrived. Returns the pause after a bad one.
    pub fn judged(&self, far: &Far, verdict: Verdict, now: Instant) -> Option<Duration> {
        let mut state = self.state();
        if let Some(peer) = state.fars.get_mut(far)
            && peer.asked.as_ref().is_some_and(|asked| asked.complete)
        {
            peer.asked = None;
        }
        let conduct = state.conduct(&far.site, now);
        let pause = match verdict {
            Verdict::Good => {
                conduct.delivered();
                None
            }
            Verdict::Bad => Some(conduct.failed(now)),
        };
        let fars: Vec<Far> = state.fars.keys().cloned().collect();
        fars.iter().for_each(|far| state.consider(far, now));
        pause
    }
}

impl State {
    fn conduct(&mut self, site: &str, now: Instant) -> &mut Conduct {
        if self.sites.len() >= MOST_SITES && !self.sites.contains_key(site) {
            let live: Vec<&str> = self.fars.keys().map(Far::site).collect();
            self.sites.retain(|site, _| live.contains(&site.as_str()));
        }
        self.sites.entry(site.to_owned()).or_insert_with(|| Conduct::new(now))
    }

    fn number(&self, name: &ListName) -> Option<ListNumber> {
        self.offers.iter().filter(|offer| offer.name == *name).map(|offer| offer.number).max()
    }

    /// Asks a far gateway for a list if it has a later one: one at a time of each site.
    fn consider(&mut self, far: &Far, now: Instant) {
        let Some(peer) = self.fars.get(far) else { return };
        let later = |known: &&Known| {
            self.issuers.iter().any(|issuer| known.name.starts_with(issuer))
                && self.number(&known.name).is_none_or(|ours| known.number > ours)
        };
        let is_asked_of_another = |known: &Known| {
            self.fars.values().filter_map(|peer| peer.asked.as_ref()).any(|asked| {
                asked.name == known.name
                    && asked.number >= known.number
                    && now.saturating_duration_since(asked.since) < ELSEWHERE_TOO
            })
        };
        let wanted = peer.theirs.iter().filter(later).find(|known| !is_asked_of_another(known));
        let Some(Known { name, number }) = wanted.copied() else { return };
        let busy = self.fars.iter().any(|(other, peer)| other.site == far.site && peer.asked.is_some());
        if busy || !self.conduct(&far.site, now).may_ask(now) {
            return;
        }
        self.conduct(&far.site, now).asked();
        if let Some(peer) = self.fars.get_mut(far) {
            peer.asked = Some(Asked {
                name,
                number,
                unsent: true,
                by: None,
                coming: None,
                buffer: Vec::new(),
                since: now,
                moved: now,
                complete: false,
            });
            peer.wake(now);
        }
    }

    /// A far gateway asks for a list.
    fn wanted(&mut self, far: &Far, name: &ListName, now: Instant) {
        let Some(offer) = self.offers.iter().find(|offer| offer.name == *name).cloned() else { return };
        let Some(peer) = self.fars.get(far) else { return };
        let same = peer
            .sending
            .as_ref()
            .is_some_and(|sending| sending.offer.name == *name && sending.offer.number == offer.number);
        if same || !self.conduct(&far.site, now).may_send(offer.der.len(), now) {
            return;
        }
        if let Some(peer) = self.fars.get_mut(far) {
            peer.sending = Some(Sending { offer, at: 0, by: None, moved: now });
            peer.wake(now);
        }
    }
}

impl Peer {
    /// Whether anything is to be sent that any lane may take.
    fn has_mail(&self) -> bool {
        self.tell
            || self.asked.as_ref().is_some_and(|asked| asked.unsent)
            || self.sending.as_ref().is_some_and(|sending| sending.by.is_none())
    }

    /// Wakes a few links if there is something to send; [`Exchange::tick`] wakes the others if none of
    /// these can.
    fn wake(&mut self, now: Instant) {
        self.mark(now);
        if self.has_mail() {
            self.couriers.iter().take(FIRST_WOKEN).for_each(|(_, mail)| mail.notify.notify_one());
        }
    }

    /// Tells each link whether it may have something to send.
    fn mark(&mut self, now: Instant) {
        let (has_mail, pinned) = (self.has_mail(), self.sending.as_ref().and_then(|sending| sending.by));
        self.unsent = has_mail.then(|| self.unsent.unwrap_or(now));
        for (number, mail) in &self.couriers {
            let pinned = pinned.is_some_and(|(courier, _)| courier == *number);
            mail.due.store(has_mail || pinned, Ordering::Relaxed);
        }
    }

    /// The next frame for this lane.
    fn next(&mut self, by: (u64, u32), offers: &[Offer], now: Instant) -> Option<Frame> {
        if self.tell {
            (self.tell, self.told_by) = (false, Some(by));
            let known = offers.iter().map(|offer| Known { name: offer.name, number: offer.number });
            return Some(Frame::Lists(known.collect()));
        }
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.unsent) {
            (asked.unsent, asked.by) = (false, Some(by));
            return Some(Frame::Want(asked.name));
        }
        let sending = self.sending.as_mut().filter(|sending| sending.by.is_none_or(|pinned| pinned == by))?;
        let Offer { name, number, der } = &sending.offer;
        let bytes = der[sending.at..].iter().take(LARGEST_PIECE).copied().collect::<Vec<u8>>();
        let [total, at] =
            [der.len(), sending.at].map(|size| u32::try_from(size).expect("a list is far smaller"));
        let piece = Piece { name: *name, number: *number, total, at, bytes };
        sending.at += piece.bytes.len();
        (sending.by, sending.moved) = (Some(by), now);
        if sending.at >= der.len() {
            self.sending = None;
        }
        Some(Frame::Piece(piece))
    }

    /// What a lane has carried may be lost with it: it is sent again.
    fn lost(&mut self, was: impl Fn((u64, u32)) -> bool, now: Instant) {
        if let Some(sending) = self.sending.as_mut().filter(|sending| sending.by.is_some_and(&was)) {
            (sending.by, sending.at) = (None, 0);
        }
        if self.told_by.is_some_and(&was) {
            (self.told_by, self.tell) = (None, true);
        }
        let unanswered = |asked: &&mut Asked| asked.coming.is_none() && asked.by.is_some_and(&was);
        if let Some(asked) = self.asked.as_mut().filter(unanswered) {
            (asked.by, asked.unsent) = (None, true);
        }
        self.wake(now);
    }

    /// Takes a piece of the list that was asked for. Returns the list if that completes it. Anything
    /// else is ignored.
    fn take(&mut self, piece: &Piece, now: Instant) -> Option<(ListNumber, Vec<u8>)> {
        let asked = self.asked.as_mut().filter(|asked| asked.name == piece.name && !asked.complete)?;
        if piece.total as usize > LARGEST {
            return None;
        }
        if piece.at == 0 {
            asked.coming = Some((piece.number, piece.total));
            asked.buffer.clear();
        }
        if asked.coming != Some((piece.number, piece.total)) || asked.buffer.len() != piece.at as usize {
            return None;
        }
        asked.buffer.extend_from_slice(&piece.bytes);
        asked.moved = now;
        asked.complete = asked.buffer.len() == piece.total as usize;
        asked.complete.then(|| (asked.number, std::mem::take(&mut asked.buffer)))
    }
}

/// The part of one link in the exchange with its far gateway.
#[derive(Debug)]
pub struct Courier {
    exchange: Arc<Exchange>,
    far: Far,
    number: u64,
    mail: Arc<Mail>,
}

impl Courier {
    /// What wakes the link.
    pub fn mail(&self) -> &Arc<Mail> {
        &self.mail
    }

    /// The next frame for this lane, which must be one that carries the link.
    pub fn next(&self, lane: u32, now: Instant) -> Option<Frame> {
        if !self.mail.due.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.exchange.state();
        let State { offers, fars, .. } = &mut *state;
        let peer = fars.get_mut(&self.far)?;
        let frame = peer.next((self.number, lane), offers, now);
        peer.mark(now);
        frame
    }

    /// Takes a frame about lists; false if it is another one.
    pub fn take(&self, frame: &Frame, now: Instant) -> bool {
        if !matches!(frame, Frame::Lists(_) | Frame::Want(_) | Frame::Piece(_)) {
            return false;
        }
        let mut state = self.exchange.state();
        match frame {
            Frame::Lists(known) => {
                if let Some(peer) = state.fars.get_mut(&self.far) {
                    peer.theirs.clone_from(known);
                }
                state.consider(&self.far, now);
            }
            Frame::Want(name) => state.wanted(&self.far, name, now),
            Frame::Piece(piece) => {
                let complete = state.fars.get_mut(&self.far).and_then(|peer| peer.take(piece, now));
                if let Some((promised, der)) = complete {
                    let arrived = Arrived { far: self.far.clone(), promised, der };
                    if self.exchange.arrived.try_send(arrived).is_err()
                        && let Some(peer) = state.fars.get_mut(&self.far)
                    {
                        // Too many wait for their verdict. It is asked for again.
                        peer.asked = None;
                    }
                }
            }
            _ => {}
        }
        true
    }

    /// A lane of the link is closed.
    pub fn closed(&self, lane: u32, now: Instant) {
        if let Some(peer) = self.exchange.state().fars.get_mut(&self.far) {
            peer.lost(|by| by == (self.number, lane), now);
        }
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        let mut state = self.exchange.state();
        let Some(peer) = state.fars.get_mut(&self.far) else { return };
        peer.couriers.retain(|(number, _)| *number != self.number);
        if peer.couriers.is_empty() {
            state.fars.remove(&self.far);
        } else {
            peer.lost(|(courier, _)| courier == self.number, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
