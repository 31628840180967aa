//! How the lanes of one link are spread over the far site's addresses: evenly over its providers,
//! and then over the addresses of each.
//!
//! A provider is an entry of `peers`; a name may have several addresses. An address where a gateway
//! answered that does not know the link comes last, and gets no lane that another could have. No
//! I/O and no clock.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

/// What is known of the addresses of a link.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// Which entry of `peers` each address belongs to.
    providers: HashMap<SocketAddr, usize>,
    /// Addresses of other gateways.
    foreign: HashSet<SocketAddr>,
}

impl Spread {
    /// An address belongs to the entry of `peers` with this number.
    pub(super) fn note(&mut self, address: SocketAddr, provider: usize) {
        self.providers.insert(address, provider);
    }

    /// A gateway that does not know the link answered at an address.
    pub(super) fn note_foreign(&mut self, address: SocketAddr) {
        self.foreign.insert(address);
    }

    /// Any gateway may know the link again, and only `known` addresses are of interest.
    pub(super) fn forget(&mut self, known: &[SocketAddr]) {
        self.foreign.clear();
        self.providers.retain(|address, _| known.contains(address));
    }

    /// The addresses for a dial, that with the fewest of the lanes `in_use` first.
    pub(super) fn order(&self, known: &[SocketAddr], in_use: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut order = known.to_vec();
        order.sort_by_key(|address| {
            let (of_provider, here) = self.lanes(*address, in_use);
            (self.foreign.contains(address), of_provider, here)
        });
        order
    }

    /// An address with a lane that had better be at one of other addresses, and those. `None` if
    /// no provider has two lanes more than another, and no address of a provider has.
    pub(super) fn uneven(
        &self,
        known: &[SocketAddr],
        in_use: &[SocketAddr],
    ) -> Option<(SocketAddr, Vec<SocketAddr>)> {
        let open: Vec<SocketAddr> =
            known.iter().copied().filter(|address| !self.foreign.contains(address)).collect();
        let mut fullest = in_use.to_vec();
        fullest.sort_by_key(|address| std::cmp::Reverse(self.lanes(*address, in_use)));
        fullest.into_iter().find_map(|from| {
            let (of_provider, here) = self.lanes(from, in_use);
            let is_better = |address: &SocketAddr| {
                let (of_other, there) = self.lanes(*address, in_use);
                if self.is_one_provider(*address, from) {
                    there + 2 <= here
                } else {
                    of_other + 2 <= of_provider
                }
            };
            let mut better: Vec<SocketAddr> =
                self.order(&open, in_use).into_iter().filter(is_better).collect();
            let least = self.lanes(*better.first()?, in_use);
            better.retain(|address| self.lanes(*address, in_use) == least);
            Some((from, better))
        })
    }

    /// The number of lanes in use at an address' provider, and at the address.
    fn lanes(&self, address: SocketAddr, in_use: &[SocketAddr]) -> (usize, usize) {
        let count = |is: &dyn Fn(SocketAddr) -> bool| in_use.iter().filter(|other| is(**other)).count();
        (count(&|other| self.is_one_provider(address, other)), count(&|other| address == other))
    }

    fn is_one_provider(&self, one: SocketAddr, other: SocketAddr) -> bool {
        one == other
            || self.providers.contains_key(&one) && self.providers.get(&one) == self.providers.get(&other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 7379))
    }

    fn addresses(last: &[u8]) -> Vec<SocketAddr> {
        last.iter().map(|last| address(*last)).collect()
    }

    /// Two providers: one with the addresses 1 and 2, one with 3.
    fn spread() -> Spread {
        let mut spread = Spread::default();
        [(1, 0), (2, 0), (3, 1)].iter().for_each(|(last, provider)| spread.note(address(*last), *provider));
        spread
    }

    #[test]
    fn a_dial_goes_to_the_provider_and_then_to_the_address_with_the_fewest_lanes() {
        let mut spread = spread();
        let order = |spread: &Spread, in_use| spread.order(&addresses(&[1, 2, 3]), &addresses(in_use));
        assert_eq!(order(&spread, &[]), addresses(&[1, 2, 3]), "the order in which they are known");
        assert_eq!(order(&spread, &[1]), addresses(&[3, 2, 1]));
        assert_eq!(order(&spread, &[1, 3]), addresses(&[2, 1, 3]));
        assert_eq!(order(&spread, &[1, 3, 3]), addresses(&[2, 1, 3]));
        spread.note_foreign(address(3));
        assert_eq!(order(&spread, &[1]), addresses(&[2, 1, 3]));
        spread.forget(&addresses(&[1, 2, 3]));
        assert_eq!(order(&spread, &[1]), addresses(&[3, 2, 1]));
    }

    #[test]
    fn a_lane_moves_only_if_that_makes_the_lanes_more_even() {
        let mut spread = spread();
        let uneven = |spread: &Spread, in_use| spread.uneven(&addresses(&[1, 2, 3]), &addresses(in_use));
        assert_eq!(uneven(&spread, &[]), None);
        assert_eq!(uneven(&spread, &[1, 3]), None);
        assert_eq!(uneven(&spread, &[3, 3]), Some((address(3), addresses(&[1, 2]))));
        assert_eq!(uneven(&spread, &[1, 2, 2]), Some((address(2), addresses(&[3]))));
        assert_eq!(uneven(&spread, &[1, 1, 3, 3]), Some((address(1), addresses(&[2]))));
        assert_eq!(uneven(&spread, &[1, 2, 3, 3]), None);
        assert_eq!(uneven(&spread, &[1, 1, 3]), Some((address(1), addresses(&[2]))));
        spread.note_foreign(address(3));
        assert_eq!(uneven(&spread, &[1, 2, 2]), None, "the other gateway does not have the link");
    }
}
