//! TCP constants of the kernel and of the protocol.

/// Socket states, `include/net/tcp_states.h` (unchanged from 5.10 to 7.3).
pub mod state {
    /// Data flows both ways.
    pub const ESTABLISHED: u8 = 1;
    /// We sent a SYN and wait for the answer.
    pub const SYN_SENT: u8 = 2;
    /// A SYN arrived and was answered.
    pub const SYN_RECV: u8 = 3;
    /// We closed, the peer has not acknowledged it yet.
    pub const FIN_WAIT1: u8 = 4;
    /// We closed and the peer acknowledged it.
    pub const FIN_WAIT2: u8 = 5;
    /// Both ends are closed, old segments may still arrive.
    pub const TIME_WAIT: u8 = 6;
    /// No connection (any more).
    pub const CLOSE: u8 = 7;
    /// The peer closed, we have not.
    pub const CLOSE_WAIT: u8 = 8;
    /// The peer closed first, then we did; our FIN is not acknowledged yet.
    pub const LAST_ACK: u8 = 9;
    /// A listening socket.
    pub const LISTEN: u8 = 10;
    /// Both ends closed at the same time.
    pub const CLOSING: u8 = 11;
    /// A connection request, not a full socket.
    pub const NEW_SYN_RECV: u8 = 12;
    /// A socket bound but not connected (6.9 on, for socket diagnosis only).
    pub const BOUND_INACTIVE: u8 = 13;

    /// Name of a state as `ss` and the kernel's documentation write it.
    #[must_use]
    pub const fn name(state: u8) -> Option<&'static str> {
        Some(match state {
            ESTABLISHED => "ESTABLISHED",
            SYN_SENT => "SYN_SENT",
            SYN_RECV => "SYN_RECV",
            FIN_WAIT1 => "FIN_WAIT1",
            FIN_WAIT2 => "FIN_WAIT2",
            TIME_WAIT => "TIME_WAIT",
            CLOSE => "CLOSE",
            CLOSE_WAIT => "CLOSE_WAIT",
            LAST_ACK => "LAST_ACK",
            LISTEN => "LISTEN",
            CLOSING => "CLOSING",
            NEW_SYN_RECV => "NEW_SYN_RECV",
            BOUND_INACTIVE => "BOUND_INACTIVE",
            _ => return None,
        })
    }
}

/// Header flags, RFC 9293 section 3.1.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// To be delivered at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is significant.
    pub const URG: u8 = 0x20;
    /// Congestion was experienced on the way (RFC 3168 section 6.1).
    pub const ECE: u8 = 0x40;
    /// The congestion window was reduced (likewise).
    pub const CWR: u8 = 0x80;

    /// Every flag with its name, in the order of the header.
    pub const NAMES: [(u8, &str); 8] = [
        (CWR, "CWR"),
        (ECE, "ECE"),
        (URG, "URG"),
        (ACK, "ACK"),
        (PSH, "PSH"),
        (RST, "RST"),
        (SYN, "SYN"),
        (FIN, "FIN"),
    ];
}

/// Bits of `sock.sk_shutdown`, `include/net/sock.h`.
pub mod shutdown {
    /// The receiving half is shut down.
    pub const RCV: u8 = 1;
    /// The sending half is shut down.
    pub const SEND: u8 = 2;
    /// Both are.
    pub const BOTH: u8 = RCV | SEND;
}

/// Bits of `sock.sk_flags`, `enum sock_flags` in `include/net/sock.h`.
pub mod sock_flag {
    /// The socket is orphaned: no process holds it any more.
    pub const DEAD: u8 = 1 << 0;
    /// The peer's FIN has arrived (`tcp_fin`).
    pub const DONE: u8 = 1 << 1;
    /// `SO_KEEPALIVE` is on.
    pub const KEEPOPEN: u8 = 1 << 3;
    /// `SO_LINGER` is on.
    pub const LINGER: u8 = 1 << 4;
}

/// Address family of IPv4, `include/linux/socket.h`.
pub const AF_INET: u16 = 2;
/// Address family of IPv6, `include/linux/socket.h`.
pub const AF_INET6: u16 = 10;
