//! The table of kernel fields the programs read.
//!
//! Rust emits no CO-RE relocations, so the daemon looks each field up in the
//! running kernel's BTF and hands the programs their offsets as read-only data
//! ([`Layout`]). The verifier then knows each offset as a constant.

/// Offset of a field that the running kernel does not have in the expected
/// form: the fact it feeds is unknown.
pub const ABSENT: u32 = u32::MAX;

/// What kind of member the programs expect to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer or enum of exactly this many bytes.
    Int(u32),
    /// An integer of any size, of which the low byte is read (little endian).
    LowByte,
    /// A bit field, of which the byte is read.
    BitField,
    /// A pointer.
    Pointer,
    /// A struct, union or array of exactly this many bytes, read as bytes.
    Bytes(u32),
}

/// Whether the daemon can start without the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Start-up stops with a message that names it.
    Required,
    /// The fact is unknown without it.
    Optional,
}

/// One kernel field: where it is and what it must look like.
#[derive(Clone, Copy, Debug)]
pub struct KernelField {
    /// The struct it is looked up in.
    pub root: &'static str,
    /// Member path from there; members of anonymous structs and unions count
    /// as members of their parent.
    pub path: &'static [&'static str],
    /// What it must look like.
    pub kind: Kind,
    /// Whether it may be missing.
    pub need: Need,
}

macro_rules! fields {
    ($( $variant:ident = $root:ident $(. $member:ident)+ : $kind:expr, $need:ident; )*) => {
        /// Index of a kernel field in [`FIELDS`] and in a [`Layout`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        #[expect(missing_docs, reason = "each entry is its kernel path, stated in the table")]
        pub enum Field { $( $variant, )* }

        /// Every kernel field, in the order of [`Field`].
        pub const FIELDS: &[KernelField] = &[ $( KernelField {
            root: stringify!($root),
            path: &[ $( stringify!($member), )+ ],
            kind: $kind,
            need: Need::$need,
        }, )* ];
    };
}

fields! {
    // Readable on every kind of socket, TIME_WAIT and request included.
    SkFamily = sock_common.skc_family: Kind::Int(2), Required;
    SkState = sock_common.skc_state: Kind::Int(1), Required;
    SkNum = sock_common.skc_num: Kind::Int(2), Required;
    SkDport = sock_common.skc_dport: Kind::Int(2), Required;
    SkDaddr = sock_common.skc_daddr: Kind::Int(4), Required;
    SkRcvSaddr = sock_common.skc_rcv_saddr: Kind::Int(4), Required;
    SkV6Daddr = sock_common.skc_v6_daddr: Kind::Bytes(16), Optional;
    SkV6RcvSaddr = sock_common.skc_v6_rcv_saddr: Kind::Bytes(16), Optional;
    SkIpv6only = sock_common.skc_ipv6only: Kind::BitField, Optional;
    SkNet = sock_common.skc_net.net: Kind::Pointer, Required;
    SkProtocol = sock.sk_protocol: Kind::Int(2), Required;
    SocketSk = socket.sk: Kind::Pointer, Optional;
    SkErrSoft = sock.sk_err_soft: Kind::Int(4), Optional;
    SkErr = sock.sk_err: Kind::Int(4), Optional;
    SkCookie = sock_common.skc_cookie.counter: Kind::Int(8), Optional;

    // Full sockets.
    SkShutdown = sock.sk_shutdown: Kind::Int(1), Optional;
    SkFlags = sock_common.skc_flags: Kind::Int(8), Optional;
    SkLingerTime = sock.sk_lingertime: Kind::Int(8), Optional;
    SkSocket = sock.sk_socket: Kind::Pointer, Optional;
    SkAckBacklog = sock.sk_ack_backlog: Kind::Int(4), Optional;
    SkMaxAckBacklog = sock.sk_max_ack_backlog: Kind::Int(4), Optional;
    SkUid = sock.sk_uid: Kind::Bytes(4), Optional;
    SkCgroup = sock.sk_cgrp_data.cgroup: Kind::Pointer, Optional;
    CgroupKn = cgroup.kn: Kind::Pointer, Optional;
    KnId = kernfs_node.id: Kind::Int(8), Optional;
    InetSport = inet_sock.inet_sport: Kind::Int(2), Required;
    IcskLrcvtime = inet_connection_sock.icsk_ack.lrcvtime: Kind::Int(4), Optional;
    IcskProbesOut = inet_connection_sock.icsk_probes_out: Kind::Int(1), Optional;
    TpLsndtime = tcp_sock.lsndtime: Kind::Int(4), Optional;
    TpRcvTstamp = tcp_sock.rcv_tstamp: Kind::Int(4), Optional;
    TpRcvNxt = tcp_sock.rcv_nxt: Kind::Int(4), Optional;
    TpCopiedSeq = tcp_sock.copied_seq: Kind::Int(4), Optional;
    TpSndWl1 = tcp_sock.snd_wl1: Kind::Int(4), Optional;
    TpWriteSeq = tcp_sock.write_seq: Kind::Int(4), Optional;
    TpSndNxt = tcp_sock.snd_nxt: Kind::Int(4), Optional;
    TpSndUna = tcp_sock.snd_una: Kind::Int(4), Optional;
    TpBytesSent = tcp_sock.bytes_sent: Kind::Int(8), Optional;
    TpBytesRetrans = tcp_sock.bytes_retrans: Kind::Int(8), Optional;
    TpBytesAcked = tcp_sock.bytes_acked: Kind::Int(8), Optional;
    TpBytesReceived = tcp_sock.bytes_received: Kind::Int(8), Optional;
    TpLinger2 = tcp_sock.linger2: Kind::Int(4), Optional;
    TpIsMptcp = tcp_sock.is_mptcp: Kind::Int(1), Optional;
    TpSrttUs = tcp_sock.srtt_us: Kind::Int(4), Optional;
    // `struct minmax`: three samples of a time and a value each (include/linux/win_minmax.h).
    TpRttMin = tcp_sock.rtt_min: Kind::Bytes(24), Optional;
    TpTotalRetrans = tcp_sock.total_retrans: Kind::Int(4), Optional;
    TpKeepaliveTime = tcp_sock.keepalive_time: Kind::Int(4), Optional;
    TpKeepaliveIntvl = tcp_sock.keepalive_intvl: Kind::Int(4), Optional;
    TpKeepaliveProbes = tcp_sock.keepalive_probes: Kind::Int(1), Optional;

    // Network namespaces. Before 5.12 the cookie is made on demand and is an
    // `atomic64_t`, so it is absent here.
    NetInum = net.ns.inum: Kind::Int(4), Required;
    NetCookie = net.net_cookie: Kind::Int(8), Optional;
    NetAbortOnOverflow = net.ipv4.sysctl_tcp_abort_on_overflow: Kind::LowByte, Optional;
    NetKeepaliveTime = net.ipv4.sysctl_tcp_keepalive_time: Kind::Int(4), Optional;
    NetKeepaliveIntvl = net.ipv4.sysctl_tcp_keepalive_intvl: Kind::Int(4), Optional;
    NetKeepaliveProbes = net.ipv4.sysctl_tcp_keepalive_probes: Kind::LowByte, Optional;

    // The segment that is answered.
    SkbHead = sk_buff.head: Kind::Pointer, Required;
    SkbData = sk_buff.data: Kind::Pointer, Required;
    SkbLen = sk_buff.len: Kind::Int(4), Required;
    SkbDataLen = sk_buff.data_len: Kind::Int(4), Required;
    SkbNetworkHeader = sk_buff.network_header: Kind::Int(2), Required;
    SkbTransportHeader = sk_buff.transport_header: Kind::Int(2), Optional;
    SkbCb = sk_buff.cb: Kind::Bytes(48), Optional;
    TcpCbFlags = tcp_skb_cb.tcp_flags: Kind::LowByte, Optional;
    SkbDev = sk_buff.dev: Kind::Pointer, Required;
    DevNet = net_device.nd_net.net: Kind::Pointer, Required;
    SkbRoute = sk_buff._skb_refdst: Kind::Int(8), Optional;
    RouteDev = dst_entry.dev: Kind::Pointer, Optional;
    RouteType = rtable.rt_type: Kind::Int(2), Optional;
    Route6Flags = rt6_info.rt6i_flags: Kind::Int(4), Optional;

    // A task.
    TaskTgid = task_struct.tgid: Kind::Int(4), Optional;
    TaskCgroups = task_struct.cgroups: Kind::Pointer, Optional;
    CssSetCgroup = css_set.dfl_cgrp: Kind::Pointer, Optional;
    TaskFlags = task_struct.flags: Kind::Int(4), Optional;
    TaskGroupLeader = task_struct.group_leader: Kind::Pointer, Optional;
    TaskComm = task_struct.comm: Kind::Bytes(16), Optional;
    TaskStartBoottime = task_struct.start_boottime: Kind::Int(8), Optional;
    TaskSignal = task_struct.signal: Kind::Pointer, Optional;
    SignalExitCode = signal_struct.group_exit_code: Kind::Int(4), Optional;
}

/// Number of kernel fields.
pub const FIELD_COUNT: usize = FIELDS.len();

/// Byte offset of each [`Field`], or [`ABSENT`].
pub type Layout = [u32; FIELD_COUNT];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_is_listed_twice() {
        for (index, field) in FIELDS.iter().enumerate() {
            for other in &FIELDS[index + 1..] {
                assert!(
                    (field.root, field.path) != (other.root, other.path),
                    "{}.{:?} stands twice",
                    field.root,
                    field.path
                );
            }
        }
    }

    #[test]
    fn a_field_is_its_own_index() {
        assert_eq!(FIELDS[Field::SkFamily as usize].path, ["skc_family"]);
        assert_eq!(
            FIELDS[Field::SignalExitCode as usize].path,
            ["group_exit_code"]
        );
        assert_eq!(Field::SignalExitCode as usize + 1, FIELD_COUNT);
    }
}
