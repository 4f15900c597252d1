//! Each rule with a case it decides and a near miss.

mod examples;

use super::*;
use crate::cause::Text;
use crate::facts::PAYLOAD_PREFIX;

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

#[test]
fn segments_that_meet_no_socket() {
    let none = |flags, len| answering(Origin::None, flags, len);
    check(&none(flag::SYN, 0), Cause::Refused, Impact::Uncertain);
    check(
        &none(flag::SYN | flag::ACK, 0),
        Cause::Stray,
        Impact::Benign,
    );
    check(&none(flag::ACK, 0), Cause::Stray, Impact::Benign);
    check(
        &none(flag::FIN | flag::ACK, 0),
        Cause::Stray,
        Impact::Benign,
    );
    let unreadable = Facts {
        known: 0,
        ..none(0, 0)
    };
    check(&unreadable, Cause::Unknown, Impact::Uncertain);
}

#[test]
fn data_for_what_we_had_closed() {
    let answering = |origin, flags, len| Facts {
        tracked_role: Role::Server as u8,
        ..answering(origin, flags, len)
    };
    let late = answering(Origin::TimeWait, flag::ACK, 500);
    check(&late, Cause::LateData, Impact::ConnectionBroken);
    // A client that no longer waits loses nothing it wanted.
    let of_client = |late: Facts, turn: Turn| Facts {
        tracked_role: Role::Client as u8,
        tracked_turn: turn as u8,
        ..late
    };
    check(
        &of_client(late, Turn::Us),
        Cause::LateData,
        Impact::ConnectionBroken,
    );
    check(
        &of_client(late, Turn::Peer),
        Cause::LateData,
        Impact::Uncertain,
    );
    check(
        &answering(Origin::TimeWait, flag::SYN, 0),
        Cause::ProtocolError,
        Impact::Uncertain,
    );

    let full = Facts {
        known: server().known | known::SEGMENT,
        segment_flags: flag::ACK,
        payload_len: 500,
        ..closing(server(), Reason::AbortOnData)
    };
    check(&full, Cause::LateData, Impact::ConnectionBroken);

    // TLS: a farewell is no loss, a small record may be one.
    let tls = |kind, record: u8, len| {
        let facts = answering(Origin::TimeWait, flag::ACK, len);
        with_payload(facts, [kind, 3, 3, 0, record])
    };
    check(&tls(0x15, 26, 31), Cause::LateData, Impact::Benign);
    // A plaintext alert may be a fatal one.
    check(&tls(0x15, 2, 7), Cause::LateData, Impact::Uncertain);
    check(&tls(0x17, 19, 24), Cause::LateData, Impact::Benign);
    check(&tls(0x17, 35, 40), Cause::LateData, Impact::Uncertain);
    check(
        &tls(0x17, 195, 200),
        Cause::LateData,
        Impact::ConnectionBroken,
    );
    // Two records, the first an alert: more than a farewell.
    check(
        &tls(0x15, 26, 131),
        Cause::LateData,
        Impact::ConnectionBroken,
    );
    check(
        &with_payload(late, *b"GET /"),
        Cause::LateData,
        Impact::ConnectionBroken,
    );
}

#[test]
fn listeners() {
    let listener = |reason: Reason, flags| Facts {
        known: known::SEGMENT | known::STATE,
        state: state::LISTEN,
        reason: reason as u8,
        ..answering(Origin::Socket, flags, 0)
    };
    let verdict = check(
        &listener(Reason::InvalidSyn, flag::ACK),
        Cause::ListenOverflow,
        Impact::ConnectFailed,
    );
    assert_eq!(verdict.role, Role::Server);
    check(
        &listener(Reason::InvalidSyn, flag::SYN),
        Cause::ProtocolError,
        Impact::Uncertain,
    );
    // Without a reason the accept queue tells.
    let full = Facts {
        known: known::SEGMENT | known::STATE | known::ACCEPT_OVERFLOW,
        accept_overflow: 1,
        ..listener(Reason::Unspecified, flag::ACK)
    };
    check(&full, Cause::ListenOverflow, Impact::ConnectFailed);
    let room = Facts {
        accept_overflow: 0,
        ..full
    };
    check(&room, Cause::Stray, Impact::Benign);
    // A full queue does not make a handshake of what the kernel calls none.
    let stray = Facts {
        reason: Reason::Flags as u8,
        ..full
    };
    check(&stray, Cause::Stray, Impact::Benign);
}

#[test]
fn handshakes_that_break_the_protocol() {
    let in_state = |state| {
        sent(Facts {
            known: client().known | known::SEGMENT,
            state,
            segment_flags: flag::ACK,
            ..client()
        })
    };
    check(
        &in_state(state::SYN_SENT),
        Cause::ProtocolError,
        Impact::Benign,
    );
    check(
        &in_state(state::SYN_RECV),
        Cause::ProtocolError,
        Impact::Uncertain,
    );
}

#[test]
fn closing_with_bytes_unread() {
    let unread = |facts| {
        let facts = Facts { unread: 5, ..facts };
        closing(facts, Reason::AbortOnClose)
    };
    check(
        &unread(server()),
        Cause::UnreadData,
        Impact::ConnectionBroken,
    );
    // A client that has what it wanted, or one whose FIN is ambiguous.
    check(&unread(client()), Cause::UnreadData, Impact::Uncertain);

    let exiting = |facts: Facts, code| Facts {
        known: facts.known | known::EXIT_CODE,
        exiting: 1,
        exit_code: code,
        ..unread(facts)
    };
    check(
        &exiting(server(), 9),
        Cause::ProcessExit,
        Impact::ConnectionBroken,
    );
    check(
        &exiting(server(), 0),
        Cause::ProcessExit,
        Impact::ConnectionBroken,
    );
    let gone = client();
    check(&exiting(gone, 0), Cause::ProcessExit, Impact::Uncertain);
    check(
        &exiting(gone, 0x100),
        Cause::ProcessExit,
        Impact::ConnectionBroken,
    );
}

#[test]
fn aborting_on_purpose() {
    let abort = |facts: Facts| {
        let facts = Facts {
            sock_flags: sock_flag::LINGER,
            ..facts
        };
        closing(facts, Reason::State)
    };
    check(&abort(server()), Cause::AppAbort, Impact::Benign);
    for (unread, unsent, unacked) in [(1, 0, 0), (0, 1, 0), (0, 0, 2)] {
        let facts = Facts {
            unread,
            unsent,
            unacked,
            ..server()
        };
        check(&abort(facts), Cause::AppAbort, Impact::ConnectionBroken);
    }
    // The peer spoke last: it waits for an answer.
    let pending = Facts {
        idle_tx: 30,
        ..server()
    };
    check(&abort(pending), Cause::AppAbort, Impact::ConnectionBroken);
    check(&abort(client()), Cause::AppAbort, Impact::Benign);
    // Client or server can't be told, so neither can who waits.
    let unseen = Facts {
        known: client().known & !known::STATE_BEFORE,
        ..client()
    };
    check(&abort(unseen), Cause::AppAbort, Impact::Uncertain);

    let lingering = Facts {
        linger_time: 100,
        ..abort(server())
    };
    check(&lingering, Cause::Unknown, Impact::Uncertain);
    check(
        &closing(server(), Reason::State),
        Cause::Unknown,
        Impact::Uncertain,
    );
    // connect(AF_UNSPEC) closes nothing.
    let disconnected = Facts {
        shutdown: 0,
        ..closing(server(), Reason::State)
    };
    check(&disconnected, Cause::AppAbort, Impact::Benign);
}

#[test]
fn killed_from_outside() {
    let killed = sent(Facts {
        reason: Reason::State as u8,
        ..server()
    });
    check(&killed, Cause::AdminKill, Impact::ConnectionBroken);
}

#[test]
fn timers_and_limits() {
    let by = |reason: Reason| {
        sent(Facts {
            reason: reason as u8,
            ..server()
        })
    };
    check(
        &by(Reason::KeepaliveTimeout),
        Cause::KeepaliveTimeout,
        Impact::ConnectionBroken,
    );
    check(
        &by(Reason::AbortOnMemory),
        Cause::MemoryPressure,
        Impact::ConnectionBroken,
    );
    check(&by(Reason::InvalidSyn), Cause::Unknown, Impact::Uncertain);
}

#[test]
fn what_was_never_accepted() {
    let dropped = Facts {
        has_socket: 0,
        // Inherited from the listener.
        sock_flags: sock_flag::LINGER,
        ..closing(server(), Reason::State)
    };
    check(&dropped, Cause::ListenerClosed, Impact::ConnectFailed);
    let orphan = Facts {
        sock_flags: sock_flag::LINGER | sock_flag::DEAD,
        ..dropped
    };
    check(&orphan, Cause::AppAbort, Impact::Benign);
    let unknown = Facts {
        known: dropped.known & !known::HAS_SOCKET,
        ..dropped
    };
    check(&unknown, Cause::AppAbort, Impact::Benign);
}

#[test]
fn mptcp_subflows_prove_nothing_of_the_connection() {
    let subflow = |facts| Facts { mptcp: 1, ..facts };
    let joining = received(Facts {
        state: state::SYN_SENT,
        ..client()
    });
    check(&subflow(joining), Cause::Refused, Impact::Uncertain);
    // A fastclose resets the subflows in their states.
    let fastclose = sent(Facts {
        reason: Reason::AbortOnClose as u8,
        ..server()
    });
    check(&subflow(fastclose), Cause::Mptcp, Impact::Benign);
    check(
        &subflow(received(client())),
        Cause::Mptcp,
        Impact::Uncertain,
    );
}

#[test]
fn a_fin_is_no_data() {
    // Queued behind a zero window.
    let queued = |facts| {
        received(Facts {
            state: state::FIN_WAIT1,
            sock_flags: sock_flag::DEAD,
            unsent: 1,
            ..facts
        })
    };
    let verdict = check(&queued(client()), Cause::AfterClose, Impact::Benign);
    assert_eq!(verdict.role, Role::Client);
    assert_eq!(decide(&queued(server())).role, Role::Server);
    assert_eq!(undelivered_data(&queued(client())), 0);
    // Behind unsent data it is not in flight yet.
    let behind = Facts {
        unsent: 500,
        unacked: 60,
        bytes_sent: 160,
        ..queued(client())
    };
    assert_eq!(decide(&behind).role, Role::Client);
    assert_eq!(unacked_data(&behind), 60);
    // In flight before an abort: a byte or the FIN.
    let shut = Facts {
        sock_flags: sock_flag::LINGER,
        unacked: 1,
        state_before: state::FIN_WAIT1,
        ..closing(server(), Reason::State)
    };
    check(&shut, Cause::AppAbort, Impact::Benign);
    let byte = Facts {
        state_before: state::ESTABLISHED,
        ..shut
    };
    check(&byte, Cause::AppAbort, Impact::ConnectionBroken);
    let unseen = Facts {
        known: shut.known & !known::STATE_BEFORE,
        ..shut
    };
    check(&unseen, Cause::AppAbort, Impact::Uncertain);
}

#[test]
fn aborts_by_the_kernel_itself() {
    // `TCP_LINGER2` below zero: the ACK of the FIN is enough.
    let linger2 = Facts {
        known: server().known | known::SEGMENT,
        segment_flags: flag::ACK,
        no_fin_wait2: 1,
        ..closing(server(), Reason::AbortOnData)
    };
    check(&linger2, Cause::AppAbort, Impact::Benign);
    let patient = Facts {
        no_fin_wait2: 0,
        ..linger2
    };
    check(&patient, Cause::Unknown, Impact::Uncertain);
    // The timer of an orphan, not an administrator.
    let timer = sent(Facts {
        reason: Reason::State as u8,
        state: state::FIN_WAIT2,
        sock_flags: sock_flag::DEAD,
        no_fin_wait2: 1,
        // With our FIN.
        bytes_acked: 201,
        ..server()
    });
    check(&timer, Cause::AppAbort, Impact::Benign);
    let orphan = Facts {
        no_fin_wait2: 0,
        ..timer
    };
    check(&orphan, Cause::Unknown, Impact::Uncertain);
}

#[test]
fn our_attempt_was_refused() {
    let refused = received(Facts {
        state: state::SYN_SENT,
        ..client()
    });
    let verdict = check(&refused, Cause::Refused, Impact::ConnectFailed);
    assert_eq!(verdict.role, Role::Client);
}

#[test]
fn the_peer_had_closed() {
    let closed = |state, unacked, unsent| {
        received(Facts {
            state,
            unsent,
            unacked,
            // It had asked before it closed.
            tracked_role: Role::Server as u8,
            tracked_turn: Turn::Peer as u8,
            ..server()
        })
    };
    // What a server sends unasked after that nobody waits for.
    let unasked = Facts {
        tracked_turn: Turn::Us as u8,
        ..closed(state::CLOSE_WAIT, 5, 0)
    };
    check(&unasked, Cause::PeerClosed, Impact::Uncertain);
    check(
        &closed(state::CLOSE_WAIT, 0, 0),
        Cause::PeerClosed,
        Impact::Benign,
    );
    check(
        &closed(state::CLOSE_WAIT, 24, 0),
        Cause::PeerClosed,
        Impact::Benign,
    );
    check(
        &closed(state::CLOSE_WAIT, 5, 0),
        Cause::PeerClosed,
        Impact::ConnectionBroken,
    );
    check(
        &closed(state::CLOSE_WAIT, 0, 5),
        Cause::PeerClosed,
        Impact::ConnectionBroken,
    );
    // Our own FIN is one of the unacknowledged.
    check(
        &closed(state::LAST_ACK, 1, 0),
        Cause::PeerClosed,
        Impact::Benign,
    );
    check(
        &closed(state::LAST_ACK, 25, 0),
        Cause::PeerClosed,
        Impact::Benign,
    );
    check(
        &closed(state::LAST_ACK, 26, 0),
        Cause::PeerClosed,
        Impact::ConnectionBroken,
    );
    let blind = Facts {
        known: server().known & !known::UNACKED,
        ..closed(state::CLOSE_WAIT, 0, 0)
    };
    check(&blind, Cause::PeerClosed, Impact::Uncertain);
}

#[test]
fn we_had_closed() {
    let orphan = received(Facts {
        state: state::FIN_WAIT2,
        sock_flags: sock_flag::DEAD,
        ..server()
    });
    check(&orphan, Cause::AfterClose, Impact::Benign);
    let shut = received(Facts {
        state: state::FIN_WAIT1,
        shutdown: shutdown::RCV,
        unacked: 100,
        ..server()
    });
    check(&shut, Cause::AfterClose, Impact::ConnectionBroken);
    // Half closed only: we still listen.
    let half = received(Facts {
        state: state::FIN_WAIT2,
        shutdown: shutdown::SEND,
        // Our FIN is acknowledged.
        bytes_acked: 201,
        ..server()
    });
    check(&half, Cause::PeerAbort, Impact::Benign);
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
fn used_again_after_it_was_forgotten() {
    let reused = received(Facts {
        unacked: 460,
        bytes_sent: 560,
        idle_tx: 0,
        idle_rx: 9000,
        idle_segment: 9000,
        ..client()
    });
    check(&reused, Cause::StaleReuse, Impact::ConnectionBroken);
    let busy = Facts {
        idle_segment: IDLE - 1,
        ..reused
    };
    check(&busy, Cause::PeerAbort, Impact::ConnectionBroken);

    let probed = Facts {
        probes_out: 1,
        ..silent(client(), 9000, 9000)
    };
    check(&probed, Cause::StaleProbe, Impact::Uncertain);
    let with_data = Facts {
        probes_out: 1,
        ..reused
    };
    check(&with_data, Cause::StaleReuse, Impact::ConnectionBroken);
}

#[test]
fn an_idle_connection_ends() {
    check(
        &silent(server(), 9000, 9001),
        Cause::IdleTimeout,
        Impact::Uncertain,
    );
    check(
        &silent(client(), 9001, 9000),
        Cause::IdleTimeout,
        Impact::Uncertain,
    );
    let short = silent(server(), IDLE - 2, IDLE - 1);
    check(&short, Cause::PeerAbort, Impact::Benign);
}

#[test]
fn an_answer_was_pending() {
    check(
        &silent(client(), 9000, 9001),
        Cause::NoResponse,
        Impact::ConnectionBroken,
    );
    check(
        &silent(client(), 10, 20),
        Cause::PeerAbort,
        Impact::ConnectionBroken,
    );
    check(
        &silent(server(), 9001, 9000),
        Cause::PeerGaveUp,
        Impact::ConnectionBroken,
    );
    check(
        &silent(server(), 20, 10),
        Cause::PeerGaveUp,
        Impact::ConnectionBroken,
    );
    // Where many requests share a connection, nobody knows.
    let many = |facts| Facts {
        multiplexed: 1,
        ..facts
    };
    check(
        &many(silent(client(), 9000, 9001)),
        Cause::IdleTimeout,
        Impact::Uncertain,
    );
    check(
        &many(silent(server(), 20, 10)),
        Cause::PeerAbort,
        Impact::Uncertain,
    );
    check(
        &many(silent(server(), 10, 20)),
        Cause::PeerAbort,
        Impact::Uncertain,
    );
    // A half-closed client still waits; its FIN is no data.
    let half = Facts {
        state: state::FIN_WAIT1,
        unacked: 1,
        ..silent(client(), 9000, 9001)
    };
    check(&half, Cause::NoResponse, Impact::ConnectionBroken);
}

#[test]
fn reset_before_any_data() {
    let fresh = |facts| {
        let facts = Facts {
            bytes_sent: 0,
            bytes_received: 0,
            ..facts
        };
        silent(facts, 3, 3)
    };
    let accepted = Facts {
        bytes_acked: 0,
        ..fresh(server())
    };
    check(&accepted, Cause::NoData, Impact::Benign);
    let sending = Facts {
        unsent: 1,
        ..accepted
    };
    check(&sending, Cause::PeerAbort, Impact::ConnectionBroken);
    let connected = Facts {
        bytes_acked: 1,
        ..fresh(client())
    };
    let young = Facts {
        age: IDLE - 1,
        ..connected
    };
    check(&young, Cause::NoData, Impact::ConnectFailed);
    // Keep-alive answers keep the last segment young.
    check(&connected, Cause::PeerAbort, Impact::Uncertain);
    let unseen = Facts {
        known: connected.known & !known::AGE,
        ..connected
    };
    check(&unseen, Cause::NoData, Impact::ConnectFailed);
    let old = Facts {
        idle_segment: IDLE,
        ..unseen
    };
    check(&old, Cause::PeerAbort, Impact::Uncertain);
}

#[test]
fn reset_in_active_use() {
    check(&received(client()), Cause::PeerAbort, Impact::Uncertain);
    check(&received(server()), Cause::PeerAbort, Impact::Benign);
    for (unsent, unacked) in [(1, 0), (0, 1)] {
        let losing = received(Facts {
            unsent,
            unacked,
            // Longer ago than an acknowledgement may take.
            idle_tx: 51,
            idle_rx: 60,
            bytes_sent: 200 + u64::from(unacked),
            ..server()
        });
        check(&losing, Cause::PeerAbort, Impact::ConnectionBroken);
        let recent = Facts {
            idle_tx: 50,
            ..losing
        };
        let impact = if unsent == 0 {
            Impact::Uncertain
        } else {
            Impact::ConnectionBroken
        };
        check(&recent, Cause::PeerAbort, impact);
    }
    let blind = Facts {
        known: known::STATE,
        ..received(client())
    };
    check(&blind, Cause::Unknown, Impact::Uncertain);
}

#[test]
fn roles_follow_from_the_sequence_numbers() {
    let role_in = |facts: Facts, state, unacked| {
        let facts = Facts {
            state,
            unacked,
            ..facts
        };
        decide(&received(facts)).role
    };
    for state in [state::ESTABLISHED, state::CLOSE_WAIT] {
        assert_eq!(role_in(client(), state, 0), Role::Client);
        assert_eq!(role_in(server(), state, 0), Role::Server);
    }
    // FIN sent, and in flight.
    for state in [state::FIN_WAIT1, state::LAST_ACK, state::CLOSING] {
        assert_eq!(role_in(client(), state, 1), Role::Client);
        assert_eq!(role_in(server(), state, 1), Role::Server);
    }
    // At an active reset a FIN may have gone out before.
    let closed = closing(client(), Reason::AbortOnClose);
    assert_eq!(decide(&closed).role, Role::Client);
    let unseen = Facts {
        known: closed.known & !known::STATE_BEFORE,
        ..closed
    };
    assert_eq!(decide(&unseen).role, Role::Unknown);
    // Who has seen the connection begin knows better than the numbers.
    let tracked = Facts {
        tracked_role: Role::Server as u8,
        ..unseen
    };
    assert_eq!(decide(&tracked).role, Role::Server);
    let certain = decide(&closing(server(), Reason::AbortOnClose));
    assert_eq!(certain.role, Role::Server);
    // Retransmissions are no new payload.
    let retransmitted = Facts {
        bytes_sent: 150,
        bytes_retrans: 50,
        ..client()
    };
    assert_eq!(role_in(retransmitted, state::ESTABLISHED, 0), Role::Client);
    let nothing_known = Facts {
        known: known::STATE,
        ..client()
    };
    assert_eq!(role_in(nothing_known, state::ESTABLISHED, 0), Role::Unknown);
    assert_eq!(
        decide(&answering(Origin::None, flag::SYN, 0)).role,
        Role::Unknown
    );
}

#[test]
fn refusals_where_somebody_listened() {
    let syn = |listened: Listened| Facts {
        listened: listened as u8,
        ..answering(Origin::None, flag::SYN, 0)
    };
    for (listened, impact, role) in [
        (Listened::Unknown, Impact::Uncertain, Role::Unknown),
        (Listened::Never, Impact::Benign, Role::Unknown),
        (Listened::Before, Impact::ConnectFailed, Role::Server),
        (Listened::Now, Impact::ConnectFailed, Role::Server),
    ] {
        assert_eq!(check(&syn(listened), Cause::Refused, impact).role, role);
    }
}

#[test]
fn segments_of_connections_without_a_socket() {
    let data = |closed: Closed, listened: Listened, len| Facts {
        closed: closed as u8,
        listened: listened as u8,
        ..answering(Origin::None, flag::ACK, len)
    };
    let lost = data(Closed::No, Listened::Before, 100);
    check(&lost, Cause::HalfOpen, Impact::ConnectionBroken);
    // A farewell, a probe, a port that never served.
    let farewell = with_payload(data(Closed::No, Listened::Before, 24), [0x17, 3, 3, 0, 19]);
    check(&farewell, Cause::HalfOpen, Impact::Benign);
    let probe = data(Closed::No, Listened::Before, 1);
    check(&probe, Cause::HalfOpen, Impact::Uncertain);
    let elsewhere = data(Closed::No, Listened::Never, 100);
    check(&elsewhere, Cause::HalfOpen, Impact::Uncertain);

    let late = Facts {
        tracked_role: Role::Server as u8,
        ..data(Closed::ByUs, Listened::Unknown, 100)
    };
    check(&late, Cause::LateData, Impact::ConnectionBroken);
    for len in [0, 100] {
        let more = data(Closed::Done, Listened::Before, len);
        check(&more, Cause::AfterReset, Impact::Benign);
    }
    check(
        &data(Closed::ByUs, Listened::Unknown, 0),
        Cause::Stray,
        Impact::Benign,
    );
    // A listener that is younger than the connection.
    let younger = Facts {
        known: known::SEGMENT | known::STATE,
        origin: Origin::Socket as u8,
        state: state::LISTEN,
        reason: Reason::Flags as u8,
        ..data(Closed::No, Listened::Now, 100)
    };
    check(&younger, Cause::HalfOpen, Impact::ConnectionBroken);
}

#[test]
fn a_farewell_left_unread() {
    let unread = |state_before, unread| Facts {
        state_before,
        unread,
        ..closing(server(), Reason::AbortOnClose)
    };
    let farewell = unread(state::CLOSE_WAIT, 24);
    check(&farewell, Cause::UnreadData, Impact::Benign);
    let more = unread(state::CLOSE_WAIT, 25);
    check(&more, Cause::UnreadData, Impact::ConnectionBroken);
    // The FIN behind it may be under way; or it is a short question.
    let open = unread(state::ESTABLISHED, 24);
    check(&open, Cause::UnreadData, Impact::Uncertain);
}

#[test]
fn a_server_that_aborts_after_a_pause_had_not_forgotten() {
    let used = |idle_tx| {
        received(Facts {
            unacked: 50,
            bytes_sent: 150,
            idle_tx,
            idle_rx: 500,
            idle_segment: 500,
            ..client()
        })
    };
    check(&used(2), Cause::StaleReuse, Impact::ConnectionBroken);
    check(&used(3), Cause::PeerAbort, Impact::ConnectionBroken);
    // As long as a round trip takes.
    let far = Facts {
        srtt_us: 4000,
        ..used(4)
    };
    check(&far, Cause::StaleReuse, Impact::ConnectionBroken);
}

#[test]
fn a_probe_of_the_window_is_no_keepalive() {
    let full = received(Facts {
        probes_out: 1,
        unsent: 1000,
        ..silent(client(), 300, 300)
    });
    check(&full, Cause::PeerAbort, Impact::ConnectionBroken);
}

#[test]
fn what_was_written_and_not_sent_is_lost() {
    let unsent = |facts| Facts {
        unread: 11,
        unsent: 1000,
        ..facts
    };
    let closed = closing(unsent(client()), Reason::AbortOnClose);
    check(&closed, Cause::UnreadData, Impact::ConnectionBroken);
    let exited = Facts {
        exiting: 1,
        known: closed.known | known::EXIT_CODE,
        ..closed
    };
    check(&exited, Cause::ProcessExit, Impact::ConnectionBroken);
    let farewell = Facts {
        known: server().known | known::SEGMENT | known::PAYLOAD,
        state: state::FIN_WAIT1,
        segment_flags: flag::ACK,
        payload_len: 24,
        payload: [0x17, 3, 3, 0, 19],
        unsent: 1000,
        ..sent(server())
    };
    check(&farewell, Cause::LateData, Impact::ConnectionBroken);
    let all_sent = Facts {
        unsent: 0,
        ..farewell
    };
    check(&all_sent, Cause::LateData, Impact::Benign);
}

#[test]
fn a_program_that_is_asked_to_end() {
    let ended = |facts: Facts, unread, exit_code| Facts {
        known: facts.known | known::EXIT_CODE,
        unread,
        exiting: 1,
        exit_code,
        ..closing(facts, Reason::AbortOnClose)
    };
    let pooled = Facts {
        state: state::CLOSE_WAIT,
        ..client()
    };
    check(&ended(pooled, 24, 15), Cause::ProcessExit, Impact::Benign);
    check(
        &ended(client(), 24, 15),
        Cause::ProcessExit,
        Impact::Uncertain,
    );
    check(
        &ended(client(), 500, 15),
        Cause::ProcessExit,
        Impact::Uncertain,
    );
    let broken = Impact::ConnectionBroken;
    check(&ended(client(), 500, 9), Cause::ProcessExit, broken);
    check(&ended(server(), 500, 15), Cause::ProcessExit, broken);
}

#[test]
fn a_checker_has_left_the_accept_queue() {
    let queued = |state| Facts {
        has_socket: 0,
        state_before: state,
        bytes_sent: 0,
        bytes_acked: 0,
        bytes_received: 1,
        sock_flags: sock_flag::DONE,
        ..closing(server(), Reason::State)
    };
    let left = queued(state::CLOSE_WAIT);
    check(&left, Cause::ListenerClosed, Impact::Benign);
    let asked = Facts {
        bytes_received: 100,
        ..left
    };
    check(&asked, Cause::ListenerClosed, Impact::ConnectFailed);
}

#[test]
fn a_server_that_speaks_unasked() {
    let pushed = |bytes_sent, unacked, idle_segment| {
        received(Facts {
            bytes_sent,
            bytes_acked: bytes_sent - u64::from(unacked),
            bytes_received: 0,
            unacked,
            idle_tx: 0,
            idle_segment,
            ..server()
        })
    };
    check(&pushed(1024, 1024, 10), Cause::NoData, Impact::Benign);
    let much = pushed(1_000_000, 0, 10);
    check(&much, Cause::PeerAbort, Impact::Benign);
    let again = pushed(1000, 500, IDLE);
    check(&again, Cause::StaleReuse, Impact::ConnectionBroken);
}

#[test]
fn goodbyes_of_other_protocols() {
    let late = |payload, payload_len, multiplexed| Facts {
        multiplexed,
        tracked_role: Role::Server as u8,
        closed: Closed::ByUs as u8,
        ..with_payload(answering(Origin::None, flag::ACK, payload_len), payload)
    };
    let quit = *b"QUIT\r";
    let broken = Impact::ConnectionBroken;
    check(&late(quit, 6, 0), Cause::LateData, Impact::Uncertain);
    check(&late(quit, 7, 0), Cause::LateData, broken);
    let com_quit = [1, 0, 0, 0, 1];
    check(&late(com_quit, 5, 1), Cause::LateData, Impact::Uncertain);
    check(&late(com_quit, 5, 0), Cause::LateData, broken);
    check(&late(com_quit, 97, 1), Cause::LateData, broken);
}

#[test]
fn who_was_waited_for_at_the_fin() {
    let asked = |idle_rx| Facts {
        idle_tx: 100,
        idle_rx,
        ..server()
    };
    assert_eq!(turn_at_fin(&asked(2), TIMES), Turn::Unknown, "a goodbye");
    assert_eq!(turn_at_fin(&asked(3), TIMES), Turn::Peer);
}

#[test]
fn the_silence_before() {
    let idle = Facts {
        idle_tx: 500,
        idle_rx: 400,
        idle_segment: 300,
        ..client()
    };
    assert_eq!(gap(&idle, Cause::IdleTimeout as u8), 400);
    assert_eq!(gap(&idle, Cause::StaleReuse as u8), 300);
}

#[test]
fn the_turn_and_its_tie() {
    assert_eq!(turn(&client()), Turn::Peer);
    assert_eq!(turn(&server()), Turn::Us);
    let tie = |sent_after_received| Facts {
        idle_tx: 7,
        idle_rx: 7,
        sent_after_received,
        ..client()
    };
    assert_eq!(turn(&tie(1)), Turn::Us);
    assert_eq!(turn(&tie(0)), Turn::Peer);
    let probed = |facts| Facts {
        probes_out: 1,
        ..facts
    };
    assert_eq!(turn(&probed(client())), Turn::Peer);
    assert_eq!(turn(&probed(tie(1))), Turn::Unknown);
    let moved = |bytes_sent, bytes_received| Facts {
        bytes_sent,
        bytes_received,
        ..tie(1)
    };
    assert_eq!(turn(&moved(0, 0)), Turn::Unknown);
    assert_eq!(turn(&moved(0, 5)), Turn::Peer);
    assert_eq!(turn(&moved(5, 0)), Turn::Us);
    // The peer's FIN is no data, and it blurs the tie.
    let fin = |facts| Facts {
        sock_flags: sock_flag::DONE,
        ..facts
    };
    assert_eq!(turn(&fin(moved(0, 1))), Turn::Unknown);
    assert_eq!(turn(&fin(tie(0))), Turn::Unknown);
    assert_eq!(turn(&fin(client())), Turn::Peer);
    // Our answer is still on its way: the peer's data may have come before it.
    let answered = Facts {
        unacked: 10,
        ..tie(0)
    };
    assert_eq!(turn(&answered), Turn::Unknown);
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
