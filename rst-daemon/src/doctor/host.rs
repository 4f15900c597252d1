//! Settings of this host that reset connections, or have them forgotten. Pure: what was read
//! is passed in.

use super::Checked;

/// What was read of `/proc`; `None` where it is not there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settings {
    /// `net.netfilter.nf_conntrack_tcp_timeout_established`, seconds.
    pub(super) conntrack_s: Option<u64>,
    /// `net.ipv4.tcp_keepalive_time`, seconds.
    pub(super) keepalive_s: Option<u64>,
    /// `net.ipv4.tcp_abort_on_overflow`.
    pub(super) aborts_on_overflow: Option<u64>,
    /// `ListenOverflows` of `/proc/net/netstat`: since boot, in this namespace.
    pub(super) overflows: Option<u64>,
}

impl Settings {
    /// What there is to say of them.
    pub(super) fn check(self) -> Vec<Checked> {
        [self.conntrack(), self.accept_queues()]
            .into_iter()
            .flatten()
            .collect()
    }

    fn conntrack(self) -> Option<Checked> {
        let check = "conntrack";
        let Some(timeout) = self.conntrack_s else {
            let what = "it is not loaded: no connection of this host is forgotten here";
            return Some(Checked::ok(check, what));
        };
        let keepalive = self.keepalive_s?;
        if timeout > keepalive {
            let what = format!(
                "it forgets a silent connection after {timeout} s, keep-alive asks after \
                 {keepalive} s"
            );
            return Some(Checked::ok(check, what));
        }
        let what = format!(
            "it forgets a silent connection after {timeout} s, before keep-alive asks after \
             {keepalive} s: what is sent on it then meets a firewall that does not know it \
             (stale_reuse, half_open, or silence)"
        );
        let change = format!(
            "sysctl -w net.ipv4.tcp_keepalive_time={}, and keep-alive on in what holds \
             connections for long; or sysctl -w \
             net.netfilter.nf_conntrack_tcp_timeout_established={}",
            (timeout / 2).max(1),
            keepalive * 2
        );
        Some(Checked::finding(check, what).advising(change))
    }

    fn accept_queues(self) -> Option<Checked> {
        let check = "accept_queues";
        let overflows = self.overflows?;
        let aborts = self.aborts_on_overflow? != 0;
        if overflows == 0 {
            return Some(Checked::ok(check, "none has been full since the boot"));
        }
        if !aborts {
            let what = format!(
                "{overflows} handshakes have met a full one since the boot; none was reset, \
                 clients try again"
            );
            return Some(Checked::ok(check, what));
        }
        let what = format!(
            "{overflows} handshakes have met a full one since the boot, and \
             tcp_abort_on_overflow has them reset (listen_overflow)"
        );
        let change = "accept faster or raise the backlog: `ss -ltn` shows Recv-Q at Send-Q; \
                      sysctl -w net.ipv4.tcp_abort_on_overflow=0 lets clients try again instead";
        Some(Checked::finding(check, what).advising(change))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn found(settings: Settings) -> Vec<(&'static str, Verdict)> {
        let checked = settings.check();
        for one in &checked {
            assert_eq!(one.change.is_some(), one.verdict == Verdict::Finding);
        }
        checked.iter().map(|one| (one.check, one.verdict)).collect()
    }

    #[test]
    fn a_timer_before_keepalive_is_found() {
        let settings = Settings {
            conntrack_s: Some(3600),
            keepalive_s: Some(7200),
            ..Settings::default()
        };
        assert_eq!(found(settings), [("conntrack", Verdict::Finding)]);
        let change = settings.check()[0].change.clone().unwrap();
        assert!(change.contains("tcp_keepalive_time=1800"), "{change}");
        for conntrack_s in [Some(432_000), None] {
            let well = Settings {
                conntrack_s,
                ..settings
            };
            assert_eq!(found(well), [("conntrack", Verdict::Ok)]);
        }
    }

    #[test]
    fn full_accept_queues_matter_where_they_reset() {
        let settings = |aborts, overflows| Settings {
            aborts_on_overflow: Some(aborts),
            overflows: Some(overflows),
            ..Settings::default()
        };
        let verdict = |settings| found(settings)[1].1;
        assert_eq!(verdict(settings(1, 7)), Verdict::Finding);
        assert_eq!(verdict(settings(0, 7)), Verdict::Ok);
        assert_eq!(verdict(settings(1, 0)), Verdict::Ok);
    }
}
