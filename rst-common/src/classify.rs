//! The one function that decides why a connection was reset.
//!
//! Ordered rules, first match wins; what each rests on stands in the table of
//! [`Cause`]. A rule that can't prove its impact says `uncertain`.
//!
//! Sent:
//! 1. no socket: `refused` (SYN), `stray` (no data);
//! 2. TIME_WAIT: `late_data`;
//! 3. a listener: `listen_overflow`;
//! 4. a connection answers a segment: `protocol_error` (handshake), `late_data`;
//! 5. a connection still in its state: `keepalive_timeout`, `memory_pressure`,
//!    `admin_kill`;
//! 6. a connection that was closed: `process_exit`, `unread_data`,
//!    `listener_closed`, `app_abort`, `memory_pressure`, `keepalive_timeout`.
//!
//! Received, by the state of our socket:
//! 1. SYN_SENT: `refused`;
//! 2. the peer had closed: `peer_closed`;
//! 3. we had closed: `after_close`;
//! 4. nothing was received: `no_data`;
//! 5. something is out: `stale_probe`, `stale_reuse`;
//! 6. an answer is pending: `no_response`, `peer_gave_up`;
//! 7. nothing moved for long: `idle_timeout`;
//! 8. otherwise `peer_abort`.

use crate::cause::{Cause, Direction, Impact, Origin, Role, Turn};
use crate::facts::{Facts, known};
use crate::reason::Reason;
use crate::tcp::{flag, shutdown, sock_flag, state};

/// What the classifier decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why.
    pub cause: Cause,
    /// Who lost what.
    pub impact: Impact,
    /// What this host was.
    pub role: Role,
}

/// Decides cause, impact and role of one reset. A connection counts as idle
/// after `idle` jiffies.
#[must_use]
#[inline(always)]
pub fn classify(facts: &Facts, idle: u32) -> Verdict {
    let role = role(facts);
    let (cause, impact) = if facts.direction == Direction::Sent as u8 {
        sent(facts, role)
    } else {
        received(facts, role, idle)
    };
    Verdict {
        cause,
        impact,
        role,
    }
}

#[inline(always)]
fn sent(facts: &Facts, role: Role) -> (Cause, Impact) {
    if facts.origin == Origin::None as u8 {
        return sent_without_socket(facts);
    }
    if facts.origin == Origin::TimeWait as u8 {
        // A bare SYN or ACK here says nothing of lost data.
        return if carries_data(facts) {
            (Cause::LateData, late_data_impact(facts))
        } else {
            (Cause::Unknown, Impact::Uncertain)
        };
    }
    let reason = Reason::from_byte(facts.reason);
    if facts.state == state::LISTEN {
        // The last ACK of a handshake that found the accept queue full
        // (`tcp_check_req`, listen_overflow).
        return if matches!(reason, Reason::InvalidSyn) && is_plain_ack(facts) {
            (Cause::ListenOverflow, Impact::ConnectFailed)
        } else {
            (Cause::Unknown, Impact::Uncertain)
        };
    }
    if facts.knows(known::SEGMENT) {
        return sent_for_segment(facts, reason);
    }
    if facts.state != state::CLOSE {
        return sent_in_state(facts, reason);
    }
    match reason {
        Reason::AbortOnClose if facts.exiting != 0 => {
            (Cause::ProcessExit, exit_impact(facts, role))
        }
        Reason::AbortOnClose => (
            Cause::UnreadData,
            if role as u8 == Role::Server as u8 && facts.unread != 0 {
                Impact::ConnectionBroken
            } else {
                Impact::Uncertain
            },
        ),
        Reason::State | Reason::DisconnectWithData if was_never_accepted(facts) => {
            (Cause::ListenerClosed, Impact::ConnectFailed)
        }
        Reason::State | Reason::DisconnectWithData if lingers_zero(facts) => {
            if facts.exiting != 0 {
                (Cause::ProcessExit, app_abort_impact(facts, role))
            } else {
                (Cause::AppAbort, app_abort_impact(facts, role))
            }
        }
        Reason::AbortOnMemory => (Cause::MemoryPressure, Impact::ConnectionBroken),
        Reason::KeepaliveTimeout => (Cause::KeepaliveTimeout, Impact::ConnectionBroken),
        Reason::State
        | Reason::DisconnectWithData
        | Reason::AbortOnData
        | Reason::AbortOnLinger
        | Reason::InvalidSyn
        | Reason::Unspecified => (Cause::Unknown, Impact::Uncertain),
    }
}

/// A full socket answers a segment.
#[inline(always)]
fn sent_for_segment(facts: &Facts, reason: Reason) -> (Cause, Impact) {
    if facts.state == state::SYN_SENT {
        // `tcp_rcv_synsent_state_process`: a bad ACK; the SYN is sent again.
        return (Cause::ProtocolError, Impact::Benign);
    }
    if facts.state == state::SYN_RECV {
        // The handshake goes on: the right ACK may still come.
        return (Cause::ProtocolError, Impact::Uncertain);
    }
    // Without data it is `TCP_LINGER2` below zero, where the FIN's ACK is enough.
    if matches!(reason, Reason::AbortOnData) && facts.payload_len != 0 {
        return (Cause::LateData, late_data_impact(facts));
    }
    (Cause::Unknown, Impact::Uncertain)
}

/// A reset of our own accord while the socket is still in its state.
#[inline(always)]
fn sent_in_state(facts: &Facts, reason: Reason) -> (Cause, Impact) {
    match reason {
        Reason::KeepaliveTimeout => (Cause::KeepaliveTimeout, Impact::ConnectionBroken),
        Reason::AbortOnMemory => (Cause::MemoryPressure, Impact::ConnectionBroken),
        // `tcp_abort` resets before it leaves the state, `tcp_disconnect` after.
        // The timer of an orphan in FIN_WAIT2 gives the same reason.
        Reason::State | Reason::DisconnectWithData
            if facts.knows(known::SOCK_FLAGS) && facts.sock_flags & sock_flag::DEAD == 0 =>
        {
            (Cause::AdminKill, Impact::ConnectionBroken)
        }
        // MPTCP resets its subflows in their states with the reason of a close.
        Reason::AbortOnClose
        | Reason::State
        | Reason::DisconnectWithData
        | Reason::AbortOnData
        | Reason::AbortOnLinger
        | Reason::InvalidSyn
        | Reason::Unspecified => (Cause::Unknown, Impact::Uncertain),
    }
}

/// A client that exits by itself with status 0 may have had all it wanted; who
/// is no server for certain may be one.
#[inline(always)]
fn exit_impact(facts: &Facts, role: Role) -> Impact {
    let clean = facts.knows(known::EXIT_CODE) && facts.exit_code == 0;
    if clean && role as u8 != Role::Server as u8 {
        Impact::Uncertain
    } else {
        Impact::ConnectionBroken
    }
}

/// A connection in the accept queue: no application has it yet, and it is no
/// orphan either (`inet_child_forget`).
#[inline(always)]
fn was_never_accepted(facts: &Facts) -> bool {
    facts.knows(known::HAS_SOCKET | known::SOCK_FLAGS)
        && facts.has_socket == 0
        && facts.mptcp == 0
        && facts.sock_flags & sock_flag::DEAD == 0
}

#[inline(always)]
fn sent_without_socket(facts: &Facts) -> (Cause, Impact) {
    if !facts.knows(known::SEGMENT) {
        return (Cause::Unknown, Impact::Uncertain);
    }
    if facts.segment_flags & (flag::SYN | flag::ACK) == flag::SYN {
        // Whether anybody ever listened there is not known here, and a scan of
        // closed ports must not look like a failing service.
        return (Cause::Refused, Impact::Uncertain);
    }
    if facts.payload_len == 0 {
        return (Cause::Stray, Impact::Benign);
    }
    (Cause::Unknown, Impact::Uncertain)
}

#[inline(always)]
fn received(facts: &Facts, role: Role, idle: u32) -> (Cause, Impact) {
    if facts.state == state::SYN_SENT {
        // An additional subflow may be refused while the connection lives.
        let impact = if facts.mptcp == 0 {
            Impact::ConnectFailed
        } else {
            Impact::Uncertain
        };
        return (Cause::Refused, impact);
    }
    if facts.state == state::SYN_RECV {
        return (Cause::Unknown, Impact::Uncertain);
    }
    if facts.state == state::CLOSE_WAIT || facts.state == state::LAST_ACK {
        return (Cause::PeerClosed, undelivered_impact(facts));
    }
    if facts.sock_flags & sock_flag::DEAD != 0 || facts.shutdown & shutdown::RCV != 0 {
        return (Cause::AfterClose, undelivered_impact(facts));
    }
    let needed = known::IDLE_TX
        | known::IDLE_RX
        | known::IDLE_SEGMENT
        | known::PROBES_OUT
        | known::UNACKED
        | known::UNSENT
        | known::BYTES_SENT
        | known::BYTES_RECEIVED;
    if !facts.knows(needed) {
        return (Cause::Unknown, Impact::Uncertain);
    }
    let client = role as u8 == Role::Client as u8;
    let server = role as u8 == Role::Server as u8;
    if server && received_bytes(facts) == 0 {
        // A health check, a scan, a banner check, a cancelled connect.
        return (Cause::NoData, Impact::Benign);
    }
    if client
        && facts.state == state::ESTABLISHED
        && received_bytes(facts) == 0
        && facts.bytes_sent == 0
        && facts.idle_segment < idle
    {
        // Nothing but the handshake came: its last segment is the connection's age.
        return (Cause::NoData, Impact::ConnectFailed);
    }
    let unacked = unacked_data(facts);
    if unacked == 0 && facts.probes_out != 0 {
        return (Cause::StaleProbe, general_impact(facts, role));
    }
    if unacked != 0 && facts.idle_segment >= idle {
        return (Cause::StaleReuse, Impact::ConnectionBroken);
    }
    let last = turn(facts) as u8;
    let outstanding = unacked != 0 || facts.unsent != 0;
    let silent = facts.idle_rx >= idle && facts.idle_tx >= idle;
    let many = facts.multiplexed != 0;
    if client && !many && last == Turn::Us as u8 && !outstanding && silent {
        return (Cause::NoResponse, Impact::ConnectionBroken);
    }
    if server && !many && last == Turn::Peer as u8 {
        return (Cause::PeerGaveUp, Impact::ConnectionBroken);
    }
    if silent && !outstanding {
        return (Cause::IdleTimeout, Impact::Uncertain);
    }
    (Cause::PeerAbort, general_impact(facts, role))
}

/// The rule for causes that say nothing of the impact themselves.
#[inline(always)]
fn general_impact(facts: &Facts, role: Role) -> Impact {
    if !facts.knows(known::UNACKED | known::UNSENT) {
        return Impact::Uncertain;
    }
    if unacked_data(facts) != 0 || facts.unsent != 0 {
        return Impact::ConnectionBroken;
    }
    pending_impact(facts, role)
}

/// Bytes sent and not acknowledged, without our FIN.
#[must_use]
#[inline(always)]
pub fn unacked_data(facts: &Facts) -> u32 {
    facts.unacked.saturating_sub(fin_in_flight(facts))
}

/// Bytes the peer has not acknowledged, sent or not, without our FIN.
#[must_use]
#[inline(always)]
pub fn undelivered_data(facts: &Facts) -> u32 {
    let fin = u32::from(sent_fin(facts.state));
    facts
        .unacked
        .saturating_add(facts.unsent)
        .saturating_sub(fin)
}

/// Payload bytes received: the kernel counts the peer's FIN as one.
#[must_use]
#[inline(always)]
pub fn received_bytes(facts: &Facts) -> u64 {
    let fin = facts.sock_flags & sock_flag::DONE != 0;
    facts.bytes_received.saturating_sub(u64::from(fin))
}

/// With nothing outstanding: lost where an answer was pending, nothing where the
/// server had answered.
#[inline(always)]
fn pending_impact(facts: &Facts, role: Role) -> Impact {
    let last = turn(facts) as u8;
    let us = last == Turn::Us as u8;
    let peer = last == Turn::Peer as u8;
    let client = role as u8 == Role::Client as u8;
    let server = role as u8 == Role::Server as u8;
    if facts.multiplexed != 0 {
        Impact::Uncertain
    } else if (client && us) || (server && peer) {
        Impact::ConnectionBroken
    } else if server && us {
        Impact::Benign
    } else {
        Impact::Uncertain
    }
}

/// Largest number of unacknowledged bytes that a FIN and a TLS close_notify
/// explain: 24 bytes in TLS 1.3, 31 in TLS 1.2 with AES-GCM, 1 for the FIN.
const CLOSE_NOTIFY_MAX: u32 = 32;

/// An alert record that is not encrypted.
const PLAINTEXT_ALERT: u32 = 7;

/// Largest TLS record that may be no application data (a ticket, a key update).
const SMALL_TLS_RECORD: u32 = 64;

/// The peer had closed or we had: benign where nothing but a farewell was
/// undelivered.
#[inline(always)]
fn undelivered_impact(facts: &Facts) -> Impact {
    if !facts.knows(known::UNACKED | known::UNSENT) {
        return Impact::Uncertain;
    }
    let undelivered = undelivered_data(facts);
    if undelivered == 0 || undelivered == 24 || undelivered == 31 {
        Impact::Benign
    } else {
        Impact::ConnectionBroken
    }
}

#[inline(always)]
fn late_data_impact(facts: &Facts) -> Impact {
    if !facts.knows(known::PAYLOAD) {
        // Senders on this host keep their payload where it can't be read.
        return if facts.payload_len <= SMALL_TLS_RECORD {
            Impact::Uncertain
        } else {
            Impact::ConnectionBroken
        };
    }
    // RFC 8446 section 5.1: type, version 3.x, length.
    let [kind, major, _minor, length_high, length_low] = facts.payload;
    let record = (u32::from(length_high) << 8 | u32::from(length_low)) + 5;
    let tls = (0x14..=0x17).contains(&kind) && major == 3;
    let one_record = tls && record == facts.payload_len;
    // A plaintext alert of 2 bytes may be a fatal one.
    let alert = kind == 0x15 && facts.payload_len != PLAINTEXT_ALERT;
    if one_record
        && ((alert && facts.payload_len < CLOSE_NOTIFY_MAX)
            || (kind == 0x17 && facts.payload_len == 24))
    {
        Impact::Benign
    } else if tls && facts.payload_len <= SMALL_TLS_RECORD {
        Impact::Uncertain
    } else {
        Impact::ConnectionBroken
    }
}

#[inline(always)]
fn app_abort_impact(facts: &Facts, role: Role) -> Impact {
    if !facts.knows(known::UNREAD | known::UNSENT | known::UNACKED) {
        return Impact::Uncertain;
    }
    if facts.unread != 0 || facts.unsent != 0 || facts.unacked > 1 {
        return Impact::ConnectionBroken;
    }
    if facts.unacked == 1 {
        // A byte, or the FIN of a shutdown before.
        return Impact::Uncertain;
    }
    let client = role as u8 == Role::Client as u8;
    if client && facts.multiplexed == 0 && turn(facts) as u8 == Turn::Peer as u8 {
        // Our own application has its answer and throws the connection away.
        return Impact::Benign;
    }
    pending_impact(facts, role)
}

#[inline(always)]
fn carries_data(facts: &Facts) -> bool {
    facts.knows(known::SEGMENT) && facts.payload_len != 0
}

#[inline(always)]
fn is_plain_ack(facts: &Facts) -> bool {
    facts.knows(known::SEGMENT) && facts.segment_flags & (flag::SYN | flag::ACK) == flag::ACK
}

#[inline(always)]
fn lingers_zero(facts: &Facts) -> bool {
    facts.knows(known::SOCK_FLAGS | known::LINGER_TIME)
        && facts.sock_flags & sock_flag::LINGER != 0
        && facts.linger_time == 0
}

/// 1 where our FIN is part of `snd_nxt`; with data still unsent it waits behind
/// that.
#[inline(always)]
fn fin_in_flight(facts: &Facts) -> u32 {
    u32::from(sent_fin(facts.state) && facts.unsent == 0)
}

/// States after our FIN was written.
#[inline(always)]
const fn sent_fin(state: u8) -> bool {
    state == state::FIN_WAIT1
        || state == state::FIN_WAIT2
        || state == state::CLOSING
        || state == state::LAST_ACK
}

/// Who sent data last.
///
/// On a tie within one jiffy the sequence numbers decide: `snd_wl1` is the
/// sequence of the peer's last segment, so it equals `rcv_nxt` when that
/// segment brought nothing new, as the ACK of our answer does; otherwise the
/// peer's last segment was data, and it came after ours if ours is acknowledged.
/// A FIN blurs both, and our own keep-alive probe draws an ACK too: then the
/// turn is unknown.
#[must_use]
#[inline(always)]
pub fn turn(facts: &Facts) -> Turn {
    let needed = known::IDLE_TX
        | known::IDLE_RX
        | known::BYTES_SENT
        | known::BYTES_RECEIVED
        | known::SOCK_FLAGS
        | known::UNACKED
        | known::PROBES_OUT;
    if !facts.knows(needed) || facts.probes_out != 0 {
        return Turn::Unknown;
    }
    let received = received_bytes(facts);
    if facts.bytes_sent == 0 && received == 0 {
        Turn::Unknown
    } else if facts.bytes_sent == 0 {
        Turn::Peer
    } else if received == 0 || facts.idle_tx < facts.idle_rx {
        Turn::Us
    } else if facts.idle_tx > facts.idle_rx {
        Turn::Peer
    } else if !facts.knows(known::TURN_TIE) || facts.sock_flags & sock_flag::DONE != 0 {
        Turn::Unknown
    } else if facts.sent_after_received != 0 {
        Turn::Us
    } else if facts.unacked == 0 {
        Turn::Peer
    } else {
        Turn::Unknown
    }
}

/// What this host was, from its own sequence numbers: `bytes_acked` counts the
/// SYN of the side that connected (`tcp_rcv_synsent_state_process` acknowledges
/// it through `tcp_ack`), while an accepted socket starts after it
/// (`tcp_create_openreq_child`). What was sent and what was acknowledged or is
/// in flight therefore differ by 1 for a client, plus 1 after our FIN.
#[must_use]
#[inline(always)]
pub fn role(facts: &Facts) -> Role {
    if facts.origin != Origin::Socket as u8 || !facts.knows(known::STATE) {
        return Role::Unknown;
    }
    if facts.state == state::SYN_SENT {
        return Role::Client;
    }
    if facts.state == state::LISTEN {
        return Role::Server;
    }
    let needed = known::BYTES_SENT
        | known::BYTES_RETRANS
        | known::BYTES_ACKED
        | known::UNACKED
        | known::UNSENT;
    // In SYN_RECV both ends of a simultaneous open may be clients.
    if !facts.knows(needed) || facts.state == state::SYN_RECV {
        return Role::Unknown;
    }
    let sequence = facts.bytes_acked.wrapping_add(u64::from(facts.unacked));
    let payload = facts.bytes_sent.wrapping_sub(facts.bytes_retrans);
    let extra = sequence.wrapping_sub(payload);
    if facts.state == state::CLOSE {
        // Our FIN may or may not have been sent before, so 1 is ambiguous.
        return match extra {
            0 => Role::Server,
            2 => Role::Client,
            _ => Role::Unknown,
        };
    }
    match extra.wrapping_sub(u64::from(fin_in_flight(facts))) {
        0 => Role::Server,
        1 => Role::Client,
        _ => Role::Unknown,
    }
}

#[cfg(test)]
mod tests;
