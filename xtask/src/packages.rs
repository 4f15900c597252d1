//! The Debian packages rst is built and tested with, and how they are looked up and installed.

use std::{
    env, fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process,
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::step::Step;

/// A compiler with `core` prebuilt for BPF, and its cargo.
pub(crate) const RUST: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// Clippy of that compiler.
pub(crate) const CLIPPY: &str = "rust-web-clippy";

/// What bpf-linker is built from: the LLVM of that compiler, and what LLVM links.
pub(crate) const LLVM: &[&str] = &[
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
];

/// Something a test or the benchmark needs beyond the build.
pub(crate) struct Tool {
    /// Debian's package.
    pub(crate) package: &'static str,
    /// The command, or a file by its path, that shows that it is there, whoever installed it.
    pub(crate) command: &'static str,
    /// What it is needed for.
    pub(crate) reason: &'static str,
}

/// Everything the tests need. A test that misses one says so and is counted as skipped.
pub(crate) const TEST_TOOLS: &[Tool] = &[
    Tool {
        package: "nginx-light",
        command: "nginx",
        reason: "a real web server whose resets are explained",
    },
    Tool {
        package: "gunicorn",
        command: "gunicorn",
        reason: "a real application server behind nginx",
    },
    Tool {
        package: "haproxy",
        command: "haproxy",
        reason: "a real proxy and its time-outs",
    },
    Tool {
        package: "curl",
        command: "curl",
        reason: "a real client, and the HTTP endpoints",
    },
    Tool {
        package: "nmap",
        command: "nmap",
        reason: "port scans",
    },
    Tool {
        package: "nftables",
        command: "nft",
        reason: "a router that resets what it does not know",
    },
    Tool {
        package: "iproute2",
        command: "ip",
        reason: "network namespaces, veth, ss -K",
    },
    Tool {
        package: "util-linux",
        command: "nsenter",
        reason: "programs inside namespaces",
    },
    Tool {
        package: "python3",
        command: "python3",
        reason: "the scenarios' servers and clients",
    },
    Tool {
        package: "bpftool",
        command: "bpftool",
        reason: "a look at programs from outside",
    },
    Tool {
        package: "openssl",
        command: "openssl",
        reason: "certificates, and a TLS client",
    },
    Tool {
        package: "nodejs",
        command: "node",
        reason: "its connection pool and HTTP/2 sessions",
    },
    Tool {
        package: "nghttp2-client",
        command: "nghttp",
        reason: "an HTTP/2 client that ends with a GOAWAY",
    },
    Tool {
        package: "systemd",
        command: "systemd-analyze",
        reason: "what the unit file exposes",
    },
    Tool {
        package: "wrk",
        command: "wrk",
        reason: "a load generator that leaves with requests under way",
    },
    Tool {
        package: "prometheus",
        command: "prometheus",
        reason: "the alert rules, and what they say of a real spike",
    },
    Tool {
        package: "prometheus-alertmanager",
        command: "prometheus-alertmanager",
        reason: "alerts as they reach a webhook",
    },
    Tool {
        package: "mmdebstrap",
        command: "mmdebstrap",
        reason: "a Debian to install the package in",
    },
    Tool {
        package: "cpio",
        command: "cpio",
        reason: "the files of that Debian",
    },
    Tool {
        package: "lintian",
        command: "lintian",
        reason: "what Debian asks of a package",
    },
    Tool {
        package: "rpm",
        command: "rpm",
        reason: "what is in the RPM package",
    },
    Tool {
        package: "mandoc",
        command: "mandoc",
        reason: "what is wrong with the manual pages",
    },
    Tool {
        package: "zsh",
        command: "zsh",
        reason: "the completions of zsh",
    },
    Tool {
        package: "fish",
        command: "fish",
        reason: "the completions of fish",
    },
];

/// What making packages needs of Debian, beside the build.
pub(crate) const PACKAGE_TOOLS: &[Tool] = &[
    Tool {
        package: "dpkg-dev",
        command: "dpkg-shlibdeps",
        reason: "the libraries that the Debian package depends on",
    },
    Tool {
        package: "binutils",
        command: "strip",
        reason: "programs without what only a debugger reads",
    },
];

/// A program that cargo builds from crates.io.
pub(crate) struct Crate {
    /// The crate, and its program.
    pub(crate) name: &'static str,
    /// The version that is built where there is none.
    pub(crate) version: &'static str,
}

/// What makes packages. Licences: MIT, both.
pub(crate) const PACKAGE_CRATES: &[Crate] = &[
    Crate {
        name: "cargo-deb",
        version: "3.8.0",
    },
    Crate {
        name: "cargo-generate-rpm",
        version: "0.21.1",
    },
];

/// What fuzzing needs.
pub(crate) const FUZZ_TOOLS: &[Tool] = &[Tool {
    package: "g++",
    command: "c++",
    reason: "libFuzzer, which is C++",
}];

/// Everything the benchmark needs. An observer that is missing is said to be, and left out.
pub(crate) const BENCH_TOOLS: &[Tool] = &[
    Tool {
        package: "iproute2",
        command: "ip",
        reason: "the loopback of a network namespace",
    },
    Tool {
        package: "util-linux",
        command: "nsenter",
        reason: "programs inside namespaces",
    },
    Tool {
        package: "bpftrace",
        command: "bpftrace",
        reason: "an observer to compare with",
    },
    Tool {
        package: "tcpdump",
        command: "tcpdump",
        reason: "an observer to compare with",
    },
];

/// Everything the kernel matrix needs beyond the tests.
pub(crate) const VM_TOOLS: &[Tool] = &[
    Tool {
        package: "qemu-system-x86",
        command: "qemu-system-x86_64",
        reason: "other kernels",
    },
    Tool {
        package: "busybox-static",
        command: "busybox",
        reason: "the guests' shell",
    },
    Tool {
        package: "cpio",
        command: "cpio",
        reason: "the guests' file system",
    },
    Tool {
        package: "kmod",
        command: "depmod",
        reason: "what the guests' kernel modules need",
    },
    Tool {
        package: "xz-utils",
        command: "xz",
        reason: "packed kernel modules",
    },
    Tool {
        package: "iproute2",
        command: "ip",
        reason: "network namespaces in the guests",
    },
    Tool {
        package: "nftables",
        command: "nft",
        reason: "the guests' firewalls",
    },
    Tool {
        package: "util-linux",
        command: "nsenter",
        reason: "programs inside namespaces in the guests",
    },
];

/// What kernels of arm64 need beyond the kernel matrix.
pub(crate) const CROSS_TOOLS: &[Tool] = &[
    Tool {
        package: "qemu-system-arm",
        command: "qemu-system-aarch64",
        reason: "an arm64 machine",
    },
    Tool {
        package: "gcc-aarch64-linux-gnu",
        command: "aarch64-linux-gnu-gcc",
        reason: "linking for arm64, SQLite and ring",
    },
    Tool {
        package: "libc6-dev-arm64-cross",
        command: "/usr/aarch64-linux-gnu/lib/crt1.o",
        reason: "the C library of arm64",
    },
];

/// What the boot test needs beyond the kernel matrix.
pub(crate) const BOOT_TOOLS: &[Tool] = &[Tool {
    package: "mmdebstrap",
    command: "mmdebstrap",
    reason: "a Debian to boot",
}];

/// Those of `names` that dpkg does not list as installed; all of them where there is no dpkg.
pub(crate) fn missing(names: &[&'static str]) -> Vec<&'static str> {
    // It fails as soon as one name is unknown, and still prints the others.
    let listed = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(names)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    not_installed(names, &listed)
}

fn not_installed(names: &[&'static str], listed: &str) -> Vec<&'static str> {
    let installed = |name: &str| {
        listed
            .lines()
            .any(|line| line == format!("{name} installed"))
    };
    names
        .iter()
        .copied()
        .filter(|name| !installed(name))
        .collect()
}

/// Whether a command is on the PATH or where system tools are kept; a path stands for itself.
pub(crate) fn has_command(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|dir| dir.join(name).is_file())
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Package lists may be missing or name versions that are gone. Those of one unreachable source
/// need not matter.
pub(crate) fn refresh() -> Step {
    apt_get("refresh the package lists", "update").optional()
}

pub(crate) fn install(title: &str, names: &[&str]) -> Step {
    let action = format!("install --yes --no-install-recommends {}", names.join(" "));
    apt_get(title, &action).env("DEBIAN_FRONTEND", "noninteractive")
}

fn apt_get(title: &str, action: &str) -> Step {
    // Somebody else's apt is waited for.
    Step::new(
        title,
        &format!("apt-get -o DPkg::Lock::Timeout=120 {action}"),
    )
    .needs_root()
}

/// Keeps packages from starting their services while it lives.
///
/// A policy that somebody else has put there is left alone.
pub(crate) struct NoServices {
    policy: Option<PathBuf>,
}

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";
    const MARK: &str = "# Written by `cargo xtask test` while it installs packages.";

    pub(crate) fn start() -> Result<Self> {
        Self::start_at(Path::new(Self::POLICY))
    }

    fn start_at(policy: &Path) -> Result<Self> {
        if let Ok(text) = fs::read_to_string(policy) {
            if !text.contains(Self::MARK) {
                return Ok(Self { policy: None });
            }
            // Left behind by one that was killed.
            fs::remove_file(policy)?;
        }
        // It answers "forbidden" only as long as this process lives, even if it is left behind.
        let script = format!(
            "#!/bin/sh\n{}\n[ -d /proc/{} ] && exit 101\nexit 0\n",
            Self::MARK,
            process::id()
        );
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(policy)
            .and_then(|mut file| file.write_all(script.as_bytes()))
            .with_context(|| format!("cannot write {}", policy.display()))?;
        Ok(Self {
            policy: Some(policy.to_owned()),
        })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(policy) = &self.policy
            && let Err(error) = fs::remove_file(policy)
        {
            eprintln!("warning: cannot remove {}: {error}", policy.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process, process::Command};

    use super::{NoServices, not_installed};

    #[test]
    fn removed_and_unknown_packages_are_missing() {
        let listed = "curl installed\nnginx-light config-files\nlibcurl4 installed\n";
        assert_eq!(
            not_installed(&["curl", "nginx-light", "iproute2", "libcurl"], listed),
            ["nginx-light", "iproute2", "libcurl"]
        );
    }

    #[test]
    fn services_are_forbidden_while_the_guard_lives() {
        let policy = env::temp_dir().join(format!("xtask-policy-{}", process::id()));
        let guard = NoServices::start_at(&policy).unwrap();
        let answer = Command::new("sh").arg(&policy).status().unwrap();
        assert_eq!(answer.code(), Some(101));
        drop(guard);
        assert!(!policy.exists());
    }

    #[test]
    fn the_policy_of_somebody_else_stays() {
        let policy = env::temp_dir().join(format!("xtask-policy-other-{}", process::id()));
        fs::write(&policy, "#!/bin/sh\nexit 104\n").unwrap();
        drop(NoServices::start_at(&policy).unwrap());
        assert_eq!(
            fs::read_to_string(&policy).unwrap(),
            "#!/bin/sh\nexit 104\n"
        );
        fs::remove_file(&policy).unwrap();
    }
}
