//! The pages of both gateways, on which an operator sees all of it in a browser.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{Row, Stage, step};

/// Time given to the page.
const DEADLINE: Duration = Duration::from_secs(5);

/// Asks for what a gateway shows at a path, as a browser does; returns the whole answer.
fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The addresses to open, with what each shows.
pub(super) fn addresses(stage: &Stage) -> Vec<(String, &'static str)> {
    let [first, second] = stage.pages.map(|port| format!("http://127.0.0.1:{port}/"));
    let metrics = format!("{second}metrics");
    vec![(first, "the page of dc1"), (second, "the page of dc2"), (metrics, "what Prometheus reads there")]
}

/// Checks that the page of each gateway shows both replicas.
pub(super) fn show(stage: &Stage, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    step(&format!(
        "the page of each gateway: {}",
        stage.pages.map(|port| format!("http://127.0.0.1:{port}/")).join(" and ")
    ));
    let names: Vec<String> = stage.replicas().iter().map(|replica| format!("dc2:{}", replica.port)).collect();
    let mut titles = Vec::new();
    let good = stage.eventually(|| {
        titles.clear();
        let mut all = true;
        for port in stage.pages {
            let page = get(port, "/").unwrap_or_default();
            let (_, title) = page.split_once("<title>").unwrap_or_default();
            titles.push(title.split(" – ").next().unwrap_or_default().to_owned());
            all &= page.starts_with("HTTP/1.1 200 ") && names.iter().all(|name| page.contains(name));
        }
        Ok(all)
    })?;
    titles.iter().for_each(|title| crate::outln::outln!("    {title}"));
    rows.push(Row { what: "the page of each gateway shows both", good, seen: titles.join(", ") });
    Ok(())
}
