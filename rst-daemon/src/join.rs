//! Turns an event of the kernel into a [`Reset`]: names instead of numbers,
//! milliseconds instead of jiffies, `null` instead of what is not known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rst_common::cause::{Cause, Direction, Impact, Origin, OwnerSource, Role, Turn};
use rst_common::classify::forgery::Forgery;
use rst_common::classify::{received_bytes, turn, unacked_data, undelivered_data};
use rst_common::event::{self, Event};
use rst_common::facts::{Facts, known};
use rst_common::owner::Holder;
use rst_common::reason::RAW_NONE;
use rst_common::tcp::{AF_INET, AF_INET6, sock_flag, state};

use crate::basis;
use crate::clock::{Hz, WallClock};
use crate::community_id::community_id;
use crate::hint::estimator::{Key, Observation};
use crate::hint::{self, Gaps};
use crate::reset::{self, Endpoint, Exit, Keepalive, Linger, Owner, Packet, Reset, VERSION};
use crate::text::until_zero;
use crate::workload::resolver::Named;

/// What stays the same from event to event.
#[derive(Clone, Debug)]
pub struct Joiner {
    host: String,
    reason_names: Vec<Option<String>>,
    hz: Hz,
    /// Whether the kernel's process ids are those of our `/proc`: not so inside
    /// a pid namespace.
    pids_match: bool,
}

impl Joiner {
    /// `reason_names`: the kernel's reason names by number.
    #[must_use]
    pub fn new(host: String, reason_names: Vec<Option<String>>, hz: Hz, pids_match: bool) -> Self {
        Self {
            host,
            reason_names,
            hz,
            pids_match,
        }
    }

    /// Name of this machine.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The kernel's timer ticks a second.
    #[must_use]
    pub fn hz(&self) -> Hz {
        self.hz
    }

    /// Name of a kernel reason, where the kernel's BTF has one.
    #[must_use]
    pub fn known_reason(&self, raw: u8) -> Option<String> {
        self.reason_names.get(usize::from(raw)).cloned().flatten()
    }

    /// Name of an event's reason: `None` where the kernel gave none,
    /// `unknown:<n>` for a number without a name.
    fn reason(&self, raw: u8) -> Option<String> {
        (raw != RAW_NONE).then(|| {
            self.known_reason(raw)
                .unwrap_or_else(|| format!("unknown:{raw}"))
        })
    }

    /// The process that was running.
    fn current(&self, event: &Event) -> Owner {
        Owner {
            pid: self.pids_match.then_some(event.pid),
            comm: until_zero(&event.comm),
            source: OwnerSource::Current.label().to_owned(),
        }
    }

    /// The process that holds the socket, where it is known by name: that which it has
    /// now, where it still runs, else the one it had. Who made a connection, or took
    /// it, did so also if it has gone; who listened, or held a socket at the start,
    /// has left it to another then.
    fn holder(&self, event: &Event, running: Option<String>) -> Option<Owner> {
        let holder = Holder::unpack(event.holder);
        let source = OwnerSource::from_byte(holder.source)?;
        let runs = running.is_some();
        let noted = Some(until_zero(&event.holder_comm)).filter(|comm| !comm.is_empty());
        let comm = if holder.is_kernel {
            "kernel".to_owned()
        } else {
            running.or(noted)?
        };
        let stays = match source {
            OwnerSource::Unknown | OwnerSource::Current => return None,
            OwnerSource::Connect | OwnerSource::Accept => true,
            OwnerSource::Listener | OwnerSource::Iterator => runs,
        };
        Some(Owner {
            pid: Some(holder.pid).filter(|pid| stays && self.pids_match && *pid != 0),
            comm,
            source: source.label().to_owned(),
        })
    }

    /// The process that an event names as the holder of its socket, to be looked for:
    /// its id, and when it began.
    #[must_use]
    pub fn holder_of(&self, event: &Event) -> Option<(u32, u32)> {
        let holder = Holder::unpack(event.holder);
        let is_current = event.known & event::known::OWNER != 0;
        (self.pids_match && !is_current && holder.pid != 0).then_some((holder.pid, holder.born))
    }

    /// The reset an event tells of; whose socket it was stands in `of`, and the name of
    /// [`Self::holder_of`], where that runs, in `running`.
    #[must_use]
    pub fn join(
        &self,
        event: &Event,
        clock: WallClock,
        of: Named,
        running: Option<String>,
    ) -> Reset {
        let facts = &event.facts;
        let hz = self.hz;
        let knows = |bit: u32| event.known & bit != 0;
        let ms = |bits: u32, jiffies: u32| facts.get(bits, |_| hz.milliseconds(jiffies));
        let ends = endpoints(event);
        let (local, remote) = ends.unzip();
        let cause = Cause::from_byte(event.cause).unwrap_or(Cause::Unknown);
        let flags = facts.get(known::SOCK_FLAGS, |facts| facts.sock_flags);
        let origin = Origin::from_byte(facts.origin).unwrap_or(Origin::None);
        Reset {
            v: VERSION,
            time: clock.at(event.ktime_ns),
            host: self.host.clone(),
            direction: label(Direction::from_byte(facts.direction).map(Direction::label)),
            cause: cause.label().to_owned(),
            impact: label(Impact::from_byte(event.impact).map(Impact::label)),
            basis: basis::basis(cause, event, hz),
            origin: origin.label().to_owned(),
            reason: self.reason(event.reason),
            local,
            remote,
            family: local.map(|end| if end.ip.is_ipv4() { "ipv4" } else { "ipv6" }.to_owned()),
            role: label(Role::from_byte(event.role).map(Role::label)),
            state: state_before(facts).map(str::to_owned),
            owner: if knows(event::known::OWNER) {
                Some(self.current(event))
            } else {
                self.holder(event, running)
            },
            peer_owner: None,
            peer_cause: None,
            killer: knows(event::known::KILLER).then(|| self.current(event)),
            workload: of.workload,
            cgroup: of.cgroup,
            uid: knows(event::known::UID).then_some(event.uid),
            netns: knows(event::known::NETNS).then_some(event.netns),
            cookie: knows(event::known::SOCK_COOKIE).then_some(event.sock_cookie),
            community_id: ends.and_then(|(local, remote)| community_id(local, remote)),
            turn: match turn(facts) {
                Turn::Unknown => None,
                turn @ (Turn::Us | Turn::Peer) => Some(turn.label().to_owned()),
            },
            idle_rx_ms: data_received(facts)
                .is_some_and(|bytes| bytes > 0)
                .then(|| ms(known::IDLE_RX, facts.idle_rx))
                .flatten(),
            idle_tx_ms: (facts.bytes_sent > 0)
                .then(|| ms(known::IDLE_TX, facts.idle_tx))
                .flatten(),
            idle_segment_ms: ms(known::IDLE_SEGMENT, facts.idle_segment),
            probes_out: facts.get(known::PROBES_OUT, |facts| u32::from(facts.probes_out)),
            age_ms: ms(known::AGE, facts.age).filter(|_| facts.age != u32::MAX),
            bytes_sent: facts.get(known::BYTES_SENT | known::BYTES_RETRANS, |facts| {
                facts.bytes_sent.saturating_sub(facts.bytes_retrans)
            }),
            bytes_received: data_received(facts),
            unacked_bytes: facts.get(known::UNACKED | known::UNSENT, unacked_data),
            unsent_bytes: facts.get(known::UNACKED | known::UNSENT, |facts| {
                undelivered_data(facts).saturating_sub(unacked_data(facts))
            }),
            unread_bytes: facts.get(known::UNREAD, |facts| facts.unread),
            srtt_us: Some(facts.srtt_us).filter(|srtt| *srtt != 0),
            retransmits: knows(event::known::RETRANSMITS).then_some(event.retransmits),
            keepalive: flags.map(|flags| keepalive(event, flags, hz)),
            linger: flags
                .filter(|flags| flags & sock_flag::LINGER != 0)
                .and_then(|_| facts.get(known::LINGER_TIME, |facts| facts.linger_time))
                .map(|jiffies| Linger {
                    time_s: hz.milliseconds(jiffies) / 1000,
                }),
            exit: exit(facts),
            packet: packet(event),
            forgery: forgery(facts, hz),
            restart: None,
            hint: hint::hint(cause, gaps_of(cause, event, hz)),
            advice: Some(cause.text().fix.to_owned()),
        }
    }
}

/// The header of a reset that arrived.
fn packet(event: &Event) -> Packet {
    if event.known & event::known::PACKET == 0 {
        return Packet::default();
    }
    let facts = &event.facts;
    Packet {
        ttl: Some(facts.ttl),
        seq: Some(event.packet_seq),
        ack: Some(event.packet_ack),
        window: Some(u32::from(event.packet_window)),
        flags: Some(basis::flags(event.packet_flags)),
        ip_id: (event.family == AF_INET).then_some(event.ip_id),
    }
}

fn forgery(facts: &Facts, hz: Hz) -> Option<reset::Forgery> {
    let marks = facts.get(known::PACKET, |facts| Forgery::of(facts, hz.jiffy_us()))?;
    Some(reset::Forgery {
        score: marks.score(),
        handshake_ttl: facts.get(known::HANDSHAKE_TTL, |facts| facts.handshake_ttl),
        evidence: basis::evidence(facts, marks),
    })
}

/// How the owner of a socket was found.
#[must_use]
pub fn owner_source(event: &Event) -> OwnerSource {
    if event.known & event::known::OWNER != 0 {
        return OwnerSource::Current;
    }
    let holder = Holder::unpack(event.holder);
    let named = holder.is_kernel || event.holder_comm[0] != 0;
    OwnerSource::from_byte(holder.source)
        .filter(|_| named)
        .unwrap_or(OwnerSource::Unknown)
}

/// The silences before a reset. Our own data that drew it is no movement, so
/// there the peer's last data counts.
fn gaps(cause: Cause, facts: &Facts, hz: Hz, keepalive_ms: Option<u64>) -> Gaps {
    let drawn = matches!(cause, Cause::StaleReuse | Cause::PeerClosed);
    let received = data_received(facts).is_some_and(|bytes| bytes > 0);
    let data = match (drawn, received) {
        (true, true) => facts.get(known::IDLE_RX, |facts| facts.idle_rx),
        (true, false) => facts.get(known::IDLE_SEGMENT, |facts| facts.idle_segment),
        (false, _) => facts.get(known::IDLE_RX | known::IDLE_TX, |facts| {
            facts.idle_rx.min(facts.idle_tx)
        }),
    };
    let segment = facts.get(known::IDLE_SEGMENT, |facts| facts.idle_segment);
    Gaps {
        data_ms: data.map(|jiffies| hz.milliseconds(jiffies)),
        segment_ms: segment.map(|jiffies| hz.milliseconds(jiffies)),
        keepalive_ms,
    }
}

/// Our keep-alive time, where keep-alive is on.
fn keepalive_ms(event: &Event, hz: Hz) -> Option<u64> {
    let on = event.facts.sock_flags & sock_flag::KEEPOPEN != 0;
    (on && event.known & event::known::KEEPALIVE != 0)
        .then(|| hz.milliseconds(event.keepalive_time))
}

/// The silences before the reset that an event tells of.
#[must_use]
pub fn gaps_of(cause: Cause, event: &Event, hz: Hz) -> Gaps {
    gaps(cause, &event.facts, hz, keepalive_ms(event, hz))
}

/// What an event of one connection tells of the service's timers.
#[must_use]
pub fn observation(event: &Event, reset: &Reset, hz: Hz) -> Option<(Key, Observation)> {
    let cause = Cause::from_byte(event.cause)?;
    let gaps = gaps_of(cause, event, hz);
    let role = Role::from_byte(event.role)?;
    let (local, remote) = (reset.local?, reset.remote?);
    let key = Key {
        workload: reset
            .workload
            .as_ref()
            .map(|workload| workload.name.clone()),
        role,
        peer: remote.ip,
        port: match role {
            Role::Server => local.port,
            Role::Client | Role::Unknown => remote.port,
        },
    };
    let known = event.known & event::known::KEEPALIVE != 0;
    let observation = Observation {
        cause,
        gap_ms: gaps.data_ms?,
        segment_ms: gaps.segment_ms,
        keepalive_on: event.facts.sock_flags & sock_flag::KEEPOPEN != 0,
        keepalive_ms: known.then(|| hz.milliseconds(event.keepalive_time)),
    };
    Some((key, observation))
}

fn label(label: Option<&'static str>) -> String {
    label.unwrap_or("unknown").to_owned()
}

/// The state before the reset. `CLOSE` is what a reset leaves behind: there the
/// table of sockets tells, or nothing does.
fn state_before(facts: &Facts) -> Option<&'static str> {
    if let Some(state) = facts.get(known::STATE_BEFORE, |facts| facts.state_before) {
        return state::name(state);
    }
    facts
        .get(known::STATE, |facts| facts.state)
        .filter(|state| *state != state::CLOSE)
        .and_then(state::name)
}

/// Payload bytes received.
fn data_received(facts: &Facts) -> Option<u64> {
    facts.get(known::BYTES_RECEIVED | known::SOCK_FLAGS, received_bytes)
}

fn keepalive(event: &Event, flags: u8, hz: Hz) -> Keepalive {
    let known = event.known & event::known::KEEPALIVE != 0;
    Keepalive {
        enabled: flags & sock_flag::KEEPOPEN != 0,
        time_s: known.then(|| hz.milliseconds(event.keepalive_time) / 1000),
        interval_s: known.then(|| hz.milliseconds(event.keepalive_intvl) / 1000),
        probes: known.then(|| u32::from(event.keepalive_probes)),
    }
}

/// Exit status or signal of an exiting process, as `wait(2)` encodes it.
fn exit(facts: &Facts) -> Option<Exit> {
    if facts.exiting == 0 {
        return None;
    }
    let code = facts.get(known::EXIT_CODE, |facts| facts.exit_code)?;
    let signal = code & 0x7f;
    Some(Exit {
        code: (signal == 0).then_some(code >> 8 & 0xff),
        signal: (signal != 0).then_some(signal),
    })
}

/// This host's end and the peer's, where they are known; IPv4-mapped addresses as
/// IPv4.
#[must_use]
pub fn endpoints(event: &Event) -> Option<(Endpoint, Endpoint)> {
    if event.known & event::known::TUPLE == 0 {
        return None;
    }
    let local = Endpoint {
        ip: address(event.family, event.local_addr)?,
        port: event.local_port,
    };
    let remote = Endpoint {
        ip: address(event.family, event.remote_addr)?,
        port: event.remote_port,
    };
    Some((local, remote))
}

fn address(family: u16, bytes: [u8; 16]) -> Option<IpAddr> {
    match family {
        AF_INET => {
            let [a, b, c, d, ..] = bytes;
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        AF_INET6 => Some(Ipv6Addr::from(bytes).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ring::decode;

    fn id(event: &Event) -> Option<String> {
        let hz = Hz::of((0, (1 << 32) - 300 * 250)).unwrap();
        let joiner = Joiner::new("host".into(), Vec::new(), hz, true);
        let reset = joiner.join(event, WallClock::from_offset(0), Named::default(), None);
        reset.community_id
    }

    /// One end of a connection from port 9 to port 47318 of the same address.
    fn event(family: u16, addr: [u8; 16]) -> Event {
        let mut event = decode(&[0; event::EVENT_SIZE]).unwrap();
        event.known = event::known::TUPLE;
        event.family = family;
        event.local_addr = addr;
        event.local_port = 9;
        event.remote_addr = addr;
        event.remote_port = 47318;
        event
    }

    fn swapped(event: &Event) -> Event {
        Event {
            local_addr: event.remote_addr,
            local_port: event.remote_port,
            remote_addr: event.local_addr,
            remote_port: event.local_port,
            ..*event
        }
    }

    #[test]
    fn who_has_gone_is_named_where_it_still_counts() {
        let hz = Hz::of((0, (1 << 32) - 300 * 250)).unwrap();
        let joiner = Joiner::new("host".into(), Vec::new(), hz, true);
        let mut event = event(AF_INET, [0; 16]);
        event.holder_comm[..5].copy_from_slice(b"nginx");
        let mut told = |source, running: Option<&str>| {
            event.holder = Holder {
                pid: 812,
                source: source as u8,
                is_kernel: false,
                born: 7,
            }
            .pack();
            assert_eq!(joiner.holder_of(&event), Some((812, 7)));
            let running = running.map(str::to_owned);
            let owner = joiner.holder(&event, running);
            owner.map(|owner| (owner.pid, owner.comm))
        };
        let mut gone = |source| told(source, None);
        let (here, nginx) = (Some(812), "nginx".to_owned());
        for (source, pid) in [
            (OwnerSource::Connect, here),
            (OwnerSource::Accept, here),
            (OwnerSource::Listener, None),
            (OwnerSource::Iterator, None),
        ] {
            assert_eq!(gone(source), Some((pid, nginx.clone())), "{source:?}");
        }
        assert_eq!(
            told(OwnerSource::Listener, Some("worker")),
            Some((here, "worker".to_owned()))
        );
        event.holder_comm = [0; 16];
        assert_eq!(joiner.holder(&event, None), None, "nobody knows its name");
    }

    #[test]
    fn both_ends_carry_the_same_community_id() {
        let mut loopback = [0; 16];
        loopback[..4].copy_from_slice(&[127, 0, 0, 1]);
        let four = event(AF_INET, loopback);
        let mapped = event(AF_INET6, Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
        for event in [four, swapped(&four), mapped, swapped(&mapped)] {
            assert_eq!(
                id(&event).as_deref(),
                Some("1:1ptGjEVx82st9ih34WyF5ppgCUI=")
            );
        }
        let six = event(AF_INET6, Ipv6Addr::LOCALHOST.octets());
        assert!(id(&six).is_some());
        assert_eq!(id(&six), id(&swapped(&six)));
    }

    #[test]
    fn without_both_ends_there_is_no_community_id() {
        let mut event = event(AF_INET6, Ipv6Addr::LOCALHOST.octets());
        event.known = 0;
        assert_eq!(id(&event), None);
    }
}
