//! Resets that this host sent.

use super::Times;
use super::connection::{
    has_served, received_bytes, state_held, turn, turn_at_close, unacked_data, unsent_data,
};
use super::impact::{
    SMALL_TLS_RECORD, general_impact, is_close_notify, may_be_control, may_be_delivered,
    pending_impact,
};
use crate::cause::{Cause, Impact, Origin, Role, Turn};
use crate::facts::{Facts, known};
use crate::history::{Closed, Listened};
use crate::reason::Reason;
use crate::tcp::{flag, shutdown, sock_flag, state};

#[inline(always)]
pub(super) fn rules(facts: &Facts, role: Role, times: Times) -> (Cause, Impact) {
    if facts.origin == Origin::None as u8 {
        return sent_without_socket(facts, role, times);
    }
    if facts.origin == Origin::Netfilter as u8 {
        return (Cause::FirewallReject, reject_impact(facts));
    }
    if facts.origin == Origin::TimeWait as u8 {
        return sent_in_time_wait(facts, role, times);
    }
    let reason = Reason::from_byte(facts.reason);
    if facts.state == state::LISTEN {
        return sent_by_listener(facts, role, reason, times);
    }
    if facts.knows(known::SEGMENT) {
        return sent_for_segment(facts, role, times);
    }
    if facts.mptcp != 0 {
        // The connection has its own queues and may live on in other subflows.
        return (Cause::Mptcp, general_impact(facts, role, times));
    }
    if facts.state == state::CLOSE {
        sent_by_closing(facts, role, reason, times)
    } else {
        sent_in_state(facts, role, reason, times)
    }
}

#[inline(always)]
fn sent_without_socket(facts: &Facts, role: Role, times: Times) -> (Cause, Impact) {
    if !facts.knows(known::SEGMENT) {
        return (Cause::Unknown, Impact::Uncertain);
    }
    if facts.segment_flags & (flag::SYN | flag::ACK) == flag::SYN {
        return (Cause::Refused, refused_impact(facts));
    }
    sent_for_unknown_connection(facts, role, times)
}

/// A scan of ports that never served must not look like a failing service.
#[inline(always)]
fn refused_impact(facts: &Facts) -> Impact {
    if has_served(facts) {
        Impact::ConnectFailed
    } else if facts.listened == Listened::Never as u8 {
        Impact::Benign
    } else {
        Impact::Uncertain
    }
}

/// Whether it answers a SYN, with or without ACK, decides what the peer has lost.
#[inline(always)]
fn reject_impact(facts: &Facts) -> Impact {
    if !facts.knows(known::SEGMENT) {
        Impact::Uncertain
    } else if facts.segment_flags & flag::SYN != 0 {
        Impact::ConnectFailed
    } else {
        Impact::ConnectionBroken
    }
}

/// A segment other than a SYN, of a connection that has no socket here.
#[inline(always)]
fn sent_for_unknown_connection(facts: &Facts, role: Role, times: Times) -> (Cause, Impact) {
    if facts.closed == Closed::Done as u8 {
        return (Cause::AfterReset, Impact::Benign);
    }
    if facts.payload_len == 0 {
        return (Cause::Stray, Impact::Benign);
    }
    if facts.closed == Closed::ByUs as u8 {
        return (Cause::LateData, late_data_impact(facts, role, times));
    }
    // One byte may be a keep-alive probe of an old kind (RFC 1122 4.2.3.6).
    let impact = if facts.payload_len > 1 && has_served(facts) {
        late_data_impact(facts, role, times)
    } else {
        Impact::Uncertain
    };
    (Cause::HalfOpen, impact)
}

/// `tcp_timewait_state_process`: mostly data for an orphan in FIN_WAIT2.
#[inline(always)]
fn sent_in_time_wait(facts: &Facts, role: Role, times: Times) -> (Cause, Impact) {
    if carries_data(facts) {
        (Cause::LateData, late_data_impact(facts, role, times))
    } else if facts.segment_flags & flag::SYN != 0 {
        // The port is tried again too soon; whether the caller tries once more
        // is not known.
        (Cause::ProtocolError, Impact::Uncertain)
    } else {
        (Cause::Unknown, Impact::Uncertain)
    }
}

/// A segment of a handshake, or of a connection that is older than the listener.
#[inline(always)]
fn sent_by_listener(facts: &Facts, role: Role, reason: Reason, times: Times) -> (Cause, Impact) {
    if !facts.knows(known::SEGMENT) {
        return (Cause::Unknown, Impact::Uncertain);
    }
    if facts.segment_flags & flag::SYN != 0 {
        // `tcp_check_req`: a SYN that does not fit the request it belongs to.
        return (Cause::ProtocolError, Impact::Uncertain);
    }
    // The last ACK of a handshake that found the accept queue full
    // (`tcp_check_req`, listen_overflow). Other segments give TCP_FLAGS.
    let overflow = matches!(reason, Reason::InvalidSyn)
        || (matches!(reason, Reason::Unspecified)
            && facts.knows(known::ACCEPT_OVERFLOW)
            && facts.accept_overflow != 0);
    if overflow && is_plain_ack(facts) {
        return (Cause::ListenOverflow, Impact::ConnectFailed);
    }
    sent_for_unknown_connection(facts, role, times)
}

/// A full socket answers a segment.
#[inline(always)]
fn sent_for_segment(facts: &Facts, role: Role, times: Times) -> (Cause, Impact) {
    if facts.state == state::SYN_SENT {
        // `tcp_rcv_synsent_state_process`: a bad ACK; the SYN is sent again.
        return (Cause::ProtocolError, Impact::Benign);
    }
    if facts.state == state::SYN_RECV {
        // The handshake goes on: the right ACK may still come.
        return (Cause::ProtocolError, Impact::Uncertain);
    }
    // `tcp_rcv_state_process`, TCPAbortOnData.
    if facts.payload_len != 0 {
        return (Cause::LateData, late_data_impact(facts, role, times));
    }
    if wants_no_fin_wait2(facts) {
        return (Cause::AppAbort, app_abort_impact(facts, role, times));
    }
    (Cause::Unknown, Impact::Uncertain)
}

/// A reset of our own accord while the socket is still in its state: of a timer,
/// or from outside.
#[inline(always)]
fn sent_in_state(facts: &Facts, role: Role, reason: Reason, times: Times) -> (Cause, Impact) {
    let unspecified = matches!(reason, Reason::Unspecified);
    if !facts.knows(known::SOCK_FLAGS) {
        return (Cause::Unknown, Impact::Uncertain);
    }
    let orphan = facts.sock_flags & sock_flag::DEAD != 0;
    let probing = facts.sock_flags & sock_flag::KEEPOPEN != 0 && facts.probes_out != 0;
    if matches!(reason, Reason::KeepaliveTimeout) || (unspecified && !orphan && probing) {
        return (Cause::KeepaliveTimeout, Impact::ConnectionBroken);
    }
    if orphan && wants_no_fin_wait2(facts) {
        // The timer of an orphan in FIN_WAIT2 (`tcp_keepalive_timer`).
        return (Cause::AppAbort, app_abort_impact(facts, role, times));
    }
    if matches!(reason, Reason::AbortOnMemory) || (unspecified && orphan) {
        return (Cause::MemoryPressure, Impact::ConnectionBroken);
    }
    // `tcp_abort` resets before it leaves the state, `tcp_disconnect` after.
    let disconnects = matches!(reason, Reason::State | Reason::DisconnectWithData);
    if !orphan && (unspecified || disconnects) {
        return (Cause::AdminKill, Impact::ConnectionBroken);
    }
    (Cause::Unknown, Impact::Uncertain)
}

/// A socket that has just been closed, by the process that held it or its
/// listener (`__tcp_close`, `tcp_disconnect`, `inet_csk_listen_stop`).
#[inline(always)]
fn sent_by_closing(facts: &Facts, role: Role, reason: Reason, times: Times) -> (Cause, Impact) {
    if !facts.knows(known::SOCK_FLAGS | known::SHUTDOWN) {
        return (Cause::Unknown, Impact::Uncertain);
    }
    let unspecified = matches!(reason, Reason::Unspecified);
    let disconnects = matches!(reason, Reason::State | Reason::DisconnectWithData);
    if (unspecified || disconnects) && was_never_accepted(facts) {
        // Who has said nothing and has left was a health check.
        let left = facts.knows(known::STATE_BEFORE)
            && facts.state_before == state::CLOSE_WAIT
            && facts.knows(known::BYTES_RECEIVED | known::SOCK_FLAGS)
            && received_bytes(facts) == 0;
        let impact = if left {
            Impact::Benign
        } else {
            Impact::ConnectFailed
        };
        return (Cause::ListenerClosed, impact);
    }
    // `__tcp_close` orphans the socket before it looks at these two.
    let orphan = facts.sock_flags & sock_flag::DEAD != 0;
    if matches!(reason, Reason::AbortOnLinger)
        || (unspecified && orphan && wants_no_fin_wait2(facts))
    {
        return (Cause::AppAbort, app_abort_impact(facts, role, times));
    }
    if matches!(reason, Reason::AbortOnMemory) || (unspecified && orphan) {
        return (Cause::MemoryPressure, Impact::ConnectionBroken);
    }
    if matches!(reason, Reason::KeepaliveTimeout) {
        return (Cause::KeepaliveTimeout, Impact::ConnectionBroken);
    }
    // `close` shuts both halves down first; `connect(AF_UNSPEC)` does not.
    let closes = facts.shutdown & shutdown::BOTH == shutdown::BOTH;
    let unread = matches!(reason, Reason::AbortOnClose)
        || (unspecified && closes && facts.knows(known::UNREAD) && facts.unread != 0);
    if unread {
        return if facts.exiting != 0 {
            (Cause::ProcessExit, exit_impact(facts, role))
        } else {
            (Cause::UnreadData, unread_impact(facts, role))
        };
    }
    if (unspecified || disconnects) && (lingers_zero(facts) || !closes) {
        return if facts.exiting != 0 {
            (Cause::ProcessExit, app_abort_impact(facts, role, times))
        } else {
            (Cause::AppAbort, app_abort_impact(facts, role, times))
        };
    }
    (Cause::Unknown, Impact::Uncertain)
}

/// Whether a client has lost anything is its own affair; of what a server leaves
/// unread, only a farewell is none.
#[inline(always)]
fn unread_impact(facts: &Facts, role: Role) -> Impact {
    if loses_unsent(facts) {
        Impact::ConnectionBroken
    } else if leaves_farewell(facts) {
        Impact::Benign
    } else if may_be_control(facts, facts.unread) {
        // Its FIN may be the next segment.
        Impact::Uncertain
    } else if role as u8 == Role::Server as u8 && facts.unread != 0 {
        Impact::ConnectionBroken
    } else {
        Impact::Uncertain
    }
}

/// Whether the reset throws away what our application had written.
#[inline(always)]
fn loses_unsent(facts: &Facts) -> bool {
    facts.knows(known::UNSENT) && unsent_data(facts) != 0
}

/// Whether nothing but the peer's TLS close_notify is left unread.
#[inline(always)]
fn leaves_farewell(facts: &Facts) -> bool {
    let peer_had_closed = facts.knows(known::STATE_BEFORE)
        && (facts.state_before == state::CLOSE_WAIT || facts.state_before == state::LAST_ACK);
    peer_had_closed && is_close_notify(facts.unread)
}

#[inline(always)]
fn wants_no_fin_wait2(facts: &Facts) -> bool {
    facts.knows(known::LINGER2) && facts.no_fin_wait2 != 0
}

/// A client that exits by itself with status 0, or that somebody has asked to end
/// after it had an answer, may have had all it wanted; who is no server for
/// certain may be one.
#[inline(always)]
fn exit_impact(facts: &Facts, role: Role) -> Impact {
    if loses_unsent(facts) {
        return Impact::ConnectionBroken;
    }
    if leaves_farewell(facts) {
        return Impact::Benign;
    }
    let answered = turn(facts) as u8 == Turn::Peer as u8;
    let had_enough = facts.knows(known::EXIT_CODE)
        && (facts.exit_code == 0 || asks_to_end(facts.exit_code) && answered);
    if may_be_control(facts, facts.unread) || had_enough && role as u8 != Role::Server as u8 {
        Impact::Uncertain
    } else {
        Impact::ConnectionBroken
    }
}

/// Whether an exit code, as in `wait(2)`, is of a signal that asks a program to
/// end: SIGHUP, SIGINT, SIGPIPE, SIGTERM (signal(7)).
#[inline(always)]
const fn asks_to_end(exit_code: u32) -> bool {
    matches!(exit_code & 0x7f, 1 | 2 | 13 | 15)
}

/// A connection in the accept queue: no application has it yet, and it is no
/// orphan either (`inet_child_forget`).
#[inline(always)]
fn was_never_accepted(facts: &Facts) -> bool {
    facts.knows(known::HAS_SOCKET | known::SOCK_FLAGS)
        && facts.has_socket == 0
        && facts.sock_flags & sock_flag::DEAD == 0
}

/// An alert record that is not encrypted.
const PLAINTEXT_ALERT: u32 = 7;

/// A server loses a question. A client that has closed loses what it no longer
/// wanted, unless it had asked and waited for long.
#[inline(always)]
fn late_data_impact(facts: &Facts, role: Role, times: Times) -> Impact {
    let held = facts.origin == Origin::Socket as u8 && facts.state != state::LISTEN;
    if held && loses_unsent(facts) {
        return Impact::ConnectionBroken;
    }
    let impact = late_payload_impact(facts);
    let asked = if held {
        turn_at_close(facts, times) as u8 == Turn::Us as u8
    } else {
        facts.tracked_turn == Turn::Us as u8
    };
    let client = role as u8 == Role::Client as u8;
    let lost = role as u8 == Role::Server as u8 || client && asked;
    if impact as u8 == Impact::ConnectionBroken as u8 && !lost {
        Impact::Uncertain
    } else {
        impact
    }
}

#[inline(always)]
fn late_payload_impact(facts: &Facts) -> Impact {
    if !facts.knows(known::PAYLOAD) {
        // Senders on this host keep their payload where it can't be read.
        return if facts.payload_len <= SMALL_TLS_RECORD {
            Impact::Uncertain
        } else {
            Impact::ConnectionBroken
        };
    }
    // Where many requests share a connection, a goodbye may take any form; where
    // mail is handed over it has this one (RFC 5321 section 4.1.1.10).
    let goodbye = facts.multiplexed != 0 && facts.payload_len <= SMALL_TLS_RECORD
        || facts.payload_len == 6 && matches!(facts.payload, [b'Q', b'U', b'I', b'T', b'\r']);
    if goodbye {
        return Impact::Uncertain;
    }
    // RFC 8446 section 5.1: type, version 3.x, length.
    let [kind, major, _minor, length_high, length_low] = facts.payload;
    let record = (u32::from(length_high) << 8 | u32::from(length_low)) + 5;
    let tls = (0x14..=0x17).contains(&kind) && major == 3;
    let one_record = tls && record == facts.payload_len;
    // A plaintext alert of 2 bytes may be a fatal one.
    let alert = kind == 0x15 && facts.payload_len != PLAINTEXT_ALERT;
    if one_record
        && ((alert && facts.payload_len <= SMALL_TLS_RECORD)
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
fn app_abort_impact(facts: &Facts, role: Role, times: Times) -> Impact {
    if !facts.knows(known::UNREAD | known::UNSENT | known::UNACKED) {
        return Impact::Uncertain;
    }
    let held = state_held(facts);
    let unacked = unacked_data(facts);
    let no_wait = role as u8 == Role::Client as u8 && times.is_no_wait(facts, facts.idle_tx);
    let arrived = no_wait || may_be_delivered(facts, role, times);
    if facts.unread != 0 || facts.unsent != 0 || unacked > 1 && !arrived {
        return Impact::ConnectionBroken;
    }
    if unacked > 1 {
        return Impact::Uncertain;
    }
    if unacked == 1 {
        return if held == state::CLOSE {
            // A byte, or the FIN of a shutdown before.
            Impact::Uncertain
        } else {
            Impact::ConnectionBroken
        };
    }
    let client = role as u8 == Role::Client as u8;
    if client && facts.multiplexed == 0 && turn(facts) as u8 == Turn::Peer as u8 {
        // Our own application has its answer and throws the connection away.
        return Impact::Benign;
    }
    if no_wait {
        // It leaves before an answer could have come: it did not wait for one.
        return Impact::Uncertain;
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
