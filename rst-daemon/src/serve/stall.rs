//! A connection that fails when the peer stops reading.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Passes everything through, and fails a write that makes no progress for
/// `limit`: without it a client that never reads holds its buffers and its
/// place for ever.
pub(super) struct Stall<T> {
    io: T,
    limit: Duration,
    /// Runs from the first refused write to the next one that is taken.
    timer: Option<Pin<Box<Sleep>>>,
    /// True while a write waits.
    stalled: Arc<AtomicBool>,
}

impl<T> Stall<T> {
    /// `stalled` is set while a write waits, and taken back when it goes on.
    pub(super) fn new(io: T, limit: Duration, stalled: Arc<AtomicBool>) -> Self {
        Self {
            io,
            limit,
            timer: None,
            stalled,
        }
    }

    /// The outcome of an attempt to write, or the error that it took too long.
    fn judge<R>(
        &mut self,
        outcome: Poll<io::Result<R>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<R>> {
        if outcome.is_ready() {
            if self.timer.take().is_some() {
                self.stalled.store(false, Ordering::Relaxed);
            }
            return outcome;
        }
        self.stalled.store(true, Ordering::Relaxed);
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stall<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stall<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(context, bytes);
        self.judge(outcome, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.judge(outcome, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket's flush does nothing, so it must not stop the timer.
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_shutdown(context);
        self.judge(outcome, context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::testing;

    const LIMIT: Duration = Duration::from_millis(50);

    #[test]
    fn a_write_that_nobody_reads_fails() {
        testing::run(async {
            let (near, _far) = duplex(8);
            let mut near = Stall::new(near, LIMIT, Arc::default());
            let error = near.write_all(&[0; 9]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(near.stalled.load(Ordering::Relaxed));
        });
    }

    #[test]
    fn progress_starts_the_time_afresh() {
        testing::run(async {
            let (near, mut far) = duplex(1);
            let mut near = Stall::new(near, LIMIT * 10, Arc::default());
            // 8 bytes, 100 ms apart: 800 ms in all, and never 500 without progress.
            let reader = tokio::spawn(async move {
                for _ in 0..8 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    far.read_u8().await.unwrap();
                }
                far
            });
            near.write_all(&[0; 8]).await.unwrap();
            reader.await.unwrap();
        });
    }

    #[test]
    fn reading_has_no_limit() {
        testing::run(async {
            let (near, mut far) = duplex(8);
            let mut near = Stall::new(near, LIMIT, Arc::default());
            let writer = tokio::spawn(async move {
                tokio::time::sleep(LIMIT * 3).await;
                far.write_u8(7).await.unwrap();
            });
            assert_eq!(near.read_u8().await.unwrap(), 7);
            writer.await.unwrap();
        });
    }
}
