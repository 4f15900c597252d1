//! Resets that an application or the kernel chooses, and not for data left
//! unread: disconnects, orphans that may not wait, MPTCP.

use std::fs;
use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use rst_common::tcp::state;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, sockopt};
use serde_json::{Value, json};

use crate::collect::{DEADLINE, wait_until};
use crate::expect::{received, sent, socket, this_process, verdict};
use crate::lab::{Lab, live, skipped};
use crate::netns::{FAMILIES, Family, V4};
use crate::tcp::{self, Pair};

/// `connect(AF_UNSPEC)` lets go of a connection without closing the socket.
#[test]
fn server_disconnects_after_its_answer() {
    live("server_disconnects_after_its_answer", &[], |_| {
        disconnect(true, ["benign", "uncertain"])
    });
}

#[test]
fn server_disconnects_with_an_answer_pending() {
    live("server_disconnects_with_an_answer_pending", &[], |_| {
        disconnect(false, ["connection_broken"; 2])
    });
}

fn disconnect(answered: bool, [ours, theirs]: [&str; 2]) -> Vec<Value> {
    let both = FAMILIES.map(|family| {
        let mut pair = Pair::new(family);
        pair.ask(b"question");
        if answered {
            pair.answer(b"answer");
        }
        rustix::net::connect_unspec(&pair.server).unwrap();
        tcp::wait_error(&pair.client);
        let aborted = socket(json!({
            "cause": "app_abort", "impact": ours, "reason": "TCP_STATE", "role": "server",
            "state": "ESTABLISHED", "owner": this_process(),
            "basis": "disconnected without a close (connect with AF_UNSPEC)",
        }));
        let lost = socket(json!({
            "cause": "peer_abort", "impact": theirs, "role": "client", "state": "ESTABLISHED",
        }));
        [
            sent(pair.server_end, pair.client_end, aborted),
            received(pair.client_end, pair.server_end, lost),
        ]
    });
    both.concat()
}

/// A negative `TCP_LINGER2`: no wait for the peer's FIN.
#[test]
fn server_does_not_wait_in_fin_wait2() {
    live("server_does_not_wait_in_fin_wait2", &[], |_| {
        let both = FAMILIES.map(|family| {
            let mut pair = Pair::new(family);
            pair.ask(b"question");
            pair.answer(b"answer");
            tcp::set_option(&pair.server, libc::TCP_LINGER2, -1);
            pair.server.shutdown(Shutdown::Write).unwrap();
            tcp::wait_state(&pair.server, state::FIN_WAIT2);
            tcp::wait_state(&pair.client, state::CLOSE_WAIT);
            drop(pair.server);
            tcp::wait_error(&pair.client);
            let aborted = socket(json!({
                "cause": "app_abort", "impact": "benign", "reason": "TCP_ABORT_ON_LINGER",
                "role": "server", "state": "FIN_WAIT2", "owner": this_process(),
                "basis": "closed with a negative TCP_LINGER2",
            }));
            let lost = socket(json!({
                "cause": "peer_closed", "impact": "benign", "role": "client",
                "state": "CLOSE_WAIT",
            }));
            [
                sent(pair.server_end, pair.client_end, aborted),
                received(pair.client_end, pair.server_end, lost),
            ]
        });
        both.concat()
    });
}

/// A setting of the whole machine, put back on drop.
struct Setting {
    path: &'static str,
    old: String,
}

impl Setting {
    fn change(path: &'static str, value: &str) -> Self {
        let old = fs::read_to_string(path).unwrap();
        fs::write(path, value).unwrap();
        Self { path, old }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(self.path, &self.old);
    }
}

/// Of the whole machine, and to be found in its first namespace alone.
const MAX_ORPHANS: &str = "/proc/sys/net/ipv4/tcp_max_orphans";

/// No orphan is allowed any more, and there is one already: the kernel resets
/// the next that is closed.
#[test]
fn orphans_are_too_many() {
    let test = "orphans_are_too_many";
    if fs::metadata(MAX_ORPHANS).is_err() {
        return skipped(test, &format!("needs {MAX_ORPHANS}"));
    }
    let Some(lab) = Lab::start(test, &[], &[]) else {
        return;
    };
    let expected = FAMILIES.map(|family| {
        let orphan = lab.inside(|| Pair::new(family));
        orphan.server.set_nonblocking(true).unwrap();
        // Until neither buffer takes any more, so that it can't go.
        let chunk = vec![b'x'; 1 << 16];
        while (&orphan.server).write(&chunk).is_ok() {}
        drop(orphan.server);
        let mut reset = None;
        // The kernel sees now and then how many orphans there are: every 100 ms,
        // or later where it has nothing else to do (`tcp_orphan_timer`).
        wait_until("an orphan is one too many", || {
            reset = orphan_is_reset(&lab, family);
            reset.is_some()
        });
        // The orphan ends too.
        drop(orphan.client);
        let dropped = socket(json!({
            "cause": "memory_pressure", "impact": "connection_broken",
            "reason": "TCP_ABORT_ON_MEMORY", "role": "server", "owner": this_process(),
        }));
        let (client, server) = reset.expect("just waited for");
        let closed = ["peer_closed", "uncertain", "client"];
        let unread = ["unread_data", "uncertain", "client"];
        let lost = ["after_close", "connection_broken", "server"];
        [
            sent(server, client, dropped),
            verdict("received", client, server, closed),
            verdict("sent", orphan.client_end, orphan.server_end, unread),
            verdict("received", orphan.server_end, orphan.client_end, lost),
        ]
    });
    // What the client says of its window may cross its reset.
    lab.finish_with(&expected.concat(), |event| event["cause"] == "after_reset");
}

/// Closes the server's end of a connection while no orphan is allowed. Where that
/// has reset it, the ends of client and server.
fn orphan_is_reset(lab: &Lab, family: Family) -> Option<(SocketAddr, SocketAddr)> {
    let mut pair = lab.inside(|| Pair::new(family));
    pair.ask(b"question");
    let none = Setting::change(MAX_ORPHANS, "0");
    drop(pair.server);
    drop(none);
    let mut reset = false;
    wait_until("the server has closed", || {
        reset |= pair.client.take_error().unwrap().is_some();
        reset || tcp::is_in_state(&pair.client, state::CLOSE_WAIT)
    });
    reset.then_some((pair.client_end, pair.server_end))
}

/// A socket of MPTCP; `None` where the kernel has none.
fn mptcp(family: Family) -> Option<std::os::fd::OwnedFd> {
    let domain = if family.server.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let protocol = Protocol::from_raw(rustix::net::RawProtocol::new(
        libc::IPPROTO_MPTCP.cast_unsigned(),
    )?);
    rustix::net::socket_with(
        domain,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        Some(protocol),
    )
    .ok()
}

/// An MPTCP connection is aborted (MP_FASTCLOSE): its only subflow is reset.
#[test]
fn mptcp_is_aborted() {
    let test = "mptcp_is_aborted";
    let Some(lab) = Lab::start(test, &[], &[]) else {
        return;
    };
    if mptcp(V4).is_none() {
        skipped(test, "this kernel has no MPTCP");
        lab.finish(&[]);
        return;
    }
    let expected = lab.inside(|| {
        let both = FAMILIES.map(|family| {
            let listening = mptcp(family).expect("there was one");
            rustix::net::bind(&listening, &SocketAddr::new(family.server, 0)).unwrap();
            rustix::net::listen(&listening, 16).unwrap();
            let listener = TcpListener::from(listening);
            let server_end = listener.local_addr().unwrap();
            let connecting = mptcp(family).expect("there was one");
            rustix::net::bind(&connecting, &SocketAddr::new(family.client, 0)).unwrap();
            rustix::net::connect(&connecting, &server_end).unwrap();
            let client_end = tcp::name_of(connecting.as_fd());
            let mut client = TcpStream::from(connecting);
            let (mut server, _) = listener.accept().unwrap();
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            server.set_read_timeout(Some(DEADLINE)).unwrap();
            exchange(&mut client, &mut server, b"question");
            exchange(&mut server, &mut client, b"answer");
            sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
            drop(client);
            tcp::wait_error(&server);
            vec![
                json!({"direction": "sent", "cause": "mptcp", "role": "client",
                       "local": {"port": client_end.port()}}),
                json!({"direction": "received", "cause": "mptcp", "role": "server",
                       "local": {"port": server_end.port()}, "remote": {"port": client_end.port()}}),
            ]
        });
        both.concat()
    });
    lab.finish(&expected);
}

fn exchange(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).unwrap();
    let mut read = vec![0; bytes.len()];
    std::io::Read::read_exact(to, &mut read).unwrap();
    assert_eq!(read, bytes);
}
