//! Names of the config: whether they resolve, at once, to the same addresses each time.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::codes::Code;
use super::report::Finding;
use super::words::millis;
use crate::race;
use crate::units::Address;

/// Time from which on a name counts as slow.
const SLOW: Duration = Duration::from_secs(1);

/// A name, looked up twice.
#[derive(Clone, Debug)]
pub(super) struct Looked {
    first: Result<Vec<SocketAddr>, String>,
    second: Option<Vec<SocketAddr>>,
    took: Duration,
}

impl Looked {
    /// The addresses of the first look, or why there are none.
    pub(super) fn addresses(&self) -> Result<&[SocketAddr], &str> {
        self.first.as_deref().map_err(String::as_str)
    }
}

/// Looks a place up, twice if it is a name. Each look has its own deadline.
pub(super) async fn look(place: &Address) -> Looked {
    let began = Instant::now();
    let first = race::run::resolve(place).await;
    let took = began.elapsed();
    let second = match &first {
        Ok(_) if is_name(place) => race::run::resolve(place).await.ok(),
        _ => None,
    };
    Looked { first, second, took }
}

/// Whether a place is written with a name, not with an address.
fn is_name(place: &Address) -> bool {
    place.host.parse::<std::net::IpAddr>().is_err()
}

/// The codes for a name that is slow, and for one that changes.
pub(super) type Codes = [Code; 2];

/// What may surprise about a name that resolves; whoever connects tells of one that does not. `about`
/// is what it is a name of.
pub(super) fn judge(place: &Address, looked: &Looked, codes: Codes, about: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let [slow, changes] = codes;
    let mut tell = |code, text: String| findings.push(Finding::new(code, place, format!("{about}: {text}")));
    let Ok(first) = &looked.first else { return findings };
    if looked.took >= SLOW {
        tell(
            slow,
            format!(
                "{place}: the name took {} to resolve; a link waits for it: look at the servers in /etc/resolv.conf, or write the address",
                millis(looked.took)
            ),
        );
    }
    if let Some(second) = &looked.second
        && sorted(first) != sorted(second)
    {
        tell(
            changes,
            format!(
                "{place}: two lookups gave different addresses: {}, then {}; if they are different gateways or Redis processes, name each by itself",
                list(first),
                list(second)
            ),
        );
    }
    findings
}

/// A warning about a name of a far gateway that is one of this host's loopback: an address that is
/// written as one is meant so, as for a tunnel.
pub(super) fn loopback(place: &Address, looked: &Looked, about: &str) -> Option<Finding> {
    let found = looked.addresses().ok()?.iter().find(|address| address.ip().is_loopback())?;
    // `localhost` is written on purpose as well.
    (is_name(place) && place.host != "localhost").then(|| {
        let text = format!(
            "{about}: {place} resolves to {}, this host itself, and not to another site: look at /etc/hosts",
            found.ip()
        );
        Finding::new(Code::PeerNameLoopback, place, text)
    })
}

fn sorted(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut all = addresses.to_vec();
    all.sort_unstable();
    all.dedup();
    all
}

/// Addresses in words.
pub(super) fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units;

    const CODES: Codes = [Code::PeerNameSlow, Code::PeerNameChanges];

    fn found(first: Result<&[&str], &str>, second: Option<&[&str]>, took: Duration) -> Vec<Code> {
        let all = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let looked = Looked { first: first.map(all).map_err(str::to_owned), second: second.map(all), took };
        let place = units::address("gw.example:7379").unwrap();
        let loopback = loopback(&place, &looked, "replica");
        let all = judge(&place, &looked, CODES, "replica").into_iter().chain(loopback);
        all.map(|finding| finding.code).collect()
    }

    #[test]
    fn each_fault_of_a_name_is_told() {
        let (two, quick) = (["10.0.0.1:1", "10.0.0.2:1"], Duration::from_millis(3));
        let turned = ["10.0.0.2:1", "10.0.0.1:1"];
        assert_eq!(found(Ok(&two), Some(&turned), quick), [], "a balanced name turns its addresses");
        assert_eq!(found(Ok(&two), Some(&two[..1]), quick), [Code::PeerNameChanges]);
        assert_eq!(found(Ok(&two), None, SLOW), [Code::PeerNameSlow]);
        assert_eq!(found(Err("it has no address"), None, SLOW), []);
        assert_eq!(found(Ok(&["127.0.1.1:1"]), None, quick), [Code::PeerNameLoopback]);
    }

    #[test]
    fn a_loopback_address_that_is_written_is_meant() {
        let looked =
            Looked { first: Ok(vec!["127.0.0.1:7379".parse().unwrap()]), second: None, took: SLOW / 9 };
        assert_eq!(loopback(&units::address("127.0.0.1:7379").unwrap(), &looked, "replica"), None);
    }
}
