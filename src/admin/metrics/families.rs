//! Which metrics there are, and what each of them is made of.
//!
//! Labels come from the config alone: a far side, a client or a link never adds one. Every entry of the
//! config has its samples from the start on, zero where there is nothing to tell, so that a rule can see
//! that nothing is there. Where nothing can be known, as the lag of a link that is not there, the sample is
//! left out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Snapshot;
use super::page::{Label, Labels, Page, Value};
use crate::admin::awaited::{self, Awaited};
use crate::admin::ready::unready;
use crate::follow::FollowStatus;
use crate::link::LaneLoss;
use crate::own_process::Usage;
use crate::redis::replication::{Replication, Stage};
use crate::registry::{Dialled, LinkStatus, Tally};
use crate::tls::expiry::{Kind, Urgency};

/// The states of a link, as `status` names them, with their labels.
const STATES: [(&str, &str); 8] = [
    ("handshake", "handshake"),
    ("waiting", "waiting"),
    ("full sync", "full_sync"),
    ("loading", "loading"),
    ("streaming", "streaming"),
    ("unknown", "unknown"),
    ("tunnel", "tunnel"),
    ("held", "held"),
];

/// The kinds of syncs, in the order of [`Tally::syncs`].
const SYNCS: [&str; 3] = ["full", "partial", "refused"];

/// An entry of the config with one far site: what is counted for it, and its links now.
struct Place<'a> {
    labels: Arc<[Label]>,
    is_replica: bool,
    /// Whether the config in use has it.
    is_current: bool,
    /// Whether a client here asked a moment ago and got no link.
    without: bool,
    /// Whether a link is to be there.
    awaited: bool,
    tally: &'a Tally,
    links: Vec<&'a LinkStatus>,
}

impl<'a> Place<'a> {
    fn held(&self) -> impl Iterator<Item = &'a LinkStatus> {
        self.links.iter().copied().filter(|link| link.held_seconds.is_some())
    }

    fn replications(&self) -> impl Iterator<Item = &'a Replication> {
        self.links.iter().filter_map(|link| link.replication.as_ref())
    }

    /// The snapshots under way: one for each replica, also where it comes over a second connection.
    fn snapshots(&self) -> impl Iterator<Item = &'a Replication> {
        let whole = self.replications().filter(|replication| replication.part_of.is_none());
        whole.filter(|replication| matches!(replication.stage, Stage::FullSync | Stage::Loading))
    }

    /// Whether something carries a replica, nothing is held, and no client was left without a link.
    fn is_up(&self) -> bool {
        let carries = |link: &&&LinkStatus| !matches!(link.state.as_str(), "handshake" | "held");
        self.links.iter().any(|link| carries(&link)) && self.held().next().is_none() && !self.without
    }

    /// How long the held link that gives up first still waits; all of its `hold` if none is held. With that
    /// link's `hold`.
    fn hold_left(&self) -> Option<(f64, f64)> {
        let left = self
            .links
            .iter()
            .map(|link| (link.gives_up_in_seconds.unwrap_or(link.hold_seconds), link.hold_seconds));
        left.min_by(|(one, _), (other, _)| one.total_cmp(other))
    }

    /// The progress of the snapshot that has come least far, of those whose size is known.
    fn progress(&self) -> Option<f64> {
        let share = |replication: &Replication| replication.snapshot.as_ref()?.share();
        least(self.snapshots().filter_map(share))
    }

    fn snapshot_bytes(&self) -> Option<u64> {
        let bytes = self.snapshots().filter_map(|replication| Some(replication.snapshot.as_ref()?.bytes));
        bytes.reduce(|sum, bytes| sum + bytes)
    }
}

fn least(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.reduce(f64::min)
}

fn greatest(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.reduce(f64::max)
}

/// The entries of the config, and those that were in it before and are still counted.
fn places<'a>(snapshot: &'a Snapshot<'_>) -> Vec<Place<'a>> {
    let mut links: HashMap<_, Vec<&LinkStatus>> = HashMap::new();
    for link in &snapshot.status.links {
        let key = (link.role.as_str(), link.name.as_str(), link.site.to_ascii_lowercase());
        links.entry(key).or_default().push(link);
    }
    let awaited = Awaited::of(snapshot.status);
    let places = snapshot.tallies.places.iter();
    places
        .map(|(place, is_current, tally)| {
            let labels: [Label; 3] = [
                ("name", place.name.clone().into()),
                ("role", place.role.into()),
                ("site", place.site.clone().into()),
            ];
            let key = (place.role, place.name.as_str(), place.site.to_ascii_lowercase());
            let is_replica = place.role == "replica";
            let without = is_replica && snapshot.status.without_link.contains(&place.name);
            let is_awaited = awaited.is(place.role, &place.name, &place.site);
            Place {
                labels: Arc::from(labels),
                is_replica,
                is_current: *is_current,
                without,
                awaited: is_awaited,
                tally,
                links: links.remove(&key).unwrap_or_default(),
            }
        })
        .collect()
}

/// Every metric of this state.
pub(super) fn of(snapshot: &Snapshot<'_>) -> Page {
    let (mut page, places) = (Page::default(), places(snapshot));
    of_gateway(&mut page, snapshot);
    of_following(&mut page, snapshot);
    of_links(&mut page, &places);
    of_streams(&mut page, &places);
    of_breaks(&mut page, &places);
    of_trust(&mut page, snapshot);
    of_process(&mut page, &snapshot.usage);
    page
}

/// A sample without labels.
fn alone(value: impl Into<Value>) -> [(Labels, Value); 1] {
    [(Labels::default(), value.into())]
}

/// A sample with one label.
fn with(name: &'static str, label: &'static str, value: impl Into<Value>) -> (Labels, Value) {
    (Labels { own: Some((name, label.into())), ..Labels::default() }, value.into())
}

/// A sample of each entry of the config for which there is a value.
fn each<'p, V: Into<Value>>(
    places: &'p [Place<'p>],
    value: impl Fn(&Place<'_>) -> Option<V>,
) -> impl Iterator<Item = (Labels, Value)> {
    let current = places.iter().filter(|place| place.is_current);
    current.filter_map(move |place| {
        let labels = Labels { shared: Arc::clone(&place.labels), own: None };
        value(place).map(|value| (labels, value.into()))
    })
}

/// A count of each entry, those that are no longer in the config included.
fn counts<'p>(
    places: &'p [Place<'p>],
    count: impl Fn(&Tally) -> u64,
) -> impl Iterator<Item = (Labels, Value)> {
    places.iter().map(move |place| {
        let labels = Labels { shared: Arc::clone(&place.labels), own: None };
        (labels, Value::Whole(count(place.tally)))
    })
}

/// Counts of each place, by one more label.
fn counts_by<'p>(
    places: impl Iterator<Item = &'p Place<'p>>,
    label: &'static str,
    counts: impl Fn(&Tally) -> Vec<(&'static str, u64)>,
) -> impl Iterator<Item = (Labels, Value)> {
    places.flat_map(move |place| {
        let shared = Arc::clone(&place.labels);
        let samples = counts(place.tally).into_iter().map(move |(code, count)| {
            (Labels { shared: Arc::clone(&shared), own: Some((label, code.into())) }, Value::Whole(count))
        });
        samples.collect::<Vec<_>>()
    })
}

/// Pairs codes with their counts.
fn named<const N: usize>(codes: [&'static str; N], counts: [u64; N]) -> Vec<(&'static str, u64)> {
    codes.into_iter().zip(counts).collect()
}

fn of_gateway(page: &mut Page, snapshot: &Snapshot<'_>) {
    let Snapshot { status, tallies, now, .. } = snapshot;
    let facts: [Label; 2] =
        [("version", status.version.clone().into()), ("local_site", status.site.clone().into())];
    let facts = Labels { shared: Arc::from(facts), own: None };
    page.info("replgate_build_info", "The version that runs, and the site that it serves.", facts);
    let is_ready = unready(status.certificate_expires, &status.listeners_lost, *now).is_empty();
    page.gauge(
        "replgate_ready",
        "Whether the gateway is ready: its certificate has not expired, and every listener is there.",
        alone(is_ready),
    );
    page.gauge(
        "replgate_memory_used_bytes",
        "Payload that all links hold in memory.",
        alone(status.memory_used),
    );
    page.gauge(
        "replgate_memory_limit_bytes",
        "Payload that all links may hold in memory.",
        alone(status.memory_limit),
    );
    page.counter(
        "replgate_refused_total",
        "Connections, links, clients and revocation lists that this gateway refused.",
        tallies.refused.iter().map(|(kind, count)| with("kind", kind, *count)),
    );
    page.gauge(
        "replgate_reload_last_success_timestamp_seconds",
        "When the config or the files of trust in use were last read.",
        alone(status.reload.read_at),
    );
    page.gauge(
        "replgate_reload_refused",
        "Whether the files have a fault, so that what was read before is still in use.",
        alone(status.reload.refused.is_some()),
    );
    let reloads = tallies.reloads.iter().map(|reloaded| {
        let labels: [Label; 2] = [("part", reloaded.part.into()), ("outcome", reloaded.outcome.into())];
        (Labels { shared: Arc::from(labels), own: None }, reloaded.count.into())
    });
    page.counter("replgate_reloads_total", "Reloads.", reloads);
    page.counter(
        "replgate_revocation_lists_learnt_total",
        "Revocation lists that other gateways handed over and that are in use since.",
        alone(tallies.lists_learnt),
    );
}

/// Who is followed: by the entry alone, since Sentinels may name a party that the config does not have.
fn of_following(page: &mut Page, snapshot: &Snapshot<'_>) {
    let each = |value: fn(&FollowStatus) -> Value| {
        snapshot.status.following.iter().map(move |entry| {
            let role = if entry.role == "replica" { "replica" } else { "master" };
            let labels: [Label; 2] = [("name", entry.name.clone().into()), ("role", role.into())];
            (Labels { shared: Arc::from(labels), own: None }, value(entry))
        })
    };
    page.gauge(
        "replgate_following",
        "Whether this entry, which follows a master, knows who has it.",
        each(|entry| entry.present.is_some().into()),
    );
    page.gauge(
        "replgate_follow_attention",
        "Whether a person must look at who is followed, or at why nobody is.",
        each(|entry| (entry.attention.is_some() && !awaited::waits(entry)).into()),
    );
    page.gauge(
        "replgate_follow_standby",
        "Whether nobody is followed since the Redis here are replicas of another site, or the master is here.",
        each(|entry| awaited::waits(entry).into()),
    );
    page.counter(
        "replgate_follow_switches_total",
        "Times that a Redis or a site was followed, the first one included.",
        each(|entry| entry.switches.into()),
    );
}

fn of_links(page: &mut Page, places: &[Place<'_>]) {
    let current = || places.iter().filter(|place| place.is_current);
    let states = current().flat_map(|place| {
        STATES.map(|(state, label)| {
            let count = place.links.iter().filter(|link| link.state == state).count() as u64;
            let shared = Arc::clone(&place.labels);
            (Labels { shared, own: Some(("state", label.into())) }, count.into())
        })
    });
    page.gauge("replgate_links", "Links now.", states);
    page.gauge(
        "replgate_link_up",
        "Whether a link carries a replica, none is held, and no client was left without one; where one is to be.",
        each(places, |place| place.awaited.then(|| place.is_up())),
    );
    let without = current().filter(|place| place.is_replica).map(|place| {
        let labels = place.labels.iter().filter(|(label, _)| *label != "role").cloned();
        (Labels { shared: labels.collect(), own: None }, place.without.into())
    });
    page.gauge(
        "replgate_replica_without_link",
        "Whether a client here asked for this master a moment ago and got no link.",
        without,
    );
    page.counter(
        "replgate_links_opened_total",
        "Links that were opened.",
        counts(places, |tally| tally.opened),
    );
    let ended = |tally: &Tally| tally.ended.iter().map(|(end, count)| (*end, *count)).collect();
    page.counter(
        "replgate_links_ended_total",
        "Links that have ended.",
        counts_by(places.iter(), "end", ended),
    );
    let dialling = places.iter().filter(|place| place.is_replica);
    page.counter(
        "replgate_dials_total",
        "Dials of the far site, for new links and for more lanes.",
        counts_by(dialling, "outcome", |tally| named(Dialled::CODES, tally.dials)),
    );
    page.gauge(
        "replgate_lanes",
        "Lanes that carry links now.",
        each(places, |place| Some(place.links.iter().map(|link| link.lanes).sum::<u64>())),
    );
    page.counter(
        "replgate_lanes_lost_total",
        "Lanes that were lost.",
        counts(places, |tally| tally.lanes_lost),
    );
    page.gauge(
        "replgate_round_trip_seconds",
        "Round trip between the gateways, of the link with the longest.",
        each(places, |place| greatest(place.links.iter().filter_map(|link| link.round_trip_seconds))),
    );
}

fn of_streams(page: &mut Page, places: &[Place<'_>]) {
    page.gauge(
        "replgate_lag_bytes",
        "Bytes that have passed and that the replica has not acknowledged, of the one furthest behind.",
        each(places, |place| place.replications().filter_map(|replication| replication.lag_bytes).max()),
    );
    page.gauge(
        "replgate_lag_seconds",
        "How long ago the oldest of these bytes passed, for the replica furthest behind.",
        each(places, |place| greatest(place.replications().filter_map(|of| of.lag_seconds))),
    );
    page.gauge(
        "replgate_sync_progress_ratio",
        "How much of its snapshot has passed, for the full sync that has come least far.",
        each(places, |place| place.progress()),
    );
    page.gauge(
        "replgate_sync_bytes",
        "Bytes of snapshots that have passed, for the full syncs under way.",
        each(places, |place| place.snapshot_bytes()),
    );
    page.counter(
        "replgate_syncs_total",
        "Syncs that the master granted or refused.",
        counts_by(places.iter(), "kind", |tally| named(SYNCS, tally.syncs)),
    );
    page.gauge(
        "replgate_window_used_bytes",
        "Bytes taken in here that the far gateway has not acknowledged, of the link with the most.",
        each(places, |place| {
            Some(place.links.iter().map(|link| link.unacknowledged_bytes).max().unwrap_or(0))
        }),
    );
    page.gauge(
        "replgate_window_bytes",
        "Bytes that a link may have under way without an acknowledgement, each way.",
        each(places, |place| place.links.iter().map(|link| link.window_bytes).min()),
    );
    page.counter(
        "replgate_payload_bytes_total",
        "Bytes of Redis that have passed.",
        counts_by(places.iter(), "direction", |tally| {
            named(["to_replica", "to_master"], [tally.to_replica, tally.to_master])
        }),
    );
    page.counter(
        "replgate_carried_bytes_total",
        "Payload as carried between the gateways, both ways: less than that of Redis if it is compressed.",
        counts(places, |tally| tally.carried),
    );
    page.counter(
        "replgate_resent_bytes_total",
        "Bytes that were sent to the far gateway more than once.",
        counts(places, |tally| tally.resent),
    );
    page.counter(
        "replgate_compression_input_bytes_total",
        "Bytes of streams that are compressed, as Redis has them.",
        counts(places, |tally| tally.packed.plain),
    );
    page.counter(
        "replgate_compression_output_bytes_total",
        "The same bytes as carried.",
        counts(places, |tally| tally.packed.carried),
    );
}

fn of_breaks(page: &mut Page, places: &[Place<'_>]) {
    page.gauge(
        "replgate_link_held_seconds",
        "How long the link that is held longest has had no lane; 0 if none is held.",
        each(places, |place| {
            Some(greatest(place.held().filter_map(|link| link.held_seconds)).unwrap_or(0.0))
        }),
    );
    page.gauge(
        "replgate_link_hold_left_seconds",
        "How long the held link that gives up first still waits; all of its hold if none is held.",
        each(places, |place| place.hold_left().map(|(left, _)| left)),
    );
    page.gauge(
        "replgate_link_hold_seconds",
        "How long that link waits in a break.",
        each(places, |place| place.hold_left().map(|(_, hold)| hold)),
    );
    page.gauge(
        "replgate_outage_covered_seconds",
        "For how long an outage memory lasts at the present write rate, for the link with the least.",
        each(places, |place| least(place.links.iter().filter_map(|link| Some(link.coverage?.seconds)))),
    );
    page.counter(
        "replgate_breaks_total",
        "Breaks: times that a link lost its last lane, by how it lost it.",
        counts_by(places.iter(), "cause", |tally| named(LaneLoss::CODES, tally.breaks)),
    );
    page.counter(
        "replgate_breaks_ended_total",
        "Breaks that are over: the link was resumed, or lost.",
        counts_by(places.iter(), "outcome", |tally| named(["resumed", "lost"], [tally.resumed, tally.lost])),
    );
}

fn of_trust(page: &mut Page, snapshot: &Snapshot<'_>) {
    // Two CAs may have one name: that of the next one in a rollover. The first to expire counts, the most urgent.
    let (mut certificates, mut lists) = (BTreeMap::new(), BTreeMap::new());
    for term in &snapshot.status.terms {
        let kind = match term.kind {
            Kind::Certificate => "certificate",
            Kind::Ca => "ca",
            Kind::List => continue,
        };
        let found = (term.until, term.urgency(snapshot.now));
        let (until, urgency) = certificates.entry((kind, term.name.clone())).or_insert(found);
        (*until, *urgency) = ((*until).min(found.0), (*urgency).max(found.1));
    }
    for list in &snapshot.status.lists {
        if let Some(until) = list.until {
            let known = lists.entry(list.issuer.clone()).or_insert(until);
            *known = until.min(*known);
        }
    }
    let labels = |(kind, name): &(&'static str, String)| {
        let labels: [Label; 2] = [("kind", (*kind).into()), ("name", name.clone().into())];
        Labels { shared: Arc::from(labels), own: None }
    };
    page.gauge(
        "replgate_certificate_expiry_timestamp_seconds",
        "When the certificate of this gateway expires, or a CA that it trusts.",
        certificates.iter().map(|(key, (until, _))| (labels(key), (*until).into())),
    );
    let urgency = |urgency| match urgency {
        Urgency::None => 0,
        Urgency::Soon => 1,
        Urgency::Now => 2_u64,
    };
    page.gauge(
        "replgate_certificate_urgency",
        "How soon it has to be renewed: 0 there is time, 1 soon, 2 now.",
        certificates.iter().map(|(key, (_, how))| (labels(key), urgency(*how).into())),
    );
    let lists = lists.into_iter().map(|(issuer, until)| {
        (Labels { own: Some(("issuer", issuer.into())), ..Labels::default() }, until.into())
    });
    page.gauge(
        "replgate_revocation_list_stale_timestamp_seconds",
        "When the revocation list in use of this issuer becomes stale.",
        lists,
    );
}

fn of_process(page: &mut Page, usage: &Usage) {
    fn known<V: Into<Value>>(value: Option<V>) -> impl Iterator<Item = (Labels, Value)> {
        value.map(|value| (Labels::default(), value.into())).into_iter()
    }
    page.counter("process_cpu_seconds_total", "CPU time of the process.", alone(usage.cpu_seconds));
    page.gauge("process_resident_memory_bytes", "Memory in use.", known(usage.resident_bytes));
    page.gauge("process_virtual_memory_bytes", "Addresses in use.", known(usage.virtual_bytes));
    page.gauge("process_open_fds", "Open descriptors: sockets and files.", known(usage.open_descriptors));
    page.gauge("process_max_fds", "Descriptors that it may have open.", known(usage.descriptor_limit));
    page.gauge("process_start_time_seconds", "When the process was started.", known(usage.started));
}
