//! What a verdict rests on, in words with the numbers.

use std::time::Duration;

use rst_common::cause::{Cause, Direction};
use rst_common::classify::forgery::Forgery;
use rst_common::classify::{unacked_data, undelivered_data};
use rst_common::event::{self, Event};
use rst_common::facts::{Facts, known};
use rst_common::history::Listened;
use rst_common::tcp::{flag, shutdown, sock_flag, state};

use crate::clock::Hz;
use crate::kernel::listeners::Stopped;

/// One line: what was seen that decided the cause.
#[must_use]
pub fn basis(cause: Cause, event: &Event, hz: Hz) -> String {
    let facts = &event.facts;
    let received = facts.direction == Direction::Received as u8;
    match cause {
        Cause::Refused if received => "our connection attempt was answered by a reset".to_owned(),
        Cause::Refused => format!("a SYN arrived for a port {}", listened(facts)),
        Cause::HalfOpen => format!(
            "{} of a connection that this host does not know, for a port {}",
            segment(facts),
            listened(facts)
        ),
        Cause::AfterReset => format!(
            "{} of a connection that was closed or reset here a moment ago",
            segment(facts)
        ),
        Cause::Mptcp => format!(
            "a subflow of MPTCP in {}{}",
            state_name(facts),
            undelivered(facts)
        ),
        Cause::ListenOverflow => "the handshake's last ACK found the accept queue full".to_owned(),
        Cause::Stray => format!("{} for no connection of this host", segment(facts)),
        Cause::LateData => format!(
            "{} arrived after this host had closed the connection",
            segment(facts)
        ),
        Cause::UnreadData => format!("closed with {}", unread(facts)),
        Cause::ProcessExit => format!(
            "the process was {} and left {}",
            exiting(facts),
            unread(facts)
        ),
        Cause::AppAbort => aborted(facts),
        Cause::ListenerClosed => {
            "closed with its listener before any process had accepted it".to_owned()
        }
        Cause::AdminKill => format!("destroyed while still {}", state_name(facts)),
        Cause::KeepaliveTimeout => format!(
            "{} keep-alive probes without an answer",
            facts
                .get(known::PROBES_OUT, |facts| facts.probes_out.to_string())
                .unwrap_or_else(|| "all".to_owned())
        ),
        Cause::MemoryPressure => "the kernel's orphan or TCP memory limit was reached".to_owned(),
        Cause::ProtocolError => format!("{} in {}", segment(facts), state_name(facts)),
        Cause::FirewallReject => format!("{} was rejected by a firewall rule", segment(facts)),
        Cause::PeerClosed => format!(
            "the peer had closed ({}){}",
            state_name(facts),
            undelivered(facts)
        ),
        Cause::AfterClose => format!(
            "this host had closed its end ({}{}){}",
            state_name(facts),
            if facts.sock_flags & sock_flag::DEAD != 0 {
                ", orphaned"
            } else {
                ""
            },
            undelivered(facts)
        ),
        Cause::StaleReuse => format!(
            "silent for {}, then used: {} without an answer{}",
            silence(facts, hz),
            bytes_text(unacked_data(facts)),
            who_reset(event)
        ),
        Cause::StaleProbe => format!(
            "a keep-alive probe after {} of silence was answered by the reset",
            silence(facts, hz)
        ),
        Cause::IdleTimeout => format!(
            "no data either way for {}, nothing outstanding",
            idle(facts, hz)
        ),
        Cause::NoResponse => format!(
            "{} sent and acknowledged, no answer for {}",
            sent_bytes(facts),
            idle(facts, hz)
        ),
        Cause::PeerGaveUp => format!("the peer waited {} for an answer", idle(facts, hz)),
        Cause::PeerAbort => format!(
            "reset while {}, last segment of the peer {} before{}{}",
            state_name(facts),
            silence(facts, hz),
            undelivered(facts),
            who_reset(event)
        ),
        Cause::Forged => format!(
            "reset while {} by somebody in between: {}{}",
            state_name(facts),
            evidence(facts, Forgery::of(facts, hz.jiffy_us())).join(", "),
            undelivered(facts)
        ),
        Cause::NoData => "no data had arrived".to_owned(),
        Cause::Unknown => unknown(facts, hz),
    }
}

/// What does not fit the connection's peer.
#[must_use]
pub fn evidence(facts: &Facts, marks: Forgery) -> Vec<String> {
    let hops = marks.hops.filter(|hops| *hops != 0);
    let ttl = hops.map(|_| {
        let Facts {
            ttl, handshake_ttl, ..
        } = facts;
        format!("its TTL is {ttl}, the peer's was {handshake_ttl} at the handshake")
    });
    let early = marks.too_early.then(|| {
        let tenths = facts.min_rtt_us / 100;
        format!(
            "it acknowledges data sooner than the least round trip of {}.{} ms",
            tenths / 10,
            tenths % 10
        )
    });
    ttl.into_iter().chain(early).collect()
}

/// TCP flags by name, "RST,ACK".
#[must_use]
pub fn flags(flags: u8) -> String {
    let names = flag::NAMES.iter().rev();
    let set = names.filter(|(bit, _)| flags & bit != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
}

/// Who made the reset, as its header tells: a host that had the connection states its
/// window and acknowledges (`tcp_send_active_reset`, net/ipv4/tcp_output.c), who does
/// not know it has no window (`tcp_v4_send_reset`; RFC 9293 section 3.10.7.1).
fn who_reset(event: &Event) -> &'static str {
    if event.known & event::known::PACKET == 0 {
        return "";
    }
    if event.packet_window != 0 && event.packet_flags & flag::ACK != 0 {
        "; the peer knew the connection and ended it"
    } else {
        "; whoever answered had no such connection (any more)"
    }
}

/// What an application threw away with the reset it asked for.
fn aborted(facts: &Facts) -> String {
    let outstanding = [
        ("unread", known::UNREAD, facts.unread),
        ("unsent", known::UNSENT, facts.unsent),
        ("unacknowledged", known::UNACKED, facts.unacked),
    ];
    let mut parts = vec![how_aborted(facts).to_owned()];
    parts.extend(
        outstanding
            .into_iter()
            .filter(|(_, bits, bytes)| facts.knows(*bits) && *bytes != 0)
            .map(|(name, _, bytes)| format!("{} {name}", bytes_text(bytes))),
    );
    parts.join(", ")
}

/// How an application asked for a reset.
fn how_aborted(facts: &Facts) -> &'static str {
    if facts.knows(known::LINGER2) && facts.no_fin_wait2 != 0 {
        "closed with a negative TCP_LINGER2"
    } else if facts.shutdown & shutdown::BOTH == shutdown::BOTH {
        "closed with SO_LINGER on and a linger time of 0"
    } else {
        "disconnected without a close (connect with AF_UNSPEC)"
    }
}

/// Who stopped listening where a segment went, and how, to follow the rest.
#[must_use]
pub fn stopped(stopped: &Stopped, workload: Option<&str>, now_ns: u64) -> String {
    let who = match (workload, stopped.pid) {
        (Some(name), Some(pid)) => format!("{name} (pid {pid})"),
        (Some(name), None) => name.to_owned(),
        (None, Some(pid)) => format!("pid {pid}"),
        (None, None) => "its listener".to_owned(),
    };
    let seconds = Duration::from_nanos(now_ns.saturating_sub(stopped.at_ns)).as_secs_f64();
    let how = match stopped.exit_code {
        None => String::new(),
        Some(code) if code & 0x7f != 0 => format!(", killed by signal {}", code & 0x7f),
        Some(code) => format!(", exited with status {}", code >> 8 & 0xff),
    };
    format!("; {who} stopped listening {seconds:.1} s ago{how}")
}

/// Who listens where a segment went, to follow "a port".
fn listened(facts: &Facts) -> &'static str {
    match facts.listened {
        listened if listened == Listened::Now as u8 => "with a listener",
        listened if listened == Listened::Before as u8 => "that has lost its listener",
        listened if listened == Listened::Never as u8 => "that never had a listener",
        _ => "without a listener",
    }
}

fn unknown(facts: &Facts, hz: Hz) -> String {
    if facts.knows(known::SEGMENT) {
        return match facts.get(known::STATE, |facts| facts.state) {
            Some(state) => format!(
                "{} met a socket in {}",
                segment(facts),
                state::name(state).unwrap_or("an unnamed state")
            ),
            None => format!("{} met no socket", segment(facts)),
        };
    }
    let held = if facts.state == state::CLOSE {
        "the socket was closed by this host"
    } else {
        state_name(facts)
    };
    let before = if facts.knows(known::IDLE_SEGMENT) {
        format!(", last segment of the peer {} before", silence(facts, hz))
    } else {
        String::new()
    };
    format!("{held}{before}{}", undelivered(facts))
}

/// Time since the peer's last segment.
fn silence(facts: &Facts, hz: Hz) -> String {
    seconds(hz.milliseconds(facts.idle_segment))
}

/// Time since data last moved, in the direction where it moved last.
fn idle(facts: &Facts, hz: Hz) -> String {
    seconds(hz.milliseconds(facts.idle_rx.min(facts.idle_tx)))
}

/// "60.0 s"
fn seconds(milliseconds: u64) -> String {
    let tenths = milliseconds / 100;
    format!("{}.{} s", tenths / 10, tenths % 10)
}

fn sent_bytes(facts: &Facts) -> String {
    let bytes = facts.bytes_sent.saturating_sub(facts.bytes_retrans);
    bytes_text(u32::try_from(bytes).unwrap_or(u32::MAX))
}

fn state_name(facts: &Facts) -> &'static str {
    let state = facts
        .get(known::STATE_BEFORE, |facts| facts.state_before)
        .unwrap_or(facts.state);
    state::name(state).unwrap_or("an unnamed state")
}

/// ", 460 bytes undelivered", or nothing.
fn undelivered(facts: &Facts) -> String {
    if !facts.knows(known::UNACKED | known::UNSENT) {
        return String::new();
    }
    match undelivered_data(facts) {
        0 => ", nothing undelivered".to_owned(),
        bytes => format!(", {} not acknowledged", bytes_text(bytes)),
    }
}

fn unread(facts: &Facts) -> String {
    match facts.get(known::UNREAD, |facts| facts.unread) {
        Some(bytes) => format!("{} unread", bytes_text(bytes)),
        None => "bytes unread".to_owned(),
    }
}

fn bytes_text(bytes: u32) -> String {
    if bytes == 1 {
        "1 byte".to_owned()
    } else {
        format!("{bytes} bytes")
    }
}

fn exiting(facts: &Facts) -> String {
    match facts.get(known::EXIT_CODE, |facts| facts.exit_code) {
        Some(code) if code & 0x7f != 0 => format!("killed by signal {}", code & 0x7f),
        Some(code) => format!("exiting with status {}", code >> 8 & 0xff),
        None => "exiting".to_owned(),
    }
}

/// "a SYN", "an ACK with 12 bytes", ..
fn segment(facts: &Facts) -> String {
    if !facts.knows(known::SEGMENT) {
        return "a segment".to_owned();
    }
    let flags = facts.segment_flags;
    let name = match (flags & flag::SYN != 0, flags & flag::ACK != 0) {
        (true, true) => "a SYN-ACK",
        (true, false) => "a SYN",
        (false, _) if flags & flag::FIN != 0 => "a FIN",
        (false, true) => "an ACK",
        (false, false) => "a segment without ACK",
    };
    if facts.payload_len == 0 {
        name.to_owned()
    } else {
        format!("{name} with {}", bytes_text(facts.payload_len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ring::decode;
    use rst_common::event::EVENT_SIZE;

    #[test]
    fn what_the_header_of_a_reset_tells() {
        let hz = Hz::of((0, (1 << 32) - 300 * 250)).unwrap();
        let mut event = decode(&[0; EVENT_SIZE]).unwrap();
        let facts = &mut event.facts;
        facts.known = known::PACKET | known::HANDSHAKE_TTL | known::MIN_RTT;
        (facts.ttl, facts.handshake_ttl, facts.min_rtt_us) = (250, 57, 12_345);
        facts.state = state::ESTABLISHED;
        assert_eq!(
            basis(Cause::Forged, &event, hz),
            "reset while ESTABLISHED by somebody in between: \
             its TTL is 250, the peer's was 57 at the handshake"
        );
        let marks = Forgery {
            hops: Some(0),
            too_early: true,
        };
        assert_eq!(
            evidence(&event.facts, marks),
            ["it acknowledges data sooner than the least round trip of 12.3 ms"]
        );
        assert_eq!(who_reset(&event), "");
        event.known = event::known::PACKET;
        event.packet_flags = flag::RST | flag::ACK;
        assert_eq!(
            who_reset(&event),
            "; whoever answered had no such connection (any more)"
        );
        event.packet_window = 1;
        assert_eq!(
            who_reset(&event),
            "; the peer knew the connection and ended it"
        );
        assert_eq!(flags(event.packet_flags), "RST,ACK");
    }

    #[test]
    fn a_service_that_has_gone_is_told_as_far_as_it_is_known() {
        let killed = Stopped {
            pid: Some(812),
            born: 0,
            workload: 7,
            at_ns: 1_000_000_000,
            exit_code: Some(9),
            resets: 1,
        };
        let tell = |gone: Stopped, name| stopped(&gone, name, 3_100_000_000);
        assert_eq!(
            tell(killed, Some("gunicorn.service")),
            "; gunicorn.service (pid 812) stopped listening 2.1 s ago, killed by signal 9"
        );
        let exited = Stopped {
            pid: None,
            exit_code: Some(3 << 8),
            ..killed
        };
        assert_eq!(
            tell(exited, None),
            "; its listener stopped listening 2.1 s ago, exited with status 3"
        );
        let closed = Stopped {
            exit_code: None,
            ..killed
        };
        assert_eq!(tell(closed, None), "; pid 812 stopped listening 2.1 s ago");
    }
}
