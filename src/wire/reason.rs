//! Reasons: why a lane is refused or a link ends, as a number and a sentence.

use super::fields::{self, FieldError, T_CODE, T_TEXT, Writer, cut, cut_text, fixed};

/// A reason, as a number for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What programs branch on.
    pub code: ReasonCode,
    /// At most [`fields::MAX_TEXT`] bytes. Text from the far side must be escaped before it is
    /// shown.
    pub text: String,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)+) => {
        /// Reasons to refuse or to end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ReasonCode {
            $($(#[$doc])* $name,)+
            /// A number of a later release.
            Other(u16),
        }

        impl ReasonCode {
            /// Every reason with its number, as the specification lists them.
            #[cfg(test)]
            const ALL: &[(u16, &str)] = &[$(($number, stringify!($name)),)+];

            /// Its name in the specification, for the log.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                    Self::Other(_) => "Other",
                }
            }

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
    /// A command that is not part of replication.
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
    /// No common protocol version, or a HELLO that cannot be read.
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
    /// The acceptor's revocation list of the certificate's issuer is stale.
    ListStale = 27,
    /// It is not known here which Redis is the master, or another one is now.
    NoMaster = 28,
}

impl Reason {
    /// A reason; the text is cut at [`fields::MAX_TEXT`] bytes.
    pub fn new(code: ReasonCode, text: &str) -> Self {
        Self { code, text: cut(text).to_owned() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.put(T_CODE, &self.code.number().to_be_bytes());
        out.put(T_TEXT, self.text.as_bytes());
        out.0
    }

    pub(super) fn decode(content: &[u8]) -> Result<Self, FieldError> {
        let (mut code, mut text) = (ReasonCode::Other(0), String::new());
        fields::read(content, |tag, value| {
            match tag {
                T_CODE => code = ReasonCode::of(u16::from_be_bytes(fixed(tag, value)?)),
                T_TEXT => text = cut_text(value),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self { code, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specification_lists_every_reason() {
        let specified = include_str!("../../docs/protocol.md");
        for (number, name) in ReasonCode::ALL {
            assert!(specified.contains(&format!("| {number} | {name} |")), "{number} {name}");
        }
    }

    #[test]
    fn texts_are_cut_at_their_limit_on_a_whole_character() {
        assert_eq!(Reason::new(ReasonCode::Protocol, &"é".repeat(150)).text.len(), 200);
        let long = Reason { code: ReasonCode::Protocol, text: "x".repeat(4000) };
        assert_eq!(Reason::decode(&long.encode()).unwrap().text.len(), 200);
    }
}
