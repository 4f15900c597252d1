//! One reset as users see it: the JSON object of `rst watch --json` and of the
//! event stream. Field names are a public interface; unknown facts are `null`.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Version of the JSON object.
pub const VERSION: u32 = 1;

/// One reset with everything known about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reset {
    /// [`VERSION`].
    pub v: u32,
    /// When it happened, UTC, to the nanosecond (RFC 3339).
    pub time: jiff::Timestamp,
    /// Host name of the machine.
    pub host: String,
    /// `sent` or `received`.
    pub direction: String,
    /// Label of the cause.
    pub cause: String,
    /// Label of the impact.
    pub impact: String,
    /// What the cause rests on, in words with the numbers.
    pub basis: String,
    /// What the kernel held for the connection: `socket`, `timewait`, `none`, ..
    pub origin: String,
    /// The kernel's own reason by name.
    pub reason: Option<String>,
    /// This host's end.
    pub local: Option<Endpoint>,
    /// The peer's end.
    pub remote: Option<Endpoint>,
    /// `ipv4` or `ipv6`; an IPv4-mapped address counts as IPv4.
    pub family: Option<String>,
    /// `client`, `server` or `unknown`: what this host was.
    pub role: String,
    /// State of the socket before the reset, where it is known.
    pub state: Option<String>,
    /// The process that owns the socket.
    pub owner: Option<Owner>,
    /// The process that owns the other end, where that is on this host too and has
    /// told of the same reset.
    pub peer_owner: Option<Owner>,
    /// Label of the cause that the other end tells.
    pub peer_cause: Option<String>,
    /// The process that destroyed somebody else's socket, as `ss -K` does.
    pub killer: Option<Owner>,
    /// The service that owns the socket.
    pub workload: Option<Workload>,
    /// Path of its cgroup.
    pub cgroup: Option<String>,
    /// User that owns the socket.
    pub uid: Option<u32>,
    /// Inode of the network namespace.
    pub netns: Option<u32>,
    /// Socket cookie, as `ss -e` prints it.
    pub cookie: Option<u64>,
    /// Community ID v1 flow hash, seed 0: the same whichever end is local.
    pub community_id: Option<String>,
    /// Who sent data last: `us` or `peer`.
    pub turn: Option<String>,
    /// Milliseconds since data last arrived.
    pub idle_rx_ms: Option<u64>,
    /// Milliseconds since this host last sent data.
    pub idle_tx_ms: Option<u64>,
    /// Milliseconds since any segment of the peer arrived.
    pub idle_segment_ms: Option<u64>,
    /// Keep-alive or window probes without an answer.
    pub probes_out: Option<u32>,
    /// Age of the connection, milliseconds.
    pub age_ms: Option<u64>,
    /// Payload bytes sent, retransmissions not counted.
    pub bytes_sent: Option<u64>,
    /// Payload bytes received.
    pub bytes_received: Option<u64>,
    /// Bytes sent and not acknowledged.
    pub unacked_bytes: Option<u32>,
    /// Bytes written and not sent yet.
    pub unsent_bytes: Option<u32>,
    /// Bytes received and not read.
    pub unread_bytes: Option<u32>,
    /// Smoothed round trip time, microseconds.
    pub srtt_us: Option<u32>,
    /// Segments retransmitted.
    pub retransmits: Option<u32>,
    /// Keep-alive setting of the socket.
    pub keepalive: Option<Keepalive>,
    /// `SO_LINGER` where it is on.
    pub linger: Option<Linger>,
    /// How the process was exiting, where it was.
    pub exit: Option<Exit>,
    /// Header of the reset itself.
    pub packet: Packet,
    /// Whether it is the peer's own, where the header of a reset that arrived is known.
    pub forgery: Option<Forgery>,
    /// The restart it belongs to, where the port has lost its listener.
    pub restart: Option<Restart>,
    /// Whose timer it may have been.
    pub hint: Option<String>,
    /// What to do about it.
    pub advice: Option<String>,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address; IPv4-mapped ones as IPv4.
    pub ip: IpAddr,
    /// TCP port.
    pub port: u16,
}

/// The process that owns a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process id.
    pub pid: Option<u32>,
    /// Command name of the process.
    pub comm: String,
    /// How it was found: label of [`rst_common::cause::OwnerSource`].
    pub source: String,
}

/// The service that owns a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// `systemd`, `docker`, `podman`, `containerd`, `crio`, `kubernetes`
    /// or `cgroup`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Unique id of the pod, of `kubernetes` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

impl Workload {
    /// Its name, where that says more than that nothing has sorted the process into a cgroup:
    /// all of these are in the root.
    #[must_use]
    pub fn telling_name(&self) -> Option<&str> {
        (self.name != "/").then_some(&self.name)
    }
}

/// A service that was not there for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Whose.
    pub workload: Option<Workload>,
    /// When it stopped listening, UTC.
    pub stopped: jiff::Timestamp,
    /// When it listened again, UTC; `None` as long as it does not.
    pub started: Option<jiff::Timestamp>,
    /// Resets since it stopped, for want of a listener.
    pub resets: u64,
}

/// The line of the event stream that tells of a restart when it is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarted {
    /// [`VERSION`].
    pub v: u32,
    /// When it was over, UTC.
    pub time: jiff::Timestamp,
    /// Host name of the machine.
    pub host: String,
    /// The port that was without a listener.
    pub port: u16,
    /// Inode of its network namespace.
    pub netns: Option<u32>,
    /// What happened.
    pub restart: Restart,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A reset.
    Reset(Arc<Reset>),
    /// A restart that is over.
    Restarted(Arc<Restarted>),
}

impl From<Reset> for Told {
    fn from(reset: Reset) -> Self {
        Self::Reset(Arc::new(reset))
    }
}

impl From<Restarted> for Told {
    fn from(restarted: Restarted) -> Self {
        Self::Restarted(Arc::new(restarted))
    }
}

/// Keep-alive setting of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keepalive {
    /// `SO_KEEPALIVE`.
    pub enabled: bool,
    /// Idle time before the first probe, seconds.
    pub time_s: Option<u64>,
    /// Time between probes, seconds.
    pub interval_s: Option<u64>,
    /// Probes before the connection is given up.
    pub probes: Option<u32>,
}

/// `SO_LINGER` of a socket that has it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linger {
    /// The time it lingers, seconds; 0 asks for a reset.
    pub time_s: u64,
}

/// How a process was exiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, where it exited by itself.
    pub code: Option<u32>,
    /// Signal, where one killed it.
    pub signal: Option<u32>,
}

/// Header of the reset itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// Time to live, or hop limit.
    pub ttl: Option<u8>,
    /// Sequence number.
    pub seq: Option<u32>,
    /// Acknowledgement number.
    pub ack: Option<u32>,
    /// Window, as it stands in the header.
    pub window: Option<u32>,
    /// TCP flags, as in `RST,ACK`.
    pub flags: Option<String>,
    /// Identification field of IPv4.
    pub ip_id: Option<u16>,
}

/// Whether a reset that arrived is the peer's own; see
/// [`rst_common::classify::forgery`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgery {
    /// How far the evidence tells against the peer; from 3 on it is `forged`.
    pub score: u8,
    /// Time to live, or hop limit, of the segment with which the peer completed the
    /// handshake.
    pub handshake_ttl: Option<u8>,
    /// What does not fit.
    pub evidence: Vec<String>,
}
