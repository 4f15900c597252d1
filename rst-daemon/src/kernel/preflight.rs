//! Whether the probes can run here, and if not, what to change.

use std::path::Path;

use super::btf;
use super::capabilities::{self, Held, Need};

/// Oldest kernel with everything the programs need: the ring buffer came in
/// 5.8, `bpf_skc_to_tcp_sock` for tracing programs in 5.9; 5.10 is the oldest
/// long-term one of these and the oldest tested.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// What kprobes are found by (`perf_event_open(2)`).
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";

/// Something that keeps the probes from running, with its remedy.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PreflightError {
    /// Not enough privilege.
    #[error(
        "not permitted to load eBPF programs: {missing} missing; run as root, or grant CAP_BPF and CAP_PERFMON (under systemd: AmbientCapabilities=CAP_BPF CAP_PERFMON)"
    )]
    Capabilities {
        /// The capabilities that are missing.
        missing: String,
    },
    /// The kernel publishes no BTF.
    #[error(
        "{} is missing: the kernel needs CONFIG_DEBUG_INFO_BTF=y (all current distribution kernels have it), and /sys must be mounted",
        btf::VMLINUX
    )]
    NoBtf,
    /// The kernel is older than the programs need.
    #[error(
        "Linux {release} is too old: rst needs {}.{} or newer for the BPF ring buffer",
        OLDEST_KERNEL.0, OLDEST_KERNEL.1
    )]
    Kernel {
        /// `uname -r`.
        release: String,
    },
    /// Lockdown forbids reading kernel memory.
    #[error(
        "kernel lockdown is in confidentiality mode, which forbids eBPF programs to read kernel memory: boot with lockdown=integrity or less"
    )]
    Lockdown,
}

/// What the checks look at, so that they are a pure function of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// What this process may do.
    pub capabilities: Held,
    /// `uname -r`.
    pub release: String,
    /// Whether the kernel publishes its BTF.
    pub has_btf: bool,
    /// Contents of `/sys/kernel/security/lockdown`, empty without it.
    pub lockdown: String,
    /// Whether functions can be probed by kprobe.
    pub has_kprobes: bool,
}

impl Host {
    /// Reads the running host.
    #[must_use]
    pub fn read() -> Self {
        Self {
            capabilities: Held::read(),
            release: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            has_btf: Path::new(btf::VMLINUX).exists(),
            lockdown: std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default(),
            has_kprobes: Path::new(KPROBES).exists(),
        }
    }

    /// The mode of kernel lockdown, where it is in one.
    #[must_use]
    pub fn lockdown_mode(&self) -> Option<&str> {
        let (_, rest) = self.lockdown.split_once('[')?;
        let (mode, _) = rest.split_once(']')?;
        (mode != "none").then_some(mode)
    }

    /// The first thing that keeps the probes from running.
    pub fn check(&self) -> Result<(), PreflightError> {
        if kernel_version(&self.release).is_some_and(|version| version < OLDEST_KERNEL) {
            return Err(PreflightError::Kernel {
                release: self.release.clone(),
            });
        }
        let missing = self.capabilities.missing();
        let missing =
            capabilities::names(missing.filter(|capability| capability.need == Need::Required));
        if !missing.is_empty() {
            return Err(PreflightError::Capabilities { missing });
        }
        if !self.has_btf {
            return Err(PreflightError::NoBtf);
        }
        if self.lockdown.contains("[confidentiality]") {
            return Err(PreflightError::Lockdown);
        }
        Ok(())
    }
}

/// Whether this process sees the process ids that the kernel's helpers report.
/// The first pid namespace has a fixed inode (`PROC_PID_INIT_INO`,
/// include/linux/proc_ns.h, since 3.8).
#[must_use]
pub fn in_initial_pid_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/pid")
        .is_ok_and(|target| target.as_os_str() == "pid:[4026531836]")
}

/// Major and minor number of a release like `6.1.0-49-cloud-amd64`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(effective: &str) -> Held {
        Held::parse(&format!("CapEff:\t{effective}\n"))
    }

    fn good() -> Host {
        Host {
            capabilities: held("000000c000000000"),
            release: "6.1.0-49-cloud-amd64".to_owned(),
            has_btf: true,
            lockdown: "none [integrity] confidentiality\n".to_owned(),
            has_kprobes: true,
        }
    }

    #[test]
    fn a_good_host_passes() {
        assert_eq!(good().check(), Ok(()));
        let root = Host {
            capabilities: held("0000000000200000"),
            ..good()
        };
        assert_eq!(root.check(), Ok(()));
    }

    #[test]
    fn each_obstacle_is_named_with_its_remedy() {
        let cases = [
            (
                Host {
                    capabilities: held("0000000000000000"),
                    ..good()
                },
                "CAP_BPF CAP_PERFMON missing; run as root",
            ),
            (
                Host {
                    capabilities: held("0000008000000000"),
                    ..good()
                },
                "CAP_PERFMON missing",
            ),
            (
                Host {
                    has_btf: false,
                    ..good()
                },
                "CONFIG_DEBUG_INFO_BTF=y",
            ),
            (
                Host {
                    release: "5.4.0-200-generic".to_owned(),
                    ..good()
                },
                "Linux 5.4.0-200-generic is too old",
            ),
            (
                Host {
                    lockdown: "none integrity [confidentiality]".to_owned(),
                    ..good()
                },
                "lockdown=integrity",
            ),
        ];
        for (host, expected) in cases {
            let message = host.check().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(kernel_version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(kernel_version("7.2"), Some((7, 2)));
        assert_eq!(kernel_version("x"), None);
        assert_eq!(good().lockdown_mode(), Some("integrity"));
        for lockdown in ["", "[none] integrity confidentiality\n"] {
            let host = Host {
                lockdown: lockdown.to_owned(),
                ..good()
            };
            assert_eq!(host.lockdown_mode(), None);
        }
    }
}
