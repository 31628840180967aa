//! Bounds the connections that have not yet proven that they may stay.
//!
//! Each connection takes a seat and keeps it until it has proven itself or is closed. A refused
//! connection keeps its seat as well, since the far side may not close it. When all seats are taken
//! the oldest connection is closed: first one of the same group, then of all groups. A connection
//! that has sent nothing goes before one that has.
//!
//! A group may be allowed more than its seats. Then only connections that are late are closed for
//! exceeding that number, since many honest connections may come from one address, such as those of
//! all gateways behind a NAT.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Time given to a connection to prove itself before it is late: some round trips of a long path.
const GRACE: Duration = Duration::from_secs(2);

/// Time given to a connection to send anything before it is late: its task may not have run yet.
const SILENCE: Duration = Duration::from_millis(500);

/// The seats of one kind of connection. Groups do not evict one another until all seats are taken.
#[derive(Debug)]
pub struct Unproven<G> {
    seats: Arc<Mutex<Seats<G>>>,
    of_a_group: usize,
    most_of_a_group: usize,
    in_all: usize,
}

#[derive(Debug)]
struct Seats<G> {
    taken: VecDeque<Taken<G>>,
    next: u64,
}

#[derive(Debug)]
struct Taken<G> {
    group: G,
    number: u64,
    since: Instant,
    spoke: bool,
    refused: bool,
    evicted: CancellationToken,
}

/// A connection's seat; dropping it frees it.
#[derive(Debug)]
pub struct Seat<G> {
    seats: Arc<Mutex<Seats<G>>>,
    of_a_group: usize,
    number: u64,
    evicted: CancellationToken,
}

impl<G: Eq + Hash> Unproven<G> {
    /// `of_a_group` seats for each group, and `in_all` in total.
    pub fn new(of_a_group: usize, in_all: usize) -> Self {
        let seats = Seats { taken: VecDeque::new(), next: 0 };
        Self { seats: Arc::new(Mutex::new(seats)), of_a_group, most_of_a_group: of_a_group, in_all }
    }

    /// Lets a group have up to `most` seats if none of them is late.
    pub fn or_more(self, most: usize) -> Self {
        Self { most_of_a_group: most, ..self }
    }

    /// Takes a seat for a connection of this group, and evicts another connection if there is no
    /// free one.
    pub fn enter(&self, group: G) -> Seat<G> {
        self.enter_at(group, Instant::now())
    }

    fn enter_at(&self, group: G, now: Instant) -> Seat<G> {
        let mut seats = lock(&self.seats);
        let own = |other: &Taken<G>| other.group == group;
        let taken = seats.taken.iter().filter(|other| own(other)).count();
        let oldest = if taken >= self.most_of_a_group {
            seats.late(own, now).or_else(|| seats.oldest(own))
        } else if taken >= self.of_a_group {
            seats.late(own, now)
        } else {
            None
        };
        let full = seats.taken.len() >= self.in_all;
        let in_all = || seats.late(|_| true, now).or_else(|| seats.oldest_of_the_largest());
        let oldest = oldest.or_else(|| if full { in_all() } else { None });
        if let Some(evicted) = oldest.and_then(|at| seats.taken.remove(at)) {
            evicted.evicted.cancel();
        }
        let number = seats.next;
        seats.next += 1;
        let evicted = CancellationToken::new();
        seats.taken.push_back(Taken {
            group,
            number,
            since: now,
            spoke: false,
            refused: false,
            evicted: evicted.clone(),
        });
        Seat { seats: Arc::clone(&self.seats), of_a_group: self.of_a_group, number, evicted }
    }
}

impl<G: Eq + Hash> Seats<G> {
    /// The oldest matching connection that was refused; else one that has sent nothing for
    /// [`SILENCE`]; else one that has not proven itself within [`GRACE`].
    fn late(&self, of: impl Fn(&Taken<G>) -> bool, now: Instant) -> Option<usize> {
        let late = |seat: &Taken<G>, after| of(seat) && now.duration_since(seat.since) >= after;
        let refused = self.taken.iter().position(|seat| seat.refused && of(seat));
        let silent = || self.taken.iter().position(|seat| !seat.spoke && late(seat, SILENCE));
        refused.or_else(silent).or_else(|| self.taken.iter().position(|seat| late(seat, GRACE)))
    }

    /// The oldest matching connection; those that have sent nothing come first.
    fn oldest(&self, of: impl Fn(&Taken<G>) -> bool) -> Option<usize> {
        let silent = self.taken.iter().position(|other| of(other) && !other.spoke);
        silent.or_else(|| self.taken.iter().position(of))
    }

    /// As [`Seats::oldest`], for the group with the most seats, or all such groups.
    fn oldest_of_the_largest(&self) -> Option<usize> {
        let mut counts: HashMap<&G, usize> = HashMap::new();
        for seat in &self.taken {
            *counts.entry(&seat.group).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        self.oldest(|seat| counts[&seat.group] == most)
    }
}

impl<G> Seat<G> {
    /// Completes once a newer connection has got the seat: this one is to be closed.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Whether a newer connection has got the seat.
    pub fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }

    /// Records that the connection has sent something.
    pub fn spoke(&self) {
        let mut seats = lock(&self.seats);
        if let Some(own) = seats.taken.iter_mut().find(|other| other.number == self.number) {
            own.spoke = true;
        }
    }
}

impl<G: Eq + Hash> Seat<G> {
    /// Records that the connection is refused; it keeps its seat until it is closed. If its group
    /// then has more than its own seats, the oldest refused connection of the group is evicted.
    pub fn refused(&self) {
        let mut seats = lock(&self.seats);
        let Some(own) = seats.taken.iter().position(|other| other.number == self.number) else { return };
        seats.taken[own].refused = true;
        let of_group = |other: &Taken<G>| other.group == seats.taken[own].group;
        if seats.taken.iter().filter(|other| of_group(other)).count() > self.of_a_group
            && let Some(oldest) = seats.taken.iter().position(|other| other.refused && of_group(other))
            && let Some(evicted) = seats.taken.remove(oldest)
        {
            evicted.evicted.cancel();
        }
    }
}

impl<G> Drop for Seat<G> {
    fn drop(&mut self) {
        lock(&self.seats).taken.retain(|other| other.number != self.number);
    }
}

fn lock<G>(seats: &Mutex<Seats<G>>) -> MutexGuard<'_, Seats<G>> {
    seats.lock().expect("no code panics while it holds the seats")
}

/// The group of an address: an IPv4 address, or an IPv6 network of 64 bits, which is what one host
/// is given.
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_group_only_pushes_out_its_own() {
        let unproven = Unproven::new(64, 512);
        let other = unproven.enter("other");
        let flood: Vec<_> = (0..65).map(|_| unproven.enter("flood")).collect();
        assert!(!other.is_evicted());
        assert!(flood[0].is_evicted() && !flood[1].is_evicted());
    }

    #[test]
    fn a_seat_is_given_back_and_the_oldest_goes_when_all_are_taken() {
        let unproven = Unproven::new(64, 512);
        drop(unproven.enter(0));
        assert!(lock(&unproven.seats).taken.is_empty());
        let flood: Vec<_> = (0..513).map(|at| unproven.enter(at)).collect();
        assert!(flood[0].is_evicted() && !flood[1].is_evicted());
    }

    #[test]
    fn a_silent_connection_is_closed_before_one_that_has_sent_something() {
        let unproven = Unproven::new(3, 3);
        let seats = [unproven.enter(0), unproven.enter(0), unproven.enter(0)];
        seats[0].spoke();
        let more = unproven.enter(0);
        assert!(!seats[0].is_evicted() && seats[1].is_evicted());
        seats[2].spoke();
        more.spoke();
        let last = unproven.enter(0);
        assert!(seats[0].is_evicted() && !last.is_evicted());
    }

    #[test]
    fn a_group_may_have_more_while_none_is_late() {
        let (unproven, begin) = (Unproven::new(2, 6).or_more(4), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        let moving: Vec<_> = (0..3).map(|_| unproven.enter_at("nat", begin)).collect();
        moving.iter().for_each(Seat::spoke);
        let silent = unproven.enter_at("nat", begin);
        assert!(!silent.is_evicted() && moving.iter().all(|seat| !seat.is_evicted()));
        // Four are allowed at most: one that has sent nothing goes first.
        let fifth = unproven.enter_at("nat", at(10));
        assert!(silent.is_evicted() && moving.iter().all(|seat| !seat.is_evicted()));
        fifth.spoke();
        let sixth = unproven.enter_at("nat", at(20));
        assert!(moving[0].is_evicted() && !moving[1].is_evicted());
        // Seats beyond the group's own are only for connections that are not refused.
        moving[1].refused();
        assert!(moving[1].is_evicted() && !moving[2].is_evicted());
        // They are late by now, although they have sent something.
        drop(sixth);
        let late = unproven.enter_at("nat", at(2500));
        assert!(moving[2].is_evicted() && !fifth.is_evicted() && !late.is_evicted());
    }

    #[test]
    fn the_largest_group_gives_up_a_seat_if_all_are_taken_and_none_is_late() {
        let unproven = Unproven::new(2, 6).or_more(6);
        let one = unproven.enter("one");
        let flood: Vec<_> = (0..5).map(|_| unproven.enter("flood")).collect();
        let more = unproven.enter("flood");
        assert!(!one.is_evicted() && flood[0].is_evicted() && !flood[1].is_evicted());
        let two = unproven.enter("two");
        assert!(!one.is_evicted() && flood[1].is_evicted() && !two.is_evicted() && !more.is_evicted());
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let source = |text: &str| source(text.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
    }
}
