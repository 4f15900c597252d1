//! The daemon that one test leaves to the next. In an emulated guest it takes six
//! seconds to start one, and a second to run most tests; elsewhere each test has a
//! daemon of its own.

use std::sync::{Mutex, PoisonError};

use crate::lab::{Daemon, Folder};
use crate::pace;

/// What a daemon is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct How {
    settings: String,
    flags: Vec<String>,
}

impl How {
    /// Its configuration and its flags.
    pub(crate) fn new(settings: &str, flags: &[&str]) -> Self {
        Self {
            settings: settings.to_owned(),
            flags: flags.iter().map(ToString::to_string).collect(),
        }
    }

    /// Starts a daemon like this.
    pub(crate) fn start(&self, folder: &Folder) -> Daemon {
        let flags: Vec<_> = self.flags.iter().map(String::as_str).collect();
        Daemon::start(folder, &self.settings, &flags, |command| command)
    }
}

/// A daemon that has served a test well, and the folder of its socket.
type Kept = (How, Daemon, Folder);

static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

/// Whether daemons are kept here.
pub(crate) fn keeps() -> bool {
    pace::is_emulated()
}

/// The kept daemon if it was started like this. Any other is killed: one watches at a
/// time.
pub(crate) fn take(how: Option<&How>) -> Option<(Daemon, Folder)> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let (same, daemon, folder) = kept.take()?;
    (Some(&same) == how).then_some((daemon, folder))
}

/// Leaves a daemon to the next test.
pub(crate) fn leave(how: How, daemon: Daemon, folder: Folder) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    *kept = Some((how, daemon, folder));
}
