//! A server that speaks first, as MySQL, SSH and SMTP do, and checkers that do
//! not care what it says.

use std::io::{BufRead as _, BufReader};

use super::{python, quiet, run};
use crate::lab::Lab;
use crate::netns::{FAMILIES, Family};
use crate::process::Process;

/// The server: greets, and closes when the client has.
const SERVER: &str = include_str!("banner_server.py");

/// The checker.
const CHECKER: &str = include_str!("banner_checker.py");

/// How often each checks.
const CHECKS: usize = 20;

/// Runs a server and a checker for a family.
fn check(lab: &Lab, family: Family, delay_ms: &str, how: &str) {
    let server = family.server.to_string();
    let mut greeter = Process::start(python(lab, SERVER, &[&server, delay_ms]));
    let mut lines = BufReader::new(greeter.stdout()).lines().map(Result::unwrap);
    let port = lines.next().expect("it says where it listens");
    let (client, count) = (family.client.to_string(), CHECKS.to_string());
    run(python(
        lab,
        CHECKER,
        &[&server, &port, &client, how, &count],
    ));
    // One line for each connection that has ended.
    assert_eq!(lines.by_ref().take(CHECKS).count(), CHECKS);
    drop(greeter.stdin());
    assert!(greeter.wait(super::PATIENCE).success());
}

fn checked(test: &str, delay_ms: &str, how: &str) {
    quiet(test, &["python3"], |lab| {
        for family in FAMILIES {
            check(lab, family, delay_ms, how);
        }
    });
}

#[test]
fn banner_is_read() {
    checked("banner_is_read", "0", "read");
}

/// The greeting is there, nobody reads it.
#[test]
fn banner_is_left_unread() {
    checked("banner_is_left_unread", "0", "unread");
}

/// The checker is gone before the server has said a word.
#[test]
fn banner_comes_too_late() {
    checked("banner_comes_too_late", "20", "close");
}

#[test]
fn banner_is_read_and_the_checker_resets() {
    checked("banner_is_read_and_the_checker_resets", "0", "read-reset");
}

#[test]
fn checker_resets_before_the_banner() {
    checked("checker_resets_before_the_banner", "20", "reset");
}
