//! What a process has used so far.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

/// User and system time of all its threads, also of those that have ended.
pub(super) fn time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = ticks(&text).with_context(|| format!("cannot understand {path}"))?;
    let millis = ticks * 1000 / rustix::param::clock_ticks_per_second();
    Ok(Duration::from_millis(millis))
}

/// CPU time of the thread that asks, since its beginning.
pub(super) fn of_this_thread() -> Result<Duration> {
    Ok(clock_gettime(ClockId::ThreadCPUTime).try_into()?)
}

/// Memory it holds (VmRSS), bytes.
pub(super) fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    resident_kib(&text)
        .map(|kib| kib * 1024)
        .with_context(|| format!("no VmRSS in {path}"))
}

/// Clock ticks in user and system mode. The command name before them may hold anything, also
/// spaces and brackets.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    Some(user + system)
}

fn resident_kib(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{resident_kib, ticks};

    #[test]
    fn times_stand_behind_any_command_name() {
        let stat = "12 (a) (b c) S 1 2 3 4 -1 4194560 10 0 0 0 250 31 7 8 20 0 3 0 99 0 0";
        assert_eq!(ticks(stat), Some(281));
        assert_eq!(ticks("12 (x) S 1"), None);
    }

    #[test]
    fn resident_memory_is_in_kib() {
        let status = "VmHWM:\t   9000 kB\nVmRSS:\t   8456 kB\n";
        assert_eq!(resident_kib(status), Some(8456));
        assert_eq!(resident_kib("VmHWM:\t9000 kB\n"), None);
    }
}
