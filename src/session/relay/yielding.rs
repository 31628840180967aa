//! How a link's task lets the others of its thread run.
//!
//! A task that wakes itself goes to the end of the queue of those that are ready. But the runtime looks
//! at its sockets and timers only after 61 tasks, or when none is ready. So one link with a full window
//! would take 61 turns before another whose bytes have come meanwhile takes one.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// Wakes the task again, after those that are ready now and those whose sockets or timers are.
pub(super) fn wake_after_others(cx: &mut Context<'_>) {
    // The first poll wakes the task in this way, and the second would say that it was woken.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::wake_after_others;

    /// The turn in which the byte is sent. By then the reader waits for it.
    const SENT: usize = 10;

    #[tokio::test]
    async fn a_task_that_always_has_more_to_do_delays_no_ready_socket() {
        let (mut far, near) = std::os::unix::net::UnixStream::pair().expect("two sockets");
        near.set_nonblocking(true).expect("it does not block");
        let mut near = UnixStream::from_std(near).expect("a socket");
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&turns);
        let reader = tokio::spawn(async move {
            near.read_u8().await.expect("a byte comes");
            counted.load(Ordering::Relaxed)
        });
        let busy = tokio::spawn(poll_fn(move |cx| {
            if turns.fetch_add(1, Ordering::Relaxed) + 1 == SENT {
                far.write_all(b"x").expect("the other end is open");
            }
            wake_after_others(cx);
            Poll::<()>::Pending
        }));
        let seen = reader.await.expect("it does not panic");
        busy.abort();
        assert!((SENT..=SENT + 2).contains(&seen), "the socket was seen after {seen} turns");
    }
}
