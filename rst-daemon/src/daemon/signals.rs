//! The signals that a running daemon obeys: SIGHUP and SIGUSR1. (Those that stop it are
//! `main`'s.)

use std::sync::{Arc, Mutex};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::{Command, DaemonError, Inside, lock};
use crate::config::Config;
use crate::manager::Manager;
use crate::reload::{self, Source};
use crate::serve::Readiness;

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
        let again = reload::at_each(hang_up, source, settings, &commands, &manager, done);
        let off = async {
            if detach.recv().await.is_some() {
                ready.set_blind();
                manager.status("all probes are detached: nothing is counted");
                // Nobody listens where the daemon is stopping.
                let _ = commands.send(Command::Detach).await;
            }
        };
        tokio::join!(again, off);
    }
}
