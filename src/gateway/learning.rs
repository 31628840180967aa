//! Takes up revocation lists that other gateways hand over, and keeps them across restarts.
//!
//! A list that passes every check counts at once, as after a reload of the files: every link is judged
//! again. It is then offered to all other gateways. Signatures are verified and files written on threads of
//! their own.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};

use crate::clock;
use crate::config::Config;
use crate::escape::shown;
use crate::registry::{Kind, Topic, log_throttled, notice};
use crate::session::Shared;
use crate::session::exchange::{Arrived, Verdict};
use crate::tls::loaded::Loaded;
use crate::tls::revocation::{Checked, Learnt, MOST, Refused, Revocation, number_text, state};
use crate::x509::{RevocationList, hex};

/// Interval at which exchanges are looked after.
const TICK: Duration = Duration::from_millis(500);

/// Time after which lists that could not be written are written again.
const WRITE_AGAIN: Duration = Duration::from_secs(300);

/// Most serial numbers that one log line names.
const NAMED: usize = 8;

/// What became of a list.
enum Outcome {
    /// It counts.
    Learnt { loaded: Box<Loaded>, checked: Box<Checked>, added: Vec<String>, removed: usize },
    /// It is refused.
    Refused(String),
    /// It was learnt from another gateway meanwhile.
    Known,
}

/// Judges a list that a far gateway has handed over, and uses it if it is good.
pub(super) async fn learn(shared: &Arc<Shared>, arrived: Arrived) {
    let (before, config) = (shared.tls.now(), shared.config());
    let told = before.material.warnings.clone();
    let (far, promised) = (arrived.far.clone(), arrived.promised);
    let site = spelled(&config, far.site());
    let from = site.clone();
    let judging = spawn_blocking(move || judge(&before, &config, &arrived, from));
    let Ok(outcome) = judging.await else {
        shared.exchange.judged(&far, Verdict::Bad, Instant::now());
        return;
    };
    let (outcome, verdict) = match outcome {
        Outcome::Learnt { checked, .. } if checked.number < promised => {
            (Outcome::Refused("its number is lower than was promised".to_owned()), Verdict::Bad)
        }
        Outcome::Refused(why) => (Outcome::Refused(why), Verdict::Bad),
        good => (good, Verdict::Good),
    };
    if let Outcome::Learnt { loaded, checked, added, removed } = outcome {
        let facts = &checked.facts;
        let until = facts.next_update.map(clock::utc);
        info!(
            kind = notice::LIST_LEARNT, issuer = %shown(facts.issuer.as_bytes()), number = %number_text(&checked.number), %site, until,
            revoked = facts.revoked.len(), added = added.len(), removed,
            "revocation list learnt from {site}: {}", changes(&added, removed)
        );
        // The others were logged when the files were read.
        for warning in loaded.material.warnings.iter().filter(|warning| !told.contains(warning)) {
            warn!(kind = notice::TRUST_WARNING, "{warning}");
        }
        shared.registry.note_list_learnt();
        shared.reload(Some(*loaded), None);
        shared.exchange.judged(&far, verdict, Instant::now());
        return;
    }
    let pause = shared.exchange.judged(&far, verdict, Instant::now()).unwrap_or_default();
    if let Outcome::Refused(why) = outcome {
        let topic = Topic::of(Kind::ListRefused).at_site(&shared.config(), &site);
        log_throttled!(warn, shared.registry, topic, &why; %site, "revocation list of {site} refused: {why}; it is not asked for another one for {} s", pause.as_secs());
    }
}

/// The site as the config spells it.
fn spelled(config: &Config, site: &str) -> String {
    let allowed = config.masters.iter().flat_map(|master| &master.allow).map(String::as_str);
    let same = allowed.chain(config.far_sites()).find(|other| other.eq_ignore_ascii_case(site));
    same.unwrap_or(site).to_owned()
}

fn judge(before: &Loaded, config: &Config, arrived: &Arrived, from: String) -> Outcome {
    let revocation = &before.material.revocation;
    let checked = match revocation.judge(&arrived.der, clock::now()) {
        Ok(checked) => checked,
        Err(Refused::NotNewer { .. })
            if RevocationList::read(&arrived.der).is_ok_and(|list| list.number >= Some(arrived.promised)) =>
        {
            return Outcome::Known;
        }
        Err(why) => return Outcome::Refused(why.to_string()),
    };
    let (added, removed) = compare(revocation, &checked);
    let mut learnt = revocation.remembered();
    if revocation.offers.iter().filter(|offer| offer.name != checked.name).count() >= MOST {
        return Outcome::Refused(format!("{MOST} lists of other CAs and scopes are known already"));
    }
    // What is remembered first stays if there are too many.
    learnt.insert(0, Learnt { der: Arc::from(&arrived.der[..]), from });
    match Loaded::new(before.material.beside(&learnt), config.far_sites()) {
        Ok(loaded) => {
            Outcome::Learnt { loaded: Box::new(loaded), checked: Box::new(checked), added, removed }
        }
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

/// The serial numbers that the list of this name revokes and the one known so far does not, and how
/// many it is the other way round.
fn compare(revocation: &Revocation, checked: &Checked) -> (Vec<String>, usize) {
    let serials = |list: &RevocationList| {
        list.revoked.iter().map(|(serial, _)| serial.clone()).collect::<std::collections::BTreeSet<_>>()
    };
    let known = revocation.offers.iter().find(|offer| offer.name == checked.name);
    let known = known.and_then(|offer| RevocationList::read(&offer.der).ok()).as_ref().map(serials);
    let (known, now) = (known.unwrap_or_default(), serials(&checked.facts));
    (now.difference(&known).map(|serial| hex(serial)).collect(), known.difference(&now).count())
}

/// What a list changes, in words.
fn changes(added: &[String], removed: usize) -> String {
    let mut words = match added {
        [] => "it revokes nothing more than the earlier one".to_owned(),
        added => {
            let more = added.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("it also revokes {}{more}", added[..added.len().min(NAMED)].join(", "))
        }
    };
    if removed > 0 {
        words += &format!(", and {removed} no more");
    }
    words
}

/// Looks after the exchanges until the gateway stops.
pub(super) async fn look_after(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => shared.exchange.tick(Instant::now()),
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Writes the learnt lists into the state folder whenever they have changed. A folder that cannot be
/// written is a warning: the lists count all the same.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut reloads = shared.reloads.subscribe();
    // What the folder holds, and what could not be written and was said so.
    let (mut kept, mut failed) = (None, None);
    loop {
        let learnt = shared.tls.now().material.revocation.remembered();
        let folder = state::folder(shared.config().state.as_deref());
        let now = folder.map(|folder| (folder, learnt));
        if now != kept
            && let Some((folder, learnt)) = &now
        {
            match write(folder, learnt.clone()).await {
                Ok(()) => (kept, failed) = (now, None),
                Err(why) if failed == now => debug!("{why}"),
                Err(why) => {
                    warn!(kind = notice::STATE, "{why}");
                    failed = now;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(WRITE_AGAIN) => {}
            changed = reloads.changed() => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

async fn write(folder: &Path, learnt: Vec<Learnt>) -> Result<(), String> {
    let owned = folder.to_owned();
    let written = spawn_blocking(move || state::save(&owned, &learnt)).await;
    let failed = |error: &dyn std::fmt::Display| {
        format!(
            "the state folder {} cannot be written: {error}; revocation lists learnt from other gateways count, but only until this gateway stops",
            folder.display()
        )
    };
    written.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}
