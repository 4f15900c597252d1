//! The completeness ledger: the kernel's own counters of all network namespaces,
//! and our counts against them.
//!
//! It is read with the metrics, and no more often than its cost allows
//! (`schedule`): first the namespaces that have counted something lately, now
//! and then, or when these don't explain what we count, all of them. A namespace
//! that ends keeps its part of the totals as it was last read; what came after
//! that is credited (`balance`). Nothing here keeps a namespace alive.
//!
//! `snmp`, `totals`, `balance`, `schedule`, `mounts` and `explain` are pure;
//! `namespaces` reads.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tracing::{debug, info};

mod balance;
mod explain;
mod mounts;
mod namespaces;
mod schedule;
mod snmp;
mod totals;

pub use explain::Blindness;
pub use namespaces::Growth;
pub use snmp::{Counter, Values};

use balance::{Balance, Reading};
use explain::Told;
use namespaces::{Namespaces, Unread};
use schedule::{Pass, Schedule};
use totals::Totals;

/// Namespaces that an explanation names.
const SUSPECTS: usize = 3;

/// What our programs have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ours {
    /// Resets sent.
    pub sent: u64,
    /// Resets sent that the kernel skipped our program for.
    pub missed_sent: u64,
    /// Likewise received.
    pub missed_received: u64,
}

impl Ours {
    const fn total(&self) -> u64 {
        self.sent + self.missed_sent
    }
}

/// Handshakes that have met a full accept queue in this process' network namespace since it
/// was made (`ListenOverflows`); `None` where the kernel does not say.
#[must_use]
pub fn listen_overflows() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/net/netstat").ok()?;
    snmp::one(&text, "TcpExt", "ListenOverflows")
}

/// What the ledger shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The kernel's counters since the start, summed over all namespaces.
    pub kernel: Values,
    /// Ours when they were read.
    pub ours: Ours,
    /// Resets sent that the kernel has counted and we have not, at least.
    pub unaccounted: u64,
    /// Resets sent that we have counted and no counter of the kernel's tells, at
    /// least: it went with its namespace, is in one that can't be read, or the
    /// reset found no route (IPv6).
    pub credited: u64,
    /// Where resets were sent between the last reading that agreed with ours and
    /// the one that showed the last unaccounted ones, most first.
    pub suspects: Vec<Growth>,
    /// Network namespaces that are known.
    pub namespaces: usize,
    /// Those that can't be read.
    pub unread: usize,
    /// What this kernel does not show.
    pub blindness: Blindness,
}

/// What a pass costs: the processor time of this thread, which a busy host does
/// not stretch.
struct Timer {
    begin: Instant,
    cpu: Duration,
}

impl Timer {
    fn start() -> Self {
        Self {
            begin: Instant::now(),
            cpu: Self::cpu(),
        }
    }

    fn cost(&self) -> Duration {
        Self::cpu().saturating_sub(self.cpu)
    }

    fn cpu() -> Duration {
        // Never negative.
        Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
    }
}

/// Reads the kernel's counters and weighs ours against them.
#[derive(Debug)]
pub struct Ledger {
    namespaces: Namespaces,
    totals: Totals,
    balance: Balance,
    schedule: Schedule,
    told: Told,
    /// Whether it has been said that some can't be read.
    told_unread: bool,
    report: Report,
}

impl Ledger {
    /// Takes the first reading, to be done once our programs count. What has been
    /// sent between their start and this reading is in our count and is taken for
    /// the kernel's as well, so a miss in that moment is not found. Where ours go on from
    /// an earlier daemon's (`kept`), the kernel's totals begin at zero all the same: what
    /// was missed and unaccounted then is not known any more, and a total that fell by as
    /// little would look as if it had been counted anew.
    pub fn start<E>(
        blindness: Blindness,
        kept: bool,
        mut ours: impl FnMut() -> Result<Ours, E>,
    ) -> Result<Self, E> {
        let before = ours()?;
        let mut totals = Totals::new(if kept { 0 } else { before.total() });
        let mut namespaces = Namespaces::new();
        let mut schedule = Schedule::default();
        let timer = Timer::start();
        let unread = namespaces.read_all(&mut totals, timer.begin, true);
        schedule.done(Pass::Full, Instant::now(), timer.cost());
        let after = ours()?;
        let mut ledger = Self {
            balance: Balance::new(totals.out_resets(), before.total(), after.total()),
            report: Report {
                kernel: *totals.values(),
                ours: after,
                unaccounted: 0,
                credited: 0,
                suspects: Vec::new(),
                namespaces: namespaces.len(),
                unread: 0,
                blindness,
            },
            namespaces,
            totals,
            schedule,
            told: Told::default(),
            told_unread: false,
        };
        ledger.note(unread);
        Ok(ledger)
    }

    /// Takes a reading, where one is due, and tells what is known then. `before`
    /// is ours just now, and `ours` reads it once more.
    pub fn read<E>(
        &mut self,
        before: Ours,
        mut ours: impl FnMut() -> Result<Ours, E>,
    ) -> Result<&Report, E> {
        let Some(pass) = self.schedule.due(Instant::now(), false) else {
            return Ok(&self.report);
        };
        let short = self.pass(pass, before, &mut ours)?;
        if pass == Pass::Active
            && short
            && self.schedule.due(Instant::now(), short) == Some(Pass::Full)
        {
            self.pass(Pass::Full, before, &mut ours)?;
        }
        Ok(&self.report)
    }

    /// Reads; whether we have counted what the namespaces that were read have not.
    fn pass<E>(
        &mut self,
        pass: Pass,
        before: Ours,
        ours: &mut impl FnMut() -> Result<Ours, E>,
    ) -> Result<bool, E> {
        let timer = Timer::start();
        let complete = match pass {
            Pass::Active => {
                self.namespaces.read_active(&mut self.totals, timer.begin);
                false
            }
            Pass::Full => {
                let unread = self
                    .namespaces
                    .read_all(&mut self.totals, timer.begin, false);
                self.note(unread);
                !unread.for_now
            }
        };
        let cost = timer.cost();
        self.schedule.done(pass, Instant::now(), cost);
        debug!(
            "{pass:?} reading of {} network namespaces: {cost:?}",
            self.namespaces.len()
        );
        let mut reading = Reading {
            kernel: self.totals.out_resets(),
            before: before.total(),
            after: None,
            complete,
        };
        let short = self.balance.is_short(&reading);
        let mut latest = before;
        if self.balance.needs_after(&reading) {
            latest = ours()?;
            reading.after = Some(latest.total());
        }
        self.observe(&reading, latest);
        Ok(short)
    }

    fn observe(&mut self, reading: &Reading, ours: Ours) {
        let known = self.balance.unaccounted();
        self.balance.observe(reading);
        let unaccounted = self.balance.unaccounted();
        if unaccounted != known {
            self.report.suspects = self.namespaces.grown(SUSPECTS);
        }
        if !self.balance.is_pending() {
            self.namespaces.settle();
        }
        self.report.kernel = *self.totals.values();
        self.report.ours = ours;
        self.report.unaccounted = unaccounted;
        self.report.credited = self.balance.credited();
        self.report.namespaces = self.namespaces.len();
        if self.told.tell(unaccounted, Instant::now())
            && let Some(text) = self.report.explain()
        {
            info!("{text}");
        }
    }

    /// Says once that namespaces can't be read.
    fn note(&mut self, unread: Unread) {
        self.report.unread = unread.namespaces;
        if let Some(error) = unread.error
            && !self.told_unread
        {
            self.told_unread = true;
            info!(
                "{} network namespaces can't be read ({error}): rst_kernel_* lack what they count; \
                 those without a process take CAP_SYS_ADMIN to enter",
                unread.namespaces
            );
        }
    }
}
