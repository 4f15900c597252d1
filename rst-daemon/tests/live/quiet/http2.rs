//! HTTP/2 connections that end with a GOAWAY.

use std::net::SocketAddr;

use super::nginx::{HTTP2, Nginx, TOOLS};
use super::pools::node;
use super::{command, quiet, run};
use crate::netns::FAMILIES;

/// A session that waits until the server ends it, in Node.
const SESSION: &str = include_str!("session.js");

/// Requests of each program.
const REQUESTS: usize = 10;

#[test]
fn curl_over_http2() {
    quiet(
        "curl_over_http2",
        &[&TOOLS[..], &["curl"]].concat(),
        |lab| {
            let nginx = Nginx::start(lab);
            for family in FAMILIES {
                let url = format!("https://{}/", SocketAddr::new(family.server, HTTP2));
                let mut curl = command(lab, "curl");
                curl.args(["--silent", "--show-error", "--insecure", "--noproxy", "*"]);
                curl.args(["--http2", "--write-out", "%{http_version} "]);
                curl.args([url.as_str(); REQUESTS]);
                assert_eq!(run(curl), "hello2 ".repeat(REQUESTS));
            }
            assert_eq!(nginx.served(), FAMILIES.len() * REQUESTS);
        },
    );
}

/// nghttp sends a GOAWAY of its own and closes.
#[test]
fn nghttp_over_http2() {
    quiet(
        "nghttp_over_http2",
        &[&TOOLS[..], &["nghttp"]].concat(),
        |lab| {
            // nghttp takes IPv4 addresses only where there is one besides 127.0.0.1.
            lab.netns.ip(&["addr", "add", "192.0.2.1/32", "dev", "lo"]);
            let nginx = Nginx::start(lab);
            for family in FAMILIES {
                let url = format!("https://{}/", SocketAddr::new(family.server, HTTP2));
                for _ in 0..REQUESTS {
                    let mut nghttp = command(lab, "nghttp");
                    nghttp.args(["--no-verify-peer", "--header", ":authority: test", &url]);
                    assert_eq!(run(nghttp), "hello");
                }
            }
            assert_eq!(nginx.served(), FAMILIES.len() * REQUESTS);
        },
    );
}

/// nginx sends a GOAWAY to an idle session and closes it; or the session is
/// closed by the client, with a GOAWAY too.
#[test]
fn sessions_end_with_goaway() {
    quiet(
        "sessions_end_with_goaway",
        &[&TOOLS[..], &["node"]].concat(),
        |lab| {
            let nginx = Nginx::start(lab);
            for family in FAMILIES {
                for how in ["wait", "close", "destroy"] {
                    let url = format!("https://{}/", SocketAddr::new(family.server, HTTP2));
                    run(node(lab, SESSION, &[&url, how, &REQUESTS.to_string()]));
                }
            }
            assert_eq!(nginx.served(), FAMILIES.len() * 3 * REQUESTS);
        },
    );
}
