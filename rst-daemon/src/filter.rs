//! Which resets a watcher wants: as flags, as a URL query, as a predicate.

use std::fmt;
use std::net::IpAddr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ipnet::{IpNet, Ipv4Net};
use rst_common::cause::{Cause, Direction, Impact};
use thiserror::Error;

use crate::reset::{Reset, Restarted, Told};

/// Keys of the query, the flags without their dashes.
mod key {
    pub(super) const DIRECTION: &str = "direction";
    pub(super) const CAUSE: &str = "cause";
    pub(super) const IMPACT: &str = "impact";
    pub(super) const WORKLOAD: &str = "workload";
    pub(super) const PORT: &str = "port";
    pub(super) const PEER: &str = "peer";
    pub(super) const PID: &str = "pid";
    pub(super) const NETNS: &str = "netns";
}

/// Which resets to show; what is not set does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Filter {
    /// Only resets that this host sent, or received
    #[arg(long, value_name = "sent|received", value_parser = direction_parser(), hide_possible_values = true)]
    pub direction: Option<Direction>,
    /// Only this cause, such as unread_data
    #[arg(long, value_name = "CAUSE", value_parser = cause_parser(), hide_possible_values = true)]
    pub cause: Option<Cause>,
    /// Only this impact, such as connection_broken
    #[arg(long, value_name = "IMPACT", value_parser = impact_parser(), hide_possible_values = true)]
    pub impact: Option<Impact>,
    /// Only this workload: a unit, container or pod, such as nginx.service
    #[arg(long, value_name = "NAME")]
    pub workload: Option<String>,
    /// Only connections with this port at either end
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Only peers in this network, or with this address
    #[arg(long, value_name = "CIDR", value_parser = parse_peer)]
    pub peer: Option<IpNet>,
    /// Only this process as the owner
    #[arg(long, value_name = "N")]
    pub pid: Option<u32>,
    /// Only this network namespace: the inode that `readlink /proc/PID/ns/net` shows
    #[arg(long, value_name = "N")]
    pub netns: Option<u32>,
}

/// Why a query is refused. Quotes are escaped and short: the query may come
/// from anybody.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FilterError {
    /// A key that no filter has.
    #[error(
        "unknown filter {0}; there are direction, cause, impact, workload, port, peer, pid and netns"
    )]
    UnknownKey(Quoted),
    /// A key that stands twice.
    #[error("the filter {0} stands twice; give it once")]
    Repeated(&'static str),
    /// A value of the wrong form.
    #[error("bad value {value} for the filter {key}: {expected}")]
    BadValue {
        /// The filter.
        key: &'static str,
        /// What was given.
        value: Quoted,
        /// What may be given.
        expected: String,
    },
    /// `%` without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("{0} is not percent-encoded UTF-8")]
    Encoding(Quoted),
}

/// Text from outside, fit for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    fn new(text: &str) -> Self {
        const LONGEST: usize = 40;
        let mut short: String = text.chars().take(LONGEST).collect();
        if short.len() < text.len() {
            short.push_str("..");
        }
        Self(short)
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.0)
    }
}

/// The part of a [`Filter`] that a restart can be held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RestartFilter<'a> {
    pub(crate) workload: Option<&'a str>,
    pub(crate) port: Option<u16>,
    pub(crate) netns: Option<u32>,
}

impl Filter {
    /// Whether the reset is wanted. A fact that the reset lacks matches no
    /// restriction on it.
    #[must_use]
    pub fn matches(&self, reset: &Reset) -> bool {
        let Self {
            direction,
            cause,
            impact,
            workload,
            port,
            peer,
            pid,
            netns,
        } = self;
        let (owner, of) = (reset.owner.as_ref(), reset.workload.as_ref());
        direction.is_none_or(|direction| reset.direction == direction.label())
            && cause.is_none_or(|cause| reset.cause == cause.label())
            && impact.is_none_or(|impact| reset.impact == impact.label())
            && workload
                .as_ref()
                .is_none_or(|name| of.is_some_and(|of| of.name == *name))
            && pid.is_none_or(|pid| owner.is_some_and(|owner| owner.pid == Some(pid)))
            && port.is_none_or(|port| {
                let ends = [reset.local, reset.remote];
                ends.iter().flatten().any(|end| end.port == port)
            })
            && peer.is_none_or(|peer| {
                reset
                    .remote
                    .is_some_and(|remote| peer.contains(&remote.ip.to_canonical()))
            })
            && netns.is_none_or(|netns| reset.netns == Some(netns))
    }

    /// What restarts are filtered by; `None` where none is wanted, for resets of one kind
    /// are asked for.
    pub(crate) fn of_restarts(&self) -> Option<RestartFilter<'_>> {
        let Self {
            direction: None,
            cause: None,
            impact: None,
            workload,
            port,
            peer: None,
            pid: None,
            netns,
        } = self
        else {
            return None;
        };
        Some(RestartFilter {
            workload: workload.as_deref(),
            port: *port,
            netns: *netns,
        })
    }

    fn matches_restart(&self, restarted: &Restarted) -> bool {
        let of = restarted.restart.workload.as_ref();
        self.of_restarts().is_some_and(|filter| {
            filter
                .workload
                .is_none_or(|name| of.is_some_and(|of| of.name == *name))
                && filter.port.is_none_or(|port| restarted.port == port)
                && filter
                    .netns
                    .is_none_or(|netns| restarted.netns == Some(netns))
        })
    }

    /// Whether the watcher wants to be told.
    #[must_use]
    pub fn wants(&self, told: &Told) -> bool {
        match told {
            Told::Reset(reset) => self.matches(reset),
            Told::Restarted(restarted) => self.matches_restart(restarted),
        }
    }

    /// The filter as the query part of a URL, without the `?`; empty where
    /// nothing is restricted.
    #[must_use]
    pub fn to_query(&self) -> String {
        let Self {
            direction,
            cause,
            impact,
            workload,
            port,
            peer,
            pid,
            netns,
        } = self;
        let pairs = [
            (key::DIRECTION, direction.map(|it| it.label().to_owned())),
            (key::CAUSE, cause.map(|it| it.label().to_owned())),
            (key::IMPACT, impact.map(|it| it.label().to_owned())),
            (key::WORKLOAD, workload.clone()),
            (key::PORT, port.map(|it| it.to_string())),
            (key::PEER, peer.map(|it| it.to_string())),
            (key::PID, pid.map(|it| it.to_string())),
            (key::NETNS, netns.map(|it| it.to_string())),
        ];
        let parts: Vec<String> = pairs
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", percent_encode(&value?))))
            .collect();
        parts.join("&")
    }

    /// Reads what [`Self::to_query`] writes.
    pub fn from_query(query: &str) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        if query.is_empty() {
            return Ok(filter);
        }
        for pair in query.split('&') {
            let (raw_key, raw_value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode(raw_value)?;
            match percent_decode(raw_key)?.as_str() {
                key::DIRECTION => set(&mut filter.direction, key::DIRECTION, &value, |value| {
                    Direction::from_label(value).ok_or("expected sent or received")
                }),
                key::CAUSE => set(&mut filter.cause, key::CAUSE, &value, |value| {
                    Cause::from_label(value).ok_or("expected a cause, see `rst explain`")
                }),
                key::IMPACT => set(&mut filter.impact, key::IMPACT, &value, |value| {
                    Impact::from_label(value)
                        .ok_or("expected uncertain, benign, connect_failed or connection_broken")
                }),
                key::WORKLOAD => set(&mut filter.workload, key::WORKLOAD, &value, |value| {
                    Ok::<_, &str>(value.to_owned())
                }),
                key::PORT => set(&mut filter.port, key::PORT, &value, |value| {
                    value.parse().map_err(|_| "expected a number up to 65535")
                }),
                key::PEER => set(&mut filter.peer, key::PEER, &value, parse_peer),
                key::PID => set(&mut filter.pid, key::PID, &value, |value| {
                    value.parse().map_err(|_| "expected a number")
                }),
                key::NETNS => set(&mut filter.netns, key::NETNS, &value, |value| {
                    value.parse().map_err(|_| "expected a number")
                }),
                other => Err(FilterError::UnknownKey(Quoted::new(other))),
            }?;
        }
        Ok(filter)
    }
}

fn set<T, E: Into<String>>(
    field: &mut Option<T>,
    key: &'static str,
    value: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<(), FilterError> {
    if field.is_some() {
        return Err(FilterError::Repeated(key));
    }
    let parsed = parse(value).map_err(|expected| FilterError::BadValue {
        key,
        value: Quoted::new(value),
        expected: expected.into(),
    })?;
    *field = Some(parsed);
    Ok(())
}

fn direction_parser() -> impl TypedValueParser<Value = Direction> {
    PossibleValuesParser::new(Direction::ALL.iter().map(|it| it.label()))
        .try_map(|label| Direction::from_label(&label).ok_or("expected sent or received"))
}

fn cause_parser() -> impl TypedValueParser<Value = Cause> {
    PossibleValuesParser::new(Cause::ALL.iter().map(|it| it.label()))
        .try_map(|label| Cause::from_label(&label).ok_or("expected a cause"))
}

fn impact_parser() -> impl TypedValueParser<Value = Impact> {
    PossibleValuesParser::new(Impact::ALL.iter().map(|it| it.label()))
        .try_map(|label| Impact::from_label(&label).ok_or("expected an impact"))
}

/// An address or a network. Bits beyond the prefix are dropped, and
/// IPv4-mapped networks become IPv4: resets carry IPv4 addresses as such.
fn parse_peer(text: &str) -> Result<IpNet, String> {
    const EXPECTED: &str = "expected an address or a network, such as 10.0.1.10 or 10.0.0.0/8";
    let net: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().map_err(|_| EXPECTED)?,
    };
    let IpNet::V6(v6) = net else {
        return Ok(net.trunc());
    };
    let Some(mapped) = v6.addr().to_ipv4_mapped() else {
        return Ok(net.trunc());
    };
    v6.prefix_len()
        .checked_sub(96)
        .and_then(|prefix| Ipv4Net::new(mapped, prefix).ok())
        .map(|v4| IpNet::V4(v4.trunc()))
        .ok_or_else(|| {
            "an IPv4-mapped network has a prefix of at least 96; write it as IPv4".into()
        })
}

fn percent_encode(text: &str) -> String {
    use fmt::Write;

    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn percent_decode(text: &str) -> Result<String, FilterError> {
    let error = || FilterError::Encoding(Quoted::new(text));
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(error());
        };
        decoded.push(u8::try_from(high * 16 + low).map_err(|_| error())?);
    }
    String::from_utf8(decoded).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;
    use proptest::prelude::*;

    use super::*;
    use crate::{testing, workload};

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        filter: Filter,
    }

    fn flags(line: &str) -> Result<Filter, clap::Error> {
        let words = std::iter::once("rst").chain(line.split_whitespace());
        Flags::try_parse_from(words).map(|flags| flags.filter)
    }

    fn peer(text: &str) -> IpNet {
        parse_peer(text).unwrap()
    }

    #[test]
    fn no_restriction_matches_everything() {
        assert!(Filter::default().matches(&testing::reset()));
        assert_eq!(Filter::default().to_query(), "");
        assert_eq!(Filter::from_query(""), Ok(Filter::default()));
    }

    #[test]
    fn each_flag_restricts() {
        // Received, peer_closed, connection_broken, 10.0.1.5:42310 <- 10.0.1.10:443,
        // nginx[812], netns 4026531840.
        let mut reset = testing::reset();
        reset.workload = workload::of_cgroup("/system.slice/web.service");
        for (line, wanted) in [
            ("--direction received", true),
            ("--direction sent", false),
            ("--cause peer_closed", true),
            ("--cause refused", false),
            ("--impact connection_broken", true),
            ("--impact benign", false),
            ("--workload web.service", true),
            ("--workload web", false),
            ("--pid 812", true),
            ("--pid 813", false),
            ("--port 443", true),
            ("--port 42310", true),
            ("--port 80", false),
            ("--peer 10.0.1.10", true),
            ("--peer 10.0.1.0/24", true),
            ("--peer 10.0.1.99/24", true),
            ("--peer ::ffff:10.0.1.10", true),
            ("--peer ::ffff:10.0.0.0/104", true),
            // The own address is not the peer's.
            ("--peer 10.0.1.5", false),
            ("--peer ::/0", false),
            ("--netns 4026531840", true),
            ("--netns 1", false),
            ("--port 443 --peer 10.0.1.10 --direction received", true),
            ("--port 443 --peer 10.0.1.11", false),
        ] {
            let filter = flags(line).unwrap();
            assert_eq!(filter.matches(&reset), wanted, "{line}");
        }
    }

    #[test]
    fn an_unknown_fact_matches_no_restriction() {
        let mut reset = testing::reset();
        (reset.local, reset.remote, reset.netns) = (None, None, None);
        (reset.owner, reset.workload) = (None, None);
        for line in [
            "--port 443",
            "--peer 0.0.0.0/0",
            "--netns 1",
            "--pid 812",
            "--workload web.service",
        ] {
            assert!(!flags(line).unwrap().matches(&reset), "{line}");
        }
    }

    #[test]
    fn ipv6_peers() {
        let mut reset = testing::reset();
        reset.remote = Some(testing::endpoint("2001:db8::1", 443));
        assert!(flags("--peer 2001:db8::/32").unwrap().matches(&reset));
        assert!(!flags("--peer 0.0.0.0/0").unwrap().matches(&reset));
        reset.remote = Some(testing::endpoint("::ffff:10.0.1.10", 443));
        assert!(flags("--peer 10.0.1.10").unwrap().matches(&reset));
    }

    #[test]
    fn bad_flags_are_one_usage_error() {
        for (line, part) in [
            ("--direction up", "[possible values: sent, received]"),
            (
                "--cause sunspots",
                "invalid value 'sunspots' for '--cause <CAUSE>'",
            ),
            ("--impact bad", "connect_failed"),
            ("--port 65536", "invalid value '65536' for '--port <N>'"),
            ("--port -1", "unexpected argument '-1'"),
            ("--peer example.org", "expected an address or a network"),
            ("--peer 10.0.0.0/33", "expected an address or a network"),
            ("--peer ::ffff:10.0.0.0/95", "prefix of at least 96"),
            ("--netns x", "invalid value 'x' for '--netns <N>'"),
        ] {
            let error = flags(line).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert_ne!(error.kind(), ErrorKind::DisplayHelp);
            let message = error.to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_query_is_percent_encoded() {
        let filter = Filter {
            direction: Some(Direction::Sent),
            cause: Some(Cause::LateData),
            impact: Some(Impact::Benign),
            workload: Some("a b.service".to_owned()),
            port: Some(443),
            peer: Some(peer("2001:db8::/32")),
            pid: Some(812),
            netns: Some(7),
        };
        assert_eq!(
            filter.to_query(),
            "direction=sent&cause=late_data&impact=benign&workload=a%20b.service\
             &port=443&peer=2001%3Adb8%3A%3A%2F32&pid=812&netns=7"
        );
        // Both need no encoding by RFC 3986 section 3.4, so people leave them.
        assert_eq!(
            Filter::from_query(
                "netns=7&peer=2001:db8::/32&port=443&direction=sent&pid=812\
                 &workload=a%20b.service&impact=benign&cause=late_data"
            ),
            Ok(filter)
        );
    }

    #[test]
    fn hostile_queries_are_refused() {
        let long = format!("peer={}", "9".repeat(100_000));
        for (query, message) in [
            (
                "bogus=1",
                "unknown filter \"bogus\"; there are direction, cause, impact, workload, port, \
                 peer, pid and netns",
            ),
            (
                "&",
                "unknown filter \"\"; there are direction, cause, impact, workload, port, \
                 peer, pid and netns",
            ),
            (
                "port=1&port=2",
                "the filter port stands twice; give it once",
            ),
            (
                "port=1&%70ort=1",
                "the filter port stands twice; give it once",
            ),
            (
                "port",
                "bad value \"\" for the filter port: expected a number up to 65535",
            ),
            (
                "port=+80%20",
                "bad value \"+80 \" for the filter port: expected a number up to 65535",
            ),
            (
                "direction=%1b[2J",
                "bad value \"\\u{1b}[2J\" for the filter direction: expected sent or received",
            ),
            ("peer=%", "\"%\" is not percent-encoded UTF-8"),
            ("peer=%4", "\"%4\" is not percent-encoded UTF-8"),
            ("peer=%zz", "\"%zz\" is not percent-encoded UTF-8"),
            ("peer=%ff", "\"%ff\" is not percent-encoded UTF-8"),
            (
                &long,
                "bad value \"9999999999999999999999999999999999999999..\" for the filter peer: \
                     expected an address or a network, such as 10.0.1.10 or 10.0.0.0/8",
            ),
        ] {
            let error = Filter::from_query(query).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    fn any_peer() -> impl Strategy<Value = IpNet> {
        (any::<IpAddr>(), 0..=128_u8).prop_filter_map("a valid network", |(address, prefix)| {
            let prefix = if address.is_ipv4() {
                prefix % 33
            } else {
                prefix
            };
            parse_peer(&format!("{address}/{prefix}")).ok()
        })
    }

    proptest! {
        #[test]
        fn a_query_reads_back_as_the_filter(
            direction in prop::option::of(prop::sample::select(Direction::ALL)),
            cause in prop::option::of(prop::sample::select(Cause::ALL)),
            impact in prop::option::of(prop::sample::select(Impact::ALL)),
            workload in any::<Option<String>>(),
            port in any::<Option<u16>>(),
            peer in prop::option::of(any_peer()),
            pid in any::<Option<u32>>(),
            netns in any::<Option<u32>>(),
        ) {
            let filter = Filter { direction, cause, impact, workload, port, peer, pid, netns };
            prop_assert_eq!(Filter::from_query(&filter.to_query()), Ok(filter));
        }

        #[test]
        fn no_query_panics(query in ".{0,200}") {
            let _ = Filter::from_query(&query);
        }

        #[test]
        fn encoding_reads_back(text in any::<String>()) {
            prop_assert_eq!(percent_decode(&percent_encode(&text)), Ok(text));
        }
    }
}
