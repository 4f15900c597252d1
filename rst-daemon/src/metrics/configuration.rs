//! How the last reading of the settings went.

use prometheus::proto::MetricFamily;

use super::gauge;
use crate::reload::Reading;

/// All of them.
pub(super) fn families(reading: &Reading) -> [MetricFamily; 2] {
    [
        gauge(
            "rst_config_last_reload_successful",
            "1 where the last reading of the settings was taken over, 0 where it was refused.",
            [(vec![], usize::from(reading.successful))],
        ),
        gauge(
            "rst_config_last_reload_success_timestamp_seconds",
            "When settings were taken over last, in seconds since 1970.",
            [(
                vec![],
                usize::try_from(reading.success.as_second()).unwrap_or(0),
            )],
        ),
    ]
}
