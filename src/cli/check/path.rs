//! What follows from the round trip to a far gateway. Pure.

use std::time::Duration;

use super::codes::Code;
use super::report::Finding;
use super::words::{millis, product, rate, size};
use crate::config::LinkSettings;

/// Round trip below which it bounds nothing.
const SHORT: Duration = Duration::from_millis(1);

/// What was measured of the path to one gateway.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// The time of each TCP connect.
    pub(super) connects: Vec<Duration>,
    /// The time of each probe: TCP, TLS, and the answer of the far gateway, which asks its Redis.
    pub(super) probes: Vec<Duration>,
}

/// The findings about the path to `peer`, over which a replica's link carries `carried` bytes a
/// second now. `receive` is the largest receive buffer of a connection.
pub(super) fn judge(
    site: &str,
    peer: &str,
    measured: &Measured,
    link: &LinkSettings,
    carried: Option<f64>,
    receive: Option<u64>,
) -> Vec<Finding> {
    let (Some(least), Some(most)) = (measured.connects.iter().min(), measured.connects.iter().max()) else {
        return Vec::new();
    };
    let about = format!("far site {site}: {peer}");
    let finding = |code, text: String| Finding::new(code, peer, format!("{about}: {text}"));
    let probes = match (measured.probes.iter().min(), measured.probes.iter().max()) {
        (Some(least), Some(most)) => format!("; a probe takes {} to {}", millis(*least), millis(*most)),
        _ => String::new(),
    };
    let trip = least.as_secs_f64().max(1e-4);
    // Half of the buffer is for the kernel's own overhead (`net.ipv4.tcp_adv_win_scale`).
    let one = receive.map(|bytes| bytes as f64 / 2.0 / trip * f64::from(link.lanes));
    let window =
        || format!("; window {} carries up to {}", size(link.window), rate(link.window as f64 / trip));
    let carries = match one {
        _ if *least < SHORT => String::new(),
        None => window(),
        Some(one) => {
            format!("{}, {} of this host's receive buffer up to {}", window(), lanes(link), rate(one))
        }
    };
    let mut findings = vec![finding(
        Code::RoundTrip,
        format!(
            "round trip {} to {} in {} connects{probes}{carries}",
            millis(*least),
            millis(*most),
            measured.connects.len()
        ),
    )];
    let LinkSettings { dead_after, hold, .. } = *link;
    if *most >= dead_after / 2 {
        let wanted = (most.as_secs_f64() * 4.0).ceil();
        findings.push(finding(
            Code::RoundTripLong,
            format!("a round trip of {} is half of dead_after {dead_after:?} or more: a slow moment counts as a dead connection; write dead_after = \"{wanted:.0}s\" in [link] at both sites (hold {hold:?} must be longer)", millis(*most)),
        ));
    }
    let Some(carried) = carried.filter(|carried| *carried > 0.0) else { return findings };
    let needed = carried * trip * 2.0;
    if needed > link.window as f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
        let mib = ((needed / f64::from(1 << 20)).ceil() as u64).clamp(1, 4096).next_power_of_two();
        findings.push(finding(
            Code::WindowSmall,
            format!("window {} is less than {} × {} round trip × 2 = {}: it slows the link; write window = \"{mib}MiB\" in [link] at both sites", size(link.window), rate(carried), millis(*least), product(needed)),
        ));
    }
    if let (Some(one), Some(receive)) = (one, receive)
        && carried > one * 0.8
    {
        let wanted = receive.saturating_mul(4).min(1 << 30).next_power_of_two();
        let text = format!(
            "{} carries {} now, near the {} that {} of this host's receive buffer ({}) carries in a round trip of {}: raise lanes at both sites, or the buffer here (and net.ipv4.tcp_wmem at {site})",
            peer,
            rate(carried),
            rate(one),
            lanes(link),
            size(receive),
            millis(*least)
        );
        findings.push(
            finding(Code::ReceiveBufferSmall, text)
                .advise(format!("sysctl -w net.ipv4.tcp_rmem='4096 131072 {wanted}'")),
        );
    }
    findings
}

fn lanes(link: &LinkSettings) -> String {
    match link.lanes {
        1 => "one lane".to_owned(),
        several => format!("{several} lanes"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(
        millis: &[u64],
        link: &LinkSettings,
        carried: Option<f64>,
        receive: Option<u64>,
    ) -> Vec<Finding> {
        let connects = millis.iter().map(|millis| Duration::from_millis(*millis)).collect();
        let measured = Measured { connects, probes: vec![Duration::from_millis(330)] };
        judge("dc1", "gw.dc1.example:7379", &measured, link, carried, receive)
    }

    fn codes(findings: &[Finding]) -> Vec<Code> {
        findings.iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn a_usual_path_is_told_with_what_it_carries() {
        let found = judged(&[81, 80, 83], &LinkSettings::default(), Some(5e6), Some(6 << 20));
        assert_eq!(codes(&found), [Code::RoundTrip]);
        assert_eq!(
            found[0].text,
            "far site dc1: gw.dc1.example:7379: round trip 80.0 ms to 83.0 ms in 3 connects; a probe takes 330.0 ms to 330.0 ms; window 64 MiB carries up to 838.9 MB/s, one lane of this host's receive buffer up to 39.3 MB/s"
        );
    }

    #[test]
    fn what_the_path_needs_is_advised_with_its_value() {
        let link = LinkSettings { window: 1 << 20, ..LinkSettings::default() };
        let found = judged(&[80], &link, Some(20e6), None);
        assert_eq!(codes(&found), [Code::RoundTrip, Code::WindowSmall]);
        assert!(
            found[1].text.contains("20.0 MB/s × 80.0 ms round trip × 2 = 4 MB")
                && found[1].text.contains("\"4MiB\""),
            "{found:?}"
        );
        let found = judged(&[1600], &LinkSettings::default(), None, None);
        assert_eq!(codes(&found), [Code::RoundTrip, Code::RoundTripLong]);
        assert!(found[1].text.contains("dead_after = \"7s\""), "{found:?}");
        let found = judged(&[80], &LinkSettings::default(), Some(39e6), Some(6 << 20));
        assert_eq!(codes(&found), [Code::RoundTrip, Code::ReceiveBufferSmall]);
        assert!(found[1].advice.as_deref().unwrap().ends_with("'4096 131072 33554432'"), "{found:?}");
    }

    #[test]
    fn nothing_measured_is_nothing_found() {
        assert_eq!(judged(&[], &LinkSettings::default(), Some(1e9), Some(1)), []);
    }

    proptest! {
        #[test]
        fn any_measure_is_taken(millis in prop::collection::vec(0u64..1_000_000, 0..4), carried in 0.0..1e12, receive in any::<u64>()) {
            judged(&millis, &LinkSettings::default(), Some(carried), Some(receive));
        }
    }
}
