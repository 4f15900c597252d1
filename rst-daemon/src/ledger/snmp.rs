//! The kernel's counters of one network namespace, as `/proc/net/snmp` and
//! `/proc/net/netstat` print them: a line of names, then a line of numbers, for
//! each protocol.

use std::ops::{Index, IndexMut};

/// A counter of the kernel's (include/uapi/linux/snmp.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Resets that TCP sent, those that failed to leave included.
    OutResets,
    /// Connections that went from ESTABLISHED or CLOSE_WAIT to CLOSE.
    EstabResets,
    /// Data came for a connection that was closed.
    AbortOnData,
    /// Closed with data unread.
    AbortOnClose,
    /// Closed for want of memory, or for too many orphans.
    AbortOnMemory,
    /// Timed out.
    AbortOnTimeout,
    /// Orphaned with a negative TCP_LINGER2.
    AbortOnLinger,
    /// A reset that could not be made or sent.
    AbortFailed,
    /// A reset that ended a handshake.
    EmbryonicResets,
}

impl Counter {
    /// Every counter, in the order of [`Values`].
    pub const ALL: [Self; 9] = [
        Self::OutResets,
        Self::EstabResets,
        Self::AbortOnData,
        Self::AbortOnClose,
        Self::AbortOnMemory,
        Self::AbortOnTimeout,
        Self::AbortOnLinger,
        Self::AbortFailed,
        Self::EmbryonicResets,
    ];

    /// Those that are published by their name.
    pub const ABORTS: &[Self] = Self::ALL.split_at(2).1;

    /// The kernel's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OutResets => "OutRsts",
            Self::EstabResets => "EstabResets",
            Self::AbortOnData => "TCPAbortOnData",
            Self::AbortOnClose => "TCPAbortOnClose",
            Self::AbortOnMemory => "TCPAbortOnMemory",
            Self::AbortOnTimeout => "TCPAbortOnTimeout",
            Self::AbortOnLinger => "TCPAbortOnLinger",
            Self::AbortFailed => "TCPAbortFailed",
            Self::EmbryonicResets => "EmbryonicRsts",
        }
    }

    /// No name is used by both protocols.
    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|counter| counter.name() == name)
    }
}

/// A number for each [`Counter`]; `None` where the kernel does not have it, or
/// it has not been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Values([Option<u64>; Counter::ALL.len()]);

impl Index<Counter> for Values {
    type Output = Option<u64>;

    fn index(&self, counter: Counter) -> &Self::Output {
        &self.0[counter as usize]
    }
}

impl IndexMut<Counter> for Values {
    fn index_mut(&mut self, counter: Counter) -> &mut Self::Output {
        &mut self.0[counter as usize]
    }
}

/// The text is not what any kernel prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// It has no line of this protocol.
    #[error("no counters of {0}")]
    Missing(&'static str),
    /// Names and numbers don't match.
    #[error("names and numbers of {0} don't match")]
    Mismatch(&'static str),
}

/// The lines of a protocol: its names, then its numbers.
fn lines<'a>(text: &'a str, protocol: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let (of, rest) = line.split_once(':')?;
        (of == protocol).then_some(rest)
    })
}

/// Reads the counters of a protocol, `Tcp` or `TcpExt`, into `values`. Returns
/// all its numbers as they stand there: while they stay the same, nothing has
/// happened.
pub(super) fn parse<'a>(
    text: &'a str,
    protocol: &'static str,
    values: &mut Values,
) -> Result<&'a str, Malformed> {
    let mut lines = lines(text, protocol);
    let names = lines.next().ok_or(Malformed::Missing(protocol))?;
    let mismatch = Malformed::Mismatch(protocol);
    let line = lines.next().ok_or(mismatch)?;
    let mut numbers = line.split_ascii_whitespace();
    for name in names.split_ascii_whitespace() {
        let number = numbers.next().ok_or(mismatch)?;
        if let Some(counter) = Counter::named(name) {
            values[counter] = Some(number.parse().map_err(|_| mismatch)?);
        }
    }
    match numbers.next() {
        None => Ok(line),
        Some(_) => Err(mismatch),
    }
}

/// One counter by its name.
pub(super) fn one(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = lines(text, protocol).map(str::split_ascii_whitespace);
    let at = lines.next()?.position(|column| column == name)?;
    lines.next()?.nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux 6.18.
    const SNMP: &str = "\
Ip: Forwarding DefaultTTL InReceives
Ip: 2 64 187923
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 9595 8672 863 39 0 88644 81082 0 0 900 0
Udp: InDatagrams NoPorts
Udp: 0 0
";

    /// Linux 5.10, cut short in the middle of the line.
    const NETSTAT: &str = "\
TcpExt: SyncookiesSent SyncookiesRecv SyncookiesFailed EmbryonicRsts PruneCalled RcvPruned OfoPruned TCPAbortOnData TCPAbortOnClose TCPAbortOnMemory TCPAbortOnTimeout TCPAbortOnLinger TCPAbortFailed TCPMemoryPressures TcpTimeoutRehash
TcpExt: 0 0 0 3 0 0 0 17 21 0 4 0 1 0 2
IpExt: InNoRoutes InTruncatedPkts
IpExt: 0 0
";

    #[test]
    fn a_counter_is_found_by_its_name() {
        assert_eq!(one(SNMP, "Tcp", "OutRsts"), Some(900));
        assert_eq!(one(NETSTAT, "TcpExt", "TCPAbortOnClose"), Some(21));
        assert_eq!(one(NETSTAT, "TcpExt", "ListenOverflows"), None);
        assert_eq!(one("", "Tcp", "OutRsts"), None);
    }

    fn parsed(texts: &[(&str, &'static str)]) -> Result<Values, Malformed> {
        let mut values = Values::default();
        for (text, protocol) in texts {
            parse(text, protocol, &mut values)?;
        }
        Ok(values)
    }

    #[test]
    fn both_files_of_a_namespace() {
        let values = parsed(&[(SNMP, "Tcp"), (NETSTAT, "TcpExt")]).unwrap();
        let expected = [900, 39, 17, 21, 0, 4, 0, 1, 3];
        assert_eq!(values, Values(expected.map(Some)));
    }

    #[test]
    fn a_counter_that_the_kernel_lacks_is_not_zero() {
        let text = "TcpExt: EmbryonicRsts TCPAbortOnData\nTcpExt: 1 2\n";
        let values = parsed(&[(text, "TcpExt")]).unwrap();
        assert_eq!(values[Counter::EmbryonicResets], Some(1));
        assert_eq!(values[Counter::AbortFailed], None);
        assert_eq!(values[Counter::OutResets], None);
    }

    #[test]
    fn a_number_of_any_size() {
        let text = "Tcp: OutRsts\nTcp: 18446744073709551615\n";
        assert_eq!(
            parsed(&[(text, "Tcp")]).unwrap()[Counter::OutResets],
            Some(u64::MAX)
        );
    }

    #[test]
    fn anything_else_is_an_error() {
        for text in ["", "Udp: A\nUdp: 1\n", "TcpExt: OutRsts\nTcpExt: 1\n"] {
            assert_eq!(parsed(&[(text, "Tcp")]), Err(Malformed::Missing("Tcp")));
        }
        for text in [
            "Tcp: OutRsts\n",
            "Tcp: A OutRsts\nTcp: 1\n",
            "Tcp: OutRsts\nTcp: 1 2\n",
            "Tcp: OutRsts\nTcp: -1\n",
            "Tcp: OutRsts\nUdp: 1\n",
        ] {
            assert_eq!(parsed(&[(text, "Tcp")]), Err(Malformed::Mismatch("Tcp")));
        }
    }

    #[test]
    fn the_running_kernel_prints_all_of_them() {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/net/{file}")).unwrap();
        let values = parsed(&[(&read("snmp"), "Tcp"), (&read("netstat"), "TcpExt")]).unwrap();
        for counter in Counter::ALL {
            assert!(values[counter].is_some(), "{}", counter.name());
        }
    }
}
