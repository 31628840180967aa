//! The page at `/`: the state of one gateway, for people.
//!
//! It is one document, rendered here from a [`Status`] and the [`History`], that asks nobody for anything.
//! Without scripts it is whole; the script only fetches it again. Its policy permits the one style and the one
//! script in it by their digests, and nothing else. What a far side or the config says reaches it through
//! maud's templates alone, which escape everything.
//!
//! Each part of the page is a file. None of them judges: `health.rs` does, for `replgate status` too.

mod drawing;
mod events;
mod findings;
mod following;
mod links;
mod summary;
mod trust;

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Status;
use super::health::{self, Finding, Level};
use crate::clock;
use crate::registry::History;

const STYLE: &str = include_str!("page.css");

const SCRIPT: &str = include_str!("page.js");

/// The value of the header `Content-Security-Policy` with which the page is sent. The icon is the one image,
/// and is in the page.
pub fn policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let hash = |text: &str| STANDARD.encode(digest(&SHA256, text.as_bytes()));
        format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash(STYLE),
            hash(SCRIPT)
        )
    });
    &POLICY
}

/// Names this build of the page: an open page of another build loads itself anew.
fn build() -> &'static str {
    static BUILD: LazyLock<String> = LazyLock::new(|| {
        let of = [STYLE, SCRIPT, env!("CARGO_PKG_VERSION")].join("\n");
        URL_SAFE_NO_PAD.encode(&digest(&SHA256, of.as_bytes()).as_ref()[..12])
    });
    &BUILD
}

/// The page, as of `now` in seconds since 1970.
pub fn html(status: &Status, history: &History, now: i64) -> String {
    let findings = health::findings(status, now);
    let level = health::level(&findings);
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (status.site) ": " (findings::short(&findings)) " – replgate" }
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link #icon rel="icon" href=(icon(level));
                noscript { meta http-equiv="refresh" content="5"; }
                style { (PreEscaped(STYLE)) }
            }
            body data-build=(build()) {
                p #away role="status" {}
                main data-at=(clock::time_of_day(now)) {
                    (top(status, &findings, now))
                    (findings::list(&findings))
                    (summary::part(status, history, now))
                    (following::part(status, now))
                    (links::part(&links::entries(status), status, history))
                    (summary::far_sites(status))
                    (trust::terms(status, now))
                    (trust::reload(status, now))
                    (events::part(&status.events, now))
                }
                footer {
                    p {
                        "Times are in UTC. For scripts: "
                        a href="status" { "/status" } ", " a href="metrics" { "/metrics" }
                        ". On this host: replgate status, replgate check."
                    }
                    noscript { p { "Without scripts this page loads itself anew every 5 s." } }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    document.into_string()
}

/// The verdict, and which gateway it is about.
fn top(status: &Status, findings: &[Finding], now: i64) -> Markup {
    let level = health::level(findings);
    let verdict = match level {
        Level::Good | Level::Busy => "All well",
        Level::Look => "Worth a look",
        Level::Bad => "Not well",
    };
    html! {
        header.verdict.(level.class()) {
            h1 { (findings::mark(level)) (verdict) }
            @if let Some(counts) = findings::counts(findings) { p { (counts) "." } }
            dl.who {
                div { dt { "Site" } dd { (status.site) } }
                div { dt { "Host" } dd { (status.node) } }
                div { dt { "Version" } dd { (status.version) } }
                div { dt { "Process" } dd.number { (status.pid) } }
                div { dt { "Started" } dd.number { (clock::ago(status.started, now)) } }
                div { dt { "As of" } dd.number { (clock::time_of_day(now)) " UTC" } }
            }
        }
    }
}

/// The icon of the tab: the shape and colour of the verdict.
fn icon(level: Level) -> &'static str {
    match level {
        Level::Good | Level::Busy => {
            "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' r='7' fill='%231a7f37'/%3E%3Cpath d='M4.8 8.3l2.2 2.2 4.2-4.6' fill='none' stroke='white' stroke-width='1.8'/%3E%3C/svg%3E"
        }
        Level::Look => {
            "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M8 1.2L15.4 14.6H.6Z' fill='%23e0a030'/%3E%3Cpath d='M8 6v4M8 12v1' stroke='black' stroke-width='1.6'/%3E%3C/svg%3E"
        }
        Level::Bad => {
            "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M5 1h6l4 4v6l-4 4H5l-4-4V5Z' fill='%23c4281a'/%3E%3Cpath d='M5.4 5.4l5.2 5.2M10.6 5.4l-5.2 5.2' stroke='white' stroke-width='1.8'/%3E%3C/svg%3E"
        }
    }
}

#[cfg(test)]
mod tests;
