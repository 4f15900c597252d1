//! HAProxy checks the health of nginx: it connects, perhaps asks, and resets.

use std::net::SocketAddr;

use rst_common::tcp::state;
use rustix::process::Signal;

use super::nginx::{Nginx, PATIENT, PATIENT_TLS, TOOLS};
use super::{PATIENCE, command, quiet, run, wait_listening};
use crate::collect::wait_until;
use crate::lab::Lab;
use crate::netns::FAMILIES;
use crate::process::Process;
use crate::programs::ends;
use crate::watcher::Seen;

/// Where HAProxy serves.
const FRONT: u16 = 8090;

/// How many checks of each server a test waits for: two seconds of them.
const CHECKS: usize = 10;

/// A running HAProxy.
struct Haproxy {
    process: Process,
    /// The servers'.
    port: u16,
}

impl Haproxy {
    /// Starts one that checks a server at each address, 5 times a second.
    fn start(lab: &Lab, port: u16, check: &str, options: &str) -> Self {
        let [first, second] = FAMILIES.map(|family| SocketAddr::new(family.server, port));
        let config = format!(
            "global
    stats socket {folder}/haproxy.sock level admin
defaults
    mode http
    timeout connect 2s
    timeout client 5s
    timeout server 5s
listen front
    bind 127.0.0.1:{FRONT}
    bind [::1]:{FRONT}
{check}
    default-server check inter 200ms {options}
    server first {first}
    server second {second}
",
            folder = lab.folder.0.display()
        );
        let file = lab.folder.0.join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let mut haproxy = command(lab, "haproxy");
        haproxy.args(["-db", "-f"]).arg(file);
        let process = Process::start(haproxy);
        wait_listening(lab, &[FRONT]);
        Self { process, port }
    }

    /// Lets the checks that are under way end, then HAProxy.
    fn stop(mut self, lab: &Lab) {
        let paused = ask_haproxy(
            lab,
            "disable health front/first; disable health front/second",
        );
        assert_eq!(paused.trim(), "", "{paused}");
        wait_until("no check is under way", || {
            !check_states(lab)
                .iter()
                .any(|state| state.starts_with("* "))
        });
        // A check may have its result before its connection is closed, which
        // nginx has begun.
        wait_until("the last check has closed", || {
            let closing = [state::FIN_WAIT1, state::FIN_WAIT2, state::CLOSING];
            let ends = lab.inside(|| ends(self.port));
            !ends.iter().any(|end| closing.contains(&end.state))
        });
        self.process.signal(Signal::TERM);
        self.process.wait(PATIENCE);
    }
}

/// Lets HAProxy check until it has reset so many connections, or nginx has
/// accepted them.
fn checked(test: &str, port: u16, check: &str, options: &str, expect: &str) {
    let tools = [&TOOLS[..], &["haproxy", "curl"]].concat();
    quiet(test, &tools, |lab| {
        let nginx = Nginx::start(lab);
        let accepted = nginx.accepted(lab);
        let haproxy = Haproxy::start(lab, port, check, options);
        let wanted = FAMILIES.len() * CHECKS;
        wait_until("the checks are done", || {
            // HAProxy resets in place of the handshake's last ACK if it can: then
            // nginx is not told of the connection.
            nginx.accepted(lab) >= accepted + wanted || resets(lab) >= wanted
        });
        let state = haproxy_state(lab);
        assert_eq!(state, [expect; 2], "how HAProxy found the servers");
        haproxy.stop(lab);
    });
}

/// What HAProxy says of its last checks.
fn haproxy_state(lab: &Lab) -> Vec<String> {
    let states = check_states(lab).into_iter();
    states
        .map(|state| state.trim_start_matches("* ").to_owned())
        .collect()
}

/// The same; a check that is under way is marked by "* " before the last result.
fn check_states(lab: &Lab) -> Vec<String> {
    ask_haproxy(lab, "show stat typed")
        .lines()
        .filter(|line| line.starts_with("S.") && line.contains(".check_status."))
        .filter_map(|line| line.rsplit(':').next())
        .map(str::to_owned)
        .collect()
}

/// What HAProxy answers on its administrators' socket.
fn ask_haproxy(lab: &Lab, command: &str) -> String {
    use std::io::{Read as _, Write as _};
    let socket = lab.folder.0.join("haproxy.sock");
    let mut socket = std::os::unix::net::UnixStream::connect(socket).unwrap();
    writeln!(socket, "{command}").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

/// How many resets of HAProxy's sockets there were.
fn resets(lab: &Lab) -> usize {
    lab.watcher.seen.with(|events| {
        let owner = |seen: &&Seen| seen.event["owner"]["comm"] == "haproxy";
        events.iter().filter(owner).count()
    })
}

#[test]
fn haproxy_checks_the_port() {
    checked("haproxy_checks_the_port", PATIENT, "", "", "L4OK");
}

#[test]
fn haproxy_checks_with_a_request() {
    let check = "    option httpchk GET /";
    checked("haproxy_checks_with_a_request", PATIENT, check, "", "L7OK");
}

/// The check ends with the handshake.
#[test]
fn haproxy_checks_the_handshake() {
    let options = "check-ssl verify none";
    checked(
        "haproxy_checks_the_handshake",
        PATIENT_TLS,
        "",
        options,
        "L6OK",
    );
}

#[test]
fn haproxy_checks_with_a_request_over_tls() {
    let test = "haproxy_checks_with_a_request_over_tls";
    let check = "    option httpchk GET /";
    let options = "ssl verify none";
    checked(test, PATIENT_TLS, check, options, "L7OK");
}

/// Requests through HAProxy while it checks; both close their idle connections.
#[test]
fn haproxy_serves_and_checks() {
    let test = "haproxy_serves_and_checks";
    let tools = [&TOOLS[..], &["haproxy", "curl"]].concat();
    quiet(test, &tools, |lab| {
        let nginx = Nginx::start(lab);
        let check = "    option httpchk GET /";
        let haproxy = Haproxy::start(lab, PATIENT, check, "");
        for family in FAMILIES {
            let url = format!("http://{}/", SocketAddr::new(family.server, FRONT));
            let mut curl = command(lab, "curl");
            curl.args(["--silent", "--show-error", "--noproxy", "*"]);
            curl.args([url.as_str(); 20]);
            assert_eq!(run(curl), "hello".repeat(20));
        }
        assert!(nginx.served() >= 40);
        haproxy.stop(lab);
    });
}
