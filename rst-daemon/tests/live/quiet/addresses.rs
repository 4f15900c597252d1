//! Happy eyeballs (RFC 8305): IPv6 and IPv4 race, and the loser is abandoned.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::nginx::{Nginx, PATIENT, TOOLS};
use super::{noisy_exactly, quiet};
use crate::lab::Lab;
use crate::netns::{Family, V4, V6};
use crate::tcp;

/// How often they race.
const RACES: usize = 20;

/// A connection attempt that is under way, or already made.
fn attempt(to: SocketAddr) -> OwnedFd {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).unwrap();
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => socket,
        Err(error) => panic!("{to}: {error}"),
    }
}

/// Asks the winner for something.
fn ask(family: Family) {
    let (mut stream, _) = tcp::connect(family.client, SocketAddr::new(family.server, PATIENT));
    use_winner(&mut stream);
}

fn use_winner(stream: &mut TcpStream) {
    let request = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
}

/// Both are established, one is used.
#[test]
fn loser_is_closed_when_established() {
    quiet("loser_is_closed_when_established", &TOOLS, |lab| {
        let nginx = Nginx::start(lab);
        lab.inside(|| {
            for _ in 0..RACES {
                let loser = attempt(SocketAddr::new(V6.server, PATIENT));
                drop(loser);
                ask(V4);
            }
        });
        assert_eq!(nginx.served(), RACES);
    });
}

/// Likewise, with the reset that some programs prefer.
#[test]
fn loser_is_reset_when_established() {
    quiet("loser_is_reset_when_established", &TOOLS, |lab| {
        let nginx = Nginx::start(lab);
        lab.inside(|| {
            for _ in 0..RACES {
                let loser = attempt(SocketAddr::new(V6.server, PATIENT));
                tcp::abort(TcpStream::from(loser));
                ask(V4);
            }
        });
        assert_eq!(nginx.served(), RACES);
    });
}

/// The loser is still in SYN_SENT: its SYNs get no answer.
#[test]
fn loser_is_closed_before_an_answer() {
    quiet("loser_is_closed_before_an_answer", &TOOLS, |lab| {
        let nginx = Nginx::start(lab);
        lab.inside(|| silent_race(lab));
        assert_eq!(nginx.served(), RACES);
    });
}

fn silent_race(_lab: &Lab) {
    // A listener whose queue is full drops SYNs. A backlog of 0 takes one.
    let full = tcp::listener(V6.server, 0);
    let end = full.local_addr().unwrap();
    let _queued = tcp::connect(V6.client, end);
    for _ in 0..RACES {
        let loser = attempt(end);
        ask(V4);
        let loser = TcpStream::from(loser);
        assert!(loser.peer_addr().is_err(), "it is not established");
        drop(loser);
    }
    let (server, _) = full.accept().unwrap();
    drop(server);
}

/// One family has no server: that attempt does fail, which is all that is
/// noisy, and once each.
#[test]
fn refused_family_is_counted_once() {
    let test = "refused_family_is_counted_once";
    noisy_exactly(test, &TOOLS, |lab| {
        let nginx = Nginx::start(lab);
        let expected = lab.inside(|| {
            let closed = tcp::closed_port(V6);
            let refused = tcp::connect_refused(V6.client, closed);
            ask(V4);
            let fields = serde_json::json!({
                "cause": "refused", "impact": "connect_failed", "role": "client",
            });
            vec![crate::expect::received(refused, closed, fields)]
        });
        assert_eq!(nginx.served(), 1);
        expected
    });
}
