//! The bodies of answers in memory: one that nobody reads stays until its connection is closed, and each second
//! may have another one. Together they are bounded: the oldest are let go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::body::Bytes;
use tokio::sync::watch;

/// Most bytes of bodies, beside the newest one.
const MOST: usize = 64 << 20;

/// A body, with its number: later ones have greater numbers.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) number: u64,
    pub(super) body: Bytes,
}

/// Knows all bodies that are in memory.
#[derive(Debug)]
pub(super) struct Kept {
    bodies: Mutex<Bodies>,
    /// Those with a smaller number are to be let go.
    from: watch::Sender<u64>,
    most: usize,
}

#[derive(Debug, Default)]
struct Bodies {
    next: u64,
    /// The bytes of each.
    sizes: BTreeMap<u64, usize>,
}

/// The owner of a body.
struct Body {
    text: String,
    number: u64,
    kept: Arc<Kept>,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.kept.lock().sizes.remove(&self.number);
    }
}

impl Default for Kept {
    fn default() -> Self {
        Self { bodies: Mutex::default(), from: watch::Sender::new(0), most: MOST }
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Bodies> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A body that counts until its last reader is gone. If there are too many bytes, the oldest bodies are to be
    /// let go.
    pub(super) fn keep(self: &Arc<Self>, text: String) -> Written {
        let mut bodies = self.lock();
        let number = bodies.next;
        bodies.next += 1;
        let (mut bytes, mut from) = (0, number);
        for (earlier, size) in bodies.sizes.iter().rev() {
            bytes += size;
            if bytes > self.most {
                break;
            }
            from = *earlier;
        }
        bodies.sizes.insert(number, text.capacity());
        drop(bodies);
        self.from.send_if_modified(|now| {
            let is_later = from > *now;
            *now = from.max(*now);
            is_later
        });
        Written { number, body: Bytes::from_owner(Body { text, number, kept: Arc::clone(self) }) }
    }

    /// Completes once the body with this number is to be let go.
    pub(super) async fn too_many(&self, number: u64) {
        // The sender lives as long as this.
        let _ = self.from.subscribe().wait_for(|from| number < *from).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn the_oldest_bodies_are_let_go_and_no_others() {
        let kept = Arc::new(Kept { most: 100, ..Kept::default() });
        let mut held: Vec<Written> = (0..2).map(|_| kept.keep("x".repeat(50))).collect();
        let goes = async |number| timeout(Duration::ZERO, kept.too_many(number)).await.is_ok();
        held.push(kept.keep("newest".to_owned()));
        assert!(!goes(0).await, "100 bytes are not too many");
        held.push(kept.keep("newest".to_owned()));
        assert!(goes(0).await && !goes(1).await && !goes(2).await);
        // One that nobody has any more does not count.
        let bytes = || kept.lock().sizes.values().sum::<usize>();
        assert_eq!(bytes(), 112);
        held.drain(..2);
        assert_eq!(bytes(), 12);
        // The newest may be as large as it is.
        let large = kept.keep("x".repeat(1_000));
        assert!(!goes(large.number).await && !goes(3).await);
        let next = kept.keep(String::new());
        assert!(goes(large.number).await && !goes(next.number).await);
    }
}
