//! What the estimator found, in words with the numbers.

use std::fmt;
use std::net::SocketAddr;

use rst_common::cause::{Cause, Role};

use super::timers::{Clock, Timer};
use super::{Gaps, candidates, describe, estimator::Key};

/// Whether keep-alive was on for the sockets that were reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Off for all of them.
    Off,
    /// Off for some.
    Mixed,
    /// On for all.
    On {
        /// The longest keep-alive time among them, where known, milliseconds.
        time_ms: Option<u64>,
    },
}

/// The silence that several resets share. Prints as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whose connections.
    pub key: Key,
    /// Why they were reset.
    pub cause: Cause,
    /// How many resets share the silence.
    pub count: u64,
    /// The silence, milliseconds.
    pub gap_ms: u64,
    /// The silence in segments, where known, milliseconds.
    pub segment_ms: Option<u64>,
    /// Whether the silence is no common gap but a lower end of many: the
    /// timer is no longer than that.
    pub at_least: bool,
    /// Whether keep-alive was on.
    pub keepalive: KeepAlive,
}

impl Finding {
    /// The known timers that fit; a lower end fits none.
    fn fitting(&self) -> Vec<&'static Timer> {
        if self.at_least {
            return Vec::new();
        }
        let keepalive_ms = match self.keepalive {
            KeepAlive::On { time_ms } => time_ms,
            KeepAlive::Off | KeepAlive::Mixed => None,
        };
        let gaps = Gaps {
            data_ms: Some(self.gap_ms),
            segment_ms: self.segment_ms,
            keepalive_ms,
        };
        candidates(self.cause, gaps)
    }

    fn advice(&self, fitting: &[&Timer]) -> String {
        let limit = fitting.iter().map(|timer| timer.seconds).min().map_or_else(
            || format!("{} s", Seconds(self.gap_ms)),
            |seconds| format!("{seconds} s"),
        );
        if self.cause == Cause::LateData {
            return "this host closed first: its idle timer must be longer than the peer's"
                .to_owned();
        }
        if self.cause == Cause::NoResponse {
            return format!(
                "the request was still open: answer within {limit} or raise that timer"
            );
        }
        // Closed by an application on its own timer, which sees data only.
        if self.cause == Cause::PeerClosed {
            return format!("close idle connections before {limit}");
        }
        if !fitting.is_empty() && fitting.iter().all(|timer| timer.clock == Clock::Data) {
            let close = format!("reset that timer; close idle connections before {limit}");
            return match self.keepalive {
                KeepAlive::Off => {
                    format!("keep-alive is off on these sockets and would not {close}")
                }
                KeepAlive::Mixed | KeepAlive::On { .. } => format!("keep-alive does not {close}"),
            };
        }
        match self.keepalive {
            KeepAlive::Off => format!("keep-alive is off on these sockets; set it below {limit}"),
            KeepAlive::Mixed => {
                format!("keep-alive is off on some of these sockets; set it below {limit} on all")
            }
            KeepAlive::On { time_ms: None } => {
                format!("keep-alive is on; set its time below {limit}")
            }
            KeepAlive::On {
                time_ms: Some(time),
            } if time >= self.gap_ms => {
                format!(
                    "the keep-alive time of {} s is above that; set it below {limit}",
                    Seconds(time)
                )
            }
            KeepAlive::On {
                time_ms: Some(time),
            } => format!(
                "keep-alive is on at {} s and does not help; close idle connections before {limit}",
                Seconds(time)
            ),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key {
            workload: _,
            role,
            peer,
            port,
        } = &self.key;
        let resets = if self.count == 1 { "reset" } else { "resets" };
        write!(f, "{} {resets} of connections ", self.count)?;
        match role {
            Role::Server => write!(f, "from {peer} to port {port}")?,
            Role::Client | Role::Unknown => write!(f, "to {}", SocketAddr::new(*peer, *port))?,
        }
        let bound = if self.at_least { "at least " } else { "" };
        write!(f, " after {bound}{} s of silence: ", Seconds(self.gap_ms))?;
        let fitting = self.fitting();
        if let Some(names) = describe(&fitting) {
            write!(f, "{names}; ")?;
        } else if self.at_least || self.cause == Cause::StaleReuse {
            // Reuse at a fixed interval shares a gap that is the user's own.
            write!(f, "a timer on the way is no longer than that; ")?;
        } else {
            write!(f, "no known timer; ")?;
        }
        f.write_str(&self.advice(&fitting))
    }
}

/// Milliseconds as "60.0".
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0.saturating_add(50) / 100;
        write!(f, "{}.{}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn finding(cause: Cause, gap_ms: u64, keepalive: KeepAlive) -> Finding {
        Finding {
            key: Key {
                workload: Some("nginx.service".to_owned()),
                role: Role::Client,
                peer: IpAddr::from([10, 0, 1, 10]),
                port: 443,
            },
            cause,
            count: 37,
            gap_ms,
            segment_ms: Some(gap_ms),
            at_least: false,
            keepalive,
        }
    }

    #[track_caller]
    fn check(finding: &Finding, expected: &str) {
        assert_eq!(finding.to_string(), expected);
    }

    #[test]
    fn a_data_timer_is_not_mended_by_keepalive() {
        let mut seen = finding(Cause::StaleReuse, 60_012, KeepAlive::Off);
        check(
            &seen,
            "37 resets of connections to 10.0.1.10:443 after 60.0 s of silence: \
             matches the 60 s idle timeout of AWS ALB; keep-alive is off on these sockets \
             and would not reset that timer; close idle connections before 60 s",
        );
        seen.keepalive = KeepAlive::On {
            time_ms: Some(30_000),
        };
        check(
            &seen,
            "37 resets of connections to 10.0.1.10:443 after 60.0 s of silence: \
             matches the 60 s idle timeout of AWS ALB; keep-alive does not reset that timer; \
             close idle connections before 60 s",
        );
    }

    #[test]
    fn a_segment_timer_is_mended_by_keepalive() {
        let mut seen = finding(Cause::IdleTimeout, 240_060, KeepAlive::Off);
        let start = "37 resets of connections to 10.0.1.10:443 after 240.1 s of silence: \
                     matches the 240 s idle timeout of Azure Load Balancer; ";
        let advice = [
            (
                KeepAlive::Off,
                "keep-alive is off on these sockets; set it below 240 s",
            ),
            (
                KeepAlive::Mixed,
                "keep-alive is off on some of these sockets; set it below 240 s on all",
            ),
            (
                KeepAlive::On { time_ms: None },
                "keep-alive is on; set its time below 240 s",
            ),
            (
                KeepAlive::On {
                    time_ms: Some(7_200_000),
                },
                "the keep-alive time of 7200.0 s is above that; set it below 240 s",
            ),
            (
                KeepAlive::On {
                    time_ms: Some(60_000),
                },
                "keep-alive is on at 60.0 s and does not help; close idle connections before 240 s",
            ),
        ];
        for (keepalive, advice) in advice {
            seen.keepalive = keepalive;
            check(&seen, &format!("{start}{advice}"));
        }
    }

    #[test]
    fn an_unknown_timer_still_has_its_gap() {
        check(
            &finding(Cause::IdleTimeout, 100_040, KeepAlive::Off),
            "37 resets of connections to 10.0.1.10:443 after 100.0 s of silence: \
             no known timer; keep-alive is off on these sockets; set it below 100.0 s",
        );
    }

    #[test]
    fn a_common_gap_of_reuse_may_be_the_users_own() {
        check(
            &finding(Cause::StaleReuse, 100_040, KeepAlive::Off),
            "37 resets of connections to 10.0.1.10:443 after 100.0 s of silence: \
             a timer on the way is no longer than that; keep-alive is off on these sockets; \
             set it below 100.0 s",
        );
    }

    #[test]
    fn a_lower_end_names_nobody() {
        let mut seen = finding(Cause::StaleReuse, 60_012, KeepAlive::Off);
        seen.at_least = true;
        check(
            &seen,
            "37 resets of connections to 10.0.1.10:443 after at least 60.0 s of silence: \
             a timer on the way is no longer than that; keep-alive is off on these sockets; \
             set it below 60.0 s",
        );
    }

    #[test]
    fn whoever_closes_first_decides_the_advice() {
        let mut seen = finding(Cause::LateData, 75_003, KeepAlive::Off);
        seen.key.role = Role::Server;
        seen.count = 1;
        check(
            &seen,
            "1 reset of connections from 10.0.1.10 to port 443 after 75.0 s of silence: \
             matches the 75 s keepalive_timeout of nginx; \
             this host closed first: its idle timer must be longer than the peer's",
        );
        check(
            &finding(Cause::PeerClosed, 90_002, KeepAlive::Off),
            "37 resets of connections to 10.0.1.10:443 after 90.0 s of silence: \
             matches the 90 s IdleConnTimeout of Go net/http client; \
             close idle connections before 90 s",
        );
        check(
            &finding(Cause::NoResponse, 50_002, KeepAlive::Off),
            "37 resets of connections to 10.0.1.10:443 after 50.0 s of silence: \
             matches the 50 s timeout client/server of HAProxy; \
             the request was still open: answer within 50 s or raise that timer",
        );
    }

    #[test]
    fn an_ipv6_peer_stands_in_brackets() {
        let mut seen = finding(Cause::PeerClosed, 90_002, KeepAlive::Off);
        seen.key.peer = "2001:db8::1".parse().unwrap();
        assert!(
            seen.to_string()
                .starts_with("37 resets of connections to [2001:db8::1]:443 after 90.0 s")
        );
    }

    #[test]
    fn seconds_are_rounded() {
        for (milliseconds, text) in [
            (0, "0.0"),
            (49, "0.0"),
            (59_960, "60.0"),
            (u64::MAX, "18446744073709551.6"),
        ] {
            assert_eq!(Seconds(milliseconds).to_string(), text);
        }
    }
}
