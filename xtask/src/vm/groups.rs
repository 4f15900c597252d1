//! Which live tests run on every kernel: each cause in both directions, the facts, the owners
//! and exact counts, where no server package is needed. All would take an hour a kernel.

/// Live tests that are one column of the matrix.
pub(crate) struct Group {
    /// The column's head.
    pub(crate) name: &'static str,
    /// As `cargo test --test live -- --list` has them.
    pub(crate) tests: &'static [&'static str],
}

/// The columns. To have a test run on every kernel, name it here; it must need no program but
/// `ip`, `nsenter` and `ss` (see [`super::initramfs`]), and state what it expects of a kernel
/// that shows less by `rst-daemon/tests/live/kernel.rs`.
pub(crate) const GROUPS: &[Group] = &[
    Group {
        name: "connect",
        tests: &[
            "connecting::accept_queue_overflow",
            "connecting::closed_port",
            "idle::listener_closes_with_a_connection_waiting",
        ],
    },
    Group {
        name: "close",
        tests: &[
            "aborts::mptcp_is_aborted",
            "aborts::server_disconnects_after_its_answer",
            "closing::client_aborts_after_the_answer",
            "closing::mapped_addresses_are_ipv4",
            "closing::server_closes_with_unread_data",
            "owners::accepting::worker_is_killed_with_unread_data",
        ],
    },
    Group {
        name: "late",
        tests: &[
            "closed::client_sends_after_the_server_has_closed",
            "closed::data_after_shutdown_is_no_received_reset",
            "closed::reset_meets_fin_wait2_shut_for_receiving",
        ],
    },
    Group {
        name: "lost",
        tests: &[
            "dead::fin_of_a_dead_connection_is_stray",
            "dead::keepalive_gives_up",
            "dead::killed_by_ss",
            "dead::segment_of_a_dead_connection_meets_a_listener",
            "dead::segment_of_a_dead_connection_meets_no_socket",
            "vanished::silence_is_counted",
        ],
    },
    Group {
        name: "idle",
        tests: &[
            "idle::client_gives_up",
            "idle::forgotten_connection_is_used_again",
            "idle::idle_connection_is_reset",
            "idle::probe_finds_the_connection_gone",
            "idle::request_is_never_answered",
        ],
    },
    Group {
        name: "crafted",
        tests: &[
            "crafted::bad_ack_in_syn_recv",
            "crafted::bad_ack_in_syn_sent",
            "crafted::bad_ack_of_a_request",
            "crafted::resets_are_ignored",
        ],
    },
    Group {
        name: "forged",
        tests: &[
            "forged::reset_of_a_client",
            "forged::reset_of_a_server",
            "forged::resets_through_a_router",
        ],
    },
    Group {
        name: "owners",
        tests: &[
            "owners::accepting::worker_that_accepts_is_told",
            "owners::start::connection_of_before_the_start",
            "stories::restart_links_the_resets_in_between",
        ],
    },
    Group {
        name: "counts",
        tests: &[
            "ledger::steps_of_the_clock_lose_nothing",
            "load::counts_are_exact_in_a_storm",
        ],
    },
];

/// All of them.
pub(crate) fn tests() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(|group| group.tests).copied()
}

/// Those that a test binary does not have, by what it lists.
pub(crate) fn unknown(listed: &str) -> Vec<&'static str> {
    tests()
        .filter(|test| {
            !listed
                .lines()
                .any(|line| line.strip_suffix(": test") == Some(test))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{tests, unknown};

    #[test]
    fn a_test_that_was_renamed_is_noticed() {
        let listed: Vec<_> = tests()
            .skip(1)
            .map(|test| format!("{test}: test"))
            .collect();
        assert_eq!(unknown(&listed.join("\n")), [tests().next().unwrap()]);
    }

    #[test]
    fn no_test_is_in_two_columns() {
        let mut all: Vec<_> = tests().collect();
        all.sort_unstable();
        let number = all.len();
        all.dedup();
        assert_eq!(all.len(), number);
    }
}
