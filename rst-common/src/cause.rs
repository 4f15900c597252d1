//! The closed sets of labels: causes, impacts, roles, directions, origins.
//!
//! One entry of [`causes!`] is all there is to a cause: its label and its
//! meaning stand side by side.

/// Defines a closed set that travels as a byte and is printed as a label.
macro_rules! labels {
    ($(#[$meta:meta])* $name:ident { $( $(#[$doc:meta])* $variant:ident = $label:literal, )* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $( $(#[$doc])* $variant, )* }

        impl $name {
            /// Every member, in the order of its byte.
            pub const ALL: &[Self] = &[ $( Self::$variant, )* ];

            /// The stable label used in JSON, metrics and text.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $( Self::$variant => $label, )* }
            }

            /// The member a byte of the wire stands for.
            #[must_use]
            pub fn from_byte(byte: u8) -> Option<Self> {
                Self::ALL.get(usize::from(byte)).copied()
            }

            /// The member with this label.
            #[must_use]
            pub fn from_label(label: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|member| member.label() == label)
            }
        }
    };
}

labels! {
    /// Which side sent the reset.
    Direction {
        /// This host sent it.
        Sent = "sent",
        /// It arrived here and ended a connection.
        Received = "received",
    }
}

labels! {
    /// Who lost what. Alerts are built on this, so `benign`, `connect_failed`
    /// and `connection_broken` are only given where the facts prove them.
    Impact {
        /// The transport layer can't know.
        Uncertain = "uncertain",
        /// Nobody lost anything.
        Benign = "benign",
        /// A connection could not be made.
        ConnectFailed = "connect_failed",
        /// An established connection was lost with something undelivered.
        ConnectionBroken = "connection_broken",
    }
}

labels! {
    /// What this host was in the connection.
    Role {
        /// Can't be told.
        Unknown = "unknown",
        /// This host made the connection.
        Client = "client",
        /// This host accepted the connection.
        Server = "server",
    }
}

labels! {
    /// What the kernel held for the connection when the reset happened.
    Origin {
        /// A full socket or a listener.
        Socket = "socket",
        /// A TIME_WAIT mini-socket.
        TimeWait = "timewait",
        /// A connection request.
        Request = "request",
        /// Nothing: the segment met no socket.
        None = "none",
    }
}

labels! {
    /// Who sent data last.
    Turn {
        /// Unknown.
        Unknown = "unknown",
        /// This host.
        Us = "us",
        /// The peer.
        Peer = "peer",
    }
}

macro_rules! causes {
    ($( $(#[$doc:meta])* $variant:ident = $label:literal: $meaning:literal, )*) => {
        labels! {
            /// Why a connection was reset.
            Cause { $( $(#[$doc])* $variant = $label, )* }
        }

        impl Cause {
            /// What the cause means, in one sentence for its reader.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $( Self::$variant => $meaning, )* }
            }
        }
    };
}

causes! {
    /// No rule fits.
    Unknown = "unknown":
        "no rule fits; the facts are in the event",
    /// A connection attempt met a closed port.
    Refused = "refused":
        "a connection attempt met a port that nobody listens on",
    /// The accept queue was full.
    ListenOverflow = "listen_overflow":
        "the accept queue was full and tcp_abort_on_overflow is on",
    /// A control segment that belongs to nothing here.
    Stray = "stray":
        "a SYN-ACK, bare ACK or FIN arrived for no connection of this host",
    /// The peer sent data to a connection we had closed.
    LateData = "late_data":
        "the peer sent data on a connection that this host had already closed",
    /// Closed with bytes unread.
    UnreadData = "unread_data":
        "the application closed the connection without reading everything it had received",
    /// The process that held the socket exited.
    ProcessExit = "process_exit":
        "the process exited or was killed while the connection had unread data",
    /// The application asked for a reset.
    AppAbort = "app_abort":
        "the application chose to abort: SO_LINGER with zero time",
    /// An administrator destroyed the socket.
    AdminKill = "admin_kill":
        "the socket was destroyed from outside, as `ss -K` does",
    /// Keep-alive probes ran out.
    KeepaliveTimeout = "keepalive_timeout":
        "keep-alive probes got no answer: the peer has vanished",
    /// The kernel was short of TCP memory.
    MemoryPressure = "memory_pressure":
        "the kernel dropped the connection at its orphan or TCP memory limits",
    /// A segment that breaks the protocol.
    ProtocolError = "protocol_error":
        "a segment of the handshake was invalid",
    /// The peer had closed before we sent.
    PeerClosed = "peer_closed":
        "the peer had closed the connection and this host still sent on it",
    /// The reset met a socket we had already closed.
    AfterClose = "after_close":
        "the reset arrived after this host had closed the connection itself",
    /// Used again after the other side had forgotten it.
    StaleReuse = "stale_reuse":
        "this host used a connection that had been silent, and the peer, a balancer or a firewall had forgotten it",
    /// Our keep-alive probe was answered by the reset.
    StaleProbe = "stale_probe":
        "this host's keep-alive probe found that the connection was gone on the other side",
    /// An idle connection was ended by somebody's timer.
    IdleTimeout = "idle_timeout":
        "an idle connection was reset with nothing outstanding: somebody's idle timer fired",
    /// Our request was never answered.
    NoResponse = "no_response":
        "the peer took this host's request, stayed silent, and then reset: a slow upstream or a proxy's time-out",
    /// The peer stopped waiting for our answer.
    PeerGaveUp = "peer_gave_up":
        "the peer had asked, this host had not answered yet, and the peer gave up",
    /// Reset while in use.
    PeerAbort = "peer_abort":
        "the peer reset a connection in active use",
    /// Reset before any data moved.
    NoData = "no_data":
        "the connection was reset before any data moved",
}
