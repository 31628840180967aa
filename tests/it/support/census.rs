//! How many replicas a master counts, watched through a whole test.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::redis::{Client, Redis};

/// How often the master is asked.
const PERIOD: Duration = Duration::from_millis(50);

/// The fewest questions a second that are enough for a watch, on a busy machine.
const ENOUGH: f64 = 2.0;

/// Asks a master all the time, in a thread of its own, how many replicas it lists
/// (`connected_slaves`) and how many it takes for good (`min_slaves_good_slaves`). Neither may ever
/// be more than there are: WAIT, `min-replicas-to-write` and SHUTDOWN decide by them. The test fails
/// when the census ends, or when it is dropped.
pub struct Census {
    stop: Arc<AtomicBool>,
    fault: Arc<Mutex<Option<String>>>,
    began: Instant,
    /// It returns the number of answers.
    thread: Option<JoinHandle<u64>>,
}

impl Census {
    /// Watches a master that has this many replicas at most. It must not stop meanwhile.
    pub fn of(master: &Redis, truth: i64) -> Self {
        let (stop, fault) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let (client, began) = (master.client(), Instant::now());
        let (over, found) = (Arc::clone(&stop), Arc::clone(&fault));
        let thread = std::thread::spawn(move || watch(client, truth, &over, &found));
        Self { stop, fault, began, thread: Some(thread) }
    }

    /// Fails if the master has counted too many so far.
    #[track_caller]
    pub fn check(&self) {
        let fault = self.fault.lock().expect("no thread panics").clone();
        assert_eq!(fault, None, "the master never counts more replicas than there are");
    }

    /// Ends the watch. Returns how often the master was asked.
    #[track_caller]
    pub fn end(mut self) -> u64 {
        self.finish()
    }

    #[track_caller]
    fn finish(&mut self) -> u64 {
        let Some(thread) = self.thread.take() else { return 0 };
        self.stop.store(true, Ordering::SeqCst);
        let samples = thread.join().expect("the watch does not panic");
        self.check();
        let seconds = self.began.elapsed().as_secs_f64();
        assert!(samples as f64 >= seconds * ENOUGH, "only {samples} questions in {seconds:.1} s");
        samples
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.finish();
            return;
        }
        self.stop.store(true, Ordering::SeqCst);
        if let Some(fault) = self.fault.lock().expect("no thread panics").as_ref() {
            eprintln!("the census found: {fault}");
        }
    }
}

fn watch(mut client: Client, truth: i64, stop: &AtomicBool, fault: &Mutex<Option<String>>) -> u64 {
    let (began, mut samples) = (Instant::now(), 0);
    while !stop.load(Ordering::SeqCst) {
        let due = Instant::now() + PERIOD;
        let Some(info) = ask(&mut client) else {
            report(fault, began, "the master does not answer");
            return samples;
        };
        let count = |field: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            value.and_then(|value| value.trim().parse::<i64>().ok())
        };
        match (count("connected_slaves"), count("min_slaves_good_slaves")) {
            (Some(listed), Some(good)) if listed <= truth && good <= truth => {}
            (listed, good) => report(
                fault,
                began,
                &format!("{listed:?} listed and {good:?} good replicas, where there are {truth}: {info}"),
            ),
        }
        samples += 1;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    samples
}

/// Asks for the count. Redis tells of good replicas only if it refuses writes without them. So that no
/// write is refused, it is set for this question alone, in a transaction.
fn ask(client: &mut Client) -> Option<String> {
    let commands: [&[&str]; 5] = [
        &["MULTI"],
        &["CONFIG", "SET", "min-replicas-to-write", "1"],
        &["INFO", "replication"],
        &["CONFIG", "SET", "min-replicas-to-write", "0"],
        &["EXEC"],
    ];
    client.send(&commands.map(Client::encode).concat());
    let answers: Option<Vec<_>> = commands.iter().map(|_| client.answer()).collect();
    answers?.last().map(super::redis::Answer::text)
}

/// Keeps the first fault, with the time of the gateways' logs.
fn report(fault: &Mutex<Option<String>>, began: Instant, what: &str) {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (of_day, millis) = (since_epoch.as_secs() % 86_400, since_epoch.subsec_millis());
    let (hours, minutes, seconds) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    fault.lock().expect("no thread panics").get_or_insert_with(|| {
        format!(
            "at {hours:02}:{minutes:02}:{seconds:02}.{millis:03} UTC, {:.2} s after the watch began: {what}",
            began.elapsed().as_secs_f64()
        )
    });
}
