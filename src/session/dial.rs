//! Finds a way to the far site: a lane, accepted in so many words.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::{HELLO_DEADLINE, Shared, congestion, dialling_terms, tune};
use crate::config::Replica;
use crate::lane::{Lane, LaneError};
use crate::link::frame::Frame;
use crate::link::tlv::{Accept, Code, Hello, Id, Refuse, VERSION, Want};

/// For one address to take a TCP connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// For the far gateway to answer HELLO; it may be waiting for its Redis.
const ANSWER_DEADLINE: Duration = Duration::from_secs(6);

/// For all addresses of all peers together.
const DIAL_DEADLINE: Duration = Duration::from_secs(12);

/// Connections to one address to find the one gateway, of several behind it, that
/// carries a replica's other connection.
const BEHIND_ONE: usize = 4;

/// Addresses of one site that are tried.
pub(super) const MAX_ADDRESSES: usize = 32;

/// Why a lane was not to be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The far gateway said no.
    #[error("refused: {}", crate::escape::shown(.0.why.text.as_bytes()))]
    Refused(Refuse),
    /// Anything before that.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// Whether the gateway that answered does not have the link.
    pub(super) fn is_unknown_link(&self) -> bool {
        matches!(self, Self::Refused(refuse) if refuse.why.code == Code::UnknownLink)
    }

    /// Whether the gateway that answered is not the one that was asked for.
    fn is_other_instance(&self) -> bool {
        matches!(self, Self::Refused(refuse) if refuse.why.code == Code::WrongInstance)
    }
}

/// Asks the far site about a master without opening a link.
pub async fn probe(shared: &Shared, replica: &Replica) -> Result<(SocketAddr, Accept), String> {
    let (lane, accept) = reach(shared, replica, |_| Want::Probe { master: replica.master.clone() }).await?;
    let peer = lane.peer();
    let _ = timeout(Duration::from_secs(1), lane.close()).await;
    Ok((peer, accept))
}

/// Tries every address of every peer in order until one accepts; while other links of
/// this replica entry are carried, their way comes first, and their gateway before any
/// other.
pub(super) async fn reach(
    shared: &Shared,
    replica: &Replica,
    want: impl Fn(Option<Id>) -> Want,
) -> Result<(Lane, Accept), String> {
    let mut failures = Vec::new();
    let tried = timeout(DIAL_DEADLINE, async {
        let sibling = shared.registry.sibling(&replica.name);
        let instance = sibling.map(|(_, instance)| instance);
        // Where another gateway answers: the last resort.
        let mut elsewhere = Vec::new();
        if let Some((address, instance)) = sibling {
            for _ in 0..BEHIND_ONE {
                match open(shared, replica, address, want(Some(instance))).await {
                    Ok(reached) => return Some(reached),
                    Err(error) if error.is_other_instance() => elsewhere = vec![address],
                    Err(error) => {
                        failures.push(format!("{address}: {error}"));
                        break;
                    }
                }
            }
        }
        for peer in &replica.peers {
            let addresses =
                match timeout(CONNECT_DEADLINE, lookup_host((peer.host.as_str(), peer.port))).await {
                    Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
                    Ok(Err(error)) => {
                        failures.push(format!("{peer}: cannot be resolved: {error}"));
                        continue;
                    }
                    Err(_) => {
                        failures.push(format!("{peer}: the name was not resolved in time"));
                        continue;
                    }
                };
            for address in addresses {
                if sibling.is_some_and(|(tried, _)| tried == address) {
                    continue;
                }
                match open(shared, replica, address, want(instance)).await {
                    Ok(reached) => return Some(reached),
                    Err(error) if error.is_other_instance() => elsewhere.push(address),
                    Err(error) => failures.push(format!("{peer}: {error}")),
                }
            }
        }
        for address in elsewhere {
            match open(shared, replica, address, want(None)).await {
                Ok(reached) => return Some(reached),
                Err(error) => failures.push(format!("{address}: {error}")),
            }
        }
        None
    })
    .await;
    match tried {
        Ok(Some(reached)) => Ok(reached),
        Ok(None) => Err(failures.join("; ")),
        Err(_) => {
            failures.push(format!(
                "no gateway of {} answered within {} s",
                replica.site,
                DIAL_DEADLINE.as_secs()
            ));
            Err(failures.join("; "))
        }
    }
}

/// One lane to one address, accepted in so many words.
pub(super) async fn open(
    shared: &Shared,
    replica: &Replica,
    address: SocketAddr,
    want: Want,
) -> Result<(Lane, Accept), Failure> {
    let other = |text: &str| Failure::Other(text.to_owned());
    let _turn = shared.dials.acquire().await.map_err(|_| other("the gateway stops"))?;
    let socket = match timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Err(Failure::Other(error.to_string())),
        Err(_) => {
            return Err(Failure::Other(format!("no answer within {} s", CONNECT_DEADLINE.as_secs())));
        }
    };
    tune(&socket);
    congestion(shared, &socket, &replica.link.congestion);
    let tls = shared.tls.now();
    let ours = &tls.material.leaf;
    let Some(dial) = tls.dial(&replica.site) else {
        return Err(Failure::Other(format!("no TLS is set up towards {}", replica.site)));
    };
    let mut lane = match timeout(HELLO_DEADLINE, Lane::dial(socket, dial, ours)).await {
        Ok(lane) => lane.map_err(|error| Failure::Other(error.to_string()))?,
        Err(_) => {
            return Err(other(
                "TCP connects, but TLS gets no answer: is a gateway on that port, or a plain Redis? Or large packets are lost on the way (MTU): ping -M do -s 1400 tells",
            ));
        }
    };
    let hello =
        Hello { version: VERSION, identity: shared.identity(), want, terms: dialling_terms(&replica.link) };
    let answer = timeout(ANSWER_DEADLINE, async {
        lane.send(&Frame::Hello(hello)).await?;
        lane.receive(ours).await
    })
    .await;
    match answer {
        Ok(Ok(Frame::Accept(accept))) if !accept.identity.site.eq_ignore_ascii_case(&replica.site) => {
            Err(Failure::Other(format!(
                "its certificate is good for {}, but it calls itself {}",
                replica.site,
                crate::escape::shown(accept.identity.site.as_bytes())
            )))
        }
        Ok(Ok(Frame::Accept(accept))) => {
            if accept.terms.lanes.min(replica.link.lanes) > 1 {
                lane.share();
            }
            Ok((lane, accept))
        }
        Ok(Ok(Frame::Refuse(refuse))) => Err(Failure::Refused(refuse)),
        Ok(Ok(_)) => Err(Failure::Other(LaneError::Unexpected.to_string())),
        Ok(Err(error)) => Err(Failure::Other(error.to_string())),
        Err(_) => Err(Failure::Other(format!(
            "the far gateway did not answer within {} s",
            ANSWER_DEADLINE.as_secs()
        ))),
    }
}

/// Every address that the peers' names stand for now, for as many as are known.
pub(super) async fn addresses(replica: &Replica, known: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for peer in &replica.peers {
        let resolved = timeout(CONNECT_DEADLINE, lookup_host((peer.host.as_str(), peer.port))).await;
        if let Ok(Ok(addresses)) = resolved {
            found.extend(addresses);
        }
    }
    if found.is_empty() { known } else { found }
}
