//! What a gateway looks after from time to time: dates, memory, counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::buffer;
use crate::clock;
use crate::link::Side;
use crate::registry::{Kind, SAMPLE_EVERY, Suppressed, Topic, log_throttled, notice};
use crate::session::Shared;
use crate::tls::expiry::Reminders;

/// Interval at which buffers that are not needed are freed, and rates are measured.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Interval at which the certificates of all lanes are judged by the time.
const DATES_EVERY: Duration = Duration::from_secs(5);

/// Interval at which repeated messages that were only counted are logged.
const COUNTS_EVERY: Duration = Duration::from_secs(5);

/// Logs reminders for certificates, CAs and revocation lists that will expire or have expired.
pub(super) async fn remind(shared: Arc<Shared>) {
    let mut reloads = shared.reloads.subscribe();
    loop {
        let loaded = shared.tls.now();
        let mut reminders = Reminders::new(&loaded.material.terms, clock::now());
        loop {
            let (terms, now) = (&loaded.material.terms, clock::now());
            for (past, words) in reminders.due(terms, now) {
                if past {
                    error!(kind = notice::EXPIRY, "{words}");
                } else {
                    warn!(kind = notice::EXPIRY, "{words}");
                }
            }
            let pause = Duration::from_secs(Reminders::pause(terms, now));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                reloaded = reloads.changed() => match reloaded {
                    Ok(()) if shared.tls.now().material.terms == loaded.material.terms => {}
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = shared.stop.cancelled() => return,
            }
        }
    }
}

/// Judges the certificates of all lanes by the time.
pub(super) async fn look_at_dates(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(DATES_EVERY) => shared.look_at_dates(),
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Gives memory that is not needed back to the system, and logs which links have too little for an
/// outage.
pub(super) async fn look_after_memory(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shared.stop.cancelled() => return,
        }
        buffer::trim();
        let free = shared.memory.limit().saturating_sub(shared.memory.used());
        for (link, coverage) in shared.registry.measure(free, Instant::now()) {
            let (topic, words) = (Topic::link(Kind::Uncovered, &link), coverage.words());
            let [covered, hold] =
                [Duration::from_secs_f64(coverage.seconds), link.agreed.hold].map(clock::tenths);
            log_throttled!(warn, shared.registry, topic, &words; link = %link.name, number = link.number, site = %link.site, covered, hold, "{}: {words}", link.name);
        }
    }
}

/// Takes the samples of the last ten minutes that the page draws.
pub(super) async fn sample(shared: Arc<Shared>) {
    loop {
        let config = shared.config();
        let masters = config.masters.iter().map(|master| (Side::Acceptor, master.name.as_str()));
        let replicas = config.replicas.iter().map(|replica| (Side::Dialler, replica.name.as_str()));
        let entries: Vec<_> = masters.chain(replicas).collect();
        shared.registry.sample(Instant::now(), &entries);
        tokio::select! {
            () = tokio::time::sleep(SAMPLE_EVERY) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Logs from time to time what was counted since the last line about it.
pub(super) async fn count(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(COUNTS_EVERY) => tell_counts(&shared, false),
            () = shared.stop.cancelled() => return,
        }
    }
}

pub(super) fn tell_counts(shared: &Shared, last: bool) {
    for Suppressed { is_fault, kind, words, name, site, more, last } in shared.registry.suppressed(last) {
        if is_fault {
            warn!(kind, link = name, site, more, "{more} more {words}; the last: {last}");
        } else {
            info!(kind, link = name, site, more, "{more} more {words}; the last: {last}");
        }
    }
}
