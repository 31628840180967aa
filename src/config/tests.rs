use super::*;

mod following;

fn parse(source: &str) -> Result<Config, String> {
    parse_all(&[("gateway.toml", source)])
}

/// Parses these files of one folder; the first one includes the others.
fn parse_all(sources: &[(&str, &str)]) -> Result<Config, String> {
    let source = |(name, text): &(&str, &str)| Source::new(format!("dir/{name}"), *text);
    let sources: Vec<_> = sources.iter().map(source).collect();
    Config::parse(&sources).map_err(|faults| faults.to_string())
}

const TLS: &str = "[tls]\nca = \"ca.crt\"\ncert = \"tls.crt\"\nkey = \"/abs/tls.key\"\n";

fn replica(more: &str) -> String {
    format!(
        "site = \"dc2\"\n{TLS}[[replica]]\nname = \"orders\"\nlisten = \"127.0.0.1:6390\"\nsite = \"dc1\"\npeers = [\"gw:7379\"]\n{more}"
    )
}

#[test]
fn a_small_file_is_filled_with_safe_defaults() {
    let config = parse(&replica("")).unwrap();
    let replica = &config.replicas[0];
    assert_eq!(config.tls.ca, Path::new("dir/ca.crt"));
    assert_eq!(config.tls.key, Path::new("/abs/tls.key"));
    assert_eq!(replica.master, "orders");
    assert_eq!(replica.clients, Network::loopback());
    assert_eq!(replica.announce, Announced::As { host: "dc2".into(), port: None });
    assert_eq!(replica.link, LinkSettings::default());
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    let source = "site = \"*.dc1\"\nlisten = 1\n[tls]\nca = 3\ncert = \"a\"\n[[master]]\nname = \"x\"\nredis = \"nowhere\"\nalow = [\"dc2\"]\n";
    let faults = parse(source).unwrap_err();
    let lines: Vec<&str> = faults.lines().collect();
    for (place, words) in [
        ("dir/gateway.toml:1:8:", "wildcards"),
        ("dir/gateway.toml:2:1:", "unknown key `listen`"),
        ("dir/gateway.toml:3:1:", "`key` is missing"),
        ("dir/gateway.toml:4:6:", "expected a string in quotes, found integer"),
        ("dir/gateway.toml:6:1:", "`allow` is missing"),
        ("dir/gateway.toml:6:1:", "needs [tunnel]"),
        ("dir/gateway.toml:8:9:", "master \"x\": redis: \"nowhere\" is not an address"),
        ("dir/gateway.toml:9:1:", "unknown key `alow`; did you mean `allow`?"),
    ] {
        assert!(
            lines.iter().any(|line| line.starts_with(place) && line.contains(words)),
            "{place} {words}\n{faults}"
        );
    }
    assert_eq!(lines.len(), 8, "{faults}");
}

#[test]
fn a_listener_that_others_reach_needs_clients() {
    let open = replica("").replace("127.0.0.1:6390", "0.0.0.0:6390");
    assert!(parse(&open).unwrap_err().contains("say who may: clients"));
    let config = parse(&(open + "clients = [\"10.0.0.0/8\"]\n")).unwrap();
    assert!(config.replicas[0].clients[0].contains("10.9.9.9".parse().unwrap()));
}

#[test]
fn names_and_listeners_are_unique_and_a_site_is_not_its_own_far_site() {
    let twice = replica(
        "[[replica]]\nname = \"orders\"\nlisten = \"127.0.0.1:6390\"\nsite = \"dc2\"\npeers = [\"gw:7379\"]\n",
    );
    let faults = parse(&twice).unwrap_err();
    assert!(
        faults.contains("replica \"orders\" is there twice")
            && faults.contains("used twice")
            && faults.contains("is this gateway itself"),
        "{faults}"
    );
}

#[test]
fn an_address_in_two_forms_is_one_address() {
    let mapped = "[::ffff:127.0.0.1]:6390";
    let twice = replica(&format!(
        "[[replica]]\nname = \"stock\"\nlisten = \"{mapped}\"\nsite = \"dc1\"\npeers = [\"gw:7379\"]\n"
    ));
    assert!(parse(&twice).unwrap_err().contains("127.0.0.1:6390 is used twice"));
    // It counts as a loopback address; other IPv4 addresses in IPv6 form do not.
    parse(&replica("").replace("127.0.0.1:6390", mapped)).unwrap();
    let open = replica("").replace("127.0.0.1:6390", "[::ffff:10.0.0.1]:6390");
    assert!(parse(&open).unwrap_err().contains("say who may: clients"));
    let config = parse(&replica("clients = [\"::ffff:127.0.0.2/128\"]\n")).unwrap();
    assert!(config.replicas[0].clients[0].contains("127.0.0.2".parse().unwrap()));
    assert!(parse(&replica("clients = [\"::ffff:0:0/90\"]\n")).unwrap_err().contains("11:12: replica"));
}

#[test]
fn a_link_can_be_set_for_all_and_for_one() {
    let config = parse(&replica(
        "[replica.link]\nwindow = \"2MiB\"\n[link]\nheartbeat = \"500ms\"\ncongestion = \"cubic\"\n",
    ))
    .unwrap();
    assert_eq!(config.replicas[0].link.window, 2 << 20);
    assert_eq!(config.replicas[0].link.heartbeat, Duration::from_millis(500));
    assert_eq!(config.link.congestion, Congestion::Named("cubic".into()));
    assert!(
        parse(&replica("[link]\nheartbeat = \"2s\"\n")).unwrap_err().contains("at least twice heartbeat")
    );
}

#[test]
fn the_admin_listener_is_there_if_it_is_asked_for_and_public_if_others_reach_it() {
    let admin = |lines: &str| parse(&replica(&format!("[admin]\n{lines}\n"))).map(|config| config.admin);
    assert_eq!(parse(&replica("")).unwrap().admin, None);
    let local = ListenAddress::Ip("127.0.0.1:7380".parse().unwrap());
    assert_eq!(
        admin("listen = \"127.0.0.1:7380\""),
        Ok(Some(Admin { listen: local.clone(), public: false }))
    );
    assert_eq!(admin("listen = \"[::ffff:127.0.0.1]:7380\"").unwrap().unwrap().listen, local);
    assert!(admin("listen = \"[::1]:7380\"").is_ok());
    assert!(admin("listen = \"127.0.0.1:7380\"\npublic = true").unwrap().unwrap().public);
    assert!(admin("listen = \"0.0.0.0:7380\"\npublic = true").unwrap().unwrap().public);
    let place = replica("[admin]\n").lines().count() + 1;
    for lines in ["listen = \"0.0.0.0:7380\"", "listen = \"[::]:7380\"\npublic = false"] {
        let faults = admin(lines).unwrap_err();
        assert!(faults.starts_with(&format!("dir/gateway.toml:{place}:10: [admin]: listen: ")), "{faults}");
        assert!(faults.contains("public = true") && faults.lines().count() == 1, "{faults}");
    }
    // A relative path starts at the folder of the config.
    let ListenAddress::Unix(path) = admin("listen = \"unix:admin.sock\"").unwrap().unwrap().listen else {
        panic!("a socket")
    };
    assert!(path.is_absolute() && path.ends_with("dir/admin.sock"), "{}", path.display());
    for (lines, words) in [
        ("", "`listen` is missing"),
        ("listen = \"unix:\"", "names no file"),
        ("listen = \"unix:/run/\"", "names no file"),
        ("listen = \"here\"", "or \"unix:PATH\""),
        ("listen = \"127.0.0.1:6390\"", "used twice"),
        ("listen = \"0.0.0.0:7380\"\npublic = 1", "expected true or false"),
    ] {
        let faults = admin(lines).unwrap_err();
        assert!(faults.contains(words) && faults.lines().count() == 1, "{lines}: {faults}");
    }
    let long = format!("listen = \"unix:/{}\"", "x".repeat(107));
    assert!(admin(&long).unwrap_err().contains("has 108 bytes"));
}

#[test]
fn hold_lanes_and_compression_can_be_set_for_all_and_for_one() {
    let config = parse(&replica(
        "[replica.link]\nlanes = 8\ncompression = \"zstd:19\"\n[link]\nhold = \"2m\"\ncompression = \"zstd\"\n",
    ))
    .unwrap();
    let (all, one) = (&config.link, &config.replicas[0].link);
    assert_eq!(
        (all.hold, all.lanes, all.compression),
        (Duration::from_secs(120), 1, Compression::Zstd { level: 1 })
    );
    assert_eq!((one.hold, one.lanes, one.compression), (all.hold, 8, Compression::Zstd { level: 19 }));
    let config = parse(&replica("[replica.link]\nhold = \"0s\"\ncompression = \"off\"\n")).unwrap();
    assert_eq!(config.replicas[0].link.hold, Duration::ZERO);
    assert_eq!(config.link, LinkSettings::default());
}

#[test]
fn a_hold_is_zero_or_longer_than_dead_after() {
    for (more, fault) in [
        (
            "[link]\nhold = \"3s\"\n",
            "12:8: [link]: hold must be longer than dead_after (3s), or \"0s\" to end a link with its last lane",
        ),
        (
            "[replica.link]\nhold = \"1ms\"\n",
            "12:8: replica \"orders\" [link]: hold must be longer than dead_after (3s), or",
        ),
        (
            "[link]\ndead_after = \"60s\"\n",
            "12:14: [link]: hold (45s) must be longer than dead_after (60s), or",
        ),
        (
            "[link]\nhold = \"61m\"\n",
            "12:8: [link]: hold: must be at most 1h, or \"0s\" to end a link with its last lane",
        ),
        ("[link]\nhold = \"soon\"\ndead_after = \"60s\"\n", "12:8: [link]: hold: \"soon\" is not a duration"),
    ] {
        let faults = parse(&replica(more)).unwrap_err();
        assert!(
            faults.starts_with(&format!("dir/gateway.toml:{fault}")) && faults.lines().count() == 1,
            "{more}: {faults}"
        );
    }
    parse(&replica("[link]\nhold = \"1h\"\n[replica.link]\nhold = \"0s\"\ndead_after = \"60s\"\n")).unwrap();
}

#[test]
fn lanes_and_compression_say_what_may_be_written() {
    for (more, words) in [
        ("lanes = 0", "lanes: expected a whole number from 1 to 16, found 0"),
        ("lanes = 17", "lanes: expected a whole number from 1 to 16, found 17"),
        (
            "compression = \"gzip\"",
            "compression: \"gzip\" is unknown; write \"off\" (the default), \"zstd\", or",
        ),
        ("compression = \"off:1\"", "is unknown; write \"off\""),
        ("compression = \"zstd:\"", "a level is a whole number from 1 to 19; write \"zstd:3\""),
        ("compression = \"zstd:20\"", "a level is a whole number from 1 to 19"),
        ("compression = \"zstd:-5\"", "a level is a whole number from 1 to 19"),
    ] {
        let faults = parse(&replica(&format!("[link]\n{more}\n"))).unwrap_err();
        assert!(faults.contains(words) && faults.lines().count() == 1, "{more}: {faults}");
    }
}

#[test]
fn memory_is_a_quarter_of_what_there_is_or_as_written() {
    let memory = |text: &str| parse(&replica(text)).map(|config| config.limits.memory);
    let quarter = memory("").unwrap();
    assert!(quarter >= 16 << 20);
    assert_eq!(memory("[limits]\nmemory = \"25%\"\n").unwrap(), quarter);
    assert_eq!(memory("[limits]\nmemory = \"1GiB\"\n").unwrap(), 1 << 30);
    for (wrong, words) in [
        ("\"0%\"", "12:10: [limits]: memory: \"0%\" is not a share of the memory"),
        ("\"95%\"", "from \"1%\" to \"90%\""),
        ("\"1MiB\"", "is too little; write \"16MiB\" or more"),
        ("\"lots\"", "write one like \"64MiB\", or a share like \"25%\""),
        ("64", "expected a string in quotes"),
    ] {
        let faults = memory(&format!("[limits]\nmemory = {wrong}\n")).unwrap_err();
        assert!(faults.contains(words) && faults.lines().count() == 1, "{wrong}: {faults}");
    }
}

#[test]
fn announce_takes_its_three_forms() {
    let announce = |text: &str| {
        parse(&replica(&format!("announce = {text}\n"))).map(|config| config.replicas[0].announce.clone())
    };
    assert_eq!(announce("\"keep\"").unwrap(), Announced::Keep);
    assert_eq!(
        announce("{ host = \"bravo\", port = 6379 }").unwrap(),
        Announced::As { host: "bravo".into(), port: Some(6379) }
    );
    assert!(
        announce("\"bravo\"").is_err()
            && announce("{ port = 1 }").is_err()
            && announce("{ host = \"b\", port = 0 }").is_err()
    );
}

#[test]
fn broken_toml_is_told_with_its_place_and_the_rest_is_still_read() {
    let faults = parse(&replica("x = = 1\nannounce = \"nowhere\"\n")).unwrap_err();
    assert!(faults.contains("gateway.toml:11:5:") && faults.contains("nowhere"), "{faults}");
    let faults = parse(&replica("[[site]]\nname = \"dc1\"\n")).unwrap_err();
    assert_eq!(faults, "dir/gateway.toml:11:3: duplicate key; another site is written as [[far_site]]");
}

#[test]
fn one_mistake_is_told_once() {
    let master = format!(
        "site = \"dc1\"\n{TLS}[tunnel]\nlisten = \"0.0.0.0:7379\"\n[[master]]\nname = \"orders\"\nredis = \"127.0.0.1:6379\"\nallow = [\"dc2\"]\n"
    );
    parse(&master).unwrap();
    for (right, wrong, words) in [
        ("allow = [\"dc2\"]", "allow = \"dc2\"", "expected a list"),
        ("[[master]]", "[master]", "write [[master]], with two brackets"),
        ("0.0.0.0:7379", "0.0.0.0:0", "is not an address to listen on"),
        ("site = \"dc1\"", "site = 1", "expected a string"),
    ] {
        let faults = parse(&master.replace(right, wrong)).unwrap_err();
        assert!(faults.contains(words), "{wrong}: {faults}");
        assert_eq!(faults.lines().count(), 1, "{wrong}: {faults}");
    }
    for (more, words) in [
        ("clients = \"10.0.0.0/8\"\n", "expected a list"),
        ("clients = []\n", "nobody could connect"),
        ("[limits]\nlinks_per_site = 0\n", "from 1 to 100000, found 0"),
        ("[link]\ncompression = 5\n", "compression: expected a string"),
        (
            "[[replica]]\nname = \"orders\"\nlisten = \"127.0.0.1:1\"\nsite = \"dc1\"\npeers = [\"gw:1\"]\n",
            "is there twice",
        ),
    ] {
        let faults = parse(&replica(more)).unwrap_err();
        assert!(faults.contains(words) && faults.lines().count() == 1, "{more}: {faults}");
    }
    let tls = replica("").replace(TLS, "tls = \"certs\"\n");
    assert_eq!(parse(&tls).unwrap_err().lines().count(), 1);
}

fn master(more: &str) -> String {
    format!(
        "site = \"dc1\"\n{TLS}[tunnel]\nlisten = \"0.0.0.0:7379\"\n[[master]]\nname = \"orders\"\nredis = \"127.0.0.1:6379\"\nallow = [\"dc2\"]\n{more}"
    )
}

#[test]
fn what_a_master_allows_is_off_unless_it_is_said() {
    let commands = |more: &str| parse(&master(more)).map(|config| config.masters[0].commands.clone());
    let replication = |auth, dump| Commands::Replication {
        auth,
        failover: false,
        dump,
        slot_migration: false,
        accept_announce: Vec::new(),
    };
    let strict = replication(None, false);
    assert_eq!(commands(""), Ok(strict));
    assert_eq!(commands("commands = \"any\"\n"), Ok(Commands::Any));
    let auth = Some(Auth { username: Some("repl".into()), password_file: "dir/redis.pw".into() });
    assert_eq!(
        commands(
            "allow_dump = true\nallow_failover = false\nauth = { username = \"repl\", password_file = \"redis.pw\" }\n"
        ),
        Ok(replication(auth, true))
    );
    let config = parse(&(master("") + "[limits]\nfull_syncs_per_minute = 2\n")).unwrap();
    assert_eq!(config.limits.full_syncs_per_minute, Some(2));
}

#[test]
fn a_plain_tunnel_has_neither_a_password_nor_switches() {
    let faults =
        parse(&master("commands = \"any\"\nallow_dump = true\nauth = { password_file = \"redis.pw\" }\n"))
            .unwrap_err();
    assert!(
        faults.contains("every site in `allow` would run every command as this user")
            && faults.contains("allow_dump: commands = \"any\" lets everything pass already")
            && faults.lines().count() == 2,
        "{faults}"
    );
    for (more, words) in [
        ("auth = \"redis.pw\"\n", "expected a table"),
        ("auth = { username = \"a b\", password_file = \"x\" }\n", "is not an ACL user"),
        ("auth = { username = \"repl\" }\n", "`password_file` is missing"),
        ("auth = { password = \"secret\", password_file = \"x\" }\n", "unknown key `password`"),
        ("allow_failover = \"yes\"\n", "expected true or false, found string"),
    ] {
        let faults = parse(&master(more)).unwrap_err();
        assert!(faults.contains(words) && !faults.contains("\"secret\""), "{faults}");
    }
}

#[test]
fn a_replica_may_have_to_know_a_password_and_keep_capabilities_to_itself() {
    let config = parse(&replica(
        "password_file = \"/abs/local.pw\"\ndrop_capabilities = [\"rdb-channel-repl\", \"eof\"]\n",
    ))
    .unwrap();
    let read = &config.replicas[0];
    assert_eq!(read.password_file.as_deref(), Some(Path::new("/abs/local.pw")));
    assert_eq!(read.drop_capabilities, [Capability::RdbChannel, Capability::Eof]);
    let faults = parse(&replica("password_file = \"\"\ndrop_capabilities = [\"psync2\"]\n")).unwrap_err();
    assert!(faults.contains("an empty path") && faults.contains("\"psync2\" cannot be dropped; known are"));
}

#[test]
fn an_announced_address_that_is_accepted_is_one_replicas_of_an_allowed_site() {
    let config = parse(&master("accept_announce = { DC2 = [\"127.0.0.1:6380\", \"[::1]:7\"] }\n")).unwrap();
    let Commands::Replication { accept_announce, .. } = &config.masters[0].commands else { panic!() };
    assert_eq!(accept_announce[0].site, "DC2");
    let shown: Vec<String> = accept_announce[0].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["127.0.0.1:6380", "[::1]:7"]);
    for (more, words) in [
        ("accept_announce = { dc9 = [\"a:1\"] }\n", "dc9: this site is not in `allow`"),
        ("accept_announce = { dc2 = [\"127.0.0.1\"] }\n", "is not an address"),
        ("accept_announce = { dc2 = \"a:1\" }\n", "expected a list of strings"),
        ("accept_announce = [\"a:1\"]\n", "expected a table"),
        ("accept_announce = { dc2 = [\"10.0.0.0/8:1\"] }\n", "is not an address"),
        ("accept_announce = { dc2 = [\"127.0.0.1:6379\"] }\n", "is this master itself"),
        ("accept_announce = { dc2 = [\"localhost:6379\"] }\n", "is this master itself"),
        ("accept_announce = { dc2 = [\"[::1]:6379\"] }\n", "is this master itself"),
        ("commands = \"any\"\naccept_announce = { dc2 = [\"a:1\"] }\n", "commands = \"any\""),
    ] {
        let faults = parse(&master(more)).unwrap_err();
        assert!(faults.contains(words) && faults.lines().count() == 1, "{more}: {faults}");
    }
}

#[test]
fn the_site_and_the_key_of_a_file_with_faults_are_still_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    let key = folder.path().join("dc1.key");
    for (text, found) in [
        ("node = \"a\"\n site = \"dc1\" # ours\n[tls\n", Some(("dc1", None))),
        ("site = \"dc1\"\n[tls]\n key= \"dc1.key\" # ours\n[x\n", Some(("dc1", Some(key)))),
        ("site = \"dc1\"\n[tls]\ncert = \"a\"\n[other]\nkey = \"a.key\"\n", Some(("dc1", None))),
        ("site = \"dc1\"\n[tls]\nkey = \"/a/key\"\n", Some(("dc1", Some("/a/key".into())))),
        ("sites = \"dc1\"\n[[replica]]\nsite = \"dc2\"\n", None),
        ("site = dc1\n", None),
        ("", None),
    ] {
        std::fs::write(&path, text).unwrap();
        let found = found.map(|(site, key)| (site.to_owned(), key));
        assert_eq!(Config::identity_of(&path), found, "{text}");
    }
}

const HUB: &str = "site = \"hub\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n";

fn entry(name: &str, port: u16, site: &str, more: &str) -> String {
    format!("[[replica]]\nname = \"{name}\"\nlisten = \"127.0.0.1:{port}\"\nsite = \"{site}\"\n{more}")
}

#[test]
fn a_far_site_gives_its_replicas_their_peers_and_settings() {
    let main = format!("{HUB}[link]\nlanes = 2\nwindow = \"2MiB\"\nhold = \"20s\"\n");
    let far = "[[far_site]]\nname = \"dc1\"\npeers = [\"gw-a:7379\", \"[::1]:7379\"]\n[far_site.link]\nlanes = 4\nwindow = \"4MiB\"\n";
    let replicas = entry("orders", 6390, "DC1", "[replica.link]\nlanes = 8\n")
        + &entry("stock", 6391, "dc2", "peers = [\"other:1\"]\n");
    let config = parse_all(&[("gateway.toml", &main), ("a.toml", &replicas), ("b.toml", far)]).unwrap();
    let [orders, stock] = &config.replicas[..] else { panic!() };
    let shown: Vec<String> = orders.peers.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["gw-a:7379", "[::1]:7379"]);
    // Replica, far site, [link]: the nearest one that has the key.
    let (link, hold) = (&orders.link, Duration::from_secs(20));
    assert_eq!((link.lanes, link.window, link.hold), (8, 4 << 20, hold));
    assert_eq!((stock.link.lanes, stock.link.window, stock.link.hold), (2, 2 << 20, hold));
    assert_eq!(stock.peers.len(), 1);
    assert_eq!((config.link.lanes, config.warnings.len()), (2, 0));
    assert_eq!(config.included, [Path::new("dir/a.toml"), Path::new("dir/b.toml")]);
}

#[test]
fn a_far_site_that_contradicts_is_refused_with_both_places_and_one_without_use_is_told() {
    let main = format!("{HUB}{}", entry("orders", 6390, "dc1", "peers = [\"gw:1\"]\n"));
    let far = "# one\n[[far_site]]\nname = \"dc1\"\npeers = [\"gw:1\"]\n";
    let faults = parse_all(&[("gateway.toml", &main), ("a.toml", far)]).unwrap_err();
    assert_eq!(
        faults,
        "dir/gateway.toml:10:9: replica \"orders\": peers are given here and in the [[far_site]] of this site, at dir/a.toml:2:1; leave them out here"
    );
    let config = parse_all(&[("gateway.toml", &main), ("a.toml", &far.replace("dc1", "dc9"))]).unwrap();
    assert_eq!(
        config.warnings,
        ["dir/a.toml:2:1: far_site \"dc9\": no [[replica]] is of this site, so it has no effect"]
    );
    let replica = format!("{HUB}{}", entry("orders", 6390, "dc1", ""));
    for (far, fault) in [
        (
            "",
            "`peers` is missing; write peers = [\"gw.dc1.example:7379\"], ways to that site, or name them once",
        ),
        (
            "[[far_site]]\nname = \"dc11\"\npeers = [\"gw:1\"]\n",
            "there is no [[far_site]] \"dc1\" that has them; did you mean \"dc11\"?",
        ),
        ("[[far_site]]\nname = \"dc1\"\n", "a.toml:1:1: far_site \"dc1\": `peers` is missing"),
        ("[[far_site]]\nname = \"dc1\"\npeers = []\n", "far_site \"dc1\": `peers` is empty"),
        (
            "[[far_site]]\nname = \"dc1\"\npeers = [\"gw\"]\n",
            "far_site \"dc1\": peers: \"gw\" is not an address",
        ),
        ("[[far_site]]\nname = \"*.dc1\"\npeers = [\"gw:1\"]\n", "wildcards"),
        ("[[far_site]]\nname = \"dc1\"\npeers = [\"gw:1\"]\nlisten = 1\n", "unknown key `listen`"),
        (
            "[[far_site]]\nname = \"dc1\"\npeers = [\"gw:1\"]\nlink = { lanes = 17 }\n",
            "far_site \"dc1\" [link]: lanes: expected",
        ),
        (
            "[[far_site]]\nname = \"dc1\"\npeers = [\"gw:1\"]\n[[far_site]]\nname = \"DC1\"\npeers = [\"gw:2\"]\n",
            "a.toml:5:8: far_site \"DC1\" is there twice, first at dir/a.toml:1:1",
        ),
        (
            "[[far_site]]\nname = \"dc1\"\npeers = [\"gw:1\"]\n[[far_site]]\nname = \"hub\"\npeers = [\"gw:2\"]\n",
            "\"hub\" is this gateway itself",
        ),
    ] {
        let faults = parse_all(&[("gateway.toml", &replica), ("a.toml", far)]).unwrap_err();
        assert!(faults.contains(fault) && faults.lines().count() == 1, "{far}{faults}");
    }
}

#[test]
fn an_included_file_holds_masters_replicas_and_far_sites_alone() {
    let main = format!("{HUB}[tunnel]\nlisten = \"0.0.0.0:7379\"\n{}", master_entry("orders", "first.pw"));
    let path = |config: &Config, at: usize| match &config.masters[at].commands {
        Commands::Replication { auth: Some(auth), .. } => auth.password_file.clone(),
        other => panic!("{other:?}"),
    };
    // A relative path means the same in every file.
    let stock = master_entry("stock", "second.pw");
    let config = parse_all(&[("gateway.toml", &main), ("conf.d/a.toml", &stock)]).unwrap();
    assert_eq!(path(&config, 1), Path::new("dir/second.pw"));
    assert_eq!(config.password_files().count(), 2);
    for (text, fault) in [
        (
            "limits.memory = \"1GiB\"\n",
            "a.toml:1:1: limits: this belongs in dir/gateway.toml, since an included file holds [[master]], [[replica]] and [[far_site]] alone; move it there",
        ),
        ("\nsite = \"hub\"\n", "a.toml:2:1: site: this belongs in dir/gateway.toml"),
        ("[link]\nlanes = 99\n", "a.toml:1:2: link: this belongs in dir/gateway.toml"),
        ("[admin]\n", "a.toml:1:2: admin: this belongs in dir/gateway.toml"),
        (
            "include = [\"b.toml\"]\n",
            "a.toml:1:1: include: an included file cannot include others; name them in the `include` of dir/gateway.toml",
        ),
        ("[[site]]\nname = \"dc1\"\n", "a.toml:1:3: site: another site is written as [[far_site]]"),
        ("[[mster]]\n", "a.toml:1:3: unknown key `mster`; did you mean `master`?"),
        ("x = 1\n", "a.toml:1:1: unknown key `x`; known here: far_site, master, replica"),
        ("[master]\n", "a.toml:1:1: master: expected a list of tables: write [[master]]"),
    ] {
        let faults = parse_all(&[("gateway.toml", &main), ("conf.d/a.toml", text)]).unwrap_err();
        let (_, rest) = faults.split_once("dir/conf.d/").expect("the file is named");
        assert!(rest.starts_with(fault) && faults.lines().count() == 1, "{text}{faults}");
    }
}

fn master_entry(name: &str, password_file: &str) -> String {
    format!(
        "[[master]]\nname = \"{name}\"\nredis = \"127.0.0.1:6379\"\nallow = [\"dc2\"]\nauth = {{ password_file = \"{password_file}\" }}\n"
    )
}

#[test]
fn the_faults_of_all_files_are_told_together_and_a_conflict_names_both_places() {
    let main = format!("{HUB}nodes = 1\n{}", entry("orders", 6390, "dc1", "peers = [\"gw:1\"]\n"));
    let one = master_entry("orders", "a.pw") + &entry("orders", 6390, "dc1", "peers = [\"gw:1\"]\n");
    let two = master_entry("orders", "a.pw") + "x = 1\n";
    let faults = parse_all(&[("gateway.toml", &main), ("1.toml", &one), ("2.toml", &two)]).unwrap_err();
    let lines: Vec<&str> = faults.lines().collect();
    let expected = [
        "dir/gateway.toml:6:1: [tls]: unknown key `nodes`; ",
        "dir/1.toml:1:1: a [[master]] needs [tunnel] in dir/gateway.toml with `listen`, ",
        "dir/1.toml:7:8: replica \"orders\" is there twice, first at dir/gateway.toml:8:8; give",
        "dir/1.toml:8:10: listen: 127.0.0.1:6390 is used twice, first at dir/gateway.toml:9:10; each",
        "dir/2.toml:2:8: master \"orders\" is there twice, first at dir/1.toml:2:8; give each master",
        "dir/2.toml:6:1: master \"orders\": unknown key `x`; ",
    ];
    assert_eq!(lines.len(), expected.len(), "{faults}");
    for (line, start) in lines.iter().zip(expected) {
        assert!(line.starts_with(start), "{start}\n{faults}");
    }
}

/// Writes these files into a folder and loads its gateway.toml.
fn load(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Config, String>) {
    let folder = tempfile::Builder::new().prefix("in[clu]de").tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let loaded = load_again(&folder);
    (folder, loaded)
}

/// As errors show it: without the name of the folder.
fn load_again(folder: &tempfile::TempDir) -> Result<Config, String> {
    let start = format!("{}/", folder.path().display());
    Config::load(&folder.path().join("gateway.toml")).map_err(|faults| faults.to_string().replace(&start, ""))
}

#[test]
fn patterns_find_files_by_name_once_and_no_hidden_ones() {
    let main = format!("include = [\"conf.d/*.toml\", \"sites/*/b?.toml\", \"conf.d/a.toml\"]\n{HUB}");
    let one = |name, port| entry(name, port, "dc1", "peers = [\"gw:1\"]\n");
    let (folder, config) = load(&[
        ("gateway.toml", &main),
        ("conf.d/b.toml", &one("second", 2)),
        ("conf.d/a.toml", &one("first", 1)),
        ("conf.d/.a.toml", "hidden = 1"),
        ("conf.d/a.toml~", "backup = 1"),
        ("conf.d/deeper/c.toml", "deeper = 1"),
        ("sites/x/b1.toml", &one("third", 3)),
        ("sites/b1.toml", "shallow = 1"),
    ]);
    let config = config.unwrap();
    let names: Vec<_> = config.replicas.iter().map(|replica| replica.name.as_str()).collect();
    assert_eq!(names, ["first", "second", "third"]);
    let files: Vec<_> = config.files().map(|path| path.strip_prefix(folder.path()).unwrap()).collect();
    let expected = [
        "gateway.toml",
        "conf.d/a.toml",
        "conf.d/b.toml",
        "sites/x/b1.toml",
        "conf.d",
        "sites",
        "a",
        "b",
        "c",
    ];
    assert_eq!(files, expected.map(Path::new));
    // Where an entry stands does not matter, nor in which order.
    let digest = config.digest();
    let text = std::fs::read_to_string(folder.path().join("conf.d/a.toml")).unwrap();
    std::fs::write(folder.path().join("conf.d/z.toml"), &text).unwrap();
    let fault = load_again(&folder).unwrap_err();
    assert!(
        fault.starts_with("conf.d/z.toml:2:8: replica \"first\" is there twice, first at conf.d/a.toml:2:8"),
        "{fault}"
    );
    std::fs::write(folder.path().join("conf.d/a.toml"), "").unwrap();
    let moved = load_again(&folder).unwrap();
    assert_eq!((moved.replicas[1].name.as_str(), moved.digest()), ("first", digest));
}

#[test]
fn a_pattern_without_a_match_is_a_warning_and_a_file_that_is_not_there_a_fault() {
    let own = entry("orders", 1, "dc1", "peers = [\"gw:1\"]\n");
    let main = |include: &str| format!("include = [{include}]\n{HUB}{own}");
    let (_folder, config) = load(&[("gateway.toml", &main("'conf.d/*.toml'"))]);
    let warnings = config.unwrap().warnings;
    assert!(
        warnings.len() == 1
            && warnings[0].ends_with("gateway.toml:1:12: include: \"conf.d/*.toml\" matches no file"),
        "{warnings:?}"
    );
    let many = "'*x'".to_owned() + &", '*x'".repeat(64);
    for (include, fault) in [
        (
            "'a.toml'",
            "gateway.toml:1:12: include: a.toml cannot be read: No such file or directory (os error 2); create it, or leave it out",
        ),
        (
            "'a', 'conf.d'",
            "gateway.toml:1:17: include: conf.d cannot be read: it is a folder; only a regular file is read; write \"FOLDER/*.toml\" for the files in it",
        ),
        (
            "'*.toml'",
            "gateway.toml:1:12: include: \"*.toml\" matches gateway.toml itself; give the other files a folder of their own",
        ),
        ("'./gateway.toml'", "gateway.toml:1:12: include: \"./gateway.toml\" matches gateway.toml itself; "),
        ("'**/*.toml'", "gateway.toml:1:12: include: \"**/*.toml\": `**` would search every folder below"),
        ("'[a/b]'", "gateway.toml:1:12: include: \"[a/b]\" is not a pattern: "),
        ("''", "gateway.toml:1:12: include: an empty path"),
        ("1", "gateway.toml:1:12: include: expected a string in quotes, found integer"),
        (
            "'large?'",
            "gateway.toml:1:12: include: large1 cannot be read: it is larger than 1048576 bytes, the most that is read; ",
        ),
        ("'latin?'", "gateway.toml:1:12: include: latin1 cannot be read: line 1 is not UTF-8 text; "),
        (&many, "gateway.toml:1:11: include: there are more than 64 patterns"),
    ] {
        let (folder, _) = load(&[
            ("gateway.toml", &main(include)),
            ("a", ""),
            ("conf.d/x", ""),
            ("large1", &"#".repeat(1 << 21)),
        ]);
        std::fs::write(folder.path().join("latin1"), b"# \xe9").unwrap();
        let faults = load_again(&folder).unwrap_err();
        assert!(faults.starts_with(fault) && faults.lines().count() == 1, "{include}: {faults}");
    }
    let nothing = format!("include = ['conf.d/*.tml']\n{HUB}");
    let (_folder, faults) = load(&[("gateway.toml", &nothing), ("conf.d/a.toml", &own)]);
    assert!(
        faults.unwrap_err().ends_with("where the replicas are; include: \"conf.d/*.tml\" matches no file")
    );
}

#[test]
fn the_files_are_bounded_in_number_and_size() {
    let main = format!("include = ['d/*']\n{HUB}");
    let own = entry("orders", 1, "dc1", "peers = [\"gw:1\"]\n");
    let (folder, config) = load(&[("gateway.toml", &main), ("d/a", &own)]);
    config.unwrap();
    for number in 0..16 {
        std::fs::write(folder.path().join(format!("d/b{number}")), "#".repeat(1 << 20)).unwrap();
    }
    let faults = load_again(&folder).unwrap_err();
    assert!(
        faults.starts_with("gateway.toml:1:12: include: the files are larger than 16777216 bytes in all"),
        "{faults}"
    );
    for number in 0..1001 {
        std::fs::write(folder.path().join(format!("d/b{number}")), "").unwrap();
    }
    let faults = load_again(&folder).unwrap_err();
    assert!(faults.starts_with("gateway.toml:1:12: include: there are more than 1000 files"), "{faults}");
}

#[test]
fn what_a_file_that_cannot_be_read_may_hold_is_not_told_to_be_missing() {
    let main = format!("include = ['gone.toml']\n{HUB}");
    let (_folder, faults) = load(&[("gateway.toml", &main)]);
    let faults = faults.unwrap_err();
    assert!(faults.contains("gone.toml cannot be read") && faults.lines().count() == 1, "{faults}");
    let broken = format!("{HUB}{}", entry("orders", 6390, "dc1", ""));
    let faults = parse_all(&[("gateway.toml", &broken), ("a.toml", "[[far_site]\n")]).unwrap_err();
    assert!(faults.contains("dir/a.toml:1:12: unclosed") && !faults.contains("orders"), "{faults}");
}
