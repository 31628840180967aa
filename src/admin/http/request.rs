//! What a request asks for, and whether it is shown: by its method, path and headers alone.
//!
//! A page of another site that a browser has open can make it send requests to this host. It must see nothing:
//! no answer allows another origin to read it, requests that a browser marks as those of another site
//! are refused, and so is a `Host` that is a name, since a name can be made to lead here (DNS rebinding). To a Unix
//! socket no name leads, and no browser connects.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, HeaderName};
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode, Uri, Version};

use crate::escape::shown;

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// The page for people.
    Page,
    /// The whole state as JSON.
    Status,
    /// Whether every thread of the process works.
    Live,
    /// Whether the gateway is ready.
    Ready,
    /// The state for a Prometheus.
    Metrics,
}

impl Route {
    const ALL: [(&'static str, Self); 5] = [
        ("/", Self::Page),
        ("/status", Self::Status),
        ("/live", Self::Live),
        ("/ready", Self::Ready),
        ("/metrics", Self::Metrics),
    ];

    /// Whether a public listener shows it.
    fn is_public(self) -> bool {
        matches!(self, Self::Live | Self::Ready | Self::Metrics)
    }
}

/// Whom a listener shows something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Programs of this host, by a loopback address.
    Local,
    /// Those who may open the socket's file.
    Socket,
    /// Everybody.
    Public,
}

/// Why nothing is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The status of the answer.
    pub(super) status: StatusCode,
    /// One line for who asks; what comes from the request is escaped.
    pub(super) words: String,
}

/// The methods that are served, for the header `Allow`.
pub(super) const ALLOWED: &str = "GET, HEAD";

/// What a request asks for, if a listener shows that.
pub(super) fn judge(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    reach: Reach,
) -> Result<Route, Refusal> {
    let refuse = |status, words| Err(Refusal { status, words });
    let public = reach == Reach::Public;
    if reach == Reach::Local
        && let Err(words) = is_local(uri, version, headers)
    {
        return refuse(StatusCode::MISDIRECTED_REQUEST, words);
    }
    if is_of_another_site(method, headers) {
        let words = "a page of another site may not read this; open it in a tab of its own".to_owned();
        return refuse(StatusCode::FORBIDDEN, words);
    }
    let path = uri.path();
    let found = Route::ALL.iter().find(|(known, _)| *known == path).map(|(_, route)| *route);
    let Some(route) = found else {
        let shown_here = Route::ALL.iter().filter(|(_, route)| !public || route.is_public());
        let paths: Vec<&str> = shown_here.map(|(path, _)| *path).collect();
        let words = format!("{} is not here; this is: {}", shown(path.as_bytes()), paths.join(", "));
        return refuse(StatusCode::NOT_FOUND, words);
    };
    if public && !route.is_public() {
        let words = "this listener is public, and shows /live, /ready and /metrics alone; on the host, `replgate status` shows the rest";
        return refuse(StatusCode::FORBIDDEN, words.to_owned());
    }
    if method != Method::GET && method != Method::HEAD {
        let words =
            format!("{} is not served; these methods are: {ALLOWED}", shown(method.as_str().as_bytes()));
        return refuse(StatusCode::METHOD_NOT_ALLOWED, words);
    }
    Ok(route)
}

/// Whether the request names this host in a way that no other site can have made up: by an IP address, as
/// `localhost`, or not at all, which no browser does.
fn is_local(uri: &Uri, version: Version, headers: &HeaderMap) -> Result<(), String> {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err("there is more than one Host".to_owned());
    }
    if host.is_none() && uri.authority().is_none() && version > Version::HTTP_10 {
        return Err("there is no Host; HTTP/1.1 has one in every request".to_owned());
    }
    let of_header = host.map(|host| host.as_bytes());
    let of_uri = uri.authority().map(|authority| authority.as_str().as_bytes());
    for named in of_header.into_iter().chain(of_uri) {
        if !names_this_host(named) {
            return Err(format!(
                "Host {:?} is a name, which may be another site's; ask for the address: http://127.0.0.1:PORT/ or http://localhost:PORT/",
                shown(named)
            ));
        }
    }
    Ok(())
}

/// Whether this is an IP address or `localhost`, with or without a port.
fn names_this_host(named: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(named) else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.eq_ignore_ascii_case("localhost") || v6.unwrap_or(host).parse::<IpAddr>().is_ok()
}

/// Whether a browser sends this for a page of another site. Only a page that is opened in a tab is
/// shown then, since the other site cannot look into it.
fn is_of_another_site(method: &Method, headers: &HeaderMap) -> bool {
    let is = |name: &'static str, value: &[u8]| {
        headers.get(HeaderName::from_static(name)).is_some_and(|said| said.as_bytes() == value)
    };
    let opened = (method == Method::GET || method == Method::HEAD)
        && is("sec-fetch-mode", b"navigate")
        && is("sec-fetch-dest", b"document");
    is("sec-fetch-site", b"cross-site") && !opened
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    /// Judges a request with these headers.
    fn asked(method: &str, uri: &str, headers: &[(&str, &str)], public: bool) -> Result<Route, u16> {
        asked_at(if public { Reach::Public } else { Reach::Local }, method, uri, headers)
    }

    fn asked_at(reach: Reach, method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<Route, u16> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        judge(&parts.method, &parts.uri, parts.version, &parts.headers, reach)
            .map_err(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn every_route_is_shown_on_a_local_listener_and_three_on_a_public_one() {
        let host = [("host", "127.0.0.1:7380")];
        for (path, route) in Route::ALL {
            assert_eq!(asked("GET", path, &host, false), Ok(route));
            assert_eq!(asked("HEAD", path, &host, false), Ok(route));
            assert_eq!(asked("GET", &format!("{path}?x=1"), &host, false), Ok(route));
            let public = asked("GET", path, &[("host", "gateway.example")], true);
            let shown = ["/live", "/ready", "/metrics"].contains(&path);
            assert_eq!(public, if shown { Ok(route) } else { Err(403) }, "{path}");
        }
        for path in ["/status/", "//status", "/Status", "/statu", "/%2e", "/../status", "/favicon.ico"] {
            assert_eq!(asked("GET", path, &host, false), Err(404), "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"] {
            assert_eq!(asked(method, "/status", &host, false), Err(405), "{method}");
        }
    }

    #[test]
    fn a_host_that_is_a_name_leads_nowhere() {
        for host in
            ["127.0.0.1", "127.0.0.1:7380", "10.0.0.1:80", "[::1]", "[::1]:7380", "localhost", "LocalHost:1"]
        {
            assert_eq!(asked("GET", "/", &[("host", host)], false), Ok(Route::Page), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7380",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "localhost.",
            "me@127.0.0.1",
            "127.1",
            "2130706433",
            "::1",
            "[evil]",
            "127.0.0.1,evil",
            "127.0.0.1 evil",
            "",
        ] {
            assert_eq!(asked("GET", "/", &[("host", host)], false), Err(421), "{host}");
        }
        let local = ("host", "127.0.0.1");
        assert_eq!(asked("GET", "http://evil.example/", &[local], false), Err(421));
        assert_eq!(asked("GET", "http://127.0.0.1/", &[("host", "evil.example")], false), Err(421));
        assert_eq!(asked("GET", "http://127.0.0.1/", &[local], false), Ok(Route::Page));
        assert_eq!(asked("GET", "/", &[local, ("host", "evil.example")], false), Err(421));
        assert_eq!(asked("GET", "/", &[], false), Err(421));
        // Health checks of HTTP/1.0 name no host.
        let none =
            judge(&Method::GET, &Uri::from_static("/"), Version::HTTP_10, &HeaderMap::new(), Reach::Local);
        assert_eq!(none, Ok(Route::Page));
    }

    #[test]
    fn at_a_unix_socket_the_host_is_any() {
        for host in ["replgate", "evil.example", ""] {
            assert_eq!(asked_at(Reach::Socket, "GET", "/status", &[("host", host)]), Ok(Route::Status));
        }
        assert_eq!(asked_at(Reach::Socket, "GET", "/status", &[]), Ok(Route::Status));
        let cross = ("sec-fetch-site", "cross-site");
        assert_eq!(asked_at(Reach::Socket, "GET", "/status", &[("host", "replgate"), cross]), Err(403));
    }

    #[test]
    fn a_page_of_another_site_may_open_this_in_a_tab_and_nothing_else() {
        let with = |headers: &[(&str, &str)]| {
            asked("GET", "/status", &[&[("host", "localhost")], headers].concat(), false)
        };
        let cross = ("sec-fetch-site", "cross-site");
        let navigate = ("sec-fetch-mode", "navigate");
        assert_eq!(with(&[("sec-fetch-site", "same-origin")]), Ok(Route::Status));
        assert_eq!(with(&[("sec-fetch-site", "none")]), Ok(Route::Status));
        assert_eq!(with(&[cross]), Err(403));
        assert_eq!(with(&[cross, ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")]), Err(403));
        assert_eq!(with(&[cross, navigate, ("sec-fetch-dest", "iframe")]), Err(403));
        assert_eq!(with(&[cross, navigate, ("sec-fetch-dest", "document")]), Ok(Route::Status));
        assert_eq!(asked("GET", "/metrics", &[cross], true), Err(403));
    }

    #[test]
    fn what_a_request_says_is_escaped() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, hyper::header::HeaderValue::from_bytes(b"evil\x9b31m").unwrap());
        let uri = Uri::from_static("/");
        let refused = judge(&Method::GET, &uri, Version::HTTP_11, &headers, Reach::Local).unwrap_err();
        assert!(refused.words.contains("evil\\") && refused.words.is_ascii(), "{}", refused.words);
    }
}
