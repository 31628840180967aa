//! The way to the far site of each `[[replica]]`: connections, certificates, clocks, round trips.
//!
//! Entries that share a peer share what it answers: a peer that does not answer is tried once, and one
//! that does is asked once about each master, since the far gateway lets only so many through that
//! ask for no sync. All peers are tried concurrently, within a bound and until one deadline.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::DEADLINE;
use super::codes::Code;
use super::names::{self, Looked};
use super::path::{self, Measured};
use super::report::Finding;
use crate::admin::{awaited, follow_words};
use crate::clock;
use crate::config::{Config, Replica};
use crate::escape::shown;
use crate::follow::{FollowStatus, PartyStatus};
use crate::lineage::Standing;
use crate::session::Process;
use crate::session::choice::UNTOLD;
use crate::session::dial::{self, Dialer};
use crate::session::exchange::Exchange;
use crate::tls::loaded::Loaded;
use crate::tls::material::Material;
use crate::units::Address;

/// Difference between clocks in milliseconds above which there is a warning.
const SKEW: u64 = 30_000;

/// TCP connects by which a round trip is measured.
const CONNECTS: usize = 3;

/// Probes of the first entry of each peer.
const PROBES: usize = 2;

/// What is known already when the peers are tried.
pub(super) struct Before<'a> {
    /// The names that were looked up.
    pub(super) names: &'a HashMap<Address, Looked>,
    /// Bytes a second that the links of each entry carry, as far as they are known.
    pub(super) carried: &'a HashMap<String, f64>,
    /// The largest receive buffer of a connection.
    pub(super) receive: Option<u64>,
    /// The names of the masters that this site has itself.
    pub(super) here: &'a HashSet<String>,
    /// Bounds what runs at a time.
    pub(super) gate: &'a Arc<Semaphore>,
    /// When all of it ends.
    pub(super) until: Instant,
}

/// A gateway that accepted a probe.
#[derive(Clone, Debug)]
struct Accepted {
    /// Its host, escaped.
    node: String,
    /// By how many milliseconds its clock differs.
    skew: u64,
    /// Where its master stands, if it follows one.
    offer: Option<Standing>,
}

/// Why a peer does not offer the master.
#[derive(Clone, Debug)]
struct Failed {
    words: String,
    /// Whether its site just has no master now.
    no_master: bool,
}

/// What one peer answered about the master of one entry: the gateway, or why not.
type Answer = Result<Accepted, Failed>;

/// A result of a task.
enum Event {
    /// About an entry for one of its sites, by its place among [`entries`], and one of its peers.
    Answered(usize, Address, Answer),
    /// About the path to a peer of a site.
    Measured(Way, Measured),
}

/// Every `[[replica]]` for each of its sites, in the config's order.
fn entries(config: &Config) -> Vec<Arc<Replica>> {
    config.replicas.iter().flat_map(Replica::at_each).collect()
}

/// A peer of a site, with the masters for which entries name it, and these entries, by their places
/// among [`entries`].
#[derive(Clone, Debug)]
struct Way {
    site: String,
    peer: Address,
    masters: Vec<(String, Vec<usize>)>,
}

impl Way {
    /// The first entry that names it.
    fn first(&self) -> usize {
        self.masters[0].1[0]
    }

    /// Every entry that names it.
    fn entries(&self) -> impl Iterator<Item = usize> {
        self.masters.iter().flat_map(|(_, entries)| entries.iter().copied())
    }
}

/// The peers of all entries, each once for each site.
fn ways(entries: &[Arc<Replica>]) -> Vec<Way> {
    let mut ways: Vec<Way> = Vec::new();
    let mut places: HashMap<(String, &Address), usize> = HashMap::new();
    for (at, replica) in entries.iter().enumerate() {
        for peer in &replica.peers {
            let place = *places.entry((replica.site.to_ascii_lowercase(), peer)).or_insert_with(|| {
                ways.push(Way { site: replica.site.clone(), peer: peer.clone(), masters: Vec::new() });
                ways.len() - 1
            });
            let masters = &mut ways[place].masters;
            match masters.iter_mut().find(|(master, _)| *master == replica.master) {
                // A peer may stand twice in one list.
                Some((_, entries)) if entries.last() == Some(&at) => {}
                Some((_, entries)) => entries.push(at),
                None => masters.push((replica.master.clone(), vec![at])),
            }
        }
    }
    ways
}

/// Tries the way to each far site, with the certificates of this one.
pub(super) async fn check(config: &Config, material: Material, before: &Before<'_>) -> Vec<Finding> {
    let loaded = match Loaded::new(material, config.far_sites()) {
        Ok(loaded) => loaded,
        Err(error) => {
            return vec![Finding::new(Code::TlsUnusable, "[tls]", format!("TLS cannot be set up: {error}"))];
        }
    };
    let dialer = Arc::new(Dialer::new(
        Process::new(config),
        config.clone(),
        loaded,
        Exchange::new().0,
        CancellationToken::new(),
    ));
    let (events, mut told) = unbounded_channel();
    // Dropping the set gives up whatever still runs.
    let mut running = JoinSet::new();
    let entries = entries(config);
    for way in ways(&entries) {
        let unresolved = before.names.get(&way.peer).and_then(|looked| looked.addresses().err());
        if let Some(why) = unresolved {
            let answer: Answer = Err(Failed { words: format!("{}: {why}", way.peer), no_master: false });
            for at in way.entries() {
                let _ = events.send(Event::Answered(at, way.peer.clone(), answer.clone()));
            }
            continue;
        }
        let first = |(_, places): &(String, Vec<usize>)| Arc::clone(&entries[places[0]]);
        let replicas = way.masters.iter().map(first).collect();
        running.spawn(explore(Arc::clone(&dialer), way, replicas, Arc::clone(before.gate), events.clone()));
    }
    drop(events);
    let (mut answers, mut paths) = (HashMap::new(), Vec::new());
    while let Ok(Some(event)) = timeout_at(before.until, told.recv()).await {
        match event {
            Event::Answered(at, peer, answer) => drop(answers.insert((at, peer), answer)),
            Event::Measured(way, measured) => paths.push((way, measured)),
        }
    }
    drop(running);
    paths.sort_by_key(|(way, _)| way.first());
    let mut findings = told_of_entries(&entries, &answers, before.names, before.here);
    for (way, measured) in paths {
        let carried = way.entries().filter_map(|at| before.carried.get(&entries[at].name));
        let carried = carried.copied().reduce(f64::max);
        findings.extend(told_of_clock(&way, &answers));
        let link = &entries[way.first()].link;
        findings.extend(path::judge(
            &way.site,
            &way.peer.to_string(),
            &measured,
            link,
            carried,
            before.receive,
        ));
    }
    findings
}

/// Tries one peer for all its entries, and measures the path to it. `replicas` has an entry for each
/// master.
async fn explore(
    dialer: Arc<Dialer>,
    way: Way,
    replicas: Vec<Arc<Replica>>,
    gate: Arc<Semaphore>,
    events: UnboundedSender<Event>,
) {
    let tell = {
        let (peer, events) = (way.peer.clone(), events.clone());
        move |entries: &[usize], answer: &Answer| {
            for at in entries {
                let _ = events.send(Event::Answered(*at, peer.clone(), answer.clone()));
            }
        }
    };
    let mut measured = Measured::default();
    let mut address = None;
    let mut silent = None;
    let permit = Arc::clone(&gate).acquire_owned().await;
    for _ in 0..PROBES {
        let began = Instant::now();
        let probed = probe(&dialer, &replicas[0], &way.peer).await;
        let took = began.elapsed();
        match probed {
            Ok((at, accepted)) => {
                measured.probes.push(took);
                address = Some(at);
                tell(&way.masters[0].1, &Ok(accepted));
            }
            Err((failed, answered)) => {
                tell(&way.masters[0].1, &Err(failed.clone()));
                silent = (!answered).then_some(failed);
                break;
            }
        }
    }
    if let Some(address) = address {
        for _ in 0..CONNECTS {
            let began = Instant::now();
            if let Ok(Ok(_)) = timeout(DEADLINE, TcpStream::connect(address)).await {
                measured.connects.push(began.elapsed());
            }
        }
    }
    drop(permit);
    // A gateway that answers is asked about the other masters too.
    let mut asked = JoinSet::new();
    for ((_, entries), replica) in way.masters.iter().zip(replicas).skip(1) {
        if let Some(why) = &silent {
            tell(entries, &Err(why.clone()));
            continue;
        }
        let (dialer, gate, peer) = (Arc::clone(&dialer), Arc::clone(&gate), way.peer.clone());
        let (tell, entries) = (tell.clone(), entries.clone());
        asked.spawn(async move {
            let _permit = gate.acquire_owned().await;
            let answer = probe(&dialer, &replica, &peer).await;
            tell(&entries, &answer.map(|(_, accepted)| accepted).map_err(|(failed, _)| failed));
        });
    }
    if !measured.connects.is_empty() {
        let _ = events.send(Event::Measured(way, measured));
    }
    while asked.join_next().await.is_some() {}
}

/// Asks one peer about the master of an entry. The error has whether any gateway answered.
async fn probe(
    dialer: &Arc<Dialer>,
    replica: &Replica,
    peer: &Address,
) -> Result<(std::net::SocketAddr, Accepted), (Failed, bool)> {
    let one = Arc::new(Replica { peers: vec![peer.clone()], ..replica.clone() });
    match dial::probe(dialer, &one).await {
        Ok((address, accept)) => {
            let skew = clock::now_millis().abs_diff(accept.identity.clock);
            let node = shown(accept.identity.node.as_bytes());
            Ok((address, Accepted { node, skew, offer: accept.offer.map(|offer| offer.standing) }))
        }
        Err(unreached) => {
            let no_master = unreached.has_no_master();
            Err((Failed { words: unreached.words, no_master }, unreached.answered))
        }
    }
}

/// What there is to say about each entry, in the config's order.
fn told_of_entries(
    entries: &[Arc<Replica>],
    answers: &HashMap<(usize, Address), Answer>,
    names: &HashMap<Address, Looked>,
    here: &HashSet<String>,
) -> Vec<Finding> {
    let (mut findings, mut open, mut count) = (Vec::new(), Vec::new(), 0);
    let mut at = 0;
    // Those of one name are the sites of one entry.
    for sites in entries.chunk_by(|one, other| one.name == other.name) {
        count += 1;
        let told: Vec<Told> =
            (at..).zip(sites).map(|(at, site)| told_of_site(at, site, answers, names)).collect();
        at += sites.len();
        let (entry, has_choice) = (&sites[0], sites.len() > 1);
        let finding =
            |code, text: String| Finding::new(code, &entry.name, format!("replica {:?}: {text}", entry.name));
        let is_open = told.iter().any(|told| told.missing > 0);
        let works = told.iter().any(|told| told.working > 0);
        for (site, told) in sites.iter().zip(&told) {
            findings.extend(told.findings.clone());
            if has_choice && told.working == 0 && told.missing == 0 && !told.no_master {
                let text = format!(
                    "no gateway of {} says that it has the master, or that it has none; the lines above say why",
                    site.site
                );
                findings.push(finding(Code::SiteUnreached, text));
            }
        }
        if has_choice {
            findings.extend(several(&entry.name, sites, &told));
        }
        // What has its master here needs none elsewhere.
        let all_wait = here.contains(&entry.name) && told.iter().all(|told| told.no_master);
        if !works && !is_open && !all_wait {
            let text = match has_choice {
                true => format!(
                    "none of its sites ({}) has the master now; the lines above say why",
                    entry.sites()
                ),
                false => format!("no gateway of {} offers the master; the lines above say why", entry.site),
            };
            findings.push(finding(Code::NoWay, text));
        }
        if is_open {
            open.push(format!("{:?}", entry.name));
        }
    }
    findings.extend(not_reached(&open, count));
    findings
}

/// What was found of one site of an entry.
struct Told {
    findings: Vec<Finding>,
    /// How many of its peers offer the master, and how many were not tried.
    working: usize,
    missing: usize,
    /// Whether the site just has no master now.
    no_master: bool,
    /// Where its master stands.
    offer: Option<Standing>,
}

fn told_of_site(
    at: usize,
    replica: &Replica,
    answers: &HashMap<(usize, Address), Answer>,
    names: &HashMap<Address, Looked>,
) -> Told {
    let what = format!("replica {:?}", replica.name);
    let finding = |code, text: String| Finding::new(code, &replica.name, format!("{what}: {text}"));
    let mut told = Told { findings: Vec::new(), working: 0, missing: 0, no_master: false, offer: None };
    for peer in &replica.peers {
        let found = match answers.get(&(at, peer.clone())) {
            None => {
                told.missing += 1;
                continue;
            }
            Some(Ok(accepted)) if replica.has_choice() && accepted.offer.is_none() => finding(
                Code::PeerUntold,
                format!("{peer} is {} on {}, and {UNTOLD}", replica.site, accepted.node),
            ),
            Some(Ok(accepted)) => {
                told.working += 1;
                told.offer = told.offer.take().or_else(|| accepted.offer.clone());
                let known = names.get(peer).and_then(|looked| looked.addresses().ok()).unwrap_or_default();
                let stream = accepted.offer.as_ref().map_or_else(String::new, |standing| {
                    format!(" (stream {}, at {})", standing.history.short(), standing.offset)
                });
                let (site, node, master) = (&replica.site, &accepted.node, &replica.master);
                finding(
                    Code::Peer,
                    format!(
                        "{peer} ({}) is {site} on {node}, offers master {master:?} to us, and its Redis is up{stream}",
                        names::list(known)
                    ),
                )
            }
            Some(Err(failed)) if failed.no_master => {
                told.no_master = true;
                finding(
                    Code::PeerNoMaster,
                    format!("peer {}: {} has no master now, and waits", failed.words, replica.site),
                )
            }
            Some(Err(Failed { words, .. })) => {
                finding(Code::PeerUnreached, format!("peer {words}{}", unreached(words, peer)))
            }
        };
        told.findings.push(found);
    }
    told
}

/// Whether several sites say that they have the master.
fn several(name: &str, sites: &[Arc<Replica>], told: &[Told]) -> Option<Finding> {
    let offering: Vec<(&str, &Standing)> =
        sites.iter().zip(told).filter_map(|(site, told)| Some((&*site.site, told.offer.as_ref()?))).collect();
    let (_, first) = offering.first()?;
    if offering.len() < 2 {
        return None;
    }
    let is_same = offering.iter().all(|(_, standing)| standing.history == first.history);
    let all: Vec<String> = offering
        .iter()
        .map(|(site, standing)| format!("{site} (stream {})", standing.history.short()))
        .collect();
    let what = if is_same {
        "with the same stream: one follows the other, and does not say so; write follow = \"master\" in its [[master]]"
    } else {
        "with different data: find out which has the right data, and make the other one its replica: what was written to that alone is lost; the one that is followed stays so meanwhile"
    };
    let text = format!("replica {name:?}: {} offer the master, {what}", all.join(" and "));
    Some(Finding::new(Code::SitesSeveral, name, text))
}

/// What the running gateway refuses or doubts of what sites offer: it alone knows what was followed.
pub(super) fn doubts(following: &[FollowStatus]) -> Vec<Finding> {
    let sites = following.iter().filter(|entry| entry.role == "replica" && !awaited::waits(entry));
    let doubt = |entry: &FollowStatus| {
        let is_rival =
            |party: &PartyStatus| party.state == "master" && !follow_words::is_present(entry, party);
        let rival =
            entry.parties.iter().any(is_rival).then(|| "another site offers the master too".to_owned());
        let why = entry.attention.clone().or(rival)?;
        let all = std::iter::once(why).chain(follow_words::others(entry));
        let all = shown(all.collect::<Vec<_>>().join("; ").as_bytes());
        let text = format!("replica {:?}: the running gateway says: {all}", entry.name);
        Some(Finding::new(Code::SiteDoubt, &entry.name, text))
    };
    sites.filter_map(doubt).collect()
}

/// The entries of which a peer was not tried in time.
fn not_reached(open: &[String], all: usize) -> Option<Finding> {
    let first = open.first()?;
    let names = open.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = if open.len() > 5 { ", …" } else { "" };
    let text = format!(
        "{} of {all} replicas: not every peer was tried within {} s: {names}{more}; try again, or see why others are slow",
        open.len(),
        super::WHOLE.as_secs()
    );
    Some(Finding::new(Code::NotReached, first.trim_matches('"'), text))
}

/// The clock of the gateway behind a peer.
fn told_of_clock(way: &Way, answers: &HashMap<(usize, Address), Answer>) -> Option<Finding> {
    let answer = answers.get(&(way.first(), way.peer.clone()))?;
    let skew = Duration::from_millis(answer.as_ref().ok()?.skew);
    let text =
        format!("far site {}: the clock at {} differs by {:.1} s", way.site, way.peer, skew.as_secs_f64());
    Some(if skew > Duration::from_millis(SKEW) {
        let text = format!("{text}: certificates are checked by the clock; set both clocks by NTP");
        Finding::new(Code::ClockDiffers, &way.peer, text).advise("timedatectl set-ntp true")
    } else {
        Finding::new(Code::Clock, &way.peer, text)
    })
}

/// Advice if a TCP connection was refused.
fn unreached(error: &str, peer: &Address) -> String {
    let Address { host, port } = peer;
    // If nothing answers, the error itself has the advice.
    if error.contains("Connection refused") {
        format!(
            "; nothing listens on TCP port {port} of {host}, or a firewall refuses it: is the gateway there running?"
        )
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn config(entries: &[(&str, &str, &[&str])]) -> Config {
        let mut text = "site = \"dc2\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n".to_owned();
        for (at, (site, master, peers)) in entries.iter().enumerate() {
            text += &format!(
                "[[replica]]\nname = \"r{at}\"\nmaster = \"{master}\"\nlisten = \"127.0.0.1:{}\"\nsite = \"{site}\"\npeers = {peers:?}\n",
                6390 + at
            );
        }
        Config::parse(&[Source::new("gateway.toml", text)]).unwrap()
    }

    #[test]
    fn a_peer_of_a_site_is_one_way_and_is_asked_once_about_each_master() {
        let config = config(&[
            ("dc1", "m", &["a:1", "b:1", "b:1"]),
            ("DC1", "n", &["b:1"]),
            ("dc1", "m", &["b:1"]),
            ("dc3", "m", &["b:1"]),
        ]);
        let found: Vec<_> = ways(&entries(&config))
            .into_iter()
            .map(|way| format!("{} {} {:?}", way.site, way.peer, way.masters))
            .collect();
        assert_eq!(
            found,
            [r#"dc1 a:1 [("m", [0])]"#, r#"dc1 b:1 [("m", [0, 2]), ("n", [1])]"#, r#"dc3 b:1 [("m", [3])]"#,]
        );
    }

    #[test]
    fn an_entry_fails_only_once_every_peer_has_failed_and_what_is_open_is_told() {
        let config =
            config(&[("dc1", "m", &["a:1", "b:1"]), ("dc1", "m", &["b:1", "c:1"]), ("dc1", "m", &["c:1"])]);
        let peer = |host: &str| Address { host: host.to_owned(), port: 1 };
        let good = Accepted { node: "gw".to_owned(), skew: 0, offer: None };
        let failed = || Err(Failed { words: "b:1: Connection refused".to_owned(), no_master: false });
        let answers = HashMap::from([
            ((0, peer("a")), Ok(good)),
            ((0, peer("b")), failed()),
            ((1, peer("b")), failed()),
            ((2, peer("c")), failed()),
        ]);
        let found = told_of_entries(&entries(&config), &answers, &HashMap::new(), &HashSet::new());
        let codes: Vec<_> = found.iter().map(|finding| finding.code).collect();
        use Code::{NoWay, NotReached, Peer, PeerUnreached};
        assert_eq!(codes, [Peer, PeerUnreached, PeerUnreached, PeerUnreached, NoWay, NotReached]);
        assert!(
            found[5].text.starts_with("1 of 3 replicas: ") && found[5].text.contains("\"r1\""),
            "{found:?}"
        );
    }

    fn choice() -> Vec<Arc<Replica>> {
        let text = "site = \"dc3\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n[[replica]]\nname = \"orders\"\nlisten = \"127.0.0.1:6390\"\nfrom = [ { site = \"dc1\", peers = [\"a:1\"] }, { site = \"dc2\", peers = [\"b:1\"] } ]\n";
        entries(&Config::parse(&[Source::new("gateway.toml", text)]).unwrap())
    }

    /// What is found of an entry with two sites that have answered so.
    fn told(first: Answer, second: Answer) -> Vec<(Code, String)> {
        let peer = |host: &str| Address { host: host.to_owned(), port: 1 };
        let answers = HashMap::from([((0, peer("a")), first), ((1, peer("b")), second)]);
        let found = told_of_entries(&choice(), &answers, &HashMap::new(), &HashSet::new());
        found.into_iter().map(|finding| (finding.code, finding.text)).collect()
    }

    fn codes(found: &[(Code, String)]) -> Vec<Code> {
        found.iter().map(|(code, _)| *code).collect()
    }

    fn offers(history: u8) -> Answer {
        let history = crate::lineage::History::read(&[history; 40]).unwrap();
        let offer = Some(Standing { history, offset: 7, earlier: None, run: None });
        Ok(Accepted { node: "gw".to_owned(), skew: 0, offer })
    }

    fn fails(words: &str, no_master: bool) -> Answer {
        Err(Failed { words: words.to_owned(), no_master })
    }

    #[test]
    fn a_site_that_waits_is_no_fault_where_the_master_is_here() {
        let config = config(&[("dc1", "m", &["a:1"])]);
        let peer = Address { host: "a".to_owned(), port: 1 };
        let found = |answer: Answer, here: &[&str]| {
            let answers = HashMap::from([((0, peer.clone()), answer)]);
            let here = here.iter().map(|name| (*name).to_owned()).collect();
            let found = told_of_entries(&entries(&config), &answers, &HashMap::new(), &here);
            found.into_iter().map(|finding| finding.code).collect::<Vec<_>>()
        };
        use Code::{NoWay, PeerNoMaster, PeerUnreached};
        assert_eq!(found(fails("a:1: no", true), &["r0"]), [PeerNoMaster]);
        assert_eq!(found(fails("a:1: no", true), &[]), [PeerNoMaster, NoWay]);
        assert_eq!(found(fails("a:1: no", false), &["r0"]), [PeerUnreached, NoWay]);
    }

    #[test]
    fn a_site_whose_offer_the_running_gateway_refuses_is_told() {
        let entry = |fields: serde_json::Value| -> FollowStatus {
            let mut entry = serde_json::json!({"name": "orders", "role": "replica", "present": {"party": "dc1"},
                "parties": [{"party": "dc1", "words": "is followed"},
                    {"party": "dc2", "words": "took over at offset 5, without the last 9 bytes"}]});
            entry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            serde_json::from_value(entry).unwrap()
        };
        let found = doubts(&[entry(serde_json::json!({"attention": "dc1 does not answer"}))]);
        assert_eq!(found[0].code, Code::SiteDoubt);
        assert_eq!(
            found[0].text,
            "replica \"orders\": the running gateway says: dc1 does not answer; dc2 took over at offset 5, without the last 9 bytes"
        );
        assert!(doubts(&[entry(serde_json::json!({}))]).is_empty());
        let rival = serde_json::json!({"parties": [{"party": "dc2", "state": "master", "words": "x"}]});
        assert!(doubts(&[entry(rival)])[0].text.ends_with("another site offers the master too; dc2 x"));
        let here = serde_json::json!({"attention": "nobody", "present": null, "standby": true});
        assert!(doubts(&[entry(here)]).is_empty(), "the master is here");
    }

    #[test]
    fn one_of_several_sites_has_the_master_and_the_others_need_not() {
        use Code::{NoWay, Peer, PeerNoMaster, PeerUnreached, PeerUntold, SiteUnreached, SitesSeveral};
        let found = told(offers(b'a'), fails("b:1: refused: is a replica", true));
        assert_eq!(codes(&found), [Peer, PeerNoMaster]);
        assert!(found[0].1.ends_with("its Redis is up (stream aaaaaaaa, at 7)"), "{found:?}");
        assert!(found[1].1.ends_with("refused: is a replica: dc2 has no master now, and waits"), "{found:?}");
        let found = told(offers(b'a'), fails("b:1: Connection refused", false));
        assert_eq!(codes(&found), [Peer, PeerUnreached, SiteUnreached]);
        assert!(found[2].1.contains("no gateway of dc2 says that it has the master"), "{found:?}");
        let nobody = told(fails("a:1: no", true), fails("b:1: no", true));
        assert_eq!(codes(&nobody), [PeerNoMaster, PeerNoMaster, NoWay]);
        assert!(nobody[2].1.contains("none of its sites (dc1"), "{nobody:?}");
        let untold = Ok(Accepted { node: "gw".to_owned(), skew: 0, offer: None });
        let found = told(offers(b'a'), untold);
        assert_eq!(codes(&found), [Peer, PeerUntold, SiteUnreached]);
        let both = told(offers(b'a'), offers(b'b'));
        assert_eq!(codes(&both), [Peer, Peer, SitesSeveral]);
        assert!(
            both[2].1.contains(
                "dc1 (stream aaaaaaaa) and dc2 (stream bbbbbbbb) offer the master, with different data"
            ),
            "{both:?}"
        );
        assert!(told(offers(b'a'), offers(b'a'))[2].1.contains("with the same stream"));
    }
}
