//! The Redis of a `[[master]]`: whether it answers, lets the gateway log in, and is a master.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::DEADLINE;
use super::report::Report;
use crate::config::{Auth, Commands, Master};
use crate::escape::shown;
use crate::race;
use crate::redis::{answer, command};
use crate::session::auth::{Login, ask, authenticate_to_master};
use crate::tls::fetch_chain;
use crate::units::Address;

/// Checks a master's Redis. Returns whether it answers at all.
pub(super) async fn check(master: &Master, report: &mut Report) -> bool {
    match &master.commands {
        Commands::Replication { auth: Some(auth), .. } => login(master, auth, report).await,
        _ => answers_role(master, report).await,
    }
}

/// Checks whether the master's Redis accepts the gateway's password, and lets its user run a
/// replica's commands. Returns whether Redis answers at all.
async fn login(master: &Master, auth: &Auth, report: &mut Report) -> bool {
    let what = format!("master {:?}: Redis at {}", master.name, master.redis);
    let tried = timeout(DEADLINE * 2, async {
        let mut redis = race::run::connect(&master.redis, None, DEADLINE)
            .await
            .map_err(|error| format!("{error}; replicas will be refused until it is up"))?;
        let login = authenticate_to_master(&mut redis, auth).await?;
        // The commands that a replica sends before it asks for a sync. PSYNC cannot be tried
        // without starting a sync.
        let mut lacks = Vec::new();
        for (right, words) in [("+ping", &[&b"PING"[..]][..]), ("+replconf", &[b"REPLCONF", b"capa", b"eof"])]
        {
            let answer = ask(&mut redis, &command::encode(words)).await.map_err(|error| error.to_string())?;
            if answer.starts_with(b"-NOPERM") {
                lacks.push(right);
            }
        }
        Ok::<_, String>((login, lacks))
    })
    .await;
    let user = auth.username.as_deref().unwrap_or("default");
    let answers = matches!(tried, Ok(Ok(_)));
    match tried {
        Err(_) => report.fail(&format!("{what} does not answer in time")),
        Ok(Err(_)) if fetch_chain::fetch_chain(&master.redis).await.is_ok() => {
            report.fail(&format!("{what}: {}", answer::SPEAKS_TLS));
        }
        Ok(Err(fault)) => report.fail(&format!("{what}: {fault}")),
        Ok(Ok((_, lacks))) if !lacks.is_empty() => report.fail(&format!(
            "{what}: user {user} lacks rights: ACL SETUSER {user} {} (least: +ping +replconf +psync)",
            lacks.join(" ")
        )),
        Ok(Ok((Login::NotWanted, _))) => report.warn(&format!(
            "{what} requires no password, although `auth` has one: anyone who reaches it can write; set a password there (requirepass, or ACL SETUSER), or remove `auth`"
        )),
        Ok(Ok((Login::Good, _))) => report.ok(&format!(
            "{what} accepts the password of user {user}; only the first sync shows whether the user has +psync"
        )),
    }
    answers
}

/// Reports the role of the master's Redis. Returns whether it answers at all.
async fn answers_role(master: &Master, report: &mut Report) -> bool {
    let what = format!("master {:?}", master.name);
    let answer = timeout(DEADLINE, role(&master.redis)).await;
    let answers =
        matches!(&answer, Ok(Ok(answer)) if !answer.is_empty() && !answer::is_tls(answer.as_bytes()));
    match answer {
        Err(_) => report.fail(&format!(
            "{what}: Redis at {} does not answer within {} s",
            master.redis,
            DEADLINE.as_secs()
        )),
        Ok(Err(error)) => report.fail(&format!(
            "{what}: Redis at {}: {error}; replicas will be refused until it is up",
            master.redis
        )),
        Ok(Ok(answer)) => match answer.lines().nth(2) {
            Some("master") => {
                let offset =
                    answer.lines().nth(3).and_then(|line| line.strip_prefix(':')).unwrap_or("?").to_owned();
                report.ok(&format!("{what}: Redis at {} is a master at offset {offset}", master.redis));
            }
            Some("slave") => report.ok(&format!(
                "{what}: Redis at {} is itself a replica: replicas behind it form a chain",
                master.redis
            )),
            _ if answer::is_tls(answer.as_bytes()) => {
                report.fail(&format!("{what}: Redis at {}: {}", master.redis, answer::SPEAKS_TLS));
            }
            // A TLS port closes the connection without an answer if it gets plain text.
            _ if answer.is_empty() => {
                let why = if fetch_chain::fetch_chain(&master.redis).await.is_ok() {
                    answer::SPEAKS_TLS
                } else {
                    "it closes the connection without an answer; its own log may say why"
                };
                report.fail(&format!("{what}: Redis at {}: {why}", master.redis));
            }
            _ if answer.starts_with("-NOAUTH") => report.warn(&format!(
                "{what}: Redis at {} requires a password, and this config has none: write auth = {{ password_file = \"redis.pw\" }} in the [[master]], or set masterauth in each replica",
                master.redis
            )),
            _ => report.warn(&format!(
                "{what}: Redis at {} answers ROLE with {}",
                master.redis,
                shown(answer.lines().next().unwrap_or_default().as_bytes())
            )),
        },
    }
    answers
}

/// The beginning of what Redis answers to ROLE.
async fn role(redis: &Address) -> std::io::Result<String> {
    let mut socket = race::run::connect(redis, None, DEADLINE).await?;
    socket.write_all(b"*1\r\n$4\r\nROLE\r\n").await?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    // A master answers `*3 $6 master :offset …`; its first four lines are enough.
    while answer.len() < 4096
        && answer.iter().filter(|byte| **byte == b'\n').count() < 4
        && !answer.starts_with(b"-")
        && !answer::is_tls(&answer)
    {
        match socket.read(&mut piece).await? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
