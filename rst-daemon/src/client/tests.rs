//! The client against real daemons and against what is none.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use proptest::prelude::*;
use rst_common::cause::Direction;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::*;
use crate::hub::{CAPACITY, Hub};
use crate::serve::{Limits, Paced, Readiness, Serve, bind_unix, serve_unix_within};
use crate::testing::{self, TempDir};

/// What the parser makes of the text, given in pieces of `size` bytes.
fn parse(text: &str, size: usize) -> Result<Vec<Item>, ClientError> {
    let mut parser = Parser::default();
    let mut items = Vec::new();
    for piece in text.as_bytes().chunks(size) {
        parser.push(piece);
        while let Some(item) = parser.next()? {
            items.push(item);
        }
    }
    Ok(items)
}

fn message(result: Result<Vec<Item>, ClientError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn events_are_read_whatever_the_pieces() {
    let json = text::json(&testing::reset()).unwrap();
    let stream = format!(
        ": keep-alive\n\ndata: {json}\n\nevent: missed\ndata: {{\"missed\":7}}\n\n\
         event: later\ndata: x\n\nid: 3\n\ndata:{json}\r\n\r\ndata: unfinished"
    );
    let reset = Item::Told(testing::reset().into(), json);
    let expected = [reset.clone(), Item::Missed(7), reset];
    for size in [1, 2, 3, 7, 64, stream.len()] {
        assert_eq!(parse(&stream, size).unwrap(), expected, "pieces of {size}");
    }
}

#[test]
fn long_lines_and_events_are_refused() {
    let expected = "can't read an event of the daemon: it is longer than 1048576 bytes; use the \
                    same version of both";
    let line = "x".repeat(MAX_LINE + 1);
    assert_eq!(message(parse(&line, 4096)), expected);
    assert_eq!(
        message(parse(&format!("{line}\n"), line.len() + 1)),
        expected
    );
    let event = format!("data: {}\n", "x".repeat(1000)).repeat(1100);
    assert_eq!(message(parse(&event, 4096)), expected);
    assert_eq!(parse(&"x".repeat(MAX_LINE), 4096).unwrap(), []);
}

#[test]
fn bad_events_are_errors() {
    for stream in [
        "data: {}\n\n",
        "data: \u{1b}\n\n",
        "event: missed\ndata: -1\n\n",
    ] {
        let message = message(parse(stream, 4096));
        assert!(message.starts_with("can't read an event"), "{message}");
        assert!(!message.contains('\u{1b}'), "{message}");
    }
    let mut parser = Parser::default();
    parser.push(b"data: \xff\n\n");
    assert!(matches!(parser.next(), Err(ClientError::Event(_))));
}

proptest! {
    #[test]
    fn no_bytes_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40)) {
        let mut parser = Parser::default();
        for piece in pieces {
            parser.push(&piece);
            while let Ok(Some(_)) = parser.next() {}
        }
    }
}

/// What the daemon answers when it is asked for incidents.
fn incidents() -> Vec<u8> {
    text::json(&[testing::incident()]).unwrap().into_bytes()
}

#[test]
fn incidents_are_asked_for() {
    testing::run(async {
        let daemon = Daemon::start(Limits::default());
        for since in [None, Some(jiff::Timestamp::UNIX_EPOCH)] {
            let got = super::incidents(&daemon.dir.join("rst.sock"), since).await;
            assert_eq!(got.unwrap(), [testing::incident()]);
        }
        let absent = super::incidents(&daemon.dir.join("none.sock"), None).await;
        assert!(matches!(absent, Err(ClientError::NoDaemon(_))));
        daemon.stop.send(true).unwrap();
        daemon.server.await.unwrap();
    });
}

struct Daemon {
    dir: TempDir,
    hub: Hub,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Daemon {
    fn start(limits: Limits) -> Self {
        let dir = TempDir::new();
        let bound = bind_unix(&dir.join("rst.sock")).unwrap();
        let hub = Hub::new();
        let serve = Arc::new(Serve {
            hub: hub.clone(),
            ready: Readiness::new(),
            scrape: Paced::new(Arc::new(|| Ok(Vec::new()))),
            incidents: Arc::new(|_| Ok(incidents())),
            status: Arc::new(crate::status::tests::report),
        });
        let (stop, shutdown) = watch::channel(false);
        let server = tokio::spawn(serve_unix_within(limits, bound, serve, shutdown));
        Self {
            dir,
            hub,
            stop,
            server,
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("rst.sock")
    }
}

#[test]
fn resets_arrive_as_they_were_published() {
    testing::run(async {
        let daemon = Daemon::start(Limits::default());
        let mut stream = stream(&daemon.socket(), &Filter::default()).await.unwrap();
        daemon.hub.publish(testing::reset());
        let json = text::json(&testing::reset()).unwrap();
        let expected = Item::Told(testing::reset().into(), json);
        assert_eq!(stream.next().await.unwrap(), Some(expected));
    });
}

#[test]
fn a_restart_arrives_where_resets_of_all_kinds_are_wanted() {
    testing::run(async {
        let daemon = Daemon::start(Limits::default());
        let port = |port| Filter {
            port: Some(port),
            ..Filter::default()
        };
        let mut wanted = stream(&daemon.socket(), &port(8000)).await.unwrap();
        let mut others = [
            stream(&daemon.socket(), &port(8001)).await.unwrap(),
            stream(
                &daemon.socket(),
                &Filter {
                    direction: Some(Direction::Sent),
                    ..port(8000)
                },
            )
            .await
            .unwrap(),
        ];
        daemon.hub.publish(testing::restarted());
        let json = text::json(&testing::restarted()).unwrap();
        let expected = Item::Told(testing::restarted().into(), json);
        assert_eq!(wanted.next().await.unwrap(), Some(expected));
        // What comes next is the first they get.
        for (stream, port) in others.iter_mut().zip([8001, 8000]) {
            let reset = Reset {
                direction: "sent".into(),
                local: Some(testing::endpoint("10.0.1.5", port)),
                ..testing::reset()
            };
            daemon.hub.publish(reset.clone());
            let Some(Item::Told(told, _)) = stream.next().await.unwrap() else {
                panic!("nothing told");
            };
            assert_eq!(told, reset.into());
        }
    });
}

#[test]
fn the_filter_is_applied_by_the_daemon() {
    testing::run(async {
        let daemon = Daemon::start(Limits::default());
        let filter = Filter {
            direction: Some(Direction::Sent),
            peer: Some("10.0.0.0/8".parse().unwrap()),
            ..Filter::default()
        };
        let mut stream = stream(&daemon.socket(), &filter).await.unwrap();
        let wanted = Reset {
            direction: "sent".into(),
            ..testing::reset()
        };
        daemon.hub.publish(testing::reset());
        daemon.hub.publish(wanted.clone());
        let Some(Item::Told(told, _)) = stream.next().await.unwrap() else {
            panic!("nothing told");
        };
        assert_eq!(told, wanted.into());
    });
}

#[test]
fn what_was_missed_is_told() {
    testing::run(async {
        let daemon = Daemon::start(Limits::default());
        let mut stream = stream(&daemon.socket(), &Filter::default()).await.unwrap();
        // No other task runs meanwhile, so the hub overflows by exactly 9.
        for _ in 0..CAPACITY + 9 {
            daemon.hub.publish(testing::reset());
        }
        assert_eq!(stream.next().await.unwrap(), Some(Item::Missed(9)));
        for _ in 0..CAPACITY {
            let item = stream.next().await.unwrap();
            assert!(matches!(item, Some(Item::Told(..))), "{item:?}");
        }
    });
}

#[test]
fn a_stop_of_the_daemon_ends_the_stream_cleanly() {
    testing::run(async {
        let daemon = Daemon::start(Limits::default());
        let socket = daemon.socket();
        let mut open = stream(&socket, &Filter::default()).await.unwrap();
        daemon.stop.send_replace(true);
        assert_eq!(open.next().await.unwrap(), None);
        daemon.server.await.unwrap();
        let error = stream(&socket, &Filter::default()).await.unwrap_err();
        assert!(matches!(error, ClientError::NoDaemon(_)), "{error}");
    });
}

#[test]
fn a_stream_that_is_dropped_leaves_the_hub() {
    testing::run(async {
        let daemon = Daemon::start(Limits::default());
        let stream = stream(&daemon.socket(), &Filter::default()).await.unwrap();
        assert!(daemon.hub.has_subscribers());
        drop(stream);
        testing::until("the hub is empty", || !daemon.hub.has_subscribers()).await;
    });
}

#[test]
fn a_refusal_is_told() {
    testing::run(async {
        let limits = Limits {
            streams: 0,
            ..Limits::default()
        };
        let daemon = Daemon::start(limits);
        let error = stream(&daemon.socket(), &Filter::default())
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the daemon refused: as many streams are open as there may be (0); close one and try again"
        );
    });
}

#[test]
fn without_a_daemon() {
    testing::run(async {
        let dir = TempDir::new();
        let missing = dir.join("missing.sock");
        let stale = dir.join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        for path in [missing, stale] {
            let error = stream(&path, &Filter::default()).await.unwrap_err();
            assert!(matches!(error, ClientError::NoDaemon(_)), "{error}");
            let message = error.to_string();
            let start = format!("no rst daemon serves {}; start it", path.display());
            assert!(message.starts_with(&start), "{message}");
        }
    });
}

#[test]
fn without_permission() {
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: without_permission: root may open every socket");
        return;
    }
    testing::run(async {
        let dir = TempDir::new();
        let path = dir.join("rst.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
        let error = stream(&path, &Filter::default()).await.unwrap_err();
        assert!(matches!(error, ClientError::Denied(_)), "{error}");
    });
}

/// Serves the answer to whoever connects first; the connection stays open as
/// long as the handle.
fn imposter(dir: &TempDir, answer: &[u8]) -> (PathBuf, JoinHandle<UnixStream>) {
    let path = dir.join("imposter.sock");
    let answer = answer.to_vec();
    let listener = UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move {
        let mut io = listener.accept().await.unwrap().0;
        let mut request = [0; 4096];
        assert_ne!(io.read(&mut request).await.unwrap(), 0);
        io.write_all(&answer).await.unwrap();
        io
    });
    (path, server)
}

async fn ask_imposter(answer: &[u8]) -> (Result<Stream, ClientError>, JoinHandle<UnixStream>) {
    let dir = TempDir::new();
    let (path, server) = imposter(&dir, answer);
    let patience = Duration::from_millis(500);
    let stream = stream_within(&path, &Filter::default(), patience, patience).await;
    (stream, server)
}

#[test]
fn what_is_no_daemon_is_recognised() {
    testing::run(async {
        for answer in [
            b"220 mail.example.org ESMTP\r\n".as_slice(),
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ] {
            let (stream, _server) = ask_imposter(answer).await;
            let error = stream.unwrap_err();
            assert!(matches!(error, ClientError::NotRst { .. }), "{error}");
        }
    });
}

#[test]
fn silence_is_an_error() {
    testing::run(async {
        let (stream, _server) = ask_imposter(b"").await;
        let error = stream.unwrap_err();
        assert!(matches!(error, ClientError::Silent(_)), "{error}");
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        let (stream, _server) = ask_imposter(head).await;
        let error = stream.unwrap().next().await.unwrap_err();
        assert!(matches!(error, ClientError::Silent(_)), "{error}");
    });
}

#[test]
fn a_refusal_is_harmless_and_short() {
    testing::run(async {
        let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\n\x1b[2J\n";
        let (stream, _server) = ask_imposter(answer).await;
        assert_eq!(
            stream.unwrap_err().to_string(),
            "the daemon refused: \\u{1b}[2J"
        );
        let long = "x".repeat(5000);
        let answer = format!("HTTP/1.1 400 Bad Request\r\ncontent-length: 5000\r\n\r\n{long}");
        let (stream, _server) = ask_imposter(answer.as_bytes()).await;
        assert_eq!(
            stream.unwrap_err().to_string(),
            "the daemon refused: 400 Bad Request"
        );
    });
}

#[test]
fn a_broken_connection_is_an_error() {
    testing::run(async {
        let dir = TempDir::new();
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                     transfer-encoding: chunked\r\n\r\n5\r\nda";
        let (path, server) = imposter(&dir, head);
        let mut stream = stream(&path, &Filter::default()).await.unwrap();
        drop(server.await.unwrap());
        let error = stream.next().await.unwrap_err();
        assert!(matches!(error, ClientError::Broken(_)), "{error}");
    });
}
