//! The signals that a running daemon obeys: SIGHUP and SIGUSR1. (Those that stop it are
//! `main`'s.)

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::{Command, DaemonError, Inside, lock};
use crate::config::Config;
use crate::manager::Manager;
use crate::reload::{self, Source};
use crate::serve::Readiness;

/// How a daemon stands that counts, for the service manager.
pub(super) const RUNNING: &str = "running";

/// How one stands that was told to detach its probes.
const DETACHED: &str =
    "all probes are detached, as SIGUSR1 asks: nothing is counted until a restart";

/// Both, from when they are handled.
pub(super) struct Signals {
    hang_up: Signal,
    detach: Signal,
}

/// What they act on.
pub(super) struct Subject {
    pub(super) source: Source,
    pub(super) settings: watch::Sender<Config>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) manager: Arc<Manager>,
    pub(super) ready: Readiness,
    pub(super) inside: Arc<Mutex<Inside>>,
}

impl Signals {
    /// Handles them from now on: before that either would end the process.
    pub(super) fn handle() -> Result<Self, DaemonError> {
        let of = |kind| signal(kind).map_err(DaemonError::Signal);
        Ok(Self {
            hang_up: of(SignalKind::hangup())?,
            detach: of(SignalKind::user_defined1())?,
        })
    }

    /// Obeys them for as long as it is polled.
    pub(super) async fn obey(self, subject: Subject) {
        let Self {
            hang_up,
            mut detach,
        } = self;
        let Subject {
            source,
            settings,
            commands,
            manager,
            ready,
            inside,
        } = subject;
        let done = |successful| lock(&inside).settings.note(successful);
        let detached = AtomicBool::new(false);
        let standing = || {
            if detached.load(Ordering::Relaxed) {
                DETACHED
            } else {
                RUNNING
            }
        };
        let again = reload::at_each(
            hang_up, source, settings, &commands, &manager, done, standing,
        );
        let off = async {
            if detach.recv().await.is_some() {
                ready.set_blind();
                detached.store(true, Ordering::Relaxed);
                manager.status(DETACHED);
                // Nobody listens where the daemon is stopping.
                let _ = commands.send(Command::Detach).await;
            }
        };
        tokio::join!(again, off);
    }
}
