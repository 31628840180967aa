//! Parses durations, sizes, addresses and networks as the config writes them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Reads `250ms`, `10s`, `5m`, `2h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?} is not a duration; write one like \"10s\" or \"250ms\""))?;
    let factor = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} has no known unit; write ms, s, m or h, as in \"10s\"")),
    };
    Duration::try_from_secs_f64(number * factor)
        .ok()
        .filter(|time| *time <= Duration::from_secs(86_400))
        .ok_or_else(|| format!("{text:?} is not between 0 and a day"))
}

/// Reads `64MiB`, `512KiB`, `1GiB` or `1000B` as bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let number: u64 =
        number.parse().map_err(|_| format!("{text:?} is not a size; write one like \"64MiB\""))?;
    let factor = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => {
            return Err(format!("{text:?} has no known unit; write B, KiB, MiB or GiB, as in \"64MiB\""));
        }
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"))
}

/// Reads a share of `whole`, as in `25%`, or a size. The result is in bytes, and at least 16 MiB.
pub fn memory(text: &str, whole: u64) -> Result<u64, String> {
    const LEAST: u64 = 16 << 20;
    match split(text) {
        (percent, "%") => match percent.parse::<u64>() {
            Ok(percent @ 1..=90) => Ok((whole / 100).saturating_mul(percent).max(LEAST)),
            _ => Err(format!(
                "{text:?} is not a share of the memory; write a whole number from \"1%\" to \"90%\""
            )),
        },
        _ => match size(text) {
            Ok(size) if size < LEAST => Err(format!("{text:?} is too little; write \"16MiB\" or more")),
            Ok(size) => Ok(size),
            Err(fault) => Err(format!("{fault}, or a share like \"25%\"")),
        },
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    (&text[..at], text[at..].trim())
}

/// A host name or address with a port; a name is resolved again at each use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Name or IP address, without brackets.
    pub host: String,
    /// Port, never 0.
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads `host:port` or `[v6]:port`.
pub fn address(text: &str) -> Result<Address, String> {
    let wrong = || format!("{text:?} is not an address; write \"host:port\", or \"[address]:port\" for IPv6");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().map_err(|_| wrong())?.to_canonical().to_string(),
        None if host.is_empty() || host.contains([':', '[', ']', '/']) => return Err(wrong()),
        // It is shown as it is.
        None if !host.bytes().all(|letter| letter.is_ascii_graphic()) => return Err(wrong()),
        None => host.to_owned(),
    };
    let port: u16 = port.parse().map_err(|_| wrong())?;
    if port == 0 { Err(wrong()) } else { Ok(Address { host, port }) }
}

/// Reads the address of a listener: an IP address and a port. An IPv4 address in IPv6 form becomes
/// the IPv4 address.
pub fn listener(text: &str) -> Result<SocketAddr, String> {
    let plain = |address: SocketAddr| match address.ip().to_canonical() {
        v4 @ IpAddr::V4(_) => SocketAddr::new(v4, address.port()),
        // IPv6 keeps its scope.
        IpAddr::V6(_) => address,
    };
    text.parse().ok().map(plain).filter(|address: &SocketAddr| address.port() != 0).ok_or_else(|| format!("{text:?} is not an address to listen on; write \"ip:port\", as in \"127.0.0.1:6390\" or \"[::1]:6390\""))
}

/// Where a listener is. In JSON it is written as in the config.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ListenAddress {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// The file of a Unix socket.
    Unix(PathBuf),
}

/// What stands before the path of a Unix socket.
const UNIX: &str = "unix:";

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        listen_address(&text)
    }
}

/// Reads `ip:port`, or `unix:` and the path of a socket.
pub fn listen_address(text: &str) -> Result<ListenAddress, String> {
    match text.strip_prefix(UNIX) {
        Some(path) if path.is_empty() || path.ends_with('/') || path.contains('\0') => Err(format!(
            "{text:?} names no file; write \"unix:PATH\", as in \"unix:/run/replgate/admin.sock\""
        )),
        Some(path) => Ok(ListenAddress::Unix(path.into())),
        None => listener(text)
            .map(ListenAddress::Ip)
            .map_err(|fault| format!("{fault}, or \"unix:PATH\" for a Unix socket")),
    }
}

/// An address range such as `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u32,
}

impl Network {
    /// The loopback ranges of IPv4 and IPv6.
    pub fn loopback() -> Vec<Self> {
        ["127.0.0.0/8", "::1/128"].iter().map(|text| network(text).expect("these are networks")).collect()
    }

    /// Whether `address` is in the range; an IPv4 address in IPv6 form counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                (base.to_bits() ^ address.to_bits()).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                (base.to_bits() ^ address.to_bits()).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Number of bits before the IPv4 address in an IPv4-mapped IPv6 address.
const MAPPED: u32 = 96;

/// Reads a [`Network`]. A range of IPv4 addresses in IPv6 form becomes a range of IPv4 addresses,
/// since addresses are compared as IPv4.
pub fn network(text: &str) -> Result<Network, String> {
    let wrong = || format!("{text:?} is not a network; write \"10.1.0.0/16\" or one address");
    let (base, bits) = text.split_once('/').map_or((text, None), |(base, bits)| (base, Some(bits)));
    let base: IpAddr = base.parse().map_err(|_| wrong())?;
    let most = if base.is_ipv4() { 32 } else { 128 };
    let bits: u32 = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| wrong()))?;
    if bits > most {
        return Err(wrong());
    }
    match base.to_canonical() {
        v4 @ IpAddr::V4(_) if base.is_ipv6() => match bits.checked_sub(MAPPED) {
            Some(bits) => Ok(Network { base: v4, bits }),
            None => Err(format!(
                "{text:?} would hold every IPv4 address and more; write \"0.0.0.0/0\" for all of IPv4, or a part of it, as in \"10.0.0.0/8\""
            )),
        },
        base => Ok(Network { base, bits }),
    }
}

/// Reads the name of a master, a replica entry or a host: letters, digits, `-`, `_` and `.`.
pub fn name(text: &str) -> Result<String, String> {
    let good = (1..=253).contains(&text.len())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter));
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a name; use letters, digits, \"-\", \"_\" and \".\""))
    }
}

/// Whether a text is one part of a DNS name.
pub fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_')
}

/// Reads a site's name: a DNS name without a wildcard. Its last part must not be a number, not even
/// a hexadecimal one: many programs take such a name for an IP address.
pub fn site(text: &str) -> Result<String, String> {
    if text.contains('*') {
        return Err(format!("{text:?}: a site is one exact name, wildcards are not understood"));
    }
    if text.len() > 253 || !text.split('.').all(is_label) {
        return Err(format!(
            "{text:?} is not a site's name: it must be a DNS name such as \"dc1\" or \"gw.dc1.example\""
        ));
    }
    let last = text.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let is_number = last.chars().all(|letter| letter.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|digits| digits.chars().all(|digit| digit.is_ascii_hexdigit()));
    if is_number {
        return Err(format!(
            "{text:?} is not a site's name: its last part is a number, so that Redis and Sentinel would take it for an address; add a word, as in \"{text}.example\""
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        for wrong in ["10", "s", "-1s", "10 weeks", "", "9999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["64", "64MB", "1.5MiB", "99999999999GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn memory_is_a_share_or_a_size() {
        assert_eq!(memory("25%", 8 << 30), Ok((8u64 << 30) / 100 * 25));
        assert_eq!(memory("1%", 100 << 20), Ok(16 << 20));
        assert_eq!(memory("512MiB", 0), Ok(512 << 20));
        for wrong in ["0%", "91%", "2.5%", "%", "-1%", "16", "15MiB", "much"] {
            assert!(memory(wrong, 8 << 30).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_may_be_names_or_v6() {
        assert_eq!(address("gw.dc1.example:7379").unwrap().to_string(), "gw.dc1.example:7379");
        assert_eq!(address("[::1]:7379").unwrap().to_string(), "[::1]:7379");
        for wrong in ["gw", "gw:", ":7379", "::1:7379", "gw:0", "gw:99999", "http://gw:80"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_contain_what_they_say() {
        let net = network("10.1.0.0/16").unwrap();
        assert!(net.contains("10.1.255.1".parse().unwrap()) && !net.contains("10.2.0.1".parse().unwrap()));
        assert!(net.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(network("0.0.0.0/0").unwrap().contains("8.8.8.8".parse().unwrap()));
        assert!(network("::1").unwrap().contains("::1".parse().unwrap()));
        assert!(network("10.0.0.0/33").is_err() && network("host").is_err());
    }

    #[test]
    fn an_ipv4_address_in_ipv6_form_is_the_ipv4_address() {
        for (mapped, plain) in [
            ("::ffff:127.0.0.2/128", "127.0.0.2/32"),
            ("::ffff:127.0.0.2", "127.0.0.2"),
            ("::ffff:10.1.0.0/112", "10.1.0.0/16"),
            ("::ffff:a01:0/112", "10.1.0.0/16"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(network(mapped), network(plain), "{mapped}");
            let inside = plain.split('/').next().unwrap();
            for form in [inside.to_owned(), format!("::ffff:{inside}")] {
                assert!(network(mapped).unwrap().contains(form.parse().unwrap()), "{mapped} {form}");
            }
        }
        assert!(!network("::ffff:127.0.0.2/128").unwrap().contains("127.0.0.3".parse().unwrap()));
        for short in ["::ffff:0:0/90", "::ffff:10.0.0.0/95", "::ffff:10.0.0.0/8"] {
            assert!(network(short).unwrap_err().contains("write \"0.0.0.0/0\""), "{short}");
        }
        // An IPv6 network stays one, even that of all addresses.
        let all = network("::/0").unwrap();
        assert!(all.contains("2001:db8::1".parse().unwrap()) && !all.contains("10.0.0.1".parse().unwrap()));
        assert!(!network("::7f00:2").unwrap().contains("127.0.0.2".parse().unwrap()));
        assert_eq!(listener("[::ffff:127.0.0.1]:6390"), listener("127.0.0.1:6390"));
        assert_eq!(listener("[fe80::1%7]:6390").unwrap().to_string(), "[fe80::1%7]:6390");
        assert_eq!(address("[::ffff:127.0.0.1]:6379"), address("127.0.0.1:6379"));
    }

    #[test]
    fn a_site_is_one_exact_dns_name() {
        assert!(site("dc1").is_ok() && site("gw.dc1.example").is_ok());
        for wrong in [
            "*.dc1",
            "",
            "dc1.",
            "-dc",
            "10.0.0.1",
            "dc 1",
            "dc1\n",
            "0x7f000001",
            "dc.0X1",
            "dc.0x",
            "\u{1}\0.0",
        ] {
            let fault = site(wrong).unwrap_err();
            assert!(!fault.contains(char::is_control), "{fault:?}");
        }
        assert!(site("dc.0xg").is_ok() && site("0x7f.dc1").is_ok());
    }
}
