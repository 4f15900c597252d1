//! Of resets that this host sent.

use super::*;

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
fn rejected_by_the_firewall() {
    let rejected = |flags, len| answering(Origin::Netfilter, flags, len);
    for flags in [flag::SYN, flag::SYN | flag::ACK] {
        check(
            &rejected(flags, 0),
            Cause::FirewallReject,
            Impact::ConnectFailed,
        );
    }
    let data = rejected(flag::ACK, 5);
    let verdict = check(&data, Cause::FirewallReject, Impact::ConnectionBroken);
    assert_eq!(verdict.role, Role::Unknown);
    let served = Facts {
        listened: Listened::Now as u8,
        ..data
    };
    assert_eq!(decide(&served).role, Role::Server);
    // The last of a connection that was over, or the first after a pause.
    for flags in [flag::ACK, flag::FIN | flag::ACK] {
        check(
            &rejected(flags, 0),
            Cause::FirewallReject,
            Impact::Uncertain,
        );
    }
    // The header could not be read.
    let unknown = Facts { known: 0, ..data };
    check(&unknown, Cause::FirewallReject, Impact::Uncertain);
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
