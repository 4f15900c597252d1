//! Resets that arrived here.

use super::Times;
use super::connection::{received_bytes, turn, unacked_data, undelivered_data, unsent_data};
use super::forgery::Forgery;
use super::impact::{general_impact, is_close_notify, may_be_control, may_be_delivered};
use crate::cause::{Cause, Impact, Role, Turn};
use crate::facts::{Facts, known};
use crate::tcp::{shutdown, sock_flag, state};

#[inline(always)]
pub(super) fn rules(facts: &Facts, role: Role, times: Times) -> (Cause, Impact) {
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
    // After a silence it matters more whose timer it was.
    let in_use = facts.idle_segment < times.idle;
    if in_use && Forgery::of(facts, times.jiffy_us).is_forged() {
        return (Cause::Forged, Impact::ConnectionBroken);
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
