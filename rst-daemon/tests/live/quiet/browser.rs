//! A browser that opens more connections than it needs and closes them all; and
//! other ends of connections that are not in use.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};

use rustix::process::Signal;

use super::nginx::{Nginx, PATIENT, PATIENT_TLS, TOOLS};
use super::{python, quiet, run};
use crate::netns::FAMILIES;
use crate::tcp::{self, Pair};

/// The browser, in Python.
const BROWSER: &str = include_str!("browser.py");

/// Connections that it opens.
const CONNECTIONS: usize = 6;

/// How many of them it uses.
const USED: usize = 3;

fn browse(test: &str, port: u16) {
    quiet(test, &[&TOOLS[..], &["python3"]].concat(), |lab| {
        let nginx = Nginx::start(lab);
        for family in FAMILIES {
            let [server, client] = [family.server, family.client].map(|ip| ip.to_string());
            let numbers = [port.to_string(), CONNECTIONS.to_string(), USED.to_string()];
            let [port, open, used] = numbers.each_ref().map(String::as_str);
            run(python(lab, BROWSER, &[&server, port, &client, open, used]));
        }
        assert_eq!(nginx.served(), FAMILIES.len() * USED);
    });
}

#[test]
fn browser_closes_its_connections() {
    browse("browser_closes_its_connections", PATIENT);
}

/// The unused connections have only shaken hands; the tickets that nginx sent
/// are never read.
#[test]
fn browser_closes_its_tls_connections() {
    browse("browser_closes_its_tls_connections", PATIENT_TLS);
}

/// nginx is stopped while clients hold idle connections.
fn restart(test: &str, signal: Signal) {
    quiet(test, &TOOLS, |lab| {
        let mut nginx = Nginx::start(lab);
        lab.inside(|| {
            let mut clients = Vec::new();
            for family in FAMILIES {
                let server = SocketAddr::new(family.server, PATIENT);
                let (mut client, _) = tcp::connect(family.client, server);
                let request = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";
                client.write_all(request).unwrap();
                let mut answer = Vec::new();
                while !answer.ends_with(b"hello") {
                    let mut byte = [0];
                    client.read_exact(&mut byte).unwrap();
                    answer.extend(byte);
                }
                clients.push(client);
            }
            nginx.stop(signal);
            for mut client in clients {
                assert_eq!(client.read(&mut [0]).unwrap(), 0, "nginx has closed");
            }
        });
        assert_eq!(nginx.served(), FAMILIES.len());
    });
}

#[test]
fn nginx_ends_at_once() {
    restart("nginx_ends_at_once", Signal::TERM);
}

#[test]
fn nginx_ends_gracefully() {
    restart("nginx_ends_gracefully", Signal::QUIT);
}

/// The client has sent all and waits for the answer, which comes.
#[test]
fn half_closed_client_is_answered() {
    quiet("half_closed_client_is_answered", &[], |lab| {
        lab.inside(|| {
            for family in FAMILIES {
                let mut pair = Pair::new(family);
                pair.ask(b"question");
                pair.client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(pair.server.read(&mut [0]).unwrap(), 0);
                pair.answer(b"answer");
                drop(pair.server);
                assert_eq!(pair.client.read(&mut [0]).unwrap(), 0);
            }
        });
    });
}
