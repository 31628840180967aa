//! 20,000 SETs of 100 bytes a second, at an even pace: ten clients, each one SET every half
//! millisecond.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Bench, Measure, Row, Sample, Work, less, more, of_tunnel};
use crate::options::Scale;
use crate::peers::Subject;
use crate::place::go_on;
use crate::redis::Client;
use crate::replicating::Replicating;

pub const ROW: Row = Row {
    key: "paced",
    title,
    measures: MEASURES,
    takes: |subject| !subject.compresses(),
    prepare: |_| Ok(Box::new(Paced)),
};

const MEASURES: &[Measure] =
    &[less("cpu", "% of a core", 1), more("rate", "SET/s", 0), less("redis_cpu", "Redis % of a core", 1)];

const CLIENTS: u16 = 10;
const TICK: Duration = Duration::from_micros(500);

fn title(scale: &Scale) -> String {
    format!("20,000 paced SET/s for {} s", scale.paced.as_secs())
}

struct Paced;

impl Work for Paced {
    fn once(&mut self, bench: &Bench, subject: &Subject) -> Result<Sample> {
        let mut pair = Replicating::start(&bench.place, bench.tls, subject)?;
        let clients = (0..CLIENTS).map(|_| Client::connect(pair.master.plain)).collect::<Result<Vec<_>>>();
        let mut clients = clients?;
        let value = "v".repeat(100);
        let sets: Vec<String> = (0..CLIENTS)
            .map(|number| format!("*3\r\n$3\r\nSET\r\n$6\r\nkey:{number:02}\r\n$100\r\n{value}\r\n"))
            .collect();
        let mut answer = *b"+OK\r\n";
        let watch = pair.watch();
        let begin = Instant::now();
        let mut ticks = 0;
        while TICK * ticks < bench.scale.paced {
            go_on()?;
            for (client, set) in clients.iter_mut().zip(&sets) {
                if ticks > 0 {
                    client.skip(&mut answer)?;
                    ensure!(&answer == b"+OK\r\n", "SET was refused");
                }
                client.write(set.as_bytes())?;
            }
            ticks += 1;
            std::thread::sleep((begin + TICK * ticks).saturating_duration_since(Instant::now()));
        }
        let rate = f64::from(ticks) * f64::from(CLIENTS) / begin.elapsed().as_secs_f64();
        pair.catch_up()?;
        let spent = watch.stop();
        pair.verify()?;
        let percent = |cpu: f64| cpu / spent.seconds() * 100.0;
        Ok(Sample::new(
            spent,
            vec![of_tunnel(subject, percent(spent.pair)), Some(rate), Some(percent(spent.redis))],
        ))
    }
}
