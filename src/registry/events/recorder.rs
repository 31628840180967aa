//! Takes the events from the log.

use std::fmt::Debug;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event as Line, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::{Event, Events};
use crate::clock;
use crate::registry::notice;

/// The code of a line without a field `kind`.
const OTHER: &str = "other";

/// Keeps each line of this program that passes its filter.
#[derive(Debug)]
pub struct Recorder(pub Arc<Events>);

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, line: &Line<'_>, _: Context<'_, S>) {
        let about = line.metadata();
        if about.target().split("::").next() != Some(env!("CARGO_PKG_NAME")) {
            return;
        }
        let mut fields = Fields::default();
        line.record(&mut fields);
        let Fields { mut event, master } = fields;
        event.name = event.name.or(master);
        event.at = clock::now();
        if event.kind == notice::START {
            // Its site is this one, and no far one.
            event.site = None;
        }
        event.level = about.level().as_str().to_ascii_lowercase();
        if event.kind.is_empty() {
            event.kind = OTHER.to_owned();
        }
        self.0.add(event);
    }
}

/// The fields of a line that an event has.
#[derive(Default)]
struct Fields {
    event: Event,
    /// The name of a line about a `[[master]]` that no link belongs to.
    master: Option<String>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text = value.to_owned();
        let Self { event, master } = self;
        match field.name() {
            "message" => event.words = text,
            "kind" => event.kind = text,
            "link" | "replica" => event.name = Some(text),
            "master" => *master = Some(text),
            "site" => event.site = Some(text),
            "end" => event.end = Some(text),
            "reason" => event.reason = Some(text),
            "cause" => event.cause = Some(text),
            "from" | "client" | "source" => event.from = Some(text),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            // A revocation list has a number too, which is text.
            "number" => self.event.link = Some(value),
            "more" => self.event.more = Some(value),
            _ => {}
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "seconds" {
            self.event.seconds = Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::prelude::*;

    use super::*;

    #[test]
    fn lines_at_info_and_above_are_kept_with_their_codes_and_no_others() {
        let events = Arc::new(Events::default());
        let kept = Recorder(Arc::clone(&events)).with_filter(LevelFilter::INFO);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(kept), || {
            let name = "orders";
            tracing::debug!(kind = "up", "not kept");
            tracing::error!(target: "another_crate", "not kept");
            tracing::warn!(kind = "held", link = %name, number = 7_u64, site = "dc2", cause = "silent", more = Some(3_u64), within = 45.0, "link held: {}", "silence");
            tracing::info!(kind = "offering", master = name, redis = "127.0.0.1:6379", "offering");
            tracing::info!(kind = "up", link = name, master = "127.0.0.1:6379", "link up");
            tracing::error!("without a kind");
            let source: Option<std::net::IpAddr> = "192.0.2.7".parse().ok();
            tracing::warn!(kind = "admin-refused", source = source.map(tracing::field::display), "refused");
            tracing::warn!(kind = "not-tls", from = %"192.0.2.8:4000", "refused");
            tracing::warn!(kind = "wrong-password", client = %"192.0.2.9:4000", "refused");
        });
        let mut latest = events.latest();
        let from: Vec<_> = latest.drain(..3).filter_map(|event| event.from).collect();
        assert_eq!(from, ["192.0.2.9:4000", "192.0.2.8:4000", "192.0.2.7"]);
        let told: Vec<_> = latest
            .iter()
            .map(|event| (event.number, &*event.level, &*event.kind, event.name.as_deref(), &*event.words))
            .collect();
        assert_eq!(
            told,
            [
                (4, "error", "other", None, "without a kind"),
                (3, "info", "up", Some("orders"), "link up"),
                (2, "info", "offering", Some("orders"), "offering"),
                (1, "warn", "held", Some("orders"), "link held: silence"),
            ]
        );
        let held = &latest[3];
        assert_eq!((held.link, held.more, held.seconds), (Some(7), Some(3), None));
        assert_eq!((held.site.as_deref(), held.cause.as_deref()), (Some("dc2"), Some("silent")));
        assert!((clock::now() - held.at).abs() < 60);
    }
}
