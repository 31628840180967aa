//! The fields inside HELLO, ACCEPT, REFUSE and the frames that end a link.
//!
//! A field is a tag (`u16`), a length (`u16`) and that many bytes, all
//! big-endian. A tag with its highest bit set is critical: who does not know it
//! must refuse. Any other unknown tag is skipped, so that neighbouring releases
//! work together. A known tag counts once.

use std::time::Duration;

/// The version of the protocol that this build speaks.
pub const VERSION: u16 = 1;

/// The longest text that is taken from the far side, in bytes.
pub const MAX_TEXT: usize = 200;

/// The most lanes that one link may have.
pub const MAX_LANES: u8 = 16;

/// In [`Terms::compression`]: blocks of zstd.
pub const ZSTD: u8 = 1;

/// Lanes that an ATTACH may list: those on their way out are among them.
const MAX_ALIVE: usize = 32;

const CRITICAL: u16 = 0x8000;

const T_VERSION: u16 = CRITICAL | 1;
const T_SITE: u16 = CRITICAL | 2;
const T_NEW: u16 = CRITICAL | 3;
const T_ATTACH: u16 = CRITICAL | 4;
const T_PROBE: u16 = CRITICAL | 5;
const T_NODE: u16 = 6;
const T_INSTANCE: u16 = CRITICAL | 7;
const T_CLOCK: u16 = 8;
const T_TERMS: u16 = CRITICAL | 9;
const T_SIBLING: u16 = CRITICAL | 10;
const T_LINK: u16 = CRITICAL | 11;
const T_RECEIVED: u16 = CRITICAL | 12;
const T_PLAIN: u16 = CRITICAL | 13;
const T_CODE: u16 = 14;
const T_TEXT: u16 = 15;

/// A field that cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The content ends inside a field.
    #[error("a field is cut short")]
    Short,
    /// A critical tag of a later release.
    #[error("unknown critical field {0:#06x}")]
    Unknown(u16),
    /// A tag that came twice.
    #[error("field {0:#06x} came twice")]
    Twice(u16),
    /// A value outside what the tag allows.
    #[error("field {0:#06x} has an impossible value")]
    Value(u16),
    /// A field that must be there.
    #[error("field {0:#06x} is missing")]
    Missing(u16),
}

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

/// Never shows the bytes: a link's identifier is what lets a lane attach to it.
impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Id(..)")
    }
}

/// What a gateway states of itself; what holds for a link follows from both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Unacknowledged bytes it allows each way; the smaller of both holds.
    pub window: u64,
    /// Largest DATA payload it takes.
    pub max_frame: u32,
    /// Pause after which it says something.
    pub heartbeat: Duration,
    /// Silence after which it judges a lane dead.
    pub dead_after: Duration,
    /// How long a link outlives its last lane; the smaller of both holds.
    pub hold: Duration,
    /// Lanes it takes for one link, 1 to [`MAX_LANES`].
    pub lanes: u8,
    /// Compressions it can undo, as bits; 0 is none.
    pub compression: u8,
}

/// Who a gateway is: carried by HELLO and ACCEPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The site it claims; its certificate must carry it.
    pub site: String,
    /// Its host's name, for people.
    pub node: String,
    /// This process, new at each start.
    pub instance: Id,
    /// Its wall clock, milliseconds since 1970.
    pub clock: u64,
}

/// What the dialler wants of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// A new link.
    New {
        /// The name of the master.
        master: String,
        /// The acceptor's instance that carries the replica's other connection,
        /// where there is one.
        sibling: Option<Id>,
    },
    /// To carry a link that exists.
    Attach {
        /// The link.
        link: Id,
        /// The number of this lane; only grows.
        lane: u32,
        /// The lanes that the dialler thinks alive.
        alive: Vec<u32>,
        /// The dialler's received offset.
        received: u64,
    },
    /// Only to ask whether a new link would be accepted.
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
    /// What for.
    pub want: Want,
    /// On what terms.
    pub terms: Terms,
}

/// The acceptor's yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Protocol version.
    pub version: u16,
    /// Who accepts.
    pub identity: Identity,
    /// On what terms.
    pub terms: Terms,
    /// The link that the lane now carries; none for a probe.
    pub link: Option<Id>,
    /// The acceptor's received offset, for a lane that attaches.
    pub received: u64,
    /// Whether the far `[[master]]` takes any command: a plain tunnel.
    pub plain: bool,
}

/// The acceptor's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// The reason.
    pub why: Why,
    /// The acceptor's wall clock, milliseconds since 1970.
    pub clock: Option<u64>,
}

/// A reason, as a number for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// What programs branch on.
    pub code: Code,
    /// At most [`MAX_TEXT`] bytes; the far side's words are data, escape them
    /// before they are shown.
    pub text: String,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)+) => {
        /// Reasons to refuse or to end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $name,)+
            /// A number of a later release.
            Other(u16),
        }

        impl Code {
            fn number(self) -> u16 {
                match self {
                    $(Self::$name => $number,)+
                    Self::Other(number) => number,
                }
            }

            fn of(number: u16) -> Self {
                match number {
                    $($number => Self::$name,)+
                    other => Self::Other(other),
                }
            }
        }
    };
}

codes! {
    /// The master closed its connection.
    MasterClosed = 1,
    /// The replica closed its connection.
    ReplicaClosed = 2,
    /// The gateway stops as planned.
    Stopping = 3,
    /// The other side broke the protocol.
    Protocol = 4,
    /// A command that is no part of replication.
    CommandRefused = 5,
    /// A wait on a peer ran out.
    TimedOut = 6,
    /// Both directions of a plain tunnel ended.
    Finished = 7,
    /// No such master, or not for this site.
    NotAvailable = 16,
    /// The certificate does not carry the claimed site.
    SiteMismatch = 17,
    /// The master's Redis cannot be reached from its gateway.
    RedisDown = 18,
    /// A limit of the acceptor is reached.
    Limit = 19,
    /// No such link here.
    UnknownLink = 20,
    /// No common protocol version, or a HELLO that is not understood.
    Version = 21,
    /// The two connections of one sync would reach different gateways.
    WrongInstance = 22,
    /// The link that a lane asks for has ended.
    LinkEnded = 23,
    /// A newer lane of the link was accepted before.
    OldLane = 24,
    /// The link can take no other lane before its sync has begun.
    NotYet = 25,
    /// Another process of the same gateway has taken over.
    Superseded = 26,
}

impl Why {
    /// A reason; the text is cut at [`MAX_TEXT`] bytes.
    pub fn new(code: Code, text: &str) -> Self {
        Self { code, text: cut(text).to_owned() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.put(T_CODE, &self.code.number().to_be_bytes());
        out.put(T_TEXT, self.text.as_bytes());
        out.0
    }

    pub(super) fn decode(content: &[u8]) -> Result<Self, FieldError> {
        let (mut code, mut text) = (Code::Other(0), String::new());
        fields(content, |tag, value| {
            match tag {
                T_CODE => code = Code::of(u16::from_be_bytes(fixed(tag, value)?)),
                T_TEXT => text = cut_text(value),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self { code, text })
    }
}

impl Terms {
    fn encode(&self) -> Vec<u8> {
        let mut out = self.window.to_be_bytes().to_vec();
        out.extend(self.max_frame.to_be_bytes());
        for time in [self.heartbeat, self.dead_after, self.hold] {
            out.extend(u32::try_from(time.as_millis()).unwrap_or(u32::MAX).to_be_bytes());
        }
        out.extend([self.lanes, self.compression]);
        out
    }

    /// A later release may append to the terms; what is known stays in front.
    fn decode(tag: u16, value: &[u8]) -> Result<Self, FieldError> {
        let (known, _) = value.split_at_checked(26).ok_or(FieldError::Value(tag))?;
        let u32_at = |at: usize| u32::from_be_bytes(known[at..at + 4].try_into().expect("four bytes"));
        let millis = |at: usize| Duration::from_millis(u64::from(u32_at(at)));
        let terms = Self {
            window: u64::from_be_bytes(known[..8].try_into().expect("eight bytes")),
            max_frame: u32_at(8),
            heartbeat: millis(12),
            dead_after: millis(16),
            hold: millis(20),
            lanes: known[24],
            compression: known[25],
        };
        let sane = terms.window >= 64 * 1024
            && terms.max_frame >= 1024
            && terms.heartbeat >= Duration::from_millis(10)
            && terms.dead_after >= Duration::from_millis(100)
            && (1..=MAX_LANES).contains(&terms.lanes);
        if sane { Ok(terms) } else { Err(FieldError::Value(tag)) }
    }
}

impl Identity {
    fn encode(&self, out: &mut Writer) {
        out.put(T_SITE, self.site.as_bytes());
        out.put(T_NODE, self.node.as_bytes());
        out.put(T_INSTANCE, &self.instance.0);
        out.put(T_CLOCK, &self.clock.to_be_bytes());
    }
}

/// The fields of an [`Identity`] and of [`Terms`] as they are met.
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
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.put(T_VERSION, &self.version.to_be_bytes());
        self.identity.encode(&mut out);
        match &self.want {
            Want::New { master, sibling } => {
                out.put(T_NEW, master.as_bytes());
                if let Some(sibling) = sibling {
                    out.put(T_SIBLING, &sibling.0);
                }
            }
            Want::Attach { link, lane, alive, received } => {
                let mut value = link.0.to_vec();
                value.extend(lane.to_be_bytes());
                value.extend(received.to_be_bytes());
                value.extend(alive.iter().flat_map(|lane| lane.to_be_bytes()));
                out.put(T_ATTACH, &value);
            }
            Want::Probe { master } => out.put(T_PROBE, master.as_bytes()),
        }
        out.put(T_TERMS, &self.terms.encode());
        out.0
    }

    pub(super) fn decode(content: &[u8]) -> Result<Self, FieldError> {
        let mut common = Common::default();
        let (mut want, mut sibling) = (None, None);
        fields(content, |tag, value| {
            match tag {
                T_NEW | T_ATTACH | T_PROBE if want.is_some() => return Err(FieldError::Twice(tag)),
                T_NEW => want = Some(Want::New { master: name(tag, value)?, sibling: None }),
                T_PROBE => want = Some(Want::Probe { master: name(tag, value)? }),
                T_ATTACH => want = Some(attach(value)?),
                T_SIBLING => sibling = Some(Id(fixed(tag, value)?)),
                _ => return common.take(tag, value),
            }
            Ok(true)
        })?;
        let mut want = want.ok_or(FieldError::Missing(T_NEW))?;
        if let Want::New { sibling: place, .. } = &mut want {
            *place = sibling;
        }
        let (version, identity, terms) = common.finish()?;
        Ok(Self { version, identity, want, terms })
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
            want: Want::Attach { link: Id([4; 16]), lane: 3, alive: vec![1, 2], received: 77 },
            terms: Terms::sample(),
        }
    }
}

impl Terms {
    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        Self {
            window: 1 << 20,
            max_frame: 262_128,
            heartbeat: Duration::from_secs(1),
            dead_after: Duration::from_secs(3),
            hold: Duration::ZERO,
            lanes: 1,
            compression: 0,
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
        out.0
    }

    pub(super) fn decode(content: &[u8]) -> Result<Self, FieldError> {
        let mut common = Common::default();
        let (mut link, mut received, mut plain) = (None, 0, false);
        fields(content, |tag, value| {
            match tag {
                T_LINK => link = Some(Id(fixed(tag, value)?)),
                T_RECEIVED => received = u64::from_be_bytes(fixed(tag, value)?),
                T_PLAIN => plain = true,
                _ => return common.take(tag, value),
            }
            Ok(true)
        })?;
        let (version, identity, terms) = common.finish()?;
        Ok(Self { version, identity, terms, link, received, plain })
    }

    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        let Hello { version, identity, terms, .. } = Hello::sample();
        Self { version, identity, terms, link: Some(Id([9; 16])), received: 5, plain: true }
    }
}

impl Refuse {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(self.why.encode());
        if let Some(clock) = self.clock {
            out.put(T_CLOCK, &clock.to_be_bytes());
        }
        out.0
    }

    pub(super) fn decode(content: &[u8]) -> Result<Self, FieldError> {
        let why = Why::decode(content)?;
        let mut clock = None;
        fields(content, |tag, value| {
            match tag {
                T_CLOCK => clock = Some(u64::from_be_bytes(fixed(tag, value)?)),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self { why, clock })
    }
}

fn attach(value: &[u8]) -> Result<Want, FieldError> {
    let wrong = FieldError::Value(T_ATTACH);
    let (head, lanes) = value.split_at_checked(28).ok_or(wrong.clone())?;
    if lanes.len() % 4 != 0 || lanes.len() / 4 > MAX_ALIVE {
        return Err(wrong);
    }
    Ok(Want::Attach {
        link: Id(head[..16].try_into().expect("sixteen bytes")),
        lane: u32::from_be_bytes(head[16..20].try_into().expect("four bytes")),
        received: u64::from_be_bytes(head[20..28].try_into().expect("eight bytes")),
        alive: lanes
            .chunks_exact(4)
            .map(|lane| u32::from_be_bytes(lane.try_into().expect("four bytes")))
            .collect(),
    })
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn put(&mut self, tag: u16, value: &[u8]) {
        let length = u16::try_from(value.len()).expect("fields are small");
        self.0.extend(tag.to_be_bytes());
        self.0.extend(length.to_be_bytes());
        self.0.extend(value);
    }
}

/// Calls `take` with each field; `take` answers whether it knows the tag.
fn fields(
    mut content: &[u8],
    mut take: impl FnMut(u16, &[u8]) -> Result<bool, FieldError>,
) -> Result<(), FieldError> {
    let mut seen = Vec::new();
    while !content.is_empty() {
        let (head, rest) = content.split_at_checked(4).ok_or(FieldError::Short)?;
        let tag = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (value, rest) = rest.split_at_checked(length).ok_or(FieldError::Short)?;
        if seen.contains(&tag) {
            return Err(FieldError::Twice(tag));
        }
        if take(tag, value)? {
            seen.push(tag);
        } else if tag & CRITICAL != 0 {
            return Err(FieldError::Unknown(tag));
        }
        content = rest;
    }
    Ok(())
}

fn fixed<const N: usize>(tag: u16, value: &[u8]) -> Result<[u8; N], FieldError> {
    value.try_into().map_err(|_| FieldError::Value(tag))
}

/// A site's or a master's name: 1 to 253 printable ASCII bytes without spaces.
fn name(tag: u16, value: &[u8]) -> Result<String, FieldError> {
    let good = (1..=253).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
    if good { Ok(String::from_utf8_lossy(value).into_owned()) } else { Err(FieldError::Value(tag)) }
}

/// At most [`MAX_TEXT`] bytes of `text`, cut on a whole character.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn cut_text(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(&value[..value.len().min(MAX_TEXT)]);
    cut(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_comes_back_as_it_went() {
        let mut hello = Hello::sample();
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello.clone()));
        hello.want = Want::New { master: "orders".into(), sibling: Some(Id([1; 16])) };
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello.clone()));
        hello.want = Want::Probe { master: "orders".into() };
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        assert_eq!(Accept::decode(&Accept::sample().encode()), Ok(Accept::sample()));
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
    fn texts_are_cut_at_their_limit_on_a_whole_character() {
        assert_eq!(Why::new(Code::Protocol, &"é".repeat(150)).text.len(), 200);
        let long = Why { code: Code::Protocol, text: "x".repeat(4000) };
        assert_eq!(Why::decode(&long.encode()).unwrap().text.len(), 200);
    }

    #[test]
    fn an_id_is_never_shown() {
        assert_eq!(format!("{:?}", Id([7; 16])), "Id(..)");
    }
}
