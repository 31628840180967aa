//! Fuzzes the config parser with ASCII text, in which any other byte stands for a longer piece of a
//! config, and a form feed begins the next included file.
//!
//! Any text is either validated or has faults. A fault is one printable line with a place inside
//! its file, apart from the few that are about the file as a whole. A valid config has the
//! properties that the gateway relies on, and is the same when it is read again.

#![no_main]

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use libfuzzer_sys::{Corpus, fuzz_target};
use replgate::internal::config::{Config, Follow, LinkSettings, Master, Source};
use replgate::internal::units::ListenAddress;

/// Faults that have no place: of a file that lacks something, and of one that is nested too deep.
const OF_THE_WHOLE: [&str; 3] = ["[tls] is missing: ", "nothing to do: ", "recursion limit"];

/// Characters that are not control characters and must not be shown either: they have no width, or
/// change the direction of the text.
const UNSEEN: [RangeInclusive<char>; 4] =
    ['\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2066}'..='\u{2069}', '\u{feff}'..='\u{feff}'];

/// A whole config of a site with a master.
const MASTER: &str = r#"site = "dc1"
[tls]
ca = "ca.crt"
cert = "tls.crt"
key = "tls.key"
[tunnel]
listen = "0.0.0.0:7379"
[[master]]
name = "orders"
redis = "127.0.0.1:6379"
allow = ["dc2"]
"#;

/// A whole config of a site with a replica.
const REPLICA: &str = r#"site = "dc2"
[tls]
ca = "ca.crt"
cert = "tls.crt"
key = "tls.key"
[[replica]]
name = "orders"
listen = "127.0.0.1:6390"
site = "dc1"
peers = ["gw.dc1.example:7379"]
"#;

/// What the replicas of a site have in common.
const FAR_SITE: &str = r#"[[far_site]]
name = "dc1"
peers = ["gw.dc1.example:7379"]
"#;

/// The pieces that bytes from 0x80 on stand for. After the configs come letters that take more than
/// one byte or must not be shown. Then come lines: values at and beyond their limits, and keys that
/// belong together and that do not.
const PIECES: [&str; 112] = [
    MASTER,
    REPLICA,
    "é",
    "…",
    "\u{1f600}",
    "\u{85}",
    "\u{202e}",
    "\u{feff}",
    "site = 'dc1'\n",
    "site = 'dc2'\n",
    "site = '*.dc1'\n",
    "node = 'gw-a'\n",
    "[tls]\nca = 'ca.crt'\ncert = 'tls.crt'\nkey = 'tls.key'\n",
    "crl = 'crl.pem'\n",
    "[tunnel]\n",
    "[[master]]\n",
    "[[replica]]\n",
    "[link]\n",
    "[replica.link]\n",
    "[limits]\n",
    "[master.auth]\n",
    "[admin]\n",
    "name = 'orders'\n",
    "name = 'stock'\n",
    "redis = '127.0.0.1:6379'\n",
    "redis = '[::1]:0'\n",
    "allow = ['dc2']\n",
    "allow = []\n",
    "commands = 'any'\n",
    "commands = 'replication'\n",
    "auth = { username = 'repl', password_file = 'redis.pw' }\n",
    "auth = { username = 'a b' }\n",
    "username = 'repl'\n",
    "password_file = 'redis.pw'\n",
    "allow_failover = true\n",
    "allow_dump = false\n",
    "allow_slot_migration = true\n",
    "master = 'orders-2'\n",
    "listen = '127.0.0.1:6390'\n",
    "listen = '0.0.0.0:6390'\n",
    "listen = '[::ffff:127.0.0.1]:6390'\n",
    "clients = ['10.0.0.0/8', '::1', '::ffff:10.1.0.0/112']\n",
    "clients = ['10.0.0.0/33']\n",
    "clients = []\n",
    "peers = ['gw.dc1.example:7379']\n",
    "peers = []\n",
    "announce = 'keep'\n",
    "announce = 'site'\n",
    "announce = { host = 'bravo.example', port = 6379 }\n",
    "announce = { port = 0 }\n",
    "drop_capabilities = ['eof', 'rdb-channel-repl']\n",
    "drop_capabilities = ['psync2']\n",
    "heartbeat = '50ms'\n",
    "heartbeat = '2s'\n",
    "heartbeat = '60s'\n",
    "dead_after = '199ms'\n",
    "dead_after = '3.5s'\n",
    "dead_after = '5m'\n",
    "hold = '0s'\n",
    "hold = '4s'\n",
    "hold = '1h'\n",
    "hold = '61m'\n",
    "lanes = 16\n",
    "lanes = 0x11\n",
    "window = '1MiB'\n",
    "window = '4GiB'\n",
    "window = '1023KiB'\n",
    "compression = 'off'\n",
    "compression = 'zstd:19'\n",
    "compression = 'zstd:20'\n",
    "congestion = 'cubic'\n",
    "memory = '90%'\n",
    "memory = '16MiB'\n",
    "memory = '1MiB'\n",
    "links_per_site = 1\n",
    "new_links_per_minute = 100_000\n",
    "full_syncs_per_minute = 0\n",
    "full_syncs_per_minute = 1\n",
    "include = ['conf.d/*.toml', 'more.toml']\n",
    "include = ['**/*', '[a/b]', '']\n",
    FAR_SITE,
    "[[far_site]]\n",
    "[far_site.link]\n",
    "[[site]]\n",
    "name = 'dc1'\n",
    "name = 'DC1'\n",
    "listen = '127.0.0.1:6391'\n",
    "listen = 'unix:admin.sock'\n",
    "listen = 'unix:'\n",
    "listen = 'unix:/run/a\u{1}b'\n",
    "listen = '10.0.0.5:7380'\n",
    "public = true\n",
    "public = false\n",
    "redis = ['10.0.0.5:6379', '[fd00::6]:6379']\n",
    "redis = ['a:1', 'A:1', 'a\u{7}:1']\n",
    "redis = []\n",
    "sentinel = { master = 'mymaster', at = ['10.0.0.5:26379', '10.0.0.6:26379'] }\n",
    "sentinel = { master = 'mymaster', at = ['10.0.0.5:26379'], networks = ['10.0.0.0/24'] }\n",
    "sentinel = { at = [], username = 'gw' }\n",
    "[master.sentinel]\n",
    "at = ['10.0.0.5:26379', '10.0.0.6:26379', '10.0.0.7:26379']\n",
    "networks = ['10.0.0.0/24']\n",
    "networks = []\n",
    "follow = 'any'\n",
    "follow = 'master'\n",
    "follow = 'replica'\n",
    "from = [{ site = 'dc1', peers = ['gw:7379'] }, { site = 'dc3', peers = ['gw:1'] }]\n",
    "from = [{ site = 'dc1' }, { site = 'DC1', peers = [] }]\n",
    "from = [{ site = 'a\u{202e}' }]\n",
    "from = []\n",
    "[[replica.from]]\n",
    "site = 'dc3'\n",
];

/// Longest text in bytes: longer ones are slow and find nothing new.
const MOST: usize = 2048;

/// Number of faults above which an input is not kept, since it does not lead to better ones.
const FEW: usize = 3;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let source = &written_out(bytes);
    if source.len() > MOST {
        return Corpus::Reject;
    }
    let sources = files(source);
    let found = Config::parse(&sources);
    match &found {
        Ok(config) => {
            is_consistent(config);
            assert!(config.warnings.iter().all(|warning| has_a_place(warning, &sources)));
            let again = Config::parse(&files(&format!("{source}\n# and a comment\n")));
            assert_eq!(again.ok().as_ref(), Some(config), "read again");
        }
        Err(faults) => {
            let text = faults.to_string();
            assert_eq!(text.lines().count(), faults.count(), "a fault is one line: {text:?}");
            for line in text.lines() {
                let whole = OF_THE_WHOLE.iter().any(|known| {
                    let sentence = line.split_once(".toml: ").map(|(_, sentence)| sentence);
                    sentence.is_some_and(|sentence| sentence.starts_with(known))
                });
                assert!(whole || has_a_place(line, &sources), "no place: {line:?}");
                is_printable(line);
            }
            if faults.count() > FEW {
                return Corpus::Reject;
            }
        }
    }
    Corpus::Keep
});

/// The text that these bytes stand for.
fn written_out(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        match byte.checked_sub(0x80) {
            None => out.push(char::from(*byte)),
            Some(at) => out.push_str(PIECES[usize::from(at) % PIECES.len()]),
        }
    }
    out
}

/// The files that a text consists of: the first one includes the others.
fn files(text: &str) -> Vec<Source> {
    let path = |number| match number {
        0 => "site/gateway.toml".to_owned(),
        number => format!("site/conf.d/{number}.toml"),
    };
    text.split('\u{c}').enumerate().map(|(number, text)| Source::new(path(number), text)).collect()
}

/// Asserts that a line is printable.
fn is_printable(line: &str) {
    let strange = |letter: char| letter.is_control() || UNSEEN.iter().any(|range| range.contains(&letter));
    assert!(!line.contains(strange), "not printable: {line:?}");
}

/// Whether a line has a sentence and a place inside one of the files.
fn has_a_place(line: &str, sources: &[Source]) -> bool {
    let found = sources.iter().find_map(|source| {
        let rest = line.strip_prefix(source.path.to_str()?)?.strip_prefix(':')?;
        Some((&source.text, rest.splitn(3, ':').collect::<Vec<_>>()))
    });
    let Some((written, parts)) = found else { return false };
    let [row, column, sentence] = parts[..] else { return false };
    let (Ok(row), Ok(column)) = (row.parse::<usize>(), column.parse::<usize>()) else { return false };
    let line = row.checked_sub(1).and_then(|row| written.split('\n').nth(row));
    sentence.trim().len() > 3 && line.is_some_and(|line| (1..=line.chars().count() + 1).contains(&column))
}

/// Asserts what the gateway relies on.
fn is_consistent(config: &Config) {
    let unique = |names: Vec<&String>| names.iter().collect::<HashSet<_>>().len() == names.len();
    assert!(unique(config.masters.iter().map(|master| &master.name).collect()));
    assert!(unique(config.replicas.iter().map(|replica| &replica.name).collect()));
    let listeners: Vec<_> = config.listeners().collect();
    assert_eq!(listeners.iter().collect::<HashSet<_>>().len(), listeners.len());
    for listener in &listeners {
        match listener {
            ListenAddress::Ip(address) => {
                assert!(address.port() != 0 && address.ip() == address.ip().to_canonical());
            }
            ListenAddress::Unix(path) => assert!(path.file_name().is_some()),
        }
    }
    assert!(config.masters.is_empty() || config.listen.is_some());
    assert!(!config.masters.is_empty() || !config.replicas.is_empty(), "there is something to do");
    if let Some(admin) = &config.admin {
        let is_open = matches!(&admin.listen, ListenAddress::Ip(address) if !address.ip().is_loopback());
        assert!(admin.public || !is_open, "shown to everybody");
    }
    for master in &config.masters {
        assert!(!master.allow.is_empty());
        is_known_where(master);
    }
    for replica in &config.replicas {
        assert!(!replica.clients.is_empty() && !replica.from.is_empty());
        let names: HashSet<_> = replica.from.iter().map(|origin| origin.site.to_ascii_lowercase()).collect();
        assert_eq!(names.len(), replica.from.len(), "a site is there once");
        for origin in &replica.from {
            assert!(!origin.peers.is_empty() && !origin.site.eq_ignore_ascii_case(&config.site));
            can_work(&origin.link);
        }
        assert_eq!(replica.at_each().count(), replica.from.len());
        assert_eq!((&replica.site, &replica.peers), (&replica.from[0].site, &replica.from[0].peers));
    }
    can_work(&config.link);
    let limits = &config.limits;
    assert!(limits.memory >= 16 << 20);
    assert!(limits.links_per_site > 0 && limits.new_links_per_minute > 0);
    assert!(limits.full_syncs_per_minute != Some(0));
}

/// Asserts that it is known where the Redis of a master may be, and who says which of them it is.
fn is_known_where(master: &Master) {
    let sentinels = master.sentinel.as_ref();
    let places = master.redis.iter().chain(sentinels.iter().flat_map(|sentinel| &sentinel.at));
    for place in places {
        assert!(place.port != 0 && !place.host.is_empty());
        is_printable(&place.to_string());
    }
    match sentinels {
        None => assert!(!master.redis.is_empty(), "no Redis could be the master"),
        Some(sentinel) => {
            assert!(!sentinel.at.is_empty() && master.follow == Follow::Master);
            assert_ne!(
                master.redis.is_empty(),
                sentinel.networks.is_empty(),
                "one of them says where it may be"
            );
        }
    }
    assert!(!(master.is_plain() && master.follow == Follow::Master), "a plain tunnel looks at nothing");
}

/// Asserts that a link can work with these settings.
fn can_work(link: &LinkSettings) {
    assert!(link.heartbeat >= Duration::from_millis(50) && link.dead_after >= link.heartbeat * 2);
    assert!(link.hold.is_zero() || link.hold > link.dead_after);
    assert!(link.hold <= Duration::from_secs(3600) && link.dead_after <= Duration::from_secs(300));
    assert!((1..=16).contains(&link.lanes) && (1 << 20..=4 << 30).contains(&link.window));
}
