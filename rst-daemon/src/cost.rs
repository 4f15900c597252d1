//! What rst costs this host. The daemon's own time and memory are known; the programs
//! are sampled, for measuring them taxes every program on the host: 80 ms in each 5
//! seconds stand for them. So these numbers are estimates: right on average, coarse
//! for what comes in bursts.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use aya::sys::{Stats, enable_stats};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use crate::governor::{Cost, Governor, Limits, PERIOD, Shed};
use crate::kernel::programs::{ProgramHandle, ProgramStats};

/// For how long the kernel measures in each [`PERIOD`].
const WINDOW: Duration = Duration::from_millis(80);

/// What a program has cost since the start, estimated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeCost {
    /// The probe it belongs to.
    pub probe: &'static str,
    /// Runs.
    pub runs: f64,
    /// Seconds of processor time.
    pub seconds: f64,
}

impl ProbeCost {
    /// Adds what a window has shown, which stands for `period`; the processor time a
    /// second in it.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn add(
        &mut self,
        [before, after]: [ProgramStats; 2],
        window: Duration,
        period: Duration,
    ) -> f64 {
        let runs = after.runs.saturating_sub(before.runs) as f64;
        let time = after.run_time_ns.saturating_sub(before.run_time_ns) as f64 / 1e9;
        let rate = 1.0 / window.max(WINDOW).as_secs_f64();
        self.runs += runs * rate * period.as_secs_f64();
        self.seconds += time * rate * period.as_secs_f64();
        time * rate
    }
}

/// Measures, judges, and hands on what there is to know, for as long as it is
/// polled. `random` says where in its period a window lies, 0 to 1, so that nothing
/// periodic hides from it; `limits` tells the budget of each.
pub async fn watch(
    programs: Arc<[ProgramHandle]>,
    limits: impl Fn() -> Limits,
    random: impl Fn() -> f64,
    mut tell: impl FnMut(&[ProbeCost], Option<Shed>),
) {
    let mut governor = Governor::new(limits());
    let mut costs: Vec<ProbeCost> = programs
        .iter()
        .map(|program| ProbeCost {
            probe: program.probe,
            runs: 0.0,
            seconds: 0.0,
        })
        .collect();
    let mut measurable = true;
    let mut begin = Instant::now();
    let mut cpu = cpu_time();
    loop {
        sleep_until(begin + PERIOD.saturating_sub(WINDOW).mul_f64(random())).await;
        let mut in_programs = 0.0;
        if measurable {
            match sample(&programs, &mut costs).await {
                Ok(rate) => in_programs = rate,
                // Anything else may pass.
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                    debug!("the cost of our programs can't be measured now: {error}");
                }
                Err(error) => {
                    measurable = false;
                    info!(
                        "the kernel does not measure our programs ({error}): their cost is not known; it takes CAP_SYS_ADMIN"
                    );
                }
            }
        }
        sleep_until(begin + PERIOD).await;
        let (now, cpu_now) = (Instant::now(), cpu_time());
        give_memory_back();
        let cost = Cost {
            daemon: cpu_now.saturating_sub(cpu).as_secs_f64() / (now - begin).as_secs_f64(),
            programs: in_programs,
            memory: own_memory().unwrap_or_default(),
        };
        (begin, cpu) = (now, cpu_now);
        governor.limit(limits());
        let change = governor.judge(cost);
        if let Some(change) = change {
            if change.shed == Shed::Nothing {
                info!("{change}");
            } else {
                warn!("{change}");
            }
        }
        tell(&costs, change.map(|change| change.shed));
    }
}

/// Measures for one window; the processor time that the programs took a second.
async fn sample(programs: &[ProgramHandle], costs: &mut [ProbeCost]) -> io::Result<f64> {
    let read = || {
        let stats = programs.iter().map(ProgramHandle::stats);
        stats.collect::<io::Result<Vec<_>>>()
    };
    let statistics = enable_stats(Stats::RunTime).map_err(|error| error.io_error)?;
    let begin = Instant::now();
    let before = read()?;
    sleep(WINDOW).await;
    let after = read()?;
    let window = begin.elapsed();
    drop(statistics);
    let windows = before.into_iter().zip(after);
    let rates = costs
        .iter_mut()
        .zip(windows)
        .map(|(cost, (before, after))| cost.add([before, after], window, PERIOD));
    Ok(rates.sum())
}

/// Processor time of this process.
fn cpu_time() -> Duration {
    // Never negative.
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Resident memory of this process that is its own, bytes: not the program's file,
/// nor the ring buffer, which is the kernel's (`proc_pid_statm(5)`).
fn own_memory() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split(' ').skip(1).map(str::parse::<u64>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    Some(resident.saturating_sub(shared) * page)
}

/// Returns to the kernel what is not needed any more. Other allocators than glibc's
/// have no such call and do what they do as they free.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number and touches only the allocator's own state.
    unsafe {
        libc::malloc_trim(0)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(runs: u64, run_time_ns: u64) -> ProgramStats {
        ProgramStats {
            runs,
            run_time_ns,
            missed: 0,
        }
    }

    #[test]
    fn a_window_stands_for_its_period() {
        let mut cost = ProbeCost {
            probe: "p",
            runs: 0.0,
            seconds: 0.0,
        };
        let rate = cost.add([stats(5, 100), stats(13, 8_000_100)], WINDOW, PERIOD);
        assert!((rate - 0.1).abs() < 1e-9, "{rate}");
        assert!((cost.runs - 500.0).abs() < 1e-6, "{cost:?}");
        assert!((cost.seconds - 0.5).abs() < 1e-9, "{cost:?}");
        // A window that was late to close is worth less.
        let late = [stats(13, 8_000_100), stats(29, 24_000_100)];
        assert!((cost.add(late, 2 * WINDOW, PERIOD) - 0.1).abs() < 1e-9);
        assert!((cost.runs - 1000.0).abs() < 1e-6, "{cost:?}");
    }

    #[test]
    fn this_process_is_somewhere_in_memory() {
        assert!(own_memory().unwrap() > 1 << 16);
        assert!(cpu_time() > Duration::ZERO);
    }
}
