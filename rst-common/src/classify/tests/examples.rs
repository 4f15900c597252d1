//! For every cause an example and a near miss, and the same without the kernel's
//! reason.

extern crate std;

use std::vec;
use std::vec::Vec;

use super::*;

/// A cause with facts that show it and facts that just don't.
struct Example {
    cause: Cause,
    shows: Facts,
    near_miss: Facts,
}

fn example(cause: Cause, shows: Facts, near_miss: Facts) -> Example {
    Example {
        cause,
        shows,
        near_miss,
    }
}

/// A segment for a connection without a socket here, on a port that serves.
fn segment(flags: u8, len: u32, closed: Closed) -> Facts {
    Facts {
        closed: closed as u8,
        listened: Listened::Now as u8,
        ..answering(Origin::None, flags, len)
    }
}

fn in_state(facts: Facts, reason: Reason) -> Facts {
    sent(Facts {
        reason: reason as u8,
        ..facts
    })
}

/// Of resets that answer a segment.
fn answer_examples() -> Vec<Example> {
    let answered = |facts: Facts, payload_len| Facts {
        known: facts.known | known::SEGMENT,
        segment_flags: flag::ACK,
        payload_len,
        ..facts
    };
    let overflow = |accept_overflow| Facts {
        known: known::SEGMENT | known::STATE | known::ACCEPT_OVERFLOW,
        state: state::LISTEN,
        reason: if accept_overflow == 0 {
            Reason::Flags as u8
        } else {
            Reason::InvalidSyn as u8
        },
        accept_overflow,
        ..answering(Origin::Socket, flag::ACK, 0)
    };
    vec![
        example(
            Cause::Refused,
            segment(flag::SYN, 0, Closed::Unknown),
            segment(flag::SYN | flag::ACK, 0, Closed::No),
        ),
        example(Cause::ListenOverflow, overflow(1), overflow(0)),
        example(
            Cause::HalfOpen,
            segment(flag::ACK, 2, Closed::No),
            segment(flag::ACK, 0, Closed::No),
        ),
        example(
            Cause::AfterReset,
            segment(flag::ACK, 2, Closed::Done),
            segment(flag::ACK, 2, Closed::No),
        ),
        example(
            Cause::Stray,
            segment(flag::FIN | flag::ACK, 0, Closed::No),
            segment(flag::FIN | flag::ACK, 1, Closed::No),
        ),
        example(
            Cause::LateData,
            answered(closing(server(), Reason::AbortOnData), 1),
            answered(closing(server(), Reason::AbortOnData), 0),
        ),
        example(
            Cause::FirewallReject,
            answering(Origin::Netfilter, flag::SYN, 0),
            answering(Origin::None, flag::SYN, 0),
        ),
        example(
            Cause::ProtocolError,
            answered(
                sent(Facts {
                    state: state::SYN_RECV,
                    ..server()
                }),
                0,
            ),
            answered(sent(server()), 0),
        ),
    ]
}

/// Of resets that end a connection of this host.
fn ending_examples() -> Vec<Example> {
    let unread = |facts| Facts { unread: 5, ..facts };
    let linger = |facts| Facts {
        sock_flags: sock_flag::LINGER,
        ..facts
    };
    let exiting = |facts: Facts| Facts {
        known: facts.known | known::EXIT_CODE,
        exiting: 1,
        exit_code: 9,
        ..facts
    };
    let orphan = |facts| Facts {
        sock_flags: sock_flag::DEAD,
        ..facts
    };
    let unaccepted = Facts {
        has_socket: 0,
        shutdown: 0,
        ..closing(server(), Reason::State)
    };
    let probing = Facts {
        sock_flags: sock_flag::KEEPOPEN,
        probes_out: 9,
        ..server()
    };
    let subflow = |mptcp| in_state(Facts { mptcp, ..server() }, Reason::AbortOnClose);
    vec![
        example(
            Cause::UnreadData,
            unread(closing(server(), Reason::AbortOnClose)),
            closing(server(), Reason::State),
        ),
        example(
            Cause::ProcessExit,
            exiting(unread(closing(server(), Reason::AbortOnClose))),
            unread(closing(server(), Reason::AbortOnClose)),
        ),
        example(
            Cause::AppAbort,
            linger(closing(server(), Reason::State)),
            closing(server(), Reason::State),
        ),
        example(
            Cause::ListenerClosed,
            unaccepted,
            Facts {
                has_socket: 1,
                ..unaccepted
            },
        ),
        example(
            Cause::AdminKill,
            in_state(server(), Reason::State),
            linger(closing(server(), Reason::State)),
        ),
        example(
            Cause::KeepaliveTimeout,
            in_state(probing, Reason::KeepaliveTimeout),
            // Killed meanwhile: here only the kernel's reason can tell.
            in_state(probing, Reason::State),
        ),
        example(Cause::Mptcp, subflow(1), subflow(0)),
        example(
            Cause::MemoryPressure,
            in_state(orphan(server()), Reason::AbortOnMemory),
            in_state(server(), Reason::State),
        ),
    ]
}

fn received_examples() -> Vec<Example> {
    let silent = |facts, idle| {
        received(Facts {
            idle_tx: idle,
            idle_rx: idle - 1,
            idle_segment: idle - 1,
            ..facts
        })
    };
    let asked = |idle_tx| {
        received(Facts {
            idle_tx,
            idle_rx: idle_tx + 5,
            idle_segment: idle_tx,
            ..client()
        })
    };
    let unacked = |idle_segment| {
        received(Facts {
            unacked: 10,
            idle_segment,
            bytes_sent: 110,
            idle_tx: 0,
            ..client()
        })
    };
    let probe = |unacked| {
        received(Facts {
            probes_out: 1,
            unacked,
            bytes_sent: 100 + u64::from(unacked),
            ..client()
        })
    };
    let in_state = |state| received(Facts { state, ..client() });
    let waiting = |idle_tx| {
        received(Facts {
            idle_tx,
            ..server()
        })
    };
    vec![
        example(
            Cause::PeerClosed,
            in_state(state::CLOSE_WAIT),
            in_state(state::ESTABLISHED),
        ),
        example(
            Cause::AfterClose,
            received(Facts {
                sock_flags: sock_flag::DEAD,
                ..client()
            }),
            received(client()),
        ),
        example(Cause::StaleReuse, unacked(IDLE), unacked(IDLE - 1)),
        example(Cause::StaleProbe, probe(0), probe(1)),
        example(
            Cause::IdleTimeout,
            silent(client(), IDLE + 1),
            silent(client(), IDLE),
        ),
        example(Cause::NoResponse, asked(IDLE), asked(IDLE - 1)),
        example(Cause::PeerGaveUp, waiting(30), waiting(10)),
        example(
            Cause::PeerAbort,
            received(client()),
            silent(client(), IDLE + 1),
        ),
        example(
            Cause::Forged,
            received(Facts {
                ttl: 200,
                handshake_ttl: 60,
                ..client()
            }),
            received(Facts {
                ttl: 62,
                handshake_ttl: 60,
                ..client()
            }),
        ),
        example(
            Cause::NoData,
            received(Facts {
                bytes_received: 0,
                ..server()
            }),
            received(server()),
        ),
        example(
            Cause::Unknown,
            in_state(state::SYN_RECV),
            in_state(state::SYN_SENT),
        ),
    ]
}

fn examples() -> Vec<Example> {
    let mut examples = answer_examples();
    examples.extend(ending_examples());
    examples.extend(received_examples());
    examples
}

#[test]
fn every_cause_has_an_example_and_a_near_miss() {
    for cause in Cause::ALL {
        let mut of_cause = examples();
        of_cause.retain(|example| example.cause == *cause);
        assert!(!of_cause.is_empty(), "{cause:?} has no example");
        for example in of_cause {
            assert_eq!(decide(&example.shows).cause, *cause, "{:?}", example.shows);
            assert_ne!(
                decide(&example.near_miss).cause,
                *cause,
                "{:?}",
                example.near_miss
            );
        }
    }
}

#[test]
fn the_facts_alone_say_the_same() {
    for example in examples() {
        let withheld = Facts {
            reason: Reason::Unspecified as u8,
            ..example.shows
        };
        assert_eq!(decide(&withheld), decide(&example.shows), "{withheld:?}");
    }
}
