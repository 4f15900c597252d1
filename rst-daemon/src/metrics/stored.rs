//! The store's metrics.

use prometheus::proto::MetricFamily;

use super::{counter, gauge};
use crate::store::{Status, Why};

/// All of them.
pub(super) fn families(status: &Status) -> [MetricFamily; 5] {
    let Status {
        up,
        written,
        deleted,
        dropped,
        bytes,
    } = *status;
    [
        gauge(
            "rst_store_up",
            "1 while the store takes what comes.",
            [(vec![], usize::from(up))],
        ),
        counter(
            "rst_store_written_total",
            "Rows written to the store.",
            [(vec![], written)],
        ),
        counter(
            "rst_store_deleted_total",
            "Rows deleted from the store because they were too old or too many.",
            [(vec![], deleted)],
        ),
        counter(
            "rst_store_dropped_total",
            "Detailed events that are not in the store, by why; the counts of resets do not depend on these.",
            Why::ALL
                .iter()
                .zip(dropped)
                .map(|(why, dropped)| (vec![("why", why.label())], dropped)),
        ),
        gauge(
            "rst_store_bytes",
            "Bytes that the store takes on disk.",
            [(vec![], usize::try_from(bytes).unwrap_or(usize::MAX))],
        ),
    ]
}
