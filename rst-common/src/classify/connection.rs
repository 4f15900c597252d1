//! What the facts say of a connection: who was what in it, who spoke last, and
//! what is still on its way.

use super::Times;
use crate::cause::{Cause, Origin, Role, Turn};
use crate::facts::{Facts, known};
use crate::history::Listened;
use crate::tcp::{sock_flag, state};
use crate::verifier::{holds, set};

#[inline(always)]
pub(super) fn has_served(facts: &Facts) -> bool {
    facts.listened == Listened::Now as u8 || facts.listened == Listened::Before as u8
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

/// Bytes written and not sent yet, without our FIN behind them.
#[inline(always)]
pub(super) fn unsent_data(facts: &Facts) -> u32 {
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

/// The state the socket is in, or was in before this host left it.
#[inline(always)]
pub(super) fn state_held(facts: &Facts) -> u8 {
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
    const STATES: u64 = set(&[
        state::FIN_WAIT1,
        state::FIN_WAIT2,
        state::CLOSING,
        state::LAST_ACK,
    ]);
    holds(STATES, state as u32)
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

/// What this host was to a segment which no full socket has taken. Where somebody
/// listens, or did, we were the server; what is known of a connection that has ended
/// stands in `tracked_role`.
#[must_use]
#[inline(always)]
pub fn segment_role(facts: &Facts) -> Role {
    match facts.tracked_role {
        _ if has_served(facts) => Role::Server,
        1 => Role::Client,
        2 => Role::Server,
        _ => Role::Unknown,
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
        return segment_role(facts);
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
