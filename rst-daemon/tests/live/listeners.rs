//! What is known of those who listen, or did: it tells a service that is down
//! from a port that nobody ever served.

use std::io::Write as _;
use std::net::SocketAddr;

use serde_json::json;

use crate::expect::{no_socket, sent, verdict};
use crate::lab::Lab;
use crate::netns::{FAMILIES, Family, V6};
use crate::tcp::{self, Pair};

/// Data that can be no TLS close_notify.
const LARGE: [u8; 100] = [b'x'; 100];

/// The service was there before the daemon, and ends.
#[test]
fn service_that_was_there_before_is_gone() {
    let listen = || FAMILIES.map(|family| tcp::listener(family.server, 16));
    let test = "service_that_was_there_before_is_gone";
    let Some((lab, listeners)) = Lab::after(test, listen) else {
        return;
    };
    let ends = listeners.map(|listener| listener.local_addr().unwrap());
    let expected = ends.map(|server| refused(&lab, server, "connect_failed"));
    lab.finish(&expected.concat());
}

/// A listener on all addresses serves each of them.
#[test]
fn service_on_all_addresses_is_gone() {
    let Some(lab) = Lab::start("service_on_all_addresses_is_gone", &[], &[]) else {
        return;
    };
    let anywhere = std::net::Ipv6Addr::UNSPECIFIED.into();
    let listener = lab.inside(|| tcp::listener(anywhere, 16));
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let expected = FAMILIES.map(|family| {
        let server = SocketAddr::new(family.server, port);
        refused(&lab, server, "connect_failed")
    });
    lab.finish(&expected.concat());
}

/// Programs try `::1` first where a name has both addresses: that the service is
/// there for IPv4 alone is nobody's fault.
#[test]
fn service_of_the_other_family_is_there() {
    let Some(lab) = Lab::start("service_of_the_other_family_is_there", &[], &[]) else {
        return;
    };
    let anywhere = std::net::Ipv4Addr::UNSPECIFIED.into();
    let listener = lab.inside(|| tcp::listener(anywhere, 16));
    let port = listener.local_addr().unwrap().port();
    let expected = refused(&lab, SocketAddr::new(V6.server, port), "benign");
    lab.finish(&expected);
}

/// A listener on another address says nothing of this one.
#[test]
fn service_of_another_address_is_gone() {
    let Some(lab) = Lab::start("service_of_another_address_is_gone", &[], &[]) else {
        return;
    };
    let listener = lab.inside(|| tcp::listener(V6.client, 16));
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let server = SocketAddr::new(V6.server, port);
    let expected = refused(&lab, server, "benign");
    lab.finish(&expected);
}

/// An attempt to connect, and what both ends say of it.
fn refused(lab: &Lab, server: SocketAddr, impact: &str) -> [serde_json::Value; 2] {
    let from = FAMILIES[usize::from(server.is_ipv6())].client;
    let client = lab.inside(|| tcp::connect_refused(from, server));
    let role = if impact == "benign" {
        "unknown"
    } else {
        "server"
    };
    let facts = no_socket(json!({
        "cause": "refused", "impact": impact, "reason": "NO_SOCKET", "role": role,
    }));
    let failed = ["refused", "connect_failed", "client"];
    [
        sent(server, client, facts),
        verdict("received", client, server, failed),
    ]
}

/// A service fails over: its address moves to another host, where it listens as
/// well, and which knows nothing of the connections.
#[test]
fn address_moves_to_another_host() {
    let Some(lab) = Lab::start("address_moves_to_another_host", &[], &[]) else {
        return;
    };
    let [first, second] = [lab.another(), lab.another()];
    let ends: [Family; 2] = lab.netns.join(&first, 1);
    let pairs = ends.map(|family| {
        let mut pair = Pair::across(&lab.netns, &first, family);
        pair.ask(b"question");
        pair.answer(b"answer");
        pair
    });
    first.hand_over(&second, 1, ends);
    let expected = pairs.map(|mut pair| {
        let _listener = second.inside(|| tcp::listen_at(pair.server_end));
        pair.client.write_all(&LARGE).unwrap();
        tcp::wait_error(&pair.client);
        // It has no address left to say anything from.
        tcp::vanish(pair.server);
        let broken = "connection_broken";
        let mut unknown = verdict(
            "sent",
            pair.server_end,
            pair.client_end,
            ["half_open", broken, "server"],
        );
        unknown["netns"] = json!(second.inode);
        let lost = ["peer_abort", broken, "client"];
        [
            unknown,
            verdict("received", pair.client_end, pair.server_end, lost),
        ]
    });
    lab.finish(&expected.concat());
}
