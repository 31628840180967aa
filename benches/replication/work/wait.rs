//! Round trips of one client: SET and WAIT 1, until the replica has the write.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::{Bench, Measure, Row, Sample, Work, less, of_tunnel};
use crate::options::Scale;
use crate::peers::Subject;
use crate::place::go_on;
use crate::redis::Client;
use crate::replicating::Replicating;

pub const ROW: Row = Row {
    key: "wait",
    title,
    measures: MEASURES,
    takes: |subject| !subject.compresses(),
    prepare: |_| Ok(Box::new(Wait)),
};

const MEASURES: &[Measure] =
    &[less("p50", "p50, µs", 0), less("p99", "p99, µs", 0), less("cpu", "CPU-µs each", 1)];

/// One SET and its WAIT, which are sent in one write. [`ANSWER`] has both answers.
const ASK: &[u8] =
    b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$5\r\n10000\r\n";
const ANSWER: &[u8] = b"+OK\r\n:1\r\n";

fn title(scale: &Scale) -> String {
    format!("SET and WAIT 1, {} round trips", scale.waits)
}

struct Wait;

impl Work for Wait {
    fn once(&mut self, bench: &Bench, subject: &Subject) -> Result<Sample> {
        let mut pair = Replicating::start(&bench.place, bench.tls, subject)?;
        let mut client = Client::connect(pair.master.plain)?;
        for _ in 0..bench.scale.waits / 10 {
            round_trip(&mut client)?;
        }
        let watch = pair.watch();
        let mut times = Vec::new();
        for _ in 0..bench.scale.waits {
            times.push(round_trip(&mut client)?);
            go_on()?;
        }
        let spent = watch.stop();
        pair.catch_up()?;
        pair.verify()?;
        times.sort_by(f64::total_cmp);
        let part = |of: usize| times[times.len() * of / 100] * 1e6;
        let each = spent.pair / times.len() as f64 * 1e6;
        Ok(Sample::new(spent, vec![Some(part(50)), Some(part(99)), of_tunnel(subject, each)]))
    }
}

/// The seconds that one round trip takes.
fn round_trip(client: &mut Client) -> Result<f64> {
    let mut answer = [0; ANSWER.len()];
    let begin = Instant::now();
    client.write(ASK)?;
    client.skip(&mut answer)?;
    let took = begin.elapsed().as_secs_f64();
    ensure!(answer == ANSWER, "answered {:?}", String::from_utf8_lossy(&answer));
    Ok(took)
}
