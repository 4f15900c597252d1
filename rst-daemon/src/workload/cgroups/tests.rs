//! Real cgroups where the tests may make some; the walk over plain directories,
//! which have ids just as well.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::*;
use crate::testing::TempDir;

/// A cgroup of the host's tree, removed when dropped.
struct TempCgroup {
    path: PathBuf,
    id: u64,
}

impl TempCgroup {
    fn new(mount: &Path) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "rst-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = mount.join(name);
        fs::create_dir(&path)?;
        let id = fs::metadata(&path)?.ino();
        Ok(Self { path, id })
    }

    fn name(&self) -> String {
        let name = self.path.file_name().unwrap();
        format!("/{}", name.to_string_lossy())
    }
}

impl Drop for TempCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// The host's tree and a cgroup in it; nothing, said aloud, where there can't
/// be one.
fn real(test: &str) -> Option<(Cgroups, TempCgroup)> {
    let skip = |why: String| {
        let _ = writeln!(io::stderr(), "SKIPPED: {test}: {why}");
    };
    if !rustix::process::geteuid().is_root() {
        skip("only root may make cgroups and open them by id".into());
        return None;
    }
    let cgroups = Cgroups::open()
        .map_err(|error| skip(error.to_string()))
        .ok()?;
    let cgroup = TempCgroup::new(&cgroups.tree.mount.point)
        .map_err(|error| skip(format!("cannot make a cgroup: {error}")))
        .ok()?;
    Some((cgroups, cgroup))
}

/// Only walks, over what lies in a directory.
fn walking(dir: &TempDir) -> Cgroups {
    let mount = Mount {
        point: dir.join(""),
        root: String::new(),
    };
    let top = fs::File::open(&mount.point).unwrap().into();
    Cgroups::new(Tree { mount, top }, false)
}

fn make(dir: &TempDir, name: &str) -> u64 {
    let path = dir.join(name);
    fs::create_dir_all(&path).unwrap();
    fs::metadata(path).unwrap().ino()
}

#[test]
fn a_cgroup_is_known_beyond_its_end() {
    let Some((mut cgroups, cgroup)) = real("a_cgroup_is_known_beyond_its_end") else {
        return;
    };
    let now = Instant::now();
    let (id, name) = (cgroup.id, cgroup.name());
    assert!(cgroups.resolve(id, now).unwrap().ends_with(&name));
    drop(cgroup);
    assert!(cgroups.resolve(id, now).unwrap().ends_with(&name));

    let mut later = Cgroups::open().unwrap();
    assert_eq!(later.resolve(id, now), None, "nobody asked in its time");
}

#[test]
fn what_is_no_cgroup_is_unknown() {
    let Some((mut cgroups, cgroup)) = real("what_is_no_cgroup_is_unknown") else {
        return;
    };
    let now = Instant::now();
    // Files have ids as well.
    let file = fs::metadata(cgroup.path.join("cgroup.procs"))
        .unwrap()
        .ino();
    for id in [0, u64::MAX, 1 << 40, file] {
        assert_eq!(cgroups.resolve(id, now), None, "{id}");
    }
}

#[test]
fn the_top_is_the_root() {
    let Some((mut cgroups, _cgroup)) = real("the_top_is_the_root") else {
        return;
    };
    let top = fs::metadata(&cgroups.tree.mount.point).unwrap().ino();
    let expected = join(&cgroups.tree.mount.root, "");
    assert_eq!(
        cgroups.resolve(top, Instant::now()).as_deref(),
        Some(&*expected)
    );
}

#[test]
fn what_was_learnt_at_the_start_stays_known() {
    let Some((mut cgroups, cgroup)) = real("what_was_learnt_at_the_start_stays_known") else {
        return;
    };
    let now = Instant::now();
    cgroups.learn(now);
    let (id, name) = (cgroup.id, cgroup.name());
    drop(cgroup);
    assert!(cgroups.resolve(id, now).unwrap().ends_with(&name));
}

#[test]
fn without_permission_the_tree_is_walked() {
    let Some((mut cgroups, cgroup)) = real("without_permission_the_tree_is_walked") else {
        return;
    };
    // Capabilities are those of a thread.
    let walked = std::thread::spawn(move || {
        let mut sets = capabilities(None).unwrap();
        // The other one permits it as well since Linux 6.11 (may_decode_fh(),
        // fs/fhandle.c).
        sets.effective -= CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_ADMIN;
        set_capabilities(None, sets).unwrap();
        let path = cgroups.resolve(cgroup.id, Instant::now()).unwrap();
        assert!(path.ends_with(&cgroup.name()), "{path}");
        cgroups
    });
    assert!(!walked.join().unwrap().handles);
}

#[test]
fn a_walk_finds_all_there_is() {
    let dir = TempDir::new();
    let service = make(&dir, "system.slice/nginx.service");
    let nested = make(&dir, "kubepods/burstable/pod1/c1");
    fs::write(dir.join("cgroup.procs"), "").unwrap();
    let mut cgroups = walking(&dir);
    let now = Instant::now();
    let path = cgroups.resolve(service, now);
    assert_eq!(path.as_deref(), Some("/system.slice/nginx.service"));

    // The one walk saw them all.
    fs::remove_dir_all(dir.join("kubepods")).unwrap();
    let path = cgroups.resolve(nested, now);
    assert_eq!(path.as_deref(), Some("/kubepods/burstable/pod1/c1"));
    let top = fs::metadata(dir.join("")).unwrap().ino();
    assert_eq!(cgroups.resolve(top, now).as_deref(), Some("/"));
}

#[test]
fn walks_are_rare() {
    let dir = TempDir::new();
    let mut cgroups = walking(&dir);
    let start = Instant::now();
    assert_eq!(cgroups.resolve(u64::MAX, start), None);
    let id = make(&dir, "new.service");
    assert_eq!(cgroups.resolve(id, start + WALK_PAUSE / 2), None);
    let path = cgroups.resolve(id, start + WALK_PAUSE);
    assert_eq!(path.as_deref(), Some("/new.service"));
}

#[test]
fn a_large_tree_is_walked_more_rarely() {
    let dir = TempDir::new();
    for number in 0..1500 {
        make(&dir, &number.to_string());
    }
    let mut cgroups = walking(&dir);
    let start = Instant::now();
    assert_eq!(cgroups.resolve(u64::MAX, start), None);
    let id = make(&dir, "new.service");
    assert_eq!(cgroups.resolve(id, start + WALK_PAUSE), None);
    assert!(cgroups.resolve(id, start + WALK_PAUSE * 2).is_some());
}

#[test]
fn an_id_not_found_costs_nothing_for_a_while() {
    let dir = TempDir::new();
    let mut cgroups = walking(&dir);
    let start = Instant::now();
    assert_eq!(cgroups.resolve(u64::MAX, start), None);
    let walked = cgroups.next_walk;
    let later = start + MISSING_FOR.mul_f32(0.99);
    assert_eq!(cgroups.resolve(u64::MAX, later), None);
    assert_eq!(cgroups.next_walk, walked, "no walk for it");
    assert_eq!(cgroups.resolve(u64::MAX, start + MISSING_FOR), None);
    assert_ne!(cgroups.next_walk, walked, "it is tried again");
}

#[test]
fn what_is_wanted_is_kept_though_there_is_no_room() {
    let dir = TempDir::new();
    for number in 0..8 {
        make(&dir, &number.to_string());
    }
    let last = make(&dir, "8/9");
    let mut cgroups = walking(&dir);
    cgroups.known = Recent::new(4);
    let now = Instant::now();
    let path = cgroups.resolve(last, now);
    assert_eq!(path.as_deref(), Some("/8/9"));
    fs::remove_dir(dir.join("8/9")).unwrap();
    assert_eq!(cgroups.resolve(last, now), path);
}

#[test]
fn paths() {
    let tree = Tree {
        mount: Mount {
            point: "/sys/fs/cgroup".into(),
            root: "/docker/abc".into(),
        },
        top: fs::File::open("/").unwrap().into(),
    };
    for (directory, path) in [
        ("/sys/fs/cgroup", Some("/docker/abc")),
        ("/sys/fs/cgroup/x/y", Some("/docker/abc/x/y")),
        ("/sys/fs/cgroup/x (deleted)", Some("/docker/abc/x")),
        ("/", None),
        ("/sys/fs/cgroups", None),
    ] {
        assert_eq!(tree.path(Path::new(directory)).as_deref(), path);
    }
    assert_eq!(join("", ""), "/");
    assert_eq!(join("", "a/b"), "/a/b");
    let long = join("", &"\u{65e5}".repeat(1000));
    assert!((MAX_PATH - 2..=MAX_PATH).contains(&long.len()));
}
