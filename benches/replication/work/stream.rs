//! A stream of writes as fast as the master takes them: `redis-benchmark` with 50 clients, each 32
//! SETs of 100 bytes at a time.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, Measure, Row, Sample, Work, less, more, of_tunnel};
use crate::options::Scale;
use crate::peers::Subject;
use crate::place::go_on;
use crate::process::Process;
use crate::replicating::Replicating;

pub const ROW: Row =
    Row { key: "stream", title, measures: MEASURES, takes: |_| true, prepare: |_| Ok(Box::new(Stream)) };

const MEASURES: &[Measure] = &[
    less("cpu", "CPU-s/GB", 2),
    more("speed", "writer's MB/s", 1),
    less("lag", "greatest lag, MB", 1),
    less("redis_cpu", "Redis CPU-s/GB", 2),
];

/// Time between two looks at the lag.
const LOOK: Duration = Duration::from_millis(20);

fn title(scale: &Scale) -> String {
    format!("write stream of {:.1} million SETs of 100 B, pipelined by 32", scale.writes as f64 / 1e6)
}

struct Stream;

impl Work for Stream {
    fn once(&mut self, bench: &Bench, subject: &Subject) -> Result<Sample> {
        let mut pair = Replicating::start(&bench.place, bench.tls, subject)?;
        let mut lag = pair.lag()?;
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", "127.0.0.1", "-p", &pair.master.plain.port().to_string()]);
        command.args(["-t", "set", "-P", "32", "-d", "100", "-r", "100000", "-q"]);
        command.args(["-n", &bench.scale.writes.to_string()]);
        let begin = pair.offset()?;
        let watch = pair.watch();
        let mut writer = Process::start(&command, &bench.place.file("redis-benchmark.log"))?;
        let mut greatest = 0;
        let well = loop {
            greatest = greatest.max(lag.now()?);
            if let Some(well) = writer.ended() {
                break well;
            }
            go_on()?;
            std::thread::sleep(LOOK);
        };
        let writing = watch.seconds();
        ensure!(well, "redis-benchmark failed");
        let bytes = (pair.offset()? - begin) as f64;
        pair.catch_up()?;
        let spent = watch.stop();
        pair.verify()?;
        let values = vec![
            of_tunnel(subject, spent.pair / bytes * 1e9),
            Some(bytes / 1e6 / writing),
            Some(greatest as f64 / 1e6),
            Some(spent.redis / bytes * 1e9),
        ];
        Ok(Sample::new(spent, values))
    }
}
