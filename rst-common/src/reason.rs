//! The kernel's own reset reasons that the classifier acts on.
//!
//! `enum sk_rst_reason` (`include/net/rstreason.h`) has been renumbered between
//! releases (6.12 inserted 11-16 and moved the MPTCP ones), so nothing here
//! relies on a number: the daemon reads the names from the running kernel's BTF
//! and gives the programs a table from number to [`Reason`].

/// Size of the table from kernel number to [`Reason`]; a power of two, so that
/// the programs can bound the index with a mask. 7.3 uses 26 numbers.
pub const MAX_REASONS: usize = 64;

/// Raw reason of an event for which the kernel gave none: received resets, and
/// every reset before 6.10.
pub const RAW_NONE: u8 = u8::MAX;

macro_rules! reasons {
    ($( $(#[$doc:meta])* $variant:ident = $kernel:literal, )*) => {
        /// A reset reason, independent of the kernel's numbering.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Reason {
            /// The kernel gave none, or one that no rule acts on.
            Unspecified,
            $( $(#[$doc])* $variant, )*
        }

        impl Reason {
            /// Every reason with its name in `enum sk_rst_reason`, without the
            /// `SK_RST_REASON_` prefix.
            pub const NAMES: &[(&'static str, Self)] = &[ $( ($kernel, Self::$variant), )* ];

            /// The reason a byte of the table stands for; a byte that is none
            /// of them reads as [`Reason::Unspecified`].
            #[must_use]
            #[inline(always)]
            pub const fn from_byte(byte: u8) -> Self {
                $( if byte == Self::$variant as u8 { return Self::$variant; } )*
                Self::Unspecified
            }
        }
    };
}

reasons! {
    /// Closed by the application with bytes unread.
    AbortOnClose = "TCP_ABORT_ON_CLOSE",
    /// Data arrived after the receiving half was shut down.
    AbortOnData = "TCP_ABORT_ON_DATA",
    /// `TCP_LINGER2` below zero.
    AbortOnLinger = "TCP_ABORT_ON_LINGER",
    /// Orphan or memory limits.
    AbortOnMemory = "TCP_ABORT_ON_MEMORY",
    /// Keep-alive probes ran out.
    KeepaliveTimeout = "TCP_KEEPALIVE_TIMEOUT",
    /// `tcp_disconnect` or `tcp_abort` in a state that needs a reset.
    State = "TCP_STATE",
    /// `tcp_disconnect` in CLOSING or LAST_ACK with data unsent.
    DisconnectWithData = "TCP_DISCONNECT_WITH_DATA",
    /// A segment that a listener can't take.
    Flags = "TCP_FLAGS",
    /// A bad SYN, or an accept queue overflow with `tcp_abort_on_overflow`.
    InvalidSyn = "INVALID_SYN",
}
