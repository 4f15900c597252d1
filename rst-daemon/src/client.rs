//! The other end of `/api/v1/stream` and `/api/v1/incidents`: what `rst watch` and
//! `rst incidents` read.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::filter::Filter;
use crate::incident::Incident;
use crate::reset::{Reset, Restarted, Told};
use crate::status::Status;
use crate::text;

/// Longest line, and longest event, of the stream.
const MAX_LINE: usize = 1 << 20;

/// Longest message of a refusal that is shown.
const MAX_MESSAGE: usize = 4096;

/// Time for the daemon to answer the request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time without a byte after which the daemon is taken for hung: four of its
/// keep-alive comments.
const SILENCE: Duration = Duration::from_secs(60);

/// Why there is no stream, or why it broke.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody serves the socket.
    #[error("no rst daemon serves {}; start it with `rst daemon`, or name its socket with --socket", .0.display())]
    NoDaemon(PathBuf),
    /// The socket may not be opened.
    #[error("permission denied on {}; run as root or as a member of the socket's group", .0.display())]
    Denied(PathBuf),
    /// Any other fault of the socket.
    #[error("can't connect to {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
    /// What answered is something else.
    #[error("what serves {} is not an rst daemon: {reason}; name the daemon's socket with --socket", path.display())]
    NotRst {
        /// The socket.
        path: PathBuf,
        /// How that shows.
        reason: String,
    },
    /// The daemon said no.
    #[error("the daemon refused: {0}")]
    Refused(String),
    /// The daemon has stopped answering.
    #[error("the daemon has sent nothing for {} s; see whether it hangs", .0.as_secs())]
    Silent(Duration),
    /// The connection broke.
    #[error("the connection to the daemon broke: {0}")]
    Broken(#[source] hyper::Error),
    /// An event that this program can't read.
    #[error("can't read an event of the daemon: {0}; use the same version of both")]
    Event(String),
}

/// One thing that the daemon told.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// What the daemon tells, and the JSON it came as.
    Told(Told, String),
    /// So many resets were not told, because this end was too slow.
    Missed(u64),
}

/// An open stream of resets.
#[derive(Debug)]
pub struct Stream {
    body: Incoming,
    parser: Parser,
    _connection: Connection,
    silence: Duration,
}

/// The task that drives the connection; it ends with the stream.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Longest document that is read.
const MAX_DOCUMENT: usize = 64 << 20;

/// Asks the daemon behind the socket for the incidents that were open at `since` or
/// later; all that it remembers where that is not given.
pub async fn incidents(
    socket: &Path,
    since: Option<Timestamp>,
) -> Result<Vec<Incident>, ClientError> {
    let query = since.map_or(String::new(), |since| format!("?since={since}"));
    get(socket, &format!("/api/v1/incidents{query}")).await
}

/// Asks the daemon behind the socket how it stands.
pub async fn status(socket: &Path) -> Result<Status, ClientError> {
    get(socket, "/api/v1/status").await
}

/// Asks for a JSON document.
async fn get<T: DeserializeOwned>(socket: &Path, target: &str) -> Result<T, ClientError> {
    let io = connect(socket).await?;
    let answer = async {
        let asked = ask(io, target).await;
        let (answer, _connection) = asked.map_err(|error| not_rst(socket, &error.to_string()))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR => {
                return Err(ClientError::Refused(message(answer).await));
            }
            status => return Err(not_rst(socket, &format!("it answers {status}"))),
        }
        let body = Limited::new(answer.into_body(), MAX_DOCUMENT)
            .collect()
            .await;
        let body = body.map_err(|error| not_rst(socket, &error.to_string()))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| event_error(&error))
    };
    timeout(ANSWER_TIMEOUT, answer)
        .await
        .map_err(|_| ClientError::Silent(ANSWER_TIMEOUT))?
}

/// Asks the daemon behind the socket for the resets that the filter wants,
/// from now on.
pub async fn stream(socket: &Path, filter: &Filter) -> Result<Stream, ClientError> {
    stream_within(socket, filter, ANSWER_TIMEOUT, SILENCE).await
}

async fn stream_within(
    socket: &Path,
    filter: &Filter,
    patience: Duration,
    silence: Duration,
) -> Result<Stream, ClientError> {
    let io = connect(socket).await?;
    let asked = timeout(
        patience,
        ask(io, &format!("/api/v1/stream?{}", filter.to_query())),
    )
    .await;
    let (answer, connection) = asked
        .map_err(|_| ClientError::Silent(patience))?
        .map_err(|error| not_rst(socket, &error.to_string()))?;
    let is_stream = answer
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    match answer.status() {
        StatusCode::OK if is_stream => Ok(Stream {
            body: answer.into_body(),
            parser: Parser::default(),
            _connection: connection,
            silence,
        }),
        StatusCode::BAD_REQUEST | StatusCode::SERVICE_UNAVAILABLE => {
            let message = timeout(patience, message(answer)).await;
            Err(ClientError::Refused(
                message.map_err(|_| ClientError::Silent(patience))?,
            ))
        }
        StatusCode::OK => Err(not_rst(socket, "it answers with something else")),
        status => Err(not_rst(socket, &format!("it answers {status}"))),
    }
}

fn not_rst(socket: &Path, reason: &str) -> ClientError {
    ClientError::NotRst {
        path: socket.into(),
        reason: text::safe(reason),
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    let absent = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    UnixStream::connect(socket).await.map_err(|source| {
        let path = socket.to_owned();
        if absent.contains(&source.kind()) {
            ClientError::NoDaemon(path)
        } else if source.kind() == io::ErrorKind::PermissionDenied {
            ClientError::Denied(path)
        } else {
            ClientError::Connect { path, source }
        }
    })
}

async fn ask(
    io: UnixStream,
    target: &str,
) -> Result<(Response<Incoming>, Connection), hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let connection = Connection(tokio::spawn(async move {
        // The body reports the same error.
        let _ = connection.await;
    }));
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = target.parse().expect("the query is percent-encoded");
    let host = hyper::header::HeaderValue::from_static("localhost");
    request.headers_mut().insert(HOST, host);
    Ok((sender.send_request(request).await?, connection))
}

/// The body of a refusal as one line for a terminal.
async fn message(answer: Response<Incoming>) -> String {
    let status = answer.status();
    match Limited::new(answer.into_body(), MAX_MESSAGE)
        .collect()
        .await
    {
        Ok(body) => text::safe(String::from_utf8_lossy(&body.to_bytes()).trim()),
        Err(_) => status.to_string(),
    }
}

impl Stream {
    /// The next item; `None` once the daemon has ended the stream, which it
    /// does when it stops. May be dropped while it waits, without loss.
    pub async fn next(&mut self) -> Result<Option<Item>, ClientError> {
        loop {
            if let Some(item) = self.parser.next()? {
                return Ok(Some(item));
            }
            let frame = timeout(self.silence, self.body.frame())
                .await
                .map_err(|_| ClientError::Silent(self.silence))?;
            match frame {
                None => return Ok(None),
                Some(frame) => {
                    let frame = frame.map_err(ClientError::Broken)?;
                    if let Some(bytes) = frame.data_ref() {
                        self.parser.push(bytes);
                    }
                }
            }
        }
    }
}

/// Server-sent events, as far as the daemon writes them.
#[derive(Debug, Default)]
struct Parser {
    buffer: Vec<u8>,
    /// Start of the first line that has not been taken.
    start: usize,
    /// End of what holds no newline, from `start`.
    searched: usize,
    /// Fields of the event at hand.
    kind: String,
    data: String,
}

#[derive(Deserialize)]
struct Missed {
    missed: u64,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next item that is complete.
    fn next(&mut self) -> Result<Option<Item>, ClientError> {
        loop {
            let rest = &self.buffer[self.searched..];
            let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
                self.searched = self.buffer.len();
                too_long(self.searched - self.start)?;
                return Ok(None);
            };
            let end = self.searched + length;
            let line = &self.buffer[self.start..end];
            (self.start, self.searched) = (end + 1, end + 1);
            too_long(line.len())?;
            let line = std::str::from_utf8(line).map_err(|error| event_error(&error))?;
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.is_empty() {
                let (kind, data) = (
                    std::mem::take(&mut self.kind),
                    std::mem::take(&mut self.data),
                );
                if let Some(item) = item(&kind, data)? {
                    return Ok(Some(item));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => {
                    if !self.data.is_empty() {
                        self.data.push('\n');
                    }
                    self.data.push_str(value);
                    too_long(self.data.len())?;
                }
                "event" => value.clone_into(&mut self.kind),
                // Comments (an empty name) and what a later version may add.
                _ => {}
            }
        }
    }
}

fn too_long(length: usize) -> Result<(), ClientError> {
    if length <= MAX_LINE {
        return Ok(());
    }
    Err(ClientError::Event(format!(
        "it is longer than {MAX_LINE} bytes"
    )))
}

/// The item that an event stands for; none for an event of no data or of a
/// kind that a later version may add.
fn item(kind: &str, data: String) -> Result<Option<Item>, ClientError> {
    match kind {
        _ if data.is_empty() => Ok(None),
        "" => {
            let reset: Reset = serde_json::from_str(&data).map_err(|error| event_error(&error))?;
            Ok(Some(Item::Told(reset.into(), data)))
        }
        "restart" => {
            let restarted: Restarted =
                serde_json::from_str(&data).map_err(|error| event_error(&error))?;
            Ok(Some(Item::Told(restarted.into(), data)))
        }
        "missed" => {
            let Missed { missed } =
                serde_json::from_str(&data).map_err(|error| event_error(&error))?;
            Ok(Some(Item::Missed(missed)))
        }
        _ => Ok(None),
    }
}

fn event_error(error: &dyn std::error::Error) -> ClientError {
    ClientError::Event(text::safe(&error.to_string()))
}

#[cfg(test)]
mod tests;
