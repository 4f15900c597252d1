//! Resets that this host sent.

use super::connection::{has_served, received_bytes};
use super::impact::Loss;
use crate::cause::{Cause, Impact, Origin};
use crate::facts::{Facts, known};
use crate::history::Closed;
use crate::reason::Reason;
use crate::tcp::{flag, shutdown, sock_flag, state};

#[inline(always)]
pub(super) fn rules(facts: &Facts) -> (Cause, Loss) {
    if facts.origin != Origin::Socket as u8 {
        return segment_rules(facts);
    }
    let reason = Reason::from_byte(facts.reason);
    if facts.state == state::LISTEN {
        return sent_by_listener(facts, reason);
    }
    if facts.knows(known::SEGMENT) {
        return sent_for_segment(facts);
    }
    if facts.mptcp != 0 {
        // The connection has its own queues and may live on in other subflows.
        return (Cause::Mptcp, Loss::Undelivered);
    }
    if facts.state == state::CLOSE {
        sent_by_closing(facts, reason)
    } else {
        sent_in_state(facts, reason)
    }
}

/// A reset that answers a segment which no full socket has taken.
#[inline(always)]
pub(super) fn segment_rules(facts: &Facts) -> (Cause, Loss) {
    if facts.origin == Origin::None as u8 {
        return sent_without_socket(facts);
    }
    if facts.origin == Origin::Netfilter as u8 {
        return (Cause::FirewallReject, Loss::Rejected);
    }
    if facts.origin == Origin::TimeWait as u8 {
        return sent_in_time_wait(facts);
    }
    (Cause::Unknown, Loss::Is(Impact::Uncertain))
}

#[inline(always)]
fn sent_without_socket(facts: &Facts) -> (Cause, Loss) {
    if !facts.knows(known::SEGMENT) {
        return (Cause::Unknown, Loss::Is(Impact::Uncertain));
    }
    if facts.segment_flags & (flag::SYN | flag::ACK) == flag::SYN {
        return (Cause::Refused, Loss::Refused);
    }
    sent_for_unknown_connection(facts)
}

/// A segment other than a SYN, of a connection that has no socket here.
#[inline(always)]
fn sent_for_unknown_connection(facts: &Facts) -> (Cause, Loss) {
    if facts.closed == Closed::Done as u8 {
        return (Cause::AfterReset, Loss::Is(Impact::Benign));
    }
    if facts.payload_len == 0 {
        return (Cause::Stray, Loss::Is(Impact::Benign));
    }
    if facts.closed == Closed::ByUs as u8 {
        return (Cause::LateData, Loss::LateData);
    }
    // One byte may be a keep-alive probe of an old kind (RFC 1122 4.2.3.6).
    let loss = if facts.payload_len > 1 && has_served(facts) {
        Loss::LateData
    } else {
        Loss::Is(Impact::Uncertain)
    };
    (Cause::HalfOpen, loss)
}

/// `tcp_timewait_state_process`: mostly data for an orphan in FIN_WAIT2.
#[inline(always)]
fn sent_in_time_wait(facts: &Facts) -> (Cause, Loss) {
    if carries_data(facts) {
        (Cause::LateData, Loss::LateData)
    } else if facts.segment_flags & flag::SYN != 0 {
        // The port is tried again too soon; whether the caller tries once more
        // is not known.
        (Cause::ProtocolError, Loss::Is(Impact::Uncertain))
    } else {
        (Cause::Unknown, Loss::Is(Impact::Uncertain))
    }
}

/// A segment of a handshake, or of a connection that is older than the listener.
#[inline(always)]
fn sent_by_listener(facts: &Facts, reason: Reason) -> (Cause, Loss) {
    if !facts.knows(known::SEGMENT) {
        return (Cause::Unknown, Loss::Is(Impact::Uncertain));
    }
    if facts.segment_flags & flag::SYN != 0 {
        // `tcp_check_req`: a SYN that does not fit the request it belongs to.
        return (Cause::ProtocolError, Loss::Is(Impact::Uncertain));
    }
    // The last ACK of a handshake that found the accept queue full
    // (`tcp_check_req`, listen_overflow). Other segments give TCP_FLAGS.
    let overflow = matches!(reason, Reason::InvalidSyn)
        || (matches!(reason, Reason::Unspecified)
            && facts.knows(known::ACCEPT_OVERFLOW)
            && facts.accept_overflow != 0);
    if overflow && is_plain_ack(facts) {
        return (Cause::ListenOverflow, Loss::Is(Impact::ConnectFailed));
    }
    sent_for_unknown_connection(facts)
}

/// A full socket answers a segment.
#[inline(always)]
fn sent_for_segment(facts: &Facts) -> (Cause, Loss) {
    if facts.state == state::SYN_SENT {
        // `tcp_rcv_synsent_state_process`: a bad ACK; the SYN is sent again.
        return (Cause::ProtocolError, Loss::Is(Impact::Benign));
    }
    if facts.state == state::SYN_RECV {
        // The handshake goes on: the right ACK may still come.
        return (Cause::ProtocolError, Loss::Is(Impact::Uncertain));
    }
    // `tcp_rcv_state_process`, TCPAbortOnData.
    if facts.payload_len != 0 {
        return (Cause::LateData, Loss::DataAfterClose);
    }
    if wants_no_fin_wait2(facts) {
        return (Cause::AppAbort, Loss::Abort);
    }
    (Cause::Unknown, Loss::Is(Impact::Uncertain))
}

/// A reset of our own accord while the socket is still in its state: of a timer,
/// or from outside.
#[inline(always)]
fn sent_in_state(facts: &Facts, reason: Reason) -> (Cause, Loss) {
    let unspecified = matches!(reason, Reason::Unspecified);
    if !facts.knows(known::SOCK_FLAGS) {
        return (Cause::Unknown, Loss::Is(Impact::Uncertain));
    }
    let orphan = facts.sock_flags & sock_flag::DEAD != 0;
    let probing = facts.sock_flags & sock_flag::KEEPOPEN != 0 && facts.probes_out != 0;
    if matches!(reason, Reason::KeepaliveTimeout) || (unspecified && !orphan && probing) {
        return (Cause::KeepaliveTimeout, Loss::Is(Impact::ConnectionBroken));
    }
    if orphan && wants_no_fin_wait2(facts) {
        // The timer of an orphan in FIN_WAIT2 (`tcp_keepalive_timer`).
        return (Cause::AppAbort, Loss::Abort);
    }
    if matches!(reason, Reason::AbortOnMemory) || (unspecified && orphan) {
        return (Cause::MemoryPressure, Loss::Is(Impact::ConnectionBroken));
    }
    // `tcp_abort` resets before it leaves the state, `tcp_disconnect` after.
    let disconnects = matches!(reason, Reason::State | Reason::DisconnectWithData);
    if !orphan && (unspecified || disconnects) {
        return (Cause::AdminKill, Loss::Is(Impact::ConnectionBroken));
    }
    (Cause::Unknown, Loss::Is(Impact::Uncertain))
}

/// A socket that has just been closed, by the process that held it or its
/// listener (`__tcp_close`, `tcp_disconnect`, `inet_csk_listen_stop`).
#[inline(always)]
fn sent_by_closing(facts: &Facts, reason: Reason) -> (Cause, Loss) {
    if !facts.knows(known::SOCK_FLAGS | known::SHUTDOWN) {
        return (Cause::Unknown, Loss::Is(Impact::Uncertain));
    }
    let unspecified = matches!(reason, Reason::Unspecified);
    let disconnects = matches!(reason, Reason::State | Reason::DisconnectWithData);
    if (unspecified || disconnects) && was_never_accepted(facts) {
        // Who has said nothing and has left was a health check.
        let left = facts.knows(known::STATE_BEFORE)
            && facts.state_before == state::CLOSE_WAIT
            && facts.knows(known::BYTES_RECEIVED | known::SOCK_FLAGS)
            && received_bytes(facts) == 0;
        let loss = if left {
            Loss::Is(Impact::Benign)
        } else {
            Loss::Is(Impact::ConnectFailed)
        };
        return (Cause::ListenerClosed, loss);
    }
    // `__tcp_close` orphans the socket before it looks at these two.
    let orphan = facts.sock_flags & sock_flag::DEAD != 0;
    if matches!(reason, Reason::AbortOnLinger)
        || (unspecified && orphan && wants_no_fin_wait2(facts))
    {
        return (Cause::AppAbort, Loss::Abort);
    }
    if matches!(reason, Reason::AbortOnMemory) || (unspecified && orphan) {
        return (Cause::MemoryPressure, Loss::Is(Impact::ConnectionBroken));
    }
    if matches!(reason, Reason::KeepaliveTimeout) {
        return (Cause::KeepaliveTimeout, Loss::Is(Impact::ConnectionBroken));
    }
    // `close` shuts both halves down first; `connect(AF_UNSPEC)` does not.
    let closes = facts.shutdown & shutdown::BOTH == shutdown::BOTH;
    let unread = matches!(reason, Reason::AbortOnClose)
        || (unspecified && closes && facts.knows(known::UNREAD) && facts.unread != 0);
    if unread {
        return if facts.exiting != 0 {
            (Cause::ProcessExit, Loss::Exit)
        } else {
            (Cause::UnreadData, Loss::Unread)
        };
    }
    if (unspecified || disconnects) && (lingers_zero(facts) || !closes) {
        return if facts.exiting != 0 {
            (Cause::ProcessExit, Loss::Abort)
        } else {
            (Cause::AppAbort, Loss::Abort)
        };
    }
    (Cause::Unknown, Loss::Is(Impact::Uncertain))
}

#[inline(always)]
fn wants_no_fin_wait2(facts: &Facts) -> bool {
    facts.knows(known::LINGER2) && facts.no_fin_wait2 != 0
}

/// A connection in the accept queue: no application has it yet, and it is no
/// orphan either (`inet_child_forget`).
#[inline(always)]
fn was_never_accepted(facts: &Facts) -> bool {
    facts.knows(known::HAS_SOCKET | known::SOCK_FLAGS)
        && facts.has_socket == 0
        && facts.sock_flags & sock_flag::DEAD == 0
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
