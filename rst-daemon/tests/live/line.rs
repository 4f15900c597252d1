//! A long line between two namespaces: a TUN device in each, and a relay in
//! this process that hands the packets on after a while, or drops them.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::netns::{Family, Netns, subnets};

/// How soon a direction notices that it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// What makes TUN devices: what a test with a line needs ([`crate::lab::can_run`]).
pub(crate) const TUN: &str = "/dev/net/tun";

/// More than any packet of these devices.
const PACKET: usize = 1 << 16;

/// The line; it is cut when it is dropped.
#[derive(Debug)]
pub(crate) struct Line {
    /// The addresses, for each family.
    pub(crate) ends: [Family; 2],
    switches: Arc<Switches>,
    directions: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Switches {
    /// Whether every packet vanishes.
    blackhole: AtomicBool,
    /// Whether the line is to end.
    stop: AtomicBool,
}

impl Line {
    /// Joins two namespaces: clients in one, servers in the other. Each packet
    /// takes `delay`; `number` sets the subnets apart.
    pub(crate) fn new(client: &Netns, server: &Netns, number: u8, delay: Duration) -> Self {
        let ends = subnets(number);
        let name = format!("line{number}");
        let near = client.inside(|| tun(&name));
        let far = server.inside(|| tun(&name));
        client.address(&name, ends.map(|ends| ends.client));
        server.address(&name, ends.map(|ends| ends.server));
        let switches = Arc::<Switches>::default();
        let both = [(&near, &far), (&far, &near)].map(|(from, to)| {
            let from = from.try_clone().expect("a file can be cloned");
            let to = to.try_clone().expect("a file can be cloned");
            let switches = Arc::clone(&switches);
            thread::spawn(move || relay(from, to, delay, &switches))
        });
        Self {
            ends,
            switches,
            directions: both.into(),
        }
    }

    /// From now on packets vanish, or no longer; those under way too.
    pub(crate) fn blackhole(&self, on: bool) {
        self.switches.blackhole.store(on, Ordering::Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.switches.stop.store(true, Ordering::Relaxed);
        for direction in self.directions.drain(..) {
            let failed = direction.join().is_err();
            assert!(!failed || thread::panicking(), "the relay has failed");
        }
    }
}

/// A TUN device of this thread's namespace; it goes with its file.
pub(crate) fn tun(name: &str) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN)
        .expect("looked at before");
    // SAFETY: integers alone, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        // Signed on some architectures.
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = flags.try_into().expect("both fit");
    // SAFETY: the kernel reads and writes one `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
    file
}

/// One direction.
fn relay(mut from: File, mut to: File, delay: Duration, switches: &Switches) {
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut packet = vec![0; PACKET];
    while !switches.stop.load(Ordering::Relaxed) {
        let next = waiting.front().map(|(due, _)| *due);
        let patience = next.map_or(LOOK, |due| {
            due.saturating_duration_since(Instant::now()).min(LOOK)
        });
        wait_readable(&from, patience);
        loop {
            match from.read(&mut packet) {
                Ok(len) => waiting.push_back((Instant::now() + delay, packet[..len].to_vec())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The device goes down when its namespace ends.
                Err(_) => return,
            }
        }
        while waiting
            .front()
            .is_some_and(|(due, _)| *due <= Instant::now())
        {
            let (_, packet) = waiting.pop_front().expect("just looked at");
            if !switches.blackhole.load(Ordering::Relaxed) {
                // Fails only where the other device is down.
                let _ = to.write(&packet);
            }
        }
    }
}

fn wait_readable(file: &File, patience: Duration) {
    let mut wanted = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // Rounded up, so that nobody spins until the moment has come.
    let millis = patience.as_micros().div_ceil(1000);
    let millis = millis.try_into().expect("at most LOOK");
    // SAFETY: one element, which outlives the call. Whatever it says, reading
    // tells how things are.
    unsafe { libc::poll(&raw mut wanted, 1, millis) };
}
