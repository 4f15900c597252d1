//! The two ends of a connection that are both on this host: the reset that one has
//! sent and the other has received are one story.

use std::collections::{HashMap, VecDeque};

use rst_common::cause::{Direction, Impact};
use rst_common::event::{Event, known};

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
    /// `None` where another has taken it.
    waiting: VecDeque<Option<Paired>>,
    /// The number of the first one.
    first: u64,
    /// The numbers of a connection's events that have no other.
    single: HashMap<Connection, Vec<u64>>,
}

impl Pairs {
    /// Whether no event waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes an event in. In one namespace a connection is known by its addresses.
    pub fn push(&mut self, event: Event) {
        if let Some(connection) = connection(&event) {
            let numbers = self.single.get(&connection).map_or(&[][..], Vec::as_slice);
            let other = numbers.iter().copied().find(|number| {
                self.get(*number).is_some_and(|(waiting, _)| {
                    is_opposite(waiting, &event) && netns(waiting) == netns(&event)
                })
            });
            if let Some(number) = other
                && let Some(waiting) = self.get_mut(number)
            {
                waiting.1 = Some(event);
                self.forget(&connection, number);
                return;
            }
            let number = self.first + self.waiting.len() as u64;
            self.single.entry(connection).or_default().push(number);
        }
        self.waiting.push_back(Some((event, None)));
    }

    /// The next one that need not wait any longer at this moment,
    /// `CLOCK_MONOTONIC`, nanoseconds; the one that tells more comes first.
    pub fn pop(&mut self, now_ns: u64) -> Option<Paired> {
        loop {
            let front = self.waiting.front()?;
            let Some((event, other)) = front else {
                self.waiting.pop_front();
                self.first += 1;
                continue;
            };
            if other.is_none() && now_ns.saturating_sub(event.ktime_ns) < WAIT_NS {
                return None;
            }
            let (event, mut other) = (*event, *other);
            if other.is_none()
                && let Some(connection) = connection(&event)
            {
                self.forget(&connection, self.first);
                other = self.elsewhere(&connection, &event);
            }
            self.waiting.pop_front();
            self.first += 1;
            return Some(match other {
                Some(other) if weight(&other) > weight(&event) => (other, Some(event)),
                other => (event, other),
            });
        }
    }

    /// Takes the other end in another namespace, where it can be told: other
    /// connections there may have the same addresses.
    fn elsewhere(&mut self, connection: &Connection, event: &Event) -> Option<Event> {
        let (one, other) = connection;
        if one.ip.is_loopback() || other.ip.is_loopback() {
            return None;
        }
        let mut numbers = self.single.get(connection)?.iter();
        let others = |number: &&u64| {
            let waiting = self.get(**number);
            waiting.is_some_and(|(waiting, _)| is_opposite(waiting, event))
        };
        let number = *numbers.clone().find(others)?;
        let (other, _) = *self.get(number)?;
        let is_certain = numbers.all(|number| {
            self.get(*number).is_some_and(|(waiting, _)| {
                let like = if is_opposite(waiting, event) {
                    &other
                } else {
                    event
                };
                netns(waiting) == netns(like)
            })
        });
        if !is_certain {
            // Nor can the others be told apart.
            self.single.remove(connection);
            return None;
        }
        self.forget(connection, number);
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        *self.waiting.get_mut(index)? = None;
        Some(other)
    }

    fn get(&self, number: u64) -> Option<&Paired> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.waiting.get(index)?.as_ref()
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Paired> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.waiting.get_mut(index)?.as_mut()
    }

    /// It is not single any more.
    fn forget(&mut self, connection: &Connection, number: u64) {
        if let Some(numbers) = self.single.get_mut(connection) {
            numbers.retain(|known| *known != number);
            if numbers.is_empty() {
                self.single.remove(connection);
            }
        }
    }
}

fn is_opposite(one: &Event, other: &Event) -> bool {
    one.facts.direction != other.facts.direction
}

/// What tells the namespace of an event from others.
fn netns(event: &Event) -> u64 {
    if event.known & known::NETNS_COOKIE != 0 {
        event.netns_cookie
    } else {
        u64::from(event.netns)
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
    use rst_common::event::EVENT_SIZE;
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

    /// An event in a namespace of its own, at this address.
    fn within(event: &Event, netns: u64, address: u8) -> Event {
        let mut event = *event;
        event.known |= known::NETNS_COOKIE;
        event.netns_cookie = netns;
        event.local_addr[0] = address;
        event.remote_addr[0] = address;
        event
    }

    #[test]
    fn ends_in_two_namespaces_are_a_pair_where_they_are_the_only_ones() {
        use Direction::{Received, Sent};
        let end = |direction, netns, address| {
            within(&at(1, direction, 100, Impact::Benign), netns, address)
        };
        let paired = |events: &[Event]| {
            let mut pairs = Pairs::default();
            for event in events {
                pairs.push(*event);
            }
            let told = std::iter::from_fn(|| pairs.pop(u64::MAX));
            let told: Vec<bool> = told.map(|(_, other)| other.is_some()).collect();
            assert!(pairs.is_empty() && pairs.single.is_empty());
            told
        };
        assert_eq!(paired(&[end(Sent, 1, 10), end(Received, 2, 10)]), [true]);
        assert_eq!(
            paired(&[end(Sent, 1, 10), end(Sent, 1, 10), end(Received, 2, 10)]),
            [true, false]
        );
        assert_eq!(
            paired(&[end(Sent, 1, 10), end(Received, 2, 10), end(Received, 3, 10)]),
            [false, false, false],
            "one of two"
        );
        assert_eq!(
            paired(&[end(Sent, 1, 10), end(Sent, 3, 10), end(Received, 2, 10)]),
            [false, false, false],
            "one of two, likewise"
        );
        // Each namespace has a loopback of its own.
        assert_eq!(
            paired(&[end(Sent, 1, 127), end(Received, 2, 127)]),
            [false, false]
        );
        let twice = [
            end(Sent, 1, 127),
            end(Sent, 2, 127),
            end(Received, 2, 127),
            end(Received, 1, 127),
        ];
        assert_eq!(paired(&twice), [true, true]);
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
