//! A small HTTP server of the test: a webhook, or many targets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::collect::DEADLINE;
use crate::netns::V4;

/// Answers requests until it is dropped.
pub(super) struct Site {
    /// Where it listens.
    pub(super) address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    /// Starts one. `answer` gets the path and the body of each request, and gives the
    /// body of the answer.
    pub(super) fn start(answer: impl Fn(&str, &str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(V4.server, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::<AtomicBool>::default();
        let (answer, ends) = (Arc::new(answer), Arc::clone(&over));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let answer = Arc::clone(&answer);
                thread::spawn(move || {
                    // Who asks may have gone.
                    let _ = serve(&stream.expect("nothing hinders it"), &*answer);
                });
            }
        });
        Self {
            address,
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // It waits for somebody.
        let _ = TcpStream::connect(self.address);
        let failed = self.thread.take().is_some_and(|it| it.join().is_err());
        assert!(!failed || thread::panicking(), "the site has failed");
    }
}

/// One request, then the connection ends.
fn serve(mut stream: &TcpStream, answer: &dyn Fn(&str, &str) -> String) -> std::io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse().expect("a number"))
    });
    let mut body = vec![0; length.unwrap_or_default()];
    reader.read_exact(&mut body)?;
    let path = head.split(' ').nth(1).expect("a path");
    let answer = answer(path, &String::from_utf8_lossy(&body));
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{answer}",
        answer.len()
    )
}
