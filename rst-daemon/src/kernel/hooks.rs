//! The hooks of this kernel: attached, and what became of each.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use aya::programs::fentry::FEntryLinkId;
use aya::programs::fexit::FExitLinkId;
use aya::programs::kprobe::KProbeLinkId;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, FEntry, FExit, Iter, KProbe, Program, ProgramError};
use aya::{Btf, Ebpf};

use super::functions::{self, Module};
use super::layout::KernelLayout;
use super::load::LoadError;
use super::preflight::Host;
use super::probes::{Kind, PROBES, Probe};
use super::programs::ProgramHandle;
use super::verdict::{Judged, Verdict, log_lines};

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
    /// Attaches the probe, or says why not.
    fn attach(
        probe: &'static Probe,
        ebpf: &mut Ebpf,
        layout: &KernelLayout,
        btf: &Btf,
        host: &Host,
    ) -> Result<Self, Verdict> {
        let name = probe.name;
        let program = (probe.program)(layout).ok_or(match probe.kind {
            Kind::Function { .. } => Verdict::NotNeeded,
            Kind::Tracepoint
            | Kind::Entry { .. }
            | Kind::Return { .. }
            | Kind::ModuleFunction { .. }
            | Kind::Iterator => Verdict::NotHere,
        })?;
        if let Some(difference) = layout.misfits.get(program) {
            return Err(Verdict::Changed(difference.clone()));
        }
        let mut hook = Self {
            probe,
            program,
            link: None,
            module: None,
        };
        let result = match probe.kind {
            Kind::Tracepoint => attach_tracepoint(ebpf, name, program, btf),
            Kind::Return { kprobe } => {
                let first = ("fexit", program, attach_return(ebpf, name, program, btf));
                let second = (kprobe, kprobe);
                let (program, link) = functions::or_kprobe(ebpf, first, second, layout, host)?;
                hook.program = program;
                Ok(link)
            }
            Kind::Iterator => run_iterator(ebpf, name, program, btf),
            Kind::Entry { kprobe } | Kind::Function { kprobe } => {
                let first = ("fentry", program, attach_entry(ebpf, name, program, btf));
                let second = (kprobe, name);
                let (program, link) = functions::or_kprobe(ebpf, first, second, layout, host)?;
                hook.program = program;
                Ok(link)
            }
            Kind::ModuleFunction { .. } if !host.has_kprobes => return Err(Verdict::NotHere),
            Kind::ModuleFunction { module } => {
                let module = hook.module.insert(Module::new(module));
                let loaded = functions::load_kprobe(ebpf, program);
                match loaded.and_then(|()| functions::attach_kprobe(ebpf, name, program)) {
                    // The programs are checked now, not when somebody loads the module.
                    Err(ProgramError::SyscallError(_)) if !module.is_loaded() => return Ok(hook),
                    result => result,
                }
            }
        };
        match result {
            Ok(link) => hook.link = Some(link),
            Err(error) => return Err(Verdict::of(program, &error, host)),
        }
        Ok(hook)
    }

    /// What has become of it.
    fn verdict(&self) -> Verdict {
        match (&self.link, &self.module) {
            (None, Some(module)) if !module.is_loaded() => {
                Verdict::Waiting(format!("for the module {} is not loaded", module.name))
            }
            (None, _) => Verdict::Detached,
            (Some(_), _) => Verdict::Attached,
        }
    }

    /// Attaches to a function whose module has been loaded, which is another one each
    /// time. Returns whether it has been, or is gone.
    fn follow_module(&mut self, ebpf: &mut Ebpf) -> Result<bool, ProgramError> {
        let Some(module) = &mut self.module else {
            return Ok(false);
        };
        if !module.has_changed() {
            return Ok(false);
        }
        let is_loaded = module.is_loaded();
        if let Some(link) = self.link.take() {
            detach(ebpf, self.program, link)?;
        }
        if is_loaded {
            let link = functions::attach_kprobe(ebpf, self.probe.name, self.program)?;
            self.link = Some(link);
        }
        Ok(true)
    }
}

/// The hooks of this kernel.
#[derive(Debug)]
pub struct Hooks {
    /// Those that can be attached.
    hooks: Vec<Hook>,
    /// What became of each, in the order of [`PROBES`].
    verdicts: Arc<[Judged]>,
}

impl Hooks {
    /// Attaches what this kernel has, and logs what it has not.
    pub fn attach(
        ebpf: &mut Ebpf,
        layout: &KernelLayout,
        btf: &Btf,
        host: &Host,
    ) -> Result<Self, LoadError> {
        let (mut hooks, mut verdicts) = (Vec::new(), Vec::new());
        for probe in PROBES {
            let verdict = match Hook::attach(probe, ebpf, layout, btf, host) {
                Ok(hook) => {
                    let verdict = hook.verdict();
                    hooks.push(hook);
                    verdict
                }
                Err(verdict) if probe.required => {
                    return Err(LoadError::Probe(Judged { probe, verdict }));
                }
                Err(verdict) => verdict,
            };
            verdicts.push(Judged { probe, verdict });
        }
        let hooks = Self {
            hooks,
            verdicts: verdicts.into(),
        };
        tracing::info!("attached: {}", hooks.names().join(", "));
        for (is_wrong, line) in log_lines(&hooks.verdicts) {
            if is_wrong {
                tracing::warn!("{line}");
            } else {
                tracing::info!("{line}");
            }
        }
        Ok(hooks)
    }

    /// What has become of each hook.
    #[must_use]
    pub fn verdicts(&self) -> Arc<[Judged]> {
        Arc::clone(&self.verdicts)
    }

    /// Looks again what has become of those that can be attached.
    fn judge(&mut self) {
        let judged = self.verdicts.iter().map(|judged| {
            let probe = judged.probe;
            let hook = self.hooks.iter().find(|hook| hook.probe.name == probe.name);
            let verdict = match (hook, &judged.verdict) {
                (Some(hook), _) => hook.verdict(),
                // The programs are gone.
                (None, Verdict::Attached | Verdict::Waiting(_)) => Verdict::Detached,
                (None, verdict) => verdict.clone(),
            };
            Judged { probe, verdict }
        });
        self.verdicts = judged.collect();
    }

    /// For when the programs are gone.
    pub fn clear(&mut self) {
        self.hooks.clear();
        self.judge();
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

    /// Attaches to functions of modules that have been loaded since the last time.
    pub fn follow_modules(&mut self, ebpf: &mut Ebpf) {
        let mut changed = false;
        for hook in &mut self.hooks {
            let probe = hook.probe;
            match hook.follow_module(ebpf) {
                Ok(false) => continue,
                Ok(true) => {
                    let verdict = hook.verdict();
                    tracing::info!("{}", Judged { probe, verdict });
                }
                Err(error) => tracing::warn!("{}", LoadError::Attach { probe, error }),
            }
            changed = true;
        }
        if changed {
            self.judge();
        }
    }

    /// Takes the probes off that can be done without, or puts them on again. Those that
    /// resets are counted through stay.
    pub fn keep_optional(&mut self, ebpf: &mut Ebpf, keep: bool) -> Result<(), LoadError> {
        for hook in &mut self.hooks {
            let probe = hook.probe;
            let counts = matches!(
                probe.kind,
                Kind::Function { .. } | Kind::ModuleFunction { .. }
            );
            if probe.required || counts || matches!(hook.link, Some(Link::Ran)) {
                continue;
            }
            let result = match (hook.link.take(), keep) {
                (None, true) => again(ebpf, hook.program, probe).map(|link| hook.link = link),
                (Some(link), false) => detach(ebpf, hook.program, link),
                (link, _) => {
                    hook.link = link;
                    Ok(())
                }
            };
            if let Err(error) = result {
                self.judge();
                return Err(LoadError::Attach { probe, error });
            }
        }
        self.judge();
        Ok(())
    }
}

/// Attaches a program that is loaded.
fn again(
    ebpf: &mut Ebpf,
    program: &'static str,
    probe: &Probe,
) -> Result<Option<Link>, ProgramError> {
    let found = find(ebpf, program)?;
    Ok(match probe.kind {
        Kind::Tracepoint => {
            let program: &mut BtfTracePoint = found.try_into()?;
            Some(Link::Tracepoint(program.attach()?))
        }
        Kind::Entry { kprobe } if kprobe == program => {
            Some(functions::attach_kprobe(ebpf, probe.name, program)?)
        }
        Kind::Return { kprobe } if kprobe == program => {
            Some(functions::attach_kprobe(ebpf, kprobe, program)?)
        }
        Kind::Entry { .. } => {
            let program: &mut FEntry = found.try_into()?;
            Some(Link::Entry(program.attach()?))
        }
        Kind::Return { .. } => {
            let program: &mut FExit = found.try_into()?;
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

fn attach_entry(
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
    match program.attach() {
        Ok(link) => Ok(Link::Return(link)),
        Err(error) => {
            program.unload()?;
            Err(error)
        }
    }
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
        ProgramError::IOError(io::Error::other(format!(
            "the embedded eBPF object lacks `{name}`: rebuild rst"
        )))
    })
}
