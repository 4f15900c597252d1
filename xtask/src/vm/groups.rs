//! Which live tests run on every kernel: each cause in both directions, the facts, the owners
//! and exact counts, where no server package is needed. All would take an hour a kernel.

/// Live tests that are one column of the matrix.
pub(crate) struct Group {
    /// The column's head.
    pub(crate) name: &'static str,
    /// The least that tells whether a kernel is served, as `cargo test --test live --
    /// --list` has the tests.
    core: &'static [&'static str],
    /// The others.
    more: &'static [&'static str],
}

/// Which of them run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// A test of each group: what `cargo xtask test` has time for.
    Core,
    /// All.
    All,
}

impl Group {
    /// Its tests.
    pub(crate) fn tests(&self, choice: Choice) -> impl Iterator<Item = &'static str> {
        let more = match choice {
            Choice::Core => &[],
            Choice::All => self.more,
        };
        self.core.iter().chain(more).copied()
    }
}

/// The columns. To have a test run on every kernel, name it here; it must need no program but
/// `ip`, `nft`, `nsenter` and `ss` (see [`super::initramfs`]), and state what it expects of a
/// kernel that shows less by `rst-daemon/tests/live/kernel.rs`.
pub(crate) const GROUPS: &[Group] = &[
    Group {
        name: "connect",
        core: &["connecting::closed_port"],
        more: &[
            "connecting::accept_queue_overflow",
            "idle::listener_closes_with_a_connection_waiting",
        ],
    },
    Group {
        name: "close",
        core: &["closing::server_closes_with_unread_data"],
        more: &[
            "aborts::mptcp_is_aborted",
            "aborts::server_disconnects_after_its_answer",
            "closing::client_aborts_after_the_answer",
            "closing::mapped_addresses_are_ipv4",
            "owners::accepting::worker_is_killed_with_unread_data",
        ],
    },
    Group {
        name: "late",
        core: &["closed::client_sends_after_the_server_has_closed"],
        more: &[
            "closed::data_after_shutdown_is_no_received_reset",
            "closed::reset_meets_fin_wait2_shut_for_receiving",
        ],
    },
    Group {
        name: "lost",
        core: &["dead::segment_of_a_dead_connection_meets_no_socket"],
        more: &[
            "dead::fin_of_a_dead_connection_is_stray",
            "dead::keepalive_gives_up",
            "dead::killed_by_ss",
            "dead::segment_of_a_dead_connection_meets_a_listener",
            "vanished::silence_is_counted",
        ],
    },
    Group {
        name: "idle",
        core: &["idle::idle_connection_is_reset"],
        more: &[
            "idle::client_gives_up",
            "idle::forgotten_connection_is_used_again",
            "idle::probe_finds_the_connection_gone",
            "idle::request_is_never_answered",
        ],
    },
    Group {
        name: "crafted",
        core: &["crafted::resets_are_ignored"],
        more: &[
            "crafted::bad_ack_in_syn_recv",
            "crafted::bad_ack_in_syn_sent",
            "crafted::bad_ack_of_a_request",
        ],
    },
    Group {
        name: "forged",
        core: &["forged::resets_through_a_router"],
        more: &["forged::reset_of_a_client", "forged::reset_of_a_server"],
    },
    Group {
        name: "reject",
        core: &["functions::firewall_rejects_connections"],
        more: &[
            "functions::firewall_breaks_a_connection",
            "functions::rejects_are_exact_and_apart",
            "functions::resets_without_a_connection_are_seen_or_missed_aloud",
        ],
    },
    Group {
        name: "owners",
        core: &["owners::accepting::worker_that_accepts_is_told"],
        more: &[
            "owners::start::connection_of_before_the_start",
            "stories::restart_links_the_resets_in_between",
        ],
    },
    Group {
        name: "counts",
        core: &["load::counts_are_exact_in_a_storm"],
        more: &["ledger::steps_of_the_clock_lose_nothing"],
    },
];

/// Those of all groups.
pub(crate) fn tests(choice: Choice) -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(move |group| group.tests(choice))
}

/// Those that a test binary does not have, by what it lists.
pub(crate) fn unknown(listed: &str) -> Vec<&'static str> {
    tests(Choice::All)
        .filter(|test| {
            !listed
                .lines()
                .any(|line| line.strip_suffix(": test") == Some(test))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Choice, tests, unknown};

    #[test]
    fn a_test_that_was_renamed_is_noticed() {
        let listed: Vec<_> = tests(Choice::All)
            .skip(1)
            .map(|test| format!("{test}: test"))
            .collect();
        assert_eq!(
            unknown(&listed.join("\n")),
            [tests(Choice::All).next().unwrap()]
        );
    }

    #[test]
    fn no_test_is_in_two_columns() {
        let mut all: Vec<_> = tests(Choice::All).collect();
        all.sort_unstable();
        let number = all.len();
        all.dedup();
        assert_eq!(all.len(), number);
    }
}
