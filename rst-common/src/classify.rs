//! The one function that decides why a connection was reset.
//!
//! Ordered rules, first match wins; what each rests on stands in the table of
//! [`Cause`]. A rule that can't prove its impact says `uncertain`.
//!
//! Sent:
//! 1. no socket: `refused` (SYN), `after_reset`, `stray` (no data), `late_data`,
//!    `half_open`;
//! 2. a rule of netfilter: `firewall_reject`;
//! 3. TIME_WAIT: `late_data`, `protocol_error` (SYN);
//! 4. a listener: `protocol_error` (SYN), `listen_overflow`, else as without a
//!    socket;
//! 5. a connection answers a segment: `protocol_error` (handshake), `late_data`,
//!    `app_abort` (TCP_LINGER2);
//! 6. `mptcp`;
//! 7. a connection still in its state: `keepalive_timeout`, `app_abort`
//!    (TCP_LINGER2), `memory_pressure`, `admin_kill`;
//! 8. a connection that was closed: `listener_closed`, `app_abort`
//!    (TCP_LINGER2), `memory_pressure`, `process_exit`, `unread_data`,
//!    `app_abort` (SO_LINGER 0, AF_UNSPEC).
//!
//! Received, by the state of our socket:
//! 1. SYN_SENT: `refused`;
//! 2. `mptcp`;
//! 3. a server that was told nothing and said little: `no_data`;
//! 4. the peer had closed: `peer_closed`;
//! 5. we had closed: `after_close`;
//! 6. in use, and the reset is not the peer's: `forged`;
//! 7. a young client, and nothing has moved: `no_data`;
//! 8. something is out: `stale_probe`, `stale_reuse`;
//! 9. an answer is pending: `no_response`, `peer_gave_up`;
//! 10. nothing moved for long: `idle_timeout`;
//! 11. otherwise `peer_abort`.
//!
//! The kernel's reason is used where it says more than the facts. Without one
//! (received, before 6.10, active resets before 6.12) the facts decide alike.

mod connection;
pub mod forgery;
mod impact;
mod received;
mod sent;

use crate::cause::{Cause, Direction, Impact, Role};
use crate::facts::Facts;
pub use connection::{
    gap, received_bytes, role, segment_role, turn, turn_at_close, turn_at_fin, unacked_data,
    undelivered_data,
};
use impact::Loss;

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
    verdict(facts, role, times, sent::rules(facts))
}

/// [`classify`] of a reset that this host sent for a segment which no full socket has
/// taken.
#[must_use]
#[inline(always)]
pub fn classify_segment(facts: &Facts, times: Times) -> Verdict {
    let role = segment_role(facts);
    verdict(facts, role, times, sent::segment_rules(facts))
}

/// [`classify`] of a reset that arrived here.
#[must_use]
#[inline(always)]
pub fn classify_received(facts: &Facts, times: Times) -> Verdict {
    let role = role(facts);
    verdict(facts, role, times, received::rules(facts, role, times))
}

#[inline(always)]
fn verdict(facts: &Facts, role: Role, times: Times, (cause, loss): (Cause, Loss)) -> Verdict {
    Verdict {
        cause,
        impact: loss.impact(facts, role, times),
        role,
    }
}

#[cfg(test)]
mod tests;
