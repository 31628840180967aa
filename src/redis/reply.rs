//! The replies that a gateway itself gives to a replica. All of them belong to the handshake.
//!
//! A replica reads at most 255 bytes of a reply line. It logs the line when it gives up, so this is
//! how the reason reaches Redis' own log.

use crate::escape::shown;

/// Longest error line in bytes, without its line end.
const MOST: usize = 220;

/// The reply to a password that the gateway does not pass on.
pub const OK: &[u8] = b"+OK\r\n";

/// `-ERR replgate SITE: …`, always one whole line: `sentence` is escaped and cut.
pub fn error(site: &str, sentence: &str) -> Vec<u8> {
    line("ERR", site, sentence)
}

/// As [`error`], but with the code LOADING: a replica that gets it asks for its sync again later,
/// instead of falling back to SYNC.
pub fn loading(site: &str, sentence: &str) -> Vec<u8> {
    line("LOADING", site, sentence)
}

/// The reply to a command that comes before the password.
pub fn no_auth(site: &str) -> Vec<u8> {
    line(
        "NOAUTH",
        site,
        "a replica must send a password here: set its masterauth to the password in the gateway's password_file",
    )
}

/// The reply to a wrong password.
pub fn wrong_password(site: &str) -> Vec<u8> {
    line(
        "WRONGPASS",
        site,
        "the password differs from the gateway's password_file: correct the replica's masterauth",
    )
}

fn line(code: &str, site: &str, sentence: &str) -> Vec<u8> {
    let mut text = format!("-{code} replgate {site}: {}", shown(sentence.as_bytes()));
    let mut end = text.len().min(MOST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str("\r\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_error_is_one_short_line() {
        let line = super::error("dc2", &format!("bad\r\n+OK{}", "x".repeat(900)));
        assert!(line.len() <= 222 && line.ends_with(b"\r\n"));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
}
