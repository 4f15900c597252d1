//! Connections are counted, also where the daemon has no room for them.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use crate::collect::wait_until;
use crate::lab::{Lab, skipped};
use crate::line::{Line, TUN};
use crate::memory::Memory;
use crate::metrics::{Scrape, get};
use crate::netns::{FAMILIES, V4};
use crate::tcp::{self, Pair};
use crate::watcher::{Seen, Watcher};

/// Every connection is counted once at each end.
#[test]
fn connections_are_counted() {
    let Some(lab) = Lab::start("connections_are_counted", &[], &[]) else {
        return;
    };
    let before = lab.quiet_scrape();
    let ports = lab.inside(|| FAMILIES.map(|family| Pair::new(family).server_end.port()));
    let grown = lab
        .quiet_scrape()
        .increase(&before, "rst_connections_total", &["role", "port"]);
    for port in ports {
        for role in ["client", "server"] {
            let found = grown
                .iter()
                .find(|(labels, _)| labels["role"] == role && labels["port"] == port.to_string());
            assert_eq!(
                found.map(|(_, count)| *count),
                Some(1),
                "{role} {port}: {grown:?}"
            );
        }
    }
    lab.finish(&[]);
}

/// Room for as little as can be.
const SMALL: &str = "max_series = 64\ntracked_sockets = 64\nclosed_connections = 64";

/// Ports that are served, more than the daemon has room for.
const PORTS: usize = 100;
/// Connections to each.
const EACH: usize = 100;

/// How often they are made anew when connections from elsewhere on this machine got
/// between them. A product that counts too much does so every time.
const ATTEMPTS: usize = 3;

/// So many listeners.
fn listeners(count: usize) -> Vec<TcpListener> {
    (0..count).map(|_| tcp::listener(V4.server, 16)).collect()
}

/// Makes a connection to one of the listeners in turn. It may not fail.
fn connect(listeners: &[TcpListener], number: usize) -> [TcpStream; 2] {
    let listener = &listeners[number % listeners.len()];
    let server = listener.local_addr().unwrap();
    let client = TcpStream::connect(server).expect("no connection fails");
    let (accepted, _) = listener.accept().expect("no connection fails");
    [client, accepted]
}

/// Makes so many connections one after the other, and resets a tenth of them.
fn churn(listeners: &[TcpListener], connections: usize) {
    for number in 0..connections {
        let [client, accepted] = connect(listeners, number);
        if number % 10 == 0 {
            tcp::abort(accepted);
        } else {
            drop(client);
        }
    }
}

/// Asserts that so many connections at least have been counted at each end, each with
/// its role, and that the map was full. Says how many there were too many: the count
/// is of all namespaces of this machine.
fn from_elsewhere(before: &Scrape, after: &Scrape, connections: usize) -> u64 {
    let counted = after.increase(before, "rst_connections_total", &["role"]);
    let of = |role: &str| {
        let labels = [("role".to_owned(), role.to_owned())].into();
        counted.get(&labels).copied().unwrap_or_default()
    };
    let wanted = u64::try_from(connections).unwrap();
    assert!(
        is_full(before, after, "rst_connections_total"),
        "the map was not full"
    );
    let more = ["client", "server"].map(|role| {
        let more = of(role).checked_sub(wanted);
        more.unwrap_or_else(|| panic!("{role}: {} of {wanted} were counted", of(role)))
    });
    more.iter().sum::<u64>() + of("unknown")
}

/// Whether the map behind a counter was full.
fn is_full(before: &Scrape, after: &Scrape, counter: &str) -> bool {
    let other = after.increase(before, counter, &["port"]);
    let other = other.get(&[("port".to_owned(), "other".to_owned())].into());
    other.is_some_and(|count| *count > 0)
}

/// Every table is full, and nobody's connection fails or goes uncounted.
#[test]
fn full_tables_fail_no_connection() {
    let test = "full_tables_fail_no_connection";
    let Some(lab) = Lab::configured(test, &[], SMALL, &[]) else {
        return;
    };
    for attempt in 1..=ATTEMPTS {
        let before = lab.quiet_scrape();
        lab.inside(|| churn(&listeners(PORTS), PORTS * EACH));
        let more = from_elsewhere(&before, &lab.quiet_scrape(), PORTS * EACH);
        if more == 0 {
            return;
        }
        eprintln!("attempt {attempt} met {more} connections from elsewhere");
    }
    panic!("too many connections were counted in each of {ATTEMPTS} attempts");
}

/// More ports than listeners are remembered.
const LISTENED: usize = 8300;

/// Attempts at a time that end in silence, so that most are known for what they are.
const AT_ONCE: usize = 130;

/// A table of sockets with some room.
const SOME: &str = "max_series = 64\ntracked_sockets = 512\nclosed_connections = 64";

/// Connections that stay, with a socket at each end: more than that.
const STAY: usize = 300;

/// Fills every map, also what no setting makes smaller: listeners and time-outs. What it
/// returns keeps the table of sockets full.
fn fill(lab: &Lab) -> Vec<[TcpStream; 2]> {
    lab.inside(|| {
        for _ in 0..LISTENED {
            drop(tcp::listener(V4.server, 1));
        }
    });

    let before = lab.quiet_scrape();
    let far = lab.another();
    let line = Line::new(&lab.netns, &far, 1, Duration::ZERO);
    line.blackhole(true);
    let [family, _] = line.ends;
    let mut ports = 1..;
    wait_until("the map of time-outs is full", || {
        let attempts = ports.by_ref().take(AT_ONCE).map(|port| {
            let attempt = lab.inside(|| tcp::bound(family.client));
            rustix::io::ioctl_fionbio(&attempt, true).unwrap();
            tcp::set_option(&attempt, libc::TCP_USER_TIMEOUT, 100);
            let to = SocketAddr::new(family.server, port);
            let error = rustix::net::connect(&attempt, &to).expect_err("nothing answers");
            assert_eq!(error, rustix::io::Errno::INPROGRESS);
            TcpStream::from(attempt)
        });
        for attempt in attempts.collect::<Vec<_>>() {
            assert_eq!(tcp::wait_error(&attempt), std::io::ErrorKind::TimedOut);
        }
        let now = Scrape::take(&lab.daemon.socket);
        is_full(&before, &now, "rst_timeouts_total")
    });
    lab.inside(|| {
        let listeners = listeners(1);
        (0..STAY)
            .map(|number| connect(&listeners, number))
            .collect()
    })
}

/// Connections while the daemon has no memory left.
const STARVED: usize = 100_000;

/// Every table is full, and the daemon waits for memory that it does not get.
/// Nobody's connection fails, and once it goes on all of them have been counted. That
/// none is counted twice is shown above.
#[test]
fn starved_daemon_fails_no_connection() {
    let test = "starved_daemon_fails_no_connection";
    let memory = match Memory::new() {
        Ok(memory) => memory,
        Err(why) => return skipped(test, why),
    };
    let by = |command: Command| memory.command(&command);
    let Some(lab) = Lab::by(test, &[TUN], SOME, by) else {
        return;
    };
    let _stay = fill(&lab);
    let before = lab.quiet_scrape();
    memory.limit_to_use();
    // It needs memory for each of them.
    let mut watchers = Vec::new();
    wait_until("the daemon has reached its limit", || {
        let mut watcher = UnixStream::connect(&lab.daemon.socket).unwrap();
        watcher.write_all(WATCH).unwrap();
        watchers.push(watcher);
        memory.refused() > 0
    });
    lab.inside(|| churn(&listeners(PORTS), STARVED));
    println!("memory was refused {} times", memory.refused());
    memory.lift();
    drop(watchers);
    // Watchers may have been lost, so nothing waits for them.
    wait_until("the daemon goes on", || {
        matches!(get(&lab.daemon.socket, "/readyz"), Ok((200, _)))
    });
    let after = Scrape::take(&lab.daemon.socket);
    let more = from_elsewhere(&before, &after, STARVED);
    println!("{more} connections came from elsewhere");
    let watcher = Watcher::start(&lab.daemon.socket, &[]);
    wait_until("resets are told again", || {
        let server = tcp::closed_port(V4);
        lab.inside(|| tcp::connect_refused(V4.client, server));
        let told = |seen: &[Seen]| {
            seen.iter()
                .any(|seen| lab.is_own(&seen.event))
                .then_some(())
        };
        watcher.seen.wait(TOLD, told).is_some()
    });
}

/// How long a reset is waited for before there is another.
const TOLD: Duration = Duration::from_millis(150);

/// What a watcher asks for.
const WATCH: &[u8] = b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n";
