//! The one function that decides why a connection was reset.
//!
//! Ordered rules, first match wins; what each rests on stands in the table of
//! [`Cause`]. A rule that can't prove its impact says `uncertain`.
//!
//! Sent:
//! 1. no socket: `refused` (SYN), `after_reset`, `stray` (no data), `late_data`,
//!    `half_open`;
//! 2. TIME_WAIT: `late_data`, `protocol_error` (SYN);
//! 3. a listener: `protocol_error` (SYN), `listen_overflow`, else as without a
//!    socket;
//! 4. a connection answers a segment: `protocol_error` (handshake), `late_data`,
//!    `app_abort` (TCP_LINGER2);
//! 5. `mptcp`;
//! 6. a connection still in its state: `keepalive_timeout`, `app_abort`
//!    (TCP_LINGER2), `memory_pressure`, `admin_kill`;
//! 7. a connection that was closed: `listener_closed`, `app_abort`
//!    (TCP_LINGER2), `memory_pressure`, `process_exit`, `unread_data`,
//!    `app_abort` (SO_LINGER 0, AF_UNSPEC).
//!
//! Received, by the state of our socket:
//! 1. SYN_SENT: `refused`;
//! 2. `mptcp`;
//! 3. the peer had closed: `peer_closed`;
//! 4. we had closed: `after_close`;
//! 5. nothing was received: `no_data`;
//! 6. something is out: `stale_probe`, `stale_reuse`;
//! 7. an answer is pending: `no_response`, `peer_gave_up`;
//! 8. nothing moved for long: `idle_timeout`;
//! 9. otherwise `peer_abort`.
//!
//! The kernel's reason is used where it says more than the facts. Without one
//! (received, before 6.10, active resets before 6.12) the facts decide alike.

use crate::cause::{Cause, Direction, Impact, Origin, Role, Turn};
use crate::facts::{Facts, known};
use crate::history::{Closed, Listened};
use crate::reason::Reason;
use crate::tcp::{flag, shutdown, sock_flag, state};

/// Durations that part one cause or impact from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Jiffies after which a connection counts as idle.
    pub idle: u32,
    /// Microseconds of a jiffy.
    pub jiffy_us: u32,
}

impl Times {
    /// Whether what was sent so many jiffies ago may have arrived without its
    /// acknowledgement being here: a round trip, and the longest that a receiver
    /// may hold an acknowledgement back (`TCP_DELACK_MAX`, include/net/tcp.h;
    /// RFC 9293 section 3.8.6.3 allows more).
    #[inline(always)]
    fn may_have_arrived(self, facts: &Facts, jiffies: u32) -> bool {
        self.microseconds(jiffies) <= u64::from(facts.srtt_us) + DELACK_MAX_US
    }

    /// Whether an answer to what was sent so many jiffies ago has come at once: two
    /// round trips, as far as jiffies can tell.
    #[inline(always)]
    fn is_at_once(self, facts: &Facts, jiffies: u32) -> bool {
        let tick = u64::from(self.jiffy_us);
        self.microseconds(jiffies) <= 2 * u64::from(facts.srtt_us) + 2 * tick
    }

    /// Whether nobody can have waited yet: less than a round trip, as far as
    /// jiffies can tell.
    #[inline(always)]
    fn is_no_wait(self, facts: &Facts, jiffies: u32) -> bool {
        let tick = u64::from(self.jiffy_us);
        self.microseconds(jiffies) <= u64::from(facts.srtt_us) + 2 * tick
    }

    #[inline(always)]
    fn microseconds(self, jiffies: u32) -> u64 {
        u64::from(jiffies) * u64::from(self.jiffy_us)
    }
}

const DELACK_MAX_US: u64 = 200_000;

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
/// after `times.idle` jiffies.
#[must_use]
#[inline(always)]
pub fn classify(facts: &Facts, times: Times) -> Verdict {
    if facts.direction == Direction::Sent as u8 {
        classify_sent(facts, times)
    } else {
        classify_received(facts, times)
    }
}

/// [`classify`] of a reset that this host sent.
#[must_use]
#[inline(always)]
pub fn classify_sent(facts: &Facts, times: Times) -> Verdict {
    let role = role(facts);
    let (cause, impact) = sent(facts, role, times);
    Verdict {
        cause,
        impact,
        role,
    }
}

/// [`classify`] of a reset that arrived here.
#[must_use]
#[inline(always)]
pub fn classify_received(facts: &Facts, times: Times) -> Verdict {
    let role = role(facts);
    let (cause, impact) = received(facts, role, times);
    Verdict {
        cause,
        impact,
        role,
    }
}

#[inline(always)]
fn sent(facts: &Facts, role: Role, times: Times) -> (Cause, Impact) {
    if facts.origin == Origin::None as u8 {
        return sent_without_socket(facts, role, times);
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

#[inline(always)]
fn has_served(facts: &Facts) -> bool {
    facts.listened == Listened::Now as u8 || facts.listened == Listened::Before as u8
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

#[inline(always)]
fn received(facts: &Facts, role: Role, times: Times) -> (Cause, Impact) {
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
    if facts.mptcp != 0 {
        return (Cause::Mptcp, general_impact(facts, role, times));
    }
    let client = role as u8 == Role::Client as u8;
    let server = role as u8 == Role::Server as u8;
    let volume = known::BYTES_RECEIVED | known::SOCK_FLAGS;
    if server && facts.knows(volume) && received_bytes(facts) == 0 && has_said_little(facts, times)
    {
        // A health check, a scan, a banner check, a cancelled connect.
        return (Cause::NoData, Impact::Benign);
    }
    if facts.state == state::CLOSE_WAIT || facts.state == state::LAST_ACK {
        return (Cause::PeerClosed, peer_closed_impact(facts, role));
    }
    if facts.sock_flags & sock_flag::DEAD != 0 || facts.shutdown & shutdown::RCV != 0 {
        return (Cause::AfterClose, after_close_impact(facts, role, times));
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
    if client
        && facts.state == state::ESTABLISHED
        && received_bytes(facts) == 0
        && facts.bytes_sent == 0
        && age(facts) < times.idle
    {
        return (Cause::NoData, Impact::ConnectFailed);
    }
    let unacked = unacked_data(facts);
    // With more to send it is a probe of the peer's window.
    if unacked == 0 && facts.unsent == 0 && facts.probes_out != 0 {
        return (Cause::StaleProbe, general_impact(facts, role, times));
    }
    // Whoever has forgotten a connection says so at once; whoever takes a while has
    // looked at what it got.
    let at_once = times.is_at_once(facts, facts.idle_tx);
    if unacked != 0 && facts.idle_segment >= times.idle && at_once {
        return (Cause::StaleReuse, Impact::ConnectionBroken);
    }
    let last = turn(facts) as u8;
    let outstanding = unacked != 0 || facts.unsent != 0;
    let silent = facts.idle_rx >= times.idle && facts.idle_tx >= times.idle;
    let many = facts.multiplexed != 0;
    if client && !many && last == Turn::Us as u8 && !outstanding && silent {
        return (Cause::NoResponse, Impact::ConnectionBroken);
    }
    if server && !many && last == Turn::Peer as u8 {
        // Whoever leaves at once has waited for nothing.
        let impact = if !outstanding && times.is_no_wait(facts, facts.idle_rx) {
            Impact::Uncertain
        } else {
            Impact::ConnectionBroken
        };
        return (Cause::PeerGaveUp, impact);
    }
    if silent && !outstanding {
        return (Cause::IdleTimeout, Impact::Uncertain);
    }
    (Cause::PeerAbort, general_impact(facts, role, times))
}

/// Longest that a server's greeting may be.
const GREETING: u64 = 1024;

/// Whether a server that has received nothing has said no more than a greeting,
/// and all of it some time ago or just now, not after a silence.
#[inline(always)]
fn has_said_little(facts: &Facts, times: Times) -> bool {
    let stale = facts.knows(known::IDLE_SEGMENT | known::UNACKED)
        && unacked_data(facts) != 0
        && facts.idle_segment >= times.idle;
    facts.bytes_sent <= GREETING && unsent_data(facts) == 0 && !stale
}

/// Age of a connection on which nothing but the handshake has arrived.
#[inline(always)]
fn age(facts: &Facts) -> u32 {
    if facts.knows(known::AGE) {
        facts.age
    } else {
        facts.idle_segment
    }
}

/// Jiffies of silence before the reset, for the causes (as a byte) that have such
/// a gap ([`Cause::has_gap`]): since the peer's last segment where our own data found
/// the connection gone, else since data last moved.
#[must_use]
#[inline(always)]
pub fn gap(facts: &Facts, cause: u8) -> u32 {
    if cause == Cause::StaleReuse as u8 {
        facts.idle_segment
    } else if facts.idle_rx < facts.idle_tx {
        facts.idle_rx
    } else {
        facts.idle_tx
    }
}

/// The rule for causes that say nothing of the impact themselves.
#[inline(always)]
fn general_impact(facts: &Facts, role: Role, times: Times) -> Impact {
    if !facts.knows(known::UNACKED | known::UNSENT) {
        return Impact::Uncertain;
    }
    let undelivered = undelivered_data(facts);
    if undelivered == 0 {
        return pending_impact(facts, role);
    }
    if may_be_control(facts, undelivered) || may_be_delivered(facts, role, times) {
        Impact::Uncertain
    } else {
        Impact::ConnectionBroken
    }
}

/// Whether all that a server has sent may have arrived, its acknowledgement being
/// still on its way or in the reset itself. A client's question is lost either
/// way: its answer will not come.
#[inline(always)]
fn may_be_delivered(facts: &Facts, role: Role, times: Times) -> bool {
    role as u8 == Role::Server as u8
        && facts.knows(known::IDLE_TX)
        && unsent_data(facts) == 0
        && turn(facts) as u8 != Turn::Peer as u8
        && times.may_have_arrived(facts, facts.idle_tx)
}

/// Bytes written and not sent yet, without our FIN behind them.
#[inline(always)]
fn unsent_data(facts: &Facts) -> u32 {
    let fin = u32::from(sent_fin(state_held(facts)));
    facts.unsent.saturating_sub(fin)
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
    let fin = u32::from(sent_fin(state_held(facts)));
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

/// Bytes that a close_notify takes: a TLS 1.3 record, or TLS 1.2 with AES-GCM.
#[inline(always)]
const fn is_close_notify(bytes: u32) -> bool {
    bytes == 24 || bytes == 31
}

/// An alert record that is not encrypted.
const PLAINTEXT_ALERT: u32 = 7;

/// Largest TLS record that may be no application data (a ticket, a key update).
/// Larger than any close_notify ([`may_be_close_notify`]).
const SMALL_TLS_RECORD: u32 = 96;

/// Bytes that another cipher's close_notify may take: 23 with ChaCha20 in TLS 1.2,
/// 53, 57, 69 and 85 with CBC and the various hashes, with and without
/// encrypt-then-MAC (RFC 5246 section 6.2.3, RFC 7366).
#[inline(always)]
const fn may_be_close_notify(bytes: u32) -> bool {
    is_close_notify(bytes) || matches!(bytes, 23 | 53 | 57 | 69 | 85)
}

/// Bytes that may be no application data: a farewell, or where many requests
/// share a connection a frame that controls it (HTTP/2 GOAWAY, PING, SETTINGS).
#[inline(always)]
fn may_be_control(facts: &Facts, bytes: u32) -> bool {
    may_be_close_notify(bytes) || facts.multiplexed != 0 && bytes <= SMALL_TLS_RECORD
}

/// The peer had closed, then we sent. A client's question is lost. A server has
/// failed somebody where an answer was pending when the peer's FIN came; for what
/// it sends unasked after that nobody waits.
#[inline(always)]
fn peer_closed_impact(facts: &Facts, role: Role) -> Impact {
    let impact = undelivered_impact(facts);
    let server = role as u8 == Role::Server as u8;
    let client = role as u8 == Role::Client as u8;
    let unasked = server && facts.tracked_turn != Turn::Peer as u8;
    // Closed without an answer: what was lost was lost with the FIN.
    let unanswered = client && facts.tracked_turn == Turn::Us as u8;
    if unasked && impact as u8 == Impact::ConnectionBroken as u8
        || unanswered && impact as u8 == Impact::Benign as u8
    {
        Impact::Uncertain
    } else {
        impact
    }
}

/// We had closed.
#[inline(always)]
fn after_close_impact(facts: &Facts, role: Role, times: Times) -> Impact {
    let impact = undelivered_impact(facts);
    if impact as u8 == Impact::ConnectionBroken as u8 && may_be_delivered(facts, role, times) {
        Impact::Uncertain
    } else {
        impact
    }
}

/// Benign where nothing but a farewell was undelivered.
#[inline(always)]
fn undelivered_impact(facts: &Facts) -> Impact {
    if !facts.knows(known::UNACKED | known::UNSENT) {
        return Impact::Uncertain;
    }
    let undelivered = undelivered_data(facts);
    if undelivered == 0 || is_close_notify(undelivered) {
        Impact::Benign
    } else if may_be_control(facts, undelivered) {
        Impact::Uncertain
    } else {
        Impact::ConnectionBroken
    }
}

/// Who was waited for when the peer's FIN came: the turn, but a peer that closes
/// as it speaks has said goodbye.
#[must_use]
#[inline(always)]
pub fn turn_at_fin(facts: &Facts, times: Times) -> Turn {
    let turn = turn(facts);
    if turn as u8 == Turn::Peer as u8 && times.is_no_wait(facts, facts.idle_rx) {
        Turn::Unknown
    } else {
        turn
    }
}

/// Who was waited for when this host closed: the turn, but whoever leaves sooner
/// than a connection counts as idle has had enough rather than waited in vain.
#[must_use]
#[inline(always)]
pub fn turn_at_close(facts: &Facts, times: Times) -> Turn {
    let turn = turn(facts);
    if turn as u8 == Turn::Us as u8 && facts.idle_tx < times.idle {
        Turn::Unknown
    } else {
        turn
    }
}

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

/// The state the socket is in, or was in before this host left it.
#[inline(always)]
fn state_held(facts: &Facts) -> u8 {
    if facts.state == state::CLOSE && facts.knows(known::STATE_BEFORE) {
        facts.state_before
    } else {
        facts.state
    }
}

/// 1 where our FIN is part of `snd_nxt`; with data still unsent it waits behind
/// that.
#[inline(always)]
fn fin_in_flight(facts: &Facts) -> u32 {
    u32::from(sent_fin(state_held(facts)) && facts.unsent == 0)
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
/// A FIN blurs both, and our own keep-alive probe draws an ACK too: then a tie
/// stays one.
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
    if !facts.knows(needed) {
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
    } else if !facts.knows(known::TURN_TIE)
        || facts.sock_flags & sock_flag::DONE != 0
        || facts.probes_out != 0
    {
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
        // Where somebody listens, or did, we were the server; what is known of
        // a connection that has ended stands in `tracked_role`.
        return match facts.tracked_role {
            _ if has_served(facts) => Role::Server,
            1 => Role::Client,
            2 => Role::Server,
            _ => Role::Unknown,
        };
    }
    if facts.state == state::SYN_SENT {
        return Role::Client;
    }
    if facts.state == state::LISTEN {
        return Role::Server;
    }
    if facts.tracked_role != Role::Unknown as u8 {
        return if facts.tracked_role == Role::Client as u8 {
            Role::Client
        } else {
            Role::Server
        };
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
    if facts.state == state::CLOSE && !facts.knows(known::STATE_BEFORE) {
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
