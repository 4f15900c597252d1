//! Sockets as the scenarios need them: chosen addresses, known states.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::collect::{DEADLINE, wait_until};
use crate::netns::{Family, Netns};

/// A socket bound to an address and any port.
pub(crate) fn bound(address: IpAddr) -> OwnedFd {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket =
        rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::new(address, 0)).unwrap();
    socket
}

/// The address of a socket's own end.
pub(crate) fn name_of(socket: impl AsFd) -> SocketAddr {
    SocketAddr::try_from(rustix::net::getsockname(socket).unwrap()).unwrap()
}

/// A listener on any port with a backlog of its own.
pub(crate) fn listener(address: IpAddr, backlog: i32) -> TcpListener {
    let socket = bound(address);
    rustix::net::listen(&socket, backlog).unwrap();
    TcpListener::from(socket)
}

/// A listener at an address and port.
pub(crate) fn listen_at(end: SocketAddr) -> TcpListener {
    TcpListener::bind(end).unwrap()
}

/// Connects from an address; the client end and where it is.
pub(crate) fn connect(from: IpAddr, to: SocketAddr) -> (TcpStream, SocketAddr) {
    let socket = bound(from);
    rustix::net::connect(&socket, &to).unwrap();
    let end = name_of(&socket);
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    (stream, end)
}

/// Connects to a port that refuses; where the attempt came from.
pub(crate) fn connect_refused(from: IpAddr, to: SocketAddr) -> SocketAddr {
    let socket = bound(from);
    let end = name_of(&socket);
    let error = rustix::net::connect(&socket, &to).expect_err("nobody listens");
    assert_eq!(error, rustix::io::Errno::CONNREFUSED);
    end
}

/// A port that nobody listens on, and nobody will.
pub(crate) fn closed_port(family: Family) -> SocketAddr {
    // Below the ephemeral ports, and no service of a fresh namespace.
    SocketAddr::new(family.server, 4)
}

/// Both ends of a connection, and its listener.
#[derive(Debug)]
pub(crate) struct Pair {
    /// Stays until the pair is dropped.
    pub(crate) listener: TcpListener,
    /// The end that connected.
    pub(crate) client: TcpStream,
    /// The accepted end.
    pub(crate) server: TcpStream,
    /// Address of the client.
    pub(crate) client_end: SocketAddr,
    /// Address of the server.
    pub(crate) server_end: SocketAddr,
}

impl Pair {
    /// A connection over loopback.
    pub(crate) fn new(family: Family) -> Self {
        Self::between(family.client, family.server)
    }

    /// A connection between two addresses of this namespace.
    pub(crate) fn between(client: IpAddr, server: IpAddr) -> Self {
        let listener = listener(server, 16);
        let server_end = listener.local_addr().unwrap();
        Self::accepted(listener, connect(client, server_end))
    }

    /// A connection between two namespaces.
    pub(crate) fn across(client: &Netns, server: &Netns, ends: Family) -> Self {
        let listener = server.inside(|| listener(ends.server, 16));
        let server_end = listener.local_addr().unwrap();
        let connected = client.inside(|| connect(ends.client, server_end));
        Self::accepted(listener, connected)
    }

    fn accepted(listener: TcpListener, (client, client_end): (TcpStream, SocketAddr)) -> Self {
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        let server_end = listener.local_addr().unwrap();
        Self {
            listener,
            client,
            server,
            client_end,
            server_end,
        }
    }

    /// The client sends and the server reads it.
    pub(crate) fn ask(&mut self, question: &[u8]) {
        transfer(&mut self.client, &mut self.server, question);
    }

    /// The server sends and the client reads it.
    pub(crate) fn answer(&mut self, answer: &[u8]) {
        transfer(&mut self.server, &mut self.client, answer);
    }
}

/// Sends bytes, reads them at the other end, and waits until the sender knows
/// that they have arrived.
pub(crate) fn transfer(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).unwrap();
    let mut read = vec![0; bytes.len()];
    to.read_exact(&mut read).unwrap();
    assert_eq!(read, bytes);
    wait_acknowledged(from);
}

/// Waits until the peer has acknowledged everything.
pub(crate) fn wait_acknowledged(socket: &TcpStream) {
    wait_until("everything is acknowledged", || {
        let info = info(socket);
        info.tcpi_unacked == 0 && info.tcpi_notsent_bytes == 0
    });
}

/// Waits until so many bytes are there to be read.
pub(crate) fn wait_unread(socket: &TcpStream, bytes: u64) {
    wait_until("the bytes have arrived", || {
        rustix::io::ioctl_fionread(socket).unwrap() >= bytes
    });
}

/// Waits until the socket is in a state, a number of [`rst_common::tcp::state`].
pub(crate) fn wait_state(socket: &TcpStream, state: u8) {
    wait_until("the socket changes its state", || {
        is_in_state(socket, state)
    });
}

/// Whether the socket is in a state, likewise.
pub(crate) fn is_in_state(socket: &TcpStream, state: u8) -> bool {
    info(socket).tcpi_state == state
}

/// Waits until a closed socket's FIN has been acknowledged: from then on there
/// is only a mini-socket for it.
pub(crate) fn wait_time_wait(end: SocketAddr) {
    // This thread's namespace, not that of the process.
    let table = if end.is_ipv4() {
        "/proc/thread-self/net/tcp"
    } else {
        "/proc/thread-self/net/tcp6"
    };
    let port = format!(":{:04X}", end.port());
    wait_until("the FIN is acknowledged", || {
        let sockets = std::fs::read_to_string(table).unwrap();
        // Number, local end, remote end, state; a mini-socket shows what it
        // stands for.
        sockets.lines().any(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let local = columns.next().is_some_and(|local| local.ends_with(&port));
            local && columns.nth(1) == Some("05")
        })
    });
}

/// Waits until the socket has failed, and says how.
pub(crate) fn wait_error(socket: &TcpStream) -> std::io::ErrorKind {
    let mut error = None;
    wait_until("the socket fails", || {
        error = socket.take_error().unwrap();
        error.is_some()
    });
    error.expect("just waited for").kind()
}

fn info(socket: &TcpStream) -> libc::tcp_info {
    // SAFETY: integers alone, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of_val(&info)).unwrap();
    // SAFETY: the buffer is as long as `len` says; the kernel writes no more.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    info
}

/// The sequence number that the socket waits for.
pub(crate) fn next_received(socket: &TcpStream) -> u32 {
    set_option(socket, libc::TCP_REPAIR, 1);
    set_option(socket, libc::TCP_REPAIR_QUEUE, TCP_RECV_QUEUE);
    let mut number = 0u32;
    let mut len = libc::socklen_t::try_from(size_of_val(&number)).unwrap();
    // SAFETY: the buffer is as long as `len` says; the kernel writes no more.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUEUE_SEQ,
            (&raw mut number).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    set_option(socket, libc::TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
    number
}

/// `include/uapi/linux/tcp.h`.
const TCP_RECV_QUEUE: i32 = 1;
/// Likewise: it ends without a probe of the window.
const TCP_REPAIR_OFF_NO_WP: i32 = -1;

/// Sets an integer option of TCP.
pub(crate) fn set_option(socket: impl AsFd, option: i32, value: i32) {
    let len = libc::socklen_t::try_from(size_of_val(&value)).unwrap();
    // SAFETY: the value outlives the call and is as long as `len` says.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            len,
        )
    };
    assert_eq!(
        result,
        0,
        "TCP option {option}: {}",
        std::io::Error::last_os_error()
    );
}

/// Turns keep-alive on: one probe after a second, and a second for its answer.
pub(crate) fn probe_once(socket: &TcpStream) {
    let second = Duration::from_secs(1);
    sockopt::set_tcp_keepidle(socket, second).unwrap();
    sockopt::set_tcp_keepintvl(socket, second).unwrap();
    sockopt::set_tcp_keepcnt(socket, 1).unwrap();
    sockopt::set_socket_keepalive(socket, true).unwrap();
}

/// Closes with SO_LINGER on and no time: the application asks for a reset.
pub(crate) fn abort(socket: TcpStream) {
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
    drop(socket);
}

/// Closes without a word to the peer, as a host that dies.
pub(crate) fn vanish(socket: TcpStream) {
    set_option(&socket, libc::TCP_REPAIR, 1);
    drop(socket);
}
