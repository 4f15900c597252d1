//! The table of hooks: what they are.

use super::layout::KernelLayout;

/// A hook: a place in the kernel and what it shows.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Kernel tracepoint, function or iterator; the `probe` label.
    pub name: &'static str,
    /// Whether the daemon can be ready without it.
    pub required: bool,
    /// What rst sees through it.
    pub shows: &'static str,
    /// Where it is attached: what the kernel's BTF must have.
    pub when: &'static str,
    pub(super) kind: Kind,
    /// The program for this kernel; `None` where the kernel lacks the hook.
    pub(super) program: fn(&KernelLayout) -> Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A tracepoint, by its BTF (tp_btf).
    Tracepoint,
    /// The call of a function that tells more of what others count (fentry), or where that
    /// is refused a kprobe by another program.
    Entry {
        /// That program.
        kprobe: &'static str,
    },
    /// The return of a function (fexit), or where that is refused a kprobe of another
    /// function, which has the same name as its program.
    Return {
        /// That one.
        kprobe: &'static str,
    },
    /// The call of a function that resets are counted through, likewise. A kernel without
    /// a program for it needs none.
    Function {
        /// That program.
        kprobe: &'static str,
    },
    /// The call of a function of a module (kprobe), once the module is there.
    ModuleFunction {
        /// The module, or what would be one if it were not built in.
        module: &'static str,
    },
    /// An iterator that is run once, when all else is attached.
    Iterator,
}

/// Every hook, in the order in which they are attached.
///
/// `tcp_send_reset` and `tcp_receive_reset` exist since 4.16. Before 6.10 the
/// first does not fire for closed ports and TIME_WAIT.
pub const PROBES: &[Probe] = &[
    Probe {
        name: "inet_sock_set_state",
        required: true,
        shows: "whose a connection is, its age, role and last state, and listeners",
        when: "BTF has the tracepoint inet_sock_set_state",
        kind: Kind::Tracepoint,
        program: |_| Some("inet_sock_set_state"),
    },
    Probe {
        name: SEND_RESET,
        required: true,
        shows: "resets this host sends",
        when: "BTF has the tracepoint tcp_send_reset",
        kind: Kind::Tracepoint,
        program: |kernel| {
            Some(if kernel.send_reset_has_reason {
                "tcp_send_reset"
            } else if kernel.send_reset_shows_all {
                "tcp_send_reset_no_reason"
            } else {
                "tcp_send_reset_full_socket"
            })
        },
    },
    Probe {
        name: RECEIVE_RESET,
        required: true,
        shows: "resets this host receives",
        when: "BTF has the tracepoint tcp_receive_reset",
        kind: Kind::Tracepoint,
        program: |_| Some("tcp_receive_reset"),
    },
    Probe {
        name: SEND_RESET_FUNCTIONS[0],
        required: false,
        shows: "resets this host sends over IPv4 from closed ports and TIME_WAIT (before Linux 6.10; tcp_send_reset shows them later)",
        when: "the tracepoint tcp_send_reset leaves out what has no socket",
        kind: Kind::Function {
            kprobe: "tcp_v4_send_reset_kprobe",
        },
        program: |kernel| is_left_out(kernel).then_some("tcp_v4_send_reset"),
    },
    Probe {
        name: SEND_RESET_FUNCTIONS[1],
        required: false,
        shows: "resets this host sends over IPv6 from closed ports and TIME_WAIT (before Linux 6.10; tcp_send_reset shows them later)",
        when: "the tracepoint tcp_send_reset leaves out what has no socket",
        kind: Kind::Function {
            kprobe: "tcp_v6_send_reset_kprobe",
        },
        program: |kernel| is_left_out(kernel).then_some("tcp_v6_send_reset"),
    },
    Probe {
        name: "nf_send_reset",
        required: false,
        shows: "resets that netfilter's REJECT sends over IPv4",
        when: "the kernel has kprobes (CONFIG_KPROBE_EVENTS)",
        kind: Kind::ModuleFunction {
            module: "nf_reject_ipv4",
        },
        program: |_| Some("nf_send_reset"),
    },
    Probe {
        name: "nf_send_reset6",
        required: false,
        shows: "resets that netfilter's REJECT sends over IPv6",
        when: "the kernel has kprobes (CONFIG_KPROBE_EVENTS)",
        kind: Kind::ModuleFunction {
            module: "nf_reject_ipv6",
        },
        program: |_| Some("nf_send_reset6"),
    },
    Probe {
        name: "nf_reject_skb_v4_tcp_reset",
        required: false,
        shows: "resets that netfilter's reject sends over IPv4 on bridges and devices (since Linux 5.11)",
        when: "the kernel has kprobes (CONFIG_KPROBE_EVENTS)",
        kind: Kind::ModuleFunction {
            module: "nf_reject_ipv4",
        },
        program: |_| Some("nf_reject_skb_v4_tcp_reset"),
    },
    Probe {
        name: "nf_reject_skb_v6_tcp_reset",
        required: false,
        shows: "resets that netfilter's reject sends over IPv6 on bridges and devices (since Linux 5.11)",
        when: "the kernel has kprobes (CONFIG_KPROBE_EVENTS)",
        kind: Kind::ModuleFunction {
            module: "nf_reject_ipv6",
        },
        program: |_| Some("nf_reject_skb_v6_tcp_reset"),
    },
    Probe {
        name: "inet_sk_error_report",
        required: false,
        shows: "connections that die of silence (since Linux 5.14)",
        when: "BTF has the tracepoint inet_sk_error_report",
        kind: Kind::Tracepoint,
        program: |kernel| kernel.has_error_report.then_some("inet_sk_error_report"),
    },
    Probe {
        name: "kfree_skb",
        required: false,
        shows: "resets that arrive and change nothing (since Linux 5.17)",
        when: "BTF has the tracepoint kfree_skb with a reason",
        kind: Kind::Tracepoint,
        program: |kernel| match kernel.kfree_skb_args? {
            0..3 => None,
            3 => Some("kfree_skb_no_socket"),
            _ => Some("kfree_skb"),
        },
    },
    Probe {
        name: "inet_csk_accept",
        required: false,
        shows: "which process of a service accepts a connection; without it, the one that listens",
        when: "BTF has the function inet_csk_accept",
        kind: Kind::Return {
            kprobe: "security_sock_graft",
        },
        program: |kernel| match kernel.accept_args? {
            2 => Some("inet_csk_accept"),
            _ => Some("inet_csk_accept_4"),
        },
    },
    Probe {
        name: "tcp_reset",
        required: false,
        shows: "the header of the resets this host receives (since Linux 5.11)",
        when: "BTF has the function tcp_reset with its segment",
        kind: Kind::Entry {
            kprobe: "tcp_reset_kprobe",
        },
        program: |kernel| (kernel.reset_args? == 2).then_some("tcp_reset"),
    },
    Probe {
        name: "tcp_finish_connect",
        required: false,
        shows: "how far away a server is, to tell forged resets from its own (since Linux 5.11)",
        when: "BTF has the function tcp_reset with its segment",
        kind: Kind::Entry {
            kprobe: "tcp_finish_connect_kprobe",
        },
        program: |kernel| (kernel.reset_args? == 2).then_some("tcp_finish_connect"),
    },
    Probe {
        name: "tcp_child_process",
        required: false,
        shows: "how far away a client is, to tell forged resets from its own (since Linux 5.11)",
        when: "BTF has the function tcp_reset with its segment",
        kind: Kind::Entry {
            kprobe: "tcp_child_process_kprobe",
        },
        program: |kernel| (kernel.reset_args? == 2).then_some("tcp_child_process"),
    },
    Probe {
        name: SOCKETS_AT_START,
        required: false,
        shows: "whose the sockets were before rst started (since Linux 5.11)",
        when: "BTF has BPF_FUNC_sock_from_file",
        kind: Kind::Iterator,
        program: |kernel| kernel.has_sock_from_file.then_some("sockets_at_start"),
    },
];

/// The probe that sees the resets this host sends.
pub const SEND_RESET: &str = "tcp_send_reset";
/// The probe that sees those it receives.
pub const RECEIVE_RESET: &str = "tcp_receive_reset";
/// The functions that send resets without a connection: where `tcp_send_reset` does not
/// show these, the probes that do.
pub const SEND_RESET_FUNCTIONS: [&str; 2] = ["tcp_v4_send_reset", "tcp_v6_send_reset"];
/// The iterator over open files.
pub const SOCKETS_AT_START: &str = "task_file";

/// Whether `tcp_send_reset` leaves resets out that the functions show.
const fn is_left_out(kernel: &KernelLayout) -> bool {
    !kernel.send_reset_shows_all
}
