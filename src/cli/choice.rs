//! The names, sites and kinds that `status` and `events` choose by: a typing error must not look like good news.

use std::collections::BTreeSet;

use super::{Failure, Outcome};
use crate::admin::Status;
use crate::registry::{Kind, notice};
use crate::words::{alike, names};

/// Most names that an error lists.
const LISTED: usize = 20;

/// An error if the gateway knows no entry of this name: neither in its config, nor of a link or an event from
/// before a reload removed it.
pub(super) fn known_name(status: &Status, name: Option<&str>) -> Outcome {
    let links = links(status).map(|link| &*link.name);
    let of_config = status.masters.iter().chain(&status.replicas).map(|name| &**name);
    let events = status.events.iter().filter_map(|event| event.name.as_deref());
    one_of(name, of_config.chain(links), events, "master or replica entry", &of(status))
}

/// An error if the gateway knows no far site of this name, as [`known_name`].
pub(super) fn known_site(status: &Status, site: Option<&str>) -> Outcome {
    if status.format == 0 {
        // A gateway of an earlier release does not tell the sites of its config.
        return Ok(());
    }
    let links = links(status).map(|link| &*link.site);
    let of_config = status.far_sites.iter().map(|far| &*far.site);
    let events = status.events.iter().filter_map(|event| event.site.as_deref());
    one_of(site, of_config.chain(links), events, "far site", &of(status))
}

/// An error if there is no event of this kind, in this release or in that of the gateway.
pub(super) fn known_kind(status: &Status, kind: Option<&str>) -> Outcome {
    let known = Kind::CODES.iter().chain(notice::CODES).copied();
    let events = status.events.iter().map(|event| &*event.kind);
    one_of(kind, known, events, "kind of event", " (docs/logs.md explains them)")
}

fn links(status: &Status) -> impl Iterator<Item = &crate::registry::LinkStatus> {
    status.links.iter().chain(status.ended.iter().map(|ended| &ended.link))
}

fn of(status: &Status) -> String {
    format!(" of the gateway of site {}", status.site)
}

/// An error if `wanted` is neither one of `known`, which the error lists, nor of `also`.
fn one_of<'a>(
    wanted: Option<&str>,
    known: impl Iterator<Item = &'a str>,
    mut also: impl Iterator<Item = &'a str>,
    what: &str,
    of: &str,
) -> Outcome {
    let Some(wanted) = wanted else { return Ok(()) };
    let known: BTreeSet<&str> = known.collect();
    let is_wanted = |name: &str| name.eq_ignore_ascii_case(wanted);
    if known.iter().any(|name| is_wanted(name)) || also.any(is_wanted) {
        return Ok(());
    }
    // Those that are written much the same come first.
    let mut listed: Vec<String> = known.iter().map(|name| super::text::one_line(name)).collect();
    listed.sort_by_key(|name| std::cmp::Reverse(alike(name, wanted)));
    let known = if listed.is_empty() { "there is none".to_owned() } else { names(&listed, LISTED) };
    Err(Failure::Usage(format!("{wanted:?} is no {what}{of}; known: {known}")))
}
