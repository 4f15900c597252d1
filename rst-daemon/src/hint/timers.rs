//! Idle timers that are known to end connections, at their defaults.
//!
//! One entry is all there is to a timer: whose, what it is called where it is
//! set, how long, what starts it anew, and how its end looks from the other
//! side. The comment over each entry names the source. "Checked" means that
//! the value was read there or in a stored copy in November 2026; what a
//! source leaves open is said too.

use std::ops::RangeInclusive;

/// What starts the timer anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Data alone; keep-alive probes and their answers don't.
    Data,
    /// Any segment, a keep-alive probe too.
    Segment,
}

/// How the end of the timer looks from the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// A reset as the timer fires.
    ResetAtExpiry,
    /// Nothing as it fires; the next packet draws a reset.
    ResetOnNextPacket,
    /// A FIN as it fires; what crosses it or comes after draws a reset.
    Fin,
}

/// An idle timer and its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// How long, in seconds.
    pub seconds: u32,
    /// Whose.
    pub who: &'static str,
    /// What it is called where it is set.
    pub setting: &'static str,
    /// What starts it anew.
    pub clock: Clock,
    /// How its end can look; several where that depends, or isn't documented.
    pub signatures: &'static [Signature],
}

impl Timer {
    /// Gaps that this timer explains, in milliseconds.
    #[must_use]
    pub fn window(&self) -> RangeInclusive<u64> {
        window(u64::from(self.seconds) * 1000)
    }
}

/// Gaps that a timer of this length explains, all in milliseconds.
///
/// A timer fires late, hardly ever early. Early: 0.1 s for the jiffies and
/// milliseconds that both ends round to and for a path whose delay shrank
/// meanwhile, and a thousandth for clocks that run apart; 5 s at most. Late:
/// 0.25 s for the event loop and the way here, and a fiftieth for timers that
/// a sweep over all connections looks after; 30 s at most. A gap beyond that
/// may still be this timer's, but says so no better than chance.
#[must_use]
pub fn window(timer_ms: u64) -> RangeInclusive<u64> {
    let early = (100 + timer_ms / 1000).min(5_000);
    let late = (250 + timer_ms / 50).min(30_000);
    timer_ms.saturating_sub(early)..=timer_ms.saturating_add(late)
}

const fn timer(
    seconds: u32,
    who: &'static str,
    setting: &'static str,
    clock: Clock,
    signatures: &'static [Signature],
) -> Timer {
    Timer {
        seconds,
        who,
        setting,
        clock,
        signatures,
    }
}

const FIN: &[Signature] = &[Signature::Fin];
const FORGETS: &[Signature] = &[Signature::ResetOnNextPacket];
const RESETS_OR_FIN: &[Signature] = &[Signature::ResetAtExpiry, Signature::Fin];
const RESETS_OR_FORGETS: &[Signature] = &[Signature::ResetAtExpiry, Signature::ResetOnNextPacket];
const ANY: &[Signature] = &[
    Signature::ResetAtExpiry,
    Signature::ResetOnNextPacket,
    Signature::Fin,
];

/// The known timers, by length, then name, then setting.
pub const TIMERS: &[Timer] = &[
    // https://docs.gunicorn.org/en/stable/settings.html#keepalive
    // Checked in gunicorn/config.py.
    timer(2, "gunicorn", "--keep-alive", Clock::Data, FIN),
    // https://httpd.apache.org/docs/2.4/mod/core.html#keepalivetimeout
    // Checked in the CIS benchmark for 2.4; it was 15 up to 2.0.
    timer(5, "Apache", "KeepAliveTimeout", Clock::Data, FIN),
    // https://nodejs.org/api/http.html#serverkeepalivetimeout
    // Checked for v14 to v25. Releases without the buffer (next entry) fire at 5 s.
    timer(5, "Node.js", "server.keepAliveTimeout", Clock::Data, FIN),
    // https://www.uvicorn.org/settings/#timeouts (--timeout-keep-alive)
    // From memory.
    timer(5, "uvicorn", "--timeout-keep-alive", Clock::Data, FIN),
    // https://github.com/nodejs/node/pull/59243: the socket lives for
    // keepAliveTimeout + keepAliveTimeoutBuffer (1 s). Checked.
    timer(
        6,
        "Node.js",
        "server.keepAliveTimeout + buffer",
        Clock::Data,
        FIN,
    ),
    // https://docs.haproxy.org/3.2/configuration.html#timeout%20http-keep-alive
    // No default of its own; 10 s in the configuration that RHEL packages.
    // Checked in copies of that file.
    timer(10, "HAProxy", "timeout http-keep-alive", Clock::Data, FIN),
    // https://www.rubydoc.info/gems/puma/Puma/DSL#persistent_timeout-instance_method
    // Checked; newer releases have 65 (below).
    timer(20, "Puma", "persistent_timeout", Clock::Data, FIN),
    // https://tomcat.apache.org/tomcat-10.1-doc/config/http.html
    // keepAliveTimeout follows connectionTimeout, which the shipped server.xml
    // sets to 20 s. Checked in a copy.
    timer(20, "Tomcat", "keepAliveTimeout", Clock::Data, FIN),
    // https://jetty.org/docs/jetty/12/operations-guide/protocols/index.html
    // (jetty.http.idleTimeout) Checked in a copy of jetty-http.xml.
    timer(30, "Jetty", "idleTimeout", Clock::Data, FIN),
    // https://docs.haproxy.org/3.2/configuration.html#timeout%20client
    // No default; 50 s in the configuration that Debian packages, checked in
    // copies of it. HAProxy ends idle sessions by FIN or, towards servers, by
    // a reset (from memory).
    timer(
        50,
        "HAProxy",
        "timeout client/server",
        Clock::Data,
        RESETS_OR_FIN,
    ),
    // https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-load-balancer-attributes.html
    // Checked: 60 s without data sent or received, then it "closes the
    // connection". How is not documented, so every way is let stand. That
    // keep-alive probes don't count is checked for the Classic Load Balancer:
    // https://docs.aws.amazon.com/elasticloadbalancing/latest/classic/config-idle-timeout.html
    timer(60, "AWS ALB", "idle timeout", Clock::Data, ANY),
    // As above; 60 s in the configuration that RHEL packages:
    // https://docs.redhat.com/en/documentation/red_hat_enterprise_linux/7/html/load_balancer_administration/s1-haproxy-setup-defaults
    // Checked.
    timer(
        60,
        "HAProxy",
        "timeout client/server",
        Clock::Data,
        RESETS_OR_FIN,
    ),
    // https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_read_timeout
    // Checked in a copy.
    timer(60, "nginx", "proxy_read_timeout", Clock::Data, FIN),
    // https://nginx.org/en/docs/http/ngx_http_upstream_module.html#keepalive_timeout
    // Checked in a copy.
    timer(60, "nginx", "upstream keepalive_timeout", Clock::Data, FIN),
    // As above: the default where server.xml sets no connectionTimeout. Checked.
    timer(60, "Tomcat", "keepAliveTimeout", Clock::Data, FIN),
    // https://github.com/nginx/nginx/blob/master/conf/nginx.conf
    // The packaged configuration sets 65. Checked in copies.
    timer(65, "nginx", "keepalive_timeout", Clock::Data, FIN),
    // https://github.com/puma/puma/pull/3378, checked in
    // lib/puma/configuration.rb; version 7 and later (version from memory).
    timer(65, "Puma", "persistent_timeout", Clock::Data, FIN),
    // https://github.com/nodejs/node/commit/e470c74a6c: 65 s in releases from
    // 2026 on, and the buffer of 1 s. Checked.
    timer(
        66,
        "Node.js",
        "server.keepAliveTimeout + buffer",
        Clock::Data,
        FIN,
    ),
    // https://nginx.org/en/docs/http/ngx_http_core_module.html#keepalive_timeout
    // Checked in copies.
    timer(75, "nginx", "keepalive_timeout", Clock::Data, FIN),
    // https://pkg.go.dev/net/http#DefaultTransport
    // Checked in net/http/transport.go.
    timer(
        90,
        "Go net/http client",
        "IdleConnTimeout",
        Clock::Data,
        FIN,
    ),
    // https://learn.microsoft.com/iis/configuration/system.applicationhost/sites/sitedefaults/limits
    // Checked. Whether HTTP.sys ends it by FIN or reset is not documented.
    timer(120, "IIS", "connectionTimeout", Clock::Data, RESETS_OR_FIN),
    // https://learn.microsoft.com/en-us/dotnet/api/microsoft.aspnetcore.server.kestrel.core.kestrelserverlimits.keepalivetimeout
    // Checked.
    timer(130, "Kestrel", "KeepAliveTimeout", Clock::Data, FIN),
    // https://learn.microsoft.com/en-us/azure/load-balancer/load-balancer-tcp-reset
    // Checked: 4 minutes, dropped silently, with TCP reset enabled a reset to
    // both ends as it fires. The reset on the next packet is the target's,
    // which the packet now reaches as a stranger (inferred).
    timer(
        240,
        "Azure Load Balancer",
        "idle timeout",
        Clock::Segment,
        RESETS_OR_FORGETS,
    ),
    // https://docs.aws.amazon.com/vpc/latest/userguide/nat-gateway-troubleshooting.html#nat-gateway-troubleshooting-timeout
    // 350 s checked where others quote it; that the next packet draws a reset
    // is from memory. It can't be set.
    timer(
        350,
        "AWS NAT gateway",
        "idle timeout",
        Clock::Segment,
        FORGETS,
    ),
    // https://docs.aws.amazon.com/elasticloadbalancing/latest/network/update-idle-timeout.html
    // 350 s checked; the reset on the next packet where others quote it.
    timer(350, "AWS NLB", "TCP idle timeout", Clock::Segment, FORGETS),
    // https://cloud.google.com/load-balancing/docs/https/request-distribution
    // Checked: fixed at 600 s towards back ends.
    timer(
        600,
        "Google Cloud ALB",
        "backend keepalive timeout",
        Clock::Data,
        FIN,
    ),
    // https://cloud.google.com/load-balancing/docs/internal/int-netlb-traffic-distribution
    // Checked: 10 minutes. The reset is another back end's, which the next
    // packet may be hashed to (inferred). The 10 minutes of the VPC firewall
    // are no entry: it drops what it has forgotten, and no reset comes.
    timer(
        600,
        "Google Cloud internal NLB",
        "connection tracking idle timeout",
        Clock::Segment,
        FORGETS,
    ),
    // As Google Cloud ALB above: 610 s towards clients. Checked.
    timer(
        610,
        "Google Cloud ALB",
        "client HTTP keepalive timeout",
        Clock::Data,
        FIN,
    ),
    // https://www.envoyproxy.io/docs/envoy/latest/faq/configuration/timeouts
    // Checked; independent of TCP keep-alive.
    timer(3600, "Envoy", "idle_timeout", Clock::Data, FIN),
    // https://docs.kernel.org/networking/nf_conntrack-sysctl.html
    // Checked: 5 days. The reset comes where address translation is lost with
    // the entry (from memory).
    timer(
        432_000,
        "Linux conntrack",
        "nf_conntrack_tcp_timeout_established",
        Clock::Segment,
        FORGETS,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_and_unique() {
        let rank = |timer: &Timer| {
            (
                timer.seconds,
                timer.who.to_lowercase(),
                timer.setting.to_owned(),
            )
        };
        for pair in TIMERS.windows(2) {
            assert!(rank(&pair[0]) < rank(&pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn lengths_are_sane() {
        for timer in TIMERS {
            assert!(timer.seconds >= 1, "{timer:?}");
            assert!(timer.seconds <= 5 * 86_400, "{timer:?}");
        }
    }

    #[test]
    fn names_read_within_a_sentence() {
        for timer in TIMERS {
            for name in [timer.who, timer.setting] {
                assert!(!name.is_empty() && name == name.trim(), "{timer:?}");
                assert!(!name.contains([',', ';', '(', ')']), "{timer:?}");
            }
        }
    }

    #[test]
    fn every_timer_shows_itself_once_each_way() {
        for timer in TIMERS {
            assert!(!timer.signatures.is_empty(), "{timer:?}");
            for (index, signature) in timer.signatures.iter().enumerate() {
                assert!(!timer.signatures[..index].contains(signature), "{timer:?}");
            }
        }
    }

    #[test]
    fn only_an_end_of_the_connection_closes_it_with_a_fin() {
        // What follows segments stands in between and has no socket to close.
        for timer in TIMERS {
            if timer.clock == Clock::Segment {
                assert!(!timer.signatures.contains(&Signature::Fin), "{timer:?}");
            }
        }
    }

    #[test]
    fn more_room_after_than_before() {
        for timer in TIMERS {
            let (exact, window) = (u64::from(timer.seconds) * 1000, timer.window());
            assert!(window.contains(&exact));
            assert!(window.end() - exact > exact - window.start(), "{timer:?}");
        }
        assert_eq!(window(60_000), 59_840..=61_450);
        assert_eq!(window(2_000), 1_898..=2_290);
        assert_eq!(window(432_000_000), 431_995_000..=432_030_000);
        assert_eq!(window(0), 0..=250);
        assert_eq!(*window(u64::MAX).end(), u64::MAX);
    }
}
