//! The prototypes of kernels in production, written down from their public sources,
//! as BTF: which programs each takes.

use super::super::btf::tests::Builder;
use super::super::btf::{Btf, kind};
use super::*;

/// A kernel's prototypes.
struct Kernel {
    name: &'static str,
    /// The programs that must fit, of [`OPTIONAL`].
    fits: &'static [&'static str],
    /// Tracepoints and functions: name and prototype as the source has it.
    tracepoints: &'static [(&'static str, &'static str)],
    functions: &'static [(&'static str, &'static str)],
}

/// The programs that are not for every kernel.
const OPTIONAL: &[&str] = &[
    "tcp_v4_send_reset",
    "tcp_v6_send_reset",
    "tcp_send_reset_full_socket",
    "tcp_reset",
    "tcp_send_reset",
    "tcp_send_reset_no_reason",
    "inet_sk_error_report",
    "kfree_skb",
    "kfree_skb_no_socket",
    "inet_csk_accept",
    "inet_csk_accept_4",
];

const SET_STATE: (&str, &str) = (
    "inet_sock_set_state",
    "void (const struct sock *, const int, const int)",
);
const RECEIVE: (&str, &str) = ("tcp_receive_reset", "void (struct sock *)");
const ERROR_REPORT: (&str, &str) = ("inet_sk_error_report", "void (const struct sock *)");
const SEND: (&str, &str) = (
    "tcp_send_reset",
    "void (const struct sock *, const struct sk_buff *)",
);
const SEND_WITH_REASON: (&str, &str) = (
    "tcp_send_reset",
    "void (const struct sock *, const struct sk_buff *, const enum sk_rst_reason)",
);
const FREE: (&str, &str) = ("kfree_skb", "void (struct sk_buff *, void *)");
const FREE_WITH_REASON: (&str, &str) = (
    "kfree_skb",
    "void (struct sk_buff *, void *, enum skb_drop_reason)",
);
const FREE_WITH_SOCKET: (&str, &str) = (
    "kfree_skb",
    "void (struct sk_buff *, void *, enum skb_drop_reason, struct sock *)",
);
const ACCEPT_4: (&str, &str) = (
    "inet_csk_accept",
    "struct sock * (struct sock *, int, int *, bool)",
);
const ACCEPT: (&str, &str) = (
    "inet_csk_accept",
    "struct sock * (struct sock *, struct proto_accept_arg *)",
);
const RESET: (&str, &str) = ("tcp_reset", "void (struct sock *, struct sk_buff *)");
const RESET_BARE: (&str, &str) = ("tcp_reset", "void (struct sock *)");
const CONNECTED: (&str, &str) = (
    "tcp_finish_connect",
    "void (struct sock *, struct sk_buff *)",
);
/// It returns an `int` before 6.9.
const CHILD: (&str, &str) = (
    "tcp_child_process",
    "int (struct sock *, struct sock *, struct sk_buff *)",
);
const CHILD_WITH_REASON: (&str, &str) = (
    "tcp_child_process",
    "enum skb_drop_reason (struct sock *, struct sock *, struct sk_buff *)",
);
const SEND_V4: (&str, &str) = (
    "tcp_v4_send_reset",
    "void (struct sock *, struct sk_buff *)",
);
const SEND_V6: (&str, &str) = (
    "tcp_v6_send_reset",
    "void (struct sock *, struct sk_buff *)",
);
const SEND_V4_WITH_REASON: (&str, &str) = (
    "tcp_v4_send_reset",
    "void (struct sock *, struct sk_buff *, enum sk_rst_reason)",
);
const SEND_V6_WITH_REASON: (&str, &str) = (
    "tcp_v6_send_reset",
    "void (struct sock *, struct sk_buff *, enum sk_rst_reason)",
);
const GRAFT: (&str, &str) = (
    "security_sock_graft",
    "void (struct sock *, struct socket *)",
);
const ITERATE: (&str, &str) = (
    "bpf_iter_task_file",
    "int (struct bpf_iter_meta *, struct task_struct *, u32, struct file *)",
);

/// From the headers at the tags of Linus' tree (include/trace/events/{tcp,sock,skb}.h,
/// net/ipv4/{inet_connection_sock.c,tcp_ipv4.c}, net/ipv6/tcp_ipv6.c, security/security.c)
/// where nothing else is said.
const KERNELS: &[Kernel] = &[
    Kernel {
        name: "5.10",
        fits: &[
            "tcp_send_reset_no_reason",
            "tcp_send_reset_full_socket",
            "tcp_v4_send_reset",
            "tcp_v6_send_reset",
            "inet_csk_accept_4",
        ],
        tracepoints: &[SET_STATE, SEND, RECEIVE, FREE],
        functions: &[
            SEND_V4, SEND_V6, ACCEPT_4, RESET_BARE, CONNECTED, CHILD, GRAFT, ITERATE,
        ],
    },
    // RHEL 9 as of 5.14.0-70 (9.0): `kfree_skb` has its reason (lttng-modules,
    // instrumentation/events/skb.h: LTTNG_RHEL_KERNEL_RANGE(5,14,0,70,..)).
    Kernel {
        name: "5.14.0-70.el9",
        fits: &[
            "tcp_reset",
            "tcp_send_reset_no_reason",
            "tcp_send_reset_full_socket",
            "tcp_v4_send_reset",
            "tcp_v6_send_reset",
            "inet_sk_error_report",
            "kfree_skb_no_socket",
            "inet_csk_accept_4",
        ],
        tracepoints: &[SET_STATE, SEND, RECEIVE, ERROR_REPORT, FREE_WITH_REASON],
        functions: &[
            SEND_V4, SEND_V6, ACCEPT_4, RESET, CONNECTED, CHILD, GRAFT, ITERATE,
        ],
    },
    // RHEL 9 as of 5.14.0-503.21.1 (9.5): `kfree_skb` has the socket too (likewise).
    Kernel {
        name: "5.14.0-503.21.1.el9",
        fits: &[
            "tcp_reset",
            "tcp_send_reset_no_reason",
            "tcp_send_reset_full_socket",
            "tcp_v4_send_reset",
            "tcp_v6_send_reset",
            "inet_sk_error_report",
            "kfree_skb",
            "inet_csk_accept_4",
        ],
        tracepoints: &[SET_STATE, SEND, RECEIVE, ERROR_REPORT, FREE_WITH_SOCKET],
        functions: &[
            SEND_V4, SEND_V6, ACCEPT_4, RESET, CONNECTED, CHILD, GRAFT, ITERATE,
        ],
    },
    // Ubuntu 22.04: 5.15 with stable updates, which gave `kfree_skb` its reason in
    // 5.15.58 (lttng-modules, LTTNG_KERNEL_RANGE(5,15,58, 5,16,0)); `inet_csk_accept`
    // as DepSurf found it in Ubuntu's debug information.
    Kernel {
        name: "5.15 Ubuntu",
        fits: &[
            "tcp_reset",
            "tcp_send_reset_no_reason",
            "tcp_send_reset_full_socket",
            "tcp_v4_send_reset",
            "tcp_v6_send_reset",
            "inet_sk_error_report",
            "kfree_skb_no_socket",
            "inet_csk_accept_4",
        ],
        tracepoints: &[SET_STATE, SEND, RECEIVE, ERROR_REPORT, FREE_WITH_REASON],
        functions: &[
            SEND_V4, SEND_V6, ACCEPT_4, RESET, CONNECTED, CHILD, GRAFT, ITERATE,
        ],
    },
    Kernel {
        name: "6.1",
        fits: &[
            "tcp_reset",
            "tcp_send_reset_no_reason",
            "tcp_send_reset_full_socket",
            "tcp_v4_send_reset",
            "tcp_v6_send_reset",
            "inet_sk_error_report",
            "kfree_skb_no_socket",
            "inet_csk_accept_4",
        ],
        tracepoints: &[SET_STATE, SEND, RECEIVE, ERROR_REPORT, FREE_WITH_REASON],
        functions: &[
            SEND_V4, SEND_V6, ACCEPT_4, RESET, CONNECTED, CHILD, GRAFT, ITERATE,
        ],
    },
    // Ubuntu 24.04; `inet_csk_accept` as DepSurf found it there.
    Kernel {
        name: "6.8 Ubuntu",
        fits: &[
            "tcp_reset",
            "tcp_send_reset_no_reason",
            "tcp_send_reset_full_socket",
            "tcp_v4_send_reset",
            "tcp_v6_send_reset",
            "inet_sk_error_report",
            "kfree_skb_no_socket",
            "inet_csk_accept_4",
        ],
        tracepoints: &[SET_STATE, SEND, RECEIVE, ERROR_REPORT, FREE_WITH_REASON],
        functions: &[
            SEND_V4, SEND_V6, ACCEPT_4, RESET, CONNECTED, CHILD, GRAFT, ITERATE,
        ],
    },
    // 6.10: `tcp_send_reset` and `inet_csk_accept` change, `kfree_skb` a release later.
    Kernel {
        name: "6.10",
        fits: &[
            "tcp_reset",
            "tcp_send_reset",
            "inet_sk_error_report",
            "kfree_skb_no_socket",
            "inet_csk_accept",
        ],
        tracepoints: &[
            SET_STATE,
            SEND_WITH_REASON,
            RECEIVE,
            ERROR_REPORT,
            FREE_WITH_REASON,
        ],
        functions: &[
            SEND_V4_WITH_REASON,
            SEND_V6_WITH_REASON,
            ACCEPT,
            RESET,
            CONNECTED,
            CHILD_WITH_REASON,
            GRAFT,
            ITERATE,
        ],
    },
    Kernel {
        name: "6.12, 6.18, 7.2",
        fits: &[
            "tcp_reset",
            "tcp_send_reset",
            "inet_sk_error_report",
            "kfree_skb",
            "inet_csk_accept",
        ],
        tracepoints: &[
            SET_STATE,
            SEND_WITH_REASON,
            RECEIVE,
            ERROR_REPORT,
            FREE_WITH_SOCKET,
        ],
        functions: &[
            SEND_V4_WITH_REASON,
            SEND_V6_WITH_REASON,
            ACCEPT,
            RESET,
            CONNECTED,
            CHILD_WITH_REASON,
            GRAFT,
            ITERATE,
        ],
    },
];

/// BTF made from declarations.
struct Declared {
    builder: Builder,
    /// What has an id already.
    known: Vec<(String, u32)>,
    next: u32,
}

impl Declared {
    fn new() -> Self {
        Self {
            builder: Builder::new(),
            known: Vec::new(),
            next: 1,
        }
    }

    fn add(&mut self, name: &str, build: impl FnOnce(Builder) -> Builder) -> u32 {
        self.builder = build(std::mem::take(&mut self.builder));
        self.known.push((name.to_owned(), self.next));
        self.next += 1;
        self.next - 1
    }

    /// The id of a type as C writes it.
    fn id(&mut self, c: &str) -> u32 {
        let c = c.trim();
        if let Some((_, id)) = self.known.iter().find(|(name, _)| name == c) {
            return *id;
        }
        if c == "void" {
            return 0;
        }
        let build: Box<dyn FnOnce(Builder) -> Builder> = if let Some(rest) = c.strip_suffix('*') {
            let to = self.id(rest);
            Box::new(move |builder| builder.reference("", kind::PTR, to))
        } else if let Some(rest) = c.strip_prefix("const ") {
            let to = self.id(rest);
            Box::new(move |builder| builder.reference("", kind::CONST, to))
        } else if let Some(name) = c.strip_prefix("struct ") {
            Box::new(move |builder| builder.composite(name, kind::STRUCT, 8, false, &[]))
        } else if let Some(name) = c.strip_prefix("enum ") {
            Box::new(move |builder| builder.enumeration(name, &[("FIRST", 0)]))
        } else {
            match c {
                "int" => Box::new(|builder| builder.encoded_int("int", 4, 1)),
                "bool" => Box::new(|builder| builder.encoded_int("_Bool", 1, 4)),
                "unsigned int" => Box::new(|builder| builder.int("unsigned int", 4)),
                "u32" => {
                    let to = self.id("unsigned int");
                    Box::new(move |builder| builder.reference("u32", kind::TYPEDEF, to))
                }
                other => panic!("no BTF is made for `{other}`"),
            }
        };
        self.add(c, build)
    }

    fn prototype(&mut self, declared: &str, first: Option<&str>) -> u32 {
        let (returns, rest) = declared.split_once('(').unwrap();
        let returns = self.id(returns);
        let parameters: Vec<u32> = first
            .into_iter()
            .chain(rest.trim_end_matches(')').split(','))
            .map(|c| self.id(c))
            .collect();
        self.add("", |builder| builder.prototype(returns, &parameters))
    }

    fn tracepoint(&mut self, name: &str, declared: &str) {
        let prototype = self.prototype(declared, Some("void *"));
        let pointer = self.add("", |builder| builder.reference("", kind::PTR, prototype));
        let name = format!("btf_trace_{name}");
        self.add("", |builder| {
            builder.reference(&name, kind::TYPEDEF, pointer)
        });
    }

    fn function(&mut self, name: &str, declared: &str) {
        let prototype = self.prototype(declared, None);
        self.add("", |builder| builder.reference(name, kind::FUNC, prototype));
    }
}

fn btf_of(tracepoints: &[(&str, &str)], functions: &[(&str, &str)]) -> Vec<u8> {
    let mut declared = Declared::new();
    for (name, prototype) in tracepoints {
        declared.tracepoint(name, prototype);
    }
    for (name, prototype) in functions {
        declared.function(name, prototype);
    }
    declared.builder.build()
}

fn misfits_of(
    tracepoints: &[(&str, &str)],
    functions: &[(&str, &str)],
) -> BTreeMap<&'static str, String> {
    let blob = btf_of(tracepoints, functions);
    let names: Vec<String> = wanted().collect();
    misfits(&Btf::parse(&blob, &names).unwrap())
}

#[test]
fn each_kernel_takes_its_programs_and_no_others() {
    for kernel in KERNELS {
        let misfits = misfits_of(kernel.tracepoints, kernel.functions);
        for prototype in PROTOTYPES {
            let program = prototype.program;
            let expected = !OPTIONAL.contains(&program) || kernel.fits.contains(&program);
            assert_eq!(
                !misfits.contains_key(program),
                expected,
                "{program} on {}: {:?}",
                kernel.name,
                misfits.get(program)
            );
        }
    }
}

#[test]
fn what_differs_is_named() {
    let changed = |tracepoints: &[(&str, &str)], functions: &[(&str, &str)], program: &str| {
        misfits_of(tracepoints, functions)
            .remove(program)
            .unwrap_or_else(|| panic!("{program} fits"))
    };
    for (declared, expected) in [
        (
            "void (const struct sock *, const struct sk_buff *, void *)",
            "tracepoint tcp_send_reset: argument 3 is `void *` instead of `enum sk_rst_reason`",
        ),
        (
            "void (const struct sk_buff *, const struct sock *, enum sk_rst_reason)",
            "tracepoint tcp_send_reset: argument 1 is `struct sk_buff *` instead of `struct sock *`",
        ),
        (
            "void (const struct sock *, enum sk_rst_reason)",
            "tracepoint tcp_send_reset: 2 arguments (struct sock *, enum sk_rst_reason) instead of \
             3 (struct sock *, struct sk_buff *, enum sk_rst_reason)",
        ),
    ] {
        let difference = changed(&[("tcp_send_reset", declared)], &[], "tcp_send_reset");
        assert_eq!(difference, expected);
    }
    let accept = (
        "inet_csk_accept",
        "int (struct sock *, struct proto_accept_arg *)",
    );
    assert_eq!(
        changed(&[], &[accept], "inet_csk_accept"),
        "function inet_csk_accept: it returns `s32` instead of `struct sock *`"
    );
    assert_eq!(
        changed(&[], &[], "tcp_receive_reset"),
        "the kernel's BTF has no tracepoint tcp_receive_reset"
    );
}
