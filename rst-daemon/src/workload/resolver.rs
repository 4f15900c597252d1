//! Names the workloads that the programs know by number.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use rst_common::owner::ROOT_CGROUP;

use super::of_cgroup;
use crate::metrics::OTHER;
use crate::reset::Workload;

/// A workload by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// What it is called.
    pub workload: Option<Workload>,
    /// Path of its cgroup.
    pub cgroup: Option<String>,
}

/// Finds the path of a cgroup by its id.
pub type PathOf = Box<dyn FnMut(u64, Instant) -> Option<Arc<str>> + Send>;

/// Keeps the label of a workload for the next start.
pub type KeepLabel = Box<dyn FnMut(u64, Option<&str>) + Send>;

/// Names for numbers.
pub struct Resolver {
    path_of: PathOf,
    labels: HashMap<u64, Option<Arc<str>>>,
    published: HashSet<Arc<str>>,
    max_labels: usize,
    keep: Option<KeepLabel>,
}

impl Resolver {
    /// So many names are published.
    #[must_use]
    pub fn new(path_of: PathOf, max_labels: u32) -> Self {
        Self {
            path_of,
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

    /// The workload with this number, the id of a cgroup; 0 has no name.
    pub fn resolve(&mut self, id: u64, now: Instant) -> Named {
        let path = match id {
            0 => None,
            // Also where no tree of cgroups (v2) is mounted.
            ROOT_CGROUP => Some("/".into()),
            _ => (self.path_of)(id, now),
        };
        Named {
            workload: path.as_deref().and_then(of_cgroup),
            cgroup: path.map(|path| path.to_string()),
        }
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("Resolver");
        debug.field("labels", &self.labels).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(id: u64, _: Instant) -> Option<Arc<str>> {
        (id != 4711).then(|| format!("/{id}.service").into())
    }

    #[test]
    fn a_cgroup_has_a_path_and_names_a_workload() {
        let mut resolver = Resolver::new(Box::new(named), 10);
        let now = Instant::now();
        for (id, kind, name, cgroup) in [
            (7, "systemd", "7.service", "/7.service"),
            (ROOT_CGROUP, "cgroup", "/", "/"),
        ] {
            let found = resolver.resolve(id, now);
            let workload = found.workload.unwrap();
            assert_eq!(
                (workload.kind.as_str(), workload.name.as_str()),
                (kind, name)
            );
            assert_eq!(found.cgroup.as_deref(), Some(cgroup));
        }
        for unknown in [0, 4711] {
            assert_eq!(resolver.resolve(unknown, now), Named::default());
        }
    }

    #[test]
    fn what_there_is_no_room_for_is_other() {
        let mut resolver = Resolver::new(Box::new(named), 2);
        let now = Instant::now();
        for (id, expected) in [
            (5, "5.service"),
            (6, "6.service"),
            (7, "other"),
            (5, "5.service"),
        ] {
            let label = resolver.label(id, now);
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
        let mut resolver = Resolver::new(Box::new(named), 2).with_labels(
            before,
            Box::new(move |id, label| sender.send((id, label.map(str::to_owned))).unwrap()),
        );
        let now = Instant::now();
        let mut label = |id| resolver.label(id, now).map(|label| label.to_string());
        assert_eq!(label(7).as_deref(), Some("gone.service"));
        assert_eq!(label(8), None);
        assert_eq!(label(9).as_deref(), Some(OTHER));
        // One place is taken.
        assert_eq!(label(10).as_deref(), Some("10.service"));
        assert_eq!(label(11).as_deref(), Some(OTHER));
        drop(resolver);
        let expected = [(10, "10.service"), (11, OTHER)];
        let expected = expected.map(|(id, label)| (id, Some(label.to_owned())));
        assert!(kept.iter().eq(expected));
    }

    #[test]
    fn a_label_stays_what_it_was() {
        let mut asked = false;
        let later = move |id, now| {
            let known = std::mem::replace(&mut asked, true);
            known.then(|| named(id, now)).flatten()
        };
        let mut resolver = Resolver::new(Box::new(later), 10);
        let now = Instant::now();
        assert_eq!(resolver.label(5, now), None);
        assert!(resolver.resolve(5, now).workload.is_some());
        assert_eq!(resolver.label(5, now), None);
        assert_eq!(resolver.label(6, now).as_deref(), Some("6.service"));
    }
}
