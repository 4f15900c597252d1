//! A process that accepts from a listener which another process has made, as the
//! workers of a service do. It is a copy of this one, so these tests need no program.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};

use super::owner;
use crate::expect::{this_process, verdict};
use crate::kernel::Limit;
use crate::lab::live;
use crate::netns::{FAMILIES, Family};
use crate::tcp;

/// Such a process, killed on drop.
struct Worker(Pid);

impl Worker {
    /// It accepts one connection, sends a byte on it, and waits to be killed.
    fn start(listener: &TcpListener) -> Self {
        let listener = listener.as_raw_fd();
        // SAFETY: the child calls nothing but what a signal handler may, and leaves
        // through `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: system calls alone, with a descriptor that is open, no address
            // to be filled in, and a byte that lives.
            unsafe {
                let connection = libc::accept(listener, std::ptr::null_mut(), std::ptr::null_mut());
                libc::write(connection, c"a".as_ptr().cast(), 1);
                libc::pause();
                libc::_exit(1)
            }
        }
        Self(Pid::from_raw(child).expect("fork works"))
    }

    /// What the JSON says of it.
    fn owner(&self, source: &str) -> Value {
        owner(self.0.as_raw_nonzero().get().cast_unsigned(), source)
    }

    /// A connection that it has accepted: it, the client, and both ends.
    fn with_client(family: Family) -> (Self, TcpStream, [SocketAddr; 2]) {
        let listener = tcp::listener(family.server, 16);
        let server_end = listener.local_addr().unwrap();
        let worker = Self::start(&listener);
        let (mut client, client_end) = tcp::connect(family.client, server_end);
        client.read_exact(&mut [0]).unwrap();
        (worker, client, [server_end, client_end])
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It has not been waited for, so the pid is its own.
        let _ = kill_process(self.0, Signal::KILL);
        let _ = waitpid(Some(self.0), WaitOptions::empty());
    }
}

/// The client resets the connection: at the other end it is the worker's that accepted
/// it, where the kernel lets that be seen.
#[test]
fn worker_that_accepts_is_told() {
    let test = "worker_that_accepts_is_told";
    live(test, &[], |lab| {
        let accept = lab.kernel.shows_in(test, Limit::Accept);
        let both = FAMILIES.map(|family| {
            let (worker, client, [server_end, client_end]) = Worker::with_client(family);
            tcp::abort(client);
            let lost = ["no_data", "benign", "server"];
            let mut lost = verdict("received", server_end, client_end, lost);
            lost["owner"] = if accept {
                worker.owner("accept")
            } else {
                let mut listener = this_process();
                listener["source"] = json!("listener");
                listener
            };
            lab.wait_event(&lost);
            let aborted = ["app_abort", "benign", "client"];
            let mut aborted = verdict("sent", client_end, server_end, aborted);
            aborted["owner"] = this_process();
            [lost, aborted]
        });
        both.concat()
    });
}

/// The worker is killed with data unread.
#[test]
fn worker_is_killed_with_unread_data() {
    live("worker_is_killed_with_unread_data", &[], |_| {
        let both = FAMILIES.map(|family| {
            let (worker, mut client, [server_end, client_end]) = Worker::with_client(family);
            client.write_all(b"hello").unwrap();
            tcp::wait_acknowledged(&client);
            let killed = worker.owner("current");
            drop(worker);
            tcp::wait_error(&client);
            let broken = "connection_broken";
            let closed = ["process_exit", broken, "server"];
            let mut closed = verdict("sent", server_end, client_end, closed);
            closed["owner"] = killed;
            closed["exit"] = json!({"signal": 9, "code": null});
            closed["reason"] = json!("TCP_ABORT_ON_CLOSE");
            closed["unread_bytes"] = json!(5);
            let lost = ["peer_abort", broken, "client"];
            [closed, verdict("received", client_end, server_end, lost)]
        });
        both.concat()
    });
}
