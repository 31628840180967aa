//! One connection: a request, its answer, and the end.
//!
//! Only the head of a request is read: what follows is thrown away. A connection is closed after one answer.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::SetOnce;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::answers::Answer;
use super::request::{self, Reach, Refusal};
use super::{Desk, Place, Source};
use crate::admin::page;
use crate::registry::{Kind, Topic, log_throttled};

/// Time given to a connection to send a whole request.
const HEAD: Duration = Duration::from_secs(5);

/// Time given to a connection in all, to one that does not read its answer too.
const WHOLE: Duration = Duration::from_secs(10);

/// Largest head of a request in bytes.
const LARGEST_HEAD: usize = 8 << 10;

/// Time given to the far end to close after its answer: a reset because of what it still sends could overtake
/// the answer.
const CLOSING: Duration = Duration::from_secs(1);

/// Most bytes that are read and thrown away meanwhile.
const THROWN_AWAY: usize = 64 << 10;

/// Serves a connection to its end, which comes within [`WHOLE`], or once another connection has got its seat.
pub(super) async fn serve<S>(desk: &Desk, mut socket: S, source: Source, reach: Reach, seat: &Place)
where
    S: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let (asked, read) = (CancellationToken::new(), SetOnce::new());
    let answering = async {
        answer(desk, &mut socket, source, reach, seat, &asked, &read).await;
        seat.refused();
        let _ = timeout(CLOSING, close(&mut socket)).await;
    };
    let late = async {
        tokio::select! {
            () = asked.cancelled() => std::future::pending().await,
            () = sleep(HEAD) => {}
        }
    };
    let too_many = async {
        let number = *read.wait().await;
        desk.answers.too_many(number).await;
    };
    let cut = tokio::select! {
        done = timeout(WHOLE, answering) => done.err().map(|_| "it does not read its answer"),
        () = too_many => Some("it reads slowly, and answers wait for too many that do"),
        () = late => Some("it has not sent a whole request in time"),
        () = seat.evicted() => {
            if !asked.is_cancelled() {
                let topic = Topic::of(Kind::AdminCrowdedOut);
                let words = "others have come since, and it has not sent a whole request";
                log_throttled!(warn, desk.shared.registry, topic, words; source = source.map(tracing::field::display), "[admin]: connection closed: {words}");
            }
            Some("another one has got its seat")
        }
    };
    if let Some(why) = cut {
        debug!(source = source.map(tracing::field::display), "[admin]: connection closed: {why}");
        // What it does not read is not kept for it.
        let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    }
}

/// Reads a request and writes its answer. `asked` is cancelled once the request is there; `read` tells the
/// number of the body that it reads then.
async fn answer<S>(
    desk: &Desk,
    socket: &mut S,
    source: Source,
    reach: Reach,
    seat: &Place,
    asked: &CancellationToken,
    read: &SetOnce<u64>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(async |request: Request<Incoming>| {
        seat.spoke();
        asked.cancel();
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let response = match request::judge(method, uri, request.version(), headers, reach) {
            Ok(route) => {
                let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
                let accept = accept.collect::<Vec<_>>().join(",");
                let answer = desk.answers.of(route, &accept).await;
                if let Some(number) = answer.number {
                    // It is set once: a connection has one request.
                    let _ = read.set(number);
                }
                response(answer)
            }
            Err(refusal) => {
                let Refusal { status, words } = &refusal;
                // Any browser asks for an icon that is not there. These are worth a line: somebody is kept out.
                if [StatusCode::FORBIDDEN, StatusCode::MISDIRECTED_REQUEST].contains(status) {
                    log_throttled!(warn, desk.shared.registry, Topic::of(Kind::AdminRefused), words; source = source.map(tracing::field::display), status = status.as_u16(), "[admin]: request refused: {words}");
                }
                response(Answer::from(&refusal))
            }
        };
        Ok::<_, Infallible>(response)
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        // A client may close its own side once it has asked.
        .half_close(true)
        .header_read_timeout(None)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(socket), service);
    if let Err(error) = served.await {
        debug!(source = source.map(tracing::field::display), "[admin]: {error}");
    }
}

/// Ends the own side, and waits until the far end has closed or has sent too much.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S) -> std::io::Result<()> {
    socket.shutdown().await?;
    let (mut piece, mut read) = ([0; 4096], 0);
    while read < THROWN_AWAY {
        match socket.read(&mut piece).await? {
            0 => break,
            count => read += count,
        }
    }
    Ok(())
}

/// An answer with the headers that every answer has.
fn response(answer: Answer) -> Response<Full<Bytes>> {
    let Answer { status, kind, body, number: _ } = answer;
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONNECTION, "close"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, page::policy()),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static(request::ALLOWED));
    }
    response
}
