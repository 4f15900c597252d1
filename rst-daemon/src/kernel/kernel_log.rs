//! Forwards the log lines of the programs, for debugging them.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;

/// Logs what the programs log, from now on. A problem here is reported and
/// otherwise ignored: it must not keep the probes from running.
pub fn forward(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => return warn!("no log lines from the kernel side: {error}"),
    };
    // SAFETY: the descriptor belongs to the map inside the logger, which closes
    // it only when it is dropped, after the registration.
    match unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) } {
        Ok(mut logger) => {
            tokio::spawn(async move {
                while let Ok(mut guard) = logger.readable_mut().await {
                    guard.get_inner_mut().flush();
                    guard.clear_ready();
                }
            });
        }
        Err(error) => warn!(
            "no log lines from the kernel side: {}",
            error.into_parts().1
        ),
    }
}
