//! Names the workloads that the programs know by number.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use rst_common::owner::{BY_NAME, Comm, NAMES, ROOT_CGROUP};

use super::cgroups::Cgroups;
use super::{of_cgroup, of_comm};
use crate::metrics::OTHER;
use crate::reset::Workload;
use crate::text::until_zero;

/// A workload by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// What it is called.
    pub workload: Option<Workload>,
    /// Path of its cgroup.
    pub cgroup: Option<String>,
}

/// Looks a command name up that the programs have noted.
pub type NameOf = Box<dyn Fn(u64) -> Option<Comm> + Send>;

/// Keeps the label of a workload for the next start.
pub type KeepLabel = Box<dyn FnMut(u64, Option<&str>) + Send>;

/// Names for numbers.
pub struct Resolver {
    cgroups: Option<Cgroups>,
    name_of: NameOf,
    names: HashMap<u64, Named>,
    labels: HashMap<u64, Option<Arc<str>>>,
    published: HashSet<Arc<str>>,
    max_labels: usize,
    keep: Option<KeepLabel>,
}

impl Resolver {
    /// Without `cgroups` only command names are known. So many names are published.
    #[must_use]
    pub fn new(cgroups: Option<Cgroups>, name_of: NameOf, max_labels: u32) -> Self {
        Self {
            cgroups,
            name_of,
            names: HashMap::new(),
            labels: HashMap::new(),
            published: HashSet::new(),
            max_labels: usize::try_from(max_labels).unwrap_or(usize::MAX),
            keep: None,
        }
    }

    /// Goes on with the labels that counts were published under before, and has the
    /// new ones kept.
    #[must_use]
    pub fn with_labels(
        mut self,
        labels: impl IntoIterator<Item = (u64, Option<String>)>,
        keep: KeepLabel,
    ) -> Self {
        for (id, label) in labels {
            let label = label.map(Arc::<str>::from);
            let own = label.iter().filter(|label| ***label != *OTHER);
            self.published.extend(own.cloned());
            self.labels.insert(id, label);
        }
        self.keep = Some(keep);
        self
    }

    /// The name that counts of a workload are published under, `None` for ever
    /// where it had none the first time: a count that moved from one name to
    /// another would make a counter fall. As many are kept as there are keys in
    /// the kernel's maps of counts, which keep theirs too.
    pub fn label(&mut self, id: u64, now: Instant) -> Option<Arc<str>> {
        if let Some(label) = self.labels.get(&id) {
            return label.clone();
        }
        let workload = self.resolve(id, now).workload;
        let label = workload.map(|workload| self.admit(workload.name));
        if let Some(keep) = &mut self.keep {
            keep(id, label.as_deref());
        }
        self.labels.insert(id, label.clone());
        label
    }

    /// A name as it is published: itself as long as there is room.
    fn admit(&mut self, name: String) -> Arc<str> {
        if let Some(known) = self.published.get(name.as_str()) {
            return Arc::clone(known);
        }
        if self.published.len() >= self.max_labels {
            return OTHER.into();
        }
        let name: Arc<str> = name.into();
        self.published.insert(Arc::clone(&name));
        name
    }

    /// The workload with this number ([`rst_common::owner::workload`]); 0 has no
    /// name.
    pub fn resolve(&mut self, id: u64, now: Instant) -> Named {
        if id == 0 || id == ROOT_CGROUP {
            Named::default()
        } else if id & BY_NAME != 0 {
            self.by_name(id)
        } else {
            self.by_cgroup(id, now)
        }
    }

    fn by_cgroup(&mut self, id: u64, now: Instant) -> Named {
        let path: Option<Arc<str>> = self
            .cgroups
            .as_mut()
            .and_then(|cgroups| cgroups.resolve(id, now));
        Named {
            workload: path.as_deref().and_then(of_cgroup),
            cgroup: path.map(|path| path.to_string()),
        }
    }

    /// The programs note no more names than these, and never change one.
    fn by_name(&mut self, id: u64) -> Named {
        if let Some(named) = self.names.get(&id) {
            return named.clone();
        }
        let Some([low, high]) = (self.name_of)(id) else {
            return Named::default();
        };
        let bytes = [low.to_ne_bytes(), high.to_ne_bytes()].concat();
        let named = Named {
            workload: of_comm(&until_zero(&bytes)),
            cgroup: Some("/".to_owned()),
        };
        if self.names.len() < NAMES as usize {
            self.names.insert(id, named.clone());
        }
        named
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("Resolver");
        debug.field("cgroups", &self.cgroups);
        debug.field("names", &self.names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_what_has_no_cgroup() {
        let comm = |id| (id == BY_NAME | 5).then(|| [u64::from_ne_bytes(*b"nginx\0xx"), 0]);
        let mut resolver = Resolver::new(None, Box::new(comm), 10);
        let now = Instant::now();
        let named = resolver.resolve(BY_NAME | 5, now);
        let workload = named.workload.clone().unwrap();
        assert_eq!(
            (workload.kind.as_str(), workload.name.as_str()),
            ("process", "nginx")
        );
        assert_eq!(named.cgroup.as_deref(), Some("/"));
        assert_eq!(resolver.resolve(BY_NAME | 5, now), named);
        for unknown in [0, ROOT_CGROUP, 4711, BY_NAME | 6] {
            assert_eq!(resolver.resolve(unknown, now), Named::default());
        }
    }

    #[test]
    fn what_there_is_no_room_for_is_other() {
        let comm = |id| Some([id & !BY_NAME, 0]);
        let mut resolver = Resolver::new(None, Box::new(comm), 2);
        let now = Instant::now();
        for (letter, expected) in [(1, "\u{1}"), (2, "\u{2}"), (3, "other"), (1, "\u{1}")] {
            let label = resolver.label(BY_NAME | letter, now);
            assert_eq!(label.as_deref(), Some(expected));
        }
    }

    #[test]
    fn labels_of_before_the_start_stay() {
        let (sender, kept) = std::sync::mpsc::channel();
        let before = [
            (7, Some("gone.service".to_owned())),
            (8, None),
            (9, Some(OTHER.to_owned())),
        ];
        let name = |id| Some([id & !BY_NAME, 0]);
        let mut resolver = Resolver::new(None, Box::new(name), 2).with_labels(
            before,
            Box::new(move |id, label| sender.send((id, label.map(str::to_owned))).unwrap()),
        );
        let now = Instant::now();
        let mut label = |id| resolver.label(id, now).map(|label| label.to_string());
        assert_eq!(label(7).as_deref(), Some("gone.service"));
        assert_eq!(label(8), None);
        assert_eq!(label(9).as_deref(), Some(OTHER));
        // One place is taken.
        let letters = [u64::from(b'a'), u64::from(b'b')].map(|letter| BY_NAME | letter);
        assert_eq!(label(letters[0]).as_deref(), Some("a"));
        assert_eq!(label(letters[1]).as_deref(), Some(OTHER));
        drop(resolver);
        let expected = [(letters[0], "a"), (letters[1], OTHER)];
        let expected = expected.map(|(id, label)| (id, Some(label.to_owned())));
        assert!(kept.iter().eq(expected));
    }

    #[test]
    fn a_label_stays_what_it_was() {
        let asked = std::sync::atomic::AtomicBool::new(false);
        let later = move |_| {
            let known = asked.swap(true, std::sync::atomic::Ordering::Relaxed);
            known.then(|| [u64::from_ne_bytes(*b"nginx\0xx"), 0])
        };
        let mut resolver = Resolver::new(None, Box::new(later), 10);
        let now = Instant::now();
        assert_eq!(resolver.label(BY_NAME | 5, now), None);
        assert!(resolver.resolve(BY_NAME | 5, now).workload.is_some());
        assert_eq!(resolver.label(BY_NAME | 5, now), None);
        assert_eq!(resolver.label(BY_NAME | 6, now).as_deref(), Some("nginx"));
    }
}
