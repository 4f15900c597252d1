//! The page shared with the programs: wake-up flag and budget of detail.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rst_common::event::Control;
use rst_common::history::BUCKET_SLOTS;
use rustix::mm::ProtFlags;

use super::mapping::Mapping;

/// The mmapped value of the `CONTROL` map.
pub struct ControlPage {
    page: Mapping,
}

// SAFETY: the page is only touched through atomics.
unsafe impl Send for ControlPage {}
// SAFETY: as above.
unsafe impl Sync for ControlPage {}

impl ControlPage {
    /// Maps the first value of a mmapable array of [`Control`].
    pub fn map(fd: impl AsFd) -> std::io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let page = Mapping::new(fd, size_of::<Control>(), access)?;
        Ok(Self { page })
    }

    fn control(&self) -> *mut Control {
        self.page.start().as_ptr().cast()
    }

    fn atomic(&self, field: impl FnOnce(*mut Control) -> *mut u64) -> &AtomicU64 {
        // SAFETY: the pointer is inside the mapping, which lives as long as
        // self, 8-byte aligned (page start plus a field offset of a repr(C)
        // struct of u64), and only accessed atomically.
        unsafe { AtomicU64::from_ptr(field(self.control())) }
    }

    /// Asks the programs to wake us for the next record. The caller must look
    /// at the ring once more after this and before it sleeps.
    pub fn ask_for_wake(&self) {
        // SAFETY: projects a field of the mapped struct without reading it.
        let flag = self.atomic(|control| unsafe { &raw mut (*control).need_wake });
        flag.store(1, Ordering::Relaxed);
        // Pairs with the full barrier of the kernel's commit: either we see the
        // record or the program sees the flag.
        fence(Ordering::SeqCst);
    }

    /// Takes the request back.
    pub fn stay_awake(&self) {
        // SAFETY: projects a field of the mapped struct without reading it.
        let flag = self.atomic(|control| unsafe { &raw mut (*control).need_wake });
        flag.store(0, Ordering::Relaxed);
    }

    /// What the `clock` program read: CLOCK_MONOTONIC in nanoseconds, jiffies64.
    #[must_use]
    pub fn clock(&self) -> (u64, u64) {
        // SAFETY: projects a field of the mapped struct without reading it.
        let ktime = self.atomic(|control| unsafe { &raw mut (*control).clock_ktime_ns });
        // SAFETY: as above.
        let jiffies = self.atomic(|control| unsafe { &raw mut (*control).clock_jiffies });
        (
            ktime.load(Ordering::Relaxed),
            jiffies.load(Ordering::Relaxed),
        )
    }

    /// Sets after how many jiffies a connection counts as idle.
    pub fn set_idle(&self, jiffies: u32) {
        // SAFETY: projects a field of the mapped struct without reading it.
        let idle = self.atomic(|control| unsafe { &raw mut (*control).idle });
        idle.store(u64::from(jiffies), Ordering::Relaxed);
    }

    /// Sets how long a jiffy is, microseconds.
    pub fn set_jiffy(&self, microseconds: u32) {
        // SAFETY: projects a field of the mapped struct without reading it.
        let jiffy = self.atomic(|control| unsafe { &raw mut (*control).jiffy_us });
        jiffy.store(u64::from(microseconds), Ordering::Relaxed);
    }

    /// Sets the bounds of the histogram buckets and for how long a closed
    /// connection is remembered, in jiffies. Before anything is attached.
    pub fn set_times(&self, buckets: [u32; BUCKET_SLOTS], closed: u32) {
        // SAFETY: projects fields of the mapped struct without reading them.
        let (bounds, window) = unsafe {
            let control = self.control();
            (&raw mut (*control).buckets, &raw mut (*control).closed)
        };
        // SAFETY: inside the mapping, aligned; no program runs yet.
        unsafe {
            bounds.write_volatile(buckets);
            window.write_volatile(u64::from(closed));
        }
    }

    /// Says that there may be listeners that the programs don't know.
    pub fn forget_listeners(&self) {
        // SAFETY: projects a field of the mapped struct without reading it.
        let forgotten = self.atomic(|control| unsafe { &raw mut (*control).listeners_forgotten });
        forgotten.store(1, Ordering::Relaxed);
    }

    /// Detailed events sent since the start.
    #[must_use]
    pub fn used(&self) -> u64 {
        // SAFETY: projects a field of the mapped struct without reading it.
        let used = self.atomic(|control| unsafe { &raw mut (*control).used });
        used.load(Ordering::Relaxed)
    }

    /// Sets how many detailed events may have been sent since the start, and the
    /// period of the shares that this is.
    pub fn allow(&self, total: u64, period: u64) {
        // SAFETY: projects a field of the mapped struct without reading it.
        let allowed = self.atomic(|control| unsafe { &raw mut (*control).allowed });
        // SAFETY: as above.
        let current = self.atomic(|control| unsafe { &raw mut (*control).period });
        allowed.store(total, Ordering::Relaxed);
        current.store(period, Ordering::Relaxed);
    }

    /// Sets how much of what is allowed is left to keys that have had less than
    /// their share, and the share of a key in a period on each CPU.
    pub fn share(&self, reserve: u64, share: u64) {
        // SAFETY: projects a field of the mapped struct without reading it.
        let kept = self.atomic(|control| unsafe { &raw mut (*control).reserve });
        // SAFETY: as above.
        let own = self.atomic(|control| unsafe { &raw mut (*control).share });
        kept.store(reserve, Ordering::Relaxed);
        own.store(share, Ordering::Relaxed);
    }
}

/// Token bucket for detailed events: `rate` a second, at most one second's
/// worth saved up, and on top of it a reserve that is left to those who have had
/// little: one noisy service does not hide the first resets of another.
#[derive(Debug)]
pub struct Budget {
    rate: u64,
    /// What may be saved up.
    capacity: u64,
    allowed: u64,
    /// Nanoseconds of credit not yet turned into a whole event, times `rate`.
    remainder: u128,
    last_ns: u64,
}

const SECOND: u128 = 1_000_000_000;

/// How often each key gets its share of the reserve, nanoseconds.
const PERIOD_NS: u64 = 1_000_000_000;

/// Resets of a key that are told from the reserve, over all CPUs, in a period.
const SHARE: u64 = 16;

impl Budget {
    /// A full bucket at `now_ns`, at the start.
    #[must_use]
    pub fn new(rate: u32, now_ns: u64) -> Self {
        Self::at(rate, now_ns, 0)
    }

    /// Likewise, after so many events.
    #[must_use]
    pub fn at(rate: u32, now_ns: u64, used: u64) -> Self {
        let rate = u64::from(rate);
        let capacity = rate + Self::reserve(rate);
        Self {
            rate,
            capacity,
            allowed: used.saturating_add(capacity),
            remainder: 0,
            last_ns: now_ns,
        }
    }

    /// Adds the credit of the time passed; returns the new total allowance.
    pub fn top_up(&mut self, now_ns: u64, used: u64) -> u64 {
        let elapsed = now_ns.saturating_sub(self.last_ns);
        self.last_ns = now_ns;
        let credit = self.remainder + u128::from(elapsed) * u128::from(self.rate);
        self.remainder = credit % SECOND;
        let whole = u64::try_from(credit / SECOND).unwrap_or(u64::MAX);
        self.allowed = self
            .allowed
            .saturating_add(whole)
            .min(used.saturating_add(self.capacity));
        self.allowed
    }

    /// How much of `rate` is left to those who have had little.
    #[must_use]
    pub const fn reserve(rate: u64) -> u64 {
        rate.div_ceil(4)
    }

    /// How many resets of a key are told from the reserve, on each of so many CPUs,
    /// in each period.
    #[must_use]
    pub const fn share(cpus: u64) -> u64 {
        let share = SHARE / cpus;
        if share == 0 { 1 } else { share }
    }

    /// The period of the shares at this moment.
    #[must_use]
    pub const fn period(now_ns: u64) -> u64 {
        now_ns / PERIOD_NS
    }

    /// Whether the bucket is full, so that nothing is gained by topping it up.
    #[must_use]
    pub fn is_full(&self, used: u64) -> bool {
        self.allowed >= used.saturating_add(self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_one_second_then_the_rate() {
        let mut budget = Budget::new(1000, 0);
        let reserve = Budget::reserve(1000);
        assert_eq!(budget.top_up(0, 0), 1000 + reserve);
        assert!(budget.is_full(0));
        // All used at once: 20 ms give 20 more.
        assert!(!budget.is_full(1000));
        assert_eq!(budget.top_up(20_000_000, 1000), 1020 + reserve);
        // Saved up to one second's worth, never more.
        assert_eq!(budget.top_up(20_000_000_000, 1020), 2020 + reserve);
        assert!(budget.is_full(1020));
    }

    #[test]
    fn another_rate_starts_from_what_was_used() {
        let mut budget = Budget::at(100, 0, 5000);
        assert_eq!(budget.top_up(0, 5000), 5100 + Budget::reserve(100));
        assert_eq!(Budget::at(0, 0, 5000).top_up(9, 5000), 5000);
    }

    #[test]
    fn slow_rates_lose_no_fraction() {
        let mut budget = Budget::new(3, 0);
        let mut total = 0;
        for step in 1..=1000 {
            total = budget.top_up(step * 1_000_000, 4);
        }
        assert_eq!(total, 7);
    }

    #[test]
    fn shares_are_of_all_cpus() {
        assert_eq!([1, 2, 16, 512].map(Budget::share), [16, 8, 1, 1]);
    }

    #[test]
    fn rate_zero_allows_nothing_and_is_full() {
        let mut budget = Budget::new(0, 0);
        assert_eq!(budget.top_up(u64::MAX, 0), 0);
        assert!(budget.is_full(0));
    }
}
