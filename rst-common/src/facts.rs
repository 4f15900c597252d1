//! The facts of one reset that the classifier decides from.

/// What is known of a reset when it happens, as read from the kernel.
///
/// Integers only, explicit padding, so that it travels as it is. A fact whose
/// bit in [`Facts::known`] is clear is unknown and its field is zero: a zero is
/// never mistaken for a value.
///
/// Sources: `struct sock`, `inet_sock`, `inet_connection_sock`, `tcp_sock`,
/// `sk_buff` and `task_struct` of the running kernel, at the offsets of
/// [`crate::layout`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Facts {
    /// Bit set of [`known`]: which of the fields below hold a value.
    pub known: u32,
    /// [`crate::cause::Direction`] as a byte.
    pub direction: u8,
    /// [`crate::cause::Origin`] as a byte.
    pub origin: u8,
    /// [`crate::reason::Reason`] as a byte.
    pub reason: u8,
    /// Socket state at the tracepoint, [`crate::tcp::state`].
    pub state: u8,
    /// Flags of the segment that is answered, [`crate::tcp::flag`].
    pub segment_flags: u8,
    /// [`crate::tcp::shutdown`] bits.
    pub shutdown: u8,
    /// The low byte of `sk_flags`, [`crate::tcp::sock_flag`].
    pub sock_flags: u8,
    /// 1 when the task that closes the socket is exiting (`PF_EXITING`); 0 where
    /// it is not, or nothing is known of it.
    pub exiting: u8,
    /// 1 when `snd_wl1 == rcv_nxt`: the last segment of the peer carried no
    /// data, so on a tie of the clocks we spoke last.
    pub sent_after_received: u8,
    /// Keep-alive or window probes sent and not answered.
    pub probes_out: u8,
    /// The first payload bytes of the segment that is answered; see
    /// [`PAYLOAD_PREFIX`].
    pub payload: [u8; PAYLOAD_PREFIX],
    /// 1 when the service's port carries many requests at once (HTTP/2, gRPC,
    /// databases), so that who spoke last says nothing of pending answers.
    pub multiplexed: u8,
    /// 1 for a subflow of an MPTCP connection, which outlives it.
    pub mptcp: u8,
    /// 1 when a `struct socket` belongs to it: an application has, or had, it
    /// as a descriptor.
    pub has_socket: u8,
    /// State of the socket before this host left it for the reset,
    /// [`crate::tcp::state`]; from the table of sockets.
    pub state_before: u8,
    /// [`crate::cause::Role`] as a byte, from the table of sockets.
    pub tracked_role: u8,
    /// [`crate::history::Closed`] as a byte: whether the connection of the
    /// segment was closed or reset here a moment ago.
    pub closed: u8,
    /// [`crate::history::Listened`] as a byte: whether anybody listens, or has
    /// listened, where the segment went.
    pub listened: u8,
    /// [`crate::cause::Turn`] as a byte: who had spoken last when the peer's FIN
    /// came, or when a connection that is remembered ended.
    pub tracked_turn: u8,
    /// 1 when the listener's accept queue is full and `tcp_abort_on_overflow`
    /// is on in its namespace.
    pub accept_overflow: u8,
    /// 1 when `TCP_LINGER2` is below zero: the application wants no FIN_WAIT2.
    pub no_fin_wait2: u8,
    /// Time to live, or hop limit, with which the reset arrived.
    pub ttl: u8,
    /// That of the segment with which the peer completed the handshake.
    pub handshake_ttl: u8,
    /// 1 when the reset that arrived acknowledges everything that was sent
    /// (SEG.ACK = SND.NXT).
    pub acknowledges_all: u8,
    /// Payload length of the segment that is answered, bytes.
    pub payload_len: u32,
    /// `task.signal.group_exit_code` of the exiting task: low 7 bits the
    /// signal, bits 8-15 the exit status.
    pub exit_code: u32,
    /// `sk_lingertime`, jiffies.
    pub linger_time: u32,
    /// Jiffies since we last sent data.
    pub idle_tx: u32,
    /// Jiffies since data last arrived.
    pub idle_rx: u32,
    /// Jiffies since any segment of the peer last arrived.
    pub idle_segment: u32,
    /// Bytes received and not read by the application.
    pub unread: u32,
    /// Bytes written and not sent yet.
    pub unsent: u32,
    /// Bytes sent and not acknowledged.
    pub unacked: u32,
    /// Jiffies since the connection began; from the table of sockets.
    pub age: u32,
    /// Smoothed round trip time, microseconds; 0 before the first is measured.
    pub srtt_us: u32,
    /// The least round trip time of late, microseconds (`tcp_min_rtt`); the kernel's
    /// `u32::MAX` before the first is measured.
    pub min_rtt_us: u32,
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Payload bytes retransmitted.
    pub bytes_retrans: u64,
    /// Sequence numbers acknowledged by the peer: payload, and 1 for our SYN
    /// where we connected, and 1 for our FIN.
    pub bytes_acked: u64,
    /// Sequence numbers received in order: payload, and 1 for the peer's FIN.
    pub bytes_received: u64,
}

/// Payload bytes kept of a segment: enough for a TLS record header.
pub const PAYLOAD_PREFIX: usize = 5;

const _: () = assert!(size_of::<Facts>() == 112);

/// Bits of [`Facts::known`], one per fact (or group read together).
pub mod known {
    /// `state` at the tracepoint.
    pub const STATE: u32 = 1 << 0;
    /// `segment_flags`, `payload_len`.
    pub const SEGMENT: u32 = 1 << 1;
    /// `payload` (as much of it as `payload_len` says).
    pub const PAYLOAD: u32 = 1 << 2;
    /// `shutdown`.
    pub const SHUTDOWN: u32 = 1 << 3;
    /// `sock_flags`.
    pub const SOCK_FLAGS: u32 = 1 << 4;
    /// `linger_time`.
    pub const LINGER_TIME: u32 = 1 << 5;
    /// `no_fin_wait2`.
    pub const LINGER2: u32 = 1 << 6;
    /// `exit_code`.
    pub const EXIT_CODE: u32 = 1 << 7;
    /// `idle_tx`.
    pub const IDLE_TX: u32 = 1 << 8;
    /// `idle_rx`.
    pub const IDLE_RX: u32 = 1 << 9;
    /// `idle_segment`.
    pub const IDLE_SEGMENT: u32 = 1 << 10;
    /// `sent_after_received`.
    pub const TURN_TIE: u32 = 1 << 11;
    /// `unread`.
    pub const UNREAD: u32 = 1 << 12;
    /// `unsent`.
    pub const UNSENT: u32 = 1 << 13;
    /// `unacked`.
    pub const UNACKED: u32 = 1 << 14;
    /// `probes_out`.
    pub const PROBES_OUT: u32 = 1 << 15;
    /// `bytes_sent`.
    pub const BYTES_SENT: u32 = 1 << 16;
    /// `bytes_retrans`.
    pub const BYTES_RETRANS: u32 = 1 << 17;
    /// `bytes_acked`.
    pub const BYTES_ACKED: u32 = 1 << 18;
    /// `bytes_received`.
    pub const BYTES_RECEIVED: u32 = 1 << 19;
    /// `has_socket`.
    pub const HAS_SOCKET: u32 = 1 << 20;
    /// `state_before`.
    pub const STATE_BEFORE: u32 = 1 << 21;
    /// `age`.
    pub const AGE: u32 = 1 << 22;
    /// `accept_overflow`.
    pub const ACCEPT_OVERFLOW: u32 = 1 << 23;
    /// `ttl`, `acknowledges_all`.
    pub const PACKET: u32 = 1 << 24;
    /// `handshake_ttl`.
    pub const HANDSHAKE_TTL: u32 = 1 << 25;
    /// `min_rtt_us`.
    pub const MIN_RTT: u32 = 1 << 26;
}

impl Facts {
    /// Whether every fact of `bits` is known.
    #[must_use]
    #[inline(always)]
    pub const fn knows(&self, bits: u32) -> bool {
        self.known & bits == bits
    }

    /// The value behind `read`, or `None` where a fact of `bits` is unknown.
    #[must_use]
    pub fn get<T>(&self, bits: u32, read: impl FnOnce(&Self) -> T) -> Option<T> {
        self.knows(bits).then(|| read(self))
    }
}
