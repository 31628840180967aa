//! What is answered to each request.
//!
//! A moment of the state is taken, and written out for a route, at most once a second, whoever asks and
//! however often, one at a time. That runs on a thread of its own: `/live` and `/ready` wait for nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::sync::Mutex;

use super::kept::{Kept, Written};
use super::pulse::Pulse;
use super::request::{Refusal, Route};
use crate::admin::metrics::{Format, Snapshot};
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
    /// For what was written of a moment: its number among these.
    pub(super) number: Option<u64>,
}

const TEXT: &str = "text/plain; charset=utf-8";

impl Answer {
    /// Lines of plain text.
    fn text(status: StatusCode, lines: &[String]) -> Self {
        let body = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        Self { status, kind: TEXT, body: body.into(), number: None }
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
    page: Option<Written>,
    json: Option<Written>,
    metrics: [Option<Written>; 2],
}

/// What is written of a moment.
#[derive(Clone, Copy, Debug)]
enum Form {
    Page,
    Json,
    Metrics(Format),
}

impl Moment {
    /// The state now.
    fn now(shared: &Shared) -> Self {
        let state = Status::now(shared);
        Self { at: Instant::now(), state, page: None, json: None, metrics: [None, None] }
    }

    fn is_fresh(&self) -> bool {
        self.at.elapsed() < FRESH
    }

    /// Where this form of it is kept.
    fn of(&mut self, form: Form) -> &mut Option<Written> {
        match form {
            Form::Page => &mut self.page,
            Form::Json => &mut self.json,
            Form::Metrics(format) => &mut self.metrics[format as usize],
        }
    }

    fn write(&self, form: Form, shared: &Shared) -> String {
        match form {
            Form::Page => page::html(&self.state, &shared.registry.history(), clock::now()),
            Form::Json => {
                let json = serde_json::to_string(&self.state).expect("a state has no maps with odd keys");
                json + "\n"
            }
            Form::Metrics(format) => metrics::text(&Snapshot::now(shared, &self.state), format),
        }
    }
}

/// Makes the answers.
#[derive(Debug)]
pub(super) struct Answers {
    shared: Arc<Shared>,
    pulse: Pulse,
    kept: Arc<Kept>,
    /// Whoever writes has it.
    moment: Arc<Mutex<Option<Moment>>>,
}

impl Answers {
    /// About this gateway.
    pub(super) fn new(shared: Arc<Shared>, pulse: Pulse) -> Self {
        Self { shared, pulse, kept: Arc::default(), moment: Arc::default() }
    }

    /// The answer of a route. `accept` is what the request says about the formats that it wants.
    pub(super) async fn of(&self, route: Route, accept: &str) -> Answer {
        match route {
            Route::Live => Answer::probe("live", &self.pulse.faults().await),
            Route::Ready => Answer::probe("ready", &self.not_ready()),
            Route::Page => self.written(Form::Page, "text/html; charset=utf-8").await,
            Route::Status => self.written(Form::Json, "application/json").await,
            Route::Metrics => {
                let format = Format::asked(accept);
                self.written(Form::Metrics(format), format.content_type()).await
            }
        }
    }

    /// The state now, or a moment ago, in this form.
    async fn written(&self, form: Form, kind: &'static str) -> Answer {
        let answer =
            |Written { number, body }| Answer { status: StatusCode::OK, kind, body, number: Some(number) };
        let mut moment = Arc::clone(&self.moment).lock_owned().await;
        if let Some(written) =
            moment.as_mut().filter(|moment| moment.is_fresh()).and_then(|moment| moment.of(form).clone())
        {
            return answer(written);
        }
        let (shared, kept) = (Arc::clone(&self.shared), Arc::clone(&self.kept));
        // Whoever asks may go away meanwhile: the next one waits for this nevertheless, so there is one at a time.
        let writing = tokio::task::spawn_blocking(move || {
            if moment.as_ref().is_some_and(|moment| !moment.is_fresh()) {
                *moment = None;
            }
            let moment = moment.get_or_insert_with(|| Moment::now(&shared));
            let written = kept.keep(moment.write(form, &shared));
            moment.of(form).insert(written).clone()
        });
        match writing.await {
            Ok(Written { number, body }) => {
                Answer { status: StatusCode::OK, kind, body, number: Some(number) }
            }
            Err(_) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, &["the gateway is stopping".to_owned()]),
        }
    }

    /// Completes once the body with this number is to be let go.
    pub(super) async fn too_many(&self, number: u64) {
        self.kept.too_many(number).await;
    }

    /// One line for each reason why it is not ready.
    fn not_ready(&self) -> Vec<String> {
        let (config, listeners) = (self.shared.config(), self.shared.registry.listeners());
        let expires = self.shared.tls.now().material.leaf.not_after;
        ready::unready(expires, &snapshot::lost(&config, &listeners), clock::now())
    }
}
