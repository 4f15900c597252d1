//! What was lost, where the cause alone does not tell.

use super::Times;
use super::connection::{turn, undelivered_data, unsent_data};
use crate::cause::{Impact, Role, Turn};
use crate::facts::{Facts, known};

/// The rule for causes that say nothing of the impact themselves.
#[inline(always)]
pub(super) fn general_impact(facts: &Facts, role: Role, times: Times) -> Impact {
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
pub(super) fn may_be_delivered(facts: &Facts, role: Role, times: Times) -> bool {
    role as u8 == Role::Server as u8
        && facts.knows(known::IDLE_TX)
        && unsent_data(facts) == 0
        && turn(facts) as u8 != Turn::Peer as u8
        && times.may_have_arrived(facts, facts.idle_tx)
}

/// With nothing outstanding: lost where an answer was pending, nothing where the
/// server had answered.
#[inline(always)]
pub(super) fn pending_impact(facts: &Facts, role: Role) -> Impact {
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
pub(super) const fn is_close_notify(bytes: u32) -> bool {
    bytes == 24 || bytes == 31
}

/// Largest TLS record that may be no application data (a ticket, a key update).
/// Larger than any close_notify ([`may_be_close_notify`]).
pub(super) const SMALL_TLS_RECORD: u32 = 96;

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
pub(super) fn may_be_control(facts: &Facts, bytes: u32) -> bool {
    may_be_close_notify(bytes) || facts.multiplexed != 0 && bytes <= SMALL_TLS_RECORD
}
