//! The hooks: what they are, and which of them are attached.

use std::io;
use std::os::fd::AsFd as _;

use aya::programs::fentry::FEntryLinkId;
use aya::programs::fexit::FExitLinkId;
use aya::programs::kprobe::KProbeLinkId;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, FEntry, FExit, Iter, KProbe, Program, ProgramError};
use aya::{Btf, Ebpf};

use super::functions::{self, Module};
use super::layout::KernelLayout;
use super::load::LoadError;
use super::programs::ProgramHandle;

/// A hook: a place in the kernel and what it shows.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Kernel tracepoint, function or iterator; the `probe` label.
    pub name: &'static str,
    /// Whether the daemon can be ready without it.
    pub required: bool,
    /// What rst sees through it.
    pub shows: &'static str,
    kind: Kind,
    /// The program for this kernel; `None` where the kernel lacks the hook.
    program: fn(&KernelLayout) -> Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A tracepoint, by its BTF (tp_btf).
    Tracepoint,
    /// The entry of a function (fentry).
    Entry,
    /// The return of a function (fexit).
    Return,
    /// The call of a function (fentry), or where that is refused a kprobe by another
    /// program.
    Function {
        /// That program.
        kprobe: &'static str,
    },
    /// The call of a function of a module (kprobe), once the module is there.
    ModuleFunction {
        /// The module, or what would be one if it were not built in.
        module: &'static str,
    },
    /// An iterator that is run once, when all else is attached.
    Iterator,
}

/// Every hook, in the order in which they are attached.
///
/// `tcp_send_reset` and `tcp_receive_reset` exist since 4.16. Before 6.10 the
/// first does not fire for closed ports and TIME_WAIT.
pub const PROBES: &[Probe] = &[
    Probe {
        name: "inet_sock_set_state",
        required: true,
        shows: "whose a connection is, its age, role and last state, and listeners",
        kind: Kind::Tracepoint,
        program: |_| Some("inet_sock_set_state"),
    },
    Probe {
        name: SEND_RESET,
        required: true,
        shows: "resets this host sends",
        kind: Kind::Tracepoint,
        program: |kernel| {
            Some(if kernel.send_reset_has_reason {
                "tcp_send_reset"
            } else {
                "tcp_send_reset_no_reason"
            })
        },
    },
    Probe {
        name: RECEIVE_RESET,
        required: true,
        shows: "resets this host receives",
        kind: Kind::Tracepoint,
        program: |_| Some("tcp_receive_reset"),
    },
    Probe {
        name: SEND_RESET_FUNCTIONS[0],
        required: false,
        shows: "resets this host sends over IPv4 from closed ports and TIME_WAIT (before Linux 6.10; tcp_send_reset shows them later)",
        kind: Kind::Function {
            kprobe: "tcp_v4_send_reset_kprobe",
        },
        program: |kernel| is_left_out(kernel).then_some("tcp_v4_send_reset"),
    },
    Probe {
        name: SEND_RESET_FUNCTIONS[1],
        required: false,
        shows: "resets this host sends over IPv6 from closed ports and TIME_WAIT (before Linux 6.10; tcp_send_reset shows them later)",
        kind: Kind::Function {
            kprobe: "tcp_v6_send_reset_kprobe",
        },
        program: |kernel| is_left_out(kernel).then_some("tcp_v6_send_reset"),
    },
    Probe {
        name: "nf_send_reset",
        required: false,
        shows: "resets that netfilter's REJECT sends over IPv4",
        kind: Kind::ModuleFunction {
            module: "nf_reject_ipv4",
        },
        program: |_| Some("nf_send_reset"),
    },
    Probe {
        name: "nf_send_reset6",
        required: false,
        shows: "resets that netfilter's REJECT sends over IPv6",
        kind: Kind::ModuleFunction {
            module: "nf_reject_ipv6",
        },
        program: |_| Some("nf_send_reset6"),
    },
    Probe {
        name: "nf_reject_skb_v4_tcp_reset",
        required: false,
        shows: "resets that netfilter's reject sends over IPv4 on bridges and devices (since Linux 5.11)",
        kind: Kind::ModuleFunction {
            module: "nf_reject_ipv4",
        },
        program: |_| Some("nf_reject_skb_v4_tcp_reset"),
    },
    Probe {
        name: "nf_reject_skb_v6_tcp_reset",
        required: false,
        shows: "resets that netfilter's reject sends over IPv6 on bridges and devices (since Linux 5.11)",
        kind: Kind::ModuleFunction {
            module: "nf_reject_ipv6",
        },
        program: |_| Some("nf_reject_skb_v6_tcp_reset"),
    },
    Probe {
        name: "inet_sk_error_report",
        required: false,
        shows: "connections that die of silence (since Linux 5.14)",
        kind: Kind::Tracepoint,
        program: |kernel| kernel.has_error_report.then_some("inet_sk_error_report"),
    },
    Probe {
        name: "kfree_skb",
        required: false,
        shows: "resets that arrive and change nothing (since Linux 5.17)",
        kind: Kind::Tracepoint,
        program: |kernel| match kernel.kfree_skb_args? {
            0..3 => None,
            3 => Some("kfree_skb_no_socket"),
            _ => Some("kfree_skb"),
        },
    },
    Probe {
        name: "inet_csk_accept",
        required: false,
        shows: "which process of a service accepts a connection; without it, the one that listens",
        kind: Kind::Return,
        program: |kernel| match kernel.accept_args? {
            2 => Some("inet_csk_accept"),
            4 => Some("inet_csk_accept_4"),
            _ => None,
        },
    },
    Probe {
        name: "tcp_reset",
        required: false,
        shows: "the header of the resets this host receives (since Linux 5.11)",
        kind: Kind::Entry,
        program: |kernel| (kernel.reset_args? == 2).then_some("tcp_reset"),
    },
    Probe {
        name: "tcp_finish_connect",
        required: false,
        shows: "how far away a server is, to tell forged resets from its own (since Linux 5.11)",
        kind: Kind::Entry,
        program: |kernel| (kernel.reset_args? == 2).then_some("tcp_finish_connect"),
    },
    Probe {
        name: "tcp_child_process",
        required: false,
        shows: "how far away a client is, to tell forged resets from its own (since Linux 5.11)",
        kind: Kind::Entry,
        program: |kernel| (kernel.reset_args? == 2).then_some("tcp_child_process"),
    },
    Probe {
        name: SOCKETS_AT_START,
        required: false,
        shows: "whose the sockets were before rst started (since Linux 5.11)",
        kind: Kind::Iterator,
        program: |kernel| kernel.has_sock_from_file.then_some("sockets_at_start"),
    },
];

/// The probe that sees the resets this host sends.
pub const SEND_RESET: &str = "tcp_send_reset";
/// The probe that sees those it receives.
pub const RECEIVE_RESET: &str = "tcp_receive_reset";
/// The functions that send resets without a connection: where `tcp_send_reset` does not
/// show these, the probes that do.
pub const SEND_RESET_FUNCTIONS: [&str; 2] = ["tcp_v4_send_reset", "tcp_v6_send_reset"];
/// The iterator over open files.
pub const SOCKETS_AT_START: &str = "task_file";

/// Whether `tcp_send_reset` leaves resets out that the functions show.
const fn is_left_out(kernel: &KernelLayout) -> bool {
    !kernel.send_reset_shows_all
}

/// What holds a program in its place.
#[derive(Debug)]
pub(super) enum Link {
    Tracepoint(BtfTracePointLinkId),
    Entry(FEntryLinkId),
    Return(FExitLinkId),
    Kprobe(KProbeLinkId),
    /// It has run, and is gone.
    Ran,
}

/// A hook of this kernel.
#[derive(Debug)]
struct Hook {
    probe: &'static Probe,
    program: &'static str,
    /// `None` while it is detached.
    link: Option<Link>,
    /// Whose function it is, where that is no part of the kernel itself.
    module: Option<Module>,
}

impl Hook {
    fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        layout: &KernelLayout,
        btf: &Btf,
    ) -> Result<(), ProgramError> {
        let (name, program) = (self.probe.name, self.program);
        self.link = match self.probe.kind {
            Kind::Tracepoint => Some(attach_tracepoint(ebpf, name, program, btf)?),
            Kind::Entry => Some(attach_entry(ebpf, name, program, btf)?),
            Kind::Return => Some(attach_return(ebpf, name, program, btf)?),
            Kind::Iterator => Some(run_iterator(ebpf, name, program, btf)?),
            Kind::Function { .. } if !layout.send_reset_is_known => {
                return Err(failure(
                    "its arguments are not (sk, skb); a newer rst may know it",
                ));
            }
            Kind::Function { kprobe } => {
                let (program, link) = functions::attach(ebpf, name, [program, kprobe], btf)?;
                self.program = program;
                Some(link)
            }
            Kind::ModuleFunction { module } => {
                functions::load_kprobe(ebpf, program)?;
                let module = self.module.insert(Module::new(module));
                match functions::attach_kprobe(ebpf, name, program) {
                    Ok(link) => Some(link),
                    Err(error) if module.is_loaded() => return Err(error),
                    Err(_) => {
                        tracing::info!(
                            "{name} waits for the module {}; it shows {}",
                            module.name,
                            self.probe.shows
                        );
                        None
                    }
                }
            }
        };
        Ok(())
    }

    /// Attaches to a function whose module has been loaded, which is another one each
    /// time.
    fn follow_module(&mut self, ebpf: &mut Ebpf) -> Result<(), ProgramError> {
        let Some(module) = &mut self.module else {
            return Ok(());
        };
        if !module.has_changed() {
            return Ok(());
        }
        let is_loaded = module.is_loaded();
        if let Some(link) = self.link.take() {
            detach(ebpf, self.program, link)?;
        }
        if is_loaded {
            let link = functions::attach_kprobe(ebpf, self.probe.name, self.program)?;
            self.link = Some(link);
            tracing::info!("attached {}, for its module is loaded", self.probe.name);
        }
        Ok(())
    }
}

/// The hooks of this kernel.
#[derive(Debug)]
pub struct Hooks(Vec<Hook>);

impl Hooks {
    /// Attaches what this kernel has.
    pub fn attach(
        ebpf: &mut Ebpf,
        layout: &KernelLayout,
        kernel_btf: &Btf,
    ) -> Result<Self, LoadError> {
        let mut hooks = Vec::new();
        for probe in PROBES {
            let Some(program) = (probe.program)(layout) else {
                tracing::info!(
                    "not on this kernel: {}, which shows {}",
                    probe.name,
                    probe.shows
                );
                continue;
            };
            let mut hook = Hook {
                probe,
                program,
                link: None,
                module: None,
            };
            match hook.attach(ebpf, layout, kernel_btf) {
                Ok(()) => hooks.push(hook),
                Err(source) if probe.required => return Err(LoadError::Attach { probe, source }),
                Err(source) => tracing::warn!("{}", LoadError::Attach { probe, source }),
            }
        }
        Ok(Self(hooks))
    }

    /// For when the programs are gone.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Names of the probes that are attached.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let attached = self.0.iter().filter(|hook| hook.link.is_some());
        attached.map(|hook| hook.probe.name).collect()
    }

    /// Handles of the programs that stay.
    pub fn programs(&self, ebpf: &mut Ebpf) -> Result<Vec<ProgramHandle>, LoadError> {
        let staying = self
            .0
            .iter()
            .filter(|hook| !matches!(hook.link, Some(Link::Ran)));
        staying
            .map(|Hook { probe, program, .. }| {
                let fd = find(ebpf, program)
                    .and_then(|program| Ok(program.fd()?.as_fd().try_clone_to_owned()?))
                    .map_err(|source| LoadError::Attach { probe, source })?;
                Ok(ProgramHandle::new(probe.name, fd))
            })
            .collect()
    }

    /// Attaches to functions of modules that have been loaded since the last time.
    pub fn follow_modules(&mut self, ebpf: &mut Ebpf) {
        for hook in &mut self.0 {
            if let Err(source) = hook.follow_module(ebpf) {
                let probe = hook.probe;
                tracing::warn!("{}", LoadError::Attach { probe, source });
            }
        }
    }

    /// Takes the probes off that can be done without, or puts them on again. Those that
    /// resets are counted through stay.
    pub fn keep_optional(&mut self, ebpf: &mut Ebpf, keep: bool) -> Result<(), LoadError> {
        for hook in &mut self.0 {
            let probe = hook.probe;
            let counts = matches!(
                probe.kind,
                Kind::Function { .. } | Kind::ModuleFunction { .. }
            );
            if probe.required || counts || matches!(hook.link, Some(Link::Ran)) {
                continue;
            }
            let result = match (hook.link.take(), keep) {
                (None, true) => again(ebpf, hook.program, probe.kind).map(|link| hook.link = link),
                (Some(link), false) => detach(ebpf, hook.program, link),
                (link, _) => {
                    hook.link = link;
                    Ok(())
                }
            };
            result.map_err(|source| LoadError::Attach { probe, source })?;
        }
        Ok(())
    }
}

/// Attaches a program that is loaded.
fn again(ebpf: &mut Ebpf, program: &'static str, kind: Kind) -> Result<Option<Link>, ProgramError> {
    let program = find(ebpf, program)?;
    Ok(match kind {
        Kind::Tracepoint => {
            let program: &mut BtfTracePoint = program.try_into()?;
            Some(Link::Tracepoint(program.attach()?))
        }
        Kind::Entry => {
            let program: &mut FEntry = program.try_into()?;
            Some(Link::Entry(program.attach()?))
        }
        Kind::Return => {
            let program: &mut FExit = program.try_into()?;
            Some(Link::Return(program.attach()?))
        }
        Kind::Function { .. } | Kind::ModuleFunction { .. } | Kind::Iterator => None,
    })
}

fn detach(ebpf: &mut Ebpf, program: &'static str, link: Link) -> Result<(), ProgramError> {
    let program = find(ebpf, program)?;
    match link {
        Link::Tracepoint(link) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.detach(link)
        }
        Link::Entry(link) => {
            let program: &mut FEntry = program.try_into()?;
            program.detach(link)
        }
        Link::Return(link) => {
            let program: &mut FExit = program.try_into()?;
            program.detach(link)
        }
        Link::Kprobe(link) => {
            let program: &mut KProbe = program.try_into()?;
            program.detach(link)
        }
        Link::Ran => Ok(()),
    }
}

fn attach_tracepoint(
    ebpf: &mut Ebpf,
    name: &str,
    program: &'static str,
    btf: &Btf,
) -> Result<Link, ProgramError> {
    let program: &mut BtfTracePoint = find(ebpf, program)?.try_into()?;
    program.load(name, btf)?;
    Ok(Link::Tracepoint(program.attach()?))
}

pub(super) fn attach_entry(
    ebpf: &mut Ebpf,
    name: &str,
    program: &'static str,
    btf: &Btf,
) -> Result<Link, ProgramError> {
    let program: &mut FEntry = find(ebpf, program)?.try_into()?;
    program.load(name, btf)?;
    match program.attach() {
        Ok(link) => Ok(Link::Entry(link)),
        Err(error) => {
            program.unload()?;
            Err(error)
        }
    }
}

fn attach_return(
    ebpf: &mut Ebpf,
    name: &str,
    program: &'static str,
    btf: &Btf,
) -> Result<Link, ProgramError> {
    let program: &mut FExit = find(ebpf, program)?.try_into()?;
    program.load(name, btf)?;
    Ok(Link::Return(program.attach()?))
}

/// Runs the program once for each item of the iterator, and unloads it.
fn run_iterator(
    ebpf: &mut Ebpf,
    name: &str,
    program: &'static str,
    btf: &Btf,
) -> Result<Link, ProgramError> {
    let program: &mut Iter = find(ebpf, program)?.try_into()?;
    program.load(name, btf)?;
    let link = program.attach()?;
    let mut file = program
        .take_link(link)?
        .into_file()
        .map_err(|error| ProgramError::IOError(io::Error::other(error)))?;
    let result = read_to_end(&mut file);
    program.unload()?;
    result.map_err(ProgramError::IOError)?;
    Ok(Link::Ran)
}

/// It prints nothing; reading to the end is what runs it. After a million items
/// without output the kernel wants to be asked again (`bpf_seq_read`).
fn read_to_end(file: &mut impl io::Read) -> io::Result<()> {
    loop {
        match io::copy(file, &mut io::sink()) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn find<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut Program, ProgramError> {
    ebpf.program_mut(name).ok_or_else(|| {
        failure(format!(
            "the embedded eBPF object lacks `{name}`: rebuild rst"
        ))
    })
}

/// What is wrong, where it is not the kernel that says so.
pub(super) fn failure(what: impl Into<String>) -> ProgramError {
    ProgramError::IOError(io::Error::other(what.into()))
}
