//! Every warning about a master's settings comes with a command after which it is gone.

use proptest::prelude::*;

use super::super::codes::Level;
use super::*;
use crate::units;

const GOOD: &[(&str, &str)] = &[
    ("repl-timeout", "60"),
    ("repl-ping-replica-period", "10"),
    ("repl-backlog-size", "1048576"),
    ("client-output-buffer-limit", "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"),
    ("repl-diskless-sync", "yes"),
    ("repl-diskless-sync-delay", "5"),
    ("save", "3600 1"),
    ("appendonly", "no"),
    ("maxmemory", "0"),
    ("min-replicas-to-write", "0"),
    ("min-replicas-max-lag", "10"),
    ("replica-read-only", "yes"),
];

const INFO: &[(&str, &str)] = &[
    ("redis_version", "7.0.15"),
    ("redis_mode", "standalone"),
    ("role", "master"),
    ("master_repl_offset", "1234"),
    ("connected_slaves", "1"),
    ("slave0", "ip=dc2,port=6380,state=online,offset=1,lag=0"),
    ("min_slaves_good_slaves", "1"),
    ("total_system_memory", "8589934592"),
    ("used_memory", "1000000"),
    ("rdb_last_bgsave_status", "ok"),
    ("aof_last_write_status", "ok"),
];

/// The findings about a master with these facts, at a write rate, with room for a link.
fn judged(facts: &Facts, link: &LinkSettings, mean: Option<f64>, room: u64) -> Vec<Finding> {
    let redis = units::address("127.0.0.1:6379").unwrap();
    let sites = ["dc2".to_owned()];
    let (user, may_be_replica) = ("replgate", false);
    judge(&Judged {
        name: "orders",
        redis: &redis,
        link,
        facts,
        mean,
        room,
        sites: &sites,
        user,
        may_be_replica,
    })
}

fn codes(findings: &[Finding]) -> Vec<Code> {
    findings.iter().filter(|finding| finding.level != Level::Ok).map(|finding| finding.code).collect()
}

/// Carries out a piece of advice `redis-cli … CONFIG SET KEY VALUE  # …`, as Redis would.
fn obey(facts: &mut Facts, advice: &str) {
    let (command, line) = advice.split_once("  # redis.conf: ").unwrap();
    let (_, set) = command.split_once(" CONFIG SET ").unwrap();
    let (key, value) = line.split_once(' ').unwrap();
    assert_eq!(set.replace('\'', ""), format!("{key} {value}"));
    let bytes = |word: &str| {
        let (digits, unit) = word.find('m').or(word.find('k')).map_or((word, ""), |at| word.split_at(at));
        let scale =
            [("mb", 1 << 20), ("kb", 1 << 10), ("", 1)].iter().find(|(name, _)| *name == unit).unwrap().1;
        digits.parse::<u64>().map(|number| number * scale)
    };
    let words =
        value.split(' ').map(|word| bytes(word).map_or_else(|_| word.to_owned(), |bytes| bytes.to_string()));
    facts.set(key, &words.collect::<Vec<_>>().join(" "));
}

#[test]
fn a_good_master_gets_no_warning() {
    let facts = Facts::of(INFO, GOOD);
    let findings = judged(&facts, &LinkSettings::default(), Some(1000.0), 1 << 30);
    assert_eq!(codes(&findings), [], "{findings:#?}");
    assert!(findings.len() >= 8, "each subject is judged: {findings:#?}");
}

#[test]
fn each_bad_setting_has_its_code_and_an_advice_that_mends_it() {
    let fast = Some(5e6);
    for (key, value, mean, code) in [
        ("repl-timeout", "50", None, Code::HoldLong),
        ("repl-ping-replica-period", "25", None, Code::PingPeriodLong),
        ("repl-backlog-size", "1048576", fast, Code::BacklogShort),
        ("client-output-buffer-limit", "slave 8388608 8388608 60", fast, Code::OutputBufferSmall),
        ("client-output-buffer-limit", "slave 0 1048576 1", fast, Code::OutputBufferSmall),
        ("save", "", None, Code::NoPersistence),
        ("repl-diskless-sync-delay", "600", None, Code::DisklessDelayLong),
        ("maxmemory", "8589934592", None, Code::MaxMemoryTight),
        ("min-replicas-to-write", "2", None, Code::MinReplicasLacking),
    ] {
        let mut facts = Facts::of(INFO, GOOD);
        facts.set("repl-backlog-size", "1073741824");
        facts.set(key, value);
        let look = |facts: &Facts| judged(facts, &LinkSettings::default(), mean, 16 << 20);
        let mut found = look(&facts);
        if code == Code::PingPeriodLong {
            // A longer ping period also leaves less for the hold.
            assert_eq!(codes(&found), [Code::HoldLong, code]);
            found.remove(0);
        } else {
            assert_eq!(codes(&found), [code], "{key} {value}: {found:#?}");
        }
        let advice =
            found.iter().find(|finding| finding.code == code).and_then(|finding| finding.advice.clone());
        obey(&mut facts, &advice.unwrap_or_else(|| panic!("{code:?} has no advice")));
        assert_eq!(codes(&look(&facts)), [], "{key} {value} after {:?}", found);
    }
}

#[test]
fn the_value_that_is_advised_comes_with_its_reason() {
    let facts = Facts::of(INFO, GOOD);
    let found = judged(&facts, &LinkSettings::default(), Some(5e6), 1 << 30);
    let short = found.iter().find(|finding| finding.code == Code::BacklogShort).unwrap();
    assert!(short.text.ends_with("512mb: 5.0 MB/s × (45s hold + 20s for the restart) = 325 MB"), "{short:?}");
    assert_eq!(
        short.advice.as_deref(),
        Some(
            "redis-cli -h 127.0.0.1 -p 6379 CONFIG SET repl-backlog-size 512mb  # redis.conf: repl-backlog-size 512mb"
        )
    );
}

#[test]
fn no_more_memory_is_advised_than_the_machine_has() {
    let with = |used: &str, rate: f64| {
        let facts = Facts::of(&[INFO, &[("used_memory", used)]].concat(), GOOD);
        let found = judged(&facts, &LinkSettings::default(), Some(rate), 1 << 30);
        let of = |code| found.iter().find(|finding| finding.code == code).cloned();
        (of(Code::BacklogShort), of(Code::OutputBufferSmall))
    };
    // 8 GiB, of which 1 GiB is spare: a backlog of 256 MiB, and so not for hold.
    let (backlog, buffer) = with("7516192768", 10e6);
    let backlog = backlog.unwrap();
    assert!(backlog.text.ends_with("256mb: 10.0 MB/s × 20s for the restart = 200 MB"), "{backlog:?}");
    assert!(backlog.advice.is_some() && buffer.is_none());
    let (backlog, buffer) = with("7516192768", 50e6);
    let [backlog, buffer] = [backlog, buffer].map(Option::unwrap);
    assert!(
        backlog.advice.is_none() && backlog.text.contains("needs 1000 MB, and its machine has too little"),
        "{backlog:?}"
    );
    assert!(
        buffer.advice.is_none() && buffer.text.contains("lower hold, or raise [limits] memory"),
        "{buffer:?}"
    );
}

#[test]
fn what_it_is_and_whether_that_works_is_told() {
    let with = |more: &[(&str, &str)], set: &[(&str, &str)]| {
        let info = [INFO, more].concat();
        let facts = Facts::of(&info, &[GOOD, set].concat());
        let findings = judged(&facts, &LinkSettings::default(), None, 1 << 30);
        (codes(&findings), findings)
    };
    let replica = [("role", "slave"), ("master_host", "10.0.0.5"), ("master_port", "6390")];
    let (warned, all) = with(&replica, &[("save", "")]);
    assert!(
        warned.is_empty() && all.iter().any(|one| one.text.contains("a replica of 10.0.0.5:6390")),
        "{all:#?}"
    );
    let down = [&replica[..], &[("master_link_status", "down")]].concat();
    assert_eq!(with(&down, &[("replica-read-only", "no")]).0, [Code::ChainDown, Code::ChainWritable]);
    for (field, value, code) in [
        ("redis_mode", "cluster", Code::RedisCluster),
        ("redis_mode", "sentinel", Code::RedisSentinel),
        ("redis_version", "6.0.16", Code::VersionUntried),
        ("redis_version", "9.0.0", Code::VersionUntried),
        ("valkey_version", "7.2.4", Code::VersionUntried),
        ("rdb_last_bgsave_status", "err", Code::PersistenceFailing),
    ] {
        assert_eq!(with(&[(field, value)], &[]).0, [code], "{field} {value}");
    }
    assert_eq!(with(&[("valkey_version", "9.1.0")], &[]).0, []);
}

#[test]
fn a_missing_right_is_named_with_its_grant() {
    let facts = Facts { lacks: vec!["+info", "+config|get"], ..Facts::default() };
    let found = judged(&facts, &LinkSettings::default(), None, 1 << 30);
    assert_eq!(codes(&found), [Code::GrantMissing]);
    assert_eq!(
        found[0].advice.as_deref(),
        Some("redis-cli -h 127.0.0.1 -p 6379 ACL SETUSER replgate +info '+config|get'")
    );
    let facts = Facts {
        unread: Some("it answers INFO with -NOAUTH Authentication required.".to_owned()),
        ..Facts::default()
    };
    let found = judged(&facts, &LinkSettings::default(), None, 1 << 30);
    assert_eq!(codes(&found), [Code::SettingsUnread]);
    assert!(found[0].text.contains("--redis-user"), "{found:?}");
}

#[test]
fn replicas_behind_the_tunnel_are_told_from_local_ones() {
    let more = [
        ("slave1", "ip=10.0.0.9,port=6380,state=online"),
        ("slave2", "ip=bravo.DC2,port=1,state=online"),
        ("min_slaves_good_slaves", "3"),
    ];
    let facts = Facts::of(&[INFO, &more].concat(), &[GOOD, &[("min-replicas-to-write", "1")]].concat());
    let found = judged(&facts, &LinkSettings::default(), None, 1 << 30);
    let told = found.iter().find(|finding| finding.code == Code::MinReplicas).unwrap();
    assert!(told.text.contains("3 replicas count, 2 of them at other sites"), "{told:?}");
}

#[test]
fn a_limit_lasts_until_the_first_of_its_two_bounds() {
    let limit = |setting| OutputLimit::read(setting).unwrap();
    let both = limit("normal 1 1 1 replica 200 100 5 pubsub 1 1 1");
    assert_eq!(both.lasts(0, 10.0), Some(15.0));
    assert_eq!(both.lasts(100, 10.0), Some(25.0));
    assert_eq!(limit("slave 200 0 0").lasts(0, 10.0), Some(20.0));
    assert_eq!(limit("slave 0 0 0").lasts(0, 10.0), None);
    assert_eq!(OutputLimit::read("normal 0 0 0"), None);
    assert_eq!(OutputLimit::read("slave 1 x 1"), None);
}

proptest! {
    /// Whatever Redis says, nothing panics, and each piece of advice mends what it is about.
    #[test]
    fn advice_always_mends(
        timeout in 0u64..100_000,
        ping in 0u64..100_000,
        backlog in 0u64..(1 << 40),
        hard in 0u64..(1 << 40),
        soft in 0u64..(1 << 40),
        seconds in 0u64..1000,
        rate in prop_oneof![Just(None), (0.0..1e10).prop_map(Some)],
        hold in 0u64..3600,
        room in 0u64..(1 << 40),
        most in 0u64..(1 << 44),
    ) {
        let mut facts = Facts::of(INFO, GOOD);
        for (key, value) in [
            ("repl-timeout", timeout),
            ("repl-ping-replica-period", ping),
            ("repl-backlog-size", backlog),
            ("maxmemory", most),
        ] {
            facts.set(key, &value.to_string());
        }
        facts.set("client-output-buffer-limit", &format!("slave {hard} {soft} {seconds}"));
        let link = LinkSettings { hold: Duration::from_secs(hold), ..LinkSettings::default() };
        let look = |facts: &Facts| judged(facts, &link, rate, room);
        for finding in look(&facts).iter().filter(|finding| finding.level == Level::Warn) {
            // Without memory to spare there is nothing to type.
            let Some(advice) = &finding.advice else {
                let of_memory = [Code::MaxMemoryTight, Code::BacklogShort, Code::OutputBufferSmall];
                prop_assert!(of_memory.contains(&finding.code), "{finding:?}");
                continue;
            };
            let mut mended = facts.clone();
            obey(&mut mended, advice);
            prop_assert!(!codes(&look(&mended)).contains(&finding.code), "{finding:?}");
        }
    }

    #[test]
    fn any_text_from_redis_is_taken(key in "[ -~]{0,20}", value in "\\PC{0,60}", at in 0..GOOD.len(), field in 0..INFO.len()) {
        let mut facts = Facts::of(&[INFO, &[(INFO[field].0, value.as_str())]].concat(), GOOD);
        facts.set(GOOD[at].0, &value);
        facts.set(&key, &value);
        judged(&facts, &LinkSettings::default(), Some(1e6), 1 << 30);
    }
}
