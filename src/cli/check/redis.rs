//! The Redis of a `[[master]]`: whether it answers, and lets the gateway log in.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::DEADLINE;
use super::candidate::Candidate;
use super::codes::Code;
use super::report::Finding;
use super::words::redis_cli;
use crate::client::{Login, ask_line, authenticate_to_master};
use crate::config::{Auth, Commands};
use crate::escape::shown;
use crate::race;
use crate::redis::{answer, command};
use crate::tls::fetch_chain;
use crate::units::Address;

/// What was found out.
#[derive(Debug)]
pub(super) struct Tried {
    /// What there is to say.
    pub(super) finding: Option<Finding>,
    /// Its role, which INFO tells better if it may be read.
    pub(super) role: Option<Finding>,
    /// Whether Redis answers at all.
    pub(super) answers: bool,
}

/// Tries a master's Redis as the gateway would use it.
pub(super) async fn check(master: &Candidate) -> Tried {
    match &master.commands {
        Commands::Replication { auth: Some(auth), .. } => login(master, auth).await,
        _ => role(master).await,
    }
}

/// Whether its port speaks TLS.
async fn speaks_tls(redis: &Address) -> bool {
    matches!(timeout(DEADLINE, fetch_chain::fetch_chain(redis)).await, Ok(Ok(_)))
}

/// The code of a Redis that does not answer: of several, another one may be the master.
fn down(master: &Candidate) -> Code {
    if master.is_one_of_several() { Code::CandidateDown } else { Code::RedisDown }
}

/// What comes of it that a Redis cannot be reached.
fn until_up(master: &Candidate) -> &'static str {
    if master.is_one_of_several() {
        "; it cannot take over before it is up"
    } else {
        "; replicas will be refused until it is up"
    }
}

/// The least rights of the gateway's user.
fn least(master: &Candidate) -> &'static str {
    if master.is_asked() { "+ping +replconf +psync +info" } else { "+ping +replconf +psync" }
}

/// Tries whether the master's Redis accepts the gateway's password, and lets its user run a
/// replica's commands.
async fn login(master: &Candidate, auth: &Auth) -> Tried {
    let tried = timeout(DEADLINE * 2, async {
        let mut redis = race::run::connect(&master.redis, None, DEADLINE)
            .await
            .map_err(|error| format!("{error}{}", until_up(master)))?;
        let login = authenticate_to_master(&mut redis, auth).await?;
        // The commands that a replica sends before it asks for a sync. PSYNC cannot be tried
        // without starting a sync.
        let mut lacks = Vec::new();
        let rights = [("+ping", &[&b"PING"[..]][..]), ("+replconf", &[b"REPLCONF", b"capa", b"eof"])];
        // Nothing is read after this: its answer has many lines.
        let info = [&b"INFO"[..], b"replication"];
        let asked = master.is_asked().then_some(("+info", &info[..]));
        for (right, words) in rights.into_iter().chain(asked) {
            let answer =
                ask_line(&mut redis, &command::encode(words)).await.map_err(|error| error.to_string())?;
            if answer.starts_with(b"-NOPERM") {
                lacks.push(right);
            }
        }
        Ok::<_, String>((login, lacks))
    })
    .await;
    let user = auth.username.as_deref().unwrap_or("default");
    let what = format!("master {:?}: Redis at {}", master.name, master.redis);
    let finding = |code, text: String| Finding::new(code, &master.name, format!("{what}{text}"));
    let answers = matches!(tried, Ok(Ok(_)));
    let (down, least) = (down(master), least(master));
    let finding = match tried {
        Err(_) => finding(down, " does not answer in time".to_owned()),
        Ok(Err(_)) if speaks_tls(&master.redis).await => {
            finding(down, format!(": {}", answer::SPEAKS_TLS))
        }
        Ok(Err(fault)) => finding(Code::RedisLogin, format!(": {fault}")),
        Ok(Ok((_, lacks))) if !lacks.is_empty() => {
            let words = [&["ACL", "SETUSER", user][..], &lacks].concat();
            finding(
                Code::RightsMissing,
                format!(": user {user} lacks rights: ACL SETUSER {user} {} (least: {least})", lacks.join(" ")),
            )
            .advise(redis_cli(&master.redis, &words))
        }
        Ok(Ok((Login::NotWanted, _))) => finding(
            Code::RedisOpen,
            " requires no password, although `auth` has one: anyone who reaches it can write; set a password there (requirepass, or ACL SETUSER), or remove `auth`".to_owned(),
        ),
        Ok(Ok((Login::Good, _))) => finding(
            Code::RedisLoggedIn,
            format!(" accepts the password of user {user}; only the first sync shows whether the user has +psync"),
        ),
    };
    Tried { finding: Some(finding), role: None, answers }
}

/// Tries whether the master's Redis answers, and asks for its role.
async fn role(master: &Candidate) -> Tried {
    let what = format!("master {:?}: Redis at {}", master.name, master.redis);
    let finding = |code, text: String| Finding::new(code, &master.name, format!("{what}{text}"));
    let failed =
        |text: String| Tried { finding: Some(finding(down(master), text)), role: None, answers: false };
    let answer = match timeout(DEADLINE, ask_role(&master.redis)).await {
        Err(_) => return failed(format!(" does not answer within {} s", DEADLINE.as_secs())),
        Ok(Err(error)) => return failed(format!(": {error}{}", until_up(master))),
        Ok(Ok(answer)) => answer,
    };
    // A TLS port closes the connection without an answer if it gets plain text.
    if answer::is_tls(answer.as_bytes()) || (answer.is_empty() && speaks_tls(&master.redis).await) {
        return failed(format!(": {}", answer::SPEAKS_TLS));
    }
    if answer.is_empty() {
        return failed(": it closes the connection without an answer; its own log may say why".to_owned());
    }
    let mut tried = Tried { finding: None, role: None, answers: true };
    match answer.lines().nth(2) {
        Some("master") => {
            let offset = answer.lines().nth(3).and_then(|line| line.strip_prefix(':')).unwrap_or("?");
            let offset = shown(offset.as_bytes());
            tried.role = Some(finding(Code::RedisMaster, format!(" is a master at offset {offset}")));
        }
        Some("slave") if master.is_asked() => {
            let text = " is a replica: links go to the master alone".to_owned();
            tried.role = Some(finding(Code::CandidateReplica, text));
        }
        Some("slave") => {
            let text = " is itself a replica: replicas behind it form a chain".to_owned();
            tried.role = Some(finding(Code::Chain, text));
        }
        _ if answer.starts_with("-NOAUTH") && master.is_asked() => {
            let text = " requires a password, and the gateway must ask it whether it is the master: write auth = { password_file = \"redis.pw\" } in the [[master]]".to_owned();
            tried.finding = Some(finding(Code::RightsMissing, text));
        }
        _ if answer.starts_with("-NOAUTH") => {
            let text = " requires a password, and this config has none: write auth = { password_file = \"redis.pw\" } in the [[master]], or set masterauth in each replica".to_owned();
            tried.finding = Some(finding(Code::RedisWantsPassword, text));
        }
        _ => {
            let said = shown(answer.lines().next().unwrap_or_default().as_bytes());
            tried.finding = Some(finding(Code::RedisOdd, format!(" answers ROLE with {said}")));
        }
    }
    tried
}

/// The beginning of what Redis answers to ROLE.
async fn ask_role(redis: &Address) -> std::io::Result<String> {
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
