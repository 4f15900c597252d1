//! Where cgroup2 is mounted, as `/proc/self/mountinfo` tells (proc(5)).

use std::path::PathBuf;

/// A cgroup2 mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is.
    pub(super) point: PathBuf,
    /// Path of the cgroup at its top, without a slash at the end: empty for the
    /// root, or for what this process may see as the root.
    pub(super) root: String,
}

/// The cgroup2 mounts, the one that shows most first: `/sys/fs/cgroup`, or
/// `/sys/fs/cgroup/unified` beside the controllers of version 1.
pub(super) fn cgroup2(mountinfo: &str) -> Vec<Mount> {
    let mut mounts: Vec<(u8, Mount)> = mountinfo.lines().filter_map(mount).collect();
    mounts.sort_by_key(|(rank, _)| *rank);
    mounts.into_iter().map(|(_, mount)| mount).collect()
}

/// A mount and its rank.
fn mount(line: &str) -> Option<(u8, Mount)> {
    let (mount, file_system) = line.split_once(" - ")?;
    if file_system.split(' ').next() != Some("cgroup2") {
        return None;
    }
    let mut fields = mount.split(' ').skip(3);
    let root = unescape(fields.next()?);
    let point = PathBuf::from(unescape(fields.next()?));
    // A cgroup above the top of this process' cgroup namespace shows as `/..`.
    let rank = match root.as_str() {
        "/" => 1,
        above if above.split('/').nth(1) == Some("..") => 0,
        _ => 2,
    };
    let root = root
        .split('/')
        .filter(|part| !matches!(*part, "" | ".."))
        .flat_map(|part| ["/", part])
        .collect();
    Some((rank, Mount { point, root }))
}

/// Undoes the kernel's octal escapes: `\040`, `\011`, `\012` and `\134`.
pub(crate) fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 4);
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if byte.is_ascii() => {
                text.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            _ => {
                text.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mountinfo: &str, expected: &[(&str, &str)]) {
        let mounts = cgroup2(mountinfo);
        let found: Vec<(&str, &str)> = mounts
            .iter()
            .map(|mount| (mount.point.to_str().unwrap(), mount.root.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn unified() {
        check(
            "23 28 0:21 / /proc rw,nosuid shared:14 - proc proc rw\n\
             30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - \
             cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
            &[("/sys/fs/cgroup", "")],
        );
    }

    #[test]
    fn hybrid() {
        check(
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
             37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
            &[("/sys/fs/cgroup/unified", "")],
        );
    }

    #[test]
    fn the_widest_mount_comes_first() {
        check(
            "1 0 0:26 /docker/abc /a ro - cgroup2 cgroup ro\n\
             2 0 0:26 / /b ro - cgroup2 cgroup ro\n\
             3 0 0:26 /../.. /c ro - cgroup2 cgroup ro\n\
             4 0 0:26 /..c/d /d ro - cgroup2 cgroup ro\n",
            &[
                ("/c", ""),
                ("/b", ""),
                ("/a", "/docker/abc"),
                ("/d", "/..c/d"),
            ],
        );
    }

    #[test]
    fn escapes() {
        check(
            r"1 0 0:26 /a\134x /my\040cgroups\zz\9 rw - cgroup2 none rw",
            &[(r"/my cgroups\zz\9", r"/a\x")],
        );
    }

    #[test]
    fn other_lines_are_passed_over() {
        check("", &[]);
        check(
            "nonsense\n - cgroup2\n1 2 3 - cgroup2 x y\n1 2 3 / - cgroup2\n",
            &[],
        );
        check("1 0 0:26 / /x rw - cgroup none rw,name=cgroup2", &[]);
    }
}
