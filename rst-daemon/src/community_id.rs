//! Community ID v1: one name for a connection, the same at both ends (without
//! NAT between them) and in every tool that knows it (Zeek, Suricata,
//! Wireshark, ..).
//!
//! <https://github.com/corelight/community-id-spec>

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::reset::Endpoint;

/// What the other tools use too, unless told otherwise.
const SEED: u16 = 0;

const IPPROTO_TCP: u8 = 6;

/// The id of the TCP connection between two endpoints, in either order. `None`
/// where one is IPv4 and the other IPv6: no packet has such addresses.
#[must_use]
pub fn community_id(one: Endpoint, other: Endpoint) -> Option<String> {
    let in_order = (one.ip, one.port) <= (other.ip, other.port);
    let (first, second) = if in_order { (one, other) } else { (other, one) };
    let mut hash = Sha1::new();
    hash.update(SEED.to_be_bytes());
    match (first.ip, second.ip) {
        (IpAddr::V4(first), IpAddr::V4(second)) => {
            hash.update(first.octets());
            hash.update(second.octets());
        }
        (IpAddr::V6(first), IpAddr::V6(second)) => {
            hash.update(first.octets());
            hash.update(second.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    hash.update([IPPROTO_TCP, 0]);
    hash.update(first.port.to_be_bytes());
    hash.update(second.port.to_be_bytes());
    Some(format!("1:{}", STANDARD.encode(hash.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::endpoint;

    /// Checks the id in both directions.
    fn check(one: (&str, u16), other: (&str, u16), expected: &str) {
        let (one, other) = (endpoint(one.0, one.1), endpoint(other.0, other.1));
        assert_eq!(community_id(one, other).as_deref(), Some(expected));
        assert_eq!(community_id(other, one).as_deref(), Some(expected));
    }

    /// All TCP flows of baseline/baseline_deflt.json and of the default table
    /// in baseline/README.md of corelight/community-id-spec (b1fe530).
    #[test]
    fn the_baseline_of_the_specification() {
        check(
            ("128.232.110.120", 34855),
            ("66.35.250.204", 80),
            "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        );
        check(
            ("2001:470:e5bf:dead:4957:2174:e82c:4887", 63943),
            ("2607:f8b0:400c:c03::1a", 25),
            "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
        );
        check(
            ("1.2.3.4", 1122),
            ("5.6.7.8", 3344),
            "1:wCb3OG7yAFWelaUydu0D+125CLM=",
        );
    }

    /// The baseline has no such flow; these are from the reference
    /// implementation, <https://github.com/corelight/pycommunityid>.
    #[test]
    fn ports_decide_between_equal_addresses() {
        check(
            ("127.0.0.1", 9),
            ("127.0.0.1", 47318),
            "1:1ptGjEVx82st9ih34WyF5ppgCUI=",
        );
        check(
            ("::1", 80),
            ("::1", 51000),
            "1:P8TMvut0MV5Hh2hJsj6cjThrWL8=",
        );
    }

    #[test]
    fn families_do_not_mix() {
        let (four, six) = (endpoint("127.0.0.1", 9), endpoint("::1", 9));
        assert_eq!(community_id(four, six), None);
        assert_eq!(community_id(six, four), None);
    }
}
