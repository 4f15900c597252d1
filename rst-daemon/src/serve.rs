//! The HTTP server: metrics and health on TCP, the same and the event stream
//! on a UNIX socket. On TCP a web configuration file may ask for TLS and passwords.
//!
//! Nobody who connects is trusted with memory, time or a place: every
//! connection serves one request, and TLS, headers, writes and (on TCP, where
//! anybody may reach us, and there is no stream) the whole exchange are limited in time. Connections
//! above the limit wait in the kernel's backlog until an idle one has made room; streams, which hold their
//! place for long, have a smaller limit of their own and are refused above it,
//! so that metrics and health are always answered.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
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
mod gate;
mod paced;
mod readiness;
mod routes;
mod stall;
mod stream;
mod thread;
mod tls;
mod users;
mod web;

pub use bind::{BindError, BoundSocket, bind_tcp, bind_unix};
pub use gate::{Gate, GateError};
pub use paced::Paced;
pub use readiness::Readiness;
pub use thread::ServerThread;
pub use tls::TlsError;

use gate::Door;
use routes::{Offer, refuse, respond};
use stall::Stall;
use users::Admission;

/// Produces the metrics in the Prometheus text format, or says why it can't.
/// It is called on the servers' thread.
pub type Scrape = Arc<dyn Fn() -> Result<Vec<u8>, String> + Send + Sync>;

/// Produces the incidents that were open at a moment or later as a JSON array, or says
/// why it can't.
pub type Incidents = Arc<dyn Fn(Timestamp) -> Result<Vec<u8>, String> + Send + Sync>;
/// Tells how the daemon stands. It is called on the servers' thread.
pub type StatusOf = Arc<dyn Fn() -> Report + Send + Sync>;

/// What is served.
pub struct Serve {
    /// Where streams get their resets.
    pub hub: Hub,
    /// What `/readyz` tells.
    pub ready: Readiness,
    /// What `/metrics` tells.
    pub scrape: Paced,
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

/// Pause before idle connections are looked for again, where all places are taken.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// Serves metrics and health, and the stream where the gate says so, on a TCP listener
/// until `shutdown` is true or its sender is gone.
pub async fn serve_tcp(
    listener: TcpListener,
    gate: Option<Arc<Gate>>,
    serve: Arc<Serve>,
    shutdown: watch::Receiver<bool>,
) {
    serve_tcp_within(Limits::default(), listener, gate, serve, shutdown).await;
}

/// Serves metrics, health and the stream on a UNIX socket until `shutdown` is
/// true or its sender is gone; then removes the socket.
pub async fn serve_unix(socket: BoundSocket, serve: Arc<Serve>, shutdown: watch::Receiver<bool>) {
    serve_unix_within(Limits::default(), socket, serve, shutdown).await;
}

async fn serve_tcp_within(
    limits: Limits,
    listener: TcpListener,
    gate: Option<Arc<Gate>>,
    serve: Arc<Serve>,
    shutdown: watch::Receiver<bool>,
) {
    let details = gate.as_ref().is_some_and(|gate| gate.shows_details());
    let offer = Offer {
        limits,
        streams: details.then(|| Arc::new(Semaphore::new(limits.streams))),
        gate,
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
        gate: None,
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
    // The oldest first. When all places are taken, the oldest that has not asked yet, or
    // does not read its answer, makes room: idle clients can't shut others out.
    let mut places = VecDeque::<Place>::new();
    loop {
        places.retain(|place| !place.task.is_finished());
        let full = connections.len() >= limits.connections && !places.iter().any(Place::is_idle);
        tokio::select! {
            () = stopped(&mut shutdown) => break,
            Some(_) = connections.join_next() => {}
            // By then one may have fallen idle.
            () = sleep(FULL_PAUSE), if full => {}
            accepted = listener.next(), if !full => match accepted {
                Ok(io) => {
                    if connections.len() >= limits.connections {
                        // Some may have asked while we waited for this one.
                        if let Some(idle) = places.iter().position(Place::is_idle)
                            && let Some(oldest) = places.remove(idle)
                        {
                            oldest.task.abort();
                        }
                        tokio::select! {
                            () = stopped(&mut shutdown) => break,
                            _ = connections.join_next() => {}
                        }
                    }
                    let idle = Arc::new(AtomicBool::new(true));
                    let served = connection(io, Arc::clone(&serve), offer.clone(), Arc::clone(&idle));
                    places.push_back(Place {
                        idle,
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

/// The place of a connection.
struct Place {
    /// It has not asked yet, or leaves what it is sent unread.
    idle: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Place {
    fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed) && !self.task.is_finished()
    }
}

/// Serves one connection, and notes when it is idle. Its errors are the client's affair: a
/// scanner must not be able to fill the log.
async fn connection<T>(io: T, serve: Arc<Serve>, offer: Offer, idle: Arc<AtomicBool>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = offer.limits;
    let io = Stall::new(io, limits.write_stall, Arc::clone(&idle));
    let Some(gate) = &offer.gate else {
        return exchange(io, None, serve, offer, idle).await;
    };
    let door = gate.door(Instant::now());
    let Some(tls) = door.tls.clone() else {
        return exchange(io, Some(door), serve, offer, idle).await;
    };
    if let Ok(Ok(io)) = timeout(limits.head, tls.accept(io)).await {
        exchange(io, Some(door), serve, offer, idle).await;
    }
}

async fn exchange<T>(
    io: T,
    door: Option<Arc<Door>>,
    serve: Arc<Serve>,
    offer: Offer,
    idle: Arc<AtomicBool>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = offer.limits;
    let mut shutdown = offer.shutdown.clone();
    let unlimited = offer.streams.is_some();
    let service = service_fn(move |request: Request<Incoming>| {
        let (serve, offer) = (Arc::clone(&serve), offer.clone());
        let (door, idle) = (door.clone(), Arc::clone(&idle));
        async move {
            let admission = match &door {
                Some(door) => door.users.admit(request.headers().get(AUTHORIZATION)).await,
                None => Admission::Admitted,
            };
            idle.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(match refuse(admission) {
                Some(refusal) => refusal,
                None => respond(&serve, &offer, &request).await,
            })
        }
    });
    let mut exchange = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(limits.buffer)
            .keep_alive(false)
            .serve_connection(TokioIo::new(io), service)
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
