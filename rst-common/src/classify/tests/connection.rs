//! Of what the facts say of a connection.

use super::*;

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
