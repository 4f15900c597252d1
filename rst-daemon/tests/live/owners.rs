//! Whose connection it was: the process and the service.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{ChildStdin, ChildStdout, Command};
use std::time::Duration;

use rst_daemon::workload::of_cgroup;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::collect::DEADLINE;
use crate::netns::Netns;
use crate::process::{Process, find_program};

#[path = "owners/accepting.rs"]
mod accepting;
#[path = "owners/churn.rs"]
mod churn;
#[path = "owners/full.rs"]
mod full;
#[path = "owners/gone.rs"]
mod gone;
#[path = "owners/services.rs"]
mod services;
#[path = "owners/sharing.rs"]
mod sharing;
#[path = "owners/start.rs"]
mod start;
#[path = "owners/tracked.rs"]
mod tracked;
#[path = "owners/uring.rs"]
mod uring;

/// Accepts one connection at an address and a port, waits for its input, and
/// closes without reading.
const SERVER: &str = r"
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.recv(1, socket.MSG_PEEK)
connection.close()
sys.stdin.read()
";

/// Asks, and waits for the answer.
const CLIENT: &str = r"
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print(connection.getsockname()[1], flush=True)
connection.sendall(b'hello')
try:
    connection.recv(1)
except ConnectionResetError:
    pass
sys.stdin.read()
";

/// A Python program in a namespace.
fn python(netns: &Netns, script: &str, args: &[String]) -> Command {
    let here = python_here(script, args);
    let mut command = netns.command(here.get_program());
    command.args(here.get_args());
    command
}

/// A Python program in the namespace of the thread that starts it.
fn python_here(script: &str, args: &[String]) -> Command {
    let python = find_program("python3").expect("checked before");
    let mut command = Command::new(python);
    command.args(["-c", script]).args(args);
    command
}

/// A program that says line by line what it has done, and goes on when it is told.
#[derive(Debug)]
struct Script {
    process: Process,
    said: BufReader<ChildStdout>,
    told: ChildStdin,
}

impl Script {
    /// Starts it.
    fn start(command: Command) -> Self {
        let mut process = Process::start(command);
        let said = BufReader::new(process.stdout());
        let told = process.stdin();
        Self {
            process,
            said,
            told,
        }
    }

    /// The next line that it says.
    fn says(&mut self) -> String {
        let mut line = String::new();
        if self.said.read_line(&mut line).unwrap() == 0 {
            let mut why = String::new();
            self.process.stderr().read_to_string(&mut why).unwrap();
            panic!("it has ended: {why}");
        }
        line.trim_end().to_owned()
    }

    /// The next line that it says, a number.
    fn number<N: std::str::FromStr<Err: std::fmt::Debug>>(&mut self) -> N {
        self.says().parse().unwrap()
    }

    /// Lets it go on.
    fn go_on(&mut self) {
        self.told.write_all(b"\n").unwrap();
    }

    /// Kills it, and waits until it is gone.
    fn end(&mut self) {
        if self.process.ends_within(Duration::ZERO).is_none() {
            self.process.signal(Signal::KILL);
            self.process.wait(DEADLINE);
        }
    }

    /// What the JSON says of it where it is the owner.
    fn owner(&self, source: &str) -> Value {
        owner(self.process.pid(), source)
    }
}

/// Where the connections of one of several clients come from.
fn client_address(number: usize) -> IpAddr {
    let host = u8::try_from(number + 1).expect("a few");
    IpAddr::V4(Ipv4Addr::new(127, 0, 1, host))
}

/// What the JSON says of an owner, a process that is there.
fn owner(pid: u32, source: &str) -> Value {
    json!({"pid": pid, "comm": comm(pid), "source": source})
}

/// The name of a process, as `ps` shows it.
fn comm(pid: u32) -> String {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    comm.trim_end().to_owned()
}

/// What the JSON says of the workload of a process that is there: its cgroup.
fn workload(pid: u32) -> Value {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    let named = of_cgroup(path.unwrap_or_default());
    serde_json::to_value(named).unwrap()
}
