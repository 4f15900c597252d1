//! Loads the programs and attaches them. All hooks stand in [`PROBES`].

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use aya::maps::{Array, Map, MapData, MapError, RingBuf};
use aya::programs::{ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun as _};
use aya::{Btf, Ebpf, EbpfLoader};
use aya_obj::Object;
use rst_common::classify::Times;
use rst_common::event::{Doubt, PORT_WORDS};
use rst_common::history::{CLOSED_SECONDS, ENDINGS, Ending, WAYS, bucket_bounds};
use tracing::{info, warn};

use super::batch::Batch;
use super::btf::{self, BtfError};
use super::control::ControlPage;
use super::counters::{CountMaps, Counters};
use super::hooks::Hooks;
use super::labels::Labels;
use super::layout::{self, KernelLayout, LayoutError};
use super::listeners::Listeners;
use super::pins::{Found, KEPT, Pins};
use super::preflight::{Host, PreflightError};
use super::probes::{Probe, SOCKETS_AT_START};
use super::tracked::Tracked;
use super::verdict::{Judged, Verdict, chain};
use crate::clock::Hz;
use crate::config::Config;

/// The eBPF object, built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/rst-ebpf-object"));

/// [`Doubt`] as it lies in memory.
pub type RawDoubt = [u64; 5];
const _: () = assert!(size_of::<RawDoubt>() == size_of::<Doubt>());

/// Sizes and switches the programs are loaded with.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Size of the ring buffer, bytes.
    pub ring_bytes: u32,
    /// Entries of the count map.
    pub max_series: u32,
    /// Ports told apart.
    pub max_ports: u32,
    /// Silence after which a connection counts as idle, milliseconds.
    pub idle_ms: u32,
    /// Ports that carry many requests at once.
    pub multiplexed_ports: &'a [u16],
    /// Sockets remembered while they live.
    pub tracked_sockets: u32,
    /// Connections remembered after their end.
    pub closed_connections: u32,
    /// Workloads told apart.
    pub max_workloads: u32,
    /// Directory where the counts are kept for the next start.
    pub pin_dir: Option<&'a Path>,
    /// Whether the programs log.
    pub log_kernel: bool,
}

/// Why the probes are not attached.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The host is not fit.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The BTF can't be read.
    #[error("cannot read the kernel's BTF: {0}")]
    ReadBtf(#[source] io::Error),
    /// The BTF makes no sense.
    #[error("cannot parse the kernel's BTF: {0}")]
    ParseBtf(#[from] BtfError),
    /// The kernel's structures are not as expected.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// aya can't read the BTF.
    #[error("cannot load the kernel's BTF: {0}")]
    Btf(#[from] aya::BtfError),
    /// The maps can't be made.
    #[error("cannot create the eBPF maps: {}{}", chain(.error), memlock_hint(*.memlock_limited))]
    Maps {
        /// What the kernel said.
        #[source]
        error: aya::EbpfError,
        /// Whether the locked-memory limit could not be lifted.
        memlock_limited: bool,
    },
    /// A probe without which nothing is known can't be attached.
    #[error("cannot start without a probe: {0}")]
    Probe(Judged),
    /// A program that was attached can't be taken off, put on again or looked at.
    #[error("cannot change {}, which shows {}: {}", probe.name, probe.shows, chain(.error))]
    Attach {
        /// The probe.
        probe: &'static Probe,
        /// What the kernel said.
        error: ProgramError,
    },
    /// The kernel's clocks can't be read.
    #[error("cannot read the kernel's clocks: {}", .0.detail())]
    Clock(Verdict),
    /// The object does not hold what the daemon expects.
    #[error("the embedded eBPF object lacks `{0}`: rebuild rst")]
    Object(&'static str),
    /// A map is not of the expected kind.
    #[error("cannot open map `{name}`: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        source: MapError,
    },
    /// A map can't be read as a whole.
    #[error("cannot read map `{name}`: {source}")]
    Batch {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        source: io::Error,
    },
    /// The kernel gives no random numbers.
    #[error("cannot read a random number: {0}")]
    Random(#[source] io::Error),
    /// The control page can't be mapped.
    #[error("cannot map the control page: {0}")]
    Control(#[source] io::Error),
}

fn memlock_hint(limited: bool) -> &'static str {
    if limited {
        "; before Linux 5.11 maps count against the locked-memory limit: raise it (ulimit -l unlimited, under systemd LimitMEMLOCK=infinity)"
    } else {
        ""
    }
}

/// The attached programs and everything the daemon reads from them. Dropping it
/// detaches.
pub struct Kernel {
    /// Holds programs and links; dropped last.
    pub ebpf: Ebpf,
    /// Detailed events.
    pub ring: RingBuf<MapData>,
    /// Wake-ups and budget.
    pub control: ControlPage,
    /// Receive events that may be none.
    pub doubts: Array<MapData, RawDoubt>,
    /// What the counts of a workload are published under, for the next start.
    pub labels: Labels,
    /// The folder of the counts that outlive this daemon, where there is one.
    pub pins: Option<Pins>,
    /// Who listens, and who has listened.
    pub listeners: Listeners,
    /// Exact counts.
    pub counters: Counters,
    /// What is known of the running kernel.
    pub layout: KernelLayout,
    /// Its timer ticks a second.
    pub hz: Hz,
    /// What the programs measure durations by.
    pub times: Times,
    /// The probes that are attached.
    pub hooks: Hooks,
    /// What the maps take.
    pub memory: String,
}

impl<'a> Settings<'a> {
    /// Those of a configuration.
    #[must_use]
    pub fn of(config: &'a Config) -> Self {
        Self {
            ring_bytes: config.ring_bytes,
            max_series: config.max_series,
            max_ports: config.max_ports,
            idle_ms: config.idle_ms,
            multiplexed_ports: &config.multiplexed_ports,
            tracked_sockets: config.tracked_sockets,
            closed_connections: config.closed_connections,
            max_workloads: config.max_workloads,
            pin_dir: config.pin_dir.as_deref(),
            log_kernel: false,
        }
    }
}

/// Checks the host, loads the programs and attaches every probe.
pub fn attach(settings: Settings<'_>) -> Result<Kernel, LoadError> {
    // The verifier gives up when a signal is pending, and aya tries again with a log,
    // which takes ten times as long.
    without_signals(|| attach_undisturbed(settings))
}

/// Calls it while this thread takes no signals; those that come meanwhile are
/// delivered after it.
fn without_signals<R>(code: impl FnOnce() -> R) -> R {
    // SAFETY: plain data, filled before it is used; the mask is this thread's own.
    let before = unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
        before
    };
    let result = code();
    // SAFETY: the mask that was there before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    result
}

fn attach_undisturbed(settings: Settings<'_>) -> Result<Kernel, LoadError> {
    let host = Host::read();
    host.check()?;
    let memlock_limited = !raise_memlock();

    let layout = {
        let bytes = fs::read(btf::VMLINUX).map_err(LoadError::ReadBtf)?;
        layout::resolve(&btf::Btf::parse(&bytes, &layout::wanted())?)?
    };
    let kernel_btf = Btf::from_sys_fs()?;
    let (mut ebpf, pins) = create_maps(settings, &layout, &kernel_btf, memlock_limited)?;
    let memory = memory_of(&ebpf);

    // Maps stay with `ebpf` until the programs that use them are loaded.
    let Some(Map::Array(control)) = ebpf.map("CONTROL") else {
        return Err(LoadError::Object("CONTROL"));
    };
    let control = ControlPage::map(control.fd()).map_err(LoadError::Control)?;
    let hz = read_hz(&mut ebpf, &control, &host)?;
    let second = hz.jiffies(1000);
    let times = Times {
        idle: hz.jiffies(settings.idle_ms),
        jiffy_us: 1_000_000 / second,
    };
    control.set_idle(times.idle);
    control.set_jiffy(times.jiffy_us);
    control.set_times(
        bucket_bounds(second),
        Ending::units(CLOSED_SECONDS * second),
    );
    set_multiplexed_ports(&mut ebpf, settings.multiplexed_ports)?;

    let hooks = Hooks::attach(&mut ebpf, &layout, &kernel_btf, &host)?;
    if !hooks.names().contains(&SOCKETS_AT_START) {
        control.forget_listeners();
    }

    let ring = open(&mut ebpf, "EVENTS")?;
    let counters = Counters::new(CountMaps {
        resets: open_batch(&mut ebpf, "RESETS")?,
        overflow: open(&mut ebpf, "OVERFLOW")?,
        overflow_gaps: open(&mut ebpf, "OVERFLOW_GAPS")?,
        ages: open(&mut ebpf, "AGES")?,
        timeouts: open_batch(&mut ebpf, "TIMEOUTS")?,
        timeouts_overflow: open(&mut ebpf, "TIMEOUTS_OVERFLOW")?,
        connections: open_batch(&mut ebpf, "CONNECTIONS")?,
        connections_overflow: open(&mut ebpf, "CONNECTIONS_OVERFLOW")?,
        ignored: open(&mut ebpf, "IGNORED")?,
        detail: open(&mut ebpf, "DETAIL")?,
        sockets: tracked(&ebpf)?,
    });
    let doubts = open(&mut ebpf, "DOUBTS")?;
    let labels = open(&mut ebpf, "LABELS")?;
    let Some(Map::HashMap(map)) = ebpf.map("LISTENERS") else {
        return Err(LoadError::Object("LISTENERS"));
    };
    let all = Batch::shared(map).map_err(|source| LoadError::Batch {
        name: "LISTENERS",
        source,
    })?;
    let listeners = Listeners::new(open(&mut ebpf, "LISTENERS")?, all);
    Ok(Kernel {
        ebpf,
        ring,
        control,
        doubts,
        labels,
        pins,
        listeners,
        counters,
        layout,
        hz,
        times,
        hooks,
        memory,
    })
}

/// Creates the maps, or takes those over that are kept. The programs are loaded later.
fn create_maps(
    settings: Settings<'_>,
    layout: &KernelLayout,
    kernel_btf: &Btf,
    memlock_limited: bool,
) -> Result<(Ebpf, Option<Pins>), LoadError> {
    // aya_log_common::Level: 0 logs nothing, 4 is debug.
    let log_level: u8 = if settings.log_kernel { 4 } else { 0 };
    let sockets = (settings.tracked_sockets / narrow(WAYS))
        .max(1)
        // In range: the largest number allowed is a power of two itself.
        .next_power_of_two();
    let closed = (settings.closed_connections / narrow(ENDINGS)).max(1);
    let seed = random()?;
    let entries = [
        ("SOCKETS", sockets),
        ("CLOSED", closed),
        ("EVENTS", settings.ring_bytes),
        ("RESETS", settings.max_series),
        ("CONNECTIONS", settings.max_series),
        ("LABELS", settings.max_series),
    ];
    let pins = settings
        .pin_dir
        .and_then(|dir| pins(dir, &entries, settings.max_workloads));
    let mut loader = EbpfLoader::new();
    if let Some(pins) = &pins {
        for table in KEPT {
            loader.map_pin_path(table, pins.path(table));
        }
    }
    for (table, number) in entries {
        loader.map_max_entries(table, number);
    }
    let ebpf = loader
        .btf(Some(kernel_btf))
        .override_global("LAYOUT", &layout.layout[..], true)
        .override_global("REASONS", &layout.reasons[..], true)
        .override_global("DROPS", &layout.drops[..], true)
        .override_global("AYA_LOG_LEVEL", &log_level, false)
        .override_global("SOCKETS_MASK", &(sockets - 1), true)
        .override_global("CLOSED_SETS", &closed, true)
        .override_global("SEED", &seed, true)
        .override_global("MAX_PORTS", &settings.max_ports, true)
        .override_global("HAS_TASK_BTF", &u8::from(layout.has_task_btf), true)
        .load(OBJECT)
        .map_err(|error| LoadError::Maps {
            error,
            memlock_limited,
        })?;
    Ok((ebpf, pins))
}

/// The folder of the counts that outlive this daemon. Where it can't be had, they begin
/// and end with it, which is said.
fn pins(dir: &Path, entries: &[(&str, u32)], max_workloads: u32) -> Option<Pins> {
    let object = match Object::parse(OBJECT) {
        Ok(object) => object,
        Err(error) => {
            warn!("counts are not kept for the next start: the embedded object: {error}");
            return None;
        }
    };
    match Pins::open(dir, &object, entries, max_workloads) {
        Ok(pins) => {
            match &pins.found {
                Found::Nothing => {}
                Found::Counts => info!("counts go on from {}", dir.display()),
                Found::Misfit(why) => {
                    info!(
                        "counts begin anew, for those in {} don't fit: {why}",
                        dir.display()
                    );
                }
            }
            Some(pins)
        }
        Err(error) => {
            warn!("counts are not kept for the next start: {error}");
            None
        }
    }
}

/// What the maps take, the largest by name.
fn memory_of(ebpf: &Ebpf) -> String {
    let mut sizes: Vec<(u64, &str)> = ebpf
        .maps()
        .filter_map(|(name, map)| Some((memory(map)?, name)))
        .collect();
    sizes.sort_unstable_by(|one, other| other.cmp(one));
    let total: u64 = sizes.iter().map(|(bytes, _)| bytes).sum();
    let largest: Vec<String> = sizes
        .iter()
        .take(LARGEST)
        .map(|(bytes, name)| format!("{name} {}", megabytes(*bytes)))
        .collect();
    format!("{} ({})", megabytes(total), largest.join(", "))
}

/// How often the clocks are read until they tell HZ by themselves, and how long that is
/// apart: 10 seconds in which HZ is counted else.
const CLOCK_READINGS: u32 = 100;
const CLOCK_PAUSE: Duration = Duration::from_millis(100);

/// Maps that are named.
const LARGEST: usize = 5;

/// "2.1 MB"
fn megabytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

/// What a map takes, bytes, as the kernel has it in `/proc/self/fdinfo`.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds of map that the programs have"
)]
fn memory(map: &Map) -> Option<u64> {
    let fd = match map {
        Map::Array(map)
        | Map::HashMap(map)
        | Map::PerCpuArray(map)
        | Map::PerCpuHashMap(map)
        | Map::RingBuf(map) => map.fd().as_fd().as_raw_fd(),
        _ => return None,
    };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("memlock:"))?;
    line.trim().parse().ok()
}

/// Runs the `clock` program until it tells HZ, and unloads it.
fn read_hz(ebpf: &mut Ebpf, control: &ControlPage, host: &Host) -> Result<Hz, LoadError> {
    let failed = |error| LoadError::Clock(Verdict::of("clock", &error, host));
    let program: &mut RawTracePoint = ebpf
        .program_mut("clock")
        .ok_or(LoadError::Object("clock"))?
        .try_into()
        .map_err(failed)?;
    program.load().map_err(failed)?;
    let read = || {
        program
            .test_run(RawTracePointRunOptions::default())
            .map_err(failed)?;
        Ok::<_, LoadError>(control.clock())
    };
    let first = read()?;
    let mut told = Hz::of(first);
    for _ in 0..CLOCK_READINGS {
        if told.is_some() {
            break;
        }
        // A few seconds in a host's life, five minutes after it started; and always with
        // an HZ of its own.
        thread::sleep(CLOCK_PAUSE);
        told = Hz::of(read()?);
    }
    let hz = match told {
        Some(hz) => hz,
        None => Hz::between(first, read()?).ok_or_else(|| {
            LoadError::Clock(Verdict::Failed(
                "jiffies do not advance with CLOCK_MONOTONIC".to_owned(),
            ))
        })?,
    };
    program.unload().map_err(failed)?;
    Ok(hz)
}

/// Sets which ports carry many requests at once, also while the programs run.
pub fn set_multiplexed_ports(ebpf: &mut Ebpf, ports: &[u16]) -> Result<(), LoadError> {
    const NAME: &str = "MULTIPLEXED";
    let map = ebpf.map_mut(NAME).ok_or(LoadError::Object(NAME))?;
    set_ports(map, ports).map_err(map_error(NAME))
}

fn set_ports(map: &mut Map, ports: &[u16]) -> Result<(), MapError> {
    let mut map = Array::<_, u64>::try_from(map)?;
    let mut words = vec![0u64; PORT_WORDS];
    for port in ports {
        words[usize::from(*port) / 64] |= 1 << (port % 64);
    }
    for (index, word) in (0u32..).zip(words) {
        if map.get(&index, 0)? != word {
            map.set(index, word, 0)?;
        }
    }
    Ok(())
}

/// The size of a set.
#[expect(clippy::cast_possible_truncation, reason = "a few")]
const fn narrow(ways: usize) -> u32 {
    ways as u32
}

/// A number nobody can guess.
fn random() -> Result<u64, LoadError> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| LoadError::Random(error.into()))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Takes a map over from `ebpf`.
fn open<M: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, LoadError> {
    let map = ebpf.take_map(name).ok_or(LoadError::Object(name))?;
    M::try_from(map).map_err(map_error(name))
}

fn tracked(ebpf: &Ebpf) -> Result<Tracked, LoadError> {
    let name = "SOCKETS";
    let Some(Map::Array(map)) = ebpf.map(name) else {
        return Err(LoadError::Object(name));
    };
    Tracked::new(map).map_err(|source| LoadError::Batch { name, source })
}

/// A hash map with a value for each CPU, to be read as a whole.
fn open_batch<const K: usize, const V: usize>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<Batch<K, V>, LoadError> {
    let Some(Map::PerCpuHashMap(map)) = ebpf.map(name) else {
        return Err(LoadError::Object(name));
    };
    Batch::per_cpu(map).map_err(|source| LoadError::Batch { name, source })
}

fn map_error(name: &'static str) -> impl FnOnce(MapError) -> LoadError {
    move |source| LoadError::Map { name, source }
}

/// Lifts the locked-memory limit, which counts maps before 5.11. Returns
/// whether it is lifted; where it is not, that only matters if maps fail.
fn raise_memlock() -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    getrlimit(Resource::Memlock) == unlimited || setrlimit(Resource::Memlock, unlimited).is_ok()
}
