//! Each rule with a case it decides and a near miss.

mod connection;
mod examples;
mod received;
mod sent;

use super::*;
use crate::cause::{Origin, Text, Turn};
use crate::facts::{PAYLOAD_PREFIX, known};
use crate::history::{Closed, Listened};
use crate::reason::Reason;
use crate::tcp::{flag, shutdown, sock_flag, state};

/// Threshold of the tests, jiffies.
const IDLE: u32 = 250;

/// 250 jiffies a second.
const TIMES: Times = Times {
    idle: IDLE,
    jiffy_us: 4000,
};

fn decide(facts: &Facts) -> Verdict {
    classify(facts, TIMES)
}

/// An established socket of a client that sent 100 bytes and got 200, all
/// acknowledged and read, the answer last.
fn client() -> Facts {
    Facts {
        known: !(known::SEGMENT | known::PAYLOAD | known::EXIT_CODE),
        origin: Origin::Socket as u8,
        state: state::ESTABLISHED,
        has_socket: 1,
        age: 10_000,
        idle_tx: 20,
        idle_rx: 10,
        idle_segment: 10,
        bytes_sent: 100,
        // Our SYN counts.
        bytes_acked: 101,
        bytes_received: 200,
        ..Facts::default()
    }
}

/// The same seen from the server: it answered last.
fn server() -> Facts {
    Facts {
        idle_tx: 10,
        idle_rx: 20,
        bytes_sent: 200,
        bytes_acked: 200,
        bytes_received: 100,
        ..client()
    }
}

fn sent(facts: Facts) -> Facts {
    Facts {
        direction: Direction::Sent as u8,
        ..facts
    }
}

fn received(facts: Facts) -> Facts {
    Facts {
        direction: Direction::Received as u8,
        ..facts
    }
}

/// An active reset: the socket has already left its state.
fn closing(facts: Facts, reason: Reason) -> Facts {
    sent(Facts {
        state: state::CLOSE,
        state_before: facts.state,
        shutdown: shutdown::BOTH,
        reason: reason as u8,
        ..facts
    })
}

/// A reset that answers a segment.
fn answering(origin: Origin, flags: u8, payload_len: u32) -> Facts {
    Facts {
        known: known::SEGMENT,
        direction: Direction::Sent as u8,
        origin: origin as u8,
        segment_flags: flags,
        payload_len,
        ..Facts::default()
    }
}

fn with_payload(facts: Facts, payload: [u8; PAYLOAD_PREFIX]) -> Facts {
    Facts {
        known: facts.known | known::PAYLOAD,
        payload,
        ..facts
    }
}

#[track_caller]
fn check(facts: &Facts, cause: Cause, impact: Impact) -> Verdict {
    let verdict = decide(facts);
    assert_eq!(
        (verdict.cause, verdict.impact),
        (cause, impact),
        "{facts:?}"
    );
    verdict
}

/// All three clocks of a connection that stands still.
fn silent(facts: Facts, tx: u32, rx: u32) -> Facts {
    received(Facts {
        idle_tx: tx,
        idle_rx: rx,
        idle_segment: tx.min(rx),
        ..facts
    })
}

#[test]
fn every_cause_is_told_whole() {
    for cause in Cause::ALL {
        let Text {
            meaning,
            impact,
            evidence,
            confirm,
            fix,
            links: _,
        } = cause.text();
        for text in [meaning, impact, evidence, confirm, fix] {
            assert!(
                !text.is_empty() && !text.ends_with('.') && text.trim() == text,
                "{cause:?}: {text}"
            );
        }
        assert!(
            Impact::ALL
                .iter()
                .any(|known| impact.contains(known.label()))
                || impact.starts_with("by what was outstanding"),
            "{cause:?}: {impact}"
        );
    }
}

#[test]
fn labels_are_unique_and_lower_case() {
    for (index, cause) in Cause::ALL.iter().enumerate() {
        assert_eq!(Cause::from_byte(*cause as u8), Some(*cause));
        assert_eq!(Cause::from_label(cause.label()), Some(*cause));
        assert!(
            cause
                .label()
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        );
        for other in &Cause::ALL[index + 1..] {
            assert_ne!(cause.label(), other.label());
            assert_ne!(cause.text().meaning, other.text().meaning);
        }
    }
    assert_eq!(Cause::from_byte(u8::MAX), None);
    assert_eq!(Cause::from_label("nonsense"), None);
}
