//! What a config says of who has the master: candidates, Sentinels, sites.

use super::*;

/// A config with a `[[master]]` of these lines.
fn followed(lines: &str) -> Result<Config, String> {
    parse(&master("").replace("redis = \"127.0.0.1:6379\"\n", &format!("{lines}\n")))
}

const SENTINEL: &str =
    "sentinel = { master = \"mymaster\", at = [\"10.0.0.5:26379\", \"10.0.0.6:26379\", \"10.0.0.7:26379\"]";

#[test]
fn a_master_is_one_redis_or_several_candidates_and_several_are_asked_who_it_is() {
    let follow = |lines: &str| followed(lines).map(|config| config.masters[0].follow);
    let one = "redis = \"127.0.0.1:6379\"";
    let several = "redis = [\"10.0.0.5:6379\", \"[fd00::6]:6379\", \"redis-3:6379\"]";
    let config = followed(several).unwrap();
    let shown: Vec<String> = config.masters[0].redis.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.5:6379", "[fd00::6]:6379", "redis-3:6379"]);
    assert_eq!(config.masters[0].places(), "10.0.0.5:6379, [fd00::6]:6379, redis-3:6379");
    // The defaults: one is what it is, of several the master is followed.
    assert_eq!(follow(one), Ok(Follow::Any));
    assert_eq!(follow("redis = [\"127.0.0.1:6379\"]"), Ok(Follow::Any));
    assert_eq!(follow(several), Ok(Follow::Master));
    assert_eq!(follow(&format!("{one}\nfollow = \"master\"")), Ok(Follow::Master));
    assert_eq!(follow(&format!("{several}\nfollow = \"any\"")), Ok(Follow::Any));
    // A plain tunnel asks nobody.
    assert_eq!(follow(&format!("{several}\ncommands = \"any\"")), Ok(Follow::Any));
    assert_eq!(follow(&format!("{one}\n{SENTINEL} }}")), Ok(Follow::Master));
}

#[test]
fn sentinels_name_a_candidate_or_a_redis_in_networks() {
    let among = followed(&format!(
        "redis = [\"10.0.0.5:6379\", \"10.0.0.6:6379\"]\n{SENTINEL}, username = \"gw\", password_file = \"sentinel.pw\" }}"
    ))
    .unwrap();
    let sentinel = among.masters[0].sentinel.as_ref().unwrap();
    assert_eq!((sentinel.master.as_str(), sentinel.at.len(), sentinel.networks.len()), ("mymaster", 3, 0));
    let auth = Auth { username: Some("gw".into()), password_file: "dir/sentinel.pw".into() };
    assert_eq!(sentinel.auth, Some(auth));
    assert!(among.password_files().any(|path| path == Path::new("dir/sentinel.pw")));
    let alone = followed(&format!("{SENTINEL}, networks = [\"10.0.0.0/24\"] }}")).unwrap();
    let master = &alone.masters[0];
    assert!(master.redis.is_empty() && master.follow == Follow::Master);
    assert!(master.sentinel.as_ref().unwrap().networks[0].contains("10.0.0.9".parse().unwrap()));
    assert_eq!(master.places(), "Sentinel's \"mymaster\"");
    // As a table of its own it means the same.
    let table = master_of("redis = \"a:1\"\n[master.sentinel]\nmaster = \"m\"\nat = [\"a:26379\"]");
    assert_eq!(table.unwrap().masters[0].sentinel.as_ref().unwrap().at.len(), 1);
}

/// As [`followed`], with lines that may begin tables.
fn master_of(lines: &str) -> Result<Config, String> {
    parse(
        &master("").replace(
            "redis = \"127.0.0.1:6379\"\nallow = [\"dc2\"]\n",
            &format!("allow = [\"dc2\"]\n{lines}\n"),
        ),
    )
}

#[test]
fn what_is_wrong_with_candidates_and_sentinels_is_told_once_at_its_place() {
    let redis = "redis = \"127.0.0.1:6379\"\n";
    let sentinel = |inside: &str| format!("{redis}sentinel = {{ {inside} }}");
    let at = "at = [\"a:26379\"]";
    let many = |count: usize| {
        let list: Vec<_> = (1..=count).map(|port| format!("\"a:{port}\"")).collect();
        list.join(", ")
    };
    for (lines, fault) in [
        (
            "redis = []".to_owned(),
            "10:9: master \"orders\": redis: the list is empty: no Redis could be the master",
        ),
        (
            "redis = 6379".to_owned(),
            "10:9: master \"orders\": redis: expected \"host:port\" in quotes, or a list of them, found integer",
        ),
        (
            "redis = [\"a:1\", 2]".to_owned(),
            "10:17: master \"orders\": redis: expected a string in quotes, found integer",
        ),
        ("redis = [\"a:1\", \"b\"]".to_owned(), "10:17: master \"orders\": redis: \"b\" is not an address"),
        (
            "redis = [\"a:1\", \"b:1\", \"A:1\"]".to_owned(),
            "10:24: master \"orders\": redis: A:1 is there twice; leave one of them out",
        ),
        (
            format!("redis = [{}]", many(17)),
            "10:9: master \"orders\": redis: 17 addresses are too many; 16 at most",
        ),
        (String::new(), "8:1: master \"orders\": `redis` is missing; write redis = \"127.0.0.1:6379\""),
        (
            sentinel(at),
            "11:12: master \"orders\" [sentinel]: `master` is missing; write master = \"mymaster\"",
        ),
        (
            sentinel("master = \"m\""),
            "11:12: master \"orders\" [sentinel]: `at` is missing; write at = [\"10.0.0.5:26379\"], every Sentinel",
        ),
        (
            sentinel("master = \"m\", at = []"),
            "11:33: master \"orders\" [sentinel]: at: the list is empty: there is no Sentinel to ask",
        ),
        (
            sentinel("master = \"m\", at = \"a:26379\""),
            "11:33: master \"orders\" [sentinel]: at: expected a list of strings",
        ),
        (
            sentinel("master = \"m\", at = [\"a:1\", \"a:1\"]"),
            "11:41: master \"orders\" [sentinel]: at: a:1 is there twice",
        ),
        (
            sentinel(&format!("master = \"my master\", {at}")),
            "11:23: master \"orders\" [sentinel]: master: \"my master\" is not a name",
        ),
        (
            sentinel(&format!("master = \"m\", {at}, username = \"gw\"")),
            "[sentinel]: username: a user needs a `password_file` too",
        ),
        (
            sentinel(&format!("master = \"m\", {at}, password = \"geheim\"")),
            "[sentinel]: unknown key `password`; known here: ",
        ),
        (
            sentinel(&format!("master = \"m\", {at}, networks = [\"10.0.0.0/24\"]")),
            "[sentinel]: networks: the Sentinels may only name one of `redis`; leave `networks` or `redis` out",
        ),
        (
            format!("{redis}sentinel = \"mymaster\""),
            "11:12: master \"orders\": sentinel: expected a table, as in sentinel = { … }, found string",
        ),
        (
            format!("{SENTINEL} }}"),
            "10:12: master \"orders\" [sentinel]: without `redis` the Sentinels alone say which Redis gets the links and the password; say where it may be: networks = [\"10.0.0.0/24\"]",
        ),
        (
            format!("{SENTINEL}, networks = [] }}"),
            "[sentinel]: networks: the list is empty: no Redis could be followed",
        ),
        (
            format!("{SENTINEL}, networks = [\"10.0.0.0/33\"] }}"),
            "[sentinel]: networks: \"10.0.0.0/33\" is not a network",
        ),
        (
            format!("{redis}follow = \"replica\""),
            "11:10: master \"orders\": follow: \"replica\" is unknown; write \"master\"",
        ),
        (format!("{redis}follow = true"), "11:10: master \"orders\": follow: expected a string in quotes"),
        (
            format!("{redis}follow = \"any\"\n{SENTINEL} }}"),
            "11:10: master \"orders\": follow: \"any\" takes whatever answers, and the Sentinels would not be asked; leave `follow` or `sentinel` out",
        ),
        (
            format!("{redis}commands = \"any\"\n{SENTINEL} }}"),
            "12:12: master \"orders\": sentinel: with commands = \"any\" the gateway asks nobody which Redis is the master",
        ),
        (
            format!("{redis}commands = \"any\"\nfollow = \"master\""),
            "12:10: master \"orders\": follow: with commands = \"any\" the gateway asks no Redis",
        ),
    ] {
        let faults = followed(&lines).unwrap_err();
        assert!(faults.contains(fault) && faults.lines().count() == 1, "{lines}:\n{faults}\n{fault}");
        assert!(!faults.contains("geheim"), "{faults}");
    }
    followed(&format!("redis = [{}]", many(16))).unwrap();
    // All of them at once.
    let faults = followed("redis = [\"a\", \"b:1\"]\nsentinel = { at = [\"x\"], username = \"a b\", networks = 1 }\nfollow = \"x\"").unwrap_err();
    for words in [
        "redis: \"a\" is",
        "`master` is missing",
        "at: \"x\" is",
        "username: \"a b\"",
        "networks: expected",
        "follow: \"x\"",
    ] {
        assert!(faults.contains(words), "{words}\n{faults}");
    }
    assert_eq!(faults.lines().count(), 6, "{faults}");
    // No candidate is listed as a replica.
    let faults = followed(
        "redis = [\"10.0.0.5:6379\", \"10.0.0.6:6379\"]\naccept_announce = { dc2 = [\"10.0.0.6:6379\"] }",
    )
    .unwrap_err();
    assert!(faults.contains("10.0.0.6:6379 is one of this master's `redis`: a Sentinel would"), "{faults}");
}

#[test]
fn an_address_holds_nothing_that_breaks_a_line() {
    for host in ["a\\nb", "a\\tb", "\\u0007a", "a b", "\\u202ea", "\\u200b"] {
        let faults = followed(&format!("redis = [\"{host}:1\", \"{host}:1\"]")).unwrap_err();
        assert!(
            faults.lines().count() == 2
                && !faults.contains(|letter: char| letter.is_control() && letter != '\n'),
            "{faults:?}"
        );
        assert!(faults.lines().all(|line| line.contains("is not an address")), "{faults}");
    }
}

/// A config with a `[[replica]]` that has these lines in place of `site` and `peers`.
fn from(lines: &str) -> Result<Config, String> {
    parse(&replica("").replace("site = \"dc1\"\npeers = [\"gw:7379\"]\n", &format!("{lines}\n")))
}

#[test]
fn a_replica_follows_one_of_several_sites() {
    let config = from("from = [ { site = \"dc1\", peers = [\"gw:1\", \"gw:2\"] }, { site = \"dc3\" } ]\nlink = { lanes = 2 }\n[[far_site]]\nname = \"DC3\"\npeers = [\"gw3:1\"]\nlink = { hold = \"20s\" }").unwrap();
    let entry = &config.replicas[0];
    assert!(entry.has_choice() && config.warnings.is_empty());
    let at: Vec<_> = entry
        .at_each()
        .map(|entry| (entry.site.clone(), entry.peers.len(), entry.link.hold.as_secs(), entry.link.lanes))
        .collect();
    assert_eq!(at, [("dc1".to_owned(), 2, 45, 2), ("dc3".to_owned(), 1, 20, 2)]);
    assert_eq!((entry.site.as_str(), entry.at("Dc3").unwrap().site.as_str()), ("dc1", "dc3"));
    assert!(entry.at("dc9").is_none());
    assert_eq!(config.far_sites().collect::<Vec<_>>(), ["dc1", "dc3"]);
    // One is the same as `site` and `peers`, and tables are the same as an inline list.
    let one = from("from = [ { site = \"dc1\", peers = [\"gw:7379\"] } ]").unwrap();
    assert_eq!(one.digest(), parse(&replica("")).unwrap().digest());
    assert!(!one.replicas[0].has_choice());
    let tables = from("[[replica.from]]\nsite = \"dc1\"\npeers = [\"gw:7379\"]").unwrap();
    assert_eq!(tables.digest(), one.digest());
}

#[test]
fn what_is_wrong_with_a_site_is_told_with_the_replica_and_the_site() {
    let good = "{ site = \"dc1\", peers = [\"gw:1\"] }";
    let many: Vec<_> =
        (0..17).map(|number| format!("{{ site = \"s{number}-x\", peers = [\"gw:1\"] }}")).collect();
    for (lines, fault) in [
        (
            "from = []".to_owned(),
            "9:8: replica \"orders\": `from` is empty: no site could have the master; write from = [{ site = \"dc1\"",
        ),
        (
            "from = \"dc1\"".to_owned(),
            "9:8: replica \"orders\": from: expected a list of tables, as in from = [{ site = \"dc1\", peers = [\"gw.dc1.example:7379\"] }], found string",
        ),
        (
            format!("from = {good}"),
            "9:8: replica \"orders\": from: expected a list of tables, as in from = [{ site",
        ),
        (
            format!("from = [{good}, \"dc3\"]"),
            "9:45: replica \"orders\": from: expected a table, as in from = [{ site",
        ),
        (
            format!("from = [{}]", many.join(", ")),
            "9:8: replica \"orders\": from: 17 sites are too many; 16 at most",
        ),
        (
            format!("from = [{good}, {{ peers = [\"gw:1\"] }}]"),
            "9:45: replica \"orders\" from: `site` is missing; write site = \"dc1\"",
        ),
        (
            format!("from = [{good}, {{ site = \"dc3\" }}]"),
            "9:45: replica \"orders\" from \"dc3\": `peers` is missing; write peers = ",
        ),
        (
            format!("from = [{good}, {{ site = \"dc3\", peers = [] }}]"),
            "replica \"orders\" from \"dc3\": `peers` is empty: there is no way to the far site",
        ),
        (
            format!("from = [{good}, {{ site = \"dc3\", peers = [\"gw\"] }}]"),
            "replica \"orders\" from \"dc3\": peers: \"gw\" is not an address",
        ),
        (
            format!("from = [{good}, {{ site = \"dc3\", peers = [\"gw:1\"], link = {{}} }}]"),
            "replica \"orders\" from \"dc3\": unknown key `link`; known here: peers, site",
        ),
        (
            format!("from = [{good}, {{ site = \"DC1\", peers = [\"gw:2\"] }}]"),
            "9:54: replica \"orders\": from: \"DC1\" is there twice, first at dir/gateway.toml:9:18; write all of its peers in one",
        ),
        (
            format!("from = [{good}, {{ site = \"dc2\", peers = [\"gw:2\"] }}]"),
            "9:54: replica \"orders\" from \"dc2\": site: \"dc2\" is this gateway itself",
        ),
        (
            format!("from = [{good}]\nsite = \"dc1\""),
            "10:8: replica \"orders\": `from` says which sites can have the master; leave `site` out",
        ),
        (
            format!("from = [{good}]\npeers = [\"gw:1\"]"),
            "10:9: replica \"orders\": `from` says which sites can have the master; leave `peers` out",
        ),
        (
            format!("from = [{good}]\n[[far_site]]\nname = \"dc1\"\npeers = [\"gw:1\"]"),
            "9:33: replica \"orders\" from \"dc1\": peers are given here and in the [[far_site]] of this site, at dir/gateway.toml:10:1",
        ),
        (
            format!("from = [{good}, {{ site = \"dc3\", peers = [\"gw:1\"] }}]\nlink = {{ lanes = 99 }}"),
            "10:18: replica \"orders\" [link]: lanes: expected a whole number",
        ),
        ("from = []\nlink = { lanes = 1 }".to_owned(), "9:8: replica \"orders\": `from` is empty"),
        (format!("form = [{good}]"), "did you mean `from`?"),
    ] {
        let faults = from(&lines).unwrap_err();
        let expected = if lines.starts_with("form") { 3 } else { 1 };
        assert!(faults.contains(fault) && faults.lines().count() == expected, "{lines}:\n{faults}\n{fault}");
    }
    // Each of them is read, whatever is wrong with the others.
    let faults = from("from = [ { site = \"dc1\", peers = [\"gw\"] }, { site = \"dc1\", peers = [\"gw:1\"] }, { site = \"*\" }, 5, { site = \"dc3\", peers = [] } ]").unwrap_err();
    for words in ["\"gw\" is not", "\"dc1\" is there twice", "wildcards", "found integer", "`peers` is empty"]
    {
        assert!(faults.contains(words), "{words}\n{faults}");
    }
    let strange = from("from = [{ site = \"a\\nb\\u202e\", peers = [\"gw:1\"] }]").unwrap_err();
    assert!(strange.lines().count() == 1 && !strange.contains('\u{202e}'), "{strange}");
}
