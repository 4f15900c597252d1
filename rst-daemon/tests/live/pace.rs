//! How fast this machine is. A guest of the kernel matrix (`cargo xtask vm`) is
//! emulated, some 16 times slower than the host.

use std::time::Duration;

/// Set in the guests.
const EMULATED: &str = "RST_TEST_EMULATED";

/// How much longer everything may take in a guest: several of them run at once, and the
/// host may have other things to do.
const STRETCH: u32 = 30;

/// What a storm is divided by in a guest.
const LESS: u64 = 10;

/// Silence after which a connection counts as idle in a guest, where a test does not set
/// it: as the usual second on the host, no stall of the machine reaches it.
const IDLE: &str = "idle_ms = 20000\n";

/// What rst may cost in a guest, all of its processor: on a slow one it would soon
/// describe no resets any more.
const COST: &str = "max_cpu_percent = 100\n";

/// The daemon's configuration, for a test that wants these settings.
pub(crate) fn settings(wanted: &str) -> String {
    let mut settings = String::new();
    if is_emulated() {
        let idle = (!wanted.contains("idle_ms")).then_some(IDLE);
        let cost = (!wanted.contains("max_cpu_percent")).then_some(COST);
        settings.extend([idle, cost].into_iter().flatten());
    }
    settings + wanted
}

/// Whether this is such a guest.
pub(crate) fn is_emulated() -> bool {
    std::env::var_os(EMULATED).is_some()
}

/// How long a test waits for something that takes so long at most.
pub(crate) fn patience(usual: Duration) -> Duration {
    if is_emulated() {
        usual * STRETCH
    } else {
        usual
    }
}

/// How large a storm is that has so many resets.
pub(crate) fn storm(usual: u64) -> u64 {
    if is_emulated() { usual / LESS } else { usual }
}
