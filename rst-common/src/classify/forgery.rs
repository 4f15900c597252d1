//! Whether a reset that arrived is the peer's own.
//!
//! Only what decides is weighed. Where a reset lies in the sequence space tells
//! nothing: the kernel accepts it at the expected number alone (RFC 5961 section 3.2)
//! and counts the others as ignored.

use super::connection::unacked_data;
use crate::facts::{Facts, known};

/// Marks of a reset that do not fit the connection's peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgery {
    /// By how many hops the reset's TTL differs from that of the peer's handshake;
    /// `None` where one of them is not known.
    pub hops: Option<u8>,
    /// It acknowledges data that cannot have been at the peer and back.
    pub too_early: bool,
}

/// A score from which a reset counts as forged.
pub const THRESHOLD: u8 = 3;

/// Hops by which the way of a connection may change while it lives.
const OTHER_WAY: u8 = 4;

impl Forgery {
    /// The marks of a reset that arrived. `jiffy_us`: microseconds of a jiffy.
    #[must_use]
    #[inline(always)]
    pub fn of(facts: &Facts, jiffy_us: u32) -> Self {
        let hops = if facts.knows(known::PACKET | known::HANDSHAKE_TTL) {
            Some(facts.ttl.abs_diff(facts.handshake_ttl))
        } else {
            None
        };
        Self {
            hops,
            too_early: is_too_early(facts, jiffy_us),
        }
    }

    /// How far the marks tell against the peer: 3 for a TTL that is far off, 1 for one
    /// that another way explains, 2 for an answer that came too early.
    #[must_use]
    #[inline(always)]
    pub const fn score(self) -> u8 {
        let hops = match self.hops {
            None | Some(0) => 0,
            Some(hops) if hops <= OTHER_WAY => 1,
            Some(_) => THRESHOLD,
        };
        hops + if self.too_early { 2 } else { 0 }
    }

    /// Whether they are enough.
    #[must_use]
    #[inline(always)]
    pub const fn is_forged(self) -> bool {
        self.score() >= THRESHOLD
    }
}

/// Whether the reset acknowledges all that was sent, and the last of it so lately that
/// not even the fastest round trip was possible. Jiffies: one more may have passed.
#[inline(always)]
fn is_too_early(facts: &Facts, jiffy_us: u32) -> bool {
    let needed = known::PACKET | known::MIN_RTT | known::IDLE_TX | known::UNACKED;
    facts.knows(needed)
        && facts.acknowledges_all != 0
        && facts.min_rtt_us != u32::MAX
        && unacked_data(facts) != 0
        && (u64::from(facts.idle_tx) + 1) * u64::from(jiffy_us) < u64::from(facts.min_rtt_us)
}
