//! What was lost.

use super::Times;
use super::connection::{
    has_served, state_held, turn, turn_at_close, unacked_data, undelivered_data, unsent_data,
};
use crate::cause::{Impact, Role, Turn};
use crate::facts::{Facts, known};
use crate::history::Listened;
use crate::tcp::{flag, state};
use crate::verifier::{holds, set};

/// What decides the impact of a reset.
#[derive(Clone, Copy)]
pub(super) enum Loss {
    /// The cause alone.
    Is(Impact),
    /// Whether anybody serves, or has served, where the SYN went.
    Refused,
    /// Which segment a rule of netfilter rejected.
    Rejected,
    /// What the peer sent to a connection that is no more.
    LateData,
    /// What the peer sent to a connection that was closed here.
    DataAfterClose,
    /// What the application had not read.
    Unread,
    /// The same, and how the process ended.
    Exit,
    /// What an application throws away.
    Abort,
    /// What was undelivered when the peer had closed.
    PeerClosed,
    /// What was undelivered when this host had closed.
    AfterClose,
    /// What was undelivered, or else whether an answer was pending.
    Undelivered,
}

impl Loss {
    /// Decides. Each rule stands once in the programs, whichever causes ask for it.
    #[inline(always)]
    pub(super) fn impact(self, facts: &Facts, role: Role, times: Times) -> Impact {
        match self {
            Self::Is(impact) => impact,
            Self::Refused => refused_impact(facts),
            Self::Rejected => reject_impact(facts),
            Self::LateData => late_data_impact(facts, role, facts.tracked_turn == Turn::Us as u8),
            Self::DataAfterClose if loses_unsent(facts) => Impact::ConnectionBroken,
            Self::DataAfterClose => {
                let asked = turn_at_close(facts, times) as u8 == Turn::Us as u8;
                late_data_impact(facts, role, asked)
            }
            Self::Unread => unread_impact(facts, role),
            Self::Exit => exit_impact(facts, role),
            Self::Abort => app_abort_impact(facts, role, times),
            Self::PeerClosed => peer_closed_impact(facts, role),
            Self::AfterClose => after_close_impact(facts, role, times),
            Self::Undelivered => undelivered_impact(facts, role, times),
        }
    }
}

/// The rule for causes that say nothing of the impact themselves.
#[inline(always)]
fn undelivered_impact(facts: &Facts, role: Role, times: Times) -> Impact {
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
const CLOSE_NOTIFY: u64 = set(&[24, 31]);

#[inline(always)]
const fn is_close_notify(bytes: u32) -> bool {
    holds(CLOSE_NOTIFY, bytes)
}

/// Largest TLS record that may be no application data (a ticket, a key update).
/// Larger than any close_notify ([`may_be_close_notify`]).
const SMALL_TLS_RECORD: u32 = 96;

/// Bytes that another cipher's close_notify may take: 23 with ChaCha20 in TLS 1.2,
/// 53, 57, 69 and 85 with CBC and the various hashes, with and without
/// encrypt-then-MAC (RFC 5246 section 6.2.3, RFC 7366).
#[inline(always)]
const fn may_be_close_notify(bytes: u32) -> bool {
    const SHORT: u64 = CLOSE_NOTIFY | set(&[23, 53, 57]);
    // A set ends at 64.
    const LONG: u64 = set(&[69 - 64, 85 - 64]);
    holds(SHORT, bytes) || holds(LONG, bytes.wrapping_sub(64))
}

/// Bytes that may be no application data: a farewell, or where many requests
/// share a connection a frame that controls it (HTTP/2 GOAWAY, PING, SETTINGS).
#[inline(always)]
fn may_be_control(facts: &Facts, bytes: u32) -> bool {
    may_be_close_notify(bytes) || facts.multiplexed != 0 && bytes <= SMALL_TLS_RECORD
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

/// Whether it answers a SYN, with or without ACK, or data decides what the peer has lost. A rule
/// against what conntrack calls invalid meets the last FIN and ACK of connections that are over,
/// too.
#[inline(always)]
fn reject_impact(facts: &Facts) -> Impact {
    if !facts.knows(known::SEGMENT) {
        Impact::Uncertain
    } else if facts.segment_flags & flag::SYN != 0 {
        Impact::ConnectFailed
    } else if facts.payload_len != 0 {
        Impact::ConnectionBroken
    } else {
        Impact::Uncertain
    }
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
    const SIGNALS: u64 = set(&[1, 2, 13, 15]);
    holds(SIGNALS, exit_code & 0x7f)
}

/// An alert record that is not encrypted.
const PLAINTEXT_ALERT: u32 = 7;

/// A server loses a question. A client that has closed loses what it no longer
/// wanted, unless it had asked and waited for long.
#[inline(always)]
fn late_data_impact(facts: &Facts, role: Role, asked: bool) -> Impact {
    let impact = late_payload_impact(facts);
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

/// The peer had closed, then we sent. A client's question is lost. A server has
/// failed somebody where an answer was pending when the peer's FIN came; for what
/// it sends unasked after that nobody waits.
#[inline(always)]
fn peer_closed_impact(facts: &Facts, role: Role) -> Impact {
    let impact = farewell_impact(facts);
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
    let impact = farewell_impact(facts);
    if impact as u8 == Impact::ConnectionBroken as u8 && may_be_delivered(facts, role, times) {
        Impact::Uncertain
    } else {
        impact
    }
}

/// Benign where nothing but a farewell was undelivered.
#[inline(always)]
fn farewell_impact(facts: &Facts) -> Impact {
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
