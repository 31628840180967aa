//! The page at `/`.

use super::Status;

/// What a browser may load for the page: nothing, not even from the gateway.
pub const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub fn html(status: &Status) -> String {
    let site = &status.site;
    let routes = ["/status", "/live", "/ready", "/metrics"];
    let list: String =
        routes.iter().map(|route| format!("<li><a href=\"{route}\">{route}</a></li>\n")).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>replgate {site}</title>\n<h1>replgate, site {site}</h1>\n<ul>\n{list}</ul>\n</html>\n"
    )
}
