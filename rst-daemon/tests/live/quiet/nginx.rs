//! nginx as the server of the quiet suite: plain, TLS and HTTP/2.

use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use super::{PATIENCE, command, run, wait_listening};
use crate::lab::Lab;
use crate::netns::V4;
use crate::process::{Process, find_program};
use crate::tcp;

/// Plain HTTP; idle connections are closed after a second.
pub(super) const PLAIN: u16 = 8080;

/// Plain HTTP; idle connections stay.
pub(super) const PATIENT: u16 = 8081;

/// HTTP over TLS; idle connections are closed after a second.
pub(super) const TLS: u16 = 8443;

/// HTTP over TLS; idle connections stay.
pub(super) const PATIENT_TLS: u16 = 8444;

/// HTTP/2 over TLS, on a port that rst takes for multiplexed unless told
/// otherwise; idle connections are closed after a second.
pub(super) const HTTP2: u16 = 443;

/// Size of `/large`.
pub(super) const LARGE: usize = 4 << 20;

/// What [`Nginx::start`] needs.
pub(super) const TOOLS: [&str; 2] = ["nginx", "openssl"];

/// A running nginx; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Nginx {
    process: Process,
    log: PathBuf,
    /// How often its status was asked for.
    asked: Cell<usize>,
}

impl Nginx {
    /// Starts it in the lab's namespace and waits until it serves.
    pub(super) fn start(lab: &Lab) -> Self {
        let folder = &lab.folder.0;
        certificate(folder);
        std::fs::write(folder.join("large"), vec![b'x'; LARGE]).unwrap();
        let config = folder.join("nginx.conf");
        std::fs::write(&config, configuration(folder)).unwrap();
        let mut nginx = command(lab, "nginx");
        nginx.arg("-e").arg(folder.join("error.log"));
        nginx.arg("-c").arg(config);
        let process = Process::start(nginx);
        wait_listening(lab, &[PLAIN, PATIENT, TLS, PATIENT_TLS, HTTP2]);
        let log = folder.join("access.log");
        Self {
            process,
            log,
            asked: Cell::new(0),
        }
    }

    /// Ends it with a signal.
    pub(super) fn stop(&mut self, signal: Signal) {
        self.process.signal(signal);
        let status = self.process.wait(PATIENCE);
        assert!(status.success(), "{status}");
    }

    /// How many requests it has answered.
    pub(super) fn served(&self) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().count()
    }

    /// How many connections it has accepted, without those that asked.
    pub(super) fn accepted(&self, lab: &Lab) -> usize {
        let end = SocketAddr::new(V4.server, PLAIN);
        let asked = self.asked.get() + 1;
        self.asked.set(asked);
        let status = lab.inside(|| {
            let (mut stream, _) = tcp::connect(V4.client, end);
            stream.write_all(b"GET /status HTTP/1.0\r\n\r\n").unwrap();
            let mut status = String::new();
            stream.read_to_string(&mut status).unwrap();
            status
        });
        // A line of words, then accepted, handled, requests.
        let numbers = status
            .lines()
            .skip_while(|line| !line.starts_with("server "));
        let accepted = numbers.skip(1).flat_map(str::split_whitespace).next();
        let accepted: usize = accepted.and_then(|word| word.parse().ok()).expect(&status);
        accepted - asked
    }
}

fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    let common = "location / { return 200 'hello'; }
        location = /status { access_log off; stub_status; }
        location = /large { root .; }";
    let common = common.replace("root .", &format!("root {folder}"));
    let server = |port: u16, kind: &str, patience: &str| {
        format!(
            "server {{
                listen {port} {kind}; listen [::]:{port} {kind};
                keepalive_timeout {patience};
                {common}
            }}"
        )
    };
    let servers = [
        server(PLAIN, "", "1s"),
        server(PATIENT, "", "60s"),
        server(TLS, "ssl", "1s"),
        server(PATIENT_TLS, "ssl", "60s"),
        server(HTTP2, "ssl http2", "1s"),
    ]
    .concat();
    format!(
        "daemon off; master_process off; user root; pid {folder}/nginx.pid;
        error_log {folder}/error.log info;
        events {{}}
        http {{
            access_log {folder}/access.log;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
            scgi_temp_path {folder}/scgi;
            keepalive_requests 1000000;
            ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
            ssl_protocols TLSv1.2 TLSv1.3;
            {servers}
        }}"
    )
}

/// Makes `cert.pem` and `key.pem`, signed by themselves.
fn certificate(folder: &Path) {
    let openssl = find_program("openssl").expect("checked before");
    let mut command = Command::new(openssl);
    command
        .args(["req", "-x509", "-nodes", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-subj", "/CN=localhost", "-days", "2", "-keyout"])
        .arg(folder.join("key.pem"))
        .arg("-out")
        .arg(folder.join("cert.pem"));
    run(command);
}
