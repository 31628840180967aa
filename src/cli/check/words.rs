//! Numbers in words, and commands that can be typed.

use std::time::Duration;

use super::report::quoted;
use crate::units::Address;

/// Bytes of Redis' `mb`.
pub(super) const MB: u64 = 1 << 20;

/// Largest value in `mb` that is advised: a terabyte.
const MOST_MB: u64 = 1 << 20;

/// Bytes a second.
pub(super) fn rate(bytes_per_second: f64) -> String {
    if bytes_per_second < 999.5 {
        format!("{bytes_per_second:.0} B/s")
    } else if bytes_per_second < 999_500.0 {
        format!("{:.0} kB/s", bytes_per_second / 1e3)
    } else {
        format!("{:.1} MB/s", bytes_per_second / 1e6)
    }
}

/// A product of the kind rate × time, in MB.
pub(super) fn product(bytes: f64) -> String {
    format!("{:.0} MB", (bytes / 1e6).ceil())
}

/// The bytes that something needs, up to the next power of two in Redis' `mb`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
pub(super) fn needed_mb(bytes: f64) -> u64 {
    ((bytes / MB as f64).ceil() as u64).clamp(1, MOST_MB).next_power_of_two()
}

/// A size as Redis writes it, rounded up.
pub(super) fn mb(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes < MB => format!("{}kb", bytes.div_ceil(1024)),
        _ => format!("{}mb", bytes.div_ceil(MB)),
    }
}

/// A size in MiB or GiB.
pub(super) fn size(bytes: u64) -> String {
    let mib = bytes as f64 / MB as f64;
    if mib < 1024.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

/// A time in milliseconds.
pub(super) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// `redis-cli` for this Redis, with these words behind it. The operator's own password is not in it:
/// `REDISCLI_AUTH` has that.
pub(super) fn redis_cli(redis: &Address, words: &[&str]) -> String {
    let port = redis.port.to_string();
    let all = ["redis-cli", "-h", &redis.host, "-p", &port];
    all.iter().chain(words).map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// The command that sets a key of this Redis, with the line for its redis.conf behind it.
pub(super) fn config_set(redis: &Address, key: &str, value: &str) -> String {
    format!("{}  # redis.conf: {key} {value}", redis_cli(redis, &["CONFIG", "SET", key, value]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_to_what_redis_takes() {
        assert_eq!([0.0, 1.0, 1e6, 325e6, 1e30].map(needed_mb), [1, 1, 1, 512, MOST_MB]);
        assert_eq!([0, 1, 1 << 20, (1 << 20) + 1].map(mb), ["0", "1kb", "1mb", "2mb"]);
        assert_eq!([0.0, 52_000.0, 5e6].map(rate), ["0 B/s", "52 kB/s", "5.0 MB/s"]);
    }

    #[test]
    fn a_command_can_be_typed() {
        let redis = crate::units::address("[::1]:6379").unwrap();
        assert_eq!(
            config_set(&redis, "client-output-buffer-limit", "replica 8mb 8mb 60"),
            "redis-cli -h ::1 -p 6379 CONFIG SET client-output-buffer-limit 'replica 8mb 8mb 60'  # redis.conf: client-output-buffer-limit replica 8mb 8mb 60"
        );
    }
}
