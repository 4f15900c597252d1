//! Ctrl-C ends the benchmark and the kernel matrix in good order: what they started is stopped,
//! what they changed restored.

use std::{
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// Longest that something started may take to be ready.
const DEADLINE: Duration = Duration::from_secs(30);

static RAISED: AtomicBool = AtomicBool::new(false);

extern "C" fn raise(_: libc::c_int) {
    RAISED.store(true, Ordering::Relaxed);
}

/// From now on the first signal is only noted; the second one kills.
pub(crate) fn install() -> Result<()> {
    // SAFETY: sigaction is integers and function pointers that may be null: all zero is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = raise as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which a signal handler may.
        let result = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
        ensure!(result == 0, "cannot handle signal {signal}");
    }
    Ok(())
}

/// Whether somebody wants an end.
pub(crate) fn raised() -> bool {
    RAISED.load(Ordering::Relaxed)
}

/// An error once somebody wants an end.
pub(crate) fn check() -> Result<()> {
    if raised() {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits until `condition` gives something; an error at the deadline, or when interrupted.
pub(crate) fn wait_for<T>(
    what: &str,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + DEADLINE;
    loop {
        check()?;
        if let Some(value) = condition().with_context(|| what.to_owned())? {
            return Ok(value);
        }
        ensure!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}
