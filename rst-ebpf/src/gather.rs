//! Reads the facts the classifier needs. What only the detailed event shows is
//! read in [`crate::emit`].

use core::mem;

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_jiffies64};
use rst_common::{
    cause::{Direction, Origin, Role},
    classify::role,
    event::Doubt,
    facts::{Facts, PAYLOAD_PREFIX, known},
    layout::Field,
    reason::Reason,
    tcp::{sock_flag, state},
};

use crate::{
    count::ConnectionId,
    kernel::{self, Skb, Sock, TcpSock},
    maps::MULTIPLEXED,
};

/// `PF_EXITING`, `include/linux/sched.h`.
const PF_EXITING: u32 = 0x4;
/// `PF_KTHREAD`, `include/linux/sched.h`.
pub(crate) const PF_KTHREAD: u32 = 0x0020_0000;

/// The connection as the kernel holds it.
pub(crate) struct Source {
    /// The full socket, where there is one and it is no listener.
    pub(crate) tcp: Option<TcpSock>,
    /// Whether addresses and ports of the socket are those of the connection.
    pub(crate) has_tuple: bool,
    /// This host's port, 0 where there is no socket.
    pub(crate) local_port: u16,
    /// The peer's port, likewise.
    pub(crate) remote_port: u16,
}

impl Source {
    /// The port that names the service. Never one that a stranger chose: a
    /// server's own port, or the port our client went to.
    #[inline(always)]
    pub(crate) fn service_port(&self, role: Role) -> u16 {
        match role {
            Role::Server => self.local_port,
            Role::Client => self.remote_port,
            Role::Unknown => 0,
        }
    }

    /// Identity of the connection, for full sockets.
    #[inline(always)]
    pub(crate) fn id(&self, sk: Option<Sock>) -> Option<ConnectionId> {
        let rcv_nxt = self.tcp?.get::<u32>(Field::TpRcvNxt)?;
        Some(ConnectionId {
            connection: u64::from(sk?.low_half()) << 32 | u64::from(rcv_nxt),
            ports: Doubt::ports(self.local_port, self.remote_port),
        })
    }
}

/// Facts with nothing known yet.
#[inline(always)]
pub(crate) fn facts(direction: Direction) -> Facts {
    const WORDS: usize = size_of::<Facts>() / size_of::<u64>();
    const _: () = assert!(WORDS * size_of::<u64>() == size_of::<Facts>());
    // SAFETY: the same size, and Facts is made of integers alone.
    let mut facts = unsafe { mem::transmute::<[u64; WORDS], Facts>([kernel::zero(); WORDS]) };
    facts.direction = direction as u8;
    facts
}

/// Origin, state and all that the socket knows of the connection.
#[inline(always)]
pub(crate) fn connection(sk: Option<Sock>, facts: &mut Facts) -> Source {
    let mut source = Source {
        tcp: None,
        has_tuple: false,
        local_port: 0,
        remote_port: 0,
    };
    let Some(sk) = sk else {
        facts.origin = Origin::None as u8;
        return source;
    };
    // Required fields: the daemon does not start without them.
    let state = sk.common::<u8>(Field::SkState).unwrap_or_default();
    source.local_port = sk.common::<u16>(Field::SkNum).unwrap_or_default();
    source.remote_port = u16::from_be(sk.common::<u16>(Field::SkDport).unwrap_or_default());
    facts.state = state;
    facts.known |= known::STATE;
    if state == state::TIME_WAIT || state == state::NEW_SYN_RECV {
        facts.origin = if state == state::TIME_WAIT {
            Origin::TimeWait as u8
        } else {
            Origin::Request as u8
        };
        source.has_tuple = true;
        return source;
    }
    facts.origin = Origin::Socket as u8;
    if state == state::LISTEN {
        // A listener's own addresses and clocks say nothing of the connection.
        source.remote_port = 0;
        return source;
    }
    source.has_tuple = true;
    let Some(tcp) = sk.tcp() else {
        return source;
    };
    source.tcp = Some(tcp);
    // `skc_num` is 0 once the socket has left the hash table.
    source.local_port = u16::from_be(tcp.get::<u16>(Field::InetSport).unwrap_or_default());
    socket(tcp, facts);
    if state != state::SYN_SENT && state != state::SYN_RECV {
        data(tcp, facts);
    }
    source
}

/// The service's port, 0 where none is certain; notes whether it carries many
/// requests at once.
#[inline(always)]
pub(crate) fn service(source: &Source, facts: &mut Facts) -> u16 {
    let port = kernel::forget(u64::from(source.service_port(role(facts)))) as u16;
    if let Some(word) = MULTIPLEXED.get(u32::from(port) / 64) {
        facts.multiplexed = (*word >> (port & 63)) as u8 & 1;
    }
    port
}

/// Stores a field's value and marks the fact known.
macro_rules! fact {
    ($facts:ident . $name:ident = $value:expr, $known:ident) => {
        if let Some(value) = $value {
            $facts.$name = value;
            $facts.known |= known::$known;
        }
    };
}

#[inline(always)]
fn socket(tcp: TcpSock, facts: &mut Facts) {
    fact!(facts.shutdown = tcp.get::<u8>(Field::SkShutdown), SHUTDOWN);
    fact!(
        facts.sock_flags = tcp.get::<u64>(Field::SkFlags).map(|flags| flags as u8),
        SOCK_FLAGS
    );
    fact!(
        facts.has_socket = tcp
            .get::<u64>(Field::SkSocket)
            .map(|socket| kernel::flag(socket != 0)),
        HAS_SOCKET
    );
    facts.mptcp = tcp.get::<u8>(Field::TpIsMptcp).unwrap_or_default() & 1;
    fact!(
        facts.linger_time = tcp.get::<u64>(Field::SkLingerTime).map(|time| time as u32),
        LINGER_TIME
    );
}

/// Clocks, sequence numbers and volume; all meaningless before the handshake.
#[inline(always)]
fn data(tcp: TcpSock, facts: &mut Facts) {
    // SAFETY: takes no argument and reads a kernel variable.
    let now = unsafe { bpf_jiffies64() } as u32;
    let age = |then: u32| now.wrapping_sub(then);
    fact!(
        facts.idle_tx = tcp.get::<u32>(Field::TpLsndtime).map(age),
        IDLE_TX
    );
    fact!(
        facts.idle_rx = tcp.get::<u32>(Field::IcskLrcvtime).map(age),
        IDLE_RX
    );
    fact!(
        // 0: a socket that has not had a segment acknowledged yet.
        facts.idle_segment = tcp
            .get::<u32>(Field::TpRcvTstamp)
            .filter(|then| *then != 0)
            .map(age),
        IDLE_SEGMENT
    );
    fact!(
        facts.probes_out = tcp.get::<u8>(Field::IcskProbesOut),
        PROBES_OUT
    );

    let rcv_nxt = tcp.get::<u32>(Field::TpRcvNxt);
    if let (Some(rcv_nxt), Some(snd_wl1)) = (rcv_nxt, tcp.get::<u32>(Field::TpSndWl1)) {
        facts.sent_after_received = kernel::flag(rcv_nxt == snd_wl1);
        facts.known |= known::TURN_TIE;
    }
    if let (Some(rcv_nxt), Some(copied_seq)) = (rcv_nxt, tcp.get::<u32>(Field::TpCopiedSeq)) {
        let unread = rcv_nxt.wrapping_sub(copied_seq);
        // The peer's FIN takes a sequence number, until the application reads it.
        let fin = u32::from(kernel::flag(
            unread != 0 && facts.sock_flags & sock_flag::DONE != 0,
        ));
        facts.unread = unread.wrapping_sub(fin);
        facts.known |= known::UNREAD;
    }
    if let Some(snd_nxt) = tcp.get::<u32>(Field::TpSndNxt) {
        fact!(
            facts.unsent = tcp
                .get::<u32>(Field::TpWriteSeq)
                .map(|end| end.wrapping_sub(snd_nxt)),
            UNSENT
        );
        fact!(
            facts.unacked = tcp
                .get::<u32>(Field::TpSndUna)
                .map(|una| snd_nxt.wrapping_sub(una)),
            UNACKED
        );
    }
    fact!(
        facts.bytes_sent = tcp.get::<u64>(Field::TpBytesSent),
        BYTES_SENT
    );
    fact!(
        facts.bytes_retrans = tcp.get::<u64>(Field::TpBytesRetrans),
        BYTES_RETRANS
    );
    fact!(
        facts.bytes_acked = tcp.get::<u64>(Field::TpBytesAcked),
        BYTES_ACKED
    );
    fact!(
        facts.bytes_received = tcp.get::<u64>(Field::TpBytesReceived),
        BYTES_RECEIVED
    );
}

/// Whether the current task is the one that closes the socket. The kernel gives
/// these reasons from system calls alone, after the socket has left its state.
/// Timers and softirq run in whatever task they interrupt, and a socket killed
/// from outside (`ss -K`) is still in its state.
#[inline(always)]
pub(crate) fn is_closing(facts: &Facts) -> bool {
    !facts.knows(known::SEGMENT)
        && facts.state == state::CLOSE
        && matches!(
            Reason::from_byte(facts.reason),
            Reason::AbortOnClose | Reason::State | Reason::DisconnectWithData
        )
}

/// Whether the closing task is exiting, and how.
#[inline(always)]
pub(crate) fn task(facts: &mut Facts) {
    if !is_closing(facts) {
        return;
    }
    // SAFETY: takes no argument; the address is only read through `probe`.
    let task = unsafe { bpf_get_current_task() };
    let Some(flags) = kernel::probe::<u32>(task, Field::TaskFlags) else {
        return;
    };
    facts.exiting = kernel::flag(flags & PF_EXITING != 0);
    if facts.exiting == 0 {
        return;
    }
    let code = kernel::probe::<u64>(task, Field::TaskSignal)
        .and_then(|signal| kernel::probe::<u32>(signal, Field::SignalExitCode));
    fact!(facts.exit_code = code, EXIT_CODE);
}

/// The TCP header as far as it is used, network order.
#[repr(C)]
struct TcpHeader {
    source: u16,
    destination: u16,
    sequence: u32,
    acknowledgement: u32,
    data_offset: u8,
    flags: u8,
}

/// The segment that a reset answers; without one, all zeros.
pub(crate) struct Segment {
    /// The packet itself.
    pub(crate) skb: Option<Skb>,
    /// Its destination: this host's port, host byte order.
    pub(crate) local_port: u16,
    /// Its source: the peer's port, host byte order.
    pub(crate) remote_port: u16,
}

impl Segment {
    /// No segment caused the reset.
    pub(crate) const NONE: Self = Self {
        skb: None,
        local_port: 0,
        remote_port: 0,
    };

    /// Reads the TCP header and the first payload bytes. In every path that
    /// sends a reset `skb->data` is the transport header.
    #[inline(always)]
    pub(crate) fn gather(skb: Option<Skb>, facts: &mut Facts) -> Self {
        let Some(skb) = skb else {
            return Self::NONE;
        };
        let mut segment = Self {
            skb: Some(skb),
            ..Self::NONE
        };
        let data = skb.get::<u64>(Field::SkbData).unwrap_or_default();
        let len = skb.get::<u32>(Field::SkbLen).unwrap_or_default();
        let Some(header) = kernel::probe_at::<TcpHeader>(data) else {
            return segment;
        };
        segment.local_port = u16::from_be(header.destination);
        segment.remote_port = u16::from_be(header.source);
        let header_len = u32::from(header.data_offset >> 4) * 4;
        facts.segment_flags = header.flags;
        facts.payload_len = len.saturating_sub(header_len);
        facts.known |= known::SEGMENT;
        if facts.payload_len == 0 {
            return segment;
        }
        // Payload may lie in fragments, which can't be read from here.
        let linear = len.wrapping_sub(skb.get::<u32>(Field::SkbDataLen).unwrap_or(len));
        if linear >= header_len + PAYLOAD_PREFIX as u32 {
            let payload = kernel::probe_at(data.wrapping_add(u64::from(header_len)));
            fact!(facts.payload = payload, PAYLOAD);
        }
        segment
    }
}
