//! The closed sets of labels: causes, impacts, roles, directions, origins, and
//! how an owner was found.
//!
//! One entry of [`causes!`] is all there is to a cause: its label, its meaning,
//! the impact rule, what it rests on, how to confirm it by hand and how to mend
//! it stand side by side. The programs use the byte alone; the texts stay out
//! of the kernel.

use crate::verifier::{holds, set};

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
        /// Not asked: a rule of netfilter answered the segment.
        Netfilter = "netfilter",
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

labels! {
    /// How the owner of a socket was found.
    OwnerSource {
        /// It was not.
        Unknown = "unknown",
        /// It was running when the reset was sent, and is certainly the one that
        /// closed the socket.
        Current = "current",
        /// It made the connection.
        Connect = "connect",
        /// It accepted the connection.
        Accept = "accept",
        /// It listens where the connection was accepted.
        Listener = "listener",
        /// It held the socket when the daemon started.
        Iterator = "iterator",
    }
}

labels! {
    /// Why a reset that arrived changed nothing.
    Ignored {
        /// No connection of these addresses and ports.
        NoSocket = "no_socket",
        /// A connection that was being made: its request is given up, and the
        /// listener stays.
        Embryonic = "embryonic",
        /// A connection that had ended.
        TimeWait = "time_wait",
        /// Its sequence number is none that the peer could have used now.
        OutOfWindow = "out_of_window",
        /// Its sequence number is near, but not the next one: the peer is asked
        /// (RFC 5961).
        ChallengeAck = "challenge_ack",
        /// Its checksum is wrong.
        BadChecksum = "bad_checksum",
        /// The kernel does not say.
        Other = "other",
    }
}

macro_rules! causes {
    ($( $(#[$doc:meta])* $variant:ident = $label:literal { $($field:ident: $value:expr,)* } )*) => {
        labels! {
            /// Why a connection was reset.
            Cause { $( $(#[$doc])* $variant = $label, )* }
        }

        impl Cause {
            /// What there is to say about the cause.
            #[must_use]
            pub const fn text(self) -> Text {
                match self { $( Self::$variant => Text { $($field: $value,)* }, )* }
            }
        }
    };
}

impl Cause {
    /// Whether a silence before the reset belongs to it that may be a timer:
    /// the causes of `rst_idle_seconds`.
    #[must_use]
    pub const fn has_gap(self) -> bool {
        has_gap(self as u8)
    }
}

/// [`Cause::has_gap`] of a cause as a byte, as the programs hold it.
#[must_use]
#[inline(always)]
pub const fn has_gap(cause: u8) -> bool {
    const CAUSES: u64 = set(&[
        Cause::StaleReuse as u8,
        Cause::StaleProbe as u8,
        Cause::IdleTimeout as u8,
        Cause::NoResponse as u8,
    ]);
    holds(CAUSES, cause as u32)
}

/// Whether a connection ends with a cause (as a byte), so that what still comes
/// of it is no news. The others are of handshakes, or of no connection.
#[must_use]
#[inline(always)]
pub const fn ends_connection(cause: u8) -> bool {
    const OTHERS: u64 = set(&[
        Cause::Refused as u8,
        Cause::Stray as u8,
        Cause::AfterReset as u8,
        Cause::ProtocolError as u8,
        Cause::ListenOverflow as u8,
        Cause::FirewallReject as u8,
    ]);
    !holds(OTHERS, cause as u32)
}

/// What there is to say about a cause, for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// What it means, in one sentence.
    pub meaning: &'static str,
    /// How bad it is, and when.
    pub impact: &'static str,
    /// The evidence it rests on.
    pub evidence: &'static str,
    /// How to confirm it by hand.
    pub confirm: &'static str,
    /// How to mend it.
    pub fix: &'static str,
    /// Where to read on: RFCs, manual pages, addresses.
    pub links: &'static [&'static str],
}

causes! {
    /// No rule fits.
    Unknown = "unknown" {
        meaning: "no rule fits; the facts are in the event",
        impact: "uncertain",
        evidence: "nothing that a rule could decide from",
        confirm: "tcpdump -ni any 'tcp[tcpflags] & tcp-rst != 0' shows the reset and what came before it",
        fix: "look at the state and the numbers of the event; if the pattern is common, report it",
        links: &[],
    }
    /// A connection attempt met a closed port.
    Refused = "refused" {
        meaning: "a connection attempt met a port that nobody listens on",
        impact: "connect_failed where our attempt failed, and where somebody listens or has listened; benign on a port that never had a listener (a scan); uncertain where that is not known",
        evidence: "received: our socket was in SYN_SENT; sent: a SYN arrived and there was no socket, with what is known of listeners on that port and address",
        confirm: "ss -ltn 'sport = :PORT' on the server shows whether anybody listens; nc -vz HOST PORT tries it",
        fix: "start the service or correct the port; during a restart, take the server out of the balancer first",
        links: &["RFC 9293 section 3.10.7.1"],
    }
    /// The accept queue was full.
    ListenOverflow = "listen_overflow" {
        meaning: "the accept queue was full and tcp_abort_on_overflow is on",
        impact: "connect_failed",
        evidence: "the last ACK of a handshake met a listener, with the kernel's reason INVALID_SYN",
        confirm: "ss -ltn: Recv-Q at Send-Q; nstat -az TcpExtListenOverflows",
        fix: "accept faster or raise the backlog (listen(2), net.core.somaxconn); set net.ipv4.tcp_abort_on_overflow=0 so that clients retry",
        links: &["https://docs.kernel.org/networking/ip-sysctl.html"],
    }
    /// Data for a connection that this host does not know.
    HalfOpen = "half_open" {
        meaning: "the peer sent data on a connection that this host does not know (any more)",
        impact: "connection_broken on a port that has or had a listener; benign for a TLS close_notify; uncertain for a single byte, a small TLS record, or any other port",
        evidence: "the data met no socket, or a listener that is younger than the connection, and the connection was not closed here in the last two minutes",
        confirm: "journalctl -u SERVICE and uptime: was there a restart or a failover? conntrack -L on the routers in between",
        fix: "after a restart nothing, clients must reconnect; else look for what lost the connection: a failover, an expired conntrack or NAT entry, an address that moved",
        links: &["RFC 9293 section 3.5.1"],
    }
    /// More of a connection that has been counted already.
    AfterReset = "after_reset" {
        meaning: "more segments of a connection that was closed or reset here a moment ago",
        impact: "benign: the broken connection, if it was one, is counted where it broke",
        evidence: "the connection was closed or reset here in the last two minutes, and this segment of it was still under way",
        confirm: "tcpdump -ni any 'host PEER and port PORT': one reset for each segment that was in flight",
        fix: "nothing here; look at the first reset of the same connection",
        links: &["RFC 9293 section 3.5.2"],
    }
    /// A control segment that belongs to nothing here.
    Stray = "stray" {
        meaning: "a SYN-ACK, bare ACK or FIN arrived for no connection of this host",
        impact: "benign",
        evidence: "there was no socket, and the segment carried no data",
        confirm: "tcpdump -ni any 'host PEER and port PORT' shows the segment before the reset",
        fix: "nothing to mend: late segments, backscatter of spoofed SYNs, or the probe of a connection that ended long ago",
        links: &["RFC 9293 section 3.10.7.1"],
    }
    /// The peer sent data to a connection we had closed.
    LateData = "late_data" {
        meaning: "the peer sent data on a connection that this host had already closed",
        impact: "connection_broken; benign for a TLS close_notify; uncertain for another TLS record or unreadable data of up to 96 bytes, the same on multiplexed ports, SMTP's QUIT, and at a client unless it had waited for an answer for the idle threshold",
        evidence: "the data met a socket in FIN_WAIT or TIME_WAIT (kernel: TCP_ABORT_ON_DATA, TCP_TIMEWAIT_SOCKET)",
        confirm: "tcpdump -ni any 'host PEER and port PORT': our FIN, then the peer's data, then our reset",
        fix: "let the side that reuses connections close them first: its keep-alive time must be shorter than the other's (nginx upstream keepalive_timeout below gunicorn's --keep-alive)",
        links: &["RFC 9293 section 3.6", "RFC 1122 section 4.2.2.13"],
    }
    /// Closed with bytes unread.
    UnreadData = "unread_data" {
        meaning: "the application closed the connection without reading everything it had received",
        impact: "connection_broken at a server; benign where the peer had closed and only a TLS close_notify was unread; uncertain at a client that had no more to send, and for as many bytes as another farewell takes",
        evidence: "the kernel's TCP_ABORT_ON_CLOSE, the closing process was alive, and bytes were unread",
        confirm: "strace -p PID -e trace=network,close: close() without a read() that returned 0; nstat -az TcpExtTCPAbortOnClose",
        fix: "read the request to its end before closing, or shut down the sending side and drain (nginx: lingering_close); answer early errors with the body read or refused by 100-continue",
        links: &["RFC 2525 section 2.17", "RFC 9112 section 9.6"],
    }
    /// The process that held the socket exited.
    ProcessExit = "process_exit" {
        meaning: "the process that held the connection exited or was killed",
        impact: "connection_broken; benign where the peer had closed and only a TLS close_notify was unread; uncertain for as many bytes as another farewell takes, and for a client with status 0, or that was asked to end (SIGTERM and the like) after an answer, unless it had more to send",
        evidence: "the closing task was exiting, with bytes unread or SO_LINGER 0; its exit status or signal is in the event",
        confirm: "journalctl -u SERVICE around the time; dmesg for the OOM killer",
        fix: "find out why it ended; on planned restarts stop accepting and drain before exit. A process killed after it has read everything sends a FIN, not a reset",
        links: &["RFC 2525 section 2.17"],
    }
    /// The application asked for a reset.
    AppAbort = "app_abort" {
        meaning: "the application chose to abort: SO_LINGER with zero time, connect(AF_UNSPEC), or a negative TCP_LINGER2",
        impact: "benign when nothing was outstanding and no answer was pending; uncertain at a client that left before an answer could have come, and at a server whose answer may have arrived; else connection_broken",
        evidence: "SO_LINGER was on with a time of 0 when the socket was closed, or it was disconnected without being closed (kernel: TCP_STATE)",
        confirm: "strace -p PID -e trace=setsockopt,connect,close shows SO_LINGER {onoff=1, linger=0} or connect with AF_UNSPEC",
        fix: "drop SO_LINGER 0 where peers may still be reading; health checkers and some proxies use it on purpose",
        links: &["socket(7)"],
    }
    /// A listener closed with connections nobody had accepted.
    ListenerClosed = "listener_closed" {
        meaning: "a listener went away with connections not yet accepted",
        impact: "connect_failed; benign where the peer had said nothing and had left",
        evidence: "the socket had never been given to an application (kernel: TCP_STATE, no struct socket)",
        confirm: "ss -ltn before the close shows connections in Recv-Q; journalctl -u SERVICE around the time",
        fix: "on restarts pass the listener on (socket activation, SO_REUSEPORT hand-over) or drain the accept queue before closing it",
        links: &["listen(2)", "systemd.socket(5)"],
    }
    /// An administrator destroyed the socket.
    AdminKill = "admin_kill" {
        meaning: "the socket was destroyed from outside, as `ss -K` does",
        impact: "connection_broken",
        evidence: "the socket was reset while still in its state (tcp_abort), which no application can do to itself",
        confirm: "look for `ss -K`, a node agent or a BPF program that destroys sockets",
        fix: "nothing, if it was meant",
        links: &["ss(8)"],
    }
    /// Keep-alive probes ran out.
    KeepaliveTimeout = "keepalive_timeout" {
        meaning: "keep-alive probes got no answer: the peer has vanished",
        impact: "connection_broken",
        evidence: "the kernel's TCP_KEEPALIVE_TIMEOUT",
        confirm: "ping PEER; ss -tno shows the timers of other connections to it",
        fix: "find out whether the peer, the path or a firewall in between went away",
        links: &["RFC 1122 section 4.2.3.6"],
    }
    /// A subflow of an MPTCP connection.
    Mptcp = "mptcp" {
        meaning: "a subflow of an MPTCP connection was reset",
        impact: "connection_broken with data unacknowledged or an answer pending on the subflow; benign at a server that had answered; else uncertain: the connection may live on in other subflows",
        evidence: "the socket was a subflow (is_mptcp)",
        confirm: "ss -Mni; nstat -az 'MPTcpExt*' (MPTcpExtMPFastcloseTx, MPTcpExtMPRstTx)",
        fix: "look at the other subflows of the connection; where all ended together, look for the cause at the application that closed it",
        links: &["RFC 8684 sections 3.5 and 3.6"],
    }
    /// The kernel was short of TCP memory.
    MemoryPressure = "memory_pressure" {
        meaning: "the kernel dropped the connection at its orphan or TCP memory limits",
        impact: "connection_broken",
        evidence: "the kernel's TCP_ABORT_ON_MEMORY",
        confirm: "dmesg | grep -i 'TCP: '; cat /proc/net/sockstat; nstat -az TcpExtTCPAbortOnMemory",
        fix: "raise net.ipv4.tcp_mem or net.ipv4.tcp_max_orphans, or find who leaks sockets",
        links: &["https://docs.kernel.org/networking/ip-sysctl.html"],
    }
    /// A segment that breaks the protocol.
    ProtocolError = "protocol_error" {
        meaning: "a segment of the handshake was invalid",
        impact: "benign in SYN_SENT, where the SYN is sent again; else uncertain: the right segment may still come",
        evidence: "a segment was refused in SYN_SENT, SYN_RECV or TIME_WAIT, or by a listener, and it belonged to a handshake",
        confirm: "tcpdump -ni any -S 'host PEER and port PORT': compare sequence and acknowledgement numbers",
        fix: "look for a middlebox that rewrites sequence numbers, or a NAT that reuses ports too soon",
        links: &["RFC 9293 section 3.10.7.3", "RFC 7323 section 5"],
    }
    /// A rule of the firewall answered with a reset.
    FirewallReject = "firewall_reject" {
        meaning: "a firewall rule of this host (netfilter) rejected a segment with a TCP reset",
        impact: "connect_failed on a SYN, connection_broken on data; a FIN or an ACK without data: uncertain",
        evidence: "the kernel built the reset for a REJECT: iptables -j REJECT --reject-with tcp-reset, or nft reject with tcp reset; local and remote are the segment's destination and source, also where it was only to be forwarded",
        confirm: "nft list ruleset | grep -B5 'reject with tcp reset'; iptables -vnL | grep tcp-reset counts the packets",
        fix: "where the connection is wanted, let a rule before it accept it; a rule that rejects what conntrack calls invalid also meets late segments of connections that have ended: drop those instead",
        links: &["nft(8)", "iptables-extensions(8)"],
    }
    /// The peer had closed before we sent.
    PeerClosed = "peer_closed" {
        meaning: "the peer had closed the connection and this host still sent on it",
        impact: "benign when nothing but a TLS close_notify was undelivered; uncertain at a server that nobody was waiting for, and at a client that had no answer; else connection_broken",
        evidence: "our socket was in CLOSE_WAIT or LAST_ACK: the peer's FIN had arrived before",
        confirm: "tcpdump -ni any 'host PEER and port PORT': the peer's FIN, then our data, then the reset",
        fix: "close idle connections before the peer does: keep-alive time below the peer's, or retry requests that are safe to repeat",
        links: &["RFC 9112 section 9.3.1", "RFC 9293 section 3.6"],
    }
    /// The reset met a socket we had already closed.
    AfterClose = "after_close" {
        meaning: "the reset arrived after this host had closed the connection itself",
        impact: "benign when nothing but a TLS close_notify was undelivered; uncertain where what a server sent last may have arrived; else connection_broken",
        evidence: "our socket was orphaned or shut down for receiving",
        confirm: "tcpdump -ni any 'host PEER and port PORT': our FIN comes first",
        fix: "nothing, where all was delivered; else let the peer finish reading before closing",
        links: &["RFC 9293 section 3.6"],
    }
    /// Used again after the other side had forgotten it.
    StaleReuse = "stale_reuse" {
        meaning: "this host used a connection that had been silent, and the peer, a balancer or a firewall had forgotten it",
        impact: "connection_broken",
        evidence: "data answered by the reset at once, and no segment from the peer for at least the idle threshold before",
        confirm: "ss -tnoi 'dst PEER' shows lastrcv and whether keep-alive is on; the gap in the event is the timer to look for",
        fix: "turn TCP keep-alive on with a time below the gap, or close idle connections earlier than the balancer or firewall does",
        links: &["tcp(7)", "RFC 5382 section 5"],
    }
    /// Our keep-alive probe was answered by the reset.
    StaleProbe = "stale_probe" {
        meaning: "this host's keep-alive probe found that the connection was gone on the other side",
        impact: "by what was outstanding: connection_broken with an answer pending, benign where we had answered, else uncertain",
        evidence: "a probe was out and nothing else; the gap is our own keep-alive time and tells nothing of the other side's timer",
        confirm: "ss -tno 'dst PEER' shows the keep-alive timers",
        fix: "a shorter keep-alive time keeps the connection alive instead of finding it dead",
        links: &["tcp(7)", "RFC 1122 section 4.2.3.6"],
    }
    /// An idle connection was ended by somebody's timer.
    IdleTimeout = "idle_timeout" {
        meaning: "an idle connection was reset with nothing outstanding: somebody's idle timer fired",
        impact: "uncertain: the next request would have found it closed, which a client may or may not handle",
        evidence: "no data either way for at least the idle threshold, everything acknowledged, no answer pending",
        confirm: "compare the gap with the idle timers on the path: balancer, proxy, server",
        fix: "close idle connections on this side first, or send keep-alives below the gap",
        links: &["RFC 9112 section 9.5"],
    }
    /// Our request was never answered.
    NoResponse = "no_response" {
        meaning: "the peer took this host's request, stayed silent, and then reset: a slow upstream or a proxy's time-out",
        impact: "connection_broken",
        evidence: "a client that spoke last, all of it acknowledged, and silence for at least the idle threshold",
        confirm: "compare the gap with proxy time-outs (nginx proxy_read_timeout, HAProxy timeout server); look at the upstream's slow log",
        fix: "make the upstream answer in time, or raise the time-out of the proxy in between",
        links: &[],
    }
    /// The peer stopped waiting for our answer.
    PeerGaveUp = "peer_gave_up" {
        meaning: "the peer had asked, this host had not answered yet, and the peer gave up",
        impact: "connection_broken; uncertain where the peer left before an answer could have come",
        evidence: "a server whose peer spoke last",
        confirm: "compare the gap with the client's time-out; look at what the server was doing",
        fix: "answer faster, or let the client wait longer",
        links: &[],
    }
    /// Reset while in use.
    PeerAbort = "peer_abort" {
        meaning: "the peer reset a connection in active use",
        impact: "connection_broken with data unacknowledged or an answer pending; benign at a server that had answered; uncertain where what it sent last may have arrived, and else",
        evidence: "data moved within the idle threshold, and no other rule fits",
        confirm: "look at the peer's log at that time: crash, restart, unread data, SO_LINGER 0",
        fix: "the cause is on the peer's side: run rst there and match by time and ports",
        links: &["RFC 9293 section 3.5.2"],
    }
    /// The reset is not of the peer.
    Forged = "forged" {
        meaning: "a middlebox, not the peer, reset a connection in active use",
        impact: "connection_broken",
        evidence: "a score of 3 or more: 3 where the reset's TTL differs by more than 4 from that of the peer's handshake, 1 where it differs by less; 2 where it acknowledges data sooner after it was sent than the connection's least round trip time",
        confirm: "tcpdump -vni any 'host PEER and port PORT': compare the ttl of the reset with that of the peer's other segments; traceroute tells who is as many hops away",
        fix: "look for a firewall, an intrusion prevention system or a censor on the path; false where a balancer, a SYN proxy or an application with a TTL of its own answers for the peer",
        links: &["RFC 3360", "Weaver, Sommer, Paxson: Detecting Forged TCP Reset Packets, NDSS 2009"],
    }
    /// Reset before any data moved.
    NoData = "no_data" {
        meaning: "the connection was reset before any data moved",
        impact: "benign at a server (health check, scan, cancelled connect); connect_failed at a client: accepted, then thrown away",
        evidence: "a server that received nothing and sent at most a greeting of 1 KiB, or a client that is younger than the idle threshold",
        confirm: "tcpdump -ni any 'host PEER and port PORT': handshake, then the reset",
        fix: "at a server nothing; at a client look at the server: full accept queue, access rule, a listener that closed",
        links: &[],
    }
}
