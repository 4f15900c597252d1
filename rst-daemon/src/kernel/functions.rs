//! Attaches programs to functions: by fentry or else by kprobe, and to those of modules
//! when they are loaded.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aya::Ebpf;
use aya::programs::{KProbe, ProgramError};

use super::hooks::{Link, find};
use super::layout::KernelLayout;
use super::preflight::Host;
use super::verdict::Verdict;

/// A module that may be loaded, and loaded anew, while the daemon runs.
#[derive(Debug)]
pub(super) struct Module {
    /// Its name, with underscores.
    pub(super) name: &'static str,
    /// What tells this time that it is loaded from others: the inode of its folder in
    /// sysfs.
    loaded: Option<u64>,
}

impl Module {
    /// Looks for it.
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            loaded: Self::look(name),
        }
    }

    /// Looks again; whether it has been loaded or unloaded meanwhile.
    pub(super) fn has_changed(&mut self) -> bool {
        let before = std::mem::replace(&mut self.loaded, Self::look(self.name));
        before != self.loaded
    }

    /// Whether it was there at the last look.
    pub(super) const fn is_loaded(&self) -> bool {
        self.loaded.is_some()
    }

    fn look(name: &str) -> Option<u64> {
        let folder = fs::metadata(Path::new("/sys/module").join(name));
        folder.ok().map(|folder| folder.ino())
    }
}

/// Where the first program could not be attached by a trampoline, attaches the second one to
/// its function by kprobe. Returns which it is.
pub(super) fn or_kprobe(
    ebpf: &mut Ebpf,
    (how, program, first): (&str, &'static str, Result<Link, ProgramError>),
    (kprobe, function): (&'static str, &'static str),
    layout: &KernelLayout,
    host: &Host,
) -> Result<(&'static str, Link), Verdict> {
    let error = match first {
        Ok(link) => return Ok((program, link)),
        Err(error) => error,
    };
    let refused = Verdict::of(program, &error, host);
    let refused = refused.detail();
    if !host.has_kprobes {
        return Err(Verdict::Refused(format!(
            "{how}: {refused}; the kernel has no kprobes (CONFIG_KPROBE_EVENTS)"
        )));
    }
    if let Some(difference) = layout.misfits.get(kprobe) {
        return Err(Verdict::Refused(format!(
            "{how}: {refused}; kprobe: {difference}"
        )));
    }
    let result = load_kprobe(ebpf, kprobe).and_then(|()| attach_kprobe(ebpf, function, kprobe));
    match result {
        Ok(link) => {
            tracing::info!("{function} is probed by kprobe, for {how} is refused: {refused}");
            Ok((kprobe, link))
        }
        Err(error) => Err(Verdict::Refused(format!(
            "{how}: {refused}; kprobe: {}",
            Verdict::of(kprobe, &error, host).detail()
        ))),
    }
}

/// Loads a program that is to be attached by kprobe, now or later.
pub(super) fn load_kprobe(ebpf: &mut Ebpf, program: &'static str) -> Result<(), ProgramError> {
    let program: &mut KProbe = find(ebpf, program)?.try_into()?;
    program.load()
}

/// Attaches a program that is loaded.
pub(super) fn attach_kprobe(
    ebpf: &mut Ebpf,
    function: &str,
    program: &'static str,
) -> Result<Link, ProgramError> {
    let program: &mut KProbe = find(ebpf, program)?.try_into()?;
    Ok(Link::Kprobe(program.attach(function, 0)?))
}
