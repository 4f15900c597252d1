//! The record that travels through the ring buffer.

use crate::count::CountKey;
use crate::facts::Facts;
use crate::history::BUCKET_SLOTS;

/// One reset in detail. Fixed size, integers only, every byte initialised by
/// the program that writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// What the classifier decided from.
    pub facts: Facts,
    /// `CLOCK_MONOTONIC` when the tracepoint fired, nanoseconds.
    pub ktime_ns: u64,
    /// Socket cookie (`sock_common.skc_cookie`).
    pub sock_cookie: u64,
    /// Network namespace cookie (`net.net_cookie`).
    pub netns_cookie: u64,
    /// Inode of the cgroup v2 directory the socket was created in.
    pub cgroup_id: u64,
    /// Inode of the network namespace, as in `/proc/PID/ns/net`.
    pub netns: u32,
    /// Bit set of [`known`]: which of the fields of this struct hold a value.
    pub known: u32,
    /// Owner of the socket (`sk_uid`).
    pub uid: u32,
    /// Process (thread group) that caused the reset.
    pub pid: u32,
    /// Its command name, padded with zeros.
    pub comm: [u8; 16],
    /// Who holds the socket, [`crate::owner::Holder`] in a number.
    pub holder: u64,
    /// The holder's command name, padded with zeros; empty where it is not known.
    pub holder_comm: [u8; 16],
    /// The workload it belongs to (the id of its cgroup), 0 where that is not
    /// known.
    pub workload: u64,
    /// Segments retransmitted over the connection's life.
    pub retransmits: u32,
    /// Keep-alive idle time in force, jiffies.
    pub keepalive_time: u32,
    /// Keep-alive interval in force, jiffies.
    pub keepalive_intvl: u32,
    /// Identification field of the reset that arrived, IPv4 alone.
    pub ip_id: u16,
    /// Its window, as it stands in the header.
    pub packet_window: u16,
    /// Its sequence number.
    pub packet_seq: u32,
    /// Its acknowledgement number.
    pub packet_ack: u32,
    /// This host's address: 4 bytes in network order for IPv4, else 16.
    pub local_addr: [u8; 16],
    /// The peer's address, likewise.
    pub remote_addr: [u8; 16],
    /// This host's port, host byte order.
    pub local_port: u16,
    /// The peer's port, host byte order.
    pub remote_port: u16,
    /// [`crate::tcp::AF_INET`] or [`crate::tcp::AF_INET6`].
    pub family: u16,
    /// TCP flags of the reset that arrived, [`crate::tcp::flag`].
    pub packet_flags: u8,
    /// The kernel's reason number, or [`crate::reason::RAW_NONE`].
    pub reason: u8,
    /// Keep-alive probe count in force.
    pub keepalive_probes: u8,
    /// [`crate::cause::Cause`] as a byte.
    pub cause: u8,
    /// [`crate::cause::Impact`] as a byte.
    pub impact: u8,
    /// [`crate::cause::Role`] as a byte.
    pub role: u8,
    /// Slot of the table of [`Doubt`]s plus one, or 0. In a received event:
    /// this may be no reset. In a sent one: the receive event of the same
    /// connection was none.
    pub doubt: u32,
}

const _: () = assert!(size_of::<Event>() == 280);

/// Size of an [`Event`] on the wire, bytes.
pub const EVENT_SIZE: usize = size_of::<Event>();

/// Bits of [`Event::known`].
pub mod known {
    /// `family`, both addresses, both ports.
    pub const TUPLE: u32 = 1 << 0;
    /// `netns`.
    pub const NETNS: u32 = 1 << 1;
    /// `netns_cookie`.
    pub const NETNS_COOKIE: u32 = 1 << 2;
    /// `sock_cookie`.
    pub const SOCK_COOKIE: u32 = 1 << 3;
    /// `cgroup_id`.
    pub const CGROUP: u32 = 1 << 4;
    /// `uid`.
    pub const UID: u32 = 1 << 5;
    /// `pid` and `comm`.
    pub const OWNER: u32 = 1 << 6;
    /// `pid` and `comm` too, but of a process that destroyed somebody else's
    /// socket.
    pub const KILLER: u32 = 1 << 7;
    /// `retransmits`.
    pub const RETRANSMITS: u32 = 1 << 8;
    /// `keepalive_time`, `keepalive_intvl`, `keepalive_probes`.
    pub const KEEPALIVE: u32 = 1 << 9;
    /// `packet_seq`, `packet_ack`, `packet_window`, `packet_flags`, `ip_id`.
    pub const PACKET: u32 = 1 << 10;
}

/// A receive event that may be none.
///
/// In FIN_WAIT with the receiving half shut down, `tcp_receive_reset` fires for
/// a RST and also for plain data (`tcp_rcv_state_process` calls `tcp_reset`;
/// 5.10 to 7.3), where `tcp_send_reset` follows for the same socket. Which of
/// the two it was is not known when it fires, so the receive program leaves its
/// mark here and the send program looks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Doubt {
    /// Low half of the socket's address, and `rcv_nxt`: with the ports this
    /// tells the connection from the next one at the same address.
    pub connection: u64,
    /// [`Doubt::ports`] of the connection.
    pub ports: u32,
    /// 1 once the send program has taken the receive event back.
    pub retracted: u32,
    /// What the receive event was counted under.
    pub key: CountKey,
    /// Age it was counted with, jiffies; `u64::MAX` where it is not known.
    pub age: u64,
}

impl Doubt {
    /// Both ports in one number, never 0 for a connection.
    #[must_use]
    #[inline(always)]
    pub const fn ports(local: u16, remote: u16) -> u32 {
        (local as u32) << 16 | remote as u32
    }
}

/// Slots of the table of [`Doubt`]s; a power of two. The programs need an entry
/// for the microsecond between the two tracepoints, the reader for the moment
/// it holds a doubtful event back.
pub const DOUBT_SLOTS: usize = 1024;

/// State shared between the programs and the ring buffer's reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Control {
    /// 1 when the reader sleeps and wants a wake-up for the next record.
    pub need_wake: u64,
    /// Detailed events the reader allows, counted from the start; the reader
    /// tops it up, so a reader that has stopped stops the detail by itself.
    pub allowed: u64,
    /// Of these, how many are left to keys that have had less than their share.
    pub reserve: u64,
    /// Counts the periods of the shares.
    pub period: u64,
    /// Jiffies after which a connection counts as idle.
    pub idle: u64,
    /// Microseconds of a jiffy.
    pub jiffy_us: u64,
    /// `CLOCK_MONOTONIC` and `jiffies64` at one moment, from the `clock`
    /// program: they give the kernel's HZ.
    pub clock_ktime_ns: u64,
    /// See `clock_ktime_ns`.
    pub clock_jiffies: u64,
    /// [`crate::history::CLOSED_SECONDS`] as [`crate::history::Ending::units`].
    pub closed: u64,
    /// 1 where listeners may be unknown: the table was full, or those from
    /// before the start could not be found.
    pub listeners_forgotten: u64,
    /// Resets of a key in a period, on each CPU, that are told in detail before
    /// the reserve is closed to it.
    pub share: u64,
    /// Keeps the next one apart.
    pub pad: [u64; 5],
    /// Detailed events sent, counted from the start. May overshoot `allowed`
    /// by one for each CPU. On a cache line of its own: every CPU reads the
    /// fields above for every reset, and writes this only when it sends detail.
    pub used: u64,
    /// Keeps it so.
    pub pad2: [u64; 7],
    /// [`crate::history::bucket_bounds`].
    pub buckets: [u32; BUCKET_SLOTS],
}

const _: () = assert!(core::mem::offset_of!(Control, used) == 128);
const _: () = assert!(core::mem::offset_of!(Control, buckets) == 192);

/// What became of the detailed events, one for each cause and CPU. The counts of
/// resets never depend on these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DetailStats {
    /// Left out because the budget was used up.
    pub sampled_out: u64,
    /// Left out because the ring buffer was full.
    pub lost: u64,
}

/// Words of the bit set of ports that carry many requests at once.
pub const PORT_WORDS: usize = (u16::MAX as usize + 1) / 64;
