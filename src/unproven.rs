//! Bounds the connections that have not shown yet that they may be here.
//!
//! Each takes a seat, which it keeps until it has proven itself or is closed, also while
//! it is refused: a far side that never closes costs a seat. When all are taken the oldest
//! goes, first of the same group, then of all; one that has said nothing goes before one
//! that has.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;

/// The seats of connections of some kind, in groups that do not push one another out
/// before all seats are taken.
#[derive(Debug)]
pub struct Unproven<G> {
    seats: Arc<Mutex<Seats<G>>>,
    of_a_group: usize,
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
    spoke: bool,
    evicted: CancellationToken,
}

/// A connection's seat; dropping it gives it back.
#[derive(Debug)]
pub struct Seat<G> {
    seats: Arc<Mutex<Seats<G>>>,
    number: u64,
    evicted: CancellationToken,
}

impl<G: PartialEq> Unproven<G> {
    /// So many seats for one group, and so many in all.
    pub fn new(of_a_group: usize, in_all: usize) -> Self {
        let seats = Seats { taken: VecDeque::new(), next: 0 };
        Self { seats: Arc::new(Mutex::new(seats)), of_a_group, in_all }
    }

    /// Takes a seat for a connection of this group.
    pub fn enter(&self, group: G) -> Seat<G> {
        let mut seats = lock(&self.seats);
        let of_group = |other: &Taken<G>| other.group == group;
        let oldest = if seats.taken.iter().filter(|other| of_group(other)).count() >= self.of_a_group {
            seats.oldest(of_group)
        } else if seats.taken.len() >= self.in_all {
            seats.oldest(|_| true)
        } else {
            None
        };
        if let Some(evicted) = oldest.and_then(|at| seats.taken.remove(at)) {
            evicted.evicted.cancel();
        }
        let number = seats.next;
        seats.next += 1;
        let evicted = CancellationToken::new();
        seats.taken.push_back(Taken { group, number, spoke: false, evicted: evicted.clone() });
        Seat { seats: Arc::clone(&self.seats), number, evicted }
    }
}

impl<G> Seats<G> {
    /// The oldest of some, first of those that have said nothing.
    fn oldest(&self, of: impl Fn(&Taken<G>) -> bool) -> Option<usize> {
        let silent = self.taken.iter().position(|other| of(other) && !other.spoke);
        silent.or_else(|| self.taken.iter().position(of))
    }
}

impl<G> Seat<G> {
    /// Ready once the seat went to a newer connection: this one is to be closed.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Whether the seat went to a newer connection.
    pub fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }

    /// The connection has said something.
    pub fn spoke(&self) {
        let mut seats = lock(&self.seats);
        if let Some(own) = seats.taken.iter_mut().find(|other| other.number == self.number) {
            own.spoke = true;
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

/// Who counts as one source: an IPv4 address, or an IPv6 network of 64 bits, which
/// is what one host is given.
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
    fn who_has_said_nothing_goes_before_who_has() {
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
    fn an_ipv6_network_is_one_source() {
        let source = |text: &str| source(text.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
    }
}
