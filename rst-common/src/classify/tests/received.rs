//! Of resets that arrived here.

use super::*;

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
fn our_attempt_was_refused() {
    let refused = received(Facts {
        state: state::SYN_SENT,
        ..client()
    });
    let verdict = check(&refused, Cause::Refused, Impact::ConnectFailed);
    assert_eq!(verdict.role, Role::Client);
}

fn with_ttl(facts: Facts, ttl: u8) -> Facts {
    Facts { ttl, ..facts }
}

fn with_idle_tx(facts: Facts, idle_tx: u32) -> Facts {
    Facts { idle_tx, ..facts }
}

#[test]
fn a_reset_from_elsewhere_is_forged() {
    // A client that has just asked.
    let asked = received(Facts {
        ttl: 52,
        handshake_ttl: 52,
        idle_tx: 10,
        idle_rx: 20,
        unacked: 7,
        bytes_sent: 107,
        min_rtt_us: 40_000,
        acknowledges_all: 1,
        ..client()
    });
    check(&asked, Cause::PeerAbort, Impact::ConnectionBroken);
    let hops = |ttl| with_ttl(asked, ttl);
    for (ttl, cause) in [
        (53, Cause::PeerAbort),
        (56, Cause::PeerAbort),
        (57, Cause::Forged),
        (48, Cause::PeerAbort),
        (47, Cause::Forged),
        (255, Cause::Forged),
    ] {
        check(&hops(ttl), cause, Impact::ConnectionBroken);
    }
    let unknown = Facts {
        known: hops(255).known & !known::HANDSHAKE_TTL,
        ..hops(255)
    };
    check(&unknown, Cause::PeerAbort, Impact::ConnectionBroken);
    // Four milliseconds a jiffy: 8 and one that may have begun are less than 40.

    let fast = |idle_tx| with_idle_tx(with_ttl(asked, 53), idle_tx);
    check(&fast(8), Cause::Forged, Impact::ConnectionBroken);
    check(&fast(9), Cause::PeerAbort, Impact::ConnectionBroken);
    let alone = Facts {
        idle_tx: 8,
        ..asked
    };
    check(&alone, Cause::PeerAbort, Impact::ConnectionBroken);
    let nothing_acknowledged = Facts {
        acknowledges_all: 0,
        ..fast(8)
    };
    check(
        &nothing_acknowledged,
        Cause::PeerAbort,
        Impact::ConnectionBroken,
    );
    let unmeasured = Facts {
        min_rtt_us: u32::MAX,
        ..fast(8)
    };
    check(&unmeasured, Cause::PeerAbort, Impact::ConnectionBroken);
    // Whose timer fired matters more than who told.
    let stale = Facts {
        ttl: 255,
        idle_segment: 60_000,
        idle_rx: 60_000,
        idle_tx: 0,
        ..asked
    };
    check(&stale, Cause::StaleReuse, Impact::ConnectionBroken);
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
