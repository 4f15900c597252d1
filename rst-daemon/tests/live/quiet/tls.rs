//! TLS connections that end as they should, whoever closes first.

use std::io::Write as _;
use std::net::SocketAddr;

use super::nginx::{Nginx, PATIENT_TLS, TLS, TOOLS};
use super::{PATIENCE, command, python, quiet, run};
use crate::collect::wait_until;
use crate::lab::Lab;
use crate::netns::{FAMILIES, V4};
use crate::process::Process;

/// The client of these tests.
const CLIENT: &str = include_str!("tls_client.py");

/// Connections of each run of it.
const CONNECTIONS: usize = 5;

/// Ciphers of today; their close_notify takes 24 and 31 bytes.
const USUAL: [&str; 2] = ["TLSv1.3", "ECDHE-ECDSA-AES128-GCM-SHA256"];

/// Others of TLS 1.2 that servers still offer: 23, 57 and 69 bytes.
const UNUSUAL: [&str; 3] = [
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES128-SHA256",
];

fn tools(more: &[&'static str]) -> Vec<&'static str> {
    [&TOOLS[..], more].concat()
}

/// Runs the client once for each family and cipher.
fn clients(lab: &Lab, port: u16, ciphers: &[&str], how: &str) {
    let nginx = Nginx::start(lab);
    for family in FAMILIES {
        for cipher in ciphers {
            let [server, client] = [family.server, family.client].map(|ip| ip.to_string());
            let (port, count) = (port.to_string(), CONNECTIONS.to_string());
            let args = [&server, &port, &client, how, cipher, &count];
            run(python(lab, CLIENT, &args.map(|arg| arg as &str)));
        }
    }
    assert_eq!(nginx.served(), FAMILIES.len() * ciphers.len() * CONNECTIONS);
}

/// nginx closes after a second; the clients answer its close_notify, which
/// meets a socket that is gone.
#[test]
fn keepalive_ends_and_the_client_says_goodbye() {
    let test = "keepalive_ends_and_the_client_says_goodbye";
    quiet(test, &tools(&["python3"]), |lab| {
        clients(lab, TLS, &USUAL, "answer");
    });
}

#[test]
fn keepalive_ends_and_the_client_says_goodbye_in_old_ciphers() {
    let test = "keepalive_ends_and_the_client_says_goodbye_in_old_ciphers";
    quiet(test, &tools(&["python3"]), |lab| {
        clients(lab, TLS, &UNUSUAL, "answer");
    });
}

/// Likewise with clients that only close.
#[test]
fn keepalive_ends_and_the_client_closes() {
    let test = "keepalive_ends_and_the_client_closes";
    quiet(test, &tools(&["python3"]), |lab| {
        clients(lab, TLS, &USUAL, "close");
    });
}

/// The client says goodbye and waits for nginx to say it too.
#[test]
fn client_ends_tls_politely() {
    let test = "client_ends_tls_politely";
    quiet(test, &tools(&["python3"]), |lab| {
        clients(lab, PATIENT_TLS, &USUAL, "polite");
    });
}

/// The client says goodbye and closes at once, as Go and browsers do. A server
/// that answered it would meet a socket that is gone; nginx does not.
#[test]
fn client_ends_tls_hastily() {
    let test = "client_ends_tls_hastily";
    quiet(test, &tools(&["python3"]), |lab| {
        clients(lab, PATIENT_TLS, &USUAL, "hasty");
    });
}

#[test]
fn client_ends_tls_hastily_in_old_ciphers() {
    let test = "client_ends_tls_hastily_in_old_ciphers";
    quiet(test, &tools(&["python3"]), |lab| {
        clients(lab, PATIENT_TLS, &UNUSUAL, "hasty");
    });
}

/// The client closes without a goodbye.
#[test]
fn client_ends_tls_silently() {
    let test = "client_ends_tls_silently";
    quiet(test, &tools(&["python3"]), |lab| {
        clients(lab, PATIENT_TLS, &USUAL, "silent");
    });
}

/// `openssl s_client` asks and waits until nginx has had enough.
#[test]
fn openssl_waits_for_the_end_of_keepalive() {
    let test = "openssl_waits_for_the_end_of_keepalive";
    quiet(test, &TOOLS, |lab| {
        let nginx = Nginx::start(lab);
        for version in ["-tls1_2", "-tls1_3"] {
            let mut openssl = command(lab, "openssl");
            let server = SocketAddr::new(V4.server, TLS).to_string();
            openssl.args(["s_client", "-quiet", version, "-connect", &server]);
            let mut process = Process::start(openssl);
            let request = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";
            let mut stdin = process.stdin();
            stdin.write_all(request).unwrap();
            let status = process.wait(PATIENCE);
            assert!(status.code().is_some(), "{status}");
        }
        wait_until("both are answered", || nginx.served() == 2);
    });
}
