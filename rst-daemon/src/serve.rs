//! The HTTP server: metrics and health on TCP, the same and the event stream
//! on a UNIX socket.
//!
//! Nobody who connects is trusted with memory, time or a place: every
//! connection serves one request, and headers, writes and (on TCP, where
//! anybody may reach us) the whole exchange are limited in time. Connections
//! above the limit wait in the kernel's backlog; streams, which hold their
//! place for long, have a smaller limit of their own and are refused above it,
//! so that metrics and health are always answered.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::hub::Hub;
use crate::status::Report;

mod bind;
#[cfg(fuzzing)]
pub mod fuzz;
mod readiness;
mod routes;
mod stall;
mod stream;

pub use bind::{BindError, BoundSocket, bind_tcp, bind_unix};
pub use readiness::Readiness;

use routes::{Offer, respond};
use stall::Stall;

/// Produces the metrics in the Prometheus text format, or says why it can't.
/// It is called on the server's thread.
pub type Scrape = Arc<dyn Fn() -> Result<Vec<u8>, String> + Send + Sync>;

/// Produces the incidents that were open at a moment or later as a JSON array, or says
/// why it can't.
pub type Incidents = Arc<dyn Fn(Timestamp) -> Result<Vec<u8>, String> + Send + Sync>;
/// Tells how the daemon stands. It is called on the server's thread.
pub type StatusOf = Arc<dyn Fn() -> Report + Send + Sync>;

/// What is served.
pub struct Serve {
    /// Where streams get their resets.
    pub hub: Hub,
    /// What `/readyz` tells.
    pub ready: Readiness,
    /// What `/metrics` tells.
    pub scrape: Scrape,
    /// What `/api/v1/incidents` tells.
    pub incidents: Incidents,
    /// What `/api/v1/status` tells.
    pub status: StatusOf,
}

impl fmt::Debug for Serve {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Serve").finish_non_exhaustive()
    }
}

/// What clients may use up. The defaults are what the daemon runs with; tests
/// shorten them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections of one listener at a time; when all have asked for
    /// something, more wait in the backlog.
    pub(crate) connections: usize,
    /// Streams at a time; more are refused. Below `connections`.
    pub(crate) streams: usize,
    /// Time to send the head of a request, from the start of the connection.
    pub(crate) head: Duration,
    /// Time that a write may make no progress.
    pub(crate) write_stall: Duration,
    /// Time of a whole connection on TCP.
    pub(crate) exchange: Duration,
    /// Time between the comments that keep a stream alive.
    pub(crate) keep_alive: Duration,
    /// Time for open connections to end once the daemon stops.
    pub(crate) drain: Duration,
    /// Bytes of a request's head, and roughly of what waits to be written.
    pub(crate) buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            streams: 32,
            head: Duration::from_secs(5),
            write_stall: Duration::from_secs(30),
            exchange: Duration::from_secs(60),
            keep_alive: Duration::from_secs(15),
            drain: Duration::from_secs(1),
            buffer: 64 * 1024,
        }
    }
}

/// Pause after a failed accept, which is most likely for want of descriptors
/// and would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// Serves metrics and health on a TCP listener until `shutdown` is true or its
/// sender is gone.
pub async fn serve_tcp(listener: TcpListener, serve: Arc<Serve>, shutdown: watch::Receiver<bool>) {
    serve_tcp_within(Limits::default(), listener, serve, shutdown).await;
}

/// Serves metrics, health and the stream on a UNIX socket until `shutdown` is
/// true or its sender is gone; then removes the socket.
pub async fn serve_unix(socket: BoundSocket, serve: Arc<Serve>, shutdown: watch::Receiver<bool>) {
    serve_unix_within(Limits::default(), socket, serve, shutdown).await;
}

async fn serve_tcp_within(
    limits: Limits,
    listener: TcpListener,
    serve: Arc<Serve>,
    shutdown: watch::Receiver<bool>,
) {
    let offer = Offer {
        limits,
        streams: None,
        shutdown,
    };
    run(listener, serve, offer).await;
}

pub(crate) async fn serve_unix_within(
    limits: Limits,
    socket: BoundSocket,
    serve: Arc<Serve>,
    shutdown: watch::Receiver<bool>,
) {
    let BoundSocket { listener, guard } = socket;
    let offer = Offer {
        limits,
        streams: Some(Arc::new(Semaphore::new(limits.streams))),
        shutdown,
    };
    run(listener, serve, offer).await;
    drop(guard);
}

/// Waits for the daemon to stop.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and the daemon with it.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// The part that the two kinds of listener share.
trait Accept {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

impl Accept for UnixListener {
    type Io = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

async fn run<L: Accept>(listener: L, serve: Arc<Serve>, offer: Offer) {
    let limits = offer.limits;
    let mut shutdown = offer.shutdown.clone();
    let mut connections = JoinSet::new();
    // Those without a request so far, the oldest first: when all places are
    // taken they make room, so that idle connections can't shut others out.
    let mut silent = VecDeque::<Silent>::new();
    loop {
        silent.retain(Silent::is_silent);
        let full = connections.len() >= limits.connections && silent.is_empty();
        tokio::select! {
            () = stopped(&mut shutdown) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.next(), if !full => match accepted {
                Ok(io) => {
                    // Some may have asked while we waited for this one.
                    silent.retain(Silent::is_silent);
                    if connections.len() >= limits.connections {
                        if let Some(oldest) = silent.pop_front() {
                            oldest.task.abort();
                        }
                        tokio::select! {
                            () = stopped(&mut shutdown) => break,
                            _ = connections.join_next() => {}
                        }
                    }
                    let asked = Arc::new(AtomicBool::new(false));
                    let served = connection(io, Arc::clone(&serve), offer.clone(), Arc::clone(&asked));
                    silent.push_back(Silent {
                        asked,
                        task: connections.spawn(served),
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    // Those that have not ended by then are dropped with the set.
    let _ = timeout(limits.drain, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

/// A connection that may not have sent its request yet.
struct Silent {
    asked: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Silent {
    fn is_silent(&self) -> bool {
        !self.asked.load(Ordering::Relaxed) && !self.task.is_finished()
    }
}

/// Serves one connection, and notes when it has asked. Its errors are the client's affair: a scanner must
/// not be able to fill the log.
async fn connection<T>(io: T, serve: Arc<Serve>, offer: Offer, asked: Arc<AtomicBool>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = offer.limits;
    let mut shutdown = offer.shutdown.clone();
    let unlimited = offer.streams.is_some();
    let service = service_fn(move |request| {
        asked.store(true, Ordering::Relaxed);
        let answer = respond(&serve, &offer, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut exchange = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(limits.buffer)
            .keep_alive(false)
            .serve_connection(TokioIo::new(Stall::new(io, limits.write_stall)), service)
    );
    tokio::select! {
        _ = exchange.as_mut() => return,
        () = stopped(&mut shutdown) => exchange.as_mut().graceful_shutdown(),
        () = sleep(limits.exchange), if !unlimited => return,
    }
    let _ = exchange.await;
}

#[cfg(test)]
mod tests;
