use super::*;

fn parse(source: &str) -> Result<Config, String> {
    Config::parse(Path::new("dir/gateway.toml"), source).map_err(|faults| faults.to_string())
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
fn what_this_release_does_not_do_is_refused_and_not_ignored() {
    let faults = parse(&replica("[admin]\nlisten = \"127.0.0.1:1\"\n")).unwrap_err();
    assert!(faults.contains("admin: not in this release") && faults.lines().count() == 1, "{faults}");
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
fn the_site_of_a_file_with_faults_is_still_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    for (text, site) in [
        ("node = \"a\"\n site = \"dc1\" # ours\n[tls\n", Some("dc1")),
        ("sites = \"dc1\"\n[[replica]]\nsite = \"dc2\"\n", None),
        ("site = dc1\n", None),
        ("", None),
    ] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(Config::site_of(&path).as_deref(), site, "{text}");
    }
}
