//! How often the parties of an entry are looked at.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Shortest time between two looks at one party, however much they are hurried.
const LEAST: Duration = Duration::from_millis(50);

/// What all who look have in common: the interval, and how often they were hurried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beat {
    every: Duration,
    hurried: u64,
}

/// Sets the pace.
#[derive(Debug)]
pub struct Lead(watch::Sender<Beat>);

impl Lead {
    /// One look in each interval.
    pub fn new(every: Duration) -> Self {
        Self(watch::Sender::new(Beat { every, hurried: 0 }))
    }

    /// Looks at this interval from now on.
    pub fn every(&self, every: Duration) {
        self.0.send_if_modified(|beat| std::mem::replace(&mut beat.every, every) != every);
    }

    /// Has everybody look now.
    pub fn hurry(&self) {
        self.0.send_modify(|beat| beat.hurried += 1);
    }

    /// The pace of one who looks.
    pub fn pace(&self) -> Pace {
        let beat = self.0.subscribe();
        let hurried = beat.borrow().hurried;
        Pace { beat, hurried, last: None }
    }
}

/// When one party is to be looked at again.
#[derive(Debug)]
pub struct Pace {
    beat: watch::Receiver<Beat>,
    hurried: u64,
    last: Option<Instant>,
}

impl Pace {
    /// Completes when it is time for the next look, which begins then. `at_least` is the least pause since
    /// the last one began. Once nobody sets the pace any more, it goes on as it is.
    pub async fn turn(&mut self, at_least: Duration) {
        if let Some(last) = self.last {
            sleep_until(last + at_least.max(LEAST)).await;
            loop {
                let beat = *self.beat.borrow_and_update();
                if beat.hurried != self.hurried {
                    break;
                }
                tokio::select! {
                    () = sleep_until(last + beat.every) => break,
                    Ok(()) = self.beat.changed() => {}
                }
            }
        }
        self.hurried = self.beat.borrow().hurried;
        self.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_comes_at_its_time_or_when_it_is_hurried_but_never_twice_at_once() {
        let lead = Lead::new(Duration::from_secs(1));
        let mut pace = lead.pace();
        let began = Instant::now();
        pace.turn(Duration::ZERO).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        pace.turn(Duration::ZERO).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        lead.hurry();
        pace.turn(Duration::ZERO).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1) + LEAST);
        lead.every(Duration::from_millis(250));
        pace.turn(Duration::ZERO).await;
        assert_eq!(began.elapsed(), Duration::from_millis(1300));
        pace.turn(Duration::from_secs(3)).await;
        assert_eq!(began.elapsed(), Duration::from_millis(4300));
    }
}
