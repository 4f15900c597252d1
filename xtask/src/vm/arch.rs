//! The processors of the guests: this machine's, and arm64 as the large clouds rent it. What
//! differs between them stands here.

use std::process::Command;

/// Ends the name of a series that is to be run on arm64: `6.12-arm64`.
const SUFFIX: &str = "-arm64";

/// An architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    /// That of this machine.
    Amd64,
    /// Emulated, and the tests are built for it by a cross compiler.
    Arm64,
}

impl Arch {
    /// All of them.
    pub(super) const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// The architecture that a series is asked for on, and the series itself.
    pub(super) fn of(series: &str) -> (Self, &str) {
        match series.strip_suffix(SUFFIX) {
            Some(series) => (Self::Arm64, series),
            None => (Self::Amd64, series),
        }
    }

    /// Debian's name of it.
    pub(super) fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// How Debian names its libraries' directories and the tools of its cross compiler.
    pub(super) fn triplet(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }

    /// The emulator.
    pub(super) fn qemu(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// Which machine and processor it is to be, and where its lines are: the kernel's console in
    /// a file, what the tests say on the emulator's stdout.
    pub(super) fn machine(self, command: &mut Command, console: &str) {
        match self {
            Self::Amd64 => {
                command.args(["-cpu", "max", "-serial", console, "-serial", "stdio"]);
            }
            Self::Arm64 => {
                // The core of Graviton 2 and of Ampere's Altra. The machine has one serial line;
                // a card holds the other.
                command
                    .args([
                        "-machine",
                        "virt",
                        "-cpu",
                        "neoverse-n1",
                        "-serial",
                        console,
                    ])
                    .args([
                        "-chardev",
                        "stdio,id=tests",
                        "-device",
                        "pci-serial,chardev=tests",
                    ]);
            }
        }
    }

    /// The kernel's command line. What the kernel does not know, init finds in its environment:
    /// `tests_tty` is the line that the tests speak on.
    pub(super) fn append(self) -> &'static str {
        match self {
            // A busy host is late with the timer that the kernel checks, and then it panics.
            Self::Amd64 => "console=ttyS0 no_timer_check tests_tty=ttyS1",
            Self::Arm64 => "console=ttyAMA0 tests_tty=ttyS0",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Arch;

    #[test]
    fn a_series_says_what_it_is_run_on() {
        assert_eq!(Arch::of("6.12"), (Arch::Amd64, "6.12"));
        assert_eq!(Arch::of("newest-arm64"), (Arch::Arm64, "newest"));
    }
}
