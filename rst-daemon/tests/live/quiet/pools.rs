//! Pools of kept connections that drop what is idle, as the runtimes of various
//! languages do it.

use super::nginx::{Nginx, PATIENT, PATIENT_TLS, PLAIN, TLS, TOOLS};
use super::{command, python, quiet, run};
use crate::lab::Lab;
use crate::netns::FAMILIES;

/// The pool in Python.
const POOL: &str = include_str!("pool.py");

/// The pool of Node.
const AGENT: &str = include_str!("agent.js");

/// Connections of a pool.
const CONNECTIONS: usize = 5;

/// Runs the pool for both families; each asks twice on each connection.
fn pool(test: &str, port: u16, how: &str) {
    quiet(test, &[&TOOLS[..], &["python3"]].concat(), |lab| {
        let nginx = Nginx::start(lab);
        for family in FAMILIES {
            let [server, client] = [family.server, family.client].map(|ip| ip.to_string());
            let port = port.to_string();
            let count = CONNECTIONS.to_string();
            let args: [&str; 5] = [&server, &port, &client, &count, how];
            run(python(lab, POOL, &args));
        }
        assert_eq!(nginx.served(), FAMILIES.len() * CONNECTIONS * 2);
    });
}

/// urllib3 and requests: close what has been idle.
#[test]
fn python_pool_closes_idle_connections() {
    pool("python_pool_closes_idle_connections", PATIENT, "close");
}

#[test]
fn python_pool_closes_idle_tls() {
    pool("python_pool_closes_idle_tls", PATIENT_TLS, "close");
}

/// urllib3 looks whether a connection is still good before it uses it again:
/// nginx has closed it, and a new one is made.
#[test]
fn python_pool_drops_what_nginx_closed() {
    pool("python_pool_drops_what_nginx_closed", PLAIN, "look");
}

#[test]
fn python_pool_drops_the_tls_that_nginx_closed() {
    pool("python_pool_drops_the_tls_that_nginx_closed", TLS, "look");
}

/// Go reads all the time on a thread of its own; the idle timer closes, over TLS
/// with a goodbye that is not waited for.
#[test]
fn go_like_pool_closes_idle_connections() {
    pool("go_like_pool_closes_idle_connections", PATIENT, "reader");
}

#[test]
fn go_like_pool_closes_idle_tls() {
    pool("go_like_pool_closes_idle_tls", PATIENT_TLS, "reader");
}

/// Java pools that were told to linger for no time: a reset in place of a FIN.
#[test]
fn java_like_pool_resets_idle_connections() {
    pool("java_like_pool_resets_idle_connections", PATIENT, "reset");
}

/// Likewise over TLS: the goodbye, then the reset.
#[test]
fn java_like_pool_resets_idle_tls() {
    pool("java_like_pool_resets_idle_tls", PATIENT_TLS, "reset");
}

/// The program ends and leaves its pool to the kernel.
#[test]
fn program_ends_with_idle_connections() {
    pool("program_ends_with_idle_connections", PATIENT, "exit");
}

/// Likewise; nothing but tickets may be left unread.
#[test]
fn program_ends_with_idle_tls() {
    pool("program_ends_with_idle_tls", PATIENT_TLS, "exit");
}

/// Runs Node's agent, which closes connections that were idle for 300 ms.
fn agent(test: &str, scheme: &str, port: u16) {
    quiet(test, &[&TOOLS[..], &["node"]].concat(), |lab| {
        let nginx = Nginx::start(lab);
        for family in FAMILIES {
            run(node(
                lab,
                AGENT,
                &[scheme, &family.server.to_string(), &port.to_string()],
            ));
        }
        assert_eq!(nginx.served(), FAMILIES.len() * CONNECTIONS * 2);
    });
}

/// A script of this suite, in JavaScript.
pub(super) fn node(lab: &Lab, script: &str, args: &[&str]) -> std::process::Command {
    let mut node = command(lab, "node");
    node.args(["--eval", script, "--"]).args(args);
    node
}

#[test]
fn node_agent_closes_idle_connections() {
    agent("node_agent_closes_idle_connections", "http", PATIENT);
}

#[test]
fn node_agent_closes_idle_tls() {
    agent("node_agent_closes_idle_tls", "https", PATIENT_TLS);
}

/// nginx closes between the requests, and the agent notices.
#[test]
fn node_agent_meets_the_end_of_keepalive() {
    agent("node_agent_meets_the_end_of_keepalive", "http", PLAIN);
}

#[test]
fn node_agent_meets_the_end_of_keepalive_over_tls() {
    agent(
        "node_agent_meets_the_end_of_keepalive_over_tls",
        "https",
        TLS,
    );
}
