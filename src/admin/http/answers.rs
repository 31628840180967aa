//! What is answered to each request.
//!
//! A moment of the state is taken, and written out for a route, at most once a second, whoever asks and
//! however often. All of it runs on one thread, so no two make it at a time.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::Bytes;

use super::pulse::Pulse;
use super::request::{Refusal, Route};
use crate::admin::snapshot::{self, Status};
use crate::admin::{metrics, page, ready};
use crate::clock;
use crate::session::Shared;

/// For how long a moment of the state is shown.
const FRESH: Duration = Duration::from_secs(1);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) body: Bytes,
}

const TEXT: &str = "text/plain; charset=utf-8";

impl Answer {
    /// Lines of plain text.
    fn text(status: StatusCode, lines: &[String]) -> Self {
        let body = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        Self { status, kind: TEXT, body: body.into() }
    }

    /// `good`, or one line for each of the faults.
    fn probe(good: &str, faults: &[String]) -> Self {
        match faults {
            [] => Self::text(StatusCode::OK, &[good.to_owned()]),
            faults => Self::text(StatusCode::SERVICE_UNAVAILABLE, faults),
        }
    }
}

impl From<&Refusal> for Answer {
    fn from(Refusal { status, words }: &Refusal) -> Self {
        Self::text(*status, std::slice::from_ref(words))
    }
}

/// The state at one moment, with what was written of it so far.
#[derive(Debug)]
struct Moment {
    at: Instant,
    state: Status,
    page: OnceLock<Bytes>,
    json: OnceLock<Bytes>,
    metrics: OnceLock<Bytes>,
}

/// Makes the answers.
#[derive(Debug)]
pub(super) struct Answers {
    shared: Arc<Shared>,
    pulse: Pulse,
    moment: Mutex<Option<Arc<Moment>>>,
}

impl Answers {
    /// About this gateway.
    pub(super) fn new(shared: Arc<Shared>, pulse: Pulse) -> Self {
        Self { shared, pulse, moment: Mutex::default() }
    }

    /// The answer of a route.
    pub(super) async fn of(&self, route: Route) -> Answer {
        let written = |kind, body: &Bytes| Answer { status: StatusCode::OK, kind, body: body.clone() };
        match route {
            Route::Live => Answer::probe("live", &self.pulse.faults().await),
            Route::Ready => Answer::probe("ready", &self.not_ready()),
            Route::Page => {
                let moment = self.moment();
                let body = moment.page.get_or_init(|| {
                    page::html(&moment.state, &self.shared.registry.history(), clock::now()).into()
                });
                written("text/html; charset=utf-8", body)
            }
            Route::Status => {
                let moment = self.moment();
                let body = moment.json.get_or_init(|| {
                    let json =
                        serde_json::to_string(&moment.state).expect("a state has no maps with odd keys");
                    (json + "\n").into()
                });
                written("application/json", body)
            }
            Route::Metrics => {
                let moment = self.moment();
                let body = moment.metrics.get_or_init(|| metrics::text(&self.shared, &moment.state).into());
                written("application/openmetrics-text; version=1.0.0; charset=utf-8", body)
            }
        }
    }

    /// The state now, or a moment ago.
    fn moment(&self) -> Arc<Moment> {
        let mut moment = self.moment.lock().unwrap_or_else(PoisonError::into_inner);
        match &*moment {
            Some(moment) if moment.at.elapsed() < FRESH => Arc::clone(moment),
            _ => {
                let now = Arc::new(Moment {
                    at: Instant::now(),
                    state: Status::now(&self.shared),
                    page: OnceLock::new(),
                    json: OnceLock::new(),
                    metrics: OnceLock::new(),
                });
                *moment = Some(Arc::clone(&now));
                now
            }
        }
    }

    /// One line for each reason why it is not ready.
    fn not_ready(&self) -> Vec<String> {
        let (config, listeners) = (self.shared.config(), self.shared.registry.listeners());
        let expires = self.shared.tls.now().material.leaf.not_after;
        ready::unready(expires, &snapshot::lost(&config, &listeners), clock::now())
    }
}
