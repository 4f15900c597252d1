//! Clients that mean harm: slow-loris, thousands that say nothing, heads without end, and
//! those who never read.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpSocket;

use super::*;

/// A scrape that comes through within a fraction of what a client has for its head.
async fn scrape(server: &Server) {
    let scraped = timeout(Limits::default().head / 2, async {
        let mut io = server.tcp(&request("GET", "/metrics")).await;
        read_all(&mut io).await
    });
    let answer = scraped.await.expect("a scrape is answered in time");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn headers_a_byte_at_a_time_shut_nobody_out() {
    testing::run(async {
        let limits = Limits {
            head: SHORT * 5,
            ..Limits::default()
        };
        let server = Server::start(limits).await;
        let mut slow = Vec::new();
        for _ in 0..2 * limits.connections {
            let io = server.tcp(b"").await;
            slow.push(tokio::spawn(async move {
                let (mut read, mut write) = io.into_split();
                let drip = async {
                    for byte in b"GET /metrics HTTP/1.1\r\nx: "
                        .iter()
                        .chain(b"y".repeat(100_000).iter())
                    {
                        if write.write_all(&[*byte]).await.is_err() {
                            break;
                        }
                        sleep(SHORT / 20).await;
                    }
                };
                tokio::select! {
                    () = drip => {}
                    () = async { read_all(&mut read).await; } => {}
                }
            }));
        }
        for _ in 0..5 {
            scrape(&server).await;
        }
        // Each of them is thrown out, however busy it is.
        for task in slow {
            task.await.unwrap();
        }
        scrape(&server).await;
    });
}

#[test]
fn ten_thousand_idle_connections_shut_nobody_out() {
    const IDLE: usize = 10_000;
    let had = getrlimit(Resource::Nofile);
    let wanted = 2 * u64::try_from(IDLE).unwrap();
    if had.current.is_some_and(|limit| limit < wanted) {
        let limit = Rlimit {
            current: Some(wanted),
            maximum: had.maximum.map(|limit| limit.max(wanted)),
        };
        setrlimit(Resource::Nofile, limit).expect("the right to open 20,000 files");
    }
    testing::run(async {
        let server = Server::start(Limits::default()).await;
        let mut idle = Vec::new();
        for number in 1..=IDLE {
            idle.push(server.tcp(b"").await);
            if number % 1000 == 0 {
                scrape(&server).await;
            }
        }
        scrape(&server).await;
        // They were thrown out but for those that have a place.
        drop(idle);
        server.assert_alive().await;
    });
}

#[test]
fn a_head_without_end_is_refused() {
    testing::run(async {
        let server = Server::start(Limits::default()).await;
        for filler in [
            "x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(1 << 14),
            format!("x: {}", "y".repeat(1 << 20)),
        ] {
            let mut io = server.tcp(b"GET /metrics HTTP/1.1\r\n").await;
            // The server may close before it has taken everything.
            let _ = io.write_all(filler.as_bytes()).await;
            let answer = read_all(&mut io).await;
            assert!(!answer.contains("200 OK"), "{answer}");
            scrape(&server).await;
        }
    });
}

#[test]
fn those_who_never_read_make_room() {
    testing::run(async {
        let limits = Limits::default();
        let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let serve = Arc::new(Serve {
            hub: Hub::new(),
            ready: Readiness::new(),
            // More than the sockets hold.
            scrape: Paced::new(Arc::new(|| Ok(vec![b'x'; 8 << 20]))),
            incidents: Arc::new(|_| Ok(Vec::new())),
            status: Arc::new(crate::status::tests::report),
        });
        let (_stop, shutdown) = watch::channel(false);
        let task = tokio::spawn(serve_tcp_within(limits, tcp, None, serve, shutdown));
        let mut idle = Vec::new();
        for _ in 0..limits.connections {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            let mut io = socket.connect(address).await.unwrap();
            io.write_all(&request("GET", "/metrics")).await.unwrap();
            idle.push(io);
        }
        // Far below the 30 s that a write may stand still.
        let alive = timeout(limits.head, async {
            let mut io = TcpStream::connect(address).await.unwrap();
            io.write_all(&request("GET", "/livez")).await.unwrap();
            read_all(&mut io).await
        });
        assert!(alive.await.expect("room is made").ends_with("\r\n\r\nok"));
        task.abort();
    });
}
