//! Network namespaces that are mounted, as `ip netns add` and container engines
//! do it, from `/proc/self/mountinfo` (proc(5)).

use std::path::PathBuf;

use crate::workload::mount::unescape;

/// A mounted network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// Its inode.
    pub(super) inode: u64,
    /// Where it is mounted.
    pub(super) point: PathBuf,
}

/// All that are mounted; one that is mounted at several places comes several
/// times.
pub(super) fn mounted(mountinfo: &str) -> impl Iterator<Item = Mounted> {
    mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        if file_system.split(' ').next() != Some("nsfs") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let inode = fields.next()?.strip_prefix("net:[")?.strip_suffix(']')?;
        Some(Mounted {
            inode: inode.parse().ok()?,
            point: PathBuf::from(unescape(fields.next()?)),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_of_networks_alone() {
        let mountinfo = "\
23 28 0:21 / /proc rw,nosuid shared:14 - proc proc rw
90 89 0:4 net:[4026532177] /run/netns/blue rw shared:33 - nsfs nsfs rw
91 89 0:4 net:[4026532178] /run/netns/two\\040words rw - nsfs nsfs rw
92 89 0:4 mnt:[4026532179] /run/snapd/ns/lxd.mnt rw - nsfs nsfs rw
93 89 0:4 net:[x] /a rw - nsfs nsfs rw
94 89 0:4 net:[4026532180] /b rw - tmpfs nsfs rw
nonsense
";
        let found: Vec<_> = mounted(mountinfo).collect();
        let expected = [
            (4_026_532_177, "/run/netns/blue"),
            (4_026_532_178, "/run/netns/two words"),
        ];
        let expected = expected.map(|(inode, point)| Mounted {
            inode,
            point: point.into(),
        });
        assert_eq!(found, expected);
    }
}
