//! Reads the facts the classifier needs. What only the detailed event shows is
//! read in [`crate::emit`].

use core::{mem, ptr};

use aya_ebpf::helpers::generated::bpf_jiffies64;
use rst_common::{
    cause::{Direction, Origin, Role},
    event::{Control, Doubt},
    facts::{Facts, known},
    history::{Closed, Listened},
    layout::Field,
    owner::ROOT_CGROUP,
    tcp::{flag, shutdown, sock_flag, state},
};

use crate::{
    access::Access,
    arrival, closed,
    count::ConnectionId,
    kernel::{self, Net, Skb, Sock, TcpSock},
    listeners,
    maps::MULTIPLEXED,
    ports,
    process::{self, Owner},
    segment::Segment,
    sockets,
    tuple::Tuple,
};

/// Stores a field's value and marks the fact known.
macro_rules! fact {
    ($facts:ident . $name:ident = $value:expr, $known:ident) => {
        if let Some(value) = $value {
            $facts.$name = value;
            $facts.known |= known::$known;
        }
    };
}
pub(crate) use fact;

/// The connection as the kernel holds it.
pub(crate) struct Source {
    /// Whether there is a full socket that is no listener.
    pub(crate) full: bool,
    /// Of a full socket: the low half of its address, and `rcv_nxt`.
    pub(crate) connection: u64,
    /// This host's port, 0 where there is no socket.
    pub(crate) local_port: u16,
    /// The peer's port, likewise.
    pub(crate) remote_port: u16,
    /// Addresses and ports of the connection, where they are read already.
    pub(crate) tuple: Tuple,
    /// The service's port where it is known from elsewhere, else 0.
    pub(crate) service: u16,
    /// Its hash, where its end is looked up or remembered; else 0.
    pub(crate) hash: u64,
    /// Whose connection it is.
    pub(crate) owner: Owner,
}

impl Source {
    /// The service's port where the tuple tells the ports, and the role, as a byte,
    /// is known.
    #[inline(always)]
    fn port_of(&self, role: u8) -> u16 {
        if role == Role::Server as u8 {
            self.tuple.local_port
        } else if role == Role::Client as u8 {
            self.tuple.remote_port
        } else {
            0
        }
    }

    /// The port that names the service. Never one that a stranger chose: a
    /// server's own port, or the port our client went to.
    #[inline(always)]
    pub(crate) fn service_port(&self, role: Role) -> u16 {
        if self.service != 0 {
            return self.service;
        }
        match role {
            // The ports of TIME_WAIT: which of them is the service's is not known.
            _ if !self.full && self.remote_port != 0 => 0,
            Role::Server => self.local_port,
            Role::Client => self.remote_port,
            Role::Unknown => 0,
        }
    }

    /// Makes the hash that the connection's end is remembered by.
    #[inline(always)]
    pub(crate) fn remember_by(&mut self, sk: Sock) {
        if let Some(net) = sk.net()
            && self.tuple.family != 0
        {
            self.hash = self.tuple.hash(net.id());
            closed::expect(self.hash);
        }
    }

    /// Identity of the connection, for full sockets.
    #[inline(always)]
    pub(crate) fn id(&self) -> Option<ConnectionId> {
        self.full.then_some(ConnectionId {
            connection: self.connection,
            ports: Doubt::ports(self.local_port, self.remote_port),
        })
    }
}

/// The peer's port, host byte order.
#[inline(always)]
pub(crate) fn remote_port<A: Access>(sk: Sock<A>) -> u16 {
    // A required field: the daemon does not start without it.
    u16::from_be(sk.common::<u16>(Field::SkDport).unwrap_or_default())
}

/// This host's port, also once the socket has left the hash table, where
/// `skc_num` is 0.
#[inline(always)]
pub(crate) fn local_port(sk: Sock) -> Option<u16> {
    Some(u16::from_be(sk.tcp()?.get::<u16>(Field::InetSport)?))
}

/// Whether a socket that leaves its state without a FIN resets the connection: it
/// is closed with data unread or SO_LINGER 0, and not because it has failed
/// (`__tcp_close`).
#[inline(always)]
pub(crate) fn resets_on_close(sk: Sock) -> bool {
    let Some(tcp) = sk.tcp() else {
        return false;
    };
    let closed = tcp.get::<u8>(Field::SkShutdown) == Some(shutdown::BOTH)
        && sk.common::<u32>(Field::SkErr) == Some(0);
    let flags = tcp.get::<u64>(Field::SkFlags).unwrap_or_default() as u8;
    let aborts = flags & sock_flag::LINGER != 0 && tcp.get::<u64>(Field::SkLingerTime) == Some(0);
    let unread = tcp.get::<u32>(Field::TpRcvNxt) != tcp.get::<u32>(Field::TpCopiedSeq);
    kernel::flag(closed && (aborts || unread)) != 0
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

/// Makes one state of all the ways by which the verifier can have come here, so
/// that what follows is checked once: no constants, and no pointers either, which
/// is why the caller takes them from the context [`kernel::again`]. Of the facts
/// only the flags and codes at the head are constants.
#[inline(always)]
pub(crate) fn settle<A: Access>(facts: &mut Facts, source: &mut Source, segment: &mut Segment<A>) {
    const HEAD: usize = mem::offset_of!(Facts, payload_len) / size_of::<u64>();
    const _: () = assert!(HEAD * size_of::<u64>() == mem::offset_of!(Facts, payload_len));
    let words = ptr::from_mut(facts).cast::<u64>();
    for index in 0..HEAD {
        // SAFETY: inside the facts, which are aligned to 8 bytes and made of
        // integers alone.
        unsafe {
            let word = words.add(index);
            word.write(kernel::forget(word.read()));
        }
    }
    source.full = kernel::flag(source.full) != 0;
    source.connection = kernel::forget(source.connection);
    source.hash = kernel::forget(source.hash);
    source.owner.holder = kernel::forget(source.owner.holder);
    source.owner.workload = kernel::forget(source.owner.workload);
    let word = kernel::forget(
        u64::from(source.service) << 32
            | u64::from(source.local_port) << 16
            | u64::from(source.remote_port),
    );
    source.service = (word >> 32) as u16;
    source.local_port = (word >> 16) as u16;
    source.remote_port = word as u16;
    let word = kernel::forget(u64::from(segment.local_port) << 16 | u64::from(segment.remote_port));
    segment.local_port = (word >> 16) as u16;
    segment.remote_port = word as u16;
    source.tuple.family = kernel::forget(u64::from(source.tuple.family)) as u16;
}

/// Origin and state, and the ends of a connection that has ended.
#[inline(always)]
pub(crate) fn origin<A: Access>(sk: Option<Sock<A>>, facts: &mut Facts) -> Source {
    let mut source = Source {
        full: false,
        connection: 0,
        local_port: 0,
        remote_port: 0,
        tuple: Tuple::unknown(),
        service: 0,
        hash: 0,
        owner: Owner::UNKNOWN,
    };
    let Some(sk) = sk else {
        facts.origin = Origin::None as u8;
        return source;
    };
    // Required fields: the daemon does not start without them.
    let state = sk.common::<u8>(Field::SkState).unwrap_or_default();
    source.local_port = sk.common::<u16>(Field::SkNum).unwrap_or_default();
    source.remote_port = remote_port(sk);
    facts.state = state;
    facts.known |= known::STATE;
    if state == state::TIME_WAIT || state == state::NEW_SYN_RECV {
        facts.origin = if state == state::TIME_WAIT {
            Origin::TimeWait as u8
        } else {
            Origin::Request as u8
        };
        source.tuple = Tuple::of_socket(sk, source.local_port, source.remote_port);
    } else {
        facts.origin = Origin::Socket as u8;
    }
    source
}

/// Origin, state and all that the socket knows of the connection.
#[inline(always)]
pub(crate) fn connection(sk: Option<Sock>, facts: &mut Facts) -> Source {
    let mut source = origin(sk, facts);
    let Some(sk) = sk.filter(|_| facts.origin == Origin::Socket as u8) else {
        return source;
    };
    let state = facts.state;
    if state == state::LISTEN {
        // A listener's own addresses and clocks say nothing of the connection.
        source.remote_port = 0;
        return source;
    }
    let Some(tcp) = sk.tcp() else {
        return source;
    };
    source.full = true;
    source.connection = u64::from(sk.low_half()) << 32
        | u64::from(tcp.get::<u32>(Field::TpRcvNxt).unwrap_or_default());
    // `skc_num` is 0 once the socket has left the hash table.
    source.local_port = u16::from_be(tcp.get::<u16>(Field::InetSport).unwrap_or_default());
    source.tuple = Tuple::of_socket(sk, source.local_port, source.remote_port);
    let begun = state != state::SYN_SENT && state != state::SYN_RECV;
    if begun {
        source.remember_by(sk);
    }
    source.owner = life(sk, source.remote_port, facts);
    if source.owner.workload == 0 {
        // Older than the daemon, or there was no room for it. Whose the listener is,
        // or else where the socket was created, is the next best.
        source.owner.workload = sk
            .net()
            .map(|net| listeners::owner(net.id(), source.local_port).workload)
            .filter(|workload| *workload != 0)
            .or_else(|| tcp.cgroup_id().filter(|id| *id > ROOT_CGROUP))
            .unwrap_or_default();
    }
    socket(tcp, facts);
    if begun {
        data(tcp, facts);
    }
    source
}

/// The port that the service is counted under, 0 where none is certain; notes
/// whether it carries many requests at once.
#[inline(always)]
pub(crate) fn service(source: &Source, role: Role, facts: &mut Facts) -> u16 {
    let port = kernel::forget(u64::from(source.service_port(role))) as u16;
    if port != 0
        && let Some(word) = MULTIPLEXED.get(u32::from(port) / 64)
    {
        facts.multiplexed = (*word >> (port & 63)) as u8 & 1;
    }
    ports::bounded(port)
}

/// What the table of sockets knows; whose the socket is.
#[inline(always)]
fn life(sk: Sock, remote_port: u16, facts: &mut Facts) -> Owner {
    let Some((life, owner)) = sockets::find(sk, remote_port) else {
        return Owner::UNKNOWN;
    };
    facts.tracked_role = life.role;
    facts.tracked_turn = life.turn;
    if life.ttl != 0 {
        facts.handshake_ttl = life.ttl;
        facts.known |= known::HANDSHAKE_TTL;
    }
    if facts.state == state::CLOSE && life.state_before != 0 {
        facts.state_before = life.state_before;
        facts.known |= known::STATE_BEFORE;
    }
    if life.start != 0 {
        // SAFETY: takes no argument and reads a kernel variable.
        let age = life.age(unsafe { bpf_jiffies64() });
        facts.age = if age > u64::from(u32::MAX) {
            u32::MAX
        } else {
            age as u32
        };
        facts.known |= known::AGE;
    }
    owner
}

/// What is known of the connection of a segment that has no socket of its own,
/// and of listeners where it went.
#[inline(always)]
pub(crate) fn history<A: Access>(
    control: *mut Control,
    sk: Option<Sock<A>>,
    segment: &Segment<A>,
    source: &mut Source,
    facts: &mut Facts,
) {
    let met_listener = facts.origin == Origin::Socket as u8;
    if met_listener {
        facts.listened = Listened::Now as u8;
        accept_queue(sk, facts);
    }
    let Some(netns) = sk
        .and_then(Sock::net)
        .or_else(|| segment.skb.and_then(Skb::net))
        .map(Net::id)
    else {
        return;
    };
    let syn = facts.segment_flags & (flag::SYN | flag::ACK) == flag::SYN;
    if !syn {
        if facts.origin != Origin::TimeWait as u8 {
            source.tuple = Tuple::of_segment(segment);
        }
        // Here and below: one state for the verifier, whichever it is.
        source.tuple.family = kernel::forget(u64::from(source.tuple.family)) as u16;
        if source.tuple.family == 0 {
            return;
        }
        source.hash = source.tuple.hash(netns);
        if let Some(ending) = closed::find(control, source.hash) {
            facts.closed = ending.closed;
            facts.tracked_role = ending.role;
            facts.tracked_turn = ending.turn;
            source.service = source.port_of(ending.role);
            if ending.role == Role::Server as u8 {
                source.owner.workload = listeners::owner(netns, source.service).workload;
            }
            return;
        }
        facts.closed = kernel::forget(Closed::No as u64) as u8;
        if facts.payload_len == 0 {
            return;
        }
    }
    if !met_listener {
        let listened = listeners::find(control, netns, segment.local_port, || {
            Tuple::of_segment(segment).address()
        });
        facts.listened = kernel::forget(listened as u64) as u8;
        if has_listener(facts) {
            source.service = segment.local_port;
        }
    }
    if has_listener(facts) {
        source.owner = listeners::owner(netns, segment.local_port);
        if !met_listener {
            // There is no socket that anybody could hold.
            source.owner.holder = 0;
        }
    }
}

/// Whether somebody listens, or has listened, where the segment went.
#[inline(always)]
fn has_listener(facts: &Facts) -> bool {
    facts.listened == Listened::Now as u8 || facts.listened == Listened::Before as u8
}

/// Whether the listener answers an overflow of its accept queue with a reset
/// (`sk_acceptq_is_full`, include/net/sock.h).
#[inline(always)]
fn accept_queue<A: Access>(sk: Option<Sock<A>>, facts: &mut Facts) {
    let Some(sk) = sk else {
        return;
    };
    let queued = sk.common::<u32>(Field::SkAckBacklog);
    let room = sk.common::<u32>(Field::SkMaxAckBacklog);
    let resets = sk
        .net()
        .and_then(|net| net.get::<u8>(Field::NetAbortOnOverflow));
    if let (Some(queued), Some(room), Some(resets)) = (queued, room, resets) {
        facts.accept_overflow = kernel::flag(queued > room && resets != 0);
        facts.known |= known::ACCEPT_OVERFLOW;
    }
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
    fact!(
        facts.no_fin_wait2 = tcp
            .get::<u32>(Field::TpLinger2)
            .map(|linger2| (linger2 >> 31) as u8),
        LINGER2
    );
    facts.mptcp = tcp.get::<u8>(Field::TpIsMptcp).unwrap_or_default() & 1;
    fact!(
        facts.linger_time = tcp.get::<u64>(Field::SkLingerTime).map(|time| time as u32),
        LINGER_TIME
    );
}

/// The facts that tell who has spoken last.
#[inline(always)]
pub(crate) fn turn(sk: Sock, facts: &mut Facts) {
    if let Some(tcp) = sk.tcp() {
        fact!(
            facts.sock_flags = tcp.get::<u64>(Field::SkFlags).map(|flags| flags as u8),
            SOCK_FLAGS
        );
        data(tcp, facts);
    }
}

/// Clocks, sequence numbers and volume; all meaningless before the handshake.
#[inline(always)]
fn data(tcp: TcpSock, facts: &mut Facts) {
    // SAFETY: takes no argument and reads a kernel variable.
    let now = unsafe { bpf_jiffies64() } as u32;
    let age = |then: u32| now.wrapping_sub(then);
    // The kernel keeps eight times the value.
    facts.srtt_us = tcp.get::<u32>(Field::TpSrttUs).unwrap_or_default() >> 3;
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

/// Whether the current task is the one that closes the socket: resets without a
/// segment come after the socket has left its state from system calls alone
/// (`__tcp_close`, `tcp_disconnect`, `inet_csk_listen_stop`). Timers run in
/// whatever task they interrupt, and a socket killed from outside (`ss -K`) is
/// still in its state.
#[inline(always)]
pub(crate) fn is_closing(facts: &Facts) -> bool {
    !facts.knows(known::SEGMENT) && facts.state == state::CLOSE
}

/// Whether the closing task is exiting, and how.
#[inline(always)]
pub(crate) fn task(facts: &mut Facts) {
    if !is_closing(facts) {
        return;
    }
    let code = process::exiting();
    facts.exiting = kernel::flag(code.is_some());
    fact!(facts.exit_code = code, EXIT_CODE);
}

/// What the header of the reset that arrived says of who made it, where it was noted.
#[inline(always)]
pub(crate) fn packet(sk: Sock, facts: &mut Facts) {
    let (Some(header), Some(tcp)) = (arrival::of(sk), sk.tcp()) else {
        return;
    };
    facts.ttl = header.ttl;
    facts.acknowledges_all = kernel::flag(
        header.flags & flag::ACK != 0 && tcp.get::<u32>(Field::TpSndNxt) == Some(header.ack),
    );
    facts.known |= known::PACKET;
    fact!(facts.min_rtt_us = tcp.min_rtt(), MIN_RTT);
}
