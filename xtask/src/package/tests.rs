//! The packages themselves: made once, then looked at and installed.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use super::{Packages, files, maintainer, make, make_tarball, notices, output, target};
use crate::{packages, process::Dir, target_dir, vm};

/// The glibc of RHEL 9, the oldest that the packages are for; Debian 12 has a newer one.
const GLIBC: (u32, u32) = (2, 34);

/// What a machine keeps of a package that was purged: the package manager's own notes, and the
/// files that hold the user, whose number must not become another's.
const STAYS: [&str; 10] = [
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/.pwd.lock",
    "var/lib/dpkg",
    "var/lib/systemd",
    "var/log",
    "var/cache/ldconfig",
    "root/.bash_history",
];

/// Takes another root directory; fails where its daemon counts no reset.
const COUNTS: &str = include_str!("counts.sh");

/// The profile that the packages under test are built with. The tests have built that of
/// development already; an optimised one takes minutes more, and nothing but the program in
/// them is another.
fn profile() -> String {
    env::var("RST_PACKAGE_PROFILE").unwrap_or_else(|_| "dev".to_owned())
}

/// Beside those of `cargo xtask package`.
fn dir() -> PathBuf {
    target_dir().join("packages-tested")
}

/// The packages; none where they can't be made, which is said.
fn packages() -> Option<&'static Packages> {
    static MADE: LazyLock<Option<Packages>> = LazyLock::new(|| {
        let tools = packages::PACKAGE_TOOLS.iter().map(|tool| tool.command);
        let crates = packages::PACKAGE_CRATES.iter().map(|tool| tool.name);
        ready(&tools.chain(crates).collect::<Vec<_>>()).then(|| make(&dir(), &profile()).unwrap())
    });
    MADE.as_ref()
}

/// Whether a test has what it needs; says so where it has not.
fn ready(commands: &[&str]) -> bool {
    let missing: Vec<_> = commands
        .iter()
        .filter(|command| !packages::has_command(command))
        .collect();
    if !missing.is_empty() {
        println!("SKIPPED: needs {missing:?}");
    }
    missing.is_empty()
}

fn text(command: &mut Command) -> String {
    String::from_utf8(output(command).unwrap().stdout).unwrap()
}

/// A Debian without rst, to be entered by chroot.
fn debian() -> Dir {
    let dir = Dir::new().unwrap();
    let mut cpio = Command::new("cpio");
    cpio.args(["--extract", "--make-directories", "--quiet"]);
    cpio.arg("--file").arg(vm::debian(false).unwrap());
    output(cpio.current_dir(dir.path())).unwrap();
    // The cache leaves documents out.
    let config = dir.join("etc/dpkg/dpkg.cfg.d");
    for entry in fs::read_dir(&config).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    dir
}

/// A command in another root directory.
fn within(root: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("chroot");
    command.arg(root).args(words).env("LC_ALL", "C");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// All paths below a directory that need not stay.
fn paths(root: &Path) -> BTreeSet<PathBuf> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if STAYS.iter().any(|stays| name.starts_with(stays)) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                walk(root, &path, found);
            }
            found.insert(name);
        }
    }
    let mut found = BTreeSet::new();
    walk(root, root, &mut found);
    found
}

#[test]
fn the_debian_package_comes_and_goes() {
    if !packages::is_root() {
        println!("SKIPPED: needs root, to enter another root directory");
        return;
    }
    if !ready(&["mmdebstrap", "cpio"]) {
        return;
    }
    let Some(packages) = packages() else {
        return;
    };
    let debian = debian();
    let root = debian.path();
    let before = paths(root);
    fs::copy(&packages.deb, debian.join("rst.deb")).unwrap();
    text(&mut within(root, &["dpkg", "--install", "/rst.deb"]));
    fs::remove_file(debian.join("rst.deb")).unwrap();

    for (path, mode) in [
        ("usr/bin/rst", 0o755),
        ("etc/rst/rst.toml", 0o644),
        ("usr/lib/systemd/system/rst-daemon.service", 0o644),
        ("usr/lib/sysusers.d/rst.conf", 0o644),
        ("usr/share/man/man1/rst.1.gz", 0o644),
        ("usr/share/man/man1/rst-watch.1.gz", 0o644),
        ("usr/share/bash-completion/completions/rst", 0o644),
        ("usr/share/rst/prometheus/rst.rules.yml", 0o644),
        ("usr/share/rst/grafana/rst.json", 0o644),
        ("usr/share/doc/rst/causes.md", 0o644),
        ("usr/share/doc/rst/copyright", 0o644),
    ] {
        let metadata = fs::metadata(root.join(path)).expect(path);
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{path}");
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{path}");
    }
    let enabled = root.join("etc/systemd/system/multi-user.target.wants/rst-daemon.service");
    assert!(enabled.is_symlink());
    assert_eq!(
        text(&mut within(root, &["rst", "--version"])),
        concat!("rst ", env!("CARGO_PKG_VERSION"), "\n")
    );
    assert_eq!(
        text(&mut within(root, &["rst", "config", "check"])),
        "/etc/rst/rst.toml: ok\n"
    );
    let user = text(&mut within(root, &["getent", "passwd", "rst"]));
    assert!(
        user.starts_with("rst:") && user.ends_with(":/usr/sbin/nologin\n"),
        "{user}"
    );
    text(&mut within(root, &["getent", "group", "rst"]));
    counts(root);

    // What the daemon has left behind, and a change by hand: both outlive a removal.
    let store = root.join("var/lib/rst/rst.db");
    assert!(store.is_file());
    fs::write(root.join("etc/rst/rst.toml"), "idle_ms = 2000\n").unwrap();
    text(&mut within(root, &["dpkg", "--remove", "rst"]));
    assert!(!root.join("usr/bin/rst").exists());
    assert!(store.is_file());
    let settings = fs::read_to_string(root.join("etc/rst/rst.toml")).unwrap();
    assert_eq!(settings, "idle_ms = 2000\n");

    text(&mut within(root, &["dpkg", "--purge", "rst"]));
    let after = paths(root);
    let left: Vec<_> = after.difference(&before).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn lintian_finds_nothing() {
    if !ready(&["lintian"]) {
        return;
    }
    let Some(packages) = packages() else {
        return;
    };
    let mut lintian = Command::new("lintian");
    lintian.args(["--no-cfg", "--allow-root", "--fail-on", "error,warning"]);
    let found = lintian
        .args(["--tag-display-limit", "0"])
        .arg(&packages.deb)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&found.stdout).into_owned();
    print!("{said}");
    assert!(found.status.success(), "{said}");
}

/// What Red Hat has in `/usr/share/licenses`.
const LICENCES: [&str; 3] = [
    "/usr/share/doc/rst/copyright",
    "/usr/share/doc/rst/THIRD-PARTY.txt",
    "/usr/share/doc/rst/rust-library.html",
];

/// The files of a package, where Debian and Red Hat put them alike.
fn alike(listed: &str) -> BTreeSet<String> {
    listed
        .lines()
        .map(|line| line.trim_start_matches('.'))
        .filter(|path| !path.ends_with('/'))
        .filter(|path| !path.starts_with("/usr/share/licenses/"))
        .filter(|path| !LICENCES.contains(path))
        .filter(|path| {
            !super::DEBIAN_ONLY
                .iter()
                .any(|only| path.starts_with(&format!("/usr/share/{only}")))
        })
        .map(|path| path.replace("vendor-completions", "site-functions"))
        .collect()
}

#[test]
fn both_packages_hold_the_same() {
    if !ready(&["rpm"]) {
        return;
    }
    let Some(packages) = packages() else {
        return;
    };
    let listed = text(
        Command::new("rpm")
            .args(["--query", "--list", "--package"])
            .arg(&packages.rpm),
    );
    let rpm = alike(&listed);
    let script = "dpkg-deb --fsys-tarfile \"$1\" | tar --list";
    let listed = text(
        Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&packages.deb),
    );
    assert_eq!(rpm, alike(&listed));
    assert!(rpm.contains("/usr/bin/rst"), "{rpm:?}");

    let query = |format: &str| {
        text(
            Command::new("rpm")
                .args(["--query", "--queryformat", format, "--package"])
                .arg(&packages.rpm),
        )
    };
    let modes = query("[%{FILENAMES} %{FILEMODES:octal} %{FILEUSERNAME} %{FILEFLAGS:fflags}\n]");
    for line in [
        "/usr/bin/rst 100755 root \n",
        // c: configuration, n: a changed one is kept.
        "/etc/rst/rst.toml 100644 root cn\n",
        "/usr/lib/systemd/system/rst-daemon.service 100644 root \n",
    ] {
        assert!(modes.contains(line), "{line} {modes}");
    }
    for script in ["POSTIN", "PREUN", "POSTUN"] {
        let script = query(&format!("%{{{script}}}"));
        assert!(script.contains("rst-daemon.service"), "{script}");
        output(Command::new("sh").args(["-n", "-c", &script])).unwrap();
    }
}

/// The files of the Debian package, in a directory of their own.
fn extracted(packages: &Packages) -> Dir {
    let dir = Dir::new().unwrap();
    let mut extract = Command::new("dpkg-deb");
    text(extract.arg("--extract").args([&packages.deb, dir.path()]));
    dir
}

/// Whether the daemon of another root directory loads its programs and counts a reset.
fn counts(root: &Path) {
    let mut counts = Command::new("unshare");
    counts.args(["--mount", "--net", "bash", "-c", COUNTS, "bash"]);
    text(counts.arg(root));
}

#[test]
fn the_program_runs_on_old_releases() {
    let Some(packages) = packages() else {
        return;
    };
    let needed = text(
        Command::new("readelf")
            .arg("--version-info")
            .arg(extracted(packages).join("usr/bin/rst")),
    );
    let versions: BTreeSet<(u32, u32)> = needed
        .split("GLIBC_")
        .skip(1)
        .filter_map(|rest| {
            let version = rest.split_whitespace().next()?;
            let mut numbers = version.split('.').map(|number| number.parse().ok());
            Some((numbers.next()??, numbers.next()??))
        })
        .collect();
    let newest = versions.last().expect(&needed);
    assert!(*newest <= GLIBC, "it needs glibc {newest:?}");
}

#[test]
fn the_tarball_needs_no_libraries() {
    if !packages::is_root() {
        println!("SKIPPED: needs root, to enter another root directory");
        return;
    }
    let Some(packages) = packages() else {
        return;
    };
    let tarball = make_tarball(&dir(), &packages.deb, &profile()).unwrap();
    let dir = Dir::new().unwrap();
    text(
        Command::new("tar")
            .args(["--extract", "--strip-components=1", "--directory"])
            .arg(dir.path())
            .arg("--file")
            .arg(&tarball),
    );
    // There is nothing else in this root directory.
    assert_eq!(
        text(&mut within(dir.path(), &["rst", "--version"])),
        concat!("rst ", env!("CARGO_PKG_VERSION"), "\n")
    );
    assert_eq!(
        text(&mut within(dir.path(), &["rst", "config", "check"])),
        "/etc/rst/rst.toml: ok\n"
    );
    counts(dir.path());
    for licence in ["LICENSE-MIT", "LICENSE-APACHE", "LICENSE-LGPL-2.1"] {
        assert!(dir.join(licence).is_file(), "{licence}");
    }
    assert!(dir.join("usr/share/doc/rst/THIRD-PARTY.txt").is_file());
    assert!(!dir.join("usr/share/lintian").exists());
}

#[test]
fn the_shells_complete() {
    if !ready(&["bash", "zsh", "fish"]) {
        return;
    }
    let Some(packages) = packages() else {
        return;
    };
    let files = extracted(packages);
    let share = files.join("usr/share");
    let script = "source \"$1\"; COMP_WORDS=(rst hist); COMP_CWORD=1; _rst rst hist rst; echo \"${COMPREPLY[@]}\"";
    let told = text(
        Command::new("bash")
            .args(["-c", script, "bash"])
            .arg(share.join("bash-completion/completions/rst")),
    );
    assert_eq!(told, "history\n");
    // As zsh finds it by itself; `_describe` gets what would be shown.
    let script = "fpath=($1 $fpath); autoload -U compinit; compinit -D -u; \
                  _describe() { print -l ${(P)4} }; [[ $_comps[rst] == _rst ]] && \
                  autoload +X -U _rst && source $1/_rst 2> /dev/null; _rst_commands";
    let told = text(
        Command::new("zsh")
            .args(["-f", "-c", script, "zsh"])
            .arg(share.join("zsh/vendor-completions")),
    );
    assert!(
        told.lines().any(|line| line.starts_with("history:")),
        "{told}"
    );
    let script = "source $argv[1]; complete --do-complete 'rst hist'";
    let told = text(
        Command::new("fish")
            .args(["--no-config", "-c", script])
            .arg(share.join("fish/vendor_completions.d/rst.fish")),
    );
    assert!(told.starts_with("history\t"), "{told}");
}

#[test]
fn the_manual_pages_are_sound() {
    if !ready(&["mandoc"]) {
        return;
    }
    let Some(packages) = packages() else {
        return;
    };
    let extracted = extracted(packages);
    let pages = files(&extracted.join("usr/share/man/man1"), "gz").unwrap();
    assert!(pages.len() > 5, "{pages:?}");
    for page in pages {
        let script = "gzip --decompress --stdout \"$1\" | mandoc -T lint -W warning";
        let mut mandoc = Command::new("sh");
        let found = mandoc.args(["-c", script, "sh"]).arg(&page);
        let found = found.output().unwrap();
        let said = String::from_utf8_lossy(&found.stdout).into_owned();
        assert!(found.status.success(), "{}: {said}", page.display());
    }
}

#[test]
fn the_licences_of_all_crates_are_found() {
    let text = notices::third_party(&target()).unwrap();
    for linked in ["\naya ", "\naya-ebpf ", "\ntokio ", "\nring "] {
        assert!(text.contains(linked), "{linked}");
    }
    for other in ["\nproptest ", "\nserde_derive ", "\nwindows-sys "] {
        assert!(!text.contains(other), "{other}");
    }
    assert!(text.contains("Copyright (c) Tokio Contributors"));
}

#[test]
fn the_changelog_is_of_this_version() {
    let changelog = include_str!("../../../rst-daemon/dist/deb/changelog");
    assert!(
        changelog.starts_with(concat!("rst (", env!("CARGO_PKG_VERSION"), "-1) ")),
        "{changelog}"
    );
}

#[test]
fn who_makes_a_package_answers_for_it() {
    let set = |name: &str| match name {
        "DEBFULLNAME" => Some("Ada".to_owned()),
        "DEBEMAIL" => Some("ada@example.org".to_owned()),
        _ => None,
    };
    assert_eq!(maintainer(set).unwrap(), "Ada <ada@example.org>");
    assert_eq!(maintainer(|_| None), None);
}
