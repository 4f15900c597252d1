//! The names that counts are published under, kept beside the counts for the next daemon:
//! the cgroup whose number a key has may be gone by then.

use aya::maps::{HashMap, MapData};
use rst_common::owner::{LABEL_BYTES, LabelName};
use tracing::debug;

use crate::text::until_zero;

/// The table of them.
pub type Labels = HashMap<MapData, u64, LabelName>;

/// All that are kept; `None` for a workload that had no name.
#[must_use]
pub fn read(labels: &Labels) -> Vec<(u64, Option<String>)> {
    let named = |name: &LabelName| Some(until_zero(name)).filter(|name| !name.is_empty());
    labels
        .iter()
        .filter_map(Result::ok)
        .map(|(id, name)| (id, named(&name)))
        .collect()
}

/// Keeps one. Where there is no room, the next daemon looks for the name itself.
pub fn keep(labels: &mut Labels, id: u64, label: Option<&str>) {
    let label = label.unwrap_or_default().as_bytes();
    let mut name = [0; LABEL_BYTES];
    let Some(start) = name.get_mut(..label.len()) else {
        debug!("the name of workload {id:#x} is too long to be kept");
        return;
    };
    start.copy_from_slice(label);
    if let Err(error) = labels.insert(id, name, 0) {
        debug!("the name of workload {id:#x} is not kept: {error}");
    }
}
