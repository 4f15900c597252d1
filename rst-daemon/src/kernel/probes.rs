//! The hooks: what they are, and what became of each.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use aya::programs::fentry::FEntryLinkId;
use aya::programs::fexit::FExitLinkId;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, FEntry, FExit, Iter, Program, ProgramError};
use aya::{Btf, Ebpf};

use super::layout::KernelLayout;
use super::load::LoadError;
use super::preflight::Host;
use super::programs::ProgramHandle;
use super::verdict::{Judged, Verdict};

/// A hook: a place in the kernel and what it shows.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Kernel tracepoint or iterator; the `probe` label.
    pub name: &'static str,
    /// Whether the daemon can be ready without it.
    pub required: bool,
    /// What rst sees through it.
    pub shows: &'static str,
    /// Where it is attached: what the kernel's BTF must have.
    pub when: &'static str,
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
        when: "BTF has the tracepoint inet_sock_set_state",
        kind: Kind::Tracepoint,
        program: |_| Some("inet_sock_set_state"),
    },
    Probe {
        name: SEND_RESET,
        required: true,
        shows: "resets this host sends",
        when: "BTF has the tracepoint tcp_send_reset",
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
        when: "BTF has the tracepoint tcp_receive_reset",
        kind: Kind::Tracepoint,
        program: |_| Some("tcp_receive_reset"),
    },
    Probe {
        name: "inet_sk_error_report",
        required: false,
        shows: "connections that die of silence (since Linux 5.14)",
        when: "BTF has the tracepoint inet_sk_error_report",
        kind: Kind::Tracepoint,
        program: |kernel| kernel.has_error_report.then_some("inet_sk_error_report"),
    },
    Probe {
        name: "kfree_skb",
        required: false,
        shows: "resets that arrive and change nothing (since Linux 5.17)",
        when: "BTF has the tracepoint kfree_skb with a reason",
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
        when: "BTF has the function inet_csk_accept",
        kind: Kind::Return,
        program: |kernel| match kernel.accept_args? {
            2 => Some("inet_csk_accept"),
            _ => Some("inet_csk_accept_4"),
        },
    },
    Probe {
        name: "tcp_reset",
        required: false,
        shows: "the header of the resets this host receives (since Linux 5.11)",
        when: "BTF has the function tcp_reset with its segment",
        kind: Kind::Entry,
        program: |kernel| (kernel.reset_args? == 2).then_some("tcp_reset"),
    },
    Probe {
        name: "tcp_finish_connect",
        required: false,
        shows: "how far away a server is, to tell forged resets from its own (since Linux 5.11)",
        when: "BTF has the function tcp_reset with its segment",
        kind: Kind::Entry,
        program: |kernel| (kernel.reset_args? == 2).then_some("tcp_finish_connect"),
    },
    Probe {
        name: "tcp_child_process",
        required: false,
        shows: "how far away a client is, to tell forged resets from its own (since Linux 5.11)",
        when: "BTF has the function tcp_reset with its segment",
        kind: Kind::Entry,
        program: |kernel| (kernel.reset_args? == 2).then_some("tcp_child_process"),
    },
    Probe {
        name: SOCKETS_AT_START,
        required: false,
        shows: "whose the sockets were before rst started (since Linux 5.11)",
        when: "BTF has BPF_FUNC_sock_from_file",
        kind: Kind::Iterator,
        program: |kernel| kernel.has_sock_from_file.then_some("sockets_at_start"),
    },
];

/// The probe that sees the resets this host sends.
pub const SEND_RESET: &str = "tcp_send_reset";
/// The probe that sees those it receives.
pub const RECEIVE_RESET: &str = "tcp_receive_reset";
/// The iterator over open files.
pub const SOCKETS_AT_START: &str = "task_file";

/// What holds a program in its place.
#[derive(Debug)]
enum Link {
    Tracepoint(BtfTracePointLinkId),
    Entry(FEntryLinkId),
    Return(FExitLinkId),
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
}

/// The hooks of this kernel.
#[derive(Debug)]
pub struct Hooks {
    /// Those that were attached.
    hooks: Vec<Hook>,
    /// What became of each when it was to be attached.
    verdicts: Arc<[Judged]>,
}

impl Hooks {
    /// Attaches what this kernel has, and logs what it has not.
    pub fn attach(
        ebpf: &mut Ebpf,
        layout: &KernelLayout,
        kernel_btf: &Btf,
        host: &Host,
    ) -> Result<Self, LoadError> {
        let (mut hooks, mut verdicts) = (Vec::new(), Vec::new());
        for probe in PROBES {
            let verdict = match probe.attach(ebpf, layout, kernel_btf, host) {
                Ok(hook) => {
                    hooks.push(hook);
                    Verdict::Attached
                }
                Err(verdict) => verdict,
            };
            let judged = Judged { probe, verdict };
            match judged.verdict {
                Verdict::Attached => {}
                _ if probe.required => return Err(LoadError::Probe(judged)),
                Verdict::NotHere => tracing::info!("{judged}"),
                Verdict::Changed(_)
                | Verdict::Refused(_)
                | Verdict::Failed(_)
                | Verdict::Detached => tracing::warn!("{judged}"),
            }
            verdicts.push(judged);
        }
        let hooks = Self {
            hooks,
            verdicts: verdicts.into(),
        };
        tracing::info!("attached: {}", hooks.names().join(", "));
        Ok(hooks)
    }

    /// What became of each hook when it was to be attached.
    #[must_use]
    pub fn verdicts(&self) -> Arc<[Judged]> {
        Arc::clone(&self.verdicts)
    }

    /// For when the programs are gone.
    pub fn clear(&mut self) {
        self.hooks.clear();
    }

    /// Names of the probes that are attached.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let attached = self.hooks.iter().filter(|hook| hook.link.is_some());
        attached.map(|hook| hook.probe.name).collect()
    }

    /// Handles of the programs that stay.
    pub fn programs(&self, ebpf: &mut Ebpf) -> Result<Vec<ProgramHandle>, LoadError> {
        let staying = self
            .hooks
            .iter()
            .filter(|hook| !matches!(hook.link, Some(Link::Ran)));
        staying
            .map(|Hook { probe, program, .. }| {
                let fd = find(ebpf, program)
                    .and_then(|program| Ok(program.fd()?.as_fd().try_clone_to_owned()?))
                    .map_err(|error| LoadError::Attach { probe, error })?;
                Ok(ProgramHandle::new(probe.name, fd))
            })
            .collect()
    }

    /// Takes the probes off that can be done without, or puts them on again.
    pub fn keep_optional(&mut self, ebpf: &mut Ebpf, keep: bool) -> Result<(), LoadError> {
        for hook in &mut self.hooks {
            let probe = hook.probe;
            if probe.required || matches!(hook.link, Some(Link::Ran)) {
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
            result.map_err(|error| LoadError::Attach { probe, error })?;
        }
        Ok(())
    }
}

impl Probe {
    /// Attaches it, or says why not.
    fn attach(
        &'static self,
        ebpf: &mut Ebpf,
        layout: &KernelLayout,
        kernel_btf: &Btf,
        host: &Host,
    ) -> Result<Hook, Verdict> {
        let program = (self.program)(layout).ok_or(Verdict::NotHere)?;
        if let Some(difference) = layout.misfits.get(program) {
            return Err(Verdict::Changed(difference.clone()));
        }
        let result = match self.kind {
            Kind::Tracepoint => attach_tracepoint(ebpf, self.name, program, kernel_btf),
            Kind::Entry => attach_entry(ebpf, self.name, program, kernel_btf),
            Kind::Return => attach_return(ebpf, self.name, program, kernel_btf),
            Kind::Iterator => run_iterator(ebpf, self.name, program, kernel_btf),
        };
        match result {
            Ok(link) => Ok(Hook {
                probe: self,
                program,
                link: Some(link),
            }),
            Err(error) => Err(Verdict::of(program, &error, host)),
        }
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
        Kind::Iterator => None,
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

fn attach_entry(
    ebpf: &mut Ebpf,
    name: &str,
    program: &'static str,
    btf: &Btf,
) -> Result<Link, ProgramError> {
    let program: &mut FEntry = find(ebpf, program)?.try_into()?;
    program.load(name, btf)?;
    Ok(Link::Entry(program.attach()?))
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

fn find<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, ProgramError> {
    ebpf.program_mut(name).ok_or_else(|| {
        ProgramError::IOError(io::Error::other(format!(
            "the embedded eBPF object lacks `{name}`: rebuild rst"
        )))
    })
}
