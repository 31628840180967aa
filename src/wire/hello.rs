//! HELLO and its answers: who dials, for what, on which terms, and whether that is accepted.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};

use super::fields::{
    self, FieldError, T_ATTACH, T_BY, T_CLOCK, T_INSTANCE, T_KEY, T_LINK, T_NEW, T_NODE, T_OFFER, T_PLAIN,
    T_PROBE, T_RECEIVED, T_SIBLING, T_SITE, T_TERMS, T_VERSION, Writer, cut_text, fixed, name,
};
use super::offer::Offer;
use super::reason::Reason;
use super::terms::Terms;
use crate::lineage::Standing;

/// The version of the protocol that this build speaks.
pub const VERSION: u16 = 1;

/// Most lanes that an ATTACH may list. The list includes closing lanes and dials under way, so it
/// may be longer than [`super::terms::MAX_LANES`].
const MAX_ALIVE: usize = 32;

/// Sixteen random bytes that name a process or a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// A fresh random identifier.
    pub fn random() -> Self {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).expect("the system's random source works");
        Self(id)
    }
}

/// Never shows the bytes: whoever knows a link's identifier may attach a lane to it.
impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Id(..)")
    }
}

/// Tells the replicas of a site apart, as far as the dialling gateway can: with the port that a replica
/// listens on, it names one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaKey {
    /// A digest of what the gateway knows of the replica: its `[[replica]]` and its address.
    pub digest: [u8; 16],
    /// The replica is on the gateway's own host, so another gateway of the site would see another
    /// address.
    pub loopback: bool,
}

impl ReplicaKey {
    /// The key of a client of the `[[replica]]` named `entry`. For one on the host of the gateway itself,
    /// `node` stands for its address.
    pub fn new(entry: &str, client: IpAddr, node: &str) -> Self {
        let client = client.to_canonical();
        let loopback = client.is_loopback();
        let place = if loopback { node.to_owned() } else { client.to_string() };
        let whole = digest(&SHA256, [entry.as_bytes(), b"\0", place.as_bytes()].concat().as_slice());
        Self { digest: whole.as_ref()[..16].try_into().expect("it has 32 bytes"), loopback }
    }

    /// Whether two links with the same listening port may be those of one replica.
    pub fn may_be(&self, other: &Self) -> bool {
        self.digest == other.digest || self.loopback || other.loopback
    }
}

/// Who a gateway is: carried by HELLO and ACCEPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The site it claims; its certificate must carry it.
    pub site: String,
    /// Its host's name, to be shown to people.
    pub node: String,
    /// This process, new at each start.
    pub instance: Id,
    /// Its wall clock, milliseconds since 1970.
    pub clock: u64,
}

/// The purpose of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A new link.
    New {
        /// The name of the master.
        master: String,
        /// The acceptor's instance that carries the replica's other connection, if there is one.
        sibling: Option<Id>,
        /// The replica that the link is for. Earlier releases do not say it.
        replica: Option<ReplicaKey>,
    },
    /// To carry an existing link.
    Attach {
        /// The link.
        link: Id,
        /// The number of this lane; it only grows.
        lane: u32,
        /// The lanes that the dialler counts on.
        alive: Vec<u32>,
        /// The dialler's received offset.
        received: u64,
    },
    /// A question whether a new link would be accepted.
    Probe {
        /// The name of the master.
        master: String,
    },
}

/// First frame of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Protocol version.
    pub version: u16,
    /// Who dials.
    pub identity: Identity,
    /// Its purpose.
    pub request: Request,
    /// Its terms.
    pub terms: Terms,
}

/// The acceptor accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Protocol version.
    pub version: u16,
    /// Who accepts.
    pub identity: Identity,
    /// Its terms.
    pub terms: Terms,
    /// The link that the lane now carries; `None` for a probe.
    pub link: Option<Id>,
    /// The acceptor's received offset, for a lane that attaches.
    pub received: u64,
    /// Whether the far `[[master]]` accepts any command: a plain tunnel.
    pub plain: bool,
    /// The master that is offered, where the acceptor follows it. Earlier releases do not say it.
    pub offer: Option<Box<Offer>>,
}

/// The acceptor refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// The reason.
    pub reason: Reason,
    /// The acceptor's wall clock, milliseconds since 1970.
    pub clock: Option<u64>,
    /// Who refuses a lane that asks for a link: the acceptor's node and process.
    pub by: Option<(String, Id)>,
    /// Where the Redis stands that is there instead of a master, if that is known.
    pub standing: Option<Box<Standing>>,
}

impl Identity {
    fn encode(&self, out: &mut Writer) {
        out.put(T_SITE, self.site.as_bytes());
        out.put(T_NODE, self.node.as_bytes());
        out.put(T_INSTANCE, &self.instance.0);
        out.put(T_CLOCK, &self.clock.to_be_bytes());
    }
}

/// Collects the fields of an [`Identity`] and of [`Terms`].
#[derive(Default)]
struct Common {
    version: Option<u16>,
    site: Option<String>,
    node: String,
    instance: Option<Id>,
    clock: u64,
    terms: Option<Terms>,
}

impl Common {
    fn take(&mut self, tag: u16, value: &[u8]) -> Result<bool, FieldError> {
        match tag {
            T_VERSION => self.version = Some(u16::from_be_bytes(fixed(tag, value)?)),
            T_SITE => self.site = Some(name(tag, value)?),
            T_NODE => self.node = cut_text(value),
            T_INSTANCE => self.instance = Some(Id(fixed(tag, value)?)),
            T_CLOCK => self.clock = u64::from_be_bytes(fixed(tag, value)?),
            T_TERMS => self.terms = Some(Terms::decode(tag, value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn finish(self) -> Result<(u16, Identity, Terms), FieldError> {
        let identity = Identity {
            site: self.site.ok_or(FieldError::Missing(T_SITE))?,
            node: self.node,
            instance: self.instance.ok_or(FieldError::Missing(T_INSTANCE))?,
            clock: self.clock,
        };
        let version = self.version.ok_or(FieldError::Missing(T_VERSION))?;
        Ok((version, identity, self.terms.ok_or(FieldError::Missing(T_TERMS))?))
    }
}

impl Hello {
    /// The replica that a new link is for, if the dialler says it.
    pub fn replica(&self) -> Option<ReplicaKey> {
        match &self.request {
            Request::New { replica, .. } => *replica,
            Request::Attach { .. } | Request::Probe { .. } => None,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.put(T_VERSION, &self.version.to_be_bytes());
        self.identity.encode(&mut out);
        match &self.request {
            Request::New { master, sibling, replica } => {
                out.put(T_NEW, master.as_bytes());
                if let Some(sibling) = sibling {
                    out.put(T_SIBLING, &sibling.0);
                }
                if let Some(ReplicaKey { digest, loopback }) = replica {
                    out.put(T_KEY, &[&[u8::from(*loopback)], &digest[..]].concat());
                }
            }
            Request::Attach { link, lane, alive, received } => {
                let mut value = link.0.to_vec();
                value.extend(lane.to_be_bytes());
                value.extend(received.to_be_bytes());
                value.extend(alive.iter().flat_map(|lane| lane.to_be_bytes()));
                out.put(T_ATTACH, &value);
            }
            Request::Probe { master } => out.put(T_PROBE, master.as_bytes()),
        }
        out.put(T_TERMS, &self.terms.encode());
        out.0
    }

    pub(super) fn decode(content: &[u8]) -> Result<Self, FieldError> {
        let mut common = Common::default();
        let (mut request, mut sibling, mut replica) = (None, None, None);
        fields::read(content, |tag, value| {
            match tag {
                T_NEW | T_ATTACH | T_PROBE if request.is_some() => return Err(FieldError::Twice(tag)),
                T_NEW => {
                    let master = name(tag, value)?;
                    request = Some(Request::New { master, sibling: None, replica: None });
                }
                T_PROBE => request = Some(Request::Probe { master: name(tag, value)? }),
                T_ATTACH => request = Some(attach(value)?),
                T_SIBLING => sibling = Some(Id(fixed(tag, value)?)),
                T_KEY => {
                    let [flags, digest @ ..]: [u8; 17] = fixed(tag, value)?;
                    replica = Some(ReplicaKey { digest, loopback: flags & 1 != 0 });
                }
                _ => return common.take(tag, value),
            }
            Ok(true)
        })?;
        let mut request = request.ok_or(FieldError::Missing(T_NEW))?;
        if let Request::New { sibling: other, replica: key, .. } = &mut request {
            (*other, *key) = (sibling, replica);
        }
        let (version, identity, terms) = common.finish()?;
        Ok(Self { version, identity, request, terms })
    }

    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        Self {
            version: VERSION,
            identity: Identity {
                site: "dc2".into(),
                node: "host-2".into(),
                instance: Id([3; 16]),
                clock: 1_700_000_000_000,
            },
            request: Request::Attach { link: Id([4; 16]), lane: 3, alive: vec![1, 2], received: 77 },
            terms: Terms::sample(),
        }
    }
}

impl Accept {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.put(T_VERSION, &self.version.to_be_bytes());
        self.identity.encode(&mut out);
        out.put(T_TERMS, &self.terms.encode());
        if let Some(link) = &self.link {
            out.put(T_LINK, &link.0);
        }
        out.put(T_RECEIVED, &self.received.to_be_bytes());
        if self.plain {
            out.put(T_PLAIN, &[]);
        }
        if let Some(offer) = &self.offer {
            out.put(T_OFFER, &offer.encode());
        }
        out.0
    }

    pub(super) fn decode(content: &[u8]) -> Result<Self, FieldError> {
        let mut common = Common::default();
        let (mut link, mut received, mut plain, mut offer) = (None, 0, false, None);
        fields::read(content, |tag, value| {
            match tag {
                T_LINK => link = Some(Id(fixed(tag, value)?)),
                T_RECEIVED => received = u64::from_be_bytes(fixed(tag, value)?),
                T_PLAIN => plain = true,
                T_OFFER => offer = Some(Box::new(Offer::decode(value)?)),
                _ => return common.take(tag, value),
            }
            Ok(true)
        })?;
        let (version, identity, terms) = common.finish()?;
        Ok(Self { version, identity, terms, link, received, plain, offer })
    }

    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        let Hello { version, identity, terms, .. } = Hello::sample();
        let offer = Some(Box::new(Offer::sample()));
        Self { version, identity, terms, link: Some(Id([9; 16])), received: 5, plain: true, offer }
    }
}

impl Refuse {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(self.reason.encode());
        if let Some(clock) = self.clock {
            out.put(T_CLOCK, &clock.to_be_bytes());
        }
        if let Some((node, instance)) = &self.by {
            out.put(T_BY, &[&instance.0, node.as_bytes()].concat());
        }
        if let Some(standing) = &self.standing {
            out.put(T_OFFER, &Offer { standing: Standing::clone(standing) }.encode());
        }
        out.0
    }

    pub(super) fn decode(content: &[u8]) -> Result<Self, FieldError> {
        let reason = Reason::decode(content)?;
        let (mut clock, mut by, mut standing) = (None, None, None);
        fields::read(content, |tag, value| {
            match tag {
                T_CLOCK => clock = Some(u64::from_be_bytes(fixed(tag, value)?)),
                T_BY => {
                    let (instance, node) = value.split_first_chunk().ok_or(FieldError::Value(tag))?;
                    by = Some((cut_text(node), Id(*instance)));
                }
                T_OFFER => standing = Some(Box::new(Offer::decode(value)?.standing)),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self { reason, clock, by, standing })
    }
}

fn attach(value: &[u8]) -> Result<Request, FieldError> {
    let wrong = FieldError::Value(T_ATTACH);
    let (head, lanes) = value.split_at_checked(28).ok_or(wrong.clone())?;
    if lanes.len() % 4 != 0 || lanes.len() / 4 > MAX_ALIVE {
        return Err(wrong);
    }
    Ok(Request::Attach {
        link: Id(head[..16].try_into().expect("sixteen bytes")),
        lane: u32::from_be_bytes(head[16..20].try_into().expect("four bytes")),
        received: u64::from_be_bytes(head[20..28].try_into().expect("eight bytes")),
        alive: lanes
            .chunks_exact(4)
            .map(|lane| u32::from_be_bytes(lane.try_into().expect("four bytes")))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_decodes_to_what_was_encoded() {
        let mut hello = Hello::sample();
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello.clone()));
        let replica = Some(ReplicaKey { digest: [5; 16], loopback: true });
        hello.request = Request::New { master: "orders".into(), sibling: Some(Id([1; 16])), replica };
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello.clone()));
        hello.request = Request::Probe { master: "orders".into() };
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        assert_eq!(Accept::decode(&Accept::sample().encode()), Ok(Accept::sample()));
    }

    #[test]
    fn a_key_names_one_replica_whichever_gateway_of_its_site_it_uses() {
        let key =
            |entry: &str, client: &str, node: &str| ReplicaKey::new(entry, client.parse().unwrap(), node);
        let bravo = key("orders", "10.0.0.6", "gw1");
        assert_eq!(bravo, key("orders", "::ffff:10.0.0.6", "gw2"));
        assert!(
            !bravo.may_be(&key("orders", "10.0.0.7", "gw1"))
                && !bravo.may_be(&key("other", "10.0.0.6", "gw1"))
        );
        let local = key("orders", "127.0.0.1", "gw1");
        assert!(local != key("orders", "127.0.0.1", "gw2"));
        assert!(local.may_be(&bravo) && bravo.may_be(&local) && local.may_be(&key("orders", "::1", "gw2")));
    }

    #[test]
    fn unknown_optional_fields_are_skipped_and_critical_ones_refused() {
        let mut wire = Writer(Hello::sample().encode());
        wire.put(0x0777, b"later");
        assert_eq!(Hello::decode(&wire.0), Ok(Hello::sample()));
        wire.put(0x8777, b"later");
        assert_eq!(Hello::decode(&wire.0), Err(FieldError::Unknown(0x8777)));
    }

    #[test]
    fn a_field_that_comes_twice_or_is_cut_or_missing_is_refused() {
        let mut wire = Writer(Hello::sample().encode());
        wire.put(T_SITE, b"dc3");
        assert_eq!(Hello::decode(&wire.0), Err(FieldError::Twice(T_SITE)));
        let whole = Hello::sample().encode();
        for end in 0..whole.len() {
            assert!(Hello::decode(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn names_with_control_bytes_and_terms_that_cannot_work_are_refused() {
        let mut hello = Hello::sample();
        hello.identity.site = "dc2\x1b[31m".into();
        assert_eq!(Hello::decode(&hello.encode()), Err(FieldError::Value(T_SITE)));
        let mut hello = Hello::sample();
        hello.terms.lanes = 17;
        assert_eq!(Hello::decode(&hello.encode()), Err(FieldError::Value(T_TERMS)));
    }

    #[test]
    fn an_id_is_never_shown() {
        assert_eq!(format!("{:?}", Id([7; 16])), "Id(..)");
    }
}
