//! Resets that arrived here.

use super::Times;
use super::connection::{received_bytes, turn, unacked_data, unsent_data};
use super::forgery::Forgery;
use super::impact::Loss;
use crate::cause::{Cause, Impact, Role, Turn};
use crate::facts::{Facts, known};
use crate::tcp::{shutdown, sock_flag, state};
use crate::verifier::{flag, forget_u8, forget_u32};

#[inline(always)]
pub(super) fn rules(facts: &Facts, role: Role, times: Times) -> (Cause, Loss) {
    if facts.state == state::SYN_SENT {
        // An additional subflow may be refused while the connection lives.
        let loss = if facts.mptcp == 0 {
            Loss::Is(Impact::ConnectFailed)
        } else {
            Loss::Is(Impact::Uncertain)
        };
        return (Cause::Refused, loss);
    }
    if facts.state == state::SYN_RECV {
        return (Cause::Unknown, Loss::Is(Impact::Uncertain));
    }
    if facts.mptcp != 0 {
        return (Cause::Mptcp, Loss::Undelivered);
    }
    let client = role as u8 == Role::Client as u8;
    let server = role as u8 == Role::Server as u8;
    let volume = known::BYTES_RECEIVED | known::SOCK_FLAGS;
    if server && facts.knows(volume) && received_bytes(facts) == 0 && has_said_little(facts, times)
    {
        // A health check, a scan, a banner check, a cancelled connect.
        return (Cause::NoData, Loss::Is(Impact::Benign));
    }
    if facts.state == state::CLOSE_WAIT || facts.state == state::LAST_ACK {
        return (Cause::PeerClosed, Loss::PeerClosed);
    }
    if facts.sock_flags & sock_flag::DEAD != 0 || facts.shutdown & shutdown::RCV != 0 {
        return (Cause::AfterClose, Loss::AfterClose);
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
        return (Cause::Unknown, Loss::Is(Impact::Uncertain));
    }
    // After a silence it matters more whose timer it was.
    let in_use = facts.idle_segment < times.idle;
    let forged = flag(in_use && Forgery::of(facts, times.jiffy_us).is_forged()) != 0;
    if forged {
        return (Cause::Forged, Loss::Is(Impact::ConnectionBroken));
    }
    if client
        && facts.state == state::ESTABLISHED
        && received_bytes(facts) == 0
        && facts.bytes_sent == 0
        && age(facts) < times.idle
    {
        return (Cause::NoData, Loss::Is(Impact::ConnectFailed));
    }
    let unacked = forget_u32(unacked_data(facts));
    // With more to send it is a probe of the peer's window.
    if unacked == 0 && facts.unsent == 0 && facts.probes_out != 0 {
        return (Cause::StaleProbe, Loss::Undelivered);
    }
    // Whoever has forgotten a connection says so at once; whoever takes a while has
    // looked at what it got.
    let at_once = flag(times.is_at_once(facts, facts.idle_tx)) != 0;
    if unacked != 0 && facts.idle_segment >= times.idle && at_once {
        return (Cause::StaleReuse, Loss::Is(Impact::ConnectionBroken));
    }
    let last = forget_u8(turn(facts) as u8);
    let outstanding = flag(unacked != 0 || facts.unsent != 0) != 0;
    let silent = flag(facts.idle_rx >= times.idle && facts.idle_tx >= times.idle) != 0;
    let many = facts.multiplexed != 0;
    if client && !many && last == Turn::Us as u8 && !outstanding && silent {
        return (Cause::NoResponse, Loss::Is(Impact::ConnectionBroken));
    }
    if server && !many && last == Turn::Peer as u8 {
        // Whoever leaves at once has waited for nothing.
        let loss = if !outstanding && times.is_no_wait(facts, facts.idle_rx) {
            Loss::Is(Impact::Uncertain)
        } else {
            Loss::Is(Impact::ConnectionBroken)
        };
        return (Cause::PeerGaveUp, loss);
    }
    if silent && !outstanding {
        return (Cause::IdleTimeout, Loss::Is(Impact::Uncertain));
    }
    (Cause::PeerAbort, Loss::Undelivered)
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
