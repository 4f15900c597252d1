//! Whose timer it was: names the known idle timers that fit what was seen.
//!
//! A name sends people to a setting, so a wrong one costs more than none: a
//! timer is only named where the way the connection ended and the gap on the
//! timer's own clock both fit.

mod cluster;
pub mod estimator;
mod finding;
pub mod timers;

use rst_common::cause::Cause;

use timers::{Clock, Signature, TIMERS, Timer};

/// At most so many owners are named.
const NAMES: usize = 3;

/// How long the connection had been silent.
///
/// Segments of this host that drew the reset don't count as movement: for a
/// connection used again after a minute, the gap is the minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Since data last moved, milliseconds.
    pub data_ms: Option<u64>,
    /// Since the peer's last segment of any kind, milliseconds.
    pub segment_ms: Option<u64>,
    /// This host's own keep-alive time where keep-alive is on, milliseconds.
    pub keepalive_ms: Option<u64>,
}

/// "matches the 60 s idle timeout of AWS ALB", where a known timer fits.
#[must_use]
pub fn hint(cause: Cause, gaps: Gaps) -> Option<String> {
    describe(&candidates(cause, gaps))
}

/// The timers that fit, the longest first, else as in the table.
fn candidates(cause: Cause, gaps: Gaps) -> Vec<&'static Timer> {
    let Some(signature) = signature(cause) else {
        return Vec::new();
    };
    let mut fitting: Vec<&Timer> = TIMERS
        .iter()
        .filter(|timer| timer.signatures.contains(&signature))
        .filter(|timer| match timer.clock {
            Clock::Data => gaps
                .data_ms
                .is_some_and(|gap| timer.window().contains(&gap)),
            // A request that was not answered in time is a matter of data.
            Clock::Segment if cause == Cause::NoResponse => false,
            Clock::Segment => gaps.segment_ms.is_some_and(|gap| {
                timer.window().contains(&gap) && !is_own_keepalive(gap, gaps.keepalive_ms)
            }),
        })
        .collect();
    // Windows overlap where timers are close: the timer nearest below the gap
    // is the likelier one.
    fitting.sort_by_key(|timer| std::cmp::Reverse(timer.seconds));
    fitting
}

/// How the far side ended the connection, as the cause shows it.
pub(crate) fn signature(cause: Cause) -> Option<Signature> {
    match cause {
        Cause::IdleTimeout | Cause::NoResponse => Some(Signature::ResetAtExpiry),
        Cause::StaleReuse => Some(Signature::ResetOnNextPacket),
        Cause::PeerClosed | Cause::LateData => Some(Signature::Fin),
        // The gap before `stale_probe` is this host's own keep-alive time; the
        // others are no timer's doing, or not an idle timer's.
        Cause::StaleProbe
        | Cause::Unknown
        | Cause::Refused
        | Cause::ListenOverflow
        | Cause::Stray
        | Cause::UnreadData
        | Cause::ProcessExit
        | Cause::AppAbort
        | Cause::ListenerClosed
        | Cause::AdminKill
        | Cause::KeepaliveTimeout
        | Cause::MemoryPressure
        | Cause::ProtocolError
        | Cause::FirewallReject
        | Cause::AfterClose
        | Cause::PeerGaveUp
        | Cause::PeerAbort
        | Cause::Forged
        | Cause::NoData
        | Cause::HalfOpen
        | Cause::AfterReset
        | Cause::Mptcp => None,
    }
}

/// Whether the gap is as long as this host's keep-alive time, whose probe then
/// found the connection dead.
fn is_own_keepalive(gap_ms: u64, keepalive_ms: Option<u64>) -> bool {
    keepalive_ms.is_some_and(|time| timers::window(time).contains(&gap_ms))
}

/// "matches the 60 s of AWS ALB (idle timeout) or nginx (keepalive_timeout)"
fn describe(fitting: &[&Timer]) -> Option<String> {
    if let [timer] = fitting {
        return Some(format!(
            "matches the {} s {} of {}",
            timer.seconds, timer.setting, timer.who
        ));
    }
    // Settings of one owner and length belong together.
    let mut owners: Vec<(&Timer, Vec<&str>)> = Vec::new();
    for timer in fitting {
        match owners
            .iter_mut()
            .find(|(first, _)| (first.seconds, first.who) == (timer.seconds, timer.who))
        {
            Some((_, settings)) => settings.push(timer.setting),
            None => owners.push((timer, vec![timer.setting])),
        }
    }
    let more = owners.len() > NAMES;
    owners.truncate(NAMES);

    let mut seconds = None;
    let mut names: Vec<String> = owners
        .into_iter()
        .map(|(timer, settings)| {
            let name = format!("{} ({})", timer.who, settings.join(", "));
            if seconds.replace(timer.seconds) == Some(timer.seconds) {
                name
            } else {
                format!("the {} s of {name}", timer.seconds)
            }
        })
        .collect();
    let last = names.pop()?;
    Some(match (names.is_empty(), more) {
        (true, _) => format!("matches {last}"),
        (false, true) => format!("matches {}, {last} and others", names.join(", ")),
        (false, false) => format!("matches {} or {last}", names.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(cause: Cause, gap_ms: u64) -> Option<String> {
        let gaps = Gaps {
            data_ms: Some(gap_ms),
            ..Gaps::default()
        };
        hint(cause, gaps)
    }

    /// Silent in every respect: the usual case.
    fn silent(cause: Cause, gap_ms: u64) -> Option<String> {
        silent_with_keepalive(cause, gap_ms, None)
    }

    fn silent_with_keepalive(
        cause: Cause,
        gap_ms: u64,
        keepalive_ms: Option<u64>,
    ) -> Option<String> {
        let gaps = Gaps {
            data_ms: Some(gap_ms),
            segment_ms: Some(gap_ms),
            keepalive_ms,
        };
        hint(cause, gaps)
    }

    #[track_caller]
    fn check(hint: impl Into<Option<String>>, expected: &str) {
        assert_eq!(hint.into().as_deref(), Some(expected));
    }

    #[test]
    fn the_documented_example() {
        check(
            silent(Cause::StaleReuse, 60_012),
            "matches the 60 s idle timeout of AWS ALB",
        );
    }

    #[test]
    fn one_timer_each_way() {
        check(
            data(Cause::PeerClosed, 75_004),
            "matches the 75 s keepalive_timeout of nginx",
        );
        check(
            data(Cause::LateData, 2_010),
            "matches the 2 s --keep-alive of gunicorn",
        );
        check(
            silent(Cause::IdleTimeout, 240_100),
            "matches the 240 s idle timeout of Azure Load Balancer",
        );
        check(
            silent(Cause::StaleReuse, 432_000_010),
            "matches the 432000 s nf_conntrack_tcp_timeout_established of Linux conntrack",
        );
    }

    #[test]
    fn two_owners() {
        check(
            silent(Cause::StaleReuse, 351_000),
            "matches the 350 s of AWS NAT gateway (idle timeout) or AWS NLB (TCP idle timeout)",
        );
    }

    #[test]
    fn three_owners() {
        check(
            data(Cause::PeerClosed, 5_003),
            "matches the 5 s of Apache (KeepAliveTimeout), Node.js (server.keepAliveTimeout) \
             or uvicorn (--timeout-keep-alive)",
        );
    }

    #[test]
    fn more_owners_than_are_named() {
        check(
            data(Cause::PeerClosed, 60_003),
            "matches the 60 s of AWS ALB (idle timeout), HAProxy (timeout client/server), \
             nginx (proxy_read_timeout, upstream keepalive_timeout) and others",
        );
    }

    #[test]
    fn neighbouring_timers_are_told_apart_or_both_named() {
        check(
            data(Cause::PeerClosed, 65_010),
            "matches the 65 s of nginx (keepalive_timeout) or Puma (persistent_timeout)",
        );
        check(
            data(Cause::PeerClosed, 66_010),
            "matches the 66 s of Node.js (server.keepAliveTimeout + buffer), \
             the 65 s of nginx (keepalive_timeout) or Puma (persistent_timeout)",
        );
        check(
            data(Cause::PeerClosed, 67_000),
            "matches the 66 s server.keepAliveTimeout + buffer of Node.js",
        );
    }

    #[test]
    fn one_owner_with_two_settings() {
        let two: Vec<&Timer> = TIMERS
            .iter()
            .filter(|timer| (timer.who, timer.seconds) == ("nginx", 60))
            .collect();
        check(
            describe(&two),
            "matches the 60 s of nginx (proxy_read_timeout, upstream keepalive_timeout)",
        );
    }

    #[test]
    fn little_before_more_after() {
        assert_eq!(silent(Cause::StaleReuse, 59_839), None);
        assert!(silent(Cause::StaleReuse, 59_840).is_some());
        assert!(silent(Cause::StaleReuse, 61_450).is_some());
        assert_eq!(silent(Cause::StaleReuse, 61_451), None);
    }

    #[test]
    fn a_gap_far_above_is_only_a_bound() {
        assert_eq!(silent(Cause::StaleReuse, 100_000), None);
        assert_eq!(silent(Cause::StaleReuse, 400_000), None);
        assert_eq!(silent(Cause::IdleTimeout, 1_000_000), None);
    }

    #[test]
    fn a_timer_of_another_signature_is_not_named() {
        // nginx closes with a FIN, so neither a reset out of the blue nor a
        // forgotten connection is its doing.
        assert_eq!(silent(Cause::IdleTimeout, 75_000), None);
        assert_eq!(silent(Cause::StaleReuse, 75_000), None);
        // An AWS NLB stays silent as its timer fires and never sends a FIN.
        assert_eq!(silent(Cause::IdleTimeout, 350_000), None);
        assert_eq!(silent(Cause::PeerClosed, 350_000), None);
    }

    #[test]
    fn each_timer_has_its_own_clock() {
        // Data flowed all along: no data timer.
        let chatty = Gaps {
            data_ms: Some(1_000),
            segment_ms: Some(60_000),
            keepalive_ms: None,
        };
        assert_eq!(hint(Cause::StaleReuse, chatty), None);
        // The peer's probes kept every segment timer from firing.
        let probed = Gaps {
            data_ms: Some(350_000),
            segment_ms: Some(20_000),
            keepalive_ms: None,
        };
        assert_eq!(hint(Cause::StaleReuse, probed), None);
        // An unknown gap matches nothing.
        assert_eq!(data(Cause::StaleReuse, 350_000), None);
        assert_eq!(hint(Cause::StaleReuse, Gaps::default()), None);
    }

    #[test]
    fn an_unanswered_request_is_a_matter_of_data() {
        assert_eq!(silent(Cause::NoResponse, 240_000), None);
        check(
            silent(Cause::NoResponse, 50_001),
            "matches the 50 s timeout client/server of HAProxy",
        );
    }

    #[test]
    fn our_own_keepalive_time_is_no_timer_of_theirs() {
        for keepalive_ms in [350_000, 345_000, 350_600] {
            assert_eq!(
                silent_with_keepalive(Cause::StaleReuse, 350_500, Some(keepalive_ms)),
                None
            );
        }
        // Too long to have kept the connection alive, and not the gap.
        assert!(silent_with_keepalive(Cause::StaleReuse, 350_500, Some(7_200_000)).is_some());
        // Probes don't touch a data timer.
        check(
            silent_with_keepalive(Cause::StaleReuse, 60_012, Some(60_000)),
            "matches the 60 s idle timeout of AWS ALB",
        );
    }

    #[test]
    fn every_timer_is_found_at_its_time_and_no_other_cause_has_a_hint() {
        for &cause in Cause::ALL {
            for timer in TIMERS {
                let gap = u64::from(timer.seconds) * 1000;
                let shown = signature(cause)
                    .is_some_and(|signature| timer.signatures.contains(&signature))
                    && (cause != Cause::NoResponse || timer.clock == Clock::Data);
                let gaps = Gaps {
                    data_ms: Some(gap),
                    segment_ms: Some(gap),
                    keepalive_ms: None,
                };
                assert_eq!(
                    candidates(cause, gaps).contains(&timer),
                    shown,
                    "{cause:?} {timer:?}"
                );
            }
        }
        assert_eq!(silent(Cause::StaleProbe, 60_000), None);
        assert_eq!(silent(Cause::PeerGaveUp, 60_000), None);
    }
}
