//! Connections that the kernel's own thread makes, accepts and closes for a process:
//! io_uring.

use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::io_uring::{
    IORING_OFF_SQ_RING, IORING_OFF_SQES, IoringEnterFlags, IoringOp, IoringSetupFlags,
    addr_or_splice_off_in_union, io_uring_cqe, io_uring_enter, io_uring_params, io_uring_ptr,
    io_uring_setup, io_uring_sqe, off_or_addr2_union,
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use serde_json::{Value, json};

use super::{CLIENT, SERVER, Script, owner, python, workload};
use crate::collect::wait_until;
use crate::lab::{Lab, skipped};
use crate::netns::FAMILIES;
use crate::tcp;

/// One entry: operations go one after the other.
const ENTRIES: u32 = 1;

/// A ring with a thread of the kernel that does what it is asked (SQPOLL).
struct Ring {
    file: OwnedFd,
    params: io_uring_params,
    rings: Mapping,
    entries: Mapping,
}

/// Shared memory, unmapped on drop.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(file: &OwnedFd, len: usize, offset: u64) -> Self {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh shared mapping at an address the kernel chooses; nothing
        // else in the process knows it.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED,
                file,
                offset,
            )
        };
        let start = NonNull::new(start.unwrap().cast()).expect("not at address 0");
        Self { start, len }
    }

    /// What lies at so many bytes.
    fn at<T>(&self, offset: u32) -> *mut T {
        let offset = usize::try_from(offset).unwrap();
        assert!(offset + size_of::<T>() <= self.len);
        // SAFETY: inside the mapping, as just looked at.
        unsafe { self.start.as_ptr().add(offset).cast() }
    }

    /// A number there, which the kernel may change.
    fn number(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: inside the mapping, which lives as long as self, aligned as the
        // kernel lays it out, and only accessed atomically.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made in `new`; no reference outlives self. Failing would leave it
        // mapped until exit.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

impl Ring {
    /// Makes one; fails where the machine forbids it.
    fn new() -> Result<Self, Errno> {
        let mut params = io_uring_params::default();
        params.flags = IoringSetupFlags::SQPOLL;
        params.sq_thread_idle = 1000;
        // SAFETY: the parameters name no file and no memory.
        let file = unsafe { io_uring_setup(ENTRIES, &mut params) }?;
        let (to, from) = (params.sq_off, params.cq_off);
        // One mapping has both rings (IORING_FEAT_SINGLE_MMAP, 5.4).
        let cqes = params.cq_entries * u32::try_from(size_of::<io_uring_cqe>()).unwrap();
        let len = (to.array + params.sq_entries * 4).max(from.cqes + cqes);
        let rings = Mapping::new(&file, len.try_into().unwrap(), IORING_OFF_SQ_RING);
        let len = params.sq_entries * u32::try_from(size_of::<io_uring_sqe>()).unwrap();
        let entries = Mapping::new(&file, len.try_into().unwrap(), IORING_OFF_SQES);
        Ok(Self {
            file,
            params,
            rings,
            entries,
        })
    }

    /// Has an operation done, and waits for it. What it points to must live until
    /// then.
    fn run(&self, operation: io_uring_sqe) -> i32 {
        let (to, from) = (self.params.sq_off, self.params.cq_off);
        let tail = self.rings.number(to.tail);
        let next = tail.load(Ordering::Relaxed);
        let slot = next & self.rings.number(to.ring_mask).load(Ordering::Relaxed);
        let entry = slot * u32::try_from(size_of::<io_uring_sqe>()).unwrap();
        // SAFETY: an entry inside the mapping that the kernel does not look at
        // before the tail has moved: the operation before has been done.
        unsafe { self.entries.at::<io_uring_sqe>(entry).write(operation) };
        let index = self.rings.number(to.array + slot * 4);
        index.store(slot, Ordering::Relaxed);
        tail.store(next + 1, Ordering::Release);
        let flags = IoringEnterFlags::GETEVENTS | IoringEnterFlags::SQ_WAKEUP;
        // SAFETY: the operation points to what the caller keeps.
        unsafe { io_uring_enter(&self.file, 1, 1, flags) }.unwrap();

        let head = self.rings.number(from.head);
        let done = head.load(Ordering::Relaxed);
        assert_ne!(
            done,
            self.rings.number(from.tail).load(Ordering::Acquire),
            "waited for it"
        );
        let slot = done & self.rings.number(from.ring_mask).load(Ordering::Relaxed);
        let entry = from.cqes + slot * u32::try_from(size_of::<io_uring_cqe>()).unwrap();
        // SAFETY: an entry inside the mapping that the kernel has filled in, as the
        // tail says, and leaves alone until the head has moved.
        let result = unsafe { (*self.rings.at::<io_uring_cqe>(entry)).res };
        head.store(done + 1, Ordering::Release);
        result
    }

    /// accept(2).
    fn accept(&self, listener: &TcpListener) -> TcpStream {
        let accepted = self.run(operation(IoringOp::Accept, listener.as_raw_fd()));
        assert!(accepted >= 0, "{}", Errno::from_raw_os_error(-accepted));
        // SAFETY: a new descriptor that nobody else has.
        unsafe { TcpStream::from_raw_fd(accepted) }
    }

    /// connect(2).
    fn connect(&self, socket: &OwnedFd, to: SocketAddr) {
        let to = rustix::net::SocketAddrAny::from(to);
        let mut connect = io_uring_sqe {
            addr_or_splice_off_in: addr_or_splice_off_in_union {
                addr: io_uring_ptr::new(to.as_ptr().cast_mut().cast()),
            },
            ..operation(IoringOp::Connect, socket.as_raw_fd())
        };
        connect.off_or_addr2 = off_or_addr2_union {
            off: u64::from(to.addr_len()),
        };
        assert_eq!(self.run(connect), 0);
    }

    /// close(2).
    fn close(&self, socket: TcpStream) {
        assert_eq!(
            self.run(operation(IoringOp::Close, socket.into_raw_fd())),
            0
        );
    }
}

fn operation(opcode: IoringOp, file: RawFd) -> io_uring_sqe {
    io_uring_sqe {
        opcode,
        fd: file,
        ..io_uring_sqe::default()
    }
}

/// The process that has the ring is told, by its own name: not the kernel's thread
/// that connects, accepts and closes.
#[test]
fn process_of_an_io_uring_is_told() {
    let test = "process_of_an_io_uring_is_told";
    let Some(lab) = Lab::start(test, &["python3"], &[]) else {
        return;
    };
    // The sockets are of the namespace that they are made in.
    let ring = match Ring::new() {
        Ok(ring) => ring,
        Err(why) => return skipped(test, &format!("io_uring can't be had: {why}")),
    };
    let this = std::process::id();
    wait_until("the kernel's thread runs", || {
        threads().iter().any(|name| name.starts_with("iou-sqp-"))
    });
    let event = |direction: &str, [local, remote]: [SocketAddr; 2], role: &str, owner: Value| {
        let pid = owner["pid"].as_u64().unwrap().try_into().unwrap();
        json!({
            "direction": direction, "role": role, "owner": owner, "workload": workload(pid),
            "local": {"ip": local.ip(), "port": local.port()},
            "remote": {"ip": remote.ip(), "port": remote.port()},
        })
    };
    let mut expected = Vec::new();
    for family in FAMILIES {
        // Accepted and closed by the ring.
        let listener = lab.inside(|| tcp::listener(family.server, 16));
        let listens = listener.local_addr().unwrap();
        let address = family.server.to_string();
        let args = [address.clone(), listens.port().to_string()];
        let mut client = Script::start(python(&lab.netns, CLIENT, &args));
        let client_end = SocketAddr::new(family.server, client.number());
        let accepted = ring.accept(&listener);
        tcp::wait_unread(&accepted, 5);
        ring.close(accepted);
        let mut closed = event(
            "sent",
            [listens, client_end],
            "server",
            owner(this, "current"),
        );
        closed["cause"] = json!("unread_data");
        let lost = event(
            "received",
            [client_end, listens],
            "client",
            client.owner("connect"),
        );
        lab.wait_event(&lost);
        expected.extend([closed, lost]);

        // Accepted by the ring, and reset by the peer.
        let (peer, client_end) = lab.inside(|| tcp::connect(family.client, listens));
        let accepted = ring.accept(&listener);
        tcp::abort(peer);
        assert_eq!(tcp::wait_error(&accepted), ErrorKind::ConnectionReset);
        let aborted = [client_end, listens];
        expected.push(event("sent", aborted, "client", owner(this, "current")));
        let lost = [listens, client_end];
        expected.push(event("received", lost, "server", owner(this, "listener")));

        // Connected by the ring.
        let mut server = Script::start(python(&lab.netns, SERVER, &[address, "0".to_owned()]));
        let server_end = SocketAddr::new(family.server, server.number());
        let socket = lab.inside(|| tcp::bound(family.client));
        ring.connect(&socket, server_end);
        let client_end = tcp::name_of(&socket);
        let mut client = TcpStream::from(socket);
        client.write_all(b"hello").unwrap();
        assert_eq!(tcp::wait_error(&client), ErrorKind::ConnectionReset);
        let closed = [server_end, client_end];
        expected.push(event("sent", closed, "server", server.owner("current")));
        let lost = [client_end, server_end];
        expected.push(event("received", lost, "client", owner(this, "connect")));
    }
    lab.finish(&expected);
}

/// The names of this process's threads.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
    names.map(Result::unwrap_or_default).collect()
}
