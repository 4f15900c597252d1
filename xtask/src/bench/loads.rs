//! The traffic. Made by threads in a network namespace of their own, as fast as the kernel takes
//! it.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::{cpu, interrupt, namespace::Namespace, storm};

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// SYNs to closed ports, from so many CPUs.
    Storm { senders: usize, ports: Ports },
    /// Connections that are closed with a byte unread, which resets them.
    Unread,
    /// Short connections: a request, an answer, an orderly end; [`PARALLEL`] at once on each CPU.
    Short,
    /// One connection that carries as much as it can.
    Bulk,
}

/// The closed ports of a storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    /// One that never had a listener.
    Never,
    /// So many that have lost their listener: these are counted by port.
    Lost(u16),
}

/// Open connections of each thread of [`Load::Short`].
const PARALLEL: u8 = 64;

/// Bytes of a request and its answer, as small ones of HTTP are.
const REQUEST: [u8; 100] = [b'q'; 100];
const ANSWER: [u8; 300] = [b'a'; 300];

/// Bytes of one write of [`Load::Bulk`].
const CHUNK: usize = 128 * 1024;

/// First of the ports of a storm.
const FIRST_PORT: u16 = 20_000;

/// What was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// SYNs, connections or bytes.
    pub(super) amount: u64,
    /// In this time.
    pub(super) time: Duration,
    /// With so much CPU time of the generator's threads, the kernel's work for them included.
    pub(super) cpu: Duration,
}

/// A thread's part of the traffic: what it does until the end, and how much that was.
type Worker = Box<dyn FnOnce(&End) -> Result<u64> + Send>;

/// When to stop.
pub(super) struct End(Instant);

impl End {
    /// Whether it is time, or somebody wants an end.
    pub(super) fn reached(&self) -> bool {
        Instant::now() >= self.0 || interrupt::raised()
    }
}

/// A generator, ready to start.
pub(super) struct Generator<'a> {
    namespace: &'a Namespace,
    workers: Vec<Worker>,
}

impl<'a> Generator<'a> {
    /// Makes what the load needs in the namespace.
    pub(super) fn new(load: Load, namespace: &'a Namespace) -> Result<Self> {
        let workers = namespace.inside(|| match load {
            Load::Storm { senders, ports } => storms(senders, ports),
            Load::Unread => (0..cpus()).map(|_| unread()).collect(),
            Load::Short => (0..cpus()).map(|_| short()).collect(),
            Load::Bulk => bulk(),
        })?;
        Ok(Self { namespace, workers })
    }

    /// Runs it for so long.
    pub(super) fn run(self, time: Duration) -> Result<Work> {
        let workers = self.workers;
        self.namespace.inside(move || {
            let start = Instant::now();
            let end = End(start + time);
            let parts = thread::scope(|scope| {
                let threads: Vec<_> = workers
                    .into_iter()
                    .map(|worker| scope.spawn(|| Ok((worker(&end)?, cpu::of_this_thread()?))))
                    .collect();
                let results = threads.into_iter().map(|thread| {
                    let result = thread.join();
                    result.unwrap_or_else(|_| Err(anyhow!("a generator's thread panicked")))
                });
                results.collect::<Result<Vec<(u64, Duration)>>>()
            })?;
            Ok(Work {
                amount: parts.iter().map(|(amount, _)| amount).sum(),
                time: start.elapsed(),
                cpu: parts.iter().map(|(_, cpu)| cpu).sum(),
            })
        })
    }
}

/// CPUs there are to send from.
pub(super) fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn storms(senders: usize, ports: Ports) -> Result<Vec<Worker>> {
    let ports = match ports {
        Ports::Never => FIRST_PORT..FIRST_PORT + 1,
        Ports::Lost(count) => {
            let ports = FIRST_PORT..FIRST_PORT + count;
            for port in ports.clone() {
                TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
            }
            ports
        }
    };
    let allowed = sched_getaffinity(None)?;
    let cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let worker = |cpu| {
        let ports = ports.clone();
        Box::new(move |end: &End| {
            let mut own = CpuSet::new();
            own.set(cpu);
            sched_setaffinity(None, &own)?;
            storm::send(ports, end)
        }) as Worker
    };
    Ok(cpus.take(senders).map(worker).collect())
}

fn unread() -> Result<Worker> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    Ok(Box::new(move |end| {
        let mut connections = 0;
        while !end.reached() {
            let mut client = TcpStream::connect(address)?;
            let (server, _) = listener.accept()?;
            client.write_all(b"x")?;
            drop(server);
            connections += 1;
        }
        Ok(connections)
    }))
}

/// Both ends of many connections in one thread: what is measured is the kernel's work for them,
/// not its scheduler's.
fn short() -> Result<Worker> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    Ok(Box::new(move |end| {
        let mut connections = 0;
        let mut buffer = [0; 1024];
        // Each round goes to other addresses, so that no port in TIME_WAIT is met again.
        for round in (0..=u8::MAX).cycle() {
            if end.reached() {
                break;
            }
            let mut clients = Vec::with_capacity(PARALLEL.into());
            for number in 1..=PARALLEL {
                let address = Ipv4Addr::new(127, 0, round, number);
                clients.push(TcpStream::connect(SocketAddr::from((address, port)))?);
            }
            let mut servers = Vec::with_capacity(clients.len());
            for client in &mut clients {
                servers.push(listener.accept()?.0);
                client.write_all(&REQUEST)?;
            }
            for mut server in servers {
                server.read_exact(&mut buffer[..REQUEST.len()])?;
                server.write_all(&ANSWER)?;
            }
            for mut client in clients {
                while client.read(&mut buffer)? != 0 {}
                connections += 1;
            }
        }
        Ok(connections)
    }))
}

fn bulk() -> Result<Vec<Worker>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let send: Worker = Box::new(move |end| {
        let chunk = vec![0; CHUNK];
        while !end.reached() {
            sender.write_all(&chunk)?;
        }
        sender.shutdown(Shutdown::Write)?;
        Ok(0)
    });
    let receive: Worker = Box::new(move |_| {
        let mut chunk = vec![0; CHUNK];
        let mut bytes = 0;
        loop {
            match receiver.read(&mut chunk)? {
                0 => return Ok(bytes),
                read => bytes += read as u64,
            }
        }
    });
    Ok(vec![send, receive])
}
