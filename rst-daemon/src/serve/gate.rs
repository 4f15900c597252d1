//! What stands before the TCP listener: TLS and the list of users, from the web
//! configuration file. The file and those that it names are looked at again as clients
//! come; what is faulty is refused, and what was there before stays.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::error::Unspecified;
use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

use crate::config::ConfigError;
use crate::serve::tls::{self, TlsError};
use crate::serve::users::Users;
use crate::serve::web::{Client, WebConfig};

/// The files are looked at no more often than this.
const LOOK: Duration = Duration::from_secs(1);

/// Why the listener has no guard.
#[derive(Debug, Error)]
pub enum GateError {
    /// The web configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What it asks of TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Details would be open to anybody.
    #[error(
        "tcp_details needs tls_server_config and basic_auth_users (or client_auth_type: RequireAndVerifyClientCert) in the file that web_config names; {} has them not both",
        .0.display()
    )]
    Open(PathBuf),
    /// Likewise, and there is no file.
    #[error("tcp_details needs TLS and passwords: name a file with web_config")]
    Missing,
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

impl From<Unspecified> for GateError {
    fn from(_: Unspecified) -> Self {
        Self::Random
    }
}

/// The guard of a listener.
pub struct Gate {
    path: PathBuf,
    details: bool,
    state: Mutex<State>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        out.debug_struct("Gate")
            .field("path", path)
            .finish_non_exhaustive()
    }
}

struct State {
    door: Arc<Door>,
    seen: Seen,
    looked: Instant,
}

/// What a connection goes through: it keeps the one it came to.
pub(super) struct Door {
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) users: Users,
}

impl Gate {
    /// Reads a web configuration file and those that it names. Where `details` are served
    /// too, it must ask for TLS and for proof of who the client is.
    pub fn open(path: &Path, details: bool) -> Result<Self, GateError> {
        let (door, seen) = build(path, details)?;
        Ok(Self {
            path: path.into(),
            details,
            state: Mutex::new(State {
                door: Arc::new(door),
                seen,
                looked: Instant::now(),
            }),
        })
    }

    /// Of the URLs of a listener with this before it, or nothing.
    #[must_use]
    pub fn scheme(gate: Option<&Self>) -> &'static str {
        match gate {
            Some(gate) if gate.lock().door.tls.is_some() => "https",
            _ => "http",
        }
    }

    /// Whether details are served to who comes through.
    pub(super) fn shows_details(&self) -> bool {
        self.details
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a client that comes now.
    pub(super) fn door(&self, now: Instant) -> Arc<Door> {
        let mut state = self.lock();
        if now.saturating_duration_since(state.looked) >= LOOK {
            state.looked = now;
            self.look(&mut state);
        }
        Arc::clone(&state.door)
    }

    fn look(&self, state: &mut State) {
        let seen = Seen::of(state.seen.paths());
        if seen == state.seen {
            return;
        }
        match build(&self.path, self.details) {
            Ok((door, seen)) => {
                info!(
                    "{} and its certificates were read again",
                    self.path.display()
                );
                *state = State {
                    door: Arc::new(door),
                    seen,
                    looked: state.looked,
                };
            }
            Err(fault) => {
                let fault = fault.to_string().replace('\n', "; ");
                error!("the web configuration is refused, the one from before stays: {fault}");
                // Told once, until one of them changes again.
                state.seen = seen;
            }
        }
    }
}

fn build(path: &Path, details: bool) -> Result<(Door, Seen), GateError> {
    // Looked at before they are read: what changes in between is seen next time.
    let mut paths = vec![path.to_owned()];
    let own = Seen::of(paths.clone());
    let config = WebConfig::load(path)?;
    if details && !(config.tls.is_some() && config.authenticates()) {
        return Err(GateError::Open(path.into()));
    }
    if let Some(tls) = &config.tls {
        paths.extend([tls.cert.clone(), tls.key.clone()]);
        match &tls.client {
            Client::Unasked => {}
            Client::Verified(ca) | Client::Required(ca) => paths.push(ca.clone()),
        }
    }
    let seen = own.and(Seen::of(paths.split_off(1)));
    let door = Door {
        tls: config.tls.as_ref().map(tls::acceptor).transpose()?,
        users: Users::new(config.users)?,
    };
    Ok((door, seen))
}

/// Which file it is, how long, and when it was changed; nothing of one that is not there.
type Mark = Option<(u64, u64, u64, i64, i64)>;

/// How files looked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen(Vec<(PathBuf, Mark)>);

impl Seen {
    fn of(paths: Vec<PathBuf>) -> Self {
        let mark = |path: &Path| {
            let file = std::fs::metadata(path).ok()?;
            Some((
                file.dev(),
                file.ino(),
                file.size(),
                file.mtime(),
                file.mtime_nsec(),
            ))
        };
        Self(
            paths
                .into_iter()
                .map(|path| {
                    let mark = mark(&path);
                    (path, mark)
                })
                .collect(),
        )
    }

    fn and(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        self
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.0.iter().map(|(path, _)| path.clone()).collect()
    }
}
