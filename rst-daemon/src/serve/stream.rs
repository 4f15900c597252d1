//! The body of `/api/v1/stream`: server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::filter::Filter;
use crate::reset::Told;
use crate::serve::stopped;
use crate::text;

/// Frames between the pump and the connection; resets wait in the hub, not
/// here, so that a slow client is told what it missed.
const FRAMES: usize = 16;

/// The body that a stream's frames arrive through.
pub(super) struct StreamBody {
    frames: mpsc::Receiver<Bytes>,
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.frames
            .poll_recv(context)
            .map(|frame| frame.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// What feeds a stream.
pub(super) struct Source {
    pub(super) told: broadcast::Receiver<Told>,
    pub(super) filter: Filter,
    pub(super) keep_alive: Duration,
    /// Its place among the streams, given back when the stream ends.
    pub(super) place: OwnedSemaphorePermit,
}

/// Starts a stream. It ends when the body is dropped, the hub is gone, or the
/// daemon stops and everything published before has been sent.
pub(super) fn start(source: Source, shutdown: watch::Receiver<bool>) -> StreamBody {
    let (sender, frames) = mpsc::channel(FRAMES);
    tokio::spawn(async move {
        let closed = sender.clone();
        tokio::select! {
            () = pump(source, sender, shutdown) => {}
            () = closed.closed() => {}
        }
    });
    StreamBody { frames }
}

async fn pump(source: Source, sender: mpsc::Sender<Bytes>, mut shutdown: watch::Receiver<bool>) {
    let Source {
        mut told,
        filter,
        keep_alive,
        place: _place,
    } = source;
    let mut ticks = interval_at(Instant::now() + keep_alive, keep_alive);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let frame = tokio::select! {
            // Comments come also while resets pass that the filter drops; what
            // is left comes before the end.
            biased;
            _ = ticks.tick() => Some(Bytes::from_static(b": keep-alive\n\n")),
            next = told.recv() => match next {
                Ok(next) => filter.wants(&next).then(|| event(&next)).flatten(),
                Err(RecvError::Lagged(count)) => Some(missed(count)),
                Err(RecvError::Closed) => return,
            },
            () = stopped(&mut shutdown) => return,
        };
        if let Some(frame) = frame
            && sender.send(frame).await.is_err()
        {
            return;
        }
    }
}

fn event(told: &Told) -> Option<Bytes> {
    let kind = match told {
        Told::Reset(_) => "",
        Told::Restarted(_) => "event: restart\n",
    };
    match text::told(told) {
        Ok(json) => Some(format!("{kind}data: {json}\n\n").into()),
        Err(error) => {
            tracing::warn!(%error, "an event can't be written as JSON");
            None
        }
    }
}

/// Counts every reset missed: whether the filter wanted it can't be known.
fn missed(count: u64) -> Bytes {
    format!("event: missed\ndata: {{\"missed\":{count}}}\n\n").into()
}
