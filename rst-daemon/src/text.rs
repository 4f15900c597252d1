//! One reset as one line, for a human or a program.
//!
//! Pure: zone and colour are passed in. Whatever comes from outside (a
//! command name, a host name) is made harmless for the terminal first.

use std::fmt::Write;
use std::net::IpAddr;

use jiff::tz::TimeZone;
use rst_common::cause::{Direction, Impact};
use serde::Serialize;

use crate::reset::{Endpoint, Exit, Owner, Reset, Restart, Restarted, Told, Workload};

/// Widths of the columns; the longest label, or what fits most.
mod width {
    pub(super) const DIRECTION: usize = 8;
    pub(super) const CAUSE: usize = 17;
    pub(super) const IMPACT: usize = 17;
    /// Two IPv4 endpoints of 18 characters and the arrow between them.
    pub(super) const ENDS: usize = 40;
    /// A name of 10 characters and a pid of 7 digits.
    pub(super) const OWNER: usize = 19;
}

/// How to print.
#[derive(Clone, Debug)]
pub struct Style {
    /// Whether to colour the impact.
    pub color: bool,
    /// Zone of the times.
    pub zone: TimeZone,
}

/// One line for a human, without its newline: when, which side, why, how bad,
/// between whom, whose; then the numbers; then what the cause rests on.
#[must_use]
pub fn line(reset: &Reset, style: &Style) -> String {
    let time = reset
        .time
        .to_zoned(style.zone.clone())
        .strftime("%H:%M:%S%.3f");
    let mut line = format!(
        "{time} {:direction$} {:cause$} {} {:ends$} {:owner$}",
        safe(&reset.direction),
        safe(&reset.cause),
        impact(&reset.impact, style.color),
        ends(reset),
        owner(reset.owner.as_ref()),
        direction = width::DIRECTION,
        cause = width::CAUSE,
        ends = width::ENDS,
        owner = width::OWNER,
    );
    for number in numbers(reset) {
        line.push(' ');
        line.push_str(&number);
    }
    // Writing to a string can't fail.
    let _ = write!(line, " | {}", safe(&reset.basis));
    line
}

/// One line for a human that tells of a restart, without its newline.
#[must_use]
pub fn restarted(restarted: &Restarted, style: &Style) -> String {
    let Restart {
        workload,
        stopped,
        started,
        resets,
    } = &restarted.restart;
    let time = restarted
        .time
        .to_zoned(style.zone.clone())
        .strftime("%H:%M:%S%.3f");
    let name = workload.as_ref().and_then(Workload::telling_name);
    let name = name.map_or("a service".to_owned(), safe);
    let gap = started
        .and_then(|started| u64::try_from(started.duration_since(*stopped).as_millis()).ok())
        .map_or("?".to_owned(), self::time);
    let were = if *resets == 1 { "reset" } else { "resets" };
    format!(
        "{time} restart  {name} listens again on port {} after {gap}: {resets} {were} in between",
        restarted.port
    )
}

/// A restart in words.
#[must_use]
pub fn restart(restart: &Restart) -> String {
    let Restart {
        workload,
        stopped,
        started,
        resets,
    } = restart;
    let name = workload.as_ref().and_then(Workload::telling_name);
    let name = name.map_or("a service".to_owned(), safe);
    let were = if *resets == 1 { "reset" } else { "resets" };
    let gap = started
        .and_then(|started| u64::try_from(started.duration_since(*stopped).as_millis()).ok());
    match gap {
        Some(gap) => format!(
            "{name} was not listening for {}: {resets} {were} in between",
            time(gap)
        ),
        None => format!("{name} has stopped listening: {resets} {were} since"),
    }
}

/// Whether a reset is what the other end tells of the one printed before it.
#[must_use]
pub fn is_other_end(reset: &Reset, before: &Reset) -> bool {
    reset.peer_cause.is_some()
        && before.peer_cause.as_deref() == Some(reset.cause.as_str())
        && reset.peer_cause.as_deref() == Some(before.cause.as_str())
        && reset.direction != before.direction
        && reset.local == before.remote
        && reset.remote == before.local
}

/// One line of JSON, without its newline. Characters that a terminal acts on
/// are written as `\u` escapes, which changes nothing for a JSON parser.
pub fn json(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let plain = serde_json::to_string(value)?;
    if !plain.contains(is_harmful) {
        return Ok(plain);
    }
    let mut escaped = String::with_capacity(plain.len() + 16);
    for character in plain.chars() {
        if is_harmful(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string can't fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(character);
        }
    }
    Ok(escaped)
}

/// [`json`] of what a watcher is told.
pub fn told(told: &Told) -> Result<String, serde_json::Error> {
    match told {
        Told::Reset(reset) => json(reset.as_ref()),
        Told::Restarted(restarted) => json(restarted.as_ref()),
    }
}

/// The text with everything a terminal would act on, or that hides or reorders
/// its neighbours, written as `\u{..}`. A backslash is doubled, so that nobody
/// can forge an escape.
#[must_use]
pub fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmful(character) {
            safe.extend(character.escape_unicode());
        } else if character == '\\' {
            safe.push_str("\\\\");
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Control characters (C0, DEL, C1), line separators, bidi controls and
/// characters that are invisible.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

fn impact(label: &str, color: bool) -> String {
    let padded = format!("{:width$}", safe(label), width = width::IMPACT);
    let code = match Impact::from_label(label) {
        Some(Impact::ConnectionBroken) => "1;31",
        Some(Impact::ConnectFailed) => "31",
        Some(Impact::Uncertain) => "33",
        Some(Impact::Benign) => "32",
        None => return padded,
    };
    if color {
        format!("\u{1b}[{code}m{padded}\u{1b}[0m")
    } else {
        padded
    }
}

/// The arrow shows which way the reset went.
fn ends(reset: &Reset) -> String {
    let arrow = if reset.direction == Direction::Sent.label() {
        "->"
    } else {
        "<-"
    };
    format!(
        "{} {arrow} {}",
        endpoint(reset.local.as_ref()),
        endpoint(reset.remote.as_ref())
    )
}

fn endpoint(endpoint: Option<&Endpoint>) -> String {
    match endpoint {
        Some(Endpoint {
            ip: IpAddr::V4(ip),
            port,
        }) => format!("{ip}:{port}"),
        Some(Endpoint {
            ip: IpAddr::V6(ip),
            port,
        }) => format!("[{ip}]:{port}"),
        None => "?".into(),
    }
}

fn owner(owner: Option<&Owner>) -> String {
    match owner {
        Some(Owner {
            pid: Some(pid),
            comm,
            ..
        }) => format!("{}[{pid}]", safe(comm)),
        Some(Owner {
            pid: None, comm, ..
        }) => safe(comm),
        None => "-".into(),
    }
}

/// The numbers that are known, as `name=value` so that they can be searched.
fn numbers(reset: &Reset) -> Vec<String> {
    let text = |name: &str, value: Option<&String>| value.map(|it| format!("{name}={}", safe(it)));
    [
        peer(reset),
        reset.idle_rx_ms.map(|ms| format!("idle_rx={}", time(ms))),
        reset.idle_tx_ms.map(|ms| format!("idle_tx={}", time(ms))),
        reset.unread_bytes.map(|bytes| format!("unread={bytes}B")),
        reset.unacked_bytes.map(|bytes| format!("unacked={bytes}B")),
        reset.exit.as_ref().and_then(exit),
        text("state", reset.state.as_ref()),
        text("reason", reset.reason.as_ref()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The other end, where it is on this host.
fn peer(reset: &Reset) -> Option<String> {
    let cause = safe(reset.peer_cause.as_ref()?);
    let name = reset
        .peer_owner
        .as_ref()
        .map(|peer| owner(Some(peer)) + ":");
    Some(format!("peer={}{cause}", name.unwrap_or_default()))
}

fn exit(exit: &Exit) -> Option<String> {
    let Exit { code, signal } = exit;
    signal
        .map(|signal| format!("signal={signal}"))
        .or_else(|| code.map(|code| format!("exit={code}")))
}

/// Always seconds: idle timers are configured in seconds (60, 350, 7200), and
/// that is how one is recognised.
#[must_use]
pub fn time(ms: u64) -> String {
    if ms < 1000 {
        format!("{ms}ms")
    } else {
        format!("{}.{}s", ms / 1000, ms % 1000 / 100)
    }
}

/// A name of the kernel's up to its first zero byte. Some process chose it, so
/// anything may be in it; renderers escape it.
#[must_use]
pub fn until_zero(bytes: &[u8]) -> String {
    let len = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reset::Workload;
    use crate::testing;

    fn plain(reset: &Reset) -> String {
        let style = Style {
            color: false,
            zone: TimeZone::UTC,
        };
        line(reset, &style)
    }

    /// Nothing is known but what always is.
    fn bare() -> Reset {
        Reset {
            cause: "unknown".into(),
            impact: "uncertain".into(),
            basis: "no rule fits".into(),
            local: None,
            remote: None,
            owner: None,
            state: None,
            community_id: None,
            idle_rx_ms: None,
            idle_tx_ms: None,
            unacked_bytes: None,
            unread_bytes: None,
            ..testing::reset()
        }
    }

    #[test]
    fn samples() {
        let broken = testing::reset();
        let aborted = Reset {
            direction: "sent".into(),
            cause: "process_exit".into(),
            basis: "killed by signal 9 with 17 bytes unread".into(),
            reason: Some("TCP_ABORT_ON_CLOSE".into()),
            local: Some(testing::endpoint("192.168.100.200", 8443)),
            remote: Some(testing::endpoint("192.168.100.100", 65535)),
            community_id: None,
            owner: Some(Owner {
                pid: None,
                comm: "postgres".into(),
                source: "current".into(),
            }),
            idle_rx_ms: Some(999),
            idle_tx_ms: Some(7_200_050),
            unread_bytes: Some(17),
            unacked_bytes: None,
            exit: Some(Exit {
                code: None,
                signal: Some(9),
            }),
            state: Some("ESTABLISHED".into()),
            ..testing::reset()
        };
        let six = Reset {
            direction: "sent".into(),
            cause: "refused".into(),
            impact: "uncertain".into(),
            basis: "SYN to a port without listener".into(),
            local: Some(testing::endpoint("2001:db8::5", 80)),
            remote: Some(testing::endpoint("2001:db8::10", 51000)),
            ..bare()
        };
        let lines: Vec<String> = [broken, aborted, six, bare()].iter().map(plain).collect();
        assert_eq!(
            lines,
            [
                "14:32:01.123 received peer_closed       connection_broken \
                 10.0.1.5:42310 <- 10.0.1.10:443          nginx[812]          \
                 idle_rx=60.0s idle_tx=3ms unread=0B unacked=460B state=CLOSE_WAIT \
                 | the peer had closed, 460 bytes undelivered",
                "14:32:01.123 sent     process_exit      connection_broken \
                 192.168.100.200:8443 -> 192.168.100.100:65535 postgres            \
                 idle_rx=999ms idle_tx=7200.0s unread=17B signal=9 state=ESTABLISHED \
                 reason=TCP_ABORT_ON_CLOSE | killed by signal 9 with 17 bytes unread",
                "14:32:01.123 sent     refused           uncertain         \
                 [2001:db8::5]:80 -> [2001:db8::10]:51000 -                   \
                 | SYN to a port without listener",
                "14:32:01.123 received unknown           uncertain         \
                 ? <- ?                                   -                   \
                 | no rule fits",
            ]
        );
    }

    #[test]
    fn a_restart_is_one_line() {
        let style = Style {
            color: false,
            zone: TimeZone::UTC,
        };
        assert_eq!(
            restarted(&testing::restarted(), &style),
            "14:32:03.200 restart  gunicorn.service listens again on port 8000 after 2.1s: \
             57 resets in between"
        );
        let hostile = Restarted {
            restart: Restart {
                workload: Some(Workload {
                    kind: "cgroup".into(),
                    name: "\u{1b}[2J".into(),
                    pod_uid: None,
                }),
                started: None,
                resets: 1,
                ..testing::restarted().restart
            },
            ..testing::restarted()
        };
        assert_eq!(
            restarted(&hostile, &style),
            "14:32:03.200 restart  \\u{1b}[2J listens again on port 8000 after ?: \
             1 reset in between"
        );
    }

    #[test]
    fn both_ends_are_one_story() {
        let end = Reset {
            peer_owner: Some(Owner {
                pid: Some(813),
                comm: "curl".into(),
                source: "connect".into(),
            }),
            peer_cause: Some("unread_data".into()),
            ..testing::reset()
        };
        assert!(plain(&end).contains(" peer=curl[813]:unread_data idle_rx="));
        let other = Reset {
            direction: "sent".into(),
            cause: "unread_data".into(),
            peer_cause: Some("peer_closed".into()),
            peer_owner: None,
            local: end.remote,
            remote: end.local,
            ..testing::reset()
        };
        assert!(plain(&other).contains(" peer=peer_closed "));
        assert!(is_other_end(&other, &end) && is_other_end(&end, &other));
        let later = Reset {
            remote: Some(testing::endpoint("10.0.1.5", 42311)),
            ..other.clone()
        };
        assert!(!is_other_end(&later, &end));
        assert!(!is_other_end(&end, &end));
        let alone = Reset {
            peer_cause: None,
            ..other
        };
        assert!(!is_other_end(&alone, &end));
    }

    #[test]
    fn times_are_in_the_zone_of_the_style() {
        let style = Style {
            color: false,
            zone: TimeZone::fixed(jiff::tz::offset(-5)),
        };
        assert!(line(&testing::reset(), &style).starts_with("09:32:01.123 "));
    }

    #[test]
    fn only_the_impact_is_coloured() {
        let style = Style {
            color: true,
            zone: TimeZone::UTC,
        };
        let colored = line(&testing::reset(), &style);
        assert!(colored.contains(" \u{1b}[1;31mconnection_broken\u{1b}[0m 10.0.1.5"));
        let stripped = colored.replace("\u{1b}[1;31m", "").replace("\u{1b}[0m", "");
        assert_eq!(stripped, plain(&testing::reset()));
        let foreign = Reset {
            impact: "\u{1b}[5m".into(),
            ..testing::reset()
        };
        assert!(!line(&foreign, &style).contains('\u{1b}'));
    }

    #[test]
    fn text_from_outside_is_harmless() {
        for (text, expected) in [
            ("nginx", "nginx"),
            ("na\u{ef}ve \u{65e5}\u{672c}", "na\u{ef}ve \u{65e5}\u{672c}"),
            ("\u{1b}[2J\r\n\t", "\\u{1b}[2J\\u{d}\\u{a}\\u{9}"),
            ("\u{7f}\u{9b}5m", "\\u{7f}\\u{9b}5m"),
            (
                "a\u{202e}b\u{2066}c\u{200b}",
                "a\\u{202e}b\\u{2066}c\\u{200b}",
            ),
            ("\u{2028}\u{feff}\u{e0041}", "\\u{2028}\\u{feff}\\u{e0041}"),
            (r"\u{1b}", r"\\u{1b}"),
        ] {
            assert_eq!(safe(text), expected);
        }
    }

    fn hostile(text: &str) -> Reset {
        let text = || text.to_owned();
        let mut reset = testing::reset();
        reset.host = text();
        reset.direction = text();
        reset.cause = text();
        reset.impact = text();
        reset.basis = text();
        reset.state = Some(text());
        reset.reason = Some(text());
        reset.owner = Some(Owner {
            pid: None,
            comm: text(),
            source: text(),
        });
        reset
    }

    proptest! {
        #[test]
        fn no_text_reaches_the_terminal_raw(text in any::<String>()) {
            let reset = hostile(&text);
            prop_assert!(!plain(&reset).contains(is_harmful));
        }

        #[test]
        fn json_is_harmless_and_reads_back(text in any::<String>()) {
            let reset = hostile(&text);
            let json = json(&reset).unwrap();
            prop_assert!(!json.contains(is_harmful));
            prop_assert_eq!(serde_json::from_str::<Reset>(&json).unwrap(), reset);
        }
    }

    #[test]
    fn json_escapes_beyond_the_basic_plane() {
        let reset = hostile("\u{e0041}\u{9b}");
        let json = json(&reset).unwrap();
        assert!(json.contains(r#""host":"\udb40\udc41\u009b""#), "{json}");
        assert_eq!(serde_json::from_str::<Reset>(&json).unwrap(), reset);
    }
}
