//! One command of a set-up: shown before it runs, timed, bounded if need be, its output logged.

use std::{
    fmt, fs,
    fs::File,
    io::{Seek as _, SeekFrom, Write as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::target_dir;

/// Lines of the log that a failure quotes.
const QUOTED_LINES: usize = 15;

/// A command of a set-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// What it does, for the progress line.
    pub(crate) title: String,
    /// Program and arguments.
    pub(crate) words: Vec<String>,
    /// Variables it needs in its environment.
    pub(crate) env: Vec<(&'static str, String)>,
    /// Whether only root may.
    pub(crate) needs_root: bool,
    /// Whether the set-up goes on if it fails.
    pub(crate) optional: bool,
    /// Time after which it is given up.
    pub(crate) limit: Option<Duration>,
}

impl Step {
    pub(crate) fn new(title: &str, command_line: &str) -> Self {
        Self {
            title: title.to_owned(),
            words: command_line.split_whitespace().map(str::to_owned).collect(),
            env: Vec::new(),
            needs_root: false,
            optional: false,
            limit: None,
        }
    }

    pub(crate) fn env(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }

    pub(crate) fn needs_root(mut self) -> Self {
        self.needs_root = true;
        self
    }

    pub(crate) fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Runs it with one line of progress. The failure of an optional one is only a warning.
    pub(crate) fn run(&self, log: &mut Log) -> Result<()> {
        eprint!("  {} .. ", self.title);
        let start = Instant::now();
        let result = self.run_logged(log);
        let seconds = start.elapsed().as_secs_f32();
        let Err(error) = result else {
            eprintln!("{seconds:.1} s");
            return Ok(());
        };
        eprintln!("failed after {seconds:.1} s");
        if self.optional {
            eprintln!("warning: {error:#}");
            return Ok(());
        }
        Err(error)
    }

    fn run_logged(&self, log: &mut Log) -> Result<()> {
        let start = log.begin(self)?;
        let [program, args @ ..] = self.words.as_slice() else {
            bail!("a step without a command");
        };
        let mut child = Command::new(program)
            .args(args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            // It would push the message out of the lines that are quoted.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(log.file.try_clone()?)
            .stderr(log.file.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        let what = match wait(&mut child, self.limit)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => status.to_string(),
            None => "took too long".to_owned(),
        };
        bail!(
            "`{self}` failed ({what}); log: {}; its last lines:\n{}",
            log.path.display(),
            log.tail(start)?
        )
    }
}

/// The command as one types it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{name}={value} ")?;
        }
        f.write_str(&self.words.join(" "))
    }
}

/// Waits for a child; none if the limit passed and it was killed.
fn wait(child: &mut Child, limit: Option<Duration>) -> Result<Option<ExitStatus>> {
    let Some(limit) = limit else {
        return Ok(Some(child.wait()?));
    };
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The file that takes the output of the steps.
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    file: File,
}

impl Log {
    pub(crate) fn create() -> Result<Self> {
        let path = target_dir().join("xtask-setup.log");
        let open = || {
            fs::create_dir_all(target_dir())?;
            File::options()
                .create(true)
                .read(true)
                .append(true)
                .open(&path)
        };
        let file = open().with_context(|| format!("cannot open {}", path.display()))?;
        file.set_len(0)?;
        Ok(Self { path, file })
    }

    /// Writes the command above its output; returns where the output starts.
    fn begin(&mut self, step: &Step) -> Result<u64> {
        writeln!(self.file, "$ {step}")?;
        Ok(self.file.seek(SeekFrom::End(0))?)
    }

    fn tail(&self, start: u64) -> Result<String> {
        let bytes = fs::read(&self.path)?;
        let from = usize::try_from(start).unwrap_or_default().min(bytes.len());
        Ok(last_lines(
            &String::from_utf8_lossy(&bytes[from..]),
            QUOTED_LINES,
        ))
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::{Step, last_lines, wait};

    #[test]
    fn a_step_is_shown_as_one_types_it() {
        let step = Step::new("linker", "cargo install  bpf-linker").env("LLVM_PREFIX", "/x");
        assert_eq!(step.to_string(), "LLVM_PREFIX=/x cargo install bpf-linker");
    }

    #[test]
    fn a_child_over_its_limit_is_killed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(
            wait(&mut child, Some(Duration::from_millis(1)))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_child_within_its_limit_reports_its_status() {
        let mut child = Command::new("true").spawn().unwrap();
        let status = wait(&mut child, Some(Duration::from_secs(60))).unwrap();
        assert!(status.is_some_and(|status| status.success()));
    }

    #[test]
    fn only_the_last_lines_are_quoted() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a\n", 2), "a");
        assert_eq!(last_lines("", 2), "");
    }
}
