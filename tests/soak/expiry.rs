//! Certificates that expire while links are up.

use std::time::{Duration, Instant};

use crate::results::{Results, Syncs};
use crate::support::census::Census;
use crate::support::gateway::{Gateway, Lab};
use crate::support::pki::{Ca, Leaf};
use crate::support::{always, eventually};

#[test]
#[ignore = "takes minutes; make soak"]
fn a_link_whose_certificate_expires_ends_at_both_ends_a_minute_later_and_comes_back_with_a_new_one() {
    let lab = Lab::new();
    let ca = Ca::new("test CA");
    let folder = |site: &str| lab.path().join("certs").join(site);
    let life = Duration::from_secs(25);
    let short = Leaf { until: life.try_into().expect("it fits"), ..Leaf::good("dc2") };
    ca.folder(&folder("dc1"), &Leaf::good("dc1"));
    ca.folder(&folder("dc2"), &short);
    let began = Instant::now();
    let alpha = lab.redis("alpha");
    let pair = lab.pair(alpha.port);
    let bravo = lab.replica("bravo", pair.entry, &alpha);
    let (before, census) = (Syncs::of(&alpha), Census::of(&alpha, 1));
    let both = || [&pair.first, &pair.second].map(Gateway::links);
    always("it is up for a minute after that", life + Duration::from_secs(55), || both() == [1, 1]);
    eventually("it has ended", Duration::from_secs(20), || both() == [0, 0]);
    let ended = began.elapsed() - life;
    pair.first.wait_log("the certificate of dc2");
    let words = [&pair.first, &pair.second].map(|gateway| gateway.lines("WARN", "end=\"outdated\""));
    assert!(words[0] + words[1] >= 1, "{words:?}");
    assert!(pair.second.log().contains("certificate of dc2"), "{}", pair.second.log());
    always("it gets no other", Duration::from_secs(3), || both() == [0, 0]);
    ca.folder(&folder("dc2"), &Leaf::good("dc2"));
    alpha.ask(&["SET", "after", "all"]);
    bravo.wait_equal(&alpha);
    census.end();
    Results::new("a certificate expires, and another takes its place", before, &alpha)
        .seconds("its link ended after", &[ended])
        .print();
}
