//! The servers against slow, silent and hostile clients.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;
use crate::hub::CAPACITY;
use crate::testing::{self, TempDir};

mod guarded;
mod hostile;

const SHORT: Duration = Duration::from_millis(100);

/// A server on both kinds of listener.
struct Server {
    dir: TempDir,
    address: SocketAddr,
    serve: Arc<Serve>,
    stop: watch::Sender<bool>,
    tasks: [JoinHandle<()>; 2],
}

impl Server {
    async fn start(limits: Limits) -> Self {
        Self::behind(None, limits).await
    }

    /// One whose TCP listener has this before it.
    async fn behind(gate: Option<Arc<Gate>>, limits: Limits) -> Self {
        let dir = TempDir::new();
        let unix = bind_unix(&dir.join("rst.sock")).unwrap();
        let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let scrapes = AtomicU32::new(0);
        let serve = Arc::new(Serve {
            hub: Hub::new(),
            ready: Readiness::new(),
            scrape: Paced::new(Arc::new(move || {
                let count = scrapes.fetch_add(1, Ordering::Relaxed);
                Ok(format!("scrapes {count}\n").into_bytes())
            })),
            incidents: Arc::new(|_| Ok(Vec::new())),
            status: Arc::new(crate::status::tests::report),
        });
        let (stop, shutdown) = watch::channel(false);
        let tasks = [
            tokio::spawn(serve_tcp_within(
                limits,
                tcp,
                gate,
                Arc::clone(&serve),
                shutdown.clone(),
            )),
            tokio::spawn(serve_unix_within(
                limits,
                unix,
                Arc::clone(&serve),
                shutdown,
            )),
        ];
        Self {
            dir,
            address,
            serve,
            stop,
            tasks,
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("rst.sock")
    }

    async fn tcp(&self, sent: &[u8]) -> TcpStream {
        let mut io = TcpStream::connect(self.address).await.unwrap();
        io.write_all(sent).await.unwrap();
        io
    }

    async fn unix(&self, sent: &[u8]) -> UnixStream {
        let mut io = UnixStream::connect(self.socket()).await.unwrap();
        io.write_all(sent).await.unwrap();
        io
    }

    /// An open stream whose head has been read.
    async fn open(&self) -> UnixStream {
        let mut io = self.unix(&request("GET", "/api/v1/stream")).await;
        let head = read_until(&mut io, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        io
    }

    /// That others are served, on both listeners.
    async fn assert_alive(&self) {
        let mut io = self.tcp(&request("GET", "/livez")).await;
        assert!(read_all(&mut io).await.ends_with("\r\n\r\nok"));
        let mut io = self.unix(&request("GET", "/livez")).await;
        assert!(read_all(&mut io).await.ends_with("\r\n\r\nok"));
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

fn request(method: &str, target: &str) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// Everything up to the end, which a reset may be.
async fn read_all(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _ = io.read_to_end(&mut bytes).await;
    String::from_utf8(bytes).unwrap()
}

async fn read_until(io: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push(char::from(io.read_u8().await.unwrap()));
    }
    text
}

#[test]
fn both_listeners_serve_metrics_and_health() {
    testing::run(async {
        let server = Server::start(Limits::default()).await;
        let mut io = server.tcp(&request("GET", "/metrics")).await;
        let answer = read_all(&mut io).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\nscrapes 0\n"), "{answer}");

        let mut io = server.unix(&request("HEAD", "/metrics")).await;
        let answer = read_all(&mut io).await;
        assert!(answer.contains("content-length: 10\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");

        let mut io = server.tcp(&request("GET", "/readyz")).await;
        assert!(read_all(&mut io).await.starts_with("HTTP/1.1 503 "));
        server.serve.ready.set_ready();
        let mut io = server.unix(&request("GET", "/readyz")).await;
        assert!(read_all(&mut io).await.starts_with("HTTP/1.1 200 "));

        let mut io = server.tcp(&request("GET", "/api/v1/stream")).await;
        assert!(read_all(&mut io).await.starts_with("HTTP/1.1 404 "));
        let mut io = server.tcp(&request("POST", "/metrics")).await;
        let answer = read_all(&mut io).await;
        assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    });
}

#[test]
fn a_slow_client_is_dropped_and_blocks_nobody() {
    testing::run(async {
        let limits = Limits {
            head: SHORT,
            connections: 3,
            ..Limits::default()
        };
        let server = Server::start(limits).await;
        // Two of the three places are held until the time for the head is up.
        let mut half = server.tcp(b"GET /metrics HTTP/1.1\r\nhost: loc").await;
        let mut mute = server.tcp(b"").await;
        server.assert_alive().await;
        for io in [&mut half, &mut mute] {
            let answer = read_all(io).await;
            assert!(!answer.contains("200 OK"), "{answer}");
        }
        server.assert_alive().await;
    });
}

#[test]
fn idle_connections_shut_nobody_out() {
    testing::run(async {
        let server = Server::start(Limits::default()).await;
        let mut idle = Vec::new();
        for _ in 0..200 {
            idle.push(server.tcp(b"").await);
            idle.push(server.tcp(b"GET /metrics HT").await);
        }
        // Far below the time an idle connection has for its head.
        let alive = timeout(Limits::default().head / 5, server.assert_alive()).await;
        assert!(alive.is_ok());
    });
}

#[test]
fn connections_above_the_limit_wait_for_their_turn() {
    testing::run(async {
        let limits = Limits {
            connections: 2,
            streams: 2,
            ..Limits::default()
        };
        let server = Server::start(limits).await;
        let [first, _second] = [server.open().await, server.open().await];
        let mut waiting = server.unix(&request("GET", "/livez")).await;
        let early = timeout(SHORT, waiting.read_u8()).await;
        assert!(early.is_err(), "{early:?}");
        drop(first);
        assert!(read_all(&mut waiting).await.ends_with("ok"));
    });
}

#[test]
fn rubbish_is_answered_or_dropped() {
    testing::run(async {
        let server = Server::start(Limits {
            head: SHORT,
            ..Limits::default()
        })
        .await;
        let long = vec![b'a'; 100_000];
        for rubbish in [
            b"\0\xff\xfe\r\n\r\n".as_slice(),
            // A TLS client.
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET /metrics HTTP/9.9\r\n\r\n",
            b"GET\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET http://[::1 HTTP/1.1\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello",
            b"GET /metrics HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            &long,
        ] {
            let mut io = TcpStream::connect(server.address).await.unwrap();
            // The server may close before it has taken everything.
            let _ = io.write_all(rubbish).await;
            let answer = read_all(&mut io).await;
            assert!(!answer.contains("200 OK"), "{rubbish:?}: {answer}");
            server.assert_alive().await;
        }
    });
}

#[test]
fn a_connection_serves_one_request() {
    testing::run(async {
        let server = Server::start(Limits::default()).await;
        let twice = [request("GET", "/livez"), request("GET", "/livez")].concat();
        let mut io = server.tcp(&twice).await;
        let answer = read_all(&mut io).await;
        assert_eq!(answer.matches("200 OK").count(), 1, "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    });
}

#[test]
fn a_client_that_does_not_read_its_metrics_is_dropped() {
    testing::run(async {
        let dir = TempDir::new();
        let bound = bind_unix(&dir.join("rst.sock")).unwrap();
        let limits = Limits {
            write_stall: SHORT,
            connections: 1,
            ..Limits::default()
        };
        let serve = Serve {
            hub: Hub::new(),
            ready: Readiness::new(),
            scrape: Paced::new(Arc::new(|| Ok(vec![b'x'; 16 << 20]))),
            incidents: Arc::new(|_| Ok(Vec::new())),
            status: Arc::new(crate::status::tests::report),
        };
        let (_stop, shutdown) = watch::channel(false);
        let server = tokio::spawn(async move {
            serve_unix_within(limits, bound, Arc::new(serve), shutdown).await;
        });
        let socket = dir.join("rst.sock");
        let mut idle = UnixStream::connect(&socket).await.unwrap();
        idle.write_all(&request("GET", "/metrics")).await.unwrap();
        // The only place is free again once the first client is dropped.
        let mut next = UnixStream::connect(&socket).await.unwrap();
        next.write_all(&request("GET", "/livez")).await.unwrap();
        assert!(read_all(&mut next).await.ends_with("ok"));
        let got = read_all(&mut idle).await;
        assert!(got.len() < 16 << 20, "{}", got.len());
        server.abort();
    });
}

#[test]
fn a_connection_on_tcp_has_an_end() {
    testing::run(async {
        let limits = Limits {
            exchange: SHORT,
            ..Limits::default()
        };
        let server = Server::start(limits).await;
        let mut io = server.tcp(b"GET").await;
        assert_eq!(read_all(&mut io).await, "");
    });
}

#[test]
fn a_stream_carries_resets_and_comments() {
    testing::run(async {
        let limits = Limits {
            keep_alive: SHORT,
            exchange: SHORT,
            ..Limits::default()
        };
        let server = Server::start(limits).await;
        let mut io = server.open().await;
        server.serve.hub.publish(testing::reset());
        let json = crate::text::json(&testing::reset()).unwrap();
        // Chunked: the size stands before each event.
        let mut event = read_until(&mut io, "\n\n").await;
        while event.contains(": keep-alive") {
            event = read_until(&mut io, "\n\n").await;
        }
        assert!(event.ends_with(&format!("\r\ndata: {json}\n\n")), "{event}");
        // Several, so that it has outlived the time of a TCP connection.
        for _ in 0..3 {
            let comment = read_until(&mut io, "\n\n").await;
            assert!(comment.ends_with(": keep-alive\n\n"), "{comment}");
        }
    });
}

#[test]
fn comments_come_also_while_the_filter_drops_everything() {
    testing::run(async {
        let limits = Limits {
            keep_alive: SHORT,
            ..Limits::default()
        };
        let server = Server::start(limits).await;
        let mut io = server.unix(&request("GET", "/api/v1/stream?port=1")).await;
        read_until(&mut io, "\r\n\r\n").await;
        let hub = server.serve.hub.clone();
        let busy = tokio::spawn(async move {
            loop {
                hub.publish(testing::reset());
                sleep(SHORT / 20).await;
            }
        });
        let comment = read_until(&mut io, "\n\n").await;
        assert!(comment.ends_with(": keep-alive\n\n"), "{comment}");
        busy.abort();
    });
}

/// Publishes as a storm does: the server runs in between.
async fn publish(server: &Server, count: usize) {
    for number in 0..count {
        server.serve.hub.publish(testing::reset());
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[test]
fn a_stream_that_is_not_read_holds_little_and_blocks_nobody() {
    testing::run(async {
        const PUBLISHED: usize = 10_000;
        let server = Server::start(Limits::default()).await;
        let mut idle = server.open().await;
        let mut reading = server.open().await;
        let reader = tokio::spawn(async move { read_all(&mut reading).await });
        publish(&server, PUBLISHED).await;
        server.assert_alive().await;

        // What the client gets before it is told of a gap is all that waited
        // for it on the way: the socket's buffer, the connection's, the frames.
        let mut waited = Vec::new();
        let marker = b"event: missed\n";
        while !waited.windows(marker.len()).any(|window| window == marker) {
            idle.read_buf(&mut waited).await.unwrap();
        }
        let all = PUBLISHED * crate::text::json(&testing::reset()).unwrap().len();
        let on_the_way = waited.len();
        assert!(on_the_way < 1 << 20, "{on_the_way} of {all} bytes");

        let stopped = server.serve.hub.clone();
        server.stop().await;
        assert!(!stopped.has_subscribers());
        let got = reader.await.unwrap().matches("data: {\"v\":1").count();
        assert!(got > CAPACITY, "the one that reads got {got}");
    });
}

#[test]
fn a_stream_that_is_not_read_ends() {
    testing::run(async {
        let limits = Limits {
            write_stall: SHORT,
            ..Limits::default()
        };
        let server = Server::start(limits).await;
        let _idle = server.open().await;
        assert!(server.serve.hub.has_subscribers());
        publish(&server, 10_000).await;
        let hub = &server.serve.hub;
        testing::until("the stream has ended", || !hub.has_subscribers()).await;
        server.assert_alive().await;
    });
}

#[test]
fn streams_are_refused_above_their_limit_and_health_is_not() {
    testing::run(async {
        let limits = Limits {
            streams: 2,
            connections: 3,
            ..Limits::default()
        };
        let server = Server::start(limits).await;
        let _open = [server.open().await, server.open().await];
        let mut io = server.unix(&request("GET", "/api/v1/stream")).await;
        let answer = read_all(&mut io).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        server.assert_alive().await;
    });
}

#[test]
fn shutdown_ends_everything_promptly() {
    testing::run(async {
        let limits = Limits {
            drain: SHORT,
            ..Limits::default()
        };
        let server = Server::start(limits).await;
        let mut open = server.open().await;
        let mut idle = server.open().await;
        publish(&server, 5000).await;
        let _half = server.tcp(b"GET /met").await;
        let (address, socket) = (server.address, server.socket());
        let started = std::time::Instant::now();
        server.stop().await;
        // Less than any of the clients' own limits.
        assert!(started.elapsed() < Limits::default().head);
        read_all(&mut open).await;
        read_all(&mut idle).await;
        assert!(TcpStream::connect(address).await.is_err());
        assert!(UnixStream::connect(socket).await.is_err());
    });
}

#[test]
fn a_lost_sender_stops_the_server() {
    testing::run(async {
        let server = Server::start(Limits::default()).await;
        drop(server.stop);
        for task in server.tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn the_parts_may_cross_threads() {
    fn is_send<T: Send>(_: &T) {}
    fn is_send_sync<T: Send + Sync>() {}
    is_send_sync::<Serve>();
    is_send_sync::<BoundSocket>();
    testing::run(async {
        let server = Server::start(Limits::default()).await;
        let listener = bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let shutdown = server.stop.subscribe();
        let future = serve_tcp(listener, None, Arc::clone(&server.serve), shutdown);
        is_send(&future);
    });
}
