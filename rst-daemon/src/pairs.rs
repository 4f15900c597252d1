//! The two ends of a connection that are both on this host: the reset that one has
//! sent and the other has received are one story.

use std::collections::{HashMap, VecDeque};

use rst_common::cause::{Direction, Impact};
use rst_common::event::Event;

use crate::join::endpoints;
use crate::reset::Endpoint;

/// How long the other end's event is waited for, nanoseconds. On loopback and veth
/// it follows within microseconds.
const WAIT_NS: u64 = 10_000_000;

/// An event, and that of the other end where it is on this host.
pub type Paired = (Event, Option<Event>);

/// A connection, whichever end is local.
type Connection = (Endpoint, Endpoint);

/// Events that wait for the other end's, in the order in which they came.
#[derive(Debug, Default)]
pub struct Pairs {
    waiting: VecDeque<Paired>,
    /// The number of the first one.
    first: u64,
    /// The number of the earliest event of a connection's end that has no other.
    single: HashMap<(Connection, u8), u64>,
}

impl Pairs {
    /// Whether no event waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes an event in.
    pub fn push(&mut self, event: Event) {
        if let Some(connection) = connection(&event) {
            let direction = event.facts.direction;
            let other = other_end(direction);
            if let Some(waiting) = self
                .single
                .remove(&(connection, other))
                .and_then(|number| self.get(number))
            {
                waiting.1 = Some(event);
                return;
            }
            let number = self.first + self.waiting.len() as u64;
            self.single.entry((connection, direction)).or_insert(number);
        }
        self.waiting.push_back((event, None));
    }

    fn get(&mut self, number: u64) -> Option<&mut Paired> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.waiting.get_mut(index)
    }

    /// The next one that need not wait any longer at this moment,
    /// `CLOCK_MONOTONIC`, nanoseconds; the one that tells more comes first.
    pub fn pop(&mut self, now_ns: u64) -> Option<Paired> {
        let (event, other) = self.waiting.front()?;
        if other.is_none() && now_ns.saturating_sub(event.ktime_ns) < WAIT_NS {
            return None;
        }
        if other.is_none()
            && let Some(connection) = connection(event)
        {
            let key = (connection, event.facts.direction);
            if self.single.get(&key) == Some(&self.first) {
                self.single.remove(&key);
            }
        }
        let paired = self.waiting.pop_front()?;
        self.first += 1;
        Some(match paired {
            (event, Some(other)) if weight(&other) > weight(&event) => (other, Some(event)),
            paired => paired,
        })
    }
}

/// How much an event tells: the worse the impact, the more; and then, who sent the
/// reset knows why.
fn weight(event: &Event) -> (u8, bool) {
    let impact = match Impact::from_byte(event.impact) {
        Some(Impact::ConnectionBroken) => 3,
        Some(Impact::ConnectFailed) => 2,
        Some(Impact::Uncertain) => 1,
        Some(Impact::Benign) | None => 0,
    };
    (impact, event.facts.direction == Direction::Sent as u8)
}

fn other_end(direction: u8) -> u8 {
    if direction == Direction::Sent as u8 {
        Direction::Received as u8
    } else {
        Direction::Sent as u8
    }
}

fn connection(event: &Event) -> Option<Connection> {
    let (local, remote) = endpoints(event)?;
    let in_order = (local.ip, local.port) <= (remote.ip, remote.port);
    Some(if in_order {
        (local, remote)
    } else {
        (remote, local)
    })
}

#[cfg(test)]
mod tests {
    use rst_common::event::{EVENT_SIZE, known};
    use rst_common::tcp::{AF_INET, AF_INET6};

    use super::*;
    use crate::kernel::ring::decode;

    /// An event of the connection between ports 1 and `port`, at a millisecond.
    fn at(ms: u64, direction: Direction, port: u16, impact: Impact) -> Event {
        let mut event = decode(&[0; EVENT_SIZE]).unwrap();
        event.facts.direction = direction as u8;
        event.impact = impact as u8;
        event.ktime_ns = ms * 1_000_000;
        event.known |= known::TUPLE;
        event.family = AF_INET;
        event.local_addr = [0; 16];
        event.local_addr[0] = 127;
        event.remote_addr = event.local_addr;
        (event.local_port, event.remote_port) = if direction == Direction::Sent {
            (1, port)
        } else {
            (port, 1)
        };
        event
    }

    fn ports(paired: Option<&Paired>) -> Option<(u16, Option<u16>)> {
        paired.map(|(event, other)| (event.local_port, other.map(|other| other.local_port)))
    }

    #[test]
    fn both_ends_come_together_and_in_order() {
        use Direction::{Received, Sent};
        let mut pairs = Pairs::default();
        let broken = Impact::ConnectionBroken;
        pairs.push(at(1, Sent, 100, broken));
        pairs.push(at(1, Sent, 200, Impact::Benign));
        pairs.push(at(1, Received, 300, broken));
        pairs.push(at(1, Received, 200, broken));
        pairs.push(at(1, Received, 100, broken));
        pairs.push(at(2, Received, 400, broken));
        pairs.push(at(2, Sent, 400, broken));
        assert_eq!(ports(pairs.pop(1).as_ref()), Some((1, Some(100))));
        assert_eq!(
            ports(pairs.pop(1).as_ref()),
            Some((200, Some(1))),
            "the worse impact comes first"
        );
        assert_eq!(pairs.pop(1_000_000), None, "may still get its other end");
        assert_eq!(ports(pairs.pop(12_000_000).as_ref()), Some((300, None)));
        assert_eq!(
            ports(pairs.pop(12_000_000).as_ref()),
            Some((1, Some(400))),
            "the end that sent it comes first"
        );
        assert!(pairs.is_empty() && pairs.single.is_empty());
        // The other end of what has gone is alone.
        pairs.push(at(8, Sent, 300, broken));
        assert_eq!(ports(pairs.pop(u64::MAX).as_ref()), Some((1, None)));
    }

    #[test]
    fn of_repeated_resets_the_first_is_the_one_that_arrived() {
        let mut pairs = Pairs::default();
        let sent = |ms| at(ms, Direction::Sent, 100, Impact::Benign);
        pairs.push(sent(1));
        pairs.push(sent(2));
        pairs.push(at(2, Direction::Received, 100, Impact::Benign));
        let (first, other) = pairs.pop(2_000_000).unwrap();
        assert_eq!(first, sent(1));
        assert!(other.is_some());
        assert_eq!(pairs.pop(u64::MAX), Some((sent(2), None)));
    }

    #[test]
    fn a_mapped_address_is_the_address() {
        let mut pairs = Pairs::default();
        pairs.push(at(1, Direction::Sent, 100, Impact::Benign));
        let mut mapped = at(1, Direction::Received, 100, Impact::Benign);
        mapped.family = AF_INET6;
        let address = "::ffff:127.0.0.0".parse::<std::net::Ipv6Addr>().unwrap();
        mapped.local_addr = address.octets();
        mapped.remote_addr = address.octets();
        pairs.push(mapped);
        assert!(pairs.pop(0).unwrap().1.is_some());
    }

    #[test]
    fn what_has_no_addresses_is_alone() {
        let mut pairs = Pairs::default();
        for direction in [Direction::Sent, Direction::Received] {
            let mut event = at(1, direction, 100, Impact::Benign);
            event.known = 0;
            pairs.push(event);
        }
        assert!(pairs.pop(u64::MAX).unwrap().1.is_none());
        assert!(pairs.pop(u64::MAX).unwrap().1.is_none());
    }
}
