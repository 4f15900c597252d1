//! Real programs as the scenarios need them: started, ready, ended in order,
//! and their connections looked at from outside.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use rst_common::tcp::state;
use rustix::process::Signal;

use crate::collect::{DEADLINE, wait_until};
use crate::lab::Folder;
use crate::netns::Netns;
use crate::process::{Process, find_program};

/// A server that is asked to end when it is dropped, so that it takes its own
/// children with it.
#[derive(Debug)]
pub(crate) struct Server(pub(crate) Process);

impl Server {
    /// Starts a program in a namespace and waits until it listens on a port.
    pub(crate) fn start(netns: &Netns, program: &str, args: &[&str], port: u16) -> Self {
        let path = find_program(program).expect("checked before");
        let mut command: Command = netns.command(path);
        command.args(args).env_remove("PYTHONPATH");
        let server = Self(Process::start(command));
        wait_listening(netns, port);
        server
    }

    /// nginx, of one process, with these settings of its HTTP block.
    pub(crate) fn nginx(netns: &Netns, folder: &Folder, http: &str, port: u16) -> Self {
        let folder = folder.0.display();
        let settings = format!(
            "daemon off; master_process off; user root; pid {folder}/nginx.pid;
            error_log {folder}/error.log;
            events {{}}
            http {{
                access_log off;
                client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
                fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
                scgi_temp_path {folder}/scgi;
                {http}
            }}"
        );
        let file = format!("{folder}/nginx.conf");
        std::fs::write(&file, settings).unwrap();
        let log = format!("{folder}/error.log");
        Self::start(netns, "nginx", &["-e", &log, "-c", &file], port)
    }

    /// gunicorn with an application in Python, named `app`.
    pub(crate) fn gunicorn(
        netns: &Netns,
        folder: &Folder,
        app: &str,
        settings: &[&str],
        listen: [SocketAddr; 2],
    ) -> Self {
        let folder = folder.0.display().to_string();
        std::fs::write(format!("{folder}/app.py"), app).unwrap();
        let binds = listen.map(|end| end.to_string());
        let mut args = vec!["--chdir", &folder, "--worker-tmp-dir", &folder];
        args.extend(["--bind", &binds[0], "--bind", &binds[1]]);
        // A worker that has just been made may miss that it is to end.
        args.extend(["--graceful-timeout", "1"]);
        args.extend(settings);
        args.push("app:app");
        Self::start(netns, "gunicorn", &args, listen[0].port())
    }

    /// Its children.
    pub(crate) fn workers(&self) -> Vec<i32> {
        let children = self.0.children().into_iter();
        children.map(u32::cast_signed).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.0.ends_within(Duration::ZERO).is_some() {
            return;
        }
        self.0.signal(Signal::TERM);
        let ended = self.0.ends_within(DEADLINE).is_some();
        assert!(ended || std::thread::panicking(), "a server does not end");
    }
}

/// Waits until somebody listens on a port. That is looked up, since a connect
/// would be refused before.
pub(crate) fn wait_listening(netns: &Netns, port: u16) {
    netns.inside(|| {
        wait_until("a server listens", || {
            ends(port).iter().any(|end| end.state == state::LISTEN)
        });
    });
}

/// One end of a connection, as the kernel's table shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// The other end's port.
    pub(crate) peer_port: u16,
    /// A number of [`rst_common::tcp::state`].
    pub(crate) state: u8,
}

/// All sockets on a local port of this thread's namespace.
pub(crate) fn ends(port: u16) -> Vec<End> {
    let tables = ["tcp", "tcp6"].map(|table| {
        let path = format!("/proc/thread-self/net/{table}");
        std::fs::read_to_string(path).unwrap()
    });
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines.filter_map(|line| end(line, port)).collect()
}

/// Number, local end, remote end, state: all in hexadecimal.
fn end(line: &str, port: u16) -> Option<End> {
    let mut columns = line.split_whitespace().skip(1);
    let mut port_of = || {
        let (_, port) = columns.next()?.rsplit_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    let (local, peer_port) = (port_of()?, port_of()?);
    let state = u8::from_str_radix(columns.next()?, 16).ok()?;
    (local == port).then_some(End { peer_port, state })
}

/// Runs curl in a namespace.
pub(crate) fn curl(netns: &Netns, args: &[&str]) -> Output {
    let curl = find_program("curl").expect("checked before");
    let mut command: Command = netns.command(curl);
    command.args(["--silent", "--show-error", "--noproxy", "*"]);
    command.args(["--max-time", "10"]);
    command.args(args).output().unwrap()
}

/// Runs curl from an address and a port, with so much patience in seconds.
pub(crate) fn curl_from(
    netns: &Netns,
    from: SocketAddr,
    server: SocketAddr,
    patience: &str,
) -> Output {
    let (address, port) = (from.ip().to_string(), from.port().to_string());
    let from = ["--interface", &address, "--local-port", &port];
    let url = url(server, "/");
    curl(
        netns,
        &[&from[..], &["--max-time", patience, &url]].concat(),
    )
}

/// What curl asks for.
pub(crate) fn url(server: SocketAddr, path: &str) -> String {
    format!("http://{server}{path}")
}

/// A request from this thread's namespace on a connection of its own; all of
/// the answer.
pub(crate) fn http(server: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect_timeout(&server, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = format!("{method} {path} HTTP/1.0\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    std::io::read_to_string(stream).unwrap()
}
