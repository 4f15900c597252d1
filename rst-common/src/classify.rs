//! The one function that decides why a connection was reset.
//!
//! Ordered rules, first match wins. Sent resets are decided by what the kernel
//! held for the segment (nothing, TIME_WAIT, a listener, a connection) and by
//! its reason; received ones by the state of our socket. A rule that can't
//! prove its impact says `uncertain`.

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
        return if matches!(reason, Reason::InvalidSyn) && is_ack(facts) {
            (Cause::ListenOverflow, Impact::ConnectFailed)
        } else {
            (Cause::Unknown, Impact::Uncertain)
        };
    }
    if facts.state == state::SYN_SENT {
        // `tcp_rcv_synsent_state_process`: a bad ACK; the SYN is sent again.
        return (Cause::ProtocolError, Impact::Benign);
    }
    if facts.state == state::SYN_RECV {
        return (Cause::ProtocolError, Impact::ConnectionBroken);
    }
    match reason {
        Reason::AbortOnClose if facts.exiting != 0 => (
            Cause::ProcessExit,
            if facts.knows(known::EXIT_CODE)
                && facts.exit_code == 0
                && role as u8 == Role::Client as u8
            {
                Impact::Uncertain
            } else {
                Impact::ConnectionBroken
            },
        ),
        Reason::AbortOnClose => (
            Cause::UnreadData,
            if role as u8 == Role::Server as u8 {
                Impact::ConnectionBroken
            } else {
                Impact::Uncertain
            },
        ),
        Reason::AbortOnData => (Cause::LateData, late_data_impact(facts)),
        Reason::KeepaliveTimeout => (Cause::KeepaliveTimeout, Impact::ConnectionBroken),
        Reason::AbortOnMemory => (Cause::MemoryPressure, Impact::ConnectionBroken),
        Reason::State | Reason::DisconnectWithData if facts.state != state::CLOSE => {
            // `tcp_abort` resets before it leaves the state; `tcp_disconnect` after.
            (Cause::AdminKill, Impact::ConnectionBroken)
        }
        Reason::State | Reason::DisconnectWithData if lingers_zero(facts) => {
            (Cause::AppAbort, app_abort_impact(facts, role))
        }
        Reason::State
        | Reason::DisconnectWithData
        | Reason::AbortOnLinger
        | Reason::InvalidSyn
        | Reason::Unspecified => (Cause::Unknown, Impact::Uncertain),
    }
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
        return (Cause::Refused, Impact::ConnectFailed);
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
    if server && facts.bytes_received == 0 {
        // A health check, a scan, a banner check, a cancelled connect.
        return (Cause::NoData, Impact::Benign);
    }
    if client && facts.bytes_received == 0 && facts.bytes_sent == 0 && facts.idle_segment < idle {
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
#[inline(always)]
fn unacked_data(facts: &Facts) -> u32 {
    facts
        .unacked
        .saturating_sub(u32::from(sent_fin(facts.state)))
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

/// Largest TLS record that may be no application data (a ticket, a key update).
const SMALL_TLS_RECORD: u32 = 64;

/// The peer had closed or we had: benign where nothing but a farewell was
/// undelivered.
#[inline(always)]
fn undelivered_impact(facts: &Facts) -> Impact {
    if !facts.knows(known::UNACKED | known::UNSENT) {
        return Impact::Uncertain;
    }
    let undelivered = unacked_data(facts).saturating_add(facts.unsent);
    if undelivered == 0 || undelivered == 24 || undelivered == 31 {
        Impact::Benign
    } else {
        Impact::ConnectionBroken
    }
}

#[inline(always)]
fn late_data_impact(facts: &Facts) -> Impact {
    if !facts.knows(known::PAYLOAD) || facts.payload_len < 5 {
        return if facts.knows(known::SEGMENT) {
            Impact::ConnectionBroken
        } else {
            Impact::Uncertain
        };
    }
    // RFC 8446 section 5.1: type, version 3.x, length.
    let [kind, major, _minor, length_high, length_low] = facts.payload;
    let record = (u32::from(length_high) << 8 | u32::from(length_low)) + 5;
    let alert = kind == 0x15 && major == 3 && record == facts.payload_len;
    let tls13_alert = kind == 0x17 && major == 3 && record == 24 && facts.payload_len == 24;
    if (alert && facts.payload_len < CLOSE_NOTIFY_MAX) || tls13_alert {
        Impact::Benign
    } else if (0x14..=0x17).contains(&kind) && major == 3 && facts.payload_len <= SMALL_TLS_RECORD {
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
    if facts.unread != 0 || facts.unsent != 0 || facts.unacked != 0 {
        return Impact::ConnectionBroken;
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
fn is_ack(facts: &Facts) -> bool {
    facts.knows(known::SEGMENT) && facts.segment_flags & flag::ACK != 0
}

#[inline(always)]
fn lingers_zero(facts: &Facts) -> bool {
    facts.knows(known::SOCK_FLAGS | known::LINGER_TIME)
        && facts.sock_flags & sock_flag::LINGER != 0
        && facts.linger_time == 0
}

/// States in which our FIN is part of `snd_nxt`.
#[inline(always)]
const fn sent_fin(state: u8) -> bool {
    state == state::FIN_WAIT1
        || state == state::FIN_WAIT2
        || state == state::CLOSING
        || state == state::LAST_ACK
}

/// Who sent data last. On a tie within one jiffy the sequence numbers decide:
/// `snd_wl1` is the sequence of the peer's last segment, so it equals `rcv_nxt`
/// only when that segment brought nothing new. Our own keep-alive probe draws
/// such a segment too, so with a probe out the turn is unknown.
#[must_use]
#[inline(always)]
pub fn turn(facts: &Facts) -> Turn {
    // The clocks are meaningless before the handshake is over.
    if facts.state == state::SYN_SENT || facts.state == state::LISTEN {
        return Turn::Unknown;
    }
    if !facts.knows(known::IDLE_TX | known::IDLE_RX | known::BYTES_SENT | known::BYTES_RECEIVED)
        || !facts.knows(known::PROBES_OUT)
        || facts.probes_out != 0
        || (facts.bytes_sent == 0 && facts.bytes_received == 0)
    {
        return Turn::Unknown;
    }
    if facts.idle_tx < facts.idle_rx {
        Turn::Us
    } else if facts.idle_tx > facts.idle_rx {
        Turn::Peer
    } else if !facts.knows(known::TURN_TIE) {
        Turn::Unknown
    } else if facts.sent_after_received != 0 {
        Turn::Us
    } else {
        Turn::Peer
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
    if facts.state == state::LISTEN || facts.state == state::SYN_RECV {
        return Role::Server;
    }
    if !facts.knows(known::BYTES_SENT | known::BYTES_RETRANS | known::BYTES_ACKED | known::UNACKED)
    {
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
    match extra.wrapping_sub(u64::from(sent_fin(facts.state))) {
        0 => Role::Server,
        1 => Role::Client,
        _ => Role::Unknown,
    }
}

#[cfg(test)]
mod tests;
