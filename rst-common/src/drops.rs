//! Resets that arrive and change nothing, by the reason for which the kernel drops
//! the packet.

use crate::cause::Ignored;
use crate::tcp::state;

/// Room for the kernel's numbers; a power of two. Higher ones are of subsystems that
/// drop no reset of ours.
pub const MAX_DROPS: usize = 256;

/// By the kernel's number: an [`Ignored`] as a byte plus one, or 0 for a reason that
/// is none of ours.
pub type Drops = [u8; MAX_DROPS];

/// The kernel's names (`enum skb_drop_reason`, include/net/dropreason-core.h,
/// without the prefix) and what they mean for a reset.
const REASONS: [(&str, Ignored); 6] = [
    ("NOT_SPECIFIED", Ignored::Other),
    ("NO_SOCKET", Ignored::NoSocket),
    ("TCP_OLD_SEQUENCE", Ignored::OutOfWindow),
    ("TCP_INVALID_SEQUENCE", Ignored::OutOfWindow),
    ("TCP_RESET", Ignored::ChallengeAck),
    ("TCP_CSUM", Ignored::BadChecksum),
];

/// The entry of a reason by its name.
#[must_use]
pub fn entry(name: &str) -> u8 {
    let reason = REASONS.iter().find(|(known, _)| *known == name);
    reason.map_or(0, |(_, why)| *why as u8 + 1)
}

/// The entry of packets for which there is no socket. Before it drops a TCP segment
/// for that reason, the kernel has noted its flags (`tcp_v4_fill_cb`, 5.10 to 7.3).
pub const NO_SOCKET: u8 = Ignored::NoSocket as u8 + 1;

/// Why a reset was ignored, by an entry that is not 0 and the state of the socket
/// that it met, 0 where that is not known: the kernel gives no reason for requests
/// (whose socket is the listener's, `tcp_v4_rcv`) and TIME_WAIT.
#[must_use]
#[inline(always)]
pub const fn why(entry: u8, socket: u8) -> u8 {
    let why = entry.wrapping_sub(1);
    if why != Ignored::Other as u8 {
        why
    } else if socket == state::LISTEN {
        Ignored::Embryonic as u8
    } else if socket == state::TIME_WAIT {
        Ignored::TimeWait as u8
    } else {
        why
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_and_sockets_tell_why() {
        for (name, socket, expected) in [
            ("NO_SOCKET", 0, Ignored::NoSocket),
            ("TCP_RESET", state::ESTABLISHED, Ignored::ChallengeAck),
            ("TCP_INVALID_SEQUENCE", 0, Ignored::OutOfWindow),
            ("NOT_SPECIFIED", 0, Ignored::Other),
            ("NOT_SPECIFIED", state::LISTEN, Ignored::Embryonic),
            ("NOT_SPECIFIED", state::TIME_WAIT, Ignored::TimeWait),
        ] {
            assert_eq!(why(entry(name), socket), expected as u8, "{name} {socket}");
        }
        assert_eq!(entry("SOCKET_FILTER"), 0);
    }
}
