//! What a master's Redis is set to, against what its links need: `hold` against its timeout, and
//! its backlog against a restart of this gateway.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::DEADLINE;
use super::report::Report;
use crate::admin::Status;
use crate::config::{Commands, LinkSettings, Master};
use crate::escape::shown;
use crate::race;
use crate::session::auth::authenticate_to_master;

/// Margin between the hold and the master's timeout, for network round trips.
const MARGIN: Duration = Duration::from_secs(2);

/// Time of a planned restart of a gateway during which its replicas get nothing, at most: the last
/// bytes, the start, and the pause after which Redis asks again. It is some two seconds usually.
const RESTART: Duration = Duration::from_secs(4);

/// Reads the settings of a master's Redis, and compares them with `link` and with the rate at which
/// the master writes, if a running gateway knows it.
pub(super) async fn check(master: &Master, link: &LinkSettings, running: Option<&Status>, report: &Report) {
    let what = format!("master {:?}: redis {}", master.name, master.redis);
    let settings = match timeout(DEADLINE, settings_of(master)).await {
        Ok(Ok(Ok(settings))) => Ok(settings),
        Ok(Ok(Err(answer))) => Err(format!("it answers CONFIG GET with {}", shown(answer.as_bytes()))),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it does not answer CONFIG GET within {} s", DEADLINE.as_secs())),
    };
    let settings = match settings {
        Ok(settings) => settings,
        Err(why) => {
            report.warn(&format!("{what}: whether hold {:?} fits cannot be checked: {why}; hold must be at most repl-timeout - repl-ping-replica-period - dead_after ({:?}) - {MARGIN:?}, on the master and on its replicas", link.hold, link.dead_after));
            return;
        }
    };
    if let (Some(backlog), Some(rate)) = (settings.backlog, running.and_then(|status| rate(master, status))) {
        restart(&what, backlog, rate, report);
    }
    hold(&what, link, &settings, report);
}

/// The rate at which a master writes, in bytes per second, as the running gateway has measured it.
fn rate(master: &Master, running: &Status) -> Option<f64> {
    let links = running.links.iter();
    let rates = links.filter(|link| link.role == "master" && link.name == master.name);
    // The backlog has the bytes as they are before they are compressed.
    let rates = rates.filter_map(|link| {
        let grows = link.to_replica_bytes as f64 / link.carried_bytes.max(1) as f64;
        Some(link.coverage?.bytes_per_second * grows.max(1.0))
    });
    rates.reduce(f64::max)
}

/// Reports whether the master waits as long as a link is held.
///
/// A master and its replica each give up after `repl-timeout` of silence. When a path fails, the
/// last data may be one ping period old, and the hold begins only after `dead_after`.
fn hold(what: &str, link: &LinkSettings, settings: &Settings, report: &Report) {
    let (hold, dead_after) = (link.hold, link.dead_after);
    let Settings { repl_timeout, ping, .. } = *settings;
    let most = repl_timeout.saturating_sub(ping + dead_after + MARGIN);
    if hold.is_zero() {
        report.ok(&format!(
            "{what}: hold {hold:?}: a link ends with its last lane, so repl-timeout does not matter"
        ));
    } else if hold <= most {
        report.ok(&format!("{what}: hold {hold:?} fits repl-timeout {repl_timeout:?} (at most {most:?}); the replicas need the same repl-timeout"));
    } else {
        let lower = if most > dead_after {
            format!("lower hold to {most:?}")
        } else {
            "write hold = \"0s\"".to_owned()
        };
        let needed = Duration::from_secs((hold + ping + dead_after + MARGIN).as_secs_f64().ceil() as u64);
        report.warn(&format!("{what}: hold {hold:?} is longer than the master waits: with repl-timeout {repl_timeout:?} and a ping each {ping:?}, at most {most:?} is safe; {lower}, or raise repl-timeout to {} on both the master and its replicas", needed.as_secs()));
    }
}

/// Reports whether the backlog holds what the master writes while this gateway restarts, when its
/// replicas ask again.
fn restart(what: &str, backlog: u64, rate: f64, report: &Report) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
    let needed = (rate * RESTART.as_secs_f64()) as u64;
    let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let at = format!("at {:.1} MB/s", rate / 1e6);
    if backlog >= needed {
        report.ok(&format!(
            "{what}: repl-backlog-size {}mb covers a restart of this gateway {at}",
            megabytes(backlog)
        ));
    } else {
        report.warn(&format!(
            "{what}: repl-backlog-size {}mb does not cover a restart of this gateway {at}, which then costs its replicas a full sync: CONFIG SET repl-backlog-size {}mb",
            megabytes(backlog),
            megabytes(needed)
        ));
    }
}

/// Settings of a master's Redis.
struct Settings {
    repl_timeout: Duration,
    /// The period of its pings to replicas.
    ping: Duration,
    /// The size of its backlog in bytes.
    backlog: Option<u64>,
}

/// Reads the settings of a master. The inner error is Redis' own answer if it does not give them.
async fn settings_of(master: &Master) -> std::io::Result<Result<Settings, String>> {
    // Before Redis 5, the last key is the name of the second one.
    let keys = ["repl-timeout", "repl-ping-replica-period", "repl-backlog-size", "repl-ping-slave-period"];
    let mut socket = race::run::connect(&master.redis, None, DEADLINE).await?;
    if let Commands::Replication { auth: Some(auth), .. } = &master.commands {
        authenticate_to_master(&mut socket, auth).await.map_err(std::io::Error::other)?;
    }
    for key in keys {
        let command = format!("*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
        socket.write_all(command.as_bytes()).await?;
    }
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while answer.len() < 4096 && settings(&answer).len() < keys.len() {
        match socket.read(&mut piece).await? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    let read = settings(&answer);
    let number = |at: usize| match read.get(at) {
        Some(Ok(Some(text))) => text.parse::<u64>().ok(),
        _ => None,
    };
    let time = |at| number(at).map(Duration::from_secs);
    Ok(match (time(0), time(1).or_else(|| time(3))) {
        (Some(repl_timeout), Some(ping)) => Ok(Settings { repl_timeout, ping, backlog: number(2) }),
        _ => Err(read
            .into_iter()
            .find_map(Result::err)
            .unwrap_or_else(|| "an answer that cannot be read".to_owned())),
    })
}

/// The complete answers to CONFIG GET of one key each: the value if the key exists, or the error.
fn settings(answers: &[u8]) -> Vec<Result<Option<String>, String>> {
    let text = String::from_utf8_lossy(answers);
    // The text after the last line end is not a complete line.
    let mut lines = text.split("\r\n").collect::<Vec<_>>();
    lines.pop();
    let mut lines = lines.into_iter();
    let mut out = Vec::new();
    while let Some(line) = lines.next() {
        out.push(match line {
            "*0" => Ok(None),
            "*2" => match lines.nth(3) {
                Some(value) => Ok(Some(value.to_owned())),
                None => break,
            },
            other => Err(other.to_owned()),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::settings;

    #[test]
    fn answers_count_once_they_are_whole() {
        let answers = b"*2\r\n$12\r\nrepl-timeout\r\n$2\r\n60\r\n*0\r\n-NOAUTH Authentication required.\r\n";
        let whole = [Ok(Some("60".to_owned())), Ok(None), Err("-NOAUTH Authentication required.".to_owned())];
        assert_eq!(settings(answers), whole);
        for cut in 0..answers.len() {
            let part = settings(&answers[..cut]);
            assert!(part.len() < 3 && part == whole[..part.len()], "{cut}");
        }
    }
}
