//! The prototypes that the programs were built for, against those of the running
//! kernel.
//!
//! A program takes its arguments by number and believes what they are. The kernel
//! checks some of that when it loads the program, and nothing of a number: an
//! argument that has moved would be counted as another. So each program is loaded
//! only where the kernel's own prototype is the one stated here.

use std::collections::BTreeMap;

use super::btf::{Btf, Signature};

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A tracepoint.
    Tracepoint(&'static str),
    /// A function: its entry, its return, or that of an iterator (`bpf_iter_NAME`).
    Function(&'static str),
}

/// What a program was built for.
#[derive(Clone, Copy, Debug)]
pub struct Prototype {
    /// The program in the eBPF object.
    pub program: &'static str,
    /// Where it is attached.
    pub place: Place,
    /// Its parameters, written as [`Signature`] writes them.
    pub parameters: &'static [&'static str],
    /// What the function returns, where the program looks at it.
    pub returns: Option<&'static str>,
}

const fn tracepoint(
    program: &'static str,
    name: &'static str,
    parameters: &'static [&'static str],
) -> Prototype {
    Prototype {
        program,
        place: Place::Tracepoint(name),
        parameters,
        returns: None,
    }
}

const fn entry(
    program: &'static str,
    name: &'static str,
    parameters: &'static [&'static str],
) -> Prototype {
    Prototype {
        program,
        place: Place::Function(name),
        parameters,
        returns: None,
    }
}

const fn function(
    program: &'static str,
    name: &'static str,
    parameters: &'static [&'static str],
    returns: &'static str,
) -> Prototype {
    Prototype {
        program,
        place: Place::Function(name),
        parameters,
        returns: Some(returns),
    }
}

const SOCK: &str = "struct sock *";
const SKB: &str = "struct sk_buff *";

/// Every program that the kernel's tracepoints and functions call.
///
/// Sources: include/trace/events/{tcp,sock,skb}.h, kernel/bpf/task_iter.c and, in net/ipv4,
/// inet_connection_sock.c, tcp_input.c, tcp_ipv4.c and tcp_minisocks.c, net/ipv6/tcp_ipv6.c,
/// security/security.c; 5.10 to 7.2.
pub const PROTOTYPES: &[Prototype] = &[
    tracepoint(
        "inet_sock_set_state",
        "inet_sock_set_state",
        &[SOCK, "s32", "s32"],
    ),
    tracepoint(
        "tcp_send_reset",
        "tcp_send_reset",
        &[SOCK, SKB, "enum sk_rst_reason"],
    ),
    tracepoint("tcp_send_reset_no_reason", "tcp_send_reset", &[SOCK, SKB]),
    tracepoint("tcp_send_reset_full_socket", "tcp_send_reset", &[SOCK, SKB]),
    tracepoint("tcp_receive_reset", "tcp_receive_reset", &[SOCK]),
    tracepoint("inet_sk_error_report", "inet_sk_error_report", &[SOCK]),
    tracepoint(
        "kfree_skb",
        "kfree_skb",
        &[SKB, "void *", "enum skb_drop_reason", SOCK],
    ),
    tracepoint(
        "kfree_skb_no_socket",
        "kfree_skb",
        &[SKB, "void *", "enum skb_drop_reason"],
    ),
    function(
        "inet_csk_accept",
        "inet_csk_accept",
        &[SOCK, "struct proto_accept_arg *"],
        SOCK,
    ),
    function(
        "inet_csk_accept_4",
        "inet_csk_accept",
        &[SOCK, "s32", "s32 *", "bool"],
        SOCK,
    ),
    entry(
        "security_sock_graft",
        "security_sock_graft",
        &[SOCK, "struct socket *"],
    ),
    entry("tcp_v4_send_reset", "tcp_v4_send_reset", &[SOCK, SKB]),
    entry("tcp_v6_send_reset", "tcp_v6_send_reset", &[SOCK, SKB]),
    entry("tcp_reset", "tcp_reset", &[SOCK, SKB]),
    entry("tcp_finish_connect", "tcp_finish_connect", &[SOCK, SKB]),
    entry("tcp_child_process", "tcp_child_process", &[SOCK, SOCK, SKB]),
    function(
        "sockets_at_start",
        "bpf_iter_task_file",
        &[
            "struct bpf_iter_meta *",
            "struct task_struct *",
            "u32",
            "struct file *",
        ],
        "s32",
    ),
];

/// Names to hand to [`Btf::parse`].
pub fn wanted() -> impl Iterator<Item = String> {
    PROTOTYPES.iter().map(|prototype| match prototype.place {
        Place::Tracepoint(name) => format!("btf_trace_{name}"),
        Place::Function(name) => name.to_owned(),
    })
}

/// The programs that do not fit this kernel, each with what differs.
#[must_use]
pub fn misfits(btf: &Btf<'_>) -> BTreeMap<&'static str, String> {
    PROTOTYPES
        .iter()
        .filter_map(|expected| Some((expected.program, expected.difference(btf)?)))
        .collect()
}

impl Prototype {
    /// What differs between the kernel's prototype and this one; `None` where it is the
    /// same.
    #[must_use]
    pub fn difference(&self, btf: &Btf<'_>) -> Option<String> {
        let (what, name, found) = match self.place {
            Place::Tracepoint(name) => ("tracepoint", name, btf.tracepoint(name)),
            Place::Function(name) => ("function", name, btf.function(name)),
        };
        match found {
            Some(found) => self
                .compare(&found)
                .map(|difference| format!("{what} {name}: {difference}")),
            None => Some(format!("the kernel's BTF has no {what} {name}")),
        }
    }

    fn compare(&self, found: &Signature) -> Option<String> {
        if found.parameters.len() != self.parameters.len() {
            return Some(format!(
                "{} arguments ({}) instead of {} ({})",
                found.parameters.len(),
                found.parameters.join(", "),
                self.parameters.len(),
                self.parameters.join(", ")
            ));
        }
        let pairs = found.parameters.iter().zip(self.parameters);
        for (number, (found, expected)) in (1..).zip(pairs) {
            if found != expected {
                return Some(format!(
                    "argument {number} is `{found}` instead of `{expected}`"
                ));
            }
        }
        let expected = self.returns?;
        (found.returns != expected)
            .then(|| format!("it returns `{}` instead of `{expected}`", found.returns))
    }
}

#[cfg(test)]
mod tests;
